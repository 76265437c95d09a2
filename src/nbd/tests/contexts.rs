//! Metadata contexts: listing them, choosing them, asking for the status of a range.

mod common;

use common::*;
use uraid_nbd::wire::{NbdError, chunk, command, command_flag, option, option_reply};
use uraid_nbd::{Answer, Dialect, Extent, RequestKind};

const ALLOCATION: &str = "base:allocation";
const REDUNDANCY: &str = "x-uraid:redundancy";

fn agreed(dialect: Dialect) -> Connection {
    let mut connection = Connection::greeted();
    connection.agree(dialect);
    connection
}

fn listed(queries: &[&str]) -> Vec<String> {
    let data = meta_request("disk", queries);
    let replies = agreed(Dialect::Structured).option(option::LIST_META_CONTEXT, &data);
    let names = contexts(&replies).into_iter().map(|(_, name)| name);
    names.collect()
}

#[test]
fn contexts_are_listed_by_name_and_by_namespace() {
    assert_eq!(listed(&[]), [ALLOCATION, REDUNDANCY], "all without queries");
    assert_eq!(listed(&["base:"]), [ALLOCATION]);
    assert_eq!(listed(&["x-uraid:"]), [REDUNDANCY]);
    assert_eq!(
        listed(&[REDUNDANCY, "base:", ALLOCATION]),
        [ALLOCATION, REDUNDANCY]
    );
    let unknown = ["qemu:dirty-bitmap:x", "base:other", "nonsense", "", ":"];
    assert!(listed(&unknown).is_empty());
}

#[test]
fn contexts_are_chosen_by_name_only() {
    let chosen = |queries: &[&str]| agreed(Dialect::Extended).choose_contexts("disk", queries);
    let both = [(1, ALLOCATION.to_string()), (2, REDUNDANCY.to_string())];
    assert_eq!(
        chosen(&[REDUNDANCY, ALLOCATION, REDUNDANCY]),
        both,
        "each once"
    );
    assert_eq!(chosen(&[ALLOCATION, "qemu:allocation-depth"]), both[..1]);
    assert!(chosen(&["base:", "x-uraid:", "base"]).is_empty());
    assert!(chosen(&[]).is_empty(), "none without queries");
}

#[test]
fn malformed_questions_for_contexts_are_invalid() {
    let good = meta_request("disk", &[ALLOCATION]);
    let mut many = good.clone();
    many[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut long = good.clone();
    long[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut cases = vec![many, long, [&good[..], b"x"].concat()];
    cases.extend((0..good.len()).map(|len| good[..len].to_vec()));
    for option in [option::LIST_META_CONTEXT, option::SET_META_CONTEXT] {
        for data in &cases {
            let mut connection = agreed(Dialect::Structured);
            let replies = connection.option(option, data);
            assert_eq!(types(&replies), [option_reply::ERR_INVALID], "{data:?}");
            connection.go("disk");
        }
        let refused = |name: &str, query: &str| {
            let data = meta_request(name, &[query]);
            types(&agreed(Dialect::Structured).option(option, &data))
        };
        assert_eq!(refused("nope", ALLOCATION), [option_reply::ERR_UNKNOWN]);
        let long = "x".repeat(4097);
        assert_eq!(refused(&long, ALLOCATION), [option_reply::ERR_TOO_BIG]);
        assert_eq!(refused("disk", &long), [option_reply::ERR_TOO_BIG]);
        let longest = "x".repeat(4096);
        assert_eq!(refused("disk", &longest), [option_reply::ACK]);
        let simple = Connection::greeted().option(option, &good);
        assert_eq!(types(&simple), [option_reply::ERR_INVALID]);
    }
}

/// What a BLOCK_STATUS of the first byte is answered with at once; none if it is handed out.
fn refusal_of_status(mut connection: Connection) -> Option<u32> {
    connection.request(command::BLOCK_STATUS, 0, 7, 0, 1);
    if connection.session.next_request().is_some() {
        return None;
    }
    let output = connection.output();
    let at = match connection.dialect {
        Dialect::Simple => 4,
        Dialect::Structured => 20,
        Dialect::Extended => 32,
    };
    Some(u32::from_be_bytes(output[at..at + 4].try_into().unwrap()))
}

#[test]
fn status_needs_contexts_chosen_last_for_this_export() {
    let invalid = Some(NbdError::Invalid as u32);
    for dialect in [Dialect::Simple, Dialect::Structured, Dialect::Extended] {
        let connection = Connection::transmitting("disk", dialect);
        assert_eq!(refusal_of_status(connection), invalid, "none was chosen");
    }
    let after = |steps: &dyn Fn(&mut Connection)| {
        let mut connection = agreed(Dialect::Structured);
        connection.choose_contexts("disk", &[ALLOCATION]);
        steps(&mut connection);
        connection.go("disk");
        refusal_of_status(connection)
    };
    assert_eq!(after(&|_| ()), None);
    assert_eq!(after(&|c| drop(c.choose_contexts("disk", &[]))), invalid);
    let other = |c: &mut Connection| drop(c.choose_contexts("large", &[ALLOCATION]));
    assert_eq!(after(&other), invalid, "for another export");
    let failed = |c: &mut Connection| drop(c.option(option::SET_META_CONTEXT, b"?"));
    assert_eq!(after(&failed), invalid, "failing forgets them too");
    let too_long = |c: &mut Connection| drop(c.option(option::SET_META_CONTEXT, &[0; 20_000]));
    assert_eq!(after(&too_long), invalid);
    let listing = |c: &mut Connection| {
        c.option(option::LIST_META_CONTEXT, &meta_request("disk", &[]));
    };
    assert_eq!(after(&listing), None, "listing changes nothing");
}

fn extents() -> Answer {
    let extent = |len, allocation, redundancy| Extent {
        len,
        allocation,
        redundancy,
    };
    Answer::Extents(vec![
        extent(100, 3, 0x400),
        extent(50, 0, 2),
        extent(50, 0, 0x101),
    ])
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[test]
fn each_context_gets_its_extents() {
    let mut connection = Connection::with_contexts("disk", Dialect::Structured);
    connection.request(command::BLOCK_STATUS, 0, 5, 4000, 300);
    let request = connection.next();
    let RequestKind::BlockStatus {
        offset: 4000,
        len: 300,
    } = request.kind
    else {
        panic!("{request:?}")
    };
    connection.session.reply(request.cookie, Ok(extents()));
    let expected = [
        (0, chunk::BLOCK_STATUS, 5, words([1, 100, 3, 100, 0])),
        (
            chunk::FLAG_DONE,
            chunk::BLOCK_STATUS,
            5,
            words([2, 100, 0x400, 50, 2, 50, 0x101]),
        ),
    ];
    assert_eq!(chunks(&connection.output()), expected);
}

#[test]
fn one_extent_if_only_one_is_wanted() {
    let mut connection = Connection::with_contexts("disk", Dialect::Structured);
    connection.request(command::BLOCK_STATUS, command_flag::REQ_ONE, 5, 100, 300);
    let cookie = connection.next().cookie;
    connection.session.reply(cookie, Ok(extents()));
    let payloads = chunks(&connection.output());
    let payloads: Vec<_> = payloads.into_iter().map(|chunk| chunk.3).collect();
    assert_eq!(payloads, [words([1, 100, 3]), words([2, 100, 0x400])]);
}

#[test]
fn long_extents_need_extended_headers_and_get_them() {
    let mut connection = Connection::with_contexts("large", Dialect::Extended);
    let len = 5 << 32;
    connection.request(command::BLOCK_STATUS, 0, 5, 512, len);
    let request = connection.next();
    assert!(matches!(request.kind, RequestKind::BlockStatus { len: l, .. } if l == len));
    let extent = Extent {
        len,
        allocation: 3,
        redundancy: 0x400,
    };
    connection
        .session
        .reply(request.cookie, Ok(Answer::Extents(vec![extent])));
    let payload = |id: u32, status: u64| {
        let count = 1u32.to_be_bytes();
        [
            &id.to_be_bytes()[..],
            &count,
            &len.to_be_bytes(),
            &status.to_be_bytes(),
        ]
        .concat()
    };
    let kind = chunk::BLOCK_STATUS_EXT;
    let expected = [
        (0, kind, 5, 512, payload(1, 3)),
        (chunk::FLAG_DONE, kind, 5, 512, payload(2, 0x400)),
    ];
    assert_eq!(extended_chunks(&connection.output()), expected);
}

fn filter(len: u64, ids: &[u32]) -> Vec<u8> {
    let ids = ids.iter().flat_map(|id| id.to_be_bytes());
    len.to_be_bytes().into_iter().chain(ids).collect()
}

#[test]
fn a_payload_chooses_among_the_contexts() {
    let mut connection = Connection::with_contexts("disk", Dialect::Extended);
    let payload = filter(300, &[2]);
    let flags = command_flag::PAYLOAD_LEN;
    connection.request(command::BLOCK_STATUS, flags, 5, 100, payload.len());
    for byte in payload {
        assert!(connection.session.next_request().is_none());
        connection.send(&[byte]);
    }
    let request = connection.next();
    assert!(matches!(
        request.kind,
        RequestKind::BlockStatus {
            offset: 100,
            len: 300
        }
    ));
    connection.session.reply(request.cookie, Ok(extents()));
    let replies = extended_chunks(&connection.output());
    assert_eq!(replies.len(), 1);
    let (flags, kind, handle, offset, payload) = &replies[0];
    assert_eq!(
        (*flags, *kind, *handle, *offset),
        (chunk::FLAG_DONE, chunk::BLOCK_STATUS_EXT, 5, 100)
    );
    assert_eq!(payload[..8], words([2, 3]));
}

#[test]
fn bad_payloads_are_consumed_and_refused() {
    let cases = [
        filter(300, &[]),
        filter(300, &[3]),
        filter(300, &[1, 1]),
        filter(300, &[1, 2, 1]),
        filter(0, &[1]),
        filter(SIZE + 1, &[1]),
        filter(u64::MAX, &[1, 2]),
        vec![0; 1],
        vec![0; 7],
        vec![0; 13],
        vec![0; 100_000],
    ];
    for payload in cases {
        let mut connection = Connection::with_contexts("disk", Dialect::Extended);
        let flags = command_flag::PAYLOAD_LEN;
        connection.request(command::BLOCK_STATUS, flags, 5, 0, payload.len());
        connection.send(&payload);
        assert!(connection.session.next_request().is_none());
        let replies = extended_chunks(&connection.output());
        let [(chunk::FLAG_DONE, chunk::ERROR, 5, 0, error)] = &replies[..] else {
            panic!("{replies:?}")
        };
        assert_eq!(error[..4], (NbdError::Invalid as u32).to_be_bytes());
        connection.request(command::FLUSH, 0, 6, 0, 0);
        assert!(
            matches!(connection.next().kind, RequestKind::Flush),
            "in sync"
        );
    }
}

#[test]
fn ranges_without_status_are_refused() {
    for (offset, len) in [(0, 0), (SIZE, 1), (SIZE - 10, 11), (u64::MAX, 1)] {
        let mut connection = Connection::with_contexts("disk", Dialect::Structured);
        connection.request(command::BLOCK_STATUS, 0, 5, offset, len);
        assert!(connection.session.next_request().is_none());
        let replies = chunks(&connection.output());
        assert_eq!(replies[0].1, chunk::ERROR, "{offset} {len}");
    }
}

#[test]
#[should_panic(expected = "extents of 200 bytes")]
fn extents_beyond_the_question_are_a_bug() {
    let mut connection = Connection::with_contexts("disk", Dialect::Structured);
    connection.request(command::BLOCK_STATUS, 0, 5, 0, 199);
    let cookie = connection.next().cookie;
    connection.session.reply(cookie, Ok(extents()));
}

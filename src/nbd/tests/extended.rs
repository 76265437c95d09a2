//! Holes in replies, and extended headers.

mod common;

use common::*;
use uraid_buffer::{Pool, Span};
use uraid_nbd::wire::{self, NbdError, chunk, command, command_flag, info, option};
use uraid_nbd::wire::{option_reply, transmission_flag};
use uraid_nbd::{Answer, Dialect, PAYLOAD_BYTES_MAX, ReplyError, RequestKind, STATUS_BYTES, State};

fn bytes(content: &[u8]) -> Span {
    Span::Data(Pool::heap().copy(content))
}

/// Two runs of data with a hole before, between and after them.
fn with_holes() -> Answer {
    Answer::Data(vec![
        Span::Zeros(1000),
        Span::Zeros(24),
        bytes(b"ab"),
        bytes(b"c"),
        Span::Zeros(5),
        bytes(b"d"),
        Span::Zeros(67),
    ])
}

const WITH_HOLES_BYTES: u64 = 1100;

fn expected_content() -> Vec<u8> {
    let Answer::Data(spans) = with_holes() else {
        unreachable!()
    };
    Span::joined(&spans)
}

/// Reads at `offset`, and answers with holes.
fn read_holes(connection: &mut Connection, flags: u16, offset: u64) -> Vec<u8> {
    connection.request(command::READ, flags, 3, offset, WITH_HOLES_BYTES);
    let cookie = connection.next().cookie;
    connection.session.reply(cookie, Ok(with_holes()));
    connection.output()
}

#[test]
fn holes_come_as_holes() {
    let mut connection = Connection::transmitting("disk", Dialect::Structured);
    let hole = |offset: u64, len: u32| [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat();
    let data = |offset: u64, data: &[u8]| [&offset.to_be_bytes()[..], data].concat();
    let expected = [
        (0, chunk::OFFSET_HOLE, 3, hole(512, 1024)),
        (0, chunk::OFFSET_DATA, 3, data(1536, b"abc")),
        (0, chunk::OFFSET_HOLE, 3, hole(1539, 5)),
        (0, chunk::OFFSET_DATA, 3, data(1544, b"d")),
        (chunk::FLAG_DONE, chunk::OFFSET_HOLE, 3, hole(1545, 67)),
    ];
    assert_eq!(chunks(&read_holes(&mut connection, 0, 512)), expected);
}

#[test]
fn holes_are_filled_for_clients_that_cannot_put_pieces_together() {
    let mut connection = Connection::transmitting("disk", Dialect::Structured);
    let output = read_holes(&mut connection, command_flag::DF, 512);
    let [(chunk::FLAG_DONE, chunk::OFFSET_DATA, 3, payload)] = &chunks(&output)[..] else {
        panic!("one chunk of data")
    };
    assert_eq!(payload[8..], expected_content());

    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    let output = read_holes(&mut connection, 0, 512);
    assert_eq!(output[..16], wire::simple_reply(3, 0));
    assert_eq!(output[16..], expected_content());
}

#[test]
fn a_hole_alone_needs_no_filling() {
    let mut connection = Connection::transmitting("large", Dialect::Structured);
    let len = PAYLOAD_BYTES_MAX;
    connection.request(command::READ, command_flag::DF, 3, 0, len);
    let cookie = connection.next().cookie;
    let hole = Answer::Data(vec![Span::Zeros(len.into())]);
    connection.session.reply(cookie, Ok(hole));
    let [(chunk::FLAG_DONE, chunk::OFFSET_HOLE, 3, payload)] = &chunks(&connection.output())[..]
    else {
        panic!("one hole")
    };
    assert_eq!(payload[8..], len.to_be_bytes());
}

#[test]
fn zeros_for_simple_replies_take_little_memory() {
    let pool = Pool::heap();
    let mut connection = Connection::transmitting("large", Dialect::Simple);
    connection.session.use_pool(pool.clone());
    connection.request(command::READ, 0, 3, 0, PAYLOAD_BYTES_MAX);
    let cookie = connection.next().cookie;
    let hole = Answer::Data(vec![Span::Zeros(PAYLOAD_BYTES_MAX.into())]);
    connection.session.reply(cookie, Ok(hole));
    let mut sent = 0;
    while let Some(buffers) = connection.session.take_output() {
        sent += buffers.iter().map(|buffer| buffer.len()).sum::<usize>();
        assert!(pool.stats().heap_bytes < 1 << 20);
    }
    assert_eq!(sent, 16 + PAYLOAD_BYTES_MAX as usize);
}

// ---- extended headers ----

#[test]
fn extended_headers_are_agreed_on_over_structured_replies() {
    let mut connection = Connection::greeted();
    connection.agree(Dialect::Structured);
    connection.agree(Dialect::Extended);
    connection.agree(Dialect::Extended);
    let replies = connection.option(option::STRUCTURED_REPLY, &[]);
    assert_eq!(types(&replies), [option_reply::ERR_EXT_HEADER_REQD]);
    connection.go("disk");
    connection.request(command::FLUSH, 0, 1, 0, 0);
    assert!(matches!(connection.next().kind, RequestKind::Flush));
}

#[test]
fn export_name_does_not_go_with_extended_headers() {
    let mut connection = Connection::greeted();
    connection.agree(Dialect::Extended);
    let mut bytes = Vec::new();
    wire::put_option(&mut bytes, option::EXPORT_NAME, b"disk");
    connection.send(&bytes);
    assert_eq!(connection.session.state(), State::Closed);
}

#[test]
fn flags_tell_what_was_agreed_on() {
    let flags = |prepare: &dyn Fn(&mut Connection)| {
        let mut connection = Connection::greeted();
        prepare(&mut connection);
        let items = info_request("disk", &[info::EXPORT]);
        let replies = connection.option(option::INFO, &items);
        u16::from_be_bytes(replies[0].1[10..12].try_into().unwrap())
    };
    let (df, payload) = (
        transmission_flag::SEND_DF,
        transmission_flag::BLOCK_STATUS_PAYLOAD,
    );
    let both = df | payload;
    let contexts = |c: &mut Connection| drop(c.choose_contexts("disk", &["base:allocation"]));
    let others = |c: &mut Connection| drop(c.choose_contexts("large", &["base:allocation"]));
    assert_eq!(flags(&|_| ()) & both, 0);
    assert_eq!(flags(&|c| c.agree(Dialect::Structured)) & both, df);
    assert_eq!(flags(&|c| c.agree(Dialect::Extended)) & both, df);
    let of = |dialect, choose: &dyn Fn(&mut Connection)| {
        flags(&|c| {
            c.agree(dialect);
            choose(c);
        })
    };
    assert_eq!(of(Dialect::Structured, &contexts) & both, df);
    assert_eq!(of(Dialect::Extended, &contexts) & both, both);
    assert_eq!(of(Dialect::Extended, &others) & both, df);
}

#[test]
fn extended_replies_repeat_the_offset_and_are_never_simple() {
    let mut connection = Connection::transmitting("disk", Dialect::Extended);
    let output = read_holes(&mut connection, 0, 512);
    let replies = extended_chunks(&output);
    assert_eq!(replies.len(), 5);
    assert!(
        replies
            .iter()
            .all(|(_, _, handle, offset, _)| (*handle, *offset) == (3, 512))
    );
    connection.request(command::TRIM, 0, 4, 4096, 4096);
    let cookie = connection.next().cookie;
    connection.session.reply(cookie, Ok(Answer::Done));
    let done = (chunk::FLAG_DONE, chunk::NONE, 4, 4096, vec![]);
    assert_eq!(extended_chunks(&connection.output()), [done]);
    connection.request(command::READ, 0, 5, 8192, 4096);
    let cookie = connection.next().cookie;
    let error = ReplyError {
        offset: Some(9000),
        ..ReplyError::new(NbdError::Io, "lost")
    };
    connection.session.reply(cookie, Err(error));
    let payload = [
        &5u32.to_be_bytes()[..],
        b"\0\x04lost",
        &9000u64.to_be_bytes(),
    ]
    .concat();
    let error = (chunk::FLAG_DONE, chunk::ERROR_OFFSET, 5, 8192, payload);
    assert_eq!(extended_chunks(&connection.output()), [error]);
}

#[test]
fn lengths_of_64_bits_reach_the_host() {
    let mut connection = Connection::transmitting("large", Dialect::Extended);
    let flags = command_flag::FAST_ZERO | command_flag::NO_HOLE;
    connection.request(command::TRIM, 0, 1, 0, LARGE_SIZE);
    connection.request(command::WRITE_ZEROES, flags, 2, 1, LARGE_SIZE - 1);
    connection.request(command::CACHE, 0, 3, 0, LARGE_SIZE);
    assert!(matches!(
        connection.next().kind,
        RequestKind::Trim {
            len: LARGE_SIZE,
            ..
        }
    ));
    let RequestKind::WriteZeroes {
        len,
        keep_space: true,
        only_if_fast: true,
        ..
    } = connection.next().kind
    else {
        panic!("zeroes")
    };
    assert_eq!(len, LARGE_SIZE - 1);
    let done = (chunk::FLAG_DONE, chunk::NONE, 3, 0, vec![]);
    assert_eq!(
        extended_chunks(&connection.output()),
        [done],
        "cached at once"
    );
}

#[test]
fn writes_have_a_payload_with_and_without_the_flag() {
    // Without it comes what qemu sends.
    for flags in [command_flag::PAYLOAD_LEN, 0] {
        let mut connection = Connection::transmitting("disk", Dialect::Extended);
        connection.request(command::WRITE, flags, 1, 0, 4);
        connection.send(b"data");
        let RequestKind::Write { data, .. } = connection.next().kind else {
            panic!("a write")
        };
        assert_eq!(data[..], *b"data");
    }
}

/// What is refused in extended headers, its payload consumed.
#[test]
fn what_cannot_be_served_is_refused_in_sync() {
    use NbdError::{Invalid, NoSpace, Overflow};
    let payload = command_flag::PAYLOAD_LEN;
    let cases = [
        (command::WRITE, payload, SIZE, 100, NoSpace),
        (command::READ, payload, 0, 100, Invalid),
        (command::TRIM, payload, 0, 100, Invalid),
        (command::FLUSH, payload, 0, 100, Invalid),
        (command::CACHE, payload, 0, 100, Invalid),
        (command::WRITE_ZEROES, payload, 0, 50_000, Invalid),
        (99, payload, 0, 100, Invalid),
        (command::BLOCK_STATUS, payload, 0, 12, Invalid),
        (command::READ, 0, 0, 1 << 33, Overflow),
        (command::READ, 0, u64::MAX, 100, Invalid),
        (command::TRIM, 0, 1, u64::MAX, Invalid),
        (command::WRITE_ZEROES, 0, 1, u64::MAX, NoSpace),
        (command::CACHE, 0, 1, SIZE, Invalid),
    ];
    for (command, flags, offset, len, errno) in cases {
        let mut connection = Connection::transmitting("disk", Dialect::Extended);
        connection.request(command, flags, 9, offset, len);
        if flags & payload != 0 {
            connection.send(&vec![0x21; len as usize]);
        }
        assert!(connection.session.next_request().is_none());
        let replies = extended_chunks(&connection.output());
        let [(chunk::FLAG_DONE, chunk::ERROR, 9, at, error)] = &replies[..] else {
            panic!("{command}: {replies:?}")
        };
        assert_eq!(
            (*at, &error[..4]),
            (offset, &(errno as u32).to_be_bytes()[..])
        );
        connection.request(command::FLUSH, 0, 6, 0, 0);
        assert!(
            matches!(connection.next().kind, RequestKind::Flush),
            "in sync"
        );
    }
}

#[test]
fn payloads_longer_than_allowed_close() {
    for len in [u64::from(PAYLOAD_BYTES_MAX) + 1, u64::MAX] {
        for command in [command::WRITE, command::READ, command::BLOCK_STATUS, 99] {
            let mut connection = Connection::transmitting("large", Dialect::Extended);
            connection.request(command, command_flag::PAYLOAD_LEN, 1, 0, len);
            assert_eq!(connection.session.state(), State::Closed);
        }
    }
}

#[test]
fn compact_requests_are_not_understood_any_more() {
    let mut connection = Connection::transmitting("disk", Dialect::Extended);
    connection.dialect = Dialect::Structured;
    connection.request(command::FLUSH, 0, 1, 0, 0);
    connection.send(&[0; 4]);
    assert_eq!(connection.session.state(), State::Closed);
}

#[test]
fn questions_for_the_status_are_limited_like_reads() {
    let mut connection = Connection::with_contexts("large", Dialect::Extended);
    let mut asked = 0u64;
    while connection.session.wants_input() {
        connection.request(command::BLOCK_STATUS, 0, asked, 0, LARGE_SIZE);
        asked += 1;
    }
    let held = asked * u64::from(STATUS_BYTES);
    assert!(
        held <= (64 << 20) + u64::from(STATUS_BYTES),
        "{asked} at once"
    );
}

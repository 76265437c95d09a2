//! The handshake, option by option, spoken in bytes.

mod common;

use common::*;
use uraid_buffer::Pool;
use uraid_nbd::wire::{self, handshake_flag, info, option, option_reply, transmission_flag};
use uraid_nbd::{
    Export, OPTION_DATA_BYTES_MAX, OPTION_SKIP_BYTES_MAX, OPTIONS_MAX, Session, State,
};

/// Every flag of the writable export without structured replies.
const FLAGS: u16 = transmission_flag::HAS_FLAGS
    | transmission_flag::SEND_FLUSH
    | transmission_flag::SEND_FUA
    | transmission_flag::SEND_TRIM
    | transmission_flag::SEND_WRITE_ZEROES
    | transmission_flag::SEND_FAST_ZERO
    | transmission_flag::SEND_CACHE
    | transmission_flag::CAN_MULTI_CONN;

fn info_export(size: u64, flags: u16) -> Vec<u8> {
    let item = info::EXPORT.to_be_bytes();
    [&item[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
}

fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_option(&mut bytes, option, data);
    bytes
}

/// The session still understands what comes next.
fn assert_in_sync(connection: &mut Connection) {
    let replies = connection.option(option::INFO, &info_request("disk", &[]));
    assert_eq!(types(&replies), [option_reply::INFO, option_reply::ACK]);
}

fn assert_closed(connection: &mut Connection, reason: &str) {
    assert_eq!(connection.session.state(), State::Closed);
    assert!(!connection.session.wants_input());
    assert_eq!(
        connection.session.receive(&[0; 100]),
        0,
        "a closed session takes nothing"
    );
    assert!(
        connection.output().is_empty(),
        "a closed session sends nothing"
    );
    assert!(connection.session.is_finished());
    let log = connection.log();
    assert!(log.contains(reason), "log says {log:?}, not {reason:?}");
}

#[test]
fn greeting_is_fixed_newstyle_without_zeroes() {
    let mut connection = Connection::new();
    assert_eq!(connection.session.state(), State::Negotiating);
    assert_eq!(connection.output(), b"NBDMAGICIHAVEOPT\x00\x03");
    assert!(connection.session.take_output().is_none());
}

#[test]
fn unknown_client_flags_close() {
    for flags in [4u32, 1 << 16, 1 << 31, u32::MAX] {
        let mut connection = Connection::new();
        connection.output();
        connection.send(&flags.to_be_bytes());
        assert_closed(&mut connection, "unknown handshake flags");
    }
}

#[test]
fn client_without_flags_can_negotiate() {
    let mut connection = Connection::new();
    connection.output();
    connection.send(&[0; 4]);
    assert_in_sync(&mut connection);
}

#[test]
fn list_names_and_describes_every_export() {
    let mut connection = Connection::greeted();
    let replies = connection.option(option::LIST, &[]);
    let entry = |name: &str| {
        let len = (name.len() as u32).to_be_bytes();
        let text = format!("{name}the export {name}");
        (option_reply::SERVER, [&len[..], text.as_bytes()].concat())
    };
    let ack = (option_reply::ACK, Vec::new());
    assert_eq!(
        replies,
        [entry("disk"), entry("frozen"), entry("large"), ack]
    );
}

#[test]
fn options_without_data_refuse_data() {
    for option in [
        option::LIST,
        option::STRUCTURED_REPLY,
        option::EXTENDED_HEADERS,
    ] {
        let mut connection = Connection::greeted();
        let replies = connection.option(option, b"x");
        assert_eq!(types(&replies), [option_reply::ERR_INVALID]);
        assert!(!replies[0].1.is_empty(), "errors carry a text");
        assert_in_sync(&mut connection);
    }
}

#[test]
fn info_answers_what_is_asked_once() {
    let mut connection = Connection::greeted();
    let unknown = 0x7777;
    let items = [
        info::BLOCK_SIZE,
        info::NAME,
        unknown,
        info::DESCRIPTION,
        info::NAME,
        info::EXPORT,
    ];
    let mut replies = connection.option(option::INFO, &info_request("disk", &items));
    assert_eq!(replies.pop(), Some((option_reply::ACK, Vec::new())));
    assert!(
        replies
            .iter()
            .all(|(reply, _)| *reply == option_reply::INFO)
    );
    let mut data: Vec<_> = replies.into_iter().map(|(_, data)| data).collect();
    data.sort();
    let block_size = [
        &info::BLOCK_SIZE.to_be_bytes()[..],
        &1u32.to_be_bytes(),
        &65536u32.to_be_bytes(),
        &(32u32 << 20).to_be_bytes(),
    ]
    .concat();
    let expected = [
        info_export(SIZE, FLAGS),
        b"\x00\x01disk".to_vec(),
        b"\x00\x02the export disk".to_vec(),
        block_size,
    ];
    assert_eq!(data, expected);
    assert_eq!(connection.session.state(), State::Negotiating);
}

#[test]
fn go_without_items_tells_size_and_flags_and_enters_transmission() {
    let mut connection = Connection::greeted();
    let replies = connection.option(option::GO, &info_request("frozen", &[]));
    let flags = FLAGS | transmission_flag::READ_ONLY;
    let info = (option_reply::INFO, info_export(READ_ONLY_SIZE, flags));
    assert_eq!(replies, [info, (option_reply::ACK, Vec::new())]);
    assert_eq!(connection.session.state(), State::Transmitting);
    assert!(connection.log().contains("frozen"));
}

#[test]
fn structured_replies_bring_df() {
    let mut connection = Connection::greeted();
    for _ in 0..2 {
        let replies = connection.option(option::STRUCTURED_REPLY, &[]);
        assert_eq!(replies, [(option_reply::ACK, Vec::new())]);
    }
    let replies = connection.option(option::GO, &info_request("disk", &[]));
    assert_eq!(
        replies[0].1,
        info_export(SIZE, FLAGS | transmission_flag::SEND_DF)
    );
}

#[test]
fn malformed_info_is_invalid() {
    let good = info_request("disk", &[info::NAME]);
    let mut name_too_long = good.clone();
    name_too_long[..4].copy_from_slice(&100u32.to_be_bytes());
    let mut name_huge = good.clone();
    name_huge[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let extra = [&good[..], b"x"].concat();
    let mut cases = vec![name_too_long, name_huge, extra];
    cases.extend((0..good.len()).map(|len| good[..len].to_vec()));
    for option in [option::INFO, option::GO] {
        for data in &cases {
            let mut connection = Connection::greeted();
            let replies = connection.option(option, data);
            assert_eq!(
                types(&replies),
                [option_reply::ERR_INVALID],
                "data {data:?}"
            );
            assert_in_sync(&mut connection);
        }
    }
}

#[test]
fn unknown_export_is_told_and_not_fatal() {
    for name in ["nope", "Disk", "disk\0", &"x".repeat(4096)] {
        for option in [option::INFO, option::GO] {
            let mut connection = Connection::greeted();
            let replies = connection.option(option, &info_request(name, &[]));
            assert_eq!(types(&replies), [option_reply::ERR_UNKNOWN]);
            assert_in_sync(&mut connection);
        }
    }
}

#[test]
fn overlong_names_and_options_are_too_big() {
    let mut connection = Connection::greeted();
    let name = "x".repeat(wire::STRING_BYTES_MAX + 1);
    let replies = connection.option(option::GO, &info_request(&name, &[]));
    assert_eq!(types(&replies), [option_reply::ERR_TOO_BIG]);
    for len in [OPTION_DATA_BYTES_MAX + 1, OPTION_SKIP_BYTES_MAX] {
        for option in [
            option::GO,
            option::INFO,
            option::LIST_META_CONTEXT,
            option::SET_META_CONTEXT,
        ] {
            let replies = connection.option(option, &vec![b'x'; len]);
            assert_eq!(types(&replies), [option_reply::ERR_TOO_BIG]);
        }
        for option in [
            option::LIST,
            option::STRUCTURED_REPLY,
            option::EXTENDED_HEADERS,
        ] {
            let replies = connection.option(option, &vec![b'x'; len]);
            assert_eq!(
                types(&replies),
                [option_reply::ERR_INVALID],
                "takes no data"
            );
        }
        let replies = connection.option(99, &vec![b'x'; len]);
        assert_eq!(types(&replies), [option_reply::ERR_UNSUP]);
    }
    assert_in_sync(&mut connection);
}

#[test]
fn absurdly_long_options_close() {
    for len in [OPTION_SKIP_BYTES_MAX as u32 + 1, u32::MAX] {
        let mut connection = Connection::greeted();
        let mut header = option_bytes(99, &[]);
        header[12..].copy_from_slice(&len.to_be_bytes());
        connection.send(&header);
        assert_closed(&mut connection, "option 99 carries");
    }
}

#[test]
fn options_not_offered_are_unsupported_and_not_fatal() {
    let mut connection = Connection::greeted();
    for option in [option::STARTTLS, 0, 4, 12, 1 << 31, u32::MAX] {
        for data in [&b""[..], &[0xff; 4096]] {
            let replies = connection.option(option, data);
            assert_eq!(
                types(&replies),
                [option_reply::ERR_UNSUP],
                "option {option}"
            );
        }
    }
    assert_in_sync(&mut connection);
}

#[test]
fn export_name_pads_unless_declined() {
    for (client_flags, padding) in [
        (0, wire::EXPORT_NAME_PADDING_BYTES),
        (
            handshake_flag::FIXED_NEWSTYLE,
            wire::EXPORT_NAME_PADDING_BYTES,
        ),
        (handshake_flag::NO_ZEROES, 0),
        (
            handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES,
            0,
        ),
    ] {
        let mut connection = Connection::new();
        connection.output();
        connection.send(&u32::from(client_flags).to_be_bytes());
        connection.send(&option_bytes(option::EXPORT_NAME, b"disk"));
        let expected = [
            &SIZE.to_be_bytes()[..],
            &FLAGS.to_be_bytes(),
            &vec![0; padding],
        ]
        .concat();
        assert_eq!(connection.output(), expected);
        assert_eq!(connection.session.state(), State::Transmitting);
    }
}

#[test]
fn export_name_takes_a_name_and_closes_on_others() {
    let mut connection = Connection::greeted();
    connection.send(&option_bytes(option::EXPORT_NAME, b"disk"));
    assert_eq!(connection.output()[..8], SIZE.to_be_bytes());

    let mut connection = Connection::greeted();
    connection.send(&option_bytes(option::EXPORT_NAME, b"nope\n\xff"));
    assert_closed(&mut connection, "export \"nope\\n\u{fffd}\" is not served");

    let mut connection = Connection::greeted();
    connection.send(&option_bytes(
        option::EXPORT_NAME,
        &[b'x'; OPTION_DATA_BYTES_MAX + 1],
    ));
    assert_closed(&mut connection, "too long");
}

#[test]
fn an_export_with_the_empty_name_is_the_default() {
    let mut exports = exports().to_vec();
    exports[1].name = String::new();
    let mut connection = Connection::with(Session::new(exports.into(), Pool::heap())).greet();
    let replies = connection.option(option::INFO, &info_request("", &[]));
    assert_eq!(replies[0].1[2..10], READ_ONLY_SIZE.to_be_bytes());
}

#[test]
fn without_exports_there_is_no_default() {
    let none: Vec<Export> = Vec::new();
    let mut connection = Connection::with(Session::new(none.into(), Pool::heap())).greet();
    assert_eq!(
        types(&connection.option(option::LIST, &[])),
        [option_reply::ACK]
    );
    let replies = connection.option(option::GO, &info_request("", &[]));
    assert_eq!(types(&replies), [option_reply::ERR_UNKNOWN]);
}

#[test]
fn abort_is_acknowledged_then_over() {
    for data in [&b""[..], b"ignored", &[0; OPTION_SKIP_BYTES_MAX]] {
        let mut connection = Connection::greeted();
        connection.send(&option_bytes(option::ABORT, data));
        assert_eq!(connection.session.state(), State::Draining);
        assert!(!connection.session.wants_input());
        assert!(!connection.session.is_finished(), "the ACK is not sent yet");
        let replies = option_replies(option::ABORT, &connection.output());
        assert_eq!(replies, [(option_reply::ACK, Vec::new())]);
        assert!(connection.session.is_finished());
    }
}

#[test]
fn wrong_option_magic_closes() {
    for byte in 0..8 {
        let mut connection = Connection::greeted();
        let mut bytes = option_bytes(option::LIST, &[]);
        bytes[byte] ^= 0x20;
        connection.send(&bytes);
        assert_closed(&mut connection, "magic");
    }
}

#[test]
fn too_many_options_close() {
    let mut connection = Connection::greeted();
    for _ in 0..OPTIONS_MAX {
        assert_eq!(
            types(&connection.option(99, &[])),
            [option_reply::ERR_UNSUP]
        );
    }
    connection.send(&option_bytes(99, &[]));
    assert_closed(&mut connection, "more than 64 options");
}

#[test]
fn replies_that_nobody_fetches_hold_up_further_options() {
    let one = Export {
        name: "n".repeat(4096),
        description: "d".repeat(4096),
        size_bytes: 1,
        read_only: false,
        preferred_block_bytes: 512,
        ..Export::default()
    };
    let mut connection = Connection::with(Session::new(vec![one; 16].into(), Pool::heap()));
    connection.send(&client_flags());
    let list = option_bytes(option::LIST, &[]);
    assert_eq!(
        connection.session.receive(&list.repeat(3)),
        list.len(),
        "one list is enough"
    );
    assert!(!connection.session.wants_input());
    assert!(connection.output().len() > 16 * 8192);
    assert!(connection.session.wants_input());
}

#[test]
fn shutdown_refuses_options() {
    let mut connection = Connection::greeted();
    connection.session.shutdown();
    for option in [option::LIST, option::GO, option::STRUCTURED_REPLY, 99] {
        assert_eq!(
            types(&connection.option(option, &[])),
            [option_reply::ERR_SHUTDOWN]
        );
    }
    assert!(
        connection.session.is_finished(),
        "the host may close at any time"
    );
    assert_eq!(
        types(&connection.option(option::ABORT, &[])),
        [option_reply::ACK]
    );

    let mut connection = Connection::greeted();
    connection.session.shutdown();
    connection.send(&option_bytes(option::EXPORT_NAME, b"disk"));
    assert_closed(&mut connection, "shutting down");
}

#[test]
#[should_panic(expected = "preferred block")]
fn impossible_exports_are_a_bug() {
    let mut exports = exports().to_vec();
    exports[0].preferred_block_bytes = 3 << 16;
    Session::new(exports.into(), Pool::heap());
}

//! Requests and replies, spoken in bytes.

mod common;

use common::*;
use uraid_buffer::{ALIGNMENT, Buf, Pool, Span};
use uraid_nbd::wire::{self, NbdError, RequestHeader, chunk, command, command_flag};
use uraid_nbd::{
    Answer, Dialect, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_REQUESTS_MAX, OUTPUT_BUFFERS_MAX,
    PAYLOAD_BYTES_MAX, PAYLOAD_COPY_BYTES_MAX, ReplyError, RequestKind, State,
};

const FUA: u16 = command_flag::FUA;

fn simple(handle: u64, error: u32) -> Vec<u8> {
    wire::simple_reply(handle, error).to_vec()
}

fn spans(bufs: Vec<Buf>) -> Answer {
    Answer::Data(bufs.into_iter().map(Span::Data).collect())
}

/// A flush goes through: the session still understands what comes next.
fn assert_in_sync(connection: &mut Connection, dialect: Dialect) {
    connection.request(command::FLUSH, 0, 0xf1u64, 0, 0);
    let request = connection.next();
    assert!(matches!(request.kind, RequestKind::Flush), "{request:?}");
    connection.session.reply(request.cookie, Ok(Answer::Done));
    let output = connection.output();
    if dialect == Dialect::Structured {
        assert_eq!(
            chunks(&output),
            [(chunk::FLAG_DONE, chunk::NONE, 0xf1, vec![])]
        );
    } else {
        assert_eq!(output, simple(0xf1, 0));
    }
}

/// What a refused request is answered with: the error and its text.
fn refusal(connection: &mut Connection, handle: u64, dialect: Dialect) -> (u32, String) {
    assert!(
        connection.session.next_request().is_none(),
        "refused, not handed out"
    );
    let output = connection.output();
    if dialect == Dialect::Simple {
        assert_eq!(output[..4], wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
        assert_eq!(output[8..], handle.to_be_bytes(), "the handle and no data");
        return (
            u32::from_be_bytes(output[4..8].try_into().unwrap()),
            String::new(),
        );
    }
    let [(flags, kind, to, payload)] = &chunks(&output)[..] else {
        panic!("one chunk")
    };
    assert_eq!(
        (*flags, *kind, *to),
        (chunk::FLAG_DONE, chunk::ERROR, handle)
    );
    let text_len = u16::from_be_bytes(payload[4..6].try_into().unwrap());
    assert_eq!(usize::from(text_len), payload.len() - 6);
    let text = String::from_utf8(payload[6..].to_vec()).unwrap();
    assert!(!text.is_empty(), "errors carry a text");
    (u32::from_be_bytes(payload[..4].try_into().unwrap()), text)
}

#[test]
fn read_with_simple_replies() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::READ, FUA, 7, 4000, 10);
    let request = connection.next();
    assert_eq!(request.export, 0);
    assert!(matches!(
        request.kind,
        RequestKind::Read {
            offset: 4000,
            len: 10
        }
    ));
    let data = Pool::heap().copy(b"0123456789");
    connection.session.reply(
        request.cookie,
        Ok(spans(vec![data.slice(0..4), data.slice(4..10)])),
    );
    assert_eq!(
        connection.output(),
        [simple(7, 0), b"0123456789".to_vec()].concat()
    );
}

#[test]
fn read_with_structured_replies() {
    let mut connection = Connection::transmitting("disk", Dialect::Structured);
    connection.request(command::READ, command_flag::DF, 7, 4000, 10);
    let request = connection.next();
    connection
        .session
        .reply(request.cookie, Ok(data(b"0123456789")));
    let payload = [&4000u64.to_be_bytes()[..], b"0123456789"].concat();
    let expected = [(chunk::FLAG_DONE, chunk::OFFSET_DATA, 7, payload)];
    assert_eq!(chunks(&connection.output()), expected);
}

#[test]
fn commands_reach_the_host_with_their_flags() {
    for dialect in [Dialect::Simple, Dialect::Structured] {
        let mut connection = Connection::transmitting("disk", dialect);
        for fua in [0, FUA] {
            let durable = fua != 0;
            connection.request(command::WRITE, fua, 1, 512, 4);
            connection.send(b"data");
            connection.request(command::TRIM, fua, 2, 1024, 2048);
            connection.request(command::WRITE_ZEROES, fua, 3, 0, 1 << 20);
            connection.request(command::WRITE_ZEROES, fua | command_flag::NO_HOLE, 4, 1, 1);
            connection.request(command::FLUSH, fua, 5, 0, 0);
            let requests: [_; 5] = std::array::from_fn(|_| connection.next());
            let kinds: Vec<_> = requests.iter().map(|request| &request.kind).collect();
            let RequestKind::Write {
                offset: 512,
                data,
                fua,
            } = kinds[0]
            else {
                panic!("{:?}", kinds[0])
            };
            assert_eq!((&data[..], *fua), (&b"data"[..], durable));
            assert!(matches!(kinds[1],
                RequestKind::Trim { offset: 1024, len: 2048, fua } if *fua == durable));
            assert!(matches!(kinds[2],
                RequestKind::WriteZeroes { offset: 0, len: 0x10_0000, fua,
                    keep_space: false, only_if_fast: false }
                if *fua == durable));
            assert!(matches!(kinds[3],
                RequestKind::WriteZeroes { offset: 1, len: 1, fua, keep_space: true, only_if_fast: false }
                if *fua == durable));
            assert!(matches!(kinds[4], RequestKind::Flush));
            for request in &requests {
                connection.session.reply(request.cookie, Ok(Answer::Done));
            }
            let output = connection.output();
            if dialect == Dialect::Structured {
                let done = |handle| (chunk::FLAG_DONE, chunk::NONE, handle, vec![]);
                assert_eq!(chunks(&output), (1..=5).map(done).collect::<Vec<_>>());
            } else {
                let done: Vec<_> = (1..=5).map(|handle| simple(handle, 0)).collect();
                assert_eq!(output, done.concat());
            }
        }
    }
}

#[test]
fn what_cannot_be_served_is_refused_in_sync() {
    use NbdError::{Invalid, NoSpace, NotPermitted};
    let end = |back: u64| SIZE - back;
    let cases = [
        ("disk", command::READ, 0, end(9), 10, Invalid),
        ("disk", command::READ, 0, SIZE, 1, Invalid),
        ("disk", command::READ, 0, SIZE + 1, 0, Invalid),
        ("disk", command::READ, 0, u64::MAX, 1, Invalid),
        ("disk", command::READ, 0, u64::MAX - 9, 10, Invalid),
        ("disk", command::WRITE, 0, end(9), 10, NoSpace),
        ("disk", command::WRITE, 0, u64::MAX, 10, NoSpace),
        ("disk", command::WRITE, 0, SIZE, PAYLOAD_BYTES_MAX, NoSpace),
        ("disk", command::WRITE_ZEROES, 0, end(9), 10, NoSpace),
        (
            "disk",
            command::WRITE_ZEROES,
            0,
            u64::MAX,
            u32::MAX,
            NoSpace,
        ),
        ("disk", command::TRIM, 0, end(9), 10, Invalid),
        ("disk", command::TRIM, 0, u64::MAX, u32::MAX, Invalid),
        ("frozen", command::WRITE, 0, 0, 10, NotPermitted),
        ("frozen", command::WRITE, FUA, 0, 0, NotPermitted),
        (
            "frozen",
            command::WRITE,
            0,
            READ_ONLY_SIZE,
            10,
            NotPermitted,
        ),
        ("frozen", command::TRIM, 0, 0, 10, NotPermitted),
        ("frozen", command::WRITE_ZEROES, 0, 0, 10, NotPermitted),
        ("disk", command::FLUSH, 0, 1, 0, Invalid),
        ("disk", command::FLUSH, 0, 0, 1, Invalid),
        ("disk", command::CACHE, 0, end(9), 10, Invalid),
        ("disk", command::CACHE, command_flag::DF, 0, 10, Invalid),
        ("disk", command::BLOCK_STATUS, 0, 0, 10, Invalid),
        ("disk", 8, 0, 0, 10, Invalid),
        ("disk", u16::MAX, u16::MAX, u64::MAX, u32::MAX, Invalid),
        (
            "disk",
            command::WRITE,
            command_flag::NO_HOLE,
            0,
            10,
            Invalid,
        ),
        ("disk", command::WRITE, 1 << 15, 0, 100_000, Invalid),
        ("disk", command::WRITE, command_flag::DF, 0, 0, Invalid),
        ("disk", command::READ, command_flag::NO_HOLE, 0, 10, Invalid),
        ("disk", command::TRIM, command_flag::NO_HOLE, 0, 10, Invalid),
        ("disk", command::FLUSH, command_flag::DF, 0, 0, Invalid),
        (
            "disk",
            command::WRITE_ZEROES,
            command_flag::PAYLOAD_LEN,
            0,
            10,
            Invalid,
        ),
        (
            "disk",
            command::WRITE,
            command_flag::PAYLOAD_LEN,
            0,
            10,
            Invalid,
        ),
        (
            "disk",
            command::WRITE_ZEROES,
            command_flag::DF,
            0,
            10,
            Invalid,
        ),
    ];
    for dialect in [Dialect::Simple, Dialect::Structured] {
        for (export, command, flags, offset, len, errno) in cases {
            let mut connection = Connection::transmitting(export, dialect);
            connection.request(command, flags, 9, offset, len);
            if command == command::WRITE {
                connection.send(&vec![0x25; len as usize]);
            }
            let (error, _) = refusal(&mut connection, 9, dialect);
            assert_eq!(
                error, errno as u32,
                "{export} {command} {flags:#x} {offset} {len}"
            );
            assert_in_sync(&mut connection, dialect);
        }
    }
}

#[test]
fn reads_that_are_too_long_are_refused() {
    for (dialect, errno) in [
        (Dialect::Simple, NbdError::Invalid),
        (Dialect::Structured, NbdError::Overflow),
    ] {
        for len in [PAYLOAD_BYTES_MAX + 1, u32::MAX] {
            let mut connection = Connection::transmitting("large", dialect);
            connection.request(command::READ, 0, 9, 0, len);
            let (error, _) = refusal(&mut connection, 9, dialect);
            assert_eq!(error, errno as u32);
            assert_in_sync(&mut connection, dialect);
        }
    }
}

#[test]
fn df_needs_structured_replies() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::READ, command_flag::DF, 9, 0, 10);
    assert_eq!(
        refusal(&mut connection, 9, Dialect::Simple).0,
        NbdError::Invalid as u32
    );
}

#[test]
fn requests_may_reach_exactly_to_the_end() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::READ, 0, 1, SIZE - 10, 10);
    assert!(matches!(
        connection.next().kind,
        RequestKind::Read { len: 10, .. }
    ));
    connection.request(command::TRIM, 0, 2, 0, SIZE as u32);
    assert!(matches!(
        connection.next().kind,
        RequestKind::Trim { offset: 0, .. }
    ));
    let mut connection = Connection::transmitting("large", Dialect::Simple);
    connection.request(
        command::WRITE_ZEROES,
        0,
        1,
        LARGE_SIZE - u64::from(u32::MAX),
        u32::MAX,
    );
    assert!(matches!(
        connection.next().kind,
        RequestKind::WriteZeroes {
            len: 0xffff_ffff,
            ..
        }
    ));
    connection.request(command::READ, 0, 2, 0, PAYLOAD_BYTES_MAX);
    assert!(matches!(
        connection.next().kind,
        RequestKind::Read {
            len: PAYLOAD_BYTES_MAX,
            ..
        }
    ));
}

#[test]
fn empty_requests_succeed_at_once() {
    let commands = [
        command::READ,
        command::WRITE,
        command::TRIM,
        command::CACHE,
        command::WRITE_ZEROES,
    ];
    for dialect in [Dialect::Simple, Dialect::Structured] {
        let mut connection = Connection::transmitting("disk", dialect);
        for command in commands {
            connection.request(command, FUA, 4, SIZE, 0);
            assert!(connection.session.next_request().is_none());
            let output = connection.output();
            if dialect == Dialect::Structured {
                assert_eq!(
                    chunks(&output),
                    [(chunk::FLAG_DONE, chunk::NONE, 4, vec![])]
                );
            } else {
                assert_eq!(output, simple(4, 0));
            }
        }
        assert_in_sync(&mut connection, dialect);
    }
}

#[test]
fn wrong_request_magic_closes() {
    let good = RequestHeader {
        flags: 0,
        command: 0,
        handle: 1,
        offset: 0,
        len: 1,
    }
    .encode(Dialect::Simple);
    for byte in 0..4 {
        let mut connection = Connection::transmitting("disk", Dialect::Simple);
        connection.request(command::READ, 0, 1, 0, 1);
        let mut bad = good.clone();
        bad[byte] ^= 1;
        connection.send(&bad);
        assert_eq!(connection.session.state(), State::Closed);
        assert!(
            connection.session.next_request().is_none(),
            "what waited is dropped"
        );
        assert!(connection.session.is_finished());
        assert!(connection.log().contains("magic number"));
    }
}

#[test]
fn writes_longer_than_allowed_close() {
    for export in ["large", "frozen"] {
        for len in [PAYLOAD_BYTES_MAX + 1, u32::MAX] {
            let mut connection = Connection::transmitting(export, Dialect::Structured);
            connection.request(command::WRITE, 0, 1, 0, len);
            assert_eq!(connection.session.state(), State::Closed);
            assert!(connection.log().contains("33554432 allowed"));
        }
    }
}

#[test]
fn errors_of_the_host_reach_the_client() {
    for dialect in [Dialect::Simple, Dialect::Structured] {
        for errno in [NbdError::Io, NbdError::NoSpace, NbdError::ShuttingDown] {
            let mut connection = Connection::transmitting("disk", dialect);
            connection.request(command::READ, 0, 3, 0, 4096);
            let cookie = connection.next().cookie;
            let error = ReplyError::new(errno, "member sdb1 is lost");
            connection.session.reply(cookie, Err(error));
            let (error, text) = refusal(&mut connection, 3, dialect);
            assert_eq!(error, errno as u32);
            assert_eq!(
                text == "member sdb1 is lost",
                dialect == Dialect::Structured
            );
        }
    }
}

#[test]
fn errors_tell_their_offset_if_inside_the_request() {
    let offsets = [(8192, true), (12287, true), (8191, false), (12288, false)];
    for (offset, inside) in offsets {
        let mut connection = Connection::transmitting("disk", Dialect::Structured);
        connection.request(command::READ, 0, 3, 8192, 4096);
        let cookie = connection.next().cookie;
        let error = ReplyError {
            offset: Some(offset),
            ..ReplyError::new(NbdError::Io, "lost")
        };
        connection.session.reply(cookie, Err(error));
        let [(_, kind, 3, payload)] = &chunks(&connection.output())[..] else {
            panic!("a chunk")
        };
        let mut expected = [&5u32.to_be_bytes()[..], b"\0\x04lost"].concat();
        if inside {
            expected.extend(offset.to_be_bytes());
        }
        assert_eq!(*payload, expected);
        assert_eq!(
            *kind,
            if inside {
                chunk::ERROR_OFFSET
            } else {
                chunk::ERROR
            }
        );
    }
}

#[test]
fn long_error_texts_are_cut_between_characters() {
    let mut connection = Connection::transmitting("disk", Dialect::Structured);
    connection.request(command::READ, 0, 3, 0, 4096);
    let cookie = connection.next().cookie;
    let text = format!("x{}", "é".repeat(5000));
    connection
        .session
        .reply(cookie, Err(ReplyError::new(NbdError::Io, text)));
    let (_, text) = refusal(&mut connection, 3, Dialect::Structured);
    assert_eq!(text, format!("x{}", "é".repeat(511)));
}

#[test]
fn replies_in_any_order_are_gathered() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    // The same handle twice is the client's affair.
    for handle in [10, 11, 11] {
        connection.request(command::READ, 0, handle, handle * 512, 512);
    }
    let cookies: [_; 3] = std::array::from_fn(|_| connection.next().cookie);
    let filled = |byte| data(&[byte; 512]);
    connection.session.reply(cookies[2], Ok(filled(2)));
    connection.session.reply(cookies[0], Ok(filled(0)));
    connection
        .session
        .reply(cookies[1], Err(ReplyError::new(NbdError::Io, "lost")));
    let buffers = connection.session.take_output().expect("replies");
    assert_eq!(buffers.len(), 5, "header, data, header, data, header");
    let expected = [
        simple(11, 0),
        vec![2; 512],
        simple(10, 0),
        vec![0; 512],
        simple(11, 5),
    ]
    .concat();
    assert_eq!(joined(&buffers), expected);
    assert!(connection.session.take_output().is_none());
}

#[test]
fn outputs_are_bounded_and_complete() {
    let mut connection = Connection::transmitting("disk", Dialect::Structured);
    connection.request(command::READ, 0, 1, 0, SIZE as u32);
    connection.request(command::FLUSH, 0, 2, 0, 0);
    let (read, flush) = (connection.next().cookie, connection.next().cookie);
    let data = Random::new().bytes(SIZE as usize);
    let parts = data
        .chunks(1000)
        .map(|part| Pool::heap().copy(part))
        .collect();
    connection.session.reply(read, Ok(spans(parts)));
    connection.session.reply(flush, Ok(Answer::Done));
    let mut output = Vec::new();
    let mut count = 0;
    while let Some(buffers) = connection.session.take_output() {
        assert!(buffers.len() <= OUTPUT_BUFFERS_MAX);
        output.extend(joined(&buffers));
        count += 1;
    }
    assert_eq!(count, 3, "1049 data buffers and two headers");
    let chunks = chunks(&output);
    assert_eq!(chunks[0].3[8..], data);
    assert_eq!(chunks[1], (chunk::FLAG_DONE, chunk::NONE, 2, vec![]));
}

#[test]
fn payloads_keep_the_alignment_of_their_offset() {
    for offset in [0, 4096, 512, 4095, 65536 + 1] {
        for len in [1, 4096, 10_000, 100_000] {
            let mut connection = Connection::transmitting("disk", Dialect::Simple);
            connection.request(command::WRITE, 0, 1, offset, len);
            let bytes = vec![7; len as usize];
            connection.send(&bytes);
            let RequestKind::Write { data, .. } = connection.next().kind else {
                panic!("write")
            };
            assert_eq!(&data[..], bytes);
            let align = ALIGNMENT as u64;
            assert_eq!(data.as_ptr() as u64 % align, offset % align);
        }
    }
}

#[test]
fn large_payloads_are_received_in_place() {
    let mut connection = Connection::transmitting("large", Dialect::Simple);
    let content = Random::new().bytes(PAYLOAD_BYTES_MAX as usize);
    connection.request(command::WRITE, FUA, 1, 512, PAYLOAD_BYTES_MAX);
    connection.send(&content[..100]);
    let mut received = 100;
    for step in [0, 1, 1 << 20, usize::MAX] {
        let (mut buffer, range) = connection.session.take_payload().expect("much is missing");
        assert_eq!(range.len(), content.len() - received);
        assert!(!connection.session.wants_input(), "the buffer is lent");
        assert_eq!(connection.session.receive(b"x"), 0);
        assert!(
            connection.session.take_payload().is_none(),
            "lent only once"
        );
        let count = range.len().saturating_sub(1000).min(step);
        let place = range.start..range.start + count;
        buffer[place].copy_from_slice(&content[received..received + count]);
        connection.session.return_payload(buffer, count);
        received += count;
        assert!(connection.session.is_mid_message());
    }
    assert!(
        connection.session.take_payload().is_none(),
        "the rest is copied"
    );
    connection.send(&content[received..]);
    assert!(!connection.session.is_mid_message());
    let RequestKind::Write {
        offset: 512,
        data,
        fua: true,
    } = connection.next().kind
    else {
        panic!("a write")
    };
    assert!(data[..] == content);
}

#[test]
fn a_payload_may_be_filled_in_one_go() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::WRITE, 0, 1, 4096, 65536);
    let (mut buffer, range) = connection.session.take_payload().expect("a large payload");
    assert_eq!(range, 0..65536, "aligned data is at the start");
    buffer[range].fill(3);
    connection.session.return_payload(buffer, 65536);
    let RequestKind::Write { data, .. } = connection.next().kind else {
        panic!("a write")
    };
    assert_eq!(data[..], [3; 65536]);
}

#[test]
fn small_refused_and_absent_payloads_are_not_offered() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    assert!(connection.session.take_payload().is_none());
    connection.request(command::WRITE, 0, 1, 0, PAYLOAD_COPY_BYTES_MAX as u32);
    assert!(connection.session.take_payload().is_none());
    let mut connection = Connection::transmitting("frozen", Dialect::Simple);
    connection.request(command::WRITE, 0, 1, 0, 1 << 20);
    assert!(connection.session.take_payload().is_none());
}

#[test]
fn the_session_may_end_while_the_payload_is_lent() {
    for closing in [false, true] {
        let mut connection = Connection::transmitting("disk", Dialect::Simple);
        connection.request(command::WRITE, 0, 1, 0, 65536);
        let (buffer, _) = connection.session.take_payload().expect("a large payload");
        if closing {
            connection.session.close("receive failed");
        } else {
            connection.session.peer_closed();
        }
        connection.session.return_payload(buffer, 0);
        assert!(connection.session.next_request().is_none());
        assert!(connection.session.is_finished());
    }
}

#[test]
fn requests_under_way_are_limited_in_number() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    let read = RequestHeader {
        flags: 0,
        command: 0,
        handle: 1,
        offset: 0,
        len: 1,
    }
    .encode(Dialect::Simple);
    let many = read.repeat(IN_FLIGHT_REQUESTS_MAX + 5);
    let all = IN_FLIGHT_REQUESTS_MAX * read.len();
    assert_eq!(connection.session.receive(&many), all);
    assert!(!connection.session.wants_input());
    let cookies: Vec<_> = std::iter::from_fn(|| connection.session.next_request())
        .map(|r| r.cookie)
        .collect();
    assert_eq!(cookies.len(), IN_FLIGHT_REQUESTS_MAX);
    let byte = Pool::heap().copy(b"x");
    connection
        .session
        .reply(cookies[0], Ok(spans(vec![byte.clone()])));
    assert!(!connection.session.wants_input(), "the reply is not sent");
    assert!(connection.session.take_output().is_some());
    assert!(!connection.session.wants_input(), "the reply is being sent");
    assert!(connection.session.take_output().is_none());
    assert!(connection.session.wants_input(), "the reply is sent");
    assert_eq!(connection.session.receive(&many[all..]), read.len());
    for cookie in &cookies[1..] {
        connection
            .session
            .reply(*cookie, Ok(spans(vec![byte.clone()])));
    }
    connection.output();
    assert_eq!(
        connection.session.receive(&many[all + read.len()..]),
        4 * read.len()
    );
}

#[test]
fn refused_requests_count_until_their_replies_are_sent() {
    let mut connection = Connection::transmitting("disk", Dialect::Structured);
    let bad = RequestHeader {
        flags: 0,
        command: 99,
        handle: 1,
        offset: 0,
        len: 1,
    }
    .encode(Dialect::Simple);
    let many = bad.repeat(10 * IN_FLIGHT_REQUESTS_MAX);
    assert_eq!(
        connection.session.receive(&many),
        IN_FLIGHT_REQUESTS_MAX * bad.len()
    );
    assert!(!connection.session.wants_input());
    assert_eq!(chunks(&connection.output()).len(), IN_FLIGHT_REQUESTS_MAX);
    assert!(connection.session.wants_input());
}

#[test]
fn requests_under_way_are_limited_in_bytes() {
    let reads = IN_FLIGHT_BYTES_MAX / PAYLOAD_BYTES_MAX as usize;
    let mut connection = Connection::transmitting("large", Dialect::Simple);
    for handle in 0..reads as u64 {
        assert!(connection.session.wants_input());
        connection.request(command::READ, 0, handle, 0, PAYLOAD_BYTES_MAX);
    }
    assert!(!connection.session.wants_input());
    let cookie = connection.next().cookie;
    connection
        .session
        .reply(cookie, Err(ReplyError::new(NbdError::Io, "lost")));
    connection.output();
    assert!(connection.session.wants_input());
    // A write that reaches the limit is still received.
    connection.request(command::WRITE, 0, 99, 0, PAYLOAD_BYTES_MAX);
    assert!(connection.session.wants_input());
    connection.send(&vec![0; PAYLOAD_BYTES_MAX as usize]);
    assert!(!connection.session.wants_input());
}

#[test]
fn disconnect_finishes_what_is_under_way() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::FLUSH, 0, 1, 0, 0);
    connection.request(command::READ, 0, 2, 0, 3);
    let flush = connection.next().cookie;
    // Reserved fields do not matter: there is no way to answer.
    connection.request(command::DISC, 0x8000, 3, 1, 1);
    assert_eq!(connection.session.state(), State::Draining);
    assert_eq!(
        connection.session.receive(&[0; 28]),
        0,
        "nothing may follow"
    );
    assert!(!connection.session.is_finished());
    let read = connection.next().cookie;
    connection.session.reply(read, Ok(data(b"abc")));
    connection.session.reply(flush, Ok(Answer::Done));
    assert!(!connection.session.is_finished(), "replies are not taken");
    let expected = [simple(2, 0), b"abc".to_vec(), simple(1, 0)].concat();
    assert_eq!(connection.output(), expected);
    assert!(connection.session.is_finished());
    assert!(connection.log().contains("client disconnected"));
}

#[test]
fn disconnect_when_idle_is_the_end() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    assert!(!connection.session.is_finished());
    connection.request(command::DISC, 0, 0, 0, 0);
    assert!(connection.session.is_finished());
    assert!(connection.output().is_empty());
}

#[test]
fn end_of_stream_finishes_what_is_under_way() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::FLUSH, 0, 1, 0, 0);
    connection.session.peer_closed();
    assert_eq!(connection.session.state(), State::Draining);
    let cookie = connection.next().cookie;
    assert!(!connection.session.is_finished());
    connection.session.reply(cookie, Ok(Answer::Done));
    assert_eq!(connection.output(), simple(1, 0));
    assert!(connection.session.is_finished());
    assert!(connection.log().contains("without disconnecting"));
}

#[test]
fn a_closed_session_drops_late_results() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::FLUSH, 0, 1, 0, 0);
    connection.request(command::FLUSH, 0, 2, 0, 0);
    let (first, second) = (connection.next().cookie, connection.next().cookie);
    connection.session.reply(first, Ok(Answer::Done));
    connection.session.close("send failed");
    assert_eq!(connection.session.state(), State::Closed);
    assert!(
        !connection.session.is_finished(),
        "the host still works on one"
    );
    connection.session.reply(second, Ok(Answer::Done));
    assert!(connection.session.is_finished());
    assert!(connection.output().is_empty());
    assert!(connection.log().contains("send failed"));
}

/// What was not taken gets no answer, least of all an error: then a client that comes back may
/// send it again.
#[test]
fn shutdown_finishes_what_is_under_way_and_takes_nothing_more() {
    for half_a_request in [&[][..], &[0x25, 0x60], b"write"] {
        let mut connection = Connection::transmitting("disk", Dialect::Simple);
        connection.request(command::FLUSH, 0, 1, 0, 0);
        let flush = connection.next().cookie;
        if half_a_request == b"write" {
            connection.request(command::WRITE, 0, 2, 0, 8);
        }
        connection.send(half_a_request);
        connection.session.shutdown();
        assert!(!connection.session.wants_input());
        assert!(!connection.session.is_finished());
        connection.session.reply(flush, Ok(Answer::Done));
        assert!(!connection.session.is_finished(), "the reply is not taken");
        assert_eq!(connection.output(), simple(1, 0));
        assert!(connection.session.is_finished());
    }
}

#[test]
#[should_panic(expected = "not pending")]
fn replying_twice_is_a_bug() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::FLUSH, 0, 1, 0, 0);
    let cookie = connection.next().cookie;
    connection.session.reply(cookie, Ok(Answer::Done));
    connection.session.reply(cookie, Ok(Answer::Done));
}

#[test]
#[should_panic(expected = "reply of 3 bytes to command 0 where 4 were asked for")]
fn replying_with_too_little_data_is_a_bug() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    connection.request(command::READ, 0, 1, 0, 4);
    let cookie = connection.next().cookie;
    connection.session.reply(cookie, Ok(data(b"abc")));
}

//! The NBD server, request by request and option by option, and as bad clients see it.

mod common;

use common::client::{
    CMD_READ, CMD_TRIM, CMD_WRITE, Client, EINVAL, ENOSPC, Handshake, OPT_ABORT, OPT_EXPORT_NAME,
    OPT_GO, OPT_INFO, OPT_LIST, REP_ACK, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_INFO, REP_SERVER,
    export_request,
};
use common::pattern::{Random, blocks};
use common::{MIB, Server, tank, wait_for};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Expects that the server still serves a new client.
#[track_caller]
fn assert_serves(server: &Server) {
    let mut client = server.connect();
    client.write(8192, &[0x5a; 512]).expect("write");
    assert_eq!(client.read(8192, 512).expect("read"), vec![0x5a; 512]);
}

/// Whether the server closes this connection within a few seconds.
fn is_closed(mut stream: UnixStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(40)))
        .expect("timeout");
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

// ---- requests at the edges ----

#[test]
fn read_past_the_end_is_einval() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    let size = client.size;
    assert_eq!(
        client.read(size, 512).expect_err("past the end").errno(),
        EINVAL
    );
    assert_eq!(
        client
            .read(size - 512, 1024)
            .expect_err("past the end")
            .errno(),
        EINVAL
    );
    assert_eq!(
        client
            .read(u64::MAX - 511, 512)
            .expect_err("overflow")
            .errno(),
        EINVAL
    );
    assert_eq!(
        client.read(size - 512, 512).expect("the last sector"),
        vec![0; 512]
    );
}

#[test]
fn write_past_the_end_is_enospc_and_writes_nothing() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    let size = client.size;
    assert_eq!(
        client
            .write(size, &[1; 512])
            .expect_err("past the end")
            .errno(),
        ENOSPC
    );
    assert_eq!(
        client
            .write(size - 512, &[1; 1024])
            .expect_err("past the end")
            .errno(),
        ENOSPC
    );
    assert_eq!(client.read(size - 512, 512).expect("read"), vec![0; 512]);
}

#[test]
fn trim_past_the_end_is_an_error() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    let size = client.size;
    client
        .trim(size - 4096, 8192)
        .expect_err("past the end")
        .errno();
    client
        .write_zeroes(size, 4096)
        .expect_err("past the end")
        .errno();
    assert_serves(&server);
}

#[test]
fn zero_length_requests_are_harmless() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    // The protocol leaves success or EINVAL to the server; the connection stays in step.
    for command in [CMD_READ, CMD_WRITE, CMD_TRIM] {
        client.send(command, 0, 4096, 0, &[]).expect("send");
        let _ = client.receive();
    }
    assert_eq!(client.read(4096, 512).expect("read"), vec![0; 512]);
}

#[test]
fn a_request_of_32_mib_is_served() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    let data = blocks(0, 32 * MIB / 4096, 1);
    client.write(MIB, &data).expect("write");
    assert!(client.read(MIB, data.len()).expect("read") == data);
}

#[test]
fn a_read_over_the_limit_is_an_error_and_the_connection_stays() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    client.send(CMD_READ, 0, 0, 64 * MIB, &[]).expect("send");
    client.receive().expect_err("too much").errno();
    assert_eq!(client.read(0, 512).expect("read"), vec![0; 512]);
}

#[test]
fn a_write_over_the_limit_leaves_the_server_up() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    client.send(CMD_WRITE, 0, 0, 3 << 30, &[]).expect("send");
    drop(client);
    assert_serves(&server);
    assert_eq!(server.connect().read(0, 4096).expect("read"), vec![0; 4096]);
}

#[test]
fn an_unknown_command_is_einval() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    client.send(99, 0, 0, 0, &[]).expect("send");
    assert_eq!(client.receive().expect_err("unknown").errno(), EINVAL);
    assert_eq!(client.read(0, 512).expect("read"), vec![0; 512]);
}

#[test]
fn overlapping_unaligned_requests_of_any_size_read_back() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    let mut random = Random::from_environment();
    let mut expected = vec![0u8; 3 * MIB as usize];
    for round in 0..300u64 {
        let len = 1 + random.below(if round % 3 == 0 { MIB } else { 9000 }) as usize;
        let at = random.below((expected.len() - len) as u64) as usize;
        match random.below(8) {
            0 => {
                client
                    .write_zeroes(at as u64, len as u64)
                    .expect("write zeroes");
                expected[at..at + len].fill(0);
            }
            _ => {
                let data: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                client.write(at as u64, &data).expect("write");
                expected[at..at + len].copy_from_slice(&data);
            }
        }
        let from = at.saturating_sub(5000);
        let to = (at + len + 5000).min(expected.len());
        assert!(
            client.read(from as u64, to - from).expect("read") == expected[from..to],
            "round {round}"
        );
    }
    assert!(client.read(0, expected.len()).expect("read") == expected);
}

#[test]
fn trimmed_stripes_read_as_zero_and_their_neighbours_stay() {
    let (_sandbox, server) = tank();
    let mut client = server.connect();
    let data = blocks(0, 512, 1);
    client.write(0, &data).expect("write");
    client.trim(100_000, 1_000_000).expect("trim");
    let found = client.read(0, data.len()).expect("read");
    assert!(found[..100_000] == data[..100_000] && found[1_100_000..] == data[1_100_000..]);
    // Whole stripes (4 x 64 KiB) inside the range are gone; the edges may stay, never garbage.
    let inside = 262_144..1_048_576;
    assert!(
        found[inside].iter().all(|byte| *byte == 0),
        "trimmed stripes read as zero"
    );
    for (at, block) in found.chunks(4096).enumerate() {
        let was = &data[at * 4096..][..4096];
        assert!(
            block == was || block.iter().all(|byte| *byte == 0),
            "block {at} is garbage"
        );
    }
}

#[test]
fn trimmed_space_goes_back_to_the_file_system() {
    use std::os::unix::fs::MetadataExt;
    let (sandbox, server) = tank();
    let used_mib = || {
        let used = |m: &PathBuf| std::fs::metadata(m).expect("metadata").blocks() * 512;
        sandbox.members(6).iter().map(used).sum::<u64>() / MIB
    };
    let mut client = server.connect();
    let before = used_mib();
    for part in 0..8 {
        client
            .write(part * 8 * MIB, &blocks(0, 8 * MIB / 4096, 1))
            .expect("write");
    }
    client.flush().expect("flush");
    let full = used_mib();
    assert!(
        full > before + 64,
        "{before} MiB before, {full} MiB after writing 64 MiB"
    );
    client.trim(0, 64 * MIB).expect("trim");
    client.flush().expect("flush");
    wait_for("the trimmed space", || {
        (used_mib() < before + (full - before) / 2).then_some(())
    });
}

#[test]
fn a_write_on_one_connection_is_seen_on_another() {
    let (_sandbox, server) = tank();
    let (mut one, mut other) = (server.connect(), server.connect());
    for version in 1..50 {
        let data = blocks(7, 3, version);
        one.write(7 * 4096, &data).expect("write");
        assert!(
            other.read(7 * 4096, data.len()).expect("read") == data,
            "version {version}"
        );
    }
}

// ---- options ----

#[test]
fn info_is_answered_and_negotiation_goes_on() {
    let (_sandbox, server) = tank();
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake
        .option(OPT_INFO, &export_request("tank"))
        .expect("send");
    let mut infos = 0;
    while let (REP_INFO, _) = handshake.reply(OPT_INFO).expect("reply") {
        infos += 1;
    }
    assert!(infos >= 1);
    assert_eq!(handshake.go("tank").expect("go").size, 128 * MIB);
}

#[test]
fn list_names_the_export_and_ends_with_ack() {
    let (_sandbox, server) = tank();
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake.option(OPT_LIST, &[]).expect("send");
    let (kind, data) = handshake.reply(OPT_LIST).expect("reply");
    assert_eq!(kind, REP_SERVER);
    assert_eq!(&data[..8], b"\0\0\0\x04tank");
    assert_eq!(handshake.reply(OPT_LIST).expect("reply").0, REP_ACK);
}

#[test]
fn an_unknown_option_is_unsupported_and_negotiation_goes_on() {
    let (_sandbox, server) = tank();
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake
        .option(4711, b"some data to be skipped")
        .expect("send");
    assert_eq!(handshake.reply(4711).expect("reply").0, REP_ERR_UNSUP);
    assert_eq!(handshake.go("").expect("go").size, 128 * MIB);
}

#[test]
fn an_unknown_export_is_told_and_negotiation_goes_on() {
    let (_sandbox, server) = tank();
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake
        .option(OPT_GO, &export_request("tonk"))
        .expect("send");
    assert_eq!(handshake.reply(OPT_GO).expect("reply").0, REP_ERR_UNKNOWN);
    assert_eq!(handshake.go("tank").expect("go").size, 128 * MIB);
}

#[test]
fn abort_is_acknowledged_and_closes() {
    let (_sandbox, server) = tank();
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake.option(OPT_ABORT, &[]).expect("send");
    assert_eq!(handshake.reply(OPT_ABORT).expect("reply").0, REP_ACK);
    assert!(is_closed(handshake.into_stream()));
    assert_serves(&server);
}

#[test]
fn export_name_serves_old_clients() {
    let (_sandbox, server) = tank();
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake.option(OPT_EXPORT_NAME, b"tank").expect("send");
    let mut stream = handshake.into_stream();
    let mut answer = [0; 10]; // size and flags; no zeroes, as agreed
    stream.read_exact(&mut answer).expect("answer");
    assert_eq!(
        u64::from_be_bytes(answer[..8].try_into().expect("8 bytes")),
        128 * MIB
    );
}

#[test]
fn a_long_option_does_not_exhaust_the_server() {
    let (_sandbox, server) = tank();
    let mut stream = Handshake::start(&server.socket)
        .expect("greeting")
        .into_stream();
    let mut head = b"IHAVEOPT".to_vec();
    head.extend(OPT_GO.to_be_bytes());
    head.extend(u32::MAX.to_be_bytes());
    stream.write_all(&head).expect("send");
    assert_serves(&server);
    // The promised four gigabytes never come; what does come is not kept.
    let junk = vec![0x41; 1 << 20];
    for _ in 0..64 {
        if stream.write_all(&junk).is_err() {
            break; // cut off, as it should be
        }
    }
    assert!(
        server.resident_mib() < 1024,
        "{} MiB",
        server.resident_mib()
    );
    assert_serves(&server);
}

// ---- hostile and clumsy clients ----

#[test]
fn garbage_instead_of_a_handshake_leaves_the_server_up() {
    let (_sandbox, server) = tank();
    let mut random = Random::from_environment();
    for _ in 0..50 {
        let mut stream = UnixStream::connect(&server.socket).expect("connect");
        let junk: Vec<u8> = (0..random.below(10_000))
            .map(|_| random.next() as u8)
            .collect();
        let _ = stream.write_all(&junk); // may be cut off: that is the point
    }
    assert_serves(&server);
}

#[test]
fn garbage_instead_of_requests_leaves_the_server_up_and_the_data_alone() {
    let (_sandbox, server) = tank();
    let data = blocks(0, 64, 1);
    server.connect().write(0, &data).expect("write");
    let mut random = Random::from_environment();
    for _ in 0..50 {
        let mut stream = server.connect().into_stream();
        let junk: Vec<u8> = (0..28 + random.below(10_000))
            .map(|_| random.next() as u8)
            .collect();
        let _ = stream.write_all(&junk);
        assert!(
            is_closed(stream),
            "a request without magic must end the connection"
        );
    }
    assert!(server.connect().read(0, data.len()).expect("read") == data);
}

#[test]
fn clients_that_vanish_in_the_middle_leave_the_server_up() {
    let (_sandbox, server) = tank();
    for cut in [0, 1, 15, 27, 28, 1000, 4096 + 27] {
        let mut stream = server.connect().into_stream();
        let mut message = vec![];
        message.extend(0x2560_9513u32.to_be_bytes());
        message.extend([0, 0, 0, 1]); // no flags, WRITE
        message.extend(1u64.to_be_bytes());
        message.extend(0u64.to_be_bytes());
        message.extend(8192u32.to_be_bytes());
        message.extend(vec![0xee; 8192]);
        stream.write_all(&message[..cut]).expect("send");
    }
    let mut client = server.connect();
    assert_eq!(
        client.read(0, 8192).expect("read"),
        vec![0; 8192],
        "half a write must not land"
    );
    assert_serves(&server);
}

#[test]
fn a_client_that_never_reads_does_not_stop_the_others() {
    let (_sandbox, server) = tank();
    let mut lazy = server.connect();
    lazy.send(CMD_READ, 0, 0, 32 * MIB, &[]).expect("send");
    let mut stream = lazy.into_stream();
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("timeout");
    let mut request = vec![];
    request.extend(0x2560_9513u32.to_be_bytes());
    request.extend([0, 0, 0, 0]); // no flags, READ
    request.extend(2u64.to_be_bytes());
    request.extend(0u64.to_be_bytes());
    request.extend((32u32 << 20).to_be_bytes());
    for _ in 0..2000 {
        if stream.write_all(&request).is_err() {
            break; // the server has stopped reading: back-pressure
        }
    }
    assert_serves(&server);
    assert!(
        server.resident_mib() < 2048,
        "{} MiB",
        server.resident_mib()
    );
}

#[test]
fn a_hundred_connections_are_served_at_once() {
    let (_sandbox, server) = tank();
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client
            .write(i as u64 * 4096, &blocks(i as u64, 1, 1))
            .expect("write");
    }
    let expected = blocks(0, 100, 1);
    assert!(clients[0].read(0, expected.len()).expect("read") == expected);
}

//! Clients that mean harm, or are badly broken: each costs the server bounded memory and time, and
//! other clients little. The figures that are printed are in docs/operations.md.

mod common;

use common::client::{
    CMD_READ, CMD_TRIM, CMD_WRITE, Client, EINVAL, Handshake, OPT_ABORT, OPT_GO, OPT_LIST, REP_ACK,
    export_request,
};
use common::pattern::{Random, blocks};
use common::{MIB, Sandbox, Server, wait_for};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What the good client works on; others leave it alone.
const GOOD_BYTES: u64 = 16 * MIB;

/// Least part of its speed that a good client keeps while others attack. Much of what it loses
/// goes to the attackers' own use of the same few processors.
const SPEED_LEFT_MIN: f64 = 0.05;

/// A served raid5 named "tank" of 192 MiB.
fn tank(options: &str) -> (Sandbox, Server) {
    let sandbox = Sandbox::new();
    let members = sandbox.members(3);
    sandbox.create(
        "--level raid5 --name tank --size 128M --export-size 192M",
        &members,
    );
    let server = sandbox.serve_with(options, &members);
    (sandbox, server)
}

/// A request as bytes.
fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// Sends until the server does not take more for a while, or has closed.
fn send_while_taken(stream: &mut UnixStream, bytes: &[u8], patience: Duration) {
    stream
        .set_write_timeout(Some(patience))
        .expect("a socket option");
    let _ = stream.write_all(bytes);
}

/// Whether the server has closed the connection; waits for that, reading what comes.
fn is_closed(mut stream: UnixStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// Writes and reads back 1 MiB at a time until told to stop; bytes per second.
fn good_client(server: &Server, stop: &AtomicBool) -> f64 {
    let mut client = server.connect();
    let (start, mut moved) = (Instant::now(), 0);
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let data = blocks(round, MIB / 4096, round);
        let offset = round * MIB % GOOD_BYTES;
        client.write(offset, &data).expect("write");
        assert!(client.read(offset, data.len()).expect("read") == data);
        moved += 2 * data.len();
    }
    moved as f64 / start.elapsed().as_secs_f64()
}

/// Runs a good client beside `attack`; fails if it suffers too much. Says how much it did.
fn beside_a_good_client(server: &Server, what: &str, attack: impl FnOnce()) {
    let alone = AtomicBool::new(false);
    let (before, during) = thread::scope(|scope| {
        let good = scope.spawn(|| good_client(server, &alone));
        thread::sleep(Duration::from_millis(700));
        alone.store(true, Ordering::Relaxed);
        let before = good.join().expect("the good client is served");
        let over = AtomicBool::new(false);
        let during = thread::scope(|scope| {
            let good = scope.spawn(|| good_client(server, &over));
            let started = Instant::now();
            attack();
            thread::sleep(Duration::from_secs(2).saturating_sub(started.elapsed()));
            over.store(true, Ordering::Relaxed);
            good.join().expect("the good client is served")
        });
        (before, during)
    });
    let mib = |speed: f64| speed / MIB as f64;
    println!(
        "a good client beside {what}: {:.0} MiB/s, alone {:.0} MiB/s",
        mib(during),
        mib(before)
    );
    assert!(during > before * SPEED_LEFT_MIN, "{what}: too slow");
}

// ---- slow, silent and broken ones ----

#[test]
fn a_byte_at_a_time_is_a_client_like_any_other() {
    let (_sandbox, server) = tank("");
    let mut stream = Handshake::start(&server.socket)
        .expect("greeting")
        .into_stream();
    let name = export_request("tank");
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(OPT_GO.to_be_bytes());
    bytes.extend((name.len() as u32).to_be_bytes());
    bytes.extend(name);
    let data = blocks(0, 2, 5);
    bytes.extend(request(CMD_WRITE, 1, 4096, 8192));
    bytes.extend(&data);
    for byte in bytes {
        stream.write_all(&[byte]).expect("send");
    }
    let written = || {
        let found = server.connect().read(4096, 8192).expect("read");
        (found == data).then_some(())
    };
    wait_for("the write", written);
}

#[test]
fn who_does_not_choose_in_time_is_dropped_and_crowds_are_thinned() {
    let (_sandbox, server) = tank("");
    let start = Instant::now();
    let mut silent = UnixStream::connect(&server.socket).expect("connect");
    silent.write_all(&[0, 0, 0, 3]).expect("flags");
    assert!(is_closed(silent));
    let waited = start.elapsed().as_secs();
    assert!((25..60).contains(&waited), "dropped after {waited} s");
    // More than may negotiate at once: the first ones go, and who knows what it wants gets in.
    let connect = |_| UnixStream::connect(&server.socket).expect("connect");
    let mut crowd: Vec<UnixStream> = (0..600).map(connect).collect();
    server.connect().write(0, &[1; 4096]).expect("write");
    let start = Instant::now();
    assert!(is_closed(crowd.remove(0)));
    assert!(
        start.elapsed() < Duration::from_secs(25),
        "not by its deadline"
    );
}

#[test]
fn disconnects_at_every_byte_of_a_session_change_nothing() {
    let (_sandbox, server) = tank("");
    let name = export_request("tank");
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend(b"IHAVEOPT");
    bytes.extend(OPT_GO.to_be_bytes());
    bytes.extend((name.len() as u32).to_be_bytes());
    bytes.extend(name);
    bytes.extend(request(CMD_WRITE, 1, 512, 600));
    bytes.extend([0xee; 600]);
    for cut in 0..bytes.len() {
        let mut stream = UnixStream::connect(&server.socket).expect("connect");
        // The server may have closed already; that is its right.
        let _ = stream.write_all(&bytes[..cut]);
    }
    let found = server.connect().read(0, 4096).expect("read");
    assert_eq!(found, [0; 4096], "a part of a write has landed");
    // Connections of the dead are all gone.
    let descriptors = || {
        let directory = format!("/proc/{}/fd", server.pid());
        std::fs::read_dir(directory).expect("descriptors").count()
    };
    wait_for("the last to be closed", || {
        (descriptors() < 64).then_some(())
    });
}

#[test]
fn absurd_lengths_are_refused() {
    let (_sandbox, server) = tank("");
    let mut client = server.connect();
    for command in [CMD_READ, CMD_TRIM] {
        client
            .send(command, 0, u64::MAX, u64::from(u32::MAX), &[])
            .expect("send");
        let refused = client.receive().expect_err("past the end");
        assert_eq!(refused.errno(), EINVAL);
    }
    client
        .send(CMD_READ, 0, 0, u64::from(u32::MAX), &[])
        .expect("send");
    assert_eq!(client.receive().expect_err("too long").errno(), EINVAL);
    // A payload that nobody can skip ends the connection.
    let mut stream = client.into_stream();
    stream
        .write_all(&request(CMD_WRITE, 9, 0, u32::MAX))
        .expect("send");
    assert!(is_closed(stream));
}

#[test]
fn floods_of_options_are_cut_off() {
    let (_sandbox, server) = tank("");
    let before = server.resident_mib();
    let mut list = b"IHAVEOPT".to_vec();
    list.extend(OPT_LIST.to_be_bytes());
    list.extend([0; 4]);
    for option in [
        list.clone(),
        [&b"IHAVEOPT\0\0\x77\x77\0\0\xff\xff"[..], &[0; 65535]].concat(),
    ] {
        let mut handshake = Handshake::start(&server.socket).expect("greeting");
        handshake.option(OPT_LIST, &[]).expect("send");
        handshake.reply(OPT_LIST).expect("an export");
        assert_eq!(handshake.reply(OPT_LIST).expect("the end").0, REP_ACK);
        let mut stream = handshake.into_stream();
        for _ in 0..1000 {
            if stream.write_all(&option).is_err() {
                break;
            }
        }
        assert!(is_closed(stream), "after 64 options");
    }
    let after = server.resident_mib();
    assert!(after < before + 32, "{before} MiB became {after} MiB");
    let mut polite = Handshake::start(&server.socket).expect("greeting");
    polite.option(OPT_ABORT, &[]).expect("send");
    assert_eq!(polite.reply(OPT_ABORT).expect("reply").0, REP_ACK);
}

// ---- memory ----

#[test]
fn those_that_never_read_hold_bounded_memory_and_nobody_up() {
    let (_sandbox, server) = tank("");
    let mut writer = server.connect();
    for at in 0..6 {
        let offset = at * 32 * MIB;
        writer
            .write(offset, &vec![9; 32 << 20])
            .expect("something to read");
    }
    let before = server.resident_mib();
    let mut lazy: Vec<UnixStream> = Vec::new();
    beside_a_good_client(&server, "64 clients that never read", || {
        for _ in 0..64 {
            let mut stream = server.connect().into_stream();
            let reads: Vec<u8> = (0..100)
                .flat_map(|i| request(CMD_READ, i, 0, 32 << 20))
                .collect();
            send_while_taken(&mut stream, &reads, Duration::from_millis(100));
            lazy.push(stream);
        }
    });
    let after = server.resident_mib();
    println!("64 clients that never read 6400 answers of 32 MiB: {before} MiB became {after} MiB");
    assert!(after < before + 300, "{before} MiB became {after} MiB");
    // Large requests get their turn: those who hold memory without need are dropped by and by.
    lazy.truncate(12);
    let start = Instant::now();
    server.connect().read(0, 32 << 20).expect("a large request");
    println!("a large read among them took {:.1?}", start.elapsed());
}

#[test]
fn payloads_that_never_come_hold_bounded_memory_and_nobody_up() {
    let (_sandbox, server) = tank("");
    let before = server.resident_mib();
    let mut liars: Vec<UnixStream> = Vec::new();
    let payload = vec![0xee; 31 << 20];
    beside_a_good_client(&server, "64 clients that owe payload", || {
        for _ in 0..64 {
            let mut stream = server.connect().into_stream();
            let announced = request(CMD_WRITE, 1, 64 * MIB, 32 << 20);
            stream.write_all(&announced).expect("send");
            send_while_taken(&mut stream, &payload, Duration::from_millis(100));
            liars.push(stream);
        }
    });
    let after = server.resident_mib();
    println!("64 clients that owe the last of 32 MiB: {before} MiB became {after} MiB");
    assert!(after < before + 300, "{before} MiB became {after} MiB");
    liars.truncate(12);
    let start = Instant::now();
    server
        .connect()
        .write(128 * MIB, &vec![1; 32 << 20])
        .expect("a large request");
    println!("a large write among them took {:.1?}", start.elapsed());
    drop(liars);
    let found = server.connect().read(64 * MIB, 1 << 20).expect("read");
    assert!(found == vec![0; 1 << 20], "a part of a write has landed");
}

#[test]
fn thousands_of_idle_connections_cost_little() {
    const COUNT: u64 = 5000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < 2 * COUNT {
        skip!("only {hard} open files are allowed");
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("to raise a limit");
    let (_sandbox, server) = tank("--max-connections 5100");
    server.connect().write(0, &[1; 4096]).expect("write");
    let before = server.resident_kib();
    let mut idle: Vec<Client> = (0..COUNT).map(|_| server.connect()).collect();
    let each = (server.resident_kib() - before) as f64 / COUNT as f64;
    println!("{COUNT} idle connections: {each:.1} KiB each");
    assert!(each < 16.0, "{each:.1} KiB for each idle connection");
    beside_a_good_client(&server, "5000 idle connections", || {});
    // They are all alive.
    for client in idle.iter_mut().step_by(500) {
        client.read(0, 4096).expect("read");
    }
}

#[test]
fn thousands_of_connects_a_second_do_not_hold_up_others() {
    let (_sandbox, server) = tank("");
    let before = server.resident_mib();
    beside_a_good_client(&server, "a storm of connections", || {
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(2) {
            if let Ok(mut stream) = UnixStream::connect(&server.socket) {
                let _ = stream.write_all(&[0, 0, 0, 3]);
                count += 1;
            }
        }
        println!("{} connections a second", count / 2);
    });
    let after = server.resident_mib();
    assert!(after < before + 64, "{before} MiB became {after} MiB");
    let lines = server.log().lines().count();
    assert!(lines < 500, "{lines} lines in the log");
}

// ---- what the dead have left behind ----

#[test]
fn writes_of_a_dead_connection_never_land_on_newer_ones() {
    never_land_on_newer_ones("");
}

/// With two reader threads each newcomer comes to the one that did not serve the dead connection.
#[test]
fn writes_of_a_dead_connection_never_land_on_newer_ones_from_other_threads() {
    never_land_on_newer_ones("--readers 2");
}

fn never_land_on_newer_ones(options: &str) {
    let (_sandbox, server) = tank(options);
    let mut random = Random::from_environment();
    for round in 0..150u64 {
        let offset = random.below(64) * 4096;
        let old: Vec<u8> = (0..40 + random.below(400))
            .flat_map(|i| [request(CMD_WRITE, i, offset, 4096), vec![0xdd; 4096]].concat())
            .collect();
        let mut dying = server.connect().into_stream();
        send_while_taken(&mut dying, &old, Duration::from_secs(5));
        drop(dying);
        let mut client = server.connect();
        let new = blocks(offset / 4096, 1, round);
        client.write(offset, &new).expect("write");
        for _ in 0..3 {
            client.flush().expect("flush");
            let found = client.read(offset, 4096).expect("read");
            assert!(found == new, "round {round}: an old write came back");
        }
    }
}

#[test]
fn who_hangs_up_and_leaves_answers_unread_does_not_keep_newcomers_out() {
    let (_sandbox, server) = tank("");
    let mut dead: Vec<UnixStream> = Vec::new();
    for _ in 0..8 {
        let mut stream = server.connect().into_stream();
        let reads: Vec<u8> = (0..300)
            .flat_map(|i| request(CMD_READ, i, 0, 1 << 20))
            .collect();
        send_while_taken(&mut stream, &reads, Duration::from_millis(100));
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("half-close");
        dead.push(stream);
        let start = Instant::now();
        server.connect().read(0, 4096).expect("read");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

//! Reader threads: they answer reads without the data thread, and never wrongly, whatever happens
//! to the members or is written meanwhile.

mod common;

use common::client::Client;
use common::damage::{Zones, flip_bit};
use common::pattern::{BLOCK, Random, block, blocks, version_of};
use common::{MIB, Sandbox, Server, USAGE, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Blocks that the clients of a random mix work on.
const BLOCKS: u64 = 8 * MIB / BLOCK as u64;

/// Clients of a random mix, each with two connections.
const CLIENTS: u64 = 4;

/// A served array named "tank" with some reader threads.
fn served(level: &str, members: usize, readers: usize) -> (Sandbox, Vec<PathBuf>, Server) {
    let sandbox = Sandbox::new();
    let members = sandbox.members(members);
    sandbox.create(
        &format!("--level {level} --name tank --size 64M --export-size 64M"),
        &members,
    );
    let server = sandbox.serve_with(&format!("--readers {readers}"), &members);
    (sandbox, members, server)
}

/// A sum over all readers.
fn sum(status: &Value, field: &str) -> u64 {
    let readers = status["readers"].as_array().expect("readers");
    readers
        .iter()
        .map(|r| r[field].as_u64().expect(field))
        .sum()
}

// ---- who answers ----

#[test]
fn reads_are_answered_by_readers_and_counted() {
    let (sandbox, _, server) = served("raid5", 3, 2);
    let data = blocks(0, 2 * MIB / BLOCK as u64, 1);
    let mut clients = [server.connect(), server.connect()];
    clients[0].write(0, &data).expect("write");
    for client in &mut clients {
        assert!(
            client.read(0, data.len()).expect("read") == data,
            "at first"
        );
    }
    let before = server.status(&sandbox);
    assert_eq!(before["readers"].as_array().map(Vec::len), Some(2));
    assert!(sum(&before, "relayed") > 0, "{before:#}");
    // Odd offsets and lengths as well.
    let mut bytes = 0;
    for (i, client) in clients.iter_mut().enumerate() {
        for at in (0..MIB as usize).step_by(70_001 + i) {
            let len = 1 + at % 200_000;
            let found = client.read(at as u64, len).expect("read");
            assert!(found == data[at..at + len], "{len} bytes at {at}");
            bytes += len as u64;
        }
    }
    let after = server.status(&sandbox);
    for (reader, was) in [0, 1].map(|i| (&after["readers"][i], &before["readers"][i])) {
        assert!(
            reader["reads"].as_u64() >= was["reads"].as_u64().map(|n| n + 10),
            "{after:#}"
        );
        assert_eq!(
            reader["relayed"], was["relayed"],
            "all of it could be read: {after:#}"
        );
    }
    let grown = |of: &dyn Fn(&Value) -> u64| of(&after) - of(&before);
    assert_eq!(grown(&|status| sum(status, "read_bytes")), bytes);
    let client_bytes = |status: &Value| status["io"]["client_read_bytes"].as_u64().expect("bytes");
    assert_eq!(grown(&client_bytes), bytes);
    let member_bytes = |status: &Value| {
        let zone = &status["io"]["zones"]["data"];
        zone["read_bytes"].as_u64().expect("bytes")
    };
    assert!(grown(&member_bytes) >= bytes, "{after:#}");
}

#[test]
fn without_readers_nobody_is_told_of_any() {
    let (sandbox, _, server) = served("raid5", 3, 0);
    server.connect().read(0, 4096).expect("read");
    assert_eq!(server.status(&sandbox)["readers"], serde_json::json!([]));
}

#[test]
fn absurd_numbers_of_readers_are_refused() {
    for readers in ["65", "many"] {
        let args = ["serve", "--readers", readers, "m0"];
        Sandbox::new().uraid(args).exits(USAGE).says(&["up to 64"]);
    }
}

#[test]
fn thousands_of_requests_in_one_go_are_all_answered() {
    use std::io::{Read, Write};
    let (_sandbox, _, server) = served("raid5", 3, 2);
    let mut streams: Vec<_> = (0..16).map(|_| server.connect().into_stream()).collect();
    // A flush has no payload that would bound it: 16 x 200 are more than the data thread takes at
    // once.
    let flushes: Vec<u8> = (0..200u64).flat_map(flush).collect();
    for stream in &mut streams {
        stream.write_all(&flushes).expect("send");
    }
    for stream in &mut streams {
        let mut answers = vec![0; 200 * 16];
        stream.read_exact(&mut answers).expect("answers");
        assert!(answers.chunks(16).all(|answer| answer[4..8] == [0; 4]));
    }
}

/// A flush as bytes.
fn flush(cookie: u64) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 3]);
    bytes.extend(cookie.to_be_bytes());
    bytes.extend([0; 12]);
    bytes
}

// ---- a random mix ----

/// Blocks of one client, those whose number divided by [`CLIENTS`] leaves its own: all of them share
/// stripes with others.
struct Mix {
    own: u64,
    random: Random,
    writes_percent: u64,
    versions: Vec<u64>,
    /// Come to different readers: what is written on one is read on the other at once.
    connections: [Client; 2],
}

impl Mix {
    /// All blocks are at version 1.
    fn new(own: u64, random: Random, writes_percent: u64, server: &Server) -> Mix {
        Mix {
            own,
            random,
            writes_percent,
            versions: vec![1; BLOCKS as usize],
            connections: [server.connect(), server.connect()],
        }
    }

    fn step(&mut self, round: u64) {
        let number = self.random.below(BLOCKS / CLIENTS) * CLIENTS + self.own;
        let way = self.random.below(2) as usize;
        let at = number * BLOCK as u64;
        if self.random.below(100) < self.writes_percent {
            let version = round + 2;
            let written = self.connections[way].write(at, &block(number, version));
            written.expect("write");
            self.versions[number as usize] = version;
            return self.check(1 - way, number, 1);
        }
        let count = 1 + self.random.below(40).min(BLOCKS - number - 1);
        self.check(way, number, count);
    }

    /// Reads some blocks and looks at its own.
    fn check(&mut self, way: usize, first: u64, count: u64) {
        let len = count as usize * BLOCK;
        let found = self.connections[way].read(first * BLOCK as u64, len);
        let found = found.expect("read");
        for (number, content) in (first..).zip(found.chunks(BLOCK)) {
            // Others' blocks are whole, at least.
            let version = version_of(number, content).expect("a block in whole");
            if number % CLIENTS == self.own {
                let expected = self.versions[number as usize];
                assert_eq!(version, expected, "block {number}");
            }
        }
    }
}

/// Lets clients read and write at random, four at once, while `disturb` does what it wants. They
/// are not done before reads were answered by readers.
fn beside_a_mix(sandbox: &Sandbox, server: &Server, writes_percent: u64, disturb: impl FnOnce()) {
    let mut random = Random::from_environment();
    let over = AtomicBool::new(false);
    let written = server.connect().write(0, &blocks(0, BLOCKS, 1));
    written.expect("write");
    let mix = |own| Mix::new(own, Random::new(random.next()), writes_percent, server);
    let mixes: Vec<_> = (0..CLIENTS).map(mix).map(Mutex::new).collect();
    thread::scope(|scope| {
        // Ends the clients even if what disturbs them panics.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&over);
        let at_work = |mix| {
            let mut mix = Mutex::lock(mix).expect("its own");
            let mut rounds = 0..;
            while !over.load(Ordering::Relaxed) {
                Mix::step(&mut mix, rounds.next().expect("endless"));
            }
        };
        let start = |mix| scope.spawn(move || at_work(mix));
        let clients: Vec<_> = mixes.iter().map(start).collect();
        disturb();
        let before = sum(&server.status(sandbox), "reads");
        wait_for("reads by readers", || {
            let failed = clients.iter().any(|client| client.is_finished());
            assert!(!failed, "a client has failed");
            (sum(&server.status(sandbox), "reads") > before + 200).then_some(())
        });
    });
    for mix in mixes {
        let mut mix = mix.into_inner().expect("nothing was wrong");
        (0..BLOCKS)
            .step_by(64)
            .for_each(|first| mix.check(0, first, 64));
    }
}

#[test]
fn reads_stay_right_while_blocks_are_rewritten() {
    for (level, members) in [("raid5", 3), ("raid10", 4), ("raid0", 2)] {
        let (sandbox, _, server) = served(level, members, 3);
        let a_while = || thread::sleep(Duration::from_secs(2));
        beside_a_mix(&sandbox, &server, 30, a_while);
    }
}

#[test]
fn reads_stay_right_while_members_fail_come_back_and_are_replaced() {
    let (sandbox, members, server) = served("raid6", 5, 2);
    let order = |words: &[&Path]| {
        let (command, rest) = words.split_first().expect("a command");
        server
            .uraid(&sandbox, command.to_str().expect("UTF-8"), rest)
            .succeeded();
    };
    let optimal = || drop(server.wait_state(&sandbox, "optimal"));
    beside_a_mix(&sandbox, &server, 30, || {
        for round in 0..2 {
            order(&[Path::new("fail"), &members[round]]);
            thread::sleep(Duration::from_millis(300));
            order(&[Path::new("add"), &members[round]]);
            optimal();
            let new = sandbox.file(&format!("new{round}"), 64 * MIB);
            order(&[Path::new("replace"), &members[round + 2], &new]);
            optimal();
            // The readers have let go of what was replaced.
            wait_for("the lock of the replaced member", || {
                let file = std::fs::File::open(&members[round + 2]).expect("open");
                file.try_lock().is_ok().then_some(())
            });
        }
    });
}

#[test]
fn reads_stay_right_while_bits_flip() {
    let (sandbox, members, server) = served("raid6", 5, 2);
    let zones = Zones::of(&sandbox, &members[0]);
    let mut random = Random::from_environment();
    beside_a_mix(&sandbox, &server, 2, || {
        for _ in 0..1000 {
            // In one member: those of three could meet in a row.
            let offset = zones.data.start + random.below(4 * MIB);
            flip_bit(&members[0], offset, random.below(8) as u8);
            thread::sleep(Duration::from_millis(2));
        }
    });
    let errors = server.status(&sandbox)["members"][0]["checksum_errors"].as_u64();
    assert!(errors > Some(0), "the engine was told of none");
}

#[test]
fn a_server_that_stops_finishes_what_readers_have_taken() {
    let (sandbox, members, server) = served("raid5", 3, 2);
    let stopped = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let writer = |own: u64| {
            let mut client = server.connect();
            let stopped = &stopped;
            scope.spawn(move || {
                let mut written = Vec::new();
                for number in (own..64 * MIB / BLOCK as u64).step_by(4) {
                    let answered = client.write(number * BLOCK as u64, &block(number, 7));
                    if answered.is_err() {
                        assert!(stopped.load(Ordering::Relaxed), "an error before the end");
                        break;
                    }
                    written.push(number);
                }
                written
            })
        };
        let writers: Vec<_> = (0..4).map(writer).collect();
        thread::sleep(Duration::from_millis(300));
        stopped.store(true, Ordering::Relaxed);
        server.uraid(&sandbox, "stop", [""; 0]).succeeded();
        let written = writers.into_iter().map(|w| w.join().expect("a writer"));
        written.flatten().collect::<Vec<u64>>()
    });
    drop(server);
    let server = sandbox.serve_with("--readers 2", &members);
    let mut client = server.connect();
    for number in &written {
        let found = client.read(number * BLOCK as u64, BLOCK).expect("read");
        assert!(found == block(*number, 7), "block {number} was answered");
    }
    assert!(written.len() > 20, "{}", written.len());
}

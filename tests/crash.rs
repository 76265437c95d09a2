//! A server killed at any moment has lost nothing that it answered.
//!
//! `URAID_TEST_KILLS` says how often it is killed in the tests of all layouts.

mod common;

use common::client::{Client, Failure};
use common::pattern::{BLOCK, Random, blocks, version_of};
use common::server::{member, start_and_kill9};
use common::tools::is_root;
use common::{MIB, Sandbox, Server, wait_for};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

const WRITERS: u64 = 4;
/// Blocks the writers work on: few, so that rows are contended and the journal goes round.
const BLOCKS: u64 = 4096;
/// Writers take turns in groups of this many blocks, so that all of them meet in every stripe.
const GROUP: u64 = 4;

/// What a writer knows about the blocks it owns.
#[derive(Default)]
struct Ledger {
    /// Version last answered.
    answered: HashMap<u64, u64>,
    /// First block, count and version of the request that was never answered.
    in_flight: Option<(u64, u64, u64)>,
}

/// Writes to its own blocks until the server is gone.
fn write_until_gone(mut client: Client, writer: u64, mut version: u64, ledger: &mut Ledger) {
    let mut random = Random::new(version ^ writer << 32);
    loop {
        version += 1;
        let group = random.below(BLOCKS / GROUP / WRITERS) * WRITERS + writer;
        let skipped = random.below(GROUP);
        let first = group * GROUP + skipped;
        let count = 1 + random.below(GROUP - skipped);
        ledger.in_flight = Some((first, count, version));
        match client.write(first * BLOCK as u64, &blocks(first, count, version)) {
            Ok(()) => ledger
                .answered
                .extend((first..first + count).map(|b| (b, version))),
            Err(Failure::Gone(_)) => return,
            Err(refused) => panic!("a write was refused: {refused:?}"),
        }
        ledger.in_flight = None;
        if random.below(64) == 0 {
            let _ = client.flush(); // if the server is gone, the next write notices
        }
    }
}

/// One connection writes large requests over a region of its own until the server is gone.
fn stream_until_gone(mut client: Client, mut version: u64, ledger: &mut Ledger) {
    let mut random = Random::new(version);
    loop {
        version += 1;
        let (first, count) = (BLOCKS + random.below(16) * 256, 256);
        ledger.in_flight = Some((first, count, version));
        match client.write(first * BLOCK as u64, &blocks(first, count, version)) {
            Ok(()) => ledger
                .answered
                .extend((first..first + count).map(|b| (b, version))),
            Err(_) => return,
        }
        ledger.in_flight = None;
    }
}

/// Every block the ledger knows holds its last answered version, or the one never answered.
fn assert_kept(client: &mut Client, ledger: &Ledger) {
    let (first, count, unanswered) = ledger.in_flight.unwrap_or_default();
    let touched = ledger.answered.keys().copied().chain(first..first + count);
    for block in touched {
        let content = client.read(block * BLOCK as u64, BLOCK).expect("read");
        let found = version_of(block, &content).unwrap_or_else(|wrong| panic!("{wrong}"));
        let answered = ledger.answered.get(&block).copied().unwrap_or(0);
        let in_flight = (first..first + count).contains(&block) && found == unanswered;
        assert!(
            found == answered || in_flight,
            "block {block} holds version {found}; {answered} was answered"
        );
    }
}

/// What was in flight and is now there counts as answered: it may not go back.
fn settle(client: &mut Client, ledger: &mut Ledger) {
    let Some((first, count, version)) = ledger.in_flight.take() else {
        return;
    };
    for block in first..first + count {
        let content = client.read(block * BLOCK as u64, BLOCK).expect("read");
        if version_of(block, &content) == Ok(version) {
            ledger.answered.insert(block, version);
        }
    }
}

/// An array whose content is known by ledgers, and a server that is killed again and again.
struct Crasher {
    sandbox: Sandbox,
    members: Vec<PathBuf>,
    ledgers: Vec<Ledger>,
    random: Random,
    version: u64,
}

impl Crasher {
    fn new(options: &str, count: usize) -> Crasher {
        let sandbox = Sandbox::new();
        let members = sandbox.members(count);
        sandbox.create(&format!("--size 64M {options}"), &members);
        let ledgers = (0..=WRITERS).map(|_| Ledger::default()).collect();
        Crasher {
            sandbox,
            members,
            ledgers,
            random: Random::from_environment(),
            version: 0,
        }
    }

    /// Serves, writes from all sides, and kills the server in the middle of it.
    fn write_and_kill(&mut self, server: Server) {
        let run_for = Duration::from_millis(50 + self.random.below(700));
        self.write_and_kill_within(server, run_for);
    }

    /// Has a command begin, and kills the server under load a little later.
    fn kill_during(
        &mut self,
        server: Server,
        words: &[&str],
        path: Option<&Path>,
        after: Duration,
    ) {
        let mut command = self.sandbox.uraid_command();
        command.args(words).arg("--control").arg(&server.control);
        let mut command = command.args(path).spawn().expect("uraid");
        self.write_and_kill_within(server, after);
        command.wait().expect("it ends");
    }

    fn write_and_kill_within(&mut self, server: Server, run_for: Duration) {
        let version = self.version;
        self.version += 1 << 20; // versions never come twice
        let (streams, writers) = self.ledgers.split_first_mut().expect("ledgers");
        thread::scope(|scope| {
            let client = server.connect();
            scope.spawn(move || stream_until_gone(client, version, streams));
            for (writer, ledger) in writers.iter_mut().enumerate() {
                let client = server.connect();
                scope.spawn(move || write_until_gone(client, writer as u64, version, ledger));
            }
            thread::sleep(run_for);
            server.kill9();
        });
        let answered: usize = self.ledgers.iter().map(|l| l.answered.len()).sum();
        println!("killed after {run_for:?}; {answered} blocks answered so far");
        assert!(answered > 0, "nothing was written before the kill");
    }

    /// Everything answered is there, and stays.
    fn assert_nothing_lost(&mut self, server: &Server) {
        let mut client = server.connect();
        for ledger in &mut self.ledgers {
            assert_kept(&mut client, ledger);
            settle(&mut client, ledger);
            assert_kept(&mut client, ledger);
        }
    }
}

#[test]
fn kill9_loses_no_answered_write() {
    let mut crasher = Crasher::new("--level raid6", 6);
    for _ in 0..8 {
        let server = crasher.sandbox.serve(&crasher.members);
        crasher.assert_nothing_lost(&server);
        crasher.write_and_kill(server);
    }
    let server = crasher.sandbox.serve(&crasher.members);
    crasher.assert_nothing_lost(&server);
    assert_eq!(server.status(&crasher.sandbox)["state"], "optimal");
}

#[test]
fn kill9_of_a_mirror_loses_no_answered_write() {
    let mut crasher = Crasher::new("--level raid1", 3);
    for _ in 0..5 {
        let server = crasher.sandbox.serve(&crasher.members);
        crasher.assert_nothing_lost(&server);
        crasher.write_and_kill(server);
    }
    let server = crasher.sandbox.serve(&crasher.members);
    crasher.assert_nothing_lost(&server);
}

#[test]
fn kill9_of_a_degraded_array_loses_no_answered_write() {
    let mut crasher = Crasher::new("--level raid6", 6);
    let server = crasher.sandbox.serve(&crasher.members);
    for slot in ["1", "4"] {
        server.uraid(&crasher.sandbox, "fail", [slot]).succeeded();
    }
    crasher.write_and_kill(server);
    let rest: Vec<PathBuf> = [0, 2, 3, 5]
        .iter()
        .map(|i| crasher.members[*i].clone())
        .collect();
    for _ in 0..4 {
        let server = crasher.sandbox.serve(&rest);
        crasher.assert_nothing_lost(&server);
        crasher.write_and_kill(server);
    }
    let server = crasher.sandbox.serve(&rest);
    crasher.assert_nothing_lost(&server);
}

#[test]
fn kill9_and_the_loss_of_two_members_lose_no_answered_write() {
    let mut crasher = Crasher::new("--level raid6", 6);
    for _ in 0..3 {
        let server = crasher.sandbox.serve(&crasher.members);
        crasher.write_and_kill(server);
        let lost = [
            crasher.random.below(6) as usize,
            crasher.random.below(6) as usize,
        ];
        let rest = (0..6)
            .filter(|i| !lost.contains(i))
            .map(|i| crasher.members[i].clone());
        let copies = crasher.sandbox.copies("rest-", &rest.collect::<Vec<_>>());
        println!("without members {lost:?}");
        let server = crasher.sandbox.serve_with("--force", &copies);
        let mut client = server.connect();
        for ledger in &crasher.ledgers {
            assert_kept(&mut client, ledger);
        }
        drop(server);
        let server = crasher.sandbox.serve(&crasher.members);
        crasher.assert_nothing_lost(&server);
        server.stop();
    }
}

#[test]
fn kill9_while_a_member_is_rebuilt_loses_no_answered_write() {
    let mut crasher = Crasher::new("--level raid5", 4);
    for round in 0..3 {
        let server = crasher.sandbox.serve(&crasher.members);
        crasher.assert_nothing_lost(&server);
        server.wait_state(&crasher.sandbox, "optimal");
        server
            .uraid(&crasher.sandbox, "fail", [&crasher.members[round]])
            .succeeded();
        let new = crasher.sandbox.file(&format!("new{round}"), 64 * MIB);
        server.uraid(&crasher.sandbox, "add", [&new]).succeeded();
        crasher.members[round] = new;
        crasher.write_and_kill(server);
    }
    let server = crasher.sandbox.serve(&crasher.members);
    crasher.assert_nothing_lost(&server);
    server.wait_state(&crasher.sandbox, "optimal");
    server.uraid(&crasher.sandbox, "fail", ["3"]).succeeded();
    crasher.assert_nothing_lost(&server);
}

#[test]
fn kills_failures_and_returns_in_any_order_lose_no_answered_write() {
    let mut crasher = Crasher::new("--level raid6", 6);
    for _ in 0..10 {
        let server = crasher.sandbox.serve(&crasher.members);
        crasher.assert_nothing_lost(&server);
        let status = server.status(&crasher.sandbox);
        let slot = crasher.random.below(6);
        let state = member(&status, slot)["state"].as_str().expect("a state");
        match state {
            "in-sync" if status["redundancy_left"] != 0 => {
                println!("member {slot} fails");
                server
                    .uraid(&crasher.sandbox, "fail", [slot.to_string()])
                    .succeeded();
            }
            "failed" | "missing" => {
                println!("member {slot} returns");
                let path = &crasher.members[slot as usize];
                server.uraid(&crasher.sandbox, "add", [path]).succeeded();
            }
            other => println!("member {slot} is {other}"),
        }
        crasher.write_and_kill(server);
    }
    let server = crasher.sandbox.serve(&crasher.members);
    crasher.assert_nothing_lost(&server);
    for (slot, path) in crasher.members.iter().enumerate() {
        let status = server.status(&crasher.sandbox);
        let state = &member(&status, slot as u64)["state"];
        if state == "failed" || state == "missing" {
            server.uraid(&crasher.sandbox, "add", [path]).succeeded();
        }
    }
    server.wait_state(&crasher.sandbox, "optimal");
    for slot in ["0", "1"] {
        server.uraid(&crasher.sandbox, "fail", [slot]).succeeded();
    }
    crasher.assert_nothing_lost(&server); // the others carry it, rebuilt ones among them
}

#[test]
fn kill9_while_a_mirror_is_given_one_more_copy_loses_no_answered_write() {
    let kills = kills_or(5);
    let mut was_widened = 0;
    for kill in 0..kills {
        let (mut crasher, server) = killed_once("--level raid1", 2);
        let new = crasher.sandbox.file("new", 64 * MIB);
        crasher.members.push(new.clone());
        let with_spare = kill % 2 == 1;
        if with_spare {
            let spare = crasher.sandbox.file("spare", 64 * MIB);
            server.uraid(&crasher.sandbox, "add", [&spare]).succeeded();
            crasher.members.push(spare);
        }
        let after = Duration::from_micros(crasher.random.below(100_000));
        crasher.kill_during(server, &["add", "--copy"], Some(&new), after);

        let server = crasher.sandbox.serve(&crasher.members);
        crasher.assert_nothing_lost(&server);
        let status = server.status(&crasher.sandbox);
        let widened = status["parity"] == 2;
        println!("kill {kill}, after {after:?}: widened {widened}, with spare {with_spare}");
        was_widened += u32::from(widened);
        if !widened {
            assert_eq!(status["state"], "optimal");
            let again = server.uraid(&crasher.sandbox, "add", [Path::new("--copy"), &new]);
            again.succeeded();
        } else if status["state"] == "degraded" {
            // The new device was not told of it, and no spare takes over.
            assert!(!with_spare, "{status:#}");
            server.uraid(&crasher.sandbox, "add", [&new]).succeeded();
        }
        crasher.write_and_kill(server);
        let server = crasher.sandbox.serve(&crasher.members);
        server.wait_state(&crasher.sandbox, "optimal");
        for slot in ["0", "1"] {
            server.uraid(&crasher.sandbox, "fail", [slot]).succeeded();
        }
        crasher.assert_nothing_lost(&server);
    }
    println!("{was_widened} of {kills} kills came after the copy was taken in");
}

#[test]
fn kill9_while_a_mirror_gives_up_a_copy_loses_no_answered_write() {
    let kills = kills_or(5);
    for kill in 0..kills {
        let (mut crasher, server) = killed_once("--level raid1", 2);
        let new = crasher.sandbox.file("new", 64 * MIB);
        let words = [Path::new("--copy"), Path::new("--wait"), &new];
        server.uraid(&crasher.sandbox, "add", words).succeeded();
        crasher.members.push(new);
        let after = Duration::from_micros(crasher.random.below(50_000));
        crasher.kill_during(server, &["remove", "--copy"], None, after);

        let server = crasher.sandbox.serve(&crasher.members);
        crasher.assert_nothing_lost(&server);
        let status = server.status(&crasher.sandbox);
        let (copies, state) = (&status["parity"], &status["state"]);
        println!("kill {kill}, after {after:?}: copies 1+{copies}, {state}");
        if copies == 2 {
            // It has left already, or not.
            let again = server.uraid(&crasher.sandbox, "remove", ["--copy"]);
            again.succeeded();
        }
        crasher.write_and_kill(server);
        crasher.members.truncate(2);
        let server = crasher.sandbox.serve(&crasher.members);
        let status = server.status(&crasher.sandbox);
        assert_eq!(
            (&status["state"], &status["parity"]),
            (&"optimal".into(), &1.into())
        );
        server.uraid(&crasher.sandbox, "fail", ["0"]).succeeded();
        crasher.assert_nothing_lost(&server);
    }
}

// ---- every layout, and kills during recovery ----

/// Kills the server under load, and every other time its successors while they recover.
/// How often a server is killed: `default` times if nothing else is said.
fn kills_or(default: u64) -> u64 {
    let given = std::env::var("URAID_TEST_KILLS").ok();
    given.map_or(default, |n| n.parse().expect("URAID_TEST_KILLS: a number"))
}

/// An array that was written to, and is served again after a kill.
fn killed_once(options: &str, count: usize) -> (Crasher, Server) {
    let mut crasher = Crasher::new(options, count);
    let server = crasher.sandbox.serve(&crasher.members);
    crasher.write_and_kill(server);
    let server = crasher.sandbox.serve(&crasher.members);
    crasher.assert_nothing_lost(&server);
    (crasher, server)
}

fn survives_kills_at_any_time(options: &str, count: usize) {
    let kills = kills_or(4);
    let mut crasher = Crasher::new(options, count);
    let mut kills_while_recovering = 0;
    for _ in 0..kills {
        let server = crasher.sandbox.serve(&crasher.members);
        crasher.assert_nothing_lost(&server);
        crasher.write_and_kill(server);
        while crasher.random.below(2) == 0 {
            let after = Duration::from_millis(5 + crasher.random.below(196));
            println!("killed again {after:?} after the start");
            start_and_kill9(&crasher.sandbox, "", &crasher.members, after);
            kills_while_recovering += 1;
        }
    }
    let server = crasher.sandbox.serve(&crasher.members);
    crasher.assert_nothing_lost(&server);
    assert_eq!(server.status(&crasher.sandbox)["state"], "optimal");
    println!("{options}: {kills} kills under load, {kills_while_recovering} while recovering");
}

#[test]
fn raid0_survives_kills_at_any_time() {
    survives_kills_at_any_time("--level raid0", 3);
}

#[test]
fn raid1_survives_kills_at_any_time() {
    survives_kills_at_any_time("--level raid1", 2);
}

#[test]
fn raid10_survives_kills_at_any_time() {
    survives_kills_at_any_time("--level raid10 --chunk 16K", 4);
}

#[test]
fn raid5_survives_kills_at_any_time() {
    survives_kills_at_any_time("--level raid5", 5);
}

#[test]
fn raid6_survives_kills_at_any_time() {
    survives_kills_at_any_time("--level raid6 --chunk 16K", 5);
}

#[test]
fn three_parities_survive_kills_at_any_time() {
    survives_kills_at_any_time("--level rs --parity 3", 8);
}

// ---- a rebuild that is cut short ----

/// A disk that takes 16 MB a second, so that a rebuild onto it can be caught in the middle.
struct SlowDisk {
    path: PathBuf,
    helpers: Vec<Child>,
}

impl SlowDisk {
    fn new(sandbox: &Sandbox, bytes: u64) -> SlowDisk {
        let socket = sandbox.path("slow.sock");
        let path = sandbox.file("slow-disk", 0);
        let nbdkit = Command::new("nbdkit")
            .args(["--foreground", "--filter=rate", "-U"])
            .arg(&socket)
            .args(["memory", &bytes.to_string(), "rate=128M"]) // bits
            .spawn()
            .expect("nbdkit");
        wait_for("nbdkit", || socket.exists().then_some(()));
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let nbdfuse = Command::new("nbdfuse")
            .arg(&path)
            .arg(uri)
            .spawn()
            .expect("nbdfuse");
        let len = |path: &Path| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        wait_for("nbdfuse", || (len(&path) == bytes).then_some(()));
        SlowDisk {
            path,
            helpers: vec![nbdfuse, nbdkit],
        }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3")
            .args(["-u", "-z"])
            .arg(&self.path)
            .status();
        for helper in &mut self.helpers {
            let _ = helper.kill();
            let _ = helper.wait();
        }
    }
}

#[test]
fn rebuild_killed_in_the_middle_resumes_where_it_was() {
    need!("nbdkit", "nbdfuse", "fusermount3");
    if !is_root() || !Path::new("/dev/fuse").exists() {
        skip!("a slow disk takes root and /dev/fuse");
    }
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --size 256M", &members);
    let server = sandbox.serve(&members);
    let content = blocks(0, 16 * MIB / 4096, 1);
    for part in 0..10 {
        server
            .connect()
            .write(part * 16 * MIB, &content)
            .expect("write");
    }
    // Dropped after the server, which would otherwise hang on its disk.
    let slow = SlowDisk::new(&sandbox, 256 * MIB);
    server.uraid(&sandbox, "fail", [&members[1]]).succeeded();
    server.uraid(&sandbox, "add", [&slow.path]).succeeded();
    let done = |server: &Server| {
        let status = server.status(&sandbox);
        let rebuild = &status["rebuild"];
        rebuild["done_bytes"]
            .as_u64()
            .zip(rebuild["total_bytes"].as_u64())
    };
    let before = wait_for("two thirds of the rebuild", || {
        done(&server)
            .filter(|(done, total)| done * 3 > total * 2)
            .map(|(done, _)| done)
    });
    server.kill9();

    let server = sandbox.serve(&[members[0].clone(), slow.path.clone()]);
    let (after, total) = wait_for("the rebuild to go on", || done(&server));
    println!("{before} of {total} bytes done before the kill, {after} right after the restart");
    assert!(
        after > before / 4,
        "the rebuild began anew: {after} after, {before} before"
    );
    server.wait_state(&sandbox, "optimal");
    server.uraid(&sandbox, "fail", [&members[0]]).succeeded();
    for part in 0..10 {
        let found = server
            .connect()
            .read(part * 16 * MIB, content.len())
            .expect("read");
        assert!(found == content, "part {part}");
    }
}

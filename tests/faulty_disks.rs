//! Disks that answer errors, lose writes, hang, are slow or full while the array works on them.
//!
//! `URAID_TEST_LONG` set to anything adds what takes minutes.

mod common;

use common::client::{Client, Failure};
use common::pattern::{BLOCK, Random, blocks};

use common::server::member;
use common::volatile::Disks;
use common::{MIB, Ran, Sandbox, Server, wait_for};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MEMBER_BYTES: u64 = 64 * MIB;
/// Blocks that are written and read: few, so that all are met often.
const BLOCKS: u64 = 4096;

/// An array on disks that do as they are told, and its content.
struct Bench {
    // In the order of dropping: the server goes before its disks do.
    server: Server,
    disks: Disks,
    members: Vec<PathBuf>,
    content: Vec<u8>,
    random: Random,
    version: u64,
    sandbox: Sandbox,
}

impl Bench {
    fn new(options: &str, count: usize) -> Bench {
        let sandbox = Sandbox::new();
        let backing = sandbox.members(count);
        sandbox.create(&format!("--size {MEMBER_BYTES} {options}"), &backing);
        let disks = Disks::attach(&sandbox, &backing, 1);
        let members = disks.members();
        let server = sandbox.serve(&members);
        let mut bench = Bench {
            server,
            disks,
            members,
            content: blocks(0, BLOCKS, 1),
            random: Random::from_environment(),
            version: 1,
            sandbox,
        };
        bench.connect().write(0, &bench.content).expect("write");
        bench.work(50);
        bench
    }

    fn connect(&self) -> Client {
        self.server.connect()
    }

    /// Writes, reads and flushes here and there; every answer is right.
    fn work(&mut self, requests: u64) {
        let mut client = self.connect();
        for _ in 0..requests {
            self.one_request(&mut client).expect("an answer");
        }
    }

    fn one_request(&mut self, client: &mut Client) -> Result<(), Failure> {
        let count = [1, 2, 16, 200][self.random.below(4) as usize];
        let first = self.random.below(BLOCKS - count);
        let (from, to) = (first as usize * BLOCK, (first + count) as usize * BLOCK);
        match self.random.below(8) {
            0 => client.flush()?,
            1..4 => {
                let found = client.read(from as u64, to - from)?;
                let same = found == self.content[from..to];
                assert!(same, "{count} blocks from {first} on are not as written");
            }
            _ => {
                self.version += 1;
                let data = blocks(first, count, self.version);
                client.write(from as u64, &data)?;
                self.content[from..to].copy_from_slice(&data);
            }
        }
        Ok(())
    }

    #[track_caller]
    fn assert_intact(&self) {
        let found = self.connect().read(0, self.content.len()).expect("read");
        let wrong = found.chunks(BLOCK).zip(self.content.chunks(BLOCK));
        let wrong = wrong.filter(|(a, b)| a != b).count();
        assert!(wrong == 0, "{wrong} blocks are wrong");
    }

    fn status(&self) -> Value {
        self.server.status(&self.sandbox)
    }

    fn state_of(&self, slot: u64) -> String {
        let status = self.status();
        let state = member(&status, slot)["state"].as_str();
        state.expect("a state").to_string()
    }

    fn run(&self, command: &str, args: &[&str]) -> Ran {
        self.server.uraid(&self.sandbox, command, args)
    }

    /// Kills the server and starts another one on the same disks.
    fn restart_killed(&mut self) {
        self.server.signal(nix::sys::signal::Signal::SIGKILL);
        self.server.wait_end();
        self.server = self.sandbox.serve(&self.members);
    }

    /// Stops the server and starts another one on the same disks.
    fn restart(&mut self) {
        self.server.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(self.server.wait_end().success());
        self.server = self.sandbox.serve(&self.members);
    }

    fn work_until_failed(&mut self, slots: &[u64]) {
        wait_for("the members to fail", || {
            self.work(20);
            let failed = |slot: &u64| self.state_of(*slot) == "failed";
            slots.iter().all(failed).then_some(())
        });
    }

    /// Works until these members have failed; then they are healed, taken back, and hold what
    /// is right, as the failure of others shows.
    fn fail_and_return(&mut self, victims: &[u64], others: &[u64]) {
        self.work_until_failed(victims);
        self.assert_intact();
        let log = self.server.log();
        for victim in victims {
            let path = self.members[*victim as usize].clone();
            assert!(log.contains(&format!("member {victim}")), "{log}");
            self.disks
                .set_faults(*victim as usize, |f| *f = Default::default());
            self.run("add", &[path.to_str().expect("UTF-8")])
                .succeeded();
        }
        self.work(50);
        self.server.wait_state(&self.sandbox, "optimal");
        for other in others {
            self.run("fail", &[&other.to_string()]).succeeded();
        }
        self.assert_intact();
    }
}

#[test]
fn disks_that_fail_writes_leave_and_return() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid6", 5);
    for disk in [1, 3] {
        bench.disks.set_faults(disk, |f| f.fail_writes = true);
    }
    bench.fail_and_return(&[1, 3], &[0, 2]);
}

#[test]
fn a_disk_that_fails_flushes_leaves_and_returns() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid5", 3);
    bench.disks.set_faults(2, |f| f.fail_flushes = true);
    bench.fail_and_return(&[2], &[0]);
}

#[test]
fn reads_that_fail_are_made_up_for_and_counted() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid6", 5);
    for disk in [0, 4] {
        bench.disks.set_faults(disk, |f| f.fail_reads = true);
    }
    bench.work(300);
    bench.assert_intact();
    let status = bench.status();
    for slot in [0, 4] {
        let errors = member(&status, slot)["read_errors"].as_u64();
        assert!(errors.expect("a count") > 0, "{status:#}");
    }
}

#[test]
fn a_whole_controller_that_fails_ejects_nobody() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid5", 4);
    bench.connect().flush().expect("flush");
    for disk in 0..4 {
        bench.disks.set_faults(disk, |f| {
            f.fail_writes = true;
            f.fail_flushes = true;
        });
    }
    let mut client = bench.connect();
    let first = client.write(0, &bench.content[..BLOCK]);
    first.expect_err("no disk takes it").errno();
    let status = bench.status();
    let said = status["suspended"].as_str().unwrap_or_default();
    assert!(said.contains("check cables and controller"), "{status:#}");
    bench.assert_intact(); // reads need no writes
    for disk in 0..4 {
        bench.disks.set_faults(disk, |f| *f = Default::default());
    }
    bench.restart_killed();
    assert_eq!(bench.status()["state"], "optimal");
    bench.assert_intact();
    bench.work(50);
}

#[test]
fn silently_lost_writes_are_noticed_when_read() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid6", 5);
    for round in 0..5 {
        for disk in [round % 5, (round + 1) % 5] {
            bench.disks.set_faults(disk, |f| f.writes_to_lose = 0);
        }
        let victims = [(round + 2) % 5, (round + 4) % 5];
        for disk in victims {
            bench.disks.set_faults(disk, |f| f.writes_to_lose = 25);
        }
        bench.work(150);
        bench.assert_intact();
        bench.restart_killed();
        bench.assert_intact();
        if bench.status()["state"] != "optimal" {
            break; // whoever lost its checkpoint is behind its peers, and out
        }
    }
}

#[test]
fn a_disk_that_hangs_for_a_while_is_waited_for() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid5", 4);
    let mut seconds = vec![1];
    if std::env::var_os("URAID_TEST_LONG").is_some() {
        seconds.push(10);
    }
    for seconds in seconds {
        let hang = Duration::from_secs(seconds);
        let until = Instant::now() + hang;
        bench.disks.set_faults(1, |f| f.hangs_until = Some(until));
        while Instant::now() < until {
            bench.work(1);
        }
        bench.work(50);
        assert_eq!(bench.state_of(1), "in-sync", "after {hang:?}");
        bench.assert_intact();
    }
}

#[test]
fn disks_that_hang_for_long_leave_and_return() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid6", 5);
    let begun = Instant::now();
    for disk in [0, 2] {
        let for_long = begun + Duration::from_secs(60);
        bench
            .disks
            .set_faults(disk, |f| f.hangs_until = Some(for_long));
    }
    bench.connect().write(0, &bench.content).expect("write"); // to all members at once
    bench.work_until_failed(&[0, 2]);
    let stalled = begun.elapsed();
    println!("served again after {stalled:?}");
    assert!(stalled < Duration::from_secs(25), "{stalled:?}");
    bench.work(100);
    bench.fail_and_return(&[0, 2], &[1, 3]);
}

/// The change of config by which the first leaves is written to the second, which hangs, too. It
/// used to be waited for until the hang was over.
#[test]
fn a_disk_whose_hang_shows_only_when_another_leaves_holds_up_nobody() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid6", 5);
    bench.restart(); // nothing is left to be put in place
    bench.assert_intact(); // no checksums are left to be read, which is from all members at once
    let begun = Instant::now();
    for disk in [0, 2] {
        let for_long = begun + Duration::from_secs(80);
        bench
            .disks
            .set_faults(disk, |f| f.hangs_until = Some(for_long));
    }
    let mut client = bench.connect();
    // Block by block: one of the two is the first that is asked for anything.
    for at in (0..bench.content.len()).step_by(BLOCK) {
        let found = client.read(at as u64, BLOCK).expect("read");
        assert!(found == bench.content[at..at + BLOCK]);
    }
    bench.work_until_failed(&[0, 2]);
    let stalled = begun.elapsed();
    println!("served again after {stalled:?}");
    assert!(stalled < Duration::from_secs(50), "{stalled:?}");
    bench.work(100);
}

#[test]
fn slow_disks_are_merely_slow() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid6", 5);
    for disk in [1, 2] {
        let delay = Duration::from_millis(20);
        bench.disks.set_faults(disk, |f| f.delay = delay);
    }
    bench.work(60);
    bench.assert_intact();
    assert_eq!(bench.status()["state"], "optimal");
}

#[test]
fn writes_to_a_full_disk_wait_for_space_and_nobody_is_ejected() {
    need_volatile_disks!();
    let mut bench = Bench::new("--level raid5", 3);
    bench.disks.set_faults(1, |f| f.full = true);
    let mut client = bench.connect();
    let data = blocks(0, BLOCKS / 2, 77);
    std::thread::scope(|scope| {
        let write = scope.spawn(|| client.write(0, &data));
        wait_for("the warning", || {
            bench.server.log().contains("no space left").then_some(())
        });
        assert!(
            !write.is_finished(),
            "it was answered without being written"
        );
        let found = bench.connect().read(BLOCKS * 3 / 4 * 4096, BLOCK);
        found.expect("reads go on");
        assert_eq!(bench.status()["state"], "optimal");
        bench.disks.set_faults(1, |f| f.full = false);
        write.join().expect("the writer").expect("written at last");
    });
    bench.content[..data.len()].copy_from_slice(&data);
    bench.work(50);
    bench.assert_intact();
    assert_eq!(bench.status()["state"], "optimal");
}

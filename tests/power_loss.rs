//! The power fails while an array works: what was flushed is there, every block is as last
//! flushed or newer, and what was read once stays, also when members never come back.
//!
//! `URAID_TEST_CYCLES` says how often the power fails in each test.

mod common;

use common::client::{Client, Failure};
use common::ledger::Ledger;
use common::pattern::{BLOCK, Random, blocks};
use common::server::{scrub_to_end, start_and_kill9};
use common::volatile::Disks;
use common::{MIB, Sandbox, Server};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const MEMBER_BYTES: u64 = 64 * MIB;
const WRITERS: u64 = 3;
/// Blocks that small writes go to: few, so that rows are contended.
const SMALL_BLOCKS: u64 = 2048;
/// Large writes go to as many places behind them.
const STREAM_PLACES: u64 = 24;
/// Blocks of a large write.
const STREAM_BLOCKS: u64 = 256;

fn cycles(default: u64) -> u64 {
    let given = std::env::var("URAID_TEST_CYCLES").ok();
    given.map_or(default, |n| n.parse().expect("URAID_TEST_CYCLES: a number"))
}

/// The bench itself: `fsync` on a member reaches its disk, and nothing else saves a write.
#[test]
fn only_what_was_synced_survives_on_the_test_disks() {
    need_volatile_disks!();
    let sandbox = Sandbox::new();
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..6 {
        let backing = [sandbox.file("disk", 1 << 20)];
        let mut disks = Disks::attach(&sandbox, &backing, seed);
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(nix::libc::O_DIRECT)
            .open(&disks.members()[0])
            .expect("open");
        let page = common::tools::aligned_page(7);
        file.write_all_at(page.bytes(), 0).expect("write");
        file.sync_data().expect("sync");
        file.write_all_at(page.bytes(), 8192).expect("write");
        assert_eq!(disks.lose_power(), 8, "sectors of one page not flushed");
        let found = std::fs::read(&backing[0]).expect("read");
        assert!(found[..4096] == *page.bytes(), "a synced write is lost");
        let there = found[8192..12288].chunks(512).filter(|s| **s == [7; 512]);
        let there = there.count();
        kept += there;
        lost += 8 - there;
    }
    assert!(lost > 0 && kept > 0, "{lost} sectors lost, {kept} kept");
}

/// An array on disks whose power fails again and again.
struct Bench {
    sandbox: Sandbox,
    backing: Vec<Backing>,
    ledger: Ledger,
    random: Random,
    version: u64,
    /// How many members may be lost at present.
    redundancy_left: u64,
    /// Members whose power failed before that of the others.
    early: Vec<usize>,
    /// Disks do not flush what clients flush.
    disks_lie: bool,
}

/// The file behind a member, and whether it is part of the array yet.
struct Backing {
    path: PathBuf,
    belongs: bool,
}

impl Bench {
    fn new(options: &str, count: usize) -> Bench {
        let sandbox = Sandbox::new();
        let paths = sandbox.members(count);
        sandbox.create(&format!("--size {MEMBER_BYTES} {options}"), &paths);
        let belongs = |path| Backing {
            path,
            belongs: true,
        };
        Bench {
            sandbox,
            backing: paths.into_iter().map(belongs).collect(),
            ledger: Ledger::default(),
            random: Random::from_environment(),
            version: 0,
            redundancy_left: 0,
            early: Vec::new(),
            disks_lie: false,
        }
    }

    fn attach(&mut self) -> Disks {
        let paths: Vec<PathBuf> = self.backing.iter().map(|b| b.path.clone()).collect();
        Disks::attach(&self.sandbox, &paths, self.random.next())
    }

    /// Those of `paths` that belong to the array, and what it takes to serve them.
    fn belonging(&self, paths: Vec<PathBuf>) -> (Vec<PathBuf>, &'static str) {
        let all = paths.len();
        let pairs = paths.into_iter().zip(&self.backing);
        let paths: Vec<PathBuf> = pairs.filter(|(_, b)| b.belongs).map(|(p, _)| p).collect();
        // A mirror without some of its members takes the operator's word.
        let option = if paths.len() < all { "--force" } else { "" };
        (paths, option)
    }

    /// One life: start, check, write, lose power. Returns what is wrong.
    fn live(&mut self) -> Vec<String> {
        let mut disks = self.attach();
        let (members, option) = self.belonging(disks.members());
        let server = match Server::start(&self.sandbox, option, &members) {
            Ok(server) => server,
            Err(refusal) => return vec![refusal.to_string()],
        };
        let mut complaints = self.ledger.settle(&mut server.connect());
        // Not always: a scrub puts in place what recovery left in the journal.
        if self.random.below(2) == 0 {
            complaints.extend(self.scrub_complaints(&server));
        }
        self.mend(&server, &disks);
        for disk in 0..members.len() {
            disks.set_faults(disk, |faults| faults.lying_flush = self.disks_lie);
        }
        self.write_until_power_loss(&server, &mut disks);
        server.kill9();
        complaints
    }

    /// What a scrub finds wrong on members that are in sync: a loss of power leaves nothing.
    fn scrub_complaints(&self, server: &Server) -> Vec<String> {
        let report = scrub_to_end(&self.sandbox, server);
        let found = report["members"].as_array().expect("members").iter();
        let bad = found.filter(|m| m["bad_blocks"] != 0 || m["bad_metadata"] != 0);
        bad.map(|member| format!("a scrub found {member}"))
            .collect()
    }

    /// Gives the array what it lacks, now or another time; the rebuild goes on while clients
    /// write and the power fails.
    fn mend(&mut self, server: &Server, disks: &Disks) {
        let status = server.status(&self.sandbox);
        for (backing, path) in self.backing.iter_mut().zip(disks.members()) {
            if !is_in_use(&status, &path) && self.random.below(2) == 0 {
                server.uraid(&self.sandbox, "add", [&path]).succeeded();
                backing.belongs = true;
            }
        }
        let status = server.status(&self.sandbox);
        let left = status["redundancy_left"].as_u64();
        self.redundancy_left = left.expect("a number");
        println!("{}, {} left", status["state"], self.redundancy_left);
        self.early.clear();
        if self.random.below(3) == 0 {
            let mut others: Vec<usize> = (0..self.backing.len()).collect();
            for _ in 0..self.redundancy_left {
                let chosen = self.random.below(others.len() as u64) as usize;
                self.early.push(others.swap_remove(chosen));
            }
        }
    }

    fn write_until_power_loss(&mut self, server: &Server, disks: &mut Disks) {
        let life = Duration::from_millis(50 + self.random.below(800));
        let kill_first = self.random.below(2) == 0;
        let writes_per_flush = [8, 64, 512][self.random.below(3) as usize];
        let version = self.version;
        self.version += 1 << 20; // versions never come twice
        let ledger = &self.ledger;
        let sectors = thread::scope(|scope| {
            for writer in 0..=WRITERS {
                let writer = Writer {
                    client: server.connect(),
                    ledger,
                    number: writer,
                    random: Random::new(version ^ writer << 32),
                    version,
                    writes_per_flush,
                };
                scope.spawn(move || writer.run());
            }
            thread::sleep(life);
            if !self.early.is_empty() {
                println!("power of {:?} lost first", self.early);
                disks.lose_power_of(&self.early);
                thread::sleep(life);
            }
            if kill_first {
                server.signal(Signal::SIGKILL);
            }
            let sectors = disks.lose_power();
            server.signal(Signal::SIGKILL); // ends what still waits
            sectors
        });
        println!(
            "power lost after {life:?}{}; {sectors} sectors were not flushed; {} blocks durable",
            if kill_first { " and a kill" } else { "" },
            ledger.durable_blocks()
        );
    }

    fn lose_power_while_recovering(&mut self) {
        let mut disks = self.attach();
        let (members, option) = self.belonging(disks.members());
        let after = Duration::from_millis(5 + self.random.below(100));
        println!("power lost again {after:?} after the start");
        start_and_kill9(&self.sandbox, option, &members, after);
        disks.lose_power();
    }

    /// What is wrong when as many members as may be lost never come back.
    fn complaints_without_some(&mut self) -> Vec<String> {
        // Whoever lost power early may be out: those members count as lost.
        let lost = match self.early.is_empty() {
            true => self.random.below(self.redundancy_left + 1) as usize,
            false => 0,
        };
        let mut rest: Vec<PathBuf> = self
            .backing
            .iter()
            .filter(|b| b.belongs)
            .map(|b| b.path.clone())
            .collect();
        for _ in 0..lost {
            rest.remove(self.random.below(rest.len() as u64) as usize);
        }
        let copies = self.sandbox.copies("rest-", &rest);
        let option = ["--force", "--read-only"][self.random.below(2) as usize];
        let found = match Server::start(&self.sandbox, option, &copies) {
            Ok(mut server) => {
                let mut client = server.connect();
                let complaints = self.ledger.complaints_after_power_loss(&mut client);
                if !complaints.is_empty() {
                    server.show_log();
                }
                complaints
            }
            Err(refusal) => vec![refusal.to_string()],
        };
        let where_ = |complaint| format!("{lost} members lost, {option}: {complaint}");
        found.into_iter().map(where_).collect()
    }

    /// Members are gone for good; blank disks stand in their places.
    fn lose_members(&mut self) {
        for _ in 0..self.redundancy_left {
            let lost = self.random.below(self.backing.len() as u64) as usize;
            let name = format!("m{lost}");
            println!("{name} is lost for good");
            self.backing[lost].path = self.sandbox.file(&name, MEMBER_BYTES);
            self.backing[lost].belongs = false;
        }
    }

    /// A life, and what may come after it. Returns what is wrong.
    fn cycle(&mut self) -> Vec<String> {
        let mut complaints = self.live();
        if self.random.below(3) == 0 {
            self.lose_power_while_recovering();
        }
        complaints.extend(self.complaints_without_some());
        if self.early.is_empty() && self.random.below(4) == 0 {
            self.lose_members();
        }
        complaints
    }
}

/// Whether the file is a member in service.
fn is_in_use(status: &Value, path: &Path) -> bool {
    let members = status["members"].as_array().expect("members");
    let at_path = |m: &&Value| m["path"].as_str().map(Path::new) == Some(path);
    let state = members.iter().find(at_path).map(|m| &m["state"]);
    state.is_some_and(|state| state != "failed" && state != "missing")
}

/// One client, working until the server or its disks are gone.
struct Writer<'a> {
    client: Client,
    ledger: &'a Ledger,
    number: u64,
    random: Random,
    version: u64,
    writes_per_flush: u64,
}

impl Writer<'_> {
    fn run(mut self) {
        loop {
            self.version += 1;
            let written = match self.number {
                WRITERS => self.write_much(),
                _ => self.write_little(),
            };
            let flushed = written.and_then(|()| self.flush_sometimes());
            if flushed.is_err() {
                return;
            }
        }
    }

    /// A few blocks of its own, beside those of others; some are zeroed, some written with FUA.
    fn write_little(&mut self) -> Result<(), Failure> {
        const GROUP: u64 = 4;
        let group = self.random.below(SMALL_BLOCKS / GROUP / WRITERS) * WRITERS + self.number;
        let skipped = self.random.below(GROUP);
        let (first, count) = (
            group * GROUP + skipped,
            1 + self.random.below(GROUP - skipped),
        );
        let (at, bytes) = (first * BLOCK as u64, count * BLOCK as u64);
        let kind = self.random.below(32);
        let content = if kind == 1 { 0 } else { self.version };
        self.ledger.issue(first, count, content);
        let data = blocks(first, count, content);
        match kind {
            0 => self.client.write_fua(at, &data)?,
            1 => self.client.write_zeroes(at, bytes)?,
            _ => self.client.write(at, &data)?,
        }
        self.ledger.answered(first, count, kind == 0);
        Ok(())
    }

    /// Whole stripes, in a region of its own.
    fn write_much(&mut self) -> Result<(), Failure> {
        let first = SMALL_BLOCKS + self.random.below(STREAM_PLACES) * STREAM_BLOCKS;
        let data = blocks(first, STREAM_BLOCKS, self.version);
        self.ledger.issue(first, STREAM_BLOCKS, self.version);
        self.client.write(first * BLOCK as u64, &data)?;
        self.ledger.answered(first, STREAM_BLOCKS, false);
        Ok(())
    }

    fn flush_sometimes(&mut self) -> Result<(), Failure> {
        if self.random.below(self.writes_per_flush) == 0 {
            let covered = self.ledger.before_flush();
            self.client.flush()?;
            self.ledger.flushed(covered);
        }
        Ok(())
    }
}

fn survives_power_losses(options: &str, count: usize) {
    need_volatile_disks!();
    let mut bench = Bench::new(options, count);
    for cycle in 0..cycles(8) {
        let complaints = bench.cycle();
        if !complaints.is_empty() {
            let kept = bench.sandbox.keep();
            panic!("cycle {cycle}: {complaints:#?}; the files are kept in {kept:?}");
        }
    }
    let durable = bench.ledger.durable_blocks();
    assert!(durable > 500, "hardly anything was written: {durable}");
}

#[test]
fn raid1_keeps_what_was_flushed() {
    survives_power_losses("--level raid1", 3);
}

#[test]
fn raid5_keeps_what_was_flushed() {
    survives_power_losses("--level raid5", 4);
}

#[test]
fn raid6_keeps_what_was_flushed() {
    survives_power_losses("--level raid6", 6);
}

/// The checker complains when disks only say that they have flushed: the array refuses to start,
/// blocks cannot be read, or they are older than what was durable.
#[test]
fn disks_that_lie_about_flushes_are_found_out() {
    need_volatile_disks!();
    let complaint = (0..12).find_map(|_| complaints_about_liars().pop());
    println!("{}", complaint.expect("12 lies did no harm"));
}

fn complaints_about_liars() -> Vec<String> {
    let mut bench = Bench::new("--level raid1", 2);
    bench.disks_lie = true;
    assert_eq!(bench.live(), [""; 0], "a new array");
    bench.live()
}

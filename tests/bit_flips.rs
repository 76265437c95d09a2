//! Bits flip everywhere on the members, at rest and in service, on no more of them than may be
//! lost: every read is right, and a scrub finds and heals what was damaged, and nothing else.
//!
//! `URAID_TEST_FLIPS` says how many bits flip in each test.

mod common;

use common::client::Client;
use common::damage::{Zones, flip_bit};
use common::pattern::{BLOCK, Random, blocks};
use common::server::{member, scrub_to_end};
use common::{MIB, Ran, Sandbox, Server};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::PathBuf;

const MEMBER_BYTES: u64 = 32 * MIB;
/// Each round flips bits while serving and while stopped.
const ROUNDS: u64 = 4;
/// Requests are at most 32 MiB.
const READ_BYTES: usize = 8 << 20;

/// Which members may be damaged where.
enum Victims {
    /// These, in every zone.
    Members(Vec<usize>),
    /// In each row others, so many of them, in the data zone only: checksums and journal of one
    /// member are as many rows' concern.
    PerRow(usize),
}

/// An array whose members decay.
struct Decaying {
    sandbox: Sandbox,
    members: Vec<PathBuf>,
    zones: Zones,
    victims: Victims,
    random: Random,
    /// What every block of the export holds.
    content: Vec<u8>,
    version: u64,
    /// Other rows have other victims in each round: scrubs have healed them meanwhile.
    rounds: u64,
}

impl Decaying {
    /// An array full of data.
    fn new(options: &str, count: usize) -> Decaying {
        let sandbox = Sandbox::new();
        let members = sandbox.members(count);
        sandbox.create(&format!("--size {MEMBER_BYTES} {options}"), &members);
        let server = sandbox.serve(&members);
        let mut client = server.connect();
        let content = blocks(0, client.size / BLOCK as u64, 1);
        for (i, part) in content.chunks(READ_BYTES).enumerate() {
            let at = (i * READ_BYTES) as u64;
            client.write(at, part).expect("write");
        }
        server.stop();
        Decaying {
            zones: Zones::of(&sandbox, &members[0]),
            sandbox,
            members,
            victims: Victims::Members(Vec::new()),
            random: Random::from_environment(),
            content,
            version: 1,
            rounds: 0,
        }
    }

    fn flip(&mut self) {
        let (member, offset) = match &self.victims {
            Victims::Members(victims) => {
                let [checkpoints, zones @ ..] = self.zones.inner();
                // Whoever has no checkpoint is out, and nothing more is learnt from it.
                let zone = match self.random.below(150) {
                    0 => checkpoints,
                    n => zones[n as usize % zones.len()],
                };
                let offset = zone.start + self.random.below(zone.end - zone.start);
                let victim = self.random.below(victims.len() as u64) as usize;
                (victims[victim], offset)
            }
            Victims::PerRow(count) => {
                let data = &self.zones.data;
                let offset = data.start + self.random.below(data.end - data.start);
                // The rows of a slot have other victims each, but always the same.
                let row = (offset / BLOCK as u64) ^ (self.rounds << 40);
                let first = Random::new(row).below(self.members.len() as u64);
                let victim = first + self.random.below(*count as u64);
                (victim as usize % self.members.len(), offset)
            }
        };
        flip_bit(&self.members[member], offset, self.random.below(8) as u8);
    }

    /// Writes some blocks, or reads and compares some.
    fn use_it(&mut self, client: &mut Client) {
        let total = self.content.len() as u64 / BLOCK as u64;
        let count = [1, 3, 16, 128][self.random.below(4) as usize];
        let first = self.random.below(total - count);
        let range = first as usize * BLOCK..(first + count) as usize * BLOCK;
        if self.random.below(2) == 0 {
            self.version += 1;
            let data = blocks(first, count, self.version);
            client.write(range.start as u64, &data).expect("write");
            self.content[range].copy_from_slice(&data);
        } else {
            let found = client.read(range.start as u64, range.len()).expect("read");
            let same = found == self.content[range];
            assert!(same, "{count} blocks from {first} on are not as written");
        }
    }

    fn assert_intact(&self, server: &Server) {
        let mut client = server.connect();
        for (i, expected) in self.content.chunks(READ_BYTES).enumerate() {
            let at = i * READ_BYTES;
            let found = client.read(at as u64, expected.len()).expect("read");
            let wrong = found.chunks(BLOCK).zip(expected.chunks(BLOCK));
            let wrong = wrong.filter(|(a, b)| a != b).count();
            assert!(wrong == 0, "{wrong} blocks after byte {at} are wrong");
        }
    }

    /// Flips bits while it is used, compares everything, stops or kills the server, flips more,
    /// compares everything, scrubs.
    fn round(&mut self, flips: u64) {
        let mut server = self.sandbox.serve(&self.members);
        let mut client = server.connect();
        for _ in 0..flips / 2 {
            self.flip();
            self.use_it(&mut client);
        }
        self.assert_intact(&server);
        let kill = self.random.below(2) == 0;
        server.signal(if kill {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        });
        server.wait_end();
        for _ in 0..flips / 2 {
            self.flip();
        }
        let server = self.sandbox.serve(&self.members);
        self.assert_intact(&server);
        self.assert_blameless_members_stand(&server);
        self.assert_scrub_heals(&server);
        server.stop();
        self.rounds += 1;
    }

    /// A scrub finds nothing on members that were not touched, and another finds nothing at all.
    /// Members that were so damaged that they had to leave are back by then.
    fn assert_scrub_heals(&self, server: &Server) {
        let first = scrub_to_end(&self.sandbox, server);
        assert_eq!(first["lost_blocks"], 0, "{first:#}");
        if let Victims::Members(victims) = &self.victims {
            let touched = |slot| victims.contains(&slot);
            for (slot, found) in findings(&first).into_iter().enumerate() {
                assert!(touched(slot) || found == Findings::default(), "{first:#}");
            }
        }
        let status = server.status(&self.sandbox);
        for (slot, path) in self.members.iter().enumerate() {
            let state = &member(&status, slot as u64)["state"];
            if state == "failed" || state == "missing" {
                println!("member {slot} had left; it is added again");
                server.uraid(&self.sandbox, "add", [path]).succeeded();
                server.wait_member(&self.sandbox, slot as u64, "in-sync");
                // It caught up with what had changed; the damage to the rest is still there.
                scrub_to_end(&self.sandbox, server);
            }
        }
        assert_sound(&scrub_to_end(&self.sandbox, server));
    }

    /// Those `may_go` chooses from, as many as may be lost, are lost: everything reads right.
    fn assert_others_can_go(&mut self, redundancy: usize, may_go: impl Fn(usize) -> bool) {
        let server = self.sandbox.serve(&self.members);
        let mut others: Vec<usize> = (0..self.members.len()).filter(|m| may_go(*m)).collect();
        for _ in 0..redundancy.min(others.len()) {
            let chosen = self.random.below(others.len() as u64) as usize;
            let slot = others.swap_remove(chosen).to_string();
            server.uraid(&self.sandbox, "fail", [slot]).succeeded();
        }
        self.assert_intact(&server);
        server.stop();
    }

    /// Members that were not touched are in sync and have no errors.
    fn assert_blameless_members_stand(&self, server: &Server) {
        let status = server.status(&self.sandbox);
        assert_eq!(status["lost_blocks"], 0, "{status:#}");
        let Victims::Members(victims) = &self.victims else {
            assert_eq!(status["state"], "optimal", "{status:#}");
            return;
        };
        for slot in (0..self.members.len()).filter(|slot| !victims.contains(slot)) {
            let found = member(&status, slot as u64);
            let errors = &found["checksum_errors"];
            let blameless = found["state"] == "in-sync" && *errors == 0;
            assert!(blameless, "member {slot} was not touched: {status:#}");
        }
    }
}

/// What a scrub found on one member.
#[derive(Clone, Default, PartialEq, Debug)]
struct Findings {
    bad_blocks: u64,
    repaired_blocks: u64,
    bad_metadata: u64,
    repaired_metadata: u64,
}

/// The findings of a report by slot.
fn findings(report: &Value) -> Vec<Findings> {
    let members = report["members"].as_array().expect("members");
    let mut all = vec![Findings::default(); members.len()];
    for found in members {
        let count = |name: &str| found[name].as_u64().expect("a count");
        let slot = found["slot"].as_u64().expect("a slot") as usize;
        all[slot] = Findings {
            bad_blocks: count("bad_blocks"),
            repaired_blocks: count("repaired_blocks"),
            bad_metadata: count("bad_metadata"),
            repaired_metadata: count("repaired_metadata"),
        };
    }
    all
}

#[track_caller]
fn assert_sound(report: &Value) {
    let sound = |found: &Findings| *found == Findings::default();
    assert!(findings(report).iter().all(sound), "{report:#}");
    assert_eq!(report["state"], "finished", "{report:#}");
    assert_eq!(report["lost_blocks"], 0, "{report:#}");
    assert_eq!(report["inconsistent_rows"], 0, "{report:#}");
}

fn flips() -> u64 {
    let given = std::env::var("URAID_TEST_FLIPS").ok();
    given.map_or(1500, |n| n.parse().expect("URAID_TEST_FLIPS: a number"))
}

/// As many members as may be lost decay in every zone, in the end their superblocks too.
fn members_may_decay(options: &str, count: usize, victims: usize) {
    let mut array = Decaying::new(options, count);
    let mut order: Vec<usize> = (0..count).collect();
    for _ in 0..count - victims {
        order.remove(array.random.below(order.len() as u64) as usize);
    }
    println!("{options}: members {order:?} decay");
    array.victims = Victims::Members(order.clone());
    for _ in 0..ROUNDS {
        array.round(flips() / ROUNDS);
    }
    for victim in &order {
        for zone in array.zones.superblocks.clone() {
            let offset = zone.start + array.random.below(128);
            flip_bit(&array.members[*victim], offset, 1);
        }
    }
    array.round(flips() / ROUNDS);
    array.assert_others_can_go(victims, |member| !order.contains(&member));
}

/// Every member decays, but in no row more of them than may be lost.
fn rows_may_decay(options: &str, count: usize, victims: usize) {
    let mut array = Decaying::new(options, count);
    array.victims = Victims::PerRow(victims);
    for _ in 0..ROUNDS {
        array.round(flips() / ROUNDS);
    }
    array.assert_others_can_go(victims, |_| true);
}

#[test]
fn two_members_of_a_mirror_may_decay() {
    members_may_decay("--level raid1", 3, 2);
}

#[test]
fn a_member_of_raid5_may_decay() {
    members_may_decay("--level raid5", 4, 1);
}

#[test]
fn two_members_of_raid6_may_decay() {
    members_may_decay("--level raid6", 6, 2);
}

#[test]
fn three_members_of_three_parities_may_decay() {
    members_may_decay("--level rs --parity 3 --chunk 16K", 7, 3);
}

#[test]
fn other_members_may_decay_in_every_row_of_a_mirror() {
    rows_may_decay("--level raid1", 2, 1);
}

#[test]
fn other_members_may_decay_in_every_row_of_raid5() {
    rows_may_decay("--level raid5", 4, 1);
}

#[test]
fn other_members_may_decay_in_every_row_of_raid6() {
    rows_may_decay("--level raid6", 5, 2);
}

// ---- exactly what was damaged ----

/// One bit flips in each of many blocks in use, in no row more of them than may be lost. Returns
/// how many blocks of each member were damaged.
fn damage_blocks_in_use(array: &mut Decaying, per_row: usize) -> Vec<u64> {
    let mut damaged = vec![0; array.members.len()];
    let files: Vec<Vec<u8>> = common::sandbox::contents(&array.members);
    let rows = (array.zones.data.end - array.zones.data.start) / BLOCK as u64;
    for row in (0..rows).filter(|row| row % 5 == 0) {
        let offset = array.zones.data.start + row * BLOCK as u64;
        let first = array.random.below(damaged.len() as u64) as usize;
        for i in 0..1 + array.random.below(per_row as u64) as usize {
            let victim = (first + i) % damaged.len();
            // The array was filled once, so that what was never used is zero.
            let content = &files[victim][offset as usize..offset as usize + BLOCK];
            if content.iter().any(|byte| *byte != 0) {
                let at = offset + array.random.below(BLOCK as u64);
                flip_bit(&array.members[victim], at, array.random.below(8) as u8);
                damaged[victim] += 1;
            }
        }
    }
    assert!(damaged.iter().all(|count| *count > 10), "{damaged:?}");
    damaged
}

fn scrub_finds_exactly(options: &str, count: usize, redundancy: usize) {
    let mut array = Decaying::new(options, count);
    let damaged = damage_blocks_in_use(&mut array, redundancy);
    let before = common::sandbox::contents(&array.members);
    let checked = check(&array).exits(1).json();
    assert!(
        common::sandbox::contents(&array.members) == before,
        "check has written"
    );
    assert_eq!(checked["result"], "repairable", "{checked:#}");
    let expected = |repaired: bool| -> Vec<Findings> {
        let found = |blocks: &u64| Findings {
            bad_blocks: *blocks,
            repaired_blocks: if repaired { *blocks } else { 0 },
            ..Findings::default()
        };
        damaged.iter().map(found).collect()
    };
    assert_eq!(findings(&checked["array"]["scrub"]), expected(false));

    let server = array.sandbox.serve(&array.members);
    assert_eq!(
        findings(&scrub_to_end(&array.sandbox, &server)),
        expected(true)
    );
    assert_sound(&scrub_to_end(&array.sandbox, &server));
    server.stop();
    let checked = check(&array).succeeded().json();
    assert_eq!(checked["result"], "clean", "{checked:#}");
    array.assert_others_can_go(redundancy, |_| true);
}

fn check(array: &Decaying) -> Ran {
    let words = ["check", "--json"].map(std::ffi::OsStr::new).into_iter();
    array
        .sandbox
        .uraid(words.chain(common::sandbox::as_args(&array.members)))
}

#[test]
fn scrub_and_check_find_exactly_what_was_damaged_on_a_mirror() {
    scrub_finds_exactly("--level raid1", 3, 2);
}

#[test]
fn scrub_and_check_find_exactly_what_was_damaged_on_raid5() {
    scrub_finds_exactly("--level raid5", 5, 1);
}

#[test]
fn scrub_and_check_find_exactly_what_was_damaged_on_raid6() {
    scrub_finds_exactly("--level raid6", 6, 2);
}

#[test]
fn scrub_and_check_find_exactly_what_was_damaged_on_raid10() {
    scrub_finds_exactly("--level raid10", 4, 1);
}

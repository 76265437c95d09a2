//! Bits flip everywhere on the members, at rest and in service, on no more of them than may be
//! lost: every read is right.
//!
//! `URAID_TEST_FLIPS` says how many bits flip in each test.

mod common;

use common::client::Client;
use common::damage::{Zones, flip_bit};
use common::pattern::{BLOCK, Random, blocks};
use common::server::member;
use common::{MIB, Sandbox, Server};
use nix::sys::signal::Signal;
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
        }
    }

    fn flip(&mut self) {
        let (member, offset) = match &self.victims {
            Victims::Members(victims) => {
                let zones = self.zones.inner();
                let zone = zones[self.random.below(zones.len() as u64) as usize];
                let offset = zone.start + self.random.below(zone.end - zone.start);
                let victim = self.random.below(victims.len() as u64) as usize;
                (victims[victim], offset)
            }
            Victims::PerRow(count) => {
                let data = &self.zones.data;
                let offset = data.start + self.random.below(data.end - data.start);
                // The rows of a slot have other victims each, but always the same.
                let first = Random::new(offset / BLOCK as u64).below(self.members.len() as u64);
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
    /// compares everything.
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
    for victim in order {
        for zone in array.zones.superblocks.clone() {
            let offset = zone.start + array.random.below(128);
            flip_bit(&array.members[victim], offset, 1);
        }
    }
    array.round(flips() / ROUNDS);
}

/// Every member decays, but in no row more of them than may be lost.
fn rows_may_decay(options: &str, count: usize, victims: usize) {
    let mut array = Decaying::new(options, count);
    array.victims = Victims::PerRow(victims);
    for _ in 0..ROUNDS {
        array.round(flips() / ROUNDS);
    }
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

//! Arrays of tens and hundreds of terabytes: what they cost follows what is used, not their size.

mod common;

use common::sandbox::as_args;
use common::{Sandbox, Server};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const MIB: u64 = 1 << 20;

/// Bytes of a member: 64 of them are 102 TiB.
const MEMBER_SIZE: &str = "1638G";

/// Resident memory of a server, in MiB: what docs/operations.md states, and that of a small array
/// is hardly less.
const RESIDENT_MIB_MAX: u64 = 192;

/// Disk that a new member takes, in bytes.
const NEW_MEMBER_BYTES_MAX: u64 = MIB / 2;

/// What a start reads of a member besides its journal, in bytes, where little was written.
const START_BYTES_MAX: u64 = MIB;

/// What a start reads of a member's journal after a crash, in bytes: all of it, if all lanes were
/// in use, and a piece of each twice.
const JOURNAL_BYTES_MAX: u64 = 144 * MIB;

struct Layout {
    options: &'static str,
    members: usize,
}

const LAYOUTS: [Layout; 3] = [
    Layout {
        options: "--level raid6",
        members: 64,
    },
    Layout {
        options: "--level raid10",
        members: 64,
    },
    Layout {
        options: "--level rs --parity 4",
        members: 16,
    },
];

/// Bytes read of each member since the array was opened.
struct ReadOfEach {
    journal: u64,
    relog: u64,
    /// Superblocks, checkpoints and map.
    rest: u64,
}

fn read_of_each(sandbox: &Sandbox, server: &Server, members: usize) -> ReadOfEach {
    let zones = server.status(sandbox)["io"]["zones"].take();
    let read = |name: &str| {
        let bytes = zones[name]["read_bytes"].as_u64();
        bytes.expect("a number") / members as u64
    };
    ReadOfEach {
        journal: read("journal"),
        relog: read("relog"),
        rest: read("superblocks") + read("checkpoints") + read("map"),
    }
}

/// A start after a clean stop, or the very first one.
fn assert_start_is_light(sandbox: &Sandbox, server: &Server, members: usize) {
    let read = read_of_each(sandbox, server, members);
    assert_eq!(
        (read.journal, read.relog),
        (0, 0),
        "nothing is left to be done"
    );
    assert!(read.rest < START_BYTES_MAX, "{} bytes", read.rest);
}

/// Content that differs from place to place.
fn content(offset: u64, len: usize) -> Vec<u8> {
    let words = (0..len as u64 / 8).map(|i| (offset + i).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// Where something is written: a block at either end and in the middle, and a few stripes.
fn places(size: u64) -> [(u64, usize); 4] {
    let middle = size / 2 / MIB * MIB;
    let end = size / MIB * MIB;
    [
        (0, 4096),
        (middle, 4096),
        (end - 64 * MIB, 16 << 20),
        (end - MIB, 1 << 20),
    ]
}

fn assert_reads_back(server: &Server, size: u64) {
    let mut client = server.connect();
    for (offset, len) in places(size) {
        let found = client.read(offset, len).expect("read");
        assert!(found == content(offset, len), "{offset}");
    }
    let untouched = client.read(size / 4 / MIB * MIB, 1 << 20).expect("read");
    assert!(untouched.iter().all(|b| *b == 0));
}

fn assert_resident(server: &Server) {
    let resident = server.resident_mib();
    assert!(resident < RESIDENT_MIB_MAX, "{resident} MiB");
}

fn costs_follow_what_is_used(layout: &Layout) {
    let sandbox = Sandbox::new();
    let members: Vec<PathBuf> = sandbox.members(layout.members);
    let size = format!("{} --size {MEMBER_SIZE}", layout.options);
    sandbox.create(&size, &members);
    for member in &members {
        let on_disk = member.metadata().expect("a member").blocks() * 512;
        assert!(on_disk < NEW_MEMBER_BYTES_MAX, "{on_disk} bytes");
    }

    let server = sandbox.serve(&members);
    assert_start_is_light(&sandbox, &server, layout.members);
    let size = server.status(&sandbox)["size_bytes"].as_u64();
    let size = size.expect("a number");
    let mut client = server.connect();
    for (offset, len) in places(size) {
        client.write(offset, &content(offset, len)).expect("write");
    }
    client.flush().expect("flush");
    assert_resident(&server);
    server.kill9();

    let server = sandbox.serve(&members);
    let read = read_of_each(&sandbox, &server, layout.members);
    let journal = 1..JOURNAL_BYTES_MAX;
    assert!(journal.contains(&read.journal), "{} bytes", read.journal);
    assert_eq!(read.relog, 0, "no recovery was interrupted");
    assert!(read.rest < START_BYTES_MAX, "{} bytes", read.rest);
    assert_reads_back(&server, size);
    assert_resident(&server);
    server.stop();

    let server = sandbox.serve(&members);
    assert_start_is_light(&sandbox, &server, layout.members);
    assert_reads_back(&server, size);
    server.stop();
    let check = [OsStr::new("check")].into_iter().chain(as_args(&members));
    sandbox.uraid(check).succeeded();
}

#[test]
fn a_hundred_terabytes_in_raid6() {
    costs_follow_what_is_used(&LAYOUTS[0]);
}

#[test]
fn a_hundred_terabytes_in_raid10() {
    costs_follow_what_is_used(&LAYOUTS[1]);
}

#[test]
fn twenty_five_terabytes_in_rs() {
    costs_follow_what_is_used(&LAYOUTS[2]);
}

//! Rebuild costs what was written, not what the array could hold.

mod common;

use common::pattern::blocks;
use common::server::slot_of;
use common::{GIB, MIB, Sandbox, Server};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const MEMBER_BYTES: u64 = 256 * GIB;

/// What a new member may hold beside data.
const METADATA_MIB_MAX: u64 = 192;

/// Writes 32 MiB of blocks from here on.
fn write_32_mib(server: &Server, at: u64) {
    let data = blocks(at / 4096, 32 * MIB / 4096, 1);
    server.connect().write(at, &data).expect("write");
}

/// Fails the member in slot 0, adds a blank disk, waits; returns the time it took and how many
/// MiB the disk then holds.
fn rebuild_onto(sandbox: &Sandbox, server: &Server, name: &str) -> (Duration, u64) {
    let new = sandbox.file(name, MEMBER_BYTES);
    server.uraid(sandbox, "fail", ["0"]).succeeded();
    let start = Instant::now();
    server.uraid(sandbox, "add", [&new]).succeeded();
    let status = server.wait_state(sandbox, "optimal");
    let took = start.elapsed();
    assert_eq!(slot_of(&status, &new), 0);
    let filled_mib = std::fs::metadata(&new).expect("metadata").blocks() * 512 / MIB;
    println!("rebuilt in {took:?}, {filled_mib} MiB on the new disk");
    (took, filled_mib)
}

#[test]
fn rebuild_of_a_mostly_empty_large_array_is_in_proportion_to_what_was_written() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(3);
    sandbox.create("--level raid5 --size 256G", &members);
    let server = sandbox.serve(&members);
    let size = server.connect().size;
    assert!(size > 480 * GIB, "{size}");
    for eighth in 0..4 {
        write_32_mib(&server, size / 8 * eighth); // spread over the array
    }
    let (took_small, filled_small) = rebuild_onto(&sandbox, &server, "new-small");
    for eighth in 4..8 {
        for part in 0..4 {
            write_32_mib(&server, size / 8 * eighth + part * 32 * MIB);
        }
    }
    let (took_large, filled_large) = rebuild_onto(&sandbox, &server, "new-large");

    // A member's share of 128 and of 640 MiB, and not much metadata.
    assert!(
        (64..64 + METADATA_MIB_MAX).contains(&filled_small),
        "{filled_small} MiB"
    );
    assert!(
        (320..320 + METADATA_MIB_MAX).contains(&filled_large),
        "{filled_large} MiB"
    );
    // At 500 MB/s, 256 GiB would take nine minutes.
    assert!(took_small < Duration::from_secs(20), "{took_small:?}");
    assert!(took_large < Duration::from_secs(45), "{took_large:?}");
    server.uraid(&sandbox, "fail", ["1"]).succeeded();
    let at = size / 8 * 7;
    let found = server.connect().read(at, 32 << 20).expect("read");
    assert!(
        found == blocks(at / 4096, 32 * MIB / 4096, 1),
        "degraded read after the rebuild"
    );
}

//! Filesystems made, mounted and filled on an array that loses members, through the kernel:
//! uraid, nbdfuse, a loop device, and what people put on their disks.

mod common;

use common::filesystem::{Attached, BTRFS, EXT4, Kind, XFS};
use common::{MIB, Sandbox};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::thread;

const MEMBER_BYTES: u64 = 256 * MIB;

#[test]
fn ext4_survives_two_losses_and_a_rebuild() {
    survives_two_losses_and_a_rebuild(&EXT4);
}

#[test]
fn xfs_survives_two_losses_and_a_rebuild() {
    survives_two_losses_and_a_rebuild(&XFS);
}

#[test]
fn btrfs_survives_two_losses_and_a_rebuild() {
    survives_two_losses_and_a_rebuild(&BTRFS);
}

/// Real trees of files: our own sources, and what every system has.
fn trees() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = [
        own.join("src"),
        own.join("tests"),
        "/usr/include".into(),
        "/usr/share/perl5".into(),
    ];
    candidates
        .into_iter()
        .filter(|tree| tree.is_dir())
        .collect()
}

fn survives_two_losses_and_a_rebuild(kind: &Kind) {
    need_filesystem!(kind);
    let sandbox = Sandbox::new();
    let members = sandbox.members(6);
    sandbox.create("--level raid6 --size 256M", &members);
    let server = sandbox.serve(&members);
    let device = match Attached::new(&sandbox, &server) {
        Ok(device) => device,
        Err(reason) => skip!("{reason}"),
    };
    let trees = trees();

    device.run(kind.mkfs);
    let mounted = device.mount(kind);
    mounted.fill("before", &trees);
    thread::scope(|scope| {
        let load = scope.spawn(|| mounted.fill("while-members-die", &trees));
        server.uraid(&sandbox, "fail", [&members[1]]).succeeded();
        let disk = OpenOptions::new()
            .write(true)
            .open(&members[4])
            .expect("open");
        disk.set_len(0).expect("truncate");
        load.join().expect("copying while members die");
    });
    server.wait_member(&sandbox, 1, "failed");
    server.wait_member(&sandbox, 4, "failed");

    drop(mounted); // what is read next comes from the array, not from a cache
    let mounted = device.mount(kind);
    mounted.assert_holds("before", &trees);
    mounted.assert_holds("while-members-die", &trees);

    for new in ["new1", "new4"] {
        server
            .uraid(&sandbox, "add", [sandbox.file(new, MEMBER_BYTES)])
            .succeeded();
    }
    mounted.fill("while-rebuilding", &trees);
    server.wait_state(&sandbox, "optimal");

    drop(mounted);
    device.run(kind.fsck);
    let mounted = device.mount(kind);
    for name in ["before", "while-members-die", "while-rebuilding"] {
        mounted.assert_holds(name, &trees);
    }
    drop(mounted);
    drop(device);
    server.stop();
}

//! Members that somebody or something mistreats: truncated, rolled back, swapped, made read-only,
//! damaged in whole zones, mixed up. Each is handled, or refused in words that help, and a
//! refusal changes nothing.

mod common;

use common::client::Client;
use common::damage::{Zones, overwrite, transplant};
use common::sandbox::contents;
use common::tools::is_root;
use common::{Array, MIB, REFUSED, Ran, Sandbox, Server};
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Stops the array, mistreats its members, starts it again: everything reads right.
fn survives(options: &str, count: usize, mistreat: impl FnOnce(&Array, &Zones)) -> Array {
    let mut array = Array::new(options, count);
    array.rewrite(700, 50, 2); // some rows on top of the whole stripes
    let zones = Zones::of(&array.sandbox, &array.members[0]);
    array.stop();
    mistreat(&array, &zones);
    array.server = array.sandbox.serve(&array.members);
    array.assert_intact();
    array
}

/// The same with a server killed while rows wait in the journal.
fn survives_a_kill(options: &str, count: usize, mistreat: impl FnOnce(&Array, &Zones)) -> Array {
    let mut array = Array::new(options, count);
    array.restart_on(&array.members.clone());
    for i in 0..40 {
        array.rewrite(i * 37, 1 + i % 5, 2);
    }
    let zones = Zones::of(&array.sandbox, &array.members[0]);
    array.server.signal(nix::sys::signal::Signal::SIGKILL);
    array.server.wait_end();
    mistreat(&array, &zones);
    array.server = array.sandbox.serve(&array.members);
    array.assert_intact();
    array
}

/// Expects that these members are refused and that not a byte of them changes.
#[track_caller]
fn refused(sandbox: &Sandbox, options: &str, members: &[PathBuf]) -> Ran {
    let present: Vec<PathBuf> = members.iter().filter(|m| m.exists()).cloned().collect();
    let before = contents(&present);
    let ran = sandbox.serve_refused(options, members);
    assert!(
        contents(&present) == before,
        "a refusal changed a member: {ran}"
    );
    ran
}

fn name(member: &Path) -> &str {
    member.file_name().and_then(|n| n.to_str()).expect("a name")
}

fn without(members: &[PathBuf], left_out: usize) -> Vec<PathBuf> {
    let mut rest = members.to_vec();
    rest.remove(left_out);
    rest
}

fn truncate(member: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(member);
    file.and_then(|f| f.set_len(bytes)).expect("truncate");
}

// ---- truncated, missing, read-only ----

#[test]
fn truncated_members_are_left_out_and_named() {
    let array = survives("--level raid6", 6, |array, _| {
        truncate(&array.members[1], 50 * MIB);
        truncate(&array.members[4], 0);
    });
    assert_eq!(array.status()["redundancy_left"], 0);
    let log = array.server.log();
    for member in [1, 4] {
        assert!(log.contains(name(&array.members[member])), "{log}");
    }
    assert!(log.contains("truncated"), "{log}");
}

#[test]
fn too_many_truncated_members_are_refused_and_named() {
    let mut array = Array::new("--level raid5", 4);
    array.stop();
    for member in [0, 2] {
        truncate(&array.members[member], 50 * MIB);
    }
    for options in ["", "--force"] {
        refused(&array.sandbox, options, &array.members)
            .says(&["m0: is"])
            .says(&["m2: is"])
            .says(&["truncated; restore it or replace it"]);
    }
}

#[test]
fn a_path_that_leads_nowhere_is_named_and_nothing_is_changed() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    fs::remove_file(&array.members[1]).expect("remove");
    refused(&array.sandbox, "", &array.members)
        .says(&["m1: there is no such file or device; check the path"]);
}

#[test]
fn a_write_protected_device_is_named_and_nothing_is_changed() {
    need!("losetup", "blockdev");
    if !is_root() {
        skip!("loop devices take root");
    }
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    let device = LoopDevice::over(&array.sandbox, &array.members[1], "--read-only");
    let mut members = array.members.clone();
    members[1] = device.path.clone();
    refused(&array.sandbox, "", &members)
        .says(&[device.path.to_str().expect("UTF-8")])
        .says(&["write-protected; lift that (`blockdev --setrw`)"]);
    array.server = array.sandbox.serve(&without(&members, 1));
    array.assert_intact();
    array.stop();
    array.server = array.sandbox.serve_with("--read-only", &members);
    array.assert_intact();
}

#[test]
fn a_member_on_a_read_only_filesystem_is_named_and_nothing_is_changed() {
    need!("mount", "umount");
    if !is_root() {
        skip!("mounting takes root");
    }
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    let place = array.sandbox.path("read-only");
    fs::create_dir(&place).expect("directory");
    let moved = place.join("m1");
    let mount = |words: &str| {
        let words = words.split(' ').map(std::ffi::OsStr::new);
        let args = words.chain([place.as_os_str()]);
        array.sandbox.run("mount", args).succeeded();
    };
    mount("-t tmpfs none");
    fs::copy(&array.members[1], &moved).expect("copy");
    mount("-o remount,ro");
    let mut members = array.members.clone();
    members[1] = moved;
    let ran = refused(&array.sandbox, "", &members);
    array
        .sandbox
        .run("umount", ["-l".as_ref(), place.as_os_str()]);
    ran.says(&["m1: Read-only file system"]);
}

#[test]
fn a_file_and_a_loop_device_over_it_are_not_served_twice() {
    need!("losetup");
    if !is_root() {
        skip!("loop devices take root");
    }
    let mut array = Array::new("--level raid1", 2);
    let over = |file: &PathBuf| LoopDevice::over(&array.sandbox, file, "--direct-io=on");
    let devices: Vec<LoopDevice> = array.members.iter().map(over).collect();
    let paths: Vec<PathBuf> = devices.iter().map(|d| d.path.clone()).collect();
    // A server would wait half a minute for the lock, before it gave up the same way.
    assert_not_wiped(&array.sandbox, &paths[0]);
    array.restart_on(&paths);
    assert_not_wiped(&array.sandbox, &array.members[1]);
    array.rewrite(0, 100, 2);
    array.assert_intact();
    array.stop();
    drop(devices);
    array.server = array.sandbox.serve(&array.members);
    array.assert_intact();
}

fn assert_not_wiped(sandbox: &Sandbox, member: &Path) {
    let wipe = ["wipe".as_ref(), "--force".as_ref(), member.as_os_str()];
    let ran = sandbox.uraid(wipe).exits(REFUSED);
    ran.says(&["is in use: locked"]);
}

/// A loop device, detached when dropped.
struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    fn over(sandbox: &Sandbox, file: &Path, option: &str) -> LoopDevice {
        let file = file.to_str().expect("UTF-8");
        let args = ["--find", "--show", option, file];
        let ran = sandbox.run("losetup", args).succeeded();
        LoopDevice {
            path: ran.stdout.trim().into(),
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detach = ["-d".as_ref(), self.path.as_os_str()];
        let _ = std::process::Command::new("losetup").args(detach).status();
    }
}

// ---- rolled back, swapped, mixed up ----

#[test]
fn members_rolled_back_to_old_copies_are_not_believed() {
    for (options, count, victims) in [
        ("--level raid1", 2, &[1][..]),
        ("--level raid5", 4, &[2]),
        ("--level raid6", 6, &[0, 3]),
    ] {
        let mut array = Array::new(options, count);
        array.stop();
        let of_victims: Vec<PathBuf> = victims.iter().map(|v| array.members[*v].clone()).collect();
        let old = array.sandbox.copies("old-", &of_victims);
        array.server = array.sandbox.serve(&array.members);
        for i in 0..60 {
            array.rewrite(i * 29, 1 + i % 40, 2);
        }
        array.stop();
        for (old, member) in old.iter().zip(&of_victims) {
            fs::rename(old, member).expect("roll back");
        }
        array.server = array.sandbox.serve(&array.members);
        array.assert_intact();
        let log = array.server.log();
        for victim in &of_victims {
            assert!(log.contains(name(victim)), "{options}: {log}");
        }
        // Taken back, they hold what is right.
        for victim in &of_victims {
            array.run("add", &[victim]).succeeded();
        }
        array.server.wait_state(&array.sandbox, "optimal");
        for blameless in (0..count)
            .filter(|i| !victims.contains(i))
            .take(victims.len())
        {
            let path = array.members[blameless].clone();
            array.run("fail", &[&path]).succeeded();
        }
        array.assert_intact();
    }
}

#[test]
fn swapped_members_are_told_apart() {
    let array = survives("--level raid6", 6, |array, _| {
        let spare = array.sandbox.path("spare-name");
        for (from, to) in [(0, 3), (1, 5)] {
            fs::rename(&array.members[from], &spare).expect("rename");
            fs::rename(&array.members[to], &array.members[from]).expect("rename");
            fs::rename(&spare, &array.members[to]).expect("rename");
        }
    });
    assert_eq!(array.status()["state"], "optimal");
}

#[test]
fn a_copy_beside_its_original_is_refused() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    let copies = array.sandbox.copies("copy-", &array.members[..1]);
    let all = [&array.members[..], &copies].concat();
    refused(&array.sandbox, "", &all).says(&["same member"]);
    let with_copy = [&copies[..], &array.members[1..]].concat();
    array.server = array.sandbox.serve(&with_copy);
    array.assert_intact();
}

#[test]
fn a_member_of_another_array_is_not_taken_for_one_of_this() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    let others: Vec<PathBuf> = (0..2)
        .map(|i| array.sandbox.path(format!("other{i}")))
        .collect();
    array.sandbox.create("--level raid1 --size 96M", &others);
    let mixed = [&array.members[..2], &others[..1]].concat();
    // For one array that would be an error; a server takes it for two.
    let check = ["check".as_ref()].into_iter();
    let check = check.chain(mixed.iter().map(|path| path.as_os_str()));
    let ran = array.sandbox.uraid(check).exits(REFUSED);
    ran.says(&["different arrays"]).says(&["other0 belongs to"]);
    let options = format!("--control {}", array.sandbox.dir().display());
    let server = array.sandbox.serve_with(&options, &mixed);
    let name = server.ready.split(' ').nth(1).expect("a name");
    let mut client = Client::connect(&server.socket, name).expect("connect");
    let found = client.read(0, array.content.len()).expect("read");
    assert!(found == array.content, "wrong content");
}

// ---- whole zones ----

#[test]
fn all_superblocks_of_as_many_members_as_may_be_lost() {
    let array = survives("--level raid6", 6, |array, zones| {
        for victim in [2, 5] {
            for copy in &zones.superblocks {
                overwrite(&array.members[victim], copy, 0xff);
            }
        }
    });
    assert_eq!(array.status()["redundancy_left"], 0);
    let log = array.server.log();
    assert!(log.contains("m2") && log.contains("m5"), "{log}");
    // The server does not hold on to what it cannot use.
    for victim in [2, 5] {
        array.run("add", &[&array.members[victim]]).succeeded();
    }
    array.server.wait_state(&array.sandbox, "optimal");
    for other in [0, 1] {
        array.run("fail", &[&array.members[other]]).succeeded();
    }
    array.assert_intact();
}

#[test]
fn all_superblocks_of_all_members_are_refused_and_nothing_is_changed() {
    let mut array = Array::new("--level raid5", 3);
    let zones = Zones::of(&array.sandbox, &array.members[0]);
    array.stop();
    for member in &array.members {
        for copy in &zones.superblocks {
            overwrite(member, copy, 0xff);
        }
    }
    for options in ["", "--force", "--read-only"] {
        refused(&array.sandbox, options, &array.members)
            .says(&["none of these holds a valid superblock"])
            .says(&["uraid examine"]);
    }
}

#[test]
fn one_superblock_copy_on_every_member_costs_nothing() {
    for copy in 0..4 {
        let array = survives("--level raid5", 3, |array, zones| {
            for member in &array.members {
                overwrite(member, &zones.superblocks[copy], 0);
            }
        });
        assert_eq!(array.status()["state"], "optimal", "copy {copy}");
    }
}

/// All zones but the superblocks, by name.
fn zone<'a>(zones: &'a Zones, which: &str) -> &'a Range<u64> {
    match which {
        "checkpoints" => &zones.checkpoints,
        "journal" => &zones.journal,
        "relog" => &zones.relog,
        "map" => &zones.map,
        "checksums" => &zones.checksums,
        "data" => &zones.data,
        _ => panic!("no such zone: {which}"),
    }
}

const ZONES: [&str; 6] = [
    "checkpoints",
    "journal",
    "relog",
    "map",
    "checksums",
    "data",
];

#[test]
fn whole_zones_of_as_many_members_as_may_be_lost_at_rest() {
    for which in ZONES {
        for byte in [0, 0xff] {
            println!("{which} {byte:#x}");
            let array = survives("--level raid6", 5, |array, zones| {
                overwrite(&array.members[0], zone(zones, which), byte);
                overwrite(&array.members[3], zone(zones, which), byte);
            });
            assert_eq!(array.status()["lost_blocks"], 0);
        }
    }
}

#[test]
fn whole_zones_of_as_many_members_as_may_be_lost_after_a_kill() {
    for which in ZONES {
        println!("{which}");
        let array = survives_a_kill("--level raid6", 5, |array, zones| {
            overwrite(&array.members[1], zone(zones, which), 0xff);
            overwrite(&array.members[4], zone(zones, which), 0);
        });
        assert_eq!(array.status()["lost_blocks"], 0);
    }
}

#[test]
fn a_journal_of_another_array_or_member_is_not_replayed() {
    let other = Array::new("--level raid6", 5);
    for from in [&other.members[0], &PathBuf::new()] {
        let array = survives_a_kill("--level raid6", 5, |array, zones| {
            let own = &array.members[2];
            let from = if from.exists() { from } else { own };
            for which in ["checkpoints", "journal", "relog"] {
                for victim in [0, 1] {
                    transplant(from, &array.members[victim], zone(zones, which));
                }
            }
        });
        assert_eq!(array.status()["lost_blocks"], 0);
    }
}

#[test]
fn damage_to_more_members_than_may_be_lost_is_no_wrong_byte() {
    for which in ["journal", "map", "checksums"] {
        let mut array = Array::new("--level raid5", 4);
        let zones = Zones::of(&array.sandbox, &array.members[0]);
        array.stop();
        for victim in [0, 2] {
            overwrite(&array.members[victim], zone(&zones, which), 0xff);
        }
        match Server::start(&array.sandbox, "", &array.members) {
            Ok(server) => assert_right_or_error(&server, &array.content, which),
            Err(ran) => drop(ran.says(&["m0", "m2", "member"])),
        }
    }
}

/// Every block reads as written, or not at all.
fn assert_right_or_error(server: &Server, content: &[u8], which: &str) {
    let mut client = server.connect();
    for (block, expected) in content.chunks(4096).enumerate() {
        if let Ok(found) = client.read(block as u64 * 4096, 4096) {
            assert!(found == expected, "{which}: block {block} is wrong");
        }
    }
}

// ---- parts of members that go back in time ----

/// Zones that go back together, on as many members as may be lost.
const GOES_BACK: [&[&str]; 7] = [
    &["data"],
    &["checksums"],
    &["data", "checksums"],
    &["map"],
    &["journal", "relog"],
    &["checkpoints"],
    &[
        "checkpoints",
        "journal",
        "relog",
        "map",
        "checksums",
        "data",
    ],
];

/// An array of which old copies of two members exist, and the paths of those.
fn array_with_a_past() -> (Array, Vec<PathBuf>) {
    let mut array = Array::new("--level raid6", 5);
    array.rewrite(300, 100, 2);
    array.stop();
    let old = array.sandbox.copies("old-", &array.members[2..4]);
    array.server = array.sandbox.serve(&array.members);
    for i in 0..50 {
        array.rewrite(i * 39, 1 + i % 60, 3);
    }
    array.server.connect().flush().expect("flush");
    (array, old)
}

/// Puts these zones of the two members back to what they were.
fn go_back(array: &Array, zones: &Zones, which: &[&str], old: &[PathBuf]) {
    for (old, member) in old.iter().zip(&array.members[2..4]) {
        for which in which {
            transplant(old, member, zone(zones, which));
        }
    }
}

#[test]
fn parts_of_members_that_go_back_in_time_at_rest_are_not_believed() {
    for which in GOES_BACK {
        println!("{which:?}");
        let (mut array, old) = array_with_a_past();
        let zones = Zones::of(&array.sandbox, &array.members[0]);
        array.stop();
        go_back(&array, &zones, which, &old);
        array.server = array.sandbox.serve(&array.members);
        array.assert_intact();
        array.rewrite(0, 2000, 4);
        array.assert_intact();
        array.restart_on(&array.members.clone());
        array.assert_intact();
    }
}

#[test]
fn parts_of_members_that_go_back_in_time_after_a_kill_are_not_believed() {
    for which in GOES_BACK {
        println!("{which:?}");
        let (mut array, old) = array_with_a_past();
        let zones = Zones::of(&array.sandbox, &array.members[0]);
        array.rewrite(1000, 7, 4);
        array.server.signal(nix::sys::signal::Signal::SIGKILL);
        array.server.wait_end();
        go_back(&array, &zones, which, &old);
        array.server = array.sandbox.serve(&array.members);
        array.assert_intact();
        array.rewrite(0, 2000, 5);
        array.restart_on(&array.members.clone());
        array.assert_intact();
    }
}

#[test]
fn parts_of_members_that_go_back_in_time_in_service_are_not_believed() {
    for which in GOES_BACK {
        println!("{which:?}");
        let (mut array, old) = array_with_a_past();
        let zones = Zones::of(&array.sandbox, &array.members[0]);
        go_back(&array, &zones, which, &old);
        array.assert_intact();
        for i in 0..20 {
            array.rewrite(i * 97, 3, 4);
        }
        array.assert_intact();
        array.restart_on(&array.members.clone());
        array.assert_intact();
    }
}

//! Starts with what is left: members missing, stale, damaged, doubled, in other hands.

mod common;

use common::damage::overwrite;
use common::places::superblock_of;
use common::server::member;
use common::{Array, DEGRADED, FAILED, MIB, REFUSED, Sandbox};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use uraid_core::superblock::Superblock;

#[test]
fn failed_member_stays_out_after_a_restart() {
    let mut array = Array::new("--level raid6", 6);
    array.run("fail", &[&array.members[0]]).succeeded();
    array.rewrite(0, 100, 2);
    let members = array.members.clone();
    array.restart_on(&members);
    array.assert_intact(); // nothing stale, whether the member stays out or catches up
    assert_ne!(member(&array.status(), 0)["state"], "in-sync");
}

#[test]
fn two_way_mirror_starts_with_a_dead_disk_thanks_to_its_witness() {
    let mut array = Array::new("--level raid1", 2);
    let rest = [array.members[0].clone()];
    array.restart_on(&rest);
    let ran = array.run("status", &[Path::new("--json")]).exits(DEGRADED);
    assert_eq!(ran.json()["redundancy_left"], 0);
    array.assert_intact();
}

#[test]
fn half_a_mirror_on_another_host_needs_force() {
    let mut array = Array::new("--level raid1", 2);
    array.stop();
    let elsewhere = Sandbox::elsewhere(); // a home without witnesses
    let half = [array.members[0].clone()];
    elsewhere
        .serve_refused("", &half)
        .exits(REFUSED)
        .says(&["--force"]);
    array.server = elsewhere.serve_with("--force", &half);
    let found = array
        .server
        .connect()
        .read(0, array.content.len())
        .expect("read");
    assert!(found == array.content);
}

#[test]
fn stale_half_of_a_mirror_is_not_believed() {
    let mut array = Array::new("--level raid1", 2);
    array.run("fail", &[&array.members[1]]).succeeded();
    array.rewrite(0, 100, 2);
    array.stop();
    let stale = [array.members[1].clone()];
    array
        .sandbox
        .serve_refused("", &stale)
        .exits(REFUSED)
        .says(&["stale", "old", "missed"]);
    array.server = array.sandbox.serve(&array.members);
    array.assert_intact();
}

#[test]
fn both_sides_of_a_split_brain_are_refused_together() {
    let mut array = Array::new("--level raid1", 2);
    array.stop();
    for side in [0, 1] {
        let elsewhere = Sandbox::elsewhere();
        let server = elsewhere.serve_with("--force", &array.members[side..=side]);
        server
            .connect()
            .write(0, &[side as u8 + 1; 4096])
            .expect("write");
        server.stop();
    }
    let [first, second] = [0, 1].map(|i| array.members[i].display().to_string());
    for options in ["", "--force"] {
        // Force is no merge.
        let ran = array.sandbox.serve_refused(options, &array.members);
        ran.exits(REFUSED)
            .says(&["split brain"])
            .says(&[&format!("side 1: {first}"), &format!("side 1: {second}")])
            .says(&[&format!("side 2: {first}"), &format!("side 2: {second}")])
            .says(&["serve only its members"]);
    }
    // What it says to do helps.
    array
        .sandbox
        .uraid(["wipe", "--force", &second])
        .succeeded();
    let elsewhere = Sandbox::elsewhere();
    array.server = elsewhere.serve_with("--force", &array.members[..1]);
    array.run("add", &[&array.members[1]]).succeeded();
    array.server.wait_state(&array.sandbox, "optimal");
    array.run("fail", &[&array.members[0]]).succeeded();
    let found = array.server.connect().read(0, 4096).expect("read");
    assert_eq!(found, [1; 4096]);
}

#[test]
fn too_many_missing_members_are_refused_also_with_force() {
    let mut array = Array::new("--level raid5", 4);
    let uuid = member(&array.status(), 3)["uuid"].clone();
    array.stop();
    let missing = format!("slot 3 ({})", uuid.as_str().expect("a UUID"));
    for options in ["", "--force"] {
        let ran = array.sandbox.serve_refused(options, &array.members[..2]);
        ran.exits(REFUSED)
            .says(&["2 of 4 members are here and up to date, at least 3 are needed"])
            .says(&[&missing])
            .says(&["attach what is missing"]);
    }
}

#[test]
fn an_old_image_that_is_one_too_many_is_named_as_such() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    let old = array.sandbox.copies("old-", &array.members[1..2]);
    array.server = array.sandbox.serve(&array.members);
    for i in 0..60 {
        array.rewrite(i * 29, 1 + i % 40, 2);
    }
    array.stop();
    let with_old = [array.members[0].clone(), old[0].clone()];
    let ran = array.sandbox.serve_refused("", &with_old);
    ran.exits(REFUSED)
        .says(&["1 of 3 members are here and up to date"])
        .says(&["old-m1: stale: its journal is older"])
        .says(&["old image of the member"]);
    let with_new = [array.members[0].clone(), array.members[1].clone()];
    array.server = array.sandbox.serve(&with_new);
    array.assert_intact();
}

#[test]
fn a_member_that_left_is_named_with_since_when() {
    let mut array = Array::new("--level raid5", 3);
    array.run("fail", &[&array.members[1]]).succeeded();
    array.rewrite(0, 10, 2);
    array.stop();
    let with_stale = [array.members[0].clone(), array.members[1].clone()];
    let ran = array.sandbox.serve_refused("", &with_stale);
    ran.exits(REFUSED)
        .says(&["m1: stale: it left the array at config"])
        .says(&["missing: slot 2"]);
    array.server = array.sandbox.serve(&array.members);
    let log = array.server.log();
    assert!(log.contains("take it back with `uraid add`"), "{log}");
    array.assert_intact();
}

#[test]
fn members_of_several_arrays_are_all_named_by_array() {
    let mut array = Array::new("--level raid5 --name one", 3);
    array.stop();
    let others: Vec<PathBuf> = ["x", "y"].map(|name| array.sandbox.path(name)).into();
    let create = "--level raid1 --name other --size 96M";
    array.sandbox.create(create, &others);
    let mixed = [&array.members[..2], &others].concat();
    let [first, second] = [0, 1].map(|i| array.members[i].display().to_string());
    // Served they would be two arrays; what is done to one array at a time names both.
    let check = std::iter::once("check".into()).chain(mixed);
    let ran = array.sandbox.uraid(check);
    ran.exits(REFUSED)
        .says(&[&format!("{first}, {second} belong to one")])
        .says(&["/y belong to other"])
        .says(&["name the members of one"]);
}

#[test]
fn what_holds_no_superblock_is_named_one_by_one() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    let blank = array.blank("blank");
    for copy in [4 << 10, 512 << 10] {
        let end = fs::metadata(&array.members[0]).expect("metadata").len();
        for start in [0, end - MIB] {
            // Past the magic: it still looks like a superblock.
            let range = start + copy + 4096..start + copy + 8192;
            overwrite(&array.members[0], &range, 0xff);
        }
    }
    let these = [array.members[0].clone(), blank.clone()];
    let ran = array.sandbox.serve_refused("", &these).exits(FAILED);
    ran.says(&["none of these holds a valid superblock"])
        .says(&["m0: superblock A at the start is damaged"])
        .says(&["blank: holds no uraid superblock"]);
    let these = [array.members[0].clone(), array.members[1].clone(), blank];
    let ran = array.sandbox.serve_refused("", &these).exits(REFUSED);
    ran.says(&["1 of 3 members are here"])
        .says(&["m0: superblock B at the end is damaged"])
        .says(&["blank: holds no uraid superblock"])
        .says(&["leave it out"]);
}

#[test]
fn a_config_that_was_written_to_some_members_only_was_never_in_force() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    // A crash came when member 2 had been declared failed on member 0 alone.
    half_write_failure(&array.members[0], 2);
    array.server = array.sandbox.serve(&array.members);
    assert_eq!(array.status()["state"], "optimal");
    array.run("fail", &[&array.members[1]]).succeeded();
    array.assert_intact();
}

/// Writes to `member` alone the config in which the member of `slot` has failed.
fn half_write_failure(member: &Path, slot: u16) {
    let bytes = fs::read(member).expect("read the member");
    let mut superblock = superblock_of(&bytes);
    superblock.previous = superblock.config.clone();
    superblock.write += 1;
    let config = &mut superblock.config;
    config.parent = config.nonce;
    config.nonce += 1;
    config.epoch += 1;
    let failed = config.members().find(|(_, e)| e.role == Some(slot));
    let (index, _) = failed.expect("a member in the slot");
    config.mark_left(index);
    let file = OpenOptions::new().write(true).open(member).expect("open");
    for offset in Superblock::offsets(superblock.write, bytes.len() as u64) {
        file.write_all_at(&superblock.encode(), offset)
            .expect("write");
    }
}

#[test]
fn what_a_read_only_server_refuses_says_how_it_would_work() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    array.server = array.sandbox.serve_with("--read-only", &array.members);
    array
        .run("fail", &[&array.members[0]])
        .exits(REFUSED)
        .says(&["without --read-only"]);
    array.assert_intact();
}

#[test]
fn damaged_superblocks_cost_the_member_not_the_array() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    let len = fs::metadata(&array.members[1]).expect("metadata").len();
    let file = OpenOptions::new()
        .write(true)
        .open(&array.members[1])
        .expect("open");
    file.write_all_at(&vec![0xff; MIB as usize], 0)
        .expect("write");
    file.write_all_at(&vec![0xff; MIB as usize], len - MIB)
        .expect("write");
    array.server = array.sandbox.serve(&array.members);
    assert_eq!(array.status()["state"], "degraded");
    array.assert_intact();
}

#[test]
fn one_damaged_superblock_copy_costs_nothing() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    let file = OpenOptions::new()
        .write(true)
        .open(&array.members[1])
        .expect("open");
    file.write_all_at(&[0xff; 4096], 4096).expect("write");
    array.server = array.sandbox.serve(&array.members);
    assert_eq!(array.status()["state"], "optimal");
    array.assert_intact();
}

#[test]
fn second_server_on_the_same_members_is_refused() {
    let array = Array::new("--level raid5", 3);
    // It waits for the first one to let go, about 30 seconds, and then gives up.
    let ran = array.sandbox.serve_refused("", &array.members);
    ran.exits(REFUSED).says(&["in use", "locked", "another"]);
    array.assert_intact();
    assert_eq!(array.status()["state"], "optimal");
}

#[test]
fn rebuild_command_works_on_a_stopped_array() {
    let mut array = Array::new("--level raid5", 3);
    array.stop();
    fs::remove_file(&array.members[2]).expect("remove");
    let new = array.blank("m2-new");
    let mut args: Vec<PathBuf> = vec!["rebuild".into(), new.clone(), "--members".into()];
    args.extend_from_slice(&array.members[..2]);
    array.sandbox.uraid(&args).succeeded();
    array.server = array
        .sandbox
        .serve(&[array.members[0].clone(), array.members[1].clone(), new]);
    assert_eq!(array.status()["state"], "optimal");
    array.run("fail", &[&array.members[0]]).succeeded();
    array.assert_intact();
}

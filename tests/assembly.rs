//! Starts with what is left: members missing, stale, damaged, doubled, in other hands.

mod common;

use common::server::member;
use common::{Array, DEGRADED, FAILED, MIB, REFUSED, Sandbox};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
    let ran = array.sandbox.serve_refused("", &array.members);
    ran.exits(REFUSED).says(&["split"]);
    let ran = array.sandbox.serve_refused("--force", &array.members);
    ran.exits(REFUSED); // force is no merge
}

#[test]
fn too_many_missing_members_are_refused_also_with_force() {
    let mut array = Array::new("--level raid5", 4);
    array.stop();
    let ran = array.sandbox.serve_refused("--force", &array.members[..2]);
    assert!(ran.code == REFUSED || ran.code == FAILED, "{ran}");
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

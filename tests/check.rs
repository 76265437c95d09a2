//! `uraid check`: an array that is not served, looked at without changing a byte.

mod common;

use common::damage::overwrite;
use common::places::Places;
use common::sandbox::contents;
use common::{Array, FAILED, REFUSED, Ran, Sandbox, USAGE};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// An array at rest, whose content lay in place when it was stopped.
fn stopped(options: &str, count: usize) -> (Array, Places) {
    let mut array = Array::new(options, count);
    array.stop();
    let places = Places::read(&array.members);
    (array, places)
}

/// When each file was last changed, in nanoseconds, and its attributes.
fn times(members: &[PathBuf]) -> Vec<(i64, i64, i64, i64)> {
    let time = |member| {
        let meta = fs::metadata(member).expect("metadata");
        (
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        )
    };
    members.iter().map(time).collect()
}

/// `uraid check --json` of these members, which must not be written to by it.
#[track_caller]
fn check(sandbox: &Sandbox, members: &[PathBuf], code: i32) -> Value {
    let before = times(members);
    let args = ["check".into(), "--json".into()];
    let ran = sandbox.uraid(args.into_iter().chain(members.to_vec()));
    assert_eq!(before, times(members), "a member was touched: {ran}");
    ran.exits(code).json()
}

/// As [`check`], and compares every byte.
#[track_caller]
fn check_bytes(sandbox: &Sandbox, members: &[PathBuf], code: i32) -> Value {
    let before = contents(members);
    let report = check(sandbox, members, code);
    assert!(before == contents(members), "a member was changed");
    report
}

/// `uraid check` for people.
fn check_text(sandbox: &Sandbox, members: &[PathBuf]) -> Ran {
    sandbox.uraid(std::iter::once("check".into()).chain(members.to_vec()))
}

fn counts(report: &Value, which: &str) -> Vec<u64> {
    let members = report["array"]["scrub"]["members"].as_array();
    let count = |m: &Value| m[which].as_u64().expect("a count");
    members.expect("members").iter().map(count).collect()
}

#[test]
fn a_stopped_array_is_clean() {
    let (array, _) = stopped("--level raid6", 6);
    let report = check(&array.sandbox, &array.members, 0);
    assert_eq!(report["result"], "clean");
    assert_eq!(report["replay"], "clean");
    assert_eq!(report["unused"], json!([]));
    assert_eq!(report["array"]["scrub"]["state"], "finished");
    let text = check_text(&array.sandbox, &array.members).exits(0).stdout;
    assert!(text.contains("result  clean"), "{text}");
}

#[test]
fn members_are_found_by_a_scan() {
    let (array, _) = stopped("--level raid5", 3);
    let here = array.sandbox.dir().as_os_str();
    let args = ["check".as_ref(), "--scan".as_ref(), here, "--json".as_ref()];
    let report = array.sandbox.uraid(args).exits(0).json();
    assert_eq!(report["array"]["members"].as_array().map(Vec::len), Some(3));
}

#[test]
fn rot_is_reported_by_member_and_left_alone() {
    let (mut array, places) = stopped("--level raid6", 6);
    for block in [3, 300, 1500] {
        places.on_role(block, 2).rot();
    }
    places.on_role(3, 5).rot();
    let report = check(&array.sandbox, &array.members, FAILED);
    assert_eq!(report["result"], "repairable");
    assert_eq!(counts(&report, "bad_blocks"), [0, 0, 3, 0, 0, 1]);
    assert_eq!(counts(&report, "repaired_blocks"), [0; 6]);
    let text = check_text(&array.sandbox, &array.members).stdout;
    assert!(
        text.contains("member 2") && text.contains("3 wrong"),
        "{text}"
    );
    assert!(text.contains("uraid scrub start --name raid6"), "{text}");

    // What it says to do helps.
    array.server = array.sandbox.serve(&array.members);
    array.run("scrub", &[]).exits(USAGE);
    let control = array.server.control.as_os_str();
    let scrub = ["scrub", "start", "--wait", "--control"].map(AsRef::as_ref);
    let scrub = scrub.into_iter().chain([control]);
    array.sandbox.uraid(scrub).exits(0);
    array.stop();
    assert_eq!(check(&array.sandbox, &array.members, 0)["result"], "clean");
}

#[test]
fn damaged_metadata_is_reported_by_member() {
    let (array, places) = stopped("--level raid5", 3);
    overwrite(&array.members[0], &places.checkpoints(), 0x5a);
    let report = check(&array.sandbox, &array.members, FAILED);
    // Without any checkpoint a member is not known to be up to date: it is not used.
    assert_eq!(report["unused"].as_array().map(Vec::len), Some(1));

    let (array, places) = stopped("--level raid6", 4);
    overwrite(&array.members[1], &places.map_page(), 0x5a);
    overwrite(&array.members[2], &places.checksum_page(0), 0x5a);
    let report = check(&array.sandbox, &array.members, FAILED);
    assert_eq!(report["result"], "repairable");
    assert_eq!(counts(&report, "bad_metadata"), [0, 1, 1, 0]);
    assert_eq!(
        counts(&report, "bad_blocks"),
        [0; 4],
        "their blocks are right"
    );
}

#[test]
fn a_damaged_superblock_copy_is_reported() {
    let (array, _) = stopped("--level raid5", 3);
    for copy in [4 << 10, 512 << 10] {
        overwrite(&array.members[1], &(copy + 4096..copy + 8192), 0x5a);
    }
    let report = check(&array.sandbox, &array.members, FAILED);
    assert_eq!(counts(&report, "bad_metadata"), [0, 1, 0]);
    let ran = check_text(&array.sandbox, &array.members).exits(FAILED);
    ran.says(&["superblock A at the start is damaged"]);
}

#[test]
fn losses_are_told_with_their_place_in_the_export() {
    let (array, places) = stopped("--level raid5", 3);
    for block in [4, 5] {
        places.data(block).rot();
        places.parity(block, 0).rot();
    }
    let report = check_bytes(&array.sandbox, &array.members, FAILED);
    assert_eq!(report["result"], "lost");
    let expected = json!([{"offset_bytes": 4 * 4096, "length_bytes": 2 * 4096}]);
    assert_eq!(report["array"]["lost"], expected);
    let text = check_text(&array.sandbox, &array.members).stdout;
    assert!(text.contains("8 KiB at byte 16384"), "{text}");
    assert!(
        text.contains("restore what is lost from a backup"),
        "{text}"
    );
}

#[test]
fn a_degraded_array_is_checked_and_called_degraded() {
    let (array, places) = stopped("--level raid6", 6);
    let rest = &array.members[..5];
    let report = check(&array.sandbox, rest, FAILED);
    assert_eq!(report["result"], "degraded");
    assert_eq!(counts(&report, "bad_metadata"), [0; 6]);
    let text = check_text(&array.sandbox, rest).stdout;
    assert!(text.contains("degraded: without member 5"), "{text}");
    assert!(text.contains("uraid rebuild --name raid6 NEW"), "{text}");
    places.on_role(8, 0).rot();
    let report = check(&array.sandbox, rest, FAILED);
    assert_eq!(report["result"], "repairable");
    assert_eq!(counts(&report, "bad_blocks"), [1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_member_that_is_of_no_use_is_named_with_why() {
    let mut array = Array::new("--level raid6", 6);
    array.run("fail", &[&array.members[3]]).succeeded();
    array.rewrite(0, 100, 2);
    array.stop();
    let mut given = array.members.clone();
    given.push(array.blank("blank"));
    let report = check(&array.sandbox, &given, FAILED);
    assert_eq!(report["result"], "degraded");
    let unused = report["unused"].as_array().expect("a list");
    let why = |i: usize| unused[i]["why"].as_str().expect("a text");
    assert_eq!(unused.len(), 2, "{report:#}");
    assert!(
        why(0).contains("m3") && why(0).contains("stale"),
        "{}",
        why(0)
    );
    assert!(why(1).contains("blank") && why(1).contains("no uraid superblock"));
}

#[test]
fn a_killed_array_is_replayed_in_memory() {
    let mut array = Array::new("--level raid6", 5);
    for block in [5, 77, 1000, 1999] {
        array.rewrite(block, 1, 2); // rows in the journal, which nothing puts in place
    }
    array.kill();
    let (sandbox, members) = (&array.sandbox, &array.members);
    let report = check_bytes(sandbox, members, 0);
    assert_eq!(report["result"], "clean");
    assert_ne!(report["replay"], "clean");
    let text = check_text(sandbox, members).exits(0).stdout;
    assert!(text.contains("replay  the next start replays"), "{text}");
    check(sandbox, &members[1..], FAILED); // degraded, and replayed all the same
    array.server = sandbox.serve(members);
    array.assert_intact(); // what was checked is what is served
}

#[test]
fn a_scrub_under_way_is_none_of_its_business() {
    let mut array = Array::new("--level raid5", 3);
    let control = array.server.control.as_os_str();
    let start = ["scrub", "start", "--rate-max", "64K", "--control"].map(AsRef::as_ref);
    let start = start.into_iter().chain([control]);
    array.sandbox.uraid(start).succeeded();
    array.kill();
    let report = check(&array.sandbox, &array.members, 0);
    assert_eq!(report["array"]["scrub"]["state"], "finished");
    array.server = array.sandbox.serve(&array.members);
    assert_eq!(array.status()["scrub"]["state"], "running");
}

// ---- refused ----

#[test]
fn an_array_that_is_served_is_refused_before_long() {
    let array = Array::new("--level raid5", 3);
    let begun = std::time::Instant::now();
    let ran = check_text(&array.sandbox, &array.members).exits(REFUSED);
    ran.says(&["uraid scrub start"]);
    assert!(begun.elapsed().as_secs() < 20, "it waits like a server");
    array.assert_intact();
}

#[test]
fn too_few_members_and_no_members_are_refused() {
    let (array, _) = stopped("--level raid5", 4);
    let ran = check_text(&array.sandbox, &array.members[..2]).exits(REFUSED);
    ran.says(&["at least 3 are needed"]);
    let blank = array.blank("blank");
    check_text(&array.sandbox, &[blank]).exits(FAILED);
    array.sandbox.uraid(["check"]).exits(USAGE);
}

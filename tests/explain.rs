//! `uraid explain`: why members do or do not make an array, and advice that works. Nothing is
//! written.

mod common;

use common::damage::{Zones, flip_bit};
use common::sandbox::{as_args, contents, raid5};
use common::{Array, FAILED, REFUSED, Ran, Sandbox};
use serde_json::Value;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::PathBuf;

/// Explains members, and compares them before and after.
#[track_caller]
fn explain(sandbox: &Sandbox, members: &[PathBuf]) -> Ran {
    let before = contents(members);
    let words = ["explain", "--json"].map(OsStr::new).into_iter();
    let ran = sandbox.uraid(words.chain(as_args(members)));
    assert!(
        contents(members) == before,
        "explaining changed something: {ran}"
    );
    ran
}

/// The one array that was explained.
#[track_caller]
fn array(ran: &Ran) -> Value {
    let mut report = ran.json();
    assert_eq!(report["arrays"].as_array().map(Vec::len), Some(1), "{ran}");
    report["arrays"][0].take()
}

/// All notes of a member, in one string.
fn notes(array: &Value, member: usize) -> String {
    array["members"][member]["notes"].to_string()
}

/// Everything that is advised, in one string.
fn next(array: &Value) -> String {
    array["next"].to_string()
}

#[test]
fn a_healthy_array_is_said_to_be_well() {
    let (sandbox, members) = raid5();
    let ran = explain(&sandbox, &members).exits(0);
    let found = array(&ran);
    assert_eq!(found["verdict"], "well");
    assert_eq!(
        found["members"][2]["says"],
        "slot 2, in-sync under config 1"
    );
    assert!(
        found["members"]
            .as_array()
            .expect("members")
            .iter()
            .all(|m| m["counts"] == true)
    );
    assert!(next(&found).contains("uraid serve "), "{found:#}");
    let scan = sandbox.path(".");
    let text = sandbox.uraid(["explain".as_ref(), "--scan".as_ref(), scan.as_os_str()]);
    assert!(
        text.succeeded()
            .stdout
            .contains("start with all its members")
    );
}

#[test]
fn a_member_that_left_does_not_count_and_can_be_added() {
    let mut array_ = Array::new("--level raid5", 3);
    array_.run("fail", &[&array_.members[1]]).succeeded();
    array_.rewrite(0, 10, 2);
    array_.stop();
    let found = array(&explain(&array_.sandbox, &array_.members).exits(FAILED));
    assert_eq!(found["verdict"], "incomplete");
    assert_eq!(found["members"][1]["counts"], false);
    assert!(
        notes(&found, 1).contains("stale: it left the array"),
        "{found:#}"
    );
    let advice = format!("uraid add --name raid5 {}", array_.members[1].display());
    assert!(next(&found).contains(&advice), "{found:#}");

    // With that one alone beside another, too few count.
    let found = array(&explain(&array_.sandbox, &array_.members[..2]).exits(REFUSED));
    assert_eq!(found["verdict"], "refused");
    assert!(
        found["text"].to_string().contains("at least 2 are needed"),
        "{found:#}"
    );
    assert!(notes(&found, 1).contains("stale"), "{found:#}");
    assert_eq!(found["members"][0]["counts"], true);
    assert!(found["absent"].to_string().contains("slot 2"), "{found:#}");
    assert!(
        found["next"][0].to_string().contains("attach slot 2"),
        "{found:#}"
    );
    array_.server = array_.sandbox.serve(&array_.members);
}

#[test]
fn an_older_image_of_a_member_is_told_by_its_journal() {
    let mut array_ = Array::new("--level raid5", 3);
    array_.stop();
    let old = array_.sandbox.copies("old-", &array_.members[1..2]);
    array_.server = array_.sandbox.serve(&array_.members);
    for i in 0..60 {
        array_.rewrite(i * 29, 1 + i % 40, 2);
    }
    array_.stop();
    let members = [
        array_.members[0].clone(),
        old[0].clone(),
        array_.members[2].clone(),
    ];
    let found = array(&explain(&array_.sandbox, &members).exits(FAILED));
    assert!(
        notes(&found, 1).contains("old image of the member"),
        "{found:#}"
    );
    array_.server = array_.sandbox.serve(&array_.members);
}

#[test]
fn half_a_mirror_is_told_what_force_would_mean_and_what_is_safe() {
    let mut array_ = Array::new("--level raid1", 2);
    array_.stop();
    let elsewhere = Sandbox::elsewhere(); // a home without witnesses
    let half = [array_.members[0].clone()];
    let found = array(&explain(&elsewhere, &half).exits(REFUSED));
    let advice: Vec<String> = found["next"]
        .as_array()
        .expect("advice")
        .iter()
        .map(Value::to_string)
        .collect();
    assert!(advice[0].contains("attach slot 1"), "{found:#}");
    assert!(advice[1].contains("uraid serve --read-only"), "{found:#}");
    assert!(advice[2].contains("uraid serve --force"), "{found:#}");
    array_.server = elsewhere.serve_with("--force", &half);
}

#[test]
fn both_sides_of_a_split_brain_are_offered_for_a_look() {
    let mut array_ = Array::new("--level raid1", 2);
    array_.stop();
    for side in [0, 1] {
        let elsewhere = Sandbox::elsewhere();
        elsewhere
            .serve_with("--force", &array_.members[side..=side])
            .stop();
    }
    let found = array(&explain(&array_.sandbox, &array_.members).exits(REFUSED));
    assert!(
        found["text"].to_string().contains("split brain"),
        "{found:#}"
    );
    for member in &array_.members {
        let advice = format!("uraid serve --read-only {} ", member.display());
        assert!(next(&found).contains(&advice), "{found:#}");
    }
    assert!(
        !next(&found).contains("--force"),
        "force is no merge: {found:#}"
    );
    array_.server = Sandbox::elsewhere().serve_with("--force", &array_.members[..1]);
}

#[test]
fn damaged_copies_and_strangers_are_named() {
    let (sandbox, members) = raid5();
    let zones = Zones::of(&sandbox, &members[0]);
    let bytes = contents(&members).swap_remove(0);
    let is_written = |copy: &&Range<u64>| bytes[copy.start as usize] != 0;
    let written: Vec<_> = zones.superblocks.iter().filter(is_written).collect();
    flip_bit(&members[0], written[0].start + 300, 1);
    for copy in written {
        flip_bit(&members[1], copy.start + 300, 1);
    }
    let stranger = sandbox.file("stranger", 1 << 20);
    let all: Vec<PathBuf> = members.iter().cloned().chain([stranger.clone()]).collect();
    let ran = explain(&sandbox, &all).exits(FAILED);
    let found = array(&ran);
    assert_ne!(notes(&found, 0), "[]", "the damaged copy shows: {ran}");
    assert!(found["text"].to_string().contains("degraded"), "{ran}");
    assert!(next(&found).contains("attach slot 1"), "{ran}");
    let strangers = ran.json()["strangers"].clone();
    let damaged = strangers[0]["findings"].to_string();
    assert!(!damaged.contains("no member"), "{ran}");
    assert_eq!(strangers[0]["path"], members[1].to_str().expect("UTF-8"));
    assert!(
        strangers[1]["findings"].to_string().contains("no member"),
        "{ran}"
    );
    sandbox.serve(
        &members[..1]
            .iter()
            .chain(&members[2..])
            .cloned()
            .collect::<Vec<_>>(),
    );
}

#[test]
fn what_is_served_is_asked_of_its_server() {
    let array_ = Array::new("--level raid5", 3);
    let ran = array_.sandbox.uraid([
        "explain".as_ref(),
        "--json".as_ref(),
        array_.members[0].as_os_str(),
    ]);
    assert!(
        array(&ran)["members"][0]["notes"]
            .to_string()
            .contains("in use"),
        "{ran}"
    );
    array_.assert_intact();
}

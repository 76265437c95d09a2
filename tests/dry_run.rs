//! `--dry-run`: says what would be done and what it would risk, refuses what the real command
//! refuses, with the same exit code, and changes not one byte.

mod common;

use common::sandbox::{contents, raid5};
use common::server::count_in_state;
use common::{Array, DEGRADED, MIB, REFUSED, Ran, Sandbox};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use uraid_core::superblock::copy_ranges;

const DRY: &str = "--dry-run";

/// Runs a command dry and compares the members, which the server holds meanwhile, before and after.
#[track_caller]
fn dry(array: &Array, command: &str, args: &[&Path]) -> Ran {
    array.server.connect().flush().expect("flush");
    let before = (superblocks(&array.members), states(array));
    let control = [OsStr::new("--control"), array.server.control.as_os_str()];
    let words = command.split(' ').map(OsStr::new).chain(control);
    let args = args.iter().map(|arg| arg.as_os_str());
    let ran = array
        .sandbox
        .uraid(words.chain(args).chain([OsStr::new(DRY)]));
    let after = (superblocks(&array.members), states(array));
    assert!(
        before == after,
        "the dry run of {command} changed something: {ran}"
    );
    ran
}

/// What tells who is a member. The rest of a live array moves by itself, the log of events too.
fn superblocks(members: &[PathBuf]) -> Vec<Vec<u8>> {
    let copies = |bytes: Vec<u8>| {
        let ranges = copy_ranges(bytes.len() as u64).into_iter();
        let copies = ranges.map(|range| &bytes[range.start as usize..range.end as usize]);
        copies.collect::<Vec<_>>().concat()
    };
    contents(members).into_iter().map(copies).collect()
}

/// Who has which slot, and how it is.
fn states(array: &Array) -> Vec<[Value; 3]> {
    let status = array.status();
    let members = status["members"].as_array().expect("members").iter();
    let fields = ["slot", "uuid", "state"];
    members
        .map(|m| fields.map(|field| m[field].clone()))
        .collect()
}

#[track_caller]
fn tells(ran: Ran, words: &str) {
    let ran = ran.succeeded();
    assert!(ran.stdout.contains(words), "no {words:?}: {ran}");
    assert!(ran.stdout.contains("nothing was changed"), "{ran}");
}

#[test]
fn failing_members_is_judged_by_what_would_be_left() {
    let array = Array::new("--level raid6", 4);
    tells(
        dry(&array, "fail", &[&array.members[0]]),
        "any one more member would be survived",
    );
    array.run("fail", &[&array.members[0]]).succeeded();
    tells(
        dry(&array, "fail", &[&array.members[1]]),
        "one more member would lose data",
    );
    array.run("fail", &[&array.members[1]]).succeeded();

    // Refused like the real thing, in the same words.
    let refused = dry(&array, "fail", &[&array.members[2]]).exits(REFUSED);
    let real = array.run("fail", &[&array.members[2]]).exits(REFUSED);
    assert_eq!(refused.stderr, real.stderr);
    assert!(real.stderr.contains("blocks of data"), "{real}");

    // With force it says what that would cost: 8 MiB were written, and three
    // of four members hold three quarters of that.
    let forced = [Path::new("--force"), array.members[2].as_path()];
    tells(
        dry(&array, "fail", &forced),
        "would leave 1536 blocks of data (6 MiB) unavailable",
    );
    assert_eq!(count_in_state(&array.status(), "failed"), 2);
    array.assert_intact();
}

#[test]
fn a_mirror_of_a_raid10_loses_what_lies_on_it() {
    let array = Array::new("--level raid10", 4);
    array.run("fail", &[Path::new("0")]).succeeded();
    tells(
        dry(&array, "fail", &[Path::new("1")]),
        "one more member would lose data",
    );
    dry(&array, "fail", &[Path::new("2")]).exits(REFUSED);
    let forced = [Path::new("--force"), Path::new("2")];
    tells(
        dry(&array, "fail", &forced),
        "would leave 1024 blocks of data (4 MiB) unavailable",
    );
    array.assert_intact();
}

#[test]
fn what_is_not_in_service_is_no_risk_and_what_is_unknown_is_refused() {
    let array = Array::new("--level raid5", 3);
    dry(&array, "remove", &[&array.members[1]]).exits(REFUSED);
    array.run("fail", &[&array.members[1]]).succeeded();
    tells(
        dry(&array, "remove", &[&array.members[1]]),
        "the redundancy stays as it is",
    );
    dry(&array, "fail", &[&array.members[1]]).exits(REFUSED);
    let real = array.run("fail", &[Path::new("/no/such/member")]);
    dry(&array, "fail", &[Path::new("/no/such/member")]).exits(real.code);
}

#[test]
fn adding_says_what_would_become_of_the_device() {
    let array = Array::new("--level raid5", 3);
    let blank = array.blank("blank");
    tells(dry(&array, "add", &[&blank]), "would be a spare");
    array.run("fail", &[&array.members[0]]).succeeded();
    tells(
        dry(&array, "add", &[&blank]),
        "would be rebuilt as member 0: 4 MiB to copy",
    );
    tells(
        dry(&array, "add", &[&array.members[0]]),
        "taken back as member 0, and catch up",
    );
    assert!(contents(&[blank]).iter().flatten().all(|byte| *byte == 0));

    let small = array.sandbox.file("small", MIB);
    let real = array.run("add", &[&small]);
    let would = dry(&array, "add", &[&small]);
    assert_eq!((would.code, &would.stderr), (real.code, &real.stderr));
    let elsewhere = Sandbox::new();
    let strangers = elsewhere.members(2);
    elsewhere.create("--level raid1 --name other --size 96M", &strangers);
    dry(&array, "add", &[&strangers[0]]).exits(REFUSED);
    let forced = [Path::new("--force"), strangers[0].as_path()];
    let before = contents(&strangers);
    tells(dry(&array, "add", &forced), "it was a member of \"other\"");
    assert!(contents(&strangers) == before);

    // The device is let go of again: what was tried can be done.
    array.run("add", &[&array.members[0]]).succeeded();
    array.server.wait_state(&array.sandbox, "optimal");
    array.assert_intact();
}

#[test]
fn replacing_keeps_the_redundancy_where_the_old_member_serves() {
    let array = Array::new("--level raid5", 3);
    let blank = array.blank("blank");
    tells(
        dry(&array, "replace", &[Path::new("1"), &blank]),
        "the redundancy is kept throughout",
    );
    array.run("fail", &[Path::new("1")]).succeeded();
    tells(
        dry(&array, "replace", &[Path::new("1"), &blank]),
        "that one does not serve",
    );
    assert_eq!(array.status()["state"], "degraded");
}

#[test]
fn stop_clear_and_scrub_can_be_tried() {
    let array = Array::new("--level raid5", 3);
    tells(
        dry(&array, "stop", &[]),
        "nothing that was answered would be lost",
    );
    tells(dry(&array, "clear", &[]), "would be zeroed");
    tells(dry(&array, "scrub start", &[]), "4 MiB of each member");
    dry(&array, "scrub pause", &[]).exits(REFUSED);
    assert_eq!(array.status()["scrub"]["state"], "never");
    array.assert_intact();
}

#[test]
fn a_rebuild_is_planned_served_or_not() {
    let mut array = Array::new("--level raid5", 3);
    let blank = array.blank("blank");
    array.run("fail", &[Path::new("2")]).succeeded();
    tells(
        dry(&array, "rebuild", &[&blank]),
        "would be rebuilt as member 2: 4 MiB to copy",
    );
    array.stop();
    let mut members = array.members.clone();
    members[2] = blank;
    let before = contents(&members);
    let args = [
        OsStr::new("rebuild"),
        OsStr::new(DRY),
        OsStr::new("--members"),
    ];
    let args = args.into_iter().chain(common::sandbox::as_args(&members));
    tells(
        array.sandbox.uraid(args),
        "would be rebuilt as member 2: 4 MiB to copy",
    );
    assert!(
        contents(&members) == before,
        "the dry run changed something"
    );
    array.server = array.sandbox.serve(&members[..2]);
    array.run("status", &[]).exits(DEGRADED);
    array.assert_intact();
}

#[test]
fn create_and_wipe_leave_everything_as_it_is() {
    let (sandbox, members) = raid5();
    let before = contents(&members);
    let new = sandbox.path("new");
    let made = [new.clone(), sandbox.path("new2")];
    tells(
        sandbox.try_create("--dry-run --level raid1 --size 64M", &made),
        "would be made",
    );
    assert!(!new.exists());
    sandbox
        .try_create("--dry-run --level raid1", &members[..2])
        .exits(REFUSED);
    let ran = sandbox.try_create("--dry-run --force --level raid1", &members[..2]);
    tells(ran, "holds a member of array raid5");

    let wipe = |options: &[&str], members: &[PathBuf]| {
        let words = ["wipe", DRY].into_iter().chain(options.iter().copied());
        let args = words
            .map(OsStr::new)
            .chain(common::sandbox::as_args(members));
        sandbox.uraid(args)
    };
    tells(
        wipe(&["--force"], &members[..1]),
        "none of them could be lost then",
    );
    tells(
        wipe(&["--force"], &members[..2]),
        "all its data would be lost",
    );
    let blank = [sandbox.file("blank", 64 * MIB)];
    assert_eq!(
        wipe(&[], &blank).code,
        sandbox.uraid(["wipe".as_ref(), blank[0].as_os_str()]).code
    );
    assert!(contents(&members) == before, "a dry run changed something");
    sandbox.serve(&members);
}

#[test]
fn programs_are_told_that_it_was_dry() {
    let array = Array::new("--level raid1", 2);
    let ran = dry(&array, "fail", &[Path::new("--json"), Path::new("0")]);
    let told = ran.succeeded().json();
    assert_eq!(told["dry_run"], true);
    assert!(
        told["message"]
            .as_str()
            .expect("text")
            .contains("would be out of service")
    );
    let refused = array.sandbox.uraid(["upgrade", DRY]);
    assert_eq!(
        refused.code,
        common::USAGE,
        "an upgrade cannot be tried: {refused}"
    );
}

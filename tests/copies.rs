//! Mirrors that are given one more copy while they serve.

mod common;

use common::client::Client;
use common::pattern::{BLOCK, Random, block, blocks, version_of};
use common::server::{count_in_state, member, scrub_to_end, slot_of};
use common::{Array, FAILED, MIB, REFUSED, Ran};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Clients that write meanwhile, each on blocks of its own.
const WRITERS: u64 = 3;
/// Where the blocks of the first begin, behind what the array held before, and how many each has.
const FIRST_BLOCK: u64 = 16 * MIB / BLOCK as u64;
const BLOCKS_EACH: u64 = 2048;

trait Tells {
    fn tells(self, all: &[&str]);
}

impl Tells for Ran {
    /// Panics unless all of these are said anywhere.
    #[track_caller]
    fn tells(self, all: &[&str]) {
        let text = format!("{}{}", self.stdout, self.stderr);
        for expected in all {
            assert!(text.contains(expected), "expected {expected:?}: {self}");
        }
    }
}

fn add_copy(array: &Array, options: &[&str], device: &Path) -> Ran {
    let words = ["--copy"].iter().chain(options).map(Path::new);
    let words: Vec<&Path> = words.chain([device]).collect();
    array.run("add", &words)
}

/// Writes and reads its blocks until told to stop; the version of each.
fn work(mut client: Client, writer: u64, stop: &AtomicBool) -> Vec<u64> {
    let mut random = Random::new(writer);
    let mut versions = vec![0; BLOCKS_EACH as usize];
    let first = FIRST_BLOCK + writer * BLOCKS_EACH;
    let mut version = 0;
    while !stop.load(Ordering::Acquire) {
        version += 1;
        let at = random.below(BLOCKS_EACH - 20);
        let count = 1 + random.below(20);
        let data = blocks(first + at, count, version);
        client
            .write((first + at) * BLOCK as u64, &data)
            .expect("write");
        versions[at as usize..(at + count) as usize].fill(version);
        assert_holds(
            &mut client,
            first + random.below(BLOCKS_EACH),
            first,
            &versions,
        );
    }
    versions
}

#[track_caller]
fn assert_holds(client: &mut Client, number: u64, first: u64, versions: &[u64]) {
    let content = client.read(number * BLOCK as u64, BLOCK).expect("read");
    let version = versions[(number - first) as usize];
    let found = version_of(number, &content);
    assert!(
        content == block(number, version),
        "block {number}: {found:?}, not {version}"
    );
}

/// Gives a mirror a third copy under load, then loses the other two.
fn widen_under_load(serve_options: &str) {
    let mut array = Array::new("--level raid1", 2);
    array.stop();
    array.server = array.sandbox.serve_with(serve_options, &array.members);
    let new = array.blank("new");
    let stop = AtomicBool::new(false);
    let versions: Vec<Vec<u64>> = thread::scope(|scope| {
        let work = |writer| {
            let (client, stop) = (array.server.connect(), &stop);
            scope.spawn(move || work(client, writer, stop))
        };
        let writers: Vec<_> = (0..WRITERS).map(work).collect();
        let ran = add_copy(&array, &["--wait"], &new);
        stop.store(true, Ordering::Release);
        let versions = writers
            .into_iter()
            .map(|w| w.join().expect("no wrong byte"));
        let versions = versions.collect();
        ran.succeeded().tells(&["copy 3 of 3", "optimal"]);
        versions
    });
    let status = array.status();
    assert_eq!(
        (&status["state"], &status["redundancy_left"]),
        (&"optimal".into(), &2.into())
    );
    assert_eq!(slot_of(&status, &new), 2);
    let log = array.server.log();
    assert!(
        log.contains("is copy 3 of 3 now; clients waited for"),
        "{log}"
    );
    for slot in ["0", "1"] {
        array.run("fail", &[Path::new(slot)]).succeeded();
    }
    let mut client = array.server.connect();
    array.assert_intact();
    for (writer, versions) in versions.iter().enumerate() {
        let first = FIRST_BLOCK + writer as u64 * BLOCKS_EACH;
        assert!(versions.iter().any(|v| *v > 0), "nothing was written");
        (first..first + BLOCKS_EACH).for_each(|n| assert_holds(&mut client, n, first, versions));
    }
}

#[test]
fn two_way_mirror_becomes_three_way_under_load() {
    widen_under_load("--readers 0");
}

#[test]
fn two_way_mirror_becomes_three_way_while_other_threads_read() {
    widen_under_load("--readers 2");
}

#[test]
fn a_copy_that_was_added_stays_and_does_as_any_other() {
    let mut array = Array::new("--level raid1 --name tank", 2);
    let new = array.blank("new");
    add_copy(&array, &["--wait"], &new).succeeded();
    array.rewrite(5, 700, 2);
    array.members.push(new.clone());
    array.restart_killed();
    assert_eq!(array.status()["state"], "optimal");
    array.rewrite(300, 900, 3);
    array.restart_on(&array.members.clone());
    array.assert_intact();

    // One of the first leaves, misses something, returns and catches up.
    array.run("fail", &[Path::new("1")]).succeeded();
    array.rewrite(0, 64, 4);
    array
        .run("add", &[&array.members[1]])
        .succeeded()
        .tells(&["catches up"]);
    array.server.wait_state(&array.sandbox, "optimal");
    let report = scrub_to_end(&array.sandbox, &array.server);
    let members = report["members"].as_array().expect("members");
    let is_sound = |m: &Value| m["bad_blocks"] == 0 && m["bad_metadata"] == 0;
    assert!(
        members.len() == 3 && members.iter().all(is_sound),
        "{report:#}"
    );
    assert_eq!(report["inconsistent_rows"], 0, "{report:#}");
    array.run("fail", &[Path::new("0")]).succeeded();
    array.run("fail", &[Path::new("2")]).succeeded();
    array.assert_intact();
    array
        .run("add", &[&new])
        .succeeded()
        .tells(&["back as member 2"]);
    array.server.wait_member(&array.sandbox, 2, "in-sync");

    array.stop();
    let ran = array
        .sandbox
        .uraid([Path::new("examine"), &new])
        .succeeded();
    ran.tells(&["raid1, 1+2"]);
    let ran = array.sandbox.uraid([Path::new("events"), &new]).succeeded();
    ran.tells(&["member-added", "copy 3 of 3"]);
    array.server = array.sandbox.serve_with("--force", &[new]);
    array.assert_intact();
}

#[test]
fn up_to_four_copies_and_no_more() {
    let array = Array::new("--level raid1", 2);
    for copies in [3, 4] {
        let new = array.blank(&format!("copy{copies}"));
        let said = format!("copy {copies} of {copies}");
        add_copy(&array, &["--wait"], &new)
            .succeeded()
            .tells(&[&said]);
    }
    let status = array.status();
    assert_eq!(
        (&status["state"], &status["redundancy_left"]),
        (&"optimal".into(), &3.into())
    );
    add_copy(&array, &[], &array.blank("copy5"))
        .exits(REFUSED)
        .says(&["room for 4 copies", "create"]);
    for slot in ["0", "1", "2"] {
        array.run("fail", &[Path::new(slot)]).succeeded();
    }
    array.assert_intact();
}

#[test]
fn what_cannot_be_given_one_more_copy_is_refused_and_stays_as_it_is() {
    let raid5 = Array::new("--level raid5", 3);
    let new = raid5.blank("new");
    add_copy(&raid5, &[], &new)
        .exits(REFUSED)
        .says(&["only raid1"]);
    assert_eq!(raid5.status()["state"], "optimal");

    let array = Array::new("--level raid1", 2);
    let small = array.sandbox.file("small", 32 * MIB);
    add_copy(&array, &[], &small)
        .exits(FAILED)
        .says(&["too small"]);
    let used = array.blank("used");
    let mut content = vec![0; 96 << 20];
    content[1080..1082].copy_from_slice(&[0x53, 0xef]); // an ext4 file system
    fs::write(&used, &content).expect("write");
    add_copy(&array, &[], &used)
        .exits(REFUSED)
        .says(&["--force"]);
    assert!(
        fs::read(&used).expect("read") == content,
        "it was written to"
    );
    add_copy(&array, &[], &array.members[0]).exits(REFUSED);

    let before = read_all(&array.members);
    let new = array.blank("new");
    add_copy(&array, &["--dry-run"], &new)
        .succeeded()
        .tells(&["copy 3 of 3", "clients would wait"]);
    assert!(
        fs::read(&new).expect("read").iter().all(|b| *b == 0),
        "a dry run writes nothing"
    );
    assert_eq!(superblocks(&before), superblocks(&read_all(&array.members)));

    array.run("fail", &[Path::new("1")]).succeeded();
    for options in [&[][..], &["--dry-run"]] {
        add_copy(&array, options, &new)
            .exits(REFUSED)
            .says(&["must be whole", "member 1 is missing"]);
    }
    assert_eq!(count_in_state(&array.status(), "in-sync"), 1);
    array.assert_intact();
}

fn remove_copy(array: &Array, options: &[&str]) -> Ran {
    let words = ["--copy"].iter().chain(options).map(Path::new);
    array.run("remove", &words.collect::<Vec<_>>())
}

fn assert_two_way(array: &Array) {
    let status = array.status();
    assert_eq!(
        (&status["state"], &status["redundancy_left"]),
        (&"optimal".into(), &1.into())
    );
    assert_eq!(status["members"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_copy_that_was_added_can_be_given_up_under_load_and_added_again() {
    let mut array = Array::new("--level raid1", 2);
    let new = array.blank("new");
    add_copy(&array, &["--wait"], &new).succeeded();
    array.rewrite(5, 700, 2);
    let path = new.to_str().expect("UTF-8");
    remove_copy(&array, &["--dry-run"]).succeeded().tells(&[
        path,
        "would have 2 copies",
        "clients would wait",
    ]);
    assert_eq!(array.status()["redundancy_left"], 2);

    let stop = AtomicBool::new(false);
    let versions = thread::scope(|scope| {
        let (client, stop) = (array.server.connect(), &stop);
        let writer = scope.spawn(move || work(client, 0, stop));
        let ran = remove_copy(&array, &[]);
        stop.store(true, Ordering::Release);
        let versions = writer.join().expect("no wrong byte");
        ran.succeeded()
            .tells(&["2 copies now", path, "no longer a member"]);
        versions
    });
    assert_two_way(&array);
    assert!(array.server.log().contains("clients waited for"));
    remove_copy(&array, &[])
        .exits(REFUSED)
        .says(&["began with 2 copies"]);

    // Its members hold what an array that was never widened does, and who left has no say.
    let mut all = array.members.clone();
    all.push(new.clone());
    array.restart_on(&all);
    assert_two_way(&array);
    array.assert_intact();
    add_copy(&array, &["--wait"], &new)
        .succeeded()
        .tells(&["copy 3 of 3"]);
    for slot in ["0", "1"] {
        array.run("fail", &[Path::new(slot)]).succeeded();
    }
    array.assert_intact();
    let mut client = array.server.connect();
    let written = (FIRST_BLOCK..FIRST_BLOCK + BLOCKS_EACH).step_by(5);
    written.for_each(|n| assert_holds(&mut client, n, FIRST_BLOCK, &versions));
}

#[test]
fn who_has_lost_the_third_copy_can_live_with_two() {
    let mut array = Array::new("--level raid1", 2);
    let new = array.blank("new");
    add_copy(&array, &["--wait"], &new).succeeded();
    array.run("fail", &[Path::new("0")]).succeeded();
    remove_copy(&array, &[])
        .exits(REFUSED)
        .says(&["must be whole but for its last copy", "member 0 is missing"]);
    array.run("add", &[&array.members[0]]).succeeded();
    array.server.wait_state(&array.sandbox, "optimal");

    array
        .run("fail", &[Path::new("2")])
        .succeeded()
        .tells(&["`uraid remove --copy`"]);
    assert_eq!(array.status()["state"], "degraded");
    remove_copy(&array, &[])
        .succeeded()
        .tells(&["2 copies now"]);
    assert_two_way(&array);
    array.rewrite(0, 300, 2);
    array.restart_killed();
    assert_two_way(&array);
    array.assert_intact();
}

#[test]
fn copies_that_an_array_began_with_stay() {
    let array = Array::new("--level raid1", 3);
    remove_copy(&array, &[])
        .exits(REFUSED)
        .says(&["began with 3 copies", "create"]);
    let raid10 = Array::new("--level raid10", 4);
    remove_copy(&raid10, &[])
        .exits(REFUSED)
        .says(&["only raid1"]);
    assert_eq!(array.status()["state"], "optimal");
}

#[test]
fn a_spare_is_removed_before_it_becomes_a_copy() {
    let array = Array::new("--level raid1", 2);
    let spare = array.blank("spare");
    array.run("add", &[&spare]).succeeded().tells(&["spare"]);
    add_copy(&array, &[], &spare)
        .exits(REFUSED)
        .says(&["is spare", "`uraid remove` it first"]);
    array.run("remove", &[&spare]).succeeded();
    add_copy(&array, &["--wait"], &spare)
        .succeeded()
        .tells(&["copy 3 of 3"]);
    assert_eq!(array.status()["redundancy_left"], 2);
}

fn read_all(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    paths.iter().map(|p| fs::read(p).expect("read")).collect()
}

/// The first superblocks: the log of events beside them goes on.
fn superblocks(members: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let first = |m: &Vec<u8>| m[4 << 10..36 << 10].to_vec();
    members.iter().map(first).collect()
}

#[test]
fn who_was_away_meanwhile_is_stale_and_can_be_added_again() {
    let mut array = Array::new("--level raid1", 2);
    let (second, third) = (array.blank("second"), array.blank("third"));
    let away = array.members[1].clone();
    array
        .run("replace", &[Path::new("--wait"), Path::new("1"), &second])
        .succeeded();
    add_copy(&array, &["--wait"], &third).succeeded();
    array.rewrite(0, 200, 2);
    let all = [array.members[0].clone(), away.clone(), second, third];
    array.restart_on(&all);
    assert_eq!(array.status()["redundancy_left"], 2);
    let log = array.server.log();
    assert!(log.contains("stale"), "{log}");
    array.assert_intact();
    array.run("add", &[&away]).succeeded().tells(&["spare"]);
    array.run("fail", &[Path::new("2")]).succeeded();
    let status = array.server.wait_state(&array.sandbox, "optimal");
    assert_eq!(member(&status, 2)["path"], away.to_str().expect("UTF-8"));
    for slot in ["0", "1"] {
        array.run("fail", &[Path::new(slot)]).succeeded();
    }
    array.assert_intact();
}

//! Scrub of a served array: what rots is found where it is, repaired from the others, and what
//! cannot be repaired is told, with nothing else harmed.

mod common;

use common::client::EIO;
use common::damage::overwrite;
use common::pattern::{Random, block, blocks};
use common::places::{Place, Places, valid_superblocks};
use common::{Array, FAILED, MIB, REFUSED, Ran, wait_for};
use serde_json::{Value, json};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `uraid scrub WORDS` for this array, with `--json`.
fn scrub(array: &Array, words: &str) -> Ran {
    let mut words: Vec<&Path> = words.split_whitespace().map(Path::new).collect();
    let order = words.remove(0);
    let control = array.server.control.as_path();
    let head = ["scrub".as_ref(), order, "--json".as_ref()];
    let all = head
        .into_iter()
        .chain(["--control".as_ref(), control])
        .chain(words);
    array.sandbox.uraid(all)
}

/// A scrub from start to end that finds nothing worth a failure.
#[track_caller]
fn scrub_well(array: &Array) -> Value {
    scrub(array, "start --wait").exits(0).json()["scrub"].take()
}

/// Has everything in place on the members, so that it can be damaged there.
fn settle(array: &Array) -> Places {
    scrub_well(array);
    Places::read(&array.members)
}

/// One of the counts, by member.
fn counts(scrub: &Value, which: &str) -> Vec<u64> {
    let members = scrub["members"].as_array().expect("members");
    let count = |m: &Value| m[which].as_u64().expect("a count");
    members.iter().map(count).collect()
}

#[track_caller]
fn assert_nothing_found(scrub: &Value) {
    for which in ["bad_blocks", "bad_metadata"] {
        let sum: u64 = counts(scrub, which).iter().sum();
        assert_eq!(sum, 0, "{which}: {scrub:#}");
    }
    assert_eq!(scrub["lost_blocks"], 0, "{scrub:#}");
    assert_eq!(scrub["inconsistent_rows"], 0, "{scrub:#}");
}

fn rot(places: impl IntoIterator<Item = Place>) {
    places.into_iter().for_each(|place| place.rot());
}

// ---- finding and repairing ----

#[test]
fn a_healthy_array_is_found_healthy() {
    let mut array = Array::new("--level raid6", 6);
    array.rewrite(77, 1, 2); // a row in the journal
    let scrub = scrub_well(&array);
    assert_eq!(scrub["state"], "finished");
    assert_eq!(scrub["members"].as_array().expect("members").len(), 6);
    assert!(
        scrub["total_bytes"].as_u64() >= Some(8 * MIB / 4),
        "{scrub:#}"
    );
    assert_eq!(scrub["done_bytes"], scrub["total_bytes"]);
    assert_nothing_found(&scrub);
    let text = array.run("status", &[]).succeeded().stdout;
    assert!(text.contains("scrub   finished"), "{text}");
}

#[test]
fn rot_on_one_member_is_found_exactly_and_repaired() {
    let array = Array::new("--level raid5", 3);
    let places = settle(&array);
    let rotten = [0, 1, 18, 500, 501, 1200, 2047].map(|block| places.on_role(block, 1));
    rot(rotten);
    let found = scrub_well(&array);
    assert_eq!(counts(&found, "bad_blocks"), [0, 7, 0]);
    assert_eq!(counts(&found, "repaired_blocks"), [0, 7, 0]);
    assert_eq!(counts(&found, "bad_metadata"), [0, 0, 0]);
    assert_eq!(found["lost_blocks"], 0);
    let text = array.run("status", &[]).succeeded().stdout;
    assert!(text.contains("7 wrong blocks, 7 repaired"), "{text}");
    assert_nothing_found(&scrub_well(&array));
    array.run("fail", &[&array.members[0]]).succeeded();
    array.assert_intact(); // from what was repaired
}

#[test]
fn rot_on_two_members_also_in_the_same_rows_is_found_exactly_and_repaired() {
    let array = Array::new("--level raid6", 6);
    let places = settle(&array);
    let on = |role: usize, blocks: &[u64]| -> Vec<Place> {
        blocks.iter().map(|b| places.on_role(*b, role)).collect()
    };
    rot(on(1, &[0, 5, 64, 300, 301]));
    rot(on(4, &[0, 5, 900]));
    let found = scrub_well(&array);
    assert_eq!(counts(&found, "bad_blocks"), [0, 5, 0, 0, 3, 0]);
    assert_eq!(counts(&found, "repaired_blocks"), [0, 5, 0, 0, 3, 0]);
    assert_nothing_found(&scrub_well(&array));
    for other in [0, 2] {
        array.run("fail", &[&array.members[other]]).succeeded();
    }
    array.assert_intact();
}

#[test]
fn a_mirror_is_repaired_from_its_last_good_copy() {
    let array = Array::new("--level raid1", 3);
    let places = settle(&array);
    rot([0, 1].map(|role| places.on_role(100, role)));
    let found = scrub_well(&array);
    assert_eq!(counts(&found, "repaired_blocks"), [1, 1, 0]);
    array.run("fail", &[&array.members[2]]).succeeded();
    array.assert_intact();
}

#[test]
fn the_report_for_people_says_what_was_done() {
    let array = Array::new("--level raid5", 3);
    let places = settle(&array);
    rot([places.data(7)]);
    let control = array.server.control.to_str().expect("UTF-8");
    let start = ["scrub", "start", "--wait", "--control", control];
    let text = array.sandbox.uraid(start).exits(0).stdout;
    for part in [
        "finished: everything in use was looked at",
        "1 wrong block, 1 repaired",
        "result  all that was wrong has been repaired",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_scrub_beside_a_rebuild_finds_nothing_and_both_end_well() {
    let array = Array::new("--level raid6", 6);
    array.run("fail", &[&array.members[1]]).succeeded();
    let new = array.blank("new");
    array.run("add", &[&new]).succeeded();
    assert_nothing_found(&scrub_well(&array));
    array.server.wait_state(&array.sandbox, "optimal");
    assert_nothing_found(&scrub_well(&array));
    for other in [0, 4] {
        array.run("fail", &[&array.members[other]]).succeeded();
    }
    array.assert_intact();
}

#[test]
fn a_degraded_array_is_scrubbed_as_far_as_it_goes() {
    let array = Array::new("--level raid6", 6);
    let places = settle(&array);
    array.run("fail", &[&array.members[5]]).succeeded();
    rot([places.on_role(40, 2)]);
    let found = scrub_well(&array);
    assert_eq!(counts(&found, "repaired_blocks"), [0, 0, 1, 0, 0, 0]);
    array.run("fail", &[&array.members[0]]).succeeded();
    array.assert_intact();
}

#[test]
fn damaged_metadata_is_found_and_rewritten() {
    let mut array = Array::new("--level raid5", 3);
    let places = settle(&array);
    let zones = [
        ("checkpoint", places.checkpoints(), 0),
        ("map page", places.map_page(), 1),
        ("checksum page", places.checksum_page(0), 2),
    ];
    for (what, range, role) in &zones {
        overwrite(&array.members[*role], range, 0x5a);
        let found = scrub_well(&array);
        let mut expected = [0; 3];
        expected[*role] = 1;
        assert_eq!(counts(&found, "bad_metadata"), expected, "{what}");
        assert_eq!(counts(&found, "repaired_metadata"), expected, "{what}");
        assert_eq!(counts(&found, "bad_blocks"), [0, 0, 0], "{what}");
        assert_nothing_found(&scrub_well(&array));
    }
    // What is on the members now is all that a killed server leaves.
    array.restart_killed();
    array.run("fail", &[&array.members[1]]).succeeded();
    array.assert_intact();
}

/// A page that a server had read and not yet written was written back with a wrong seal, and the
/// next scrub found it again.
#[test]
fn pages_damaged_after_they_were_read_are_rewritten_for_good() {
    let mut array = Array::new("--level raid5", 3);
    let places = settle(&array);
    let members = array.members.clone();
    array.restart_on(&members);
    array.assert_intact(); // it knows all checksum pages
    for range in [places.map_page(), places.checksum_page(0)] {
        overwrite(&array.members[1], &range, 0x5a);
        let found = scrub_well(&array);
        assert_eq!(counts(&found, "bad_metadata"), [0, 1, 0]);
        assert_nothing_found(&scrub_well(&array));
    }
}

/// The older copy of a page was made a second newest one. Numbers go by turns, so the next write
/// would have gone over the one of the two that was read.
#[test]
fn older_copies_of_pages_that_are_damaged_are_blanked() {
    let array = Array::new("--level raid5", 3);
    let places = settle(&array);
    for both in [places.map_page(), places.checksum_page(0)] {
        let older = older_copy(&array.members[1], both);
        overwrite(&array.members[1], &older, 0x5a);
        assert_nothing_found(&scrub_well(&array));
        let left = read_range(&array.members[1], &older);
        assert!(left.iter().all(|byte| *byte == 0));
    }
    array.assert_intact();
}

/// The one of two copies with the lower number.
fn older_copy(member: &Path, both: Range<u64>) -> Range<u64> {
    const SEQUENCE: Range<usize> = 8..16;
    let middle = both.start + 4096;
    let number = |range: &Range<u64>| {
        let sequence = read_range(member, range)[SEQUENCE].try_into();
        u64::from_le_bytes(sequence.expect("8 bytes"))
    };
    let copies = [both.start..middle, middle..both.end];
    let older = copies.into_iter().min_by_key(number);
    older.expect("two copies")
}

fn read_range(member: &Path, range: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let file = File::open(member).expect("open the member");
    file.read_exact_at(&mut bytes, range.start).expect("read");
    bytes
}

#[test]
fn superblocks_damaged_during_a_scrub_are_found_and_rewritten() {
    let array = Array::new("--level raid5", 3);
    settle(&array);
    // Its start writes superblocks, and so does its end; about a second lies between.
    scrub(&array, "start --rate-max 4M").succeeded();
    for copy in [4 << 10, 512 << 10] {
        overwrite(&array.members[1], &(copy..copy + 4096), 0x5a);
    }
    let found = scrub(&array, "status --wait").exits(0).json();
    assert_eq!(counts(&found["scrub"], "bad_metadata"), [0, 1, 0]);
    assert_eq!(counts(&found["scrub"], "repaired_metadata"), [0, 1, 0]);
    let all = || (valid_superblocks(&array.members[1]) == 4).then_some(());
    wait_for("four valid superblocks", all);
}

// ---- pause, resume, stop, restart, speed ----

/// A scrub of about four seconds that has begun.
fn slow_scrub(array: &Array) {
    scrub(array, "start --rate-max 1M/s").succeeded();
}

fn state(array: &Array) -> String {
    let status = scrub(array, "status").json();
    status["scrub"]["state"].as_str().expect("a state").into()
}

fn done_bytes(array: &Array) -> u64 {
    let status = array.status();
    status["scrub"]["done_bytes"].as_u64().expect("a number")
}

fn wait_for_progress(array: &Array) {
    wait_for("progress", || (done_bytes(array) > 0).then_some(()));
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let array = Array::new("--level raid5", 3);
    for order in ["pause", "resume", "stop"] {
        scrub(&array, order).exits(REFUSED).says(&["scrub"]);
    }
    slow_scrub(&array);
    scrub(&array, "start").exits(REFUSED).says(&["under way"]);
    scrub(&array, "resume").exits(REFUSED).says(&["paused"]);
    scrub(&array, "stop").succeeded();
    assert_eq!(state(&array), "stopped");
    scrub_well(&array); // another one begins at the start
}

#[test]
fn a_paused_scrub_keeps_its_place_through_restarts() {
    let mut array = Array::new("--level raid5", 3);
    slow_scrub(&array);
    wait_for_progress(&array);
    scrub(&array, "pause").succeeded();
    let place = done_bytes(&array);
    let members = array.members.clone();
    array.restart_on(&members);
    assert_eq!(
        (state(&array), done_bytes(&array)),
        ("paused".into(), place)
    );
    array.restart_killed();
    assert_eq!(
        (state(&array), done_bytes(&array)),
        ("paused".into(), place)
    );
    let text = array.run("status", &[]).succeeded().stdout;
    assert!(text.contains("scrub   paused"), "{text}");
    let end = scrub(&array, "resume --wait").exits(0).json();
    assert_eq!(end["scrub"]["state"], "finished");
}

#[test]
fn a_running_scrub_goes_on_after_a_stop_and_after_a_kill() {
    let mut array = Array::new("--level raid5", 3);
    let places = settle(&array);
    rot([places.data(2047)]); // at the end of what is written
    slow_scrub(&array);
    wait_for_progress(&array);
    let members = array.members.clone();
    array.restart_on(&members);
    assert_eq!(state(&array), "running");
    assert!(done_bytes(&array) > 0, "it does not begin anew");
    array.restart_killed();
    let end = scrub(&array, "status --wait").exits(0).json();
    let sum: u64 = counts(&end["scrub"], "repaired_blocks").iter().sum();
    assert_eq!((&end["scrub"]["state"], sum), (&json!("finished"), 1));
}

#[test]
fn whoever_waits_for_a_scrub_that_is_stopped_is_told() {
    let array = Array::new("--level raid5", 3);
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| scrub(&array, "start --rate-max 256K --wait"));
        wait_for("the scrub", || (state(&array) == "running").then_some(()));
        scrub(&array, "stop").succeeded();
        let ran = waiting.join().expect("no panic");
        ran.exits(FAILED).says(&["stopped before"]);
    });
}

#[test]
fn the_speed_limit_is_kept() {
    let array = Array::new("--level raid5", 3);
    let begun = Instant::now();
    let end = scrub(&array, "start --rate-max 2M/s --wait")
        .exits(0)
        .json();
    let took = begun.elapsed();
    assert_eq!(end["scrub"]["bytes_per_second_max"], 2 * MIB);
    // 4 MiB of each member, less what is under way at once.
    assert!(took >= Duration::from_millis(1700), "{took:?}");
}

#[test]
fn a_scrub_under_load_finds_nothing_and_harms_nothing() {
    let mut array = Array::new("--level raid6", 5);
    let mut random = Random::from_environment();
    let over = AtomicBool::new(false);
    let server = &array.server;
    let content = std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            let mut client = server.connect();
            let mut content = array.content.clone();
            for version in 2.. {
                let count = [1, 1, 3, 48, 200][random.below(5) as usize];
                let first = random.below(2048 - count);
                let data = blocks(first, count, version);
                client.write(first * 4096, &data).expect("write");
                content[first as usize * 4096..][..data.len()].copy_from_slice(&data);
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
            content
        });
        for _ in 0..6 {
            assert_nothing_found(&scrub_well(&array));
        }
        over.store(true, Ordering::Relaxed);
        writer.join().expect("no panic")
    });
    array.content = content;
    array.assert_intact();
    assert_nothing_found(&scrub_well(&array));
}

// ---- beyond the redundancy ----

/// Reads block by block; gives the numbers of those that are errors, and compares the rest.
#[track_caller]
fn unreadable(array: &Array) -> Vec<u64> {
    let mut client = array.server.connect();
    let mut lost = Vec::new();
    for (block, expected) in (0..).zip(array.content.chunks(4096)) {
        match client.read(block * 4096, 4096) {
            Ok(found) => assert!(found == expected, "block {block} is wrong"),
            Err(failure) => {
                assert_eq!(failure.errno(), EIO);
                lost.push(block);
            }
        }
    }
    lost
}

/// The runs that the status lists for single blocks.
fn runs(blocks: &[u64]) -> Value {
    let run = |b: &u64| json!({"offset_bytes": b * 4096, "length_bytes": 4096});
    blocks.iter().map(run).collect()
}

#[test]
fn what_is_lost_is_listed_stays_lost_and_is_healed_by_overwriting() {
    let mut array = Array::new("--level raid5", 4);
    let places = settle(&array);
    let row = places.row_of(100);
    let lost = [row[0], row[1]];
    rot(lost.map(|block| places.data(block)));
    let ran = scrub(&array, "start --wait").exits(FAILED).json();
    assert_eq!(ran["scrub"]["lost_blocks"], 2);
    assert_eq!(ran["lost"], runs(&lost));
    assert_eq!(unreadable(&array), lost);
    let text = array.run("status", &[]).succeeded().stdout;
    let listed = format!("4 KiB at byte {}", lost[1] * 4096);
    assert!(text.contains(&listed) && text.contains("backup"), "{text}");

    // Their neighbour in the row can be written, and that does not launder them.
    array.rewrite(row[2], 1, 2);
    assert_eq!(unreadable(&array), lost);
    let members = array.members.clone();
    array.restart_on(&members);
    assert_eq!(unreadable(&array), lost);
    assert_eq!(array.status()["lost"], runs(&lost));

    // Nor does a member that is made anew from the others.
    let neighbour = places.data(row[2]).role;
    array.run("fail", &[&array.members[neighbour]]).succeeded();
    let new = array.blank("new");
    array.run("add", &[&new]).succeeded();
    array.server.wait_state(&array.sandbox, "optimal");
    assert_eq!(unreadable(&array), lost);
    let ran = scrub(&array, "start --wait").exits(FAILED).json();
    assert_eq!(ran["scrub"]["lost_blocks"], 2, "marks are found, too");

    for block in lost {
        array.rewrite(block, 1, 3);
    }
    array.assert_intact();
    assert_eq!(array.status()["lost"], json!([]));
    assert_nothing_found(&scrub_well(&array));
    let other = (neighbour + 1) % 4;
    array.run("fail", &[&array.members[other]]).succeeded();
    array.assert_intact();
}

#[test]
fn adjacent_losses_are_one_run_and_parity_is_no_loss() {
    let array = Array::new("--level raid5", 3);
    let places = settle(&array);
    // Rows 4 to 6: data and parity; row 9: parity alone.
    rot((4..7).map(|block| places.data(block)));
    rot((4..7).map(|block| places.parity(block, 0)));
    rot([places.parity(9, 0)]);
    let ran = scrub(&array, "start --wait").exits(FAILED).json();
    let expected = json!([{"offset_bytes": 4 * 4096, "length_bytes": 3 * 4096}]);
    assert_eq!(ran["lost"], expected);
    assert_eq!(ran["scrub"]["lost_blocks"], 3);
    let repaired: u64 = counts(&ran["scrub"], "repaired_blocks").iter().sum();
    assert_eq!(repaired, 1);
    assert_eq!(unreadable(&array), [4, 5, 6]);
}

#[test]
fn losses_that_involve_a_missing_member_are_found() {
    let array = Array::new("--level raid5", 3);
    let places = settle(&array);
    let gone = places.data(33).role;
    array.run("fail", &[&array.members[gone]]).succeeded();
    let other = places.row_of(33).into_iter().find(|b| *b != 33);
    rot([places.data(other.expect("two data blocks in a row"))]);
    // The rotten block and the one on the missing member, which it was to stand for.
    let ran = scrub(&array, "start --wait").exits(FAILED).json();
    assert_eq!(ran["scrub"]["lost_blocks"], 2, "{ran:#}");
    assert_eq!(unreadable(&array), places.row_of(33));
}

/// A mark stands for a lost block also where it has to be worked out: its member is absent.
#[test]
fn marks_of_lost_blocks_on_an_absent_member_are_found() {
    let mut array = Array::new("--level raid6", 5);
    let places = settle(&array);
    let row = places.row_of(100);
    let lost = row[1];
    rot([places.data(lost)]);
    rot([0, 1].map(|parity| places.parity(lost, parity)));
    scrub(&array, "start --wait").exits(FAILED);
    array.rewrite(row[0], 1, 2); // now there is a mark for the lost block
    scrub(&array, "start --wait").exits(FAILED); // and it is in place

    let mut rest = array.members.clone();
    rest.remove(places.data(lost).role);
    array.restart_on(&rest);
    let ran = scrub(&array, "start --wait").exits(FAILED).json();
    assert_eq!(ran["scrub"]["lost_blocks"], 1, "{ran:#}");
    assert_eq!(ran["lost"], runs(&[lost]));
    assert_eq!(unreadable(&array), [lost]);
    array.stop();
    let words = ["check", "--json"].map(Path::new).into_iter();
    let rest = rest.iter().map(|member| member.as_path());
    let checked = array.sandbox.uraid(words.chain(rest)).exits(FAILED).json();
    assert_eq!(checked["result"], "lost", "{checked:#}");
    assert_eq!(checked["array"]["lost"], runs(&[lost]));
}

#[test]
fn a_lost_block_does_not_keep_others_from_repair() {
    let array = Array::new("--level raid6", 4);
    let places = settle(&array);
    let row = places.row_of(0);
    rot([
        places.data(row[0]),
        places.data(row[1]),
        places.parity(row[0], 0),
    ]);
    let rest: Vec<u64> = (8..13).collect();
    rot(rest.iter().map(|block| places.data(*block)));
    let ran = scrub(&array, "start --wait").exits(FAILED).json();
    assert_eq!(ran["scrub"]["lost_blocks"], 2);
    let repaired: u64 = counts(&ran["scrub"], "repaired_blocks").iter().sum();
    assert_eq!(repaired, 5);
    let mut client = array.server.connect();
    assert_eq!(client.read(8 * 4096, 4096).expect("read"), block(8, 1));
}

#[test]
fn without_redundancy_rot_is_found_and_told() {
    let array = Array::new("--level raid0", 3);
    let places = settle(&array);
    rot([places.data(50)]);
    let ran = scrub(&array, "start --wait").exits(FAILED).json();
    assert_eq!(ran["lost"], runs(&[50]));
    assert_eq!(unreadable(&array), [50]);
}

#[test]
fn both_copies_of_a_block_lost_cost_that_block_alone() {
    let array = Array::new("--level raid10", 4);
    let places = settle(&array);
    let row = places.row_of(20);
    let copy = row.iter().position(|b| *b == 20).expect("in its own row");
    rot([places.data(20), places.parity(20, copy)]);
    rot([places.data(row[1 - copy])]); // its copy is left
    let ran = scrub(&array, "start --wait").exits(FAILED).json();
    assert_eq!(ran["lost"], runs(&[20]));
    let repaired: u64 = counts(&ran["scrub"], "repaired_blocks").iter().sum();
    assert_eq!(repaired, 1);
    assert_eq!(unreadable(&array), [20]);
}

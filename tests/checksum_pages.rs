//! Checksum pages that are damaged or old: what they say no more is had from the other members,
//! and written down again before the next fault.

mod common;

use common::Array;
use common::damage::overwrite;
use common::places::Places;
use common::wait_for;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Stops the array, so that everything is in place.
fn settle(array: &mut Array) -> Places {
    array.stop();
    Places::read(&array.members)
}

/// Kills the server and starts one without the member of a role; everything can be read.
#[track_caller]
fn assert_intact_without(array: &mut Array, role: usize) {
    array.kill();
    let mut left: Vec<PathBuf> = array.members.clone();
    left.remove(role);
    array.server = array.sandbox.serve(&left);
    array.assert_intact();
}

fn wait_until_known(places: &Places, role: usize) {
    let known = || places.sums_are_known(0, role).then_some(());
    wait_for("a checksum page that knows its sums", known);
}

/// It was known in memory, and written down with the next batch, if there ever was one.
#[test]
fn a_damaged_page_is_written_anew_though_nobody_writes() {
    let mut array = Array::new("--level raid5", 3);
    let places = settle(&mut array);
    overwrite(&array.members[0], &places.checksum_page(0), 0x5a);
    array.server = array.sandbox.serve(&array.members);
    array.assert_intact();
    wait_until_known(&places, 0);
    assert_intact_without(&mut array, 1);
}

/// A start wrote the page without its sums, and what made them anew came later.
#[test]
fn a_start_writes_no_page_whose_sums_are_unknown() {
    let mut array = Array::new("--level raid5", 3);
    let places = settle(&mut array);
    array.server = array.sandbox.serve(&array.members);
    array.rewrite(0, 1, 2); // a row in the journal, to be put in place by the next start
    array.kill();
    overwrite(&array.members[1], &places.checksum_page(0), 0x5a);
    array.server = array.sandbox.serve(&array.members);
    assert_intact_without(&mut array, 2);
}

/// What could not be verified was not looked at again before the next scrub.
#[test]
fn sums_beyond_redundancy_are_made_anew_when_a_member_returns() {
    let mut array = Array::new("--level raid5", 3);
    let places = settle(&mut array);
    overwrite(&array.members[1], &places.checksum_page(0), 0x5a);
    array.server = array.sandbox.serve(&array.members[..2]);
    array
        .server
        .connect()
        .read(0, array.content.len())
        .unwrap_err();
    array.run("add", &[&array.members[2]]).succeeded();
    array.server.wait_member(&array.sandbox, 2, "in-sync");
    wait_until_known(&places, 1);
    assert_intact_without(&mut array, 0);
}

/// In a row with too many faults sums in doubt must count; they counted in the rows after it too,
/// and stale blocks were passed off as content.
#[test]
fn doubtful_sums_count_only_in_the_row_that_needs_them() {
    let mut array = Array::new("--level raid6", 4);
    let places = settle(&mut array);
    // Two rows: this column's member will be gone, and the other one's has lost writes.
    let (wanted, stale) = ([0, 1], 16);
    assert_eq!(places.row_of(0), [0, stale]);
    let changed = places.data(stale + 1);
    let lost = [places.checksum_page(0), changed.range.clone()];
    let before: Vec<Vec<u8>> = lost.iter().map(|at| read(&changed.member, at)).collect();
    array.server = array.sandbox.serve(&array.members);
    array.rewrite(stale + 1, 1, 2);
    array.stop();
    for (at, bytes) in lost.iter().zip(&before) {
        write(&changed.member, at, bytes);
    }
    places.parity(wanted[0], 0).rot();
    let gone = places.data(wanted[0]).role;
    let mut left = array.members.clone();
    left.remove(gone);
    array.server = array.sandbox.serve(&left);
    let found = array.server.connect().read(0, 2 * 4096).expect("read");
    assert!(found == array.content[..2 * 4096], "stale content");
}

fn read(member: &Path, range: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let file = File::open(member).expect("open the member");
    file.read_exact_at(&mut bytes, range.start).expect("read");
    bytes
}

fn write(member: &Path, range: &Range<u64>, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(member).expect("open");
    file.write_all_at(bytes, range.start).expect("write");
    file.sync_data().expect("sync");
}

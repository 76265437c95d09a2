//! Seeds that must pass: a range of them for each kind of trouble, and those that once failed.
//!
//! A failure prints the command that replays it. `tools/simulate` plays as many as one likes.

use std::collections::BTreeSet;
use uraid_sim::play::play;
use uraid_sim::scenario::{Fault, Layout, Limits};

const CRASHES: [Fault; 4] = [Fault::Restart, Fault::Kill, Fault::Power, Fault::Nested];
const LOSSES: [Fault; 4] = [Fault::Break, Fault::Operator, Fault::Absent, Fault::Full];
/// Lines of the trace shown for a failure.
const TRACE_LINES: usize = 30;

fn must_pass(seeds: impl Iterator<Item = u64>, limits: &Limits, options: &str) {
    for seed in seeds {
        if let Err(failure) = play(seed, limits, TRACE_LINES) {
            panic!(
                "seed {seed} ({}): {}\n{}\nreplay: cargo run --profile simulate -p simulate -- \
                 --seed {seed} {options} --trace",
                failure.scenario,
                failure.what,
                failure.trace.join("\n")
            );
        }
    }
}

fn limits(faults: impl IntoIterator<Item = Fault>) -> Limits {
    let faults: BTreeSet<Fault> = faults.into_iter().collect();
    Limits {
        faults,
        ..Limits::default()
    }
}

#[test]
fn without_trouble() {
    must_pass(1..60, &limits([]), "--faults none");
}

#[test]
fn crashes_lose_nothing_that_was_promised() {
    must_pass(
        1000..1100,
        &limits(CRASHES),
        "--faults restart,kill,power,nested",
    );
}

#[test]
fn members_come_and_go_under_crashes() {
    let faults = "--faults restart,kill,power,nested,break,operator,absent,full";
    must_pass(
        20_000..20_100,
        &limits(CRASHES.into_iter().chain(LOSSES)),
        faults,
    );
}

#[test]
fn sectors_that_cannot_be_read_for_a_while() {
    let faults = CRASHES.into_iter().chain([Fault::ReadErrors]);
    must_pass(
        30_000..30_060,
        &limits(faults),
        "--faults restart,kill,power,nested,read-errors",
    );
}

/// The number of a checksum page that could not be read started again from 0, and the copy that
/// was set aside counted as newer once it could be read.
#[test]
fn a_checksum_page_written_anew_is_newer_than_the_old_one() {
    let layouts = ["raid1x3", "rs2+3", "raid6x4", "raid6x5"].map(|l| l.parse().unwrap());
    let faults = CRASHES.into_iter().chain(LOSSES).chain([Fault::ReadErrors]);
    let limits = Limits {
        layouts: layouts.to_vec(),
        ..limits(faults.filter(|f| *f != Fault::Full))
    };
    let options = "--faults kill,power,nested,break,absent,read-errors,operator,restart --layouts \
                   raid1x3,rs2+3,raid6x4,raid6x5";
    must_pass(102_536..102_537, &limits, options);
}

/// Many faults of few kinds in a short time.
fn dense(faults: impl IntoIterator<Item = Fault>) -> Limits {
    Limits {
        operations_max: 1000,
        swarm: false,
        faults_max: 24,
        ..limits(faults)
    }
}

/// Members leave, return, also as older images, and are replaced without a pause: a superblock was
/// written to a joining member beside another, a stop cut a change of config short, a member that
/// had failed at a change that was given up looked like another side of the array, and a page on
/// an older image went unnoticed after a crash in a checkpoint.
#[test]
fn members_never_come_to_rest() {
    let small = |limits| Limits {
        chunk_bytes: vec![4 << 10, 8 << 10],
        ..limits
    };
    let returning = Limits {
        slots: 12..30,
        operations_max: 2000,
        faults_max: 100,
        ..small(dense([
            Fault::Rollback,
            Fault::Break,
            Fault::Operator,
            Fault::Restart,
        ]))
    };
    let seeds = [55, 97, 449, 551, 700_214, 900_093, 900_240, 900_244];
    must_pass(seeds.into_iter(), &returning, "--like old-image-catches-up");
    // A member left when its replacement was filled, in the middle of a read that needed it.
    let crowded = Limits {
        operations_max: 3000,
        faults_max: 200,
        ..returning
    };
    must_pass(
        [320, 381].into_iter(),
        &crowded,
        "--like old-image-catches-up",
    );
    let rolled_back = Limits {
        layouts: Layout::ALL
            .into_iter()
            .filter(|l| l.redundancy == 1)
            .collect(),
        slots: 12..16,
        depths: vec![8, 24],
        operations_max: 3000,
        faults_max: 200,
        ..small(dense([Fault::Rollback, Fault::Operator, Fault::Power]))
    };
    must_pass(
        [700_109].into_iter(),
        &rolled_back,
        "--like filled-unwitnessed",
    );
}

/// Repairs, moves and destaging meet in the same few stripes.
#[test]
fn many_clients_in_a_small_place() {
    let limits = Limits {
        chunk_bytes: vec![4 << 10, 8 << 10],
        slots: 12..16,
        depths: vec![8, 24],
        flush_factors: vec![1, 8],
        rot_in_data: true,
        ..dense([Fault::Rot, Fault::ReadErrors])
    };
    must_pass(40_000..40_100, &limits, "--like mismatch-unlocked");
}

/// A checksum page that was forgotten while it was on its way to disk was read as it had been
/// before. The replay command knows the faults, not how many there are.
#[test]
fn members_change_in_quick_succession() {
    let rolled_back = dense([
        Fault::Rollback,
        Fault::Break,
        Fault::Operator,
        Fault::Restart,
    ]);
    must_pass(
        [122, 131].into_iter(),
        &rolled_back,
        "--faults rollback,break,operator,restart",
    );
    let rebuilt = dense([Fault::Operator, Fault::Break, Fault::Kill, Fault::Power]);
    must_pass(
        [48].into_iter().chain(500..560),
        &rebuilt,
        "--faults operator,break,kill,power",
    );
    let powerless = dense([Fault::Operator, Fault::Power]);
    must_pass(
        [131, 227].into_iter().chain(500..540),
        &powerless,
        "--faults operator,power",
    );
}

/// Each found a fault in the engine; what it was stands in the history.
#[test]
fn seeds_that_once_failed() {
    let seeds = [
        72,
        105,
        156,
        171,
        217,
        225,
        309,
        343,
        1114,
        1175,
        1319,
        3300,
        9089,
        1_795_274_997_000_999,
        1_795_275_225_000_866,
        1_795_275_345_000_107,
        1_795_275_862_000_263,
        1_795_276_423_000_771,
        1_795_284_608_010_356,
        1_795_298_574_000_792,
        1_795_303_331_001_842,
        1_795_303_331_001_048,
    ];
    must_pass(seeds.into_iter(), &Limits::default(), "");
}

//! Members that are slow: who is read, when a read is made another way, who sits out and returns.
//! All of it on simulated disks, whose time is exact.

mod rig;

use rig::{MILLISECOND, Rig, SECOND, USUAL};
use uraid_buffer::Pool;
use uraid_engine::api::{MemberName, Nanos, ReadOptions, Request, Setting};
use uraid_engine::status::ReadBalance;

/// What it takes longer on one that is slow.
const SLOWER: Nanos = 50 * MILLISECOND;
/// For good.
const ALWAYS: Nanos = u64::MAX;
fn hedging(hedge_percent: u8) -> ReadOptions {
    ReadOptions {
        balance: ReadBalance::AddressHash,
        hedge_percent,
        ..ReadOptions::default()
    }
}

#[test]
fn a_late_read_is_answered_by_others() {
    for (layout, others) in [("raid1x2", 1), ("raid10", 1), ("raid5", 2), ("raid6x5", 3)] {
        let mut rig = Rig::new(layout, hedging(5));
        let times = rig.read_many(2000);
        assert_eq!(times.last(), Some(&USUAL), "{layout}");
        rig.disks[1].slow_down(ALWAYS, SLOWER);
        let before = rig.reads();
        // Until one falls on the slow disk: after a millisecond it is late, then others are read.
        let late = (0..100).map(|i| rig.read(i * 4)).find(|t| *t > USUAL);
        let late = late.unwrap_or_else(|| panic!("{layout}: the slow disk is not read"));
        assert_eq!(late, MILLISECOND + USUAL, "{layout}");
        let reads = rig.status().reads;
        assert_eq!(
            (reads.hedges, reads.hedges_won, reads.hedges_denied),
            (1, 1, 0)
        );
        assert!(
            rig.disks[1].next_due().is_some(),
            "the kernel still has the buffer"
        );
        rig.rest(SECOND);
        let after = rig.reads();
        assert_eq!(
            after[1],
            before[1] + 1,
            "{layout}: it counts when it is over"
        );
        assert!(after.iter().sum::<u64>() >= before.iter().sum::<u64>() + 1 + others);
    }
}

#[test]
fn without_hedging_a_late_read_is_waited_for() {
    let mut rig = Rig::new("raid1x2", hedging(0));
    rig.read_many(2000);
    rig.disks[1].slow_down(ALWAYS, SLOWER);
    let late = (0..100).map(|i| rig.read(i * 4)).find(|t| *t > USUAL);
    assert_eq!(late, Some(USUAL + SLOWER));
    let reads = rig.status().reads;
    assert_eq!((reads.hedges, reads.hedges_denied), (0, 0));
}

#[test]
fn a_late_read_is_not_made_of_a_member_that_sits_out() {
    for layout in ["raid1x2", "raid5"] {
        let mut rig = Rig::new(layout, hedging(5));
        rig.read_many(1000);
        rig.disks[1].slow_down(ALWAYS, SLOWER);
        rig.read_many(1000);
        assert_eq!(rig.slow(), [1], "{layout}");
        let before = rig.status().reads.hedges;
        rig.disks[0].slow_down(rig.now + USUAL, 2 * MILLISECOND);
        let late = (0..20).map(|i| rig.read(i * 4)).max();
        assert!(late <= Some(USUAL + 2 * MILLISECOND), "{layout}: {late:?}");
        assert_eq!(rig.status().reads.hedges, before, "{layout}");
    }
}

#[test]
fn extra_reads_keep_to_their_share() {
    let mut rig = Rig::new("raid5", hedging(5));
    // One read of twenty is late, too few to sit out for; each takes two others.
    for round in 0..400 {
        for i in 0..59 {
            rig.read(round * 59 + i);
        }
        rig.disks[1].slow_down(rig.now + 2 * USUAL, SLOWER);
        for i in 0..12 {
            rig.read(round + i * 4);
        }
    }
    let reads = rig.status().reads;
    let all = 400 * 71;
    assert_eq!(rig.slow(), [0; 0]);
    assert!(reads.hedges > 100, "{reads:?}");
    // What was saved up before counts too.
    assert!(reads.hedges * 2 <= all * 5 / 100 + 64, "{reads:?}");
}

#[test]
fn a_slow_member_sits_out_and_returns() {
    for layout in ["raid1x2", "raid1x3", "raid10", "raid5", "raid6x5", "rs2+3"] {
        let mut rig = Rig::new(layout, hedging(5));
        rig.read_many(1000);
        rig.disks[1].slow_down(rig.now + 20 * SECOND, SLOWER);
        rig.read_many(1000);
        assert_eq!(rig.slow(), [1], "{layout}");
        assert!(rig.warned("member 1 (disk1): is slow"), "{layout}");
        let before = rig.reads();
        let times = rig.read_many(1000);
        assert_eq!(times.last(), Some(&USUAL), "{layout}: reads go around it");
        // Probes: after one, two, four seconds.
        assert!(rig.reads()[1] <= before[1] + 1, "{layout}");
        while rig.now < 60 * SECOND && !rig.slow().is_empty() {
            rig.read_many(10);
            rig.rest(20 * MILLISECOND);
        }
        assert_eq!(rig.slow(), [0; 0], "{layout}");
        assert!(rig.warned("as quick as its peers again"), "{layout}");
        let before = rig.reads();
        rig.read_many(1000);
        assert!(
            rig.reads()[1] > before[1] + 50,
            "{layout}: it is read again"
        );
    }
}

#[test]
fn nobody_sits_out_when_all_are_slow() {
    let mut rig = Rig::new("raid6x5", hedging(5));
    rig.read_many(1000);
    let all = 0..rig.disks.len();
    all.for_each(|i| rig.disks[i].slow_down(ALWAYS, SLOWER));
    rig.read_many(2000);
    assert_eq!(rig.slow(), [0; 0]);
}

#[test]
fn nobody_sits_out_without_whom_there_is_not_all_data() {
    let mut rig = Rig::new("raid5", hedging(5));
    rig.read_many(1000);
    rig.fail(0);
    rig.disks[1].slow_down(ALWAYS, SLOWER);
    rig.read_many(500);
    assert_eq!(rig.slow(), [0; 0]);
    // And whoever sits out is read when it must be.
    let mut rig = Rig::new("raid5", hedging(5));
    rig.read_many(1000);
    rig.disks[1].slow_down(ALWAYS, SLOWER);
    rig.read_many(1000);
    assert_eq!(rig.slow(), [1]);
    rig.fail(0);
    rig.read_many(100);
}

#[test]
fn writes_go_on_to_a_member_that_sits_out() {
    let mut rig = Rig::new("raid1x2", hedging(5));
    rig.read_many(1000);
    rig.disks[1].slow_down(ALWAYS, SLOWER);
    rig.read_many(1000);
    let before = rig.status().members[1].io.writes.operations;
    let data = Pool::heap().copy(&[7; 4096]);
    let took = rig.ask(Request::Write {
        offset: 0,
        data,
        fua: true,
    });
    assert!(took >= SLOWER, "it was waited for");
    assert!(rig.status().members[1].io.writes.operations > before);
}

#[test]
fn policies_share_reads_as_they_say() {
    let share = |rig: &mut Rig| {
        let before = rig.reads();
        rig.read_many(3000);
        let after = rig.reads();
        (after[0] - before[0], after[1] - before[1])
    };
    let mut rig = Rig::new("raid1x2", ReadOptions::default());
    let (a, b) = share(&mut rig);
    assert!(a.abs_diff(b) < 1500, "least latency, both alike: {a} {b}");
    rig.set(Setting::ReadBalance(ReadBalance::RoundRobin));
    assert_eq!(share(&mut rig), (1500, 1500));
    rig.set(Setting::ReadBalance(ReadBalance::Weighted));
    rig.set(Setting::ReadWeight(MemberName::Slot(0), 4));
    assert_eq!(share(&mut rig), (2400, 600));
    rig.set(Setting::ReadBalance(ReadBalance::AddressHash));
    let (a, b) = share(&mut rig);
    assert!(a.min(b) > 600 && a + b == 3000, "{a} {b}");
    rig.set(Setting::WriteMostly(MemberName::Slot(1), true));
    assert_eq!(share(&mut rig), (3000, 0));
    rig.set(Setting::WriteMostly(MemberName::Slot(1), false));
    // A little slower, too little to sit out: the other one is read.
    rig.set(Setting::ReadBalance(ReadBalance::LeastLatency));
    rig.disks[0].slow_down(ALWAYS, 2 * USUAL);
    share(&mut rig);
    let (a, b) = share(&mut rig);
    assert!(a * 10 < b, "{a} {b}");
    assert_eq!(rig.slow(), [0; 0]);
}

#[test]
fn a_member_that_is_written_mostly_is_read_when_it_must_be() {
    let reads = ReadOptions {
        write_mostly: vec!["disk1".to_string()],
        ..ReadOptions::default()
    };
    for layout in ["raid1x2", "raid5"] {
        let mut rig = Rig::new(layout, reads.clone());
        let before = rig.reads();
        rig.read_many(500);
        assert_eq!(rig.reads()[1], before[1], "{layout}");
        rig.fail(0);
        rig.read_many(500);
        assert!(rig.reads()[1] > before[1], "{layout}");
    }
}

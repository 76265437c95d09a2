//! The rule against random histories: members leave, return, are half written, and the array
//! must never start from data that is not the newest.

use super::*;
use crate::config::{Entry, MEMBERS_MAX};
use crate::geometry::{Geometry, Level, Shape};
use crate::superblock::Counters;
use crate::units::Uuid;
use alloc::vec;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        crate::checksum::mix(self.0)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

fn new_array(level: Level, n: usize) -> Vec<Superblock> {
    let shape = Shape::new(level, n, None, None, None).unwrap();
    let geometry = Geometry::plan(shape, 64 << 20, None).unwrap();
    let entry = |i: usize| Entry {
        uuid: Uuid([i as u8 + 1; 16]),
        role: Some(i as u16),
        state: EntryState::InSync,
        ..Entry::EMPTY
    };
    let config = Config {
        epoch: 1,
        nonce: 1,
        parent: 0,
        entries: (0..n).map(entry).collect(),
    };
    let superblock = |i: usize| Superblock {
        features: 0,
        array: Uuid([99; 16]),
        name: "t".into(),
        key: 1,
        geometry,
        index: Index(i as u16),
        member: config.entries[i].uuid,
        write: 1,
        config: config.clone(),
        previous: config.clone(),
        scrub: Default::default(),
        counters: vec![Counters::default(); MEMBERS_MAX],
    };
    (0..n).map(superblock).collect()
}

fn candidates(all: &[Superblock], set: &[usize]) -> Vec<Candidate> {
    let one = |&i: &usize| Candidate {
        device: i,
        path: format!("m{i}"),
        superblock: all[i].clone(),
    };
    set.iter().map(one).collect()
}

/// Writes `config` to `members` in random order; possibly a crash stops it half way.
fn write_config(
    r: &mut Random,
    all: &mut [Superblock],
    old: &Config,
    new: &Config,
    members: &[usize],
    crash: bool,
) -> bool {
    let mut order = members.to_vec();
    for i in (1..order.len()).rev() {
        order.swap(i, r.below(i + 1));
    }
    let done = if crash {
        r.below(order.len() + 1)
    } else {
        order.len()
    };
    for &i in &order[..done] {
        all[i].previous = old.clone();
        all[i].config = new.clone();
    }
    done == order.len()
}

/// One random history; returns how often the array started. Panics on a stale start.
fn history(seed: u64, level: Level, n: usize, events: usize) -> usize {
    let mut r = Random(seed);
    let mut all = new_array(level, n);
    let mut fresh = vec![true; n]; // holds the newest data
    let mut running: Option<(Vec<usize>, Config)> = None;
    let mut starts = 0;
    let mut nonce = 1;
    for _ in 0..events {
        let Some((members, config)) = running.clone() else {
            let set: Vec<usize> = (0..n).filter(|_| r.chance(65)).collect();
            let Ok(a) = assemble(
                &candidates(&all, &set),
                &BTreeSet::new(),
                Strictness::default(),
            ) else {
                continue;
            };
            nonce += 1;
            let mut new = a.reference.successor(a.epoch_floor, nonce);
            a.absent.iter().for_each(|i| new.mark_left(*i));
            let used: Vec<usize> = a.present.iter().map(|(d, _)| *d).collect();
            let crash = r.chance(25);
            if write_config(&mut r, &mut all, &a.reference, &new, &used, crash) {
                starts += 1;
                let bad: Vec<_> = used.iter().filter(|i| !fresh[**i]).collect();
                assert!(
                    bad.is_empty(),
                    "seed {seed} {level} n={n}: stale members {bad:?} believed"
                );
                running = Some((used, new));
            }
            continue;
        };
        match r.below(100) {
            0..40 => (0..n).for_each(|i| fresh[i] = members.contains(&i)),
            40..65 if members.len() > all[0].geometry.shape.data => {
                let gone = members[r.below(members.len())];
                let rest: Vec<usize> = members.iter().copied().filter(|i| *i != gone).collect();
                nonce += 1;
                let mut floor = 0;
                if r.chance(30) {
                    // It fails while another config is written to it, which stays on it.
                    let given_up = config.successor(0, nonce);
                    all[gone].previous = config.clone();
                    all[gone].config = given_up.clone();
                    (floor, nonce) = (given_up.epoch, nonce + 1);
                }
                let mut new = config.successor(floor, nonce);
                new.mark_left(Index(gone as u16));
                let crash = r.chance(30);
                let whole = write_config(&mut r, &mut all, &config, &new, &rest, crash);
                running = whole.then_some((rest, new));
            }
            65..80 if members.len() < n => {
                let back = (0..n).find(|i| !members.contains(i)).unwrap();
                fresh[back] = true; // caught up before the config says so
                nonce += 1;
                let mut new = config.successor(0, nonce);
                new.entry_mut(Index(back as u16)).state = EntryState::InSync;
                let mut more = members.clone();
                more.push(back);
                let crash = r.chance(30);
                let whole = write_config(&mut r, &mut all, &config, &new, &more, crash);
                running = whole.then_some((more, new));
            }
            _ => running = None,
        }
    }
    starts
}

#[test]
fn no_random_history_starts_from_stale_data() {
    let seed = option_env!("URAID_SEED").and_then(|s| s.parse().ok());
    let seeds = seed.map_or(0..4000, |s: u64| s..s + 1);
    let mut starts = 0;
    for seed in seeds {
        for (level, n) in [
            (Level::Raid1, 2),
            (Level::Raid1, 3),
            (Level::Raid5, 3),
            (Level::Raid6, 4),
            (Level::Raid6, 6),
        ] {
            starts += history(seed, level, n, 40);
        }
    }
    assert!(
        starts > 4000,
        "only {starts} starts: the histories test nothing"
    );
}

#[test]
fn half_a_mirror_needs_its_peer_a_witness_or_force() {
    let all = new_array(Level::Raid1, 2);
    let half = candidates(&all, &[1]);
    let refused = assemble(&half, &BTreeSet::new(), Strictness::default()).unwrap_err();
    assert!(
        refused.for_safety && refused.text.contains("--force"),
        "{refused:?}"
    );
    for strictness in [
        Strictness {
            force: true,
            ..Default::default()
        },
        Strictness {
            read_only: true,
            ..Default::default()
        },
        Strictness {
            witnessed_nonce: Some(1),
            ..Default::default()
        },
    ] {
        let a = assemble(&half, &BTreeSet::new(), strictness).unwrap();
        assert_eq!((a.present.len(), a.absent.len()), (1, 1));
    }
}

#[test]
fn two_sides_of_a_split_are_named() {
    let mut all = new_array(Level::Raid1, 2);
    for (i, superblock) in all.iter_mut().enumerate() {
        let mut new = superblock.config.successor(0, 50 + i as u64);
        new.mark_left(Index(1 - i as u16));
        superblock.config = new;
    }
    let refused = assemble(
        &candidates(&all, &[0, 1]),
        &BTreeSet::new(),
        Strictness {
            force: true,
            ..Default::default()
        },
    )
    .unwrap_err();
    assert!(
        refused.text.contains("side 1: m0") && refused.text.contains("side 2: m1"),
        "{}",
        refused.text
    );
}

/// A member that left keeps a config that the others gave up, or is an older image of itself: no
/// side of a split, even when another one of that config is not there to say so.
#[test]
fn members_that_left_are_no_side_of_a_split() {
    let mut all = new_array(Level::Raid1, 3);
    let first = all[0].config.clone();
    let given_up = first.successor(0, 90);
    let mut second = first.successor(given_up.epoch, 91);
    second.mark_left(Index(0));
    let mut third = second.successor(0, 92);
    third.mark_left(Index(1));
    for (i, configs) in [
        (0, [&first, &given_up]),
        (1, [&first, &second]),
        (2, [&second, &third]),
    ] {
        all[i].previous = configs[0].clone();
        all[i].config = configs[1].clone();
    }
    let start = |all: &[Superblock], set: &[usize]| {
        assemble(
            &candidates(all, set),
            &BTreeSet::new(),
            Strictness::default(),
        )
        .map(|a| a.reference.nonce)
        .map_err(|r| r.text)
    };
    assert_eq!(start(&all, &[0, 2]), Ok(92));
    assert_eq!(start(&all, &[0, 1, 2]), Ok(92));
    // An image from before all this of the one that left last.
    all[1].config = first.clone();
    all[1].previous = first.clone();
    assert_eq!(start(&all, &[1, 2]), Ok(92));

    // But where all others of its config left together it may have gone on with them.
    let mut side = first.successor(0, 94);
    side.mark_left(Index(2));
    all[0].config = side;
    let mut alone = first.successor(5, 93);
    alone.mark_left(Index(0));
    alone.mark_left(Index(1));
    all[2].previous = first.clone();
    all[2].config = alone;
    assert!(start(&all, &[0, 2]).unwrap_err().contains("split brain"));
}

#[test]
fn strangers_copies_and_stale_members_are_told_apart() {
    let mut all = new_array(Level::Raid5, 3);
    let mut twice = candidates(&all, &[0, 1, 1]);
    assert!(
        assemble(&twice, &BTreeSet::new(), Strictness::default())
            .unwrap_err()
            .text
            .contains("same member")
    );
    twice.truncate(2);
    twice[1].superblock.array = Uuid([1; 16]);
    assert!(
        assemble(&twice, &BTreeSet::new(), Strictness::default())
            .unwrap_err()
            .text
            .contains("belongs to array")
    );
    let mut new = all[0].config.successor(0, 7);
    new.mark_left(Index(2));
    for i in [0, 1] {
        all[i].previous = all[i].config.clone();
        all[i].config = new.clone();
    }
    let a = assemble(
        &candidates(&all, &[0, 1, 2]),
        &BTreeSet::new(),
        Strictness::default(),
    )
    .unwrap();
    assert_eq!(a.present.len(), 2);
    assert!(a.rejected[0].1.contains("stale"), "{:?}", a.rejected);
    let refused = assemble(
        &candidates(&all, &[0, 2]),
        &BTreeSet::new(),
        Strictness::default(),
    );
    assert!(
        refused.is_err(),
        "one fresh and one stale member of raid5 are not enough"
    );
}

#[test]
fn one_config_has_one_table() {
    let mut all = new_array(Level::Raid5, 3);
    all[1].config.mark_left(Index(2));
    for set in [[0, 1], [1, 0]] {
        let decided = assemble(
            &candidates(&all, &set),
            &BTreeSet::new(),
            Strictness::default(),
        );
        let text = decided.unwrap_err().text;
        assert!(text.contains("two different member tables"), "{text}");
    }
}

/// Holders of one config that differ in what they know of its past: whoever knows more is heard,
/// first or last.
#[test]
fn the_order_of_the_devices_decides_nothing() {
    let mut all = new_array(Level::Raid1, 3);
    let first = all[0].config.clone();
    let second = first.successor(0, 2);
    let third = second.successor(0, 3);
    for i in [0, 1] {
        all[i].config = third.clone();
    }
    all[0].previous = second;
    all[1].previous = third;
    let strictness = Strictness {
        force: true,
        ..Default::default()
    };
    let decided = [[0, 1, 2], [1, 0, 2], [2, 1, 0]].map(|set| {
        let all = candidates(&all, &set);
        let assembled = assemble(&all, &BTreeSet::from([3]), strictness).unwrap();
        let mut present = assembled.present;
        present.sort();
        (assembled.reference, present)
    });
    assert_eq!(decided[0], decided[1]);
    assert_eq!(decided[0], decided[2]);
    assert_eq!(decided[0].1.len(), 2);
}

/// A mirror of two, and what its superblocks and that of the new member are to be for it to have
/// three copies.
fn widening() -> (Vec<Superblock>, Vec<Superblock>) {
    let old = new_array(Level::Raid1, 2);
    let mut new = old.clone();
    new.push(old[0].clone());
    (new[2].index, new[2].member) = (Index(2), Uuid([3; 16]));
    let mut config = old[0].config.successor(0, 50);
    config.widen(Index(2), new[2].member, 2);
    for superblock in &mut new {
        superblock.geometry = superblock.geometry.widened().unwrap();
        superblock.previous = superblock.config.clone();
        superblock.config = config.clone();
        superblock.write += 1;
    }
    (old, new)
}

#[test]
fn the_config_of_one_more_copy_says_so_and_can_be_read() {
    let (old, new) = widening();
    let (before, after) = (&old[0].config, &new[0].config);
    assert_eq!((after.epoch, after.parent), (2, before.nonce));
    assert_eq!(after.entries[..2], before.entries[..]);
    let entry = after.entry(Index(2));
    assert_eq!((entry.role, entry.state), (Some(2), EntryState::Rebuilding));
    after.check(3).unwrap();
    assert!(after.check(2).is_err(), "no stripe has that role yet");
    for superblock in &new {
        assert_eq!(
            Superblock::decode(&superblock.encode()).as_ref(),
            Ok(superblock)
        );
    }
}

/// A crash may leave any of the writes undone: the old array starts until the last of its members
/// knows of the copy, from then on the new one does; no member of the old one is ever missed.
#[test]
fn half_told_of_one_more_copy_a_mirror_starts_as_one_of_the_two() {
    let (old, new) = widening();
    for told in 0..8usize {
        let is_told = |i: usize| told >> i & 1 == 1;
        let mut all: Vec<Superblock> = (0..2)
            .map(|i| {
                if is_told(i) {
                    new[i].clone()
                } else {
                    old[i].clone()
                }
            })
            .collect();
        // A new member that was not told is blank.
        all.extend(is_told(2).then(|| new[2].clone()));
        let members: Vec<usize> = (0..all.len()).collect();
        for order in [members.clone(), members.iter().rev().copied().collect()] {
            let strictness = Strictness::default();
            let a = assemble(&candidates(&all, &order), &BTreeSet::new(), strictness).unwrap();
            let present = |i: usize| a.present.iter().any(|(device, _)| *device == i);
            assert!(
                present(0) && present(1) && a.absent.is_empty(),
                "told {told:b}"
            );
            let widened = is_told(0) && is_told(1);
            let expected = if widened { &new[0] } else { &old[0] };
            assert_eq!(a.reference, expected.config, "told {told:b}");
            assert_eq!(a.geometry, expected.geometry, "told {told:b}");
            assert_eq!(present(2), widened && is_told(2), "told {told:b}");
            if is_told(2) && !widened {
                assert!(a.rejected[0].1.contains("taken in"), "{:?}", a.rejected);
            }
        }
    }
}

/// With half of the members lost as well: what is left starts, by force, under a layout that fits
/// its config.
#[test]
fn half_told_and_half_lost_a_mirror_starts_under_the_layout_of_its_config() {
    let (old, new) = widening();
    let forced = Strictness {
        force: true,
        ..Default::default()
    };
    for told in [&old, &new] {
        for lost in [0, 1] {
            let all = vec![told[1 - lost].clone(), new[2].clone()];
            let a = assemble(&candidates(&all, &[0, 1]), &BTreeSet::new(), forced).unwrap();
            assert_eq!(a.geometry, told[0].geometry);
            assert_eq!(a.reference, told[0].config);
            assert_eq!(a.present.len(), told.len() - 1);
        }
    }
}

/// The old array went on without a member that was told of the copy in vain: its journals name the
/// columns of old.
#[test]
fn who_was_told_in_vain_does_not_widen_those_who_went_on() {
    let (old, new) = widening();
    let mut on = old[1].clone();
    on.previous = on.config.clone();
    on.config = on.config.successor(0, 60);
    on.config.mark_left(Index(0));
    for all in [
        vec![new[0].clone(), on.clone(), new[2].clone()],
        vec![new[2].clone(), on.clone()],
    ] {
        let members: Vec<usize> = (0..all.len()).collect();
        let strictness = Strictness::default();
        let a = assemble(&candidates(&all, &members), &BTreeSet::new(), strictness).unwrap();
        assert_eq!((&a.reference, a.geometry), (&on.config, old[0].geometry));
        assert_eq!(a.present.len(), 1);
    }
}

#[test]
fn who_was_away_while_a_copy_came_is_stale() {
    let (mut old, mut new) = widening();
    // The first member had been replaced before.
    let mut config = old[0].config.successor(0, 40);
    config.mark_left(Index(0));
    new[1].previous = config.clone();
    new[1].config = config.successor(0, 51);
    let config = &mut new[1].config;
    config.entry_mut(Index(0)).role = None;
    config.widen(Index(2), Uuid([3; 16]), 0);
    config.entry_mut(Index(2)).state = EntryState::InSync;
    config.widen(Index(3), Uuid([4; 16]), 2);
    new[2].config = config.clone();
    let all = vec![old.swap_remove(0), new.swap_remove(1), new.swap_remove(1)];
    for order in [[0, 1, 2], [2, 1, 0]] {
        let strictness = Strictness::default();
        let a = assemble(&candidates(&all, &order), &BTreeSet::new(), strictness).unwrap();
        assert_eq!((a.reference.nonce, a.present.len()), (51, 2));
        assert_eq!(a.geometry.shape.columns, 3);
        assert!(a.rejected[0].1.contains("stale"), "{:?}", a.rejected);
    }
}

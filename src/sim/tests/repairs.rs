//! Blocks that are found wrong by whoever reads them for another purpose: they are made up for,
//! rewritten, counted and told. All of it on simulated disks.

mod rig;

use rig::{Rig, SECOND};
use std::ops::Range;
use uraid_core::events::EventKind;
use uraid_core::geometry::Slot;
use uraid_engine::api::{Command, Event, MemberName, ReadOptions, Setting};
use uraid_engine::status::ReadBalance;

/// Blocks of a member that are spoilt.
const SPOILT: usize = 5;
const BLOCK: u64 = 4096;

/// How blocks go bad.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// They read as something else.
    Rot,
    /// They cannot be read.
    Unreadable,
}

const DAMAGES: [Damage; 2] = [Damage::Rot, Damage::Unreadable];

/// Bytes of a member, and where.
type Piece = (Range<u64>, Vec<u8>);

/// Spoils a few blocks on a member, each in another slot, where both members 0 and 1 have data, or
/// the first copies of it; gives what they held.
fn spoil(rig: &mut Rig, slot: u16, damage: Damage) -> Vec<Piece> {
    let shape = rig.geometry.shape;
    let is_data = |s: &Slot, role| shape.column_of(*s, role) < shape.data.max(2);
    let of_data = |s: &Slot| is_data(s, 0) && is_data(s, 1);
    let slots: Vec<Slot> = (0..rig.geometry.slots).map(Slot).filter(of_data).collect();
    let disk = &mut rig.disks[usize::from(slot)];
    let mut pieces = Vec::new();
    for (i, of) in slots.into_iter().enumerate() {
        let offset = rig.geometry.block_offset(of, i % shape.rows());
        let mut held = vec![0; BLOCK as usize];
        disk.medium().read(offset, &mut held);
        if held[0] == 0 || pieces.len() == SPOILT {
            continue; // nothing was ever written there
        }
        let range = offset..offset + BLOCK;
        match damage {
            Damage::Rot => disk.medium_mut().set(offset, &vec![0xa5; BLOCK as usize]),
            Damage::Unreadable => disk.make_unreadable(range.clone()),
        }
        pieces.push((range, held));
    }
    assert_eq!(pieces.len(), SPOILT, "there is as much data on a member");
    pieces
}

/// Whether a member holds this, for whoever reads it.
fn holds(rig: &Rig, slot: u16, pieces: &[Piece]) -> bool {
    let disk = &rig.disks[usize::from(slot)];
    let mut found = vec![0; BLOCK as usize];
    let mut same = |(range, held): &Piece| {
        disk.medium().read(range.start, &mut found);
        found == *held
    };
    !disk.has_unreadable_sectors() && pieces.iter().all(&mut same)
}

/// How often something of a kind was told of a member.
fn told(rig: &Rig, kind: EventKind, slot: Option<u16>) -> usize {
    let is_it = |event: &&Event| match event {
        Event::Happened(h) => h.kind == kind && h.member.and_then(|m| m.slot) == slot,
        _ => false,
    };
    rig.events.iter().filter(is_it).count()
}

/// What was spoilt on a member is as it was, was told and was counted, each block once.
#[track_caller]
fn assert_repaired(rig: &Rig, slot: u16, pieces: &[Piece], what: &str) {
    assert!(holds(rig, slot, pieces), "{what}: it is rewritten");
    assert_eq!(told(rig, EventKind::Repaired, Some(slot)), SPOILT, "{what}");
    let status = rig.status();
    let member = status.members.iter().find(|m| m.slot == Some(slot));
    let counted = member.expect("it is a member").checksum_errors;
    assert_eq!(counted, SPOILT as u64, "{what}");
    assert_eq!(status.repaired_blocks, SPOILT as u64, "{what}");
}

/// Puts a blank disk in the place of a member, and waits until it is full.
fn rebuild(rig: &mut Rig, slot: u16, replace: bool) {
    let new = rig.blank_disk();
    let old = MemberName::Slot(slot);
    let force = false;
    match replace {
        true => rig.order(Command::Replace { old, new, force }),
        false => rig.order(Command::Add { device: new, force }),
    }
    let before = told(rig, EventKind::RebuildFinished, Some(slot));
    while told(rig, EventKind::RebuildFinished, Some(slot)) == before {
        rig.wait_for(|_| true);
        assert!(rig.now < 600 * SECOND, "the rebuild does not end");
    }
}

/// The blocks of the export that are made of what several members hold.
fn read_from_others(rig: &mut Rig) -> Vec<u64> {
    let all = |rig: &Rig| rig.reads().iter().sum::<u64>();
    let blocks = 0..rig.size_bytes / BLOCK;
    let is_made = |block: &u64| {
        let before = all(rig);
        rig.read(*block);
        all(rig) > before + 1
    };
    blocks.filter(is_made).collect()
}

#[test]
fn a_rebuild_repairs_what_it_makes_up_for() {
    for layout in ["raid1x3", "raid6x5", "rs2+3"] {
        for damage in DAMAGES {
            let what = format!("{layout} {damage:?}");
            let mut rig = Rig::new(layout, ReadOptions::default());
            rig.fail(0);
            let pieces = spoil(&mut rig, 1, damage);
            rebuild(&mut rig, 0, false);
            assert_repaired(&rig, 1, &pieces, &what);
            rig.fail(2);
            rig.read_all();
        }
    }
}

#[test]
fn a_member_is_repaired_while_it_is_replaced() {
    for layout in ["raid1x2", "raid10", "raid5"] {
        for damage in DAMAGES {
            let what = format!("{layout} {damage:?}");
            let mut rig = Rig::new(layout, ReadOptions::default());
            let pieces = spoil(&mut rig, 1, damage);
            let held = rig.status().members[1].uuid;
            rebuild(&mut rig, 1, true);
            assert!(holds(&rig, 1, &pieces), "{what}: it is rewritten");
            assert_eq!(told(&rig, EventKind::Repaired, Some(1)), SPOILT, "{what}");
            assert_eq!(rig.status().repaired_blocks, SPOILT as u64, "{what}");
            assert_ne!(rig.status().members[1].uuid, held, "{what}: another one");
            rig.fail(0);
            rig.read_all();
        }
    }
}

/// With nothing left to make up for it, nothing is rewritten: perhaps it can be read later.
#[test]
fn a_rebuild_leaves_alone_what_it_cannot_make_up_for() {
    for damage in DAMAGES {
        let mut rig = Rig::new("raid5", ReadOptions::default());
        rig.fail(0);
        let pieces = spoil(&mut rig, 1, damage);
        rebuild(&mut rig, 0, false);
        assert!(!holds(&rig, 1, &pieces), "{damage:?}");
        assert_eq!(told(&rig, EventKind::Repaired, Some(1)), 0, "{damage:?}");
        let lost = told(&rig, EventKind::BlocksLost, None);
        assert_eq!(lost, SPOILT, "{damage:?}");
    }
}

#[test]
fn a_read_for_a_member_that_is_gone_repairs_the_others() {
    for layout in ["raid6x5", "rs2+3"] {
        for damage in DAMAGES {
            let what = format!("{layout} {damage:?}");
            let mut rig = Rig::new(layout, ReadOptions::default());
            rig.fail(0);
            let gone = read_from_others(&mut rig);
            let pieces = spoil(&mut rig, 1, damage);
            for block in gone {
                rig.read(block);
            }
            rig.rest(SECOND);
            assert_repaired(&rig, 1, &pieces, &what);
        }
    }
}

#[test]
fn a_read_of_either_copy_repairs_that_copy() {
    for layout in ["raid1x2", "raid10"] {
        for (slot, damage) in [(0, Damage::Rot), (1, Damage::Rot), (1, Damage::Unreadable)] {
            let what = format!("{layout} {slot} {damage:?}");
            let mut rig = Rig::new(layout, ReadOptions::default());
            rig.set(Setting::ReadBalance(ReadBalance::RoundRobin));
            let pieces = spoil(&mut rig, slot, damage);
            for _ in 0..8 {
                rig.read_all();
                rig.read(0); // the other copy of each the next time
            }
            assert_repaired(&rig, slot, &pieces, &what);
        }
    }
}

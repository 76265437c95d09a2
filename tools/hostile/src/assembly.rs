//! The assembly rule on superblocks that tell anything: it decides, whatever it is told, the same
//! in any order, and what it decides to use is what it says.

use crate::choices::Choices;
use crate::layouts::LAYOUTS;
use crate::superblock::change_config;
use std::collections::BTreeSet;
use uraid_core::assembly::{Assembled, Candidate, Refused, Strictness, assemble};
use uraid_core::config::{Config, EntryState, Index};
use uraid_core::superblock::Superblock;

/// Tells the rule tall stories.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    let all = candidates(&mut c);
    let completed: BTreeSet<u64> = (0..c.below(4)).map(|_| nonce(&mut c)).collect();
    let strictness = Strictness {
        force: c.one_in(2),
        read_only: c.one_in(2),
        witnessed_nonce: c.one_in(2).then(|| nonce(&mut c)),
    };
    let decided = assemble(&all, &completed, strictness);
    match &decided {
        Ok(assembled) => assert_sound(&all, assembled),
        Err(refused) => assert!(!refused.text.is_empty()),
    }
    let turn = c.index(all.len().max(1));
    let mut turned = all.clone();
    turned.rotate_left(turn);
    assert_same(&decided, &assemble(&turned, &completed, strictness));
    let forced = Strictness {
        force: true,
        ..strictness
    };
    assert!(
        decided.is_err() || assemble(&all, &completed, forced).is_ok(),
        "force takes away"
    );
}

/// Few different ones, so that they meet.
fn nonce(c: &mut Choices<'_>) -> u64 {
    1 + c.below(5)
}

/// Superblocks that pass as such, on a device each.
fn candidates(c: &mut Choices<'_>) -> Vec<Candidate> {
    let mut superblocks = c.pick(&LAYOUTS).superblocks();
    for s in &mut superblocks {
        s.config.nonce = 1;
        s.previous = s.config.clone();
    }
    let mut configs: Vec<Config> = vec![superblocks[0].config.clone()];
    for _ in 0..c.below(4) {
        let from = c.pick(&configs).clone();
        configs.push(successor(c, &from));
    }
    let mut all = Vec::new();
    for (device, mut s) in superblocks.into_iter().enumerate() {
        s.config = c.pick(&configs).clone();
        s.previous = c.pick(&configs).clone();
        if c.one_in(4) {
            crate::superblock::change(c, &mut s);
        }
        let read = Superblock::decode(&s.encode());
        if !c.one_in(4)
            && let Ok(superblock) = read
        {
            all.push(Candidate {
                device,
                path: format!("disk{device}"),
                superblock,
            });
        }
    }
    all
}

/// A config that may follow `from`, or claims to.
fn successor(c: &mut Choices<'_>, from: &Config) -> Config {
    let mut next = Config {
        epoch: from.epoch.wrapping_add(1),
        nonce: nonce(c),
        parent: from.nonce,
        entries: from.entries.clone(),
    };
    match c.below(3) {
        0 if !next.entries.is_empty() => {
            let index = Index(c.index(next.entries.len()) as u16);
            next.mark_left(index);
        }
        1 => change_config(c, &mut next),
        _ => {}
    }
    next
}

fn assert_sound(all: &[Candidate], a: &Assembled) {
    let reference = &a.reference;
    let told = |s: &Superblock| s.config == *reference || s.previous == *reference;
    assert!(
        all.iter().any(|c| told(&c.superblock)),
        "nobody told of the reference"
    );
    let used: BTreeSet<usize> = a.present.iter().map(|(device, _)| *device).collect();
    assert_eq!(used.len(), a.present.len(), "a device in two places");
    assert_eq!(
        a.present.len() + a.rejected.len(),
        all.len(),
        "each device has its verdict"
    );
    let shape = &all[0].superblock.geometry.shape;
    let mut columns = uraid_parity::ColumnSet::EMPTY;
    for (device, index) in &a.present {
        let superblock = &all
            .iter()
            .find(|c| c.device == *device)
            .expect("given")
            .superblock;
        let entry = reference.entry(*index);
        assert_eq!(entry.uuid, superblock.member, "in another's place");
        let state = entry.state;
        assert!(
            state.takes_writes() || state == EntryState::Spare,
            "used though {state:?}"
        );
        assert!(
            state == EntryState::Spare || told(superblock),
            "it never held the reference"
        );
        if state == EntryState::InSync {
            let role = entry.role.expect("who is in sync has a role");
            columns.insert(shape.column_of(uraid_core::geometry::Slot(0), role.into()));
        }
    }
    assert!(shape.code().can_decode(columns), "too few members");
    assert!(a.absent.iter().all(|i| reference.is_in_sync(*i)));
    assert!(a.epoch_floor >= reference.epoch);
}

fn assert_same(one: &Result<Assembled, Refused>, other: &Result<Assembled, Refused>) {
    match (one, other) {
        (Ok(a), Ok(b)) => {
            assert_eq!(a.reference, b.reference, "the order decides");
            let sorted = |a: &Assembled| a.present.iter().copied().collect::<BTreeSet<_>>();
            assert_eq!(sorted(a), sorted(b));
            assert_eq!(a.absent, b.absent);
        }
        (Err(a), Err(b)) => {
            assert_eq!(a.for_safety, b.for_safety, "the order decides: {a:?} {b:?}")
        }
        _ => panic!("the order decides: {one:?} or {other:?}"),
    }
}

//! What to play so that a broken rule of the engine shows soon.

pub use uraid_engine::mutants::{Mutant, activate};

use crate::load::Mix;
use crate::scenario::{Fault, Layout, Limits};
use Fault::*;

/// Seeds within which each must be noticed.
pub const SEEDS_MAX: u64 = 2000;

/// What is played against a mutant: the faults that its rule is there for, and many of them.
pub fn limits_for(mutant: Mutant) -> Limits {
    let limits = faults_for(mutant);
    let crowded = |limits| Limits {
        chunk_bytes: vec![4 << 10, 8 << 10],
        slots: 12..16,
        depths: vec![8, 24],
        ..limits
    };
    match mutant {
        Mutant::AnswerBeforeConfig => Limits {
            layouts: only(|l| l.name.starts_with("raid1x")),
            ..limits
        },
        // Two at once repair the same blocks, or one repairs what another destages.
        Mutant::MismatchUnlocked => Limits {
            flush_factors: vec![1, 8],
            rot_in_data: true,
            ..crowded(limits)
        },
        // A stripe moves while it is destaged, and its place is taken at once.
        Mutant::SlotReusedHeld => Limits {
            flush_factors: vec![1],
            mix: Some(Mix::MOVING),
            ..crowded(limits)
        },
        // What was taken too early is lost with the record that was not durable.
        Mutant::SlotReusedEarly => Limits {
            faults_max: 60,
            flush_factors: vec![8],
            mix: Some(Mix::MOVING),
            ..crowded(limits)
        },
        // Batches without payload fill the ring before rows fill a re-log, while a checkpoint
        // waits for its flushes.
        Mutant::RingOverrun => Limits {
            chunk_bytes: vec![4 << 10],
            flush_factors: vec![8],
            ..crowded(limits)
        },
        // Rows pile up while a checkpoint waits for its flushes: different ones, on few members
        // each, so that no ring is full before.
        Mutant::RowsUncapped => Limits {
            layouts: only(|l| l.redundancy <= 1 && l.members > l.redundancy + 1),
            chunk_bytes: vec![64 << 10],
            depths: vec![24],
            flush_factors: vec![8],
            mix: Some(Mix::SCATTERED),
            ..limits
        },
        // Members leave and return all the time.
        Mutant::OldImageCatchesUp => Limits {
            chunk_bytes: vec![4 << 10, 8 << 10],
            slots: 12..30,
            operations_max: 3000,
            faults_max: 200,
            ..limits
        },
        // Rebuilds are over soon, and a peer is found as its image right after.
        Mutant::FilledUnwitnessed => Limits {
            layouts: only(|l| l.redundancy == 1),
            operations_max: 3000,
            faults_max: 200,
            ..crowded(limits)
        },
        // Many reads at once, of mirrors of which one copy is slow and the other rots.
        Mutant::HedgeUnverified => Limits {
            layouts: only(|l| l.name.starts_with("raid1")),
            depths: vec![8, 24],
            operations_max: 3000,
            faults_max: 60,
            rot_in_data: true,
            ..crowded(limits)
        },
        Mutant::SlowUnwritten => Limits {
            depths: vec![8, 24],
            operations_max: 3000,
            ..limits
        },
        // Rebuilds take long beside clients that are busy.
        Mutant::RebuildUnlocked | Mutant::RebuildUnwritten | Mutant::ReadsAboveCursor => Limits {
            chunk_bytes: vec![4 << 10, 8 << 10],
            slots: 40..60,
            depths: vec![24],
            mix: Some(Mix::SCATTERED),
            ..limits
        },
        _ => limits,
    }
}

fn only(wanted: impl Fn(&Layout) -> bool) -> Vec<Layout> {
    Layout::ALL.into_iter().filter(wanted).collect()
}

fn faults_for(mutant: Mutant) -> Limits {
    let faults: &[Fault] = match mutant {
        Mutant::AnswerBeforeConfig => &[Break, Operator, Kill],
        Mutant::ConfigUnflushed | Mutant::ConfigOnOneMember => &[Break, Operator, Power, Kill],
        Mutant::FailedFlushBelieved => &[FlushErrors, Power, Kill],
        Mutant::NoSpaceEjects => &[Full],
        Mutant::RolledBackTrusted => &[Rollback, Kill, Restart],
        Mutant::FilledUnwitnessed => &[Rollback, Operator, Power],
        Mutant::OldImageCatchesUp => &[Rollback, Break, Operator, Restart],
        Mutant::NoRetag | Mutant::RecoveredUntagged | Mutant::CatchUpSkips => {
            &[Absent, Break, Operator, Kill, Restart]
        }
        Mutant::RebuildUnlocked | Mutant::RebuildUnwritten | Mutant::ReadsAboveCursor => {
            &[Operator, Break]
        }
        Mutant::StalePageTrusted => &[LostWrites, Kill, Restart],
        Mutant::ReadUnverified | Mutant::SourcesUnverified | Mutant::RepairGarbage => {
            &[Rot, LostWrites, ReadErrors, Restart]
        }
        Mutant::HedgeUnverified => &[Slow, Rot],
        Mutant::SlowUnwritten => &[Slow, Restart],
        Mutant::MismatchUnlocked => &[Rot, ReadErrors],
        Mutant::RingOverrun | Mutant::SlotReusedHeld => &[],
        Mutant::SlotReusedEarly => &[Power],
        Mutant::RowsUncapped => &[Kill],
        _ => &[Kill, Power, Nested, Absent],
    };
    Limits {
        faults: faults.iter().copied().collect(),
        operations_max: 1000,
        swarm: false,
        faults_max: 24,
        ..Limits::default()
    }
}

/// Whether it takes a certain crash in recovery after a certain crash: the exhaustive stories
/// have them all.
pub fn shows_in_stories(mutant: Mutant) -> bool {
    matches!(mutant, Mutant::NoRelog)
}

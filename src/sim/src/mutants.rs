//! What to play so that a broken rule of the engine shows soon.

pub use uraid_engine::mutants::{Mutant, activate};

use crate::scenario::{Fault, Limits};
use Fault::*;

/// Seeds within which each must be noticed.
pub const SEEDS_MAX: u64 = 1000;

/// What is played against a mutant: the faults that its rule is there for, and many of them.
pub fn limits_for(mutant: Mutant) -> Limits {
    let faults: &[Fault] = match mutant {
        Mutant::AnswerBeforeConfig => &[Break, Operator, Kill],
        Mutant::ConfigUnflushed | Mutant::ConfigOnOneMember => &[Break, Operator, Power, Kill],
        Mutant::FailedFlushBelieved => &[FlushErrors, Power, Kill],
        Mutant::NoSpaceEjects => &[Full],
        Mutant::RolledBackTrusted => &[Rollback, Kill, Restart],
        Mutant::OldImageCatchesUp => &[Rollback, Break, Operator, Restart],
        Mutant::FilledUnwitnessed => &[Rollback, Operator, Absent, Power, Kill],
        Mutant::NoRetag | Mutant::RecoveredUntagged | Mutant::CatchUpSkips => {
            &[Absent, Break, Operator, Kill, Restart]
        }
        Mutant::RebuildUnlocked | Mutant::RebuildUnwritten | Mutant::ReadsAboveCursor => {
            &[Operator, Break, Kill, Power]
        }
        Mutant::StalePageTrusted => &[LostWrites, Kill, Restart],
        Mutant::ReadUnverified | Mutant::SourcesUnverified | Mutant::RepairGarbage => {
            &[Rot, LostWrites, ReadErrors, Restart]
        }
        Mutant::MismatchUnlocked => &[Rot, Restart, Absent],
        Mutant::RingOverrun | Mutant::SlotReusedHeld => &[Restart],
        Mutant::RowsUncapped => &[Kill],
        _ => &[Kill, Power, Nested, Absent],
    };
    let mirrors_only = matches!(mutant, Mutant::AnswerBeforeConfig);
    let mut limits = Limits {
        faults: faults.iter().copied().collect(),
        operations_max: 1000,
        swarm: false,
        faults_max: 24,
        ..Limits::default()
    };
    if mirrors_only {
        limits.layouts.retain(|l| l.name.starts_with("raid1x"));
    }
    limits
}

/// Whether it takes a certain crash in recovery after a certain crash: the exhaustive stories
/// have them all.
pub fn shows_in_stories(mutant: Mutant) -> bool {
    matches!(mutant, Mutant::NoRelog)
}

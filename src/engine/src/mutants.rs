//! Rules of the engine, each of which a test may break: the simulator must notice every one.
//!
//! A mutant is one line in the engine that asks [`active`] and then does what it must not. That
//! is always `false`, and compiled away, unless the feature `mutants` is on; the program refuses
//! to be built with it (see [`crate::MUTANTS`]). After R. DeMillo et al., "Hints on Test Data
//! Selection", IEEE Computer 11, 1978: a check that no fault in the program can trip checks
//! nothing.

macro_rules! mutants {
    ($($mutant:ident $name:literal $breaks:literal)*) => {
        /// A rule that can be broken.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $(#[doc = $breaks] $mutant,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$mutant,)*];

            /// The word on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $(Mutant::$mutant => $name,)* }
            }

            /// What it does wrong.
            pub fn breaks(self) -> &'static str {
                match self { $(Mutant::$mutant => $breaks,)* }
            }
        }
    };
}

mutants! {
    DestageUnflushed "destage-unflushed"
        "Rule 1: rows are put in place before their batch is flushed."
    ViewKeepsRows "view-keeps-rows"
        "I1: threads that read by themselves are not told that a row changes."
    ViewKeepsPlaces "view-keeps-places"
        "I1: threads that read by themselves are not told that a stripe moves."
    FlushAtOnce "flush-at-once"
        "I2: a flush is answered at once."
    FuaIgnored "fua-ignored"
        "I2: a durable write is answered like any other."
    FlushSkipsMember "flush-skips-member"
        "I2: one member is not flushed."
    FailedFlushBelieved "failed-flush-believed"
        "I2: a flush that failed counts as done."
    AnswerEarly "answer-early"
        "I3: a batch is answered before its participants have written it."
    AnswerUnordered "answer-unordered"
        "I3: a batch is answered before the ones ahead of it are written."
    AnswerBeforeConfig "answer-before-config"
        "I5: a write is answered that a failed member did not take, before its failure is durable."
    ConfigUnflushed "config-unflushed"
        "I5: a config counts as durable before it is flushed."
    ConfigOnOneMember "config-on-one-member"
        "I5: a config counts as durable when one member holds it."
    RingOverrun "ring-overrun"
        "Rule 5: a batch is written over one that is still needed."
    TailUnflushed "tail-unflushed"
        "Rule 5: the tail moves before the checkpoint is flushed."
    PlaceUnflushed "place-unflushed"
        "Rule 5: a checkpoint is written before what it says is in place is flushed."
    PageUnflushed "page-unflushed"
        "Rule 9: pages are written before the batches they name are flushed."
    PageInPlace "page-in-place"
        "Pages are written over their only good copy."
    LastBatchDropped "last-batch-dropped"
        "Rule 2: recovery leaves out the last batch."
    UndecodableAccepted "undecodable-accepted"
        "Rule 2: recovery accepts batches whose rows cannot be decoded."
    PayloadUnverified "payload-unverified"
        "Rule 2: recovery believes journalled blocks that do not match their checksum."
    PlaceUnverified "place-unverified"
        "Rule 2: recovery believes blocks in place that do not match their checksum."
    ClosedJournalWritten "closed-journal-written"
        "Batches are written behind checkpoints that say that nothing follows."
    RelogUnannounced "relog-unannounced"
        "A re-log is written behind checkpoints that say that there is none."
    PagesUnlisted "pages-unlisted"
        "Map pages are written that no checkpoint lists."
    NoRelog "no-relog"
        "Rule 3: recovery puts rows in place without journalling them first."
    MendSkipped "mend-skipped"
        "Recovery leaves blocks that did not reach a new slot as they are."
    EpochNotRaised "epoch-not-raised"
        "Rule 4: recovery goes on in the journal epoch it found."
    RolledBackTrusted "rolled-back-trusted"
        "Rule 6: a member whose checkpoint is behind what its peers witnessed is believed, and its checksums."
    SlotReusedEarly "slot-reused-early"
        "Rule 7: a slot is used again before the record that freed it is durable."
    SlotReusedHeld "slot-reused-held"
        "Rule 7: a slot is used again while somebody reads it."
    OldRowsKept "old-rows-kept"
        "Rule 8: recovery redoes rows older than their stripe's last move."
    RowsUncapped "rows-uncapped"
        "Rule 10: more rows are journalled than a re-log can hold."
    NoRetag "no-retag"
        "Rule 11: what a member that left did not put in place does not count as changed."
    RecoveredUntagged "recovered-untagged"
        "Rule 11: what recovery writes does not count as changed since a member left."
    CatchUpSkips "catch-up-skips"
        "A member that returns is not given what changed under the config it left with."
    OldImageCatchesUp "old-image-catches-up"
        "An older image of a member that left is taken for the member as it left, its checksums too."
    RebuildUnlocked "rebuild-unlocked"
        "A slot is filled while its blocks in place change."
    FilledUnwitnessed "filled-unwitnessed"
        "A member that was rebuilt counts before checkpoints name the config that says so."
    RebuildUnwritten "rebuild-unwritten"
        "A member being filled is not given new writes."
    ReadsAboveCursor "reads-above-cursor"
        "A member being filled is read where it is not filled."
    ReadUnverified "read-unverified"
        "I1: a block is not held against its checksum when it is read."
    SourcesUnverified "sources-unverified"
        "I1: blocks are reconstructed from others that were not verified."
    MismatchUnlocked "mismatch-unlocked"
        "A mismatch is believed while the blocks in place may change."
    StalePageTrusted "stale-page-trusted"
        "I1: a checksum page that peers know to be older than it was counts like any other."
    HedgeUnverified "hedge-unverified"
        "I1: what another member gives for a late read is not held against its checksum."
    SlowUnwritten "slow-unwritten"
        "I5: a member that sits out of reads is not written either, and is believed later."
    RepairGarbage "repair-garbage"
        "A block is repaired with something else."
    NoSpaceEjects "no-space-ejects"
        "A member without space is taken for a dead one."
}

#[cfg(not(feature = "mutants"))]
mod switch {
    use super::Mutant;

    /// Never: this build breaks no rules.
    #[inline(always)]
    pub const fn active(_: Mutant) -> bool {
        false
    }
}

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use core::sync::atomic::{AtomicUsize, Ordering};

    const NONE: usize = usize::MAX;
    static ACTIVE: AtomicUsize = AtomicUsize::new(NONE);

    /// Whether this rule is to be broken.
    pub fn active(mutant: Mutant) -> bool {
        ACTIVE.load(Ordering::Relaxed) == mutant as usize
    }

    /// Breaks one rule, or none, in the whole process.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.store(mutant.map_or(NONE, |m| m as usize), Ordering::Relaxed);
    }
}

pub use switch::*;

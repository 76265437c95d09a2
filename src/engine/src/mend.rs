//! Repair: blocks that were found wrong under a place lock are rewritten, counted and told.

use crate::array::Array;
use crate::mutants::{Mutant, active};
use crate::settled::{Checked, Placed};
use crate::traffic;
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::events::EventKind;
use uraid_core::geometry::{Slot, Stripe};
use uraid_parity::ColumnSet;

/// Repairs that wait for a place lock; what is found wrong beyond is left to whoever reads it next.
const LATE_REPAIRS_MAX: usize = 64;

/// What to do about blocks that are wrong on a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Rewrite, count and report them, but later: the caller only shares the place lock.
    Later,
    /// Rewrite them; the member did not get them before a crash, which is nobody's fault.
    Quietly,
    /// Rewrite, count and report them.
    Report,
}

/// A block that is not on its member as it should be.
#[derive(Debug)]
pub struct Misfit {
    /// The member.
    pub index: Index,
    /// Its column of the slot.
    pub column: usize,
    /// The row.
    pub row: usize,
    /// What was found there.
    pub found: Checked,
    /// What it should be.
    pub right: Placed,
}

impl Misfit {
    /// What was `found` of a block on a member, should it be no good.
    pub fn of(
        (index, column): (Index, usize),
        row: usize,
        found: &Checked,
        right: &Placed,
    ) -> Option<Misfit> {
        (!matches!(found, Checked::Good(_))).then(|| Misfit {
            index,
            column,
            row,
            found: found.clone(),
            right: right.clone(),
        })
    }
}

impl Array {
    /// Does what is to be done about misfits of a slot. The caller holds the place lock, alone
    /// unless it says [`Repair::Later`].
    pub async fn repair_misfits(
        &self,
        stripe: Stripe,
        slot: Slot,
        misfits: Vec<Misfit>,
        repair: Repair,
    ) {
        if misfits.is_empty() || self.read_only {
            return; // nearly always
        }
        match repair {
            Repair::Later => self.mend_later(stripe, misfits),
            Repair::Quietly => self.put_right(stripe, slot, misfits, false).await,
            Repair::Report => self.put_right(stripe, slot, misfits, true).await,
        }
    }

    /// Has blocks of a stripe read again, and repaired, by a task that waits for the place lock.
    fn mend_later(&self, stripe: Stripe, misfits: Vec<Misfit>) {
        // Those in doubt have tasks that look closer.
        let wrong = |m: &Misfit| matches!(m.found, Checked::Bad(_)) && !m.found.holds(&m.right);
        let wrong = misfits.iter().filter(|m| wrong(m));
        let blocks: Vec<(usize, usize)> = wrong.map(|m| (m.column, m.row)).collect();
        let waiting = self.late_repairs.get();
        if blocks.is_empty() || waiting >= LATE_REPAIRS_MAX || self.stopping.get() {
            return;
        }
        self.late_repairs.set(waiting + 1);
        let array = self.me();
        self.ex.spawn(async move {
            let alone = array.lock_place(stripe).await;
            for (column, row) in blocks {
                let none = ColumnSet::EMPTY;
                let read = array.read_settled(stripe, column, row..row + 1, none, Repair::Report);
                // What cannot be had any more is told to whoever asks for it.
                let _ = read.await;
            }
            drop(alone);
            array.late_repairs.set(array.late_repairs.get() - 1);
            array.ex.fire(&array.changed);
        });
    }

    /// Waits for repairs that wait for others, when no new ones come.
    pub async fn until_late_repairs_end(&self) {
        let none = || self.late_repairs.get() == 0;
        self.ex.until(&self.changed, none).await;
    }

    async fn put_right(&self, stripe: Stripe, slot: Slot, mut misfits: Vec<Misfit>, report: bool) {
        // A member that failed meanwhile did not answer: that is told elsewhere.
        misfits.retain(|m| self.live_device(m.index).is_some());
        misfits.sort_by_key(|m| (m.index, m.row));
        let adjoin = |a: &Misfit, b: &Misfit| a.index == b.index && a.row + 1 == b.row;
        for run in misfits.chunk_by(adjoin) {
            let (index, first) = (run[0].index, run[0].row);
            let wrong = run.iter().filter(|m| !m.found.holds(&m.right)).count();
            let right: Vec<Placed> = run.iter().map(|m| m.right.clone()).collect();
            self.repair(index, slot, first..first + run.len(), &right, wrong > 0)
                .await;
            // Who could not be written was not wrong in places, but failed.
            if report && wrong > 0 && self.live_device(index).is_some() {
                self.report_repair(index, stripe, first, wrong);
            }
        }
    }

    /// Tells that blocks of a member were wrong, and counts them.
    pub fn report_repair(&self, index: Index, stripe: Stripe, row: usize, blocks: usize) {
        let text = format!(
            "{}: stripe {} row {row}: {blocks} wrong or unreadable block(s) rewritten from the \
             other members",
            self.member_name(index),
            stripe.0,
        );
        self.tell_of(index, EventKind::Repaired, text);
        self.counters.borrow_mut()[usize::from(index.0)].checksum_errors += blocks as u64;
        traffic::add(&self.traffic.repaired_blocks, blocks as u64);
    }

    /// Gives a member what it should have; `data`: not only the checksums.
    pub async fn repair(
        &self,
        index: Index,
        slot: Slot,
        rows: Range<usize>,
        made: &[Placed],
        data: bool,
    ) {
        let sums = self.sums(index, slot, rows.clone()).await;
        if data {
            let mut blocks: Vec<Buf> = made.iter().map(|p| p.data.clone()).collect();
            if active(Mutant::RepairGarbage) {
                blocks = self.zeros(blocks.len());
            }
            let offset = self.geometry.block_offset(slot, rows.start);
            self.write_member(index, offset, blocks).await;
        }
        for (row, placed) in rows.zip(made) {
            self.set_sum(&sums, slot, row, placed.sum);
        }
    }
}

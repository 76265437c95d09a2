//! Scrub of one slot: every block against its checksum, every row against the code.

use crate::array::Array;
use crate::executor::join_all;
use crate::reconstruct::Made;
use crate::settled::{Checked, Placed};
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::events::EventKind;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::mark;
use uraid_core::units::BLOCK_BYTES;
use uraid_parity::{ColumnSet, Plan};

/// Rows read at once of each member.
const ROWS_AT_ONCE: usize = 16;

/// One column of a slot on one member.
#[derive(Clone, Copy)]
struct ColumnCopy {
    column: usize,
    index: Index,
}

impl Array {
    pub(super) async fn scrub_slot(&self, slot: Slot) {
        let Some(stripe) = self.stripe_in(slot) else {
            return;
        };
        let lane = self.lane(stripe);
        let local = self.geometry.in_lane(slot.0);
        lane.slots.borrow_mut().hold(local);
        let place = self.lock_place(stripe).await;
        if lane.map.borrow().get(stripe).slot() == Some(slot) {
            let rows = self.geometry.shape.rows();
            for first in (0..rows).step_by(ROWS_AT_ONCE) {
                let some = first..(first + ROWS_AT_ONCE).min(rows);
                self.scrub_rows(stripe, slot, some).await;
            }
        }
        drop(place);
        lane.unhold_slot(local, &self.ex);
    }

    /// All copies of a slot's columns that should be whole.
    fn copies(&self, slot: Slot) -> Vec<ColumnCopy> {
        let live = |i: &Index| self.live_device(*i).is_some();
        let filled = |i: &Index| self.is_filled(*i, slot);
        let roles = self.roles.borrow();
        let of_column = |column: usize| {
            let role = roles[self.geometry.shape.role_of(slot, column)];
            let both = [role.holder, role.filling.filter(filled)];
            both.into_iter()
                .flatten()
                .filter(live)
                .map(move |index| ColumnCopy { column, index })
                .collect::<Vec<_>>()
        };
        (0..self.geometry.shape.columns)
            .flat_map(of_column)
            .collect()
    }

    async fn scrub_rows(&self, stripe: Stripe, slot: Slot, rows: Range<usize>) {
        let copies = self.copies(slot);
        let read = |c: &ColumnCopy| self.read_checked(c.index, slot, c.column, rows.clone());
        let found = join_all(copies.iter().map(read)).await;
        for (copy, blocks) in copies.iter().zip(&found) {
            // After a crash a read-only array has replayed rows in memory alone: what is in
            // place there is not expected to be whole.
            let replayed = |row: usize| {
                let overlay = self.lane(stripe).overlay.borrow();
                self.read_only && overlay.block(stripe, row, copy.column).is_some()
            };
            // One by one: what is lost in one row is no reason to leave the next alone.
            for (row, block) in rows.clone().zip(blocks) {
                if !matches!(block, Checked::Good(_)) && !replayed(row) {
                    self.scrub_bad_block((stripe, slot), *copy, row, block)
                        .await;
                }
            }
        }
        if copies.iter().any(|c| self.live_device(c.index).is_none()) {
            return; // a member has failed meanwhile: that says nothing about its blocks
        }
        for (i, row) in rows.enumerate() {
            let mut columns: Vec<Option<&Placed>> = alloc::vec![None; self.geometry.shape.columns];
            let mut usable = ColumnSet::EMPTY;
            for (copy, blocks) in copies.iter().zip(&found) {
                if let Checked::Good(placed) = &blocks[i] {
                    columns[copy.column].get_or_insert(placed);
                }
                if !matches!(blocks[i], Checked::Bad(_)) {
                    usable.insert(copy.column);
                }
            }
            self.count_lost(stripe, row, &columns, usable);
            if !self.is_codeword(&columns) {
                self.scrub.borrow_mut().inconsistent_rows += 1;
                let text = format!(
                    "stripe {} row {row}: all blocks match their checksums, but they are no \
                     codeword; nothing is changed",
                    stripe.0
                );
                self.tell(EventKind::RowsInconsistent, text);
            }
        }
    }

    /// A block of a copy that is wrong, cannot be read, or whose checksum is in doubt.
    async fn scrub_bad_block(
        &self,
        (stripe, slot): (Stripe, Slot),
        ColumnCopy { column, index }: ColumnCopy,
        row: usize,
        found: &Checked,
    ) {
        if self.live_device(index).is_none() {
            return; // the whole member has failed; that is told elsewhere
        }
        let none = ColumnSet::EMPTY;
        let made = self
            .reconstruct(stripe, slot, column, row..row + 1, none)
            .await;
        let wrong = match &made {
            // When the block is right it is its checksum page that was not: counted as that.
            Ok(made) => !found.holds(&made.blocks[0]),
            Err(_) => matches!(found, Checked::Bad(_)),
        };
        if wrong {
            self.count_found(index, |c| c.bad_blocks = c.bad_blocks.saturating_add(1));
        }
        match made {
            // What was wrong on other members is found, and repaired, when these are looked at.
            Ok(Made { blocks, .. }) if !self.read_only => {
                self.repair(index, slot, row..row + 1, &blocks, wrong).await;
                if wrong && self.live_device(index).is_some() {
                    self.report_repair(index, stripe, row, 1);
                    self.count_found(index, |c| {
                        c.repaired_blocks = c.repaired_blocks.saturating_add(1);
                    });
                }
            }
            _ => {} // what cannot be repaired is told as lost, or the array is read-only
        }
    }

    /// Counts the data of a row that is lost: what the `usable` columns do not give, and marks that
    /// stand for such blocks.
    fn count_lost(
        &self,
        stripe: Stripe,
        row: usize,
        columns: &[Option<&Placed>],
        usable: ColumnSet,
    ) {
        let data = columns[..self.geometry.shape.data].iter();
        for (column, found) in data.enumerate() {
            let lost = {
                let overlay = self.lane(stripe).overlay.borrow();
                let newer = overlay.block(stripe, row, column).map(|v| &v.data);
                match newer.or(found.map(|p| &p.data)) {
                    Some(data) => mark::is_mark(self.key, stripe, row, column, data),
                    None if usable.contains(column) => false,
                    None => match self.code.plan(usable, ColumnSet::single(column)) {
                        Some(plan) => self
                            .absent_block(&plan, columns)
                            .is_some_and(|b| mark::is_mark(self.key, stripe, row, column, &b)),
                        None => true,
                    },
                }
            };
            if lost {
                self.note_lost(stripe, column, row..row + 1);
                self.scrub.borrow_mut().lost_blocks += 1;
                let text = format!(
                    "stripe {} row {row} column {column}: lost beyond redundancy; restore it from \
                     a backup, or overwrite it",
                    stripe.0
                );
                self.tell(EventKind::BlocksLost, text);
            }
        }
    }

    /// A block of an absent member, from good ones.
    fn absent_block(&self, plan: &Plan, columns: &[Option<&Placed>]) -> Option<Buf> {
        let source = |s: &usize| Some(&columns[*s]?.data[..]);
        let sources: Vec<&[u8]> = plan.sources.iter().map(source).collect::<Option<_>>()?;
        let coefficients = &plan.rows[0].coefficients;
        Some(self.block(|out| self.kernels.combine(coefficients, &sources, out)))
    }

    /// Whether the columns of a row that were found agree; with data missing nothing can be said.
    fn is_codeword(&self, columns: &[Option<&Placed>]) -> bool {
        let shape = &self.geometry.shape;
        let blank = |c: &Option<&Placed>| c.is_none_or(|p| p.sum.is_blank());
        let Some(data) = columns[..shape.data]
            .iter()
            .map(|c| Some(&c.as_ref()?.data))
            .collect::<Option<Vec<&Buf>>>()
        else {
            return true;
        };
        if columns.iter().all(blank) {
            return true;
        }
        let sources: Vec<&[u8]> = data.iter().map(|d| &d[..]).collect();
        let mut expected = alloc::vec![0; BLOCK_BYTES];
        columns[shape.data..].iter().enumerate().all(|(p, found)| {
            let Some(found) = found else { return true };
            let coefficient = |c: usize| self.code.coefficient(p, c);
            let coefficients: Vec<u8> = (0..shape.data).map(coefficient).collect();
            self.kernels.combine(&coefficients, &sources, &mut expected);
            expected[..] == found.data[..]
        })
    }
}

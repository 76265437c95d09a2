//! Reading what is in place under a stripe's place lock, where nothing moves: what does not match
//! now is wrong, is reconstructed from the other members, and is rewritten.

use crate::array::Array;
use crate::executor::join_all;
use crate::mend::{Misfit, Repair};
use crate::mutants::{Mutant, active};
use crate::read::{Lost, runs, split_blocks};
use crate::reconstruct::Made;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::{Sum, block_matches};
use uraid_core::units::BLOCK_BYTES;
use uraid_parity::ColumnSet;

/// A block as it is in place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its content.
    pub data: Buf,
    /// Its checksum and generation; blank for blocks never written.
    pub sum: Sum,
}

/// A block as it was found on a member.
#[derive(Clone, Debug)]
pub enum Checked {
    /// It matches.
    Good(Placed),
    /// It matches a checksum that may be older than it should be.
    Doubtful(Placed),
    /// It does not match, or could not be read.
    Bad(Option<Buf>),
}

impl Checked {
    /// The block, if it is good.
    pub fn good(self) -> Option<Placed> {
        match self {
            Checked::Good(placed) => Some(placed),
            Checked::Doubtful(_) | Checked::Bad(_) => None,
        }
    }

    /// The block, if it matches at all.
    pub fn matching(self) -> Option<Placed> {
        match self {
            Checked::Good(placed) | Checked::Doubtful(placed) => Some(placed),
            Checked::Bad(_) => None,
        }
    }

    /// Whether the member has just this block. One that is said to be blank was not read: what
    /// the member holds there may be anything.
    pub fn holds(&self, block: &Placed) -> bool {
        match self {
            Checked::Good(p) | Checked::Doubtful(p) if p.sum.is_blank() => block.sum.is_blank(),
            Checked::Good(p) | Checked::Doubtful(p) => p.data[..] == block.data[..],
            Checked::Bad(found) => found.as_ref().is_some_and(|b| b[..] == block.data[..]),
        }
    }
}

impl Array {
    /// Reads some rows of a column, without reading the columns in `without`; the caller holds the
    /// place lock, alone if it wants repairs.
    pub async fn read_settled(
        &self,
        stripe: Stripe,
        column: usize,
        rows: Range<usize>,
        without: ColumnSet,
        repair: Repair,
    ) -> Result<Vec<Buf>, Lost> {
        loop {
            let epoch = self.config.borrow().epoch;
            let read = self.try_read_settled(stripe, column, rows.clone(), without, repair);
            let result = read.await;
            // A member that left meanwhile, as its replacement was filled, has not answered: the
            // members that there are now may have it all.
            if result.is_ok() || self.config.borrow().epoch == epoch {
                return result;
            }
        }
    }

    async fn try_read_settled(
        &self,
        stripe: Stripe,
        column: usize,
        rows: Range<usize>,
        without: ColumnSet,
        repair: Repair,
    ) -> Result<Vec<Buf>, Lost> {
        let lane = self.lane(stripe);
        let journalled = |row: usize| {
            lane.overlay
                .borrow()
                .block(stripe, row, column)
                .map(|v| v.data.clone())
        };
        let Some(slot) = lane.map.borrow().get(stripe).slot() else {
            return Ok(self.zeros(rows.len()));
        };
        let mut blocks: Vec<Option<Buf>> = rows.clone().map(journalled).collect();
        let local = self.geometry.in_lane(slot.0);
        lane.slots.borrow_mut().hold(local);
        let result = self
            .read_in_place(
                (stripe, slot),
                (column, without),
                rows.clone(),
                &mut blocks,
                repair,
            )
            .await;
        lane.unhold_slot(local, &self.ex);
        result?;
        self.note_found(stripe, column, rows);
        Ok(blocks
            .into_iter()
            .map(|b| b.expect("every block was found"))
            .collect())
    }

    /// Fills the gaps in `blocks` with what is in place.
    async fn read_in_place(
        &self,
        (stripe, slot): (Stripe, Slot),
        (column, without): (usize, ColumnSet),
        rows: Range<usize>,
        blocks: &mut [Option<Buf>],
        repair: Repair,
    ) -> Result<(), Lost> {
        let reader = self.reader(slot, column);
        let reader = reader.filter(|_| !without.contains(column));
        let found = match reader {
            Some(index) => self.read_checked(index, slot, column, rows.clone()).await,
            None => alloc::vec![Checked::Bad(None); rows.len()],
        };
        for (block, checked) in blocks.iter_mut().zip(&found) {
            if let (None, Checked::Good(placed)) = (&block, checked) {
                *block = Some(placed.data.clone());
            }
        }
        let missing: Vec<usize> = (0..blocks.len()).filter(|i| blocks[*i].is_none()).collect();
        for run in runs(&missing) {
            let at = rows.start + run.start..rows.start + run.end;
            let found_there = &found[run.clone()];
            let made = self.made_anew((stripe, slot), (column, without), at.clone(), found_there);
            let mut made = made.await?;
            if let Some(index) = reader {
                let each = at.zip(found_there).zip(&made.blocks);
                let misfit = |((row, found), right)| Misfit::of((index, column), row, found, right);
                made.misfits.extend(each.filter_map(misfit));
            }
            self.repair_misfits(stripe, slot, made.misfits, repair)
                .await;
            for (block, placed) in blocks[run].iter_mut().zip(made.blocks) {
                *block = Some(placed.data);
            }
        }
        Ok(())
    }

    /// What blocks should be that are not good: reconstructed, or where that cannot be done, as
    /// they were found if only their checksum is in doubt.
    async fn made_anew(
        &self,
        (stripe, slot): (Stripe, Slot),
        (column, without): (usize, ColumnSet),
        rows: Range<usize>,
        found: &[Checked],
    ) -> Result<Made, Lost> {
        let made = self
            .reconstruct(stripe, slot, column, rows.clone(), without)
            .await;
        let doubtful = |f: &Checked| matches!(f, Checked::Doubtful(_));
        if made.is_ok() || !found.iter().any(doubtful) {
            return made;
        }
        let mut all = Made::default();
        for (row, checked) in rows.zip(found) {
            let made = self
                .reconstruct(stripe, slot, column, row..row + 1, without)
                .await;
            match (made, checked) {
                (Ok(made), _) => all.append(made),
                (Err(_), Checked::Doubtful(placed)) => all.blocks.push(placed.clone()),
                (Err(lost), _) => return Err(lost),
            }
        }
        Ok(all)
    }

    /// Reads some rows of a column from one member and verifies them.
    pub async fn read_checked(
        &self,
        index: Index,
        slot: Slot,
        column: usize,
        rows: Range<usize>,
    ) -> Vec<Checked> {
        let sums = self.sums(index, slot, rows.clone()).await;
        let doubtful = self.is_doubtful(&sums, slot);
        let known: Vec<Sum> = rows.clone().map(|r| self.sum_of(&sums, slot, r)).collect();
        let wanted = |s: &Sum| !s.is_blank();
        let first = known.iter().position(wanted).unwrap_or(0);
        let end = known
            .iter()
            .rposition(wanted)
            .map_or(first, |last| last + 1);
        let bytes = self
            .read_span(index, slot, rows.start + first..rows.start + end)
            .await;
        let check = |(i, sum): (usize, Sum)| {
            let read = i.checked_sub(first).and_then(|at| bytes.get(at)?.clone());
            let placed = match (sum.is_blank(), &read) {
                (true, _) => Some(self.zero.clone()),
                (false, Some(data)) => {
                    let good = block_matches(self.key, slot, rows.start + i, column, data, sum)
                        || active(Mutant::SourcesUnverified);
                    good.then(|| data.clone())
                }
                (false, None) => None,
            };
            match placed {
                Some(data) if !doubtful => Checked::Good(Placed { data, sum }),
                Some(data) => Checked::Doubtful(Placed { data, sum }),
                None => Checked::Bad(read),
            }
        };
        known.into_iter().enumerate().map(check).collect()
    }

    /// Reads blocks of a slot; one I/O if it works, block by block around a latent error.
    async fn read_span(&self, index: Index, slot: Slot, rows: Range<usize>) -> Vec<Option<Buf>> {
        if rows.is_empty() {
            return Vec::new();
        }
        let offset = self.geometry.block_offset(slot, rows.start);
        if let Ok(bytes) = self
            .read_member(index, offset, rows.len() * BLOCK_BYTES)
            .await
        {
            return split_blocks(&bytes.freeze()).map(Some).collect();
        }
        if rows.len() == 1 {
            return alloc::vec![None];
        }
        let one = |row: usize| async move {
            let offset = self.geometry.block_offset(slot, row);
            Some(
                self.read_member(index, offset, BLOCK_BYTES)
                    .await
                    .ok()?
                    .freeze(),
            )
        };
        join_all(rows.map(one)).await
    }
}

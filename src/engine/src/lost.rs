//! Blocks lost beyond the redundancy: what clients and operators are told of them, and what
//! becomes of them when their row is written.
//!
//! A lost block is one that cannot be reconstructed, or a mark ([`uraid_core::mark`]) that stands
//! for one. Blocks are marked only when their row must be written all the same: until then they
//! may yet turn up, when a member returns or a device thinks better of it.

use crate::api::RequestError;
use crate::array::Array;
use crate::executor::join_all;
use crate::read::Lost;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::events::EventKind;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::mark;
use uraid_core::superblock::COPY_OFFSETS;
use uraid_core::units::{BLOCK, BLOCK_BYTES};

/// Most blocks remembered one by one; further ones are only known to exist.
const LISTED_MAX: usize = 4096;

/// Lost blocks, by their number in the export.
#[derive(Default, Debug)]
pub struct LostBlocks {
    listed: BTreeSet<u64>,
}

impl LostBlocks {
    /// How many are known.
    pub fn count(&self) -> u64 {
        self.listed.len() as u64
    }

    /// Those among some blocks of the export, ascending.
    pub fn within(&self, blocks: Range<u64>) -> impl Iterator<Item = u64> {
        self.listed.range(blocks).copied()
    }

    /// Where they are: byte offsets in the export, ascending.
    pub fn offsets(&self) -> Vec<u64> {
        self.listed.iter().map(|b| b * BLOCK).collect()
    }
}

impl Array {
    /// Blocks of the export in some rows of a data column; none for parity.
    fn export_blocks(&self, stripe: Stripe, column: usize, rows: Range<usize>) -> Range<u64> {
        let shape = &self.geometry.shape;
        if column >= shape.data {
            return 0..0;
        }
        let first = (stripe.0 * shape.data as u64 + column as u64) * shape.rows() as u64;
        first + rows.start as u64..first + rows.end as u64
    }

    /// These blocks cannot be had.
    pub fn note_lost(&self, stripe: Stripe, column: usize, rows: Range<usize>) {
        let mut lost = self.lost.borrow_mut();
        for block in self.export_blocks(stripe, column, rows) {
            if lost.listed.len() < LISTED_MAX {
                lost.listed.insert(block);
            }
        }
    }

    /// These blocks have been read or written: they are not lost, or not any more.
    pub fn note_found(&self, stripe: Stripe, column: usize, rows: Range<usize>) {
        let mut lost = self.lost.borrow_mut();
        if lost.listed.is_empty() {
            return; // nearly always
        }
        for block in self.export_blocks(stripe, column, rows) {
            lost.listed.remove(&block);
        }
    }

    /// As [`Array::note_found`] for a whole stripe.
    pub fn note_stripe_found(&self, stripe: Stripe) {
        if self.lost.borrow().listed.is_empty() {
            return;
        }
        let shape = self.geometry.shape;
        (0..shape.data).for_each(|c| self.note_found(stripe, c, 0..shape.rows()));
    }

    /// Marks are answered with an error, not with what they are made of. `blocks` is the content
    /// of some rows of a data column.
    pub fn refuse_marks(
        &self,
        stripe: Stripe,
        column: usize,
        rows: Range<usize>,
        blocks: &[Buf],
    ) -> Result<(), Lost> {
        let each = blocks.iter().flat_map(|b| b.chunks_exact(BLOCK_BYTES));
        for (row, block) in rows.zip(each) {
            if mark::is_mark(self.key, stripe, row, column, block) {
                self.note_lost(stripe, column, row..row + 1);
                return Err(Lost(format!(
                    "stripe {} row {row} column {column}: lost beyond redundancy earlier; it can \
                     be read again once it is overwritten",
                    stripe.0
                )));
            }
        }
        Ok(())
    }

    /// A new version of a block is visible: whether it is lost now.
    pub fn note_version(&self, stripe: Stripe, column: usize, row: usize, block: &[u8]) {
        match mark::is_mark(self.key, stripe, row, column, block) {
            true => self.note_lost(stripe, column, row..row + 1),
            false => self.note_found(stripe, column, row..row + 1),
        }
    }

    /// The mark that stands for a lost block.
    pub fn mark_of(&self, stripe: Stripe, column: usize, row: usize) -> Buf {
        self.block(|block| mark::fill(self.key, stripe, row, column, block))
    }

    /// Journals the rows of a stripe that cannot be read in full, with marks for what is lost, so
    /// that they can be written again. The caller is the task that writes to the stripe.
    pub async fn mark_lost(&self, stripe: Stripe, slot: Slot) -> Result<(), RequestError> {
        self.refuse_while_members_are_silent(stripe).await?;
        let shape = self.geometry.shape;
        let none = alloc::vec![alloc::vec![None; shape.rows()]; shape.columns];
        let mut entries = Vec::new();
        for row in 0..shape.rows() {
            let read = |column| self.read_blocks(stripe, column, row..row + 1);
            let read = join_all((0..shape.data).map(read)).await;
            if read.iter().all(Result::is_ok) {
                continue;
            }
            let block = |(column, read): (usize, Result<Vec<Buf>, Lost>)| match read {
                Ok(mut blocks) => blocks.remove(0),
                Err(_) => self.mark_of(stripe, column, row),
            };
            let data: Vec<Buf> = read.into_iter().enumerate().map(block).collect();
            let data: Vec<Option<&Buf>> = data.iter().map(Some).collect();
            entries.push(self.encode_row(stripe, slot, row, &data, &none));
            let text = format!(
                "stripe {} row {row}: written with blocks missing beyond redundancy; they are \
                 marked as lost, and read as errors until they are overwritten",
                stripe.0
            );
            self.tell(EventKind::BlocksLost, text);
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.commit_entries(stripe, entries, Vec::new()).await
    }

    /// A block that cannot be read is lost when its device reads others. When it reads nothing at
    /// all it is the device or the way to it, and nothing is lost yet.
    async fn refuse_while_members_are_silent(&self, stripe: Stripe) -> Result<(), Lost> {
        let members: Vec<Index> = self.all_writers();
        let probes = members
            .iter()
            .filter(|i| self.live_device(**i).is_some())
            .map(|i| async move {
                let read = self.read_member(*i, COPY_OFFSETS[0], BLOCK_BYTES).await;
                (*i, read.is_ok())
            });
        match join_all(probes).await.iter().find(|(_, answers)| !answers) {
            Some((index, _)) => Err(Lost(format!(
                "stripe {}: its row cannot be read, and {} reads nothing at all now",
                stripe.0,
                self.member_name(*index)
            ))),
            None => Ok(()),
        }
    }
}

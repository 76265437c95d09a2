//! Reading: from memory what is journalled, from members what is in place, verified block by
//! block, reconstructed where a member is missing or wrong.
//!
//! A read takes no lock. At one instant it notes, for every block, the journalled version or the
//! checksum of what is in place, and starts the I/O; while it runs, a destage may change the
//! place under it, which shows as a mismatch. So a mismatch is believed only under the stripe's
//! place lock, where nothing in place moves.

use crate::api::RequestError;
use crate::array::Array;
use crate::executor::join_all;
use crate::mend::Repair;
use crate::mutants::{Mutant, active};
use crate::sums::SlotSums;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_buffer::{Buf, Span};
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::{Sum, block_matches};
use uraid_core::units::{BLOCK, BLOCK_BYTES};
use uraid_parity::ColumnSet;

/// Blocks that cannot be had from the members present.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost(pub String);

impl From<Lost> for RequestError {
    fn from(lost: Lost) -> RequestError {
        RequestError::Io {
            text: lost.0,
            offset: None,
        }
    }
}

/// Where the visible content of a block comes from.
enum Source {
    Memory(Buf),
    Blank,
    Place(Sum),
}

/// Some rows of a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Of which stripe.
    pub stripe: Stripe,
    /// The column.
    pub column: usize,
    /// The rows.
    pub rows: Range<usize>,
}

/// Why the quick way did not work.
enum Slow {
    /// No member can be read for this column.
    NoMember,
    /// A block of the copy in this column did not match or could not be read.
    Mismatch(usize),
}

impl Array {
    /// Reads any byte range of the export. What was never written comes without memory.
    pub async fn read_range(&self, offset: u64, len: u64) -> Result<Vec<Span>, RequestError> {
        let first = offset / BLOCK;
        let end = (offset + len).div_ceil(BLOCK);
        let pieces = self.column_runs(first..end);
        let read = join_all(
            pieces
                .iter()
                .map(|(s, c, rows)| self.read_rows(*s, *c, rows.clone())),
        )
        .await;
        let mut spans = Vec::new();
        let mut at = first * BLOCK;
        for (piece, (stripe, column, rows)) in read.into_iter().zip(pieces) {
            let blocks = rows.len() as u64;
            let whole = piece.and_then(|piece| {
                self.refuse_marks(stripe, column, rows, &piece)?;
                Ok(piece)
            });
            let whole = whole.map_err(|lost| RequestError::Io {
                text: lost.0,
                offset: Some(at.max(offset)),
            })?;
            whole
                .into_iter()
                .for_each(|b| self.push_span(&mut spans, b));
            at += blocks * BLOCK;
        }
        trim(&mut spans, offset % BLOCK, len);
        Ok(spans)
    }

    /// Adds what was read. Blocks never written are all one block in memory: they need none.
    fn push_span(&self, spans: &mut Vec<Span>, buffer: Buf) {
        if buffer.as_ptr() != self.zero.as_ptr() {
            return spans.push(Span::Data(buffer));
        }
        match spans.last_mut() {
            Some(Span::Zeros(len)) => *len += buffer.len() as u64,
            _ => spans.push(Span::Zeros(buffer.len() as u64)),
        }
    }

    /// Cuts a range of the export's blocks at chunk boundaries.
    pub fn column_runs(&self, blocks: Range<u64>) -> Vec<(Stripe, usize, Range<usize>)> {
        let shape = &self.geometry.shape;
        let (rows, columns) = (shape.rows() as u64, shape.data as u64);
        let mut runs = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end {
            let chunk = at / rows;
            let end = ((chunk + 1) * rows).min(blocks.end);
            let row = (at % rows) as usize;
            let run = row..row + (end - at) as usize;
            runs.push((Stripe(chunk / columns), (chunk % columns) as usize, run));
            at = end;
        }
        runs
    }

    /// The visible content of some rows of a column, in order, in one or more buffers. Marks of
    /// lost blocks come as they are: see [`crate::lost`].
    pub async fn read_rows(
        &self,
        stripe: Stripe,
        column: usize,
        rows: Range<usize>,
    ) -> Result<Vec<Buf>, Lost> {
        self.look_at_members();
        let wanted = Wanted {
            stripe,
            column,
            rows: rows.clone(),
        };
        let slow = match self.read_quick(wanted.clone(), ColumnSet::EMPTY).await {
            Ok(blocks) => return Ok(blocks),
            Err(slow) => slow,
        };
        if matches!(slow, Slow::NoMember)
            && let Ok(blocks) = self.read_from_others(wanted, ColumnSet::EMPTY).await
        {
            return Ok(blocks);
        }
        let _alone = match active(Mutant::MismatchUnlocked) {
            true => None,
            false => Some(self.lock_place(stripe).await),
        };
        let settled = |column| {
            let (rows, none) = (rows.clone(), ColumnSet::EMPTY);
            self.read_settled(stripe, column, rows, none, Repair::Report)
        };
        if let Slow::Mismatch(copy) = slow
            && copy != column
        {
            // Another copy of a mirror: whether it is wrong shows when it is read itself.
            let _ = settled(copy).await;
        }
        settled(column).await
    }

    /// As [`Array::read_rows`], without reading certain columns; repairs are left for later.
    pub async fn read_around(&self, wanted: Wanted, without: ColumnSet) -> Result<Vec<Buf>, Lost> {
        match self.read_quick(wanted.clone(), without).await {
            Ok(blocks) => Ok(blocks),
            Err(_) => self.read_from_others(wanted, without).await,
        }
    }

    /// Reads what other columns give for these, leaving out also those that are better left alone.
    async fn read_from_others(
        &self,
        Wanted {
            stripe,
            column,
            rows,
        }: Wanted,
        without: ColumnSet,
    ) -> Result<Vec<Buf>, Lost> {
        let _still = self.share_place(stripe).await;
        let slot = self.lane(stripe).map.borrow().get(stripe).slot();
        let avoided = slot.map_or(ColumnSet::EMPTY, |slot| self.avoided(slot));
        let without = without.union(avoided);
        self.read_settled(stripe, column, rows, without, Repair::Later)
            .await
    }

    /// As [`Array::read_rows`], one buffer per row.
    pub async fn read_blocks(
        &self,
        stripe: Stripe,
        column: usize,
        rows: Range<usize>,
    ) -> Result<Vec<Buf>, Lost> {
        let runs = self.read_rows(stripe, column, rows).await?;
        Ok(runs.iter().flat_map(split_blocks).collect())
    }

    /// Reads one copy; if it is late and nothing was to be left out, others as well.
    async fn read_quick(&self, wanted: Wanted, without: ColumnSet) -> Result<Vec<Buf>, Slow> {
        let Wanted {
            stripe,
            column,
            rows,
        } = wanted.clone();
        let lane = self.lane(stripe);
        let place = || lane.map.borrow().get(stripe).slot();
        let (slot, copy, index, sums) = loop {
            let Some(slot) = place() else {
                return Ok(self.zeros(rows.len()));
            };
            if self.avoids_any() && without.is_empty() {
                self.probe_if_due(slot, column, rows.clone());
            }
            let Some((copy, index)) = self.copy_to_read(slot, column, without) else {
                return Err(Slow::NoMember);
            };
            let sums = self.sums(index, slot, rows.clone()).await;
            if place() == Some(slot) && self.reader(slot, copy) == Some(index) {
                break (slot, copy, index, sums);
            }
        };
        if self.is_doubtful(&sums, slot) {
            return Err(Slow::Mismatch(copy));
        }
        // From here until the I/O is started nothing else runs: one instant.
        let sources = self.sources(stripe, slot, column, rows.clone(), &sums);
        let placed = |s: &Source| matches!(s, Source::Place(_));
        let Some(first) = sources.iter().position(placed) else {
            return Ok(sources.into_iter().map(|s| self.block_of(s)).collect());
        };
        let last = sources.iter().rposition(placed).expect("there is a first");
        let local = self.geometry.in_lane(slot.0);
        lane.slots.borrow_mut().hold(local);
        let offset = self.geometry.block_offset(slot, rows.start + first);
        let pending = self.start_read(index, offset, (last + 1 - first) * BLOCK_BYTES);
        let result = match without.is_empty() {
            true => {
                self.finish_read_or_hedge(index, pending, wanted, copy)
                    .await
            }
            false => Ok(self.finish_read(index, pending).await),
        };
        lane.unhold_slot(local, &self.ex);
        let result = match result {
            Ok(result) => result,
            Err(others) => return Ok(others),
        };
        let bytes = result.map_err(|()| Slow::Mismatch(copy))?.freeze();
        let unverified = !without.is_empty() && active(Mutant::HedgeUnverified);
        let blocks = self.merge(sources, bytes, first, (slot, rows.start, copy), unverified)?;
        self.show(stripe, column, (copy, index));
        Ok(blocks)
    }

    /// Notes where each block comes from.
    fn sources(
        &self,
        stripe: Stripe,
        slot: Slot,
        column: usize,
        rows: Range<usize>,
        sums: &SlotSums,
    ) -> Vec<Source> {
        let overlay = self.lane(stripe).overlay.borrow();
        let journalled = overlay.has(stripe);
        let source = |row: usize| {
            if journalled && let Some(version) = overlay.block(stripe, row, column) {
                return Source::Memory(version.data.clone());
            }
            match self.sum_of(sums, slot, row) {
                sum if sum.is_blank() => Source::Blank,
                sum => Source::Place(sum),
            }
        };
        rows.map(source).collect()
    }

    fn block_of(&self, source: Source) -> Buf {
        match source {
            Source::Memory(block) => block,
            Source::Blank => self.zero.clone(),
            Source::Place(_) => unreachable!("nothing was read from the member"),
        }
    }

    /// Verifies what was read and puts it together with what came from memory. `bytes` begins
    /// with the block of `sources[first]`; `sources[0]` is `row` of the column.
    fn merge(
        &self,
        sources: Vec<Source>,
        bytes: Buf,
        first: usize,
        (slot, row, column): (Slot, usize, usize),
        unverified: bool,
    ) -> Result<Vec<Buf>, Slow> {
        let all_placed = sources.iter().all(|s| matches!(s, Source::Place(_)));
        let mut blocks = Vec::with_capacity(if all_placed { 1 } else { sources.len() });
        for (i, source) in sources.into_iter().enumerate() {
            let Source::Place(sum) = source else {
                blocks.push(self.block_of(source));
                continue;
            };
            let range = (i - first) * BLOCK_BYTES..(i + 1 - first) * BLOCK_BYTES;
            let skip = self.skip_verification || unverified || active(Mutant::ReadUnverified);
            let unchecked = skip && sum != Sum::NONE;
            if !unchecked
                && !block_matches(self.key, slot, row + i, column, &bytes[range.clone()], sum)
            {
                return Err(Slow::Mismatch(column));
            }
            if !all_placed {
                blocks.push(bytes.slice(range));
            }
        }
        if all_placed {
            blocks.push(bytes);
        }
        Ok(blocks)
    }
}

/// The 4 KiB blocks of a buffer.
pub fn split_blocks(buffer: &Buf) -> impl Iterator<Item = Buf> {
    (0..buffer.len() / BLOCK_BYTES).map(|i| buffer.slice(i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES))
}

/// Runs of consecutive numbers.
pub fn runs(numbers: &[usize]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some(run) if run.end == *n => run.end += 1,
            _ => runs.push(*n..*n + 1),
        }
    }
    runs
}

/// Cuts `skip` bytes off the front and what is beyond `len` off the end.
pub fn trim(spans: &mut Vec<Span>, mut skip: u64, mut len: u64) {
    spans.retain_mut(|span| {
        let start = skip.min(span.bytes());
        skip -= start;
        let end = (start + len).min(span.bytes());
        len -= end - start;
        match span {
            Span::Data(data) if (start, end) != (0, data.len() as u64) => {
                *data = data.slice(start as usize..end as usize);
            }
            Span::Data(_) => {}
            Span::Zeros(zeros) => *zeros = end - start,
        }
        start < end
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_buffer::Pool;

    #[test]
    fn trimming_keeps_the_middle() {
        let pool = Pool::heap();
        let bytes: Vec<u8> = (0..30).collect();
        for (skip, len) in [(0, 30), (5, 20), (10, 10), (12, 3), (0, 0), (29, 1)] {
            let data = |c: &[u8]| Span::Data(pool.copy(c));
            let mut spans: Vec<Span> = bytes.chunks(10).map(data).collect();
            trim(&mut spans, skip as u64, len as u64);
            assert_eq!(Span::joined(&spans), bytes[skip..skip + len]);
        }
        let mut spans = alloc::vec![Span::Zeros(10), Span::Data(pool.copy(&bytes))];
        trim(&mut spans, 4, 8);
        assert!(matches!(spans[0], Span::Zeros(6)), "{spans:?}");
        assert_eq!(Span::joined(&spans), [0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn runs_of_numbers() {
        assert_eq!(runs(&[1, 2, 3, 5, 8, 9]), [1..4, 5..6, 8..10]);
    }
}

//! Encoding: the new blocks of a stripe become a unit of commit. A whole stripe gets its parity
//! row by row while the row is in the cache; rows get theirs from the old content of what changes,
//! or from the data that stays, whichever costs less I/O.

use crate::api::RequestError;
use crate::array::Array;
use crate::commit::{Unit, UnitEntry};
use crate::executor::join_all;
use crate::read::{Lost, runs};
use crate::sums::SlotSums;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_buffer::Buf;
use uraid_core::checksum;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::journal::Entry;
use uraid_core::units::BLOCK_BYTES;
use uraid_parity::ColumnSet;

/// A journalled block that keeps more memory than this from being used again is copied.
const PINNED_BYTES_MAX: usize = 16 << 10;

/// Old content of rows that a row write needs, by column then row.
type Old = Vec<Vec<Option<Buf>>>;

impl Array {
    /// Pins the checksum pages of a slot on all members that will hold it.
    pub async fn pin_sums(
        &self,
        slot: Slot,
        columns: impl Iterator<Item = usize>,
    ) -> Vec<SlotSums> {
        let rows = 0..self.geometry.shape.rows();
        let writers = columns
            .flat_map(|c| self.writers(slot, c))
            .collect::<Vec<_>>();
        join_all(
            writers
                .into_iter()
                .map(|i| self.sums(i, slot, rows.clone())),
        )
        .await
    }

    /// Writes a whole stripe into a new slot.
    pub async fn commit_stripe(
        &self,
        stripe: Stripe,
        slot: Slot,
        place: Option<Slot>,
        new: Vec<Option<Buf>>,
    ) -> Result<(), RequestError> {
        let rows = self.geometry.shape.rows();
        let data = match self.complete(stripe, place, &new).await {
            Ok(data) => data,
            Err(_) => {
                self.lane(stripe)
                    .slots
                    .borrow_mut()
                    .untake(self.geometry.in_lane(slot.0));
                self.ex.fire(&self.lane(stripe).slots_moved);
                return self.commit_rows(stripe, place, new).await;
            }
        };
        let (columns, checksums) = self.encode_stripe(slot, data);
        let pinned = self.pin_sums(slot, 0..self.geometry.shape.columns).await;
        let entry = Entry::Remap {
            stripe,
            slot,
            checksums,
        };
        let unit = Unit {
            entries: alloc::vec![UnitEntry {
                entry,
                payload: Vec::new()
            }],
            slot_writes: columns
                .into_iter()
                .enumerate()
                .map(|(c, b)| (slot, c, b))
                .collect(),
            pinned,
        };
        debug_assert!(rows > 0);
        self.commit(self.geometry.lane_of_stripe(stripe), unit)
            .await
    }

    /// Fills the gaps with the stripe's old content.
    async fn complete(
        &self,
        stripe: Stripe,
        place: Option<Slot>,
        new: &[Option<Buf>],
    ) -> Result<Vec<Buf>, Lost> {
        let mut new = new.to_vec();
        let rows = self.geometry.shape.rows();
        let gaps: Vec<usize> = (0..new.len()).filter(|i| new[*i].is_none()).collect();
        if place.is_none() {
            gaps.iter().for_each(|i| new[*i] = Some(self.zero.clone()));
        } else {
            let first = new.len() as u64 * stripe.0;
            let span = |r: &Range<usize>| first + r.start as u64..first + r.end as u64;
            let runs: Vec<_> = runs(&gaps)
                .iter()
                .flat_map(|r| self.column_runs(span(r)))
                .collect();
            let read = join_all(
                runs.iter()
                    .map(|(s, c, r)| self.read_blocks(*s, *c, r.clone())),
            )
            .await;
            for ((_, column, run), blocks) in runs.into_iter().zip(read) {
                for (row, block) in run.zip(blocks?) {
                    new[column * rows + row] = Some(block);
                }
            }
        }
        Ok(new.into_iter().flatten().collect())
    }

    /// Parity and checksums of a whole stripe, row by row while the row is in the cache. Gives
    /// each column's buffers and all checksums, column by column.
    fn encode_stripe(&self, slot: Slot, data: Vec<Buf>) -> (Vec<Vec<Buf>>, Vec<u32>) {
        let shape = &self.geometry.shape;
        let (rows, k, n) = (shape.rows(), shape.data, shape.columns);
        let mirrored = shape.copies > 1;
        let chunk = shape.chunk_bytes as usize;
        let made = if mirrored { 0 } else { n - k };
        let mut parity: Vec<_> = (0..made).map(|_| self.pool.take(chunk)).collect();
        let mut sums = alloc::vec![0; n * rows];
        for row in 0..rows {
            let range = row * BLOCK_BYTES..(row + 1) * BLOCK_BYTES;
            let sources: Vec<&[u8]> = (0..k).map(|c| &data[c * rows + row][..]).collect();
            let mut outputs: Vec<&mut [u8]> =
                parity.iter_mut().map(|p| &mut p[range.clone()]).collect();
            if !mirrored {
                self.kernels.encode(&self.code, &sources, &mut outputs);
            }
            let data = sources.iter().copied();
            let made = outputs.iter().map(|output| &**output);
            let contents: Vec<u32> = data.chain(made).map(checksum::content).collect();
            for column in 0..n {
                let content = match mirrored {
                    true => contents[column % k],
                    false => contents[column],
                };
                sums[column * rows + row] = checksum::placed(content, self.key, slot, row, column);
            }
        }
        let mut columns: Vec<Vec<Buf>> = data.chunks(rows).map(join_adjacent).collect();
        if mirrored {
            for column in k..n {
                columns.push(columns[(column - k) % k].clone());
            }
        }
        columns.extend(parity.into_iter().map(|p| alloc::vec![p.freeze()]));
        (columns, sums)
    }

    /// Journals the rows that change.
    pub async fn commit_rows(
        &self,
        stripe: Stripe,
        place: Option<Slot>,
        new: Vec<Option<Buf>>,
    ) -> Result<(), RequestError> {
        let shape = &self.geometry.shape;
        let rows = shape.rows();
        let mut entries = Vec::new();
        let mut pinned = Vec::new();
        let slot = match place {
            Some(slot) => slot,
            None => {
                let Some(slot) = self.take_slot(stripe, true).await else {
                    return Err(RequestError::NoSpace("no free slot is left".into()));
                };
                pinned = self.pin_sums(slot, 0..shape.columns).await;
                let entry = Entry::Alloc { stripe, slot };
                entries.push(UnitEntry {
                    entry,
                    payload: Vec::new(),
                });
                slot
            }
        };
        let old = match place {
            Some(_) => match self.read_old(stripe, slot, &new).await {
                Ok(old) => old,
                Err(_) => {
                    self.mark_lost(stripe, slot).await?;
                    self.read_old(stripe, slot, &new).await?
                }
            },
            None => alloc::vec![alloc::vec![None; rows]; shape.columns],
        };
        for row in 0..rows {
            let data: Vec<Option<&Buf>> = (0..shape.data)
                .map(|c| new[c * rows + row].as_ref())
                .collect();
            if data.iter().any(Option::is_some) {
                entries.push(self.encode_row(stripe, slot, row, &data, &old));
            }
        }
        self.commit_entries(stripe, entries, pinned).await
    }

    /// Reads what the parity of changed rows depends on: either the old content of what changes
    /// and of its parity, or the data that stays, whichever costs less I/O.
    async fn read_old(&self, stripe: Stripe, slot: Slot, new: &[Option<Buf>]) -> Result<Old, Lost> {
        let shape = &self.geometry.shape;
        let (rows, k, n) = (shape.rows(), shape.data, shape.columns);
        let mut wanted = alloc::vec![Vec::new(); n];
        let readable = self.readable(slot);
        for row in 0..rows {
            let changed: ColumnSet = (0..k).filter(|c| new[c * rows + row].is_some()).collect();
            if changed.is_empty() || changed.len() == k || n == k || shape.copies > 1 {
                continue;
            }
            let update = changed.union(self.code.parities_of(changed));
            let rest = ColumnSet::first(k).minus(changed);
            // A column that must be reconstructed costs as much as all its sources.
            let cost = |set: ColumnSet| set.len() + k * set.minus(readable).len();
            let chosen = if cost(update) < cost(rest) {
                update
            } else {
                rest
            };
            chosen.iter().for_each(|c| wanted[c].push(row));
        }
        let spans: Vec<(usize, Range<usize>)> = wanted
            .iter()
            .enumerate()
            .flat_map(|(c, rows)| runs(rows).into_iter().map(move |r| (c, r)))
            .collect();
        let read = join_all(
            spans
                .iter()
                .map(|(c, r)| self.read_blocks(stripe, *c, r.clone())),
        )
        .await;
        let mut old = alloc::vec![alloc::vec![None; rows]; n];
        for ((column, span), blocks) in spans.into_iter().zip(read) {
            for (row, block) in span.zip(blocks?) {
                old[column][row] = Some(block);
            }
        }
        Ok(old)
    }

    /// New parity and checksums of one row.
    pub fn encode_row(
        &self,
        stripe: Stripe,
        slot: Slot,
        row: usize,
        data: &[Option<&Buf>],
        old: &Old,
    ) -> UnitEntry {
        let k = self.geometry.shape.data;
        let changed: ColumnSet = (0..k).filter(|c| data[*c].is_some()).collect();
        let parities = self.code.parities_of(changed);
        let mut payload: Vec<(usize, Buf)> = changed
            .iter()
            .map(|c| (c, self.compact(data[c].expect("it changed"))))
            .collect();
        let content = |(_, block): &(usize, Buf)| checksum::content(block);
        let mut contents: Vec<u32> = payload.iter().map(content).collect();
        let updates = parities.iter().all(|p| old[p][row].is_some()) && !parities.is_empty();
        for p in parities.iter() {
            let block = if self.geometry.shape.copies > 1 {
                let copied = payload.iter().position(|(c, _)| *c == p % k);
                let copied = copied.expect("its data changed");
                contents.push(contents[copied]);
                payload.push((p, payload[copied].1.clone()));
                continue;
            } else if updates {
                self.block(|out| {
                    out.copy_from_slice(old[p][row].as_ref().expect("it was read"));
                    for c in changed.iter() {
                        let before = old[c][row].as_ref().expect("it was read");
                        let factor = self.code.coefficient(p - k, c);
                        self.kernels
                            .update(factor, before, data[c].expect("it changed"), out);
                    }
                })
            } else {
                let source = |c: usize| data[c].or(old[c][row].as_ref()).unwrap_or(&self.zero);
                let sources: Vec<&[u8]> = (0..k).map(|c| &source(c)[..]).collect();
                let factors: Vec<u8> = (0..k).map(|c| self.code.coefficient(p - k, c)).collect();
                self.block(|out| self.kernels.combine(&factors, &sources, out))
            };
            contents.push(checksum::content(&block));
            payload.push((p, block));
        }
        let sum = |((c, _), content): (&(usize, Buf), &u32)| {
            checksum::placed(*content, self.key, slot, row, *c)
        };
        let checksums = payload.iter().zip(&contents).map(sum).collect();
        let columns = changed.union(parities);
        let entry = Entry::Row {
            stripe,
            slot,
            row: row as u16,
            columns,
            checksums,
        };
        UnitEntry { entry, payload }
    }

    /// A block to be kept until its destage: not a small window on a large request.
    fn compact(&self, block: &Buf) -> Buf {
        if block.pinned_bytes() > PINNED_BYTES_MAX {
            self.pool.copy(block)
        } else {
            block.clone()
        }
    }

    pub async fn unmap(&self, stripe: Stripe) -> Result<(), RequestError> {
        let entry = Entry::Unmap {
            first: stripe,
            count: 1,
        };
        let entries = alloc::vec![UnitEntry {
            entry,
            payload: Vec::new()
        }];
        self.commit_entries(stripe, entries, Vec::new()).await
    }
}

/// Joins neighbours that are one piece of memory, so that a chunk is written by few buffers.
fn join_adjacent(blocks: &[Buf]) -> Vec<Buf> {
    let mut joined: Vec<Buf> = Vec::new();
    for block in blocks {
        match joined.last_mut() {
            Some(last) => match last.join(block) {
                Some(both) => *last = both,
                None => joined.push(block.clone()),
            },
            None => joined.push(block.clone()),
        }
    }
    joined
}

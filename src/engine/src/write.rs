//! Writing: the pieces of requests that fall into one stripe are taken in order by one task,
//! merged, and turned into a unit of commit: rows, or a whole stripe in a new slot, whichever
//! moves fewer bytes.

use crate::api::RequestError;
use crate::array::Array;
use crate::commit::{Unit, UnitEntry};
use crate::executor::{Promise, join_all};
use crate::read::{Lost, runs};
use crate::sums::SlotSums;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;
use uraid_buffer::{ALIGNMENT, Buf};
use uraid_core::checksum;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::journal::Entry;
use uraid_core::units::BLOCK_BYTES;
use uraid_parity::ColumnSet;

/// Stripes that one request works on at the same time: bounds what a trim of everything takes.
const STRIPES_AT_ONCE_MAX: u64 = 4096;
/// A journalled block that keeps more memory than this from being used again is copied.
const PINNED_BYTES_MAX: usize = 16 << 10;

/// What a piece writes.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Data(Buf),
    /// So many zeros.
    Zeros(usize),
    /// Nothing, if it covers a whole stripe; else it is ignored.
    Trim(usize),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Content::Data(data) => data.len(),
            Content::Zeros(len) | Content::Trim(len) => *len,
        }
    }

    fn slice(&self, range: Range<usize>) -> Content {
        match self {
            Content::Data(data) => Content::Data(data.slice(range)),
            Content::Zeros(_) => Content::Zeros(range.len()),
            Content::Trim(_) => Content::Trim(range.len()),
        }
    }
}

/// The part of a request that falls into one stripe.
pub struct Piece {
    /// Byte offset in the stripe.
    start: usize,
    content: Content,
    tally: Rc<Tally>,
}

/// Counts the pieces of a request still to be done.
struct Tally {
    left: Cell<usize>,
    error: RefCell<Option<RequestError>>,
    done: Promise<Result<(), RequestError>>,
}

impl Tally {
    fn count(&self, result: &Result<(), RequestError>) {
        if let Err(error) = result {
            self.error.borrow_mut().get_or_insert_with(|| error.clone());
        }
        self.left.set(self.left.get() - 1);
        if self.left.get() == 0 {
            self.done.fulfil(self.error.take().map_or(Ok(()), Err));
        }
    }
}

/// What becomes of one block of a stripe.
#[derive(Clone)]
enum BlockWrite {
    Keep,
    /// Wholly new.
    New(Buf),
    /// These bytes over the old content, in order.
    Patch(Vec<(usize, Content)>),
}

/// Old content of rows that a row write needs, by column then row.
type Old = Vec<Vec<Option<Buf>>>;

impl Array {
    /// Writes `content` at a byte offset of the export. Returns when it may be answered.
    pub async fn write_range(&self, offset: u64, content: Content) -> Result<(), RequestError> {
        let window = self.geometry.shape.stripe_bytes() * STRIPES_AT_ONCE_MAX;
        let end = offset + content.len() as u64;
        let mut from = offset;
        while from < end {
            let to = end.min((from / window + 1) * window);
            let part = content.slice((from - offset) as usize..(to - offset) as usize);
            self.write_window(from, part).await?;
            from = to;
        }
        Ok(())
    }

    /// Writes a range of few enough stripes.
    async fn write_window(&self, offset: u64, content: Content) -> Result<(), RequestError> {
        let stripe_bytes = self.geometry.shape.stripe_bytes();
        let len = content.len() as u64;
        let (first, last) = (offset / stripe_bytes, (offset + len - 1) / stripe_bytes);
        let tally = Rc::new(Tally {
            left: Cell::new((last - first + 1) as usize),
            error: RefCell::new(None),
            done: self.ex.promise(),
        });
        for stripe in first..=last {
            let from = offset.max(stripe * stripe_bytes);
            let to = (offset + len).min((stripe + 1) * stripe_bytes);
            let part = content.slice((from - offset) as usize..(to - offset) as usize);
            let start = (from - stripe * stripe_bytes) as usize;
            self.enqueue(
                Stripe(stripe),
                Piece {
                    start,
                    content: part,
                    tally: tally.clone(),
                },
            );
        }
        tally.done.get().await
    }

    fn enqueue(&self, stripe: Stripe, piece: Piece) {
        let idle = self.stripes.with(stripe, |w| {
            w.queue.push_back(piece);
            !core::mem::replace(&mut w.working, true)
        });
        if idle {
            let array = self.me();
            self.ex.spawn(async move { array.work_on(stripe).await });
        }
    }

    /// Takes a stripe's pieces until there are none; all that wait are taken together.
    async fn work_on(&self, stripe: Stripe) {
        loop {
            let pieces: Vec<Piece> = self.stripes.with(stripe, |w| {
                w.working = !w.queue.is_empty();
                w.queue.drain(..).collect()
            });
            if pieces.is_empty() {
                return;
            }
            let result = self.write_stripe(stripe, &pieces).await;
            pieces.iter().for_each(|p| p.tally.count(&result));
        }
    }

    async fn write_stripe(&self, stripe: Stripe, pieces: &[Piece]) -> Result<(), RequestError> {
        self.check_writable()?;
        let shape = &self.geometry.shape;
        let whole = shape.stripe_bytes() as usize;
        let emptied = pieces
            .iter()
            .rposition(|p| p.content.len() == whole && !matches!(p.content, Content::Data(_)));
        let place = self.lane(stripe).map.borrow().get(stripe).slot();
        // What was written before a piece that empties the stripe does not matter.
        let pieces = match emptied {
            Some(last) if last + 1 == pieces.len() => {
                return if place.is_some() {
                    self.unmap(stripe).await
                } else {
                    Ok(())
                };
            }
            _ => pieces,
        };
        let mut blocks = alloc::vec![BlockWrite::Keep; shape.data * shape.rows()];
        for piece in pieces {
            self.lay(&mut blocks, piece, whole);
        }
        self.fill_patches(stripe, &mut blocks).await?;
        let new: Vec<Option<Buf>> = blocks
            .into_iter()
            .map(|b| match b {
                BlockWrite::New(block) => Some(block),
                _ => None,
            })
            .collect();
        let only_zeros = place.is_none()
            && pieces
                .iter()
                .all(|p| !matches!(p.content, Content::Data(_)));
        if only_zeros || new.iter().all(Option::is_none) {
            return Ok(());
        }
        self.commit_blocks(stripe, place, new).await
    }

    /// Whether writes are taken at all.
    pub fn check_writable(&self) -> Result<(), RequestError> {
        if self.read_only {
            return Err(RequestError::ReadOnly);
        }
        match &*self.suspended.borrow() {
            Some(why) => Err(RequestError::Io(why.clone())),
            None => Ok(()),
        }
    }

    /// Lays a piece over the blocks it touches.
    fn lay(&self, blocks: &mut [BlockWrite], piece: &Piece, whole: usize) {
        let (start, end) = (piece.start, piece.start + piece.content.len());
        if matches!(piece.content, Content::Trim(_)) && piece.content.len() != whole {
            return;
        }
        let touched = start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        for (b, target) in touched.clone().zip(&mut blocks[touched]) {
            let block = b * BLOCK_BYTES..(b + 1) * BLOCK_BYTES;
            let (from, to) = (start.max(block.start), end.min(block.end));
            let part = piece.content.slice(from - start..to - start);
            let at = from - block.start;
            if part.len() == BLOCK_BYTES {
                *target = BlockWrite::New(self.aligned(part));
                continue;
            }
            match target {
                BlockWrite::Keep => *target = BlockWrite::Patch(alloc::vec![(at, part)]),
                BlockWrite::Patch(patches) => patches.push((at, part)),
                BlockWrite::New(old) => *target = BlockWrite::New(self.patched(old, &[(at, part)])),
            }
        }
    }

    /// A whole block, in memory that devices accept.
    fn aligned(&self, content: Content) -> Buf {
        match content {
            Content::Data(data) if (data.as_ptr() as usize).is_multiple_of(ALIGNMENT) => data,
            Content::Data(data) => self.pool.copy(&data),
            Content::Zeros(_) | Content::Trim(_) => self.zero.clone(),
        }
    }

    fn patched(&self, old: &[u8], patches: &[(usize, Content)]) -> Buf {
        self.block(|block| {
            block.copy_from_slice(old);
            for (at, content) in patches {
                let target = &mut block[*at..*at + content.len()];
                match content {
                    Content::Data(data) => target.copy_from_slice(data),
                    Content::Zeros(_) | Content::Trim(_) => target.fill(0),
                }
            }
        })
    }

    async fn fill_patches(&self, stripe: Stripe, blocks: &mut [BlockWrite]) -> Result<(), Lost> {
        let rows = self.geometry.shape.rows();
        let partial = |b: &BlockWrite| matches!(b, BlockWrite::Patch(_));
        let which: Vec<usize> = (0..blocks.len()).filter(|i| partial(&blocks[*i])).collect();
        let read = |b: usize| self.read_blocks(stripe, b / rows, b % rows..b % rows + 1);
        let old = join_all(which.iter().map(|b| read(*b))).await;
        for (b, old) in which.into_iter().zip(old) {
            let BlockWrite::Patch(patches) = &blocks[b] else {
                unreachable!("it was a patch")
            };
            blocks[b] = BlockWrite::New(self.patched(&old?[0], patches));
        }
        Ok(())
    }

    /// Chooses between rows and a new slot. `new` has a block or none for each data block of the
    /// stripe, column by column.
    async fn commit_blocks(
        &self,
        stripe: Stripe,
        place: Option<Slot>,
        new: Vec<Option<Buf>>,
    ) -> Result<(), RequestError> {
        let shape = &self.geometry.shape;
        let rows = shape.rows();
        let changed = new.iter().filter(|b| b.is_some()).count();
        let kept = new.len() - changed;
        // Blocks moved by each way: journal and place for rows, the whole stripe for a new slot.
        let mut by_rows = 0;
        for row in 0..rows {
            let data: ColumnSet = (0..shape.data)
                .filter(|c| new[c * rows + row].is_some())
                .collect();
            let parities = self.code.parities_of(data).len();
            let old = if place.is_none() || shape.copies > 1 || data.is_empty() {
                0
            } else {
                (data.len() + parities).min(shape.data - data.len())
            };
            by_rows += 2 * (data.len() + parities) + old;
        }
        let old = if place.is_some() { kept } else { 0 };
        if shape.columns * rows + old <= by_rows
            && let Some(slot) = self.take_slot(stripe, place.is_none()).await
        {
            return self.commit_stripe(stripe, slot, place, new).await;
        }
        self.commit_rows(stripe, place, new).await
    }

    /// A free slot for a stripe; flushes once to free some. With `must` it waits for one: writes
    /// under way may hold all spare slots, and give up others when they are done.
    async fn take_slot(&self, stripe: Stripe, must: bool) -> Option<Slot> {
        let lane = self.lane(stripe);
        let mut tries = 0;
        loop {
            let before = lane.slots.borrow().changes();
            if let Some(local) = lane.slots.borrow_mut().take() {
                return Some(self.geometry.slot_in_lane(lane.id, local));
            }
            let hopeless = self.is_suspended() || !lane.slots.borrow().any_under_way();
            if hopeless || (tries > 0 && !must) {
                return None;
            }
            tries += 1;
            self.flush_journals().await;
            if must {
                let moved = || lane.slots.borrow().changes() != before || self.is_suspended();
                self.ex.until(&lane.slots_moved, moved).await;
            }
        }
    }

    /// Pins the checksum pages of a slot on all members that will hold it.
    async fn pin_sums(&self, slot: Slot, columns: impl Iterator<Item = usize>) -> Vec<SlotSums> {
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
    async fn commit_stripe(
        &self,
        stripe: Stripe,
        slot: Slot,
        place: Option<Slot>,
        new: Vec<Option<Buf>>,
    ) -> Result<(), RequestError> {
        let rows = self.geometry.shape.rows();
        let data = match self.complete(stripe, place, new).await {
            Ok(data) => data,
            Err(lost) => {
                self.lane(stripe)
                    .slots
                    .borrow_mut()
                    .untake(self.geometry.in_lane(slot.0));
                self.ex.fire(&self.lane(stripe).slots_moved);
                return Err(lost.into());
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
        mut new: Vec<Option<Buf>>,
    ) -> Result<Vec<Buf>, Lost> {
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
            for column in 0..n {
                let bytes = match (column < k, mirrored) {
                    (true, _) => sources[column],
                    (false, true) => sources[(column - k) % k],
                    (false, false) => &*outputs[column - k],
                };
                sums[column * rows + row] = checksum::block(self.key, slot, row, column, bytes);
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
    async fn commit_rows(
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
            Some(_) => self.read_old(stripe, slot, &new).await?,
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
        let unit = Unit {
            entries,
            slot_writes: Vec::new(),
            pinned,
        };
        self.commit(self.geometry.lane_of_stripe(stripe), unit)
            .await
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
            if changed.is_empty() || changed.len() == k || shape.copies > 1 {
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
    fn encode_row(
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
        let updates = parities.iter().all(|p| old[p][row].is_some()) && !parities.is_empty();
        for p in parities.iter() {
            let block = if self.geometry.shape.copies > 1 {
                payload
                    .iter()
                    .find(|(c, _)| *c == (p - k) % k)
                    .expect("its data changed")
                    .1
                    .clone()
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
            payload.push((p, block));
        }
        let sum = |(c, b): &(usize, Buf)| checksum::block(self.key, slot, row, *c, b);
        let checksums = payload.iter().map(sum).collect();
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

    async fn unmap(&self, stripe: Stripe) -> Result<(), RequestError> {
        let entry = Entry::Unmap {
            first: stripe,
            count: 1,
        };
        let entries = alloc::vec![UnitEntry {
            entry,
            payload: Vec::new()
        }];
        let unit = Unit {
            entries,
            slot_writes: Vec::new(),
            pinned: Vec::new(),
        };
        self.commit(self.geometry.lane_of_stripe(stripe), unit)
            .await
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

//! What may be read without asking the engine: threads beside the engine's look up here where a
//! block lies and what its checksum is, read it from the member by themselves, and ask the engine
//! only when that does not work out.
//!
//! It is a table of chunks, direct-mapped by their number in the export. The engine writes it,
//! any number of threads read it; no reader ever writes to it. Each entry is a sequence lock
//! (H.-J. Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?", MSPC 2012).
//!
//! What is found here was true at that moment: before a change is answered, its blocks are
//! forgotten. What was read counts if it matches its checksum and the table still says the same
//! afterwards: then the place was the stripe's for the whole time. The checksum is looked at all
//! the same, because a destage or a repair may write the place at any time.

use crate::api::{DeviceId, Nanos};
use crate::array::Array;
use crate::latency::Length;
use crate::mutants::{Mutant, active};
use crate::read::trim;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytemuck::allocation::zeroed_vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use uraid_buffer::{BufMut, Span};
use uraid_core::config::Index;
use uraid_core::geometry::{Geometry, Slot, Stripe};
use uraid_core::mark::is_mark;
use uraid_core::pages::{Sum, block_matches};
use uraid_core::units::{BLOCK, BLOCK_BYTES};

/// Words of an entry before its rows.
const HEAD_WORDS: usize = 5;

/// Words that tell which rows are known, 64 rows each; then two sums a word.
const ROWS_PER_WORD: usize = 64;

/// What may be read without asking the engine. Clones are the same one.
#[derive(Clone)]
pub struct ReadView(Arc<Table>);

struct Table {
    geometry: Geometry,
    key: u64,
    /// Entries with another one are void: who is a member has changed.
    epoch: AtomicU64,
    /// All entries, one after the other; memory that was never used takes none.
    words: Vec<AtomicU64>,
    words_per_entry: usize,
    /// When reads are late, in nanoseconds, by length: 0 while that is not known.
    late_after: [AtomicU64; Length::ALL.len()],
    /// Extra reads for late ones, in percent of all.
    hedge_percent: AtomicU64,
}

/// Where a chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Its stripe.
    pub stripe: Stripe,
    /// Its data column.
    pub column: usize,
    /// Where the stripe lives.
    pub slot: Slot,
    /// The column, or the copy of it, that is read, and the device that holds that.
    pub copy: usize,
    /// See `copy`.
    pub device: DeviceId,
}

/// How to read some bytes of the export; see [`ReadView::plan`].
pub struct ReadPlan {
    /// What to read, at the same time or one after the other.
    pub reads: Vec<PlannedRead>,
    pieces: Vec<Piece>,
    /// Bytes to be cut off the front, and how many are wanted.
    skip_bytes: u64,
    bytes: u64,
}

/// One read of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannedRead {
    /// Of which device.
    pub device: DeviceId,
    /// Byte offset on it; a multiple of 4 KiB.
    pub offset: u64,
    /// In bytes; a multiple of 4 KiB.
    pub len: usize,
}

/// What is expected of one read: rows of a chunk.
#[derive(PartialEq, Eq)]
struct Piece {
    place: Place,
    first_row: usize,
    /// Sums of the rows.
    sums: Vec<u32>,
}

impl ReadView {
    /// An empty view in at most so many bytes of memory; none if that is too little.
    pub(crate) fn new(geometry: Geometry, key: u64, bytes_max: u64) -> Option<ReadView> {
        let rows = geometry.shape.rows();
        let words_per_entry = HEAD_WORDS + rows.div_ceil(ROWS_PER_WORD) + rows.div_ceil(2);
        let chunks = geometry.stripes * geometry.shape.data as u64;
        let entries = (bytes_max / (8 * words_per_entry as u64)).min(chunks) as usize;
        let table = Table {
            geometry,
            key,
            epoch: AtomicU64::new(1),
            words: zeroed_vec(entries * words_per_entry),
            words_per_entry,
            late_after: Default::default(),
            hedge_percent: AtomicU64::new(0),
        };
        (entries > 0).then(|| ReadView(Arc::new(table)))
    }

    /// How to read `len` bytes at `offset` of the export. None when the engine must be asked.
    pub fn plan(&self, offset: u64, len: u64) -> Option<ReadPlan> {
        let table = &*self.0;
        let shape = &table.geometry.shape;
        let (rows, columns) = (shape.rows() as u64, shape.data as u64);
        let (mut block, end) = (offset / BLOCK, (offset + len).div_ceil(BLOCK));
        let mut plan = ReadPlan {
            reads: Vec::new(),
            pieces: Vec::new(),
            skip_bytes: offset % BLOCK,
            bytes: len,
        };
        while block < end {
            let chunk = block / rows;
            let to = end.min((chunk + 1) * rows);
            let wanted = (block % rows) as usize..(block % rows + to - block) as usize;
            let of_stripe = (Stripe(chunk / columns), (chunk % columns) as usize);
            let piece = table.look(of_stripe, wanted)?;
            plan.reads.push(PlannedRead {
                device: piece.place.device,
                offset: table
                    .geometry
                    .block_offset(piece.place.slot, piece.first_row),
                len: piece.sums.len() * BLOCK_BYTES,
            });
            plan.pieces.push(piece);
            block = to;
        }
        (!plan.pieces.is_empty()).then_some(plan)
    }

    /// Whether what was read, in the order of [`ReadPlan::reads`], is what the export holds: it
    /// held it at some moment since the plan was made. If not, ask the engine.
    pub fn check(&self, plan: &ReadPlan, read: &[BufMut]) -> bool {
        assert_eq!(plan.pieces.len(), read.len(), "a buffer for each read");
        let mut pieces = plan.pieces.iter().zip(read);
        pieces.all(|(piece, bytes)| self.0.holds(piece, bytes))
    }

    /// After how long a read of so many bytes is late: the engine is to be asked then, which knows
    /// other ways. None if that is not known.
    pub fn late_after(&self, bytes: usize) -> Option<Nanos> {
        let after = &self.0.late_after[Length::of(bytes) as usize];
        Some(after.load(Ordering::Relaxed)).filter(|after| *after > 0)
    }

    /// How many of all reads the engine may be asked for because they are late, in percent.
    pub fn hedge_percent(&self) -> u8 {
        self.0.hedge_percent.load(Ordering::Relaxed) as u8
    }

    /// See [`ReadView::late_after`] and [`ReadView::hedge_percent`].
    pub(crate) fn set_late_after(&self, after: [Option<Nanos>; Length::ALL.len()], percent: u8) {
        for (cell, after) in self.0.late_after.iter().zip(after) {
            cell.store(after.unwrap_or(0), Ordering::Relaxed);
        }
        self.0
            .hedge_percent
            .store(percent.into(), Ordering::Relaxed);
    }

    /// A chunk as it is in place now: rows that are not named are not known. Only the engine's
    /// thread may call it and what follows.
    pub(crate) fn publish(&self, place: Place, sums: impl Iterator<Item = (usize, u32)>) {
        let table = &*self.0;
        let entry = table.entry(table.chunk(place.stripe, place.column));
        entry.change(|entry| {
            entry.forget_rows();
            entry.set_place(table, place);
            for (row, sum) in sums {
                entry.set_sum(row, sum);
            }
        });
    }

    /// A row of a chunk changes.
    pub(crate) fn forget_row(&self, stripe: Stripe, column: usize, row: usize) {
        let table = &*self.0;
        let columns = 0..table.geometry.shape.data;
        if columns.contains(&column)
            && let Some(entry) = table.found(stripe, column)
            && entry.knows(row)
            && !active(Mutant::ViewKeepsRows)
        {
            entry.change(|entry| entry.forget_row(row));
        }
    }

    /// A stripe moves, or is no more.
    pub(crate) fn forget_stripe(&self, stripe: Stripe) {
        let table = &*self.0;
        for column in 0..table.geometry.shape.data {
            if let Some(entry) = table.found(stripe, column)
                && !active(Mutant::ViewKeepsPlaces)
            {
                entry.change(|entry| entry.forget_rows());
            }
        }
    }

    /// Members come or go.
    pub(crate) fn forget_all(&self) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

impl ReadPlan {
    /// The bytes that were asked for, from what was read.
    pub fn spans(self, read: Vec<BufMut>) -> Vec<Span> {
        let data = read.into_iter().map(|bytes| Span::Data(bytes.freeze()));
        let mut spans = data.collect();
        trim(&mut spans, self.skip_bytes, self.bytes);
        spans
    }
}

impl Table {
    /// The number of a chunk in the export.
    fn chunk(&self, stripe: Stripe, column: usize) -> u64 {
        assert!(column < self.geometry.shape.data, "no column of data");
        stripe.0 * self.geometry.shape.data as u64 + column as u64
    }

    fn entry(&self, chunk: u64) -> Entry<'_> {
        let entries = (self.words.len() / self.words_per_entry) as u64;
        let at = (chunk % entries) as usize * self.words_per_entry;
        Entry {
            words: &self.words[at..at + self.words_per_entry],
            rows: self.geometry.shape.rows(),
        }
    }

    /// The entry of a chunk, if it is that chunk's at present.
    fn found(&self, stripe: Stripe, column: usize) -> Option<Entry<'_>> {
        let chunk = self.chunk(stripe, column);
        let entry = self.entry(chunk);
        (entry.get(CHUNK) == chunk + 1).then_some(entry)
    }

    /// What is known of some rows of a chunk; none unless it is all of them.
    fn look(&self, (stripe, column): (Stripe, usize), rows: Range<usize>) -> Option<Piece> {
        let entry = self.found(stripe, column)?;
        let before = entry.words[VERSION].load(Ordering::Acquire);
        let known = rows.clone().all(|row| entry.knows(row));
        let current = entry.get(EPOCH) == self.epoch.load(Ordering::Acquire);
        let place = Place {
            stripe,
            column,
            slot: Slot(entry.get(SLOT)),
            copy: (entry.get(DEVICE) >> 32) as usize,
            device: DeviceId(entry.get(DEVICE) as u32),
        };
        let piece = Piece {
            place,
            first_row: rows.start,
            sums: rows.map(|row| entry.sum(row)).collect(),
        };
        let same = entry.get(CHUNK) == self.chunk(stripe, column) + 1;
        fence(Ordering::Acquire);
        let after = entry.words[VERSION].load(Ordering::Relaxed);
        let whole = before == after && before.is_multiple_of(2);
        (whole && same && known && current).then_some(piece)
    }

    /// Whether `bytes` are what a piece says, and it still says so.
    fn holds(&self, piece: &Piece, bytes: &[u8]) -> bool {
        let Place {
            stripe,
            column,
            slot,
            copy,
            ..
        } = piece.place;
        let sound = |(i, (block, crc)): (usize, (&[u8], &u32))| {
            let row = piece.first_row + i;
            let sum = Sum::new(*crc, 1);
            block_matches(self.key, slot, row, copy, block, sum)
                && !is_mark(self.key, stripe, row, column, block)
        };
        let blocks = bytes.chunks_exact(BLOCK_BYTES).zip(&piece.sums);
        let rows = piece.first_row..piece.first_row + piece.sums.len();
        // Not before what the read brought.
        fence(Ordering::SeqCst);
        let still = self.look((stripe, column), rows).as_ref() == Some(piece);
        still && blocks.enumerate().all(sound)
    }
}

/// Words of an entry's head.
const VERSION: usize = 0;
const CHUNK: usize = 1;
const SLOT: usize = 2;
const DEVICE: usize = 3;
const EPOCH: usize = 4;

/// What is known of one chunk. Its version is odd while it changes.
struct Entry<'a> {
    words: &'a [AtomicU64],
    rows: usize,
}

impl Entry<'_> {
    fn get(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Relaxed)
    }

    fn set(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Relaxed);
    }

    /// Changes it so that readers see all of the change or nothing.
    fn change(&self, change: impl FnOnce(&Self)) {
        let version = self.get(VERSION);
        self.set(VERSION, version + 1);
        fence(Ordering::Release);
        change(self);
        self.words[VERSION].store(version + 2, Ordering::Release);
    }

    fn set_place(&self, table: &Table, place: Place) {
        self.set(CHUNK, table.chunk(place.stripe, place.column) + 1);
        self.set(SLOT, place.slot.0);
        self.set(
            DEVICE,
            (place.copy as u64) << 32 | u64::from(place.device.0),
        );
        self.set(EPOCH, table.epoch.load(Ordering::Relaxed));
    }

    fn known_word(row: usize) -> (usize, u64) {
        (HEAD_WORDS + row / ROWS_PER_WORD, 1 << (row % ROWS_PER_WORD))
    }

    /// The word with the sum of a row, and where in it.
    fn sum_word(&self, row: usize) -> (usize, u32) {
        let first = HEAD_WORDS + self.rows.div_ceil(ROWS_PER_WORD);
        (first + row / 2, row as u32 % 2 * 32)
    }

    fn knows(&self, row: usize) -> bool {
        let (word, bit) = Self::known_word(row);
        self.get(word) & bit != 0
    }

    fn sum(&self, row: usize) -> u32 {
        let (word, shift) = self.sum_word(row);
        (self.get(word) >> shift) as u32
    }

    fn set_sum(&self, row: usize, sum: u32) {
        let (word, shift) = self.sum_word(row);
        let others = self.get(word) & !(u64::from(u32::MAX) << shift);
        self.set(word, others | u64::from(sum) << shift);
        let (word, bit) = Self::known_word(row);
        self.set(word, self.get(word) | bit);
    }

    fn forget_row(&self, row: usize) {
        let (word, bit) = Self::known_word(row);
        self.set(word, self.get(word) & !bit);
    }

    fn forget_rows(&self) {
        (0..self.rows.div_ceil(ROWS_PER_WORD)).for_each(|word| self.set(HEAD_WORDS + word, 0));
    }
}

impl Array {
    /// Tells the view what is in place of a chunk of data: all but what is journalled, was never
    /// written or is in doubt.
    pub(crate) fn show(&self, stripe: Stripe, column: usize, (copy, index): (usize, Index)) {
        // Parity has no place in the export.
        if column >= self.geometry.shape.data {
            return;
        }
        let lane = self.lane(stripe);
        let slot = lane.map.borrow().get(stripe).slot();
        let (Some(view), Some(slot), true) = (&self.view, slot, self.open.get()) else {
            return;
        };
        let rows = 0..self.geometry.shape.rows();
        if self.reader(slot, copy) == Some(index)
            && !self.avoided(slot).contains(copy)
            && let Some(device) = self.live_device(index)
            && let Some(sums) = self.sums_cached(index, slot, rows.clone())
            && !self.is_doubtful(&sums, slot)
        {
            let overlay = lane.overlay.borrow();
            let in_place = |row: &usize| overlay.block(stripe, *row, column).is_none();
            let sum = |row| (row, self.sum_of(&sums, slot, row));
            let known = rows.filter(in_place).map(sum);
            let known = known.filter(|(_, sum)| !sum.is_blank() && *sum != Sum::NONE);
            let place = Place {
                stripe,
                column,
                slot,
                copy,
                device,
            };
            view.publish(place, known.map(|(row, sum)| (row, sum.crc)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_buffer::Pool;
    use uraid_core::checksum;
    use uraid_core::geometry::{Level, Shape};

    const KEY: u64 = 5;

    fn view() -> ReadView {
        let shape = Shape::new(Level::Raid5, 5, None, None, Some(64 << 10)).expect("possible");
        let geometry = Geometry::plan(shape, 64 << 20, None).expect("possible");
        ReadView::new(geometry, KEY, 1 << 20).expect("room")
    }

    fn place(stripe: u64, column: usize, slot: u64) -> Place {
        Place {
            stripe: Stripe(stripe),
            column,
            slot: Slot(slot),
            copy: column,
            device: DeviceId(slot as u32 + 100),
        }
    }

    /// Content of a row, and its sum there.
    fn row(place: Place, row: usize) -> ([u8; BLOCK_BYTES], u32) {
        let block = [(place.column * 16 + row) as u8 + 1; BLOCK_BYTES];
        let sum = checksum::block(KEY, place.slot, row, place.column, &block);
        (block, sum)
    }

    fn publish(view: &ReadView, place: Place, rows: Range<usize>) {
        view.publish(place, rows.map(|r| (r, row(place, r).1)));
    }

    fn read(place: Place, rows: Range<usize>) -> BufMut {
        let mut buffer = Pool::heap().take(rows.len() * BLOCK_BYTES);
        for (block, r) in buffer.chunks_exact_mut(BLOCK_BYTES).zip(rows) {
            block.copy_from_slice(&row(place, r).0);
        }
        buffer
    }

    #[test]
    fn a_read_over_chunks_is_planned_checked_and_cut() {
        let view = view();
        let (first, second) = (place(0, 0, 7), place(0, 1, 7));
        publish(&view, first, 0..16);
        assert!(view.plan(60 << 10, 8 << 10).is_none(), "half of it");
        publish(&view, second, 0..1);
        let plan = view.plan((60 << 10) + 100, 5000).expect("all of it");
        let geometry = &view.0.geometry;
        let of = |place: Place, r| PlannedRead {
            device: place.device,
            offset: geometry.block_offset(place.slot, r),
            len: BLOCK_BYTES,
        };
        assert_eq!(plan.reads, [of(first, 15), of(second, 0)]);
        let buffers = alloc::vec![read(first, 15..16), read(second, 0..1)];
        assert!(view.check(&plan, &buffers));
        let bytes = Span::joined(&plan.spans(buffers));
        let (a, b) = (row(first, 15).0, row(second, 0).0);
        assert_eq!(bytes, [&a[100..], &b[..1004]].concat());
    }

    #[test]
    fn what_changed_meanwhile_does_not_count() {
        type Change = fn(&ReadView, Place);
        let changes: [(&str, bool, Change); 6] = [
            ("nothing", true, |_, _| {}),
            ("another row", true, |v, p| {
                v.forget_row(p.stripe, p.column, 9)
            }),
            ("the row", false, |v, p| v.forget_row(p.stripe, p.column, 3)),
            ("the stripe", false, |v, p| v.forget_stripe(p.stripe)),
            ("the members", false, |v, _| v.forget_all()),
            ("its place", false, |v, p| {
                publish(v, place(p.stripe.0, p.column, 8), 0..16)
            }),
        ];
        for (what, holds, change) in changes {
            let (view, place) = (view(), place(2, 3, 9));
            publish(&view, place, 0..16);
            let offset = ((2 * 4 + 3) * 16 + 3) * BLOCK;
            let plan = view.plan(offset, BLOCK).expect("known");
            change(&view, place);
            let found = view.check(&plan, &[read(place, 3..4)]);
            assert_eq!(found, holds, "{what} changed");
        }
    }

    #[test]
    fn wrong_bytes_and_marks_are_refused() {
        let (view, place) = (view(), place(0, 2, 1));
        let offset = 2 * 16 * BLOCK;
        publish(&view, place, 0..16);
        let plan = view.plan(offset, BLOCK).expect("known");
        assert!(!view.check(&plan, &[read(place, 1..2)]));
        let mut mark = Pool::heap().take(BLOCK_BYTES);
        uraid_core::mark::fill(KEY, place.stripe, 0, place.column, &mut mark);
        let sum = checksum::block(KEY, place.slot, 0, place.column, &mark);
        view.publish(place, [(0, sum)].into_iter());
        let plan = view.plan(offset, BLOCK).expect("known");
        assert!(!view.check(&plan, &[mark]));
    }

    #[test]
    fn chunks_that_share_an_entry_do_not_meet() {
        let shape = Shape::new(Level::Raid5, 5, None, None, Some(64 << 10)).expect("possible");
        let geometry = Geometry::plan(shape, 64 << 20, None).expect("possible");
        let one = ReadView::new(geometry, KEY, 128).expect("room for one entry");
        publish(&one, place(0, 0, 1), 0..16);
        assert!(one.plan(0, BLOCK).is_some());
        publish(&one, place(5, 1, 2), 0..16);
        assert!(one.plan(0, BLOCK).is_none());
        one.forget_stripe(Stripe(0));
        assert!(one.plan((5 * 4 + 1) * (64 << 10), BLOCK).is_some());
    }
}

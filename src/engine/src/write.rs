//! Writing: the pieces of requests that fall into one stripe are taken in order by one task,
//! merged, and turned into a unit of commit: rows, or a whole stripe in a new slot, whichever
//! moves fewer bytes.

use crate::api::RequestError;
use crate::array::Array;
use crate::executor::{Promise, join_all};
use crate::read::Lost;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;
use uraid_buffer::{ALIGNMENT, Buf};
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::units::BLOCK_BYTES;
use uraid_parity::ColumnSet;

/// Stripes that one request works on at the same time: bounds what a trim of everything takes.
const STRIPES_AT_ONCE_MAX: u64 = 4096;

/// Bytes of zeros with space of their own that one request works on at the same time: they need
/// parity and slots as data does.
const STORED_ZEROS_AT_ONCE_MAX: u64 = 16 << 20;

/// Windows without work, one after the other, after which the host gets its turn.
const IDLE_WINDOWS_MAX: u64 = 16;

/// What a piece writes.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Data(Buf),
    /// So many zeros; a stripe of nothing else gives up its slot.
    Zeros(usize),
    /// So many zeros that take up space as data does.
    StoredZeros(usize),
    /// Nothing, if it covers a whole stripe; else it is ignored.
    Trim(usize),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Content::Data(data) => data.len(),
            Content::Zeros(len) | Content::StoredZeros(len) | Content::Trim(len) => *len,
        }
    }

    /// Whether a stripe may be without a slot afterwards: if it has none, nothing is to be done.
    fn gives_up_space(&self) -> bool {
        matches!(self, Content::Zeros(_) | Content::Trim(_))
    }

    fn slice(&self, range: Range<usize>) -> Content {
        match self {
            Content::Data(data) => Content::Data(data.slice(range)),
            Content::Zeros(_) => Content::Zeros(range.len()),
            Content::StoredZeros(_) => Content::StoredZeros(range.len()),
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

impl Array {
    /// Writes `content` at a byte offset of the export. Returns when it may be answered.
    pub async fn write_range(&self, offset: u64, content: Content) -> Result<(), RequestError> {
        self.check_writable()?;
        let stripe_bytes = self.geometry.shape.stripe_bytes();
        let window = match content {
            Content::StoredZeros(_) => STORED_ZEROS_AT_ONCE_MAX.max(stripe_bytes),
            _ => stripe_bytes * STRIPES_AT_ONCE_MAX,
        };
        let window = window / stripe_bytes * stripe_bytes;
        let end = offset + content.len() as u64;
        let (mut from, mut idle) = (offset, 0);
        while from < end {
            let to = end.min((from / window + 1) * window);
            let part = content.slice((from - offset) as usize..(to - offset) as usize);
            idle = match self.write_window(from, part).await? {
                true => 0,
                false => idle + 1,
            };
            if idle == IDLE_WINDOWS_MAX {
                idle = 0;
                self.ex.sleep_until(self.after(1)).await;
            }
            from = to;
        }
        Ok(())
    }

    /// Whether a write of `content` changes anything in a stripe.
    fn is_touched(&self, stripe: Stripe, content: &Content) -> bool {
        !content.gives_up_space()
            || self.lane(stripe).map.borrow().get(stripe).slot().is_some()
            || self.stripes.is_being_written(stripe)
    }

    /// Whether zeroing a range costs less than writing it: whole stripes only give up their
    /// slots, and where there is no slot there is nothing to be done.
    pub fn zeroes_fast(&self, offset: u64, len: u64) -> bool {
        let stripe_bytes = self.geometry.shape.stripe_bytes();
        let (first, end) = (offset / stripe_bytes, (offset + len).div_ceil(stripe_bytes));
        let whole = |stripe: u64| {
            let start = stripe * stripe_bytes;
            let covered = self.covered(Stripe(stripe)) as u64;
            offset <= start && start + covered <= offset + len
        };
        // Of three neighbours the middle one is whole.
        end - first > 2
            || (first..end).any(whole)
            || (first..end).all(|s| !self.is_touched(Stripe(s), &Content::Zeros(0)))
    }

    /// Bytes of a stripe that belong to the export: the last one may reach beyond it.
    fn covered(&self, stripe: Stripe) -> usize {
        let stripe_bytes = self.geometry.shape.stripe_bytes();
        let left = self.geometry.export_bytes - stripe.0 * stripe_bytes;
        left.min(stripe_bytes) as usize
    }

    /// Writes a range of few enough stripes; whether there was anything to be done.
    async fn write_window(&self, offset: u64, content: Content) -> Result<bool, RequestError> {
        let stripe_bytes = self.geometry.shape.stripe_bytes();
        let len = content.len() as u64;
        let (first, last) = (offset / stripe_bytes, (offset + len - 1) / stripe_bytes);
        let stripes = (first..=last).filter(|s| self.is_touched(Stripe(*s), &content));
        let stripes: Vec<u64> = stripes.collect();
        if stripes.is_empty() {
            return Ok(false);
        }
        let tally = Rc::new(Tally {
            left: Cell::new(stripes.len()),
            error: RefCell::new(None),
            done: self.ex.promise(),
        });
        for stripe in stripes {
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
        tally.done.get().await.map(|()| true)
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
        let whole = self.covered(stripe);
        let emptied = pieces
            .iter()
            .rposition(|p| p.content.len() == whole && p.content.gives_up_space());
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
        let only_zeros = place.is_none() && pieces.iter().all(|p| p.content.gives_up_space());
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
            Some(why) => Err(RequestError::Io {
                text: why.clone(),
                offset: None,
            }),
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
            Content::Zeros(_) | Content::StoredZeros(_) | Content::Trim(_) => self.zero.clone(),
        }
    }

    fn patched(&self, old: &[u8], patches: &[(usize, Content)]) -> Buf {
        self.block(|block| {
            block.copy_from_slice(old);
            for (at, content) in patches {
                let target = &mut block[*at..*at + content.len()];
                match content {
                    Content::Data(data) => target.copy_from_slice(data),
                    Content::Zeros(_) | Content::StoredZeros(_) | Content::Trim(_) => {
                        target.fill(0);
                    }
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
            let old = old?;
            let row = b % rows;
            self.refuse_marks(stripe, b / rows, row..row + 1, &old)?;
            blocks[b] = BlockWrite::New(self.patched(&old[0], patches));
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
            // For a whole stripe waiting costs less than writing it twice.
            && let Some(slot) = self.take_slot(stripe, place.is_none() || kept == 0).await
        {
            return self.commit_stripe(stripe, slot, place, new).await;
        }
        self.commit_rows(stripe, place, new).await
    }

    /// A free slot for a stripe; flushes once to free some. With `must` it waits for one: writes
    /// under way may hold all spare slots, and give up others when they are done.
    pub async fn take_slot(&self, stripe: Stripe, must: bool) -> Option<Slot> {
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
}

//! One mapping of memory, handed out in runs of pages by the buddy method.
//!
//! Free memory is kept as blocks of `2^order` pages that start at a multiple of their own size
//! (Knuth, The Art of Computer Programming, volume 1, section 2.5). A run need not be a power of
//! two long: what is left of the block it was cut from stays free, so 68 KiB cost 68 KiB.

use memmap2::{Advice, MmapMut};
use std::io;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Size and alignment of the unit of allocation, in bytes.
pub(crate) const PAGE_BYTES: usize = crate::ALIGNMENT;

/// A mapping and the record of which of its pages are free.
pub(crate) struct Arena {
    /// Keeps the memory mapped; all access goes through `start`.
    _map: MmapMut,
    start: NonNull<u8>,
    bytes: usize,
    free: Mutex<FreePages>,
}

// SAFETY: `start` points into `_map`, which lives as long as the arena and belongs to it; each
// run of pages has one owner at a time, and the record of runs is behind a mutex.
unsafe impl Send for Arena {}
// SAFETY: see above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps `bytes` (rounded up to whole pages) of zeroed memory.
    pub(crate) fn map(bytes: usize) -> io::Result<Arena> {
        let pages = bytes.div_ceil(PAGE_BYTES).max(1);
        if pages > FreePages::PAGES_MAX {
            let message = format!("a buffer pool of {bytes} bytes is beyond what it can manage");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let bytes = pages * PAGE_BYTES;
        let mut map = MmapMut::map_anon(bytes)?;
        // Only faster, never needed: kernels built without huge pages refuse it.
        let _ = map.advise(Advice::HugePage);
        let start = NonNull::new(map.as_mut_ptr()).expect("a mapping is never at address zero");
        assert_eq!(
            start.as_ptr() as usize % PAGE_BYTES,
            0,
            "mappings start on a page"
        );
        Ok(Arena {
            _map: map,
            start,
            bytes,
            free: Mutex::new(FreePages::new(pages)),
        })
    }

    /// Start and length of the whole mapping.
    pub(crate) fn region(&self) -> (*const u8, usize) {
        (self.start.as_ptr(), self.bytes)
    }

    /// Bytes handed out at present.
    pub(crate) fn used_bytes(&self) -> usize {
        self.bytes - self.pages().free_count * PAGE_BYTES
    }

    /// A run of `bytes` (whole pages) that nobody else has, or none when no run is long enough.
    pub(crate) fn take(&self, bytes: usize) -> Option<NonNull<u8>> {
        let page = self.pages().take(bytes / PAGE_BYTES)?;
        // SAFETY: the run lies inside the mapping.
        Some(unsafe { self.start.add(page * PAGE_BYTES) })
    }

    /// Takes back a run that `take` gave out.
    pub(crate) fn give_back(&self, start: NonNull<u8>, bytes: usize) {
        let page = (start.as_ptr() as usize - self.start.as_ptr() as usize) / PAGE_BYTES;
        self.pages().give_back(page, bytes / PAGE_BYTES);
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, FreePages> {
        // A panic under this lock is a bug that has already been reported once.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No page: the end of a list.
const NONE: u32 = u32::MAX;
/// The order of a page that does not start a free block.
const NOT_FREE: u8 = u8::MAX;

/// What is known of one page; links and order mean something on the first page of a free block.
#[derive(Clone, Copy)]
struct Page {
    next: u32,
    previous: u32,
    order: u8,
}

/// Which pages are free: one doubly linked list of blocks for each order.
struct FreePages {
    pages: Vec<Page>,
    heads: [u32; FreePages::ORDERS],
    /// Bit `order` is set when that list has a block.
    orders_with_blocks: u32,
    free_count: usize,
}

impl FreePages {
    const ORDERS: usize = 31;
    /// Most pages in one arena (4 TiB of memory).
    const PAGES_MAX: usize = 1 << (Self::ORDERS - 1);

    fn new(count: usize) -> FreePages {
        let unused = Page {
            next: NONE,
            previous: NONE,
            order: NOT_FREE,
        };
        let mut free = FreePages {
            pages: vec![unused; count],
            heads: [NONE; Self::ORDERS],
            orders_with_blocks: 0,
            free_count: 0,
        };
        free.give_back(0, count);
        free
    }

    /// The first page of a run of `count`.
    fn take(&mut self, count: usize) -> Option<usize> {
        if count > self.pages.len() {
            return None;
        }
        let order_min = count.next_power_of_two().trailing_zeros();
        let candidates = self.orders_with_blocks >> order_min << order_min;
        if candidates == 0 {
            return None;
        }
        let order = candidates.trailing_zeros() as usize;
        let start = self.heads[order] as usize;
        self.unlink(start);
        self.free_count -= 1 << order;
        self.give_back(start + count, (1 << order) - count);
        Some(start)
    }

    /// Frees a run by cutting it into the largest aligned blocks.
    fn give_back(&mut self, mut start: usize, mut count: usize) {
        self.free_count += count;
        while count > 0 {
            let by_length = count.ilog2();
            let by_place = if start == 0 {
                by_length
            } else {
                start.trailing_zeros()
            };
            let order = by_length.min(by_place);
            self.free_block(start, order as usize);
            start += 1 << order;
            count -= 1 << order;
        }
    }

    /// Frees one block, joined with its buddies as far as those are free.
    fn free_block(&mut self, mut start: usize, mut order: usize) {
        debug_assert_eq!(self.pages[start].order, NOT_FREE, "freed twice");
        loop {
            let buddy = start ^ (1 << order);
            let joinable = buddy < self.pages.len() && self.pages[buddy].order as usize == order;
            if !joinable {
                break;
            }
            self.unlink(buddy);
            start = start.min(buddy);
            order += 1;
        }
        self.link(start, order);
    }

    fn link(&mut self, start: usize, order: usize) {
        let next = self.heads[order];
        self.pages[start] = Page {
            next,
            previous: NONE,
            order: order as u8,
        };
        if next != NONE {
            self.pages[next as usize].previous = start as u32;
        }
        self.heads[order] = start as u32;
        self.orders_with_blocks |= 1 << order;
    }

    fn unlink(&mut self, start: usize) {
        let Page {
            next,
            previous,
            order,
        } = self.pages[start];
        self.pages[start].order = NOT_FREE;
        if next != NONE {
            self.pages[next as usize].previous = previous;
        }
        if previous != NONE {
            self.pages[previous as usize].next = next;
            return;
        }
        self.heads[order as usize] = next;
        if next == NONE {
            self.orders_with_blocks &= !(1 << order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn everything_given_back_is_one_block_again() {
        let mut free = FreePages::new(64);
        let runs: Vec<_> = [1, 3, 17, 8, 1].map(|n| (free.take(n).unwrap(), n)).into();
        assert!(free.take(64).is_none());
        for (start, count) in runs {
            free.give_back(start, count);
        }
        assert_eq!(free.free_count, 64);
        assert_eq!(free.take(64), Some(0));
    }

    #[test]
    fn a_run_costs_its_own_length() {
        let mut free = FreePages::new(64);
        free.take(17).unwrap();
        assert_eq!(free.free_count, 47);
    }

    #[test]
    fn more_than_there_is_gives_none() {
        let mut free = FreePages::new(10);
        assert!(free.take(11).is_none());
        assert!(free.take(1 << 20).is_none());
    }

    proptest! {
        /// Any order of takes and returns: runs stay inside, never overlap, and none is lost.
        #[test]
        fn runs_never_overlap(
            count in 1usize..200,
            steps in prop::collection::vec((1usize..40, any::<bool>(), any::<usize>()), 1..200),
        ) {
            let mut free = FreePages::new(count);
            let mut live: Vec<(usize, usize)> = Vec::new();
            for (len, take, pick) in steps {
                if take {
                    if let Some(start) = free.take(len) {
                        prop_assert!(start + len <= count);
                        for &(other, other_len) in &live {
                            prop_assert!(start + len <= other || other + other_len <= start);
                        }
                        live.push((start, len));
                    }
                } else if !live.is_empty() {
                    let (start, len) = live.swap_remove(pick % live.len());
                    free.give_back(start, len);
                }
                let used: usize = live.iter().map(|run| run.1).sum();
                prop_assert_eq!(free.free_count, count - used);
            }
            for (start, len) in live.drain(..) {
                free.give_back(start, len);
            }
            let whole = 1 << count.ilog2();
            prop_assert!(free.take(whole).is_some(), "free blocks were not joined again");
        }
    }
}

//! Checksum pages in memory: loaded when needed, written back by checkpoints, the least used of
//! the clean ones dropped beyond a limit. What to make of pages on loading is in
//! [`crate::trust`].

use crate::array::Array;
use crate::executor::{Signal, join_all};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;
use hashbrown::{HashMap, HashSet};
use rustc_hash::FxBuildHasher;
use uraid_core::config::Index;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::{ChecksumPage, PageStamp, Peer, Sum};

/// A page in memory, with what keeps track of it, in bytes.
const PAGE_MEMORY_BYTES: u64 = 4608;
/// Most bytes of pages in memory, if nothing else is said.
const CACHED_BYTES_DEFAULT: u64 = 96 << 20;

/// Whose page, and its number.
type Key = (Index, u64);

/// What a page was worth when it was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worth {
    /// It counts, as far as it knows its sums.
    Sound,
    /// It could not be read: it knows none of its sums.
    Damaged,
    /// There is or may be a newer one: its sums may be older than their blocks.
    Stale,
}

/// One page of one member.
pub struct SumPage {
    content: RefCell<ChecksumPage>,
    dirty: Cell<bool>,
    recent: Cell<bool>,
    /// Number of its last write.
    pub sequence: Cell<u64>,
    /// Whether its sums count for nothing until they are verified.
    stale: bool,
    /// Slots, by their number in the lane, whose sums are to be verified or made anew.
    unverified: RefCell<BTreeSet<u64>>,
    /// It was damaged or stale when it was loaded, and has not been written since.
    unsound: Cell<bool>,
    /// Too few other members were there to verify all of it.
    left_over: Cell<bool>,
}

impl SumPage {
    /// A page as it was made out to be.
    pub fn new(
        content: ChecksumPage,
        sequence: u64,
        worth: Worth,
        unverified: BTreeSet<u64>,
    ) -> Self {
        SumPage {
            content: RefCell::new(content),
            dirty: Cell::new(false),
            recent: Cell::new(true),
            sequence: Cell::new(sequence),
            stale: worth == Worth::Stale,
            unverified: RefCell::new(unverified),
            unsound: Cell::new(worth != Worth::Sound),
            left_over: Cell::new(false),
        }
    }

    /// Whether it was damaged or stale when it was loaded, and has not been written since.
    pub fn was_unsound(&self) -> bool {
        self.unsound.get()
    }

    /// Whether what is on disk says the same, as far as it has been written down.
    pub fn agrees(&self, on_disk: &ChecksumPage) -> bool {
        self.dirty.get() || self.content.borrow().agrees(on_disk)
    }

    /// What it remembers of the same page on the holder of `role`.
    pub fn peer(&self, role: usize) -> Option<Peer> {
        self.content.borrow().peer(role)
    }

    /// The lane's checkpoint that wrote it.
    pub fn checkpoint(&self) -> u64 {
        self.content.borrow().checkpoint()
    }

    /// The sums of a slot are verified, or as good as they can be made now.
    pub fn trust(&self, slot: u64) {
        self.unverified.borrow_mut().remove(&slot);
    }

    /// Too few other members are there to verify all of it.
    pub fn leave_over(&self) {
        self.left_over.set(true);
    }

    /// Its bytes for the next write.
    pub fn stamp(&self, stamp: &PageStamp, peers: &[Option<Peer>], key: u64) -> Vec<u8> {
        let mut content = self.content.borrow_mut();
        content.stamp(stamp, peers);
        content.sealed(key)
    }

    /// Its bytes as last written, with what changed since.
    pub fn bytes(&self, key: u64) -> Vec<u8> {
        self.content.borrow().sealed(key)
    }
}

/// Pages of one lane.
pub struct SumCache {
    /// Most pages in memory, but for those in use or dirty.
    pages_max: usize,
    pages: RefCell<HashMap<Key, Rc<SumPage>, FxBuildHasher>>,
    clock: RefCell<VecDeque<Key>>,
    dirty: RefCell<BTreeSet<Key>>,
    /// Pages, on whatever member, that are being loaded.
    loading: RefCell<HashSet<u64, FxBuildHasher>>,
    loaded: Signal,
    /// Counts how often members were forgotten.
    forgotten: Cell<u64>,
}

impl SumCache {
    /// An empty cache: one of so many, with `bytes_max` in all (0: the default).
    pub fn new(bytes_max: u64, caches: u64) -> SumCache {
        let bytes_max = match bytes_max {
            0 => CACHED_BYTES_DEFAULT,
            bytes => bytes,
        };
        SumCache {
            pages_max: (bytes_max / caches / PAGE_MEMORY_BYTES) as usize,
            pages: RefCell::default(),
            clock: RefCell::default(),
            dirty: RefCell::default(),
            loading: RefCell::default(),
            loaded: Signal::default(),
            forgotten: Cell::new(0),
        }
    }

    /// Whether a checkpoint should be made for the sake of dirty pages, which cannot be dropped.
    pub fn is_too_dirty(&self) -> bool {
        self.dirty_count() > self.pages_max / 2
    }

    /// A page that is in memory.
    pub fn cached(&self, index: Index, page: u64) -> Option<Rc<SumPage>> {
        let found = self.pages.borrow().get(&(index, page)).cloned();
        found.inspect(|p| p.recent.set(true))
    }

    /// Number of dirty pages.
    pub fn dirty_count(&self) -> usize {
        self.dirty.borrow().len()
    }

    /// Takes the list of dirty pages; they count as clean from now on.
    pub fn take_dirty(&self) -> Vec<(Index, u64, Rc<SumPage>)> {
        let keys = core::mem::take(&mut *self.dirty.borrow_mut());
        let pages = self.pages.borrow();
        let found = |(index, page): Key| {
            let content = pages.get(&(index, page))?.clone();
            content.dirty.set(false);
            content.unsound.set(false);
            Some((index, page, content))
        };
        keys.into_iter().filter_map(found).collect()
    }

    /// A slot that is to be verified on a dirty page: the member, the page, and the slot within
    /// the lane.
    pub fn unverified_dirty(&self) -> Option<(Index, u64, u64)> {
        let pages = self.pages.borrow();
        self.dirty.borrow().iter().find_map(|key| {
            let unverified = pages.get(key)?.unverified.borrow().first().copied()?;
            Some((key.0, key.1, unverified))
        })
    }

    /// Takes the list of pages that could not be verified in full: their members and numbers.
    pub fn take_left_over(&self) -> Vec<Key> {
        let pages = self.pages.borrow();
        let left_over = pages.iter().filter(|(_, page)| page.left_over.take());
        left_over.map(|(key, _)| *key).collect()
    }

    /// Forgets a member's pages.
    pub fn forget(&self, index: Index) {
        self.forgotten.set(self.forgotten.get() + 1);
        self.pages.borrow_mut().retain(|(i, _), _| *i != index);
        self.dirty.borrow_mut().retain(|(i, _)| *i != index);
    }

    /// Forgets a member's pages that nobody uses: they are judged anew when they are needed. Gives
    /// the numbers of the others.
    pub fn forget_idle(&self, index: Index) -> Vec<u64> {
        let mut pages = self.pages.borrow_mut();
        let in_use = |page: &Rc<SumPage>| page.dirty.get() || Rc::strong_count(page) > 1;
        pages.retain(|(i, _), page| *i != index || in_use(page));
        let left = pages.keys().filter(|(i, _)| *i == index);
        left.map(|(_, number)| *number).collect()
    }

    /// Whether that is news. A page that was forgotten meanwhile is nobody's any more: another
    /// member may have its place.
    fn mark_dirty(&self, key: Key, page: &Rc<SumPage>) -> bool {
        if page.dirty.replace(true) {
            return false;
        }
        let pages = self.pages.borrow();
        let ours = pages.get(&key).is_some_and(|p| Rc::ptr_eq(p, page));
        ours && self.dirty.borrow_mut().insert(key)
    }

    fn insert(&self, key: Key, page: Rc<SumPage>) {
        self.pages.borrow_mut().insert(key, page);
        self.clock.borrow_mut().push_back(key);
        self.evict();
    }

    fn evict(&self) {
        const STEPS_MAX: usize = 64;
        let mut clock = self.clock.borrow_mut();
        let mut pages = self.pages.borrow_mut();
        for _ in 0..STEPS_MAX {
            if pages.len() <= self.pages_max {
                return;
            }
            let Some(key) = clock.pop_front() else { return };
            let Some(page) = pages.get(&key) else {
                continue;
            };
            if page.dirty.get() || page.recent.replace(false) || Rc::strong_count(page) > 1 {
                clock.push_back(key);
            } else {
                pages.remove(&key);
            }
        }
    }
}

/// The checksum pages that cover one slot on one member, pinned in memory.
pub struct SlotSums {
    index: Index,
    first_page: u64,
    pages: Vec<Rc<SumPage>>,
}

impl SlotSums {
    /// The member.
    pub fn index(&self) -> Index {
        self.index
    }
}

impl Array {
    fn slot_pages(&self, slot: Slot, rows: Range<usize>) -> Range<u64> {
        let first = self.geometry.group_place(slot, rows.start).0;
        first..self.geometry.group_place(slot, rows.end - 1).0 + 1
    }

    /// The sums of `rows` of `slot` on a member, if they are in memory.
    pub fn sums_cached(&self, index: Index, slot: Slot, rows: Range<usize>) -> Option<SlotSums> {
        let lane = &self.lanes[self.geometry.lane_of_slot(slot)];
        let pages = self.slot_pages(slot, rows);
        let first_page = pages.start;
        let pages = pages
            .map(|p| lane.sums.cached(index, p))
            .collect::<Option<Vec<_>>>()?;
        Some(SlotSums {
            index,
            first_page,
            pages,
        })
    }

    /// The sums of `rows` of `slot` on a member, loaded if they must be.
    pub async fn sums(&self, index: Index, slot: Slot, rows: Range<usize>) -> SlotSums {
        if let Some(cached) = self.sums_cached(index, slot, rows.clone()) {
            return cached;
        }
        let pages = self.slot_pages(slot, rows);
        let first_page = pages.start;
        let lane = self.geometry.lane_of_slot(slot);
        let pages = join_all(pages.map(|page| self.sum_page(lane, index, page))).await;
        SlotSums {
            index,
            first_page,
            pages,
        }
    }

    /// One page of a member. The same page of the other members comes along: they are needed
    /// together, and one shows what another misses.
    pub async fn sum_page(&self, lane: usize, index: Index, number: u64) -> Rc<SumPage> {
        let cache = &self.lanes[lane].sums;
        loop {
            if let Some(found) = cache.cached(index, number) {
                return found;
            }
            if !cache.loading.borrow_mut().insert(number) {
                let loading = || cache.loading.borrow().contains(&number);
                self.ex.until(&cache.loaded, || !loading()).await;
                continue;
            }
            let before = cache.forgotten.get();
            let mut loaded = self.load_sum_pages(lane, index, number).await;
            cache.loading.borrow_mut().remove(&number);
            self.ex.fire(&cache.loaded);
            if cache.forgotten.get() != before {
                continue; // who is a member has changed: what was loaded may not count any more
            }
            loaded.retain(|(i, _)| cache.cached(*i, number).is_none());
            // Held until all are in: where much is dirty, room is made by dropping what is not.
            let own = loaded.iter().find(|(i, _)| *i == index);
            let own = own.map(|(_, page)| page.clone());
            for (i, page) in loaded {
                cache.insert((i, number), page);
            }
            if let Some(page) = own {
                return page;
            }
        }
    }

    /// The sum of a block.
    pub fn sum_of(&self, sums: &SlotSums, slot: Slot, row: usize) -> Sum {
        let page = &sums.pages[(self.geometry.group_place(slot, row).0 - sums.first_page) as usize];
        page.content.borrow().sum(&self.geometry, slot, row)
    }

    /// Whether the sums of a slot may be older than its blocks.
    pub fn is_doubtful(&self, sums: &SlotSums, slot: Slot) -> bool {
        let local = self.geometry.in_lane(slot.0);
        let doubts = |page: &Rc<SumPage>| page.stale && page.unverified.borrow().contains(&local);
        sums.pages.iter().any(doubts)
    }

    /// Sets the sum of a block.
    pub fn set_sum(&self, sums: &SlotSums, slot: Slot, row: usize, sum: Sum) {
        self.change_sums(sums, slot, row, |page| {
            page.set_sum(&self.geometry, slot, row, sum)
        });
    }

    /// Gives a slot's sums on one member to `stripe`; all blocks are blank.
    pub fn take_sums(&self, sums: &SlotSums, slot: Slot, stripe: Stripe, seq: u64) {
        for row in (0..self.geometry.shape.rows()).step_by(self.geometry.group_rows()) {
            let g = &self.geometry;
            self.change_sums(sums, slot, row, |page| {
                page.take_group(g, slot, row, stripe, seq)
            });
        }
        let local = self.geometry.in_lane(slot.0);
        sums.pages.iter().for_each(|page| page.trust(local));
    }

    /// Stamps the groups of a slot that these pages hold with their owner.
    pub fn own_sums(&self, sums: &SlotSums, slot: Slot, stripe: Stripe) {
        let g = &self.geometry;
        let pages = sums.first_page..sums.first_page + sums.pages.len() as u64;
        for row in (0..g.shape.rows()).step_by(g.group_rows()) {
            if pages.contains(&g.group_place(slot, row).0) {
                self.change_sums(sums, slot, row, |page| page.own_group(g, slot, row, stripe));
            }
        }
    }

    fn change_sums(
        &self,
        sums: &SlotSums,
        slot: Slot,
        row: usize,
        change: impl FnOnce(&mut ChecksumPage),
    ) {
        let number = self.geometry.group_place(slot, row).0;
        let page = &sums.pages[(number - sums.first_page) as usize];
        change(&mut page.content.borrow_mut());
        let lane = &self.lanes[self.geometry.lane_of_slot(slot)];
        if lane.sums.mark_dirty((sums.index, number), page) {
            // It may be all there is to write down: no batch follows a repair.
            lane.want_checkpoint(&self.ex);
        }
    }
}

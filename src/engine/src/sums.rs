//! Checksum pages in memory: loaded when needed, written back by checkpoints, the least used of
//! the clean ones dropped beyond a limit.

use crate::api::Event;
use crate::array::Array;
use crate::executor::{Signal, join_all};
use crate::read::{Repair, split_blocks};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::{ChecksumPage, Found, Sum};
use uraid_core::units::{BLOCK, BLOCK_BYTES};

/// Most clean pages kept in memory per lane: 64 MiB.
pub const CACHED_PAGES_MAX: usize = 16384;
/// Pages that are dirty before a checkpoint is made for their sake.
pub const DIRTY_PAGES_MAX: usize = 4096;

type Key = (Index, u64);

/// One page of one member.
pub struct SumPage {
    content: RefCell<ChecksumPage>,
    dirty: Cell<bool>,
    recent: Cell<bool>,
    /// Number of its last write.
    pub sequence: Cell<u64>,
}

/// Pages of one lane.
#[derive(Default)]
pub struct SumCache {
    /// `None` while a page is being loaded.
    pages: RefCell<HashMap<Key, Option<Rc<SumPage>>, FxBuildHasher>>,
    clock: RefCell<VecDeque<Key>>,
    dirty: RefCell<Vec<Key>>,
    loaded: Signal,
}

impl SumCache {
    /// A page that is in memory.
    pub fn cached(&self, index: Index, page: u64) -> Option<Rc<SumPage>> {
        let found = self.pages.borrow().get(&(index, page)).cloned().flatten();
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
            let content = pages.get(&(index, page))?.clone()?;
            content.dirty.set(false);
            Some((index, page, content))
        };
        keys.into_iter().filter_map(found).collect()
    }

    /// Forgets a member's pages.
    pub fn forget(&self, index: Index) {
        self.pages
            .borrow_mut()
            .retain(|(i, _), page| *i != index || page.is_none());
        self.dirty.borrow_mut().retain(|(i, _)| *i != index);
    }

    fn mark_dirty(&self, key: Key, page: &SumPage) {
        if !page.dirty.replace(true) {
            self.dirty.borrow_mut().push(key);
        }
    }

    fn insert(&self, key: Key, page: Rc<SumPage>) {
        self.pages.borrow_mut().insert(key, Some(page));
        self.clock.borrow_mut().push_back(key);
        self.evict();
    }

    fn evict(&self) {
        const STEPS_MAX: usize = 64;
        let mut clock = self.clock.borrow_mut();
        let mut pages = self.pages.borrow_mut();
        for _ in 0..STEPS_MAX {
            if pages.len() <= CACHED_PAGES_MAX {
                return;
            }
            let Some(key) = clock.pop_front() else { return };
            let Some(Some(page)) = pages.get(&key) else {
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

    async fn sum_page(&self, lane: usize, index: Index, page: u64) -> Rc<SumPage> {
        let cache = &self.lanes[lane].sums;
        let key = (index, page);
        loop {
            if let Some(found) = cache.cached(index, page) {
                return found;
            }
            let loading = || matches!(cache.pages.borrow().get(&key), Some(None));
            if !loading() {
                break;
            }
            self.ex.until(&cache.loaded, || !loading()).await;
        }
        cache.pages.borrow_mut().insert(key, None);
        let page = Rc::new(self.load_sum_page(lane, index, page).await);
        cache.insert(key, page.clone());
        self.ex.fire(&cache.loaded);
        page
    }

    async fn load_sum_page(&self, lane: usize, index: Index, page: u64) -> SumPage {
        let copies = self.read_sum_copies(lane, index, page).await;
        let (content, sequence) = self
            .newest_sum_page(&copies, lane, index, page)
            .unwrap_or_else(|| {
                // Never written, left over from another array, damaged or unreadable: right for
                // slots not in use; elsewhere every block is wrong until it is repaired.
                (self.unknown_sums(lane, index, page), 0)
            });
        self.look_for_unknown(&content, lane, index, page);
        SumPage {
            content: RefCell::new(content),
            dirty: Cell::new(false),
            recent: Cell::new(true),
            sequence: Cell::new(sequence),
        }
    }

    /// What can be read of the two copies of a page. An unreadable one does not hide the other,
    /// unless it was the newer: then the other misses writes, and blank sums in it may stand for
    /// blocks that have long been written.
    async fn read_sum_copies(&self, lane: usize, index: Index, page: u64) -> Vec<Buf> {
        let copies = self.readable_sum_copies(lane, index, page).await;
        if copies.len() == 2 {
            return copies;
        }
        let newest = self.newest_sum_page(&copies, lane, index, page);
        let sequence = newest.map_or(0, |(_, sequence)| sequence as u32);
        match self.witnessed_sequence(lane, index, page).await > sequence {
            true => Vec::new(),
            false => copies,
        }
    }

    async fn readable_sum_copies(&self, lane: usize, index: Index, page: u64) -> Vec<Buf> {
        let first = self.geometry.checksum_page_offset(lane, page, 0);
        if let Ok(both) = self.read_member(index, first, 2 * BLOCK_BYTES).await {
            return split_blocks(&both.freeze()).collect();
        }
        let one = |copy: u64| self.read_member(index, first + copy * BLOCK, BLOCK_BYTES);
        let copies = join_all([0, 1].map(one)).await;
        copies.into_iter().flatten().map(|b| b.freeze()).collect()
    }

    /// The newest sequence number of a page on a member that the same page on another one knows.
    async fn witnessed_sequence(&self, lane: usize, index: Index, page: u64) -> u32 {
        let Some(role) = self.config.borrow().entry(index).role else {
            return 0;
        };
        let others = self.all_writers().into_iter().filter(|i| *i != index);
        let known = others.map(|other| async move {
            let copies = self.readable_sum_copies(lane, other, page).await;
            let newest = self.newest_sum_page(&copies, lane, other, page);
            newest.map_or(0, |(content, _)| content.peer_sequence(role.into()))
        });
        join_all(known).await.into_iter().max().unwrap_or(0)
    }

    /// The newest valid copy of a page.
    fn newest_sum_page(
        &self,
        copies: &[Buf],
        lane: usize,
        index: Index,
        page: u64,
    ) -> Option<(ChecksumPage, u64)> {
        let copies = copies.iter().filter_map(|bytes| {
            match ChecksumPage::decode(bytes, self.key, index, lane as u16, page) {
                Found::Valid(sequence, content) => Some((content, sequence)),
                Found::Blank | Found::Damaged => None,
            }
        });
        copies.max_by_key(|(_, sequence)| *sequence)
    }

    /// The rows of slots in use whose sums a page holds: slot, stripe and row.
    fn rows_of_page(&self, lane: usize, page: u64) -> Vec<(Slot, Stripe, usize)> {
        let g = &self.geometry;
        let slots = self.lanes[lane].slots.borrow();
        let mut all = Vec::new();
        for local in g.slots_of_page(page) {
            let Some(owner) = slots.owner(local) else {
                continue;
            };
            let (slot, stripe) = (g.slot_in_lane(lane, local), g.stripe_in_lane(lane, owner));
            let here = |row: &usize| g.group_place(slot, *row).0 == page;
            all.extend(
                (0..g.shape.rows())
                    .filter(here)
                    .map(|row| (slot, stripe, row)),
            );
        }
        all
    }

    /// A page that lets nothing through: blocks of slots in use match no content, so they are
    /// reconstructed from the other members, and the page is written anew as they are.
    fn unknown_sums(&self, lane: usize, index: Index, page: u64) -> ChecksumPage {
        let g = &self.geometry;
        let mut content = ChecksumPage::blank();
        let rows = self.rows_of_page(lane, page);
        for (slot, stripe, row) in &rows {
            if row % g.group_rows() == 0 {
                content.take_group(g, *slot, *row, *stripe, 0);
            }
            content.set_sum(g, *slot, *row, Sum::NONE);
        }
        if !rows.is_empty() && self.config.borrow().is_in_sync(index) {
            self.event(Event::Warning(format!(
                "{}: checksum page {page} of lane {lane} is damaged: its {} blocks are verified \
                 against the other members",
                self.member_name(index),
                rows.len()
            )));
        }
        content
    }

    /// Blocks of unknown sum on a member in sync are given one, in a task of its own.
    fn look_for_unknown(&self, content: &ChecksumPage, lane: usize, index: Index, page: u64) {
        let unknown = |(slot, _, row): &(Slot, Stripe, usize)| {
            content.sum(&self.geometry, *slot, *row) == Sum::NONE
        };
        let any = self.rows_of_page(lane, page).iter().any(unknown);
        if any && self.config.borrow().is_in_sync(index) && !self.read_only {
            let array = self.me();
            self.ex
                .spawn(async move { array.relearn_sums(lane, index, page).await });
        }
    }

    /// Gives the blocks of a damaged page their checksums back, by reconstruction.
    async fn relearn_sums(&self, lane: usize, index: Index, page: u64) {
        self.ex.until(&self.changed, || self.open.get()).await;
        let g = &self.geometry;
        for local in g.slots_of_page(page) {
            let in_sync =
                self.live_device(index).is_some() && self.config.borrow().is_in_sync(index);
            if self.read_only || !in_sync || self.stopping.get() {
                return;
            }
            let Some(owner) = self.lanes[lane].slots.borrow().owner(local) else {
                continue;
            };
            let stripe = g.stripe_in_lane(lane, owner);
            let _alone = self.lock_place(stripe).await;
            let slot = self.lanes[lane].map.borrow().get(stripe).slot();
            let role = self.config.borrow().entry(index).role;
            let Some((slot, role)) = slot.zip(role) else {
                continue;
            };
            let column = g.shape.column_of(slot, usize::from(role));
            // What is lost beyond redundancy stays marked and is reported to whoever reads it.
            let rows = 0..g.shape.rows();
            let _ = self
                .read_settled(stripe, column, rows, Repair::Quietly)
                .await;
        }
    }

    /// The sum of a block.
    pub fn sum_of(&self, sums: &SlotSums, slot: Slot, row: usize) -> Sum {
        let page = &sums.pages[(self.geometry.group_place(slot, row).0 - sums.first_page) as usize];
        page.content.borrow().sum(&self.geometry, slot, row)
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
        lane.sums.mark_dirty((sums.index, number), page);
    }

    /// The bytes of a page for its next write.
    pub fn encode_sum_page(
        &self,
        lane: usize,
        index: Index,
        number: u64,
        page: &SumPage,
        peers: &[u64],
    ) -> Vec<u8> {
        let content = page.content.borrow();
        content.encode(
            self.key,
            index,
            lane as u16,
            number,
            page.sequence.get(),
            peers,
        )
    }
}

//! Checkpoints: what is journalled and durable goes in place, the map and checksum pages follow,
//! and once all of it is durable on all members the journal space is free again.

use crate::api::Nanos;
use crate::array::Array;
use crate::executor::join_all;
use crate::lane::{Lane, RowImage};
use crate::mutants::{Mutant, active};
use crate::sums::{SlotSums, SumPage};
use crate::traffic::Part;
use alloc::rc::Rc;
use alloc::vec::Vec;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::journal::Checkpoint;
use uraid_core::pages::{PageStamp, Peer, encode_map_page};
use uraid_core::units::BLOCK;
use uraid_parity::ColumnSet;

/// A lane that has been idle for so long is checkpointed, so that a start finds little to do.
const IDLE: Nanos = 1_000_000_000;
/// Pages written at the same time.
const PAGES_AT_ONCE_MAX: usize = 256;
/// Stripes destaged at the same time.
const DESTAGE_STRIPES_MAX: usize = 64;

/// A page and where it goes.
type PageWrite = (Index, u64, Vec<u8>);

impl Array {
    /// Makes checkpoints for as long as the array lives: when space runs short, and when idle.
    pub async fn checkpoint_task(self: Rc<Self>, lane: usize) {
        let lane = &self.lanes[lane];
        loop {
            let before = lane.journal.borrow().next_seq;
            let dirty = self.has_work(lane);
            let due = || self.checkpoint_due(lane) || self.is_blocked(lane);
            if dirty {
                let by = self.after(IDLE);
                let due = self.ex.until_or(by, &lane.checkpoint_wanted, due).await;
                let idle = lane.journal.borrow().next_seq == before;
                if !due && !idle {
                    continue;
                }
            } else {
                let any = || due() || self.has_work(lane);
                self.ex.until(&lane.checkpoint_wanted, any).await;
                if !due() {
                    continue;
                }
            }
            if self.is_suspended() {
                self.ex
                    .until(&lane.checkpoint_wanted, || !self.is_suspended())
                    .await;
            }
            self.checkpoint(lane).await;
            self.ex.fire(&lane.journal_moved);
            self.ex.yield_now().await;
        }
    }

    /// Whether there is anything to write down.
    pub fn has_work(&self, lane: &Lane) -> bool {
        let journal = lane.journal.borrow();
        journal.tail < journal.completed
            || lane.sums.dirty_count() > 0
            || !lane.map.borrow().dirty.is_empty()
    }

    /// Whether a checkpoint should not wait for an idle moment.
    fn checkpoint_due(&self, lane: &Lane) -> bool {
        let (ring_blocks, relog_blocks) = (self.geometry.ring_blocks, self.geometry.relog_blocks);
        let journal = lane.journal.borrow();
        journal
            .rings
            .values()
            .any(|r| r.head - r.tail > ring_blocks / 2)
            || journal.rows_since_tail > relog_blocks / 8 * 3
            || journal.entry_bytes_since_tail > relog_blocks / 8 * BLOCK
            || journal.blocks_since_tail > self.journalled_blocks_max / 4 * 3
            || lane.sums.is_too_dirty()
    }

    /// Whether commits wait for journal space.
    fn is_blocked(&self, lane: &Lane) -> bool {
        lane.journal.borrow().starved
    }

    /// Makes a checkpoint of a lane.
    pub async fn checkpoint(&self, lane: &Lane) {
        let _held = lane.checkpoint_lock.lock(&self.ex).await;
        self.checkpoint_locked(lane).await;
    }

    /// As [`Array::checkpoint`]; the caller holds the lane's checkpoint lock.
    pub async fn checkpoint_locked(&self, lane: &Lane) {
        if self.read_only {
            return;
        }
        if !active(Mutant::DestageUnflushed) {
            self.flush_journals().await;
        }
        self.destage(lane).await;
        // What is encoded here names only batches that the next flush makes durable.
        let completed = lane.journal.borrow().completed;
        let tail = lane
            .overlay
            .borrow()
            .oldest_seq()
            .unwrap_or(completed)
            .min(completed);
        loop {
            let epoch = self.config.borrow().epoch;
            self.write_pages(lane).await;
            if self.is_suspended() {
                return;
            }
            // A member that left meanwhile may lack any of this. The tags that say so must be
            // durable before the records are dropped from which they could be made again.
            if self.config.borrow().epoch == epoch {
                break;
            }
        }
        if self.settle_records(lane, tail).await {
            lane.map.borrow_mut().touched[1].clear();
            lane.journal.borrow_mut().move_tail(tail);
        }
    }

    /// Writes the records and makes them durable; `false` when writes were suspended meanwhile.
    pub async fn settle_records(&self, lane: &Lane, tail: u64) -> bool {
        self.write_checkpoint_records(lane, tail).await;
        if !active(Mutant::TailUnflushed) {
            self.flush_members().await;
        }
        if self.is_suspended() {
            return false;
        }
        let mut journal = lane.journal.borrow_mut();
        journal.checkpoint_settled = journal.checkpoint_number;
        true
    }

    /// Writes the records once more, so that they name the tail that all members are now known
    /// to have: whoever is rolled back to before a recovery shows from then on.
    pub async fn witness_tail(&self, lane: &Lane) {
        let _held = lane.checkpoint_lock.lock(&self.ex).await;
        if self.is_suspended() {
            return;
        }
        let tail = lane.journal.borrow().tail;
        self.settle_records(lane, tail).await;
    }

    /// Makes the dirty map and checksum pages durable, and everything that was put in place.
    async fn write_pages(&self, lane: &Lane) {
        let begun = self.ex.now();
        loop {
            self.settle_doubts(lane).await;
            self.list_pages(lane).await;
            // More may have become dirty meanwhile.
            if lane.sums.unverified_dirty().is_none() {
                break;
            }
        }
        let (pages, _in_memory) = self.take_dirty_pages(lane);
        {
            let mut map = lane.map.borrow_mut();
            // Rows that stay journalled are put in place by a later checkpoint: a member that
            // leaves before that one is durable misses them.
            let later = lane.overlay.borrow().stripes().collect();
            let touched = core::mem::replace(&mut map.touched[0], later);
            map.touched[1].extend(touched);
        }
        if !active(Mutant::PageUnflushed) {
            self.flush_journals().await;
        }
        if self.is_suspended() {
            return;
        }
        // Not all at once: requests that come meanwhile would wait behind them.
        for some in pages.chunks(PAGES_AT_ONCE_MAX) {
            let write = |(index, offset, bytes): &PageWrite| {
                self.write_member(*index, *offset, alloc::vec![self.pool.copy(bytes)])
            };
            join_all(some.iter().map(write)).await;
        }
        if !active(Mutant::PlaceUnflushed) {
            self.flush_members().await;
        }
        self.count_time(Part::Pages, begun);
    }

    /// Writes a checkpoint record on every member that takes writes.
    pub async fn write_checkpoint_records(&self, lane: &Lane, tail: u64) {
        let following = self.following_now(lane);
        let records: Vec<(usize, Checkpoint)> = {
            let mut journal = lane.journal.borrow_mut();
            journal.checkpoint_number += 1;
            journal.following = following;
            // Never over the newest one a member has, which may be all it has.
            let place = |index: Index| {
                journal
                    .records
                    .get(&index)
                    .map_or(0, |(place, _)| 1 - place)
            };
            let record = |index: Index| Checkpoint {
                lane: lane.id as u16,
                member: index,
                number: journal.checkpoint_number,
                epoch: journal.epoch,
                tail,
                tail_pos: journal.rings.get(&index).map_or(0, |r| r.tail_at(tail)),
                witnessed_tail: journal.tail,
                config_nonce: self.config.borrow().nonce,
                following,
            };
            let new: Vec<_> = self
                .all_writers()
                .into_iter()
                .map(|i| (place(i), record(i)))
                .collect();
            let by_member = new.iter().map(|(place, c)| (c.member, (*place, *c)));
            journal.records = by_member.collect();
            new
        };
        self.write_records(lane, records).await;
    }

    /// What is to be written, and the checksum pages among it: whoever holds on to them keeps them
    /// in memory, so that nobody reads from disk what is only on its way there.
    fn take_dirty_pages(&self, lane: &Lane) -> (Vec<PageWrite>, Vec<Rc<SumPage>>) {
        let mut writes = self.dirty_map_pages(lane);
        let dirty = lane.sums.take_dirty();
        for (_, _, page) in &dirty {
            page.sequence.set(page.sequence.get() + 1);
        }
        let checkpoint = lane.journal.borrow().checkpoint_number + 1;
        for (index, number, page) in &dirty {
            let stamp = PageStamp {
                member: *index,
                lane: lane.id as u16,
                page: *number,
                sequence: page.sequence.get(),
                checkpoint,
            };
            let mut copy = (stamp.sequence % 2) as usize;
            copy *= usize::from(!active(Mutant::PageInPlace));
            let offset = self.geometry.checksum_page_offset(lane.id, *number, copy);
            let bytes = page.stamp(&stamp, &self.peers(lane, *number, page), self.key);
            writes.push((*index, offset, bytes));
        }
        // In the order of the disk.
        writes.sort_by_key(|(index, offset, _)| (*index, *offset));
        let pages = dirty.into_iter().map(|(_, _, page)| page).collect();
        (writes, pages)
    }

    /// What `page` is to remember of the same page on the holders of all roles: what is known
    /// now, or what it remembers already.
    fn peers(&self, lane: &Lane, number: u64, page: &SumPage) -> Vec<Option<Peer>> {
        let now = |holder: Option<Index>| {
            let holder = holder?;
            let cached = lane.sums.cached(holder, number)?;
            Some(Peer::new(holder, cached.sequence.get()))
        };
        let roles = self.roles.borrow();
        let known = roles.iter().enumerate();
        known
            .map(|(role, r)| now(r.holder).or_else(|| page.peer(role)))
            .collect()
    }

    fn dirty_map_pages(&self, lane: &Lane) -> Vec<PageWrite> {
        let mut map = lane.map.borrow_mut();
        let mut writes = Vec::new();
        for page in core::mem::take(&mut map.dirty) {
            map.sequences[page as usize] += 1;
            let sequence = map.sequences[page as usize];
            let bytes = encode_map_page(self.key, lane.id as u16, page, sequence, map.page(page));
            let copy = (sequence % 2) as usize;
            let offset = self.geometry.map_page_offset(lane.id, page, copy);
            writes.extend(
                self.all_writers()
                    .into_iter()
                    .map(|i| (i, offset, bytes.clone())),
            );
        }
        writes
    }

    /// Puts in place every row whose journal records are durable.
    async fn destage(&self, lane: &Lane) {
        let mut durable = lane.journal.borrow().durable;
        if active(Mutant::DestageUnflushed) {
            durable = lane.journal.borrow().completed;
        }
        let stripes = lane.overlay.borrow().stripes_before(durable);
        for some in stripes.chunks(DESTAGE_STRIPES_MAX) {
            if self.is_suspended() {
                return;
            }
            join_all(
                some.iter()
                    .map(|stripe| self.destage_stripe(lane, *stripe, durable)),
            )
            .await;
        }
    }

    async fn destage_stripe(&self, lane: &Lane, stripe: Stripe, durable: u64) {
        let _alone = self.lock_place(stripe).await;
        let rows = lane.overlay.borrow().rows_before(stripe, durable);
        let Some(slot) = rows.first().map(|(_, image)| image.slot) else {
            return;
        };
        let local = self.geometry.in_lane(slot.0);
        lane.slots.borrow_mut().hold(local);
        let begun = self.ex.now();
        self.place_rows(slot, &rows).await;
        self.count_time(Part::Destage, begun);
        if !self.is_suspended() {
            let mut overlay = lane.overlay.borrow_mut();
            rows.iter()
                .for_each(|(row, image)| overlay.placed(stripe, *row, image));
        }
        lane.unhold_slot(local, &self.ex);
    }

    /// Writes rows in place and notes their checksums.
    async fn place_rows(&self, slot: Slot, rows: &[(u16, RowImage)]) {
        let columns: ColumnSet = rows
            .iter()
            .flat_map(|(_, image)| image.columns.iter().map(|(c, _)| *c))
            .collect();
        let all_rows = 0..self.geometry.shape.rows();
        let targets: Vec<(usize, Index)> = columns
            .iter()
            .flat_map(|c| self.writers(slot, c).map(move |i| (c, i)))
            .collect();
        let sums: Vec<SlotSums> = join_all(
            targets
                .iter()
                .map(|(_, i)| self.sums(*i, slot, all_rows.clone())),
        )
        .await;
        let mut writes = Vec::new();
        for (column, index) in &targets {
            for (first, buffers) in row_runs(rows, *column) {
                let offset = self.geometry.block_offset(slot, usize::from(first));
                writes.push(self.write_member(*index, offset, buffers));
            }
        }
        join_all(writes).await;
        if self.is_suspended() {
            return;
        }
        for ((column, _), sums) in targets.iter().zip(&sums) {
            for (row, image) in rows {
                if let Some(version) = image.column(*column) {
                    self.set_sum(sums, slot, usize::from(*row), version.sum);
                }
            }
        }
    }
}

/// Neighbouring rows of one column, to be written together.
fn row_runs(rows: &[(u16, RowImage)], column: usize) -> Vec<(u16, Vec<Buf>)> {
    let mut runs: Vec<(u16, Vec<Buf>)> = Vec::new();
    for (row, image) in rows {
        let Some(version) = image.column(column) else {
            continue;
        };
        match runs.last_mut() {
            Some((first, buffers)) if *first + buffers.len() as u16 == *row => {
                buffers.push(version.data.clone());
            }
            _ => runs.push((*row, alloc::vec![version.data.clone()])),
        }
    }
    runs
}

//! What to make of a checksum page when it is loaded.
//!
//! Every page remembers under which number the other members last wrote the same page. A page that
//! a peer remembers to be newer is stale: a write of it was lost, and the blocks it covers may be
//! newer than its sums, or blank in it and written since. Its sums are *doubtful*: they are
//! verified against the other members before they count.
//!
//! A peer's word counts in full only if the checkpoint that wrote it was completed. After a crash
//! in the middle of a checkpoint some members hold newer pages than others, and that is no fault:
//! the journal has everything that the older ones miss. What such a word tells of earlier
//! checkpoints counts: a checkpoint writes a page once, so the write before the one it remembers
//! was completed. A number that such a checkpoint used can be used again, so the rule errs now and
//! then on the side of doubt. Doubt is no verdict, though: where too few other members are left to
//! verify against, the doubtful sums count after all. That is safe, because with so many members
//! lost no further fault is within what is promised.
//!
//! Nor does every peer know of every write: a rebuild writes pages of one member. Where one of the
//! two copies of a page is damaged or cannot be read the other is in doubt, whatever peers
//! remember.
//!
//! A page that cannot be read knows none of its sums. They are made anew before the page is
//! written: until then what is on disk may yet be read, when a device thinks better of it, and
//! the journal has what it misses.

use crate::array::Array;
use crate::executor::join_all;
use crate::lane::Lane;
use crate::mend::Repair;
use crate::mutants::{Mutant, active};
use crate::read::{runs, split_blocks};
use crate::settled::Checked;
use crate::sums::{SumPage, Worth};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::events::EventKind;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::{ChecksumPage, Found, Peer, Sum};
use uraid_core::units::{BLOCK, BLOCK_BYTES};

/// By how much numbers go on where a newer copy than the one that was found may turn up: more
/// than a page is ever written without a peer that remembers it, as by a rebuild. It is even:
/// numbers alternate between the two copies.
const UNSEEN_WRITES_MAX: u64 = 1 << 16;

/// A page as it was found on a member.
struct FoundPage {
    /// The newest valid copy and its number.
    newest: Option<(ChecksumPage, u64)>,
    /// Whether there is a copy that is damaged or cannot be read.
    hidden: bool,
}

/// A row of a slot in use, and the stripe that owns it.
type Row = (Slot, Stripe, usize);

/// What a copy of a page tells of the same page on a peer, and the checkpoint that wrote it.
type Word = (u64, Option<Peer>);

impl Array {
    /// Loads a page of `index` and of every other member that has not got it in memory.
    pub async fn load_sum_pages(
        &self,
        lane: usize,
        index: Index,
        number: u64,
    ) -> Vec<(Index, Rc<SumPage>)> {
        let sums = &self.lanes[lane].sums;
        let mut members: BTreeSet<Index> = self.all_writers().into_iter().collect();
        members.retain(|i| sums.cached(*i, number).is_none());
        members.insert(index);
        let read = |i: &Index| self.read_newest_sum_page(lane, *i, number);
        let found: Vec<FoundPage> = join_all(members.iter().map(read)).await;
        let members: Vec<Index> = members.into_iter().collect();
        let make = |(i, page): (&Index, &FoundPage)| {
            let remembered = self.remembered(lane, *i, number, &found);
            let page = self.judge_sum_page(lane, *i, number, page, &remembered);
            (*i, Rc::new(page))
        };
        members.iter().zip(&found).map(make).collect()
    }

    async fn read_newest_sum_page(&self, lane: usize, index: Index, number: u64) -> FoundPage {
        let copies = self.readable_sum_copies(lane, index, number).await;
        let decode =
            |bytes: &Buf| ChecksumPage::decode(bytes, self.key, index, lane as u16, number);
        let copies: Vec<Found<ChecksumPage>> = copies.iter().map(decode).collect();
        let damaged = copies.iter().any(|copy| matches!(copy, Found::Damaged));
        let hidden = damaged || copies.len() < 2;
        let valid = copies.into_iter().filter_map(|copy| match copy {
            Found::Valid(sequence, content) => Some((content, sequence)),
            Found::Blank | Found::Damaged => None,
        });
        FoundPage {
            newest: valid.max_by_key(|(_, sequence)| *sequence),
            hidden,
        }
    }

    /// An unreadable copy does not hide the other.
    async fn readable_sum_copies(&self, lane: usize, index: Index, number: u64) -> Vec<Buf> {
        let first = self.geometry.checksum_page_offset(lane, number, 0);
        if let Ok(both) = self.read_member(index, first, 2 * BLOCK_BYTES).await {
            return split_blocks(&both.freeze()).collect();
        }
        let one = |copy: u64| self.read_member(index, first + copy * BLOCK, BLOCK_BYTES);
        let copies = join_all([0, 1].map(one)).await;
        copies.into_iter().flatten().map(|b| b.freeze()).collect()
    }

    /// What peers remember of a page on `index` as written by checkpoints that were completed;
    /// `found` are those just read.
    fn remembered(&self, lane: usize, index: Index, number: u64, found: &[FoundPage]) -> Vec<Peer> {
        let Some(role) = self.config.borrow().entry(index).role.map(usize::from) else {
            return Vec::new();
        };
        let lane = &self.lanes[lane];
        let completed = lane.journal.borrow().checkpoint_number;
        let read = found.iter().filter_map(|f| f.newest.as_ref());
        let read = read.map(|(page, _)| -> Word { (page.checkpoint(), page.peer(role)) });
        let cached = self.all_writers().into_iter();
        let cached = cached.filter_map(|i| lane.sums.cached(i, number));
        let cached = cached.map(|page| (page.checkpoint(), page.peer(role)));
        let about = |(n, peer): Word| {
            let peer = peer.filter(|p| p.member == index)?;
            Some(if n <= completed { peer } else { peer.before() })
        };
        read.chain(cached).filter_map(about).collect()
    }

    /// What a page of a member is worth.
    fn judge_sum_page(
        &self,
        lane: usize,
        index: Index,
        number: u64,
        found: &FoundPage,
        remembered: &[Peer],
    ) -> SumPage {
        let rows = self.rows_of_page(lane, number);
        // A member that catches up keeps what has not changed since it left. That it lacks pages
        // of the checkpoint during which it left, or later ones, is no damage.
        let catches_up = self
            .rebuilds
            .borrow()
            .get(&index)
            .is_some_and(|p| p.since > 0);
        // A read-only array has members in its config that are not there.
        let is_there = self.live_device(index).is_some();
        let in_sync = is_there && (catches_up || self.config.borrow().is_in_sync(index));
        let own = found.newest.as_ref().map_or(0, |(_, sequence)| *sequence);
        let trusted = active(Mutant::StalePageTrusted)
            || active(Mutant::RolledBackTrusted)
            || (catches_up && active(Mutant::OldImageCatchesUp));
        let ahead = remembered
            .iter()
            .map(|p| p.ahead_of(own))
            .max()
            .unwrap_or(0);
        // The next write must be newer than all that anybody remembers and all that may yet turn
        // up, and must not go over the copy that was found: numbers alternate between the two.
        let unseen = if found.hidden { UNSEEN_WRITES_MAX } else { 0 };
        let sequence = own + ahead.next_multiple_of(2) + unseen;
        let Some((content, _)) = found.newest.clone() else {
            // Never written, left over from another array, damaged or unreadable: right for
            // slots not in use; elsewhere every block is wrong until it is verified. A member
            // being filled gets all of it anew.
            let unsound = in_sync && !rows.is_empty();
            if unsound {
                if !catches_up {
                    self.report_unsound(lane, index, number, rows.len(), "damaged");
                }
                self.look_closer(lane, index, number);
            }
            let content = self.unknown_sums(&rows);
            return match unsound {
                true => SumPage::new(content, sequence, Worth::Damaged, self.slots_of(&rows)),
                false => SumPage::new(content, sequence, Worth::Sound, BTreeSet::new()),
            };
        };
        if !in_sync {
            return SumPage::new(content, sequence, Worth::Sound, BTreeSet::new());
        }
        // The copy that is hidden may be the newer one, of which no peer need know.
        let stale = (ahead > 0 || found.hidden) && !rows.is_empty() && !trusted;
        if stale && ahead > 0 && !catches_up {
            let how = "older than its peers know it";
            self.report_unsound(lane, index, number, rows.len(), how);
        }
        let sum = |slot: Slot, row: usize| content.sum(&self.geometry, slot, row);
        let unknown = |(slot, _, row): &Row| sum(*slot, *row) == Sum::NONE;
        let unverified = self.slots_of(rows.iter().filter(|row| stale || unknown(row)));
        if !unverified.is_empty() {
            self.look_closer(lane, index, number);
        }
        let worth = if stale { Worth::Stale } else { Worth::Sound };
        SumPage::new(content, sequence, worth, unverified)
    }

    /// The slots of some rows, by their number in the lane.
    fn slots_of<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> BTreeSet<u64> {
        let slot = |(slot, _, _): &Row| self.geometry.in_lane(slot.0);
        rows.into_iter().map(slot).collect()
    }

    /// The rows of slots in use whose sums a page holds.
    fn rows_of_page(&self, lane: usize, page: u64) -> Vec<Row> {
        let g = &self.geometry;
        let slots = self.lanes[lane].slots.borrow();
        let mut all = Vec::new();
        for local in g.slots_of_page(page) {
            let Some(owner) = slots.owner(local) else {
                continue;
            };
            let (slot, stripe) = (g.slot_in_lane(lane, local), g.stripe_in_lane(lane, owner));
            let here = |row: &usize| g.group_place(slot, *row).0 == page;
            let rows = (0..g.shape.rows()).filter(here);
            all.extend(rows.map(|row| (slot, stripe, row)));
        }
        all
    }

    /// Whether a page holds sums of slots in use.
    pub fn page_is_used(&self, lane: usize, page: u64) -> bool {
        let slots = self.lanes[lane].slots.borrow();
        let mut here = self.geometry.slots_of_page(page);
        here.any(|local| slots.owner(local).is_some())
    }

    /// A page that lets nothing through: blocks of slots in use match no content, so they are
    /// reconstructed from the other members, and the page is written anew as they are.
    fn unknown_sums(&self, rows: &[Row]) -> ChecksumPage {
        let g = &self.geometry;
        let mut content = ChecksumPage::blank();
        for (slot, stripe, row) in rows {
            if row % g.group_rows() == 0 {
                content.take_group(g, *slot, *row, *stripe, 0);
            }
            content.set_sum(g, *slot, *row, Sum::NONE);
        }
        content
    }

    fn report_unsound(&self, lane: usize, index: Index, number: u64, blocks: usize, how: &str) {
        let text = format!(
            "{}: checksum page {number} of lane {lane} is {how}: its {blocks} blocks are verified \
             against the other members",
            self.member_name(index)
        );
        self.tell_of(index, EventKind::MetadataDamaged, text);
        self.counters.borrow_mut()[usize::from(index.0)].checksum_errors += 1;
        self.count_unsound_page(index);
    }

    /// Blocks of unknown or doubtful sum on a member in sync are verified, by a task of its own.
    pub fn look_closer(&self, lane: usize, index: Index, number: u64) {
        if !self.read_only {
            let array = self.me();
            self.ex
                .spawn(async move { array.relearn_sums(lane, index, number).await });
        }
    }

    /// Gives the blocks of a page their checksums back, by reconstruction.
    async fn relearn_sums(&self, lane: usize, index: Index, number: u64) {
        self.ex.until(&self.changed, || self.open.get()).await;
        for local in self.geometry.slots_of_page(number) {
            let in_sync = self.config.borrow().is_in_sync(index);
            if !in_sync || self.stopping.get() {
                return;
            }
            self.verify_slot(lane, index, number, local).await;
        }
    }

    /// Verifies the blocks of a slot whose sums are on one page of a member. What cannot be
    /// reconstructed stays as it is: with so many lost, sums that are only in doubt count.
    async fn verify_slot(&self, lane: usize, index: Index, number: u64, local: u64) {
        if self.live_device(index).is_none() || self.is_suspended() {
            return;
        }
        let lane = &self.lanes[lane];
        let Some(owner) = lane.slots.borrow().owner(local) else {
            return;
        };
        let stripe = self.geometry.stripe_in_lane(lane.id, owner);
        let slot = self.geometry.slot_in_lane(lane.id, local);
        // Commits take no place lock: the stripe may move away, the slot must not be used again.
        lane.slots.borrow_mut().hold(local);
        let place = self.lock_place(stripe).await;
        if lane.map.borrow().get(stripe).slot() == Some(slot) {
            self.verify_column(index, number, (stripe, slot)).await;
        }
        drop(place);
        lane.unhold_slot(local, &self.ex);
    }

    /// As [`Array::verify_slot`]; the caller holds the slot and the place lock.
    async fn verify_column(&self, index: Index, number: u64, (stripe, slot): (Stripe, Slot)) {
        let g = &self.geometry;
        let Some(role) = self.config.borrow().entry(index).role else {
            return;
        };
        let column = g.shape.column_of(slot, usize::from(role));
        let here = |row: &usize| g.group_place(slot, *row).0 == number;
        let first = (0..g.shape.rows()).find(here);
        let first = first.expect("the slot has sums on the page");
        let end = first + (first..g.shape.rows()).filter(here).count();
        let found = self.read_checked(index, slot, column, first..end).await;
        let no_good = |i: &usize| !matches!(found[*i], Checked::Good(_));
        let suspects: Vec<usize> = (0..found.len()).filter(no_good).collect();
        let mut all_known = true;
        for run in runs(&suspects) {
            let rows = first + run.start..first + run.end;
            let place = (stripe, slot, column);
            all_known &= self.verify_rows(index, place, rows, &found[run]).await;
        }
        let sums = self.sums(index, slot, first..end).await;
        self.own_sums(&sums, slot, stripe);
        let lane = self.geometry.lane_of_slot(slot);
        let page = self.sum_page(lane, index, number).await;
        page.trust(g.in_lane(slot.0));
        if !all_known {
            page.leave_over();
        }
    }

    /// Holds blocks of a column that are no good as they were `found` against what they should be;
    /// `false` if that could not be had for all of them.
    async fn verify_rows(
        &self,
        index: Index,
        (stripe, slot, column): (Stripe, Slot, usize),
        rows: Range<usize>,
        found: &[Checked],
    ) -> bool {
        let place = (stripe, slot, column);
        let (made, others) = self.reconstruct_each(place, rows.clone()).await;
        for ((row, found), made) in rows.zip(found).zip(&made) {
            if let Ok(made) = made {
                let (wrong, one) = (!found.holds(made), core::slice::from_ref(made));
                self.repair(index, slot, row..row + 1, one, wrong).await;
            }
        }
        self.repair_misfits(stripe, slot, others, Repair::Report)
            .await;
        made.iter().all(Result::is_ok)
    }

    /// Verifies what is in doubt or unknown on pages that are about to be written: once they are,
    /// nobody remembers newer ones, and what could not be read is gone for good.
    pub async fn settle_doubts(&self, lane: &Lane) {
        while let Some((index, number, local)) = lane.sums.unverified_dirty() {
            self.verify_slot(lane.id, index, number, local).await;
            if let Some(page) = lane.sums.cached(index, number) {
                page.trust(local); // also when the slot is nobody's any more
            }
        }
    }

    /// With a member more, blocks may be verified that could not be before.
    pub fn verify_left_over(&self) {
        for lane in &self.lanes {
            for (index, number) in lane.sums.take_left_over() {
                self.look_closer(lane.id, index, number);
            }
        }
    }
}

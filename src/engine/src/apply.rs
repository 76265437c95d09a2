//! What follows a commit: its changes become visible, later durable, and slots it freed can be
//! used again.

use crate::array::Array;
use crate::commit::{Unit, UnitEntry};
use crate::executor::join_all;
use crate::lane::{Lane, Version};
use crate::sums::SlotSums;
use alloc::vec::Vec;
use uraid_core::config::Index;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::journal::Entry;
use uraid_core::pages::{MapEntry, Sum};

impl Array {
    /// Makes a committed unit visible.
    pub fn apply(&self, lane: &Lane, unit: &Unit, seq: u64) {
        for UnitEntry { entry, payload } in &unit.entries {
            match entry {
                Entry::Row {
                    stripe,
                    slot,
                    row,
                    checksums,
                    ..
                } => {
                    let mut overlay = lane.overlay.borrow_mut();
                    for ((column, block), crc) in payload.iter().zip(checksums) {
                        let sum = Sum::new(*crc, seq);
                        let version = Version {
                            data: block.clone(),
                            sum,
                            seq,
                        };
                        overlay.insert(*stripe, *slot, *row, *column, version);
                    }
                    drop(overlay);
                    for (column, block) in payload {
                        if let Some(view) = &self.view {
                            view.forget_row(*stripe, *column, usize::from(*row));
                        }
                        self.note_version(*stripe, *column, usize::from(*row), block);
                    }
                    self.touch(lane, *stripe, Some(*slot));
                }
                Entry::Remap {
                    stripe,
                    slot,
                    checksums,
                } => {
                    self.move_stripe(lane, *stripe, Some(*slot), seq);
                    self.set_slot_sums(&unit.pinned, *stripe, *slot, seq, Some(checksums));
                }
                Entry::Alloc { stripe, slot } => {
                    self.move_stripe(lane, *stripe, Some(*slot), seq);
                    self.set_slot_sums(&unit.pinned, *stripe, *slot, seq, None);
                }
                Entry::Unmap { first, count } => {
                    for i in 0..*count {
                        let stripe = Stripe(first.0 + i * u64::from(self.geometry.lanes));
                        self.move_stripe(lane, stripe, None, seq);
                    }
                }
            }
        }
    }

    /// Notes that a stripe changed under the config in force. (Not the one the batch was formed
    /// under: a member that failed to take the batch has left with the newer one.)
    pub fn touch(&self, lane: &Lane, stripe: Stripe, slot: Option<Slot>) {
        let mut map = lane.map.borrow_mut();
        let epoch = self.config.borrow().epoch;
        map.set(
            stripe,
            slot.map_or(MapEntry::default(), |s| MapEntry::new(s, epoch)),
        );
        map.touched[0].insert(stripe);
    }

    /// Gives a stripe a new place, or none; its old one is freed once batch `seq` is durable.
    pub fn move_stripe(&self, lane: &Lane, stripe: Stripe, to: Option<Slot>, seq: u64) {
        self.note_stripe_found(stripe);
        if let Some(view) = &self.view {
            view.forget_stripe(stripe);
        }
        let from = lane.map.borrow().get(stripe).slot();
        lane.overlay.borrow_mut().drop_stripe(stripe);
        let mut slots = lane.slots.borrow_mut();
        if let Some(from) = from.filter(|f| Some(*f) != to) {
            slots.release(self.geometry.in_lane(from.0), seq, to.is_none());
        }
        if let Some(to) = to.filter(|t| Some(*t) != from) {
            slots.own(self.geometry.in_lane(to.0), self.geometry.in_lane(stripe.0));
        }
        drop(slots);
        self.touch(lane, stripe, to);
    }

    /// Sums of a slot just taken: those given, or all blank.
    pub fn set_slot_sums(
        &self,
        pinned: &[SlotSums],
        stripe: Stripe,
        slot: Slot,
        seq: u64,
        checksums: Option<&[u32]>,
    ) {
        let shape = &self.geometry.shape;
        let rows = shape.rows();
        for sums in pinned {
            let Some(role) = self.config.borrow().entry(sums.index()).role else {
                continue;
            };
            let column = shape.column_of(slot, usize::from(role));
            self.take_sums(sums, slot, stripe, seq);
            for (row, crc) in checksums
                .iter()
                .flat_map(|c| c[column * rows..][..rows].iter().enumerate())
            {
                self.set_sum(sums, slot, row, Sum::new(*crc, seq));
            }
        }
    }

    /// Makes every answered write durable.
    pub async fn flush_journals(&self) {
        let marks: Vec<u64> = self
            .lanes
            .iter()
            .map(|l| l.journal.borrow().completed)
            .collect();
        self.flush_members().await;
        if self.is_suspended() {
            return;
        }
        for (lane, mark) in self.lanes.iter().zip(marks) {
            let durable = {
                let mut journal = lane.journal.borrow_mut();
                journal.durable = journal.durable.max(mark);
                journal.durable
            };
            self.settle_slots(lane, durable);
        }
    }

    /// Frees slots whose records are durable; emptied ones are given back to the devices first.
    fn settle_slots(&self, lane: &Lane, durable: u64) {
        let discard = lane.slots.borrow_mut().settle(durable);
        self.ex.fire(&lane.slots_moved);
        if discard.is_empty() {
            return;
        }
        let (array, lane) = (self.me(), lane.id);
        self.ex.spawn(async move {
            for local in discard {
                array
                    .discard_slot(array.geometry.slot_in_lane(lane, local))
                    .await;
                array.lanes[lane].slots.borrow_mut().untake(local);
                array.ex.fire(&array.lanes[lane].slots_moved);
            }
        });
    }

    async fn discard_slot(&self, slot: Slot) {
        let (offset, len) = (
            self.geometry.block_offset(slot, 0),
            self.geometry.shape.chunk_bytes,
        );
        let one = |index: Index| async move {
            if let Some(device) = self.live_device(index) {
                // Best effort: the content no longer matters either way.
                let _ = self.port.discard(device, offset, len.into()).done().await;
            }
        };
        join_all(self.all_writers().into_iter().map(one)).await;
    }
}

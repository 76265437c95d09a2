//! Which slots of a lane are in use, by which stripe, and when a freed one may be used again:
//! only after the record that freed it is durable, and no reader or writer holds it.

use crate::mutants::{Mutant, active};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// Owners in one page of memory.
const SLOTS_PER_PAGE: usize = 1024;

/// Numbers here are slots and stripes within their lane.
pub struct Slots {
    count: u64,
    /// Stripe + 1 by slot, 0: none. Pages of slots none of which was ever owned take no memory.
    owners: Vec<Option<Box<[u32; SLOTS_PER_PAGE]>>>,
    /// One bit per slot: neither owned nor waiting.
    free: Vec<u64>,
    free_count: u64,
    /// Where the search for a free slot goes on.
    next: u64,
    holds: HashMap<u64, u32, FxBuildHasher>,
    waiting: Vec<Freed>,
    used_count: u64,
    /// Counts what may bring a slot nearer to being free.
    changes: u64,
}

/// A slot that a remap or unmap gave up.
#[derive(Clone, Copy)]
struct Freed {
    slot: u64,
    /// The batch that freed it.
    seq: u64,
    /// Its space goes back to the device.
    discard: bool,
}

impl Slots {
    /// All slots free.
    pub fn new(count: u64) -> Slots {
        let mut free = alloc::vec![u64::MAX; count.div_ceil(64) as usize];
        if !count.is_multiple_of(64) {
            *free.last_mut().expect("there is a word") = (1 << (count % 64)) - 1;
        }
        Slots {
            count,
            owners: core::iter::repeat_with(|| None)
                .take((count as usize).div_ceil(SLOTS_PER_PAGE))
                .collect(),
            free,
            free_count: count,
            next: 0,
            holds: HashMap::default(),
            waiting: Vec::new(),
            used_count: 0,
            changes: 0,
        }
    }

    /// Slots owned as `claims` say: pairs of slot and stripe. The error is a slot that two claim.
    pub fn claimed(
        count: u64,
        claims: impl Iterator<Item = (u64, u64)>,
    ) -> (Slots, Result<(), u64>) {
        let mut slots = Slots::new(count);
        let mut result = Ok(());
        for (slot, stripe) in claims {
            if slots.take_this(slot) {
                slots.own(slot, stripe);
            } else {
                result = Err(slot);
            }
        }
        (slots, result)
    }

    /// Slots that may be taken now.
    pub fn free_count(&self) -> u64 {
        self.free_count
    }

    /// Slots owned by stripes.
    pub fn used_count(&self) -> u64 {
        self.used_count
    }

    /// The stripe that lives in `slot`.
    pub fn owner(&self, slot: u64) -> Option<u64> {
        let page = self.owners[slot as usize / SLOTS_PER_PAGE].as_ref()?;
        let owner = page[slot as usize % SLOTS_PER_PAGE];
        owner.checked_sub(1).map(u64::from)
    }

    fn set_owner(&mut self, slot: u64, owner: u32) {
        let page = &mut self.owners[slot as usize / SLOTS_PER_PAGE];
        let page = page.get_or_insert_with(|| Box::new([0; SLOTS_PER_PAGE]));
        page[slot as usize % SLOTS_PER_PAGE] = owner;
    }

    /// The first slot from `slot` on that may be owned, as far as that shows at a glance.
    pub fn skip_unused(&self, slot: u64) -> u64 {
        let at = slot as usize / SLOTS_PER_PAGE;
        let used = (at..self.owners.len()).find(|page| self.owners[*page].is_some());
        let first = used.map_or(self.count, |page| (page * SLOTS_PER_PAGE) as u64);
        first.max(slot)
    }

    /// Takes a free slot, the next one after the last taken: neighbours in time are neighbours
    /// in place.
    pub fn take(&mut self) -> Option<u64> {
        if self.free_count == 0 {
            return None;
        }
        let words = self.free.len();
        let start = (self.next / 64) as usize;
        for i in 0..=words {
            let at = (start + i) % words;
            let mut word = self.free[at];
            if i == 0 {
                word &= u64::MAX << (self.next % 64);
            }
            if word != 0 {
                let slot = at as u64 * 64 + u64::from(word.trailing_zeros());
                self.unfree(slot);
                self.next = slot + 1;
                return Some(slot);
            }
        }
        unreachable!("the count says that a slot is free")
    }

    /// Takes this very slot; `false` if it is not free.
    pub fn take_this(&mut self, slot: u64) -> bool {
        let free = self.free[(slot / 64) as usize] >> (slot % 64) & 1 == 1;
        if free {
            self.unfree(slot);
        }
        free
    }

    fn unfree(&mut self, slot: u64) {
        self.free[(slot / 64) as usize] &= !(1 << (slot % 64));
        self.free_count -= 1;
    }

    fn make_free(&mut self, slot: u64) {
        self.changes += 1;
        self.free[(slot / 64) as usize] |= 1 << (slot % 64);
        self.free_count += 1;
    }

    /// A taken slot becomes `stripe`'s.
    pub fn own(&mut self, slot: u64, stripe: u64) {
        debug_assert_eq!(self.owner(slot), None);
        self.set_owner(slot, stripe as u32 + 1);
        self.used_count += 1;
    }

    /// A slot taken but never used is given back.
    pub fn untake(&mut self, slot: u64) {
        self.make_free(slot);
    }

    /// The owner left in batch `seq`.
    pub fn release(&mut self, slot: u64, seq: u64, discard: bool) {
        debug_assert_ne!(self.owner(slot), None);
        self.set_owner(slot, 0);
        self.used_count -= 1;
        self.waiting.push(Freed { slot, seq, discard });
        self.changes += 1;
    }

    /// Whether there are slots that are neither free nor owned: taken by a write under way,
    /// waiting for durability or for a holder, or being discarded. All of them move on.
    pub fn any_under_way(&self) -> bool {
        self.free_count + self.used_count < self.count
    }

    /// Grows whenever a slot may have come nearer to being free.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Batches below `durable` are durable: frees what waited for that and is not held. Gives
    /// back the slots whose space is to be discarded; those become free only by
    /// [`Slots::untake`], once that is done.
    pub fn settle(&mut self, durable: u64) -> Vec<u64> {
        let mut discard = Vec::new();
        for freed in core::mem::take(&mut self.waiting) {
            let unsettled = freed.seq >= durable && !active(Mutant::SlotReusedEarly);
            let held = self.holds.contains_key(&freed.slot) && !active(Mutant::SlotReusedHeld);
            if unsettled || held {
                self.waiting.push(freed);
            } else if freed.discard {
                discard.push(freed.slot);
            } else {
                self.make_free(freed.slot);
            }
        }
        discard
    }

    /// Keeps `slot` from being used for anything else.
    pub fn hold(&mut self, slot: u64) {
        *self.holds.entry(slot).or_insert(0) += 1;
    }

    /// Undoes one [`Slots::hold`].
    pub fn unhold(&mut self, slot: u64) {
        let count = self.holds.get_mut(&slot).expect("the slot is held");
        *count -= 1;
        if *count == 0 {
            self.holds.remove(&slot);
            self.changes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_waits_for_durability_and_for_its_holders() {
        let mut s = Slots::new(70);
        let slot = s.take().unwrap();
        s.own(slot, 5);
        assert_eq!((s.owner(slot), s.free_count()), (Some(5), 69));
        s.hold(slot);
        s.release(slot, 10, false);
        assert!(s.settle(10).is_empty());
        assert_eq!(s.free_count(), 69, "batch 10 is not durable");
        s.settle(11);
        assert_eq!(s.free_count(), 69, "held");
        s.unhold(slot);
        s.settle(11);
        assert_eq!(s.free_count(), 70);
    }

    #[test]
    fn slots_that_were_never_owned_are_skipped() {
        let count = 5 * SLOTS_PER_PAGE as u64 + 7;
        let mut s = Slots::new(count);
        assert_eq!((s.skip_unused(3), s.skip_unused(count)), (count, count));
        let far = 3 * SLOTS_PER_PAGE as u64 + 5;
        assert!(s.take_this(far));
        s.own(far, 1);
        assert_eq!(s.skip_unused(3), 3 * SLOTS_PER_PAGE as u64);
        assert_eq!((s.skip_unused(far), s.skip_unused(far + 1)), (far, far + 1));
        assert_eq!(s.skip_unused(4 * SLOTS_PER_PAGE as u64), count);
    }

    #[test]
    fn every_slot_can_be_taken_once() {
        let mut s = Slots::new(130);
        let mut taken: Vec<u64> = core::iter::from_fn(|| s.take()).collect();
        taken.sort();
        assert_eq!(taken, (0..130).collect::<Vec<_>>());
        s.untake(64);
        assert!(!s.take_this(63) && s.take_this(64) && s.take().is_none());
    }
}

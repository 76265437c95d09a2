//! Which member a read goes to: one of the copies, by the array's policy; none that is better left
//! alone as long as others have the same data.

use crate::api::{Nanos, ReadOptions};
use crate::array::Array;
use crate::members::Member;
use crate::status::ReadBalance;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use uraid_core::checksum::mix;
use uraid_core::config::Index;
use uraid_core::geometry::Slot;
use uraid_parity::ColumnSet;

/// How much longer, in parts of the shortest time, a block's usual copy may be expected to take
/// before another is read: whose checksums are in memory is worth something.
const LOYALTY: Nanos = 2;

/// How members are chosen for reads.
pub struct Balance {
    /// Which copy is read.
    pub policy: Cell<ReadBalance>,
    /// Choices made in turns.
    turn: Cell<u64>,
    /// Members that are written mostly, and those that sit out.
    avoided: RefCell<BTreeSet<Index>>,
    /// Paths of devices that are written mostly, as the host named them.
    write_mostly: Vec<String>,
    /// Weights of devices that have one, by the same.
    weights: Vec<(String, u16)>,
}

impl Balance {
    /// As the host wants it.
    pub fn new(options: &ReadOptions) -> Balance {
        Balance {
            policy: Cell::new(options.balance),
            turn: Cell::new(0),
            avoided: RefCell::default(),
            write_mostly: options.write_mostly.clone(),
            weights: options.weights.clone(),
        }
    }

    /// Whether the device at this path is to be read only when others cannot be, and its weight.
    pub fn of_path(&self, path: &str) -> (bool, u16) {
        let weight = self.weights.iter().find(|(p, _)| p == path);
        let mostly = self.write_mostly.iter().any(|p| p == path);
        (mostly, weight.map_or(1, |(_, weight)| *weight))
    }

    fn next_turn(&self, turns: u64) -> u64 {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn % turns
    }
}

impl Array {
    /// How members are chosen now: what an array that is opened in place of this one begins with.
    pub fn read_options(&self) -> ReadOptions {
        let members = self.members.borrow();
        let path = |m: &Member| m.device.path.clone();
        let mostly = members.values().filter(|m| m.write_mostly);
        ReadOptions {
            balance: self.balance.policy.get(),
            hedge_percent: self.hedges.percent(),
            write_mostly: mostly.map(path).collect(),
            weights: members.values().map(|m| (path(m), m.read_weight)).collect(),
        }
    }

    /// From which copy of a column, that is which column, and which member it is best read, none
    /// of `without`. None if there is no copy that should be read.
    pub fn copy_to_read(
        &self,
        slot: Slot,
        column: usize,
        without: ColumnSet,
    ) -> Option<(usize, Index)> {
        let without = without.union(self.avoided(slot));
        let mut copies = self.copies_of(column).filter(|c| !without.contains(*c));
        let mut readable =
            core::iter::from_fn(|| copies.find_map(|copy| Some((copy, self.reader(slot, copy)?))));
        let first = readable.next()?;
        let Some(second) = readable.next() else {
            return Some(first);
        };
        let all: Vec<_> = [first, second].into_iter().chain(readable).collect();
        Some(all[self.choose(slot, &all)])
    }

    /// The columns that hold what `column` holds.
    pub fn copies_of(&self, column: usize) -> impl Iterator<Item = usize> {
        let shape = &self.geometry.shape;
        let copies = if column < shape.data { shape.copies } else { 1 };
        (column..shape.columns).step_by(shape.data).take(copies)
    }

    /// Which of several copies is read.
    fn choose(&self, slot: Slot, copies: &[(usize, Index)]) -> usize {
        let usual = (mix(slot.0) % copies.len() as u64) as usize;
        match self.balance.policy.get() {
            ReadBalance::AddressHash => usual,
            ReadBalance::RoundRobin => self.balance.next_turn(copies.len() as u64) as usize,
            ReadBalance::Weighted => self.choose_weighted(copies),
            ReadBalance::LeastLatency => self.choose_quickest(usual, copies),
        }
    }

    fn choose_weighted(&self, copies: &[(usize, Index)]) -> usize {
        let members = self.members.borrow();
        let weight = |(_, i): &(usize, Index)| u64::from(members[i].read_weight);
        let total: u64 = copies.iter().map(weight).sum();
        let mut turn = self.balance.next_turn(total.max(1));
        let turns = |copy: &(usize, Index)| match turn.checked_sub(weight(copy)) {
            Some(left) => {
                turn = left;
                false
            }
            None => true,
        };
        copies.iter().position(turns).unwrap_or(0)
    }

    fn choose_quickest(&self, usual: usize, copies: &[(usize, Index)]) -> usize {
        let members = self.members.borrow();
        let expected = |at: &usize| self.port.expected(members[&copies[*at].1].device.id);
        let quickest = (0..copies.len()).min_by_key(expected).unwrap_or(usual);
        match expected(&usual) <= expected(&quickest).saturating_mul(LOYALTY) {
            true => usual,
            false => quickest,
        }
    }

    /// Columns of a slot that are not read as long as the others have all data: those of members
    /// that sit out, and of members that are written mostly.
    pub fn avoided(&self, slot: Slot) -> ColumnSet {
        let avoided = self.balance.avoided.borrow();
        if avoided.is_empty() {
            return ColumnSet::EMPTY; // nearly always
        }
        let readable = self.readable(slot);
        let of = |wanted: &dyn Fn(Index) -> bool| -> ColumnSet {
            let wanted = |c: &usize| self.reader(slot, *c).is_some_and(wanted);
            readable.iter().filter(wanted).collect()
        };
        let sits_out = |i: Index| self.members.borrow().get(&i).is_some_and(|m| m.sits_out());
        // If not all of them can be left alone, rather read the one that is quick.
        let choices = [of(&|i| avoided.contains(&i)), of(&sits_out)];
        let spared = |columns: &ColumnSet| self.code.can_decode(readable.minus(*columns));
        choices.into_iter().find(spared).unwrap_or(ColumnSet::EMPTY)
    }

    /// Members that are to be read, or not, have changed.
    pub fn refresh_avoided(&self) {
        let members = self.members.borrow();
        let avoided = |m: &&Member| m.alive && (m.write_mostly || m.sits_out());
        let new: BTreeSet<Index> = members.values().filter(avoided).map(|m| m.index).collect();
        let before = self.balance.avoided.replace(new.clone());
        if before != new
            && let Some(view) = &self.view
        {
            view.forget_all();
        }
    }

    /// Whether there are members that reads go around.
    pub fn avoids_any(&self) -> bool {
        !self.balance.avoided.borrow().is_empty()
    }
}

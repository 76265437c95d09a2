//! Reads that are late are made another way as well: of another copy, or reconstructed from the
//! other members. Whichever is first to give what matches its checksum is the answer (J. Dean,
//! L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013).
//!
//! A read is late when it takes longer than is usual for the tail of the members' reads. One timer
//! watches all reads: it is set when there is a read and it is not set, and looks for late ones
//! when it fires. So reads that are in time cost nothing, and time passes between two looks.

use crate::api::{Completion, Nanos};
use crate::array::Array;
use crate::executor::{Promise, Signal};
use crate::latency::Length;
use crate::port::Pending;
use crate::read::{Lost, Wanted};
use crate::status::ReadStatus;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::poll_fn;
use core::task::Poll;
use uraid_buffer::{Buf, BufMut};
use uraid_core::config::Index;
use uraid_parity::ColumnSet;

/// Most reads that are saved up for late ones, beyond those that one takes.
const CREDIT_READS_MAX: u64 = 64;

/// Parts of a read in which they are saved up.
const PARTS: u64 = 100;

/// How many extra reads may be made: a share of all reads.
#[derive(Clone, Debug)]
pub struct Budget {
    /// In percent.
    pub percent: u8,
    /// What is saved up, in hundredths of a read.
    credit: u64,
}

impl Budget {
    /// Nothing is saved up yet.
    pub fn new(percent: u8) -> Budget {
        Budget { percent, credit: 0 }
    }

    /// A read was begun.
    pub fn earn(&mut self) {
        let most = CREDIT_READS_MAX * PARTS;
        // What a single one costs may be more than that.
        if self.credit < most || self.percent > 0 && self.credit < u64::from(u8::MAX) * PARTS {
            self.credit += u64::from(self.percent);
        }
    }

    /// Takes so many extra reads from it, if that many are saved up.
    pub fn spend(&mut self, reads: usize) -> bool {
        let price = reads as u64 * PARTS;
        let enough = self.percent > 0 && self.credit >= price;
        if enough {
            self.credit -= price;
        }
        enough
    }
}

/// What is known of late reads.
pub struct Hedges {
    budget: core::cell::RefCell<Budget>,
    /// When reads are late, by length; none until that is known.
    late_after: Cell<[Option<Nanos>; Length::ALL.len()]>,
    /// When the timer fires.
    set_for: Cell<Option<Nanos>>,
    set: Signal,
    under_way: Cell<u64>,
    ended: Signal,
    made: Cell<u64>,
    won: Cell<u64>,
    denied: Cell<u64>,
}

impl Hedges {
    /// None yet.
    pub fn new(percent: u8) -> Hedges {
        Hedges {
            budget: Budget::new(percent).into(),
            late_after: Cell::default(),
            set_for: Cell::new(None),
            set: Signal::default(),
            under_way: Cell::new(0),
            ended: Signal::default(),
            made: Cell::new(0),
            won: Cell::new(0),
            denied: Cell::new(0),
        }
    }

    /// The share of extra reads from now on, in percent.
    pub fn set_percent(&self, percent: u8) {
        self.budget.borrow_mut().percent = percent;
    }

    /// The share of extra reads, in percent.
    pub fn percent(&self) -> u8 {
        self.budget.borrow().percent
    }

    /// When reads of such a length are late; none if that is not known, or nobody asks.
    pub fn late_after(&self, length: Length) -> Option<Nanos> {
        self.late_after.get()[length as usize]
    }

    /// From now on reads are late after so long.
    pub fn set_late_after(&self, late_after: [Option<Nanos>; Length::ALL.len()]) {
        self.late_after.set(late_after);
    }
}

/// How a read ended that another way was tried for as well.
enum First {
    Member(Completion),
    Other(Vec<Buf>),
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Array {
    /// Waits for a read of a member; if it is late, also for the same blocks by another way, which
    /// are then the error. `copy`: the column that is read.
    pub async fn finish_read_or_hedge(
        &self,
        index: Index,
        pending: Option<Pending>,
        wanted: Wanted,
        copy: usize,
    ) -> Result<Result<BufMut, ()>, Vec<Buf>> {
        self.hedges.budget.borrow_mut().earn();
        let Some(pending) = pending else {
            return Ok(Err(()));
        };
        self.watch_reads(pending.length());
        let Some(completion) = pending.done_or_late(&self.port).await else {
            return self.hedge(index, pending, wanted, copy).await;
        };
        Ok(self.read_over(index, completion))
    }

    async fn hedge(
        &self,
        index: Index,
        pending: Pending,
        wanted: Wanted,
        copy: usize,
    ) -> Result<Result<BufMut, ()>, Vec<Buf>> {
        let Some(other) = self.begin_hedge(wanted, copy) else {
            return Ok(self.finish_read(index, Some(pending)).await);
        };
        match first_of(&pending, &other).await {
            First::Member(completion) => Ok(self.read_over(index, completion)),
            First::Other(blocks) => {
                count(&self.hedges.won);
                // It is waited for all the same: it may be an error that counts.
                let array = self.me();
                let drain = async move { drop(array.finish_read(index, Some(pending)).await) };
                self.ex.spawn(drain);
                Err(blocks)
            }
        }
    }

    /// Begins to read blocks without a certain column, if there is a way and it may be afforded.
    fn begin_hedge(&self, wanted: Wanted, copy: usize) -> Option<Promise<Result<Vec<Buf>, Lost>>> {
        let slot = self
            .lane(wanted.stripe)
            .map
            .borrow()
            .get(wanted.stripe)
            .slot()?;
        let without = ColumnSet::single(copy);
        let reads = match self.copy_to_read(slot, wanted.column, without) {
            Some(_) => 1,
            None => self.geometry.shape.data,
        };
        // Who sits out is no quicker way.
        let others = self.readable(slot).minus(without);
        if !self.code.can_decode(others.minus(self.avoided(slot))) {
            return None;
        }
        if !self.hedges.budget.borrow_mut().spend(reads) {
            count(&self.hedges.denied);
            return None;
        }
        count(&self.hedges.made);
        count(&self.hedges.under_way);
        let promise = self.ex.promise();
        let (array, fulfilled) = (self.me(), promise.clone());
        // A task of its own: whoever waits for it may have gone before it ends.
        self.ex.spawn(async move {
            fulfilled.fulfil(array.read_around(wanted, without).await);
            let under_way = &array.hedges.under_way;
            under_way.set(under_way.get() - 1);
            array.ex.fire(&array.hedges.ended);
        });
        Some(promise)
    }

    /// Waits until no late read is being made another way.
    pub async fn until_hedges_end(&self) {
        let none = || self.hedges.under_way.get() == 0;
        self.ex.until(&self.hedges.ended, none).await;
    }

    /// Sees to it that a read that was begun now is noticed if it is late.
    fn watch_reads(&self, length: Length) {
        let hedges = &self.hedges;
        if hedges.set_for.get().is_none()
            && let Some(after) = hedges.late_after(length)
        {
            hedges.set_for.set(Some(self.after(after)));
            self.ex.fire(&hedges.set);
        }
    }

    /// Looks for late reads when it is time.
    pub async fn watch_for_late_reads(&self) {
        let hedges = &self.hedges;
        loop {
            let is_set = || hedges.set_for.get().is_some();
            self.ex.until(&hedges.set, is_set).await;
            let at = hedges.set_for.get().expect("it is set");
            self.ex.sleep_until(at).await;
            let next = self.port.mark_late(|length| hedges.late_after(length));
            hedges.set_for.set(next);
        }
    }

    /// What was made of late reads so far, and how members are chosen.
    pub fn read_status(&self) -> ReadStatus {
        ReadStatus {
            balance: self.balance.policy.get(),
            hedge_percent: self.hedges.percent(),
            hedges: self.hedges.made.get(),
            hedges_won: self.hedges.won.get(),
            hedges_denied: self.hedges.denied.get(),
        }
    }
}

/// Waits for a read or for its content by another way. Another way that fails does not count.
async fn first_of(pending: &Pending, other: &Promise<Result<Vec<Buf>, Lost>>) -> First {
    let mut failed = false;
    poll_fn(|_| {
        if let Poll::Ready(completion) = pending.poll() {
            return Poll::Ready(First::Member(completion));
        }
        if failed {
            return Poll::Pending;
        }
        match other.poll() {
            Poll::Ready(Ok(blocks)) => Poll::Ready(First::Other(blocks)),
            Poll::Ready(Err(_)) => {
                failed = true;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_reads_are_a_share_of_all() {
        let mut budget = Budget::new(5);
        let extra = |budget: &mut Budget, reads: usize| {
            let mut extra = 0;
            for _ in 0..reads {
                budget.earn();
                extra += usize::from(budget.spend(4)) * 4;
            }
            extra
        };
        let made = extra(&mut budget, 10_000);
        assert!((480..=500).contains(&made), "{made}");
        // What is saved up is bounded.
        (0..1_000_000).for_each(|_| budget.earn());
        let burst = (0..1_000_000).take_while(|_| budget.spend(1)).count();
        assert!((64..=256).contains(&burst), "{burst}");
        let mut none = Budget::new(0);
        assert_eq!(extra(&mut none, 10_000), 0);
    }
}

//! Memory for the payload of clients' requests, shared so that busy clients get equal parts, and
//! those that never read their answers, or never send what they announced, cannot take it all.

use super::memory::Memory;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use uraid_io::driver::{StreamId, Waker};

/// What every client may have under way, however busy the others are, unless memory is short.
pub const GUARANTEED_BYTES: u64 = 256 << 10;

/// Where one client of an array sits, whichever thread serves it, with a request that does not fit.
#[derive(Default)]
pub struct Chair {
    taken: AtomicBool,
    /// Somebody has found it taken.
    wanted: AtomicBool,
    /// All threads that share it.
    threads: Mutex<Vec<Waker>>,
}

impl Chair {
    /// Another thread shares it, the one that `waker` wakes.
    pub fn add(&self, waker: Waker) {
        self.threads.lock().expect("no holder panics").push(waker);
    }

    /// Takes it, or has all threads know that it is wanted; the caller is woken when it is free.
    fn try_take(&self) -> bool {
        if !self.taken.swap(true, Ordering::SeqCst) {
            return true;
        }
        let told = self.wanted.swap(true, Ordering::SeqCst);
        // Whoever leaves it from here on sees that it is wanted.
        let taken = !self.taken.swap(true, Ordering::SeqCst);
        if !taken && !told {
            self.wake_all();
        }
        taken
    }

    fn leave(&self) {
        self.taken.store(false, Ordering::SeqCst);
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        let threads = self.threads.lock().expect("no holder panics");
        threads.iter().for_each(Waker::wake);
    }
}

/// The payload that the clients of one thread have under way: from the moment a read is begun, or
/// the payload of a write begins to come, until the answer is sent.
pub struct Budget {
    /// For all of them together, in bytes. On top come one request of any size for all clients of
    /// the array, and what is guaranteed to each.
    in_flight_max: u64,
    /// What every client may have, however busy the others are.
    guaranteed: u64,
    /// Bytes by client; those that have none are not here.
    accounts: BTreeMap<StreamId, u64>,
    /// The sum of the accounts, but for that of `guest`.
    total: u64,
    /// A client with a request that does not fit, let in on top: one at a time, so that large
    /// requests get their turn however busy the small ones are. It sits in the chair.
    guest: Option<StreamId>,
    chair: Arc<Chair>,
}

impl Budget {
    /// Nobody has anything yet.
    pub fn new(memory: &Memory, chair: Arc<Chair>) -> Budget {
        Budget {
            in_flight_max: memory.in_flight,
            guaranteed: memory.guaranteed,
            accounts: BTreeMap::new(),
            total: 0,
            guest: None,
            chair,
        }
    }

    /// What `client` has under way.
    pub fn of(&self, client: StreamId) -> u64 {
        self.accounts.get(&client).copied().unwrap_or(0)
    }

    /// A client whose large request keeps others waiting, perhaps those of other threads.
    pub fn wanted_guest(&self) -> Option<StreamId> {
        let wanted = |_: &StreamId| self.chair.wanted.load(Ordering::Relaxed);
        self.guest.filter(wanted)
    }

    /// Clients that have something under way.
    pub fn holders(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.accounts.keys().copied()
    }

    /// Whether further requests of `client` should be looked at: it may have as much under way as
    /// is still free (the dynamic threshold of Choudhury and Hahne, 1998).
    pub fn has_room(&self, client: StreamId) -> bool {
        let own = self.of(client);
        own < self.guaranteed || self.guest != Some(client) && own < self.free()
    }

    /// Takes `bytes` for a request of `client`, if that may be begun.
    pub fn try_take(&mut self, client: StreamId, bytes: u64) -> bool {
        let own = self.of(client);
        let guest = self.guest == Some(client);
        // Half of what is free for one request: some is left for smaller ones in any case.
        let moderate = own + bytes <= self.free() && 2 * bytes <= self.free();
        let fits = own + bytes <= self.guaranteed || !guest && moderate;
        if !fits && own == 0 && self.guest.is_none() && self.chair.try_take() {
            self.guest = Some(client);
        } else if !fits {
            return false;
        }
        self.take(client, bytes);
        true
    }

    /// Takes `bytes` for a request of `client` whose payload is there already.
    pub fn take(&mut self, client: StreamId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        *self.accounts.entry(client).or_default() += bytes;
        if self.guest != Some(client) {
            self.total += bytes;
        }
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, client: StreamId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let account = self.accounts.get_mut(&client);
        let account = account.expect("only what was taken is given back");
        *account -= bytes;
        if self.guest != Some(client) {
            self.total -= bytes;
        }
        if *account == 0 {
            self.accounts.remove(&client);
            if self.guest.take_if(|guest| *guest == client).is_some() {
                self.chair.leave();
            }
        }
    }

    fn free(&self) -> u64 {
        self.in_flight_max.saturating_sub(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const IN_FLIGHT_BYTES_MAX: u64 = 64 * MIB;

    fn budget(chair: &Arc<Chair>) -> Budget {
        Budget::new(&Memory::default(), chair.clone())
    }

    fn streams(count: u64) -> impl Iterator<Item = StreamId> {
        (0..count).map(StreamId)
    }

    /// Each of `clients` begins requests of `bytes` by turns, as long as it may.
    fn fill(budget: &mut Budget, clients: u64, bytes: u64) {
        while streams(clients)
            .filter(|c| budget.try_take(*c, bytes))
            .count()
            > 0
        {}
    }

    fn held(budget: &Budget) -> u64 {
        budget.accounts.values().sum()
    }

    #[test]
    fn busy_clients_share_equally_and_do_not_exceed_it() {
        for count in [1, 2, 4, 16] {
            let mut budget = budget(&Arc::default());
            fill(&mut budget, count, 64 << 10);
            let shares: Vec<u64> = streams(count).map(|c| budget.of(c)).collect();
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 64 << 10, "{shares:?}");
            assert!(*least >= IN_FLIGHT_BYTES_MAX / (count + 2), "{shares:?}");
            assert!(held(&budget) <= IN_FLIGHT_BYTES_MAX, "{shares:?}");
        }
    }

    #[test]
    fn clients_that_give_nothing_back_are_bounded_and_leave_room_for_others() {
        for bytes in [4 << 10, 256 << 10, MIB, 32 * MIB] {
            let mut budget = budget(&Arc::default());
            fill(&mut budget, 1000, bytes);
            let most = IN_FLIGHT_BYTES_MAX + 32 * MIB + 1000 * GUARANTEED_BYTES;
            assert!(held(&budget) <= most, "{bytes}: {}", held(&budget));
            if bytes > MIB {
                let moderate = StreamId(1001);
                assert!(budget.try_take(moderate, 8 * MIB), "{bytes}");
                budget.give_back(moderate, 8 * MIB);
            }
            let newcomer = StreamId(1000);
            assert!(budget.has_room(newcomer));
            assert!(budget.try_take(newcomer, GUARANTEED_BYTES), "{bytes}");
        }
    }

    #[test]
    fn threads_let_in_one_such_request_together_and_know_when_others_wait_for_it() {
        let chair = Arc::default();
        let (mut here, mut there) = (budget(&chair), budget(&chair));
        let [small, large] = [0, 1].map(StreamId);
        here.take(small, 60 * MIB);
        there.take(small, 60 * MIB);
        assert!(here.try_take(large, 32 * MIB));
        assert_eq!(here.wanted_guest(), None);
        assert!(!there.try_take(large, 32 * MIB));
        assert_eq!(here.wanted_guest(), Some(large));
        here.give_back(large, 32 * MIB);
        assert!(there.try_take(large, 32 * MIB));
        assert_eq!(there.wanted_guest(), None);
    }

    #[test]
    fn one_request_that_does_not_fit_is_let_in_at_a_time() {
        let mut budget = budget(&Arc::default());
        let [small, large, other] = [0, 1, 2].map(StreamId);
        budget.take(small, 40 * MIB);
        assert!(budget.try_take(large, 32 * MIB), "on top");
        assert!(!budget.try_take(large, 32 * MIB), "one is enough");
        assert!(!budget.try_take(other, 32 * MIB), "somebody is there");
        budget.give_back(large, 32 * MIB);
        assert!(budget.try_take(other, 32 * MIB), "its turn");
        budget.give_back(other, 32 * MIB);
        budget.give_back(small, budget.of(small));
        assert_eq!((held(&budget), budget.total), (0, 0));
        assert!(budget.try_take(large, 32 * MIB) && budget.guest.is_none());
    }
}

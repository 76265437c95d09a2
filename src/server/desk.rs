//! From the front thread to the threads that serve an array's clients.
//!
//! A client goes to one of them; the others are told that it came, so that it waits for those of
//! their clients that had hung up by then, too (see [`super::fence`]). Each thread learns of
//! newcomers in the order in which the front thread sent them: as they wait only for what came
//! before them, none waits for ever.

use super::front::Handover;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use uraid_io::driver::Waker;

/// What a thread learns of a newcomer.
pub enum Arrival {
    /// It is to be served here, once the passage is free.
    Here(Box<Handover>, Passage),
    /// It is served by another thread, which waits for our consent.
    Elsewhere(Consent),
}

/// What the threads of an array know of one newcomer.
struct Shared {
    /// Threads that have not yet given their consent.
    missing: AtomicUsize,
    /// Wakes the thread that it waits at.
    waker: Waker,
}

/// The newcomer's side: whether the other threads let it begin.
pub struct Passage(Arc<Shared>);

/// Another thread's side; given by dropping it, by a thread that ends as well.
pub struct Consent(Arc<Shared>);

impl Passage {
    /// A passage past `others` threads.
    fn new(others: usize, waker: Waker) -> (Passage, impl Iterator<Item = Consent>) {
        let missing = AtomicUsize::new(others);
        let shared = Arc::new(Shared { missing, waker });
        let consents = std::iter::repeat_n(shared.clone(), others).map(Consent);
        (Passage(shared), consents)
    }

    /// Whether all other threads have given their consent.
    pub fn is_free(&self) -> bool {
        self.0.missing.load(Ordering::Acquire) == 0
    }
}

impl Drop for Consent {
    fn drop(&mut self) {
        self.0.missing.fetch_sub(1, Ordering::AcqRel);
        self.0.waker.wake();
    }
}

/// The place where one thread learns of newcomers.
#[derive(Clone)]
pub struct Seat {
    arrivals: SyncSender<Arrival>,
    waker: Waker,
}

impl Seat {
    /// A seat for the thread that `waker` wakes, and what it is to look at. It holds as many
    /// newcomers as there may be clients.
    pub fn new(connections_max: usize, waker: Waker) -> (Seat, Receiver<Arrival>) {
        let (arrivals, receiver) = sync_channel(connections_max);
        (Seat { arrivals, waker }, receiver)
    }

    /// False when the thread has ended, or does not turn and there are too many newcomers.
    fn tell(&self, arrival: Arrival) -> bool {
        let told = self.arrivals.try_send(arrival).is_ok();
        self.waker.wake();
        told
    }
}

/// Where the front thread takes an array's clients: to its threads in turns.
pub struct Desk {
    seats: Vec<Seat>,
    next: usize,
}

impl Desk {
    /// A desk before these threads, one at least.
    pub fn new(seats: Vec<Seat>) -> Desk {
        assert!(!seats.is_empty(), "somebody serves clients");
        Desk { seats, next: 0 }
    }

    /// Hands a client over. False if nobody takes it any more; the connection is closed then.
    pub fn hand_over(&mut self, handover: Handover) -> bool {
        let here = self.next;
        self.next = (here + 1) % self.seats.len();
        let seat = &self.seats[here];
        let (passage, consents) = Passage::new(self.seats.len() - 1, seat.waker.clone());
        let others = self.seats.iter().enumerate().filter(|(i, _)| *i != here);
        for ((_, other), consent) in others.zip(consents) {
            other.tell(Arrival::Elsewhere(consent));
        }
        seat.tell(Arrival::Here(Box::new(handover), passage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_buffer::Pool;
    use uraid_io::driver::{Backend, Driver, Limits};

    #[test]
    fn a_passage_is_free_when_all_others_have_consented_and_wakes_who_waits() {
        let mut driver = Driver::new(Backend::Threads, &Pool::heap(), Limits::default()).unwrap();
        let (alone, mut none) = Passage::new(0, driver.waker());
        assert!(alone.is_free() && none.next().is_none());
        let (passage, consents) = Passage::new(2, driver.waker());
        let mut consents: Vec<Consent> = consents.collect();
        consents.pop();
        assert!(!passage.is_free());
        consents.pop();
        assert!(passage.is_free() && consents.is_empty());
        let mut events = Vec::new();
        driver.wait(None, &mut events);
        assert_eq!(events.len(), 1, "woken");
    }
}

//! Newcomers wait until connections that have hung up are settled.
//!
//! A client that loses its connection comes back on another one, repeats what was not answered,
//! and goes on. What it sent on the old connection may still lie unread in the kernel, or be with
//! the engine: if that landed after a newer write to the same place, the newer one would be lost.
//! So whoever comes waits for all connections that have hung up by then, those that other threads
//! serve included. This knows no clients: it is also for two of them that take turns.

use super::desk::Arrival;
use super::front::Handover;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use uraid_io::driver::StreamId;

/// How long a connection that has hung up may keep newcomers waiting. After that what it has sent
/// is not looked at any more; what the engine works on is waited for in any case.
const FENCE_MAX: Duration = Duration::from_millis(250);

/// A newcomer, here or elsewhere, and those of this thread that it waits for.
struct Held {
    arrival: Arrival,
    behind: Vec<StreamId>,
    since: Instant,
}

impl Held {
    /// Whether it need not wait any longer.
    fn is_free(&self) -> bool {
        let elsewhere = match &self.arrival {
            Arrival::Here(_, passage) => passage.is_free(),
            Arrival::Elsewhere(_) => true,
        };
        self.behind.is_empty() && elsewhere
    }
}

/// Newcomers that wait, in the order they came. As many as there may be clients.
#[derive(Default)]
pub struct Fence {
    held: Vec<Held>,
}

impl Fence {
    /// Takes newcomers, in the order they came. They wait for the clients `ended`, and for those
    /// newcomers before them that have hung up themselves.
    pub fn hold(&mut self, newcomers: Vec<Arrival>, ended: Vec<StreamId>, now: Instant) {
        let mut ended = ended;
        let before = self.held.iter().filter_map(|held| handover(&held.arrival));
        ended.extend(before.filter_map(ended_stream));
        for arrival in newcomers {
            let last = handover(&arrival).and_then(ended_stream);
            self.held.push(Held {
                arrival,
                behind: ended.clone(),
                since: now,
            });
            ended.extend(last);
        }
    }

    /// Newcomers that are to be served here and wait for nobody any more; others, who do so
    /// elsewhere, have our consent then. `settled` is true of streams that it does not know. Those
    /// who wait for each other come one after the other.
    pub fn released(&mut self, settled: impl Fn(StreamId) -> bool) -> Vec<Handover> {
        let here = self.held.iter().filter_map(|held| handover(&held.arrival));
        let here: BTreeSet<StreamId> = here.map(|handover| handover.stream).collect();
        let (mut released, mut kept) = (Vec::new(), Vec::new());
        for mut held in std::mem::take(&mut self.held) {
            held.behind.retain(|s| here.contains(s) || !settled(*s));
            if !held.is_free() {
                kept.push(held);
                continue;
            }
            match held.arrival {
                Arrival::Here(handover, _) => released.push(*handover),
                Arrival::Elsewhere(consent) => drop(consent),
            }
        }
        self.held = kept;
        released
    }

    /// Streams that somebody has waited for too long. They may take as long again before they are
    /// told once more.
    pub fn overdue(&mut self, now: Instant) -> BTreeSet<StreamId> {
        let mut overdue = BTreeSet::new();
        for held in &mut self.held {
            if held.since + FENCE_MAX <= now {
                held.since = now;
                overdue.extend(&held.behind);
            }
        }
        overdue
    }

    /// When the next streams are overdue.
    pub fn deadline(&self) -> Option<Instant> {
        let behind = self.held.iter().filter(|held| !held.behind.is_empty());
        behind.map(|held| held.since + FENCE_MAX).min()
    }
}

/// The client of a newcomer that is to be served here.
fn handover(arrival: &Arrival) -> Option<&Handover> {
    match arrival {
        Arrival::Here(handover, _) => Some(handover),
        Arrival::Elsewhere(_) => None,
    }
}

fn ended_stream(handover: &Handover) -> Option<StreamId> {
    let has_ended = handover.connection.has_ended();
    has_ended.then_some(handover.stream)
}

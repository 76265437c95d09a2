//! Newcomers wait until connections that have hung up are settled.
//!
//! A client that loses its connection comes back on another one, repeats what was not answered,
//! and goes on. What it sent on the old connection may still lie unread in the kernel, or be with
//! the engine: if that landed after a newer write to the same place, the newer one would be lost.
//! So whoever comes waits for all connections that have hung up by then. This knows no clients:
//! it is also for two of them that take turns.

use super::front::Handover;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use uraid_io::driver::StreamId;

/// How long a connection that has hung up may keep newcomers waiting. After that what it has sent
/// is not looked at any more; what the engine works on is waited for in any case.
const FENCE_MAX: Duration = Duration::from_millis(250);

/// A newcomer and those it waits for.
struct Held {
    handover: Handover,
    behind: Vec<StreamId>,
    since: Instant,
}

/// Newcomers that wait, in the order they came. As many as there may be clients.
#[derive(Default)]
pub struct Fence {
    held: Vec<Held>,
}

impl Fence {
    /// Takes newcomers, in the order they came. They wait for the clients `ended`, and for those
    /// newcomers before them that have hung up themselves.
    pub fn hold(&mut self, newcomers: Vec<Handover>, ended: Vec<StreamId>, now: Instant) {
        let mut ended = ended;
        let before = self.held.iter().map(|held| &held.handover);
        ended.extend(
            before
                .filter(|h| h.connection.has_ended())
                .map(|h| h.stream),
        );
        for handover in newcomers {
            let (stream, has_ended) = (handover.stream, handover.connection.has_ended());
            self.held.push(Held {
                handover,
                behind: ended.clone(),
                since: now,
            });
            ended.extend(has_ended.then_some(stream));
        }
    }

    /// Newcomers whose streams are all settled; `settled` is true of streams that it does not
    /// know. Those who wait for each other come one after the other.
    pub fn released(&mut self, settled: impl Fn(StreamId) -> bool) -> Vec<Handover> {
        let here: BTreeSet<StreamId> = self.held.iter().map(|h| h.handover.stream).collect();
        let (mut released, mut kept) = (Vec::new(), Vec::new());
        for mut held in std::mem::take(&mut self.held) {
            held.behind.retain(|s| here.contains(s) || !settled(*s));
            match held.behind.is_empty() {
                true => released.push(held.handover),
                false => kept.push(held),
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
        self.held.iter().map(|held| held.since + FENCE_MAX).min()
    }
}

//! Newcomers wait until connections that have hung up are settled.
//!
//! A client that loses its connection comes back on another one, repeats what was not answered,
//! and goes on. What it sent on the old connection may still lie unread in the kernel, or be with
//! the engine: if that landed after a newer write to the same place, the newer one would be lost.
//! So whoever comes waits for all connections that have hung up by then. This knows no clients:
//! it is also for two of them that take turns.

use super::front::Handover;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use uraid_io::driver::StreamId;

/// How long a connection that has hung up may keep newcomers waiting. After that what it has sent
/// is not looked at any more; what the engine works on is waited for in any case.
const FENCE_MAX: Duration = Duration::from_secs(1);

/// A newcomer and those it waits for.
struct Held {
    handover: Handover,
    behind: Vec<StreamId>,
    since: Instant,
    /// Those it waited for too long were told already.
    warned: bool,
}

/// Newcomers that wait, in the order they came. As many as there may be clients.
#[derive(Default)]
pub struct Fence {
    held: VecDeque<Held>,
}

impl Fence {
    /// Takes a newcomer that waits for these streams; for none, if there is none.
    pub fn hold(&mut self, handover: Handover, behind: &[StreamId], now: Instant) {
        self.held.push_back(Held {
            handover,
            behind: behind.to_vec(),
            since: now,
            warned: false,
        });
    }

    /// Newcomers whose streams are all settled; `settled` is true of streams that are gone, too.
    pub fn released(&mut self, settled: impl Fn(StreamId) -> bool) -> Vec<Handover> {
        let mut released = Vec::new();
        for mut held in std::mem::take(&mut self.held) {
            held.behind.retain(|stream| !settled(*stream));
            match held.behind.is_empty() {
                true => released.push(held.handover),
                false => self.held.push_back(held),
            }
        }
        released
    }

    /// Streams that somebody has waited for too long; each newcomer's are told once.
    pub fn overdue(&mut self, now: Instant) -> Vec<StreamId> {
        let mut overdue = Vec::new();
        for held in &mut self.held {
            if !held.warned && held.since + FENCE_MAX <= now {
                held.warned = true;
                overdue.extend(&held.behind);
            }
        }
        overdue
    }

    /// When the next streams are overdue.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.held.iter().filter(|held| !held.warned);
        waiting.map(|held| held.since + FENCE_MAX).min()
    }
}

//! Whether threads still make progress: each counts the turns of its loop, and a watch compares.

use super::log;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uraid_io::driver::Waker;

/// Counts the turns of one thread's loop.
#[derive(Clone, Default)]
pub struct Heartbeat {
    turns: Arc<AtomicU64>,
}

impl Heartbeat {
    /// Another turn.
    pub fn beat(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// A thread under watch.
pub struct Watched {
    name: String,
    heartbeat: Heartbeat,
    waker: Waker,
    /// How many turns it had made when it was last woken; none before the first time.
    seen: Option<u64>,
}

impl Watched {
    /// Watches the thread `name`, which sleeps where `waker` wakes it.
    pub fn new(name: String, heartbeat: Heartbeat, waker: Waker) -> Watched {
        Watched {
            name,
            heartbeat,
            waker,
            seen: None,
        }
    }

    /// Whether it has made a turn since the last look; wakes it, so that it makes one before the
    /// next. A thread that has ended (nobody else holds its heartbeat) is well.
    pub fn look(&mut self) -> bool {
        let turns = self.heartbeat.turns.load(Ordering::Relaxed);
        let ended = Arc::strong_count(&self.heartbeat.turns) == 1;
        let alive = ended || self.seen != Some(turns);
        self.seen = Some(turns);
        self.waker.wake();
        if !alive {
            log::warning(&format!("{} makes no progress", self.name));
        }
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_buffer::Pool;
    use uraid_io::driver::{Backend, Driver, Limits};

    #[test]
    fn a_thread_that_stands_still_is_noticed_and_one_that_has_ended_is_not() {
        let driver = Driver::new(Backend::Threads, &Pool::heap(), Limits::default()).unwrap();
        let heartbeat = Heartbeat::default();
        let mut watched = Watched::new("it".to_string(), heartbeat.clone(), driver.waker());
        assert!(watched.look(), "the first look has nothing to compare with");
        heartbeat.beat();
        assert!(watched.look());
        assert!(!watched.look(), "no turn since");
        drop(heartbeat);
        assert!(watched.look(), "nobody is there who could turn");
    }
}

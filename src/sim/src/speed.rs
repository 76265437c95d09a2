//! How fast simulated devices are.

use crate::rng::Rng;
use uraid_engine::api::{IoKind, Nanos};

/// How long I/O takes.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// The shortest time.
    pub least: Nanos,
    /// The longest is about `least << spread`.
    pub spread: u64,
    /// How much longer flushes take than the rest.
    pub flush: Nanos,
}

impl Speed {
    /// How long an I/O takes this time.
    pub fn draw(&self, kind: &IoKind, rng: &mut Rng) -> Nanos {
        let takes = self.least * rng.skewed(self.spread);
        match kind {
            IoKind::Flush => takes * self.flush,
            _ => takes,
        }
    }
}

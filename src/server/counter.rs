//! What one thread counts for others to look at, without ever waiting for them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what one thread does, for others to look at.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// To be called by one thread only.
    pub fn add(&self, amount: u64) {
        let sum = self.0.load(Ordering::Relaxed) + amount;
        self.0.store(sum, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

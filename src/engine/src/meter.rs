//! Recent speed of something that counts bytes.

use crate::api::Nanos;

/// The time over which speed is averaged.
const WINDOW: Nanos = 3_000_000_000;

/// Measures bytes per second over the last few seconds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Meter {
    /// Recent speed.
    pub bytes_per_second: u64,
    /// Since when, and how many bytes were done then.
    window: Option<(Nanos, u64)>,
}

impl Meter {
    /// `done_bytes` are done in all by `now`.
    pub fn count(&mut self, done_bytes: u64, now: Nanos) {
        let Some((start, at_start)) = self.window else {
            self.window = Some((now, done_bytes));
            return;
        };
        if now <= start {
            return;
        }
        let bytes = u128::from(done_bytes.saturating_sub(at_start));
        let speed = bytes * 1_000_000_000 / u128::from(now - start);
        self.bytes_per_second = speed as u64;
        if now - start > WINDOW {
            // The window moves on: half of it stays, at the speed just measured.
            let kept = speed * u128::from(WINDOW / 2) / 1_000_000_000;
            self.window = Some((now - WINDOW / 2, done_bytes.saturating_sub(kept as u64)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_follows_what_happened_lately() {
        let second = 1_000_000_000;
        let mut meter = Meter::default();
        (0..=10).for_each(|t| meter.count(t * 100, t * second));
        assert_eq!(meter.bytes_per_second, 100);
        (11..=20).for_each(|t| meter.count(1000 + (t - 10) * 900, t * second));
        assert!((850..=900).contains(&meter.bytes_per_second));
    }
}

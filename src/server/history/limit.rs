//! How many events of a kind are kept: a disk that is dying makes thousands, and what came before is
//! worth more than each of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uraid_core::events::EventKind;

/// Most events of one kind in a [`WINDOW`]; the others are counted.
const EVENTS_MAX: u32 = 20;

/// The time that those are counted in.
const WINDOW: Duration = Duration::from_secs(60);

struct Window {
    begun: Instant,
    kept: u32,
    left_out: u64,
}

/// Counts events by kind.
#[derive(Default)]
pub struct Limiter {
    windows: BTreeMap<EventKind, Window>,
}

impl Limiter {
    /// Whether another event of this kind is kept.
    pub fn admit(&mut self, kind: EventKind, now: Instant) -> bool {
        let window = self.windows.entry(kind).or_insert(Window {
            begun: now,
            kept: 0,
            left_out: 0,
        });
        if window.kept < EVENTS_MAX {
            window.kept += 1;
            return true;
        }
        window.left_out += 1;
        false
    }

    /// What was left out in the windows that are over, in words.
    pub fn summaries(&mut self, now: Instant) -> Vec<String> {
        let mut summaries = Vec::new();
        self.windows.retain(|kind, window| {
            let over = now.duration_since(window.begun) >= WINDOW;
            if over && window.left_out > 0 {
                let (count, word) = (window.left_out, kind.as_str());
                summaries.push(format!(
                    "{count} more events of the kind {word} came within a minute; see the log"
                ));
            }
            !over
        });
        summaries
    }

    /// When there may be something to sum up.
    pub fn deadline(&self) -> Option<Instant> {
        self.windows
            .values()
            .map(|window| window.begun + WINDOW)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_too_fast_is_counted_and_told_once() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let repairs = (0..100).filter(|_| limiter.admit(EventKind::Repaired, now));
        assert_eq!(repairs.count(), EVENTS_MAX as usize);
        assert!(limiter.admit(EventKind::MemberFailed, now), "others are");
        assert_eq!(limiter.summaries(now), [""; 0]);
        let later = limiter.deadline().expect("a window is open");
        let summaries = limiter.summaries(later);
        assert!(summaries[0].starts_with("80 more events of the kind repaired"));
        assert_eq!((summaries.len(), limiter.deadline()), (1, None));
        assert!(limiter.admit(EventKind::Repaired, later));
    }
}

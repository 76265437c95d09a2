//! When an array is scrubbed without being asked: some time after the last scrub, within certain
//! hours of the day. The array's events say when that was, so it is known after a restart.

use super::deeds::{Action, Deed};
use crate::control::wire::StatusReport;
use std::collections::BTreeMap;
use std::time::Duration;
use uraid_core::events::{EventKind, EventRecord};

/// When it is tried again after it was not possible, in milliseconds.
const RETRY_MILLIS: u64 = 600_000;

/// A clock may be set back by so much; what is further ahead was told by a clock that was wrong.
const AHEAD_MILLIS_MAX: u64 = 24 * 3_600_000;

/// Hours of the day, from 0 to 23.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hours {
    /// The first one.
    pub from: u8,
    /// The one after the last; less than `from` if midnight is between.
    pub until: u8,
}

impl Hours {
    fn contain(self, hour: u8) -> bool {
        match self.from <= self.until {
            true => (self.from..self.until).contains(&hour),
            false => hour >= self.from || hour < self.until,
        }
    }
}

/// What events say about the last scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// It began or ended then, in milliseconds since 1970.
    At(u64),
    /// There was none since the first event, which was then.
    NoneSince(u64),
    /// It is longer ago than events are kept.
    Forgotten,
}

/// When the newest scrub of these began or ended.
fn newest(records: &[EventRecord]) -> Option<Last> {
    // One that began counts, too: an operator may have stopped it.
    let is_scrub = |record: &&EventRecord| {
        matches!(
            record.kind,
            EventKind::ScrubStarted | EventKind::ScrubFinished | EventKind::ScrubFound
        )
    };
    let found = records.iter().rev().find(is_scrub)?;
    Some(Last::At(found.time_millis))
}

/// What is known of one array.
struct Known {
    last: Last,
    /// Number of the first event that was not read yet.
    next_event: u64,
}

/// The schedule of all arrays.
pub struct Schedule {
    every: Duration,
    hours: Option<Hours>,
    known: BTreeMap<String, Known>,
    not_before: BTreeMap<String, u64>,
}

impl Schedule {
    /// A scrub so long after the last one, in these hours if any are named.
    pub fn new(every: Duration, hours: Option<Hours>) -> Schedule {
        Schedule {
            every,
            hours,
            known: BTreeMap::new(),
            not_before: BTreeMap::new(),
        }
    }

    /// From which event on [`Schedule::learn`] wants those of an array.
    pub fn next_event(&self, array: &str) -> u64 {
        self.known.get(array).map_or(0, |known| known.next_event)
    }

    /// Learns from an array's events when its last scrub was; none while it has no events.
    pub fn learn(&mut self, array: &str, records: &[EventRecord]) -> Option<Last> {
        if let (Some(oldest), Some(latest)) = (records.first(), records.last()) {
            let next_event = latest.sequence + 1;
            let before = self.known.get(array).map(|known| known.last);
            let otherwise = before.unwrap_or(match oldest.sequence {
                0 => Last::NoneSince(oldest.time_millis),
                _ => Last::Forgotten,
            });
            let last = newest(records).unwrap_or(otherwise);
            self.known
                .insert(array.to_string(), Known { last, next_event });
        }
        self.known.get(array).map(|known| known.last)
    }

    /// When the next one is due, in milliseconds since 1970.
    pub fn due(&self, last: Last, now_millis: u64) -> u64 {
        match last {
            Last::At(then) | Last::NoneSince(then) if then <= now_millis + AHEAD_MILLIS_MAX => {
                then.saturating_add(self.every.as_millis() as u64)
            }
            _ => now_millis,
        }
    }

    /// Whether to begin one now, which is in this hour of the day. Not while anything is being
    /// rebuilt or missing: that comes first.
    pub fn step(&self, status: &StatusReport, due: u64, now_millis: u64, hour: u8) -> Option<Deed> {
        let not_before = self.not_before.get(&status.name).copied();
        let is_time = now_millis >= due.max(not_before.unwrap_or(0));
        let is_hour = self.hours.is_none_or(|hours| hours.contain(hour));
        let is_free = status.state == "optimal"
            && !matches!(status.scrub.state.as_str(), "running" | "paused");
        (is_time && is_hour && is_free).then(|| Deed {
            array: status.name.clone(),
            why: format!("a scrub of {} is due", status.name),
            action: Action::Scrub,
        })
    }

    /// It was not possible: not at once again.
    pub fn put_off(&mut self, array: &str, now_millis: u64) {
        let again = now_millis.saturating_add(RETRY_MILLIS);
        self.not_before.insert(array.to_string(), again);
    }
}

#[cfg(test)]
mod tests;

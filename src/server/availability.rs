//! How available an array has been, as its events tell: for how long it was served, for how long of
//! that with all its redundancy, and how long repairs took. `uraid plan` forecasts the same.
//!
//! What the events do not tell is not guessed but said: a server that ended without a word (a crash,
//! `kill -9`, a power failure) was alive until its last event and dead before the next opening, and
//! the time between is unknown. Events are kept in a ring, so it all begins with the oldest one that
//! is left.

use crate::control::wire::{AvailabilityReport, rfc3339};
use std::collections::{BTreeMap, BTreeSet};
use uraid_core::events::{EventKind, EventRecord};
use uraid_core::units::Uuid;

/// Milliseconds since 1970, or of a duration.
type Millis = u64;

/// What is known of an array at some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Service {
    /// Nobody serves it.
    Stopped,
    /// It is served, with all its redundancy, with less, or nobody knows.
    Served(Option<bool>),
    /// Writes are suspended, or not all of it is there.
    Suspended,
}

/// Follows the events of an array.
struct Observer {
    service: Service,
    at: Millis,
    /// Roles that nobody holds, as far as events have told since it was opened.
    vacant: BTreeSet<u16>,
    /// It was opened without some; which ones, no event tells.
    opened_degraded: bool,
    /// Members that are being filled or failed before they were full: their loss costs nothing.
    filling: BTreeSet<Uuid>,
    /// Since when roles have been vacant.
    vacant_since: BTreeMap<u16, Millis>,
    /// When their rebuilds began.
    rebuild_since: BTreeMap<u16, Millis>,
    report: AvailabilityReport,
    repair_millis: Millis,
    rebuild_millis: Millis,
}

/// What `records`, oldest first, tell of an array until `now`, when it is served and in `state` as
/// statuses have it. None without events.
pub fn observed(records: &[EventRecord], state: &str, now: Millis) -> Option<AvailabilityReport> {
    let first = records.first()?;
    let mut observer = Observer::new(first);
    records.iter().for_each(|record| observer.take(record));
    Some(observer.finish(state, now))
}

impl Observer {
    fn new(first: &EventRecord) -> Observer {
        Observer {
            // If the oldest event that is left is none of opening, somebody served it then.
            service: Service::Served(None),
            at: first.time_millis,
            vacant: BTreeSet::new(),
            opened_degraded: false,
            filling: BTreeSet::new(),
            vacant_since: BTreeMap::new(),
            rebuild_since: BTreeMap::new(),
            report: AvailabilityReport {
                since: rfc3339(first.time_millis),
                from_first_event: first.sequence == 0,
                ..AvailabilityReport::default()
            },
            repair_millis: 0,
            rebuild_millis: 0,
        }
    }

    /// The state until `at` was the one that is known.
    fn pass(&mut self, at: Millis) {
        let span = self.go_to(at);
        let report = &mut self.report;
        match self.service {
            Service::Stopped => report.stopped_millis += span,
            Service::Suspended => report.suspended_millis += span,
            Service::Served(whole) => {
                report.served_millis += span;
                match whole {
                    Some(true) => report.redundant_millis += span,
                    Some(false) => report.degraded_millis += span,
                    None => {}
                }
            }
        }
    }

    /// How long it is until `at`; none if the clock was set back.
    fn go_to(&mut self, at: Millis) -> Millis {
        let span = at.saturating_sub(self.at);
        self.at = self.at.max(at);
        span
    }

    fn take(&mut self, record: &EventRecord) {
        let at = record.time_millis;
        match record.kind {
            EventKind::Opened | EventKind::OpenedDegraded => {
                match self.service {
                    Service::Stopped => self.pass(at),
                    // Nobody has seen it end.
                    _ => self.report.unknown_millis += self.go_to(at),
                }
                self.open(record.kind == EventKind::OpenedDegraded);
            }
            EventKind::Stopped => {
                self.pass(at);
                self.service = Service::Stopped;
            }
            EventKind::Suspended => {
                self.pass(at);
                self.service = Service::Suspended;
            }
            _ => {
                // What is told of an array that nobody serves comes from the next opening.
                self.pass(at);
                self.take_member(record);
            }
        }
    }

    fn open(&mut self, degraded: bool) {
        self.opened_degraded = degraded;
        self.vacant.clear();
        if !degraded {
            self.vacant_since.clear();
            self.rebuild_since.clear();
            self.filling.clear();
        }
        self.service = Service::Served(Some(!degraded));
    }

    fn take_member(&mut self, record: &EventRecord) {
        if record.kind == EventKind::RedundancyRestored {
            self.vacant.clear();
            self.opened_degraded = false;
        }
        if let Some(member) = &record.member
            && let Some(role) = member.slot
        {
            self.take_role(record.kind, role, member.uuid);
        }
        let decides = [
            EventKind::RedundancyRestored,
            EventKind::MemberFailed,
            EventKind::MemberLeft,
            EventKind::RebuildFinished,
        ];
        if let Service::Served(_) = self.service
            && decides.contains(&record.kind)
        {
            let whole = self.vacant.is_empty() && !self.opened_degraded;
            self.service = Service::Served(Some(whole));
        }
    }

    fn take_role(&mut self, kind: EventKind, role: u16, member: Uuid) {
        match kind {
            EventKind::MemberFailed | EventKind::MemberLeft => {
                let counts = !self.filling.contains(&member);
                if counts && self.vacant.insert(role) {
                    self.report.failures += 1;
                    self.vacant_since.entry(role).or_insert(self.at);
                }
            }
            EventKind::RebuildStarted => {
                self.filling.insert(member);
                self.rebuild_since.entry(role).or_insert(self.at);
            }
            EventKind::RebuildFailed => drop(self.rebuild_since.remove(&role)),
            EventKind::RebuildFinished => {
                self.filling.remove(&member);
                self.vacant.remove(&role);
                if let Some(begun) = self.rebuild_since.remove(&role) {
                    self.report.rebuilds += 1;
                    self.rebuild_millis += self.at - begun;
                }
                if let Some(vacant) = self.vacant_since.remove(&role) {
                    self.report.repairs += 1;
                    self.repair_millis += self.at - vacant;
                }
            }
            _ => {}
        }
    }

    fn finish(mut self, state: &str, now: Millis) -> AvailabilityReport {
        // How it is now is known; what led there may have been before the oldest event.
        match (self.service, state) {
            (_, "failed") => self.service = Service::Suspended,
            (Service::Served(None), _) => self.service = Service::Served(Some(state == "optimal")),
            _ => {}
        }
        self.pass(now);
        let report = &mut self.report;
        let share = |part: Millis, all: Millis| (all > 0).then(|| part as f64 / all as f64);
        let known = report.served_millis + report.suspended_millis + report.stopped_millis;
        report.served_share = share(report.served_millis, known);
        let judged = report.redundant_millis + report.degraded_millis;
        report.redundant_share = share(report.redundant_millis, judged);
        report.rebuild_mean_millis = self.rebuild_millis.checked_div(report.rebuilds);
        report.repair_mean_millis = self.repair_millis.checked_div(report.repairs);
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventKind::*;
    use uraid_core::events::EventMember;

    /// An event at this second, of the member in a role, which has a number of its own.
    type Told = (u64, EventKind, Option<(u16, u8)>);

    fn history(events: &[Told]) -> Vec<EventRecord> {
        let record = |(sequence, (second, kind, member)): (usize, &(_, EventKind, Option<_>))| {
            let member = member.map(|(slot, uuid): (u16, u8)| EventMember {
                slot: Some(slot),
                uuid: Uuid([uuid; 16]),
            });
            EventRecord {
                sequence: sequence as u64,
                time_millis: second * 1000,
                severity: kind.severity(),
                kind: *kind,
                member,
                text: String::new(),
            }
        };
        events.iter().enumerate().map(record).collect()
    }

    /// Seconds: served, with all redundancy, with less, suspended, stopped, unknown.
    type Seconds = [u64; 6];

    fn seconds(report: &AvailabilityReport) -> Seconds {
        [
            report.served_millis,
            report.redundant_millis,
            report.degraded_millis,
            report.suspended_millis,
            report.stopped_millis,
            report.unknown_millis,
        ]
        .map(|millis| millis / 1000)
    }

    #[test]
    fn time_is_what_events_make_of_it() {
        let (old, new) = (Some((0, 1)), Some((0, 2)));
        let other = Some((1, 3));
        let table: [(&str, &[Told], &str, Seconds); 10] = [
            (
                "served",
                &[(0, Opened, None)],
                "optimal",
                [100, 100, 0, 0, 0, 0],
            ),
            (
                "stopped for a while",
                &[(0, Opened, None), (10, Stopped, None), (40, Opened, None)],
                "optimal",
                [70, 70, 0, 0, 30, 0],
            ),
            (
                "killed: alive at 20, dead before 50",
                &[
                    (0, Opened, None),
                    (20, ScrubStarted, None),
                    (50, Opened, None),
                ],
                "optimal",
                [70, 70, 0, 0, 0, 30],
            ),
            (
                "a member is replaced after its failure",
                &[
                    (0, Opened, None),
                    (10, MemberFailed, old),
                    (11, MemberLeft, old),
                    (20, RebuildStarted, new),
                    (60, RedundancyRestored, None),
                    (60, RebuildFinished, new),
                ],
                "optimal",
                [100, 50, 50, 0, 0, 0],
            ),
            (
                "one of two that are missing is back",
                &[
                    (0, Opened, None),
                    (10, MemberLeft, old),
                    (20, MemberLeft, other),
                    (30, RebuildStarted, new),
                    (40, RebuildFinished, new),
                ],
                "degraded",
                [100, 10, 90, 0, 0, 0],
            ),
            (
                "replaced while it serves",
                &[
                    (0, Opened, None),
                    (10, RebuildStarted, new),
                    (60, MemberLeft, old),
                    (60, RebuildFinished, new),
                ],
                "optimal",
                [100, 100, 0, 0, 0, 0],
            ),
            (
                "the one that was to replace it fails",
                &[
                    (0, Opened, None),
                    (10, RebuildStarted, new),
                    (20, MemberFailed, new),
                    (21, RebuildFailed, new),
                    (22, MemberLeft, new),
                ],
                "optimal",
                [100, 100, 0, 0, 0, 0],
            ),
            (
                "opened without some, and restored",
                &[
                    (0, OpenedDegraded, None),
                    (30, RebuildFinished, new),
                    (50, RedundancyRestored, None),
                ],
                "optimal",
                [100, 50, 50, 0, 0, 0],
            ),
            (
                "suspended until a restart",
                &[
                    (0, Opened, None),
                    (20, Suspended, None),
                    (60, Stopped, None),
                    (70, Opened, None),
                ],
                "optimal",
                [50, 50, 0, 40, 10, 0],
            ),
            (
                "what was before the oldest event is not known",
                &[
                    (0, ScrubFinished, None),
                    (20, MemberFailed, old),
                    (40, ScrubStarted, None),
                ],
                "degraded",
                [100, 0, 80, 0, 0, 0],
            ),
        ];
        for (what, story, state, expected) in table {
            let report = observed(&history(story), state, 100_000).expect("events");
            assert_eq!(seconds(&report), expected, "{what}");
        }
    }

    #[test]
    fn shares_and_means_are_those_of_what_is_known() {
        let (old, new) = (Some((0, 1)), Some((0, 2)));
        let story = history(&[
            (0, Opened, None),
            (10, MemberFailed, old),
            (20, RebuildStarted, new),
            (30, Stopped, None),
            (40, OpenedDegraded, None),
            (41, RebuildStarted, new),
            (60, RedundancyRestored, None),
            (60, RebuildFinished, new),
            (70, Opened, None),
        ]);
        let report = observed(&story, "optimal", 110_000).expect("events");
        assert_eq!(seconds(&report), [90, 50, 40, 0, 10, 10]);
        assert_eq!(report.served_share, Some(0.9));
        assert_eq!(report.redundant_share, Some(50.0 / 90.0));
        assert_eq!(
            (report.failures, report.rebuilds, report.repairs),
            (1, 1, 1)
        );
        assert_eq!(report.rebuild_mean_millis, Some(40_000));
        assert_eq!(report.repair_mean_millis, Some(50_000));
        assert!(report.from_first_event);
        assert_eq!(report.since, "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn clocks_that_are_set_back_and_empty_histories_do_no_harm() {
        assert_eq!(observed(&[], "optimal", 5), None);
        let story = history(&[(50, Opened, None), (10, Stopped, None), (60, Opened, None)]);
        let report = observed(&story[1..], "optimal", 70_000).expect("events");
        assert!(!report.from_first_event);
        let report = observed(&story, "optimal", 20_000).expect("events");
        assert_eq!(seconds(&report), [0, 0, 0, 0, 10, 0]);
        let report = observed(&story[..1], "optimal", 50_000).expect("events");
        assert_eq!((report.served_share, report.redundant_share), (None, None));
    }
}

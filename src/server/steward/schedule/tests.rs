//! When scrubs fall due.

use super::*;
use crate::control::wire::samples;
use uraid_core::events::Severity;

const HOUR: u64 = 3_600_000;
const NOW: u64 = 1_000_000 * HOUR;

fn daily() -> Schedule {
    Schedule::new(Duration::from_secs(24 * 3600), None)
}

fn record(sequence: u64, kind: EventKind) -> EventRecord {
    EventRecord {
        sequence,
        time_millis: NOW + sequence,
        severity: Severity::Info,
        kind,
        member: None,
        text: String::new(),
    }
}

fn begins(schedule: &Schedule, status: &StatusReport, due: u64, hour: u8) -> bool {
    schedule.step(status, due, NOW, hour).is_some()
}

#[test]
fn events_say_when_the_last_scrub_was() {
    let opened = record(0, EventKind::Opened);
    let mut schedule = daily();
    assert_eq!(schedule.learn("demo", &[]), None);
    let mut learn = |records: &[EventRecord]| schedule.learn("demo", records);
    assert_eq!(
        learn(std::slice::from_ref(&opened)),
        Some(Last::NoneSince(NOW))
    );
    for (sequence, kind) in [
        (2, EventKind::ScrubStarted),
        (4, EventKind::ScrubFinished),
        (6, EventKind::ScrubFound),
    ] {
        let last = Some(Last::At(NOW + sequence));
        let due = record(sequence + 1, EventKind::ScrubDue);
        assert_eq!(learn(&[record(sequence, kind), due]), last, "{kind:?}");
        assert_eq!(learn(&[]), last, "nothing new");
    }
    assert_eq!(schedule.next_event("demo"), 8);
    assert_eq!(schedule.next_event("another"), 0);

    let later = [
        record(700, EventKind::Opened),
        record(701, EventKind::Repaired),
    ];
    assert_eq!(daily().learn("demo", &later), Some(Last::Forgotten));
}

#[test]
fn the_next_one_is_due_some_time_after_the_last_one() {
    let schedule = daily();
    assert_eq!(schedule.due(Last::At(NOW - HOUR), NOW), NOW + 23 * HOUR);
    assert_eq!(
        schedule.due(Last::NoneSince(NOW - 25 * HOUR), NOW),
        NOW - HOUR
    );
    assert_eq!(schedule.due(Last::Forgotten, NOW), NOW);
    // A clock was set back a little; another one was years ahead.
    assert_eq!(schedule.due(Last::At(NOW + HOUR), NOW), NOW + 25 * HOUR);
    assert_eq!(schedule.due(Last::At(NOW * 2), NOW), NOW);
}

#[test]
fn it_begins_when_it_is_due_and_the_array_is_free_for_it() {
    let (schedule, status) = (daily(), samples::optimal());
    assert!(begins(&schedule, &status, NOW, 12));
    assert!(!begins(&schedule, &status, NOW + 1, 12), "not yet");
    for state in ["degraded", "rebuilding", "failed"] {
        let mut status = status.clone();
        status.state = state.to_string();
        assert!(!begins(&schedule, &status, NOW, 12), "{state}");
    }
    for (state, free) in [
        ("running", false),
        ("paused", false),
        ("finished", true),
        ("stopped", true),
    ] {
        let mut status = status.clone();
        status.scrub.state = state.to_string();
        assert_eq!(begins(&schedule, &status, NOW, 12), free, "{state}");
    }
}

#[test]
fn it_begins_in_certain_hours_only() {
    let status = samples::optimal();
    let hours_of = |from: u8, until: u8| -> Vec<u8> {
        let schedule = Schedule::new(Duration::ZERO, Some(Hours { from, until }));
        let hours = 0..24;
        hours
            .filter(|hour| begins(&schedule, &status, NOW, *hour))
            .collect()
    };
    assert_eq!(hours_of(1, 6), [1, 2, 3, 4, 5]);
    assert_eq!(hours_of(22, 2), [0, 1, 22, 23]);
    assert_eq!(hours_of(0, 24).len(), 24);
}

#[test]
fn what_was_not_possible_is_not_tried_again_at_once() {
    let mut schedule = daily();
    let status = samples::optimal();
    schedule.put_off("demo", NOW);
    assert!(!begins(&schedule, &status, NOW, 12));
    assert!(
        schedule
            .step(&status, NOW, NOW + RETRY_MILLIS, 12)
            .is_some()
    );
}

//! Screens, as text.

use super::args::Size;
use super::text;
use super::view::{Look, View};
use crate::control::wire::{Rate, StatusReport, TrendSample, samples};
use crate::failure::Failure;
use std::time::{Duration, Instant};

const SIZE: Size = Size {
    columns: 80,
    lines: 24,
};

/// Between two looks.
const SECOND: Duration = Duration::from_secs(1);

fn look(at: Instant, status: StatusReport) -> Look {
    let trend = Some(Vec::new());
    Look { at, status, trend }
}

/// A view of one array that was looked at twice, a second apart.
fn view(before: StatusReport, now: StatusReport) -> View {
    let mut view = View::new(vec!["demo".to_string()], SECOND);
    let at = Instant::now();
    view.take(0, Ok(look(at - Duration::from_secs(1), before)));
    view.take(0, Ok(look(at, now)));
    view
}

fn screen(status: StatusReport) -> String {
    text(&view(status.clone(), status), SIZE)
}

#[track_caller]
fn assert_shows(screen: &str, words: &[&str]) {
    for word in words {
        assert!(screen.contains(word), "no {word:?} in\n{screen}");
    }
}

/// The line of the member in `slot`.
#[track_caller]
fn line_of(screen: &str, slot: &str) -> String {
    let found = screen.lines().find(|line| line.starts_with(slot));
    found
        .unwrap_or_else(|| panic!("no {slot} in\n{screen}"))
        .to_string()
}

#[test]
fn an_optimal_array_fits_a_small_screen() {
    let screen = screen(samples::optimal());
    assert_shows(
        &screen,
        &[
            "demo  raid6 2+2, chunk 64 KiB, 2 GiB",
            "optimal: every member is in sync",
            "■■ 2 of 2 left",
            "journal",
            "free slots",
            "q quit",
        ],
    );
    assert!(!screen.contains("next"), "{screen}");
    assert_eq!(screen.matches("in-sync").count(), 4);
    assert!(screen.lines().count() <= 24);
    assert!(screen.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_degraded_array_says_what_to_type() {
    let mut status = samples::optimal();
    status.state = "degraded".to_string();
    status.redundancy_left = 1;
    status.members[1].state = "missing".to_string();
    status.members[1].path = None;
    let screen = screen(status);
    assert_shows(
        &screen,
        &[
            "degraded: without member 1",
            "■□ 1 of 2 left",
            "uraid rebuild --name demo NEW",
        ],
    );
    assert_shows(&line_of(&screen, "1 "), &["missing", "not here"]);
}

#[test]
fn a_rebuild_and_a_scrub_show_how_far_they_are() {
    let mut status = samples::rebuilding();
    status.scrub = samples::scrub("running");
    let screen = screen(status);
    assert_shows(&line_of(&screen, "rebuild 2"), &["█░", "50 %, 8 s left"]);
    assert_shows(&line_of(&screen, "scrub"), &["█░", "25 %, 12 s left"]);
}

#[test]
fn a_slow_member_and_one_with_errors_stand_out() {
    let mut status = samples::optimal();
    status.members[2].slow_seconds = Some(75);
    status.members[3].checksum_errors = 4;
    let screen = screen(status);
    assert_shows(&line_of(&screen, "2 "), &["SLOW 1 min"]);
    assert_shows(&line_of(&screen, "3 "), &["in-sync", " 4 "]);
    assert_shows(&screen, &["uraid replace --name demo 2 NEW"]);
}

#[test]
fn suspended_writes_are_told_before_anything_else() {
    let mut status = samples::optimal();
    status.state = "failed".to_string();
    status.redundancy_left = 0;
    status.suspended = Some("every member answers EIO".to_string());
    status.last_events = vec![samples::event("critical", "it broke")];
    assert_shows(
        &screen(status),
        &[
            "failed: nothing is written any more",
            "writes are suspended: every member answers EIO",
            "□□ 0 of 2 left",
            "look for a controller",
            "01-01 00:00:00  it broke",
        ],
    );
}

#[test]
fn members_show_what_they_did_since_the_look_before() {
    let before = samples::optimal();
    let mut now = before.clone();
    let reads = &mut now.members[1].io.reads;
    reads.operations = 1500;
    reads.bytes = 3 << 20;
    reads.nanos = 1_000_000;
    // 1400 of at most 64 µs, 100 of at most 8.2 ms.
    reads.latency = vec![0; 25];
    (reads.latency[6], reads.latency[13]) = (1400, 100);
    now.requests = std::collections::BTreeMap::from([("read".to_string(), reads.clone())]);
    let mut before = before;
    // Members are told apart by their UUIDs.
    for (i, (a, b)) in before.members.iter_mut().zip(&mut now.members).enumerate() {
        a.uuid = format!("member-{i}");
        b.uuid = a.uuid.clone();
    }
    let screen = text(&view(before, now), SIZE);
    assert_shows(&line_of(&screen, "1 "), &["1.5k", "3.0", "64µ/8.2m"]);
    assert_shows(&line_of(&screen, "0 "), &[" 0 "]);
    assert_shows(&line_of(&screen, "read "), &["3 MiB/s, 1.5k/s"]);
}

#[test]
fn the_last_hour_is_drawn_at_the_left_of_what_goes_on_now() {
    let rate = |bytes| Rate {
        bytes,
        ..Rate::default()
    };
    let sample = |number: u64| TrendSample {
        number,
        time_millis: number * 10_000,
        span_millis: 10_000,
        reads: rate(number),
        writes: rate(0),
        members: Vec::new(),
    };
    let mut view = View::new(vec!["demo".to_string()], SECOND);
    let mut first = look(Instant::now(), samples::optimal());
    first.trend = Some((0..100).map(|number| sample(number * 1000)).collect());
    view.take(0, Ok(first));
    let screen = text(&view, SIZE);
    assert_shows(&line_of(&screen, "read "), &["▅", "▆▇", "█ 0 B/s, 0/s"]);
    assert!(!line_of(&screen, "write ").contains('█'), "{screen}");
}

#[test]
fn a_server_that_goes_away_is_said_to_and_comes_back() {
    let status = samples::optimal();
    let mut view = view(status.clone(), status.clone());
    view.take(0, Err(Failure::failed("no server answers at /x")));
    let screen = text(&view, SIZE);
    assert_shows(
        &screen,
        &[
            "NO ANSWER, asking again",
            "no server answers at /x",
            "optimal",
        ],
    );
    view.take(0, Ok(look(Instant::now(), status)));
    assert!(!text(&view, SIZE).contains("NO ANSWER"));
}

#[test]
fn neither_a_pause_nor_a_long_interval_is_silence() {
    let old = || Ok(look(Instant::now() - 10 * SECOND, samples::optimal()));
    let mut view = View::new(vec!["demo".to_string()], SECOND);
    view.take(0, old());
    let silent = "this is 10 s old: the server does not answer";
    assert_shows(&text(&view, SIZE), &["NO ANSWER", silent]);
    view.paused = true;
    view.take(0, Ok(look(Instant::now(), samples::optimal())));
    assert!(!text(&view, SIZE).contains("NO ANSWER"));
    view.paused = false;
    assert!(!text(&view, SIZE).contains("NO ANSWER"));

    let mut view = View::new(vec!["demo".to_string()], 10 * SECOND);
    view.take(0, old());
    assert!(!text(&view, SIZE).contains("NO ANSWER"));
}

#[test]
fn a_server_that_never_answered_is_told_with_its_reason() {
    let mut view = View::new(vec!["demo".to_string()], SECOND);
    assert_shows(&text(&view, SIZE), &["demo: asking the server"]);
    view.take(0, Err(Failure::failed("connection refused")));
    assert_shows(
        &text(&view, SIZE),
        &["demo: connection refused", "asking again"],
    );
}

#[test]
fn arrows_go_round_the_arrays_and_a_pause_holds_everything() {
    let mut view = View::new(vec!["a".to_string(), "b".to_string()], SECOND);
    view.step(-1);
    assert_eq!(view.selected, 1);
    view.step(1);
    assert_eq!(view.selected, 0);
    view.paused = true;
    view.take(0, Ok(look(Instant::now(), samples::optimal())));
    assert!(view.arrays[0].status.is_none());
    view.paused = false;
    view.take(0, Ok(look(Instant::now(), samples::optimal())));
    view.paused = true;
    assert_shows(&text(&view, SIZE), &["[1/2]", "PAUSED", "← → array"]);
}

#[test]
fn more_members_than_lines_are_scrolled() {
    let mut status = samples::optimal();
    status.members = (0..40)
        .map(|slot| samples::member(Some(slot), "in-sync"))
        .collect();
    let mut view = view(status.clone(), status);
    let screen = text(&view, SIZE);
    assert_shows(&screen, &["path ↑0↓", "/m0", "journal"]);
    view.scroll(1000);
    let screen = text(&view, SIZE);
    assert_shows(&screen, &["/m39", "↑39↓0"]);
    assert!(
        !screen.lines().any(|line| line.starts_with("0 ")),
        "{screen}"
    );
}

#[test]
fn a_former_member_is_no_spare() {
    let mut status = samples::optimal();
    status.members.push(samples::member(None, "failed"));
    let line = line_of(&screen(status), "- ");
    assert!(line.contains("former") && !line.contains("spare"), "{line}");
}

#[test]
fn no_size_is_too_small_or_too_large() {
    let view = view(samples::rebuilding(), samples::rebuilding());
    for (columns, lines) in [(1, 1), (10, 3), (79, 5), (30, 24), (200, 60), (500, 500)] {
        text(&view, Size { columns, lines });
    }
}

#[test]
fn what_members_are_called_cannot_drive_the_terminal() {
    let mut status = samples::optimal();
    status.members[0].path = Some("/m\u{1b}[2J\u{7}x".to_string());
    let screen = screen(status);
    assert!(
        !screen.chars().any(|c| c.is_control() && c != '\n'),
        "{screen:?}"
    );
}

#[test]
fn help_says_what_the_keys_do() {
    let mut view = view(samples::optimal(), samples::optimal());
    view.help = true;
    // The ends of its longest lines.
    let ends = [
        "pressed again",
        "next power\n",
        "a second)",
        "clear`)",
        "goes on now",
    ];
    assert_shows(&text(&view, SIZE), &ends);
}

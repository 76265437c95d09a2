//! What clients get and what is under way, as lines and bars with their figures.

use super::bars::{bar, count, micros, permille, sparkline, speed};
use super::view::Watched;
use crate::control::wire::{Rate, StatusReport, TrendSample};
use crate::sizes::show_duration;
use ratatui::style::{Color, Stylize};
use ratatui::text::{Line, Span, Text};
use std::time::Duration;

/// Width of what stands before bars and sparklines.
const LABEL_COLUMNS: usize = 11;

/// Width of what stands behind them.
const FIGURE_COLUMNS: usize = 26;

/// What clients got over the last minutes, and get now.
pub fn clients(array: &Watched, width: usize) -> Text<'static> {
    let room = width.saturating_sub(LABEL_COLUMNS + FIGURE_COLUMNS + 1);
    let line = |label: &str, value: fn(&TrendSample) -> u64, figure: String, colour| {
        let values: Vec<u64> = array.trend.iter().map(value).collect();
        Line::from(vec![
            Span::from(format!("{label:LABEL_COLUMNS$}")),
            Span::from(sparkline(&values, room)).fg(colour),
            Span::from(format!(" {figure}")),
        ])
    };
    let pace = &array.clients;
    let flow = |rate: &Rate| {
        let operations = count(pace.per_second(rate.operations));
        format!("{}, {operations}/s", speed(pace.per_second(rate.bytes)))
    };
    let times = |rate: &Rate| {
        let (half, most) = (micros(rate.p50_micros), micros(rate.p99_micros));
        format!("50 %: {half}  99 %: {most}")
    };
    Text::from(vec![
        line("read", read_speed, flow(&pace.reads), Color::Blue),
        line(
            "  latency",
            |s| s.reads.p99_micros,
            times(&pace.reads),
            Color::Blue,
        ),
        line("write", write_speed, flow(&pace.writes), Color::Magenta),
        line(
            "  latency",
            |s| s.writes.p99_micros,
            times(&pace.writes),
            Color::Magenta,
        ),
    ])
}

fn read_speed(sample: &TrendSample) -> u64 {
    sample.reads.bytes * 1000 / sample.span_millis.max(1)
}

fn write_speed(sample: &TrendSample) -> u64 {
    sample.writes.bytes * 1000 / sample.span_millis.max(1)
}

/// Rebuilds, the scrub, room in the journal and for stripes.
pub fn work(status: &StatusReport, width: usize) -> Text<'static> {
    let line = |label: &str, permille: u64, figure: String, colour| {
        let room = width.saturating_sub(LABEL_COLUMNS + FIGURE_COLUMNS + 1);
        Line::from(vec![
            Span::from(format!("{label:LABEL_COLUMNS$}")),
            Span::from(bar(permille, room)).fg(colour),
            Span::from(format!(" {figure}")),
        ])
    };
    let mut lines = Vec::new();
    for rebuild in &status.rebuilds {
        let done = permille(rebuild.done_bytes, rebuild.total_bytes);
        let figure = progress(done, rebuild.bytes_per_second, rebuild.eta_seconds);
        let label = format!("rebuild {}", rebuild.member);
        lines.push(line(&label, done, figure, Color::Cyan));
    }
    let scrub = &status.scrub;
    if scrub.state == "running" || scrub.state == "paused" {
        let done = permille(scrub.done_bytes, scrub.total_bytes);
        let figure = match scrub.state.as_str() {
            "paused" => format!("{} %, paused", done / 10),
            _ => progress(done, scrub.bytes_per_second, scrub.eta_seconds),
        };
        lines.push(line("scrub", done, figure, Color::Cyan));
    }
    let room_now = &status.room;
    let used = permille(room_now.journal_used_bytes, room_now.journal_bytes);
    let lane = u64::from(room_now.fullest_lane_permille);
    let figure = format!("{} %, fullest lane {} %", used / 10, lane / 10);
    lines.push(line("journal", used, figure, fullness(lane)));
    let free = permille(room_now.free_slots, room_now.slots);
    let figure = format!(
        "{} of {}",
        count(room_now.free_slots),
        count(room_now.slots)
    );
    lines.push(line("free slots", free, figure, fullness(1000 - free)));
    Text::from(lines)
}

/// How far something is, and when it will be done, or else how fast it is.
fn progress(permille: u64, bytes_per_second: u64, eta_seconds: Option<u64>) -> String {
    let percent = permille / 10;
    match eta_seconds {
        Some(seconds) => {
            let left = show_duration(Duration::from_secs(seconds));
            format!("{percent} %, {left} left")
        }
        None => format!("{percent} %, {}", speed(bytes_per_second)),
    }
}

fn fullness(permille: u64) -> Color {
    match permille {
        0..700 => Color::Green,
        700..900 => Color::Yellow,
        _ => Color::Red,
    }
}

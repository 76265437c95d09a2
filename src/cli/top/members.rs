//! The table of members.

use super::bars::{count, mebibytes, micros};
use super::frame::tone;
use super::view::{Pace, Watched};
use crate::control::wire::{MemberReport, Rate, StatusReport};
use crate::sizes::show_duration;
use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};
use std::time::Duration;

/// Columns with their widths; the path takes what is left.
const COLUMNS: [(&str, u16); 8] = [
    ("slot", 5),
    ("state", 11),
    ("reads/s", 7),
    ("writes/s", 8),
    ("MiB/s", 6),
    ("read50/99", 9),
    ("write50/99", 10),
    ("errors", 6),
];

/// Least width of the path.
const PATH_COLUMNS_MIN: u16 = 8;

/// Lines that the table of these members takes.
pub fn height(status: &StatusReport) -> u16 {
    u16::try_from(status.members.len() + 1).unwrap_or(u16::MAX)
}

/// Draws the members from the one that was scrolled to.
pub fn draw(frame: &mut Frame, area: Rect, array: &Watched, scrolled: usize) {
    let Some(status) = &array.status else { return };
    let room = usize::from(area.height.saturating_sub(1));
    let first = scrolled.min(status.members.len().saturating_sub(1));
    let all = status.members.iter().zip(&array.members);
    let taken: u16 = COLUMNS.iter().map(|(_, width)| width + 1).sum();
    let path_width = usize::from(area.width.saturating_sub(taken).max(PATH_COLUMNS_MIN));
    let row = |(member, pace)| row(member, pace, path_width);
    let rows: Vec<Row> = all.skip(first).take(room).map(row).collect();
    let below = status.members.len() - first - rows.len();
    let path = match (first, below) {
        (0, 0) => "path".to_string(),
        _ => format!("path ↑{first}↓{below}"),
    };
    let names = COLUMNS.map(|(name, _)| name.to_string()).into_iter();
    let names = names.enumerate().map(|(i, name)| match i {
        0 | 1 => Cell::from(name),
        _ => right(name),
    });
    let header = Row::new(names.chain([Cell::from(path)])).style(Style::new().dim());
    let widths = COLUMNS.map(|(_, width)| Constraint::Length(width));
    let widths = widths
        .into_iter()
        .chain([Constraint::Min(PATH_COLUMNS_MIN)]);
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn right(text: impl Into<Line<'static>>) -> Cell<'static> {
    Cell::from(text.into().right_aligned())
}

fn row(member: &MemberReport, pace: &Pace, path_width: usize) -> Row<'static> {
    // A former member has none either: which it is, its state says.
    let slot = member.slot.map_or("-".to_string(), |s| s.to_string());
    let bytes = pace.per_second(pace.reads.bytes + pace.writes.bytes);
    let errors = member.read_errors + member.write_errors + member.checksum_errors;
    let errors = match errors {
        0 => Span::from("0"),
        more => Span::from(count(more)).fg(Color::Red).bold(),
    };
    Row::new([
        Cell::from(slot),
        Cell::from(state(member)),
        right(count(pace.per_second(pace.reads.operations))),
        right(count(pace.per_second(pace.writes.operations))),
        right(mebibytes(bytes)),
        right(times(&pace.reads)),
        right(times(&pace.writes)),
        right(errors),
        Cell::from(end_of(
            member.path.as_deref().unwrap_or("not here"),
            path_width,
        )),
    ])
}

/// The end of a path says which device it is.
fn end_of(path: &str, width: usize) -> String {
    let length = path.chars().count();
    if length <= width {
        return path.to_string();
    }
    let end = path.chars().skip(length + 1 - width);
    ['…'].into_iter().chain(end).collect()
}

fn times(rate: &Rate) -> String {
    match rate.operations {
        0 => "-".to_string(),
        _ => format!("{}/{}", micros(rate.p50_micros), micros(rate.p99_micros)),
    }
}

/// Slow is what matters about a member that is in sync and slow.
fn state(member: &MemberReport) -> Span<'static> {
    match member.slow_seconds {
        Some(seconds) if member.state == "in-sync" => {
            let time = show_duration(Duration::from_secs(seconds));
            let time = time.split(' ').take(2).collect::<Vec<_>>().join(" ");
            Span::from(format!("SLOW {time}")).fg(Color::Yellow).bold()
        }
        _ => Span::from(member.shown_state().to_string()).fg(tone(member.shown_state())),
    }
}

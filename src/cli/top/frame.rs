//! One screen: how the array is, its members, what clients get, what is under way, what happened.

use super::gauges::{clients, work};
use super::members;
use super::view::{View, Watched};
use crate::cli::render::{advice, layout, limits};
use crate::control::wire::{EventReport, StatusReport};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Wrap};
use std::time::{Duration, Instant};

/// Most lines of what to type next.
const NEXT_LINES_MAX: u16 = 3;

/// Least lines of events, where there is little room.
const EVENT_LINES_MIN: u16 = 2;
/// Empty lines between the parts of the screen.
const GAPS: u16 = 4;

/// Least lines of the table of members.
const MEMBER_LINES_MIN: u16 = 4;

const HELP: &str = "\
q          end
← →        other arrays of this host
↑ ↓        members above and below, where not all fit
p          pause: nothing moves until it is pressed again
h          this, and back

reads/s, writes/s, MiB/s   of each member since the last look
read50/99, write50/99      how long 50 and 99 of 100 took, to the next power
                           of two (µ: millionths, m: thousandths of a second)
SLOW                       it is out of reads for being slow, for so long
errors                     reads, writes, checksums that failed (`uraid clear`)
clients                    ten seconds a column, at the right what goes on now
journal, lane              writes wait when a lane is full";

/// The colour of a state, of a member or an array.
pub fn tone(state: &str) -> Color {
    match state {
        "optimal" | "in-sync" => Color::Green,
        "rebuilding" | "replacing" => Color::Cyan,
        "degraded" | "warning" => Color::Yellow,
        "spare" | "former" | "info" => Color::Gray,
        _ => Color::Red,
    }
}

/// Draws what is to be seen at `now`.
pub fn draw(view: &View, now: Instant, frame: &mut Frame) {
    let array = view.shown();
    let [body, footer] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(keys(view), footer);
    if view.help {
        return frame.render_widget(Paragraph::new(HELP), body);
    }
    match &array.status {
        Some(status) => draw_array(view, status, now, (frame, body)),
        None => frame.render_widget(waiting(array), body),
    }
}

fn draw_array(view: &View, status: &StatusReport, now: Instant, (frame, body): (&mut Frame, Rect)) {
    let array = view.shown();
    let head = head(view, status, now);
    let next = Paragraph::new(next(status)).wrap(Wrap { trim: true });
    let width = usize::from(body.width);
    let clients = clients(array, width);
    let work = work(status, width);
    let next_height = wrapped_lines(&advice(status).next, width).min(NEXT_LINES_MAX);
    let rows = |text: &Text| u16::try_from(text.height()).unwrap_or(u16::MAX);
    let fixed = rows(&head) + next_height + rows(&clients) + rows(&work) + EVENT_LINES_MIN;
    let room = body.height.saturating_sub(fixed).max(MEMBER_LINES_MIN);
    let table_height = members::height(status).min(room);
    let head_height = rows(&head);
    // Parts stand apart where there is room for it.
    let events_height = u16::try_from(status.last_events.len()).unwrap_or(u16::MAX);
    let spare = room.saturating_sub(table_height) + EVENT_LINES_MIN;
    let gap = u16::from(spare >= events_height.saturating_add(GAPS));
    let [above, table, middle, under, bottom] = Layout::vertical([
        Constraint::Length(head_height + next_height),
        Constraint::Length(table_height),
        Constraint::Length(rows(&clients)),
        Constraint::Length(rows(&work)),
        Constraint::Min(0),
    ])
    .spacing(gap)
    .areas(body);
    let [top, advised] = Layout::vertical([
        Constraint::Length(head_height),
        Constraint::Length(next_height),
    ])
    .areas(above);
    frame.render_widget(head, top);
    frame.render_widget(next, advised);
    members::draw(frame, table, array, view.scrolled);
    frame.render_widget(clients, middle);
    frame.render_widget(work, under);
    let shown = usize::from(bottom.height);
    frame.render_widget(events(&status.last_events, shown), bottom);
}

/// Lines that a text takes whose words are not cut; a little more than it needs at times.
fn wrapped_lines(steps: &[String], width: usize) -> u16 {
    let Some(first) = steps.first() else { return 0 };
    let columns = first.chars().count() + "next  ".len();
    // A line loses less than a long word at its end.
    columns.div_ceil(width.saturating_sub(8).max(1)) as u16
}

fn waiting(array: &Watched) -> Paragraph<'static> {
    let text = match &array.silence {
        Some(why) => format!("{}: {why}\nasking again ...", array.name),
        None => format!("{}: asking the server ...", array.name),
    };
    Paragraph::new(text).wrap(Wrap { trim: true })
}

/// Name and layout; state; redundancy. And that all of it is old, if it is.
fn head(view: &View, status: &StatusReport, now: Instant) -> Text<'static> {
    let array = view.shown();
    let mut name = vec![
        Span::from(status.name.clone()).bold(),
        Span::from(format!("  {}", layout(status))),
        Span::from(match status.clients.connected {
            1 => "  1 client".to_string(),
            n => format!("  {n} clients"),
        })
        .dim(),
    ];
    if view.arrays.len() > 1 {
        let place = format!("  [{}/{}]", view.selected + 1, view.arrays.len());
        name.push(Span::from(place).bold());
    }
    if view.paused {
        name.push(Span::from("  PAUSED").fg(Color::Yellow).bold());
    }
    let mut lines = vec![Line::from(name)];
    lines.extend(silence(array, view.silence_max, now));
    let words = advice(status);
    let colour = match status.suspended {
        Some(_) => Color::Red,
        None => tone(&status.state),
    };
    lines.push(Line::from(Span::from(words.state).fg(colour).bold()));
    let troubles = words.troubles.into_iter();
    lines.extend(troubles.map(|trouble| Line::from(trouble).fg(Color::Red)));
    lines.push(redundancy(status, &words.risk));
    let limits = limits(&status.limits).into_iter();
    lines.extend(limits.map(|text| Line::from(format!("limits     {text}")).dim()));
    Text::from(lines)
}

/// That the server does not answer; what is shown is as old as it says.
fn silence(array: &Watched, silence_max: Duration, now: Instant) -> Option<Line<'static>> {
    let age = now.saturating_duration_since(array.at?);
    let why = match &array.silence {
        Some(why) => why.clone(),
        None if now.saturating_duration_since(array.heard?) > silence_max => {
            "the server does not answer".to_string()
        }
        None => return None,
    };
    let text = format!(
        "NO ANSWER, asking again; this is {} s old: {why}",
        age.as_secs()
    );
    Some(Line::from(text).style(Style::new().bg(Color::Red).fg(Color::White)))
}

fn redundancy(status: &StatusReport, risk: &str) -> Line<'static> {
    let (left, all) = (status.redundancy_left, status.parity);
    let colour = match left {
        _ if all == 0 => Color::Gray,
        0 => Color::Red,
        _ if left < all => Color::Yellow,
        _ => Color::Green,
    };
    let full = "■".repeat(left.min(all).into());
    let gone = "□".repeat(all.saturating_sub(left).into());
    Line::from(vec![
        Span::from(format!("redundancy {full}{gone} {left} of {all} left")).fg(colour),
        Span::from(format!("  {risk}")),
    ])
}

fn next(status: &StatusReport) -> Line<'static> {
    let mut steps = advice(status).next.into_iter();
    // The most urgent one; `uraid status` has the others.
    steps.next().map_or(Line::default(), |step| {
        Line::from(vec![Span::from("next  ").bold(), Span::from(step)])
    })
}

/// The last events that matter, newest first.
fn events(events: &[EventReport], shown: usize) -> Text<'static> {
    if events.is_empty() {
        return Text::from(Line::from("no warnings in the last events").dim());
    }
    let line = |event: &EventReport| {
        // Of the date, what tells today from yesterday.
        let time = event
            .time
            .get(5..19)
            .unwrap_or(&event.time)
            .replace('T', " ");
        Line::from(vec![
            Span::from(format!("{time}  ")).dim(),
            Span::from(event.text.clone()).fg(tone(&event.severity)),
        ])
    };
    let newest = events.iter().rev().take(shown).map(line);
    Text::from(newest.collect::<Vec<_>>())
}

fn keys(view: &View) -> Line<'static> {
    let arrays = if view.arrays.len() > 1 {
        "  ← → array"
    } else {
        ""
    };
    Line::from(format!("q quit{arrays}  ↑ ↓ members  p pause  h help")).dim()
}

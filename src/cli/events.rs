//! `uraid events`: what happened to an array, of a server or of members that are not served.

use super::args::EventsArgs;
use super::output::Output;
use super::{serve, target};
use crate::control::client::Client;
use crate::control::wire::{EventReport, EventsReport};
use crate::failure::{Doing, Failure};
use crate::server::members::{inspect, open};
use std::path::PathBuf;
use std::time::Duration;
use uraid_core::events::{EVENTS_AT, EVENTS_BYTES, Severity, read_event_pages};
use uraid_core::units::Uuid;
use uraid_io::device::OpenMode;

/// Between two looks of `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Shows events, or follows them until interrupted.
pub fn run(args: &EventsArgs, output: Output) -> Result<(), Failure> {
    if !args.members.is_empty() || !args.scan.is_empty() {
        let name = args.server.name.as_deref();
        let paths = serve::members(&args.members, &args.scan, name)?;
        return show(choose(offline(&paths)?, args), output);
    }
    let client = target::resolve(&args.server)?;
    // Those that do not matter enough are not among the last ones wanted.
    let events = client.events(0, usize::MAX)?;
    if !args.follow {
        return show(choose(events, args), output);
    }
    follow(&client, events, args, output)
}

/// Those that matter enough, the last ones of them.
fn choose(events: Vec<EventReport>, args: &EventsArgs) -> Vec<EventReport> {
    let mut events: Vec<_> = events.into_iter().filter(|e| matters(e, args)).collect();
    let more = events.len().saturating_sub(args.last.unwrap_or(usize::MAX));
    events.drain(..more);
    events
}

fn matters(event: &EventReport, args: &EventsArgs) -> bool {
    let rank = |word: &str| Severity::ALL.iter().position(|s| s.as_str() == word);
    rank(&event.severity) >= rank(args.severity.as_str())
}

fn show(events: Vec<EventReport>, output: Output) -> Result<(), Failure> {
    let lines: Vec<String> = events.iter().map(line).collect();
    let text = match lines.is_empty() {
        true => "no events".to_string(),
        false => lines.join("\n"),
    };
    output.result(&text, &EventsReport { events })
}

fn follow(
    client: &Client,
    mut events: Vec<EventReport>,
    args: &EventsArgs,
    output: Output,
) -> Result<(), Failure> {
    let mut from = 0;
    let mut shown = false;
    loop {
        from = events.last().map_or(from, |last| last.sequence + 1);
        // What was there before may be limited, what comes is not.
        if !shown {
            events = choose(events, args);
        }
        for event in events.iter().filter(|event| matters(event, args)) {
            output.line(&line(event), event)?;
        }
        shown = true;
        std::thread::sleep(FOLLOW_INTERVAL);
        events = client.events(from, usize::MAX)?;
    }
}

/// An event for people.
pub fn line(event: &EventReport) -> String {
    let EventReport {
        time,
        severity,
        kind,
        text,
        ..
    } = event;
    let next = event.next.as_ref();
    let next = next.map_or(String::new(), |next| format!("\n    next: {next}"));
    format!("{time}  {severity:8}  {kind}: {text}{next}")
}

/// What these members have kept, which must be of one array.
fn offline(paths: &[PathBuf]) -> Result<Vec<EventReport>, Failure> {
    let mut zones = Vec::new();
    let mut array: Option<(Uuid, String, u64)> = None;
    for path in paths {
        let file = open(path, OpenMode::inspect())?;
        let shown = path.display();
        let found = inspect(&file)?.superblock.ok_or_else(|| {
            Failure::failed(format!(
                "{shown} holds no uraid superblock; `uraid examine` says more"
            ))
        })?;
        let (uuid, name, _) = array.get_or_insert((found.array, found.name.clone(), found.key));
        if *uuid != found.array {
            return Err(Failure::usage(format!(
                "{shown} is a member of {}, not of {name}; name the members of one array",
                found.name
            )));
        }
        let mut zone = vec![0; EVENTS_BYTES as usize];
        file.read_at(EVENTS_AT, &mut zone)
            .doing(|| format!("read {shown}"))?;
        zones.push(zone);
    }
    let (_, name, key) = array.unwrap_or_default();
    let pages = read_event_pages(zones.iter().map(|zone| &zone[..]), key);
    let records = pages.iter().flat_map(|page| &page.records);
    Ok(records
        .map(|record| EventReport::new(&name, record))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn event(sequence: u64, severity: &str) -> EventReport {
        EventReport {
            array: "tank".to_string(),
            sequence,
            time: "2026-01-01T00:00:00.000Z".to_string(),
            severity: severity.to_string(),
            kind: "warning".to_string(),
            member: None,
            text: "look".to_string(),
            next: Some("type this".to_string()),
        }
    }

    #[test]
    fn the_last_of_those_that_matter_are_shown() {
        let events = ["info", "critical", "warning", "info"].iter().enumerate();
        let events: Vec<_> = events.map(|(i, s)| event(i as u64, s)).collect();
        let chosen = |options: &str| {
            let words = format!("uraid events {options}");
            let cli = Cli::try_parse_from(words.split_whitespace()).expect("a command");
            let Command::Events(args) = cli.command else {
                panic!("events")
            };
            let chosen = choose(events.clone(), &args);
            chosen.iter().map(|e| e.sequence).collect::<Vec<_>>()
        };
        assert_eq!(chosen(""), [0, 1, 2, 3]);
        assert_eq!(chosen("--severity warning"), [1, 2]);
        assert_eq!(chosen("--severity warning --last 1"), [2]);
        assert_eq!(chosen("--last 0"), [0; 0]);
    }

    #[test]
    fn a_line_says_when_what_and_what_next() {
        assert_eq!(
            line(&event(1, "critical")),
            "2026-01-01T00:00:00.000Z  critical  warning: look\n    next: type this"
        );
    }
}

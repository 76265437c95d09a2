//! Measures rebuilds: what clients feel of one, how fast it is beside them, and how fast alone.

mod array;
mod loads;
mod measure;
mod report;
mod slow;

use clap::Parser;
use cost::layout::Layout;
use cost::{document, place, tool};
use loads::{LOADS, Named};
use measure::{Plan, measure};
use slow::SlowPart;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Room that an array takes in terms of one member, at most: the largest has six, and one of them
/// is copied.
const ROOM_FACTOR: u64 = 8;
/// In a document, what was measured stands between markers of this name.
const MARKER: &str = "rebuild";

/// Measures rebuilds of uraid. In each round each load is put on an array that lacks a member, and
/// on the same array while that member is filled; then the member is filled alone, and copied
/// as `dd` would copy it.
///
/// Exit code: 0; 1 if anything failed. A latency that more than doubles is told and is no failure.
#[derive(Parser)]
struct Options {
    /// The program [default: `uraid` beside this one]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Where members are put, in a directory that is removed at the end [default: /dev/shm if
    /// it has room, else the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    members_on: Option<PathBuf>,
    /// Layout (repeatable): raid1x2, raid5-4+1 or raid6-4+2 [default: all]
    #[arg(long = "layout", value_name = "LAYOUT", value_parser = Layout::parse)]
    layouts: Vec<Layout>,
    /// Only loads that have this in their name (repeatable); "alone" for none
    #[arg(long = "only", value_name = "WORD")]
    words: Vec<String>,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each load in each state in each round
    #[arg(long, default_value_t = 1.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Data of each member in MiB: a rebuild must not end while it is measured
    #[arg(long, default_value_t = 768, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    mib: u64,
    /// `--rebuild-share` of the server [default: the server's]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    share: Option<u8>,
    /// Slow a member down to --slow-rate: one that is read, or the one that is filled. nbdkit and
    /// nbdfuse are needed; dd is measured on the slow one
    #[arg(long, value_name = "MEMBER", value_enum)]
    slow: Option<SlowPart>,
    /// MiB a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    slow_rate: u64,
    /// Chooses content and places of random requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also put the report between the markers `rebuild` of this Markdown file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    tool::exit(run(&Options::parse()).map(|()| ExitCode::SUCCESS))
}

fn run(options: &Options) -> Result<(), String> {
    if let Some(path) = &options.markdown {
        document::check(path, MARKER)?;
    }
    let plan = options.plan()?;
    let mut results = Vec::new();
    for layout in options.layouts() {
        results.push(measure(&plan, &layout, |what| eprintln!("{what}"))?);
    }
    let text = report::text(&plan, &results)?;
    print!("{text}");
    match &options.markdown {
        Some(path) => document::replace(path, MARKER, &text),
        None => Ok(()),
    }
}

impl Options {
    fn layouts(&self) -> Vec<Layout> {
        match self.layouts.is_empty() {
            true => Layout::ALL.to_vec(),
            false => self.layouts.clone(),
        }
    }

    fn plan(&self) -> Result<Plan, String> {
        let uraid = tool::find_uraid(self.binary.clone())?;
        let data_bytes = self.mib << 20;
        let default_dir = || place::default_dir(ROOM_FACTOR * data_bytes);
        Ok(Plan {
            uraid,
            dir: self.members_on.clone().unwrap_or_else(default_dir),
            loads: self.loads()?,
            rounds: self.rounds,
            time: Duration::from_secs_f64(self.seconds),
            data_bytes,
            share: self.share,
            slow: self.slow.map(|part| (part, self.slow_rate << 20)),
            seed: self.seed,
        })
    }

    fn loads(&self) -> Result<Vec<Named>, String> {
        let alone = |word: &String| word == "alone";
        let unknown =
            |word: &&String| !alone(word) && !LOADS.iter().any(|l| l.name.contains(*word));
        if let Some(word) = self.words.iter().find(unknown) {
            let names: Vec<&str> = LOADS.iter().map(|l| l.name).collect();
            let names = names.join("; ");
            return Err(format!(
                "--only {word:?}: no load has that in its name; there are {names}"
            ));
        }
        let wanted = |l: &Named| {
            self.words.is_empty() || self.words.iter().any(|word| l.name.contains(word))
        };
        Ok(LOADS.into_iter().filter(wanted).collect())
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    tool::parse_seconds(text, 0.01..=60.0)
}

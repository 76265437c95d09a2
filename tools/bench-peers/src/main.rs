//! Measures uraid and its peers under the same loads, round by round, and reports how they
//! compare and whether uraid reaches what is wanted of it.

mod btrfs;
mod driven;
mod fio;
mod interrupts;
mod json;
mod loads;
mod measure;
mod nbd;
mod plain;
mod plot;
mod report;
mod results;
mod select;
mod target;
mod wanted;

use clap::Parser;
use cost::{document, place, tool};
use interrupts::Interrupts;
use measure::{Plan, measure};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Room that all targets take in terms of one export, about: where there is less of it in memory,
/// members go to a disk unless one asks for memory.
const ROOM_FACTOR: u64 = 32;

/// Measures uraid and its peers under the same client load, round by round: nbdkit, qemu-nbd and
/// its mirror, and btrfs in this kernel (as root).
///
/// Exit code: 0; 1 if anything failed. What is wanted and missed is told and is no failure.
#[derive(Parser)]
struct Options {
    /// The program [default: `uraid` beside this one]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Where members are put, in a directory that is removed at the end [default: /dev/shm if
    /// it has room, else the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    members_on: Option<PathBuf>,
    /// Measure only targets, or loads, that have this in their name (repeatable); nbdkit file is
    /// always measured
    #[arg(long = "only", value_name = "WORD")]
    words: Vec<String>,
    /// Rounds; in each, every load is put on every target
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each load on each target in each round
    #[arg(long, default_value_t = 0.5, value_parser = parse_seconds)]
    seconds: f64,
    /// Size of each export in MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    mib: u64,
    /// Chooses content and places of random requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write all samples and ratios to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also put the report between the markers of this Markdown file: `peers-memory` or
    /// `peers-disk`, after where members are
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write plots (SVG) into this directory, under names that begin like the markers; shown
    /// in the Markdown file if that is in it
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

fn main() -> ExitCode {
    tool::exit(run(&Options::parse()).map(|()| ExitCode::SUCCESS))
}

fn run(options: &Options) -> Result<(), String> {
    let plan = options.plan()?;
    let marker = marker(place::is_memory(&plan.dir)?);
    if let Some(path) = &options.markdown {
        document::check(path, marker)?;
    }
    let results = measure(&plan, &Interrupts::hold_back()?, |what| eprintln!("{what}"))?;
    let text = report::text(&results);
    print!("{text}");
    if let Some(path) = &options.json {
        let json = format!("{:#}\n", json::report(&results));
        std::fs::write(path, json).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let plots = match &options.plots {
        Some(dir) => plot::write(&results, dir, marker)?,
        None => Vec::new(),
    };
    if let Some(path) = &options.markdown {
        let beside = options.plots.as_deref() == path.parent();
        let shown = plots.iter().filter(|_| beside);
        let images: String = shown.map(|name| format!("![{name}]({name})\n\n")).collect();
        document::replace(path, marker, &format!("{images}{text}"))?;
    }
    Ok(())
}

/// What figures of this kind are called in documents.
fn marker(in_memory: bool) -> &'static str {
    match in_memory {
        true => "peers-memory",
        false => "peers-disk",
    }
}

impl Options {
    fn plan(&self) -> Result<Plan, String> {
        let uraid = tool::find_uraid(self.binary.clone())?;
        let export_bytes = self.mib << 20;
        let (targets, works) = select::select(&self.words)?;
        let default_dir = || place::default_dir(ROOM_FACTOR * export_bytes);
        Ok(Plan {
            uraid,
            dir: self.members_on.clone().unwrap_or_else(default_dir),
            targets,
            works,
            rounds: self.rounds,
            time: Duration::from_secs_f64(self.seconds),
            export_bytes,
            seed: self.seed,
        })
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    tool::parse_seconds(text, 0.01..=3600.0)
}

//! Measures what each promise of uraid costs, and reports it.

use clap::Parser;
use cost::layout::Layout;
use cost::measure::{Plan, measure};
use cost::{document, json, place, report, tool};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Room a tmpfs must have before members go there: two arrays with parity, the plain file.
const ROOM_FACTOR: u64 = 6;

/// In a document, what was measured stands between markers of this name.
const MARKER: &str = "measured";

/// Measures what each promise of uraid costs: the program is served over members in a directory
/// and driven over its socket, beside nbdkit over one plain file; the engine's counters stand
/// next to the arithmetic of the design.
///
/// Exit code: 0; 1 if anything failed, or if a 4 KiB write and a FLUSH took more than one
/// parallel read, one parallel write and one parallel flush.
#[derive(Parser)]
struct Options {
    /// The program [default: `uraid` beside this one]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Where members are put, in a directory that is removed at the end [default: /dev/shm if
    /// it has room, else the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Layout (repeatable): raid1x2, raid5-4+1 or raid6-4+2 [default: all]
    #[arg(long = "layout", value_name = "LAYOUT", value_parser = Layout::parse)]
    layouts: Vec<Layout>,
    /// Rounds; in each, every load is put on every server
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each load on each server in each round
    #[arg(long, default_value_t = 1.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Pairs of 4 KiB write and FLUSH in each round
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// Size of each array in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    mib: u64,
    /// Chooses content and places of random requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure uraid alone
    #[arg(long)]
    no_baseline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also put the report between the markers of this Markdown file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let kept = run(&Options::parse());
    tool::exit(kept.map(|kept| match kept {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }))
}

/// Measures and reports. Returns whether the rule on flushes was kept.
fn run(options: &Options) -> Result<bool, String> {
    let plan = options.plan()?;
    if let Some(path) = &options.markdown {
        document::check(path, MARKER)?;
    }
    let measured = measure(&plan, |what| eprintln!("{what}"))?;
    if options.json {
        println!("{:#}", json::report(&plan, &measured));
    } else {
        print!("{}", report::text(&plan, &measured));
    }
    if let Some(path) = &options.markdown {
        document::replace(path, MARKER, &report::text(&plan, &measured))?;
    }
    let violations = report::violations(&measured);
    violations
        .iter()
        .for_each(|v| eprintln!("error: the rule on flushes is broken: {v}"));
    Ok(violations.is_empty())
}

impl Options {
    fn plan(&self) -> Result<Plan, String> {
        let array_bytes = self.mib << 20;
        let binary = tool::find_uraid(self.binary.clone())?;
        let layouts = match self.layouts.len() {
            0 => Layout::ALL.to_vec(),
            _ => self.layouts.clone(),
        };
        let default_dir = || place::default_dir(ROOM_FACTOR * array_bytes);
        Ok(Plan {
            binary,
            dir: self.dir.clone().unwrap_or_else(default_dir),
            layouts,
            rounds: self.rounds,
            time: Duration::from_secs_f64(self.seconds),
            pairs: self.pairs,
            array_bytes,
            seed: self.seed,
            baseline: !self.no_baseline,
        })
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    tool::parse_seconds(text, 0.001..=3600.0)
}

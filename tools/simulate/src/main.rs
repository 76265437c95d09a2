//! Plays seeds of the simulator until one fails or the budget is spent.

use clap::Parser;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use uraid_sim::play::{Failure, play, play_aloud};
use uraid_sim::scenario::{Fault, Layout, Limits};
use uraid_sim::world::Counts;

/// Plays seeds of the uraid simulator: a small array on simulated members, with clients that
/// check every byte, crashes and faults. The same seed and options play the same story.
#[derive(Parser)]
struct Options {
    /// How many seeds to play.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// How long to play, in seconds, instead of a number of seeds.
    #[arg(long, conflicts_with = "seeds")]
    seconds: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Play this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Kinds of fault that may happen, separated by commas; "none" for none.
    #[arg(long)]
    faults: Option<String>,
    /// Layouts to play, separated by commas.
    #[arg(long, value_delimiter = ',')]
    layouts: Vec<Layout>,
    /// Most requests of a seed.
    #[arg(long)]
    operations: Option<u64>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// Lines of the trace shown for a failure.
    #[arg(long, default_value_t = 40)]
    lines: usize,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn limits(&self) -> Result<Limits, String> {
        let mut limits = Limits::default();
        match self.faults.as_deref() {
            None => {}
            Some("none") => limits.faults.clear(),
            Some(words) => {
                limits.faults = words
                    .split(',')
                    .map(str::parse::<Fault>)
                    .collect::<Result<_, _>>()?;
            }
        }
        if !self.layouts.is_empty() {
            limits.layouts = self.layouts.clone();
        }
        limits.operations_max = self.operations.unwrap_or(limits.operations_max);
        Ok(limits)
    }

    /// The options that make a seed play the same story again.
    fn replay(&self, seed: u64) -> String {
        let mut text = format!("cargo run --profile simulate -p simulate -- --seed {seed} --trace");
        if let Some(faults) = &self.faults {
            text += &format!(" --faults {faults}");
        }
        if !self.layouts.is_empty() {
            let names: Vec<&str> = self.layouts.iter().map(|l| l.name).collect();
            text += &format!(" --layouts {}", names.join(","));
        }
        if let Some(operations) = self.operations {
            text += &format!(" --operations {operations}");
        }
        text
    }
}

#[derive(Default)]
struct Report {
    seeds: u64,
    failures: Vec<Failure>,
    totals: Counts,
    elapsed: Duration,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let limits = match options.limits() {
        Ok(limits) => limits,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    if let (Some(seed), true) = (options.seed, options.trace) {
        return play_one(seed, &limits);
    }
    // What a seed panics with is told with its verdict.
    std::panic::set_hook(Box::new(|_| ()));
    let report = play_all(&options, &limits);
    match options.json {
        true => println!("{}", to_json(&report)),
        false => print(&report, &options),
    }
    if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn play_one(seed: u64, limits: &Limits) -> ExitCode {
    match play_aloud(seed, limits) {
        Ok(counts) => {
            println!("seed {seed}: {counts:?}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("seed {seed} FAILED: {what}");
            ExitCode::FAILURE
        }
    }
}

fn play_all(options: &Options, limits: &Limits) -> Report {
    let begun = Instant::now();
    let seeds = match (options.seed, options.seconds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(_)) => options.from..u64::MAX,
        (None, None) => options.from..options.from + options.seeds,
    };
    let time = options.seconds.map(Duration::from_secs);
    let mut report = Report::default();
    for seed in seeds {
        if time.is_some_and(|limit| begun.elapsed() >= limit) {
            break;
        }
        report.seeds += 1;
        match play(seed, limits, options.lines) {
            Ok(counts) => add(&mut report.totals, counts),
            Err(failure) => {
                if !options.json {
                    print_failure(&failure, options);
                }
                report.failures.push(*failure);
                if !options.keep_going {
                    break;
                }
            }
        }
    }
    report.elapsed = begun.elapsed();
    report
}

fn fields(c: &mut Counts) -> [(&'static str, &mut u64); 12] {
    [
        ("requests", &mut c.requests),
        ("io", &mut c.io),
        ("kills", &mut c.kills),
        ("power_losses", &mut c.power_losses),
        ("crashes_in_recovery", &mut c.crashes_in_recovery),
        ("restarts", &mut c.restarts),
        ("degraded_starts", &mut c.degraded_starts),
        ("refused_starts", &mut c.refused_starts),
        ("breakdowns", &mut c.breakdowns),
        ("other_faults", &mut c.other_faults),
        ("commands", &mut c.commands),
        ("repairs", &mut c.repairs),
    ]
}

fn add(totals: &mut Counts, mut counts: Counts) {
    for ((_, total), (_, count)) in fields(totals).into_iter().zip(fields(&mut counts)) {
        *total += *count;
    }
}

fn seeds_per_minute(report: &Report) -> u64 {
    (report.seeds as f64 * 60.0 / report.elapsed.as_secs_f64().max(0.001)) as u64
}

fn print_failure(failure: &Failure, options: &Options) {
    println!("seed {} FAILED ({})", failure.seed, failure.scenario);
    failure.trace.iter().for_each(|line| println!("  {line}"));
    println!("  violated: {}", failure.what);
    println!("  replay: {}", options.replay(failure.seed));
}

fn print(report: &Report, options: &Options) {
    let mut totals = report.totals;
    let counts: Vec<String> = fields(&mut totals)
        .map(|(name, n)| format!("{name} {n}"))
        .to_vec();
    println!(
        "{} seeds in {:.1} s ({} a minute), {} failed; {}",
        report.seeds,
        report.elapsed.as_secs_f64(),
        seeds_per_minute(report),
        report.failures.len(),
        counts.join(", ")
    );
    for failure in report.failures.iter().filter(|_| options.keep_going) {
        let line = failure.what.lines().next().unwrap_or_default();
        println!("  seed {}: {line}", failure.seed);
    }
}

fn to_json(report: &Report) -> serde_json::Value {
    let mut totals = report.totals;
    let failures: Vec<serde_json::Value> = report
        .failures
        .iter()
        .map(|f| serde_json::json!({"seed": f.seed, "scenario": f.scenario, "violated": f.what}))
        .collect();
    let mut json = serde_json::json!({
        "seeds": report.seeds,
        "seconds": report.elapsed.as_secs_f64(),
        "seeds_per_minute": seeds_per_minute(report),
        "failures": failures,
    });
    for (name, count) in fields(&mut totals) {
        json[name] = (*count).into();
    }
    json
}

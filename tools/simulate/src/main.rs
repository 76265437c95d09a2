//! Plays seeds of the simulator until one fails or the budget is spent.

mod campaign;
mod exhaustive;
#[cfg(feature = "mutants")]
mod gate;

use campaign::{Campaign, Report};
use clap::Parser;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uraid_sim::exhaust::{Depth, Exhaust};
use uraid_sim::play::{Failure, play_aloud};
use uraid_sim::scenario::{Fault, Layout, Limits};
use uraid_sim::stories::Story;

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
    /// Play until clients have asked so many requests, instead of a number of seeds.
    #[arg(long, conflicts_with_all = ["seeds", "seconds"])]
    requests: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Take the first seed from the clock.
    #[arg(long, conflicts_with = "from")]
    fresh: bool,
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
    /// Seeds played at the same time; all cores if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Lines of the trace shown for a failure.
    #[arg(long, default_value_t = 40)]
    lines: usize,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
    /// Tell short stories on tiny arrays and try every crash of each.
    #[arg(long)]
    exhaustive: bool,
    /// With --exhaustive: a sample that takes seconds.
    #[arg(long, requires = "exhaustive")]
    quick: bool,
    /// With --exhaustive: this story alone.
    #[arg(long, requires = "exhaustive")]
    story: Option<Story>,
    /// Break this rule of the engine.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
    /// Play what is played against this mutant, without it.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    like: Option<String>,
    /// Break the engine's rules one by one: each must be noticed.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutants: bool,
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

    fn first_seed(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let clock = since.expect("the clock is right").as_secs() * 1_000_000;
        if self.fresh { clock } else { self.from }
    }

    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, Into::into);
        self.jobs.unwrap_or_else(cores)
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

fn main() -> ExitCode {
    run(&Options::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn run(options: &Options) -> Result<ExitCode, String> {
    #[cfg_attr(not(feature = "mutants"), allow(unused_mut))]
    let mut limits = options.limits()?;
    #[cfg(feature = "mutants")]
    {
        if options.mutants {
            return Ok(gate::run(options.first_seed(), options.jobs()));
        }
        if let Some(name) = options.mutant.as_deref().or(options.like.as_deref()) {
            let mutant = gate::find(name)?;
            limits = gate::limits_for(mutant);
            gate::break_rule(options.mutant.is_some().then_some(mutant));
        }
    }
    if options.exhaustive {
        return Ok(explore(options, &limits));
    }
    if let (Some(seed), true) = (options.seed, options.trace) {
        return Ok(play_one(seed, &limits));
    }
    // What a seed panics with is told with its verdict.
    std::panic::set_hook(Box::new(|_| ()));
    let report = play_all(options, &limits);
    match options.json {
        true => println!("{}", report.to_json()),
        false => print(&report, options),
    }
    Ok(match report.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn explore(options: &Options, limits: &Limits) -> ExitCode {
    let wanted = |s: &Story| options.story.is_none_or(|only| only.name == s.name);
    let plans: Vec<(Layout, Story)> = Exhaust::all(&limits.layouts)
        .filter(|(_, s)| wanted(s))
        .collect();
    let depth = match options.quick {
        true => Depth::QUICK,
        false => Depth::FULL,
    };
    exhaustive::run(&plans, depth, options.jobs())
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
    let first = options.first_seed();
    let seeds = match options.seed {
        Some(seed) => seed..seed + 1,
        None if options.seconds.is_some() || options.requests.is_some() => first..u64::MAX,
        None => first..first + options.seeds,
    };
    if options.fresh && !options.json {
        println!("seeds from {first} on");
    }
    let campaign = Campaign {
        seeds,
        time: options.seconds.map(Duration::from_secs),
        requests: options.requests,
        limits,
        jobs: options.jobs(),
        keep_going: options.keep_going,
        lines: options.lines,
    };
    campaign.run(|failure| {
        if !options.json {
            print_failure(failure, options);
        }
    })
}

fn print_failure(failure: &Failure, options: &Options) {
    println!("seed {} FAILED ({})", failure.seed, failure.scenario);
    failure.trace.iter().for_each(|line| println!("  {line}"));
    println!("  violated: {}", failure.what);
    println!("  replay: {}", options.replay(failure.seed));
}

fn print(report: &Report, options: &Options) {
    let counts: Vec<String> = report
        .totals
        .fields()
        .map(|(name, n)| format!("{name} {n}"))
        .to_vec();
    println!(
        "{} seeds in {:.1} s ({} a minute), {} failed; {}",
        report.seeds,
        report.elapsed.as_secs_f64(),
        report.seeds_per_minute(),
        report.failures.len(),
        counts.join(", ")
    );
    for failure in report.failures.iter().filter(|_| options.keep_going) {
        let line = failure.what.lines().next().unwrap_or_default();
        println!("  seed {}: {line}", failure.seed);
    }
}

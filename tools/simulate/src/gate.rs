//! The mutation gate: every rule of the engine is broken in turn, and must be noticed within so
//! many seeds. A rule that can be broken unnoticed is a hole in the simulator.

use crate::campaign::Campaign;
use crate::exhaustive::explore;
use std::process::ExitCode;
use std::time::Instant;
use uraid_sim::exhaust::{Depth, Exhaust};
use uraid_sim::mutants::{Mutant, SEEDS_MAX, shows_in_stories};
pub use uraid_sim::mutants::{activate as break_rule, limits_for};
use uraid_sim::play::Failure;
use uraid_sim::play::play;
use uraid_sim::scenario::{Layout, Limits};

/// The mutant with this name.
pub fn find(name: &str) -> Result<Mutant, String> {
    let mutant = Mutant::ALL.iter().find(|m| m.as_str() == name);
    let names = || Mutant::ALL.iter().map(|m| m.as_str()).collect::<Vec<_>>();
    let unknown = || {
        format!(
            "unknown mutant \"{name}\": use any of {}",
            names().join(", ")
        )
    };
    mutant.copied().ok_or_else(unknown)
}

/// Tries all rules, each on seeds from `first` on.
pub fn run(first: u64, jobs: usize) -> ExitCode {
    let begun = Instant::now();
    // What a seed panics with is told with its verdict.
    std::panic::set_hook(Box::new(|_| ()));
    println!("{:<22} {:>6}  caught by", "mutant", "plays");
    let (mut missed, mut unsound) = (Vec::new(), Vec::new());
    for mutant in Mutant::ALL {
        let limits = limits_for(*mutant);
        let tried = try_mutant(*mutant, &limits, first, jobs, &mut unsound);
        let (verdict, what) = match &tried.caught {
            Some(what) => ("", what.as_str()),
            None => ("NOTHING: ", mutant.breaks()),
        };
        let what: String = what.chars().take(110).collect();
        println!(
            "{:<22} {:>6}  {verdict}{what}",
            mutant.as_str(),
            tried.seeds
        );
        if tried.caught.is_none() {
            missed.push(mutant.as_str());
        }
    }
    let (all, seconds) = (Mutant::ALL.len(), begun.elapsed().as_secs_f64());
    println!(
        "{} of {all} mutants caught in {seconds:.0} s",
        all - missed.len()
    );
    for (mutant, failure) in &unsound {
        let (name, seed, what) = (mutant.as_str(), failure.seed, &failure.what);
        println!("FAILS WITH EVERY RULE KEPT: --like {name} --seed {seed}: {what}");
    }
    if missed.is_empty() && unsound.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "not caught within {SEEDS_MAX} seeds each: {}",
        missed.join(", ")
    );
    ExitCode::FAILURE
}

/// What became of one mutant.
struct Tried {
    seeds: u64,
    caught: Option<String>,
}

/// Plays seeds until one fails that passes when the rule is kept. Those that fail all the same
/// prove nothing about the mutant, and are noted as `unsound`.
fn try_mutant(
    mutant: Mutant,
    limits: &Limits,
    first: u64,
    jobs: usize,
    unsound: &mut Vec<(Mutant, Failure)>,
) -> Tried {
    if shows_in_stories(mutant) {
        return try_stories(mutant, jobs);
    }
    let (mut next, mut seeds) = (first, 0);
    while next < first + SEEDS_MAX {
        break_rule(Some(mutant));
        let campaign = Campaign {
            seeds: next..first + SEEDS_MAX,
            time: None,
            requests: None,
            limits,
            jobs,
            keep_going: false,
            lines: 0,
        };
        let report = campaign.run(|_| ());
        seeds += report.seeds;
        let Some(failure) = report.failures.first() else {
            break;
        };
        break_rule(None);
        match play(failure.seed, limits, 0) {
            Ok(_) => {
                let what = failure.what.lines().next().unwrap_or_default();
                let caught = Some(what.to_string());
                return Tried { seeds, caught };
            }
            Err(failure) => unsound.push((mutant, *failure)),
        }
        next = failure.seed + 1;
    }
    break_rule(None);
    Tried {
        seeds,
        caught: None,
    }
}

/// Tells the short stories until one fails; they pass when all rules are kept.
fn try_stories(mutant: Mutant, jobs: usize) -> Tried {
    break_rule(Some(mutant));
    let plans: Vec<_> = Exhaust::all(&Layout::ALL).collect();
    let (_, violations) = explore(&plans, Depth::QUICK, jobs);
    break_rule(None);
    Tried {
        seeds: plans.len() as u64,
        caught: violations.into_iter().next(),
    }
}

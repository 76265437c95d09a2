//! The mutation gate: every rule of the engine is broken in turn, and must be noticed within so
//! many seeds. A rule that can be broken unnoticed is a hole in the simulator.

use crate::campaign::Campaign;
use std::process::ExitCode;
use std::time::Instant;
use uraid_sim::mutants::{Mutant, SEEDS_MAX, activate as break_rule, limits_for};

/// Breaks the rule with this name, or none.
pub fn activate(name: Option<&str>) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    let mutant = Mutant::ALL.iter().find(|m| m.as_str() == name);
    let names = || Mutant::ALL.iter().map(|m| m.as_str()).collect::<Vec<_>>();
    let unknown = || {
        format!(
            "unknown mutant \"{name}\": use any of {}",
            names().join(", ")
        )
    };
    break_rule(Some(*mutant.ok_or_else(unknown)?));
    Ok(())
}

/// Tries all rules, each on seeds from `first` on.
pub fn run(first: u64, jobs: usize) -> ExitCode {
    let begun = Instant::now();
    // What a seed panics with is told with its verdict.
    std::panic::set_hook(Box::new(|_| ()));
    println!("{:<22} {:>6}  caught by", "mutant", "seeds");
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        break_rule(Some(*mutant));
        let limits = limits_for(*mutant);
        let campaign = Campaign {
            seeds: first..first + SEEDS_MAX,
            time: None,
            limits: &limits,
            jobs,
            keep_going: false,
            lines: 0,
        };
        let report = campaign.run(|_| ());
        match report.failures.first() {
            Some(failure) => {
                let what = failure.what.lines().next().unwrap_or_default();
                let short: String = what.chars().take(110).collect();
                println!("{:<22} {:>6}  {short}", mutant.as_str(), report.seeds);
            }
            None => {
                println!(
                    "{:<22} {:>6}  NOTHING: {}",
                    mutant.as_str(),
                    report.seeds,
                    mutant.breaks()
                );
                missed.push(mutant.as_str());
            }
        }
    }
    let (all, seconds) = (Mutant::ALL.len(), begun.elapsed().as_secs_f64());
    println!(
        "{} of {all} mutants caught in {seconds:.0} s",
        all - missed.len()
    );
    if missed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "not caught within {SEEDS_MAX} seeds each: {}",
        missed.join(", ")
    );
    ExitCode::FAILURE
}

//! Playing seeds: one seed, one verdict.

use crate::scenario::{Limits, Scenario};
use crate::trace::Trace;
use crate::world::{Counts, World};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A seed that found something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was played.
    pub scenario: String,
    /// What was violated.
    pub what: String,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

/// Plays one seed; a failing one is played once more for its trace, of which the last
/// `trace_lines` are kept.
pub fn play(seed: u64, limits: &Limits, trace_lines: usize) -> Result<Counts, Box<Failure>> {
    match attempt(seed, limits, Trace::default()) {
        (Ok(counts), _) => Ok(counts),
        (Err(what), _) => {
            let (again, world) = attempt(seed, limits, Trace::new(true, false));
            let mut trace: Vec<String> = world.trace().last(trace_lines).map(Into::into).collect();
            if again.as_ref().err() != Some(&what) {
                trace.push(format!(
                    "NOT DETERMINISTIC: the second time it was {again:?}"
                ));
            }
            let scenario = Scenario::new(seed, limits).to_string();
            Err(Box::new(Failure {
                seed,
                scenario,
                what,
                trace,
            }))
        }
    }
}

/// Plays one seed and prints every line of its trace to standard error as it happens.
pub fn play_aloud(seed: u64, limits: &Limits) -> Result<Counts, String> {
    attempt(seed, limits, Trace::new(true, true)).0
}

fn attempt(seed: u64, limits: &Limits, trace: Trace) -> (Result<Counts, String>, World) {
    let mut world = World::new(Scenario::new(seed, limits), trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.play()));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without words")))
    });
    (result, world)
}

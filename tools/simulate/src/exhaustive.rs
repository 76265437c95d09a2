//! All crashes of all stories, on all cores.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use uraid_sim::exhaust::{Depth, Exhaust, Tried};
use uraid_sim::scenario::Layout;
use uraid_sim::stories::Story;

/// Tries every story in every layout; gives what was tried and what was violated.
pub fn explore(plans: &[(Layout, Story)], depth: Depth, jobs: usize) -> (Tried, Vec<String>) {
    let next = AtomicUsize::new(0);
    let result = Mutex::new((Tried::default(), Vec::new()));
    let work = || {
        while let Some((layout, story)) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one = || Exhaust::new(*layout, *story).and_then(|e| e.run(depth));
            let tried = std::panic::catch_unwind(one).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                Err(format!("panic: {}", text.unwrap_or_default()))
            });
            let (all, violations) = &mut *result.lock().expect("no thread dies");
            match tried {
                Ok(tried) => {
                    all.crashes += tried.crashes;
                    all.images += tried.images;
                }
                Err(what) => violations.push(format!("{} {}: {what}", layout.name, story.name)),
            }
        }
    };
    std::thread::scope(|scope| {
        (0..jobs.max(1)).for_each(|_| {
            scope.spawn(work);
        });
    });
    result.into_inner().expect("no thread dies")
}

/// Tries them and tells.
pub fn run(plans: &[(Layout, Story)], depth: Depth, jobs: usize) -> ExitCode {
    let begun = Instant::now();
    std::panic::set_hook(Box::new(|_| ()));
    let (tried, violations) = explore(plans, depth, jobs);
    violations
        .iter()
        .for_each(|what| println!("FAILED: {what}"));
    println!(
        "{} stories, {} crashes, {} images of members recovered and read in {:.0} s, {} failed",
        plans.len(),
        tried.crashes,
        tried.images,
        begun.elapsed().as_secs_f64(),
        violations.len()
    );
    match violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

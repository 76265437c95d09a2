//! Playing many seeds, on all cores.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use uraid_sim::play::{Failure, play};
use uraid_sim::scenario::Limits;
use uraid_sim::world::Counts;

/// What is to be played.
pub struct Campaign<'a> {
    /// Seeds, in order.
    pub seeds: Range<u64>,
    /// Begin no seed after so long.
    pub time: Option<Duration>,
    /// Begin no seed after so many requests.
    pub requests: Option<u64>,
    /// What seeds may play.
    pub limits: &'a Limits,
    /// Threads.
    pub jobs: usize,
    /// Go on after a failure.
    pub keep_going: bool,
    /// Lines of trace kept of a failure.
    pub lines: usize,
}

/// What came of it.
#[derive(Default)]
pub struct Report {
    /// Seeds played.
    pub seeds: u64,
    /// Those that failed, in order.
    pub failures: Vec<Failure>,
    /// What all of them played came to.
    pub totals: Counts,
    /// How long it took.
    pub elapsed: Duration,
}

impl Campaign<'_> {
    /// Plays; `tell` hears of each failure at once.
    pub fn run(&self, tell: impl Fn(&Failure) + Sync) -> Report {
        let begun = Instant::now();
        let next = AtomicU64::new(self.seeds.start);
        let report = Mutex::new(Report::default());
        let over = || {
            let in_time = self.time.is_none_or(|limit| begun.elapsed() < limit);
            let report = report.lock().expect("no thread dies");
            let enough = self.requests.is_some_and(|n| report.totals.requests >= n);
            !in_time || enough || (!report.failures.is_empty() && !self.keep_going)
        };
        let work = || {
            while !over() {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.end {
                    return;
                }
                let result = play(seed, self.limits, self.lines);
                let mut report = report.lock().expect("no thread dies");
                report.seeds += 1;
                match result {
                    Ok(counts) => report.totals.add(&counts),
                    Err(failure) => {
                        tell(&failure);
                        report.failures.push(*failure);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            (0..self.jobs.max(1)).for_each(|_| {
                scope.spawn(work);
            });
        });
        let mut report = report.into_inner().expect("no thread dies");
        report.failures.sort_by_key(|f| f.seed);
        report.elapsed = begun.elapsed();
        report
    }
}

impl Report {
    /// How fast it went.
    pub fn seeds_per_minute(&self) -> u64 {
        (self.seeds as f64 * 60.0 / self.elapsed.as_secs_f64().max(0.001)) as u64
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let failures: Vec<serde_json::Value> = self
            .failures
            .iter()
            .map(
                |f| serde_json::json!({"seed": f.seed, "scenario": f.scenario, "violated": f.what}),
            )
            .collect();
        let mut json = serde_json::json!({
            "seeds": self.seeds,
            "seconds": self.elapsed.as_secs_f64(),
            "seeds_per_minute": self.seeds_per_minute(),
            "failures": failures,
        });
        for (name, count) in self.totals.fields() {
            json[name] = count.into();
        }
        json
    }
}

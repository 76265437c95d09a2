//! What was measured, and how it is compared.

use crate::loads::{Unit, Work};
use crate::measure::Plan;
use cost::table::Spread;
use serde::Serialize;
use std::thread::available_parallelism;
use uraid_load::Drive;

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

/// Under which conditions.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Setup {
    /// Rounds.
    pub rounds: u32,
    /// Seconds for each load on each target in each round.
    pub seconds: f64,
    /// Size of each export in MiB.
    pub export_mib: u64,
    /// Whether members are files in memory.
    pub in_memory: bool,
    /// CPUs, which clients and servers share.
    pub cpus: usize,
    /// Chose content and places.
    pub seed: u64,
}

/// One load on one target in one round.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Sample {
    /// What the client saw.
    pub drive: Drive,
    /// CPU time of the server; none for the kernel.
    pub cpu_seconds: Option<f64>,
}

/// A target under one load.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct OfTarget {
    /// Its name.
    pub target: &'static str,
    /// By round.
    pub samples: Vec<Sample>,
}

/// All targets under one load.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct OfWork {
    /// The load.
    pub work: Work,
    /// Those that took part.
    pub targets: Vec<OfTarget>,
}

/// A target that was left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Skipped {
    /// Its name.
    pub target: &'static str,
    /// Why.
    pub why: String,
}

/// Everything.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Results {
    /// Conditions.
    pub setup: Setup,
    /// By load.
    pub works: Vec<OfWork>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// In the unit of the load.
    Rate,
    /// Median latency in microseconds.
    P50,
    /// Latency that 99 of 100 keep below, in microseconds.
    P99,
    /// CPU seconds of the server for a GiB moved.
    CpuPerGib,
}

/// How a target compares with another.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ratio {
    /// Of the medians over all rounds.
    pub of_medians: f64,
    /// Of the two in each round.
    pub by_round: Spread,
}

impl Setup {
    /// That of a plan.
    pub fn new(plan: &Plan, in_memory: bool) -> Setup {
        Setup {
            rounds: plan.rounds,
            seconds: plan.time.as_secs_f64(),
            export_mib: plan.export_bytes >> 20,
            in_memory,
            cpus: available_parallelism().map_or(1, |n| n.get()),
            seed: plan.seed,
        }
    }
}

impl Sample {
    /// A quantity; none where it was not measured, or nothing was done.
    pub fn quantity(&self, quantity: Quantity, unit: Unit) -> Option<f64> {
        let drive = &self.drive;
        let found = match quantity {
            Quantity::P50 => drive.latency.p50_micros,
            Quantity::P99 => drive.latency.p99_micros,
            Quantity::CpuPerGib => self.cpu_seconds? / (drive.bytes() as f64 / GIB),
            Quantity::Rate => match unit {
                Unit::MibPerSecond => drive.bytes() as f64 / MIB / drive.seconds,
                Unit::Iops => drive.requests as f64 / drive.seconds,
            },
        };
        (found.is_finite() && found > 0.0).then_some(found)
    }
}

impl Results {
    /// A quantity by round; none where it was not measured.
    fn series(&self, work: &Work, target: &str, quantity: Quantity) -> Option<Vec<f64>> {
        let of_work = self.works.iter().find(|w| w.work == *work)?;
        let of_target = of_work.targets.iter().find(|t| t.target == target)?;
        let samples = of_target.samples.iter();
        samples.map(|s| s.quantity(quantity, work.unit)).collect()
    }

    /// Median and range of a quantity.
    pub fn spread(&self, work: &Work, target: &str, quantity: Quantity) -> Option<Spread> {
        Spread::of(self.series(work, target, quantity)?)
    }

    /// How one target under one load compares with another (or itself) under another load.
    pub fn ratio(
        &self,
        (work, target): (&Work, &str),
        (of_work, of_target): (&Work, &str),
        quantity: Quantity,
    ) -> Option<Ratio> {
        let ours = self.series(work, target, quantity)?;
        let theirs = self.series(of_work, of_target, quantity)?;
        let median = |series: &[f64]| Some(Spread::of(series.iter().copied())?.median);
        Some(Ratio {
            of_medians: median(&ours)? / median(&theirs)?,
            by_round: Spread::of(ours.iter().zip(&theirs).map(|(a, b)| a / b))?,
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::loads::{RANDOM_READ, SEQUENTIAL_READ};

    /// A target that moved so many MiB in a second, by round, each with a CPU second.
    pub fn of_target(target: &'static str, mib: &[u64]) -> OfTarget {
        let sample = |mib: &u64| Sample {
            drive: Drive {
                requests: mib << 8,
                read_bytes: mib << 20,
                seconds: 1.0,
                ..Drive::default()
            },
            cpu_seconds: Some(1.0),
        };
        OfTarget {
            target,
            samples: mib.iter().map(sample).collect(),
        }
    }

    /// Some results.
    pub fn results(works: Vec<OfWork>) -> Results {
        let setup = Setup {
            rounds: 3,
            seconds: 1.0,
            export_mib: 512,
            in_memory: true,
            cpus: 2,
            seed: 1,
        };
        Results {
            setup,
            works,
            skipped: Vec::new(),
        }
    }

    #[test]
    fn rounds_are_compared_with_each_other() {
        let results = results(vec![OfWork {
            work: SEQUENTIAL_READ,
            targets: vec![
                of_target("a", &[100, 200, 400]),
                of_target("b", &[50, 400, 100]),
            ],
        }]);
        let (a, b) = ((&SEQUENTIAL_READ, "a"), (&SEQUENTIAL_READ, "b"));
        let ratio = results.ratio(a, b, Quantity::Rate).expect("both are there");
        assert_eq!(ratio.of_medians, 2.0);
        assert_eq!(ratio.by_round.to_string(), "2.00 (0.500-4.00)");
        let cpu = results
            .ratio(a, b, Quantity::CpuPerGib)
            .expect("both are there");
        assert_eq!(cpu.by_round.median, 0.5);
    }

    #[test]
    fn what_was_not_measured_has_no_ratio() {
        let results = results(vec![OfWork {
            work: RANDOM_READ,
            targets: vec![of_target("a", &[1]), of_target("idle", &[0])],
        }]);
        let a = (&RANDOM_READ, "a");
        for other in [
            (&RANDOM_READ, "b"),
            (&SEQUENTIAL_READ, "a"),
            (&RANDOM_READ, "idle"),
        ] {
            assert_eq!(results.ratio(a, other, Quantity::Rate), None, "{other:?}");
        }
    }
}

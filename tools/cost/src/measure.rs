//! The measurement: all servers up at the same time, every load on each of them in each round, so
//! that what the machine does otherwise falls on all alike.

use crate::counters::Counters;
use crate::design::Design;
use crate::flush_rule::{Check, judge};
use crate::layout::Layout;
use crate::server::{Server, Sizes, Uraid};
use crate::tool::of_client;
use std::path::PathBuf;
use std::time::Duration;
use uraid_load::{Drive, Kind, Limit, Load, Order};

/// A block is written and flushed, one pair after the other; each to a block that no other pair
/// has touched (as long as there are any), far from the last one.
const PAIRS: Load = Load::new(Kind::WriteAndFlush, Order::Scattered, 4 << 10, 1);

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `uraid` program.
    pub binary: PathBuf,
    /// Where members are put, in a directory of their own.
    pub dir: PathBuf,
    /// Layouts, one after the other.
    pub layouts: Vec<Layout>,
    /// Rounds.
    pub rounds: u32,
    /// Time for each load on each server in each round.
    pub time: Duration,
    /// Pairs of write and FLUSH in each round.
    pub pairs: u64,
    /// Bytes of each array, about.
    pub array_bytes: u64,
    /// Chooses content and random places.
    pub seed: u64,
    /// Whether nbdkit is measured too, where it is installed.
    pub baseline: bool,
}

/// A load and what it is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// The load.
    pub load: Load,
}

/// All loads.
pub const CASES: [Case; 8] = [
    Case::new("read 1 MiB, depth 1", false, false, 1),
    Case::new("read 1 MiB, depth 32", false, false, 32),
    Case::new("write 1 MiB, depth 1", true, false, 1),
    Case::new("write 1 MiB, depth 32", true, false, 32),
    Case::new("random read 4 KiB, depth 1", false, true, 1),
    Case::new("random read 4 KiB, depth 32", false, true, 32),
    Case::new("random write 4 KiB, depth 1", true, true, 1),
    Case::new("random write 4 KiB, depth 32", true, true, 32),
];

impl Case {
    const fn new(name: &'static str, write: bool, random: bool, depth: usize) -> Case {
        let kind = if write { Kind::Write } else { Kind::Read };
        let load = if random {
            Load::new(kind, Order::Random, 4 << 10, depth)
        } else {
            Load::new(kind, Order::Sequential, 1 << 20, depth)
        };
        Case { name, load }
    }
}

/// The servers that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// `uraid` as it ships.
    Uraid,
    /// `uraid` that does not verify what it reads.
    Unverified,
    /// nbdkit over a plain file.
    Baseline,
}

impl Target {
    /// All there are.
    pub const ALL: [Target; 3] = [Target::Uraid, Target::Unverified, Target::Baseline];
}

/// One load on one server in one round.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// What the client saw.
    pub drive: Drive,
    /// CPU time of the server.
    pub cpu_seconds: f64,
}

/// What was measured of one load, or of pairs of write and FLUSH.
#[derive(Clone, Default, Debug)]
pub struct Results {
    /// Samples by target, in the order of [`Target::ALL`], then by round.
    pub samples: [Vec<Sample>; 3],
    /// Counters of [`Target::Uraid`], all rounds together, until the array was at rest again.
    pub counters: Option<Counters>,
}

/// What was measured of one layout.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The layout.
    pub layout: Layout,
    /// Sizes of its array.
    pub sizes: Sizes,
    /// By case, in the order of [`CASES`].
    pub cases: Vec<Results>,
    /// Of pairs of write and FLUSH.
    pub pairs: Results,
    /// The rule on flushes.
    pub checks: Vec<Check>,
}

impl Measured {
    /// What the design says of each case, beside what was measured.
    pub fn with_design(&self) -> impl Iterator<Item = (&'static Case, &Results, Design)> {
        let of = |case: &Case, results: &Results| {
            let Sizes {
                chunk_bytes,
                rows_per_checkpoint,
                ..
            } = self.sizes;
            let samples = &results.samples[Target::Uraid as usize];
            let client_bytes = samples.iter().map(|s| s.drive.bytes()).sum();
            let rests = samples.len() as u64;
            Design::of(&self.layout, &case.load, chunk_bytes, rows_per_checkpoint).with_rests(
                &self.layout,
                rests,
                client_bytes,
            )
        };
        let cases = CASES.iter().zip(&self.cases);
        cases.map(move |(case, results)| (case, results, of(case, results)))
    }
}

/// Carries out the plan. `progress` is told what is being done.
///
/// # Errors
/// Of the servers; members too small for the plan.
pub fn measure(plan: &Plan, progress: impl Fn(&str)) -> Result<Vec<Measured>, String> {
    let one = |layout: &Layout| measure_layout(plan, *layout, &progress);
    plan.layouts.iter().map(one).collect()
}

fn measure_layout(
    plan: &Plan,
    layout: Layout,
    progress: &impl Fn(&str),
) -> Result<Measured, String> {
    let say = |what: &str| progress(&format!("{}: {what}", layout.name));
    let dir = tempfile::Builder::new()
        .prefix("uraid-cost-")
        .tempdir_in(&plan.dir);
    let dir = dir.map_err(|e| format!("{}: {e}", plan.dir.display()))?;
    let uraid = Uraid {
        binary: &plan.binary,
        dir: dir.path(),
    };
    let member_bytes = (plan.array_bytes / layout.data).next_multiple_of(1 << 20);
    let sizes = uraid.create("verified", &layout, member_bytes)?;
    sizes.check(&layout)?;
    uraid.create("unverified", &layout, member_bytes)?;
    let baseline = if plan.baseline {
        Server::nbdkit(dir.path(), sizes.export_bytes, plan.seed)?
    } else {
        None
    };
    let unchecked = ["--skip-verification"];
    let mut bench = Bench {
        servers: [
            Some(uraid.serve("verified", &layout, &[], plan.seed)?),
            Some(uraid.serve("unverified", &layout, &unchecked, plan.seed)?),
            baseline,
        ],
        cases: vec![Results::default(); CASES.len()],
        pairs: Results::default(),
    };
    say("filling, wrapping the journal");
    bench.warm_up(&layout, &sizes)?;
    for round in 0..plan.rounds {
        for (number, case) in CASES.iter().enumerate() {
            say(&format!(
                "round {} of {}: {}",
                round + 1,
                plan.rounds,
                case.name
            ));
            bench.round(number, round, plan.time)?;
        }
        say(&format!(
            "round {} of {}: write + FLUSH",
            round + 1,
            plan.rounds
        ));
        bench.round_of_pairs(round, plan.pairs)?;
    }
    let pairs = plan.pairs * u64::from(plan.rounds);
    let counters = bench.pairs.counters.as_ref().ok_or("there was no round")?;
    Ok(Measured {
        layout,
        sizes,
        checks: judge(&layout, pairs, counters),
        cases: bench.cases,
        pairs: bench.pairs,
    })
}

/// Servers at work and what was measured of them so far.
struct Bench {
    /// In the order of [`Target::ALL`].
    servers: [Option<Server>; 3],
    cases: Vec<Results>,
    pairs: Results,
}

impl Bench {
    /// Fills the arrays, so that every block is in place and checksummed, and writes at random
    /// until every block of the journals has been used.
    fn warm_up(&mut self, layout: &Layout, sizes: &Sizes) -> Result<(), String> {
        const RANDOM_WRITE: Load = CASES[7].load;
        const REQUESTS: u64 = 1024;
        let journals_bytes = sizes.journals_bytes(layout);
        for server in self.servers.iter_mut().flatten() {
            server.clients.fill(u64::MAX, |_| ()).map_err(of_client)?;
            loop {
                let written = |c: Counters| c.zone("journal").written_bytes;
                let used = server.counters()?.map_or(u64::MAX, written);
                if used >= journals_bytes {
                    break;
                }
                let limit = Limit::Requests(REQUESTS);
                drive(server, &RANDOM_WRITE, limit).map_err(of_client)?;
            }
            server.settle()?;
        }
        Ok(())
    }

    fn round(&mut self, number: usize, round: u32, time: Duration) -> Result<(), String> {
        let load = CASES[number].load;
        // Who writes does not verify: the second server would measure the same once more.
        let wanted = |t: &Target| !load.writes() || *t != Target::Unverified;
        for target in rotated(round).into_iter().filter(wanted) {
            let Some(server) = &mut self.servers[target as usize] else {
                continue;
            };
            let (sample, counters) = sample(server, &load, Limit::Time(time))?;
            self.cases[number].add(target, sample, counters);
        }
        Ok(())
    }

    fn round_of_pairs(&mut self, round: u32, pairs: u64) -> Result<(), String> {
        for target in rotated(round) {
            let server = match &mut self.servers[target as usize] {
                Some(server) if target != Target::Unverified => server,
                _ => continue,
            };
            let (sample, counters) = sample(server, &PAIRS, Limit::Requests(pairs))?;
            self.pairs.add(target, sample, counters);
        }
        Ok(())
    }
}

impl Results {
    fn add(&mut self, target: Target, sample: Sample, counters: Option<Counters>) {
        self.samples[target as usize].push(sample);
        if target == Target::Uraid {
            let so_far = self.counters.take();
            self.counters = match (so_far, counters) {
                (Some(a), Some(b)) => Some(a.plus(&b)),
                (a, b) => a.or(b),
            };
        }
    }
}

/// Another server begins in each round.
fn rotated(round: u32) -> [Target; 3] {
    let mut targets = Target::ALL;
    targets.rotate_left(round as usize % Target::ALL.len());
    targets
}

fn drive(server: &mut Server, load: &Load, limit: Limit) -> std::io::Result<Drive> {
    server.clients.drive(load, limit, |_| ())
}

/// Measures some work on a server at rest. What it writes is charged with all that follows from
/// it: CPU time and counters are taken when the server is at rest again.
fn sample(
    server: &mut Server,
    load: &Load,
    limit: Limit,
) -> Result<(Sample, Option<Counters>), String> {
    let before = server.counters()?;
    let cpu_before = server.cpu_seconds()?;
    let drive = drive(server, load, limit).map_err(of_client)?;
    let after = if load.writes() {
        server.settle()?
    } else {
        server.counters()?
    };
    let sample = Sample {
        drive,
        cpu_seconds: server.cpu_seconds()? - cpu_before,
    };
    let counters = after
        .zip(before)
        .map(|(after, before)| after.since(&before));
    Ok((sample, counters))
}

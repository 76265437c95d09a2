//! The measurement: all targets up at the same time, every load on each of them in each round, so
//! that what the machine does otherwise falls on all alike.

use crate::btrfs::Btrfs;
use crate::driven::{Absence, Driven, Started};
use crate::interrupts::Interrupts;
use crate::loads::{RANDOM_WRITE, Work};
use crate::nbd::{Nbd, Site, needs_twin};
use crate::plain::PlainFile;
use crate::results::{OfTarget, OfWork, Results, Sample, Setup, Skipped};
use crate::target::Target;
use cost::place;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use uraid_load::{Drive, Limit};

/// Random writes count once the journals have been used so often from end to end.
const JOURNAL_USES_MIN: f64 = 2.0;
/// Between two looks at how often they have been.
const WARM_UP_REQUESTS: u64 = 1024;

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `uraid` program.
    pub uraid: PathBuf,
    /// Where members are put, in a directory of their own.
    pub dir: PathBuf,
    /// Who is measured; the baseline is among them.
    pub targets: Vec<Target>,
    /// What they are asked to do.
    pub works: Vec<Work>,
    /// Rounds.
    pub rounds: u32,
    /// Time for each load on each target in each round.
    pub time: Duration,
    /// Size of each export in bytes.
    pub export_bytes: u64,
    /// Chooses content and random places.
    pub seed: u64,
}

/// Carries out the plan. `progress` is told what is being done.
///
/// # Errors
/// Of the targets; too little room; a signal that has come.
pub fn measure(
    plan: &Plan,
    interrupts: &Interrupts,
    progress: impl Fn(&str),
) -> Result<Results, String> {
    check_room(plan)?;
    let dir = tempfile::Builder::new()
        .prefix("uraid-bench-peers-")
        .tempdir_in(&plan.dir);
    let dir = dir.map_err(|e| format!("{}: {e}", plan.dir.display()))?;
    let in_memory = place::is_memory(dir.path())?;
    // The targets before the directory in which their files are.
    let (mut bench, skipped) = Bench::start(plan, dir.path(), interrupts, &progress)?;
    bench.warm_up(&progress)?;
    let mut works: Vec<OfWork> = plan.works.iter().map(|w| bench.empty(w)).collect();
    for round in 0..plan.rounds {
        for of_work in &mut works {
            let (number, rounds) = (round + 1, plan.rounds);
            progress(&format!(
                "round {number} of {rounds}: {}",
                of_work.work.name
            ));
            bench.round(round, plan.time, of_work)?;
        }
    }
    Ok(Results {
        setup: Setup::new(plan, in_memory),
        works,
        skipped,
    })
}

/// Also memory, if that is where files go: what is not resident yet counts as free there.
fn check_room(plan: &Plan) -> Result<(), String> {
    let twins = needs_twin(&plan.works);
    let bytes = |t: &Target| t.file_bytes(plan.export_bytes, twins);
    let needed: u64 = plan.targets.iter().map(bytes).sum();
    let mut room = place::room_bytes(&plan.dir)?;
    if place::is_memory(&plan.dir)? {
        room = room.min(memory_available_bytes().unwrap_or(u64::MAX));
    }
    if room >= needed {
        return Ok(());
    }
    Err(format!(
        "{}: {} MiB are needed, there is room for {}: use --members-on, a smaller --mib, or --only",
        plan.dir.display(),
        needed >> 20,
        room >> 20
    ))
}

fn memory_available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// Targets that are up.
struct Bench<'a> {
    interrupts: &'a Interrupts,
    targets: Vec<(Target, Box<dyn Driven>)>,
}

/// A turn that was measured; its CPU time is not known before the afterwork is done.
struct Turn {
    target: usize,
    drive: Drive,
    cpu_seconds_before: Option<f64>,
}

impl<'a> Bench<'a> {
    fn start(
        plan: &Plan,
        dir: &Path,
        interrupts: &'a Interrupts,
        progress: &impl Fn(&str),
    ) -> Result<(Bench<'a>, Vec<Skipped>), String> {
        let (mut targets, mut skipped) = (Vec::new(), Vec::new());
        for target in &plan.targets {
            interrupts.check()?;
            progress(&format!("starting {}", target.name()));
            match start(*target, plan, dir) {
                Ok(driven) => targets.push((*target, driven)),
                Err(Absence::Skipped(why)) => skipped.push(Skipped {
                    target: target.name(),
                    why,
                }),
                Err(Absence::Failed(text)) => return Err(format!("{}: {text}", target.name())),
            }
        }
        let bench = Bench {
            interrupts,
            targets,
        };
        Ok((bench, skipped))
    }

    /// Fills all targets, and writes to them at random until journals have wrapped: those without
    /// one as much as the one that took most.
    fn warm_up(&mut self, progress: &impl Fn(&str)) -> Result<(), String> {
        let mut most = 0;
        for (target, driven) in &mut self.targets {
            self.interrupts.check()?;
            progress(&format!("filling {}", target.name()));
            let named = |text: String| format!("{}: {text}", target.name());
            driven.fill().map_err(named)?;
            let mut requests = 0;
            while driven
                .journal_uses()
                .map_err(named)?
                .is_some_and(|uses| uses < JOURNAL_USES_MIN)
            {
                let limit = Limit::Requests(WARM_UP_REQUESTS);
                driven.drive(&RANDOM_WRITE, limit).map_err(named)?;
                requests += WARM_UP_REQUESTS;
            }
            most = most.max(requests);
        }
        let most = most.max(WARM_UP_REQUESTS);
        for (target, driven) in &mut self.targets {
            let named = |text: String| format!("{}: {text}", target.name());
            if *target != Target::PlainFile && driven.journal_uses().map_err(named)?.is_none() {
                let limit = Limit::Requests(most);
                driven.drive(&RANDOM_WRITE, limit).map_err(named)?;
            }
        }
        self.settle(|_| true)
    }

    fn empty(&self, work: &Work) -> OfWork {
        let takes = |(target, _): &&(Target, _)| target.takes(work);
        let of_target = |(target, _): &(Target, _)| OfTarget {
            target: target.name(),
            samples: Vec::new(),
        };
        OfWork {
            work: *work,
            targets: self.targets.iter().filter(takes).map(of_target).collect(),
        }
    }

    /// Each target's turn, another one first in each round. Arrays that were written to are left
    /// to finish what follows from it before anybody else has a turn; those next to each other do
    /// so together.
    fn round(&mut self, round: u32, time: Duration, results: &mut OfWork) -> Result<(), String> {
        let work = results.work;
        let mut order: Vec<usize> = (0..self.targets.len()).collect();
        order.rotate_left(round as usize % self.targets.len());
        let mut unsettled = Vec::new();
        for number in order {
            let (target, driven) = &mut self.targets[number];
            if !target.takes(&work) {
                continue;
            }
            let afterwork = driven.has_afterwork() && work.load.writes();
            if !afterwork {
                self.finish(&mut unsettled, results)?;
            }
            unsettled.push(self.turn(number, &work, time)?);
            if !afterwork {
                self.finish(&mut unsettled, results)?;
            }
        }
        self.finish(&mut unsettled, results)
    }

    fn turn(&mut self, number: usize, work: &Work, time: Duration) -> Result<Turn, String> {
        self.interrupts.check()?;
        let (target, driven) = &mut self.targets[number];
        let named = |text: String| format!("{}: {}: {text}", target.name(), work.name);
        Ok(Turn {
            target: number,
            cpu_seconds_before: driven.cpu_seconds(work).map_err(named)?,
            drive: driven.drive(work, Limit::Time(time)).map_err(named)?,
        })
    }

    /// Charges turns with the CPU time of all that followed from them.
    fn finish(&mut self, turns: &mut Vec<Turn>, results: &mut OfWork) -> Result<(), String> {
        let work = results.work;
        if work.load.writes() {
            self.settle(|number| turns.iter().any(|turn| turn.target == number))?;
        }
        for turn in turns.drain(..) {
            let (target, driven) = &mut self.targets[turn.target];
            let after = driven.cpu_seconds(&work)?;
            let spent = after.zip(turn.cpu_seconds_before);
            let mut of_targets = results.targets.iter_mut();
            let of_target = of_targets.find(|t| t.target == target.name());
            of_target.expect("it takes this load").samples.push(Sample {
                drive: turn.drive,
                cpu_seconds: spent.map(|(after, before)| after - before),
            });
        }
        Ok(())
    }

    /// Waits until these targets are at rest, all at the same time.
    fn settle(&mut self, wanted: impl Fn(usize) -> bool) -> Result<(), String> {
        let numbered = self.targets.iter_mut().enumerate();
        let wanted = numbered.filter(|(number, (_, d))| wanted(*number) && d.has_afterwork());
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (_, (_, driven)) in wanted {
                threads.push(scope.spawn(move || driven.settle()));
            }
            threads
                .into_iter()
                .try_for_each(|t| t.join().expect("no bug in it"))
        })
    }
}

fn start(target: Target, plan: &Plan, dir: &Path) -> Started {
    let site = Site {
        uraid: &plan.uraid,
        dir,
        export_bytes: plan.export_bytes,
        seed: plan.seed,
    };
    match target {
        Target::NbdkitFile => Nbd::nbdkit_file(&site),
        Target::NbdkitMemory => Nbd::nbdkit_memory(&site),
        Target::QemuRaw => Nbd::qemu_raw(&site),
        Target::QemuQuorum => Nbd::qemu_quorum(&site),
        Target::Uraid(array) => Nbd::uraid(&site, array, needs_twin(&plan.works)),
        Target::Btrfs(array) => Btrfs::start(&site, array),
        Target::PlainFile => Ok(Box::new(PlainFile::create(dir, plan.export_bytes)?)),
    }
}

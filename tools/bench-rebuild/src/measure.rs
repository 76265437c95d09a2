//! The measurement: one array, which lacks a member and has it filled by turns, so that what the
//! machine does otherwise falls on both states alike.

use crate::array::{Array, Progress};
use crate::loads::Named;
use crate::slow::SlowPart;
use cost::layout::Layout;
use cost::place;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use uraid_load::{Drive, Kind, Limit, Load, Order};

/// Between two looks at a rebuild that is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// A rebuild that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(150);
/// What dd is told: `bs=1M`.
const COPY_BYTES: usize = 1 << 20;
/// Random writes before anything is measured: journals are used from end to end.
const WARM_UP_REQUESTS: u64 = 60_000;

/// What to measure, and how long.
pub struct Plan {
    /// The `uraid` program.
    pub uraid: PathBuf,
    /// Where members are put, in a directory of their own.
    pub dir: PathBuf,
    /// What clients ask for.
    pub loads: Vec<Named>,
    /// Rounds.
    pub rounds: u32,
    /// Time for each load in each state in each round.
    pub time: Duration,
    /// Data of each member.
    pub data_bytes: u64,
    /// `--rebuild-share`, unless it is the server's default.
    pub share: Option<u8>,
    /// A member that is slow, and its bytes a second.
    pub slow: Option<(SlowPart, u64)>,
    /// Chooses content and random places.
    pub seed: u64,
}

/// One load on one array.
pub struct OfLoad {
    /// What it is called.
    pub name: &'static str,
    /// By round.
    pub turns: Vec<Turn>,
}

/// One load in both states, in one round.
pub struct Turn {
    /// A member is missing.
    pub degraded: Drive,
    /// It is being filled.
    pub rebuilding: Drive,
    /// Bytes a second of the member that were filled meanwhile.
    pub rebuilt: f64,
}

/// The rebuild without clients, in one round.
pub struct Alone {
    /// Bytes a second of the member.
    pub rebuilt: f64,
    /// Bytes a second of a plain copy of one member.
    pub copied: f64,
}

/// All of one layout.
pub struct OfLayout {
    /// The layout.
    pub layout: Layout,
    /// By load.
    pub loads: Vec<OfLoad>,
    /// By round.
    pub alone: Vec<Alone>,
}

/// Carries out the plan on one layout. `progress` is told what is being done.
///
/// # Errors
/// Of the server; too little room; a rebuild that ends before the load does.
pub fn measure(plan: &Plan, layout: &Layout, progress: impl Fn(&str)) -> Result<OfLayout, String> {
    let dir = tempfile::Builder::new()
        .prefix("uraid-bench-rebuild-")
        .tempdir_in(&plan.dir);
    let dir = dir.map_err(|e| format!("{}: {e}", plan.dir.display()))?;
    let needed = (layout.members() + 2) * plan.data_bytes;
    let room = place::room_bytes(dir.path())?;
    if room < needed {
        let (dir, needed, room) = (plan.dir.display(), needed >> 20, room >> 20);
        return Err(format!(
            "{dir}: {needed} MiB are needed, there is room for {room}"
        ));
    }
    progress(&format!("{}: filling it", layout.name));
    let mut array = Array::serve(plan, layout, dir.path())?;
    array.warm_up(WARM_UP_REQUESTS)?;
    array.break_it()?;
    let name = |named: &Named| OfLoad {
        name: named.name,
        turns: Vec::new(),
    };
    let mut found = OfLayout {
        layout: *layout,
        loads: plan.loads.iter().map(name).collect(),
        alone: Vec::new(),
    };
    for round in 0..plan.rounds {
        for (named, of_load) in plan.loads.iter().zip(&mut found.loads) {
            let of = format!("round {} of {}", round + 1, plan.rounds);
            progress(&format!("{}: {of}: {}", layout.name, named.name));
            of_load
                .turns
                .push(turn(plan, &mut array, &named.load, round)?);
        }
        found.alone.push(alone(&mut array, dir.path())?);
    }
    Ok(found)
}

/// Both states, another one first in each round.
fn turn(plan: &Plan, array: &mut Array, load: &Load, round: u32) -> Result<Turn, String> {
    let limit = Limit::Time(plan.time);
    let first = match round % 2 {
        0 => Some(array.drive(load, limit)?),
        _ => None,
    };
    array.begin_rebuild()?;
    let (before, begun) = (array.progress()?, Instant::now());
    let rebuilding = array.drive(load, limit)?;
    let (elapsed, after) = (begun.elapsed(), array.progress()?);
    let (Progress::At(before), Progress::At(after)) = (before, after) else {
        return Err(
            "the rebuild ended before the load: use a larger --mib or a smaller --seconds".into(),
        );
    };
    array.break_it()?;
    let degraded = match first {
        Some(first) => first,
        None => array.drive(load, limit)?,
    };
    Ok(Turn {
        degraded,
        rebuilding,
        rebuilt: (after - before) as f64 / elapsed.as_secs_f64(),
    })
}

/// A rebuild without clients, and a copy of a member without anything.
fn alone(array: &mut Array, dir: &Path) -> Result<Alone, String> {
    array.settle()?;
    let begun = array.begin_rebuild()?;
    let mut bytes = 0;
    while let Progress::At(done) = array.progress()? {
        bytes = bytes.max(done);
        if begun.elapsed() > PATIENCE {
            return Err(format!("a rebuild takes longer than {PATIENCE:?}"));
        }
        sleep(LOOK);
    }
    let took = begun.elapsed();
    // What is used of the member, as the last look but one need not have seen all of it.
    let bytes = array.used_bytes()?.max(bytes);
    array.break_it()?;
    let (source, target) = array.copied(dir);
    Ok(Alone {
        rebuilt: bytes as f64 / took.as_secs_f64(),
        copied: copy(&source, &target, bytes)?,
    })
}

/// Copies so many bytes of a file as dd does, and returns how many a second.
fn copy(source: &Path, target: &Path, bytes: u64) -> Result<f64, String> {
    let of = |path: &Path, e| format!("{}: {e}", path.display());
    let mut from = File::open(source).map_err(|e| of(source, e))?;
    let _ = std::fs::remove_file(target);
    let mut to = File::create(target).map_err(|e| of(target, e))?;
    let mut buffer = vec![0; COPY_BYTES];
    let (begun, mut copied) = (Instant::now(), 0);
    while copied < bytes {
        let len = from.read(&mut buffer).map_err(|e| of(source, e))?;
        if len == 0 {
            break;
        }
        to.write_all(&buffer[..len]).map_err(|e| of(target, e))?;
        copied += len as u64;
    }
    to.sync_data().map_err(|e| of(target, e))?;
    let rate = copied as f64 / begun.elapsed().as_secs_f64();
    std::fs::remove_file(target).map_err(|e| of(target, e))?;
    Ok(rate)
}

/// What fills the journals before anything is measured.
pub const WARM_UP: Load = Load::new(Kind::Write, Order::Random, 4 << 10, 32);

//! The measurement: each layout in each state, each load over each number of connections, round
//! by round.

use super::args::State;
use super::array::{Array, Rebuilder};
use super::client::{Job, Work, carry_out};
use super::interrupt::Interrupt;
use super::layout::Layout;
use super::members::{Members, Source};
use super::progress::Steps;
use crate::cli::args::IoBackend;
use crate::control::wire::IoReport;
use crate::failure::Failure;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use uraid_load::{Drive, Kind, Limit, Load, Order};

/// A journal larger than what is written in this time is not used up before the measurement.
const WARM_UP_MAX: Duration = Duration::from_secs(5);
/// Requests between two looks whether the journal is used up.
const WARM_UP_REQUESTS: u64 = 4096;

/// How long an array takes to come to rest, and to be made and filled, about.
const REST: Duration = Duration::from_millis(1700);
const PREPARATION: Duration = Duration::from_secs(4);

const STREAM_DEPTH: usize = 16;
const SMALL_DEPTH: usize = 32;

/// A load and what it is called.
#[derive(Debug)]
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// The load.
    pub load: Load,
}

/// All loads.
pub const CASES: [Case; 8] = [
    stream("read 1 MiB, depth 16", Kind::Read),
    stream("write 1 MiB, depth 16", Kind::Write),
    small("random read 4 KiB, depth 1", Kind::Read, 1),
    small("random read 4 KiB, depth 32", Kind::Read, SMALL_DEPTH),
    small("random write 4 KiB, depth 1", Kind::Write, 1),
    RANDOM_WRITE,
    small(
        "70 % read, 30 % write 4 KiB, depth 32",
        Kind::Mixed { read_percent: 70 },
        SMALL_DEPTH,
    ),
    small("write 4 KiB + FLUSH, depth 1", Kind::WriteAndFlush, 1),
];

const RANDOM_WRITE: Case = small("random write 4 KiB, depth 32", Kind::Write, SMALL_DEPTH);

const fn stream(name: &'static str, kind: Kind) -> Case {
    let load = Load::new(kind, Order::Sequential, 1 << 20, STREAM_DEPTH);
    Case { name, load }
}

const fn small(name: &'static str, kind: Kind, depth: usize) -> Case {
    let load = Load::new(kind, Order::Random, 4 << 10, depth);
    Case { name, load }
}

/// What is to be measured.
pub struct Plan {
    pub layouts: Vec<Layout>,
    pub states: Vec<State>,
    pub connections: Vec<usize>,
    pub rounds: u32,
    /// For each load in each round.
    pub time: Duration,
    /// That are written and read.
    pub size_bytes: u64,
    /// Whether an array comes to rest after writes before they are charged.
    pub rest: bool,
    pub io: Option<IoBackend>,
}

/// What came of one layout in one state.
pub struct Measured {
    pub layout: Layout,
    pub state: State,
    /// Of the array.
    pub export_bytes: u64,
    /// That were written and read.
    pub driven_bytes: u64,
    /// By load, then by connections.
    pub cells: Vec<Cell>,
}

/// One load over one number of connections.
pub struct Cell {
    pub case: &'static Case,
    pub connections: usize,
    /// By round.
    pub samples: Vec<Sample>,
}

/// One round of a cell.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What the client saw.
    pub drive: Drive,
    /// CPU time of the server.
    pub cpu_seconds: f64,
    /// Written to members for each byte that the client wrote; none where it cannot be told.
    pub write_amplification: Option<f64>,
    /// Speed of the rebuild, in bytes a second, where there is one.
    pub rebuilt_bytes_per_second: Option<f64>,
}

impl Plan {
    /// Size of members that are made: together they hold the data.
    pub fn member_bytes(&self, layout: &Layout) -> u64 {
        let own = self.size_bytes.div_ceil(layout.data() as u64);
        // What is no data: superblocks, journal, checksums.
        (own + own / 8 + (8 << 20)).next_multiple_of(1 << 20)
    }

    /// How long it takes, about.
    pub fn estimate(&self) -> Duration {
        let writing = CASES.iter().filter(|case| case.load.writes()).count() as u32;
        let rests = if self.rest { writing } else { 0 };
        let cases = self.time * CASES.len() as u32 + REST * rests;
        let turns = self.states.len() * self.connections.len() * self.rounds as usize;
        (cases * turns as u32 + PREPARATION) * self.layouts.len() as u32
    }

    /// Cells to be measured, rounds counted.
    pub fn steps(&self) -> usize {
        let cells = self.layouts.len() * self.states.len() * self.connections.len() * CASES.len();
        cells * self.rounds as usize
    }

    /// Measures one layout in all states.
    pub fn measure(
        &self,
        layout: &Layout,
        source: &Source,
        stop: &Interrupt,
        steps: &mut Steps,
    ) -> Result<Vec<Measured>, Failure> {
        let member_bytes = self.member_bytes(layout);
        steps.prepare(&format!("{}: making and filling it", layout.name()));
        let members = Members::create(source, layout, member_bytes, stop)?;
        let journals_bytes = members.journals_bytes()?;
        let array = Array::serve(members, self.io)?;
        let export_bytes = array.client.status()?.size_bytes;
        let bench = Bench {
            plan: self,
            array,
            driven_bytes: self.size_bytes.min(export_bytes),
            jobs: AtomicU64::new(1),
            stop,
        };
        bench.warm_up(journals_bytes)?;
        let in_state = |state: &State| {
            Ok(Measured {
                layout: *layout,
                state: *state,
                export_bytes,
                driven_bytes: bench.driven_bytes,
                cells: bench.measure(layout, *state, steps)?,
            })
        };
        self.states.iter().map(in_state).collect()
    }
}

/// One array while it is measured.
struct Bench<'a> {
    plan: &'a Plan,
    array: Array,
    driven_bytes: u64,
    /// Jobs so far. It chooses content and places: others in each, the same in each run.
    jobs: AtomicU64,
    stop: &'a Interrupt,
}

impl Bench<'_> {
    /// Writes all data once, and to the journals until every block of them was used: files get
    /// their blocks from the filesystem when they are first written.
    fn warm_up(&self, journals_bytes: u64) -> Result<(), Failure> {
        let bytes = self.driven_bytes;
        self.drive(1, Work::Fill { bytes }, || Ok(()))?;
        let begun = Instant::now();
        let journalled = |io: IoReport| io.zones.get("journal").map_or(0, |z| z.written_bytes);
        while self.plan.rest
            && begun.elapsed() < WARM_UP_MAX
            && journalled(self.array.io()?) < journals_bytes
        {
            let limit = Limit::Requests(WARM_UP_REQUESTS);
            self.drive(1, self.work(&RANDOM_WRITE, limit), || Ok(()))?;
        }
        if self.plan.rest {
            self.array.rest(self.stop)?;
        }
        Ok(())
    }

    /// All cells in one state; the array is healthy before and afterwards.
    fn measure(
        &self,
        layout: &Layout,
        state: State,
        steps: &mut Steps,
    ) -> Result<Vec<Cell>, Failure> {
        let mut cells: Vec<Cell> = Vec::new();
        for case in &CASES {
            cells.extend(self.plan.connections.iter().map(|connections| Cell {
                case,
                connections: *connections,
                samples: Vec::new(),
            }));
        }
        self.array.enter(state, layout.losses())?;
        for _ in 0..self.plan.rounds {
            for cell in &mut cells {
                let (name, case) = (layout.name(), cell.case.name);
                let connections = super::report::connections(cell.connections);
                steps.next(&format!("{name} {}: {case}, {connections}", state.name()));
                let sample = self.sample(cell.case, cell.connections, state)?;
                cell.samples.push(sample);
            }
        }
        self.array.leave(state, layout.losses(), self.stop)?;
        Ok(cells)
    }

    /// Measures a load. What it writes is charged with all that follows from it, if that can be
    /// told apart from other work.
    fn sample(&self, case: &Case, connections: usize, state: State) -> Result<Sample, Failure> {
        let rests = self.plan.rest && state != State::Rebuilding;
        let work = self.work(case, Limit::Time(self.plan.time));
        let mut rebuilder = Rebuilder::default();
        let mut look = || match state {
            State::Rebuilding => rebuilder.look(&self.array),
            State::Healthy | State::Degraded => Ok(()),
        };
        look()?;
        let (io_before, cpu_before) = (self.array.io()?, self.array.cpu()?);
        let begun = Instant::now();
        let drive = self.drive(connections, work, &mut look)?;
        look()?;
        let elapsed = begun.elapsed();
        if rests && case.load.writes() {
            self.array.rest(self.stop)?;
        }
        let written = written_bytes(&self.array.io()?) - written_bytes(&io_before);
        let told = rests && drive.written_bytes > 0;
        let rebuilt = rebuilder.bytes as f64 / elapsed.as_secs_f64();
        Ok(Sample {
            drive,
            cpu_seconds: (self.array.cpu()? - cpu_before).as_secs_f64(),
            write_amplification: told.then(|| written as f64 / drive.written_bytes as f64),
            rebuilt_bytes_per_second: (state == State::Rebuilding).then_some(rebuilt),
        })
    }

    fn work(&self, case: &Case, limit: Limit) -> Work {
        let load = Load {
            working_set_bytes: Some(self.driven_bytes),
            ..case.load
        };
        Work::Drive { load, limit }
    }

    fn drive(
        &self,
        connections: usize,
        work: Work,
        tick: impl FnMut() -> Result<(), Failure>,
    ) -> Result<Drive, Failure> {
        let job = Job {
            address: self.array.address.clone(),
            connections,
            seed: self.jobs.fetch_add(1, Ordering::Relaxed),
            work,
        };
        carry_out(&job, self.stop, tick)
    }
}

/// Written to all members, whatever for.
fn written_bytes(io: &IoReport) -> u64 {
    io.zones.values().map(|zone| zone.written_bytes).sum()
}

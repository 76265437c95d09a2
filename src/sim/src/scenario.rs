//! What one seed plays: the array, the load and the faults. Swarm testing: each seed switches
//! some kinds of fault off, because faults hide each other (A. Groce et al., "Swarm Testing",
//! ISSTA 2012).

use crate::disk::Speed;
use crate::host::path_of;
use crate::load::Mix;
use crate::rng::Rng;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use uraid_core::geometry::Level;
use uraid_engine::api::{OpenOptions, ReadOptions};
use uraid_engine::status::ReadBalance;

/// Kinds of fault that a seed may play.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// Stop and start again.
    Restart,
    /// `kill -9`.
    Kill,
    /// Loss of power.
    Power,
    /// Crashes while recovery is at work.
    Nested,
    /// Members break, up to the redundancy.
    Break,
    /// Members hang, up to the redundancy.
    Hang,
    /// The operator fails, removes, adds and replaces members.
    Operator,
    /// Members are not there at a start, up to the redundancy.
    Absent,
    /// Sectors cannot be read, on no more members than the redundancy.
    ReadErrors,
    /// A flush fails and takes with it what it was to make durable.
    FlushErrors,
    /// Members are found as older images of themselves, up to the redundancy.
    Rollback,
    /// Members have no space for a while.
    Full,
    /// Blocks rot, on no more members than the redundancy.
    Rot,
    /// Writes are lost, on no more members than the redundancy.
    LostWrites,
    /// Reads and writes go elsewhere, on no more members than the redundancy.
    Misdirect,
    /// Members are slow for a while, any number of them.
    Slow,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 16] = [
        Fault::Restart,
        Fault::Kill,
        Fault::Power,
        Fault::Nested,
        Fault::Break,
        Fault::Hang,
        Fault::Operator,
        Fault::Absent,
        Fault::ReadErrors,
        Fault::FlushErrors,
        Fault::Rollback,
        Fault::Full,
        Fault::Rot,
        Fault::LostWrites,
        Fault::Misdirect,
        Fault::Slow,
    ];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Restart => "restart",
            Fault::Kill => "kill",
            Fault::Power => "power",
            Fault::Nested => "nested",
            Fault::Break => "break",
            Fault::Hang => "hang",
            Fault::Operator => "operator",
            Fault::Absent => "absent",
            Fault::ReadErrors => "read-errors",
            Fault::FlushErrors => "flush-errors",
            Fault::Rollback => "rollback",
            Fault::Full => "full",
            Fault::Rot => "rot",
            Fault::LostWrites => "lost-writes",
            Fault::Misdirect => "misdirect",
            Fault::Slow => "slow",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Fault {
    type Err = String;
    fn from_str(text: &str) -> Result<Fault, String> {
        Fault::ALL
            .into_iter()
            .find(|f| f.as_str() == text)
            .ok_or_else(|| {
                let all = Fault::ALL.map(Fault::as_str).join(", ");
                format!("unknown fault \"{text}\": use any of {all}")
            })
    }
}

/// A kind of array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The word on the command line.
    pub name: &'static str,
    /// Level.
    pub level: Level,
    /// Members.
    pub members: usize,
    /// Parities, for `rs`.
    pub parity: Option<u16>,
    /// Members that may be lost, whichever they are.
    pub redundancy: usize,
}

impl Layout {
    /// Those that are simulated.
    pub const ALL: [Layout; 8] = [
        Layout::new("raid0", Level::Raid0, 2, None, 0),
        Layout::new("raid1x2", Level::Raid1, 2, None, 1),
        Layout::new("raid1x3", Level::Raid1, 3, None, 2),
        Layout::new("raid10", Level::Raid10, 4, None, 1),
        Layout::new("raid5", Level::Raid5, 3, None, 1),
        Layout::new("raid6x4", Level::Raid6, 4, None, 2),
        Layout::new("raid6x5", Level::Raid6, 5, None, 2),
        Layout::new("rs2+3", Level::Rs, 5, Some(3), 3),
    ];

    const fn new(
        name: &'static str,
        level: Level,
        members: usize,
        parity: Option<u16>,
        redundancy: usize,
    ) -> Layout {
        Layout {
            name,
            level,
            members,
            parity,
            redundancy,
        }
    }
}

impl FromStr for Layout {
    type Err = String;
    fn from_str(text: &str) -> Result<Layout, String> {
        Layout::ALL
            .into_iter()
            .find(|l| l.name == text)
            .ok_or_else(|| {
                let all = Layout::ALL.map(|l| l.name).join(", ");
                format!("unknown layout \"{text}\": use any of {all}")
            })
    }
}

/// How the members of a play are read.
fn read_options(seed: u64) -> ReadOptions {
    let mut rng = Rng::new(seed ^ 0x6865_6467_6573);
    ReadOptions {
        balance: *rng.pick(&ReadBalance::ALL),
        hedge_percent: *rng.pick(&[0, 5, 20, 100]),
        write_mostly: match rng.chance(0.2) {
            true => vec![path_of(rng.below(4) as usize)],
            false => Vec::new(),
        },
        weights: vec![(path_of(0), 3)],
    }
}

/// What seeds may play.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Kinds of fault; each seed takes some of them.
    pub faults: BTreeSet<Fault>,
    /// Layouts; each seed takes one.
    pub layouts: Vec<Layout>,
    /// Most requests of a seed.
    pub operations_max: u64,
    /// Whether each seed switches some kinds of fault off.
    pub swarm: bool,
    /// About how many faults a seed plays, at most.
    pub faults_max: u64,
    /// Chunks in bytes; each seed takes one.
    pub chunk_bytes: Vec<u32>,
    /// Slots for data on each member, for each journal. A few seeds have far more.
    pub slots: Range<u64>,
    /// Requests in flight at most; each seed takes one.
    pub depths: Vec<usize>,
    /// How much longer flushes take than other I/O; each seed takes one. Above 8 some last longer
    /// than the two seconds for which a server that stops waits for I/O.
    pub flush_factors: Vec<u64>,
    /// The load; if there is none, each seed draws one.
    pub mix: Option<Mix>,
    /// Whether rot strikes data alone. Otherwise it strikes anywhere on a member, and a small
    /// array lies on a small part of it.
    pub rot_in_data: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            faults: Fault::ALL.into(),
            layouts: Layout::ALL.to_vec(),
            operations_max: 2000,
            swarm: true,
            faults_max: 8,
            chunk_bytes: vec![4 << 10, 8 << 10, 16 << 10, 64 << 10],
            slots: 12..60,
            depths: vec![1, 3, 8, 24],
            flush_factors: vec![1, 1, 8],
            mix: None,
            rot_in_data: false,
        }
    }
}

/// One seed's play.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The kind of array.
    pub layout: Layout,
    /// Chunk in bytes.
    pub chunk_bytes: u32,
    /// Journals.
    pub lanes: u16,
    /// Journals as short as they may be, so that they wrap often.
    pub short_rings: bool,
    /// Slots for data on each member, about.
    pub slots: u64,
    /// What part of the capacity is exported.
    pub export_share: f64,
    /// The engine's limit of payload at work.
    pub in_flight_bytes_max: u64,
    /// Memory for reads that go past the engine; none: there are none.
    pub view_bytes_max: u64,
    /// Requests in flight at most.
    pub depth: usize,
    /// Requests in all.
    pub operations: u64,
    /// How likely clients pause after a request.
    pub pause: f64,
    /// Load.
    pub mix: Mix,
    /// Devices.
    pub speed: Speed,
    /// Most seconds for which a member hangs.
    pub hang_seconds_max: u64,
    /// Kinds of fault that happen.
    pub faults: BTreeSet<Fault>,
    /// How likely each kind is to happen at each request.
    pub fault_rate: f64,
    /// Whether rot strikes data alone.
    pub rot_in_data: bool,
    /// How members are chosen for reads.
    pub reads: ReadOptions,
    /// Seeds everything that is drawn later.
    pub rng: Rng,
}

impl Scenario {
    /// What the engine may take of memory.
    pub fn limits(&self) -> OpenOptions {
        OpenOptions {
            in_flight_bytes_max: self.in_flight_bytes_max,
            journalled_bytes_max: self.in_flight_bytes_max,
            checksum_bytes_max: self.in_flight_bytes_max,
            view_bytes_max: self.view_bytes_max,
            reads: self.reads.clone(),
            ..OpenOptions::default()
        }
    }

    /// The play of `seed`.
    pub fn new(seed: u64, limits: &Limits) -> Scenario {
        let mut rng = Rng::new(seed);
        let operations = (limits.operations_max >> rng.below(4)).max(1);
        // Slowness is drawn apart, so that all other seeds keep their stories.
        let drawn = Fault::ALL.iter().filter(|f| **f != Fault::Slow);
        let mut wanted: Vec<f64> = drawn.map(|_| rng.below(1000) as f64 / 1000.0).collect();
        wanted.push(Rng::new(seed ^ 0x736c_6f77).below(1000) as f64 / 1000.0);
        let share = *rng.pick(&[0.3, 0.6, 1.0]);
        let on = |f: &&Fault| {
            limits.faults.contains(f) && (wanted[**f as usize] < share || !limits.swarm)
        };
        let faults = Fault::ALL.iter().filter(on).copied().collect();
        let lanes = *rng.pick(&[1, 1, 2, 3]);
        let scenario = Scenario {
            layout: *rng.pick(&limits.layouts),
            chunk_bytes: *rng.pick(&limits.chunk_bytes),
            lanes,
            short_rings: rng.chance(0.8),
            slots: rng.within(limits.slots.clone()) * u64::from(lanes),
            export_share: *rng.pick(&[1.0, 1.0, 0.7]),
            in_flight_bytes_max: *rng.pick(&[64 << 10, 256 << 10, 8 << 20]),
            // Drawn from the seed: all plays keep their stories. Small, so that chunks share places.
            view_bytes_max: [0, 2 << 10, 1 << 20][seed as usize % 3],
            depth: *rng.pick(&limits.depths),
            operations,
            pause: *rng.pick(&[0.0, 0.01, 0.1]),
            mix: limits.mix.clone().unwrap_or_else(|| Mix::random(&mut rng)),
            speed: Speed {
                least: *rng.pick(&[5_000, 50_000]),
                spread: *rng.pick(&[0, 3, 8, 12]),
                flush: *rng.pick(&limits.flush_factors),
            },
            hang_seconds_max: 40,
            faults,
            fault_rate: rng.within(1..limits.faults_max) as f64 / operations as f64,
            rot_in_data: limits.rot_in_data,
            reads: read_options(seed),
            rng,
        };
        scenario.enlarged(seed).prolonged(seed)
    }

    /// Some arrays have more stripes than one map page holds.
    fn enlarged(mut self, seed: u64) -> Scenario {
        // Drawn apart, so that all other seeds keep their stories.
        let mut rng = Rng::new(seed ^ 0x6d61_7020_7061_6765);
        if rng.chance(0.05) {
            self.chunk_bytes = 4 << 10;
            self.lanes = 1;
            self.slots = rng.within(550..1200);
        }
        self
    }

    /// In some plays members hang for longer than any answer may take.
    fn prolonged(mut self, seed: u64) -> Scenario {
        // Drawn apart, as above.
        if Rng::new(seed ^ 0x6c6f_6e67_2068_616e).chance(0.3) {
            self.hang_seconds_max = 2000;
        }
        self
    }

    /// Whether a kind of fault happens at all.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<&str> = self.faults.iter().map(|f| f.as_str()).collect();
        write!(
            f,
            "{}, chunk {} KiB, {} lanes, {} slots, depth {}, {} requests, faults: {}",
            self.layout.name,
            self.chunk_bytes >> 10,
            self.lanes,
            self.slots,
            self.depth,
            self.operations,
            if faults.is_empty() {
                "none".into()
            } else {
                faults.join(" ")
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_faults_and_layouts() {
        for fault in Fault::ALL {
            assert_eq!(fault.as_str().parse(), Ok(fault));
            assert_eq!(Fault::ALL[fault as usize], fault);
        }
        for layout in Layout::ALL {
            assert_eq!(layout.name.parse(), Ok(layout));
        }
        assert!("x".parse::<Fault>().unwrap_err().contains("lost-writes"));
    }

    #[test]
    fn seeds_keep_to_the_shape_they_are_given() {
        let limits = Limits {
            chunk_bytes: vec![8 << 10],
            slots: 12..13,
            depths: vec![24],
            flush_factors: vec![32],
            mix: Some(Mix::SCATTERED),
            ..Limits::default()
        };
        let plays = (0..100).map(|seed| Scenario::new(seed, &limits));
        let large = |s: &Scenario| s.slots >= 550;
        for s in plays.filter(|s| !large(s)) {
            assert_eq!((s.chunk_bytes, s.depth, s.speed.flush), (8 << 10, 24, 32));
            assert_eq!(s.slots, 12 * u64::from(s.lanes));
            assert_eq!(s.mix.writes, Mix::SCATTERED.writes);
        }
    }

    #[test]
    fn seeds_differ_and_stay_within_limits() {
        let limits = Limits {
            faults: [Fault::Kill].into(),
            ..Limits::default()
        };
        let plays: Vec<Scenario> = (0..100).map(|seed| Scenario::new(seed, &limits)).collect();
        assert!(
            plays
                .iter()
                .all(|s| s.faults.iter().all(|f| *f == Fault::Kill))
        );
        assert!(plays.iter().any(|s| s.has(Fault::Kill)));
        assert!(plays.iter().any(|s| !s.has(Fault::Kill)));
    }
}

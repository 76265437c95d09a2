//! What every target is asked to do.

use serde::Serialize;
use uraid_load::{Kind, Load, Order};

/// What is said of a load: how much was done, or how long each request took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// MiB a second.
    MibPerSecond,
    /// Requests a second.
    Iops,
}

impl Unit {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Unit::MibPerSecond => "MiB/s",
            Unit::Iops => "IOPS",
        }
    }
}

/// A load and how it is put on a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Work {
    /// What it is called.
    pub name: &'static str,
    /// What each connection asks for.
    pub load: Load,
    /// Connections, or processes of a filesystem's client.
    pub connections: usize,
    /// With a member out of service: only what has redundancy and can be told so takes part.
    pub degraded: bool,
    /// What is said of it.
    pub unit: Unit,
}

const STREAM_BYTES: usize = 1 << 20;
const SMALL_BYTES: usize = 4 << 10;
const STREAM_DEPTH: usize = 16;
const SMALL_DEPTH: usize = 32;
/// Where it is more than one.
pub const CONNECTIONS: usize = 4;

/// Also the warm-up.
pub const RANDOM_WRITE: Work = small("random write 4 KiB, depth 32", Kind::Write);
pub const SEQUENTIAL_READ: Work = stream("sequential read 1 MiB, depth 16", Kind::Read);
pub const SEQUENTIAL_WRITE: Work = stream("sequential write 1 MiB, depth 16", Kind::Write);
pub const RANDOM_READ: Work = small("random read 4 KiB, depth 32", Kind::Read);
pub const RANDOM_READ_4: Work = Work {
    connections: CONNECTIONS,
    ..small(
        "random read 4 KiB, depth 32 on each of 4 connections",
        Kind::Read,
    )
};
pub const RANDOM_WRITE_4: Work = Work {
    connections: CONNECTIONS,
    ..small(
        "random write 4 KiB, depth 32 on each of 4 connections",
        Kind::Write,
    )
};
pub const READ_ALONE: Work = Work {
    load: Load::new(Kind::Read, Order::Random, SMALL_BYTES, 1),
    ..small("random read 4 KiB, depth 1", Kind::Read)
};
pub const DEGRADED_READ: Work = Work {
    degraded: true,
    ..small("degraded random read 4 KiB, depth 32", Kind::Read)
};
pub const WRITE_AND_FLUSH: Work = Work {
    load: Load::new(Kind::WriteAndFlush, Order::Scattered, SMALL_BYTES, 1),
    ..small("write 4 KiB and FLUSH, depth 1", Kind::Write)
};

/// All there are, in the order in which they are put on targets.
pub const ALL: [Work; 9] = [
    SEQUENTIAL_READ,
    SEQUENTIAL_WRITE,
    RANDOM_READ,
    RANDOM_WRITE,
    RANDOM_READ_4,
    RANDOM_WRITE_4,
    READ_ALONE,
    DEGRADED_READ,
    WRITE_AND_FLUSH,
];

const fn stream(name: &'static str, kind: Kind) -> Work {
    Work {
        name,
        load: Load::new(kind, Order::Sequential, STREAM_BYTES, STREAM_DEPTH),
        connections: 1,
        degraded: false,
        unit: Unit::MibPerSecond,
    }
}

const fn small(name: &'static str, kind: Kind) -> Work {
    Work {
        name,
        load: Load::new(kind, Order::Random, SMALL_BYTES, SMALL_DEPTH),
        connections: 1,
        degraded: false,
        unit: Unit::Iops,
    }
}

//! What clients ask for meanwhile.

use uraid_load::{Kind, Load, Order};

const SMALL_BYTES: usize = 4 << 10;
const DEPTH: usize = 32;

/// A load and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// What it is called.
    pub name: &'static str,
    /// The load.
    pub load: Load,
}

/// All there are.
pub const LOADS: [Named; 5] = [
    small("random read 4 KiB, depth 1", Kind::Read, 1),
    small("random read 4 KiB, depth 32", Kind::Read, DEPTH),
    small("random write 4 KiB, depth 1", Kind::Write, 1),
    small("random write 4 KiB, depth 32", Kind::Write, DEPTH),
    small(
        "70 % read, 30 % write 4 KiB, depth 32",
        Kind::Mixed { read_percent: 70 },
        DEPTH,
    ),
];

const fn small(name: &'static str, kind: Kind, depth: usize) -> Named {
    let load = Load::new(kind, Order::Random, SMALL_BYTES, depth);
    Named { name, load }
}

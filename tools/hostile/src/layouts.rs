//! Small arrays of every level: creation would make them larger, but nothing else would change.

use uraid_core::create::{CreateOptions, plan};
use uraid_core::geometry::{Geometry, Level};
use uraid_core::superblock::Superblock;
use uraid_core::units::BLOCK;

/// Size of members for which an array is planned before it is shrunk.
const PLANNED_BYTES: u64 = 64 << 20;
/// Spare slots of a lane.
const SPARE_SLOTS: u64 = 4;

/// A small array.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Kind.
    pub level: Level,
    /// Members with a role.
    pub members: usize,
    /// Parities, for `rs`.
    pub parity: Option<u16>,
    /// Chunk.
    pub chunk_bytes: u32,
    /// Lanes.
    pub lanes: u16,
    /// Slots of a lane.
    pub slots: u64,
    /// Members in reserve.
    pub spares: usize,
    /// Member failures it survives.
    pub redundancy: usize,
}

const fn layout(level: Level, members: usize, chunk_kib: u32, lanes: u16) -> Layout {
    let redundancy = match level {
        Level::Raid0 => 0,
        Level::Raid1 => members - 1,
        Level::Raid6 => 2,
        Level::Raid5 | Level::Raid10 | Level::Rs => 1,
    };
    Layout {
        level,
        members,
        parity: None,
        chunk_bytes: chunk_kib << 10,
        lanes,
        slots: 16,
        spares: 0,
        redundancy,
    }
}

/// With two map pages, and with more checksum pages than the others.
pub const MANY_STRIPES: Layout = Layout {
    slots: 600,
    ..layout(Level::Raid1, 2, 4, 1)
};

/// All that the targets use.
pub const LAYOUTS: [Layout; 8] = [
    layout(Level::Raid5, 3, 16, 1),
    layout(Level::Raid1, 2, 64, 1),
    Layout {
        spares: 1,
        ..layout(Level::Raid6, 4, 8, 2)
    },
    layout(Level::Raid10, 4, 4, 1),
    layout(Level::Raid0, 2, 16, 1),
    Layout {
        parity: Some(3),
        redundancy: 3,
        ..layout(Level::Rs, 5, 4, 2)
    },
    layout(Level::Raid1, 3, 512, 1),
    MANY_STRIPES,
];

impl Layout {
    /// The superblocks of a new array of this layout, spares last.
    pub fn superblocks(&self) -> Vec<Superblock> {
        let mut random = uraid_sim::rng::Rng::new(self.members as u64);
        let made = plan(CreateOptions {
            name: "hostile".into(),
            level: self.level,
            parity: self.parity,
            copies: None,
            chunk_bytes: Some(self.chunk_bytes),
            export_bytes: None,
            member_bytes: vec![PLANNED_BYTES; self.members],
            spare_bytes: vec![PLANNED_BYTES; self.spares],
            random: &mut || random.next(),
        })
        .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        let mut all: Vec<Superblock> = made
            .members
            .iter()
            .map(|m| {
                let (_, bytes) = m.writes.last().expect("a member gets a superblock");
                Superblock::decode(bytes).expect("a new superblock is valid")
            })
            .collect();
        let geometry = self.shrink(all[0].geometry);
        all.iter_mut().for_each(|s| s.geometry = geometry);
        all
    }

    fn shrink(&self, created: Geometry) -> Geometry {
        let mut g = created;
        let lanes = u64::from(self.lanes);
        g.lanes = self.lanes;
        let remap_entry = 64 + 4 * (g.shape.columns * g.shape.rows()) as u64;
        g.ring_blocks = 4 * (remap_entry + u64::from(self.chunk_bytes) + (64 << 10)) / BLOCK + 1;
        g.relog_blocks = g.ring_blocks / 2;
        g.slots = self.slots * lanes;
        g.stripes = g.slots - SPARE_SLOTS * lanes;
        g.export_bytes = g.stripes * g.shape.stripe_bytes();
        g.check()
            .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        g
    }
}

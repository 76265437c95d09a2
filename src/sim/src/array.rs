//! A new array on blank media, as creation would make it, only smaller than creation allows:
//! short journals wrap often.

use crate::medium::Medium;
use crate::rng::Rng;
use crate::scenario::Scenario;
use uraid_core::create::{CreateOptions, CreatePlan, plan};
use uraid_core::geometry::Geometry;
use uraid_core::journal::Checkpoint;
use uraid_core::listed::ListedPages;
use uraid_core::superblock::Superblock;
use uraid_core::units::BLOCK;

/// Size of members for which the array is planned; large enough for any scenario.
const PLANNED_BYTES: u64 = 64 << 20;

/// A new array.
pub struct NewArray {
    /// Its layout.
    pub geometry: Geometry,
    /// Seed of its checksums.
    pub key: u64,
    /// Its members.
    pub media: Vec<Medium>,
}

/// Makes the array of a scenario.
pub fn create(scenario: &Scenario, rng: &mut Rng) -> NewArray {
    let layout = scenario.layout;
    let mut random = || rng.next();
    let made = plan(CreateOptions {
        name: "sim".into(),
        level: layout.level,
        parity: layout.parity,
        copies: None,
        chunk_bytes: Some(scenario.chunk_bytes),
        export_bytes: None,
        member_bytes: vec![PLANNED_BYTES; layout.members],
        spare_bytes: Vec::new(),
        random: &mut random,
    })
    .unwrap_or_else(|error| panic!("the scenario makes no array: {error}"));
    let superblocks = superblocks(&made);
    let geometry = shrink(superblocks[0].geometry, scenario);
    let key = superblocks[0].key;
    let slack = rng.below(20) * BLOCK;
    let media = superblocks.into_iter().map(|superblock| {
        let mut medium = Medium::new(geometry.member_bytes() + slack);
        prepare(
            &mut medium,
            Superblock {
                geometry,
                ..superblock
            },
        );
        medium
    });
    NewArray {
        geometry,
        key,
        media: media.collect(),
    }
}

fn superblocks(made: &CreatePlan) -> Vec<Superblock> {
    let of_member = |m: &uraid_core::create::MemberPlan| {
        let (_, bytes) = m.writes.last().expect("a member gets a superblock");
        Superblock::decode(bytes).expect("a new superblock is valid")
    };
    made.members.iter().map(of_member).collect()
}

/// Creation gives a lane to every 2 GiB of a member and 1 MiB to each journal; this is less.
fn shrink(created: Geometry, scenario: &Scenario) -> Geometry {
    let mut g = created;
    let lanes = u64::from(scenario.lanes);
    g.lanes = scenario.lanes;
    if scenario.short_rings {
        g.ring_blocks = ring_blocks_min(&g);
    } else {
        g.ring_blocks = g.ring_blocks.max(ring_blocks_min(&g)) / lanes;
    }
    g.relog_blocks = g.ring_blocks / 2;
    g.slots = scenario.slots / lanes * lanes;
    g.stripes = g.slots - 4 * lanes;
    let capacity = g.stripes * g.shape.stripe_bytes();
    g.export_bytes = (capacity as f64 * scenario.export_share) as u64 / BLOCK * BLOCK;
    g.check()
        .unwrap_or_else(|error| panic!("the scenario makes no array: {error}"));
    g
}

/// As small as creation would make a ring if members were small enough: four of the largest
/// batches.
fn ring_blocks_min(g: &Geometry) -> u64 {
    let remap_entry = 64 + 4 * (g.shape.columns * g.shape.rows()) as u64;
    4 * (remap_entry + u64::from(g.shape.chunk_bytes) + (64 << 10)) / BLOCK + 1
}

/// Writes superblock and first checkpoints of a new member; all else is zero already.
fn prepare(medium: &mut Medium, superblock: Superblock) {
    let g = superblock.geometry;
    for lane in 0..g.lanes {
        let first = Checkpoint::first(lane, superblock.index, superblock.config.nonce);
        medium.set(
            g.checkpoint_offset(lane.into(), 1),
            &first.encode(superblock.key, Some(&ListedPages::none(&g))),
        );
    }
    for offset in Superblock::offsets(superblock.write, medium.len()) {
        medium.set(offset, &superblock.encode());
    }
}

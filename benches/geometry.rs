//! Locating: where a block of the export is, on which member and at which offset, and back.
//!
//! `cargo bench --bench geometry [-- --quick]`; each figure is for one block.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use uraid_core::geometry::{Geometry, Level, Shape, Slot, Stripe};
use uraid_core::units::BLOCK;

const TIB: u64 = 1 << 40;
/// Far apart, prime to everything: no two look-ups have anything in common.
const STEP_BYTES: u64 = 1_000_003 * BLOCK;

const SHAPES: [(&str, Level, usize); 4] = [
    ("raid1 x2", Level::Raid1, 2),
    ("raid10 x4", Level::Raid10, 4),
    ("raid5 4+1", Level::Raid5, 5),
    ("raid6 4+2", Level::Raid6, 6),
];

/// Role and byte offset on its member of the block at `offset` of the export, were every stripe
/// in the slot of its number (the map says in which it is).
fn locate(geometry: &Geometry, offset: u64) -> (usize, u64) {
    let shape = &geometry.shape;
    let chunk_bytes = u64::from(shape.chunk_bytes);
    let stripe = Stripe(offset / shape.stripe_bytes());
    let within = offset % shape.stripe_bytes();
    let (column, row) = (within / chunk_bytes, within % chunk_bytes / BLOCK);
    let (lane, number) = (geometry.lane_of_stripe(stripe), geometry.in_lane(stripe.0));
    let slot = geometry.slot_in_lane(lane, number);
    let role = shape.role_of(slot, column as usize);
    (role, geometry.block_offset(slot, row as usize))
}

/// Lane, checksum page and place in it of the sums of a block.
fn locate_sum(geometry: &Geometry, offset: u64) -> (u64, usize) {
    let slot = Slot(offset / geometry.shape.stripe_bytes());
    let row = offset % u64::from(geometry.shape.chunk_bytes) / BLOCK;
    let (page, place) = geometry.group_place(slot, row as usize);
    (
        geometry.checksum_page_offset(geometry.lane_of_slot(slot), page, 0),
        place,
    )
}

fn locating(c: &mut Criterion) {
    let mut group = c.benchmark_group("geometry");
    group.throughput(Throughput::Elements(1));
    for (name, level, members) in SHAPES {
        let shape = Shape::new(level, members, None, None, None).expect("a possible shape");
        let geometry = Geometry::plan(shape, TIB, None).expect("members are large enough");
        let mut offset = 0;
        let mut next = || {
            offset = (offset + STEP_BYTES) % geometry.export_bytes;
            offset
        };
        group.bench_function(format!("{name}/block"), |b| {
            b.iter(|| locate(black_box(&geometry), next()))
        });
        group.bench_function(format!("{name}/checksum"), |b| {
            b.iter(|| locate_sum(black_box(&geometry), next()))
        });
        group.bench_function(format!("{name}/column of a role"), |b| {
            b.iter(|| shape.column_of(Slot(next()), black_box(1)))
        });
    }
}

criterion_group!(benches, locating);
criterion_main!(benches);

//! Journal headers, their entries, and checkpoints.

use crate::choices::Choices;
use crate::layouts::LAYOUTS;
use crate::seal;
use uraid_core::config::Index;
use uraid_core::geometry::{Geometry, Slot, Stripe};
use uraid_core::journal::{Checkpoint, Entry, Following, Header, HeaderKind};
use uraid_core::units::BLOCK_BYTES;
use uraid_parity::ColumnSet;

const KEY: u64 = 7;

/// What is decoded lies inside the array, and is the same when written again.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    let g = c.pick(&LAYOUTS).superblocks()[0].geometry;
    if c.one_in(3) {
        return run_checkpoint(c);
    }
    let mut bytes = match c.one_in(8) {
        true => {
            let rest = c.rest();
            let mut bytes = rest.to_vec();
            bytes.resize(rest.len().next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES), 0);
            bytes
        }
        false => any_header(&mut c, &g).encode(KEY),
    };
    c.edit(&mut bytes);
    let _ = Header::peek_blocks(&bytes);
    seal::metadata(&mut bytes, KEY);
    if let Some(header) = Header::decode(&bytes, KEY, &g) {
        assert_inside(&header, &g);
        let again = header.encode(KEY);
        assert_eq!(
            again.len(),
            bytes.len(),
            "whoever reads on skips what was written"
        );
        assert_eq!(Header::decode(&again, KEY, &g), Some(header));
    }
}

fn run_checkpoint(mut c: Choices<'_>) {
    let checkpoint = any_checkpoint(&mut c);
    let mut bytes = checkpoint.encode(KEY, None);
    c.edit(&mut bytes);
    seal::metadata(&mut bytes, KEY);
    if let Some(read) = Checkpoint::decode(&bytes, KEY, checkpoint.lane, checkpoint.member) {
        let again = read.encode(KEY, None);
        assert_eq!(
            Checkpoint::decode(&again, KEY, read.lane, read.member),
            Some(read)
        );
        for number in [read.number, read.epoch, read.tail, read.tail_pos] {
            assert!(
                number.checked_mul(64).is_some(),
                "{number} can be counted on from"
            );
        }
    }
}

fn any_checkpoint(c: &mut Choices<'_>) -> Checkpoint {
    Checkpoint {
        lane: c.below(4) as u16,
        member: Index(c.below(4) as u16),
        number: c.number(1),
        epoch: c.number(1),
        tail: c.number(1),
        tail_pos: c.number(0),
        witnessed_tail: c.number(1),
        config_nonce: c.number(1),
        following: *c.pick(&[Following::Anything, Following::Batches, Following::Nothing]),
    }
}

fn assert_inside(header: &Header, g: &Geometry) {
    for entry in &header.entries {
        match entry {
            Entry::Row {
                stripe,
                slot,
                row,
                columns,
                checksums,
            } => {
                assert!(stripe.0 < g.stripes && slot.0 < g.slots);
                assert!(usize::from(*row) < g.shape.rows());
                assert!(columns.iter().all(|c| c < g.shape.columns));
                assert_eq!(columns.len(), checksums.len());
            }
            Entry::Remap {
                stripe,
                slot,
                checksums,
            } => {
                assert!(stripe.0 < g.stripes && slot.0 < g.slots);
                assert_eq!(checksums.len(), g.shape.columns * g.shape.rows());
            }
            Entry::Alloc { stripe, slot } => assert!(stripe.0 < g.stripes && slot.0 < g.slots),
            Entry::Unmap { first, count } => {
                let last = count.checked_sub(1).expect("an unmap empties something");
                let last = first.0 + last * u64::from(g.lanes);
                assert!(
                    last < g.stripes,
                    "stripes {first:?} and on, {count} of them"
                );
            }
        }
    }
}

/// A header as the engine might write it, but for its numbers.
pub fn any_header(c: &mut Choices<'_>, g: &Geometry) -> Header {
    let lane = c.below(g.lanes.into()) as u16;
    let kind = match c.one_in(3) {
        true => HeaderKind::Relog {
            part: c.number(0) as u32,
            parts: c.number(1) as u32,
        },
        false => HeaderKind::Batch,
    };
    Header {
        kind,
        lane,
        member: Index(c.below(4) as u16),
        epoch: c.number(1),
        config_epoch: c.number(1),
        config_nonce: c.number(1),
        seq: c.number(1),
        pos: c.number(0),
        tail: c.number(1),
        durable_upto: c.number(1),
        participants: u128::from(c.number(7)),
        payload_blocks: c.number(1) as u32,
        entries: (0..c.below(6)).map(|_| any_entry(c, g, lane)).collect(),
    }
}

/// An entry of a lane; now and then one that lies outside the array.
pub fn any_entry(c: &mut Choices<'_>, g: &Geometry, lane: u16) -> Entry {
    let lanes = u64::from(g.lanes);
    let stripe = Stripe(any_place(c, g.stripes / lanes) * lanes + u64::from(lane));
    let slot = Slot(any_place(c, g.slots / lanes) * lanes + u64::from(lane));
    match c.below(4) {
        0 => {
            let columns = ColumnSet(u128::from(c.byte()) & ((1 << g.shape.columns.min(100)) - 1));
            let checksums = columns.iter().map(|_| c.word(1) as u32).collect();
            Entry::Row {
                stripe,
                slot,
                row: any_place(c, g.shape.rows() as u64) as u16,
                columns,
                checksums,
            }
        }
        1 => {
            let sum = c.word(4) as u32;
            Entry::Remap {
                stripe,
                slot,
                checksums: vec![sum; g.shape.columns * g.shape.rows()],
            }
        }
        2 => Entry::Alloc { stripe, slot },
        _ => Entry::Unmap {
            first: stripe,
            count: c.number(1),
        },
    }
}

fn any_place(c: &mut Choices<'_>, limit: u64) -> u64 {
    match c.one_in(32) {
        true => c.number(limit) % (1 << 30),
        false => c.below(limit.max(1)),
    }
}

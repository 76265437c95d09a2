//! What is known of a range of the export without reading it: which stripes were ever written,
//! and how many members their content can do without.

use crate::api::{Extent, Stored};
use crate::array::Array;
use alloc::vec::Vec;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::units::BLOCK;
use uraid_parity::ColumnSet;

/// Stripes looked at for one answer: bounds the time it takes.
pub const STRIPES_MAX: u64 = 1 << 16;

/// Extents in one answer: bounds the memory it takes.
pub const EXTENTS_MAX: usize = 4000;

/// How safe stripes are, by the slots they live in: below each bound (ascending, the last one is
/// beyond all slots) as told with it. It changes at the cursors of rebuilds only.
struct Levels(Vec<(u64, Stored)>);

impl Levels {
    fn of(&self, slot: Slot) -> Stored {
        let mut levels = self.0.iter();
        let level = levels.find(|(bound, _)| slot.0 < *bound);
        level.expect("the last bound is beyond all slots").1
    }
}

impl Array {
    /// What is known of a range that is not empty and inside the export; at least of its first
    /// byte.
    pub fn extents(&self, offset: u64, len: u64) -> Vec<Extent> {
        let levels = self.levels();
        let stripe_bytes = self.geometry.shape.stripe_bytes();
        let first = offset / stripe_bytes;
        let end = (offset + len).min((first + STRIPES_MAX) * stripe_bytes);
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < EXTENTS_MAX {
            let stripe = Stripe(at / stripe_bytes);
            let part = end.min((stripe.0 + 1) * stripe_bytes) - at;
            let slot = self.lane(stripe).map.borrow().get(stripe).slot();
            match slot.map(|slot| levels.of(slot)) {
                Some(stored) if !stored.lost => self.push_stored(&mut extents, at, part, stored),
                stored => push(&mut extents, part, stored),
            }
            at += part;
        }
        extents.truncate(EXTENTS_MAX);
        extents
    }

    /// Adds a part of a stripe that can be read but for blocks known to be lost.
    fn push_stored(&self, extents: &mut Vec<Extent>, offset: u64, len: u64, stored: Stored) {
        let end = offset + len;
        let lost = Stored {
            losses_survived: 0,
            rebuilding: false,
            lost: true,
        };
        let mut at = offset;
        let blocks = self.lost.borrow();
        for block in blocks.within(offset / BLOCK..end.div_ceil(BLOCK)) {
            let (from, to) = ((block * BLOCK).max(offset), ((block + 1) * BLOCK).min(end));
            push(extents, from - at, Some(stored));
            push(extents, to - from, Some(lost));
            at = to;
        }
        push(extents, end - at, Some(stored));
    }

    fn levels(&self) -> Levels {
        // Of each role: slots below this can be read, and whether more will be.
        let roles = self.roles.borrow();
        let live = |index: &_| self.live_device(*index).is_some();
        let rebuilds = self.rebuilds.borrow();
        let reach: Vec<(u64, bool)> = roles
            .iter()
            .map(|role| match (role.holder.filter(live), role.filling) {
                (Some(_), _) => (u64::MAX, false),
                (None, Some(index)) if live(&index) => {
                    (rebuilds.get(&index).map_or(0, |p| p.cursor), true)
                }
                _ => (0, false),
            })
            .collect();
        let mut bounds: Vec<u64> = reach.iter().map(|(below, _)| *below).collect();
        bounds.push(u64::MAX);
        bounds.sort_unstable();
        bounds.dedup();
        bounds.retain(|bound| *bound > 0);
        let shape = &self.geometry.shape;
        let level = |bound: u64| {
            let reached = (0..reach.len()).filter(|role| reach[*role].0 >= bound);
            // Columns of slot 0; any slot would do.
            let have: ColumnSet = reached.map(|r| shape.column_of(Slot(0), r)).collect();
            let stored = Stored {
                losses_survived: self.code.losses_survived(have) as u16,
                rebuilding: reach
                    .iter()
                    .any(|(below, filling)| *filling && *below < bound),
                lost: !self.code.can_decode(have),
            };
            (bound, stored)
        };
        Levels(bounds.into_iter().map(level).collect())
    }
}

/// Adds an extent, or lengthens the last one if it is in the same state.
fn push(extents: &mut Vec<Extent>, len: u64, stored: Option<Stored>) {
    match extents.last_mut() {
        _ if len == 0 => {}
        Some(last) if last.stored == stored => last.len += len,
        _ => extents.push(Extent { len, stored }),
    }
}

//! Which map pages of a lane may have been written: a checkpoint lists them, so that a start reads
//! those and no others, however large the array is.

use crate::geometry::Geometry;
use crate::units::BLOCK_BYTES;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of a list: what is left of a checkpoint block after its fields.
const BYTES_MAX: usize = BLOCK_BYTES - 256;

/// A bit for each map page of a lane or, if there are more pages than bits, for each run of them.
/// Bits are only ever set: a page that was written once stays listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPages {
    bits: Vec<u8>,
    pages_per_bit: u64,
}

impl ListedPages {
    /// No page at all.
    pub fn none(g: &Geometry) -> ListedPages {
        let pages_per_bit = g.map_pages().div_ceil(BYTES_MAX as u64 * 8).max(1);
        let bits = g.map_pages().div_ceil(pages_per_bit);
        ListedPages {
            bits: vec![0; bits.div_ceil(8) as usize],
            pages_per_bit,
        }
    }

    /// As a checkpoint has it.
    pub fn from_bits(bits: &[u8], g: &Geometry) -> ListedPages {
        let mut listed = ListedPages::none(g);
        let len = listed.bits.len();
        listed.bits.copy_from_slice(&bits[..len]);
        listed
    }

    /// As a checkpoint has it.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Whether a page may have been written.
    pub fn has(&self, page: u64) -> bool {
        let bit = page / self.pages_per_bit;
        self.bits[(bit / 8) as usize] >> (bit % 8) & 1 == 1
    }

    /// A page is about to be written.
    pub fn add(&mut self, page: u64) {
        let bit = page / self.pages_per_bit;
        self.bits[(bit / 8) as usize] |= 1 << (bit % 8);
    }

    /// Adds what another list of the same lane has.
    pub fn merge(&mut self, other: &ListedPages) {
        for (bits, more) in self.bits.iter_mut().zip(&other.bits) {
            *bits |= more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Level, Shape};

    #[test]
    fn pages_are_listed_one_by_one_or_in_runs() {
        let shape = Shape::new(Level::Raid6, 64, None, None, None).unwrap();
        for (member_bytes, run) in [(2 << 40, 1), (64 << 40, 5)] {
            let g = Geometry::plan(shape, member_bytes, None).unwrap();
            let mut listed = ListedPages::none(&g);
            assert!(listed.bits().len() <= BYTES_MAX);
            let last = g.map_pages() - 1;
            listed.add(last);
            let found: Vec<u64> = (0..=last).filter(|page| listed.has(*page)).collect();
            assert!(found.contains(&last) && found.len() <= run, "{found:?}");
            let mut other = ListedPages::none(&g);
            other.add(0);
            other.merge(&ListedPages::from_bits(listed.bits(), &g));
            assert!(other.has(0) && other.has(last) && !other.has(last / 2));
        }
    }
}

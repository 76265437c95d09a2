//! Checksums of blocks and of metadata.
//!
//! All are CRC-32C (Castagnoli) started from a seed. A block's seed holds the array's key and the
//! block's place, so a block that is intact but in the wrong place (a misdirected write, a member
//! of another array) does not match: CRC is linear, two different seeds never give the same sum
//! for the same bytes.

use crate::geometry::Slot;

/// Checksum of one 4 KiB block stored as `row` of `column` in `slot`.
pub fn block(key: u64, slot: Slot, row: usize, column: usize, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(place_seed(key, slot, row, column), bytes)
}

/// Checksum of a metadata structure of the array with this key.
pub fn metadata(key: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(mix(key) as u32, bytes)
}

fn place_seed(key: u64, slot: Slot, row: usize, column: usize) -> u32 {
    let place = slot.0 << 24 ^ (row as u64) << 8 ^ column as u64;
    (mix(key ^ mix(place)) >> 16) as u32
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intact_block_in_the_wrong_place_does_not_match() {
        let bytes = [7u8; 4096];
        let here = block(1, Slot(5), 3, 2, &bytes);
        for (key, slot, row, column) in [(2, 5, 3, 2), (1, 6, 3, 2), (1, 5, 4, 2), (1, 5, 3, 1)] {
            assert_ne!(here, block(key, Slot(slot), row, column, &bytes));
        }
    }
}

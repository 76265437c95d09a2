//! Checksums of blocks and of metadata.
//!
//! All are CRC-32C (Castagnoli) started from a seed. A block's seed holds the array's key and the
//! block's place, so a block that is intact but in the wrong place (a misdirected write, a member
//! of another array) does not match: CRC is linear, two different seeds never give the same sum
//! for the same bytes.

use crate::geometry::Slot;
use crate::units::BLOCK_BYTES;

/// Checksum of one 4 KiB block stored as `row` of `column` in `slot`.
pub fn block(key: u64, slot: Slot, row: usize, column: usize, bytes: &[u8]) -> u32 {
    placed(content(bytes), key, slot, row, column)
}

/// The part of [`block`] that depends on the bytes alone: copies of a block in several places
/// need it once.
pub fn content(bytes: &[u8]) -> u32 {
    assert_eq!(bytes.len(), BLOCK_BYTES, "blocks have one size");
    crc_fast::crc32_iscsi(bytes)
}

/// The [`block`] checksum of [`content`] in its place.
pub fn placed(content: u32, key: u64, slot: Slot, row: usize, column: usize) -> u32 {
    content ^ after_block(place_seed(key, slot, row, column))
}

/// Checksum of a metadata structure of the array with this key.
pub fn metadata(key: u64, bytes: &[u8]) -> u32 {
    continued(mix(key) as u32, bytes)
}

/// The checksum of `before` and `bytes` together, from that of `before`.
pub fn continued(before: u32, bytes: &[u8]) -> u32 {
    let algorithm = crc_fast::CrcAlgorithm::Crc32Iscsi;
    let mut digest = crc_fast::Digest::new_with_init_state(algorithm, u64::from(!before));
    digest.update(bytes);
    digest.finalize() as u32
}

/// What becomes of a seed on the way through a block. A CRC is linear: the sum of a block from a
/// seed is its sum without one, and this.
fn after_block(seed: u32) -> u32 {
    let byte = |i: usize| usize::from(seed.to_le_bytes()[i]);
    let table = |i: usize| AFTER_BLOCK[i][byte(i)];
    table(0) ^ table(1) ^ table(2) ^ table(3)
}

/// [`after_block`] of each value of each byte of a seed.
static AFTER_BLOCK: [[u32; 256]; 4] = {
    let factor = x_to_the(8 * BLOCK_BYTES);
    let mut tables = [[0; 256]; 4];
    let mut i = 0;
    while i < 4 * 256 {
        tables[i / 256][i % 256] = multiply(((i % 256) as u32) << (8 * (i / 256)), factor);
        i += 1;
    }
    tables
};

/// `x^power` modulo the polynomial of CRC-32C, by squaring.
const fn x_to_the(mut power: usize) -> u32 {
    let (mut result, mut square) = (1 << 31, 1 << 30);
    while power > 0 {
        if power % 2 == 1 {
            result = multiply(result, square);
        }
        square = multiply(square, square);
        power /= 2;
    }
    result
}

/// Product of two polynomials modulo that of CRC-32C; the highest bit is the constant term.
const fn multiply(mut a: u32, b: u32) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if b & bit != 0 {
            product ^= a;
        }
        a = (a >> 1) ^ if a % 2 == 1 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    product
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

    /// On disks there are sums that another library made.
    #[test]
    fn sums_are_those_of_crc_32c_from_a_seed() {
        let bytes: [u8; BLOCK_BYTES] = core::array::from_fn(|i| (i * 7 + i / 251) as u8);
        for place in 0..50 {
            let seed = place_seed(9, Slot(place), 3, 2);
            let sum = crc32c::crc32c_append(seed, &bytes);
            assert_eq!(block(9, Slot(place), 3, 2, &bytes), sum);
            let len = place as usize * 70;
            let sum = crc32c::crc32c_append(mix(place) as u32, &bytes[..len]);
            assert_eq!(metadata(place, &bytes[..len]), sum, "{len} bytes");
        }
        // RFC 3720, B.4.
        assert_eq!(continued(0, &[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn an_intact_block_in_the_wrong_place_does_not_match() {
        let bytes = [7u8; 4096];
        let here = block(1, Slot(5), 3, 2, &bytes);
        for (key, slot, row, column) in [(2, 5, 3, 2), (1, 6, 3, 2), (1, 5, 4, 2), (1, 5, 3, 1)] {
            assert_ne!(here, block(key, Slot(slot), row, column, &bytes));
        }
    }
}

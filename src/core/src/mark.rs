//! The mark of a lost block.
//!
//! A block that is lost beyond redundancy, in a row that must be written all the same, is replaced
//! by a block of its own: 4 KiB drawn from the array's key and its address. So the row is a
//! codeword again, the mark is as redundant as any data, moves with its stripe, and comes out of a
//! reconstruction as itself; nothing has to be kept beside it. Whoever reads it for a client
//! answers with an error. No client writes it by accident: 2^32768 blocks are possible.

use crate::checksum::mix;
use crate::geometry::Stripe;

/// Sets marks apart from whatever else is drawn from the key.
const SALT: u64 = u64::from_le_bytes(*b"uraidLST");

/// The words of the mark of one block.
fn words(key: u64, stripe: Stripe, row: usize, column: usize) -> impl Iterator<Item = u64> {
    let place = mix(stripe.0 << 24 ^ (row as u64) << 8 ^ column as u64);
    let start = mix(key ^ SALT ^ place);
    (0..).map(move |i: u64| mix(start.wrapping_add(i)))
}

/// Fills a block with the mark of its address.
pub fn fill(key: u64, stripe: Stripe, row: usize, column: usize, block: &mut [u8]) {
    for (bytes, word) in block
        .chunks_exact_mut(8)
        .zip(words(key, stripe, row, column))
    {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

/// Whether a block is the mark of its address. The first word tells nearly always.
pub fn is_mark(key: u64, stripe: Stripe, row: usize, column: usize, block: &[u8]) -> bool {
    let mut pairs = block.chunks_exact(8).zip(words(key, stripe, row, column));
    pairs.all(|(bytes, word)| bytes == word.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BLOCK_BYTES;

    #[test]
    fn a_mark_is_known_at_its_own_address_only() {
        let mut block = [0; BLOCK_BYTES];
        assert!(!is_mark(1, Stripe(2), 3, 4, &block));
        fill(1, Stripe(2), 3, 4, &mut block);
        assert!(is_mark(1, Stripe(2), 3, 4, &block));
        for (key, stripe, row, column) in [(2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5)] {
            assert!(!is_mark(key, Stripe(stripe), row, column, &block));
        }
        block[BLOCK_BYTES - 1] ^= 1;
        assert!(!is_mark(1, Stripe(2), 3, 4, &block));
    }
}

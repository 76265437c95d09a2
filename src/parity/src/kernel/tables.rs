//! Each of the 256 possible factors in the form in which vector instructions multiply by it.

use crate::gf;

/// Products of one factor with all low nibbles (bytes 0..16) and all high nibbles (16..32).
///
/// Multiplication distributes over the nibbles of a byte, and a byte shuffle looks up sixteen or
/// more nibbles at once (J. S. Plank et al., "Screaming fast Galois field arithmetic using Intel
/// SIMD instructions").
#[repr(align(32))]
pub(super) struct Nibbles(pub [u8; 32]);

/// [`Nibbles`] of every factor.
pub(super) static NIBBLES: [Nibbles; 256] = {
    let mut table = [const { Nibbles([0; 32]) }; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            table[factor].0[nibble] = gf::mul(factor as u8, nibble as u8);
            table[factor].0[16 + nibble] = gf::mul(factor as u8, (nibble as u8) << 4);
            nibble += 1;
        }
        factor += 1;
    }
    table
};

/// Multiplication by each factor as the bit matrix that `gf2p8affineqb` takes.
///
/// The sister instruction `gf2p8mulb` is of no use: it is tied to the polynomial 0x11b. But
/// multiplication by a constant is linear over bits, so the affine transformation can do it in
/// any field. Bit i of the result is the parity of the input and byte 7-i of the matrix.
pub(super) static MATRICES: [u64; 256] = {
    let mut table = [0; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut out = 0;
        while out < 8 {
            let mut input = 0;
            while input < 8 {
                let product = gf::mul(factor as u8, 1 << input);
                table[factor] |= ((product >> out & 1) as u64) << (8 * (7 - out) + input);
                input += 1;
            }
            out += 1;
        }
        factor += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// `gf2p8affineqb` for one byte and no constant, as the manufacturer's manual defines it.
    fn affine(matrix: u64, x: u8) -> u8 {
        let bytes = matrix.to_le_bytes();
        (0..8)
            .map(|bit| ((bytes[7 - bit] & x).count_ones() as u8 & 1) << bit)
            .sum()
    }

    #[test]
    fn bit_matrices_multiply() {
        for factor in 0..=255 {
            for x in 0..=255 {
                assert_eq!(
                    affine(MATRICES[factor as usize], x),
                    reed_solomon_erasure::galois_8::mul(factor, x),
                    "{factor} * {x}"
                );
            }
        }
    }

    #[test]
    fn nibble_tables_multiply() {
        for factor in 0..=255 {
            let table = NIBBLES[factor as usize].0;
            for x in 0..=255 {
                let product = table[x as usize & 15] ^ table[16 + (x as usize >> 4)];
                assert_eq!(
                    product,
                    reed_solomon_erasure::galois_8::mul(factor, x),
                    "{factor} * {x}"
                );
            }
        }
    }
}

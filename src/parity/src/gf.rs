//! The field GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d) with generator 2: the field of
//! Linux md's RAID-6 (H. P. Anvin, "The mathematics of RAID-6").
//!
//! Addition and subtraction are both exclusive or.

/// The reduction polynomial, with its x^8 term.
pub const POLYNOMIAL: u16 = 0x11d;

/// Number of non-zero elements, and so the order of the generator.
const ORDER: usize = 255;

/// Powers of the generator, twice over so that a sum of two logarithms needs no reduction.
const EXP: [u8; 2 * ORDER] = exp_table();

/// Logarithms to the base of the generator; the entry of 0 is meaningless.
const LOG: [u8; 256] = log_table();

/// All products: `PRODUCTS[a][b]` is a * b.
pub(crate) static PRODUCTS: [[u8; 256]; 256] = product_table();

/// a * 2 in the field.
pub const fn double(a: u8) -> u8 {
    let doubled = (a as u16) << 1;
    if doubled & 0x100 == 0 {
        doubled as u8
    } else {
        (doubled ^ POLYNOMIAL) as u8
    }
}

/// a * b in the field.
pub const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        0
    } else {
        EXP[LOG[a as usize] as usize + LOG[b as usize] as usize]
    }
}

/// a / b in the field.
///
/// # Panics
/// If `b` is 0.
pub const fn div(a: u8, b: u8) -> u8 {
    mul(a, inv(b))
}

/// 1 / a in the field.
///
/// # Panics
/// If `a` is 0.
pub const fn inv(a: u8) -> u8 {
    assert!(a != 0, "0 has no inverse in GF(2^8)");
    EXP[ORDER - LOG[a as usize] as usize]
}

/// a to the power of n; 0 to the power of 0 is 1.
pub const fn pow(a: u8, n: usize) -> u8 {
    match (a, n) {
        (_, 0) => 1,
        (0, _) => 0,
        _ => EXP[LOG[a as usize] as usize * (n % ORDER) % ORDER],
    }
}

/// The generator to the power of n.
pub const fn exp(n: usize) -> u8 {
    EXP[n % ORDER]
}

const fn exp_table() -> [u8; 2 * ORDER] {
    let mut table = [0; 2 * ORDER];
    let mut power = 1;
    let mut n = 0;
    while n < table.len() {
        table[n] = power;
        power = double(power);
        n += 1;
    }
    table
}

const fn log_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < ORDER {
        table[EXP[n] as usize] = n as u8;
        n += 1;
    }
    table
}

const fn product_table() -> [[u8; 256]; 256] {
    let mut table = [[0; 256]; 256];
    let mut a = 0;
    while a < 256 {
        let mut b = 0;
        while b < 256 {
            table[a][b] = mul(a as u8, b as u8);
            b += 1;
        }
        a += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use reed_solomon_erasure::galois_8 as oracle;

    #[test]
    fn products_and_quotients_match_the_oracle() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), oracle::mul(a, b), "{a} * {b}");
                assert_eq!(
                    PRODUCTS[a as usize][b as usize],
                    oracle::mul(a, b),
                    "{a} * {b}"
                );
                if b != 0 {
                    assert_eq!(div(a, b), oracle::div(a, b), "{a} / {b}");
                }
            }
        }
    }

    #[test]
    fn powers_match_the_oracle() {
        for a in 0..=255 {
            for n in 0..600 {
                assert_eq!(pow(a, n), oracle::exp(a, n), "{a} ^ {n}");
            }
        }
        for n in 0..600 {
            assert_eq!(exp(n), oracle::exp(2, n), "2 ^ {n}");
        }
    }

    #[test]
    fn inverses_and_doubles_agree_with_products() {
        for a in 0..=255 {
            assert_eq!(double(a), mul(2, a));
            if a != 0 {
                assert_eq!(mul(a, inv(a)), 1, "1 / {a}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "no inverse")]
    fn dividing_by_zero_panics() {
        div(1, std::hint::black_box(0));
    }
}

//! Units and identifiers that the whole project shares.

use core::fmt;
use core::str::FromStr;

/// The unit of checksum, of parity rows and of member I/O, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// [`BLOCK_BYTES`] for arithmetic on offsets.
pub const BLOCK: u64 = BLOCK_BYTES as u64;

/// Whether all bytes are zero.
pub fn is_blank(bytes: &[u8]) -> bool {
    // Compared in whole blocks: byte by byte takes twenty times as long.
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    let mut parts = bytes.chunks(BLOCK_BYTES);
    parts.all(|part| *part == ZEROS[..part.len()])
}

/// Largest number that a counter on disk (an epoch, a sequence number, a position) may have: one
/// that counts a million steps a second gets there after three thousand years. What is larger is
/// damage, and what is not can be counted on and added up over lanes without overflow.
pub const COUNT_MAX: u64 = 100_000_000_000_000_000;

/// Identity of an array or a member, written like any UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// A version 4 UUID from two random words.
    pub fn from_random(high: u64, low: u64) -> Uuid {
        let mut b = [0; 16];
        b[..8].copy_from_slice(&high.to_be_bytes());
        b[8..].copy_from_slice(&low.to_be_bytes());
        b[6] = b[6] & 0x0f | 0x40;
        b[8] = b[8] & 0x3f | 0x80;
        Uuid(b)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, b) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = ();
    fn from_str(text: &str) -> Result<Uuid, ()> {
        let mut b = [0; 16];
        let mut digits = text.bytes().filter(|c| *c != b'-');
        for byte in &mut b {
            let high = char::from(digits.next().ok_or(())?)
                .to_digit(16)
                .ok_or(())?;
            let low = char::from(digits.next().ok_or(())?)
                .to_digit(16)
                .ok_or(())?;
            *byte = (high * 16 + low) as u8;
        }
        if digits.next().is_some() {
            Err(())
        } else {
            Ok(Uuid(b))
        }
    }
}

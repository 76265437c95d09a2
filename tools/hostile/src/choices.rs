//! Bytes read as a sequence of decisions. When they run out every decision is 0, which by
//! convention is the harmless one: a short input describes little mischief.

/// Decisions still to be read.
#[derive(Clone)]
pub struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    /// The decisions that `bytes` stand for.
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { bytes }
    }

    /// Whether only zeros would follow.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All bytes not read yet, as they are.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// At most `len` bytes as they are.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.word(1) as u8
    }

    /// A little-endian number of `bytes` bytes.
    pub fn word(&mut self, bytes: usize) -> u64 {
        let mut word = [0; 8];
        let taken = self.bytes(bytes);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let bytes = match limit {
            0..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 8,
        };
        self.word(bytes) % limit
    }

    /// As [`Choices::below`], for indices.
    pub fn index(&mut self, limit: usize) -> usize {
        self.below(limit as u64) as usize
    }

    /// True for one in `n` values of a byte, and not for 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// One of `all`, which are not empty.
    pub fn pick<'b, T>(&mut self, all: &'b [T]) -> &'b T {
        &all[self.index(all.len())]
    }

    /// A number to put in the place of `now`: often one at which arithmetic breaks.
    pub fn number(&mut self, now: u64) -> u64 {
        match self.below(12) {
            0 => now,
            1 => now.wrapping_add(1),
            2 => now.wrapping_sub(1),
            3 => now.wrapping_add(self.word(1)),
            4 => self.word(1),
            5 => 1 << self.below(64),
            6 => (1 << self.below(64)) - 1,
            7 => u64::MAX - self.word(1),
            8 => now ^ 1 << self.below(64),
            9 => self.word(2),
            10 => self.word(4),
            _ => self.word(8),
        }
    }

    /// Replaces a number of any width; what does not fit is cut off.
    pub fn replace<T: Copy + TryInto<u64> + Truncate>(&mut self, field: &mut T) {
        let now = (*field).try_into().unwrap_or(u64::MAX);
        *field = T::truncate(self.number(now));
    }

    /// Replaces some little-endian fields of `bytes`, mostly near their start.
    pub fn edit(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        for _ in 0..1 + self.below(4) {
            let near = if self.one_in(3) {
                bytes.len()
            } else {
                256.min(bytes.len())
            };
            let width = *self.pick(&[8, 4, 2, 1]);
            let at = self.index(near) / width * width;
            let Some(field) = bytes.get_mut(at..at + width) else {
                continue;
            };
            let mut word = [0; 8];
            word[..width].copy_from_slice(field);
            let new = self.number(u64::from_le_bytes(word)).to_le_bytes();
            field.copy_from_slice(&new[..width]);
        }
    }
}

/// Numbers that can be cut out of longer ones.
pub trait Truncate {
    /// The low bits.
    fn truncate(number: u64) -> Self;
}

macro_rules! truncate {
    ($($number:ty)*) => {$(
        impl Truncate for $number {
            fn truncate(number: u64) -> Self {
                number as Self
            }
        }
    )*};
}
truncate!(u8 u16 u32 u64 usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_bytes_every_choice_is_the_first() {
        let mut c = Choices::new(&[]);
        assert_eq!((c.byte(), c.below(1000), c.number(7)), (0, 0, 7));
        assert!(!c.one_in(2) && c.is_empty());
        assert_eq!(*c.pick(&[5, 6]), 5);
    }

    #[test]
    fn edits_reach_all_of_a_structure() {
        let mut reached = std::collections::BTreeSet::new();
        let mut rng = uraid_sim::rng::Rng::new(1);
        for _ in 0..5000 {
            let mut input = [0; 64];
            rng.fill(&mut input);
            let mut bytes = [0; 512];
            Choices::new(&input).edit(&mut bytes);
            reached.extend((0..bytes.len()).filter(|i| bytes[*i] != 0));
        }
        assert_eq!(reached.len(), 512);
    }
}

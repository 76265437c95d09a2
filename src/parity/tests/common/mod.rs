//! What the tests share: reproducible random bytes.

/// A small generator (SplitMix64); the same seed gives the same bytes on every machine.
pub struct Random(u64);

impl Random {
    /// Seeded by `URAID_TEST_SEED`, else by `default`. Prints the seed, which the test harness
    /// shows when the test fails.
    pub fn for_test(default: u64) -> Random {
        let seed = match std::env::var("URAID_TEST_SEED") {
            Ok(text) => text.parse().expect("URAID_TEST_SEED is a decimal number"),
            Err(_) => default,
        };
        println!("replay with URAID_TEST_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

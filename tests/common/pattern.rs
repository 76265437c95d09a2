//! Content that says what it is: a block is a function of its number and its version, so that a
//! stale, torn or misplaced one is recognised, and random choices that can be replayed.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unit of content.
pub const BLOCK: usize = 4096;

/// A small generator (splitmix64, Steele and others 2014): the tests need variety, not quality.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Seeded from `URAID_TEST_SEED`, or else from the clock; prints how to replay.
    pub fn from_environment() -> Random {
        let clock = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time")
            .as_nanos() as u64;
        let given = std::env::var("URAID_TEST_SEED").ok();
        let seed = given.map_or(clock, |s| s.parse().expect("URAID_TEST_SEED is a number"));
        println!("random seed {seed}: replay with URAID_TEST_SEED={seed}");
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
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The content of `block` at `version`; version 0 is a block never written: zeros.
pub fn block(block: u64, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK];
    }
    let mut random = Random::new(block.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ version);
    let mut content = version.to_le_bytes().to_vec();
    while content.len() < BLOCK {
        content.extend(random.next().to_le_bytes());
    }
    content
}

/// The content of `count` blocks from `first` on, all at `version`.
pub fn blocks(first: u64, count: u64, version: u64) -> Vec<u8> {
    (first..first + count)
        .flat_map(|b| block(b, version))
        .collect()
}

/// The version of which `content` is a faithful copy, or what is wrong with it.
pub fn version_of(number: u64, content: &[u8]) -> Result<u64, String> {
    let version = u64::from_le_bytes(content[..8].try_into().expect("8 bytes"));
    let expected = block(number, version);
    if content == expected {
        return Ok(version);
    }
    let at = content
        .iter()
        .zip(&expected)
        .position(|(a, b)| a != b)
        .expect("a difference");
    Err(format!(
        "block {number} claims to be version {version} but differs at byte {at}"
    ))
}

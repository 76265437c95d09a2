//! Where the next request goes.

use crate::load::{Load, Order};

/// A prime: steps of it meet every place once, unless it divides their number.
const STEP: u64 = 1_000_003;

/// A small generator (splitmix64, Steele and others 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Chooses places for one of several connections. Orders go on where they were when the last load
/// ended.
pub struct Places {
    pub random: Random,
    /// This connection, of so many.
    connection: u64,
    connections: u64,
    /// Of a sequence, in requests.
    sequential: u64,
    /// How many scattered places were chosen so far.
    scattered: u64,
}

impl Places {
    pub fn new(seed: u64, connection: u64, connections: u64) -> Places {
        Places {
            random: Random(seed),
            connection,
            connections,
            sequential: 0,
            scattered: 0,
        }
    }

    /// Has sequences begin at their beginning again.
    pub fn rewind(&mut self) {
        self.sequential = 0;
    }

    /// The offset of the next request, in an export in which there is room for each connection.
    pub fn next(&mut self, load: &Load, size_bytes: u64) -> u64 {
        let span = load.working_set_bytes.unwrap_or(size_bytes).min(size_bytes);
        let places = span / load.bytes as u64;
        let place = match load.order {
            Order::Random => self.random.next() % places,
            Order::Sequential => {
                let own = places / self.connections;
                let place = self.connection * own + self.sequential % own;
                self.sequential += 1;
                place
            }
            Order::Scattered => {
                let turn = self.scattered * self.connections + self.connection;
                self.scattered += 1;
                turn.wrapping_mul(STEP) % places
            }
        };
        place * load.bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Kind;
    use std::collections::BTreeSet;

    const SIZE_BYTES: u64 = 100 * 4096;

    fn offsets(order: Order, count: usize, set: Option<u64>) -> Vec<Vec<u64>> {
        let load = Load {
            kind: Kind::Read,
            order,
            bytes: 4096,
            depth: 1,
            working_set_bytes: set,
        };
        let of = |i| {
            let mut places = Places::new(i, i, 4);
            (0..count).map(|_| places.next(&load, SIZE_BYTES)).collect()
        };
        (0..4).map(of).collect()
    }

    #[test]
    fn sequences_keep_to_their_own_part_and_begin_again() {
        let offsets = offsets(Order::Sequential, 26, None);
        for (connection, own) in offsets.iter().enumerate() {
            let first = connection as u64 * 25 * 4096;
            let expected = (0..25).chain([0]).map(|i| first + i * 4096);
            assert_eq!(own, &expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn scattered_requests_go_nowhere_twice() {
        let offsets = offsets(Order::Scattered, 25, None);
        let distinct: BTreeSet<u64> = offsets.into_iter().flatten().collect();
        assert_eq!(distinct.len(), 100);
    }

    #[test]
    fn the_working_set_is_kept() {
        for order in [Order::Sequential, Order::Random, Order::Scattered] {
            let offsets = offsets(order, 200, Some(8 * 4096)).concat();
            let distinct: BTreeSet<u64> = offsets.into_iter().collect();
            assert_eq!(distinct, (0..8).map(|i| i * 4096).collect(), "{order:?}");
        }
    }
}

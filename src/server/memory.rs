//! How much memory the server of an array may take, and what each part of it may.
//!
//! What cannot be bounded by choice is counted in full: where stripes and slots are, once all of
//! the array has been written. The rest is divided.

use super::budget::GUARANTEED_BYTES;
use crate::failure::Failure;
use uraid_core::geometry::Geometry;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Program, threads, control, and idle clients.
const BASE_BYTES: u64 = 28 * MIB;
/// One request of the largest size is let in on top of what clients may have under way.
const LARGEST_REQUEST_BYTES: u64 = 32 * MIB;
/// Less to divide serves nobody well.
const DIVIDED_BYTES_MIN: u64 = 60 * MIB;
/// A checksum page in memory, with what keeps track of it.
const CHECKSUM_PAGE_BYTES: u64 = 4608;
/// Slots of each lane whose checksum pages, on all members, are needed at the same time.
const SLOTS_PER_LANE: u64 = 8;

/// The parts of an array's memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Payload that clients have under way together.
    pub in_flight: u64,
    /// What each client may have under way, however busy the others are.
    pub guaranteed: u64,
    /// Buffers registered with the kernel: as much again for parity, journal and rebuild.
    pub pool: u64,
    /// Blocks journalled and not yet in place.
    pub journalled: u64,
    /// Checksum pages.
    pub checksums: u64,
    /// What readers know of where blocks lie: 112 bytes for a chunk of 64 KiB that was read lately.
    pub view: u64,
}

impl Default for Memory {
    /// Within 384 MiB for a small array.
    fn default() -> Memory {
        Memory {
            in_flight: 64 * MIB,
            guaranteed: GUARANTEED_BYTES,
            pool: 128 * MIB,
            journalled: 96 * MIB,
            checksums: 96 * MIB,
            view: 0,
        }
    }
}

impl Memory {
    /// Within `limit`, if there is one; for at most so many clients, and readers or none.
    pub fn of(
        limit: Option<u64>,
        geometry: &Geometry,
        (connections_max, readers): (usize, bool),
    ) -> Result<Memory, Failure> {
        let memory = match limit {
            Some(limit) => Memory::within(limit, geometry, connections_max)?,
            None => Memory::default(),
        };
        Ok(match readers {
            true => memory.with_readers(),
            false => memory,
        })
    }

    /// Divides `limit`, for the server of an array with at most so many clients.
    fn within(limit: u64, geometry: &Geometry, connections_max: usize) -> Result<Memory, Failure> {
        let needed = needed(geometry);
        if limit < needed + divided_min(geometry) {
            return Err(Failure::refused(format!(
                "{} MiB of memory are too little for this array: at least {} MiB are needed, {} \
                 of them for where its stripes are; raise --memory",
                limit / MIB,
                (needed + divided_min(geometry)).div_ceil(MIB),
                map_bytes(geometry).div_ceil(MIB)
            )));
        }
        let divided = limit - needed;
        let in_flight = divided / 6;
        let guaranteed = in_flight / connections_max.max(1) as u64;
        Ok(Memory {
            in_flight,
            guaranteed: guaranteed.clamp(4 * KIB, GUARANTEED_BYTES),
            pool: 2 * in_flight,
            journalled: divided / 4,
            checksums: divided / 4,
            view: 0,
        })
    }

    /// The same in all, for an array whose clients are served by readers.
    fn with_readers(self) -> Memory {
        let view = self.journalled / 4;
        Memory {
            // As much as clients have under way is theirs.
            pool: self.pool - self.in_flight,
            journalled: self.journalled - view,
            view,
            ..self
        }
    }

    /// The part of each of so many readers.
    pub fn of_reader(self, readers: usize) -> Memory {
        let in_flight = self.in_flight / readers as u64;
        Memory {
            in_flight,
            pool: in_flight,
            ..self
        }
    }
}

/// What an array takes that is not divided.
fn needed(geometry: &Geometry) -> u64 {
    BASE_BYTES + LARGEST_REQUEST_BYTES + map_bytes(geometry)
}

/// Map and owners of an array that is full, with what is there from the start.
fn map_bytes(g: &Geometry) -> u64 {
    9 * g.stripes + 4 * g.slots + g.slots / 8
}

fn divided_min(g: &Geometry) -> u64 {
    let pages = u64::from(g.lanes) * g.shape.columns as u64 * SLOTS_PER_LANE;
    (4 * pages * CHECKSUM_PAGE_BYTES).max(DIVIDED_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_core::geometry::{Level, Shape};

    fn geometry(members: usize, member_bytes: u64) -> Geometry {
        let shape = Shape::new(Level::Raid6, members, None, None, None).unwrap();
        Geometry::plan(shape, member_bytes, None).unwrap()
    }

    #[test]
    fn the_parts_of_a_limit_add_up_to_it() {
        let g = geometry(6, 1 << 30);
        for limit in [128 * MIB, 384 * MIB, 4096 * MIB] {
            for clients in [1, 16, 1024] {
                let m = Memory::within(limit, &g, clients).unwrap();
                let clients = m.guaranteed * clients as u64;
                let all = needed(&g) + m.pool + clients + m.journalled + m.checksums;
                assert!(all <= limit + MIB && m.in_flight >= 6 * MIB, "{m:?}");
            }
        }
    }

    #[test]
    fn readers_take_no_more_in_all() {
        let all = |m: &Memory| m.pool + m.journalled + m.checksums + m.view;
        let alone = Memory::default();
        let with_readers = alone.with_readers();
        for count in [1, 3, 8] {
            let of_reader = with_readers.of_reader(count);
            assert!(of_reader.in_flight * count as u64 <= alone.in_flight);
            let readers = of_reader.pool * count as u64;
            assert!(all(&with_readers) + readers <= all(&alone), "{of_reader:?}");
        }
    }

    #[test]
    fn a_limit_that_is_too_small_is_refused_with_what_is_needed() {
        let large = geometry(64, 1638 << 30);
        let refused = Memory::within(384 * MIB, &large, 16).unwrap_err();
        let words: Vec<&str> = refused.message.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "least").unwrap();
        let enough: u64 = words[at + 1].parse().unwrap();
        assert!((384..1024).contains(&enough), "{}", refused.message);
        assert!(Memory::within((enough - 1) * MIB, &large, 16).is_err());
        assert!(Memory::within(enough * MIB, &large, 16).is_ok());
    }
}

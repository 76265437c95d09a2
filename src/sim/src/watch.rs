//! Rules that show on the wire: every write to a member is held against what is durable there.
//! A rule that is broken shows here at once; whether it costs data shows only to those who wait
//! for the right crash.
//!
//! - A journal batch is written only where the durable checkpoint says that nothing is needed.
//! - Nothing is journalled behind a durable checkpoint that says that nothing follows.
//! - A page is written over its older copy, never over the only good one.
//! - A checksum page names a batch only when the member's record of it is durable.

use crate::medium::{Durable, Medium};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::geometry::{Geometry, Slot};
use uraid_core::journal::{Checkpoint, Following, Header, HeaderKind};
use uraid_core::pages::{ChecksumPage, Found, Sum, decode_map_page};
use uraid_core::units::{BLOCK, BLOCK_BYTES};

/// Where a checksum page names its member.
const MEMBER_AT: usize = 22;

/// Knows the format, not the engine.
#[derive(Clone, Copy)]
pub struct Watch {
    /// Layout of the members.
    pub geometry: Geometry,
    /// Seed of checksums.
    pub key: u64,
}

impl Watch {
    /// What is wrong with writing `buffers` at `offset`, if anything is.
    pub fn complaint(&self, medium: &Medium, offset: u64, buffers: &[Buf]) -> Option<String> {
        let zones = self.geometry.zones();
        let len: u64 = buffers.iter().map(|b| b.len() as u64).sum();
        if (zones.journal..zones.relog).contains(&offset) {
            return self.check_batch(medium, buffers, len / BLOCK);
        }
        if (zones.relog..zones.map).contains(&offset) {
            return self.check_relog(medium, buffers);
        }
        // Whoever writes both copies prepares a member that is none yet.
        let one_copy = len == BLOCK && (zones.map..zones.data).contains(&offset);
        if !one_copy {
            return None;
        }
        let named = || self.check_named(medium, offset, &buffers[0]);
        self.check_page(medium, offset, &buffers[0]).or_else(named)
    }

    /// A checksum page must not name a batch whose record a loss of power may still take away.
    fn check_named(&self, medium: &Medium, offset: u64, bytes: &[u8]) -> Option<String> {
        let g = &self.geometry;
        let zones = g.zones();
        let block = offset.checked_sub(zones.checksums)? / BLOCK;
        let (lane, number) = (
            block / 2 / g.checksum_pages(),
            block / 2 % g.checksum_pages(),
        );
        let member = member_named(bytes);
        let batches = self.unflushed_batches(medium, lane as u16, member);
        if batches.is_empty() {
            return None;
        }
        let page = match ChecksumPage::decode(bytes, self.key, member, lane as u16, number) {
            Found::Valid(_, page) => page,
            Found::Blank | Found::Damaged => return None,
        };
        let slots = (0..g.slots).map(Slot);
        let places = slots
            .filter(|slot| g.lane_of_slot(*slot) == lane as usize)
            .flat_map(|slot| (0..g.shape.rows()).map(move |row| (slot, row)));
        let mut named = places
            .filter(|(slot, row)| g.group_place(*slot, *row).0 == number)
            .map(|(slot, row)| page.sum(g, slot, row).generation);
        let early = named.find_map(|generation| batches.get(&generation))?;
        Some(format!(
            "page {number} of lane {lane} names batch {early}, whose record is not durable"
        ))
    }

    /// Batches of the journal epoch in force whose records no flush has covered: their numbers by
    /// the generation of what they wrote.
    fn unflushed_batches(&self, medium: &Medium, lane: u16, member: Index) -> BTreeMap<u32, u64> {
        let g = &self.geometry;
        let start = g.ring_offset(lane.into());
        let ring = start..start + g.ring_blocks * BLOCK;
        let Some(newest) = self.newest_checkpoint(medium, lane, member) else {
            return BTreeMap::new();
        };
        let record = |at: u64| {
            let mut bytes = vec![0; BLOCK_BYTES];
            medium.read(at, &mut bytes);
            let header = Header::decode(&bytes, self.key, g)?;
            let counts = header.kind == HeaderKind::Batch && header.epoch == newest.epoch;
            counts.then(|| (Sum::new(0, header.seq).generation, header.seq))
        };
        let begins_block = |at: &u64| at.is_multiple_of(BLOCK);
        let unflushed = medium.unflushed_in(ring).filter(begins_block);
        unflushed.filter_map(record).collect()
    }

    /// A page must not go over the newer of its durable copies.
    fn check_page(&self, medium: &Medium, offset: u64, bytes: &[u8]) -> Option<String> {
        let zones = self.geometry.zones();
        let is_map = offset < zones.checksums;
        let (start, pages) = match is_map {
            true => (zones.map, self.geometry.map_pages()),
            false => (zones.checksums, self.geometry.checksum_pages()),
        };
        let block = (offset - start) / BLOCK;
        let (lane, page) = ((block / 2 / pages) as u16, block / 2 % pages);
        let member = member_named(bytes);
        let number = |bytes: &[u8]| match is_map {
            true => valid(decode_map_page(bytes, self.key, &self.geometry, lane, page)),
            false => valid(ChecksumPage::decode(bytes, self.key, member, lane, page)),
        };
        let copy = block % 2;
        let there = number(&load(medium, offset))?;
        let other = number(&load(medium, offset + BLOCK - 2 * copy * BLOCK));
        let new = number(bytes)?;
        // A write that found no space is tried again.
        (new != there && other.is_none_or(|other| other < there)).then(|| {
            format!(
                "page {page} of lane {lane}, number {new} at {offset}, is written over number \
                 {there}, its newest durable copy (the other is {other:?})"
            )
        })
    }

    fn check_batch(&self, medium: &Medium, buffers: &[Buf], blocks: u64) -> Option<String> {
        let g = &self.geometry;
        let header = Header::decode(&buffers[0], self.key, g)?;
        if header.kind != HeaderKind::Batch {
            return None;
        }
        let newest = self.newest_checkpoint(medium, header.lane, header.member)?;
        if header.epoch != newest.epoch {
            return Some(format!(
                "batch {} is of journal epoch {}, the durable checkpoint of {}",
                header.seq, header.epoch, newest.epoch
            ));
        }
        if newest.following == Following::Nothing {
            return Some(format!(
                "batch {} follows a durable checkpoint that says that nothing does",
                header.seq
            ));
        }
        let end = header.pos + blocks;
        (end > newest.tail_pos + g.ring_blocks).then(|| {
            format!(
                "batch {} at {}..{end} of the ring overwrites what follows its durable tail {}",
                header.seq, header.pos, newest.tail_pos
            )
        })
    }

    fn check_relog(&self, medium: &Medium, buffers: &[Buf]) -> Option<String> {
        let header = Header::decode(&buffers[0], self.key, &self.geometry)?;
        let newest = self.newest_checkpoint(medium, header.lane, header.member)?;
        (newest.following != Following::Anything).then(|| {
            format!(
                "a re-log of epoch {} follows a durable checkpoint that says that none does",
                header.epoch
            )
        })
    }

    /// The newest durable checkpoint of a lane; of two with the same number the one after which
    /// more may follow.
    fn newest_checkpoint(&self, medium: &Medium, lane: u16, member: Index) -> Option<Checkpoint> {
        let copies = [0, 1].into_iter().filter_map(|copy| {
            let offset = self.geometry.checkpoint_offset(lane.into(), copy);
            Checkpoint::decode(&load(medium, offset), self.key, lane, member)
        });
        copies.max_by_key(|c| (c.number, Reverse(c.following)))
    }
}

/// The member that a checksum page says it is of.
fn member_named(page: &[u8]) -> Index {
    Index(u16::from_le_bytes([page[MEMBER_AT], page[MEMBER_AT + 1]]))
}

fn valid<T>(found: Found<T>) -> Option<u64> {
    match found {
        Found::Valid(number, _) => Some(number),
        Found::Blank | Found::Damaged => None,
    }
}

/// What is durable of a block.
fn load(medium: &Medium, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    medium.durable().load(offset, &mut bytes);
    bytes
}

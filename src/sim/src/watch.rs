//! Rules that show on the wire: every write to a member is held against what is durable there.
//! A rule that is broken shows here at once; whether it costs data shows only to those who wait
//! for the right crash.
//!
//! - A journal batch is written only where the durable checkpoint says that nothing is needed.
//! - A page is written over its older copy, never over the only good one.

use crate::medium::{Durable, Medium};
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::geometry::Geometry;
use uraid_core::journal::{Checkpoint, Header, HeaderKind};
use uraid_core::pages::{ChecksumPage, Found, decode_map_page};
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
        // Whoever writes both copies prepares a member that is none yet.
        let one_copy = len == BLOCK && (zones.map..zones.data).contains(&offset);
        if one_copy {
            self.check_page(medium, offset, &buffers[0])
        } else {
            None
        }
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
        let member = Index(u16::from_le_bytes([bytes[MEMBER_AT], bytes[MEMBER_AT + 1]]));
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
        let lane = usize::from(header.lane);
        if header.kind != HeaderKind::Batch {
            return None;
        }
        let durable = [0, 1].into_iter().filter_map(|copy| {
            let bytes = load(medium, g.checkpoint_offset(lane, copy));
            Checkpoint::decode(&bytes, self.key, header.lane, header.member)
        });
        let newest = durable.max_by_key(|c| c.number)?;
        if header.epoch != newest.epoch {
            return Some(format!(
                "batch {} is of journal epoch {}, the durable checkpoint of {}",
                header.seq, header.epoch, newest.epoch
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

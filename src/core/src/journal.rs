//! The journal: batch headers, their entries, and checkpoints.
//!
//! A lane's batches are numbered by *seq*, the same on all members. A member's ring holds only
//! the batches it takes part in, at *pos*, counted in blocks since the ring was first used; block
//! `pos mod ring_blocks` of the ring. A batch on a member is a header of one or more blocks, then
//! that member's own payload blocks. The entries are the same on every participant, the payloads
//! are not: each member journals only its own new blocks.

use crate::checksum;
use crate::codec::{Reader, Writer};
use crate::config::Index;
use crate::geometry::{Geometry, Slot, Stripe};
use crate::listed::ListedPages;
use crate::units::BLOCK_BYTES;
use alloc::vec::Vec;
use uraid_parity::ColumnSet;

const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"uJH1");
const CHECKPOINT_MAGIC: u32 = u32::from_le_bytes(*b"uCP1");
const HEADER_FIXED_BYTES: usize = 128;
/// Where a checkpoint says whether it lists map pages, and where it lists them.
const HAS_LIST_AT: usize = 65;
const LISTED_AT: usize = 256;
/// Most blocks of one header: bounds what a damaged length can make a reader do.
pub const HEADER_BLOCKS_MAX: usize = 1024;
/// Most stripes that one unmap empties: bounds what an entry can make a reader do.
pub const UNMAP_STRIPES_MAX: u64 = 64;

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// New blocks of one row; payloads are in the journal.
    Row {
        /// The stripe.
        stripe: Stripe,
        /// Where it lives.
        slot: Slot,
        /// The row.
        row: u16,
        /// Columns that changed.
        columns: ColumnSet,
        /// Checksum of each changed column's new block, in column order.
        checksums: Vec<u32>,
    },
    /// A stripe has a new place, wholly written before this record is answered.
    Remap {
        /// The stripe.
        stripe: Stripe,
        /// Its new place.
        slot: Slot,
        /// Checksums of all blocks, column by column.
        checksums: Vec<u32>,
    },
    /// Stripes become empty: `count` of the same lane, beginning with `first`.
    Unmap {
        /// The first.
        first: Stripe,
        /// How many.
        count: u64,
    },
    /// An empty stripe gets a place; its blocks are zero until written.
    Alloc {
        /// The stripe.
        stripe: Stripe,
        /// Its place.
        slot: Slot,
    },
}

impl Entry {
    fn encode(&self, w: &mut Writer) {
        match self {
            Entry::Row {
                stripe,
                slot,
                row,
                columns,
                checksums,
            } => {
                w.u8(1)
                    .u8(0)
                    .u16(*row)
                    .u32(slot.0 as u32)
                    .u64(stripe.0)
                    .u128(columns.0);
                checksums.iter().for_each(|c| {
                    w.u32(*c);
                });
            }
            Entry::Remap {
                stripe,
                slot,
                checksums,
            } => {
                w.u8(2).u8(0).u16(0).u32(slot.0 as u32).u64(stripe.0);
                checksums.iter().for_each(|c| {
                    w.u32(*c);
                });
            }
            Entry::Unmap { first, count } => {
                w.u8(3).u8(0).u16(0).u32(0).u64(first.0).u64(*count);
            }
            Entry::Alloc { stripe, slot } => {
                w.u8(4).u8(0).u16(0).u32(slot.0 as u32).u64(stripe.0);
            }
        }
    }

    /// Bytes it takes in a header.
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Entry::Row { checksums, .. } => 32 + 4 * checksums.len(),
            Entry::Remap { checksums, .. } => 16 + 4 * checksums.len(),
            Entry::Unmap { .. } => 24,
            Entry::Alloc { .. } => 16,
        }
    }

    fn decode(r: &mut Reader<'_>, g: &Geometry, lane: u16) -> Option<Entry> {
        let kind = r.u8()?;
        if r.u8()? != 0 {
            return None;
        }
        let row = r.u16()?;
        let slot = Slot(r.u32()?.into());
        let stripe = Stripe(r.u64()?);
        let here = |number: u64, limit: u64| {
            number < limit && number % u64::from(g.lanes) == u64::from(lane)
        };
        if !here(stripe.0, g.stripes) || (kind != 3 && !here(slot.0, g.slots)) {
            return None;
        }
        let sums = |r: &mut Reader<'_>, n: usize| (0..n).map(|_| r.u32()).collect::<Option<_>>();
        match kind {
            1 if usize::from(row) < g.shape.rows() => {
                let columns = ColumnSet(r.u128()?);
                if columns.is_empty() || columns.0 >> g.shape.columns != 0 {
                    return None;
                }
                let checksums = sums(r, columns.len())?;
                Some(Entry::Row {
                    stripe,
                    slot,
                    row,
                    columns,
                    checksums,
                })
            }
            2 => {
                let checksums = sums(r, g.shape.columns * g.shape.rows())?;
                Some(Entry::Remap {
                    stripe,
                    slot,
                    checksums,
                })
            }
            3 => {
                let count = r.u64()?;
                let left = (g.stripes - stripe.0).div_ceil(u64::from(g.lanes));
                (1..=left.min(UNMAP_STRIPES_MAX))
                    .contains(&count)
                    .then_some(Entry::Unmap {
                        first: stripe,
                        count,
                    })
            }
            4 => Some(Entry::Alloc { stripe, slot }),
            _ => None,
        }
    }
}

/// What a header is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderKind {
    /// A batch of the ring.
    Batch,
    /// Part of a re-log: final images that recovery wrote down before it touched anything.
    /// `seq` is the first sequence number after what it contains.
    Relog {
        /// Number of this part.
        part: u32,
        /// Parts in all.
        parts: u32,
    },
}

/// A batch header on one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its purpose.
    pub kind: HeaderKind,
    /// The lane.
    pub lane: u16,
    /// The member it lies on.
    pub member: Index,
    /// Journal epoch; only recovery raises it.
    pub epoch: u64,
    /// Epoch of the config it was written under: stripes it touches are tagged with it.
    pub config_epoch: u64,
    /// Nonce of that config.
    pub config_nonce: u64,
    /// Number of the batch.
    pub seq: u64,
    /// Its position on this member, in blocks.
    pub pos: u64,
    /// Batches below this one are covered by checkpoints that are durable on all members.
    pub tail: u64,
    /// Batches below this one are durable.
    pub durable_upto: u64,
    /// Members that hold this batch, as bits by place in the table.
    pub participants: u128,
    /// Payload blocks that follow on this member.
    pub payload_blocks: u32,
    /// What the batch changes.
    pub entries: Vec<Entry>,
}

impl Header {
    /// Blocks of a header with entries of `entry_bytes` in all.
    pub fn blocks_for(entry_bytes: usize) -> usize {
        (HEADER_FIXED_BYTES + entry_bytes).div_ceil(BLOCK_BYTES)
    }

    /// Blocks of this header.
    pub fn blocks(&self) -> usize {
        Self::blocks_for(self.entries.iter().map(Entry::encoded_bytes).sum())
    }

    /// The header blocks as they lie on disk.
    pub fn encode(&self, key: u64) -> Vec<u8> {
        let blocks = self.blocks();
        let (kind, part, parts) = match self.kind {
            HeaderKind::Batch => (1, 0, 0),
            HeaderKind::Relog { part, parts } => (2, part, parts),
        };
        let mut w = Writer::default();
        w.u32(HEADER_MAGIC)
            .u32(0)
            .u16(blocks as u16)
            .u8(kind)
            .u8(0)
            .u16(self.lane);
        w.u16(self.member.0)
            .u64(self.epoch)
            .u64(self.config_epoch)
            .u64(self.config_nonce);
        w.u64(self.seq)
            .u64(self.pos)
            .u64(self.tail)
            .u64(self.durable_upto);
        w.u128(self.participants)
            .u32(self.payload_blocks)
            .u32(self.entries.len() as u32);
        w.u32(part).u32(parts).pad_to(HEADER_FIXED_BYTES);
        self.entries.iter().for_each(|e| e.encode(&mut w));
        w.pad_to(blocks * BLOCK_BYTES);
        seal(w.finish(), key)
    }

    /// Blocks of the header that begins with this block, if it looks like one.
    pub fn peek_blocks(first_block: &[u8]) -> Option<usize> {
        let mut r = Reader::new(first_block);
        let magic = r.u32()?;
        r.u32()?;
        let blocks = usize::from(r.u16()?);
        (magic == HEADER_MAGIC && (1..=HEADER_BLOCKS_MAX).contains(&blocks)).then_some(blocks)
    }

    /// Reads a header; `bytes` are all of its blocks. `None` if anything is amiss.
    pub fn decode(bytes: &[u8], key: u64, g: &Geometry) -> Option<Header> {
        check_seal(bytes, key)?;
        let mut r = Reader::new(bytes);
        r.bytes(8)?;
        let blocks = usize::from(r.u16()?);
        let kind = r.u8()?;
        if blocks * BLOCK_BYTES != bytes.len() || r.u8()? != 0 {
            return None;
        }
        let (lane, member) = (r.u16()?, Index(r.u16()?));
        let (epoch, config_epoch, config_nonce) = (r.count()?, r.count()?, r.u64()?);
        let (seq, pos, tail, durable_upto) = (r.count()?, r.count()?, r.count()?, r.count()?);
        let participants = r.u128()?;
        let (payload_blocks, count, part, parts) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        r.zeros_to(HEADER_FIXED_BYTES)?;
        let kind = match kind {
            1 => HeaderKind::Batch,
            2 => HeaderKind::Relog { part, parts },
            _ => return None,
        };
        let entries = (0..count)
            .map(|_| Entry::decode(&mut r, g, lane))
            .collect::<Option<Vec<_>>>()?;
        r.zeros_to(bytes.len())?;
        let header = Header {
            kind,
            lane,
            member,
            epoch,
            config_epoch,
            config_nonce,
            seq,
            pos,
            tail,
            durable_upto,
            participants,
            payload_blocks,
            entries,
        };
        (header.blocks() == blocks).then_some(header)
    }
}

/// What may follow a checkpoint: what a start has to look for. The lesser is the safe side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Following {
    /// Batches, and a re-log newer than the checkpoint's epoch.
    #[default]
    Anything,
    /// Batches. Before a re-log is begun, [`Following::Anything`] is durable on all members.
    Batches,
    /// Nothing. Before a batch is written, [`Following::Batches`] is durable on all members.
    Nothing,
}

/// What a lane on a member has put in place. Two blocks by turns; the higher number counts, of
/// two with the same number the one after which more may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The lane.
    pub lane: u16,
    /// The member it lies on.
    pub member: Index,
    /// Counts checkpoints of this lane.
    pub number: u64,
    /// Journal epoch.
    pub epoch: u64,
    /// Batches below this one are in place, with their checksum and map pages.
    pub tail: u64,
    /// Position on this member from which later batches are found.
    pub tail_pos: u64,
    /// The tail that all members were known to have when this was written.
    pub witnessed_tail: u64,
    /// Config it was written under: that config was completed.
    pub config_nonce: u64,
    /// What may follow it.
    pub following: Following,
}

impl Checkpoint {
    /// The checkpoint of a lane that was never used.
    pub fn first(lane: u16, member: Index, config_nonce: u64) -> Checkpoint {
        Checkpoint {
            lane,
            member,
            number: 1,
            epoch: 1,
            tail: 1,
            tail_pos: 0,
            witnessed_tail: 1,
            config_nonce,
            following: Following::Nothing,
        }
    }

    /// The block as it lies on disk, with the list of map pages that may have been written; none
    /// means that any may.
    pub fn encode(&self, key: u64, listed: Option<&ListedPages>) -> Vec<u8> {
        let mut w = Writer::default();
        w.u32(CHECKPOINT_MAGIC)
            .u32(0)
            .u16(self.lane)
            .u16(self.member.0)
            .u32(0);
        w.u64(self.number)
            .u64(self.epoch)
            .u64(self.tail)
            .u64(self.tail_pos);
        w.u64(self.witnessed_tail)
            .u64(self.config_nonce)
            .u8(self.following as u8)
            .u8(u8::from(listed.is_some()))
            .pad_to(LISTED_AT)
            .bytes(listed.map_or(&[], ListedPages::bits))
            .pad_to(BLOCK_BYTES);
        seal(w.finish(), key)
    }

    /// Reads a checkpoint block; `None` if it is none, or not of this lane and member.
    pub fn decode(bytes: &[u8], key: u64, lane: u16, member: Index) -> Option<Checkpoint> {
        check_seal(bytes, key)?;
        let mut r = Reader::new(bytes);
        let magic = r.u32()?;
        r.u32()?;
        let (found_lane, found_member) = (r.u16()?, Index(r.u16()?));
        if magic != CHECKPOINT_MAGIC || found_lane != lane || found_member != member {
            return None;
        }
        r.u32()?;
        let checkpoint = Checkpoint {
            lane,
            member,
            number: r.count()?,
            epoch: r.count()?,
            tail: r.count()?,
            tail_pos: r.count()?,
            witnessed_tail: r.count()?,
            config_nonce: r.u64()?,
            following: match r.u8()? {
                0 => Following::Anything,
                1 => Following::Batches,
                2 => Following::Nothing,
                _ => return None,
            },
        };
        let has_list = r.u8()?;
        r.zeros_to(LISTED_AT)?;
        match has_list {
            0 => r.zeros_to(bytes.len())?,
            1 => {}
            _ => return None,
        }
        Some(checkpoint)
    }

    /// The list of map pages in a valid checkpoint block, if it has one.
    pub fn listed_pages(bytes: &[u8], g: &Geometry) -> Option<ListedPages> {
        let has_list = bytes[HAS_LIST_AT] == 1;
        has_list.then(|| ListedPages::from_bits(&bytes[LISTED_AT..BLOCK_BYTES], g))
    }

    /// Which of the two blocks a checkpoint with this number goes to.
    pub fn copy(number: u64) -> usize {
        (number % 2) as usize
    }
}

/// Fills in the checksum at bytes 4..8, whatever was there.
pub(crate) fn seal(mut bytes: Vec<u8>, key: u64) -> Vec<u8> {
    bytes[4..8].fill(0);
    let crc = checksum::metadata(key, &bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks what [`seal`] filled in.
pub(crate) fn check_seal(bytes: &[u8], key: u64) -> Option<()> {
    let stored = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    // The sum was taken with zeros in its own place.
    let head = checksum::continued(checksum::metadata(key, &bytes[..4]), &[0; 4]);
    (checksum::continued(head, &bytes[8..]) == stored).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Level, Shape};

    fn geometry() -> Geometry {
        let shape = Shape::new(Level::Raid6, 6, None, None, None).unwrap();
        Geometry::plan(shape, 256 << 20, None).unwrap()
    }

    fn example(g: &Geometry) -> Header {
        Header {
            kind: HeaderKind::Batch,
            lane: 0,
            member: Index(4),
            epoch: 1,
            config_epoch: 2,
            config_nonce: 3,
            seq: 4,
            pos: 5,
            tail: 3,
            durable_upto: 4,
            participants: 0b111,
            payload_blocks: 1,
            entries: alloc::vec![
                Entry::Alloc {
                    stripe: Stripe(7),
                    slot: Slot(8)
                },
                Entry::Row {
                    stripe: Stripe(7),
                    slot: Slot(8),
                    row: 15,
                    columns: ColumnSet(0b110001),
                    checksums: alloc::vec![1, 2, 3],
                },
                Entry::Remap {
                    stripe: Stripe(9),
                    slot: Slot(10),
                    checksums: (0..(g.shape.columns * g.shape.rows()) as u32).collect(),
                },
                Entry::Unmap {
                    first: Stripe(1),
                    count: 2
                },
            ],
        }
    }

    #[test]
    fn headers_round_trip_and_notice_damage() {
        let g = geometry();
        let mut header = example(&g);
        for _ in 0..20 {
            let extra = header.entries[2].clone();
            header.entries.push(extra);
        }
        let mut bytes = header.encode(77);
        assert_eq!(Header::peek_blocks(&bytes), Some(bytes.len() / BLOCK_BYTES));
        assert!(bytes.len() > BLOCK_BYTES);
        assert_eq!(Header::decode(&bytes, 77, &g), Some(header));
        assert_eq!(Header::decode(&bytes, 78, &g), None, "another array's key");
        for i in (0..bytes.len()).step_by(13) {
            bytes[i] ^= 4;
            assert_eq!(Header::decode(&bytes, 77, &g), None);
            bytes[i] ^= 4;
        }
    }

    #[test]
    fn entries_outside_the_array_are_refused() {
        let g = geometry();
        for entry in [
            Entry::Alloc {
                stripe: Stripe(g.stripes),
                slot: Slot(0),
            },
            Entry::Alloc {
                stripe: Stripe(0),
                slot: Slot(g.slots),
            },
            Entry::Unmap {
                first: Stripe(1),
                count: g.stripes,
            },
            Entry::Unmap {
                first: Stripe(0),
                count: 0,
            },
            Entry::Row {
                stripe: Stripe(0),
                slot: Slot(0),
                row: 0,
                columns: ColumnSet::EMPTY,
                checksums: alloc::vec![],
            },
        ] {
            let header = Header {
                entries: alloc::vec![entry],
                ..example(&g)
            };
            assert_eq!(Header::decode(&header.encode(1), 1, &g), None);
        }
    }

    #[test]
    fn numbers_that_cannot_be_counted_on_from_are_refused() {
        let g = geometry();
        let header = Header {
            pos: u64::MAX,
            ..example(&g)
        };
        assert_eq!(Header::decode(&header.encode(1), 1, &g), None);
        let mut longer = example(&g).encode(1);
        longer.resize(longer.len() + BLOCK_BYTES, 0);
        longer[8] += 1;
        longer[4..8].fill(0);
        assert_eq!(
            Header::decode(&seal(longer, 1), 1, &g),
            None,
            "more blocks than it needs"
        );
    }

    #[test]
    fn checkpoints_round_trip() {
        let c = Checkpoint {
            lane: 1,
            member: Index(2),
            number: 3,
            epoch: 4,
            tail: 5,
            tail_pos: 6,
            witnessed_tail: 4,
            config_nonce: 8,
            following: Following::Batches,
        };
        let bytes = c.encode(9, None);
        assert_eq!(Checkpoint::listed_pages(&bytes, &geometry()), None);
        assert_eq!(Checkpoint::decode(&bytes, 9, 1, Index(2)), Some(c));
        assert_eq!(Checkpoint::decode(&bytes, 9, 0, Index(2)), None);
        assert_eq!(Checkpoint::decode(&bytes, 9, 1, Index(3)), None);
        let endless = Checkpoint {
            tail_pos: u64::MAX,
            ..c
        };
        let endless = endless.encode(9, None);
        assert_eq!(Checkpoint::decode(&endless, 9, 1, Index(2)), None);
        let mut listed = ListedPages::none(&geometry());
        listed.add(7);
        let bytes = c.encode(9, Some(&listed));
        assert_eq!(Checkpoint::decode(&bytes, 9, 1, Index(2)), Some(c));
        assert_eq!(
            Checkpoint::listed_pages(&bytes, &geometry()),
            Some(listed),
            "as written"
        );
    }
}

//! Where the blocks of an export lie on the members. Unlike the rest of the tests this reads the
//! members with the project's own code: only the map knows where a stripe lives.

use super::damage::overwrite;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::{ChecksumPage, Found, Sum, decode_map_page};
use uraid_core::superblock::{Superblock, copy_ranges, inspect};

const BLOCK: u64 = 4096;

/// An array whose rows are all in place: stopped, or just scrubbed and idle.
pub struct Places {
    /// By role.
    members: Vec<PathBuf>,
    superblock: Superblock,
    /// Where each stripe lives.
    slots: Vec<Option<Slot>>,
}

/// A block on a member.
#[derive(Clone, Debug)]
pub struct Place {
    pub role: usize,
    pub member: PathBuf,
    pub range: Range<u64>,
}

impl Place {
    /// Replaces the block by something else.
    pub fn rot(&self) {
        overwrite(&self.member, &self.range, 0xa5);
    }
}

/// The newest superblock in all the bytes of a member.
pub fn superblock_of(bytes: &[u8]) -> Superblock {
    let copies = copy_ranges(bytes.len() as u64);
    let copies = copies.map(|range| &bytes[range.start as usize..range.end as usize]);
    inspect(copies).superblock.expect("a valid superblock")
}

impl Places {
    /// Reads the map from the first of `members`, which are in the order of their roles.
    pub fn read(members: &[PathBuf]) -> Places {
        let bytes = fs::read(&members[0]).expect("read the member");
        let superblock = superblock_of(&bytes);
        let g = superblock.geometry;
        let entry = |stripe: u64| {
            let lane = g.lane_of_stripe(Stripe(stripe));
            let (page, at) = (g.in_lane(stripe) / 504, g.in_lane(stripe) % 504);
            let copies = [0, 1].map(|copy| g.map_page_offset(lane, page, copy) as usize);
            let decode = |offset: usize| {
                let block = &bytes[offset..offset + BLOCK as usize];
                match decode_map_page(block, superblock.key, &g, lane as u16, page) {
                    Found::Valid(sequence, entries) => Some((sequence, entries[at as usize])),
                    Found::Blank | Found::Damaged => None,
                }
            };
            let newest = copies.into_iter().filter_map(decode).max_by_key(|c| c.0);
            newest.and_then(|(_, entry)| entry.slot())
        };
        Places {
            members: members.to_vec(),
            slots: (0..g.stripes).map(entry).collect(),
            superblock,
        }
    }

    /// Blocks of the export in one row: these blocks are encoded together.
    pub fn row_of(&self, block: u64) -> Vec<u64> {
        let shape = &self.superblock.geometry.shape;
        let (rows, data) = (shape.rows() as u64, shape.data as u64);
        let stripe = block / (rows * data);
        let column = |c| (stripe * data + c) * rows + block % rows;
        (0..data).map(column).collect()
    }

    /// Where a block of the export is.
    pub fn data(&self, block: u64) -> Place {
        let shape = &self.superblock.geometry.shape;
        let column = block / shape.rows() as u64 % shape.data as u64;
        self.column(block, column as usize)
    }

    /// Where one of the parity blocks of its row is.
    pub fn parity(&self, block: u64, parity: usize) -> Place {
        self.column(block, self.superblock.geometry.shape.data + parity)
    }

    /// Where the block on the member of `role` is, in the row of a block of the export.
    pub fn on_role(&self, block: u64, role: usize) -> Place {
        let shape = &self.superblock.geometry.shape;
        self.column(block, shape.column_of(self.slot(block), role))
    }

    fn slot(&self, block: u64) -> Slot {
        let shape = &self.superblock.geometry.shape;
        let stripe = block / (shape.rows() * shape.data) as u64;
        self.slots[stripe as usize].expect("the block was written")
    }

    fn column(&self, block: u64, column: usize) -> Place {
        let g = &self.superblock.geometry;
        let slot = self.slot(block);
        let role = g.shape.role_of(slot, column);
        let offset = g.block_offset(slot, block as usize % g.shape.rows());
        Place {
            role,
            member: self.members[role].clone(),
            range: offset..offset + BLOCK,
        }
    }

    /// Both places of the checkpoint of lane 0, on any member.
    pub fn checkpoints(&self) -> Range<u64> {
        pair(self.superblock.geometry.checkpoint_offset(0, 0))
    }

    /// Both places of the first map page of lane 0.
    pub fn map_page(&self) -> Range<u64> {
        pair(self.superblock.geometry.map_page_offset(0, 0, 0))
    }

    /// Both places of the checksum page that covers a block of the export.
    pub fn checksum_page(&self, block: u64) -> Range<u64> {
        let g = &self.superblock.geometry;
        let slot = self.slot(block);
        let (page, _) = g.group_place(slot, block as usize % g.shape.rows());
        pair(g.checksum_page_offset(g.lane_of_slot(slot), page, 0))
    }

    /// Whether the checksum page that covers a block of the export, as it is now on the member of
    /// `role`, knows the sums of that block's stripe.
    pub fn sums_are_known(&self, block: u64, role: usize) -> bool {
        let g = &self.superblock.geometry;
        let bytes = fs::read(&self.members[role]).expect("read the member");
        let own = superblock_of(&bytes);
        let slot = self.slot(block);
        let lane = g.lane_of_slot(slot);
        let (page, _) = g.group_place(slot, block as usize % g.shape.rows());
        let copy = |copy: usize| {
            let at = g.checksum_page_offset(lane, page, copy) as usize;
            let block = &bytes[at..at + BLOCK as usize];
            match ChecksumPage::decode(block, own.key, own.index, lane as u16, page) {
                Found::Valid(sequence, content) => Some((sequence, content)),
                Found::Blank | Found::Damaged => None,
            }
        };
        let newest = [0, 1].into_iter().filter_map(copy).max_by_key(|c| c.0);
        let rows = 0..g.shape.rows();
        let known = |page: ChecksumPage| {
            rows.map(|row| page.sum(g, slot, row))
                .all(|s| s != Sum::NONE)
        };
        newest.is_some_and(|(_, page)| known(page))
    }
}

/// Two blocks one after the other.
fn pair(offset: u64) -> Range<u64> {
    offset..offset + 2 * BLOCK
}

/// Which of the four superblock copies of a member are valid.
pub fn valid_superblocks(member: &Path) -> usize {
    let bytes = fs::read(member).expect("read the member");
    let copies = copy_ranges(bytes.len() as u64).into_iter();
    copies
        .filter(|range| Superblock::decode(&bytes[range.start as usize..]).is_ok())
        .count()
}

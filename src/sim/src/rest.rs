//! An array at rest, from its members' bytes alone: every stripe in use is a codeword, every
//! checksum matches, and map, owners and slots agree. Knows the format, not the engine.

use crate::medium::{Durable, Medium};
use std::collections::BTreeMap;
use std::ops::Range;
use uraid_core::config::{Config, Entry, Index};
use uraid_core::geometry::{Geometry, Slot, Stripe};
use uraid_core::journal::Checkpoint;
use uraid_core::pages::{ChecksumPage, Found, MapEntry, block_matches, decode_map_page};
use uraid_core::superblock::{
    SUPERBLOCK_BYTES, Superblock, copy_ranges, inspect as inspect_superblocks,
};
use uraid_core::units::BLOCK_BYTES;
use uraid_parity::Kernels;

struct Member<'a> {
    role: usize,
    medium: &'a Medium,
    superblock: Superblock,
}

struct Inspection<'a> {
    g: &'a Geometry,
    key: u64,
    members: Vec<Member<'a>>,
}

/// Looks at the in-sync members of a stopped array, by role.
pub fn inspect(g: &Geometry, key: u64, media: &BTreeMap<usize, Medium>) -> Result<(), String> {
    let mut members = Vec::new();
    for (role, medium) in media {
        let superblock =
            superblock_of(medium).ok_or(format!("role {role}: no valid superblock at rest"))?;
        members.push(Member {
            role: *role,
            medium,
            superblock,
        });
    }
    let inspection = Inspection { g, key, members };
    for lane in 0..usize::from(g.lanes) {
        inspection.check_lane(lane)?;
    }
    Ok(())
}

/// The newest superblock on a medium.
pub fn superblock_of(medium: &Medium) -> Option<Superblock> {
    let read = |range: Range<u64>| {
        let mut copy = vec![0; SUPERBLOCK_BYTES];
        medium.read(range.start, &mut copy);
        copy
    };
    newest_superblock(copy_ranges(medium.len()).map(read))
}

/// The newest superblock of those that are durable.
pub fn durable_superblock(medium: &Medium) -> Option<Superblock> {
    let load = |range: Range<u64>| {
        let mut copy = vec![0; SUPERBLOCK_BYTES];
        medium.durable().load(range.start, &mut copy);
        copy
    };
    newest_superblock(copy_ranges(medium.len()).map(load))
}

fn newest_superblock(copies: [Vec<u8>; 4]) -> Option<Superblock> {
    inspect_superblocks(copies.each_ref().map(|copy| &copy[..])).superblock
}

/// What a member says about itself and the others, for the trace.
pub fn describe(medium: &Medium) -> String {
    let Some(s) = superblock_of(medium) else {
        return "no superblock".into();
    };
    let config = |c: &Config| {
        let entry = |(i, e): (Index, &Entry)| {
            let (index, role, state, uuid) = (i.0, e.role, e.state, e.uuid.0[0]);
            format!(
                "\n      {index}: {uuid:02x} {role:?} {state:?} left {} {:x}",
                e.left_epoch, e.left_nonce
            )
        };
        let entries: String = c.members().map(entry).collect();
        format!(
            "config {} nonce {:x} parent {:x}{entries}",
            c.epoch, c.nonce, c.parent
        )
    };
    format!(
        "index {} write {}\n    {}\n    before: {}",
        s.index.0,
        s.write,
        config(&s.config),
        config(&s.previous)
    )
}

impl Inspection<'_> {
    fn check_lane(&self, lane: usize) -> Result<(), String> {
        self.check_checkpoints(lane)?;
        let mut slots: BTreeMap<Slot, Stripe> = BTreeMap::new();
        for (number, entry) in self.map(lane)?.into_iter().enumerate() {
            let stripe = self.g.stripe_in_lane(lane, number as u64);
            let Some(slot) = entry.slot() else { continue };
            if let Some(other) = slots.insert(slot, stripe) {
                return Err(format!("{slot:?} belongs to {other:?} and to {stripe:?}"));
            }
            self.check_stripe(lane, stripe, slot)?;
        }
        Ok(())
    }

    fn check_checkpoints(&self, lane: usize) -> Result<(), String> {
        let mut tails = Vec::new();
        for member in &self.members {
            let newest = (0..2)
                .filter_map(|copy| {
                    let bytes = self.block(member, self.g.checkpoint_offset(lane, copy));
                    Checkpoint::decode(&bytes, self.key, lane as u16, member.superblock.index)
                })
                .max_by_key(|c| c.number);
            let newest = newest.ok_or(format!("role {}: no checkpoint at rest", member.role))?;
            tails.push((newest.epoch, newest.tail));
        }
        match tails.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(()),
            false => Err(format!(
                "lane {lane}: checkpoints at rest differ: {tails:?}"
            )),
        }
    }

    fn block(&self, member: &Member<'_>, offset: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_BYTES];
        member.medium.read(offset, &mut bytes);
        bytes
    }

    /// The map of a lane, the same on all members.
    fn map(&self, lane: usize) -> Result<Vec<MapEntry>, String> {
        let mut map = Vec::new();
        for page in 0..self.g.map_pages() {
            let mut first: Option<(usize, Vec<MapEntry>)> = None;
            for member in &self.members {
                let entries = self.map_page(member, lane, page);
                let Some((role, other)) = &first else {
                    first = Some((member.role, entries));
                    continue;
                };
                if let Some(at) = (0..entries.len()).find(|i| entries[*i] != other[*i]) {
                    return Err(format!(
                        "lane {lane} map page {page}: entry {at} is {:?} on role {}, {:?} on role \
                         {role}",
                        entries[at], member.role, other[at]
                    ));
                }
            }
            map.extend(first.map(|(_, entries)| entries).unwrap_or_default());
        }
        map.truncate((self.g.stripes / u64::from(self.g.lanes)) as usize);
        Ok(map)
    }

    fn map_page(&self, member: &Member<'_>, lane: usize, page: u64) -> Vec<MapEntry> {
        let copies = [0, 1].map(|copy| {
            let bytes = self.block(member, self.g.map_page_offset(lane, page, copy));
            decode_map_page(&bytes, self.key, self.g, lane as u16, page)
        });
        newest(copies).unwrap_or_else(|| {
            vec![MapEntry::default(); uraid_core::geometry::MAP_ENTRIES_PER_PAGE as usize]
        })
    }

    fn sums(&self, member: &Member<'_>, lane: usize, page: u64) -> ChecksumPage {
        let copies = [0, 1].map(|copy| {
            let bytes = self.block(member, self.g.checksum_page_offset(lane, page, copy));
            let index = member.superblock.index;
            ChecksumPage::decode(&bytes, self.key, index, lane as u16, page)
        });
        newest(copies).unwrap_or_else(ChecksumPage::blank)
    }

    fn check_stripe(&self, lane: usize, stripe: Stripe, slot: Slot) -> Result<(), String> {
        for row in 0..self.g.shape.rows() {
            let mut columns: Vec<Option<Vec<u8>>> = vec![None; self.g.shape.columns];
            for member in &self.members {
                let column = self.g.shape.column_of(slot, member.role);
                let block = self.checked_block(member, lane, (stripe, slot), row, column)?;
                columns[column] = Some(block);
            }
            self.check_codeword(&columns).map_err(|column| {
                format!("{stripe:?} in {slot:?} row {row}: column {column} is not its parity")
            })?;
        }
        Ok(())
    }

    /// A block after a look at its owner and checksum; zeros if it was never written.
    fn checked_block(
        &self,
        member: &Member<'_>,
        lane: usize,
        (stripe, slot): (Stripe, Slot),
        row: usize,
        column: usize,
    ) -> Result<Vec<u8>, String> {
        let at = self.g.block_offset(slot, row);
        let here = || {
            format!(
                "role {} {stripe:?} {slot:?} row {row} (byte {at})",
                member.role
            )
        };
        let page = self.sums(member, lane, self.g.group_place(slot, row).0);
        let owner = page.owner(self.g, slot, row);
        if owner != Some(stripe) {
            return Err(format!("{}: the owner stamp says {owner:?}", here()));
        }
        let sum = page.sum(self.g, slot, row);
        if sum.is_blank() {
            return Ok(vec![0; BLOCK_BYTES]);
        }
        let bytes = self.block(member, self.g.block_offset(slot, row));
        match block_matches(self.key, slot, row, column, &bytes, sum) {
            true => Ok(bytes),
            false => Err(format!("{}: it does not match {sum:?}", here())),
        }
    }

    /// Every parity that is there must follow from the data that is there; the error is the
    /// column that does not.
    fn check_codeword(&self, columns: &[Option<Vec<u8>>]) -> Result<(), usize> {
        let shape = &self.g.shape;
        let Some(data) = columns[..shape.data]
            .iter()
            .cloned()
            .collect::<Option<Vec<_>>>()
        else {
            return Ok(());
        };
        let code = shape.code();
        for (parity, found) in columns[shape.data..].iter().enumerate() {
            let Some(found) = found else { continue };
            let mut expected = vec![0; BLOCK_BYTES];
            for (c, bytes) in data.iter().enumerate() {
                Kernels::detect().mul_acc(&mut expected, code.coefficient(parity, c), bytes);
            }
            if expected != *found {
                return Err(shape.data + parity);
            }
        }
        Ok(())
    }
}

fn newest<T>(copies: [Found<T>; 2]) -> Option<T> {
    let mut best: Option<(u64, T)> = None;
    for copy in copies {
        if let Found::Valid(sequence, content) = copy
            && best.as_ref().is_none_or(|(s, _)| sequence > *s)
        {
            best = Some((sequence, content));
        }
    }
    best.map(|(_, content)| content)
}

//! What hostile hands do to the members of an array: every structure on them gets numbers it
//! never should have, under a seal that is right.

use super::images::Image;
use super::member::Member;
use crate::choices::Choices;
use crate::journal::any_entry;
use crate::{seal, superblock};
use uraid_core::checksum;
use uraid_core::config::Index;
use uraid_core::geometry::{Geometry, Slot, Stripe};
use uraid_core::journal::{Checkpoint, Entry, Following, Header, HeaderKind};
use uraid_core::listed::ListedPages;
use uraid_core::pages::{
    ChecksumPage, Found, MapEntry, PageStamp, Peer, Sum, decode_map_page, encode_map_page,
};
use uraid_core::superblock::{SUPERBLOCK_BYTES, Superblock, copy_ranges};
use uraid_core::units::{BLOCK, BLOCK_BYTES};

/// A member and what it is said to be.
struct Victim<'a> {
    member: &'a mut Member,
    geometry: Geometry,
    key: u64,
    index: Index,
}

/// Does one thing, to one member or in the same way to all.
pub fn forge(c: &mut Choices<'_>, image: &mut Image) {
    let what = c.below(12);
    let victims = chosen(c, image.members.len());
    let start = c.clone();
    for i in victims {
        let mut again = start.clone();
        let s = &image.superblocks[i];
        let victim = Victim {
            member: &mut image.members[i],
            geometry: s.geometry,
            key: s.key,
            index: s.index,
        };
        victim.forge(what, &mut again);
        *c = again;
    }
}

/// Overwrites some blocks of a member with garbage that no seal covers.
pub fn damage(c: &mut Choices<'_>, member: &mut Member) {
    let written = member.written();
    for _ in 0..1 + c.below(4) {
        let block = match c.one_in(4) {
            true => c.below(member.len / BLOCK),
            false => *c.pick(&written),
        };
        let mut bytes = member.get(block * BLOCK, BLOCK_BYTES);
        let at = c.index(BLOCK_BYTES);
        match c.below(3) {
            0 => bytes[at] ^= 1 << c.below(8),
            1 => bytes.fill(c.byte()),
            _ => bytes[at..].fill(0),
        }
        member.write(block * BLOCK, &bytes);
    }
}

/// One member, or all of them.
fn chosen(c: &mut Choices<'_>, count: usize) -> Vec<usize> {
    match c.index(count + 1) {
        0 => (0..count).collect(),
        one => vec![one - 1],
    }
}

impl Victim<'_> {
    fn forge(mut self, what: u64, c: &mut Choices<'_>) {
        match what {
            0 | 1 => self.superblock(c),
            2 => self.checkpoint(c),
            3..=5 => self.batch(c),
            6 => self.relog(c),
            7 | 8 => self.map_page(c),
            9 => self.checksum_page(c),
            10 => self.any_block(c),
            _ => self.member.len = c.number(self.member.len / BLOCK).min(1 << 16) * BLOCK,
        }
    }

    fn get(&self, offset: u64) -> Vec<u8> {
        match self.member.holds(offset, BLOCK) {
            true => self.member.get(offset, BLOCK_BYTES),
            false => vec![0; BLOCK_BYTES],
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        if self.member.holds(offset, bytes.len() as u64) {
            self.member.write(offset, bytes);
        }
    }

    /// All copies become one that was changed.
    fn superblock(&mut self, c: &mut Choices<'_>) {
        let places: Vec<u64> = copy_ranges(self.member.len)
            .into_iter()
            .map(|range| range.start)
            .filter(|offset| self.member.holds(*offset, SUPERBLOCK_BYTES as u64))
            .collect();
        let copies = places
            .iter()
            .map(|offset| self.member.get(*offset, SUPERBLOCK_BYTES));
        let valid = copies.filter_map(|bytes| Superblock::decode(&bytes).ok());
        let Some(mut newest) = valid.max_by_key(|s| s.write) else {
            return;
        };
        superblock::change(c, &mut newest);
        let mut bytes = newest.encode();
        if c.one_in(4) {
            c.edit(&mut bytes);
            seal::superblock(&mut bytes);
        }
        places.iter().for_each(|offset| self.put(*offset, &bytes));
    }

    fn newest_checkpoint(&self, lane: u16) -> Checkpoint {
        let copies =
            [0, 1].map(|copy| self.get(self.geometry.checkpoint_offset(lane.into(), copy)));
        let valid = copies
            .iter()
            .filter_map(|b| Checkpoint::decode(b, self.key, lane, self.index));
        let newest = valid.max_by_key(|c| c.number);
        newest.unwrap_or(Checkpoint::first(lane, self.index, 1))
    }

    fn lane(&self, c: &mut Choices<'_>) -> u16 {
        c.below(self.geometry.lanes.into()) as u16
    }

    fn checkpoint(&mut self, c: &mut Choices<'_>) {
        let lane = self.lane(c);
        let mut checkpoint = self.newest_checkpoint(lane);
        for _ in 0..1 + c.below(2) {
            let field = c.below(6);
            c.replace(match field {
                0 => &mut checkpoint.tail_pos,
                1 => &mut checkpoint.tail,
                2 => &mut checkpoint.number,
                3 => &mut checkpoint.epoch,
                4 => &mut checkpoint.witnessed_tail,
                _ => &mut checkpoint.config_nonce,
            });
        }
        let offset = self.geometry.checkpoint_offset(lane.into(), c.index(2));
        let bounded = checkpoint.following > Following::Anything;
        if bounded && c.one_in(4) {
            checkpoint.following = *c.pick(&[Following::Batches, Following::Nothing]);
        }
        let none = ListedPages::none(&self.geometry);
        let listed = (bounded && c.one_in(4)).then_some(&none);
        self.put(offset, &checkpoint.encode(self.key, listed));
    }

    /// A batch that fits behind the tail, or nearly.
    fn batch(&mut self, c: &mut Choices<'_>) {
        let lane = self.lane(c);
        let checkpoint = self.newest_checkpoint(lane);
        let (ahead, skipped) = (c.below(8), c.below(4) * 2);
        let (mut header, payload) = self.header(c, lane, HeaderKind::Batch, checkpoint.epoch);
        header.seq = checkpoint.tail.wrapping_add(ahead);
        header.tail = checkpoint.tail;
        header.durable_upto = checkpoint.tail;
        header.pos = checkpoint.tail_pos.wrapping_add(skipped);
        let at = header.pos % self.geometry.ring_blocks;
        self.spoil(c, &mut header);
        self.put_record(
            self.geometry.ring_offset(lane.into()) + at * BLOCK,
            &header,
            &payload,
        );
    }

    fn relog(&mut self, c: &mut Choices<'_>) {
        let lane = self.lane(c);
        let epoch = self.newest_checkpoint(lane).epoch.wrapping_add(1);
        let (part, parts) = (c.below(2) as u32, 1 + c.below(2) as u32);
        let (mut header, payload) = self.header(c, lane, HeaderKind::Relog { part, parts }, epoch);
        header.seq = self.newest_checkpoint(lane).tail;
        header.pos = c.below(8);
        let area = c.index(2);
        let at = header.pos;
        self.spoil(c, &mut header);
        self.put_record(
            self.geometry.relog_offset(lane.into(), area) + at * BLOCK,
            &header,
            &payload,
        );
    }

    /// A header with any entries, and payload that matches it.
    fn header(
        &self,
        c: &mut Choices<'_>,
        lane: u16,
        kind: HeaderKind,
        epoch: u64,
    ) -> (Header, Vec<u8>) {
        let g = &self.geometry;
        let mut entries: Vec<Entry> = (0..c.below(6)).map(|_| any_entry(c, g, lane)).collect();
        let fill = c.byte();
        let block = vec![fill; BLOCK_BYTES];
        let mut blocks = 0;
        for entry in &mut entries {
            let Entry::Row {
                slot,
                row,
                columns,
                checksums,
                ..
            } = entry
            else {
                continue;
            };
            let sum =
                |column: usize| checksum::block(self.key, *slot, usize::from(*row), column, &block);
            *checksums = columns.iter().map(sum).collect();
            let role = usize::from(self.index.0) % g.shape.columns;
            blocks += u32::from(columns.contains(g.shape.column_of(*slot, role)));
        }
        let header = Header {
            kind,
            lane,
            member: self.index,
            epoch,
            config_epoch: 1,
            config_nonce: 1,
            seq: 1,
            pos: 0,
            tail: 0,
            durable_upto: 0,
            participants: 7,
            payload_blocks: blocks,
            entries,
        };
        (header, block.repeat(blocks as usize))
    }

    /// Now and then a number of the header is a hostile one.
    fn spoil(&self, c: &mut Choices<'_>, header: &mut Header) {
        if !c.one_in(2) {
            return;
        }
        match c.below(9) {
            0 => c.replace(&mut header.seq),
            1 => c.replace(&mut header.pos),
            2 => c.replace(&mut header.epoch),
            3 => c.replace(&mut header.tail),
            4 => c.replace(&mut header.durable_upto),
            5 => c.replace(&mut header.payload_blocks),
            6 => c.replace(&mut header.config_epoch),
            7 => header.participants = u128::from(c.number(7)) << c.below(64),
            _ => {
                let (mut part, mut parts) = (0u32, 1u32);
                c.replace(&mut part);
                c.replace(&mut parts);
                header.kind = HeaderKind::Relog { part, parts };
            }
        }
    }

    fn put_record(&mut self, offset: u64, header: &Header, payload: &[u8]) {
        let mut bytes = header.encode(self.key);
        bytes.extend_from_slice(payload);
        self.put(offset, &bytes);
    }

    fn map_page(&mut self, c: &mut Choices<'_>) {
        let g = self.geometry;
        let lane = self.lane(c);
        let page = c.below(g.map_pages());
        let offsets = [0, 1].map(|copy| g.map_page_offset(lane.into(), page, copy));
        let decode = |bytes: Vec<u8>| match decode_map_page(&bytes, self.key, &g, lane, page) {
            Found::Valid(sequence, map) => Some((sequence, map)),
            Found::Blank | Found::Damaged => None,
        };
        let found = offsets
            .into_iter()
            .filter_map(|offset| decode(self.get(offset)));
        let entries = uraid_core::geometry::MAP_ENTRIES_PER_PAGE as usize;
        let blank = || (0, vec![MapEntry::default(); entries]);
        let (mut sequence, mut map) = found.max_by_key(|(s, _)| *s).unwrap_or_else(blank);
        for _ in 0..1 + c.below(4) {
            let at = c.index(map.len().min((g.stripes / u64::from(g.lanes)) as usize + 1));
            map[at] = match c.below(4) {
                0 => map[c.index(8)],
                1 => MapEntry::default(),
                2 => MapEntry::new(any_slot(c, &g, lane), c.number(1)),
                _ => MapEntry(c.number(map[at].0)),
            };
        }
        sequence = match c.one_in(4) {
            true => c.number(sequence),
            false => sequence.wrapping_add(1),
        };
        let bytes = encode_map_page(self.key, lane, page, sequence, &map);
        self.put(offsets[(sequence % 2) as usize], &bytes);
    }

    fn checksum_page(&mut self, c: &mut Choices<'_>) {
        let g = self.geometry;
        let lane = self.lane(c);
        let page = c.below(g.checksum_pages());
        let offsets = [0, 1].map(|copy| g.checksum_page_offset(lane.into(), page, copy));
        let decode =
            |bytes: Vec<u8>| match ChecksumPage::decode(&bytes, self.key, self.index, lane, page) {
                Found::Valid(sequence, content) => Some((sequence, content)),
                Found::Blank | Found::Damaged => None,
            };
        let found = offsets
            .into_iter()
            .filter_map(|offset| decode(self.get(offset)));
        let blank = || (0, ChecksumPage::blank());
        let (mut sequence, mut content) = found.max_by_key(|(s, _)| *s).unwrap_or_else(blank);
        for _ in 0..1 + c.below(4) {
            let (slot, row) = (any_slot(c, &g, lane), c.index(g.shape.rows()));
            if g.group_place(slot, row).0 != page {
                continue;
            }
            match c.below(4) {
                0 => content.take_group(&g, slot, row, Stripe(c.number(1) >> 1), c.number(1)),
                1 => content.set_sum(&g, slot, row, Sum::NONE),
                2 => content.set_sum(&g, slot, row, Sum::default()),
                _ => {
                    let (crc, generation) = (c.word(4) as u32, c.number(1) as u32);
                    content.set_sum(&g, slot, row, Sum { crc, generation });
                }
            }
        }
        sequence = match c.one_in(4) {
            true => c.number(sequence),
            false => sequence.wrapping_add(1),
        };
        let member = |c: &mut Choices<'_>| Index(c.below(g.shape.columns as u64 + 2) as u16);
        let peers: Vec<Option<Peer>> = (0..g.shape.columns)
            .map(|_| {
                c.one_in(2)
                    .then(|| Peer::new(member(c), c.number(sequence)))
            })
            .collect();
        let stamp = PageStamp {
            member: self.index,
            lane,
            page,
            sequence,
            checkpoint: c.number(self.newest_checkpoint(lane).number),
        };
        content.stamp(&stamp, &peers);
        let bytes = content.sealed(self.key);
        self.put(offsets[(sequence % 2) as usize], &bytes);
    }

    /// Some fields of any block of metadata, sealed as all of them but superblocks are.
    fn any_block(&mut self, c: &mut Choices<'_>) {
        let zones = self.geometry.zones();
        let metadata = |b: &u64| (zones.checkpoints..zones.data).contains(&(b * BLOCK));
        let blocks: Vec<u64> = self.member.written().into_iter().filter(metadata).collect();
        if blocks.is_empty() {
            return;
        }
        let offset = *c.pick(&blocks) * BLOCK;
        let mut bytes = self.get(offset);
        c.edit(&mut bytes);
        seal::metadata(&mut bytes, self.key);
        self.put(offset, &bytes);
    }
}

fn any_slot(c: &mut Choices<'_>, g: &Geometry, lane: u16) -> Slot {
    let lanes = u64::from(g.lanes);
    Slot(c.below(g.slots / lanes) * lanes + u64::from(lane))
}

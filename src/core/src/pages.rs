//! Map pages and checksum pages: 4 KiB each, two copies by turns, the higher sequence number
//! counts. A page that is all zeros was never written.

use crate::checksum;
use crate::codec::{Reader, Writer};
use crate::config::Index;
use crate::geometry::{Geometry, MAP_ENTRIES_PER_PAGE, Slot, Stripe};
use crate::journal::{check_seal, seal};
use crate::units::{BLOCK_BYTES, is_blank};
use alloc::boxed::Box;
use alloc::vec::Vec;

const MAP_MAGIC: u32 = u32::from_le_bytes(*b"uMP1");
const CHECKSUM_MAGIC: u32 = u32::from_le_bytes(*b"uCS1");
const MAP_HEADER_BYTES: usize = 64;
/// Where a checksum page names the checkpoint that wrote it.
const CHECKPOINT_AT: usize = 24;
/// Where a checksum page lists the sequence numbers of its peers.
const PEERS_AT: usize = 32;
/// Bits of a sequence number that peers remember.
const PEER_BITS: u32 = 24;
/// Config epochs are kept in this many bits of a map entry; see [`MapEntry::tag`].
pub const TAG_BITS: u32 = 24;

/// Where a stripe lives: 8 bytes of a map page. Zero means it was never written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MapEntry(pub u64);

impl MapEntry {
    /// A stripe in `slot`, last changed under config `epoch`.
    pub fn new(slot: Slot, epoch: u64) -> MapEntry {
        let tag = epoch.min((1 << TAG_BITS) - 1);
        MapEntry(tag << 32 | (slot.0 + 1))
    }

    /// Its slot, if it has one.
    pub fn slot(self) -> Option<Slot> {
        (self.0 as u32 != 0).then(|| Slot(u64::from(self.0 as u32) - 1))
    }

    /// Epoch of the config under which it last changed. Saturates, which makes a returning
    /// member copy more than it must, never less.
    pub fn tag(self) -> u64 {
        self.0 >> 32 & ((1 << TAG_BITS) - 1)
    }

    /// Whether the stripe may have changed in or after the config of this epoch.
    pub fn changed_since(self, epoch: u64) -> bool {
        self.tag() >= epoch.min((1 << TAG_BITS) - 1)
    }
}

/// Encodes one map page of a lane.
pub fn encode_map_page(key: u64, lane: u16, page: u64, sequence: u64, map: &[MapEntry]) -> Vec<u8> {
    let mut w = Writer::default();
    w.u32(MAP_MAGIC)
        .u32(0)
        .u64(sequence)
        .u64(page)
        .u16(lane)
        .pad_to(MAP_HEADER_BYTES);
    map.iter().for_each(|e| {
        w.u64(e.0);
    });
    w.pad_to(BLOCK_BYTES);
    seal(w.finish(), key)
}

/// A page as found: never written, or with its sequence number, or damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found<T> {
    /// All zeros.
    Blank,
    /// Valid.
    Valid(u64, T),
    /// Neither.
    Damaged,
}

/// Reads one copy of a map page; entries that point outside the array make it damaged.
pub fn decode_map_page(
    bytes: &[u8],
    key: u64,
    g: &Geometry,
    lane: u16,
    page: u64,
) -> Found<Vec<MapEntry>> {
    if is_blank(bytes) {
        return Found::Blank;
    }
    decode_map_fields(bytes, key, g, lane, page).map_or(Found::Damaged, |(s, m)| Found::Valid(s, m))
}

fn decode_map_fields(
    bytes: &[u8],
    key: u64,
    g: &Geometry,
    lane: u16,
    page: u64,
) -> Option<(u64, Vec<MapEntry>)> {
    check_seal(bytes, key)?;
    let mut r = Reader::new(bytes);
    let magic = r.u32()?;
    r.u32()?;
    let sequence = r.count()?;
    if magic != MAP_MAGIC || r.u64()? != page || r.u16()? != lane {
        return None;
    }
    r.zeros_to(MAP_HEADER_BYTES)?;
    let mut map = Vec::with_capacity(MAP_ENTRIES_PER_PAGE as usize);
    for _ in 0..MAP_ENTRIES_PER_PAGE {
        let entry = MapEntry(r.u64()?);
        let inside = entry
            .slot()
            .is_none_or(|slot| slot.0 < g.slots && g.lane_of_slot(slot) == usize::from(lane));
        if !inside {
            return None;
        }
        map.push(entry);
    }
    Some((sequence, map))
}

/// Checksum and generation of one block.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sum {
    /// See [`checksum::block`].
    pub crc: u32,
    /// From the batch that wrote it; 0: never written since the slot was taken, reads as zero.
    pub generation: u32,
}

impl Sum {
    /// A sum that stands for no content: the block was written, and nothing read is right.
    /// Recognised by [`block_matches`].
    pub const NONE: Sum = Sum {
        crc: 0,
        generation: u32::MAX,
    };

    /// The sum of a block written by batch `seq`.
    pub fn new(crc: u32, seq: u64) -> Sum {
        Sum {
            crc,
            generation: (seq % u64::from(u32::MAX - 1)) as u32 + 1,
        }
    }

    /// Whether the block was never written and stands for zeros.
    pub fn is_blank(self) -> bool {
        self.generation == 0
    }
}

/// What a checksum page says about itself.
#[derive(Clone, Copy, Debug)]
pub struct PageStamp {
    /// The member it is on.
    pub member: Index,
    /// Its lane.
    pub lane: u16,
    /// Its number within the lane.
    pub page: u64,
    /// Number of this write of it.
    pub sequence: u64,
    /// The lane's checkpoint that wrote it.
    pub checkpoint: u64,
}

/// What a checksum page remembers of the same page on another member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The member.
    pub member: Index,
    /// Low bits of the sequence number of its last write of the page.
    sequence: u32,
}

impl Peer {
    /// `member` wrote the page under `sequence`.
    pub fn new(member: Index, sequence: u64) -> Peer {
        let sequence = (sequence & ((1 << PEER_BITS) - 1)) as u32;
        Peer { member, sequence }
    }

    /// The write before.
    pub fn before(self) -> Peer {
        Peer {
            sequence: self.sequence.wrapping_sub(1) & ((1 << PEER_BITS) - 1),
            ..self
        }
    }

    /// By how much the write that is remembered is newer than one with this sequence number; 0
    /// if it is not. Numbers wrap: what is less than half of them away counts as newer.
    pub fn ahead_of(self, sequence: u64) -> u64 {
        let own = Peer::new(self.member, sequence).sequence;
        let ahead = self.sequence.wrapping_sub(own) & ((1 << PEER_BITS) - 1);
        match ahead < 1 << (PEER_BITS - 1) {
            true => ahead.into(),
            false => 0,
        }
    }

    fn pack(self) -> u32 {
        u32::from(self.member.0 + 1) << PEER_BITS | self.sequence
    }

    fn unpack(packed: u32) -> Option<Peer> {
        let member = Index((packed >> PEER_BITS).checked_sub(1)? as u16);
        Some(Peer::new(member, packed.into()))
    }
}

/// A checksum page in memory: the sums of some slots' blocks on one member.
#[derive(Clone)]
pub struct ChecksumPage {
    bytes: Box<[u8; BLOCK_BYTES]>,
}

impl ChecksumPage {
    /// A page of blank sums.
    pub fn blank() -> ChecksumPage {
        ChecksumPage {
            bytes: Box::new([0; BLOCK_BYTES]),
        }
    }

    /// Reads one copy.
    pub fn decode(bytes: &[u8], key: u64, member: Index, lane: u16, page: u64) -> Found<Self> {
        if is_blank(bytes) {
            return Found::Blank;
        }
        let fields = || {
            check_seal(bytes, key)?;
            let mut r = Reader::new(bytes);
            let magic = r.u32()?;
            r.u32()?;
            let sequence = r.count()?;
            let same = magic == CHECKSUM_MAGIC
                && r.u32()? == page as u32
                && r.u16()? == lane
                && r.u16()? == member.0;
            let bytes: [u8; BLOCK_BYTES] = bytes.try_into().ok()?;
            same.then(|| {
                (
                    sequence,
                    ChecksumPage {
                        bytes: Box::new(bytes),
                    },
                )
            })
        };
        fields().map_or(Found::Damaged, |(s, p)| Found::Valid(s, p))
    }

    /// Writes down what the page says about itself and its peers; [`ChecksumPage::sealed`] is
    /// what then goes to disk.
    pub fn stamp(&mut self, stamp: &PageStamp, peers: &[Option<Peer>]) {
        let mut w = Writer::default();
        w.u32(CHECKSUM_MAGIC)
            .u32(0)
            .u64(stamp.sequence)
            .u32(stamp.page as u32)
            .u16(stamp.lane)
            .u16(stamp.member.0)
            .u64(stamp.checkpoint);
        peers.iter().for_each(|p| {
            w.u32(p.map_or(0, Peer::pack));
        });
        let header = w.finish();
        self.bytes[..header.len()].copy_from_slice(&header);
    }

    /// The page as it lies on disk.
    pub fn sealed(&self, key: u64) -> Vec<u8> {
        seal(self.bytes.to_vec(), key)
    }

    /// Number of the lane's checkpoint that wrote the page.
    pub fn checkpoint(&self) -> u64 {
        u64::from(self.field(CHECKPOINT_AT)) | u64::from(self.field(CHECKPOINT_AT + 4)) << 32
    }

    /// Who held `role`, and under which number that member had last written the same page, as it
    /// was known when this one was written.
    pub fn peer(&self, role: usize) -> Option<Peer> {
        Peer::unpack(self.field(PEERS_AT + 4 * role))
    }

    /// Whether two pages say the same, apart from their seals.
    pub fn agrees(&self, other: &ChecksumPage) -> bool {
        self.bytes[8..] == other.bytes[8..]
    }

    fn field(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    /// The sum of `row` of `slot`.
    pub fn sum(&self, g: &Geometry, slot: Slot, row: usize) -> Sum {
        let at = sum_offset(g, slot, row);
        Sum {
            crc: self.field(at),
            generation: self.field(at + 4),
        }
    }

    /// Sets the sum of `row` of `slot`.
    pub fn set_sum(&mut self, g: &Geometry, slot: Slot, row: usize, sum: Sum) {
        let at = sum_offset(g, slot, row);
        self.bytes[at..at + 4].copy_from_slice(&sum.crc.to_le_bytes());
        self.bytes[at + 4..at + 8].copy_from_slice(&sum.generation.to_le_bytes());
    }

    /// Marks the group of `row` of `slot` as `stripe`'s since batch `seq`, all blocks blank.
    pub fn take_group(&mut self, g: &Geometry, slot: Slot, row: usize, stripe: Stripe, seq: u64) {
        let (_, at) = g.group_place(slot, row);
        self.bytes[at..at + g.group_bytes()].fill(0);
        self.bytes[at..at + 8].copy_from_slice(&(stripe.0 + 1).to_le_bytes());
        self.bytes[at + 8..at + 16].copy_from_slice(&seq.to_le_bytes());
    }

    /// Stamps a group with its owner and leaves its sums as they are.
    pub fn own_group(&mut self, g: &Geometry, slot: Slot, row: usize, stripe: Stripe) {
        let (_, at) = g.group_place(slot, row);
        self.bytes[at..at + 8].copy_from_slice(&(stripe.0 + 1).to_le_bytes());
    }

    /// The stripe that owns the group of `row` of `slot`.
    pub fn owner(&self, g: &Geometry, slot: Slot, row: usize) -> Option<Stripe> {
        let (_, at) = g.group_place(slot, row);
        let stamp = u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("8 bytes"));
        stamp.checked_sub(1).map(Stripe)
    }
}

fn sum_offset(g: &Geometry, slot: Slot, row: usize) -> usize {
    let (_, group) = g.group_place(slot, row);
    group + 16 + 8 * (row % g.group_rows())
}

/// Checks a block against its sum.
pub fn block_matches(
    key: u64,
    slot: Slot,
    row: usize,
    column: usize,
    bytes: &[u8],
    sum: Sum,
) -> bool {
    sum != Sum::NONE && checksum::block(key, slot, row, column, bytes) == sum.crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Level, Shape};

    fn geometry(chunk: u32) -> Geometry {
        let shape = Shape::new(Level::Raid6, 6, None, None, Some(chunk)).unwrap();
        Geometry::plan(shape, 1 << 30, None).unwrap()
    }

    #[test]
    fn map_pages_round_trip() {
        let g = geometry(64 << 10);
        let map: Vec<MapEntry> = (0..MAP_ENTRIES_PER_PAGE)
            .map(|i| {
                if i % 3 == 0 {
                    MapEntry::default()
                } else {
                    MapEntry::new(Slot(i), i)
                }
            })
            .collect();
        let mut bytes = encode_map_page(5, 0, 1, 9, &map);
        assert_eq!(decode_map_page(&bytes, 5, &g, 0, 1), Found::Valid(9, map));
        assert_eq!(
            decode_map_page(&bytes, 5, &g, 0, 2),
            Found::Damaged,
            "misplaced"
        );
        bytes[100] ^= 1;
        assert_eq!(decode_map_page(&bytes, 5, &g, 0, 1), Found::Damaged);
        assert_eq!(decode_map_page(&[0; 4096], 5, &g, 0, 1), Found::Blank);
    }

    #[test]
    fn map_entries_keep_slot_and_epoch() {
        let e = MapEntry::new(Slot(0), 3);
        assert_eq!((e.slot(), e.tag()), (Some(Slot(0)), 3));
        assert!(e.changed_since(3) && !e.changed_since(4));
        assert!(
            MapEntry::new(Slot(1), u64::MAX).changed_since(1 << 40),
            "saturates to more work"
        );
        assert_eq!(MapEntry::default().slot(), None);
    }

    #[test]
    fn peers_know_who_is_behind_also_when_numbers_wrap() {
        let peer = Peer::new(Index(0), 5);
        assert_eq!([4, 5, 6].map(|s| peer.ahead_of(s)), [1, 0, 0]);
        let wrapped = Peer::new(Index(0), (1 << PEER_BITS) + 1);
        assert_eq!(wrapped.ahead_of((1 << PEER_BITS) - 1), 2);
        assert_eq!(wrapped.ahead_of((1 << PEER_BITS) + 2), 0);
    }

    #[test]
    fn every_block_has_its_own_sum() {
        for chunk in [4 << 10, 64 << 10, 1 << 20] {
            let g = geometry(chunk);
            let mut pages = alloc::collections::BTreeMap::<u64, ChecksumPage>::new();
            let slots = (0..40).map(Slot).filter(|s| s.0 < g.slots);
            for slot in slots.clone() {
                for row in 0..g.shape.rows() {
                    let page = pages
                        .entry(g.group_place(slot, row).0)
                        .or_insert_with(ChecksumPage::blank);
                    if row % g.group_rows() == 0 {
                        page.take_group(&g, slot, row, Stripe(slot.0 + 100), 1);
                    }
                    page.set_sum(
                        &g,
                        slot,
                        row,
                        Sum::new(slot.0 as u32 * 1000 + row as u32, 1),
                    );
                }
            }
            for (number, page) in &mut pages {
                let stamp = PageStamp {
                    member: Index(2),
                    lane: 0,
                    page: *number,
                    sequence: 7,
                    checkpoint: 9 << 32 | 1,
                };
                page.stamp(&stamp, &[Some(Peer::new(Index(119), 7)); 6]);
                let bytes = page.sealed(3);
                assert_eq!(bytes.len(), BLOCK_BYTES);
                let Found::Valid(7, read) = ChecksumPage::decode(&bytes, 3, Index(2), 0, *number)
                else {
                    panic!("page {number}")
                };
                assert_eq!(read.checkpoint(), 9 << 32 | 1);
                assert_eq!(read.peer(5), Some(Peer::new(Index(119), 7)));
                assert!(read.agrees(page));
                assert_eq!(
                    read.sealed(3),
                    bytes,
                    "a page that was read can be written back"
                );
                *page = read;
            }
            for slot in slots {
                for row in 0..g.shape.rows() {
                    let page = &pages[&g.group_place(slot, row).0];
                    assert_eq!(
                        page.sum(&g, slot, row).crc,
                        slot.0 as u32 * 1000 + row as u32
                    );
                    assert_eq!(page.owner(&g, slot, row), Some(Stripe(slot.0 + 100)));
                }
            }
        }
    }
}

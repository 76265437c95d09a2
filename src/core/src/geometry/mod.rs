//! Layouts, and where every stripe, slot and zone lies.
//!
//! A *stripe* is the array's unit of address; it lives in one *slot*, the same place on every
//! member, and may move to another. All arithmetic on addresses and offsets is here: what concerns
//! one stripe in [`Shape`], what concerns a whole member in [`Geometry`].

mod shape;

use crate::units::BLOCK;
use alloc::string::{String, ToString};

pub use shape::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, COLUMNS_MAX, Level, PARITY_MAX, Shape};

/// A stripe number, counted over the whole export.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stripe(pub u64);

/// A slot number, counted over the whole member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u64);
/// Most lanes.
pub const LANES_MAX: u16 = 64;

/// Where the zones of a member begin, in bytes. The order is the order on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zones {
    /// Two checkpoint blocks per lane.
    pub checkpoints: u64,
    /// One ring per lane.
    pub journal: u64,
    /// Two re-log areas per lane.
    pub relog: u64,
    /// Map pages, two copies each.
    pub map: u64,
    /// Checksum pages, two copies each.
    pub checksums: u64,
    /// Slots.
    pub data: u64,
    /// First byte after the slots.
    pub end: u64,
}

/// The whole layout of an array: what is fixed at creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// How stripes are spread.
    pub shape: Shape,
    /// Journals, each with its own stripes and slots: stripe and slot `i` belong to lane
    /// `i mod lanes`.
    pub lanes: u16,
    /// Blocks of one lane's journal ring.
    pub ring_blocks: u64,
    /// Blocks of each of the two re-log areas of a lane.
    pub relog_blocks: u64,
    /// Slots of a member; a multiple of `lanes`.
    pub slots: u64,
    /// Stripes of the array; a multiple of `lanes`, fewer than slots.
    pub stripes: u64,
    /// Size of the export in bytes.
    pub export_bytes: u64,
}

/// Bytes before the first zone: the head superblocks.
pub const HEAD_BYTES: u64 = 1 << 20;
/// Bytes after the last zone: the backup superblocks.
pub const TAIL_BYTES: u64 = 1 << 20;
/// Map entries in a map page.
pub const MAP_ENTRIES_PER_PAGE: u64 = 504;
/// Most blocks that share one owner stamp in a checksum page.
pub const GROUP_ROWS_MAX: usize = 64;
/// A journal ring takes 1/64 of a member, within these bounds for all lanes together.
const JOURNAL_SHARE: u64 = 64;
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
const RING_BYTES_MIN: u64 = 1 << 20;
/// A re-log area is this part of a ring.
const RELOG_SHARE: u64 = 2;
/// A lane for each so many bytes of a member.
const LANE_BYTES: u64 = 2 << 30;
const LANES_DEFAULT_MAX: u64 = 16;

impl Geometry {
    /// The layout for members of `member_bytes` each (the smallest counts).
    pub fn plan(shape: Shape, member_bytes: u64, export: Option<u64>) -> Result<Geometry, String> {
        let lanes = (member_bytes / LANE_BYTES).clamp(1, LANES_DEFAULT_MAX) as u16;
        let ring_bytes = (member_bytes / JOURNAL_SHARE).min(JOURNAL_BYTES_MAX) / u64::from(lanes);
        let ring_bytes = ring_bytes
            .max(RING_BYTES_MIN)
            .max(Self::ring_bytes_min(&shape));
        let mut geometry = Geometry {
            shape,
            lanes,
            ring_blocks: ring_bytes / BLOCK,
            relog_blocks: ring_bytes / BLOCK / RELOG_SHARE,
            slots: 0,
            stripes: 0,
            export_bytes: 0,
        };
        geometry.fit_slots(member_bytes)?;
        geometry.stripes = geometry.slots - geometry.spare_slots();
        let capacity = geometry.stripes * shape.stripe_bytes();
        geometry.export_bytes = export.unwrap_or(capacity);
        if geometry.export_bytes > capacity || geometry.export_bytes == 0 {
            return Err(alloc::format!(
                "export of {} bytes: the members hold at most {capacity}",
                geometry.export_bytes
            ));
        }
        Ok(geometry)
    }

    /// Four of the largest batches fit in a ring.
    fn ring_bytes_min(shape: &Shape) -> u64 {
        4 * Self::batch_bytes_max(shape)
    }

    /// The largest batch: one that needs so much for a single change.
    fn batch_bytes_max(shape: &Shape) -> u64 {
        Self::remap_entry_bytes(shape) + u64::from(shape.chunk_bytes) + (64 << 10)
    }

    fn remap_entry_bytes(shape: &Shape) -> u64 {
        64 + 4 * (shape.columns * shape.rows()) as u64
    }

    fn fit_slots(&mut self, member_bytes: u64) -> Result<(), String> {
        let usable = member_bytes / BLOCK * BLOCK;
        let lanes = u64::from(self.lanes);
        self.slots = usable / u64::from(self.shape.chunk_bytes) / lanes * lanes;
        self.stripes = self.slots;
        while self.slots > 0 && self.member_bytes() > usable {
            let excess = self.member_bytes() - usable;
            let slots = excess
                .div_ceil(u64::from(self.shape.chunk_bytes) * 2)
                .max(1);
            self.slots = self.slots.saturating_sub(slots.next_multiple_of(lanes));
            self.stripes = self.slots;
        }
        if self.slots / lanes <= 2 * Self::SPARE_PER_LANE_MIN {
            return Err(alloc::format!(
                "members of {member_bytes} bytes are too small for level {} with chunks of {} \
                 bytes: about {} bytes are the least",
                self.shape.level,
                self.shape.chunk_bytes,
                HEAD_BYTES
                    + TAIL_BYTES
                    + 3 * self.ring_blocks * BLOCK * lanes
                    + 4 * Self::SPARE_PER_LANE_MIN * lanes * u64::from(self.shape.chunk_bytes)
            ));
        }
        Ok(())
    }

    const SPARE_PER_LANE_MIN: u64 = 4;
    const SPARE_SMALL_MAX: u64 = 512;

    /// Slots kept free so that full stripes always have a new place: 0.5 %; of a small array up to
    /// 5 %, so that a stream of writes need not wait for checkpoints to free some.
    fn spare_slots(&self) -> u64 {
        let lanes = u64::from(self.lanes);
        let small = (self.slots / 20).min(Self::SPARE_SMALL_MAX.max(32 * lanes));
        let wanted = (self.slots / 200).max(small);
        wanted
            .max(Self::SPARE_PER_LANE_MIN * lanes)
            .next_multiple_of(lanes)
    }

    /// Whether numbers read from disk make a possible layout.
    pub fn check(&self) -> Result<(), String> {
        self.shape.check()?;
        let lanes = u64::from(self.lanes);
        let ok = (1..=LANES_MAX).contains(&self.lanes)
            && self.slots.is_multiple_of(lanes)
            && self.stripes.is_multiple_of(lanes)
            && self.stripes < self.slots
            && self.slots < u64::from(u32::MAX)
            && self.ring_blocks < 1 << 32
            && self.relog_blocks < 1 << 32
            // A batch finds room in an empty ring wherever its head is, and in a re-log area.
            && self.ring_blocks * BLOCK >= 2 * Self::batch_bytes_max(&self.shape)
            && self.relog_blocks * BLOCK >= Self::batch_bytes_max(&self.shape)
            && self.export_bytes <= self.stripes * self.shape.stripe_bytes();
        if ok {
            Ok(())
        } else {
            Err("impossible numbers in the zone table".to_string())
        }
    }

    /// The layout of a mirror with one more copy. All that its members hold stays valid.
    ///
    /// # Errors
    /// It is no mirror, or its members have no room for the sums of one more; the text says which.
    pub fn widened(&self) -> Result<Geometry, String> {
        let shape = self.shape;
        let copies = shape.columns + 1;
        if shape.level != Level::Raid1 {
            return Err(alloc::format!(
                "level {} cannot be given one more copy: only raid1 can",
                shape.level
            ));
        }
        let wide = self.with_copies(copies);
        let fits = self.is_same_but_for_copies(&wide) && wide.check().is_ok();
        fits.then_some(wide).ok_or_else(|| {
            alloc::format!(
                "members of this array have room for {} copies and no more: create an array of \
                 {copies} and copy the data",
                shape.columns
            )
        })
    }

    /// The layout of a mirror without the copy that it was given last: the opposite of
    /// [`Geometry::widened`].
    ///
    /// # Errors
    /// It has no copies that it did not begin with; the text says what to do instead.
    pub fn narrowed(&self) -> Result<Geometry, String> {
        let shape = self.shape;
        let copies = shape.columns - 1;
        if shape.level != Level::Raid1 {
            return Err(alloc::format!(
                "level {} has no copy that it could do without: only raid1 arrays that were given \
                 one later do",
                shape.level
            ));
        }
        if !shape.is_widened() {
            return Err(alloc::format!(
                "this mirror began with {} copies, all of them are part of how it is laid out: \
                 create an array of fewer copies and copy the data, or serve it with a member \
                 missing",
                shape.columns
            ));
        }
        Ok(self.with_copies(copies))
    }

    fn with_copies(&self, copies: usize) -> Geometry {
        let shape = self.shape.with_copies(copies);
        Geometry { shape, ..*self }
    }

    /// Whether two layouts differ by nothing, or by copies that a mirror was given later: then
    /// what a member holds is valid under both, if its journals are empty.
    pub fn is_same_but_for_copies(&self, other: &Geometry) -> bool {
        self.with_copies(other.shape.columns) == *other
            && self.checksum_page_header() == other.checksum_page_header()
    }

    /// Map pages of one lane.
    pub fn map_pages(&self) -> u64 {
        (self.stripes / u64::from(self.lanes)).div_ceil(MAP_ENTRIES_PER_PAGE)
    }

    /// Rows that share one owner stamp.
    pub fn group_rows(&self) -> usize {
        self.shape.rows().min(GROUP_ROWS_MAX)
    }

    /// Owner stamps of one slot.
    pub fn groups_per_slot(&self) -> u64 {
        (self.shape.rows() / self.group_rows()) as u64
    }

    /// Bytes of the header of a checksum page: fixed fields, then a sequence number per column.
    pub fn checksum_page_header(&self) -> usize {
        (32 + 4 * self.shape.columns).next_multiple_of(16)
    }

    /// Bytes of one group: owner stamp, then checksum and generation of each row.
    pub fn group_bytes(&self) -> usize {
        16 + 8 * self.group_rows()
    }

    /// Groups in one checksum page.
    pub fn groups_per_page(&self) -> u64 {
        ((BLOCK as usize - self.checksum_page_header()) / self.group_bytes()) as u64
    }

    /// Checksum pages of one lane.
    pub fn checksum_pages(&self) -> u64 {
        let groups = self.slots / u64::from(self.lanes) * self.groups_per_slot();
        groups.div_ceil(self.groups_per_page())
    }

    /// Where the zones lie.
    pub fn zones(&self) -> Zones {
        let lanes = u64::from(self.lanes);
        let checkpoints = HEAD_BYTES;
        let journal = checkpoints + lanes * 2 * BLOCK;
        let relog = journal + lanes * self.ring_blocks * BLOCK;
        let map = relog + lanes * 2 * self.relog_blocks * BLOCK;
        let checksums = map + lanes * 2 * self.map_pages() * BLOCK;
        let data_start = checksums + lanes * 2 * self.checksum_pages() * BLOCK;
        let data = data_start.next_multiple_of(u64::from(self.shape.chunk_bytes).min(1 << 20));
        let end = data + self.slots * u64::from(self.shape.chunk_bytes);
        Zones {
            checkpoints,
            journal,
            relog,
            map,
            checksums,
            data,
            end,
        }
    }

    /// Bytes a member must have.
    pub fn member_bytes(&self) -> u64 {
        self.zones().end + TAIL_BYTES
    }

    /// The lane of a stripe.
    pub fn lane_of_stripe(&self, stripe: Stripe) -> usize {
        (stripe.0 % u64::from(self.lanes)) as usize
    }

    /// The lane of a slot.
    pub fn lane_of_slot(&self, slot: Slot) -> usize {
        (slot.0 % u64::from(self.lanes)) as usize
    }

    /// A stripe's or slot's number within its lane.
    pub fn in_lane(&self, number: u64) -> u64 {
        number / u64::from(self.lanes)
    }

    /// The slot with this number within its lane.
    pub fn slot_in_lane(&self, lane: usize, number: u64) -> Slot {
        Slot(number * u64::from(self.lanes) + lane as u64)
    }

    /// The stripe with this number within its lane.
    pub fn stripe_in_lane(&self, lane: usize, number: u64) -> Stripe {
        Stripe(number * u64::from(self.lanes) + lane as u64)
    }

    /// Byte offset on a member of `row` of `slot`.
    pub fn block_offset(&self, slot: Slot, row: usize) -> u64 {
        debug_assert!(slot.0 < self.slots && row < self.shape.rows());
        self.zones().data + slot.0 * u64::from(self.shape.chunk_bytes) + row as u64 * BLOCK
    }

    /// Byte offset of one of the two checkpoint blocks of a lane.
    pub fn checkpoint_offset(&self, lane: usize, copy: usize) -> u64 {
        self.zones().checkpoints + (lane * 2 + copy) as u64 * BLOCK
    }

    /// Byte offset of a lane's ring.
    pub fn ring_offset(&self, lane: usize) -> u64 {
        self.zones().journal + lane as u64 * self.ring_blocks * BLOCK
    }

    /// Byte offset of one of the two re-log areas of a lane.
    pub fn relog_offset(&self, lane: usize, area: usize) -> u64 {
        self.zones().relog + (lane * 2 + area) as u64 * self.relog_blocks * BLOCK
    }

    /// Byte offset of one of the two copies of a map page.
    pub fn map_page_offset(&self, lane: usize, page: u64, copy: usize) -> u64 {
        self.zones().map + ((lane as u64 * self.map_pages() + page) * 2 + copy as u64) * BLOCK
    }

    /// Byte offset of one of the two copies of a checksum page.
    pub fn checksum_page_offset(&self, lane: usize, page: u64, copy: usize) -> u64 {
        let index = lane as u64 * self.checksum_pages() + page;
        self.zones().checksums + (index * 2 + copy as u64) * BLOCK
    }

    /// Numbers, within their lane, of the slots whose sums lie in a checksum page.
    pub fn slots_of_page(&self, page: u64) -> core::ops::Range<u64> {
        let groups = page * self.groups_per_page()..(page + 1) * self.groups_per_page();
        let slots = self.slots / u64::from(self.lanes);
        let end = groups.end.div_ceil(self.groups_per_slot()).min(slots);
        (groups.start / self.groups_per_slot()).min(end)..end
    }

    /// Page, within the slot's lane, and byte offset in it, of the group that holds `row`.
    pub fn group_place(&self, slot: Slot, row: usize) -> (u64, usize) {
        let group =
            self.in_lane(slot.0) * self.groups_per_slot() + (row / self.group_rows()) as u64;
        let index = (group % self.groups_per_page()) as usize;
        (
            group / self.groups_per_page(),
            self.checksum_page_header() + index * self.group_bytes(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> alloc::vec::Vec<Shape> {
        let mut all = alloc::vec::Vec::new();
        for n in 2..=12 {
            for (level, parity, copies) in [
                (Level::Raid0, None, None),
                (Level::Raid1, None, None),
                (Level::Raid5, None, None),
                (Level::Raid6, None, None),
                (Level::Rs, Some(3), None),
                (Level::Raid10, None, Some(2)),
                (Level::Raid10, None, Some(3)),
            ] {
                all.extend(Shape::new(level, n, parity, copies, None));
            }
        }
        all
    }

    #[test]
    fn roles_and_columns_are_inverse_and_match_md() {
        for shape in shapes() {
            for slot in (0..30).map(Slot) {
                for column in 0..shape.columns {
                    assert_eq!(shape.column_of(slot, shape.role_of(slot, column)), column);
                }
                if shape.level == Level::Raid6 {
                    let n = shape.columns;
                    let p = n - 1 - slot.0 as usize % n;
                    assert_eq!(shape.role_of(slot, shape.data), p);
                    assert_eq!(shape.role_of(slot, shape.data + 1), (p + 1) % n);
                    assert_eq!(shape.role_of(slot, 0), (p + 2) % n);
                }
            }
        }
    }

    #[test]
    fn mirror_sets_stay_together_under_rotation() {
        let shape = Shape::new(Level::Raid10, 6, None, Some(2), None).unwrap();
        for slot in (0..6).map(Slot) {
            for j in 0..3 {
                let distance = shape.role_of(slot, j).abs_diff(shape.role_of(slot, 3 + j));
                assert_eq!(distance, 3);
            }
        }
    }

    #[test]
    fn zones_fit_and_do_not_overlap() {
        for shape in shapes() {
            for bytes in [24 << 20, 100_000_000, 1 << 30, 1 << 40] {
                let g = Geometry::plan(shape, bytes, None).unwrap();
                g.check().unwrap();
                assert!(g.member_bytes() <= bytes);
                assert!(
                    g.member_bytes() + 80 * u64::from(g.lanes) * (64 << 10) > bytes,
                    "waste"
                );
                let z = g.zones();
                let last_page =
                    g.checksum_page_offset(usize::from(g.lanes) - 1, g.checksum_pages() - 1, 1);
                assert!(z.map <= z.checksums && last_page + BLOCK <= z.data);
                let (page, offset) = g.group_place(Slot(g.slots - 1), shape.rows() - 1);
                assert!(page < g.checksum_pages() && offset + g.group_bytes() <= 4096);
            }
        }
    }

    #[test]
    fn a_mirror_with_one_more_copy_keeps_everything_where_it_is() {
        for n in 2..20 {
            let shape = Shape::new(Level::Raid1, n, None, None, None).unwrap();
            let g = Geometry::plan(shape, 64 << 20, None).unwrap();
            let Ok(wide) = g.widened() else {
                // The next number of copies has no room in the header of checksum pages.
                assert!(n % 4 == 0, "{n} copies");
                continue;
            };
            assert!(n % 4 != 0, "{n} copies");
            wide.check().unwrap();
            assert!(wide.shape.is_widened() && !g.shape.is_widened());
            assert_eq!((wide.shape.columns, wide.shape.copies), (n + 1, n + 1));
            assert_eq!(wide.zones(), g.zones());
            for slot in (0..40).map(Slot) {
                for row in 0..shape.rows() {
                    assert_eq!(wide.group_place(slot, row), g.group_place(slot, row));
                }
                for role in 0..n {
                    let column = g.shape.column_of(slot, role);
                    assert_eq!(wide.shape.column_of(slot, role), column);
                    assert_eq!(wide.shape.role_of(slot, column), role);
                }
                assert_eq!(wide.shape.column_of(slot, n), n);
                assert_eq!(wide.shape.role_of(slot, n), n);
            }
            assert!(g.is_same_but_for_copies(&wide) && wide.is_same_but_for_copies(&g));
            assert_eq!(wide.narrowed(), Ok(g));
            assert!(g.narrowed().unwrap_err().contains("began with"));
            let slots = g.slots - u64::from(g.lanes);
            assert!(!g.is_same_but_for_copies(&Geometry { slots, ..wide }));
            // One that began with all of its copies rotates them all.
            let begun = Shape::new(Level::Raid1, n + 1, None, None, None).unwrap();
            let begun = Geometry { shape: begun, ..g };
            assert!(!g.is_same_but_for_copies(&begun) && !wide.is_same_but_for_copies(&begun));
        }
        for shape in shapes().into_iter().filter(|s| s.level != Level::Raid1) {
            let g = Geometry::plan(shape, 1 << 30, None).unwrap();
            assert!(g.widened().unwrap_err().contains("only raid1"));
            assert!(g.narrowed().unwrap_err().contains("only raid1"));
        }
    }

    #[test]
    fn impossible_requests_are_refused() {
        assert!(Shape::new(Level::Raid5, 1, None, None, None).is_err());
        assert!(Shape::new(Level::Raid6, 2, None, None, None).is_err());
        assert!(Shape::new(Level::Rs, 4, None, None, None).is_err());
        assert!(Shape::new(Level::Rs, 4, Some(9), None, None).is_err());
        assert!(Shape::new(Level::Rs, 97, Some(2), None, None).is_err());
        assert!(Shape::new(Level::Raid10, 5, None, None, None).is_err());
        assert!(Shape::new(Level::Raid5, 4, None, None, Some(48 << 10)).is_err());
        assert!(Shape::new(Level::Raid5, 4, Some(2), None, None).is_err());
        let shape = Shape::new(Level::Raid5, 4, None, None, None).unwrap();
        assert!(Geometry::plan(shape, 1 << 20, None).is_err());
        assert!(Geometry::plan(shape, 64 << 20, Some(1 << 40)).is_err());
    }
}

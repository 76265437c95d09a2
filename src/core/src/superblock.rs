//! The superblock: identity, geometry and config of an array on each of its members.
//!
//! Four copies: A at 4 KiB and B at 512 KiB, and a backup pair in the last 1 MiB. Write number
//! `w` goes to A and its backup when `w` is even, to B and its backup when odd, so that a torn
//! write leaves the one before intact, and loss of one end of the member leaves the newest. The
//! newest valid copy counts.

use crate::checksum;
use crate::codec::{Reader, Writer};
use crate::config::{CONFIG_BYTES, Config, Index, MEMBERS_MAX};
use crate::create::check_name;
use crate::geometry::{Geometry, Level, Shape};
use crate::units::{BLOCK, Uuid};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

pub use crate::geometry::{HEAD_BYTES, TAIL_BYTES};

/// First bytes of every superblock.
pub const MAGIC: [u8; 8] = *b"uraid\0SB";
/// Version of the format described here.
pub const VERSION: u32 = 1;
/// Size of one copy.
pub const SUPERBLOCK_BYTES: usize = 32 << 10;
/// Offsets of the two copies, in the head and again in the tail of a member.
pub const COPY_OFFSETS: [u64; 2] = [4 << 10, 512 << 10];
/// Longest array name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

const CONFIG_AT: usize = 4096;
const PREVIOUS_AT: usize = CONFIG_AT + CONFIG_BYTES;
const COUNTERS_AT: usize = PREVIOUS_AT + CONFIG_BYTES;
const COUNTER_BYTES: usize = 64;
const CRC_AT: usize = 12;

/// Counters and cursors of one member; they change without a new config.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes and flushes that failed.
    pub write_errors: u64,
    /// Blocks that did not match their checksum.
    pub checksum_errors: u64,
    /// Slots below this one are filled, on a member being rebuilt or replacing another.
    pub rebuild_cursor: u64,
    /// Stripes that changed in or after this epoch are to be filled; 0: all.
    pub rebuild_since: u64,
    /// What the scrub under way, or the last one, found on the member.
    pub scrub: ScrubCounts,
}

/// What a scrub found on one member; the counts saturate.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ScrubCounts {
    /// Blocks that were unreadable or did not match their checksum.
    pub bad_blocks: u32,
    /// Those rewritten from the other members.
    pub repaired_blocks: u32,
    /// Superblocks, checkpoints, map and checksum pages that were damaged or stale.
    pub bad_metadata: u32,
    /// Those rewritten.
    pub repaired_metadata: u32,
}

/// How far the scrub under way is, or what the last one came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ScrubRecord {
    /// 0 never, 1 running, 2 paused, 3 finished, 4 stopped.
    pub state: u8,
    /// Slots below are done.
    pub cursor: u64,
    /// Bytes per second to read of each member at most; 0: no limit.
    pub rate_max: u64,
    /// Blocks found lost beyond redundancy.
    pub lost_blocks: u64,
    /// Rows that match their checksums and are no codeword.
    pub inconsistent_rows: u64,
}

impl Counters {
    fn encode(&self, w: &mut Writer) {
        w.u64(self.read_errors)
            .u64(self.write_errors)
            .u64(self.checksum_errors);
        w.u64(self.rebuild_cursor).u64(self.rebuild_since);
        let s = &self.scrub;
        w.u32(s.bad_blocks).u32(s.repaired_blocks);
        w.u32(s.bad_metadata).u32(s.repaired_metadata);
    }

    fn decode(r: &mut Reader<'_>, slots: u64) -> Option<Counters> {
        Some(Counters {
            read_errors: r.count()?,
            write_errors: r.count()?,
            checksum_errors: r.count()?,
            rebuild_cursor: r.count().filter(|cursor| *cursor <= slots)?,
            rebuild_since: r.count()?,
            scrub: ScrubCounts {
                bad_blocks: r.u32()?,
                repaired_blocks: r.u32()?,
                bad_metadata: r.u32()?,
                repaired_metadata: r.u32()?,
            },
        })
    }
}

impl ScrubRecord {
    fn encode(&self, w: &mut Writer) {
        w.u64(u64::from(self.state)).u64(self.cursor);
        w.u64(self.rate_max)
            .u64(self.lost_blocks)
            .u64(self.inconsistent_rows);
    }

    fn decode(r: &mut Reader<'_>, slots: u64) -> Option<ScrubRecord> {
        Some(ScrubRecord {
            state: u8::try_from(r.u64()?).ok()?,
            cursor: r.count().filter(|cursor| *cursor <= slots)?,
            rate_max: r.u64()?,
            lost_blocks: r.count()?,
            inconsistent_rows: r.count()?,
        })
    }
}

/// Incompatible feature: checkpoints say what may follow them, and list the map pages that may
/// have been written, so that a start does not read the rest. Arrays that earlier versions made
/// do without.
pub const FEATURE_BOUNDED_START: u64 = 1;

/// Incompatible feature: a mirror was given copies after its creation, and those do not rotate.
/// The shape says so; it is no part of [`Superblock::features`].
const FEATURE_WIDENED: u64 = 2;

/// One member's superblock, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Incompatible features: a program that does not know all of them refuses the array.
    pub features: u64,
    /// The array.
    pub array: Uuid,
    /// Its name.
    pub name: String,
    /// A random number that seeds all checksums of this array.
    pub key: u64,
    /// Its layout.
    pub geometry: Geometry,
    /// This member's place in the table.
    pub index: Index,
    /// This member.
    pub member: Uuid,
    /// Number of this write; the higher, the newer.
    pub write: u64,
    /// Newest config this member was told.
    pub config: Config,
    /// The last config known to be complete before it.
    pub previous: Config,
    /// The scrub under way, or the last one.
    pub scrub: ScrubRecord,
    /// By place in the table.
    pub counters: Vec<Counters>,
}

impl Superblock {
    /// The bytes of one copy.
    pub fn encode(&self) -> Vec<u8> {
        let g = &self.geometry;
        let mut w = Writer::default();
        w.bytes(&MAGIC).u32(VERSION).u32(0); // checksum, filled in below
        let (features, rotating) = match g.shape.is_widened() {
            true => (self.features | FEATURE_WIDENED, g.shape.rotating as u16),
            false => (self.features, 0),
        };
        w.u64(0).u64(0).u64(features); // compatible, read-only compatible, incompatible
        w.bytes(&self.array.0).u64(self.key);
        w.u8(self.name.len() as u8)
            .bytes(self.name.as_bytes())
            .pad_to(128);
        w.u8(g.shape.level.code()).u8(0).u16(g.lanes);
        w.u16(g.shape.columns as u16)
            .u16(g.shape.data as u16)
            .u16(g.shape.copies as u16);
        w.u16(rotating).u32(g.shape.chunk_bytes);
        w.u64(g.ring_blocks)
            .u64(g.slots)
            .u64(g.stripes)
            .u64(g.export_bytes)
            .u64(g.relog_blocks)
            .pad_to(192);
        w.bytes(&self.member.0)
            .u16(self.index.0)
            .pad_to(216)
            .u64(self.write);
        self.scrub.encode(&mut w);
        w.pad_to(CONFIG_AT);
        self.config.encode(&mut w);
        self.previous.encode(&mut w);
        for (i, c) in self.counters.iter().enumerate() {
            c.encode(&mut w);
            w.pad_to(COUNTERS_AT + (i + 1) * COUNTER_BYTES);
        }
        w.pad_to(SUPERBLOCK_BYTES);
        let mut bytes = w.finish();
        let crc = checksum::metadata(0, &bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads one copy. The error says in words what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Superblock, SuperblockError> {
        if bytes.len() < SUPERBLOCK_BYTES || bytes[..8] != MAGIC {
            return Err(SuperblockError::Absent);
        }
        let bytes = &bytes[..SUPERBLOCK_BYTES];
        let mut copy = bytes.to_vec();
        copy[CRC_AT..CRC_AT + 4].fill(0);
        let stored = u32::from_le_bytes(bytes[CRC_AT..CRC_AT + 4].try_into().expect("4 bytes"));
        if checksum::metadata(0, &copy) != stored {
            return Err(SuperblockError::Damaged(
                "checksum does not match".to_string(),
            ));
        }
        let version = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes"));
        if version != VERSION {
            return Err(SuperblockError::Unsupported(format!(
                "format version {version}"
            )));
        }
        Self::decode_fields(bytes)
            .unwrap_or_else(|| Err(SuperblockError::Damaged("a number is out of range".into())))
    }

    fn decode_fields(bytes: &[u8]) -> Option<Result<Superblock, SuperblockError>> {
        let mut r = Reader::new(bytes);
        r.bytes(16)?;
        let (_compat, _read_only_compat, incompat) = (r.u64()?, r.u64()?, r.u64()?);
        let unknown = incompat & !(FEATURE_BOUNDED_START | FEATURE_WIDENED);
        if unknown != 0 {
            let what = format!("features {unknown:#x}, written by a newer version");
            return Some(Err(SuperblockError::Unsupported(what)));
        }
        let array = Uuid(r.bytes(16)?.try_into().ok()?);
        let key = r.u64()?;
        let name_len = usize::from(r.u8()?).min(NAME_BYTES_MAX);
        let name = String::from_utf8_lossy(r.bytes(name_len)?).into_owned();
        if check_name(&name).is_err() {
            return Some(Err(SuperblockError::Damaged("impossible name".into())));
        }
        r.zeros_to(128)?;
        let level = Level::from_code(r.u8()?)?;
        r.u8()?;
        let lanes = r.u16()?;
        let (columns, data, copies) = (r.u16()?, r.u16()?, r.u16()?);
        let rotating = match (r.u16()?, incompat & FEATURE_WIDENED != 0) {
            (rotating, true) if rotating < columns => rotating,
            (_, true) => return None,
            (_, false) => columns,
        };
        let chunk_bytes = r.u32()?;
        let shape = Shape {
            level,
            columns: columns.into(),
            data: data.into(),
            copies: copies.into(),
            rotating: rotating.into(),
            chunk_bytes,
        };
        let geometry = Geometry {
            shape,
            lanes,
            ring_blocks: r.u64()?,
            slots: r.u64()?,
            stripes: r.u64()?,
            export_bytes: r.u64()?,
            relog_blocks: r.u64()?,
        };
        if let Err(why) = geometry.check() {
            return Some(Err(SuperblockError::Damaged(why)));
        }
        r.zeros_to(192)?;
        let member = Uuid(r.bytes(16)?.try_into().ok()?);
        let index = Index(r.u16()?);
        r.zeros_to(216)?;
        let write = r.count()?;
        let scrub = ScrubRecord::decode(&mut r, geometry.slots)?;
        r.zeros_to(CONFIG_AT)?;
        let config = Config::decode(&bytes[CONFIG_AT..PREVIOUS_AT])?;
        let previous = Config::decode(&bytes[PREVIOUS_AT..COUNTERS_AT])?;
        let checked = [&config, &previous].map(|c| c.check(geometry.shape.columns));
        if let Some(why) = checked.into_iter().find_map(Result::err) {
            return Some(Err(SuperblockError::Damaged(why)));
        }
        if previous.epoch > config.epoch {
            let why = "the config before is newer than its config";
            return Some(Err(SuperblockError::Damaged(why.into())));
        }
        if usize::from(index.0) >= config.entries.len() {
            return Some(Err(SuperblockError::Damaged(
                "member is not in its own table".into(),
            )));
        }
        let counters = bytes[COUNTERS_AT..]
            .chunks(COUNTER_BYTES)
            .take(MEMBERS_MAX)
            .map(|bytes| Counters::decode(&mut Reader::new(bytes), geometry.slots))
            .collect::<Option<Vec<_>>>()?;
        let superblock = Superblock {
            features: incompat & !FEATURE_WIDENED,
            array,
            name,
            key,
            geometry,
            index,
            member,
            write,
            config,
            previous,
            scrub,
            counters,
        };
        Some(Ok(superblock))
    }

    /// Where this write goes on a member of `member_bytes`: a head copy and its backup.
    pub fn offsets(write: u64, member_bytes: u64) -> [u64; 2] {
        let copy = COPY_OFFSETS[(write % 2) as usize];
        [copy, tail_start(member_bytes) + copy]
    }
}

/// First byte of the backup area of a member of `member_bytes`.
pub fn tail_start(member_bytes: u64) -> u64 {
    (member_bytes / BLOCK * BLOCK).saturating_sub(TAIL_BYTES)
}

/// Why bytes are not a superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SuperblockError {
    /// There is none.
    Absent,
    /// There was one; what is wrong with it.
    Damaged(String),
    /// It is of a version or has features that this program does not know.
    Unsupported(String),
}

/// What the head and the tail of a member say.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The newest valid copy.
    pub superblock: Option<Superblock>,
    /// Anything an operator should know, in words.
    pub findings: Vec<String>,
}

/// Where the copies are on a member of `member_bytes`: A and B at its start, then at its end.
pub fn copy_ranges(member_bytes: u64) -> [Range<u64>; 4] {
    let tail = tail_start(member_bytes);
    let [a, b] = COPY_OFFSETS;
    [a, b, tail + a, tail + b].map(|start| start..start + SUPERBLOCK_BYTES as u64)
}

/// Looks for superblocks in the copies of a member, in the order of [`copy_ranges`]; of a copy for
/// which the member is too short, no bytes are given.
pub fn inspect(copies: [&[u8]; 4]) -> Inspection {
    let places = [
        "A at the start",
        "B at the start",
        "A at the end",
        "B at the end",
    ];
    let mut newest: Option<Superblock> = None;
    let mut findings = Vec::new();
    for (bytes, place) in copies.into_iter().zip(places) {
        match Superblock::decode(bytes) {
            Ok(found) => {
                if newest.as_ref().is_none_or(|n| found.write > n.write) {
                    newest = Some(found);
                }
            }
            Err(SuperblockError::Absent) => {}
            Err(SuperblockError::Damaged(what)) => {
                findings.push(format!("superblock {place} is damaged: {what}"));
            }
            Err(SuperblockError::Unsupported(what)) => {
                findings.push(format!(
                    "superblock {place} is not supported here: {what}; use a newer uraid"
                ));
            }
        }
    }
    Inspection {
        superblock: newest,
        findings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Entry, EntryState};
    use alloc::vec;

    fn example() -> Superblock {
        let shape = Shape::new(Level::Raid5, 3, None, None, None).unwrap();
        let entry = |role: u16| Entry {
            state: EntryState::InSync,
            uuid: Uuid([role as u8 + 2; 16]),
            role: Some(role),
            ..Entry::EMPTY
        };
        let config = Config {
            epoch: 2,
            nonce: 22,
            parent: 11,
            entries: (0..3).map(entry).collect(),
        };
        Superblock {
            features: FEATURE_BOUNDED_START,
            array: Uuid([1; 16]),
            name: "tank".into(),
            key: 99,
            geometry: Geometry::plan(shape, 64 << 20, None).unwrap(),
            index: Index(1),
            member: Uuid([3; 16]),
            write: 5,
            previous: config.clone(),
            config,
            scrub: ScrubRecord {
                state: 1,
                cursor: 7,
                ..ScrubRecord::default()
            },
            counters: vec![
                Counters {
                    read_errors: 3,
                    ..Counters::default()
                };
                MEMBERS_MAX
            ],
        }
    }

    #[test]
    fn round_trip() {
        let s = example();
        let bytes = s.encode();
        assert_eq!(bytes.len(), SUPERBLOCK_BYTES);
        assert_eq!(Superblock::decode(&bytes), Ok(s));
    }

    #[test]
    fn a_widened_mirror_is_known_by_a_feature_that_older_programs_refuse() {
        let shape = Shape::new(Level::Raid1, 2, None, None, None).unwrap();
        let mut s = example();
        s.geometry = Geometry::plan(shape, 64 << 20, None).unwrap();
        s.config.entries.truncate(2);
        s.previous = s.config.clone();
        let features = |s: &Superblock| s.encode()[32];
        assert_eq!(u64::from(features(&s)), FEATURE_BOUNDED_START);
        s.geometry = s.geometry.widened().unwrap();
        assert_eq!(
            u64::from(features(&s)),
            FEATURE_BOUNDED_START | FEATURE_WIDENED
        );
        assert_eq!(Superblock::decode(&s.encode()).as_ref(), Ok(&s));
        for rotating in [0, 1] {
            s.geometry.shape.rotating = rotating;
            let refused = Superblock::decode(&s.encode());
            assert!(
                matches!(refused, Err(SuperblockError::Damaged(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = example().encode();
        for i in (0..bytes.len()).step_by(7) {
            bytes[i] ^= 1 << (i % 8);
            assert!(Superblock::decode(&bytes).is_err(), "byte {i}");
            bytes[i] ^= 1 << (i % 8);
        }
    }

    #[test]
    fn what_no_array_can_be_is_refused_in_words() {
        let refuses = |change: fn(&mut Superblock), why: &str| {
            let mut s = example();
            change(&mut s);
            match Superblock::decode(&s.encode()) {
                Err(SuperblockError::Damaged(text)) => assert!(text.contains(why), "{text}"),
                other => panic!("{why}: {other:?}"),
            }
        };
        refuses(|s| s.geometry.shape.data = 3, "no level raid5");
        refuses(|s| s.geometry.shape.copies = 2, "no level raid5");
        refuses(|s| s.geometry.shape.chunk_bytes = 5 << 10, "chunk of");
        refuses(|s| s.geometry.ring_blocks = 16, "zone table");
        refuses(|s| s.geometry.slots = u64::MAX, "zone table");
        refuses(
            |s| s.config.entries[2].role = Some(3),
            "role that no stripe",
        );
        refuses(|s| s.config.entries[2].role = Some(1), "no role of its own");
        refuses(|s| s.previous.entries[0].role = None, "no role of its own");
        refuses(|s| s.previous.epoch = 3, "newer than its config");
        refuses(|s| s.config.epoch = u64::MAX, "out of range");
        refuses(|s| s.write = u64::MAX, "out of range");
        refuses(
            |s| s.counters[0].rebuild_cursor = s.geometry.slots + 1,
            "out of range",
        );
        refuses(|s| s.name = "../a".into(), "name");
    }

    #[test]
    fn the_newest_valid_copy_counts_and_damage_is_reported() {
        let copy = |write| Superblock { write, ..example() }.encode();
        let (four, mut five) = (copy(4), copy(5));
        let found = inspect([&four, &five, &four, &five]);
        assert_eq!(found.superblock.unwrap().write, 5);
        assert!(found.findings.is_empty());
        five[9000] ^= 1;
        let found = inspect([&four, &five, &[], &[]]);
        assert_eq!(found.superblock.unwrap().write, 4);
        assert_eq!(found.findings.len(), 1);
        assert!(found.findings[0].contains("B at the start"));
        assert!(inspect([&[]; 4]).superblock.is_none());
    }
}

//! What a new array looks like on its members: bytes to write, decided before anything is
//! changed.

use crate::config::{Config, Entry, EntryState, Index, MEMBERS_MAX};
use crate::geometry::{Geometry, Level, Shape};
use crate::journal::Checkpoint;
use crate::listed::ListedPages;
use crate::superblock::{Counters, FEATURE_BOUNDED_START, NAME_BYTES_MAX, Superblock};
use crate::units::Uuid;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// What an operator asks for.
pub struct CreateOptions<'a> {
    /// Name of the array: `[A-Za-z0-9._-]`, at most 63 bytes.
    pub name: String,
    /// Kind.
    pub level: Level,
    /// Parities, for `rs`.
    pub parity: Option<u16>,
    /// Copies, for `raid10`.
    pub copies: Option<u16>,
    /// Chunk; 64 KiB if not given.
    pub chunk_bytes: Option<u32>,
    /// Size of the export; all there is if not given.
    pub export_bytes: Option<u64>,
    /// Sizes of the members.
    pub member_bytes: Vec<u64>,
    /// Sizes of the spares.
    pub spare_bytes: Vec<u64>,
    /// Random numbers for identifiers.
    pub random: &'a mut dyn FnMut() -> u64,
}

/// What to do to one member: zero, then write, then flush.
#[derive(Debug)]
pub struct MemberPlan {
    /// Its new identity.
    pub uuid: Uuid,
    /// Byte ranges that must read as zero.
    pub zero: Vec<Range<u64>>,
    /// Byte offsets and contents.
    pub writes: Vec<(u64, Vec<u8>)>,
}

/// What to do to make the array.
#[derive(Debug)]
pub struct CreatePlan {
    /// Its identity.
    pub array: Uuid,
    /// Size of the export.
    pub size_bytes: u64,
    /// Members, then spares.
    pub members: Vec<MemberPlan>,
}

/// Why an array cannot be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CreateError {
    /// The request makes no sense.
    Usage(String),
    /// A member does not fit the request.
    Member(String),
}

impl CreateError {
    /// Whether the request itself is wrong (exit code 2).
    pub fn is_usage(&self) -> bool {
        matches!(self, CreateError::Usage(_))
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (CreateError::Usage(text) | CreateError::Member(text)) = self;
        f.write_str(text)
    }
}

/// Decides what a new array looks like.
pub fn plan(options: CreateOptions<'_>) -> Result<CreatePlan, CreateError> {
    check_name(&options.name).map_err(CreateError::Usage)?;
    let CreateOptions {
        member_bytes,
        spare_bytes,
        random,
        ..
    } = options;
    let columns = member_bytes.len();
    if columns + spare_bytes.len() > MEMBERS_MAX {
        let text = format!(
            "{} members and spares: at most {MEMBERS_MAX}",
            columns + spare_bytes.len()
        );
        return Err(CreateError::Usage(text));
    }
    let shape = Shape::new(
        options.level,
        columns,
        options.parity,
        options.copies,
        options.chunk_bytes,
    )
    .map_err(CreateError::Usage)?;
    let smallest = member_bytes.iter().copied().min().unwrap_or(0);
    let geometry = Geometry::plan(shape, smallest, options.export_bytes).map_err(|text| {
        if text.starts_with("export") {
            CreateError::Usage(text)
        } else {
            CreateError::Member(text)
        }
    })?;
    let needed = geometry.member_bytes();
    if let Some(small) = spare_bytes.iter().find(|bytes| **bytes < needed) {
        let text = format!("spare of {small} bytes is too small: members have {needed} bytes");
        return Err(CreateError::Member(text));
    }
    let mut uuid = || Uuid::from_random(random(), random());
    let array = uuid();
    let all: Vec<(u64, Uuid)> = member_bytes
        .iter()
        .chain(&spare_bytes)
        .map(|bytes| (*bytes, uuid()))
        .collect();
    let config = first_config(&all, columns, random());
    let key = random();
    let member = |(i, (bytes, uuid)): (usize, &(u64, Uuid))| {
        let superblock = Superblock {
            features: FEATURE_BOUNDED_START,
            array,
            name: options.name.clone(),
            key,
            geometry,
            index: Index(i as u16),
            member: *uuid,
            write: 1,
            config: config.clone(),
            previous: config.clone(),
            scrub: Default::default(),
            counters: vec![Counters::default(); MEMBERS_MAX],
        };
        member_plan(&superblock, *bytes)
    };
    let members = all.iter().enumerate().map(member).collect();
    Ok(CreatePlan {
        array,
        size_bytes: geometry.export_bytes,
        members,
    })
}

/// Whether an array may have this name.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(format!(
            "name {name:?}: use 1 to {NAME_BYTES_MAX} letters, digits, dots, underscores, dashes"
        ));
    }
    Ok(())
}

fn first_config(all: &[(u64, Uuid)], columns: usize, nonce: u64) -> Config {
    let entry = |(i, (_, uuid)): (usize, &(u64, Uuid))| Entry {
        uuid: *uuid,
        role: (i < columns).then_some(i as u16),
        state: if i < columns {
            EntryState::InSync
        } else {
            EntryState::Spare
        },
        ..Entry::EMPTY
    };
    Config {
        epoch: 1,
        nonce,
        parent: 0,
        entries: all.iter().enumerate().map(entry).collect(),
    }
}

/// Zeros for everything whose emptiness means something (ends with old superblocks, checkpoints
/// to map), then the first checkpoint of each lane and the superblock.
fn member_plan(superblock: &Superblock, member_bytes: u64) -> MemberPlan {
    let g = &superblock.geometry;
    let zones = g.zones();
    let tail = crate::superblock::tail_start(member_bytes);
    let mut writes = Vec::new();
    for lane in 0..usize::from(g.lanes) {
        let first = Checkpoint::first(lane as u16, superblock.index, superblock.config.nonce);
        let bytes = first.encode(superblock.key, Some(&ListedPages::none(g)));
        writes.push((g.checkpoint_offset(lane, 1), bytes));
    }
    let bytes = superblock.encode();
    writes.extend(Superblock::offsets(superblock.write, member_bytes).map(|o| (o, bytes.clone())));
    MemberPlan {
        uuid: superblock.member,
        zero: vec![
            0..zones.journal,
            zones.map..zones.checksums,
            tail..tail + crate::superblock::TAIL_BYTES,
        ],
        writes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(level: Level, members: &[u64], random: &mut dyn FnMut() -> u64) -> CreatePlan {
        plan(CreateOptions {
            name: "t".into(),
            level,
            parity: None,
            copies: None,
            chunk_bytes: None,
            export_bytes: None,
            member_bytes: members.to_vec(),
            spare_bytes: vec![64 << 20],
            random,
        })
        .unwrap()
    }

    #[test]
    fn members_get_superblocks_that_agree() {
        let mut n = 0;
        let made = options(Level::Raid5, &[64 << 20, 65 << 20, 64 << 20], &mut || {
            n += 1;
            n
        });
        assert_eq!(made.members.len(), 4);
        for (i, m) in made.members.iter().enumerate() {
            let (_, bytes) = m.writes.last().unwrap();
            let s = Superblock::decode(bytes).unwrap();
            assert_eq!(
                (s.array, s.member, usize::from(s.index.0)),
                (made.array, m.uuid, i)
            );
            assert_eq!(s.config.entry(s.index).uuid, m.uuid);
        }
    }

    #[test]
    fn names_are_checked() {
        assert!(check_name("tank-1.a_B").is_ok());
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}

//! Superblocks: any bytes, and valid ones with some numbers replaced.

use crate::choices::Choices;
use crate::layouts::LAYOUTS;
use crate::seal;
use uraid_core::config::{Config, Entry, EntryState, MEMBERS_MAX};
use uraid_core::geometry::{Geometry, Level};
use uraid_core::superblock::{NAME_BYTES_MAX, Superblock, SuperblockError, inspect};
use uraid_core::units::Uuid;

/// What is decoded must be usable by all that follows, and survive being written again.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    if c.one_in(8) {
        let bytes = c.rest();
        let _ = inspect([bytes; 4]);
        return;
    }
    let mut superblock = c.pick(&LAYOUTS).superblocks().swap_remove(0);
    if c.one_in(2) {
        change(&mut c, &mut superblock);
    }
    let mut bytes = superblock.encode();
    if c.one_in(2) {
        c.edit(&mut bytes);
        seal::superblock(&mut bytes);
    }
    match Superblock::decode(&bytes) {
        Ok(read) => assert_usable(&read),
        Err(SuperblockError::Absent) => assert_ne!(bytes[..8], *b"uraid\0SB"),
        Err(SuperblockError::Damaged(what) | SuperblockError::Unsupported(what)) => {
            assert!(!what.is_empty(), "a refusal says why");
        }
    }
}

/// What the rest of the program takes for granted once a superblock was decoded.
pub fn assert_usable(s: &Superblock) {
    assert_eq!(
        Superblock::decode(&s.encode()).as_ref(),
        Ok(s),
        "written again it is the same"
    );
    assert_geometry(&s.geometry);
    for config in [&s.config, &s.previous] {
        for (index, entry) in config.members() {
            assert!(
                entry
                    .role
                    .is_none_or(|r| usize::from(r) < s.geometry.shape.columns)
            );
            let takes = entry.state.takes_writes();
            assert!(
                !takes || entry.role.is_some(),
                "who takes writes has a role"
            );
            let twin =
                |(i, e): (_, &Entry)| i != index && e.state == entry.state && e.role == entry.role;
            assert!(
                !takes || !config.members().any(twin),
                "two members in one role"
            );
        }
    }
}

fn assert_geometry(g: &Geometry) {
    let code = g.shape.code();
    assert_eq!(
        (code.columns(), code.data()),
        (g.shape.columns, g.shape.data)
    );
    let z = g.zones();
    let order = [
        z.checkpoints,
        z.journal,
        z.relog,
        z.map,
        z.checksums,
        z.data,
        z.end,
    ];
    assert!(order.is_sorted() && z.end < g.member_bytes());
    // Map, owners and sequence numbers of a lane are kept in memory, whole.
    let memory_bytes = 8 * g.stripes + 5 * g.slots + 8 * g.map_pages();
    assert!(
        memory_bytes < g.member_bytes(),
        "more memory than the member has space"
    );
}

/// Replaces some fields by others that their types allow.
pub fn change(c: &mut Choices<'_>, s: &mut Superblock) {
    for _ in 0..1 + c.below(4) {
        match c.below(8) {
            0 | 1 => change_geometry(c, &mut s.geometry),
            2 | 3 => change_config(c, &mut s.config),
            4 => change_config(c, &mut s.previous),
            5 => {
                let counters = &mut s.counters[c.index(MEMBERS_MAX.min(8))];
                let field = *c.pick(&[0, 1, 2, 3, 4]);
                c.replace(match field {
                    0 => &mut counters.rebuild_cursor,
                    1 => &mut counters.rebuild_since,
                    2 => &mut counters.read_errors,
                    3 => &mut counters.write_errors,
                    _ => &mut counters.checksum_errors,
                });
            }
            6 => match c.below(8) {
                0 => c.replace(&mut s.write),
                1 => c.replace(&mut s.index.0),
                2 => c.replace(&mut s.key),
                3 => c.replace(&mut s.scrub.state),
                4 => c.replace(&mut s.scrub.cursor),
                5 => c.replace(&mut s.scrub.rate_max),
                6 => c.replace(&mut s.scrub.lost_blocks),
                _ => s.name = "n".repeat(c.index(NAME_BYTES_MAX + 1)),
            },
            _ => {
                let uuid = any_uuid(c, &s.config);
                *(if c.one_in(4) {
                    &mut s.array
                } else {
                    &mut s.member
                }) = uuid;
            }
        }
    }
}

fn change_geometry(c: &mut Choices<'_>, g: &mut Geometry) {
    match c.below(11) {
        0 => c.replace(&mut g.lanes),
        1 => c.replace(&mut g.ring_blocks),
        2 => c.replace(&mut g.slots),
        3 => c.replace(&mut g.stripes),
        4 => c.replace(&mut g.export_bytes),
        5 => g.shape.level = Level::from_code(c.below(6) as u8).expect("there are six"),
        6 => c.replace(&mut g.shape.columns),
        7 => c.replace(&mut g.shape.data),
        8 => c.replace(&mut g.shape.copies),
        9 => c.replace(&mut g.relog_blocks),
        _ => g.shape.chunk_bytes = 4096 << c.below(12),
    }
}

/// Replaces one field of a config.
pub fn change_config(c: &mut Choices<'_>, config: &mut Config) {
    let count = config.entries.len();
    match c.below(8) {
        0 => c.replace(&mut config.epoch),
        1 => c.replace(&mut config.nonce),
        2 => c.replace(&mut config.parent),
        3 => {
            let len = c.index(MEMBERS_MAX + 1);
            config.entries.resize(
                if c.one_in(2) { len } else { len % (count + 2) },
                Entry::EMPTY,
            );
        }
        _ if count > 0 => {
            let uuid = any_uuid(c, config);
            let entry = &mut config.entries[c.index(count)];
            match c.below(6) {
                0 => {
                    entry.role = c
                        .one_in(4)
                        .then(|| c.number(0) as u16)
                        .or(Some(c.below(6) as u16))
                }
                1 => entry.state = any_state(c),
                2 => entry.uuid = uuid,
                3 => c.replace(&mut entry.left_epoch),
                4 => c.replace(&mut entry.left_nonce),
                _ => c.replace(&mut entry.left_checkpoints),
            }
        }
        _ => {}
    }
}

/// Any state of a table entry.
pub fn any_state(c: &mut Choices<'_>) -> EntryState {
    *c.pick(&[
        EntryState::InSync,
        EntryState::Rebuilding,
        EntryState::Replacing,
        EntryState::Failed,
        EntryState::Spare,
        EntryState::Empty,
    ])
}

fn any_uuid(c: &mut Choices<'_>, config: &Config) -> Uuid {
    match config.entries.len() {
        count if count > 0 && !c.one_in(4) => config.entries[c.index(count)].uuid,
        _ => Uuid([c.byte(); 16]),
    }
}

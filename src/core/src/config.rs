//! The config: who is a member, in which role and state. Every change makes a new one with a
//! higher epoch and a fresh nonce; it is durable on all its members before anything is answered
//! under it.

use crate::codec::{Reader, Writer};
use crate::units::Uuid;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Most entries of a member table: roles, spares, replacements and members that left.
pub const MEMBERS_MAX: usize = 120;
/// Encoded size of a config.
pub const CONFIG_BYTES: usize = 8192;
const ENTRY_BYTES: usize = 64;
const HEADER_BYTES: usize = 64;
const NO_ROLE: u16 = u16::MAX;

/// Position in the member table; never reused for another device while the array lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Index(pub u16);

/// What a member is to the array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryState {
    /// The place in the table is free.
    Empty,
    /// Holds all of its role's data.
    InSync,
    /// Is being filled; nobody else has its role.
    Rebuilding,
    /// Is being filled while another member still serves its role.
    Replacing,
    /// Left the array; its data is old.
    Failed,
    /// Waits for a role.
    Spare,
}

impl EntryState {
    fn from_code(code: u8) -> Option<EntryState> {
        use EntryState::*;
        [Empty, InSync, Rebuilding, Replacing, Failed, Spare]
            .get(usize::from(code))
            .copied()
    }

    /// Whether such a member takes writes but does not hold all of its role's data yet.
    pub fn is_filling(self) -> bool {
        matches!(self, EntryState::Rebuilding | EntryState::Replacing)
    }

    /// Whether the array writes to such a member.
    pub fn takes_writes(self) -> bool {
        matches!(
            self,
            EntryState::InSync | EntryState::Rebuilding | EntryState::Replacing
        )
    }
}

/// One line of the member table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Identity of the member.
    pub uuid: Uuid,
    /// Its role; none for spares and for members whose role another took.
    pub role: Option<u16>,
    /// Its state.
    pub state: EntryState,
    /// Epoch of the config with which it left.
    pub left_epoch: u64,
    /// Nonce of the last config it was part of.
    pub left_nonce: u64,
    /// How many checkpoints, over all lanes, it is known to have had when it left. What comes
    /// back with fewer is an older image of it.
    pub left_checkpoints: u64,
}

impl Entry {
    /// A free place.
    pub const EMPTY: Entry = Entry {
        uuid: Uuid([0; 16]),
        role: None,
        state: EntryState::Empty,
        left_epoch: 0,
        left_nonce: 0,
        left_checkpoints: 0,
    };
}

/// A member table with its place in history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Grows with every change.
    pub epoch: u64,
    /// Unique: tells two configs of the same epoch apart.
    pub nonce: u64,
    /// Nonce of the config this one followed; 0 for the first.
    pub parent: u64,
    /// The member table.
    pub entries: Vec<Entry>,
}

impl Config {
    /// Indices and entries in use.
    pub fn members(&self) -> impl Iterator<Item = (Index, &Entry)> {
        let used =
            |(i, e): (usize, &'_ Entry)| (e.state != EntryState::Empty).then_some(Index(i as u16));
        self.entries
            .iter()
            .enumerate()
            .filter_map(move |(i, e)| used((i, e)).map(|i| (i, e)))
    }

    /// The entry at `index`; beyond the end of the table all places are free.
    pub fn entry(&self, index: Index) -> &Entry {
        self.entries
            .get(usize::from(index.0))
            .unwrap_or(&Entry::EMPTY)
    }

    /// The entry at `index`, to be changed.
    pub fn entry_mut(&mut self, index: Index) -> &mut Entry {
        &mut self.entries[usize::from(index.0)]
    }

    /// Whether the member at `index` holds all of its role's data.
    pub fn is_in_sync(&self, index: Index) -> bool {
        self.entry(index).state == EntryState::InSync
    }

    /// The place of the member with this identity.
    pub fn find(&self, uuid: Uuid) -> Option<Index> {
        self.members().find(|(_, e)| e.uuid == uuid).map(|(i, _)| i)
    }

    /// A place for one more member: a free one, else that of the failed member without a role
    /// that left first.
    pub fn free_index(&mut self) -> Option<Index> {
        if let Some(i) = self
            .entries
            .iter()
            .position(|e| e.state == EntryState::Empty)
        {
            return Some(Index(i as u16));
        }
        if self.entries.len() < MEMBERS_MAX {
            self.entries.push(Entry::EMPTY);
            return Some(Index(self.entries.len() as u16 - 1));
        }
        let gone = |e: &Entry| e.state == EntryState::Failed && e.role.is_none();
        let oldest = self
            .members()
            .filter(|(_, e)| gone(e))
            .min_by_key(|(_, e)| e.left_epoch);
        oldest.map(|(i, _)| i)
    }

    /// The config that follows this one; the caller then changes its table.
    pub fn successor(&self, epoch_floor: u64, nonce: u64) -> Config {
        Config {
            epoch: self.epoch.max(epoch_floor) + 1,
            nonce,
            parent: self.nonce,
            entries: self.entries.clone(),
        }
    }

    /// Whether an array of so many columns can have this table; used on what is read from disk.
    pub fn check(&self, columns: usize) -> Result<(), String> {
        for (index, entry) in self.members() {
            if entry.role.is_some_and(|role| usize::from(role) >= columns) {
                return Err(format!("member {} has a role that no stripe has", index.0));
            }
            if !entry.state.takes_writes() {
                continue;
            }
            let filling = entry.state.is_filling();
            let rival = |(i, e): (Index, &Entry)| {
                i < index
                    && e.role == entry.role
                    && e.state.takes_writes()
                    && e.state.is_filling() == filling
            };
            if entry.role.is_none() || self.members().any(rival) {
                return Err(format!("member {} has no role of its own", index.0));
            }
        }
        Ok(())
    }

    /// Takes in a member that is to be one more copy of a mirror of so many.
    ///
    /// Superblocks with the new config tell of the wider layout, those with the one before of the
    /// narrower; a crash may leave some of each. Journals, whose entries name all columns, must
    /// therefore be empty from before the first of them is written until the last one is.
    pub fn widen(&mut self, index: Index, uuid: Uuid, copies: usize) {
        while self.entries.len() <= usize::from(index.0) {
            self.entries.push(Entry::EMPTY);
        }
        *self.entry_mut(index) = Entry {
            uuid,
            role: Some(copies as u16),
            state: EntryState::Rebuilding,
            ..Entry::EMPTY
        };
    }

    /// Forgets who holds or held a role: the first step of giving it up. Once this config is
    /// complete, a layout without the role fits it as well as the one with it; the next config may
    /// be told with the narrower one. As for [`Config::widen`], journals must be empty meanwhile.
    pub fn vacate(&mut self, role: u16) {
        let theirs = self.entries.iter_mut().filter(|e| e.role == Some(role));
        theirs.for_each(|entry| *entry = Entry::EMPTY);
    }

    /// Takes a member out of service: its place in history is remembered, so that it is known
    /// when it comes back.
    pub fn mark_left(&mut self, index: Index) {
        let (epoch, parent) = (self.epoch, self.parent);
        let entry = self.entry_mut(index);
        if entry.state.takes_writes() {
            // A member that was not in sync has nothing worth catching up from.
            entry.left_epoch = if entry.state == EntryState::InSync {
                epoch
            } else {
                0
            };
        }
        if entry.state == EntryState::Replacing {
            entry.role = None; // it never had the role for itself
        }
        entry.left_nonce = parent;
        entry.state = EntryState::Failed;
    }

    /// Appends exactly [`CONFIG_BYTES`].
    pub fn encode(&self, w: &mut Writer) {
        let start = w.position();
        w.u64(self.epoch)
            .u64(self.nonce)
            .u64(self.parent)
            .u32(self.entries.len() as u32);
        w.pad_to(start + HEADER_BYTES);
        for (i, e) in self.entries.iter().enumerate() {
            w.bytes(&e.uuid.0)
                .u16(e.role.unwrap_or(NO_ROLE))
                .u8(e.state as u8)
                .u8(0)
                .u32(0);
            w.u64(e.left_epoch)
                .u64(e.left_nonce)
                .u64(e.left_checkpoints);
            w.pad_to(start + HEADER_BYTES + (i + 1) * ENTRY_BYTES);
        }
        w.pad_to(start + CONFIG_BYTES);
    }

    /// Reads what [`Config::encode`] wrote; `None` when it is not that.
    pub fn decode(bytes: &[u8]) -> Option<Config> {
        let mut r = Reader::new(bytes);
        let (epoch, nonce, parent, count) = (r.count()?, r.u64()?, r.u64()?, r.u32()? as usize);
        if count > MEMBERS_MAX {
            return None;
        }
        r.zeros_to(HEADER_BYTES)?;
        let mut entries = Vec::with_capacity(count);
        for i in 0..count {
            let uuid = Uuid(r.bytes(16)?.try_into().ok()?);
            let role = Some(r.u16()?).filter(|role| *role != NO_ROLE);
            let state = EntryState::from_code(r.u8()?)?;
            r.zeros_to(HEADER_BYTES + i * ENTRY_BYTES + 24)?;
            let (left_epoch, left_nonce, left_checkpoints) = (r.count()?, r.u64()?, r.count()?);
            r.zeros_to(HEADER_BYTES + (i + 1) * ENTRY_BYTES)?;
            entries.push(Entry {
                uuid,
                role,
                state,
                left_epoch,
                left_nonce,
                left_checkpoints,
            });
        }
        r.zeros_to(CONFIG_BYTES)?;
        Some(Config {
            epoch,
            nonce,
            parent,
            entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal_of_used_reserved_fields() {
        let entry = Entry {
            uuid: Uuid([9; 16]),
            role: Some(3),
            state: EntryState::Replacing,
            left_epoch: 4,
            left_nonce: 5,
            left_checkpoints: 6,
        };
        let config = Config {
            epoch: 7,
            nonce: 8,
            parent: 6,
            entries: alloc::vec![entry; 5],
        };
        let mut w = Writer::default();
        config.encode(&mut w);
        let mut bytes = w.finish();
        assert_eq!(bytes.len(), CONFIG_BYTES);
        assert_eq!(Config::decode(&bytes), Some(config));
        bytes[HEADER_BYTES + 50] = 1;
        assert_eq!(Config::decode(&bytes), None);
    }
}

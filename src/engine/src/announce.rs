//! What the newest checkpoints announce: what may follow them, and which map pages may have been
//! written. A start reads only that. So a member must never hold more than its checkpoint
//! announces: whatever is about to happen is announced first, durably, by rewriting the newest
//! checkpoints under the numbers they have, each in its other place.
//!
//! Of several members' checkpoints the one after which most may follow counts, and every list: it
//! takes the loss of the announcement on all members for one to be missed. Where one of the two
//! places of a member is damaged, anything may follow, because what was there may have said so.

use crate::array::Array;
use crate::executor::join_all;
use crate::lane::Lane;
use crate::mutants::{Mutant, active};
use alloc::vec::Vec;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::geometry::Geometry;
use uraid_core::journal::{Checkpoint, Following};
use uraid_core::listed::ListedPages;
use uraid_core::superblock::FEATURE_BOUNDED_START;

/// The newest checkpoint of a lane on a member.
#[derive(Clone)]
pub struct FoundCheckpoint {
    /// In which of the two places it is.
    pub place: usize,
    /// What it says.
    pub checkpoint: Checkpoint,
    /// What both places announce.
    pub outlook: Outlook,
}

/// What a start has to read of a lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outlook {
    /// What may follow the checkpoints.
    pub following: Following,
    /// The map pages that may have been written; none: all may.
    pub listed: Option<ListedPages>,
}

impl Outlook {
    /// Nothing is known: everything has to be read.
    pub const UNKNOWN: Outlook = Outlook {
        following: Following::Anything,
        listed: None,
    };

    /// What a valid checkpoint block announces.
    pub fn of(checkpoint: &Checkpoint, block: &[u8], g: &Geometry) -> Outlook {
        Outlook {
            following: checkpoint.following,
            listed: Checkpoint::listed_pages(block, g),
        }
    }

    /// What two checkpoints announce together.
    pub fn merge(self, other: &Outlook) -> Outlook {
        let listed = match (self.listed, &other.listed) {
            (Some(mut listed), Some(more)) => {
                listed.merge(more);
                Some(listed)
            }
            _ => None,
        };
        Outlook {
            following: self.following.min(other.following),
            listed,
        }
    }
}

impl Array {
    /// Whether checkpoints of this array announce anything.
    pub fn is_bounded(&self) -> bool {
        self.features & FEATURE_BOUNDED_START != 0
    }

    /// The bytes of a checkpoint record.
    pub fn encode_record(&self, lane: &Lane, record: &Checkpoint) -> Vec<u8> {
        let map = lane.map.borrow();
        record.encode(self.key, self.is_bounded().then_some(&map.listed))
    }

    /// What a new checkpoint is to say may follow it. None opens a journal that any member has
    /// closed, whatever others say: only who waits until that is durable may write a batch.
    pub fn following_now(&self, lane: &Lane) -> Following {
        let following = lane.journal.borrow().following;
        if !self.is_bounded() {
            Following::Anything
        } else if following == Following::Nothing || self.is_closed(lane) {
            Following::Nothing
        } else {
            // A checkpoint ends every recovery.
            Following::Batches
        }
    }

    /// Has the newest checkpoints say what may follow from now on. Durable with the next flush of
    /// the members.
    pub async fn announce(&self, lane: &Lane, following: Following) {
        {
            let mut journal = lane.journal.borrow_mut();
            journal.following = following;
            let records = journal.records.values_mut();
            records.for_each(|(_, record)| record.following = following);
        }
        self.rewrite_records(lane).await;
    }

    /// Writes the newest checkpoints once more, each in its other place, with the list of map pages
    /// that is in memory.
    async fn rewrite_records(&self, lane: &Lane) {
        if !self.is_bounded() || self.read_only {
            return;
        }
        let records: Vec<(usize, Checkpoint)> = {
            let writers = self.all_writers();
            let mut journal = lane.journal.borrow_mut();
            let records = journal.records.iter_mut();
            let theirs = records.filter(|(index, _)| writers.contains(index));
            theirs
                .map(|(_, record)| {
                    record.0 = 1 - record.0;
                    *record
                })
                .collect()
        };
        self.write_records(lane, records).await;
    }

    /// Writes checkpoint records to their places.
    pub async fn write_records(&self, lane: &Lane, records: Vec<(usize, Checkpoint)>) {
        let write = |(place, record): (usize, Checkpoint)| {
            let offset = self.geometry.checkpoint_offset(lane.id, place);
            let bytes: Buf = self.pool.copy(&self.encode_record(lane, &record));
            self.write_member(record.member, offset, alloc::vec![bytes])
        };
        join_all(records.into_iter().map(write)).await;
    }

    /// Whether any member says that no batch follows. What a start had to reckon with may have been
    /// more than all of them said.
    pub fn is_closed(&self, lane: &Lane) -> bool {
        let journal = lane.journal.borrow();
        let mut records = journal.records.iter();
        let closed = |index: &Index, record: &Checkpoint| {
            record.following == Following::Nothing && self.all_writers().contains(index)
        };
        records.any(|(index, (_, record))| closed(index, record))
            && !active(Mutant::ClosedJournalWritten)
    }

    /// Makes known, durably, that batches will follow.
    pub async fn open_journal(&self, lane: &Lane) {
        let _held = lane.checkpoint_lock.lock(&self.ex).await;
        if self.is_closed(lane) && !self.is_suspended() {
            self.announce(lane, Following::Batches).await;
            self.flush_members().await;
        }
    }

    /// Makes known, durably, that nothing follows, if that is so: the next start need not look.
    pub async fn close_journal(&self, lane: &Lane) {
        let _held = lane.checkpoint_lock.lock(&self.ex).await;
        let tail = lane.journal.borrow().tail;
        let idle = lane.journal.borrow().next_seq == tail && !self.has_work(lane);
        let closed = lane.journal.borrow().following == Following::Nothing;
        if self.is_bounded() && idle && !closed && !self.is_suspended() {
            lane.journal.borrow_mut().following = Following::Nothing;
            self.settle_records(lane, tail).await;
        }
    }

    /// Lists the map pages that are about to be written. The caller flushes before it writes them.
    pub async fn list_pages(&self, lane: &Lane) {
        loop {
            {
                let mut map = lane.map.borrow_mut();
                let listed = &map.listed;
                let unlisted = map.dirty.iter().filter(|page| !listed.has(**page));
                let unlisted: Vec<u64> = unlisted.copied().collect();
                if unlisted.is_empty() || active(Mutant::PagesUnlisted) {
                    return;
                }
                unlisted.into_iter().for_each(|page| map.listed.add(page));
            }
            self.rewrite_records(lane).await;
        }
    }
}

//! Group commit: units of change are gathered into batches, numbered, and written to the journals
//! of the members they concern; a unit is answered when its batch and all before it have been
//! written everywhere.

use crate::api::RequestError;
use crate::array::Array;
use crate::executor::{Promise, join_all};
use crate::lane::Lane;
use crate::mutants::{Mutant, active};
use crate::ring::Ring;
use crate::sums::SlotSums;
use crate::traffic::{Part, add};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::journal::{Checkpoint, Entry, Following, Header, HeaderKind};
use uraid_core::units::BLOCK;

/// Batches of one lane being written at the same time.
pub const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// Bytes of entries in one header, unless a single unit needs more.
const HEADER_ENTRY_BYTES_MAX: usize = 48 << 10;
/// Payload blocks of one member in a batch, unless a single unit needs more.
const PAYLOAD_BLOCKS_MAX: u64 = 256;

/// A change and the new blocks it journals.
pub struct UnitEntry {
    /// The record.
    pub entry: Entry,
    /// New blocks by column; rows only.
    pub payload: Vec<(usize, Buf)>,
}

/// Changes that are committed together.
pub struct Unit {
    /// In the order in which they apply.
    pub entries: Vec<UnitEntry>,
    /// Columns of a new slot, written at the same time as the record.
    pub slot_writes: Vec<(Slot, usize, Vec<Buf>)>,
    /// Checksum pages of slots that the unit takes, kept in memory until it applies.
    pub pinned: Vec<SlotSums>,
}

impl Unit {
    /// The slot that it gives to a stripe.
    fn taken_slot(&self) -> Option<Slot> {
        self.entries.iter().find_map(|e| match &e.entry {
            Entry::Remap { slot, .. } | Entry::Alloc { slot, .. } => Some(*slot),
            _ => None,
        })
    }
}

struct Queued {
    unit: Unit,
    done: Promise<Result<(), RequestError>>,
}

struct Batch {
    seq: u64,
    written: bool,
    units: Vec<Queued>,
}

/// What one batch adds to a re-log.
struct Load {
    seq: u64,
    entry_bytes: u64,
    rows: u64,
    /// Blocks that stay in memory until they are in place.
    blocks: u64,
}

/// State of a lane's journal.
#[derive(Default)]
pub struct Journal {
    /// Journal epoch.
    pub epoch: u64,
    /// Number of the next batch.
    pub next_seq: u64,
    /// All batches below are written and applied.
    pub completed: u64,
    /// All batches below are durable.
    pub durable: u64,
    /// All batches below are in place on all members, durably.
    pub tail: u64,
    /// Number of the last checkpoint.
    pub checkpoint_number: u64,
    /// Number of the last checkpoint that is durable on all members.
    pub checkpoint_settled: u64,
    /// The newest checkpoint on each member and in which of its two places it is.
    pub records: BTreeMap<Index, (usize, Checkpoint)>,
    /// Rings by member.
    pub rings: BTreeMap<Index, Ring>,
    /// What may follow the newest checkpoints, as they have it on disk.
    pub following: Following,
    /// Commits wait for the tail to move.
    pub starved: bool,
    queued: VecDeque<Queued>,
    in_flight: VecDeque<Batch>,
    /// Batches since the tail: what a re-log would have to hold.
    since_tail: VecDeque<Load>,
    /// The entries, rows and blocks of those together.
    pub entry_bytes_since_tail: u64,
    /// See above.
    pub rows_since_tail: u64,
    /// See above.
    pub blocks_since_tail: u64,
}

impl Journal {
    /// A journal that goes on at batch `next_seq`.
    pub fn begin(&mut self, epoch: u64, next_seq: u64, checkpoint_number: u64) {
        self.epoch = epoch;
        self.next_seq = next_seq;
        self.completed = next_seq;
        self.durable = next_seq;
        self.tail = next_seq;
        self.checkpoint_number = checkpoint_number;
        self.checkpoint_settled = self.checkpoint_settled.min(checkpoint_number);
    }

    /// A member left: what queued units pinned of it is no longer what its pages will be.
    pub fn forget(&mut self, index: Index) {
        self.rings.remove(&index);
        self.records.remove(&index);
        for queued in &mut self.queued {
            queued.unit.pinned.retain(|p| p.index() != index);
        }
    }

    /// Pins checksum pages for the queued unit that takes `slot`.
    fn pin(&mut self, slot: Slot, sums: SlotSums) {
        let mut units = self.queued.iter_mut().map(|q| &mut q.unit);
        if let Some(unit) = units.find(|u| u.taken_slot() == Some(slot)) {
            unit.pinned.push(sums);
        }
    }

    /// Whether every batch below `seq` is written.
    pub fn is_written(&self, seq: u64) -> bool {
        self.completed >= seq || self.in_flight.front().is_none_or(|b| b.seq >= seq)
    }

    fn add_load(&mut self, load: Load) {
        self.entry_bytes_since_tail += load.entry_bytes;
        self.rows_since_tail += load.rows;
        self.blocks_since_tail += load.blocks;
        self.since_tail.push_back(load);
    }

    /// Everything below `tail` is in place: frees its journal space.
    pub fn move_tail(&mut self, tail: u64) {
        self.starved &= tail == self.tail;
        self.tail = tail;
        while let Some(load) = self.since_tail.front().filter(|l| l.seq < tail) {
            self.entry_bytes_since_tail -= load.entry_bytes;
            self.rows_since_tail -= load.rows;
            self.blocks_since_tail -= load.blocks;
            self.since_tail.pop_front();
        }
        for ring in self.rings.values_mut() {
            ring.move_tail(tail);
        }
    }
}

/// What a batch under construction needs.
#[derive(Default)]
struct Draft {
    units: Vec<Queued>,
    entry_bytes: usize,
    rows: u64,
    /// Payload blocks of all columns.
    blocks: u64,
    /// Payload blocks by participant.
    payload: BTreeMap<Index, u64>,
}

impl Array {
    /// Commits a unit. Returns when it may be answered: it is on enough members to survive the
    /// end of this process, and it is visible.
    pub async fn commit(&self, lane: usize, unit: Unit) -> Result<(), RequestError> {
        self.check_writable()?;
        let lane = &self.lanes[lane];
        let done = self.ex.promise();
        lane.journal.borrow_mut().queued.push_back(Queued {
            unit,
            done: done.clone(),
        });
        self.ex.fire(&lane.journal_moved);
        done.get().await
    }

    /// Commits changes of one stripe that write no slot; `pinned` as in [`Unit`].
    pub async fn commit_entries(
        &self,
        stripe: Stripe,
        entries: Vec<UnitEntry>,
        pinned: Vec<SlotSums>,
    ) -> Result<(), RequestError> {
        let unit = Unit {
            entries,
            slot_writes: Vec::new(),
            pinned,
        };
        let lane = self.geometry.lane_of_stripe(stripe);
        self.commit(lane, unit).await
    }

    /// Takes queued units for as long as the array lives.
    pub async fn commit_task(self: Rc<Self>, lane: usize) {
        let lane = &self.lanes[lane];
        loop {
            let ready = || {
                let journal = lane.journal.borrow();
                !journal.queued.is_empty() && journal.in_flight.len() < BATCHES_IN_FLIGHT_MAX
            };
            self.ex.until(&lane.journal_moved, ready).await;
            if self.is_suspended() {
                self.fail_units(lane);
                continue;
            }
            if let Some((slot, index)) = self.unpinned(lane) {
                // A member joined after the unit was made; the unit will write to it too.
                let sums = self.sums(index, slot, 0..self.geometry.shape.rows()).await;
                lane.journal.borrow_mut().pin(slot, sums);
                continue;
            }
            if self.is_closed(lane) {
                self.open_journal(lane).await;
                continue;
            }
            let Some(draft) = self.draft(lane) else {
                // No room in the journal: a checkpoint makes some.
                lane.journal.borrow_mut().starved = true;
                lane.want_checkpoint(&self.ex);
                let moved = || !lane.journal.borrow().starved || self.is_suspended();
                self.ex.until(&lane.journal_moved, moved).await;
                continue;
            };
            self.write_draft(lane, draft);
        }
    }

    /// A slot that a queued unit takes on a member whose checksum pages the unit has not pinned.
    fn unpinned(&self, lane: &Lane) -> Option<(Slot, Index)> {
        let writers = self.all_writers();
        let journal = lane.journal.borrow();
        let units = journal.queued.iter().map(|q| &q.unit);
        units
            .flat_map(|u| u.taken_slot().map(|slot| (u, slot)))
            .find_map(|(unit, slot)| {
                let lacks = |i: &&Index| !unit.pinned.iter().any(|p| p.index() == **i);
                writers.iter().find(lacks).map(|i| (slot, *i))
            })
    }

    /// The members that must hold the record of a unit.
    fn add_participants(&self, unit: &Unit, payload: &mut BTreeMap<Index, u64>) {
        for UnitEntry {
            entry,
            payload: blocks,
        } in &unit.entries
        {
            match entry {
                Entry::Row { slot, .. } => {
                    for (column, _) in blocks {
                        for index in self.writers(*slot, *column) {
                            *payload.entry(index).or_insert(0) += 1;
                        }
                    }
                }
                _ => self.all_writers().into_iter().for_each(|index| {
                    payload.entry(index).or_insert(0);
                }),
            }
        }
    }

    /// Takes as many queued units as go into one batch; `None` when not even one fits.
    fn draft(&self, lane: &Lane) -> Option<Draft> {
        let mut journal = lane.journal.borrow_mut();
        // A re-log holds all rows, all entries and its own headers.
        let rows_max = self.geometry.relog_blocks / 2;
        let relog_entry_bytes_max = self.geometry.relog_blocks / 4 * BLOCK;
        let mut draft = Draft::default();
        while let Some(next) = journal.queued.front() {
            let entries = &next.unit.entries;
            let bytes: usize = entries.iter().map(|e| e.entry.encoded_bytes()).sum();
            let rows = entries.iter().filter(|e| !e.payload.is_empty()).count() as u64;
            let mut payload = draft.payload.clone();
            self.add_participants(&next.unit, &mut payload);
            let header = Header::blocks_for(draft.entry_bytes + bytes) as u64;
            let full = draft.entry_bytes + bytes > HEADER_ENTRY_BYTES_MAX
                || payload.values().any(|blocks| *blocks > PAYLOAD_BLOCKS_MAX);
            let ring_blocks = self.geometry.ring_blocks;
            let fits = payload.iter().all(|(index, blocks)| {
                journal
                    .rings
                    .get(index)
                    .is_none_or(|r| r.fits(header + blocks, ring_blocks))
            });
            let entry_bytes = journal.entry_bytes_since_tail + (draft.entry_bytes + bytes) as u64;
            let rows_in_all = journal.rows_since_tail + draft.rows + rows;
            let blocks: u64 = entries.iter().map(|e| e.payload.len() as u64).sum();
            let blocks_in_all = journal.blocks_since_tail + draft.blocks + blocks;
            let too_much = (rows_in_all > rows_max
                || entry_bytes > relog_entry_bytes_max
                || blocks_in_all > self.journalled_blocks_max)
                && !active(Mutant::RowsUncapped);
            let empty = journal.since_tail.is_empty() && draft.units.is_empty();
            if !fits || (too_much && !empty) || (full && !draft.units.is_empty()) {
                break;
            }
            draft.entry_bytes += bytes;
            draft.rows += rows;
            draft.blocks += blocks;
            draft.payload = payload;
            draft
                .units
                .push(journal.queued.pop_front().expect("it is the front"));
        }
        (!draft.units.is_empty()).then_some(draft)
    }

    /// Gives the batch its number and places and starts its writes.
    fn write_draft(&self, lane: &Lane, draft: Draft) {
        let mut journal = lane.journal.borrow_mut();
        let seq = journal.next_seq;
        journal.next_seq += 1;
        let entry_bytes = draft.entry_bytes as u64;
        let (rows, blocks) = (draft.rows, draft.blocks);
        journal.add_load(Load {
            seq,
            entry_bytes,
            rows,
            blocks,
        });
        let config = self.config.borrow();
        let mut header = Header {
            kind: HeaderKind::Batch,
            lane: lane.id as u16,
            member: Index(0),
            epoch: journal.epoch,
            config_epoch: config.epoch,
            config_nonce: config.nonce,
            seq,
            pos: 0,
            tail: journal.tail,
            durable_upto: journal.durable,
            participants: draft.payload.keys().fold(0, |set, i| set | 1 << i.0),
            payload_blocks: 0,
            entries: draft.units.iter().flat_map(entries_of).cloned().collect(),
        };
        let mut writes: Vec<(Index, u64, Vec<Buf>)> = Vec::new();
        let header_blocks = header.blocks() as u64;
        for (index, blocks) in &draft.payload {
            let ring = journal
                .rings
                .get_mut(index)
                .expect("every writer has a ring");
            header.member = *index;
            header.payload_blocks = *blocks as u32;
            header.pos = ring.append(seq, header_blocks + blocks, self.geometry.ring_blocks);
            let in_ring = header.pos % self.geometry.ring_blocks * BLOCK;
            let encoded = header.encode(self.key);
            add(&self.traffic.journal_header_bytes, encoded.len() as u64);
            let mut buffers = alloc::vec![self.pool.copy(&encoded)];
            buffers.extend(self.payload_of(&draft, *index));
            writes.push((
                *index,
                self.geometry.ring_offset(lane.id) + in_ring,
                buffers,
            ));
        }
        let shape = &self.geometry.shape;
        for unit in &draft.units {
            for (slot, column, buffers) in &unit.unit.slot_writes {
                let offset = self.geometry.block_offset(*slot, 0);
                let to = self.writers(*slot, *column);
                let before = writes.len();
                writes.extend(to.map(|index| (index, offset, buffers.clone())));
                let bytes = (writes.len() - before) as u64 * shape.chunk_bytes as u64;
                add(&self.traffic.slot_bytes, bytes);
            }
        }
        let units = draft.units;
        journal.in_flight.push_back(Batch {
            seq,
            written: false,
            units,
        });
        let (array, lane) = (self.me(), lane.id);
        self.ex.spawn(async move {
            if active(Mutant::AnswerEarly) {
                array.batch_written(lane, seq);
            }
            let begun = array.ex.now();
            join_all(
                writes
                    .into_iter()
                    .map(|(i, o, b)| array.write_member(i, o, b)),
            )
            .await;
            array.count_time(Part::Commit, begun);
            array.batch_written(lane, seq);
        });
    }

    /// A member's own new blocks, in the order of the entries.
    fn payload_of<'a>(&'a self, draft: &'a Draft, index: Index) -> impl Iterator<Item = Buf> + 'a {
        let rows = draft.units.iter().flat_map(|q| &q.unit.entries);
        rows.flat_map(move |UnitEntry { entry, payload }| {
            let slot = match entry {
                Entry::Row { slot, .. } => *slot,
                _ => Slot(0),
            };
            let own = move |column: usize| self.writers(slot, column).any(|i| i == index);
            let own_blocks = payload.iter().filter(move |(column, _)| own(*column));
            own_blocks.map(|(_, block)| block.clone())
        })
    }

    /// All writes of a batch have ended: answers what is answerable, in order.
    fn batch_written(&self, lane: usize, seq: u64) {
        let lane = &self.lanes[lane];
        if self.is_suspended() {
            self.fail_units(lane);
            return;
        }
        let mut done = Vec::new();
        {
            let mut journal = lane.journal.borrow_mut();
            if let Some(batch) = journal.in_flight.iter_mut().find(|b| b.seq == seq) {
                batch.written = true;
            }
            if active(Mutant::AnswerUnordered) {
                journal
                    .in_flight
                    .make_contiguous()
                    .sort_by_key(|b| !b.written);
            }
            while journal.in_flight.front().is_some_and(|b| b.written) {
                let batch = journal.in_flight.pop_front().expect("it is the front");
                journal.completed = batch.seq + 1;
                done.push(batch);
            }
        }
        for batch in done {
            for queued in batch.units {
                self.apply(lane, &queued.unit, batch.seq);
                queued.done.fulfil(Ok(()));
            }
        }
        self.ex.fire(&lane.journal_moved);
        self.ex.fire(&lane.slots_moved);
        lane.want_checkpoint(&self.ex);
    }

    /// Too much has failed: nothing that is not answered will be.
    pub fn fail_units(&self, lane: &Lane) {
        let why = self.check_writable().expect_err("the array is suspended");
        let mut journal = lane.journal.borrow_mut();
        let batches = core::mem::take(&mut journal.in_flight);
        let queued = core::mem::take(&mut journal.queued);
        drop(journal);
        for q in batches.into_iter().flat_map(|b| b.units).chain(queued) {
            q.done.fulfil(Err(why.clone()));
        }
    }
}

fn entries_of(queued: &Queued) -> impl Iterator<Item = &Entry> {
    queued.unit.entries.iter().map(|e| &e.entry)
}

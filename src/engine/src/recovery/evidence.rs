//! What the journals of the members say: every record found, with the payload blocks that verify.

use crate::array::Array;
use crate::executor::join_all;
use crate::lane::Lane;
use crate::mutants::{Mutant, active};
use crate::read::split_blocks;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::cell::Cell;
use uraid_buffer::Buf;
use uraid_core::checksum;
use uraid_core::config::Index;
use uraid_core::journal::{Checkpoint, Entry, Following, Header, HeaderKind};
use uraid_core::units::{BLOCK, BLOCK_BYTES, is_blank};

/// How much of a journal is read at once, of one member and of all.
const READ_BLOCKS_MAX: u64 = 256;
const READ_BLOCKS_TOGETHER_MAX: u64 = 4096;

/// A journal area of a member, read piece by piece: pieces that were passed are let go, so that
/// only what records hold stays in memory.
struct Area<'a> {
    array: &'a Array,
    index: Index,
    offset: u64,
    blocks: u64,
    /// How many blocks a piece has.
    piece_blocks: u64,
    /// The pieces at hand: number, and blocks, none of which if all are blank. A block that cannot
    /// be read is `None`.
    pieces: VecDeque<(u64, Vec<Option<Buf>>)>,
}

impl Area<'_> {
    /// Some blocks, one after the other; `None` where the area ends before they do.
    async fn blocks(&mut self, from: u64, count: u64) -> Option<Vec<Option<Buf>>> {
        if from + count > self.blocks {
            return None;
        }
        let mut all = Vec::with_capacity(count as usize);
        for at in from..from + count {
            let (piece, block) = (at / self.piece_blocks, at % self.piece_blocks);
            let piece = self.piece(piece).await;
            all.push(piece.get(block as usize).cloned().flatten());
        }
        Some(all)
    }

    /// The first block from `from` on that is not in a blank piece, at most `end`; pieces before
    /// it are let go.
    async fn skip_blank(&mut self, from: u64, end: u64) -> u64 {
        let mut at = from;
        while at < end && self.piece(at / self.piece_blocks).await.is_empty() {
            at = (at / self.piece_blocks + 1) * self.piece_blocks;
        }
        let at = at.min(end);
        self.pieces.retain(|(n, _)| *n >= at / self.piece_blocks);
        at
    }

    async fn piece(&mut self, number: u64) -> &[Option<Buf>] {
        let known = self.pieces.iter().position(|(n, _)| *n == number);
        let at = match known {
            Some(at) => at,
            None => {
                let piece = self.read_piece(number).await;
                self.pieces.push_back((number, piece));
                self.pieces.len() - 1
            }
        };
        &self.pieces[at].1
    }

    async fn read_piece(&self, number: u64) -> Vec<Option<Buf>> {
        let first = number * self.piece_blocks;
        let count = self.piece_blocks.min(self.blocks - first) as usize;
        let offset = self.offset + first * BLOCK;
        let read = self
            .array
            .read_member(self.index, offset, count * BLOCK_BYTES);
        match read.await {
            Ok(bytes) if is_blank(&bytes) => Vec::new(),
            Ok(bytes) => split_blocks(&bytes.freeze()).map(Some).collect(),
            Err(()) => alloc::vec![None; count],
        }
    }
}

/// Where the records were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// In the rings.
    Ring,
    /// In a re-log area, whole.
    Relog {
        /// Which of the two.
        area: usize,
    },
}

/// One record on one member: its header, and its payload blocks in order.
struct Record {
    header: Header,
    payload: Vec<Buf>,
}

impl Record {
    /// Blocks it takes.
    fn blocks(&self) -> u64 {
        (self.header.blocks() + self.payload.len()) as u64
    }
}

/// All records of the journal epoch that counts. A record is named by its batch number, or by its
/// part of a re-log.
pub struct Evidence {
    /// Where from.
    pub origin: Origin,
    /// The epoch they belong to.
    pub epoch: u64,
    /// The highest epoch seen anywhere, also in records that do not count.
    pub highest_epoch: u64,
    /// Batches below are in place (ring), or 0 (re-log).
    pub tail: u64,
    /// Batches below are known to be durable.
    pub floor: u64,
    /// A re-log's first number after what it holds.
    relog_seq: u64,
    headers: BTreeMap<u64, Header>,
    /// Verified payload blocks by record, entry and column.
    payload: BTreeMap<(u64, usize, usize), Buf>,
    /// Records by member, for the check whether all is whole.
    holders: BTreeMap<u64, u128>,
}

impl Evidence {
    /// Whether there is nothing to do: all members agree and nothing follows the tail.
    pub fn is_clean(&self, checkpoints: &BTreeMap<Index, Checkpoint>) -> bool {
        let agrees = |c: &Checkpoint| c.epoch == self.highest_epoch && c.tail == self.tail;
        self.origin == Origin::Ring && self.headers.is_empty() && checkpoints.values().all(agrees)
    }

    /// The first record that is not there at all.
    pub fn visible_upto(&self) -> u64 {
        let mut upto = self.tail;
        while self.headers.contains_key(&upto) {
            upto += 1;
        }
        upto
    }

    /// Records below `upto`, in order.
    pub fn records(&self, upto: u64) -> impl Iterator<Item = (u64, &Header)> {
        self.headers
            .range(self.tail..upto.max(self.tail))
            .map(|(n, h)| (*n, h))
    }

    /// The number of the next batch if records below `upto` are accepted.
    pub fn next_seq(&self, upto: u64) -> u64 {
        match self.origin {
            Origin::Ring => upto,
            Origin::Relog { .. } => self.relog_seq,
        }
    }

    /// A verified payload block.
    pub fn payload(&self, record: u64, entry: usize, column: usize) -> Option<&Buf> {
        self.payload.get(&(record, entry, column))
    }
}

impl Array {
    /// Reads the journals of a lane.
    pub async fn gather_evidence(
        &self,
        lane: &Lane,
        checkpoints: &BTreeMap<Index, Checkpoint>,
    ) -> Evidence {
        let following = lane.journal.borrow().following;
        let checkpoint_epoch = checkpoints.values().map(|c| c.epoch).max().unwrap_or(0);
        let mut ring: Vec<(Index, Vec<Record>)> = Vec::new();
        let passed = Cell::new(0);
        if following <= Following::Batches {
            let scan = checkpoints.iter();
            let scan = scan.map(|(index, c)| self.scan_ring(lane, *index, c, &passed));
            ring = join_all(scan).await;
        }
        let mut areas = [Vec::new(), Vec::new()];
        if following <= Following::Anything {
            for (area, found) in areas.iter_mut().enumerate() {
                let scan = checkpoints.keys();
                *found = join_all(scan.map(|index| self.scan_relog(lane, *index, area))).await;
            }
        }
        let epochs = |found: &[(Index, Vec<Record>)]| {
            found
                .iter()
                .flat_map(|(_, r)| r.iter().map(|r| r.header.epoch))
                .max()
                .unwrap_or(0)
        };
        let highest = areas
            .iter()
            .map(|a| epochs(a))
            .chain([epochs(&ring), passed.get(), checkpoint_epoch])
            .max();
        let highest_epoch = highest.unwrap_or(0);
        let mut newest_first: Vec<usize> = alloc::vec![0, 1];
        newest_first.sort_by_key(|a| core::cmp::Reverse(epochs(&areas[*a])));
        for area in newest_first {
            let epoch = epochs(&areas[area]);
            if epoch > checkpoint_epoch
                && let Some(found) = self.whole_relog(&areas[area], area, epoch, highest_epoch)
            {
                return found;
            }
        }
        let tail = checkpoints
            .values()
            .filter(|c| c.epoch == checkpoint_epoch)
            .map(|c| c.tail)
            .max();
        let mut evidence = self.collect(&ring, Origin::Ring, checkpoint_epoch, |h| h.seq);
        evidence.highest_epoch = highest_epoch;
        evidence.tail = tail.unwrap_or(0);
        evidence.headers.retain(|seq, _| *seq >= evidence.tail);
        let durable = evidence
            .headers
            .values()
            .map(|h| h.durable_upto)
            .max()
            .unwrap_or(0);
        evidence.floor = durable.max(evidence.tail);
        evidence
    }

    /// A re-log counts only when all of its parts are there and its rows decode from it alone.
    fn whole_relog(
        &self,
        found: &[(Index, Vec<Record>)],
        area: usize,
        epoch: u64,
        highest_epoch: u64,
    ) -> Option<Evidence> {
        let part = |h: &Header| match h.kind {
            HeaderKind::Relog { part, .. } => u64::from(part),
            HeaderKind::Batch => unreachable!("only re-log headers were kept"),
        };
        let mut evidence = self.collect(found, Origin::Relog { area }, epoch, part);
        evidence.highest_epoch = highest_epoch;
        let first = evidence.headers.get(&0)?;
        let HeaderKind::Relog { parts, .. } = first.kind else {
            return None;
        };
        evidence.relog_seq = first.seq;
        let whole = evidence.visible_upto() == u64::from(parts);
        let decodes = evidence.headers.iter().all(|(number, header)| {
            header
                .entries
                .iter()
                .enumerate()
                .all(|(i, entry)| match entry {
                    Entry::Row { columns, .. } => {
                        let there = |c: &usize| evidence.payload(*number, i, *c).is_some();
                        self.code.can_decode(columns.iter().filter(there).collect())
                    }
                    _ => true,
                })
        });
        evidence.floor = u64::from(parts);
        (whole && decodes).then_some(evidence)
    }

    fn collect(
        &self,
        found: &[(Index, Vec<Record>)],
        origin: Origin,
        epoch: u64,
        number: impl Fn(&Header) -> u64,
    ) -> Evidence {
        let mut evidence = Evidence {
            origin,
            epoch,
            highest_epoch: epoch,
            tail: 0,
            floor: 0,
            relog_seq: 0,
            headers: BTreeMap::new(),
            payload: BTreeMap::new(),
            holders: BTreeMap::new(),
        };
        for (index, records) in found {
            for record in records.iter().filter(|r| r.header.epoch == epoch) {
                let number = number(&record.header);
                evidence
                    .headers
                    .entry(number)
                    .or_insert_with(|| record.header.clone());
                *evidence.holders.entry(number).or_insert(0) |= 1 << index.0;
                self.verify_payload(&mut evidence, number, *index, record);
            }
        }
        evidence
    }

    /// Keeps the payload blocks of a record that match their checksums.
    fn verify_payload(&self, evidence: &mut Evidence, number: u64, index: Index, record: &Record) {
        let Some(role) = self.config.borrow().entry(index).role else {
            return;
        };
        let mut blocks = record.payload.iter();
        for (i, entry) in record.header.entries.iter().enumerate() {
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
            let column = self.geometry.shape.column_of(*slot, usize::from(role));
            if !columns.contains(column) {
                continue;
            }
            let Some(block) = blocks.next() else { return };
            let row = usize::from(*row);
            let crc = checksum::block(self.key, *slot, row, column, block);
            if crc == checksums[columns.rank(column)] || active(Mutant::PayloadUnverified) {
                evidence.payload.insert((number, i, column), block.clone());
            }
        }
    }

    /// All valid records of a member's ring from its tail on. A damaged header does not hide what
    /// follows it: every block is tried, and a header names its own position. `passed` becomes the
    /// highest epoch of any header passed, valid here or not: none of them is used again.
    async fn scan_ring(
        &self,
        lane: &Lane,
        index: Index,
        checkpoint: &Checkpoint,
        passed: &Cell<u64>,
    ) -> (Index, Vec<Record>) {
        let size = self.geometry.ring_blocks;
        let mut area = self.journal_area(index, self.geometry.ring_offset(lane.id), size);
        let mut records = Vec::new();
        let mut pos = checkpoint.tail_pos;
        let end = pos + size;
        while pos < end {
            let lap = pos - pos % size;
            let skipped = area.skip_blank(pos - lap, size.min(end - lap)).await;
            if lap + skipped > pos {
                pos = lap + skipped;
                continue;
            }
            let record = record_at(&mut area, pos - lap, lane).await;
            let epoch = record.as_ref().map_or(0, |r| r.header.epoch);
            passed.set(passed.get().max(epoch));
            let record = record.filter(|r| {
                r.header.kind == HeaderKind::Batch
                    && r.header.pos == pos
                    && r.header.epoch >= checkpoint.epoch
            });
            pos += record.as_ref().map_or(1, Record::blocks);
            records.extend(record);
        }
        (index, records)
    }

    /// All valid records of one of a member's re-log areas.
    async fn scan_relog(&self, lane: &Lane, index: Index, area: usize) -> (Index, Vec<Record>) {
        let size = self.geometry.relog_blocks;
        let mut area = self.journal_area(index, self.geometry.relog_offset(lane.id, area), size);
        let mut records = Vec::new();
        let mut pos = 0;
        while pos < size {
            let skipped = area.skip_blank(pos, size).await;
            if skipped > pos {
                pos = skipped;
                continue;
            }
            let record = record_at(&mut area, pos, lane).await;
            let record =
                record.filter(|r| r.header.pos == pos && r.header.kind != HeaderKind::Batch);
            pos += record.as_ref().map_or(1, Record::blocks);
            records.extend(record);
        }
        (index, records)
    }

    fn journal_area(&self, index: Index, offset: u64, blocks: u64) -> Area<'_> {
        let members = self.members.borrow().len().max(1);
        Area {
            array: self,
            index,
            offset,
            blocks,
            piece_blocks: (READ_BLOCKS_TOGETHER_MAX / members as u64).clamp(16, READ_BLOCKS_MAX),
            pieces: VecDeque::new(),
        }
    }
}

/// The record that begins at block `at` of an area, if there is one of this lane and member.
async fn record_at(area: &mut Area<'_>, at: u64, lane: &Lane) -> Option<Record> {
    let first = area.blocks(at, 1).await?.pop()??;
    let count = Header::peek_blocks(&first)?;
    let gathered = area.blocks(at, count as u64).await?;
    let gathered = gathered.into_iter().collect::<Option<Vec<Buf>>>()?;
    let array = area.array;
    let header = match &gathered[..] {
        [one] => Header::decode(one, array.key, &array.geometry)?,
        _ => {
            let bytes: Vec<u8> = gathered.iter().flat_map(|b| b.iter().copied()).collect();
            Header::decode(&bytes, array.key, &array.geometry)?
        }
    };
    if header.lane != lane.id as u16 || header.member != area.index {
        return None;
    }
    let from = at + count as u64;
    let payload = area.blocks(from, header.payload_blocks.into()).await?;
    // A payload block that is blank or cannot be read verifies as little as a torn one.
    let payload = payload
        .into_iter()
        .map(|b| b.unwrap_or_else(|| array.zero.clone()));
    let payload = payload.collect();
    Some(Record { header, payload })
}

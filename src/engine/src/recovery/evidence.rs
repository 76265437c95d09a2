//! What the journals of the members say: every record found, with the payload blocks that verify.

use crate::array::Array;
use crate::executor::join_all;
use crate::lane::Lane;
use crate::mutants::{Mutant, active};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use uraid_buffer::Buf;
use uraid_core::checksum;
use uraid_core::config::Index;
use uraid_core::journal::{Checkpoint, Entry, Header, HeaderKind};
use uraid_core::units::{BLOCK, BLOCK_BYTES};

/// How much of a journal is read at once.
const READ_BLOCKS: u64 = 256;

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

/// All records of the journal epoch that counts. A record is named by its batch number, or by its
/// part of a re-log.
pub struct Evidence {
    /// Where from.
    pub origin: Origin,
    /// The epoch they belong to.
    pub epoch: u64,
    /// The highest epoch seen anywhere.
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
        let checkpoint_epoch = checkpoints.values().map(|c| c.epoch).max().unwrap_or(0);
        let scans = checkpoints
            .iter()
            .map(|(index, c)| self.scan_ring(lane, *index, c));
        let ring: Vec<(Index, Vec<Record>)> = join_all(scans).await;
        let mut areas = Vec::new();
        for area in 0..2 {
            let scans = checkpoints
                .keys()
                .map(|index| self.scan_relog(lane, *index, area));
            areas.push(join_all(scans).await);
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
            .chain([epochs(&ring), checkpoint_epoch])
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
    /// follows it: every block is tried, and a header names its own position.
    async fn scan_ring(
        &self,
        lane: &Lane,
        index: Index,
        checkpoint: &Checkpoint,
    ) -> (Index, Vec<Record>) {
        let size = self.geometry.ring_blocks;
        let blocks = self
            .read_journal(index, self.geometry.ring_offset(lane.id), size)
            .await;
        let mut records = Vec::new();
        let mut pos = checkpoint.tail_pos;
        let end = pos + size;
        while pos < end {
            let record = self
                .record_at(&blocks, pos % size, lane, index)
                .filter(|r| {
                    r.header.kind == HeaderKind::Batch
                        && r.header.pos == pos
                        && r.header.epoch >= checkpoint.epoch
                });
            match record {
                Some(record) => {
                    pos += (record.header.blocks() + record.payload.len()) as u64;
                    records.push(record);
                }
                None => pos += 1,
            }
        }
        (index, records)
    }

    /// All valid records of one of a member's re-log areas.
    async fn scan_relog(&self, lane: &Lane, index: Index, area: usize) -> (Index, Vec<Record>) {
        let size = self.geometry.relog_blocks;
        let offset = self.geometry.relog_offset(lane.id, area);
        let blocks = self.read_journal(index, offset, size).await;
        let mut records = Vec::new();
        let mut pos = 0;
        while pos < size {
            let record = self.record_at(&blocks, pos, lane, index);
            match record.filter(|r| r.header.pos == pos && r.header.kind != HeaderKind::Batch) {
                Some(record) => {
                    pos += (record.header.blocks() + record.payload.len()) as u64;
                    records.push(record);
                }
                None => pos += 1,
            }
        }
        (index, records)
    }

    /// Blocks of a journal area; those that cannot be read are left out.
    async fn read_journal(&self, index: Index, offset: u64, size: u64) -> Vec<Option<Buf>> {
        let mut blocks = Vec::with_capacity(size as usize);
        for start in (0..size).step_by(READ_BLOCKS as usize) {
            let count = READ_BLOCKS.min(size - start) as usize;
            match self
                .read_member(index, offset + start * BLOCK, count * BLOCK_BYTES)
                .await
            {
                Ok(bytes) if bytes.iter().all(|b| *b == 0) => {
                    blocks.extend(core::iter::repeat_n(None, count));
                }
                Ok(bytes) => blocks.extend(crate::read::split_blocks(&bytes.freeze()).map(Some)),
                Err(()) => blocks.extend(core::iter::repeat_n(None, count)),
            }
        }
        blocks
    }

    fn record_at(
        &self,
        blocks: &[Option<Buf>],
        at: u64,
        lane: &Lane,
        index: Index,
    ) -> Option<Record> {
        let at = at as usize;
        let first = blocks[at].as_ref()?;
        let count = Header::peek_blocks(first)?;
        let gathered: Vec<&Buf> = blocks
            .get(at..at + count)?
            .iter()
            .map(Option::as_ref)
            .collect::<Option<_>>()?;
        let header = match gathered[..] {
            [one] => Header::decode(one, self.key, &self.geometry)?,
            _ => {
                let bytes: Vec<u8> = gathered.iter().flat_map(|b| b.iter().copied()).collect();
                Header::decode(&bytes, self.key, &self.geometry)?
            }
        };
        if header.lane != lane.id as u16 || header.member != index {
            return None;
        }
        let from = at + count;
        let payload = blocks.get(from..from + header.payload_blocks as usize)?;
        // A payload block that cannot be read verifies as little as a torn one.
        let payload = payload
            .iter()
            .map(|b| b.clone().unwrap_or_else(|| self.zero.clone()));
        let payload = payload.collect();
        Some(Record { header, payload })
    }
}

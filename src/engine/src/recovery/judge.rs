//! The verdict on a prefix of the journal: what state it leads to, and whether every row it
//! touches can be decoded from verified blocks.

use super::RowFinal;
use super::evidence::{Evidence, Origin};
use crate::array::Array;
use crate::executor::join_all;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_buffer::Buf;
use uraid_core::checksum;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::journal::Entry;
use uraid_core::pages::Sum;
use uraid_core::units::BLOCK_BYTES;
use uraid_parity::ColumnSet;

/// Stripes judged at the same time.
const STRIPES_MAX: usize = 32;

/// A new place of a stripe.
#[derive(Clone, Debug)]
pub enum Change {
    /// Wholly written.
    Remap {
        /// Where to.
        slot: Slot,
        /// Checksums of all blocks, column by column.
        checksums: Vec<u32>,
        /// The record that says so.
        record: u64,
    },
    /// Blank.
    Alloc {
        /// Where to.
        slot: Slot,
    },
    /// None.
    Unmap,
}

/// Newest version of one block: its record, entry, and checksum.
#[derive(Clone, Copy, Debug)]
struct Newest {
    record: u64,
    entry: usize,
    crc: u32,
}

#[derive(Default, Debug)]
struct StripeState {
    change: Option<Change>,
    /// Where its rows are.
    slot: Option<Slot>,
    rows: BTreeMap<u16, BTreeMap<usize, Newest>>,
}

/// What a prefix of the journal leads to.
#[derive(Default)]
pub struct State {
    stripes: BTreeMap<Stripe, StripeState>,
}

/// Whether it can be had.
#[derive(Default)]
pub struct Verdict {
    /// Final images of all rows that must be written again.
    pub rows: Vec<RowFinal>,
    /// Rows of stripes in a new slot with blocks that did not get there.
    pub mend: Vec<(Stripe, usize)>,
    /// Rows that cannot be decoded, in words.
    pub lost: Vec<String>,
}

/// What a block is expected to be.
enum Expected {
    Journalled(Newest),
    Checksum(u32),
    Blank,
    Unknown,
}

impl State {
    /// Applies the records below `upto` in order.
    pub fn replay(evidence: &Evidence, upto: u64) -> State {
        let mut state = State::default();
        for (record, header) in evidence.records(upto) {
            for (i, entry) in header.entries.iter().enumerate() {
                state.apply(record, i, entry);
            }
        }
        state
    }

    fn apply(&mut self, record: u64, position: usize, entry: &Entry) {
        match entry {
            Entry::Row {
                stripe,
                slot,
                row,
                columns,
                checksums,
            } => {
                let stripe = self.stripes.entry(*stripe).or_default();
                stripe.slot = Some(*slot);
                let versions = stripe.rows.entry(*row).or_default();
                for (column, crc) in columns.iter().zip(checksums) {
                    versions.insert(
                        column,
                        Newest {
                            record,
                            entry: position,
                            crc: *crc,
                        },
                    );
                }
            }
            Entry::Remap {
                stripe,
                slot,
                checksums,
            } => {
                let (slot, checksums) = (*slot, checksums.clone());
                self.change(
                    *stripe,
                    Change::Remap {
                        slot,
                        checksums,
                        record,
                    },
                    Some(slot),
                );
            }
            Entry::Alloc { stripe, slot } => {
                self.change(*stripe, Change::Alloc { slot: *slot }, Some(*slot));
            }
            Entry::Unmap { first, .. } => self.change(*first, Change::Unmap, None),
        }
    }

    /// Rows older than a new place no longer count.
    fn change(&mut self, stripe: Stripe, change: Change, slot: Option<Slot>) {
        let state = StripeState {
            change: Some(change),
            slot,
            rows: BTreeMap::new(),
        };
        self.stripes.insert(stripe, state);
    }

    /// The new places: what becomes empty first, so that its slots are free for the others.
    pub fn moves(&self) -> Vec<Entry> {
        let all = || {
            self.stripes
                .iter()
                .filter_map(|(s, st)| Some((s, st.change.as_ref()?)))
        };
        let unmap = |c: &Change| matches!(c, Change::Unmap);
        let emptied = all().filter(|(_, c)| unmap(c));
        let placed = all().filter(|(_, c)| !unmap(c));
        emptied
            .chain(placed)
            .map(|(stripe, change)| change.entry(*stripe))
            .collect()
    }
}

impl Array {
    /// Judges every stripe of a state. Moves in records below `floor` need no proof.
    pub async fn judge_state(&self, evidence: &Evidence, state: &State, floor: u64) -> Verdict {
        let mut verdict = Verdict::default();
        let stripes: Vec<_> = state
            .stripes
            .iter()
            .filter(|(_, s)| s.slot.is_some())
            .collect();
        for some in stripes.chunks(STRIPES_MAX) {
            let judges = some
                .iter()
                .map(|(stripe, s)| self.judge_stripe(evidence, **stripe, s, floor));
            for mut one in join_all(judges).await {
                verdict.rows.append(&mut one.rows);
                verdict.mend.append(&mut one.mend);
                verdict.lost.append(&mut one.lost);
            }
        }
        verdict
    }

    async fn judge_stripe(
        &self,
        evidence: &Evidence,
        stripe: Stripe,
        state: &StripeState,
        floor: u64,
    ) -> Verdict {
        let slot = state.slot.expect("only stripes with a place are judged");
        let unproven = match &state.change {
            // What an interrupted recovery re-logged it may not have mended.
            Some(Change::Remap { record, .. }) => {
                *record >= floor || evidence.origin != Origin::Ring
            }
            _ => false,
        };
        let rows: BTreeSet<usize> = if unproven {
            (0..self.geometry.shape.rows()).collect()
        } else {
            state.rows.keys().map(|r| usize::from(*r)).collect()
        };
        let Some((first, last)) = rows.first().copied().zip(rows.last().copied()) else {
            return Verdict::default();
        };
        let columns = 0..self.geometry.shape.columns;
        let spans = columns.map(|c| self.raw_span(slot, c, first, last + 1));
        let in_place: Vec<Option<Buf>> = join_all(spans).await;
        let mut verdict = Verdict::default();
        for row in rows {
            let journalled = state.rows.contains_key(&(row as u16));
            let found = self
                .find_row(evidence, state, slot, row, first, &in_place)
                .await;
            let have: ColumnSet = (0..found.len()).filter(|c| found[*c].is_some()).collect();
            if !journalled && self.code.can_decode(have) {
                // Wholly in its new slot or mended there: that only adds to what is known, so it
                // needs no re-log.
                if !have.contains_all(self.readable(slot)) {
                    verdict.mend.push((stripe, row));
                }
                continue;
            }
            match self.finish_row(stripe, slot, row, found, have) {
                Some(image) => verdict.rows.push(image),
                None => verdict.lost.push(format!(
                    "stripe {} row {row}: {} of {} columns verify",
                    stripe.0,
                    have.len(),
                    self.geometry.shape.columns
                )),
            }
        }
        verdict
    }

    /// What is in place in some rows of a column, unverified.
    async fn raw_span(&self, slot: Slot, column: usize, first: usize, end: usize) -> Option<Buf> {
        let index = self.reader(slot, column)?;
        let offset = self.geometry.block_offset(slot, first);
        let len = (end - first) * BLOCK_BYTES;
        Some(self.read_member(index, offset, len).await.ok()?.freeze())
    }

    /// The verified blocks of a row, by column.
    async fn find_row(
        &self,
        evidence: &Evidence,
        state: &StripeState,
        slot: Slot,
        row: usize,
        first: usize,
        in_place: &[Option<Buf>],
    ) -> Vec<Option<Buf>> {
        let mut found = Vec::with_capacity(in_place.len());
        for (column, span) in in_place.iter().enumerate() {
            let at = (row - first) * BLOCK_BYTES;
            let placed = |crc: u32| {
                let block = span.as_ref()?.slice(at..at + BLOCK_BYTES);
                let same = checksum::block(self.key, slot, row, column, &block) == crc;
                same.then_some(block)
            };
            found.push(match self.expected(state, slot, row, column).await {
                Expected::Journalled(n) => match evidence.payload(n.record, n.entry, column) {
                    Some(block) => Some(block.clone()),
                    None => placed(n.crc),
                },
                Expected::Checksum(crc) => placed(crc),
                Expected::Blank => Some(self.zero.clone()),
                Expected::Unknown => None,
            });
        }
        found
    }

    async fn expected(
        &self,
        state: &StripeState,
        slot: Slot,
        row: usize,
        column: usize,
    ) -> Expected {
        if let Some(newest) = state.rows.get(&(row as u16)).and_then(|r| r.get(&column)) {
            return Expected::Journalled(*newest);
        }
        match &state.change {
            Some(Change::Remap { checksums, .. }) => {
                Expected::Checksum(checksums[column * self.geometry.shape.rows() + row])
            }
            Some(Change::Alloc { .. }) => Expected::Blank,
            _ => {
                let Some(index) = self.reader(slot, column) else {
                    return Expected::Unknown;
                };
                let sums = self.sums(index, slot, row..row + 1).await;
                match self.sum_of(&sums, slot, row) {
                    Sum::NONE => Expected::Unknown,
                    sum if sum.is_blank() => Expected::Blank,
                    sum => Expected::Checksum(sum.crc),
                }
            }
        }
    }

    /// Computes the columns that are missing; `None` when too few are there.
    fn finish_row(
        &self,
        stripe: Stripe,
        slot: Slot,
        row: usize,
        found: Vec<Option<Buf>>,
        have: ColumnSet,
    ) -> Option<RowFinal> {
        let want = ColumnSet::first(found.len()).minus(have);
        let mut columns = found;
        if !want.is_empty() {
            let plan = self.code.plan(have, want)?;
            let blocks: Vec<Buf> = plan
                .sources
                .iter()
                .map(|s| columns[*s].clone().expect("it is there"))
                .collect();
            let sources: Vec<&[u8]> = blocks.iter().map(|b| &b[..]).collect();
            for wanted in &plan.rows {
                let made =
                    self.block(|out| self.kernels.combine(&wanted.coefficients, &sources, out));
                columns[wanted.column] = Some(made);
            }
        }
        let columns: Vec<Buf> = columns.into_iter().collect::<Option<_>>()?;
        let crc = |(c, b): (usize, &Buf)| checksum::block(self.key, slot, row, c, b);
        let checksums = columns.iter().enumerate().map(crc).collect();
        Some(RowFinal {
            stripe,
            slot,
            row: row as u16,
            columns,
            checksums,
        })
    }
}

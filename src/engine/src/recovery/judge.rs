//! The verdict on a prefix of the journal: what state it leads to, and whether every row it
//! touches can be decoded from verified blocks.

use super::RowFinal;
use super::evidence::{Evidence, Origin};
use crate::array::Array;
use crate::executor::join_all;
use crate::mutants::{Mutant, active};
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
use uraid_parity::{ColumnSet, Plan, PlanRow};

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
    /// A row in a place where no server had its stripe, in words. Nobody knows then which of the
    /// records is the wrong one.
    pub contradiction: Option<String>,
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
    /// A record with which, whatever follows it, some row is lost: the oldest of which that is
    /// known.
    pub lost_with: Option<u64>,
    /// The same rows with marks for what is lost, should the verdict have to be lived with.
    pub marked: Vec<RowFinal>,
}

/// What a block is expected to be.
enum Expected {
    Journalled(Newest),
    Checksum(u32),
    Blank,
    /// Its checksum page may be stale.
    Doubtful(Sum),
    Unknown,
}

impl StripeState {
    /// The newest record that says what a row is to be: it is the same until another one does.
    fn newest_record(&self, row: u16) -> u64 {
        let versions = self.rows.get(&row).into_iter().flat_map(BTreeMap::values);
        let moved = match &self.change {
            Some(Change::Remap { record, .. }) => Some(*record),
            Some(Change::Alloc { .. } | Change::Unmap) | None => None,
        };
        versions.map(|v| v.record).chain(moved).max().unwrap_or(0)
    }
}

impl State {
    /// Applies the records below `upto` in order.
    pub fn replay(lanes: u64, evidence: &Evidence, upto: u64) -> State {
        let mut state = State::default();
        for (record, header) in evidence.records(upto) {
            for (i, entry) in header.entries.iter().enumerate() {
                state.apply(lanes, record, i, entry);
            }
        }
        state
    }

    fn apply(&mut self, lanes: u64, record: u64, position: usize, entry: &Entry) {
        match entry {
            Entry::Row {
                stripe,
                slot,
                row,
                columns,
                checksums,
            } => {
                let first = StripeState {
                    slot: Some(*slot),
                    ..StripeState::default()
                };
                let state = self.stripes.entry(*stripe).or_insert(first);
                if state.slot != Some(*slot) {
                    self.contradiction = Some(format!(
                        "record {record} has row {row} of stripe {} in slot {}, where the records \
                         before it do not have that stripe",
                        stripe.0, slot.0
                    ));
                    return;
                }
                let versions = state.rows.entry(*row).or_default();
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
            Entry::Unmap { first, count } => {
                for i in 0..*count {
                    self.change(Stripe(first.0 + i * lanes), Change::Unmap, None);
                }
            }
        }
    }

    /// Rows older than a new place no longer count.
    fn change(&mut self, stripe: Stripe, change: Change, slot: Option<Slot>) {
        let mut state = StripeState {
            change: Some(change),
            slot,
            rows: BTreeMap::new(),
        };
        if active(Mutant::OldRowsKept) {
            state.rows = self.stripes.remove(&stripe).unwrap_or_default().rows;
        }
        self.stripes.insert(stripe, state);
    }

    /// Journalled rows: so many blocks a re-log takes at least.
    pub fn rows(&self) -> u64 {
        self.stripes.values().map(|s| s.rows.len() as u64).sum()
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

fn columns_of(row: &[Option<Buf>]) -> ColumnSet {
    (0..row.len()).filter(|c| row[*c].is_some()).collect()
}

impl Array {
    /// Judges every stripe of a state. Moves in records below `floor` need no proof.
    pub async fn judge_state(&self, evidence: &Evidence, state: &State, floor: u64) -> Verdict {
        let mut verdict = Verdict::default();
        // Where the map has a stripe in another place than its rows, it has moved since.
        let in_place = |stripe: Stripe, s: &StripeState| {
            s.change.is_some() || self.lane(stripe).map.borrow().get(stripe).slot() == s.slot
        };
        let stripes: Vec<_> = state
            .stripes
            .iter()
            .filter(|(stripe, s)| s.slot.is_some() && in_place(**stripe, s))
            .collect();
        for some in stripes.chunks(STRIPES_MAX) {
            let judges = some
                .iter()
                .map(|(stripe, s)| self.judge_stripe(evidence, **stripe, s, floor));
            for mut one in join_all(judges).await {
                verdict.rows.append(&mut one.rows);
                verdict.mend.append(&mut one.mend);
                verdict.lost.append(&mut one.lost);
                let both = [verdict.lost_with, one.lost_with];
                verdict.lost_with = both.into_iter().flatten().min();
                verdict.marked.append(&mut one.marked);
            }
            let images = verdict.rows.len() + verdict.marked.len();
            if images as u64 > self.geometry.relog_blocks {
                break; // more than can be re-logged: refused, and not all kept in memory
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
            let mut found = self
                .find_row(evidence, state, slot, row, first, &in_place, false)
                .await;
            if !self.code.can_decode(columns_of(&found)) {
                // So much is gone that checksums that are only in doubt must count.
                found = self
                    .find_row(evidence, state, slot, row, first, &in_place, true)
                    .await;
            }
            let have = columns_of(&found);
            if !journalled && self.code.can_decode(have) {
                // Wholly in its new slot or mended there: that only adds to what is known, so it
                // needs no re-log.
                if !have.contains_all(self.readable(slot)) {
                    verdict.mend.push((stripe, row));
                }
                continue;
            }
            if self.code.can_decode(have) {
                let image = self.finish_row(stripe, slot, row, found, have);
                verdict.rows.push(image);
                continue;
            }
            let newest = state.newest_record(row as u16);
            verdict.lost_with = Some(verdict.lost_with.map_or(newest, |r| r.min(newest)));
            verdict.lost.push(format!(
                "stripe {} row {row}: {} of {} columns verify",
                stripe.0,
                have.len(),
                self.geometry.shape.columns
            ));
            verdict
                .marked
                .push(self.marked_row(stripe, slot, row, found));
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

    /// The verified blocks of a row, by column; `trusting`: also those whose checksum is in doubt.
    #[allow(clippy::too_many_arguments)] // one row of one stripe, seen from all sides
    async fn find_row(
        &self,
        evidence: &Evidence,
        state: &StripeState,
        slot: Slot,
        row: usize,
        first: usize,
        in_place: &[Option<Buf>],
        trusting: bool,
    ) -> Vec<Option<Buf>> {
        let mut found = Vec::with_capacity(in_place.len());
        for (column, span) in in_place.iter().enumerate() {
            let at = (row - first) * BLOCK_BYTES;
            let placed = |crc: u32| {
                let block = span.as_ref()?.slice(at..at + BLOCK_BYTES);
                let same = checksum::block(self.key, slot, row, column, &block) == crc
                    || active(Mutant::PlaceUnverified);
                same.then_some(block)
            };
            found.push(match self.expected(state, slot, row, column).await {
                Expected::Journalled(n) => match evidence.payload(n.record, n.entry, column) {
                    Some(block) => Some(block.clone()),
                    None => placed(n.crc),
                },
                Expected::Checksum(crc) => placed(crc),
                Expected::Blank => Some(self.zero.clone()),
                Expected::Doubtful(sum) if trusting && sum.is_blank() => Some(self.zero.clone()),
                Expected::Doubtful(sum) if trusting => placed(sum.crc),
                Expected::Doubtful(_) | Expected::Unknown => None,
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
                    sum if self.is_doubtful(&sums, slot) => Expected::Doubtful(sum),
                    sum if sum.is_blank() => Expected::Blank,
                    sum => Expected::Checksum(sum.crc),
                }
            }
        }
    }

    /// The row with marks in place of the data that is missing.
    fn marked_row(
        &self,
        stripe: Stripe,
        slot: Slot,
        row: usize,
        mut found: Vec<Option<Buf>>,
    ) -> RowFinal {
        let data = self.geometry.shape.data;
        for column in 0..data {
            let have = columns_of(&found);
            if found[column].is_none() {
                // A mirror may lack one block and have a copy of the next.
                found[column] = Some(match self.code.plan(have, ColumnSet::single(column)) {
                    Some(plan) => self.carry_out_plan(&plan, &found).remove(0).1,
                    None => self.mark_of(stripe, column, row),
                });
            }
        }
        // Parities that were found belong to what is lost.
        found[data..].fill(None);
        self.finish_row(stripe, slot, row, found, ColumnSet::first(data))
    }

    /// The columns that a plan gives, from those it needs.
    fn carry_out_plan(&self, plan: &Plan, found: &[Option<Buf>]) -> Vec<(usize, Buf)> {
        let source = |s: &usize| &found[*s].as_ref().expect("a plan uses what is there")[..];
        let sources: Vec<&[u8]> = plan.sources.iter().map(source).collect();
        let make = |wanted: &PlanRow| {
            let made = self.block(|out| self.kernels.combine(&wanted.coefficients, &sources, out));
            (wanted.column, made)
        };
        plan.rows.iter().map(make).collect()
    }

    /// Computes the columns that are missing; those in `have` suffice.
    fn finish_row(
        &self,
        stripe: Stripe,
        slot: Slot,
        row: usize,
        found: Vec<Option<Buf>>,
        have: ColumnSet,
    ) -> RowFinal {
        let want = ColumnSet::first(found.len()).minus(have);
        let mut columns = found;
        if !want.is_empty() {
            let plan = self.code.plan(have, want).expect("the row can be decoded");
            for (column, made) in self.carry_out_plan(&plan, &columns) {
                columns[column] = Some(made);
            }
        }
        let columns: Vec<Buf> = columns.into_iter().flatten().collect();
        let crc = |(c, b): (usize, &Buf)| checksum::block(self.key, slot, row, c, b);
        let checksums = columns.iter().enumerate().map(crc).collect();
        RowFinal {
            stripe,
            slot,
            row: row as u16,
            columns,
            checksums,
        }
    }
}

//! Reconstruction: what is in place in one column, computed from the others.

use crate::array::Array;
use crate::executor::join_all;
use crate::read::Lost;
use crate::settled::{Checked, Placed};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::Sum;
use uraid_parity::ColumnSet;

impl Array {
    /// Computes what is in place in some rows of a column from the other columns, leaving out
    /// `without`. The caller holds the stripe's place lock, so every row in place is a codeword.
    pub async fn reconstruct(
        &self,
        stripe: Stripe,
        slot: Slot,
        column: usize,
        rows: Range<usize>,
        without: ColumnSet,
    ) -> Result<Vec<Placed>, Lost> {
        let mut made: Vec<Option<Placed>> = alloc::vec![None; rows.len()];
        // Columns found bad, by row; a plan is tried until it works or none is left.
        let unusable = without.union(ColumnSet::single(column));
        let mut bad = alloc::vec![unusable; rows.len()];
        // Rows with blocks that are only in doubt, and rows where those count.
        let mut doubts = alloc::vec![false; rows.len()];
        let mut trusting = doubts.clone();
        while let Some(start) = made.iter().position(Option::is_none) {
            let end = (start..rows.len())
                .find(|i| {
                    let alike = bad[*i] == bad[start] && trusting[*i] == trusting[start];
                    made[*i].is_some() || !alike
                })
                .unwrap_or(rows.len());
            let span = rows.start + start..rows.start + end;
            let have = self.readable(slot).minus(bad[start]);
            let quick = have.minus(self.avoided(slot));
            let plan = |have| self.code.plan(have, ColumnSet::single(column));
            let Some(plan) = plan(quick).or_else(|| plan(have)) else {
                let doubted: Vec<usize> = (start..end)
                    .filter(|i| doubts[*i] && !trusting[*i] && without.is_empty())
                    .collect();
                if !doubted.is_empty() {
                    // So much is gone of these rows that what is only in doubt must count; not if
                    // more could be read.
                    for i in doubted {
                        (bad[i], trusting[i]) = (unusable, true);
                    }
                    continue;
                }
                if without.is_empty() {
                    self.note_lost(stripe, column, span);
                }
                return Err(Lost(format!(
                    "stripe {} row {}: {} of {} columns can be read, too few: {}",
                    stripe.0,
                    rows.start + start,
                    have.len(),
                    self.geometry.shape.columns,
                    self.what_is_lacking(slot, bad[start])
                )));
            };
            let read = |source: usize| self.read_column(slot, source, span.clone());
            let found = join_all(plan.sources.iter().map(|s| read(*s))).await;
            for i in start..end {
                let mut row = Vec::with_capacity(found.len());
                for (source, blocks) in plan.sources.iter().zip(&found) {
                    let checked = blocks[i - start].clone();
                    doubts[i] |= matches!(checked, Checked::Doubtful(_));
                    let placed = match trusting[i] {
                        true => checked.matching(),
                        false => checked.good(),
                    };
                    match placed {
                        Some(placed) => row.push(placed),
                        None => bad[i].insert(*source),
                    }
                }
                if row.len() == plan.sources.len() {
                    let coefficients = &plan.rows[0].coefficients;
                    made[i] = Some(self.combine(slot, rows.start + i, column, coefficients, &row));
                }
            }
        }
        Ok(made.into_iter().flatten().collect())
    }

    /// Which members do not have their column of a slot, and why. `bad`: columns whose blocks
    /// were no good.
    fn what_is_lacking(&self, slot: Slot, bad: ColumnSet) -> String {
        let roles = self.roles.borrow();
        let reason = |column: usize| {
            let role = self.geometry.shape.role_of(slot, column);
            match (self.reader(slot, column), roles[role].holder) {
                (Some(index), _) if bad.contains(column) => Some(format!(
                    "{} has no good block there",
                    self.member_name(index)
                )),
                (Some(_), _) => None,
                (None, Some(index)) => Some(format!("{} is gone", self.member_name(index))),
                (None, None) => Some(format!("member {role} is missing")),
            }
        };
        let reasons: Vec<String> = (0..self.geometry.shape.columns)
            .filter_map(reason)
            .collect();
        reasons.join(", ")
    }

    /// What is in place in some rows of a column on whoever can be read for it.
    async fn read_column(&self, slot: Slot, column: usize, rows: Range<usize>) -> Vec<Checked> {
        match self.reader(slot, column) {
            Some(index) => self.read_checked(index, slot, column, rows).await,
            None => alloc::vec![Checked::Bad(None); rows.len()],
        }
    }

    fn combine(
        &self,
        slot: Slot,
        row: usize,
        column: usize,
        coefficients: &[u8],
        sources: &[Placed],
    ) -> Placed {
        let generation = sources.iter().map(|p| p.sum.generation).max().unwrap_or(0);
        if generation == 0 {
            return Placed {
                data: self.zero.clone(),
                sum: Sum::default(),
            };
        }
        let slices: Vec<&[u8]> = sources.iter().map(|p| &p.data[..]).collect();
        let data = self.block(|out| self.kernels.combine(coefficients, &slices, out));
        let crc = uraid_core::checksum::block(self.key, slot, row, column, &data);
        Placed {
            data,
            sum: Sum { crc, generation },
        }
    }
}

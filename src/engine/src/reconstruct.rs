//! Reconstruction: what is in place in one column, computed from the others.

use crate::array::Array;
use crate::executor::join_all;
use crate::read::{Lost, Placed};
use alloc::format;
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
        let mut bad = alloc::vec![without.union(ColumnSet::single(column)); rows.len()];
        while let Some(start) = made.iter().position(Option::is_none) {
            let end = (start..rows.len())
                .find(|i| made[*i].is_some() || bad[*i] != bad[start])
                .unwrap_or(rows.len());
            let have = self.readable(slot).minus(bad[start]);
            let Some(plan) = self.code.plan(have, ColumnSet::single(column)) else {
                self.lost_blocks
                    .set(self.lost_blocks.get() + (end - start) as u64);
                return Err(Lost(format!(
                    "stripe {} row {}: {} of {} columns can be read, too few",
                    stripe.0,
                    rows.start + start,
                    have.len(),
                    self.geometry.shape.columns
                )));
            };
            let span = rows.start + start..rows.start + end;
            let read = |source: usize| {
                let span = span.clone();
                async move {
                    match self.reader(slot, source) {
                        Some(index) => self.read_placed(index, slot, source, span).await,
                        None => alloc::vec![None; span.len()],
                    }
                }
            };
            let found = join_all(plan.sources.iter().map(|s| read(*s))).await;
            for i in start..end {
                let row: Vec<Option<&Placed>> = found
                    .iter()
                    .map(|blocks| blocks[i - start].as_ref())
                    .collect();
                for (source, block) in plan.sources.iter().zip(&row) {
                    if block.is_none() {
                        bad[i].insert(*source);
                    }
                }
                if let Some(row) = row.into_iter().collect::<Option<Vec<_>>>() {
                    let coefficients = &plan.rows[0].coefficients;
                    made[i] = Some(self.combine(slot, rows.start + i, column, coefficients, &row));
                }
            }
        }
        Ok(made.into_iter().flatten().collect())
    }

    fn combine(
        &self,
        slot: Slot,
        row: usize,
        column: usize,
        coefficients: &[u8],
        sources: &[&Placed],
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

//! Reconstruction: what is in place in one column, computed from the others.

use crate::array::Array;
use crate::executor::join_all;
use crate::mend::Misfit;
use crate::read::Lost;
use crate::settled::{Checked, Placed};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_core::config::Index;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::Sum;
use uraid_parity::ColumnSet;

/// What was reconstructed, and what was found wrong on the way.
#[derive(Default, Debug)]
pub struct Made {
    /// The rows that were asked for.
    pub blocks: Vec<Placed>,
    /// Blocks of other columns that did not match or could not be read.
    pub misfits: Vec<Misfit>,
}

impl Made {
    /// Adds what was made of further rows.
    pub fn append(&mut self, mut further: Made) {
        self.blocks.append(&mut further.blocks);
        self.misfits.append(&mut further.misfits);
    }
}

/// A block that is no good where it was read: its column, on a member.
struct Suspect {
    column: usize,
    index: Index,
    found: Checked,
}

/// A row on its way.
struct Attempt {
    /// Columns that may not be read, and those found bad: a plan is tried until it works or none
    /// is left.
    bad: ColumnSet,
    /// Whether there are blocks that are only in doubt.
    doubts: bool,
    /// Whether those count.
    trusting: bool,
    suspects: Vec<Suspect>,
    made: Option<Placed>,
}

impl Attempt {
    fn without(bad: ColumnSet) -> Attempt {
        Attempt {
            bad,
            doubts: false,
            trusting: false,
            suspects: Vec::new(),
            made: None,
        }
    }

    /// Whether the next step is the same for both.
    fn is_like(&self, other: &Attempt) -> bool {
        let way = |a: &Attempt| (a.bad, a.trusting, a.made.is_some());
        way(self) == way(other)
    }

    /// Takes a block that was read for this row, if it is good enough.
    fn take(&mut self, column: usize, index: Option<Index>, found: Checked) -> Option<Placed> {
        self.doubts |= matches!(found, Checked::Doubtful(_));
        if let (Some(index), Checked::Bad(_)) = (index, &found) {
            let found = found.clone();
            self.suspects.push(Suspect {
                column,
                index,
                found,
            });
        }
        let placed = match self.trusting {
            true => found.matching(),
            false => found.good(),
        };
        if placed.is_none() {
            self.bad.insert(column);
        }
        placed
    }
}

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
    ) -> Result<Made, Lost> {
        let unusable = without.union(ColumnSet::single(column));
        let fresh = |_| Attempt::without(unusable);
        let mut attempts: Vec<Attempt> = rows.clone().map(fresh).collect();
        let mut misfits = Vec::new();
        while let Some(start) = attempts.iter().position(|a| a.made.is_none()) {
            let alike = attempts[start..].iter();
            let alike = alike.take_while(|a| a.is_like(&attempts[start])).count();
            let span = rows.start + start..rows.start + start + alike;
            let alike = &mut attempts[start..start + alike];
            let have = self.readable(slot).minus(alike[0].bad);
            let quick = have.minus(self.avoided(slot));
            let plan = |have| self.code.plan(have, ColumnSet::single(column));
            let Some(plan) = plan(quick).or_else(|| plan(have)) else {
                if without.is_empty() && trust_doubts(alike, unusable) {
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
                    self.what_is_lacking(slot, alike[0].bad)
                )));
            };
            let read = |source: usize| self.read_column(slot, source, span.clone());
            let found = join_all(plan.sources.iter().map(|s| read(*s))).await;
            for (i, (attempt, row)) in alike.iter_mut().zip(span).enumerate() {
                let mut good = Vec::with_capacity(found.len());
                for (source, (index, blocks)) in plan.sources.iter().zip(&found) {
                    good.extend(attempt.take(*source, *index, blocks[i].clone()));
                }
                if good.len() == plan.sources.len() {
                    let coefficients = &plan.rows[0].coefficients;
                    attempt.made = Some(self.combine(slot, row, column, coefficients, &good));
                    misfits.extend(self.misfits_of(slot, row, attempt, &plan.sources, &good));
                }
            }
        }
        Ok(Made {
            blocks: attempts.into_iter().filter_map(|a| a.made).collect(),
            misfits,
        })
    }

    /// As [`Array::reconstruct`], leaving nothing out; what is lost in one row is no reason to leave
    /// the others alone.
    pub async fn reconstruct_each(
        &self,
        (stripe, slot, column): (Stripe, Slot, usize),
        rows: Range<usize>,
    ) -> (Vec<Result<Placed, Lost>>, Vec<Misfit>) {
        let make = |rows| self.reconstruct(stripe, slot, column, rows, ColumnSet::EMPTY);
        if let Ok(made) = make(rows.clone()).await {
            return (made.blocks.into_iter().map(Ok).collect(), made.misfits);
        }
        let (mut blocks, mut misfits) = (Vec::new(), Vec::new());
        for row in rows {
            blocks.push(match make(row..row + 1).await {
                Ok(mut made) => {
                    misfits.append(&mut made.misfits);
                    Ok(made.blocks.remove(0))
                }
                Err(lost) => Err(lost),
            });
        }
        (blocks, misfits)
    }

    /// What the suspects of a row should be, by what it was reconstructed from: that gives them as
    /// well, with nothing read again. Blocks that are only in doubt prove nobody wrong.
    fn misfits_of(
        &self,
        slot: Slot,
        row: usize,
        attempt: &mut Attempt,
        sources: &[usize],
        good: &[Placed],
    ) -> Vec<Misfit> {
        let suspects = core::mem::take(&mut attempt.suspects);
        if attempt.trusting {
            return Vec::new();
        }
        let have: ColumnSet = sources.iter().copied().collect();
        let misfit = |suspect: Suspect| {
            let plan = self
                .code
                .plan(have, ColumnSet::single(suspect.column))
                .filter(|plan| plan.sources == sources)?;
            let coefficients = &plan.rows[0].coefficients;
            Some(Misfit {
                index: suspect.index,
                column: suspect.column,
                row,
                right: self.combine(slot, row, suspect.column, coefficients, good),
                found: suspect.found,
            })
        };
        suspects.into_iter().filter_map(misfit).collect()
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
    async fn read_column(
        &self,
        slot: Slot,
        column: usize,
        rows: Range<usize>,
    ) -> (Option<Index>, Vec<Checked>) {
        let reader = self.reader(slot, column);
        let found = match reader {
            Some(index) => self.read_checked(index, slot, column, rows).await,
            None => alloc::vec![Checked::Bad(None); rows.len()],
        };
        (reader, found)
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

/// Has blocks count that are only in doubt, as so much is gone of these rows; not if more could be
/// read. Whether that helps any of them.
fn trust_doubts(rows: &mut [Attempt], unusable: ColumnSet) -> bool {
    let mut helps = false;
    for row in rows.iter_mut().filter(|r| r.doubts && !r.trusting) {
        (row.bad, row.trusting, helps) = (unusable, true, true);
    }
    helps
}

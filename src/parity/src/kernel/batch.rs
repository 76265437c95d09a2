//! Outputs that are computed together from the same sources.

use super::scalar;
use super::vector::{Functions, PRODUCTS_MAX, Pass};
use crate::columns::COLUMNS_MAX;
use crate::gf;
use std::array;

/// Slot of the output that is the plain sum of all sources (P).
const SUM: usize = 0;
/// Slot of the output whose factors are the powers of two, for Horner's rule (Q).
const HORNER: usize = 1;
/// First slot of the outputs with any other factors.
const PRODUCTS: usize = 2;
const SLOTS: usize = PRODUCTS + PRODUCTS_MAX;

/// Bytes of each column that the scalar kernels work on before the next ones: what was read for
/// one output is still in the nearest cache for the next. The vector kernels need no such strips,
/// they compute all outputs at once.
const STRIP_BYTES: usize = 4096;

/// Outputs that one pass over the sources computes, with the coefficients of each.
///
/// All rows of a code with 8 parity columns fit into one batch.
pub(super) struct Batch<'a> {
    slots: [Option<(&'a [u8], &'a mut [u8])>; SLOTS],
}

impl<'a> Batch<'a> {
    pub(super) fn new() -> Self {
        Batch {
            slots: [const { None }; SLOTS],
        }
    }

    /// Adds an output, or gives it back if the batch is full.
    pub(super) fn add(&mut self, row: &'a [u8], dst: &'a mut [u8]) -> Result<(), &'a mut [u8]> {
        let slot = if self.slots[SUM].is_none() && row.iter().all(|&factor| factor == 1) {
            SUM
        } else if self.slots[HORNER].is_none() && is_powers_of_two(row) {
            HORNER
        } else {
            match (PRODUCTS..SLOTS).find(|&slot| self.slots[slot].is_none()) {
                Some(slot) => slot,
                None => return Err(dst),
            }
        };
        self.slots[slot] = Some((row, dst));
        Ok(())
    }

    /// Computes all outputs. The caller has checked that every row has a factor for each source
    /// and that all slices have `len` bytes.
    pub(super) fn compute(mut self, functions: Option<&Functions>, sources: &[&[u8]], len: usize) {
        let mut done = match functions {
            Some(functions) => self.compute_vectors(functions, sources, len),
            None => 0,
        };
        while done < len {
            let strip = done..len.min(done + STRIP_BYTES);
            for (row, dst) in self.slots.iter_mut().flatten() {
                let dst = &mut dst[strip.clone()];
                dst.fill(0);
                for (&factor, source) in row.iter().zip(sources) {
                    scalar::mul_acc(dst, factor, &source[strip.clone()]);
                }
            }
            done = strip.end;
        }
    }

    /// Computes as many bytes of all outputs as fill whole vectors; returns how many.
    fn compute_vectors(&mut self, functions: &Functions, sources: &[&[u8]], len: usize) -> usize {
        let products = self.slots[PRODUCTS..].iter().flatten().count();
        let mut factors = [0; COLUMNS_MAX * PRODUCTS_MAX];
        for (p, (row, _)) in self.slots[PRODUCTS..].iter().flatten().enumerate() {
            for (s, &factor) in row.iter().enumerate() {
                factors[s * products + p] = factor;
            }
        }
        let by_products = match (&self.slots[SUM], &self.slots[HORNER]) {
            (None, None) => &functions.products,
            (Some(_), None) => &functions.sum,
            (None, Some(_)) => &functions.horner,
            (Some(_), Some(_)) => &functions.sum_horner,
        };
        let mut filled = self.slots.iter_mut().flatten();
        let outputs: [*mut u8; SLOTS] = array::from_fn(|_| match filled.next() {
            Some((_, dst)) => dst.as_mut_ptr(),
            None => std::ptr::null_mut(),
        });
        let pass = Pass {
            sources,
            outputs: &outputs,
            factors: &factors,
            len,
        };
        // SAFETY: `Kernels::at` gives out functions only if the CPU can run them. Sources and
        // outputs all have `len` bytes, and the outputs are exclusive borrows. The filled slots
        // are in the order of `Pass::outputs`, and both they and the factors are as many as the
        // chosen function expects.
        unsafe { by_products[products](&pass) }
    }
}

fn is_powers_of_two(row: &[u8]) -> bool {
    let mut power = 1;
    row.iter().all(|&factor| {
        let matches = factor == power;
        power = gf::double(power);
        matches
    })
}

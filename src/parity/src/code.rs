//! Codes: how the parity columns of a stripe depend on its data columns.

use crate::columns::{COLUMNS_MAX, ColumnSet};
use crate::gf;
use std::fmt;

/// The most parity columns of a code made by [`Code::mds`].
pub const PARITY_MAX: usize = 8;

/// A code with data columns `0..data()` and parity columns `data()..columns()`.
///
/// Every code here is a union of separate *groups* of columns, each of which is MDS (maximum
/// distance separable): any `group_data` of its columns determine all the others, fewer determine
/// nothing further. A parity code is one group of all columns, a stripe of mirrors has one group
/// for each data column and its copies. All questions are answered group by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    data: usize,
    /// One row of coefficients for each parity column, one coefficient for each data column.
    rows: Vec<Vec<u8>>,
    /// Data columns in each group.
    group_data: usize,
    groups: Vec<ColumnSet>,
}

impl Code {
    /// A code of `k` data and `m` parity columns that survives the loss of any `m` columns:
    /// RAID0 (`m` = 0), RAID5 (1), RAID6 (2) and Reed-Solomon, each the beginning of the next.
    ///
    /// Row 0 is all ones (the P of RAID-5), row 1 is `g^j` (the Q of md's RAID-6), row `r >= 2`
    /// is `1 / (x_r + g^-j)` with `x_r = g^(r-1)`. With `x_1 = 0` row 1 has the same form, and P
    /// is the limit of that form at `x = ∞`: together they are a Cauchy matrix extended by one
    /// row, up to factors, all of whose square minors are non-singular. No row depends on `k` or
    /// `m`, so an array may grow in both without changing the parity that it has.
    ///
    /// For mirrors use [`Code::mirrored`]: with `k` = 1 the rows from 2 on are multiples, not
    /// copies.
    ///
    /// # Errors
    /// No data column, more than [`PARITY_MAX`] parity columns or more than [`COLUMNS_MAX`]
    /// columns.
    pub fn mds(k: usize, m: usize) -> Result<Code, CodeError> {
        if k == 0 {
            return Err(CodeError::NoData);
        }
        if m > PARITY_MAX {
            return Err(CodeError::TooMuchParity { parity: m });
        }
        let columns = checked_columns(k.checked_add(m))?;
        let rows = (0..m)
            .map(|r| (0..k).map(|j| mds_coefficient(r, j)).collect())
            .collect();
        Ok(Code {
            data: k,
            rows,
            group_data: k,
            groups: vec![ColumnSet::first(columns)],
        })
    }

    /// A stripe over `k` mirrors of `copies` columns each (RAID10; RAID1 with `k` = 1): parity
    /// column `k + c * k + j` is a further copy of data column `j`, for `c` in `0..copies - 1`.
    ///
    /// # Errors
    /// No data column, no copy or more than [`COLUMNS_MAX`] columns.
    pub fn mirrored(k: usize, copies: usize) -> Result<Code, CodeError> {
        if k == 0 || copies == 0 {
            return Err(CodeError::NoData);
        }
        let columns = checked_columns(k.checked_mul(copies))?;
        let rows = (k..columns)
            .map(|p| (0..k).map(|j| u8::from(p % k == j)).collect())
            .collect();
        let groups = (0..k).map(|j| (j..columns).step_by(k).collect()).collect();
        Ok(Code {
            data: k,
            rows,
            group_data: 1,
            groups,
        })
    }

    /// Number of data columns.
    pub fn data(&self) -> usize {
        self.data
    }

    /// Number of parity columns, copies included.
    pub fn parity(&self) -> usize {
        self.rows.len()
    }

    /// Number of all columns.
    pub fn columns(&self) -> usize {
        self.data + self.rows.len()
    }

    /// The factor of data column `data` in parity row `parity`, which is column
    /// `self.data() + parity`.
    ///
    /// # Panics
    /// If there is no such parity row or data column.
    pub fn coefficient(&self, parity: usize, data: usize) -> u8 {
        self.rows[parity][data]
    }

    /// All coefficients: a row for each parity column, in it one for each data column.
    pub fn rows(&self) -> &[Vec<u8>] {
        &self.rows
    }

    /// The parity columns that change when any of these data columns changes.
    pub fn parities_of(&self, data: ColumnSet) -> ColumnSet {
        self.groups
            .iter()
            .filter(|group| !group.intersection(data).is_empty())
            .fold(ColumnSet::EMPTY, |all, &group| all.union(group))
            .minus(ColumnSet::first(self.data))
    }

    /// Whether all data columns can be computed from the columns `have`.
    pub fn can_decode(&self, have: ColumnSet) -> bool {
        self.groups
            .iter()
            .all(|group| group.intersection(have).len() >= self.group_data)
    }

    /// How many further columns of `have` may be lost, whichever they are, with all data columns
    /// still decodable. 0 also when they are not decodable now.
    pub fn losses_survived(&self, have: ColumnSet) -> usize {
        let spare = |group: &ColumnSet| {
            group
                .intersection(have)
                .len()
                .saturating_sub(self.group_data)
        };
        self.groups
            .iter()
            .map(spare)
            .min()
            .expect("a code has a group")
    }

    pub(crate) fn groups(&self) -> &[ColumnSet] {
        &self.groups
    }

    pub(crate) fn group_data(&self) -> usize {
        self.group_data
    }
}

fn mds_coefficient(row: usize, data: usize) -> u8 {
    // g has order 255, so this is g^-j without a negative exponent.
    let inverse_power = gf::inv(gf::exp(data));
    match row {
        0 => 1,
        // x_r = g^-(256 - r) is none of the g^-j, because j stays below 128.
        1 => gf::inv(inverse_power),
        _ => gf::inv(gf::exp(row - 1) ^ inverse_power),
    }
}

fn checked_columns(columns: Option<usize>) -> Result<usize, CodeError> {
    match columns {
        Some(columns) if columns <= COLUMNS_MAX => Ok(columns),
        _ => Err(CodeError::TooManyColumns),
    }
}

/// Why there is no such code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// No data column.
    NoData,
    /// More parity columns than [`PARITY_MAX`].
    TooMuchParity {
        /// What was asked for.
        parity: usize,
    },
    /// More columns than [`COLUMNS_MAX`].
    TooManyColumns,
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodeError::NoData => {
                write!(
                    f,
                    "a stripe needs at least 1 data column and 1 copy: ask for more members"
                )
            }
            CodeError::TooMuchParity { parity } => write!(
                f,
                "{parity} parity columns were asked for, {PARITY_MAX} are the most: lower them"
            ),
            CodeError::TooManyColumns => {
                write!(
                    f,
                    "a stripe has at most {COLUMNS_MAX} columns: use fewer members"
                )
            }
        }
    }
}

impl std::error::Error for CodeError {}

//! Plans: how to compute wanted columns from available ones.

use crate::code::Code;
use crate::columns::ColumnSet;
use crate::gf;

/// How to compute some columns of a stripe from others.
///
/// It depends on the code and the two sets of columns alone, so a caller may keep it for as long
/// as the same members are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The columns to read, ascending.
    pub sources: Vec<usize>,
    /// One row for each wanted column, ascending by column.
    pub rows: Vec<PlanRow>,
}

/// How to compute one column: the sum of the sources, each multiplied by its coefficient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanRow {
    /// The column that is computed.
    pub column: usize,
    /// One coefficient for each source of the plan, in the same order.
    pub coefficients: Vec<u8>,
}

impl AsRef<[u8]> for PlanRow {
    fn as_ref(&self) -> &[u8] {
        &self.coefficients
    }
}

impl Code {
    /// How to compute the columns `want`, data or parity, from the columns `have`, or `None` if
    /// that is impossible.
    ///
    /// Reads as few sources as possible: only the wanted columns themselves if they are all
    /// there, else one copy of a mirror, `data()` columns of a parity code. Data columns are
    /// preferred to parity.
    ///
    /// # Panics
    /// If `want` has a column that the code does not have.
    pub fn plan(&self, have: ColumnSet, want: ColumnSet) -> Option<Plan> {
        let all = ColumnSet::first(self.columns());
        assert!(
            all.contains_all(want),
            "{want:?} are wanted of {} columns",
            self.columns()
        );
        let mut sources = ColumnSet::EMPTY;
        for &group in self.groups() {
            sources = sources.union(self.group_sources(group, have, want)?);
        }
        let mut solution = Solution {
            code: self,
            sources,
            decoded: Vec::new(),
        };
        for &group in self.groups() {
            // Groups whose wanted columns are all at hand have fewer sources: nothing to solve.
            if group.intersection(sources).len() >= self.group_data() {
                solution.decode(group);
            }
        }
        let rows = want
            .iter()
            .map(|column| PlanRow {
                column,
                coefficients: solution.row(column),
            })
            .collect();
        Some(Plan {
            sources: sources.iter().collect(),
            rows,
        })
    }

    /// The columns of `group` to read so that its part of `want` can be computed.
    fn group_sources(
        &self,
        group: ColumnSet,
        have: ColumnSet,
        want: ColumnSet,
    ) -> Option<ColumnSet> {
        let (have, want) = (have.intersection(group), want.intersection(group));
        if have.contains_all(want) && want.len() <= self.group_data() {
            return Some(want);
        }
        // The group is MDS: a missing column takes exactly `group_data` others, whichever they
        // are. Ascending order is data first.
        let sources: ColumnSet = have.iter().take(self.group_data()).collect();
        (sources.len() == self.group_data()).then_some(sources)
    }
}

/// Data columns in terms of the sources.
struct Solution<'a> {
    code: &'a Code,
    sources: ColumnSet,
    /// Coefficients, one for each source, of the data columns that are not sources themselves.
    decoded: Vec<(usize, Vec<u8>)>,
}

impl Solution<'_> {
    /// Solves for the data columns of `group` that are not among the sources.
    ///
    /// Parity p is a sum over all data. With the known part brought to the other side the
    /// unknown data satisfy a square system, of as many equations as there are parity sources:
    /// `sum over unknown i of a[p][i] * d[i]  =  p + sum over known j of a[p][j] * d[j]`.
    fn decode(&mut self, group: ColumnSet) {
        let code = self.code;
        let data = group.intersection(ColumnSet::first(code.data()));
        let unknown = data.minus(self.sources);
        let known = data.intersection(self.sources);
        let parities = group.minus(data).intersection(self.sources);
        let mut left = Vec::with_capacity(unknown.len());
        let mut right = Vec::with_capacity(unknown.len());
        for column in parities {
            let parity = column - code.data();
            left.push(
                unknown
                    .iter()
                    .map(|i| code.coefficient(parity, i))
                    .collect(),
            );
            let mut equation = self.unit(column);
            for j in known {
                equation[self.sources.rank(j)] = code.coefficient(parity, j);
            }
            right.push(equation);
        }
        eliminate(&mut left, &mut right);
        self.decoded.extend(unknown.iter().zip(right));
    }

    /// Coefficients, one for each source, of any column.
    fn row(&self, column: usize) -> Vec<u8> {
        if self.sources.contains(column) {
            return self.unit(column);
        }
        if column < self.code.data() {
            let decoded = self.decoded.iter().find(|(data, _)| *data == column);
            return decoded.expect("the group was decoded").1.clone();
        }
        let parity = column - self.code.data();
        let mut row = vec![0; self.sources.len()];
        for j in self
            .sources
            .intersection(ColumnSet::first(self.code.data()))
        {
            row[self.sources.rank(j)] = self.code.coefficient(parity, j);
        }
        for (i, decoded) in &self.decoded {
            add_multiple(&mut row, self.code.coefficient(parity, *i), decoded);
        }
        row
    }

    fn unit(&self, column: usize) -> Vec<u8> {
        let mut row = vec![0; self.sources.len()];
        row[self.sources.rank(column)] = 1;
        row
    }
}

/// Gauss-Jordan: makes the square matrix `left` the identity, doing the same to `right`, which
/// becomes the inverse of `left` times `right`.
fn eliminate(left: &mut [Vec<u8>], right: &mut [Vec<u8>]) {
    for i in 0..left.len() {
        let pivot = (i..left.len())
            .find(|&r| left[r][i] != 0)
            .expect("minors are non-singular");
        left.swap(i, pivot);
        right.swap(i, pivot);
        let scale = gf::inv(left[i][i]);
        for value in left[i].iter_mut().chain(&mut right[i]) {
            *value = gf::mul(*value, scale);
        }
        let (left_i, right_i) = (left[i].clone(), right[i].clone());
        for r in (0..left.len()).filter(|&r| r != i) {
            let factor = left[r][i];
            add_multiple(&mut left[r], factor, &left_i);
            add_multiple(&mut right[r], factor, &right_i);
        }
    }
}

/// `row += factor * other`.
fn add_multiple(row: &mut [u8], factor: u8, other: &[u8]) {
    for (value, &summand) in row.iter_mut().zip(other) {
        *value ^= gf::mul(factor, summand);
    }
}

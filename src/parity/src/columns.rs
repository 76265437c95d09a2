//! Sets of columns.

use std::fmt;

/// The most columns a stripe may have.
pub const COLUMNS_MAX: usize = 128;

/// A set of columns of a stripe; bit i of the value is column i.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ColumnSet(pub u128);

impl ColumnSet {
    /// No column.
    pub const EMPTY: ColumnSet = ColumnSet(0);

    /// The columns `0..count`.
    ///
    /// # Panics
    /// If `count` is above [`COLUMNS_MAX`].
    pub const fn first(count: usize) -> ColumnSet {
        assert!(count <= COLUMNS_MAX, "a stripe has at most 128 columns");
        if count == COLUMNS_MAX {
            ColumnSet(u128::MAX)
        } else {
            ColumnSet((1 << count) - 1)
        }
    }

    /// One column.
    ///
    /// # Panics
    /// If `column` is not below [`COLUMNS_MAX`].
    pub const fn single(column: usize) -> ColumnSet {
        assert!(column < COLUMNS_MAX, "a stripe has at most 128 columns");
        ColumnSet(1 << column)
    }

    /// Puts `column` into the set.
    pub const fn insert(&mut self, column: usize) {
        *self = self.union(ColumnSet::single(column));
    }

    /// Takes `column` out of the set.
    pub const fn remove(&mut self, column: usize) {
        *self = self.minus(ColumnSet::single(column));
    }

    /// Whether `column` is in the set.
    pub const fn contains(self, column: usize) -> bool {
        column < COLUMNS_MAX && self.0 >> column & 1 == 1
    }

    /// Whether every column of `other` is in this set.
    pub const fn contains_all(self, other: ColumnSet) -> bool {
        other.minus(self).is_empty()
    }

    /// Number of columns in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set has no column.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The columns in either set.
    pub const fn union(self, other: ColumnSet) -> ColumnSet {
        ColumnSet(self.0 | other.0)
    }

    /// The columns in both sets.
    pub const fn intersection(self, other: ColumnSet) -> ColumnSet {
        ColumnSet(self.0 & other.0)
    }

    /// The columns of this set that are not in `other`.
    pub const fn minus(self, other: ColumnSet) -> ColumnSet {
        ColumnSet(self.0 & !other.0)
    }

    /// How many columns of the set are below `column`: its index in [`ColumnSet::iter`].
    ///
    /// # Panics
    /// If `column` is above [`COLUMNS_MAX`].
    pub const fn rank(self, column: usize) -> usize {
        self.intersection(ColumnSet::first(column)).len()
    }

    /// The columns in ascending order.
    pub fn iter(self) -> Iter {
        Iter(self)
    }
}

impl FromIterator<usize> for ColumnSet {
    fn from_iter<I: IntoIterator<Item = usize>>(columns: I) -> ColumnSet {
        columns
            .into_iter()
            .map(ColumnSet::single)
            .fold(ColumnSet::EMPTY, ColumnSet::union)
    }
}

impl IntoIterator for ColumnSet {
    type Item = usize;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl fmt::Debug for ColumnSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The columns of a set in ascending order.
#[derive(Clone, Debug)]
pub struct Iter(ColumnSet);

impl Iterator for Iter {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        let column = self.0.0.trailing_zeros() as usize;
        self.0.remove(column);
        Some(column)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}

impl ExactSizeIterator for Iter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = ColumnSet::from_iter([127, 3, 0, 64]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3, 64, 127]);
        assert_eq!(set.iter().len(), 4);
        assert!(set.contains(64) && !set.contains(63) && !set.contains(1000));
        assert_eq!(format!("{set:?}"), "{0, 3, 64, 127}");
        set.remove(3);
        set.remove(3);
        set.insert(5);
        assert_eq!(set, ColumnSet::from_iter([0, 5, 64, 127]));
        assert_eq!(
            [0, 1, 5, 6, 128].map(|column| set.rank(column)),
            [0, 1, 1, 2, 4]
        );
    }

    #[test]
    fn set_algebra() {
        let (low, odd) = (ColumnSet::first(4), ColumnSet::from_iter([1, 3, 5]));
        assert_eq!(low.union(odd), ColumnSet::from_iter([0, 1, 2, 3, 5]));
        assert_eq!(low.intersection(odd), ColumnSet::from_iter([1, 3]));
        assert_eq!(low.minus(odd), ColumnSet::from_iter([0, 2]));
        assert!(low.contains_all(ColumnSet::single(2)) && !low.contains_all(odd));
        assert_eq!(ColumnSet::first(128).len(), 128);
        assert!(ColumnSet::first(0).is_empty());
    }

    #[test]
    #[should_panic(expected = "at most 128 columns")]
    fn a_column_beyond_the_limit_is_a_bug() {
        ColumnSet::single(128);
    }
}

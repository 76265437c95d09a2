//! Metadata contexts: what BLOCK_STATUS can tell of the parts of an export.

use alloc::vec::Vec;

/// Flags of `base:allocation`.
pub mod allocation {
    /// Nothing is kept there.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zero.
    pub const ZERO: u32 = 1 << 1;
}

/// The status of `x-uraid:redundancy`: a number in its low byte, and flags.
pub mod redundancy {
    /// Bits of the number: further members that may be lost, whichever they are, before the
    /// extent cannot be read.
    pub const LEFT_MASK: u32 = 0xff;
    /// A member being rebuilt has not got the extent yet and will add to the number.
    pub const REBUILDING: u32 = 1 << 8;
    /// The extent cannot be read; the number is 0.
    pub const LOST: u32 = 1 << 9;
    /// Never written: there is nothing to lose; the number is 0.
    pub const EMPTY: u32 = 1 << 10;
}

/// A part of the export all of which is in the same state, as the host tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its length in bytes.
    pub len: u64,
    /// Flags of [`allocation`].
    pub allocation: u32,
    /// A number and flags as told at [`redundancy`].
    pub redundancy: u32,
}

/// A metadata context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// Where anything is kept.
    Allocation,
    /// How safe it is.
    Redundancy,
}

impl Context {
    /// All of them.
    pub const ALL: [Context; 2] = [Context::Allocation, Context::Redundancy];

    /// Its name: namespace, colon, leaf.
    pub fn name(self) -> &'static str {
        match self {
            Context::Allocation => "base:allocation",
            Context::Redundancy => "x-uraid:redundancy",
        }
    }

    /// What it is called in requests and replies.
    pub fn id(self) -> u32 {
        match self {
            Context::Allocation => 1,
            Context::Redundancy => 2,
        }
    }

    /// The context that is called `id`.
    pub fn of_id(id: u32) -> Option<Context> {
        Context::ALL.into_iter().find(|context| context.id() == id)
    }

    /// Whether `query` of LIST_META_CONTEXT asks for it: by its name, or by its namespace alone.
    pub(crate) fn is_listed_by(self, query: &[u8]) -> bool {
        let namespace_len = self.name().find(':').expect("names have a namespace") + 1;
        let namespace = &self.name().as_bytes()[..namespace_len];
        self.is_set_by(query) || query == namespace
    }

    /// Whether `query` of SET_META_CONTEXT selects it: by its name only.
    pub(crate) fn is_set_by(self, query: &[u8]) -> bool {
        query == self.name().as_bytes()
    }

    fn status(self, extent: &Extent) -> u32 {
        match self {
            Context::Allocation => extent.allocation,
            Context::Redundancy => extent.redundancy,
        }
    }

    /// Lengths and statuses of the first `count` extents, neighbours in the same state taken as
    /// one.
    pub(crate) fn statuses(self, extents: &[Extent], count: usize) -> Vec<(u64, u32)> {
        let mut merged: Vec<(u64, u32)> = Vec::new();
        for extent in extents {
            let status = self.status(extent);
            let full = merged.len() == count;
            match merged.last_mut() {
                Some((len, last)) if *last == status => *len += extent.len,
                _ if full => break,
                _ => merged.push((extent.len, status)),
            }
        }
        merged
    }
}

/// Some of the contexts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct ContextSet(u32);

impl ContextSet {
    /// Adds one; whether it was not there.
    pub fn insert(&mut self, context: Context) -> bool {
        let bit = 1 << context.id();
        let fresh = self.0 & bit == 0;
        self.0 |= bit;
        fresh
    }

    pub fn contains(self, context: Context) -> bool {
        self.0 >> context.id() & 1 == 1
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Context> {
        Context::ALL.into_iter().filter(move |c| self.contains(*c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn extent(len: u64, allocation: u32, redundancy: u32) -> Extent {
        Extent {
            len,
            allocation,
            redundancy,
        }
    }

    #[test]
    fn each_context_merges_on_its_own() {
        let extents = [
            extent(1, 3, 0x400),
            extent(2, 0, 2),
            extent(4, 0, 0x101),
            extent(8, 3, 0x400),
        ];
        let merged = |context: Context, count| context.statuses(&extents, count);
        assert_eq!(merged(Context::Allocation, 9), [(1, 3), (6, 0), (8, 3)]);
        assert_eq!(merged(Context::Allocation, 2), [(1, 3), (6, 0)]);
        assert_eq!(
            merged(Context::Redundancy, 9),
            [(1, 0x400), (2, 2), (4, 0x101), (8, 0x400)]
        );
    }

    #[test]
    fn queries_match_names_and_namespaces() {
        let listed = |query: &[u8]| Context::ALL.map(|c| c.is_listed_by(query));
        assert_eq!(listed(b"base:"), [true, false]);
        assert_eq!(listed(b"x-uraid:"), [false, true]);
        assert_eq!(listed(b"base:allocation"), [true, false]);
        for nothing in [
            &b""[..],
            b":",
            b"base",
            b"base:alloc",
            b"x-uraid:redundancy2",
        ] {
            assert_eq!(listed(nothing), [false, false]);
        }
        assert!(!Context::Allocation.is_set_by(b"base:"));
        assert!(Context::Redundancy.is_set_by(b"x-uraid:redundancy"));
    }
}

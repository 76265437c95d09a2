//! Runs of bytes that need not be in memory.

use crate::Buf;

/// A run of bytes: in memory, or known to be zero without being stored anywhere.
#[derive(Clone, Debug)]
pub enum Span {
    /// These bytes.
    Data(Buf),
    /// So many zeros.
    Zeros(u64),
}

impl Span {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Span::Data(data) => data.len() as u64,
            Span::Zeros(len) => *len,
        }
    }

    /// Length of all `spans` in bytes.
    pub fn total_bytes(spans: &[Span]) -> u64 {
        spans.iter().map(Span::bytes).sum()
    }

    /// All `spans` written out one after the other.
    pub fn joined(spans: &[Span]) -> Vec<u8> {
        let mut all = Vec::with_capacity(Span::total_bytes(spans) as usize);
        for span in spans {
            match span {
                Span::Data(data) => all.extend_from_slice(data),
                Span::Zeros(len) => all.resize(all.len() + *len as usize, 0),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    #[test]
    fn spans_are_joined_in_order() {
        let data = |bytes: &[u8]| Span::Data(Pool::heap().copy(bytes));
        let spans = [data(b"ab"), Span::Zeros(3), data(b"c"), Span::Zeros(0)];
        assert_eq!(Span::joined(&spans), b"ab\0\0\0c");
        assert_eq!(Span::total_bytes(&spans), 6);
    }
}

//! What is asked of a server, and for how long.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Unit of small requests, and of the places of all.
pub const BLOCK_BYTES: u64 = 4096;
/// The longest request.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Most requests under way on one connection.
pub const DEPTH_MAX: usize = 1024;

/// What each request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Read or write, by chance.
    Mixed {
        /// Share of reads, in percent.
        read_percent: u8,
    },
    /// Write, and FLUSH once that is answered: the two count, and are timed, as one.
    WriteAndFlush,
}

/// Where requests go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// One after the other; each connection in a part of its own.
    Sequential,
    /// Anywhere.
    Random,
    /// Far from the last one, and nowhere twice before every place has had its turn.
    Scattered,
}

/// A stream of equal requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Load {
    /// What each does.
    pub kind: Kind,
    /// Where it goes.
    pub order: Order,
    /// Length of each in bytes: whole blocks of [`BLOCK_BYTES`], at most [`REQUEST_BYTES_MAX`].
    pub bytes: usize,
    /// Requests under way at the same time on each connection: 1 to [`DEPTH_MAX`].
    pub depth: usize,
    /// Requests keep to so many bytes at the beginning of the export; to all of it if none.
    pub working_set_bytes: Option<u64>,
}

impl Load {
    /// Requests to all of the export.
    pub const fn new(kind: Kind, order: Order, bytes: usize, depth: usize) -> Load {
        Load {
            kind,
            order,
            bytes,
            depth,
            working_set_bytes: None,
        }
    }

    /// Whether anything is written.
    pub fn writes(&self) -> bool {
        self.kind != Kind::Read
    }

    /// Panics unless length and depth are within the limits: whoever takes them from people
    /// refuses others.
    pub(crate) fn assert_sane(&self) {
        let bytes = self.bytes;
        let whole = bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES as usize);
        assert!(whole && bytes <= REQUEST_BYTES_MAX, "{bytes} bytes");
        assert!(
            (1..=DEPTH_MAX).contains(&self.depth),
            "depth {}",
            self.depth
        );
    }
}

/// When a drive ends.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// After this time, and the replies to what is under way then.
    Time(Duration),
    /// After so many requests, all connections together.
    Requests(u64),
}

impl Limit {
    /// The share of one of `connections`.
    pub(crate) fn share(self, connection: u64, connections: u64) -> Limit {
        match self {
            Limit::Time(_) => self,
            Limit::Requests(all) => {
                Limit::Requests(all / connections + u64::from(connection < all % connections))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let share = |i| match Limit::Requests(10).share(i, 4) {
            Limit::Requests(n) => n,
            Limit::Time(_) => unreachable!(),
        };
        assert_eq!((0..4).map(share).collect::<Vec<_>>(), [3, 3, 2, 2]);
    }
}

//! A member's part of a lane's journal: where batches lie in its ring.

use crate::mutants::{Mutant, active};
use alloc::collections::VecDeque;

/// A member's part of a lane's journal.
#[derive(Default)]
pub struct Ring {
    /// Position after the last batch, in blocks.
    pub head: u64,
    /// Position of the oldest batch that is still needed.
    pub tail: u64,
    /// Batches from tail to head: number and position.
    batches: VecDeque<(u64, u64)>,
}

impl Ring {
    /// A ring whose next batch goes to `pos`.
    pub fn at(pos: u64) -> Ring {
        Ring {
            head: pos,
            tail: pos,
            batches: VecDeque::new(),
        }
    }

    /// Blocks that are not free.
    pub fn used_blocks(&self) -> u64 {
        self.head - self.tail
    }

    /// Where the first batch from `seq` on begins.
    pub fn tail_at(&self, seq: u64) -> u64 {
        self.batches
            .iter()
            .find(|(s, _)| *s >= seq)
            .map_or(self.head, |(_, pos)| *pos)
    }

    /// Where a batch of `blocks` would begin: not across the end of the ring.
    fn place(&self, blocks: u64, ring_blocks: u64) -> u64 {
        let into = self.head % ring_blocks;
        if into + blocks > ring_blocks {
            self.head + ring_blocks - into
        } else {
            self.head
        }
    }

    /// Whether a batch of so many blocks finds room.
    pub fn fits(&self, blocks: u64, ring_blocks: u64) -> bool {
        self.place(blocks, ring_blocks) + blocks - self.tail <= ring_blocks
            || active(Mutant::RingOverrun)
    }

    /// Gives batch `seq` its place; returns where it begins.
    pub fn append(&mut self, seq: u64, blocks: u64, ring_blocks: u64) -> u64 {
        let pos = self.place(blocks, ring_blocks);
        self.head = pos + blocks;
        self.batches.push_back((seq, pos));
        pos
    }

    /// Batches below `tail` are in place: frees what they took.
    pub fn move_tail(&mut self, tail: u64) {
        self.tail = self.tail_at(tail);
        while self.batches.front().is_some_and(|(seq, _)| *seq < tail) {
            self.batches.pop_front();
        }
    }
}

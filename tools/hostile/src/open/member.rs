//! A member in memory that costs only what was written to it, and little to copy.

use std::collections::BTreeMap;
use std::rc::Rc;
use uraid_core::units::{BLOCK, BLOCK_BYTES};

type Block = Rc<[u8]>;

/// A device's content. Blocks never written are zeros.
#[derive(Clone)]
pub struct Member {
    /// Shared by copies.
    base: Rc<BTreeMap<u64, Block>>,
    changed: BTreeMap<u64, Block>,
    /// Size in bytes.
    pub len: u64,
}

impl Member {
    /// All zeros.
    pub fn new(len: u64) -> Member {
        Member {
            base: Rc::default(),
            changed: BTreeMap::new(),
            len,
        }
    }

    /// The same; copies of it are cheap from now on.
    pub fn settled(mut self) -> Member {
        let base = Rc::make_mut(&mut self.base);
        base.append(&mut self.changed);
        self
    }

    fn block(&self, number: u64) -> Option<&Block> {
        self.changed.get(&number).or_else(|| self.base.get(&number))
    }

    /// Whether the range is made of whole blocks of the device.
    pub fn holds(&self, offset: u64, len: u64) -> bool {
        let aligned = offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK);
        aligned && len > 0 && offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Reads whole blocks.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (i, out) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
            match self.block(offset / BLOCK + i as u64) {
                Some(block) => out.copy_from_slice(block),
                None => out.fill(0),
            }
        }
    }

    /// As [`Member::read`], into new memory.
    pub fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes);
        bytes
    }

    /// Writes whole blocks.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (i, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            self.changed.insert(offset / BLOCK + i as u64, block.into());
        }
    }

    /// Numbers of the blocks that were ever written.
    pub fn written(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self
            .base
            .keys()
            .chain(self.changed.keys())
            .copied()
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

//! What clients know about the blocks they wrote, shared by all of them: what must be there after
//! a loss of power, and what may be.

use super::client::Client;
use super::pattern::{BLOCK, version_of};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Blocks read at once when all are checked.
const BLOCKS_PER_READ: u64 = 64;

/// Complaints of one check that are worth telling.
const COMPLAINTS_MAX: usize = 10;

/// All blocks that were ever written. Each has one writer at a time.
#[derive(Default)]
pub struct Ledger {
    blocks: Mutex<BTreeMap<u64, History>>,
}

/// The versions of a block since it was last known to be durable, oldest first: the first must
/// be there after a loss of power, unless a later one is. Positions count all versions ever
/// issued.
#[derive(Clone)]
struct History {
    versions: Vec<u64>,
    /// Position of the first version kept.
    first: u64,
    /// Position of the last version whose write was answered.
    answered: u64,
}

/// What was answered at one moment: a flush that begins now covers it.
pub struct Snapshot(Vec<(u64, u64)>);

impl Default for History {
    /// Blocks begin as zeros.
    fn default() -> History {
        History {
            versions: vec![0],
            first: 0,
            answered: 0,
        }
    }
}

impl History {
    fn last(&self) -> u64 {
        self.first + self.versions.len() as u64 - 1
    }

    /// Versions before this position can no longer be there.
    fn forget_before(&mut self, position: u64) {
        if position > self.first {
            self.versions.drain(..(position - self.first) as usize);
            self.first = position;
        }
    }
}

impl Ledger {
    fn change(&self, first: u64, count: u64, mut change: impl FnMut(&mut History)) {
        let mut blocks = self.blocks.lock().expect("no holder panics");
        for block in first..first + count {
            change(blocks.entry(block).or_default());
        }
    }

    /// A write is about to be sent; from now on its content may be found. Version 0: zeros.
    pub fn issue(&self, first: u64, count: u64, version: u64) {
        self.change(first, count, |history| history.versions.push(version));
    }

    /// That write was answered; with FUA it is durable.
    pub fn answered(&self, first: u64, count: u64, fua: bool) {
        self.change(first, count, |history| {
            history.answered = history.last();
            if fua {
                history.forget_before(history.answered);
            }
        });
    }

    /// To be taken before a flush is sent.
    pub fn before_flush(&self) -> Snapshot {
        let blocks = self.blocks.lock().expect("no holder panics");
        let unflushed = blocks.iter().filter(|(_, h)| h.answered > h.first);
        Snapshot(unflushed.map(|(block, h)| (*block, h.answered)).collect())
    }

    /// That flush was answered.
    pub fn flushed(&self, snapshot: Snapshot) {
        let mut blocks = self.blocks.lock().expect("no holder panics");
        for (block, position) in snapshot.0 {
            let history = blocks.get_mut(&block).expect("blocks are never forgotten");
            history.forget_before(position);
        }
    }

    /// How many blocks hold something that is known to be durable.
    pub fn durable_blocks(&self) -> usize {
        let blocks = self.blocks.lock().expect("no holder panics");
        blocks.values().filter(|h| h.first > 0).count()
    }

    /// What is wrong with the blocks as they read after a loss of power; nothing, if all is well.
    pub fn complaints_after_power_loss(&self, client: &mut Client) -> Vec<String> {
        self.read_all(client, |_, _| {})
    }

    /// The same, and from now on what was found must stay.
    pub fn settle(&self, client: &mut Client) -> Vec<String> {
        let mut found = Vec::new();
        let complaints = self.read_all(client, |block, version| found.push((block, version)));
        let mut blocks = self.blocks.lock().expect("no holder panics");
        for (block, version) in found {
            let history = blocks.get_mut(&block).expect("blocks are never forgotten");
            let position = history.last() + 1;
            *history = History {
                versions: vec![version],
                first: position,
                answered: position,
            };
        }
        complaints
    }

    fn read_all(&self, client: &mut Client, mut found: impl FnMut(u64, u64)) -> Vec<String> {
        let blocks = self.blocks.lock().expect("no holder panics").clone();
        let mut complaints = Vec::new();
        let end = blocks.keys().next_back().map_or(0, |last| last + 1);
        for first in (0..end).step_by(BLOCKS_PER_READ as usize) {
            let mut known = blocks.range(first..first + BLOCKS_PER_READ).peekable();
            if known.peek().is_none() {
                continue;
            }
            let bytes = BLOCKS_PER_READ as usize * BLOCK;
            let content = match client.read(first * BLOCK as u64, bytes) {
                Ok(content) => content,
                Err(failure) => {
                    complaints.push(format!("block {first} and on: {failure:?}"));
                    continue;
                }
            };
            for (block, history) in known {
                let at = (block - first) as usize * BLOCK;
                match history.check(*block, &content[at..at + BLOCK]) {
                    Ok(version) => found(*block, version),
                    Err(complaint) => complaints.push(complaint),
                }
            }
        }
        let more = complaints.len().saturating_sub(COMPLAINTS_MAX);
        complaints.truncate(COMPLAINTS_MAX);
        if more > 0 {
            complaints.push(format!("and {more} more"));
        }
        complaints
    }
}

impl History {
    fn check(&self, block: u64, content: &[u8]) -> Result<u64, String> {
        let version = match content.iter().all(|byte| *byte == 0) {
            true => 0,
            false => version_of(block, content)?,
        };
        if self.versions.contains(&version) {
            return Ok(version);
        }
        let durable = self.versions[0];
        Err(format!(
            "block {block} holds version {version}; {durable} was durable, later ones are {:?}",
            &self.versions[1..]
        ))
    }
}

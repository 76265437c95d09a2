//! What a status tells about scrubs and losses.

use serde::{Deserialize, Serialize};
use uraid_core::units::BLOCK;
use uraid_engine::status::{ScrubFindings, ScrubStatus};

/// A part of the export that is lost: reading it fails until it is overwritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LostRun {
    /// Where it begins in the export.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
}

impl LostRun {
    /// Lost blocks, by their ascending byte offsets, as the runs they make.
    pub fn merge(offsets: &[u64]) -> Vec<LostRun> {
        let adjacent = |a: &u64, b: &u64| a + BLOCK == *b;
        let run = |blocks: &[u64]| LostRun {
            offset_bytes: blocks[0],
            length_bytes: blocks.len() as u64 * BLOCK,
        };
        offsets.chunk_by(adjacent).map(run).collect()
    }
}

/// The scrub under way, or the last one, in [`StatusReport`].
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScrubReport {
    /// "never", "running", "paused", "finished" or "stopped".
    pub state: String,
    /// Bytes of each member looked at.
    pub done_bytes: u64,
    /// Bytes of each member to be looked at: what is used, not its size.
    pub total_bytes: u64,
    /// Recent speed, of each member.
    pub bytes_per_second: u64,
    /// The operator's limit on that, or null.
    pub bytes_per_second_max: Option<u64>,
    /// Time left at that speed, or null.
    pub eta_seconds: Option<u64>,
    /// In how many seconds the server begins the next one by itself, 0 if it is due, or null if it
    /// does not.
    #[serde(default)]
    pub due_in_seconds: Option<u64>,
    /// Blocks of the export found lost beyond redundancy.
    pub lost_blocks: u64,
    /// Rows that match their checksums and are no codeword; nothing proves which block is wrong.
    pub inconsistent_rows: u64,
    /// All members with slots, also those on which nothing was found.
    pub members: Vec<ScrubMemberReport>,
}

/// What a scrub found on one member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScrubMemberReport {
    /// Its role; null if it has lost it since.
    pub slot: Option<u16>,
    /// Its path; null when it is not there.
    pub path: Option<String>,
    /// Blocks that were unreadable or did not match their checksum.
    pub bad_blocks: u64,
    /// Those rewritten from the other members.
    pub repaired_blocks: u64,
    /// Superblocks, checkpoints, map and checksum pages that were damaged or stale.
    pub bad_metadata: u64,
    /// Those rewritten.
    pub repaired_metadata: u64,
}

impl ScrubReport {
    /// There was none yet.
    pub fn never() -> ScrubReport {
        ScrubReport {
            state: "never".to_string(),
            ..ScrubReport::default()
        }
    }
}

impl From<&ScrubStatus> for ScrubReport {
    fn from(scrub: &ScrubStatus) -> ScrubReport {
        ScrubReport {
            state: scrub.state.as_str().to_string(),
            done_bytes: scrub.done_bytes,
            total_bytes: scrub.total_bytes,
            bytes_per_second: scrub.bytes_per_second,
            bytes_per_second_max: scrub.rate_max,
            eta_seconds: scrub.eta_seconds,
            due_in_seconds: None,
            lost_blocks: scrub.lost_blocks,
            inconsistent_rows: scrub.inconsistent_rows,
            members: scrub.members.iter().map(ScrubMemberReport::from).collect(),
        }
    }
}

impl From<&ScrubFindings> for ScrubMemberReport {
    fn from(found: &ScrubFindings) -> ScrubMemberReport {
        ScrubMemberReport {
            slot: found.slot,
            path: found.path.clone(),
            bad_blocks: found.bad_blocks,
            repaired_blocks: found.repaired_blocks,
            bad_metadata: found.bad_metadata,
            repaired_metadata: found.repaired_metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_lost_blocks_are_one_run() {
        let run = |offset_bytes, length_bytes| LostRun {
            offset_bytes,
            length_bytes,
        };
        assert_eq!(LostRun::merge(&[]), []);
        assert_eq!(
            LostRun::merge(&[0, 4096, 12288, 20480, 24576, 28672]),
            [run(0, 8192), run(12288, 4096), run(20480, 12288)]
        );
    }
}

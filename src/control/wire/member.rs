//! What a status tells about members, and how they are read.

use super::HealthReport;
use serde::{Deserialize, Serialize};
use uraid_engine::status::{MemberIo, MemberStatus, OperationTotals, ReadStatus};

/// One member in [`StatusReport`](super::StatusReport).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its role; null for spares.
    pub slot: Option<u16>,
    /// Its path; null when it is not there.
    pub path: Option<String>,
    /// Its UUID.
    pub uuid: String,
    /// "in-sync", "rebuilding", "replacing", "failed", "missing" or "spare".
    pub state: String,
    /// Size of its device in bytes, or null.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Why it is out of service, if it failed by itself since it was opened, or null.
    #[serde(default)]
    pub failure: Option<String>,
    /// What its device says of itself, or null.
    #[serde(default)]
    pub health: Option<HealthReport>,
    /// Reads it failed.
    pub read_errors: u64,
    /// Writes and flushes it failed.
    pub write_errors: u64,
    /// Blocks that did not match their checksum.
    pub checksum_errors: u64,
    /// For how many seconds it has been out of reads for being slow, or null.
    #[serde(default)]
    pub slow_seconds: Option<u64>,
    /// How often it was, since the server opened it.
    #[serde(default)]
    pub sit_outs: u64,
    /// Whether it is read only when others cannot be.
    #[serde(default)]
    pub write_mostly: bool,
    /// Its share of the reads where they are weighted.
    #[serde(default)]
    pub read_weight: u16,
    /// What it was asked since the server opened it.
    #[serde(default)]
    pub io: MemberIoReport,
}

/// What a member was asked since the server opened it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct MemberIoReport {
    /// Reads.
    pub reads: OperationReport,
    /// Writes.
    pub writes: OperationReport,
    /// Flushes.
    pub flushes: OperationReport,
    /// Operations under way.
    pub in_flight: u64,
    /// How long a read that is begun now can be expected to take, in microseconds.
    pub expected_read_micros: u64,
}

/// Operations of one kind on a member.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct OperationReport {
    /// Those that are over, failed ones included.
    pub operations: u64,
    /// Those that failed.
    pub failed: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How long they took in all, in nanoseconds.
    pub nanos: u64,
    /// How many took more than 2^(i-1) and at most 2^i microseconds, for i from 0 on; the last one:
    /// how many took longer than that.
    pub latency: Vec<u64>,
}

/// How members are chosen for reads, in [`StatusReport`](super::StatusReport).
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct ReadReport {
    /// "least-latency", "round-robin", "weighted" or "address-hash".
    pub balance: String,
    /// Reads of members that may be made for late ones, in percent of all.
    pub hedge_percent: u8,
    /// Late reads that were made another way as well.
    pub hedges: u64,
    /// Those of them where the other way was the first to answer.
    pub hedges_won: u64,
    /// Late reads that were waited for because the share was used up.
    pub hedges_denied: u64,
}

impl MemberReport {
    /// Its state in a word, for people.
    pub fn shown_state(&self) -> &str {
        match self.is_former() {
            true => "former",
            false => &self.state,
        }
    }

    /// Whether it has no part in the array any more.
    pub fn is_former(&self) -> bool {
        self.slot.is_none() && self.is_gone()
    }

    /// Whether it is out of service or not there.
    pub fn is_gone(&self) -> bool {
        matches!(self.state.as_str(), "failed" | "missing")
    }
}

impl From<&MemberStatus> for MemberReport {
    fn from(member: &MemberStatus) -> MemberReport {
        MemberReport {
            slot: member.slot,
            path: member.path.clone(),
            uuid: member.uuid.to_string(),
            state: member.state.as_str().to_string(),
            size_bytes: member.size_bytes,
            failure: member.failure.clone(),
            health: None,
            read_errors: member.read_errors,
            write_errors: member.write_errors,
            checksum_errors: member.checksum_errors,
            slow_seconds: member.slow_nanos.map(|nanos| nanos / 1_000_000_000),
            sit_outs: member.sit_outs,
            write_mostly: member.write_mostly,
            read_weight: member.read_weight,
            io: MemberIoReport::from(&member.io),
        }
    }
}

impl From<&MemberIo> for MemberIoReport {
    fn from(io: &MemberIo) -> MemberIoReport {
        MemberIoReport {
            reads: OperationReport::from(&io.reads),
            writes: OperationReport::from(&io.writes),
            flushes: OperationReport::from(&io.flushes),
            in_flight: io.in_flight,
            expected_read_micros: io.expected_read_nanos / 1000,
        }
    }
}

impl From<&OperationTotals> for OperationReport {
    fn from(totals: &OperationTotals) -> OperationReport {
        OperationReport {
            operations: totals.operations,
            failed: totals.failed,
            bytes: totals.bytes,
            nanos: totals.latency.nanos,
            latency: totals.latency.buckets.to_vec(),
        }
    }
}

impl From<&ReadStatus> for ReadReport {
    fn from(reads: &ReadStatus) -> ReadReport {
        ReadReport {
            balance: reads.balance.as_str().to_string(),
            hedge_percent: reads.hedge_percent,
            hedges: reads.hedges,
            hedges_won: reads.hedges_won,
            hedges_denied: reads.hedges_denied,
        }
    }
}

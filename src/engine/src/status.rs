//! What an array says about itself: plain data, rendered by the host.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;
use uraid_core::units::Uuid;

/// State of the array as a whole; the worst that applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArrayState {
    /// Data cannot be served in full.
    Failed,
    /// A member is being rebuilt.
    Rebuilding,
    /// Members are missing.
    Degraded,
    /// All members are in sync.
    Optimal,
}

/// State of one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// Serves reads and writes.
    InSync,
    /// Takes writes, is being filled.
    Rebuilding,
    /// Is being filled to take the role of a member that still serves.
    Replacing,
    /// Out of service.
    Failed,
    /// Not there.
    Missing,
    /// In reserve.
    Spare,
}

impl ArrayState {
    /// The word `status` uses.
    pub fn as_str(self) -> &'static str {
        match self {
            ArrayState::Failed => "failed",
            ArrayState::Rebuilding => "rebuilding",
            ArrayState::Degraded => "degraded",
            ArrayState::Optimal => "optimal",
        }
    }
}

impl MemberState {
    /// The word `status` uses.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::InSync => "in-sync",
            MemberState::Rebuilding => "rebuilding",
            MemberState::Replacing => "replacing",
            MemberState::Failed => "failed",
            MemberState::Missing => "missing",
            MemberState::Spare => "spare",
        }
    }
}

/// One member.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its role, unless it is a spare.
    pub slot: Option<u16>,
    /// Its path, if it is there.
    pub path: Option<String>,
    /// Its identity.
    pub uuid: Uuid,
    /// Its state.
    pub state: MemberState,
    /// Size of its device in bytes, if it is there.
    pub size_bytes: Option<u64>,
    /// Why it is out of service, if it failed by itself since it was opened; none if an operator
    /// had it leave, and for spares.
    pub failure: Option<String>,
    /// Reads it failed.
    pub read_errors: u64,
    /// Writes and flushes it failed.
    pub write_errors: u64,
    /// Blocks that did not match their checksum.
    pub checksum_errors: u64,
    /// For how long it has been out of reads for being slow, in nanoseconds; none if it is not.
    pub slow_nanos: Option<u64>,
    /// How often it was, since it was opened.
    pub sit_outs: u64,
    /// It is read only when others cannot be.
    pub write_mostly: bool,
    /// Its share of the reads under [`ReadBalance::Weighted`], beside those of the other copies.
    pub read_weight: u16,
    /// What it was asked since it was opened; all zero if it is not there.
    pub io: MemberIo,
}

/// What a member was asked since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MemberIo {
    /// Reads.
    pub reads: OperationTotals,
    /// Writes.
    pub writes: OperationTotals,
    /// Flushes.
    pub flushes: OperationTotals,
    /// Operations under way.
    pub in_flight: u64,
    /// How long a read that is begun now can be expected to take, in nanoseconds.
    pub expected_read_nanos: u64,
}

/// Operations of one kind on a member.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OperationTotals {
    /// Those that are over, failed ones included.
    pub operations: u64,
    /// Those that failed.
    pub failed: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How long they took.
    pub latency: LatencyTotals,
}

/// How long operations took: a histogram, and the sum.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LatencyTotals {
    /// How many took at most [`LatencyTotals::bound_micros`] and more than the bucket before holds.
    pub buckets: [u64; LatencyTotals::BUCKETS],
    /// How long all of them took, in nanoseconds.
    pub nanos: u64,
}

impl LatencyTotals {
    /// Bounds from 1 µs to 8.4 s, and beyond.
    pub const BUCKETS: usize = 25;

    /// The longest time in a bucket, in microseconds: a power of two. None for the last bucket.
    pub fn bound_micros(bucket: usize) -> Option<u64> {
        (bucket + 1 < Self::BUCKETS).then(|| 1 << bucket)
    }

    /// The bucket of an operation that took so many nanoseconds.
    pub fn bucket_of(nanos: u64) -> usize {
        let micros = nanos.div_ceil(1000).max(1);
        ((micros - 1)
            .checked_ilog2()
            .map_or(0, |log| log as usize + 1))
        .min(Self::BUCKETS - 1)
    }
}

/// Which copy is read where there are several.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ReadBalance {
    /// The one that is expected to answer first.
    #[default]
    LeastLatency,
    /// Each in turn.
    RoundRobin,
    /// Each in turn, as often as its weight says.
    Weighted,
    /// The one that the address says: always the same for the same block.
    AddressHash,
}

impl ReadBalance {
    /// All of them.
    pub const ALL: [ReadBalance; 4] = [
        ReadBalance::LeastLatency,
        ReadBalance::RoundRobin,
        ReadBalance::Weighted,
        ReadBalance::AddressHash,
    ];

    /// The word on the command line and in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadBalance::LeastLatency => "least-latency",
            ReadBalance::RoundRobin => "round-robin",
            ReadBalance::Weighted => "weighted",
            ReadBalance::AddressHash => "address-hash",
        }
    }
}

impl FromStr for ReadBalance {
    type Err = String;
    fn from_str(text: &str) -> Result<ReadBalance, String> {
        let all = ReadBalance::ALL;
        all.into_iter().find(|b| b.as_str() == text).ok_or_else(|| {
            let all = all.map(ReadBalance::as_str).join(", ");
            format!("\"{text}\" is no way to balance reads: use one of {all}")
        })
    }
}

/// How members are chosen for reads, and what became of reads that were late.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReadStatus {
    /// Which copy is read.
    pub balance: ReadBalance,
    /// Reads of members that may be made for late ones, in percent of all; 0: none.
    pub hedge_percent: u8,
    /// Late reads that were made another way as well.
    pub hedges: u64,
    /// Those of them where the other way was the first to answer.
    pub hedges_won: u64,
    /// Late reads that were waited for because the share was used up.
    pub hedges_denied: u64,
}

/// Progress of one rebuild.
#[derive(Clone, Debug)]
pub struct RebuildStatus {
    /// The role being filled.
    pub slot: u16,
    /// Bytes of the member done.
    pub done_bytes: u64,
    /// Bytes of the member to do in all (what is used, not its size).
    pub total_bytes: u64,
    /// Recent speed.
    pub bytes_per_second: u64,
    /// Time left at that speed, in seconds.
    pub eta_seconds: Option<u64>,
}

/// Where a scrub is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ScrubState {
    /// There was none yet.
    #[default]
    Never,
    /// At work.
    Running,
    /// Waits for `resume`.
    Paused,
    /// Everything was looked at.
    Finished,
    /// Ended by an operator before that.
    Stopped,
}

impl ScrubState {
    /// The word `status` uses.
    pub fn as_str(self) -> &'static str {
        match self {
            ScrubState::Never => "never",
            ScrubState::Running => "running",
            ScrubState::Paused => "paused",
            ScrubState::Finished => "finished",
            ScrubState::Stopped => "stopped",
        }
    }
}

/// What a scrub found on one member.
#[derive(Clone, Debug)]
pub struct ScrubFindings {
    /// Its role, unless it has lost it since.
    pub slot: Option<u16>,
    /// Its path, if it is there.
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

/// The scrub under way, or the last one.
#[derive(Clone, Debug)]
pub struct ScrubStatus {
    /// Where it is in its life.
    pub state: ScrubState,
    /// Bytes of each member looked at.
    pub done_bytes: u64,
    /// Bytes of each member to be looked at in all (what is used, not its size).
    pub total_bytes: u64,
    /// Recent speed, of each member.
    pub bytes_per_second: u64,
    /// Time left at that speed, in seconds.
    pub eta_seconds: Option<u64>,
    /// The operator's limit on its speed.
    pub rate_max: Option<u64>,
    /// Blocks that too few members have to give: lost.
    pub lost_blocks: u64,
    /// Rows all of whose blocks match their checksums and that are no codeword all the same:
    /// nothing proves which block is wrong, so nothing is changed.
    pub inconsistent_rows: u64,
    /// All members with roles, in order; also those on which nothing was found.
    pub members: Vec<ScrubFindings>,
}

/// How rebuilds and scrubs get on with clients; 0 is none everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PaceStatus {
    /// Share of the time that a rebuild takes while clients are at work, in percent.
    pub rebuild_share_percent: u8,
    /// Bytes of a member that a rebuild fills in a second, whatever clients do.
    pub rebuild_floor: u64,
    /// Bytes of a member that a rebuild fills in a second at most.
    pub rebuild_ceiling: u64,
    /// While 99 of 100 requests of clients take longer, rebuilds and scrubs step back.
    pub latency_target_nanos: u64,
    /// What is left to them of their share, in thousandths.
    pub left_permille: u16,
}

/// What went to and came from one zone of all members.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ZoneTotals {
    /// Reads begun.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes begun.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
}

/// How often some work was done and how long it took in all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PartTime {
    /// How often.
    pub count: u64,
    /// How long in all, in nanoseconds, waiting included.
    pub nanos: u64,
}

/// I/O since the array was opened, all members together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IoTotals {
    /// By zone of the members.
    pub zones: Vec<(&'static str, ZoneTotals)>,
    /// By part of the work.
    pub parts: Vec<(&'static str, PartTime)>,
    /// Of what went to the journal: headers.
    pub journal_header_bytes: u64,
    /// Of what went to the data zone: whole stripes to new slots.
    pub slot_bytes: u64,
    /// Read by clients.
    pub client_read_bytes: u64,
    /// Written by clients.
    pub client_written_bytes: u64,
}

/// How full the journals are, and how many slots wait to be written: what makes writes wait.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RoomStatus {
    /// Bytes of a member's journal that batches take which are not yet in place; of the member
    /// with most of them.
    pub journal_used_bytes: u64,
    /// Bytes of a member's journal in all.
    pub journal_bytes: u64,
    /// The same for the fullest lane alone, in thousandths: the one that writes wait for.
    pub fullest_lane_permille: u16,
    /// Slots that a stripe may be written to at once.
    pub free_slots: u64,
    /// Slots in all.
    pub slots: u64,
}

/// Everything `uraid status` shows.
#[derive(Clone, Debug)]
pub struct Status {
    /// Array name.
    pub name: String,
    /// Array UUID.
    pub uuid: Uuid,
    /// "raid0" .. "rs".
    pub level: &'static str,
    /// Data members per stripe as users count them (raid10: N / copies).
    pub data: u16,
    /// Parity or further copies (raid10: copies - 1).
    pub parity: u16,
    /// Chunk in bytes.
    pub chunk_bytes: u32,
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// Bytes that a device must have to be a member.
    pub member_bytes: u64,
    /// State.
    pub state: ArrayState,
    /// Further losses survived in the worst case.
    pub redundancy_left: u16,
    /// Why writes are suspended, if they are.
    pub suspended: Option<String>,
    /// Whether nothing is written.
    pub read_only: bool,
    /// Stripes that hold data, and slots in all.
    pub used_stripes: u64,
    /// Stripes in all.
    pub total_stripes: u64,
    /// Room for what is to be written.
    pub room: RoomStatus,
    /// Blocks that were wrong or unreadable and were rewritten from the other members, since the
    /// array was opened.
    pub repaired_blocks: u64,
    /// Blocks of 4096 bytes known to be lost beyond redundancy.
    pub lost_blocks: u64,
    /// Where they are: byte offsets in the export, ascending.
    pub lost_offsets: Vec<u64>,
    /// The scrub under way, or the last one.
    pub scrub: ScrubStatus,
    /// I/O since the array was opened.
    pub io: IoTotals,
    /// How members are chosen for reads.
    pub reads: ReadStatus,
    /// How rebuilds and scrubs get on with clients.
    pub pace: PaceStatus,
    /// All members, roles first.
    pub members: Vec<MemberStatus>,
    /// All rebuilds, least advanced first.
    pub rebuilds: Vec<RebuildStatus>,
}

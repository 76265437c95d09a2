//! What is going on in an array, in numbers: clients, and room for what is to be written.

use serde::{Deserialize, Serialize};
use uraid_engine::status::{PaceStatus, RoomStatus};

/// Clients in a status.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct ClientsReport {
    /// Connected to this array.
    pub connected: u64,
    /// Most there may be.
    pub max: u64,
}

/// Limits on what clients get, in a status; 0 is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct LimitsReport {
    /// Requests a second, reads and writes together.
    pub iops: u64,
    /// Requests at once after a rest.
    pub iops_burst: u64,
    /// Bytes read and written a second.
    pub bytes_per_second: u64,
    /// Bytes at once after a rest.
    pub burst_bytes: u64,
    /// Requests that had to wait since the server started.
    pub delayed: u64,
    /// How long they waited in all, in nanoseconds.
    pub delayed_nanos: u64,
}

/// How rebuilds and scrubs get on with clients, in a status; 0 is none everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct PaceReport {
    /// Share of the time that a rebuild takes while clients are at work, in percent.
    pub rebuild_share_percent: u8,
    /// Bytes of a member that a rebuild fills in a second, whatever clients do.
    pub rebuild_bytes_per_second_min: u64,
    /// Bytes of a member that a rebuild fills in a second at most.
    pub rebuild_bytes_per_second_max: u64,
    /// While 99 of 100 requests of clients take longer, rebuilds and scrubs step back.
    pub latency_target_nanos: u64,
    /// What is left to them of their share, in thousandths: 1000 unless clients wait too long.
    pub left_permille: u16,
}

impl From<&PaceStatus> for PaceReport {
    fn from(pace: &PaceStatus) -> PaceReport {
        PaceReport {
            rebuild_share_percent: pace.rebuild_share_percent,
            rebuild_bytes_per_second_min: pace.rebuild_floor,
            rebuild_bytes_per_second_max: pace.rebuild_ceiling,
            latency_target_nanos: pace.latency_target_nanos,
            left_permille: pace.left_permille,
        }
    }
}

/// Room for what is to be written, in a status.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct RoomReport {
    /// Bytes of a member's journal in use, of the member with most of them.
    pub journal_used_bytes: u64,
    /// Bytes of a member's journal in all.
    pub journal_bytes: u64,
    /// The fullest of its lanes, in thousandths: writes wait when one is full.
    pub fullest_lane_permille: u16,
    /// Slots that a stripe may be written to at once.
    pub free_slots: u64,
    /// Slots in all.
    pub slots: u64,
}

impl From<&RoomStatus> for RoomReport {
    fn from(room: &RoomStatus) -> RoomReport {
        RoomReport {
            journal_used_bytes: room.journal_used_bytes,
            journal_bytes: room.journal_bytes,
            fullest_lane_permille: room.fullest_lane_permille,
            free_slots: room.free_slots,
            slots: room.slots,
        }
    }
}

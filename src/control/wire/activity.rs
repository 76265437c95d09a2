//! What is going on in an array, in numbers: clients, and room for what is to be written.

use serde::{Deserialize, Serialize};
use uraid_engine::status::RoomStatus;

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

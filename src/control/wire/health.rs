//! What a status tells about the health of devices, as they see it themselves.

use serde::{Deserialize, Serialize};

/// What a device says of itself (SMART, or the health log of NVMe), in
/// [`MemberReport`](super::MemberReport). What it does not say is null.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct HealthReport {
    /// "well", "unwell" (something is wrong) or "failing" (it is to be replaced).
    pub verdict: String,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Whether it passes its own overall assessment.
    pub passed: Option<bool>,
    /// Its temperature.
    pub temperature_celsius: Option<i64>,
    /// Sectors that were replaced by spare ones (ATA attribute 5).
    pub reallocated_sectors: Option<u64>,
    /// Sectors that could not be read and wait to be replaced (ATA attribute 197).
    pub pending_sectors: Option<u64>,
    /// Reads that could not be corrected (NVMe).
    pub media_errors: Option<u64>,
    /// How much of its life is used up, which may be more than 100 (NVMe).
    pub percentage_used: Option<u64>,
    /// Bits of the critical warning (NVMe).
    pub critical_warning: Option<u64>,
}

//! How available an array has been so far, in a status.

use serde::{Deserialize, Serialize};

/// What the events that are left tell of an array, up to now. Times are in milliseconds, by the
/// host's clock.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct AvailabilityReport {
    /// When the oldest event that is left happened, as "2026-01-31T23:59:59.123Z".
    pub since: String,
    /// That is the first event the array ever had: nothing is forgotten.
    pub from_first_event: bool,
    /// It was served, with or without all redundancy.
    pub served_millis: u64,
    /// Of that: every member was in sync.
    pub redundant_millis: u64,
    /// Of that: some were not. What is neither this nor that was before the first event that tells.
    pub degraded_millis: u64,
    /// It was served with its writes suspended, or not all of it was there.
    pub suspended_millis: u64,
    /// Nobody served it, after a stop that was told.
    pub stopped_millis: u64,
    /// From the last event of a server that ended without a word until the next opening: part of it
    /// it was served.
    pub unknown_millis: u64,
    /// Share of the time that is known in which it was served, suspended not counted; null before
    /// any has passed.
    pub served_share: Option<f64>,
    /// Share of the time served in which every member was in sync; null if no event tells.
    pub redundant_share: Option<f64>,
    /// Members that left their roles, whoever had them leave.
    pub failures: u64,
    /// Roles that were filled again after that.
    pub repairs: u64,
    /// From the one to the other, on average; null without any.
    pub repair_mean_millis: Option<u64>,
    /// Rebuilds that were seen to begin and to end, those that replaced a member included.
    pub rebuilds: u64,
    /// How long they took on average, pauses by restarts included; null without any.
    pub rebuild_mean_millis: Option<u64>,
}

//! What the page of a server shows: all its arrays at once.

use super::{EventReport, StatusReport, TrendSample};
use serde::{Deserialize, Serialize};

/// A status in words.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Advice {
    /// How the array is.
    pub state: String,
    /// What is wrong beside that.
    pub troubles: Vec<String>,
    /// What one more failure would cost.
    pub risk: String,
    /// What to type, the most urgent first; empty if there is nothing to do.
    pub next: Vec<String>,
}

/// Answer to `GET /overview`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OverviewReport {
    /// Name of the host.
    pub host: String,
    /// Version of the server.
    pub version: String,
    /// The arrays it was started with.
    pub arrays: Vec<ArrayOverview>,
}

/// One array in an [`OverviewReport`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ArrayOverview {
    /// Its name.
    pub name: String,
    /// How it is; null if it does not say so in time, or has ended.
    pub status: Option<StatusReport>,
    /// The same in words, or null.
    pub advice: Option<Advice>,
    /// The last events, oldest first.
    pub events: Vec<EventReport>,
}

/// Answer to `GET /trends`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrendsReport {
    /// The arrays the server was started with.
    pub arrays: Vec<ArrayTrend>,
}

/// One array in a [`TrendsReport`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ArrayTrend {
    /// Its name.
    pub name: String,
    /// The last hour, oldest first; what clients did, not what members did.
    pub samples: Vec<TrendSample>,
}

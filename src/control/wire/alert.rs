//! What `uraid alert test` says.

use serde::{Deserialize, Serialize};

/// How each way did.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct AlertTestReport {
    /// In the order in which they were given to the server.
    pub results: Vec<AlertResult>,
}

/// How one way did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AlertResult {
    /// Which way: "exec /path", "webhook URL" or "mail ADDRESS".
    pub channel: String,
    /// Why it did not arrive, or null.
    pub error: Option<String>,
}

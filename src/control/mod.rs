//! The control socket: HTTP and JSON between `uraid` commands and a server.
//!
//! ```text
//! GET  /v1/status
//! GET  /metrics          the same in the text of OpenMetrics
//! GET  /v1/events?from=N&max=N     (absent: all that are kept)
//! GET  /v1/trend?from=N              (the last hour, a sample every ten seconds)
//! POST /v1/alert/test    {}
//! POST /v1/fail          {"member": M, "force": false}
//! POST /v1/remove        {"member": M, "force": false}
//! POST /v1/remove-copy   {}
//! POST /v1/add           {"path": "/absolute/path", "force": false, "copy": false}
//! POST /v1/replace       {"old": M, "new": "/absolute/path", "force": false}
//! POST /v1/clear         {"member": M}       (null or absent: all members)
//! POST /v1/scrub/start   {"bytes_per_second_max": N}       (null or absent: no limit)
//! POST /v1/scrub/pause   {}
//! POST /v1/scrub/resume  {}
//! POST /v1/scrub/stop    {}
//! POST /v1/stop          {}
//! POST /v1/upgrade       {}
//! POST /v1/dry-run/...   as above but for upgrade: says what it would come to, and does nothing
//! ```
//!
//! `M` is a slot number, a UUID or an absolute path. Success is 200 with the status, or with
//! `{"message": ...}`; anything else comes with `{"error": ..., "exit_code": ...}`.

pub mod client;
pub mod paths;
pub mod server;
pub mod wire;

use crate::failure::Failure;
use uraid_engine::api::Mode;
use wire::{AlertTestReport, EventsReport, Order, StatusReport, TrendReport};

/// What stands behind a control socket: the running array, or a fake one in tests.
///
/// Calls block until the answer is there; they come from threads of the control plane.
pub trait Operator: Send + Sync + 'static {
    /// How the array is.
    fn status(&self) -> Result<StatusReport, Failure>;
    /// Events from this number on, oldest first; the last `max` of them.
    fn events(&self, from: u64, max: usize) -> Result<EventsReport, Failure>;
    /// Throughput and latency of the last hour, from this sample on.
    fn trend(&self, from: u64) -> Result<TrendReport, Failure>;
    /// Sends a test by each way that alerts go, and waits.
    fn test_alerts(&self) -> Result<AlertTestReport, Failure>;
    /// Does what an operator asks; the text says what was done, or in a dry run what would be.
    fn carry_out(&self, order: Order, mode: Mode) -> Result<String, Failure>;
}

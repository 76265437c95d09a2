//! I/O in a status, all members together.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uraid_engine::status::{IoTotals, PartTime, ZoneTotals};

/// I/O in [`StatusReport`](super::StatusReport).
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct IoReport {
    /// Read by clients.
    pub client_read_bytes: u64,
    /// Written by clients.
    pub client_written_bytes: u64,
    /// Of what went to the journal: headers.
    pub journal_header_bytes: u64,
    /// Of what went to the data zone: whole stripes to new slots.
    pub slot_bytes: u64,
    /// By zone of the members: "journal", "data", ...
    pub zones: BTreeMap<String, ZoneReport>,
    /// By part of the work: "commit", "flush", "destage", "pages".
    pub parts: BTreeMap<String, PartReport>,
}

/// One reader thread in [`StatusReport`](super::StatusReport), since the server started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct ReaderReport {
    /// Reads of clients that it answered by itself.
    pub reads: u64,
    /// Bytes of those.
    pub read_bytes: u64,
    /// Requests that it passed on to the data thread.
    pub relayed: u64,
}

/// One zone in [`IoReport`].
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct ZoneReport {
    /// Reads begun.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes begun.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
}

/// One part of the work in [`IoReport`].
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct PartReport {
    /// How often it was done.
    pub count: u64,
    /// How long it took in all, in nanoseconds, waiting included.
    pub nanos: u64,
}

impl From<&IoTotals> for IoReport {
    fn from(io: &IoTotals) -> IoReport {
        let zone = |z: &ZoneTotals| ZoneReport {
            reads: z.reads,
            read_bytes: z.read_bytes,
            writes: z.writes,
            written_bytes: z.written_bytes,
        };
        let part = |p: &PartTime| PartReport {
            count: p.count,
            nanos: p.nanos,
        };
        let zones = io.zones.iter();
        let parts = io.parts.iter();
        IoReport {
            client_read_bytes: io.client_read_bytes,
            client_written_bytes: io.client_written_bytes,
            journal_header_bytes: io.journal_header_bytes,
            slot_bytes: io.slot_bytes,
            zones: zones.map(|(n, z)| (n.to_string(), zone(z))).collect(),
            parts: parts.map(|(n, p)| (n.to_string(), part(p))).collect(),
        }
    }
}

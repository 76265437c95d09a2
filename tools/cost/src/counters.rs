//! The engine's counters as `uraid status --json` tells them, and what they say about a stretch
//! of work.

use serde::Deserialize;
use std::collections::BTreeMap;

/// `io` in the status.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize)]
pub struct Counters {
    /// Read by clients.
    pub client_read_bytes: u64,
    /// Written by clients.
    pub client_written_bytes: u64,
    /// Of what went to the journal: headers.
    pub journal_header_bytes: u64,
    /// Of what went to the data zone: whole stripes to new slots.
    pub slot_bytes: u64,
    zones: BTreeMap<String, Zone>,
    parts: BTreeMap<String, Part>,
}

/// What went to and came from one zone of all members.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
pub struct Zone {
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
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
pub struct Part {
    /// How often.
    pub count: u64,
    /// How long in all, in nanoseconds.
    pub nanos: u64,
}

impl Part {
    /// Mean time in microseconds.
    pub fn mean_micros(&self) -> f64 {
        self.nanos as f64 / 1e3 / self.count.max(1) as f64
    }
}

impl Counters {
    /// A zone by its name; one the engine does not know is a mistake in this program.
    pub fn zone(&self, name: &str) -> Zone {
        *self.zones.get(name).expect("a zone of the engine")
    }

    /// A part of the work by its name.
    pub fn part(&self, name: &str) -> Part {
        *self.parts.get(name).expect("a part of the engine's work")
    }

    /// Reads from members, whatever the zone.
    pub fn reads(&self) -> u64 {
        self.zones.values().map(|z| z.reads).sum()
    }

    /// What has happened since `before`.
    pub fn since(&self, before: &Counters) -> Counters {
        self.with(before, |now, then| now - then)
    }

    /// This and `other` together.
    pub fn plus(&self, other: &Counters) -> Counters {
        self.with(other, |a, b| a + b)
    }

    fn with(&self, other: &Counters, f: impl Fn(u64, u64) -> u64) -> Counters {
        let zone = |(name, z): (&String, &Zone)| {
            let o = other.zones.get(name).copied().unwrap_or_default();
            let both = Zone {
                reads: f(z.reads, o.reads),
                read_bytes: f(z.read_bytes, o.read_bytes),
                writes: f(z.writes, o.writes),
                written_bytes: f(z.written_bytes, o.written_bytes),
            };
            (name.clone(), both)
        };
        let part = |(name, p): (&String, &Part)| {
            let o = other.parts.get(name).copied().unwrap_or_default();
            let both = Part {
                count: f(p.count, o.count),
                nanos: f(p.nanos, o.nanos),
            };
            (name.clone(), both)
        };
        Counters {
            client_read_bytes: f(self.client_read_bytes, other.client_read_bytes),
            client_written_bytes: f(self.client_written_bytes, other.client_written_bytes),
            journal_header_bytes: f(self.journal_header_bytes, other.journal_header_bytes),
            slot_bytes: f(self.slot_bytes, other.slot_bytes),
            zones: self.zones.iter().map(zone).collect(),
            parts: self.parts.iter().map(part).collect(),
        }
    }

    /// Bytes moved for each byte that clients moved.
    pub fn traffic(&self) -> Traffic {
        let clients = (self.client_written_bytes + self.client_read_bytes).max(1) as f64;
        let share = |bytes: u64| bytes as f64 / clients;
        let written = |zone: &str| self.zone(zone).written_bytes;
        Traffic {
            headers: share(self.journal_header_bytes),
            journal: share(written("journal") - self.journal_header_bytes),
            in_place: share(written("data") - self.slot_bytes),
            slots: share(self.slot_bytes),
            pages: share(written("checksums") + written("map")),
            checkpoints: share(written("checkpoints")),
            other: share(written("superblocks") + written("relog")),
            read: share(self.zones.values().map(|z| z.read_bytes).sum()),
        }
    }
}

/// Bytes moved to and from members for each byte that clients moved.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Traffic {
    /// Written: headers of journal batches.
    pub headers: f64,
    /// Written: blocks to the journal.
    pub journal: f64,
    /// Written: blocks from the journal to their places.
    pub in_place: f64,
    /// Written: whole stripes to new slots.
    pub slots: f64,
    /// Written: checksum and map pages.
    pub pages: f64,
    /// Written: checkpoint records.
    pub checkpoints: f64,
    /// Written: superblocks and re-logs.
    pub other: f64,
    /// Read, of whatever kind.
    pub read: f64,
}

impl Traffic {
    /// What is written, by kind.
    pub fn written(&self) -> [(&'static str, f64); 7] {
        [
            ("journal headers", self.headers),
            ("journal blocks", self.journal),
            ("in place", self.in_place),
            ("new slots", self.slots),
            ("checksum and map pages", self.pages),
            ("checkpoints", self.checkpoints),
            ("other", self.other),
        ]
    }

    /// All that is written.
    pub fn written_in_all(&self) -> f64 {
        self.written().iter().map(|(_, bytes)| bytes).sum()
    }
}

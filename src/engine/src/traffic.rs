//! What goes to and comes from the members, by zone, and how long the parts of a commit take: what
//! each promise costs.

use crate::api::Nanos;
use crate::array::Array;
use crate::status::{IoTotals, PartTime, ZoneTotals};
use alloc::vec::Vec;
use core::cell::Cell;
use uraid_core::geometry::Zones;

/// Zones of a member, as they are told apart here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// At either end.
    Superblocks,
    /// Tails of the journals.
    Checkpoints,
    /// Rings.
    Journal,
    /// What recovery writes.
    Relog,
    /// Where stripes live.
    Map,
    /// Checksum pages.
    Checksums,
    /// Slots.
    Data,
}

impl Zone {
    const ALL: [Zone; 7] = [
        Zone::Superblocks,
        Zone::Checkpoints,
        Zone::Journal,
        Zone::Relog,
        Zone::Map,
        Zone::Checksums,
        Zone::Data,
    ];

    fn of(offset: u64, zones: &Zones) -> Zone {
        match offset {
            o if o < zones.checkpoints || o >= zones.end => Zone::Superblocks,
            o if o < zones.journal => Zone::Checkpoints,
            o if o < zones.relog => Zone::Journal,
            o if o < zones.map => Zone::Relog,
            o if o < zones.checksums => Zone::Map,
            o if o < zones.data => Zone::Checksums,
            _ => Zone::Data,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Zone::Superblocks => "superblocks",
            Zone::Checkpoints => "checkpoints",
            Zone::Journal => "journal",
            Zone::Relog => "relog",
            Zone::Map => "map",
            Zone::Checksums => "checksums",
            Zone::Data => "data",
        }
    }
}

/// Work whose time is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A batch, from its first write to its last.
    Commit,
    /// A flush of one member.
    Flush,
    /// Rows of one stripe put in place.
    Destage,
    /// Map and checksum pages of one checkpoint, with the flushes around them.
    Pages,
}

impl Part {
    const ALL: [Part; 4] = [Part::Commit, Part::Flush, Part::Destage, Part::Pages];

    fn as_str(self) -> &'static str {
        match self {
            Part::Commit => "commit",
            Part::Flush => "flush",
            Part::Destage => "destage",
            Part::Pages => "pages",
        }
    }
}

/// Sums since the array was opened.
#[derive(Default)]
pub struct Traffic {
    zones: [Cell<ZoneTotals>; Zone::ALL.len()],
    parts: [Cell<PartTime>; Part::ALL.len()],
    /// Of what went to the journal: headers.
    pub journal_header_bytes: Cell<u64>,
    /// Of what went to the data zone: whole stripes to new slots.
    pub slot_bytes: Cell<u64>,
    /// Read by clients.
    pub client_read_bytes: Cell<u64>,
    /// Written by clients.
    pub client_written_bytes: Cell<u64>,
    /// Blocks of members rewritten from the others.
    pub repaired_blocks: Cell<u64>,
}

/// Adds to a counter.
pub fn add(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get() + amount);
}

impl Array {
    fn zone_totals(&self, offset: u64, change: impl FnOnce(&mut ZoneTotals)) {
        let zone = Zone::of(offset, &self.zones);
        let cell = &self.traffic.zones[zone as usize];
        let mut totals = cell.get();
        change(&mut totals);
        cell.set(totals);
    }

    /// A read from a member was begun.
    pub fn count_read(&self, offset: u64, bytes: usize) {
        self.zone_totals(offset, |t| {
            t.reads += 1;
            t.read_bytes += bytes as u64;
        });
    }

    /// A write to a member was begun.
    pub fn count_write(&self, offset: u64, bytes: usize) {
        self.zone_totals(offset, |t| {
            t.writes += 1;
            t.written_bytes += bytes as u64;
        });
    }

    /// Work that was begun at `begun` is done.
    pub fn count_time(&self, part: Part, begun: Nanos) {
        let cell = &self.traffic.parts[part as usize];
        let mut time = cell.get();
        time.count += 1;
        time.nanos += self.ex.now().saturating_sub(begun);
        cell.set(time);
    }

    /// Everything counted so far.
    pub fn io_totals(&self) -> IoTotals {
        let t = &self.traffic;
        let zones = Zone::ALL.iter().zip(&t.zones);
        let zones: Vec<_> = zones.map(|(z, c)| (z.as_str(), c.get())).collect();
        let parts = Part::ALL.iter().zip(&t.parts);
        IoTotals {
            zones,
            parts: parts.map(|(p, c)| (p.as_str(), c.get())).collect(),
            journal_header_bytes: t.journal_header_bytes.get(),
            slot_bytes: t.slot_bytes.get(),
            client_read_bytes: t.client_read_bytes.get(),
            client_written_bytes: t.client_written_bytes.get(),
        }
    }
}

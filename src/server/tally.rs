//! How many requests clients made, and how long they took: counted by the thread that serves them,
//! on lines of the cache that are no other thread's, and added up when somebody asks.

use super::counter::Counter;
use super::gate::Gate;
use super::qos::Throttle;
use crate::control::wire::{OperationReport, StatusReport};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uraid_engine::status::LatencyTotals;
use uraid_nbd::RequestKind;

/// Kinds of requests, as they are told apart here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A trim.
    Trim,
    /// A write of zeros that are not sent.
    WriteZeroes,
    /// A question about extents.
    BlockStatus,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Read,
        Kind::Write,
        Kind::Flush,
        Kind::Trim,
        Kind::WriteZeroes,
        Kind::BlockStatus,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Flush => "flush",
            Kind::Trim => "trim",
            Kind::WriteZeroes => "write-zeroes",
            Kind::BlockStatus => "block-status",
        }
    }
}

/// A request that was begun and not answered yet.
#[derive(Clone, Copy)]
pub struct Begun {
    kind: Kind,
    bytes: u64,
    at: Instant,
}

impl Begun {
    /// A request that begins now.
    pub fn now(request: &RequestKind) -> Begun {
        let (kind, bytes) = match request {
            RequestKind::Read { len, .. } => (Kind::Read, u64::from(*len)),
            RequestKind::Write { data, .. } => (Kind::Write, data.len() as u64),
            RequestKind::Flush => (Kind::Flush, 0),
            RequestKind::Trim { len, .. } => (Kind::Trim, *len),
            RequestKind::WriteZeroes { len, .. } => (Kind::WriteZeroes, *len),
            RequestKind::BlockStatus { len, .. } => (Kind::BlockStatus, *len),
        };
        let at = Instant::now();
        Begun { kind, bytes, at }
    }
}

#[derive(Default)]
struct OfKind {
    bytes: Counter,
    errors: Counter,
    nanos: Counter,
    buckets: [Counter; LatencyTotals::BUCKETS],
}

/// What one thread has answered.
#[derive(Default)]
#[repr(align(128))]
pub struct Tally {
    kinds: [OfKind; Kind::ALL.len()],
}

impl Tally {
    /// A request is answered; to be called by the thread that serves clients.
    pub fn answered(&self, begun: &Begun, well: bool) {
        self.add(begun, begun.at.elapsed(), well);
    }

    fn add(&self, begun: &Begun, took: Duration, well: bool) {
        let of_kind = &self.kinds[begun.kind as usize];
        if well {
            of_kind.bytes.add(begun.bytes);
        } else {
            of_kind.errors.add(1);
        }
        let nanos = took.as_nanos() as u64;
        of_kind.nanos.add(nanos);
        of_kind.buckets[LatencyTotals::bucket_of(nanos)].add(1);
    }
}

/// What threads beside the engine know of an array's clients.
pub struct Books {
    /// What each thread has answered.
    pub tallies: Vec<Arc<Tally>>,
    /// Counts clients.
    pub gate: Arc<Gate>,
    /// Limits what they get.
    pub throttle: Arc<Throttle>,
    /// Since when the array has been served.
    pub opened: Instant,
}

impl Books {
    /// Adds what they say to a status.
    pub fn enter(&self, status: &mut StatusReport) {
        status.requests = report(&self.tallies);
        status.clients = self.gate.clients();
        status.limits = self.throttle.report();
        status.uptime_seconds = self.opened.elapsed().as_secs();
    }
}

/// What all threads of an array have answered, by kind.
fn report(tallies: &[Arc<Tally>]) -> BTreeMap<String, OperationReport> {
    let of_kind = |kind: Kind| {
        let mut report = OperationReport {
            latency: vec![0; LatencyTotals::BUCKETS],
            ..OperationReport::default()
        };
        for tally in tallies {
            let one = &tally.kinds[kind as usize];
            report.bytes += one.bytes.get();
            report.failed += one.errors.get();
            report.nanos += one.nanos.get();
            let counts = one.buckets.iter().map(Counter::get);
            let sums = report.latency.iter_mut();
            sums.zip(counts).for_each(|(sum, count)| *sum += count);
        }
        report.operations = report.latency.iter().sum();
        (kind.as_str().to_string(), report)
    };
    Kind::ALL.into_iter().map(of_kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up_by_kind() {
        let tallies = [Arc::new(Tally::default()), Arc::new(Tally::default())];
        let read = Begun::now(&RequestKind::Read {
            offset: 0,
            len: 4096,
        });
        tallies[0].add(&read, Duration::from_micros(10), true);
        tallies[1].add(&read, Duration::from_micros(40), true);
        tallies[1].add(
            &Begun::now(&RequestKind::Flush),
            Duration::from_secs(100),
            false,
        );
        let report = report(&tallies);
        let read = &report["read"];
        assert_eq!((read.bytes, read.failed, read.operations), (8192, 0, 2));
        assert_eq!(read.nanos, 50_000);
        assert_eq!(read.latency[4..7], [1, 0, 1], "16, 32 and 64 µs");
        let flush = &report["flush"];
        assert_eq!((flush.failed, flush.latency.last()), (1, Some(&1)));
        assert_eq!(report["write"].operations, 0);
    }
}

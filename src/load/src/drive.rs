//! What came of driving a server.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(120);
/// Significant digits of latencies. With the range above a histogram takes about 200 KiB.
const DIGITS: u8 = 3;

/// What came of driving a server.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Drive {
    /// Requests answered. A write with its FLUSH is one.
    pub requests: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// From the first request to the last reply.
    pub seconds: f64,
    /// How long requests took.
    pub latency: Latency,
}

/// How long requests took, in microseconds, from the moment at which the client had them ready.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_micros: f64,
    /// 99 of 100 took no longer.
    pub p99_micros: f64,
    /// 999 of 1000 took no longer.
    pub p999_micros: f64,
    /// The longest.
    pub max_micros: f64,
}

impl Drive {
    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        self.read_bytes + self.written_bytes
    }
}

/// The same of one connection, while it runs.
pub struct Tally {
    begun: Instant,
    ended: Instant,
    requests: u64,
    read_bytes: u64,
    written_bytes: u64,
    latencies: Histogram<u64>,
}

impl Tally {
    pub fn new(begun: Instant) -> Tally {
        let nanos_max = LATENCY_MAX.as_nanos() as u64;
        Tally {
            begun,
            ended: begun,
            requests: 0,
            read_bytes: 0,
            written_bytes: 0,
            latencies: Histogram::new_with_bounds(1, nanos_max, DIGITS).expect("sane bounds"),
        }
    }

    /// Counts a request that was answered.
    pub fn add(&mut self, begun: Instant, ended: Instant, read_bytes: usize, written_bytes: usize) {
        self.requests += 1;
        self.read_bytes += read_bytes as u64;
        self.written_bytes += written_bytes as u64;
        let nanos = ended.saturating_duration_since(begun).as_nanos();
        self.latencies.saturating_record(nanos as u64);
        self.ended = ended;
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// All connections together.
    pub fn sum(tallies: &[Tally]) -> Drive {
        let mut latencies = Tally::new(Instant::now()).latencies;
        for tally in tallies {
            latencies.add(&tally.latencies).expect("the same bounds");
        }
        let begun = tallies.iter().map(|t| t.begun).min();
        let ended = tallies.iter().map(|t| t.ended).max();
        let elapsed = begun.zip(ended).map(|(b, e)| e - b).unwrap_or_default();
        let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Drive {
            requests: tallies.iter().map(|t| t.requests).sum(),
            read_bytes: tallies.iter().map(|t| t.read_bytes).sum(),
            written_bytes: tallies.iter().map(|t| t.written_bytes).sum(),
            seconds: elapsed.as_secs_f64(),
            latency: Latency {
                p50_micros: micros(0.5),
                p99_micros: micros(0.99),
                p999_micros: micros(0.999),
                max_micros: micros(1.0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_all_connections() {
        let begun = Instant::now();
        let tally = |range: std::ops::Range<u64>| {
            let mut tally = Tally::new(begun);
            range.for_each(|ms| tally.add(begun, begun + Duration::from_millis(ms), 4096, 0));
            tally
        };
        let drive = Tally::sum(&[tally(1..501), tally(501..1001)]);
        assert_eq!((drive.requests, drive.bytes()), (1000, 1000 * 4096));
        assert_eq!(drive.seconds, 1.0);
        let found = [
            (drive.latency.p50_micros, 500e3),
            (drive.latency.p99_micros, 990e3),
            (drive.latency.p999_micros, 999e3),
            (drive.latency.max_micros, 1000e3),
        ];
        for (found, expected) in found {
            assert!((found / expected - 1.0).abs() < 0.002, "{found} {expected}");
        }
    }

    #[test]
    fn nothing_answered_is_nothing() {
        assert_eq!(Tally::sum(&[]), Drive::default());
        assert_eq!(Tally::sum(&[Tally::new(Instant::now())]), Drive::default());
    }
}

//! Throughput and latency over the last hour.

use super::OperationReport;
use serde::{Deserialize, Serialize};
use uraid_engine::status::LatencyTotals;

/// Answer to `GET /v1/trend`. Fields may be added, never changed or removed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrendReport {
    /// Between two samples.
    pub interval_seconds: u64,
    /// Oldest first.
    pub samples: Vec<TrendSample>,
}

/// What went on since the sample before.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrendSample {
    /// Its number: one more than that of the one before.
    pub number: u64,
    /// When it was taken, in milliseconds since 1970.
    pub time_millis: u64,
    /// How long it covers, in milliseconds.
    pub span_millis: u64,
    /// Reads of clients.
    pub reads: Rate,
    /// Writes of clients.
    pub writes: Rate,
    /// Members with a role, in the order of their slots.
    pub members: Vec<MemberTrend>,
}

/// One member in a [`TrendSample`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MemberTrend {
    /// Its role.
    pub slot: u16,
    /// Its UUID.
    pub uuid: String,
    /// Reads.
    pub reads: Rate,
    /// Writes.
    pub writes: Rate,
}

/// Operations of one kind in a [`TrendSample`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// How many.
    pub operations: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How long they took on average, in microseconds; 0 if there were none.
    pub mean_micros: u64,
    /// Half of them took no longer than this, in microseconds, to the next power of two.
    #[serde(default)]
    pub p50_micros: u64,
    /// 99 of 100 took no longer than this, in microseconds, to the next power of two.
    pub p99_micros: u64,
}

impl Rate {
    /// What was done between two looks at the same counters; those of a member that returned, or of
    /// a new server, begin anew.
    pub fn between(before: &OperationReport, now: &OperationReport) -> Rate {
        let fresh = OperationReport::default();
        let before = match before.operations <= now.operations && before.nanos <= now.nanos {
            true => before,
            false => &fresh,
        };
        let operations = now.operations - before.operations;
        let nanos = now.nanos - before.nanos;
        let count = |i: usize| {
            let earlier = before.latency.get(i).copied().unwrap_or(0);
            now.latency[i].saturating_sub(earlier)
        };
        let counts: Vec<u64> = (0..now.latency.len()).map(count).collect();
        Rate {
            operations,
            bytes: now.bytes.saturating_sub(before.bytes),
            mean_micros: (nanos / 1000).checked_div(operations).unwrap_or(0),
            p50_micros: percentile_micros(&counts, 50),
            p99_micros: percentile_micros(&counts, 99),
        }
    }
}

/// The bound of the bucket in which so many of 100 are reached.
fn percentile_micros(counts: &[u64], percent: u64) -> u64 {
    let all: u64 = counts.iter().sum();
    let wanted = (all * percent).div_ceil(100);
    let mut sum = 0;
    let reached = counts.iter().position(|count| {
        sum += count;
        all > 0 && sum >= wanted
    });
    // What is longer than all bounds is at least twice the last one.
    let longest = 1 << (LatencyTotals::BUCKETS - 1);
    reached.map_or(0, |i| LatencyTotals::bound_micros(i).unwrap_or(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(operations: u64, nanos: u64, buckets: &[(usize, u64)]) -> OperationReport {
        let mut latency = vec![0; LatencyTotals::BUCKETS];
        buckets.iter().for_each(|(i, count)| latency[*i] = *count);
        OperationReport {
            operations,
            nanos,
            latency,
            bytes: operations * 4096,
            ..OperationReport::default()
        }
    }

    #[test]
    fn a_rate_is_what_came_since() {
        let before = counters(100, 1_000_000, &[(4, 100)]);
        let now = counters(300, 21_000_000, &[(4, 297), (10, 3)]);
        let rate = Rate::between(&before, &now);
        assert_eq!((rate.operations, rate.bytes), (200, 200 * 4096));
        assert_eq!((rate.mean_micros, rate.p99_micros), (100, 1024));
        assert_eq!(rate.p50_micros, 16);
        assert_eq!(Rate::between(&now, &now), Rate::default());
    }

    #[test]
    fn counters_that_began_anew_count_from_zero() {
        let before = counters(100, 1_000_000, &[(4, 100)]);
        let now = counters(10, 500_000, &[(6, 10)]);
        let rate = Rate::between(&before, &now);
        assert_eq!(
            (rate.operations, rate.mean_micros, rate.p99_micros),
            (10, 50, 64)
        );
        let beyond = counters(1, 1, &[(LatencyTotals::BUCKETS - 1, 1)]);
        assert_eq!(
            Rate::between(&OperationReport::default(), &beyond).p99_micros,
            1 << 24
        );
    }
}

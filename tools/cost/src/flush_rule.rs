//! The rule on flushes: a 4 KiB write and a FLUSH take at most one parallel read, one parallel
//! write and one parallel flush. It is judged by counters, not by time.

use crate::counters::Counters;
use crate::layout::Layout;

/// Parallel flushes that a checkpoint makes at most: before rows go in place, before pages that
/// name them are written, after those, after the records. They serve many requests and are
/// therefore counted apart.
const FLUSHES_PER_CHECKPOINT: u64 = 4;

/// One count, and what it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What is counted.
    pub what: &'static str,
    /// How many there were.
    pub found: u64,
    /// How many there must be at least.
    pub at_least: u64,
    /// How many there may be at most.
    pub at_most: u64,
}

impl Check {
    /// Whether the rule is kept.
    pub fn holds(&self) -> bool {
        (self.at_least..=self.at_most).contains(&self.found)
    }

    /// The check in words, for whoever must act on it.
    pub fn explain(&self) -> String {
        format!(
            "{}: {}, between {} and {} are right",
            self.what, self.found, self.at_least, self.at_most
        )
    }
}

/// Checkpoints in a stretch of work.
pub fn checkpoints(layout: &Layout, counters: &Counters) -> u64 {
    counters
        .zone("checkpoints")
        .writes
        .div_ceil(layout.members())
}

/// What `pairs` of a write of one block and a FLUSH, one after the other, each in a stripe of its
/// own, may take on a settled array whose checksum pages are in memory.
///
/// Reads, journal writes and flushes of different members run side by side; so one parallel step
/// is one I/O on each member concerned at most.
pub fn judge(layout: &Layout, pairs: u64, counters: &Counters) -> Vec<Check> {
    let participants = layout.participants();
    let of_checkpoints = FLUSHES_PER_CHECKPOINT * layout.members() * checkpoints(layout, counters);
    let check = |what, found, at_least, at_most| Check {
        what,
        found,
        at_least,
        at_most,
    };
    let exactly = |what, found, count| check(what, found, count, count);
    vec![
        exactly(
            "bytes written by clients",
            counters.client_written_bytes,
            pairs * 4096,
        ),
        check(
            "reads from members",
            counters.reads(),
            0,
            pairs * layout.old_blocks(),
        ),
        exactly("journal batches", counters.part("commit").count, pairs),
        exactly(
            "journal writes",
            counters.zone("journal").writes,
            pairs * participants,
        ),
        exactly("bytes to new slots", counters.slot_bytes, 0),
        check(
            "flushes of members",
            counters.part("flush").count,
            pairs * participants,
            pairs * participants + of_checkpoints,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RAID6: Layout = Layout::ALL[2];

    /// Counters of 100 pairs and two checkpoints.
    fn counters(reads: u64, commits: u64, journal_writes: u64, flushes: u64) -> Counters {
        let zone = |reads: u64, writes: u64| {
            json!({
                "reads": reads, "read_bytes": reads * 4096,
                "writes": writes, "written_bytes": writes * 4096,
            })
        };
        let part = |count: u64| json!({"count": count, "nanos": 1});
        let counters = json!({
            "client_read_bytes": 0, "client_written_bytes": 100 * 4096,
            "journal_header_bytes": 0, "slot_bytes": 0,
            "zones": {
                "journal": zone(0, journal_writes), "data": zone(reads, 300),
                "checkpoints": zone(0, 12),
            },
            "parts": {"commit": part(commits), "flush": part(flushes)},
        });
        serde_json::from_value(counters).expect("counters")
    }

    fn broken(counters: &Counters) -> Vec<&'static str> {
        let checks = judge(&RAID6, 100, counters);
        checks
            .iter()
            .filter(|c| !c.holds())
            .map(|c| c.what)
            .collect()
    }

    #[test]
    fn one_parallel_step_of_each_kind_keeps_the_rule() {
        assert_eq!(broken(&counters(300, 100, 300, 300 + 48)), [""; 0]);
    }

    #[test]
    fn each_further_step_breaks_it() {
        assert_eq!(
            broken(&counters(301, 100, 300, 300)),
            ["reads from members"]
        );
        assert_eq!(broken(&counters(300, 101, 300, 300)), ["journal batches"]);
        assert_eq!(broken(&counters(300, 100, 301, 300)), ["journal writes"]);
        assert_eq!(
            broken(&counters(300, 100, 300, 349)),
            ["flushes of members"]
        );
    }

    #[test]
    fn a_flush_that_flushes_nothing_breaks_it() {
        assert_eq!(
            broken(&counters(300, 100, 300, 299)),
            ["flushes of members"]
        );
    }
}

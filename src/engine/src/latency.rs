//! How long members take over what is asked of them: totals for people, and what the choice of a
//! member goes by: how it has been lately.

use crate::api::{IoKind, Nanos};
use crate::status::{LatencyTotals, MemberIo, OperationTotals};

/// Latest reads have a share of one in so many in [`Account::expected`].
const MEAN_SHARE: u64 = 8;
/// A time during which nothing was read halves what is expected: it may be over.
const FADES_IN: Nanos = 100_000_000;

/// What an operation is, for the account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// A read of so many bytes.
    Read(usize),
    /// A write of so many bytes.
    Write(usize),
    /// A flush.
    Flush,
    /// A discard.
    Discard,
}

impl Work {
    /// What an I/O is.
    pub fn of(kind: &IoKind) -> Work {
        match kind {
            IoKind::Read { buffer, .. } => Work::Read(buffer.len()),
            IoKind::Write { buffers, .. } => Work::Write(buffers.iter().map(|b| b.len()).sum()),
            IoKind::Flush => Work::Flush,
            IoKind::Discard { .. } => Work::Discard,
        }
    }
}

/// What one device was asked, and how long it took.
#[derive(Clone, Default, Debug)]
pub struct Account {
    reads: OperationTotals,
    writes: OperationTotals,
    flushes: OperationTotals,
    in_flight: u64,
    /// Time of a read, a moving mean.
    mean: Nanos,
    /// When it last moved.
    mean_at: Nanos,
}

impl Account {
    /// An operation was begun.
    pub fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// An operation is over.
    pub fn end(&mut self, work: Work, succeeded: bool, begun: Nanos, now: Nanos) {
        self.in_flight -= 1;
        let took = now.saturating_sub(begun);
        match work {
            Work::Read(bytes) => self.count_read(bytes, succeeded, took, now),
            Work::Write(bytes) => self.writes.count(bytes, succeeded, took),
            Work::Flush => self.flushes.count(0, succeeded, took),
            Work::Discard => {}
        }
    }

    fn count_read(&mut self, bytes: usize, succeeded: bool, took: Nanos, now: Nanos) {
        self.reads.count(bytes, succeeded, took);
        if succeeded {
            self.mean = match self.mean {
                0 => took,
                mean => (mean * (MEAN_SHARE - 1) + took) / MEAN_SHARE,
            };
            self.mean_at = now;
        }
    }

    /// How long a read that is begun now can be expected to take: as long as those of late, behind
    /// what is under way (the estimate of the balancers in Twitter's Finagle). It fades while
    /// nothing is read, so that nobody is shunned for ever for what was once.
    pub fn expected(&self, now: Nanos) -> Nanos {
        let idle = now.saturating_sub(self.mean_at) / FADES_IN;
        (self.mean >> idle.min(63)).saturating_mul(self.in_flight + 1)
    }

    /// All of it, for people.
    pub fn totals(&self, now: Nanos) -> MemberIo {
        MemberIo {
            reads: self.reads,
            writes: self.writes,
            flushes: self.flushes,
            in_flight: self.in_flight,
            expected_read_nanos: self.expected(now),
        }
    }
}

impl OperationTotals {
    /// One more.
    pub fn count(&mut self, bytes: usize, succeeded: bool, took: Nanos) {
        self.operations += 1;
        self.failed += u64::from(!succeeded);
        self.bytes += bytes as u64;
        self.latency.nanos += took;
        self.latency.buckets[LatencyTotals::bucket_of(took)] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Nanos = 1000;
    const MILLISECOND: Nanos = 1_000_000;

    #[test]
    fn a_bucket_holds_what_took_at_most_its_bound() {
        for (took, bucket) in [
            (0, 0),
            (MICROSECOND, 0),
            (MICROSECOND + 1, 1),
            (2 * MICROSECOND, 1),
            (1024 * MICROSECOND, 10),
            (1025 * MICROSECOND, 11),
            (u64::MAX, LatencyTotals::BUCKETS - 1),
        ] {
            assert_eq!(LatencyTotals::bucket_of(took), bucket, "{took}");
            assert!(LatencyTotals::bound_micros(bucket).is_none_or(|b| took <= b * 1000));
        }
    }

    #[test]
    fn expected_is_what_is_under_way_and_how_it_went_lately() {
        let mut account = Account::default();
        for _ in 0..100 {
            account.begin();
            account.end(Work::Read(4096), true, 0, MILLISECOND);
        }
        let alone = account.expected(MILLISECOND);
        assert!(alone.abs_diff(MILLISECOND) < MILLISECOND / 10, "{alone}");
        account.begin();
        assert_eq!(account.expected(MILLISECOND), 2 * alone);
        assert_eq!(account.expected(MILLISECOND + FADES_IN), alone);
        let totals = account.totals(MILLISECOND);
        assert_eq!((totals.reads.operations, totals.in_flight), (100, 1));
        assert_eq!(totals.reads.bytes, 100 * 4096);
    }
}

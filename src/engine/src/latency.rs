//! How long members take over what is asked of them: totals for people, and what the choice of a
//! member goes by: how it has been lately.

use crate::api::{IoKind, Nanos};
use crate::status::{LatencyTotals, MemberIo, OperationTotals};

/// Reads of at most so many bytes are compared with each other, and so are longer ones.
const SHORT_BYTES_MAX: usize = 32 << 10;
/// Latest reads have a share of one in so many in [`Account::expected`].
const MEAN_SHARE: u64 = 8;
/// A time during which nothing was read halves what is expected: it may be over.
const FADES_IN: Nanos = 100_000_000;
/// Reads after which older ones count for half as much.
const RECENT_READS: u32 = 512;

/// Steps in which a [`Recent`] doubles.
const STEPS: u32 = 4;
/// Shortest time that a [`Recent`] tells from none, as a power of two, in nanoseconds.
const UNIT_SHIFT: u32 = 10;
/// From a microsecond to sixteen seconds.
const STEPS_MAX: usize = 24 * STEPS as usize;

/// Times of the latest operations, in buckets a fifth wide: older ones fade.
#[derive(Clone, Debug)]
pub struct Recent {
    counts: [u32; STEPS_MAX],
    total: u32,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent {
            counts: [0; STEPS_MAX],
            total: 0,
        }
    }
}

impl Recent {
    /// One more operation took so long.
    pub fn add(&mut self, took: Nanos) {
        if self.total >= RECENT_READS {
            self.fade();
        }
        self.counts[step_of(took)] += 1;
        self.total += 1;
    }

    /// How many operations it goes by.
    pub fn len(&self) -> u32 {
        self.total
    }

    /// The time within which so many of a thousand operations were over. None if there were none.
    pub fn within(&self, per_mille: u32) -> Option<Nanos> {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        let reached = |count: &u32| {
            seen += count;
            seen >= wanted
        };
        self.counts.iter().position(reached).map(step_end)
    }

    /// All of another one.
    fn merge(&mut self, other: &Recent) {
        let pairs = self.counts.iter_mut().zip(&other.counts);
        pairs.for_each(|(count, more)| *count += more);
        self.total += other.total;
        while self.total > RECENT_READS {
            self.fade();
        }
    }

    /// What it has counts for half as much from now on.
    pub fn fade(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.total = self.counts.iter().sum();
    }
}

fn step_of(took: Nanos) -> usize {
    let units = (took >> UNIT_SHIFT).max(1);
    let doublings = units.ilog2();
    let part = (units << 2 >> doublings) as u32 % STEPS;
    ((doublings * STEPS + part) as usize).min(STEPS_MAX - 1)
}

/// The end of a step: what is in it took less.
fn step_end(step: usize) -> Nanos {
    let (doublings, part) = (step as u32 / STEPS, step as u32 % STEPS);
    (u64::from(STEPS + part + 1) << (doublings + UNIT_SHIFT)) / u64::from(STEPS)
}

/// Lengths of reads that are compared with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// A few blocks.
    Short,
    /// More.
    Long,
}

impl Length {
    /// Both.
    pub const ALL: [Length; 2] = [Length::Short, Length::Long];

    /// That of a read.
    pub fn of(bytes: usize) -> Length {
        match bytes <= SHORT_BYTES_MAX {
            true => Length::Short,
            false => Length::Long,
        }
    }
}

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

/// How long reads took.
#[derive(Clone, Default, Debug)]
pub struct ReadTimes {
    totals: OperationTotals,
    /// By length; only those that succeeded.
    recent: [Recent; Length::ALL.len()],
}

impl ReadTimes {
    /// One more.
    pub fn add(&mut self, bytes: usize, succeeded: bool, took: Nanos) {
        self.totals.count(bytes, succeeded, took);
        if succeeded {
            self.recent[Length::of(bytes) as usize].add(took);
        }
    }

    /// Adds all that succeeded lately to others.
    pub(crate) fn add_to(&self, recent: &mut Recent) {
        self.recent.iter().for_each(|own| recent.merge(own));
    }

    /// And these.
    fn merge(&mut self, other: &ReadTimes) {
        self.totals.merge(&other.totals);
        let pairs = self.recent.iter_mut().zip(&other.recent);
        pairs.for_each(|(recent, other)| recent.merge(other));
    }
}

/// What one device was asked, and how long it took.
#[derive(Clone, Default, Debug)]
pub struct Account {
    reads: ReadTimes,
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
        self.reads.add(bytes, succeeded, took);
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

    /// Times of the latest reads of such a length.
    pub fn recent(&self, length: Length) -> &Recent {
        &self.reads.recent[length as usize]
    }

    /// What was says nothing about what will be.
    pub fn forget_recent(&mut self) {
        self.reads.recent = Default::default();
        self.mean = 0;
    }

    /// A read is late: that says something before it is over, and it is counted again then.
    pub fn count_late(&mut self, length: Length, so_far: Nanos) {
        self.reads.recent[length as usize].add(so_far);
    }

    /// What was counts for half as much from now on.
    pub fn fade(&mut self) {
        self.reads.recent.iter_mut().for_each(Recent::fade);
    }

    /// Counts what others have read of the device.
    pub fn absorb(&mut self, times: &ReadTimes) {
        self.reads.merge(times);
    }

    /// All of it, for people.
    pub fn totals(&self, now: Nanos) -> MemberIo {
        MemberIo {
            reads: self.reads.totals,
            writes: self.writes,
            flushes: self.flushes,
            in_flight: self.in_flight,
            expected_read_nanos: self.expected(now),
        }
    }
}

impl OperationTotals {
    /// Adds others.
    pub fn merge(&mut self, other: &OperationTotals) {
        self.operations += other.operations;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.latency.nanos += other.latency.nanos;
        let pairs = self.latency.buckets.iter_mut().zip(&other.latency.buckets);
        pairs.for_each(|(count, more)| *count += more);
    }

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
    fn the_tail_is_known_to_a_quarter() {
        let mut recent = Recent::default();
        assert_eq!(recent.within(990), None);
        (0..99).for_each(|_| recent.add(MILLISECOND));
        recent.add(50 * MILLISECOND);
        let near = |found: Option<Nanos>, true_one: Nanos| {
            let found = found.expect("there are some");
            assert!((true_one..true_one * 5 / 4 + 1).contains(&found), "{found}");
        };
        near(recent.within(500), MILLISECOND);
        near(recent.within(990), MILLISECOND);
        near(recent.within(1000), 50 * MILLISECOND);
        // The last step has no end: what takes longer still is in it.
        recent.add(u64::MAX);
        assert!(recent.within(1000).is_some());
    }

    #[test]
    fn what_was_fades() {
        let mut recent = Recent::default();
        (0..RECENT_READS).for_each(|_| recent.add(50 * MILLISECOND));
        (0..4 * RECENT_READS).for_each(|_| recent.add(MILLISECOND));
        assert!(recent.len() <= RECENT_READS);
        assert!(recent.within(900).unwrap() < 2 * MILLISECOND);
    }

    #[test]
    fn what_others_have_read_counts_too() {
        let (mut account, mut times) = (Account::default(), ReadTimes::default());
        (0..600).for_each(|_| times.add(4096, true, MILLISECOND));
        times.add(4096, false, MILLISECOND);
        account.absorb(&times);
        account.absorb(&times);
        let reads = account.totals(0).reads;
        assert_eq!((reads.operations, reads.failed), (1202, 2));
        assert_eq!(reads.latency.nanos, 1202 * MILLISECOND);
        let recent = account.recent(Length::Short);
        assert!((256..=512).contains(&recent.len()), "{}", recent.len());
        assert_eq!(account.recent(Length::Long).len(), 0);
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

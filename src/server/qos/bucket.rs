//! A token bucket that knows no clock: how soon so much may be used at a rate, when some more at
//! once is allowed after a rest.
//!
//! Whoever has to wait is given a promise and comes back for it: so everybody has a turn in the
//! order of asking, and large requests are not overtaken for ever by small ones. (The virtual
//! scheduling of the generic cell rate algorithm, ITU-T I.371, with a debt in place of a
//! theoretical arrival time, so that rates may change.)

/// A point in time or a duration, in nanoseconds since an origin of the caller's choice.
pub type Nanos = u64;

/// A debt is counted in billionths: then it runs off by the rate in each nanosecond, exactly.
const PARTS: u128 = 1_000_000_000;

/// How much in the long run, and how much at once.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rate {
    /// How much in a second; 0: no limit.
    pub per_second: u64,
    /// How much at once after a rest: at least 1 where there is a limit.
    pub burst: u64,
}

/// What was used of a rate, and what is promised.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// What was used or promised and has not run off.
    debt: u128,
    /// What is promised, and not used yet.
    promised: u128,
    /// Up to when the debt has run off.
    at: Nanos,
}

impl Bucket {
    /// One that nobody has used.
    pub fn new(rate: Rate) -> Bucket {
        Bucket {
            rate,
            debt: 0,
            promised: 0,
            at: 0,
        }
    }

    /// How long `amount` would have to wait.
    pub fn wait_for(&mut self, amount: u64, now: Nanos) -> Nanos {
        self.run_off(now);
        if self.rate.per_second == 0 {
            return 0;
        }
        let amount = u128::from(amount) * PARTS;
        // What is more than a burst has the bucket to itself.
        let most = (u128::from(self.rate.burst) * PARTS).max(amount);
        let excess = (self.debt + amount).saturating_sub(most);
        let wait = excess.div_ceil(self.rate.per_second.into());
        Nanos::try_from(wait).unwrap_or(Nanos::MAX)
    }

    /// Takes `amount`, whether there is as much or not: used, or `promised` until
    /// [`Bucket::redeem`] or [`Bucket::void`]. To be called right after [`Bucket::wait_for`], which
    /// tells the time.
    pub fn take(&mut self, amount: u64, promised: bool) {
        if self.rate.per_second > 0 {
            self.debt += u128::from(amount) * PARTS;
        }
        if promised {
            self.promised += u128::from(amount) * PARTS;
        }
    }

    /// What was promised is used.
    pub fn redeem(&mut self, amount: u64) {
        self.promised = self.promised.saturating_sub(u128::from(amount) * PARTS);
    }

    /// Takes all promises back: whoever has one is to ask again.
    pub fn void(&mut self) {
        self.debt = self.debt.saturating_sub(self.promised);
        self.promised = 0;
    }

    /// Changes the rate, and takes all promises back. What was used counts on.
    pub fn set_rate(&mut self, rate: Rate, now: Nanos) {
        self.run_off(now);
        self.void();
        // A rest under another rate is none under this one, and a debt to a lower one would be
        // for ever.
        self.debt = self.debt.min(u128::from(rate.burst) * PARTS);
        self.rate = rate;
    }

    fn run_off(&mut self, now: Nanos) {
        let elapsed = now.saturating_sub(self.at);
        let gone = u128::from(elapsed) * u128::from(self.rate.per_second);
        self.debt = self.debt.saturating_sub(gone);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Nanos = 1_000_000;
    const SECOND: Nanos = 1000 * MS;

    fn bucket(per_second: u64, burst: u64) -> Bucket {
        Bucket::new(Rate { per_second, burst })
    }

    impl Bucket {
        /// Takes `amount`, used if that may be at once, else promised.
        fn ask(&mut self, amount: u64, now: Nanos) -> Nanos {
            let wait = self.wait_for(amount, now);
            self.take(amount, wait > 0);
            wait
        }
    }

    #[test]
    fn waits_are_what_the_rate_and_the_burst_say() {
        // Rate, burst, and then: when, how much, how long it waits.
        type Step = (Nanos, u64, Nanos);
        let table: [(u64, u64, &[Step]); 6] = [
            (0, 0, &[(0, 1 << 40, 0), (0, u64::MAX, 0)]),
            (
                100,
                1,
                &[
                    (0, 1, 0),
                    (0, 1, 10 * MS),
                    (0, 1, 20 * MS),
                    (SECOND, 1, 0),
                    (SECOND, 1, 10 * MS),
                ],
            ),
            // A burst, and once more as much after a rest of a burst's time.
            (
                10,
                3,
                &[
                    (0, 1, 0),
                    (0, 1, 0),
                    (0, 1, 0),
                    (0, 1, 100 * MS),
                    (400 * MS, 3, 0),
                    (400 * MS, 1, 100 * MS),
                ],
            ),
            // Part of a rest is worth part of a burst.
            (
                1000,
                100,
                &[(0, 100, 0), (50 * MS, 50, 0), (50 * MS, 50, 50 * MS)],
            ),
            // What is larger than a burst waits until nobody owes anything, and is paid for.
            (
                1000,
                10,
                &[
                    (0, 500, 0),
                    (0, 1, 491 * MS),
                    (0, 500, 501 * MS),
                    (2 * SECOND, 500, 0),
                ],
            ),
            (1, 1, &[(0, u64::MAX, 0), (0, u64::MAX, Nanos::MAX)]),
        ];
        for (per_second, burst, steps) in table {
            let mut bucket = bucket(per_second, burst);
            for (at, amount, wait) in steps {
                let found = bucket.ask(*amount, *at);
                assert_eq!(found, *wait, "{per_second}/s, {burst}: {amount} at {at}");
            }
        }
    }

    #[test]
    fn promises_that_are_taken_back_cost_nothing_and_used_ones_do() {
        let mut bucket = bucket(10, 1);
        assert_eq!(bucket.ask(1, 0), 0);
        assert_eq!((bucket.ask(1, 0), bucket.ask(5, 0)), (100 * MS, 200 * MS));
        bucket.void();
        assert_eq!(bucket.ask(1, 0), 100 * MS, "the first one again");
        bucket.redeem(1);
        bucket.void();
        assert_eq!(bucket.ask(1, 0), 200 * MS, "behind the one that was used");
    }

    #[test]
    fn a_new_rate_holds_at_once() {
        let mut bucket = bucket(10, 10);
        assert_eq!(bucket.ask(10, 0), 0);
        assert_eq!(bucket.ask(10, 0), SECOND);
        let faster = Rate {
            per_second: 1000,
            burst: 1,
        };
        bucket.set_rate(faster, 0);
        assert_eq!(bucket.ask(1, 0), MS, "no more is owed than a burst");
        bucket.set_rate(Rate::default(), MS);
        assert_eq!(bucket.ask(u64::MAX, MS), 0);
        bucket.set_rate(faster, 2 * MS);
        assert_eq!(bucket.ask(1, 2 * MS), 0, "what had no limit is not owed");
    }

    proptest! {
        /// Whoever keeps to what is said uses no more in any time than the rate and one burst (or
        /// one request that is larger).
        #[test]
        fn nobody_gets_more_than_the_rate_and_a_burst(
            per_second in 1u64..1_000_000,
            burst in 1u64..10_000,
            asks in proptest::collection::vec((0u64..50_000_000, 1u64..5000), 1..100),
        ) {
            let mut bucket = bucket(per_second, burst);
            let (mut now, mut used) = (0, Vec::new());
            for (pause, amount) in asks {
                now += pause;
                let wait = bucket.ask(amount, now);
                now += wait;
                if wait > 0 {
                    bucket.redeem(amount);
                }
                used.push((now, u128::from(amount)));
            }
            for (i, (from, first)) in used.iter().enumerate() {
                let (mut sum, mut largest) = (0, *first);
                for (until, amount) in &used[i..] {
                    sum += amount;
                    largest = largest.max(*amount);
                    let rate = u128::from(until - from) * u128::from(per_second);
                    let most = u128::from(burst).max(largest) * PARTS + rate;
                    // A wait is rounded up to a nanosecond, where a window begins too.
                    let rounding = u128::from(per_second);
                    prop_assert!(sum * PARTS <= most + rounding, "from {from} until {until}");
                }
            }
        }

        /// Without pauses, what was used is the rate to within a burst and the last request.
        #[test]
        fn who_always_asks_gets_the_rate(
            per_second in 1u64..1_000_000,
            burst in 1u64..10_000,
            amounts in proptest::collection::vec(1u64..5000, 1..200),
        ) {
            let mut bucket = bucket(per_second, burst);
            let mut now = 0;
            let sum: u64 = amounts.iter().sum();
            let largest = *amounts.iter().max().expect("some");
            for amount in amounts {
                now += bucket.ask(amount, now);
            }
            let rate = u128::from(now) * u128::from(per_second) / PARTS;
            let due = u128::from(sum);
            prop_assert!(due <= rate + u128::from(burst.max(largest)));
            // Each wait is rounded up to a nanosecond.
            prop_assert!(rate <= due + 1 + 200 * u128::from(per_second) / PARTS);
        }
    }
}

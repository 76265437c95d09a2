//! Limits on how fast an export is: requests a second and bytes a second, reads and writes
//! together, shared by all of its clients on whatever thread they are.
//!
//! What waits is the begin of requests: the first one of each client has a turn, and nobody looks
//! at those behind it before that. So the order of a client's requests is what it was, what waits
//! is bounded by what a client may have under way anyway, and nothing is done until the turn comes.
//! Where nothing is limited it costs one look at a flag for each request.

mod bucket;
mod limits;

pub use limits::{LIMITS, Limits};

use crate::control::wire::LimitsReport;
use bucket::{Bucket, Nanos};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use uraid_io::driver::Waker;
use uraid_nbd::RequestKind;

/// What a thread whose clients wait sleeps at least: at high rates many turns come at once then,
/// instead of each with a wake-up of its own. Buckets make up for it.
pub const PAUSE_MIN: Duration = Duration::from_millis(1);

/// What a request takes of the buckets: 1, and its payload in bytes.
type Cost = [u64; 2];

/// The limits of one export, and what was used of them.
pub struct Throttle {
    limited: AtomicBool,
    /// Raised when turns are void, and are to be asked for again.
    round: AtomicU64,
    state: Mutex<State>,
    /// All threads that have clients of the export.
    threads: Mutex<Vec<Waker>>,
    /// Origin of the buckets' time.
    start: Instant,
}

struct State {
    limits: Limits,
    /// Of requests, and of bytes.
    buckets: [Bucket; 2],
    /// Requests that had to wait, and for how long in all.
    delayed: u64,
    delayed_nanos: u64,
}

/// When a client's next request may begin. Given back when dropped, unless it was used.
pub struct Turn {
    throttle: Arc<Throttle>,
    cost: Cost,
    round: u64,
    asked: Instant,
    /// When it comes.
    pub at: Instant,
    /// It is promised: it had to wait when it was asked for, and was not used yet.
    promised: bool,
}

impl Throttle {
    /// Limits of an export that nobody uses yet.
    pub fn new(limits: Limits) -> Arc<Throttle> {
        Arc::new(Throttle {
            limited: AtomicBool::new(!limits.are_none()),
            round: AtomicU64::new(0),
            state: Mutex::new(State {
                limits,
                buckets: limits.rates().map(Bucket::new),
                delayed: 0,
                delayed_nanos: 0,
            }),
            threads: Mutex::default(),
            start: Instant::now(),
        })
    }

    /// Another thread has clients of the export, the one that `waker` wakes.
    pub fn add(&self, waker: Waker) {
        self.threads.lock().expect("no holder panics").push(waker);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn nanos(&self, at: Instant) -> Nanos {
        at.saturating_duration_since(self.start).as_nanos() as Nanos
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.state().limits
    }

    /// Changes the limits, for those who wait too.
    pub fn set(&self, limits: Limits) {
        let now = self.nanos(Instant::now());
        let mut state = self.state();
        state.limits = limits;
        let buckets = state.buckets.iter_mut().zip(limits.rates());
        buckets.for_each(|(bucket, rate)| bucket.set_rate(rate, now));
        self.limited.store(!limits.are_none(), Ordering::Release);
        self.begin_round(state);
    }

    /// All turns are to be asked for again.
    fn begin_round(&self, mut state: MutexGuard<State>) {
        state.buckets.iter_mut().for_each(Bucket::void);
        self.round.fetch_add(1, Ordering::AcqRel);
        drop(state);
        let threads = self.threads.lock().expect("no holder panics");
        threads.iter().for_each(Waker::wake);
    }

    /// Which turns count: those of this round.
    pub fn round(&self) -> u64 {
        self.round.load(Ordering::Acquire)
    }

    /// Whether the client whose next request this is may begin it; if not, `turn` says when. One
    /// in a `hurry` need not wait, but what it takes counts.
    pub fn admits(
        self: &Arc<Throttle>,
        turn: &mut Option<Turn>,
        request: &RequestKind,
        hurry: bool,
    ) -> bool {
        if turn.is_none() && !self.limited.load(Ordering::Relaxed) {
            return true;
        }
        let Some(cost) = cost(request) else {
            return true;
        };
        let now = Instant::now();
        if turn.as_ref().is_none_or(|turn| turn.round != self.round()) {
            let asked = turn.take().map_or(now, |turn| turn.asked);
            *turn = Some(self.ask(cost, asked, now));
        }
        hurry || turn.as_ref().is_some_and(|turn| turn.at <= now)
    }

    fn ask(self: &Arc<Throttle>, cost: Cost, asked: Instant, now: Instant) -> Turn {
        let mut state = self.state();
        let nanos = self.nanos(now);
        let both = || cost.into_iter().enumerate();
        let waits = both().map(|(i, amount)| state.buckets[i].wait_for(amount, nanos));
        let wait = waits.max().expect("two buckets");
        both().for_each(|(i, amount)| state.buckets[i].take(amount, wait > 0));
        let wait = Duration::from_nanos(wait).min(WAIT_MAX);
        Turn {
            throttle: self.clone(),
            cost,
            round: self.round(),
            asked,
            at: now + wait,
            promised: !wait.is_zero(),
        }
    }

    /// What is limited, and what came of it.
    pub fn report(&self) -> LimitsReport {
        let state = self.state();
        let [requests, bytes] = state.limits.rates();
        LimitsReport {
            iops: requests.per_second,
            iops_burst: if requests.per_second > 0 {
                requests.burst
            } else {
                0
            },
            bytes_per_second: bytes.per_second,
            burst_bytes: if bytes.per_second > 0 { bytes.burst } else { 0 },
            delayed: state.delayed,
            delayed_nanos: state.delayed_nanos,
        }
    }
}

/// No request waits for longer, however large it is and however low the limit.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

impl Turn {
    /// The request begins.
    pub fn take(mut self) {
        let now = Instant::now();
        let mut state = self.throttle.state();
        if std::mem::take(&mut self.promised) && self.round == self.throttle.round() {
            let buckets = state.buckets.iter_mut().zip(self.cost);
            buckets.for_each(|(bucket, amount)| bucket.redeem(amount));
        }
        let waited = now.saturating_duration_since(self.asked);
        if self.at > self.asked && self.at <= now {
            state.delayed += 1;
            state.delayed_nanos += waited.as_nanos() as u64;
        }
    }
}

impl Drop for Turn {
    /// Nobody uses it any more: those behind it move up.
    fn drop(&mut self) {
        if !self.promised {
            return;
        }
        let state = self.throttle.state();
        if self.round == self.throttle.round() {
            self.throttle.begin_round(state);
        }
    }
}

/// What a request costs; none if it is never kept waiting. Zeros and trims move no payload: they
/// count as one request each, however long they are.
fn cost(request: &RequestKind) -> Option<Cost> {
    match request {
        RequestKind::Read { .. } | RequestKind::Write { .. } => Some([1, request.payload_bytes()]),
        RequestKind::Trim { .. } | RequestKind::WriteZeroes { .. } => Some([1, 0]),
        RequestKind::Flush | RequestKind::BlockStatus { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: RequestKind = RequestKind::Read {
        offset: 0,
        len: 4096,
    };

    fn limits(iops: u64) -> Limits {
        Limits {
            iops,
            iops_burst: 1,
            ..Limits::default()
        }
    }

    #[test]
    fn without_limits_there_are_no_turns() {
        let throttle = Throttle::new(Limits::default());
        let mut turn = None;
        assert!(throttle.admits(&mut turn, &READ, false) && turn.is_none());
        assert_eq!(throttle.report(), LimitsReport::default());
    }

    #[test]
    fn flushes_need_no_turn_and_cost_nothing() {
        let throttle = Throttle::new(limits(1));
        let mut turn = None;
        for _ in 0..9 {
            assert!(throttle.admits(&mut turn, &RequestKind::Flush, false));
        }
        assert!(turn.is_none() && throttle.admits(&mut turn, &READ, false));
    }

    #[test]
    fn turns_come_one_after_the_other_and_move_up_when_one_is_given_back() {
        let throttle = Throttle::new(limits(1));
        let mut turns = [None, None, None];
        let admitted = turns.each_mut().map(|t| throttle.admits(t, &READ, false));
        assert_eq!(admitted, [true, false, false]);
        let [first, second, third] = turns;
        first.expect("a turn").take();
        let (second, mut third) = (second.expect("a turn"), third);
        let was = third.as_ref().expect("a turn").at;
        assert!(was > second.at);
        let round = throttle.round();
        drop(second);
        assert_ne!(throttle.round(), round, "who waits is to ask again");
        assert!(!throttle.admits(&mut third, &READ, false));
        assert!(third.expect("a turn").at < was);
    }

    #[test]
    fn who_is_in_a_hurry_does_not_wait_and_others_pay_for_it() {
        let throttle = Throttle::new(limits(10));
        let admit = |hurry| {
            let mut turn = None;
            let admitted = throttle.admits(&mut turn, &READ, hurry);
            (admitted, turn.expect("a turn"))
        };
        for _ in 0..20 {
            let (admitted, turn) = admit(true);
            assert!(admitted);
            turn.take();
        }
        let (admitted, turn) = admit(false);
        assert!(!admitted && turn.at > turn.asked + Duration::from_secs(1));
        assert_eq!(throttle.report().delayed, 0);
        throttle.set(Limits::default());
        let mut turn = Some(turn);
        assert!(
            throttle.admits(&mut turn, &READ, false),
            "nothing is limited any more"
        );
    }
}

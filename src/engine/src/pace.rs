//! How work in the background, rebuilds and scrubs, gets on with clients: what operators say about it
//! ([`Policy`]), how it steps back when clients wait too long ([`Retreat`]), and what a rebuild learns
//! of its devices ([`Pace`]). All of it is arithmetic on times that it is told.

use crate::api::Nanos;
use crate::array::Array;
use crate::latency::{ReadTimes, Recent};
use crate::status::PaceStatus;
use core::cell::{Cell, RefCell};

/// Slots that a rebuild fills at the same time.
pub const SLOTS_IN_FLIGHT_MAX: usize = 16;
/// How long after a client's last request it is still reckoned with.
const CLIENTS_GONE_AFTER: Nanos = 100_000_000;
/// A step that takes longer is one on disks that seek.
const SEEK_MIN: Nanos = 4_000_000;
/// Share of the time that a rebuild takes while clients are at work, in percent, if nothing else
/// is said.
pub const SHARE_DEFAULT: u8 = 20;
/// Under a ceiling a step is no more than what it allows in such a part of a second, so that a
/// change of it is felt soon.
const STEPS_PER_SECOND_MIN: u64 = 10;
/// The time in which latencies of clients are gathered, and after which they are judged.
const WINDOW: Nanos = 500_000_000;
/// How far work in the background steps back at most, in thousandths of its share.
const RETREAT_MIN: u64 = 5;
const SECOND: u128 = 1_000_000_000;

/// What an operator says about work in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Share of the time that a rebuild takes while clients are at work, in percent: 1 to 100.
    pub share_percent: u8,
    /// Bytes of a member that a rebuild fills in a second, whatever clients do; 0: none.
    pub floor: u64,
    /// Bytes of a member that a rebuild fills in a second at most; 0: no limit.
    pub ceiling: u64,
    /// While 99 of 100 requests of clients take longer, work in the background steps back; 0:
    /// never.
    pub latency_target: Nanos,
}

impl Policy {
    /// From the begin of a rebuild's step of so many bytes until the next may begin, where
    /// `courtesy` is what clients want. A ceiling counts more than a floor.
    pub fn period(&self, courtesy: Nanos, bytes: u64) -> Nanos {
        let at_least = time_at(self.ceiling, bytes).unwrap_or(0);
        let at_most = time_at(self.floor, bytes).unwrap_or(Nanos::MAX);
        courtesy.min(at_most).max(at_least)
    }

    /// Whether a step that took so long was too slow for the floor.
    pub fn is_below_floor(&self, took: Nanos, bytes: u64) -> bool {
        time_at(self.floor, bytes).is_some_and(|time| took > time)
    }

    /// Most slots of so many bytes in one step.
    pub fn slots_max(&self, chunk_bytes: u64) -> usize {
        match self.ceiling / STEPS_PER_SECOND_MIN / chunk_bytes {
            _ if self.ceiling == 0 => usize::MAX,
            slots => usize::try_from(slots.max(1)).unwrap_or(usize::MAX),
        }
    }
}

/// How long so many bytes take at a rate; none if there is none.
fn time_at(rate: u64, bytes: u64) -> Option<Nanos> {
    let time = (u128::from(bytes) * SECOND).checked_div(rate.into())?;
    Some(Nanos::try_from(time).unwrap_or(Nanos::MAX))
}

/// How far work in the background has stepped back for clients that wait too long: by half after
/// each window in which they did, forth by a quarter after any other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retreat {
    /// What is left of its share, in thousandths.
    pub permille: u64,
}

impl Default for Retreat {
    fn default() -> Retreat {
        Retreat { permille: 1000 }
    }
}

impl Retreat {
    /// A window is over in which 99 of 100 requests took at most `tail`; none if there were none.
    fn judge(&mut self, tail: Option<Nanos>, target: Nanos) {
        self.permille = match tail {
            Some(tail) if tail > target => (self.permille / 2).max(RETREAT_MIN),
            _ => (self.permille + self.permille / 4 + 1).min(1000),
        };
    }
}

/// Work in the background of one array, as operators have it and clients take it.
pub struct Background {
    policy: Cell<Policy>,
    /// How often that was changed.
    changes: Cell<u64>,
    retreat: Cell<Retreat>,
    /// How long clients' requests took in the window under way, and when that began.
    window: RefCell<(Nanos, Recent)>,
}

impl Background {
    /// Nothing was asked for yet.
    pub fn new(policy: Policy) -> Background {
        Background {
            policy: Cell::new(policy),
            changes: Cell::new(0),
            retreat: Cell::default(),
            window: RefCell::default(),
        }
    }

    /// What holds now.
    pub fn policy(&self) -> Policy {
        self.policy.get()
    }

    /// How often that was changed.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Another policy holds from now on.
    pub fn set_policy(&self, policy: Policy) {
        if policy.latency_target == 0 {
            self.retreat.set(Retreat::default());
        }
        self.policy.set(policy);
        self.changes.set(self.changes.get() + 1);
    }

    /// A client's request took so long.
    pub fn served(&self, took: Nanos, now: Nanos) {
        if self.policy.get().latency_target > 0 {
            self.roll(now);
            self.window.borrow_mut().1.add(took);
        }
    }

    /// Others have answered reads.
    pub fn absorb(&self, times: &ReadTimes, now: Nanos) {
        if self.policy.get().latency_target > 0 {
            self.roll(now);
            times.add_to(&mut self.window.borrow_mut().1);
        }
    }

    /// What is left of the share of work in the background, in thousandths.
    pub fn permille(&self, now: Nanos) -> u64 {
        if self.policy.get().latency_target > 0 {
            self.roll(now);
        }
        self.retreat.get().permille
    }

    /// Judges the windows that are over.
    fn roll(&self, now: Nanos) {
        let mut window = self.window.borrow_mut();
        let (begun, recent) = &mut *window;
        if now.saturating_sub(*begun) < WINDOW {
            return;
        }
        let mut retreat = self.retreat.get();
        retreat.judge(recent.within(990), self.policy.get().latency_target);
        self.retreat.set(retreat);
        *window = (now, Recent::default());
    }

    /// What `uraid status` shows of it.
    pub fn status(&self) -> PaceStatus {
        let policy = self.policy.get();
        PaceStatus {
            rebuild_share_percent: policy.share_percent,
            rebuild_floor: policy.floor,
            rebuild_ceiling: policy.ceiling,
            latency_target_nanos: policy.latency_target,
            left_permille: self.retreat.get().permille as u16,
        }
    }
}

impl Array {
    /// The share of a rebuild while clients are at work, in thousandths of the time.
    pub fn rebuild_permille(&self) -> u64 {
        let share = u64::from(self.background.policy().share_percent);
        (share * self.background.permille(self.ex.now()) / 100).max(1)
    }
}

/// What a rebuild learns. Alone, it fills as many slots at once as it may. Beside clients it fills a
/// few, then waits until those took no more than its share of the time.
pub struct Pace {
    /// Clients' requests counted so far, and when there was last a new one.
    requests: u64,
    busy_until: Nanos,
    /// Slots filled at once beside clients, and what half as many took.
    pub slots: usize,
    half_took: Nanos,
}

impl Pace {
    /// A rebuild that begins after so many requests of clients.
    pub fn new(requests: u64) -> Pace {
        Pace {
            requests,
            busy_until: 0,
            slots: 1,
            half_took: 0,
        }
    }

    /// Whether clients are at work, who have made so many requests so far.
    pub fn is_busy(&mut self, requests: u64, now: Nanos) -> bool {
        if requests != self.requests {
            self.requests = requests;
            self.busy_until = now + CLIENTS_GONE_AFTER;
        }
        now < self.busy_until
    }

    /// From the begin of a step beside clients until the next may begin, at a share of so many
    /// thousandths of the time. It took so long, and kept the host from clients for `own` of that.
    pub fn period(&mut self, took: Nanos, own: Nanos, share_permille: u64) -> Nanos {
        match own < took {
            // The host moves the bytes: more slots at once keep clients waiting longer.
            true => self.slots = 1,
            false => self.seek(took),
        }
        own.saturating_mul(1000) / share_permille
    }

    /// More slots at once, for what has to be done whatever clients do.
    pub fn press(&mut self) {
        self.slots = (2 * self.slots).min(SLOTS_IN_FLIGHT_MAX);
    }

    /// On disks that seek twice the slots take hardly longer: then it is twice as many the next
    /// time. Elsewhere fewer at once are kinder to clients and no slower.
    fn seek(&mut self, took: Nanos) {
        let seeks = took > SEEK_MIN;
        let cheap = seeks && (self.slots == 1 || took < self.half_took + self.half_took / 2);
        if cheap && 2 * self.slots <= SLOTS_IN_FLIGHT_MAX {
            (self.slots, self.half_took) = (2 * self.slots, took);
        } else if !cheap {
            (self.slots, self.half_took) = ((self.slots / 2).max(1), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;
    const MIB: u64 = 1 << 20;

    fn policy(floor: u64, ceiling: u64) -> Policy {
        Policy {
            share_percent: 20,
            floor,
            ceiling,
            latency_target: 0,
        }
    }

    #[test]
    fn courtesy_keeps_between_floor_and_ceiling() {
        // In MiB a second and in ms: floor, ceiling, what courtesy wants for 1 MiB, what it gets.
        for (floor, ceiling, courtesy, period) in [
            (0, 0, 50, 50),
            (0, 0, 0, 0),
            (0, 10, 50, 100),
            (0, 10, 0, 100),
            (0, 10, 500, 500),
            (5, 0, 50, 50),
            (5, 0, 500, 200),
            (5, 10, 500, 200),
            (5, 10, 0, 100),
            (10, 10, 0, 100),
            (10, 10, 5000, 100),
        ] {
            let policy = policy(floor * MIB, ceiling * MIB);
            let found = policy.period(courtesy * MS, MIB);
            assert_eq!(found, period * MS, "{floor} to {ceiling}, {courtesy} ms");
        }
        assert!(policy(10 * MIB, 0).is_below_floor(101 * MS, MIB));
        assert!(!policy(10 * MIB, 0).is_below_floor(99 * MS, MIB));
        assert!(!policy(0, MIB).is_below_floor(Nanos::MAX, MIB));
    }

    #[test]
    fn steps_under_a_ceiling_are_short() {
        for (ceiling, slots) in [(0, usize::MAX), (1, 1), (10 * MIB, 16), (MIB, 1)] {
            assert_eq!(policy(0, ceiling).slots_max(64 << 10), slots, "{ceiling}");
        }
    }

    #[test]
    fn work_steps_back_while_clients_wait_too_long_and_comes_forth_again() {
        let background = Background::new(Policy {
            latency_target: 5 * MS,
            ..policy(0, 0)
        });
        // What 100 requests took in each window, and what is left of the share after it.
        let mut now = 0;
        let mut window = |took: &[Nanos]| {
            for took in took {
                background.served(*took, now);
            }
            now += WINDOW;
            background.permille(now)
        };
        let (quick, slow) = ([MS; 100], [20 * MS; 100]);
        let mut few_slow = quick;
        few_slow[0] = 20 * MS;
        let steps = [
            (&quick[..], 1000),
            (&slow, 500),
            (&slow, 250),
            (&few_slow, 313),
            (&[], 392),
            (&quick, 491),
        ];
        for (took, left) in steps {
            assert_eq!(window(took), left);
        }
        for _ in 0..20 {
            window(&slow);
        }
        assert_eq!(window(&slow), RETREAT_MIN);
        for _ in 0..40 {
            window(&quick);
        }
        assert_eq!(window(&quick), 1000);
        window(&slow);
        background.set_policy(policy(0, 0));
        assert_eq!(
            background.permille(now),
            1000,
            "without a target it has its share"
        );
    }

    /// Steps beside clients on a device where a step of so many slots takes `took`; the most slots
    /// of the last few, and the share of the time they all had.
    fn steps(share: u8, took: impl Fn(u64) -> Nanos) -> (usize, u64) {
        let mut pace = Pace::new(0);
        let (mut worked, mut rested, mut most) = (0, 0, 0);
        for step in 0..40 {
            let time = took(pace.slots as u64);
            most = if step < 30 { 0 } else { most.max(pace.slots) };
            worked += time;
            rested += pace.period(time, time, u64::from(share) * 10) - time;
        }
        (most, 100 * worked / (worked + rested))
    }

    #[test]
    fn a_rebuild_keeps_to_its_share_beside_clients() {
        let flash = |slots| slots * MS / 5;
        let seeks = |slots| 10 * MS + slots * MS / 2;
        for share in [1, 20, 50, 100] {
            assert_eq!(steps(share, flash), (1, share.into()));
            assert_eq!(steps(share, seeks), (SLOTS_IN_FLIGHT_MAX, share.into()));
        }
    }

    #[test]
    fn what_clients_had_of_a_step_is_not_the_rebuild_s() {
        let mut pace = Pace::new(0);
        for _ in 0..4 {
            pace.period(10 * MS, 10 * MS, 200);
        }
        assert!(pace.slots > 1);
        assert_eq!(pace.period(10 * MS, MS, 200), 5 * MS);
        assert_eq!(pace.slots, 1, "clients would wait for all of them");
    }

    #[test]
    fn clients_count_until_a_while_after_their_last_request() {
        let mut pace = Pace::new(7);
        assert!(!pace.is_busy(7, MS), "requests from before are no clients");
        assert!(pace.is_busy(8, 2 * MS) && pace.is_busy(8, 50 * MS));
        assert!(!pace.is_busy(8, 200 * MS));
    }
}

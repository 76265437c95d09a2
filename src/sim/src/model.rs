//! What the export may read as: for every unit the versions that are still possible.
//!
//! Each version of a unit is an operation with a beginning and an end, and every read that
//! returned it is another. Two versions A and B contradict each other exactly when A was settled
//! before B was last seen to begin and B was settled before A was: then neither order explains
//! what clients saw. (This is the test for linearisability of a register whose writes are all
//! different: P. Gibbons, E. Korach, "Testing shared memories", SIAM J. Computing 26, 1997.)
//!
//! A crash is part of the history: what was in flight took effect before it or never did. A loss
//! of power also takes back what no flush has made durable; which of the possible versions is
//! left shows when one of them is read, and from then on it must stay.

use crate::content::{Contents, Value};
use std::collections::BTreeMap;
use std::ops::Range;

/// A point in the history: each issue and each answer has its own.
pub type Tick = u64;

const NEVER: Tick = Tick::MAX;

/// What a crash takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The server was killed: what it answered stays.
    Kill,
    /// The power failed: what was flushed stays.
    Power,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    value: Value,
    /// The request that wrote it; 0 for the zeros of a new array.
    request: u64,
    issued: Tick,
    answered: Tick,
    /// When it was in effect at the latest: answered or first read.
    settled: Tick,
    /// It took effect before this, or never.
    bound: Tick,
    /// The latest beginning of anything that wrote or read it.
    last_begun: Tick,
    /// Survives whatever happens.
    durable: bool,
}

impl Version {
    fn contradicts(&self, other: &Version) -> bool {
        self.settled < other.last_begun && other.settled < self.last_begun
    }

    /// This version as a read from `begun` to `ended` would leave it.
    fn seen(&self, begun: Tick, ended: Tick) -> Version {
        Version {
            settled: self.settled.min(self.bound).min(ended),
            last_begun: self.last_begun.max(begun),
            ..*self
        }
    }

    fn is_durable(&self, durable_before: Tick) -> bool {
        self.durable || self.answered < durable_before
    }

    fn is_in_flight(&self) -> bool {
        self.settled == NEVER && self.bound == NEVER
    }
}

/// The state of the export as clients may know it.
#[derive(Clone)]
pub struct Model {
    units: Vec<Vec<Version>>,
    /// What was answered before this is durable.
    durable_before: Tick,
    last_crash: Tick,
    /// How many reads are in flight by the tick of their beginning.
    reads: BTreeMap<Tick, u32>,
}

impl Model {
    /// An export of so many units, all zero.
    pub fn new(units: u64) -> Model {
        let zeros = Version {
            value: Value::ZERO,
            request: 0,
            issued: 0,
            answered: 0,
            settled: 0,
            bound: NEVER,
            last_begun: 0,
            durable: true,
        };
        Model {
            units: vec![vec![zeros]; units as usize],
            durable_before: 0,
            last_crash: 0,
            reads: BTreeMap::new(),
        }
    }

    /// A request begins to give `unit` a new value.
    pub fn issue(&mut self, tick: Tick, request: u64, unit: u64, value: Value) {
        let oldest_read = self.reads.keys().next().copied().unwrap_or(tick);
        let durable_before = self.durable_before;
        let versions = &mut self.units[unit as usize];
        forget(versions, oldest_read, |w| w.is_durable(durable_before));
        versions.push(Version {
            value,
            request,
            issued: tick,
            answered: NEVER,
            settled: NEVER,
            bound: NEVER,
            last_begun: tick,
            durable: false,
        });
    }

    /// The request was answered: its value is in effect.
    pub fn answer(&mut self, tick: Tick, request: u64, units: Range<u64>, durable: bool) {
        self.each_of(request, units, |v| {
            v.answered = tick;
            v.settled = v.settled.min(tick);
            v.durable |= durable;
        });
    }

    /// The request was answered, and may or may not have changed these units.
    pub fn answer_maybe(&mut self, tick: Tick, request: u64, units: Range<u64>) {
        self.each_of(request, units, |v| v.bound = tick);
    }

    fn each_of(&mut self, request: u64, units: Range<u64>, mut change: impl FnMut(&mut Version)) {
        for unit in units {
            let versions = self.units[unit as usize].iter_mut();
            versions
                .filter(|v| v.request == request)
                .for_each(&mut change);
        }
    }

    /// A flush issued at `issued` was answered.
    pub fn flushed(&mut self, issued: Tick) {
        self.durable_before = self.durable_before.max(issued);
    }

    /// A read begins.
    pub fn read_begins(&mut self, tick: Tick) {
        *self.reads.entry(tick).or_insert(0) += 1;
    }

    /// A read that began at `begun` has ended, however it did.
    pub fn read_ends(&mut self, begun: Tick) {
        let count = self.reads.get_mut(&begun).expect("the read has begun");
        *count -= 1;
        if *count == 0 {
            self.reads.remove(&begun);
        }
    }

    /// Checks what a read from `begun` to `ended` found in `unit`: `part`, from byte `start` of
    /// the unit. The error says in words why it cannot be.
    pub fn check(
        &mut self,
        contents: &Contents,
        (begun, ended): (Tick, Tick),
        unit: u64,
        start: usize,
        part: &[u8],
    ) -> Result<(), String> {
        let versions = &mut self.units[unit as usize];
        let possible = |i: &usize| {
            let seen = versions[*i].seen(begun, ended);
            let others = versions.iter().enumerate().filter(|(j, _)| j != i);
            contents.matches(seen.value, unit, start, part)
                && others
                    .map(|(_, other)| other)
                    .all(|other| !seen.contradicts(other))
        };
        let mut matching = (0..versions.len()).filter(possible);
        match (matching.next(), matching.next()) {
            (Some(only), None) => {
                let version = &mut versions[only];
                *version = version.seen(begun, ended);
                version.durable |= version.issued < self.last_crash;
                Ok(())
            }
            // Several versions look the same: which of them it was stays open.
            (Some(_), Some(_)) => Ok(()),
            (None, _) => {
                let found = contents.describe(part, unit);
                Err(format!(
                    "unit {unit} (byte {} of the export) read as {found} from {begun} to {ended}; \
                     possible: {}",
                    unit * crate::content::UNIT_BYTES,
                    describe(versions, self.durable_before)
                ))
            }
        }
    }

    /// All requests in flight are gone.
    pub fn crash(&mut self, tick: Tick, crash: Crash) {
        let durable_before = self.durable_before;
        for versions in &mut self.units {
            if crash == Crash::Power {
                lose_power(versions, durable_before);
            }
            for version in versions {
                version.bound = version.bound.min(tick);
            }
        }
        self.reads.clear();
        self.last_crash = tick;
    }

    /// The value of a unit that can have only one and is not being written.
    pub fn certain(&self, unit: u64, tick: Tick) -> Option<Value> {
        let mut versions = self.units[unit as usize].clone();
        forget(&mut versions, tick, |_| true);
        match &versions[..] {
            [only] if !only.is_in_flight() => Some(only.value),
            _ => None,
        }
    }

    /// Units of the export.
    pub fn units(&self) -> u64 {
        self.units.len() as u64
    }
}

/// Forgets versions that no read beginning at `oldest_read` or later may return, because one that
/// `stays` has overwritten them.
fn forget(versions: &mut Vec<Version>, oldest_read: Tick, stays: impl Fn(&Version) -> bool) {
    let all = versions.clone();
    let overwritten = |i: usize, v: &Version| {
        let others = all.iter().enumerate().filter(|(j, _)| *j != i);
        let settled = v.settled.min(v.bound);
        others
            .map(|(_, w)| w)
            .any(|w| settled < w.last_begun && w.settled < oldest_read && stays(w))
    };
    let mut i = 0..;
    versions.retain(|v| !overwritten(i.next().expect("it is endless"), v));
}

/// Leaves what may be there once the power is back, in no order.
fn lose_power(versions: &mut Vec<Version>, durable_before: Tick) {
    forget(versions, NEVER, |w| w.is_durable(durable_before));
    if let [only] = &mut versions[..]
        && only.is_durable(durable_before)
    {
        only.durable = true;
        return;
    }
    // Which zeros they are makes no difference any more.
    let mut zeros = 0;
    versions.retain(|v| v.value != Value::ZERO || std::mem::replace(&mut zeros, 1) == 0);
    for version in versions {
        version.answered = NEVER;
        version.settled = NEVER;
        version.last_begun = version.issued;
        version.durable = false;
    }
}

fn describe(versions: &[Version], durable_before: Tick) -> String {
    let time = |tick: Tick| match tick {
        NEVER => "never".to_string(),
        tick => tick.to_string(),
    };
    let one = |v: &Version| {
        let durable = v.is_durable(durable_before);
        format!(
            "\n    {} of request {}: issued {}, answered {}, settled {}, bound {}, last begun {}{}",
            v.value,
            v.request,
            v.issued,
            time(v.answered),
            time(v.settled),
            time(v.bound),
            v.last_begun,
            if durable { ", durable" } else { "" }
        )
    };
    versions.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::UNIT_BYTES;

    struct Register {
        model: Model,
        contents: Contents,
    }

    impl Register {
        fn new() -> Register {
            Register {
                model: Model::new(1),
                contents: Contents::default(),
            }
        }

        fn begin(&mut self, tick: Tick, id: u64) {
            self.model.issue(tick, id, 0, Value::of_write(id));
        }

        fn end(&mut self, tick: Tick, id: u64) {
            self.model.answer(tick, id, 0..1, false);
        }

        fn read(&mut self, begun: Tick, ended: Tick, id: u64) -> bool {
            let mut bytes = [0; UNIT_BYTES as usize];
            if id != 0 {
                self.contents.fill(Value::of_write(id), 0, &mut bytes);
            }
            self.model
                .check(&self.contents, (begun, ended), 0, 0, &bytes)
                .is_ok()
        }
    }

    #[test]
    fn a_read_returns_the_newest_write_or_one_in_flight() {
        let mut r = Register::new();
        r.begin(1, 1);
        assert!(r.read(2, 3, 0) && r.read(4, 5, 1));
        assert!(!r.read(6, 7, 0), "seen, then gone");
        r.end(8, 1);
        r.begin(9, 2);
        r.end(10, 2);
        assert!(r.read(7, 11, 1), "the read began before write 2 ended");
        assert!(!r.read(12, 13, 1), "stale");
        assert!(r.read(12, 13, 2));
        assert!(!r.read(14, 15, 3), "never written");
    }

    #[test]
    fn what_was_read_long_after_it_was_written_is_still_there() {
        let mut r = Register::new();
        r.begin(1, 1);
        r.model.answer(2, 1, 0..1, true);
        assert!(r.read(3, 4, 1));
        r.begin(5, 2);
        assert!(r.read(6, 7, 1));
    }

    #[test]
    fn concurrent_writes_settle_for_one_order() {
        let mut r = Register::new();
        r.begin(1, 1);
        r.begin(2, 2);
        r.end(3, 1);
        r.end(4, 2);
        assert!(r.read(5, 6, 1));
        assert!(!r.read(7, 8, 2));
    }

    #[test]
    fn a_kill_keeps_what_was_answered_and_settles_the_rest_for_good() {
        let mut r = Register::new();
        r.begin(1, 1);
        r.end(2, 1);
        r.begin(3, 2);
        r.model.crash(4, Crash::Kill);
        assert!(!r.read(5, 6, 0), "answered, then lost");
        assert!(r.read(5, 6, 1));
        assert!(!r.read(7, 8, 2), "it came back from the dead");
    }

    #[test]
    fn a_power_loss_keeps_what_was_flushed() {
        let mut r = Register::new();
        r.begin(1, 1);
        r.end(2, 1);
        r.model.flushed(3);
        r.begin(4, 2);
        r.end(5, 2);
        r.begin(6, 3);
        r.end(7, 3);
        r.model.crash(8, Crash::Power);
        assert!(!r.read(9, 10, 0), "flushed, then lost");
        assert!(r.read(9, 10, 2));
        assert!(
            !r.read(11, 12, 3) && !r.read(11, 12, 1),
            "once read it stays"
        );
        r.begin(13, 4);
        r.end(14, 4);
        r.model.crash(15, Crash::Power);
        assert!(!r.read(16, 17, 1), "what was read after a crash is durable");
        assert!(r.read(16, 17, 2) || r.read(16, 17, 4));
    }

    #[test]
    fn an_unread_version_stays_open_until_overwritten() {
        let mut r = Register::new();
        r.begin(1, 1);
        r.end(2, 1);
        r.model.crash(3, Crash::Power);
        assert_eq!(r.model.certain(0, 4), None);
        r.begin(5, 2);
        r.end(6, 2);
        assert_eq!(r.model.certain(0, 7), Some(Value::of_write(2)));
        r.model.flushed(7);
        r.model.crash(8, Crash::Power);
        assert!(!r.read(9, 10, 1) && !r.read(9, 10, 0) && r.read(9, 10, 2));
    }

    #[test]
    fn a_durable_answer_needs_no_flush() {
        let mut r = Register::new();
        r.begin(1, 1);
        r.model.answer(2, 1, 0..1, true);
        r.model.crash(3, Crash::Power);
        assert!(!r.read(4, 5, 0) && r.read(4, 5, 1));
    }

    #[test]
    fn a_trim_may_have_changed_nothing() {
        let mut r = Register::new();
        r.begin(1, 1);
        r.end(2, 1);
        r.model.issue(3, 9, 0, Value::ZERO);
        r.model.answer_maybe(4, 9, 0..1);
        assert!(r.read(5, 6, 1));
        assert!(!r.read(7, 8, 0), "it did not trim then, so it does not now");
        r.begin(9, 2);
        r.end(10, 2);
        assert!(r.read(11, 12, 2));
    }
}

//! Members that are slow sit out of reads, are tried now and then, and come back.
//!
//! Slow is what takes much longer than its peers do: when all are slow, none is. It takes a number
//! of reads to say so, of the member and of its peers, and more to take it back. Writes go on: a
//! member that sits out is in sync. Nobody sits out unless the others have all data.

use crate::api::Nanos;
use crate::array::Array;
use crate::latency::Length;
use crate::members::Member;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;
use uraid_core::config::Index;
use uraid_core::events::EventKind;
use uraid_core::geometry::Slot;
use uraid_core::units::BLOCK_BYTES;

const MILLISECOND: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MILLISECOND;

/// Between two looks at how members do, while there are reads.
const LOOK_INTERVAL: Nanos = 100 * MILLISECOND;
/// Looks after which what was counts for half as much.
const LOOKS_TO_FADE: u32 = 40;
/// Reads of a member that say something about it.
const EVIDENCE_READS: u32 = 32;
/// A read is late after so many times what 99 of 100 reads of the others take.
const LATE_TIMES: Nanos = 2;
/// It is not late before: another way takes time too.
const LATE_MIN: Nanos = MILLISECOND;
/// A member is slow if one of ten of its reads takes so many times longer than with its peers.
const SLOW_TIMES: Nanos = 4;
/// And by so much longer: below that, going around it costs more than it gains.
const SLOW_MARGIN: Nanos = MILLISECOND;
/// What is tried of a member that sits out is good if it takes no longer than so many times what
/// nine of ten reads of its peers do.
const GOOD_TIMES: Nanos = 2;
/// So many good ones, one after the other, bring it back.
const GOOD_PROBES: u32 = 8;
/// A good one is followed by the next after this.
const GOOD_INTERVAL: Nanos = 50 * MILLISECOND;
/// A bad one is followed by the next after this at first, and twice as long each time.
const BAD_INTERVAL: Nanos = SECOND;
/// No longer than this.
const BAD_INTERVAL_MAX: Nanos = 64 * SECOND;
/// Whoever is slow again so soon after it came back is tried less often.
const RELAPSE: Nanos = 300 * SECOND;

/// How a member sits out, or did last.
#[derive(Clone, Copy, Default, Debug)]
pub struct SitOut {
    /// Since when it sits out, if it does.
    pub since: Option<Nanos>,
    /// How often it has been slow.
    pub times: u64,
    /// When it came back last.
    back: Option<Nanos>,
    /// When it is to be tried next; none while it is.
    next_probe: Option<Nanos>,
    /// How long to wait after a bad probe.
    interval: Nanos,
    good_probes: u32,
}

impl SitOut {
    fn begin(&mut self, now: Nanos) {
        let relapse = self.back.is_some_and(|back| now < back + RELAPSE);
        self.interval = match relapse {
            true => (2 * self.interval).min(BAD_INTERVAL_MAX),
            false => BAD_INTERVAL,
        };
        self.since = Some(now);
        self.times += 1;
        self.good_probes = 0;
        self.next_probe = Some(now + self.interval);
    }

    /// Takes the result of a probe; whether it may come back.
    fn probed(&mut self, good: bool, now: Nanos) -> bool {
        let wait = match good {
            true => {
                self.good_probes += 1;
                GOOD_INTERVAL
            }
            false => {
                self.good_probes = 0;
                let interval = self.interval;
                self.interval = (2 * interval).min(BAD_INTERVAL_MAX);
                interval
            }
        };
        self.next_probe = Some(now + wait);
        let is_back = self.good_probes >= GOOD_PROBES;
        if is_back {
            (self.since, self.back) = (None, Some(now));
        }
        is_back
    }
}

/// When members are looked at.
#[derive(Default)]
pub struct Watch {
    next_look: Cell<Nanos>,
    looks: Cell<u32>,
}

/// How one member does with reads of one length.
struct Pace {
    index: Index,
    /// Nine of ten reads take no longer.
    most: Nanos,
    /// Ninety-nine of a hundred.
    tail: Nanos,
}

impl Array {
    /// Looks at how members do, if it is time: whoever is slow sits out, and reads are late by what
    /// is usual now.
    pub fn look_at_members(&self) {
        let now = self.ex.now();
        if now < self.watch.next_look.get() {
            return;
        }
        self.watch.next_look.set(now + LOOK_INTERVAL);
        let paces = Length::ALL.map(|length| self.paces(length));
        let hedging = self.hedges.percent() > 0;
        let late_after = [0, 1].map(|length: usize| {
            if !hedging {
                return None;
            }
            let mut tails: Vec<Nanos> = paces[length].iter().map(|p| p.tail).collect();
            lower_median(&mut tails).map(|tail| (LATE_TIMES * tail).max(LATE_MIN))
        });
        self.hedges.set_late_after(late_after);
        if let Some(view) = &self.view {
            view.set_late_after(late_after, self.hedges.percent());
        }
        for paces in &paces {
            for pace in paces {
                let peers = peers_of(pace.index, paces);
                if let Some(usual) = peers
                    && pace.most > SLOW_TIMES * usual
                    && pace.most > usual + SLOW_MARGIN
                {
                    self.sit_out(pace, usual);
                }
            }
        }
        let looks = self.watch.looks.get() + 1;
        self.watch.looks.set(looks);
        if looks.is_multiple_of(LOOKS_TO_FADE) {
            self.port.fade();
        }
    }

    /// How the members do that are in sync and read, as far as there is evidence.
    fn paces(&self, length: Length) -> Vec<Pace> {
        let config = self.config.borrow();
        let members = self.members.borrow();
        let read = members
            .values()
            .filter(|m| m.alive && !m.sits_out() && config.is_in_sync(m.index));
        let pace = |m: &Member| {
            self.port.look_at(m.device.id, |account| {
                let recent = account.recent(length);
                (recent.len() >= EVIDENCE_READS).then(|| Pace {
                    index: m.index,
                    most: recent.within(900).expect("there are some"),
                    tail: recent.within(990).expect("there are some"),
                })
            })?
        };
        read.filter_map(pace).collect()
    }

    fn sit_out(&self, pace: &Pace, usual: Nanos) {
        let without = |i: Index| {
            let members = self.members.borrow();
            i == pace.index || members.get(&i).is_none_or(|m| m.sits_out() || !m.alive)
        };
        if !self.decodes_without(&without) {
            return;
        }
        let now = self.ex.now();
        if let Some(m) = self.members.borrow_mut().get_mut(&pace.index) {
            if m.sits_out() {
                return;
            }
            m.sit_out.begin(now);
        }
        self.refresh_avoided();
        let text = format!(
            "{}: is slow: one of ten reads takes {} or more, with its peers {}; reads go around it \
             until it is as quick as they are",
            self.member_name(pace.index),
            show_time(pace.most),
            show_time(usual),
        );
        self.tell_of(pace.index, EventKind::MemberSlow, text);
    }

    /// Tries members that sit out with a read that would be theirs, if it is time for that.
    pub fn probe_if_due(&self, slot: Slot, column: usize, rows: Range<usize>) {
        let now = self.ex.now();
        for copy in self.copies_of(column) {
            let Some(index) = self.reader(slot, copy) else {
                continue;
            };
            let mut members = self.members.borrow_mut();
            let Some(m) = members.get_mut(&index).filter(|m| m.sits_out()) else {
                continue;
            };
            if m.sit_out.next_probe.is_some_and(|at| at <= now) {
                m.sit_out.next_probe = None;
                let offset = self.geometry.block_offset(slot, rows.start);
                let len = rows.len() * BLOCK_BYTES;
                let array = self.me();
                self.ex
                    .spawn(async move { array.probe(index, offset, len).await });
            }
        }
    }

    async fn probe(&self, index: Index, offset: u64, len: usize) {
        let begun = self.ex.now();
        let result = self.read_member(index, offset, len).await;
        let now = self.ex.now();
        let usual = peers_of(index, &self.paces(Length::of(len)));
        let limit = usual.map_or(0, |usual| GOOD_TIMES * usual).max(SLOW_MARGIN);
        let good = result.is_ok() && now - begun <= limit;
        let mut members = self.members.borrow_mut();
        let Some(m) = members.get_mut(&index).filter(|m| m.sits_out()) else {
            return; // it has left meanwhile
        };
        let Some(since) = m.sit_out.since.filter(|_| m.sit_out.probed(good, now)) else {
            return;
        };
        let device = m.device.id;
        drop(members);
        self.port.forget_recent(device);
        self.refresh_avoided();
        let text = format!(
            "{}: is as quick as its peers again and is read; it sat out for {}",
            self.member_name(index),
            show_time(now - since),
        );
        self.tell_of(index, EventKind::MemberRecovered, text);
    }
}

/// What nine of ten reads take with the peers of a member: the middle one of them. None if there
/// is no evidence.
fn peers_of(index: Index, paces: &[Pace]) -> Option<Nanos> {
    let peers = paces.iter().filter(|p| p.index != index);
    let mut most: Vec<Nanos> = peers.map(|p| p.most).collect();
    most.sort_unstable();
    most.get(most.len() / 2).copied()
}

fn lower_median(times: &mut [Nanos]) -> Option<Nanos> {
    times.sort_unstable();
    times.get(times.len().checked_sub(1)? / 2).copied()
}

/// A time in words.
fn show_time(time: Nanos) -> String {
    match time {
        0..1_000_000 => format!("{} us", time / 1000),
        1_000_000..10_000_000_000 => format!("{} ms", time / MILLISECOND),
        _ => format!("{} s", time / SECOND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_rarer_while_they_are_bad_and_eight_good_ones_bring_back() {
        let mut sit_out = SitOut::default();
        sit_out.begin(0);
        let mut waits = Vec::new();
        let mut now = 0;
        for _ in 0..9 {
            let at = sit_out.next_probe.expect("there is a next one");
            waits.push((at - now) / SECOND);
            now = at;
            assert!(!sit_out.probed(false, now));
        }
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 64, 64]);
        (1..GOOD_PROBES).for_each(|_| assert!(!sit_out.probed(true, now)));
        assert!(!sit_out.probed(false, now), "it starts over");
        (1..GOOD_PROBES).for_each(|_| assert!(!sit_out.probed(true, now)));
        assert!(sit_out.probed(true, now) && sit_out.since.is_none());
        // Slow again at once: it is tried as rarely as at the end.
        sit_out.begin(now + SECOND);
        assert_eq!(sit_out.interval, BAD_INTERVAL_MAX);
        sit_out.probed(true, now);
        let mut later = SitOut {
            back: Some(0),
            interval: BAD_INTERVAL_MAX,
            ..SitOut::default()
        };
        later.begin(RELAPSE);
        assert_eq!(later.interval, BAD_INTERVAL);
    }
}

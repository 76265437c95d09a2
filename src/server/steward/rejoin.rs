//! Which members of an array are taken back: those that failed by themselves and whose devices are
//! back, at once the first time, later and later if they leave again, and at some time no more.

use super::deeds::{Action, Deed};
use super::{event_member, uuid};
use crate::control::wire::{MemberReport, StatusReport};
use std::collections::BTreeMap;
use std::time::Duration;
use uraid_core::events::EventMember;
use uraid_core::units::Uuid;

/// So many looks in a row must find a device back.
const LOOKS: u32 = 3;

/// Who leaves so often in [`DAY`] stays out.
const LEAVES_MAX: usize = 3;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Each wait is so many times the one before, up to [`WAIT_TIMES_MAX`] times the first.
const WAIT_GROWS: u32 = 10;
const WAIT_TIMES_MAX: u32 = 60;

/// When it is tried again to take a member back that was not.
const RETRY: Duration = Duration::from_secs(60);

/// What is to be done about one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// See whether its device is back.
    Look {
        /// Who it was.
        member: Uuid,
        /// Where it was.
        path: String,
    },
    /// Take it back.
    Do(Deed),
    /// Tell that it stays out.
    GiveUp {
        /// Who.
        member: EventMember,
        /// Why, and what to type.
        text: String,
    },
}

/// What is remembered of a member that has left.
#[derive(Default)]
struct Past {
    /// How often it left by itself.
    times_left: u32,
    /// When, in the last [`DAY`].
    leaves: Vec<Duration>,
    is_out: bool,
    stays_out: bool,
    not_before: Duration,
    /// Looks in a row that found its device.
    seen: u32,
}

/// The members of one array that have left since it was opened.
pub struct Rejoin {
    first_wait: Duration,
    pasts: BTreeMap<Uuid, Past>,
}

impl Rejoin {
    /// Nobody has left yet. Who leaves for the second time waits for `first_wait`.
    pub fn new(first_wait: Duration) -> Rejoin {
        Rejoin {
            first_wait,
            pasts: BTreeMap::new(),
        }
    }

    /// What to do now, at `now` since some origin. Who ails gets its role back, if nobody has it, but
    /// does not become a spare.
    pub fn step(
        &mut self,
        status: &StatusReport,
        ails: impl Fn(&MemberReport) -> bool,
        now: Duration,
    ) -> Vec<Step> {
        let is_there = |id: &Uuid| status.members.iter().any(|m| uuid(&m.uuid) == *id);
        self.pasts.retain(|id, _| is_there(id));
        let members = status.members.iter();
        let wanted = members.filter(|member| member.slot.is_some() || !ails(member));
        let steps = wanted.filter_map(|member| self.step_of(status, member, now));
        steps.collect()
    }

    fn step_of(
        &mut self,
        status: &StatusReport,
        member: &MemberReport,
        now: Duration,
    ) -> Option<Step> {
        let id = uuid(&member.uuid);
        let (Some(why), Some(path)) = (&member.failure, &member.path) else {
            if let Some(past) = self.pasts.get_mut(&id) {
                (past.is_out, past.stays_out) = (false, false);
            }
            return None;
        };
        let past = self.pasts.entry(id).or_default();
        if !past.is_out {
            past.leave(now, self.first_wait);
            if past.stays_out {
                return Some(Step::GiveUp {
                    member: event_member(member),
                    text: stays_out(status, member, path),
                });
            }
        }
        // While another device takes its role, what it holds may still be needed.
        let may_return = !past.stays_out && now >= past.not_before && status.rebuilds.is_empty();
        if !may_return {
            past.seen = 0;
            return None;
        }
        if past.seen < LOOKS {
            let path = path.clone();
            return Some(Step::Look { member: id, path });
        }
        past.put_off(now);
        Some(Step::Do(Deed {
            array: status.name.clone(),
            why: format!("{path} is back, which was out of service ({why})"),
            action: Action::TakeBack {
                member: event_member(member),
                array: uuid(&status.uuid),
                path: path.clone(),
            },
        }))
    }

    /// Whether a look found the device back.
    pub fn saw(&mut self, member: Uuid, is_back: bool) {
        if let Some(past) = self.pasts.get_mut(&member) {
            past.seen = if is_back { past.seen + 1 } else { 0 };
        }
    }
}

impl Past {
    fn leave(&mut self, now: Duration, first_wait: Duration) {
        self.times_left += 1;
        self.leaves.push(now);
        self.leaves.retain(|at| now - *at < DAY);
        let times = match self.times_left {
            1 => 0,
            n => WAIT_GROWS.saturating_pow(n - 2).min(WAIT_TIMES_MAX),
        };
        self.is_out = true;
        self.stays_out = self.leaves.len() >= LEAVES_MAX;
        self.not_before = now + first_wait * times;
        self.seen = 0;
    }

    /// Should it not be taken back now, it is tried again later.
    fn put_off(&mut self, now: Duration) {
        self.seen = 0;
        self.not_before = now + RETRY;
    }
}

fn stays_out(status: &StatusReport, member: &MemberReport, path: &str) -> String {
    let slot = member
        .slot
        .map_or("a member".to_string(), |slot| format!("member {slot}"));
    let name = &status.name;
    format!(
        "{slot} ({path}) has left {LEAVES_MAX} times within a day and stays out: see to its cable and \
         its SMART values, then type: uraid add --name {name} {path}, or for another device: uraid \
         rebuild --name {name} NEW"
    )
}

#[cfg(test)]
mod tests;

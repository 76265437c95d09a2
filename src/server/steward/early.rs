//! Members that are replaced before they fail: while they still serve, by a spare of their array, so
//! that the redundancy is never less than it was.

use super::deeds::{Action, Deed, Spare};
use super::spares::is_spare;
use super::{event_member, uuid};
use crate::control::wire::{MemberReport, StatusReport};
use std::collections::BTreeMap;
use std::time::Duration;
use uraid_core::units::Uuid;

/// When it is tried again after it was not possible.
const RETRY: Duration = Duration::from_secs(600);

/// Who says of itself that it fails, and how.
pub type Failing = BTreeMap<Uuid, String>;

/// What is to be replaced, and what was not possible.
pub struct Early {
    errors_max: u64,
    not_before: BTreeMap<String, Duration>,
}

impl Early {
    /// A member with more than `errors_max` errors is to be replaced.
    pub fn new(errors_max: u64) -> Early {
        Early {
            errors_max,
            not_before: BTreeMap::new(),
        }
    }

    /// Which member of the array to replace now, at `now` since some origin.
    pub fn step(&self, status: &StatusReport, failing: &Failing, now: Duration) -> Option<Deed> {
        let not_before = self.not_before.get(&status.name).copied();
        if status.state != "optimal" || now < not_before.unwrap_or_default() {
            return None;
        }
        let spare = status.members.iter().find(|m| is_spare(m))?;
        let serves = |m: &&MemberReport| m.slot.is_some() && m.state == "in-sync";
        let serving = status.members.iter().filter(serves);
        let ailing = serving.filter_map(|m| Some((m, self.ailment(m, failing)?)));
        // Who fails by its own word first, then who has most errors.
        let urgency = |m: &MemberReport| (failing.contains_key(&uuid(&m.uuid)), errors(m));
        let (old, ailment) = ailing.max_by_key(|(m, _)| urgency(m))?;
        Some(Deed {
            array: status.name.clone(),
            why: ailment,
            action: Action::Replace {
                old: event_member(old),
                spare: Spare {
                    array: uuid(&status.uuid),
                    uuid: uuid(&spare.uuid),
                    path: spare.path.clone()?,
                },
            },
        })
    }

    /// What is wrong with a member, if it is to be replaced.
    pub fn ailment(&self, member: &MemberReport, failing: &Failing) -> Option<String> {
        let path = member.path.as_deref().unwrap_or("a device");
        let name = match member.slot {
            Some(slot) => format!("member {slot} ({path})"),
            None => path.to_string(),
        };
        if let Some(how) = failing.get(&uuid(&member.uuid)) {
            return Some(format!("{name} fails by its own word: {how}"));
        }
        let errors = errors(member);
        (errors > self.errors_max).then(|| format!("{name} has had {errors} errors"))
    }

    /// It was not possible: not at once again.
    pub fn put_off(&mut self, array: &str, now: Duration) {
        self.not_before.insert(array.to_string(), now + RETRY);
    }
}

/// Errors that a device recovers from, and that cost redundancy all the same.
fn errors(member: &MemberReport) -> u64 {
    member.read_errors + member.checksum_errors
}

#[cfg(test)]
mod tests;

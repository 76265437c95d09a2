//! Arrays that help each other out: one that misses a member and has no spare gets that of another.

use super::deeds::{Action, Deed, Spare};
use super::uuid;
use crate::control::wire::{MemberReport, StatusReport};
use std::collections::BTreeMap;
use std::time::Duration;

/// For how long an array must miss a member: it may be back, or the array may have a spare that
/// takes over.
const PATIENCE: Duration = Duration::from_secs(10);

/// When it is tried again after it was not possible.
const RETRY: Duration = Duration::from_secs(600);

/// The groups, and which arrays have missed a member since when.
pub struct Spares {
    /// Names of arrays.
    groups: Vec<Vec<String>>,
    since: BTreeMap<String, Duration>,
    not_before: BTreeMap<String, Duration>,
}

impl Spares {
    /// Each of `groups` holds the names of arrays that share their spares.
    pub fn new(groups: Vec<Vec<String>>) -> Spares {
        Spares {
            groups,
            since: BTreeMap::new(),
            not_before: BTreeMap::new(),
        }
    }

    /// Which spares to move now, at `now` since some origin.
    pub fn step(&mut self, statuses: &[StatusReport], now: Duration) -> Vec<Deed> {
        let needy = |status: &&StatusReport| vacancy(status).is_some() && !has_spare(status);
        let needy: Vec<&StatusReport> = statuses.iter().filter(needy).collect();
        self.since
            .retain(|name, _| needy.iter().any(|status| status.name == *name));
        let mut deeds: Vec<Deed> = Vec::new();
        for status in needy {
            let since = *self.since.entry(status.name.clone()).or_insert(now);
            let not_before = self.not_before.get(&status.name).copied();
            if now < (since + PATIENCE).max(not_before.unwrap_or_default()) {
                continue;
            }
            let given: Vec<String> = deeds
                .iter()
                .flat_map(Deed::arrays)
                .map(String::from)
                .collect();
            let others = statuses.iter().filter(|s| !given.contains(&s.name));
            let others: Vec<&StatusReport> = others.collect();
            deeds.extend(self.help(status, &others));
        }
        deeds
    }

    /// It was not possible: not at once again.
    pub fn put_off(&mut self, array: &str, now: Duration) {
        self.not_before.insert(array.to_string(), now + RETRY);
    }

    /// The smallest spare of the group that is large enough; the first one of several.
    fn help(&self, status: &StatusReport, others: &[&StatusReport]) -> Option<Deed> {
        let group = self.groups.iter().find(|g| g.contains(&status.name))?;
        let may_give = |other: &&&StatusReport| {
            group.contains(&other.name) && other.name != status.name && other.state == "optimal"
        };
        let offers = others.iter().filter(may_give).flat_map(|other| {
            let spares = other.members.iter().filter(|m| is_spare(m));
            spares.filter_map(|m| Some((m.size_bytes?, *other, m)))
        });
        let fits = offers.filter(|(size_bytes, ..)| *size_bytes >= status.member_bytes);
        let (_, from, spare) = fits.min_by_key(|(size_bytes, ..)| *size_bytes)?;
        let slot = vacancy(status)?;
        Some(Deed {
            array: status.name.clone(),
            why: format!("{} misses member {slot} and has no spare", status.name),
            action: Action::MoveSpare {
                from: from.name.clone(),
                spare: Spare {
                    array: uuid(&from.uuid),
                    uuid: uuid(&spare.uuid),
                    path: spare.path.clone()?,
                },
            },
        })
    }
}

/// A spare that is there.
pub fn is_spare(member: &MemberReport) -> bool {
    member.state == "spare" && member.path.is_some()
}

fn has_spare(status: &StatusReport) -> bool {
    status.members.iter().any(is_spare)
}

/// A role that nobody has or is about to have, where a rebuild is possible.
fn vacancy(status: &StatusReport) -> Option<u16> {
    if status.state == "failed" {
        return None;
    }
    let serves =
        |m: &&MemberReport| matches!(m.state.as_str(), "in-sync" | "rebuilding" | "replacing");
    let roles = status.members.iter().filter_map(|m| m.slot);
    let held = |slot: u16| {
        status
            .members
            .iter()
            .filter(serves)
            .any(|m| m.slot == Some(slot))
    };
    { roles }.find(|slot| !held(*slot))
}

#[cfg(test)]
mod tests;

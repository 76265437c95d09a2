//! What can be changed of an array while it runs. It lasts until the array is closed.

use crate::api::{MemberName, Mode, Setting};
use crate::array::Array;
use crate::commands::{Result, refused};
use crate::members::Member;
use crate::pace::Policy;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Array {
    /// Changes how the array runs: all that is wanted, or nothing.
    pub fn set(&self, settings: Vec<Setting>, mode: Mode) -> Result<String> {
        // First whether all of it can be done.
        for setting in &settings {
            if let Setting::WriteMostly(name, _) | Setting::ReadWeight(name, _) = setting {
                let index = self.find(name)?;
                if self.live_device(index).is_none() {
                    return refused(format!("{} is not in service", self.member_name(index)));
                }
            }
        }
        let policy = self.changed_policy(&settings);
        if policy.ceiling > 0 && policy.floor > policy.ceiling {
            return refused(format!(
                "a rebuild cannot fill {} bytes a second at least (rebuild-floor) and {} at most \
                 (rebuild-ceiling)",
                policy.floor, policy.ceiling
            ));
        }
        let sets_scrub = settings.iter().any(|s| matches!(s, Setting::ScrubRate(_)));
        if sets_scrub && !self.has_scrub() {
            return refused(
                "no scrub is under way whose scrub-rate could change: `uraid scrub start \
                 --rate-max` begins one with a limit"
                    .into(),
            );
        }
        if mode == Mode::DryRun {
            return Ok("all of that can be set; no data is touched".into());
        }
        let mut said = Vec::new();
        for setting in settings {
            said.push(self.set_one(setting)?);
        }
        self.refresh_avoided();
        self.background.set_policy(policy);
        self.ex.fire(&self.changed);
        Ok(said.join("; "))
    }

    /// How rebuilds and scrubs are to get on with clients after these changes.
    fn changed_policy(&self, settings: &[Setting]) -> Policy {
        let mut policy = self.background.policy();
        for setting in settings {
            match setting {
                Setting::RebuildShare(percent) => policy.share_percent = *percent,
                Setting::RebuildFloor(rate) => policy.floor = *rate,
                Setting::RebuildCeiling(rate) => policy.ceiling = *rate,
                Setting::LatencyTarget(target) => policy.latency_target = *target,
                _ => {}
            }
        }
        policy
    }

    fn set_one(&self, setting: Setting) -> Result<String> {
        let member = |name: &MemberName, change: &dyn Fn(&mut Member)| -> Result<String> {
            let index = self.find(name)?;
            let mut members = self.members.borrow_mut();
            members.get_mut(&index).into_iter().for_each(change);
            drop(members);
            Ok(self.member_name(index))
        };
        Ok(match setting {
            Setting::ReadBalance(balance) => {
                self.balance.policy.set(balance);
                format!("reads are balanced by {}", balance.as_str())
            }
            Setting::HedgePercent(percent) => {
                self.hedges.set_percent(percent);
                format!("late reads may add {percent} % to all")
            }
            Setting::RebuildShare(percent) => {
                format!("rebuilds take {percent} % of the time while clients are at work")
            }
            Setting::RebuildFloor(0) => "rebuilds are kept to no least speed".into(),
            Setting::RebuildFloor(rate) => {
                format!("rebuilds fill {rate} bytes a second at least, as far as members can")
            }
            Setting::RebuildCeiling(0) => "rebuilds are kept to no speed".into(),
            Setting::RebuildCeiling(rate) => {
                format!("rebuilds fill {rate} bytes a second at most")
            }
            Setting::LatencyTarget(0) => "rebuilds and scrubs step back for no latency".into(),
            Setting::LatencyTarget(nanos) => format!(
                "rebuilds and scrubs step back while 99 of 100 requests take longer than {} µs",
                nanos / 1000
            ),
            Setting::ScrubRate(rate) => {
                self.set_scrub_rate(Some(rate).filter(|rate| *rate > 0));
                match rate {
                    0 => "the scrub is kept to no speed".into(),
                    rate => format!("the scrub reads {rate} bytes of each member a second at most"),
                }
            }
            Setting::WriteMostly(name, on) => {
                let name = member(&name, &|m| m.write_mostly = on)?;
                match on {
                    true => format!("{name} is read only when others cannot be"),
                    false => format!("{name} is read like others"),
                }
            }
            Setting::ReadWeight(name, weight) => {
                let name = member(&name, &|m| m.read_weight = weight)?;
                format!("{name} has the weight {weight}")
            }
        })
    }
}

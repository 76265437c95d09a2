//! What can be changed of an array while it runs. It lasts until the array is closed.

use crate::api::{MemberName, Mode, Setting};
use crate::array::Array;
use crate::commands::{Result, refused};
use crate::members::Member;
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
        if mode == Mode::DryRun {
            return Ok("all of that can be set; no data is touched".into());
        }
        let mut said = Vec::new();
        for setting in settings {
            said.push(self.set_one(setting)?);
        }
        self.refresh_avoided();
        Ok(said.join("; "))
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

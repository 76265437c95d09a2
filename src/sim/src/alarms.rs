//! Nothing is told to be damaged that is not: alarms that are false are soon not heeded.

use crate::rest::superblock_of;
use crate::scenario::{Fault, Scenario};
use crate::world::World;
use uraid_core::events::EventKind;
use uraid_engine::api::Happening;

/// Faults that damage nothing that a member has.
const HARMLESS: [Fault; 6] = [
    Fault::Restart,
    Fault::Break,
    Fault::Hang,
    Fault::Operator,
    Fault::Absent,
    Fault::Slow,
];

/// Whether faults are played, and all of them are harmless: what is told without any is the matter of
/// who scripts it.
pub(crate) fn is_harmless(scenario: &Scenario) -> bool {
    let mut faults = scenario.faults.iter();
    !scenario.faults.is_empty() && faults.all(|fault| HARMLESS.contains(fault))
}

impl World {
    /// Checks what is told: where members only leave and return, no metadata is damaged.
    pub(crate) fn check_alarm(&self, happening: &Happening) -> Result<(), String> {
        let damage = matches!(
            happening.kind,
            EventKind::MetadataDamaged | EventKind::Repaired
        );
        if damage && self.harmless && !self.is_broken(happening) {
            return Err(format!(
                "nothing was damaged, but it said: {}",
                happening.text
            ));
        }
        Ok(())
    }

    /// Whether a broken disk is meant, of which not even that is readable what is sound.
    fn is_broken(&self, happening: &Happening) -> bool {
        let meant = happening.member.map(|member| member.uuid);
        let mut broken = self.disks.iter().filter(|disk| disk.is_broken());
        broken.any(|disk| superblock_of(disk.medium()).map(|s| s.member) == meant)
    }
}

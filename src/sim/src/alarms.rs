//! Nothing is told to be damaged that is not: alarms that are false are soon not heeded.

use crate::scenario::Fault;
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

impl World {
    /// Checks what is told: where members only leave and return, no metadata is damaged.
    pub(crate) fn check_alarm(&self, happening: &Happening) -> Result<(), String> {
        let damage = happening.kind == EventKind::MetadataDamaged;
        let mut faults = self.scenario.faults.iter();
        if damage && faults.all(|fault| HARMLESS.contains(fault)) {
            return Err(format!(
                "nothing was damaged, but it said: {}",
                happening.text
            ));
        }
        Ok(())
    }
}

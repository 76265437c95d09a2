//! Telling what happens: events of which programs know what they mean.

use crate::api::{Event, Happening};
use crate::array::Array;
use alloc::string::String;
use uraid_core::config::Index;
use uraid_core::events::{EventKind, EventMember};

impl Array {
    /// Something happened to the array.
    pub fn tell(&self, kind: EventKind, text: String) {
        let member = None;
        self.event(Event::Happened(Happening { kind, member, text }));
    }

    /// A member has left: whether the next one may.
    pub fn tell_redundancy(&self) {
        let left = self.code.losses_survived(self.in_sync_columns());
        if left == 0 && self.geometry.shape.user_parity() > 0 {
            let text = "the loss of one more member would lose data".into();
            self.tell(EventKind::NoRedundancyLeft, text);
        }
    }

    /// Whether every role has a member that is there and in sync.
    pub fn is_whole(&self) -> bool {
        self.in_sync_columns().len() == self.geometry.shape.columns
    }

    /// The last member that was missing is in sync.
    pub fn tell_restored(&self) {
        let text = "every member is in sync: the redundancy is restored".into();
        self.tell(EventKind::RedundancyRestored, text);
    }

    /// Something happened to a member.
    pub fn tell_of(&self, index: Index, kind: EventKind, text: String) {
        let member = {
            let config = self.config.borrow();
            let entry = config.entry(index);
            Some(EventMember {
                slot: entry.role,
                uuid: entry.uuid,
            })
        };
        self.event(Event::Happened(Happening { kind, member, text }));
    }
}

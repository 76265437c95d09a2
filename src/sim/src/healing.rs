//! Disks that hold wrong bytes without saying so, and the scrubs that heal them.
//!
//! A tainted disk's role counts as in trouble until a scrub that began after the damage was done
//! has finished; from then on all of it must be whole again.

use crate::world::{Ordered, Phase, World};
use std::collections::BTreeSet;
use uraid_engine::api::{Command, CommandId, ScrubOrder};
use uraid_engine::status::ScrubState;

/// What scrubs have to do with.
#[derive(Default)]
pub struct Healing {
    /// Disks that may hold wrong bytes.
    pub tainted: BTreeSet<usize>,
    /// A scrub that was ordered, and the disks it will heal.
    ordered: Option<(CommandId, BTreeSet<usize>)>,
    /// Disks that the scrub under way will have healed.
    under_way: BTreeSet<usize>,
}

impl Healing {
    /// A disk may hold wrong bytes from now on.
    pub fn taint(&mut self, disk: usize) {
        self.tainted.insert(disk);
        if let Some((_, disks)) = &mut self.ordered {
            disks.remove(&disk);
        }
        self.under_way.remove(&disk);
    }

    /// A disk is out of service: the scrub under way no longer looks at it.
    pub fn left(&mut self, disk: usize) {
        if let Some((_, disks)) = &mut self.ordered {
            disks.remove(&disk);
        }
        self.under_way.remove(&disk);
    }

    /// A disk holds nothing of the array any more.
    pub fn emptied(&mut self, disk: usize) {
        self.left(disk);
        self.tainted.remove(&disk);
    }

    /// The server is gone: whatever it was told, it may not have heard.
    pub fn crash(&mut self) {
        self.ordered = None;
    }
}

impl World {
    /// The operator wants everything looked at.
    pub(crate) fn order_scrub(&mut self) {
        if self.phase != Phase::Serving || self.healing.ordered.is_some() {
            return;
        }
        self.look_at_roles();
        let in_sync: BTreeSet<usize> = self.in_sync_disks();
        let heals = |disk: &&usize| in_sync.contains(disk) && !self.disks[**disk].has_mischief();
        let disks = self.healing.tainted.iter().filter(heals).copied().collect();
        let ordered = Ordered {
            what: "scrub".into(),
            at: self.now,
            roles: [].into(),
            device: None,
        };
        let id = self.order(
            Command::Scrub(ScrubOrder::Start { rate_max: None }),
            ordered,
        );
        self.healing.ordered = Some((id, disks));
    }

    /// A command was carried out, or refused.
    pub(crate) fn scrub_ordered(&mut self, id: CommandId, carried_out: bool) {
        if let Some((_, disks)) = self.healing.ordered.take_if(|(ordered, _)| *ordered == id)
            && carried_out
        {
            self.healing.under_way = disks;
        }
    }

    /// Whether a scrub is under way.
    pub(crate) fn is_scrubbing(&self) -> bool {
        let status = self.host.engine.status();
        status.is_some_and(|s| s.scrub.state == ScrubState::Running)
    }

    /// Looks whether a scrub has finished.
    pub(crate) fn look_at_scrub(&mut self) {
        if self.healing.under_way.is_empty() {
            return;
        }
        let state = self.host.engine.status().map(|s| s.scrub.state);
        if state == Some(ScrubState::Finished) && self.healing.ordered.is_none() {
            let healed = std::mem::take(&mut self.healing.under_way);
            self.say(|| format!("disks {healed:?} are healed"));
            self.healing.tainted.retain(|disk| !healed.contains(disk));
        }
    }
}

//! Crashes and starts: when the server dies, what it finds when it comes back, and when it may
//! refuse to start.

use crate::disk::Disk;
use crate::host::Host;
use crate::medium::{Medium, Tearing};
use crate::model::Crash;
use crate::rest::{describe, superblock_of};
use crate::scenario::Fault;
use crate::world::{Phase, World};
use std::collections::BTreeSet;
use uraid_core::config::{Config, Entry, EntryState, Index};
use uraid_core::geometry::Slot;
use uraid_core::superblock::{SUPERBLOCK_BYTES, Superblock, copy_ranges};
use uraid_engine::api::{DeviceId, OpenOptions, Refusal};

impl World {
    /// The server will die soon.
    pub(crate) fn plan_crash(&mut self) {
        let kinds: Vec<Crash> = [(Fault::Kill, Crash::Kill), (Fault::Power, Crash::Power)]
            .into_iter()
            .filter(|(fault, _)| self.scenario.has(*fault))
            .map(|(_, crash)| crash)
            .collect();
        if kinds.is_empty() || self.host.is_doomed() {
            return;
        }
        self.crash = *self.rng.pick(&kinds);
        let steps = self.rng.skewed(9);
        let crash = self.crash;
        self.say(|| format!("{crash:?} in {steps} steps"));
        self.host.crash_after(steps);
    }

    /// The server dies now.
    pub(crate) fn crash_now(&mut self) -> Result<(), String> {
        let crash = self.crash;
        self.say(|| format!("--- {crash:?} ---"));
        match crash {
            Crash::Kill => self.counts.kills += 1,
            Crash::Power => self.counts.power_losses += 1,
        }
        match self.phase {
            Phase::Opening => {
                self.counts.crashes_in_recovery += 1;
                self.doubtful.extend(&self.withheld);
            }
            _ => self.look_at_roles(),
        }
        self.go_dark(crash);
        self.clients.crash(crash);
        self.start(self.scenario.has(Fault::Absent));
        Ok(())
    }

    /// What a crash does to devices and to what the server knew.
    fn go_dark(&mut self, crash: Crash) {
        for disk in &mut self.disks {
            match crash {
                Crash::Kill => disk.settle(),
                Crash::Power => disk.lose_power(Tearing::random(&mut self.rng)),
            }
        }
        for ordered in std::mem::take(&mut self.ordered).into_values() {
            self.weak.extend(ordered.roles);
        }
        self.script.clear();
        self.healing.crash();
    }

    /// Starts the server on the disks there are; `withhold`: some may be left out.
    pub(crate) fn start(&mut self, withhold: bool) {
        let withheld = match withhold {
            true => self.choose_absent(),
            false => BTreeSet::new(),
        };
        self.start_with(withheld, false);
    }

    fn start_with(&mut self, withheld: BTreeSet<u16>, force: bool) {
        self.counts.restarts += 1;
        self.phase = Phase::Opening;
        self.withheld = withheld;
        self.forced = force;
        self.roll_back();
        self.disks.iter_mut().for_each(Disk::attached);
        let here: Vec<usize> = self.disks_to_offer();
        let mut offered: Vec<(DeviceId, usize)> = here
            .into_iter()
            .map(|disk| (self.new_device(), disk))
            .collect();
        self.rng.shuffle(&mut offered);
        self.say(|| {
            let disks: Vec<usize> = offered.iter().map(|o| o.1).collect();
            format!(
                "start with {disks:?}{}",
                if force { ", forced" } else { "" }
            )
        });
        let options = OpenOptions {
            force,
            witness: self.witness.clone(),
            nonce: self.rng.next(),
            ..self.scenario.limits()
        };
        self.failed_from.clear();
        self.count_reads();
        self.host = Host::open(&offered, &self.disks, options, self.watch());
        if self.scenario.has(Fault::Nested) && self.rng.chance(0.3) {
            self.plan_crash();
        }
    }

    /// Roles that will not be there at the next start.
    pub(crate) fn choose_absent(&mut self) -> BTreeSet<u16> {
        let budget = self.budget();
        if budget == 0 || self.rng.chance(0.5) {
            return BTreeSet::new();
        }
        let troubled: BTreeSet<u16> = self.weak.union(&self.doubtful).copied().collect();
        let mut roles: Vec<u16> = self
            .holders
            .keys()
            .filter(|r| !troubled.contains(r))
            .copied()
            .collect();
        self.rng.shuffle(&mut roles);
        let count = self.rng.below(budget as u64 + 1) as usize;
        roles.into_iter().take(count).collect()
    }

    /// Disks the next start gets: all that look like members, less those withheld.
    pub(crate) fn disks_to_offer(&self) -> Vec<usize> {
        let withheld: BTreeSet<usize> = self
            .withheld
            .iter()
            .filter_map(|role| self.holders.get(role))
            .flatten()
            .copied()
            .collect();
        let offered = |disk: &usize| {
            let d = &self.disks[*disk];
            !withheld.contains(disk) && !d.is_gone() && is_member(d.medium())
        };
        (0..self.disks.len()).filter(offered).collect()
    }

    pub(crate) fn refused(&mut self, refusal: Refusal) -> Result<(), String> {
        self.counts.refused_starts += 1;
        for disk in self.disks_to_offer() {
            let (trace, medium) = (&mut self.trace, self.disks[disk].medium());
            trace.line(|| format!("disk {disk} holds {}", describe(medium)));
        }
        // A member from before other changes looks like another side of the array.
        let images = self.wipe_images();
        if !images && (self.forced || !self.may_refuse()) {
            return Err(format!("the start was refused: {}", refusal.text));
        }
        // Attach what was missing; what is dead cannot have gone on, and the operator knows that.
        let force = self.withheld.is_empty() && !images;
        self.start_with([].into(), force);
        Ok(())
    }

    /// Whether, for all that the members here know, the absent ones could have gone on alone: the
    /// last config served, which the witness tells, is not theirs.
    fn may_refuse(&self) -> bool {
        let here: Vec<(&Disk, Superblock)> = self
            .disks_to_offer()
            .into_iter()
            .map(|disk| &self.disks[disk])
            .filter(|disk| disk.answers_reads())
            .filter_map(|disk| Some((disk, superblock_of(disk.medium())?)))
            .collect();
        let superblocks = || here.iter().map(|(_, s)| s);
        let Some(newest) = superblocks().max_by_key(|s| s.config.epoch) else {
            return false;
        };
        let holds = |(i, _): &(Index, &Entry)| {
            let uuid = newest.config.entry(*i).uuid;
            let mut holders = superblocks().filter(|s| s.member == uuid);
            holders.all(|s| s.config.nonce == newest.config.nonce)
        };
        // What was written to some of its members only may have been taken back.
        let complete = in_sync(&newest.config).all(|entry| holds(&entry));
        let mut configs = vec![&newest.config];
        configs.extend((!complete).then_some(&newest.previous));
        let witnessed = self.witness.as_deref().map(witnessed_nonce);
        configs.into_iter().any(|config| {
            // Without its checkpoints a member counts as an old image of itself.
            let is = |(disk, s): &(&Disk, Superblock), e: &Entry| {
                s.member == e.uuid && !disk.has_unreadable_sectors()
            };
            let present = |e: &Entry| here.iter().any(|one| is(one, e));
            let absent = in_sync(config).filter(|(_, e)| !present(e));
            let roles = absent.filter_map(|(_, e)| e.role);
            let shape = self.geometry.shape;
            let columns = roles.map(|role| shape.column_of(Slot(0), role.into()));
            shape.code().can_decode(columns.collect()) && witnessed != Some(config.nonce)
        })
    }
}

fn in_sync(config: &Config) -> impl Iterator<Item = (Index, &Entry)> {
    config
        .members()
        .filter(|(_, e)| e.state == EntryState::InSync)
}

/// The nonce of the last config served, as a witness tells it after the array's UUID.
fn witnessed_nonce(witness: &[u8]) -> u64 {
    u64::from_le_bytes(witness[16..24].try_into().expect("8 bytes"))
}

/// Whether there is a superblock.
fn is_member(medium: &Medium) -> bool {
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    copy_ranges(medium.len()).into_iter().any(|range| {
        medium.read(range.start, &mut bytes);
        Superblock::decode(&bytes).is_ok()
    })
}

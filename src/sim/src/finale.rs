//! The end of a play: everything is repaired, read, stopped, and looked at from outside.

use crate::disk::Disk;
use crate::host::disk_at;
use crate::medium::{Medium, Tearing};
use crate::model::Crash;
use crate::reader::read_all;
use crate::rest::inspect;
use crate::world::{Counts, Phase, World};
use std::collections::BTreeMap;
use uraid_core::geometry::Slot;
use uraid_engine::api::{Nanos, OpenOptions};
use uraid_engine::status::MemberState;

/// Virtual time in which everything must be whole again.
const REPAIR_MAX: Nanos = 3_600_000_000_000;
/// Sets of members from which the array is read once more.
const SUBSETS_MAX: usize = 4;
impl World {
    /// The server has stopped by itself.
    pub(crate) fn stopped(&mut self) -> Result<(), String> {
        if self.clients.in_flight() > 0 {
            return Err("the server stopped and left requests without an answer".into());
        }
        self.phase = Phase::Stopped;
        // Without space there is no saying good-bye: then it is as if the server was killed.
        if !self.disks.iter().any(Disk::is_full) {
            self.clients.all_durable();
        }
        self.look_at_roles();
        let lose_power = self.rng.chance(0.5);
        let left = self.disks_that_left();
        for (i, disk) in self.disks.iter_mut().enumerate() {
            // A device that hangs, or has left, holds up nobody: what it was given it may still do.
            let awaited = !self.passing.contains_key(&i) && !left.contains(&i);
            if disk.next_due().is_some() && awaited {
                return Err("the server stopped with I/O in flight".into());
            }
            disk.settle();
            // A stop forgets nothing, so it does not matter what happens to unflushed sectors.
            if lose_power {
                disk.lose_power(Tearing::ALL_LOST);
            }
        }
        self.clients.crash(if lose_power {
            Crash::Power
        } else {
            Crash::Kill
        });
        Ok(())
    }

    /// Ends the play: the error says what was found wrong.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        self.say(|| "--- the end begins ---".into());
        self.host.spare();
        self.scenario.faults.clear();
        self.until("a stop under way is done", |w| {
            w.phase != Phase::Stopping && (w.phase != Phase::Stopped || w.ordered.is_empty())
        })?;
        if self.phase == Phase::Stopped {
            self.start(false);
        }
        self.until("the array serves", |w| {
            w.phase == Phase::Serving && w.is_quiet()
        })?;
        self.until("faults have passed", |w| w.passing.is_empty())?;
        self.rolled_back.clear();
        self.disks.iter_mut().for_each(Disk::forgo_mischief);
        if self.scenario.layout.redundancy > 0 {
            self.make_whole()?;
        }
        self.until("nothing is being filled", |w| {
            w.host
                .engine
                .status()
                .is_some_and(|s| s.rebuilds.is_empty())
        })?;
        self.script_sweep();
        self.until("everything is read", World::is_quiet)?;
        let members = self.media_by_role()?;
        self.stop();
        self.until("the server stops", |w| {
            w.phase == Phase::Stopped && w.ordered.is_empty()
        })?;
        self.look_from_outside(members)
    }

    fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) -> Result<(), String> {
        let deadline = self.now + REPAIR_MAX;
        while !done(self) {
            if self.now > deadline {
                return Err(format!("stuck: waited for an hour until {what}"));
            }
            if self.phase == Phase::Serving {
                self.ask_script();
            }
            self.turn(false)?;
        }
        Ok(())
    }

    fn make_whole(&mut self) -> Result<(), String> {
        let deadline = self.now + REPAIR_MAX;
        loop {
            self.look_at_roles();
            let open = !self.weak.is_empty();
            if !open && self.ordered.is_empty() {
                return Ok(());
            }
            if self.now > deadline {
                return Err(format!(
                    "stuck: after an hour roles {:?} are not whole",
                    self.weak
                ));
            }
            self.repair();
            let tainted = !self.in_sync_disks().is_disjoint(&self.healing.tainted);
            if tainted && self.ordered.is_empty() && !self.is_scrubbing() {
                self.order_scrub();
            }
            self.turn(false)?;
        }
    }

    /// The disk that holds each role in sync.
    fn media_by_role(&mut self) -> Result<BTreeMap<usize, usize>, String> {
        let status = self
            .host
            .engine
            .status()
            .ok_or("an open array has a status")?;
        let in_sync = status
            .members
            .iter()
            .filter(|m| m.state == MemberState::InSync);
        let place = |m: &uraid_engine::status::MemberStatus| {
            Some((usize::from(m.slot?), m.path.as_deref().and_then(disk_at)?))
        };
        Ok(in_sync.filter_map(place).collect())
    }

    fn look_from_outside(&mut self, disks: BTreeMap<usize, usize>) -> Result<(), String> {
        let media: BTreeMap<usize, Medium> = disks
            .iter()
            .map(|(role, disk)| (*role, self.disks[*disk].medium().clone()))
            .collect();
        let all: Vec<usize> = media.keys().copied().collect();
        let (witness, watch) = (self.witness.clone(), self.watch());
        let read = |roles: &[usize]| {
            let options = OpenOptions {
                read_only: true,
                force: true,
                witness: witness.clone(),
                nonce: 7,
                in_flight_bytes_max: 8 << 20,
                ..OpenOptions::default()
            };
            let media = roles.iter().map(|role| media[role].clone()).collect();
            let read = read_all(media, options, watch);
            read.map_err(|why| format!("read-only from roles {roles:?} alone: {why}"))
        };
        let whole = read(&all)?;
        self.clients.check_all(&whole)?;
        for _ in 0..SUBSETS_MAX {
            let some = self.subset_that_decodes(&all);
            let part = read(&some)?;
            if let Some(at) = (0..whole.len()).find(|i| part[*i] != whole[*i]) {
                return Err(format!(
                    "roles {some:?} alone give another byte {at} than all"
                ));
            }
        }
        inspect(&self.geometry, self.key, &media)
    }

    /// As few members as will do, chosen at random.
    fn subset_that_decodes(&mut self, all: &[usize]) -> Vec<usize> {
        let shape = self.geometry.shape;
        let code = shape.code();
        let decodes = |roles: &[usize]| {
            code.can_decode(roles.iter().map(|r| shape.column_of(Slot(0), *r)).collect())
        };
        let mut left = all.to_vec();
        self.rng.shuffle(&mut left);
        let mut at = 0;
        while at < left.len() {
            let mut fewer = left.clone();
            fewer.remove(at);
            match decodes(&fewer) {
                true => left = fewer,
                false => at += 1,
            }
        }
        left
    }

    /// What the play came to.
    pub(crate) fn tally(&mut self) -> Counts {
        self.count_reads();
        self.counts.io = self.disks.iter().map(|d| d.counts().completed).sum();
        self.counts
    }

    /// Notes what the server that is about to go has made of members that are slow.
    pub(crate) fn count_reads(&mut self) {
        if let Some(status) = self.host.engine.status() {
            let sat_out = status.members.iter().map(|m| m.sit_outs);
            self.counts.hedges += status.reads.hedges;
            self.counts.sit_outs += sat_out.sum::<u64>();
        }
    }
}

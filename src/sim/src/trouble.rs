//! Bad luck and repair: what breaks, how much of it at a time, and how it is made whole again.
//!
//! Never more roles are in trouble than the redundancy covers, so whatever happens no byte may
//! be lost. A role is *weak* when no in-sync member on a sound disk holds it, and *doubtful* when
//! a start that did not complete went without it.

use crate::disk::{Breakdown, Disk, Mischief};
use crate::host::{device, disk_at, path_of};
use crate::medium::Tearing;
use crate::scenario::Fault;
use crate::world::{Ordered, Phase, World};
use std::collections::BTreeSet;
use uraid_core::units::{BLOCK, BLOCK_BYTES};
use uraid_engine::api::{Command, MemberName, Nanos, Setting};
use uraid_engine::status::{MemberState, MemberStatus, ReadBalance};

const SECOND: Nanos = 1_000_000_000;

impl World {
    /// Once per request: perhaps something goes wrong, or is put right.
    pub(crate) fn misfortune(&mut self) {
        if !self.weak.is_empty() && self.rng.chance(0.02) {
            self.repair();
        }
        if !self.healing.tainted.is_empty() && self.rng.chance(0.01) {
            self.order_scrub();
        }
        let kinds: Vec<Fault> = self.scenario.faults.iter().copied().collect();
        if kinds.is_empty() || !self.rng.chance(self.scenario.fault_rate) {
            return;
        }
        self.look_at_roles();
        match *self.rng.pick(&kinds) {
            Fault::Restart => self.stop(),
            Fault::Kill | Fault::Power | Fault::Nested | Fault::Absent => self.plan_crash(),
            Fault::Break => self.break_disk(),
            Fault::Hang => self.hang_disk(),
            Fault::Operator => self.meddle(),
            Fault::ReadErrors => self.spoil_sectors(),
            Fault::FlushErrors => self.fail_flush(),
            Fault::Rollback => self.plan_rollback(),
            Fault::Full => self.fill_disks(),
            Fault::Rot => self.rot(),
            Fault::LostWrites => self.lose_write(),
            Fault::Slow => self.slow_down(),
            Fault::Misdirect => {
                let blocks = self.rng.below(64) as i64 - 32;
                let reads = self.rng.chance(0.5);
                self.make_mischief(match reads {
                    true => Mischief::MisdirectRead(blocks),
                    false => Mischief::MisdirectWrite(blocks),
                });
            }
        }
    }

    /// Asks the server to stop; it is started again once it has.
    pub(crate) fn stop(&mut self) {
        self.phase = Phase::Stopping;
        // As a server does: its other threads are idle before the engine is told.
        self.host.leave_all(&mut self.disks);
        self.command(Command::Stop, "stop".into(), [].into(), None);
    }

    fn command(
        &mut self,
        command: Command,
        what: String,
        roles: BTreeSet<u16>,
        device: Option<uraid_engine::api::DeviceId>,
    ) {
        self.order(
            command,
            Ordered {
                what,
                at: self.now,
                roles,
                device,
            },
        );
    }

    /// Disks that hold a role in sync.
    pub(crate) fn in_sync_disks(&self) -> BTreeSet<usize> {
        let in_sync = |m: &MemberStatus| m.state == MemberState::InSync;
        let members = self.members().into_iter().filter(in_sync);
        members
            .filter_map(|m| disk_at(m.path.as_deref()?))
            .collect()
    }

    fn members(&self) -> Vec<MemberStatus> {
        self.host
            .engine
            .status()
            .map_or_else(Vec::new, |status| status.members)
    }

    /// Disks that were members and are out of service.
    pub(crate) fn disks_that_left(&self) -> BTreeSet<usize> {
        self.disks_of(|state| state == MemberState::Failed)
    }

    /// Disks of members that take writes.
    pub(crate) fn disks_in_use(&self) -> BTreeSet<usize> {
        use MemberState::{InSync, Rebuilding, Replacing};
        self.disks_of(|state| [InSync, Rebuilding, Replacing].contains(&state))
    }

    fn disks_of(&self, wanted: impl Fn(MemberState) -> bool) -> BTreeSet<usize> {
        let members = self.members().into_iter().filter(|m| wanted(m.state));
        members
            .filter_map(|m| m.path.as_deref().and_then(disk_at))
            .collect()
    }

    /// Whether a disk works as it should.
    pub(crate) fn is_sound(&self, disk: usize) -> bool {
        !self.disks[disk].is_broken()
            && !self.passing.contains_key(&disk)
            && !self.healing.tainted.contains(&disk)
            && !self.rolled_back.contains(&disk)
    }

    /// Notes who holds which role and which roles are weak.
    pub(crate) fn look_at_roles(&mut self) {
        let members = self.members();
        if members.is_empty() {
            return;
        }
        self.holders.clear();
        self.weak = (0..self.geometry.shape.columns as u16).collect();
        for member in members {
            let disk = member.path.as_deref().and_then(disk_at);
            let (Some(role), Some(disk)) = (member.slot, disk) else {
                continue;
            };
            self.holders.entry(role).or_default().insert(disk);
            if member.state == MemberState::InSync && self.is_sound(disk) {
                self.weak.remove(&role);
            }
        }
        let ordered: Vec<u16> = self
            .ordered
            .values()
            .flat_map(|o| o.roles.clone())
            .collect();
        self.weak.extend(ordered);
    }

    /// How many more roles may get into trouble.
    pub(crate) fn budget(&self) -> usize {
        let troubled = self.weak.union(&self.doubtful).count();
        self.scenario.layout.redundancy.saturating_sub(troubled)
    }

    /// A sound in-sync member that may get into trouble; its role counts as weak from now on.
    fn victim(&mut self) -> Option<(u16, usize)> {
        let all: Vec<usize> = (0..self.disks.len()).collect();
        self.victim_among(&all)
    }

    /// As [`World::victim`], one of these disks.
    pub(crate) fn victim_among(&mut self, disks: &[usize]) -> Option<(u16, usize)> {
        if self.budget() == 0 {
            return None;
        }
        let mut candidates = Vec::new();
        for member in self.members() {
            let disk = member.path.as_deref().and_then(disk_at);
            let (Some(role), Some(disk)) = (member.slot, disk) else {
                continue;
            };
            let well = member.state == MemberState::InSync && self.is_sound(disk);
            let troubled = self.weak.contains(&role) || self.doubtful.contains(&role);
            if well && !troubled && disks.contains(&disk) {
                candidates.push((role, disk));
            }
        }
        if candidates.is_empty() {
            return None;
        }
        let (role, disk) = *self.rng.pick(&candidates);
        self.weak.insert(role);
        Some((role, disk))
    }

    fn break_disk(&mut self) {
        let Some((_, disk)) = self.victim() else {
            return;
        };
        let how = *self.rng.pick(&[
            Breakdown::Gone,
            Breakdown::Gone,
            Breakdown::NoWrites,
            Breakdown::NoAnswer,
            Breakdown::Short,
        ]);
        self.counts.breakdowns += 1;
        self.say(|| format!("disk {disk} breaks: {how:?}"));
        self.disks[disk].set_breakdown(Some(how));
    }

    fn passes_in(&mut self, disk: usize, seconds_max: u64) -> Nanos {
        let until = self.now + self.rng.within(1..seconds_max * 1000) * SECOND / 1000;
        self.passing.insert(disk, until);
        self.counts.other_faults += 1;
        until
    }

    fn hang_disk(&mut self) {
        let Some((_, disk)) = self.victim() else {
            return;
        };
        let until = self.passes_in(disk, self.scenario.hang_seconds_max);
        self.say(|| format!("disk {disk} hangs until {}", until / 1000));
        self.disks[disk].hang(until);
    }

    /// A disk is slow, mostly one alone; now and then an operator has something to say to that.
    fn slow_down(&mut self) {
        self.counts.other_faults += 1;
        let last = self.disks.len() as u64;
        let disk = self.rng.below(last) as usize;
        let longer = 1_000_000 * self.rng.skewed(10);
        let until = self.now + self.rng.within(1..40) * SECOND;
        self.say(|| format!("disk {disk} is slow by {longer} ns until {}", until / 1000));
        self.disks[disk].slow_down(until, longer);
        if self.rng.chance(0.2) && self.phase == Phase::Serving {
            let setting = match self.rng.below(3) {
                0 => Setting::ReadBalance(*self.rng.pick(&ReadBalance::ALL)),
                1 => Setting::HedgePercent(self.rng.below(101) as u8),
                _ => Setting::WriteMostly(MemberName::Slot(0), self.rng.chance(0.5)),
            };
            let what = format!("set {setting:?}");
            self.command(Command::Set(vec![setting]), what, [].into(), None);
        }
    }

    fn spoil_sectors(&mut self) {
        let Some((_, disk)) = self.victim() else {
            return;
        };
        self.passes_in(disk, 20);
        let zones = self.geometry.zones();
        let areas = [
            zones.checkpoints..zones.journal,
            zones.journal..zones.map,
            zones.map..zones.data,
            zones.data..zones.end,
            zones.data..zones.end,
        ];
        for _ in 0..self.rng.within(1..6) {
            let area = self.rng.pick(&areas).clone();
            let start = self.rng.within(area.clone());
            let end = (start + (self.rng.skewed(7) << 9)).min(area.end);
            self.say(|| format!("disk {disk}: bytes {start}..{end} become unreadable"));
            self.disks[disk].make_unreadable(start..end);
        }
    }

    fn fail_flush(&mut self) {
        let Some((_, disk)) = self.victim() else {
            return;
        };
        self.passes_in(disk, 20);
        self.say(|| format!("disk {disk}: the next flush fails"));
        self.disks[disk].fail_next_flush();
    }

    fn fill_disks(&mut self) {
        for disk in 0..self.disks.len() {
            if self.is_sound(disk) && self.rng.chance(0.5) {
                self.passes_in(disk, 10);
                self.say(|| format!("disk {disk} is full"));
                self.disks[disk].set_full(true);
            }
        }
    }

    fn rot(&mut self) {
        let Some((_, disk)) = self.victim() else {
            return;
        };
        self.healing.taint(disk);
        self.counts.other_faults += 1;
        let zones = self.geometry.zones();
        let bytes = match self.scenario.rot_in_data {
            true => zones.data..zones.end,
            false => 0..self.disks[disk].medium().len(),
        };
        for _ in 0..self.rng.skewed(5) {
            let block = self.rng.within(bytes.start / BLOCK..bytes.end / BLOCK) * BLOCK;
            let mut bytes = vec![0; BLOCK_BYTES];
            self.disks[disk].medium().read(block, &mut bytes);
            let bit = self.rng.below(8 * BLOCK) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            self.say(|| format!("disk {disk}: byte {} rots", block as usize + bit / 8));
            self.disks[disk].medium_mut().set(block, &bytes);
        }
    }

    fn lose_write(&mut self) {
        let zones = self.geometry.zones();
        let areas = [
            (0, u64::MAX),
            (zones.journal, zones.relog),
            (zones.map, zones.checksums),
            (zones.checksums, zones.data),
            (zones.data, zones.end),
        ];
        let (start, end) = *self.rng.pick(&areas);
        self.make_mischief(Mischief::LoseWrite(start, end));
    }

    fn make_mischief(&mut self, mischief: Mischief) {
        let Some((_, disk)) = self.victim() else {
            return;
        };
        self.healing.taint(disk);
        self.counts.other_faults += 1;
        self.say(|| format!("disk {disk}: {mischief:?}"));
        self.disks[disk].set_mischief(mischief);
    }

    /// Ends faults whose time is over.
    pub(crate) fn let_pass(&mut self) {
        let over = |(disk, until): (&usize, &Nanos)| (*until <= self.now).then_some(*disk);
        let over: Vec<usize> = self.passing.iter().filter_map(over).collect();
        for disk in over {
            self.passing.remove(&disk);
            self.disks[disk].recover();
            self.say(|| format!("disk {disk} recovers"));
        }
    }

    /// An operator does something that need not be.
    fn meddle(&mut self) {
        match self.rng.below(5) {
            0 => {
                let Some((role, _)) = self.victim() else {
                    return;
                };
                let command = Command::Fail {
                    member: MemberName::Slot(role),
                    force: false,
                };
                self.command(command, format!("fail slot {role}"), [role].into(), None);
            }
            1 => {
                let roles: Vec<u16> = self.holders.keys().copied().collect();
                if roles.is_empty() {
                    return;
                }
                let role = *self.rng.pick(&roles);
                let (id, disk) = self.fresh_disk();
                let new = device(id, disk, &self.disks);
                let command = Command::Replace {
                    old: MemberName::Slot(role),
                    new,
                    force: false,
                };
                let what = format!("replace slot {role} by {}", path_of(disk));
                self.command(command, what, [].into(), Some(id));
            }
            2 if self.may_widen() && self.rng.chance(0.5) => {
                let (id, disk) = self.fresh_disk();
                let command = Command::AddCopy {
                    device: device(id, disk, &self.disks),
                    force: false,
                };
                let what = format!("add {} as one more copy", path_of(disk));
                self.command(command, what, [].into(), Some(id));
            }
            2 if self.may_narrow() && self.rng.chance(0.5) => {
                let last = self.geometry.shape.columns as u16 - 1;
                let what = "give up the last copy".into();
                self.command(Command::RemoveCopy, what, [last].into(), None);
            }
            2 => {
                let (id, disk) = self.fresh_disk();
                self.add(id, disk);
            }
            3 => self.order_scrub(),
            _ => {
                let gone = [
                    MemberState::Failed,
                    MemberState::Missing,
                    MemberState::Spare,
                ];
                let members = self.members();
                let Some(member) = members.iter().find(|m| gone.contains(&m.state)) else {
                    return;
                };
                let uuid = member.uuid;
                let command = Command::Remove {
                    member: MemberName::Uuid(uuid),
                    force: false,
                };
                self.command(command, format!("remove {uuid}"), [].into(), None);
            }
        }
    }

    fn fresh_disk(&mut self) -> (uraid_engine::api::DeviceId, usize) {
        let bytes = self.disks[0].medium().len();
        self.disks
            .push(Disk::new(bytes, self.scenario.speed, self.rng.fork()));
        let disk = self.disks.len() - 1;
        let id = self.new_device();
        self.attach(id, disk);
        (id, disk)
    }

    fn attach(&mut self, id: uraid_engine::api::DeviceId, disk: usize) {
        self.disks[disk].attached();
        self.failed_from.remove(&disk);
        self.host.attach(id, disk);
    }

    fn add(&mut self, id: uraid_engine::api::DeviceId, disk: usize) {
        let command = Command::Add {
            device: device(id, disk, &self.disks),
            force: true,
        };
        self.command(
            command,
            format!("add {}", path_of(disk)),
            [].into(),
            Some(id),
        );
    }

    /// Brings in a disk for a role that nobody holds, if there is one: an old one or a new one.
    pub(crate) fn repair(&mut self) {
        let members = self.members();
        let busy = [
            MemberState::Rebuilding,
            MemberState::Replacing,
            MemberState::Spare,
        ];
        if members.iter().any(|m| busy.contains(&m.state)) || !self.ordered.is_empty() {
            return;
        }
        let held = |role: u16| {
            let holds = |m: &MemberStatus| m.slot == Some(role) && m.state == MemberState::InSync;
            members.iter().any(holds)
        };
        if (0..self.geometry.shape.columns as u16).all(held) {
            return self.fail_broken(&members);
        }
        self.counts.repairs += 1;
        let returning: Vec<usize> = (0..self.disks.len())
            .filter(|d| !self.host.holds(*d))
            .collect();
        if returning.is_empty() || self.rng.chance(0.5) {
            let (id, disk) = self.fresh_disk();
            return self.add(id, disk);
        }
        let disk = *self.rng.pick(&returning);
        if self.disks[disk].is_broken() {
            // It was without power for a moment.
            let tearing = Tearing::random(&mut self.rng);
            self.disks[disk].set_breakdown(None);
            self.disks[disk].lose_power(tearing);
        }
        self.return_as_image(disk);
        let id = self.new_device();
        self.attach(id, disk);
        self.add(id, disk);
    }

    /// Takes out a member that is broken, if nobody has noticed yet.
    fn fail_broken(&mut self, members: &[MemberStatus]) {
        self.look_at_roles();
        let broken = |m: &&MemberStatus| {
            let disk = m.path.as_deref().and_then(disk_at);
            m.state == MemberState::InSync && disk.is_some_and(|d| self.disks[d].is_broken())
        };
        let Some(role) = members.iter().find(broken).and_then(|m| m.slot) else {
            return;
        };
        let command = Command::Fail {
            member: MemberName::Slot(role),
            force: false,
        };
        self.command(
            command,
            format!("fail broken slot {role}"),
            [role].into(),
            None,
        );
    }
}

//! Status: what the array says about itself.

use crate::array::Array;
use crate::status::{
    ArrayState, MemberIo, MemberState, MemberStatus, RebuildStatus, RoomStatus, Status,
};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_core::config::{Entry, EntryState, Index};
use uraid_core::geometry::Slot;
use uraid_core::units::{BLOCK, Uuid};
use uraid_parity::ColumnSet;

impl Array {
    /// Everything `uraid status` shows.
    pub fn status(&self) -> Status {
        let g = &self.geometry;
        let members = self.member_statuses();
        let rebuilds = self.rebuild_statuses();
        let in_sync = self.in_sync_columns();
        let whole = self.code.can_decode(in_sync);
        let state = if !whole || self.is_suspended() {
            ArrayState::Failed
        } else if !rebuilds.is_empty() {
            ArrayState::Rebuilding
        } else if in_sync.len() < g.shape.columns {
            ArrayState::Degraded
        } else {
            ArrayState::Optimal
        };
        let full = self.full.borrow();
        let no_space = full.first().map(|i| {
            alloc::format!(
                "{}: no space left; writes wait until there is",
                self.member_name(*i)
            )
        });
        Status {
            name: self.name.clone(),
            uuid: self.uuid,
            level: g.shape.level.as_str(),
            data: g.shape.data as u16,
            parity: g.shape.user_parity() as u16,
            chunk_bytes: g.shape.chunk_bytes,
            size_bytes: g.export_bytes,
            member_bytes: g.member_bytes(),
            state,
            redundancy_left: self.code.losses_survived(in_sync) as u16,
            suspended: self.suspended.borrow().clone().or(no_space),
            read_only: self.read_only && !self.dry_run,
            used_stripes: self
                .lanes
                .iter()
                .map(|l| l.slots.borrow().used_count())
                .sum(),
            total_stripes: g.stripes,
            room: self.room(),
            repaired_blocks: self.traffic.repaired_blocks.get(),
            lost_blocks: self.lost.borrow().count(),
            lost_offsets: self.lost.borrow().offsets(),
            scrub: self.scrub_status(),
            io: self.io_totals(),
            reads: self.read_status(),
            pace: self.background.status(),
            members,
            rebuilds,
        }
    }

    fn room(&self) -> RoomStatus {
        let g = &self.geometry;
        let lane_bytes = g.ring_blocks * BLOCK;
        let mut used: BTreeMap<Index, u64> = BTreeMap::new();
        let mut fullest = 0;
        for lane in &self.lanes {
            for (index, ring) in &lane.journal.borrow().rings {
                let bytes = ring.used_blocks() * BLOCK;
                *used.entry(*index).or_default() += bytes;
                fullest = fullest.max(bytes);
            }
        }
        RoomStatus {
            journal_used_bytes: used.into_values().max().unwrap_or(0),
            journal_bytes: lane_bytes * u64::from(g.lanes),
            fullest_lane_permille: (fullest * 1000 / lane_bytes) as u16,
            free_slots: self
                .lanes
                .iter()
                .map(|l| l.slots.borrow().free_count())
                .sum(),
            slots: g.slots,
        }
    }

    /// Columns of slot 0 whose members are in sync and there; any slot would do.
    pub fn in_sync_columns(&self) -> ColumnSet {
        let roles = self.roles.borrow();
        let there = |c: &usize| {
            let role = roles[self.geometry.shape.role_of(Slot(0), *c)];
            role.holder.is_some_and(|i| self.live_device(i).is_some())
        };
        (0..self.geometry.shape.columns).filter(there).collect()
    }

    fn member_statuses(&self) -> Vec<MemberStatus> {
        let config = self.config.borrow();
        let mut all: Vec<MemberStatus> = config
            .members()
            .map(|(i, e)| self.member_status(i, e))
            .collect();
        for role in 0..self.geometry.shape.columns as u16 {
            if !all.iter().any(|m| m.slot == Some(role)) {
                all.push(MemberStatus {
                    slot: Some(role),
                    path: None,
                    uuid: Uuid::default(),
                    state: MemberState::Missing,
                    size_bytes: None,
                    failure: None,
                    read_errors: 0,
                    write_errors: 0,
                    checksum_errors: 0,
                    slow_nanos: None,
                    sit_outs: 0,
                    write_mostly: false,
                    read_weight: 0,
                    io: MemberIo::default(),
                });
            }
        }
        all.sort_by_key(|m| (m.slot.unwrap_or(u16::MAX), m.state == MemberState::Failed));
        all
    }

    /// What people call the device that a member has, or had.
    pub fn path_of(&self, index: Index) -> Option<String> {
        let (members, former) = (self.members.borrow(), self.former.borrow());
        let current = members.get(&index).map(|m| &m.device);
        let device = current.or_else(|| former.get(&index))?;
        Some(device.path.clone())
    }

    fn member_status(&self, index: Index, entry: &Entry) -> MemberStatus {
        let path = self.path_of(index);
        let alive = self.live_device(index).is_some();
        let settling = self.rebuilds.borrow().contains_key(&index);
        let state = match entry.state {
            // Until the config that says so can stand without any one of its other members.
            EntryState::InSync if alive && settling => MemberState::Rebuilding,
            EntryState::InSync if alive => MemberState::InSync,
            EntryState::Rebuilding if alive => MemberState::Rebuilding,
            EntryState::Replacing if alive => MemberState::Replacing,
            EntryState::Spare if alive => MemberState::Spare,
            _ if path.is_some() => MemberState::Failed,
            _ => MemberState::Missing,
        };
        let counters = self.counters.borrow()[usize::from(index.0)];
        let members = self.members.borrow();
        let member = members.get(&index);
        let since = member.and_then(|m| m.sit_out.since.filter(|_| m.alive));
        MemberStatus {
            slot: entry.role,
            path,
            uuid: entry.uuid,
            state,
            size_bytes: member.map(|m| m.device.size_bytes),
            failure: self.failures.borrow().get(&index).cloned(),
            read_errors: counters.read_errors,
            write_errors: counters.write_errors,
            checksum_errors: counters.checksum_errors,
            slow_nanos: since.map(|since| self.ex.now() - since),
            sit_outs: member.map_or(0, |m| m.sit_out.times),
            write_mostly: member.is_some_and(|m| m.write_mostly),
            read_weight: member.map_or(1, |m| m.read_weight),
            io: self.member_io(index),
        }
    }

    /// What a member was asked, for as long as its device is there.
    fn member_io(&self, index: Index) -> MemberIo {
        let members = self.members.borrow();
        let device = members.get(&index).map(|m| m.device.id);
        device.map_or(MemberIo::default(), |device| self.port.totals(device))
    }

    fn rebuild_statuses(&self) -> Vec<RebuildStatus> {
        let config = self.config.borrow();
        let rebuilds = self.rebuilds.borrow();
        let mut all: Vec<RebuildStatus> = rebuilds
            .iter()
            .filter(|(index, _)| self.live_device(**index).is_some())
            .filter_map(|(index, p)| {
                let left = p.total_bytes.saturating_sub(p.done_bytes);
                Some(RebuildStatus {
                    slot: config.entry(*index).role?,
                    done_bytes: p.done_bytes,
                    total_bytes: p.total_bytes,
                    bytes_per_second: p.meter.bytes_per_second,
                    eta_seconds: left.checked_div(p.meter.bytes_per_second),
                })
            })
            .collect();
        all.sort_by_key(|r| r.done_bytes.saturating_mul(1000).checked_div(r.total_bytes));
        all
    }
}

//! What commands would come to, in words: the answers of dry runs. Whether a command would be
//! refused is decided where it is carried out; by the time anything here is asked, it would not.

use crate::api::ScrubOrder;
use crate::array::{Array, RoleMembers};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_core::config::{Config, EntryState, Index};
use uraid_core::geometry::Slot;
use uraid_core::superblock::Superblock;
use uraid_core::units::BLOCK;
use uraid_parity::ColumnSet;

impl Array {
    /// What it would come to if a member left and `new` were the config.
    pub fn would_take_out(&self, index: Index, forget: bool, new: &Config) -> String {
        let label = self.member_name(index);
        let what = match forget {
            true => "would no longer be a member",
            false => "would be out of service",
        };
        let takes_writes = self.config.borrow().entry(index).state.takes_writes();
        if !takes_writes {
            return format!(
                "{label} {what}; it is not in service, so the redundancy stays as it is"
            );
        }
        if !self.config_decodes(new) {
            return format!("{label} {what}; that would leave {}", self.unavailable(new));
        }
        let columns = self.columns_of(new, Slot(0));
        let risk = match self.code.losses_survived(columns) {
            0 => "the loss of one more member would lose data".into(),
            1 => "the loss of any one more member would be survived".into(),
            n => format!("the loss of any {n} more members would be survived"),
        };
        let spare = new.members().find(|(i, e)| {
            e.state == EntryState::Spare && *i != index && self.live_device(*i).is_some()
        });
        let spare = spare.map_or(String::new(), |(i, _)| {
            format!("; {} would take its place at once", self.member_name(i))
        });
        format!("{label} {what}: all data stays available, and {risk}{spare}")
    }

    /// What it would come to if a device were added: `former` says which role would be taken
    /// back, and since which config it has changed.
    pub fn would_add(
        &self,
        path: &str,
        found: Option<&Superblock>,
        former: Option<(Index, u16, u64)>,
    ) -> String {
        if let Some((_, role, _)) = former {
            return format!(
                "{path} would be taken back as member {role}, and catch up with what changed since \
                 it left; nothing else on it is overwritten"
            );
        }
        let vacant = |r: &RoleMembers| r.holder.is_none() && r.filling.is_none();
        let role = self.roles.borrow().iter().position(vacant);
        let what = match role {
            Some(role) => format!(
                "{path} would be rebuilt as member {role}: {} to copy; the redundancy would be \
                 that much higher after it",
                self.rebuild_size()
            ),
            None => format!("{path} would be a spare: no member is missing"),
        };
        what + &overwritten(found)
    }

    /// What it would come to if a device took the role of the member `label`; `served`: that
    /// one serves.
    pub fn would_replace(
        &self,
        label: &str,
        path: &str,
        found: Option<&Superblock>,
        served: bool,
    ) -> String {
        let size = self.rebuild_size();
        let what = match served {
            true => format!(
                "{path} would be filled to replace {label}, {size} to copy; that one would serve \
                 until then: the redundancy is kept throughout"
            ),
            false => format!(
                "{path} would be rebuilt in place of {label}, {size} to copy; that one does not \
                 serve: the redundancy would come back with the end of the rebuild"
            ),
        };
        what + &overwritten(found)
    }

    /// What one more copy on a device would come to.
    pub fn would_widen(&self, path: &str, found: Option<&Superblock>) -> String {
        let copies = self.geometry.shape.columns;
        format!(
            "{path} would be copy {} of {}: {} to copy; clients would wait for a moment, as at a \
             restart; all {copies} copies would serve throughout{}",
            copies + 1,
            copies + 1,
            self.rebuild_size(),
            overwritten(found)
        )
    }

    /// What one copy less would come to.
    pub fn would_narrow(&self, leaving: &str) -> String {
        let copies = self.geometry.shape.columns - 1;
        format!(
            "{leaving}the array would have {copies} copies and be whole with them; clients would \
             wait for a moment, as at a restart"
        )
    }

    /// What a stop would come to.
    pub fn would_stop(&self) -> String {
        let rebuilds = self.rebuilds.borrow();
        let filling: Vec<String> = rebuilds.keys().map(|i| self.member_name(*i)).collect();
        let rebuilds = match filling.is_empty() {
            true => String::new(),
            false => format!(
                "; the rebuild of {} would rest, and go on at the next start",
                filling.join(", ")
            ),
        };
        match self.suspended.borrow().as_ref() {
            Some(why) => format!("the server would end; it could not flush: {why}"),
            None => format!(
                "requests under way would be finished, everything flushed, and the members let go \
                 of; nothing that was answered would be lost{rebuilds}"
            ),
        }
    }

    /// What an order to the scrub would come to.
    pub fn would_scrub(&self, order: ScrubOrder) -> String {
        let repairs = match self.read_only {
            true => "the array is read-only: nothing would be repaired",
            false => "what checksums prove wrong would be rewritten from the other members",
        };
        match order {
            ScrubOrder::Start { .. } => format!(
                "{} of each member would be read and verified; {repairs}",
                self.rebuild_size()
            ),
            ScrubOrder::Pause => "the scrub would keep its place and rest".into(),
            ScrubOrder::Resume => format!("the scrub would go on where it rests; {repairs}"),
            ScrubOrder::Stop => "the scrub would end where it is; the next one begins anew".into(),
        }
    }

    /// What nobody could give under `config`, in words.
    pub fn unavailable(&self, config: &Config) -> String {
        let blocks = self.unavailable_blocks(config);
        format!(
            "{blocks} blocks of data ({} MiB) unavailable",
            (blocks * BLOCK).div_ceil(1 << 20)
        )
    }

    /// Blocks of stripes in use that the in-sync members of `config` cannot give.
    fn unavailable_blocks(&self, config: &Config) -> u64 {
        let shape = &self.geometry.shape;
        let lost_of = |first: u64| {
            let have = self.columns_of(config, Slot(first));
            let lost = |column: &usize| match shape.copies {
                // Without enough columns to decode a block counts that lies on nobody who is here.
                1 => !self.code.can_decode(have) && !have.contains(*column),
                _ => (*column..shape.columns)
                    .step_by(shape.data)
                    .all(|copy| !have.contains(copy)),
            };
            (0..shape.data).filter(lost).count() as u64
        };
        // Roles rotate: how many columns of a slot are lost repeats every so many slots.
        let lost: Vec<u64> = (0..shape.columns as u64).map(lost_of).collect();
        let mut chunks = 0;
        let mut slot = Slot(0);
        loop {
            slot = self.skip_unused(slot);
            if slot.0 >= self.geometry.slots {
                return chunks * shape.rows() as u64;
            }
            let lane = &self.lanes[self.geometry.lane_of_slot(slot)];
            let owner = lane.slots.borrow().owner(self.geometry.in_lane(slot.0));
            if owner.is_some() {
                chunks += lost[(slot.0 % shape.columns as u64) as usize];
            }
            slot.0 += 1;
        }
    }

    /// Columns of `slot` whose members are in sync under `config`, and can be reached.
    pub fn columns_of(&self, config: &Config, slot: Slot) -> ColumnSet {
        let in_sync = config
            .members()
            .filter(|(i, e)| e.state == EntryState::InSync && self.live_device(*i).is_some());
        let roles = in_sync.filter_map(|(_, e)| e.role);
        let shape = &self.geometry.shape;
        roles
            .map(|role| shape.column_of(slot, role.into()))
            .collect()
    }

    /// What is in use on each member, in words.
    fn rebuild_size(&self) -> String {
        let used = self.lanes.iter().map(|l| l.slots.borrow().used_count());
        let bytes = used.sum::<u64>() * u64::from(self.geometry.shape.chunk_bytes);
        format!("{} MiB", bytes.div_ceil(1 << 20))
    }
}

/// What would be lost on a device that is taken in.
fn overwritten(found: Option<&Superblock>) -> String {
    found.map_or("; what it holds would be overwritten".into(), |s| {
        format!(
            "; it was a member of \"{}\" ({}), and what it holds would be overwritten",
            s.name, s.array
        )
    })
}

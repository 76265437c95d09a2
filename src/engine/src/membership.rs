//! Members leaving and joining: verdicts on failures, and the change of config that makes them
//! true. A config is durable on all its members before anything is answered under it.

use crate::api::{DeviceId, Event, IoError, Nanos};
use crate::array::Array;
use crate::executor::join_all;
use crate::members::{NO_SPACE_RETRY, describe, is_no_space};
use crate::mutants::{Mutant, active};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use uraid_core::config::{Config, EntryState, Index};
use uraid_core::events::EventKind;
use uraid_core::geometry::Stripe;
use uraid_core::pages::MapEntry;
use uraid_core::superblock::{Counters, Superblock};

/// How long a verdict waits for the peers' I/O: the same fault may be about to show on them.
const SETTLE_MAX: Nanos = 2_000_000_000;

/// Why a config was not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unchanged {
    /// The change makes no sense; the text says why.
    Refused(String),
    /// Too few members are left; the text says which.
    Suspended(String),
}

impl From<Unchanged> for String {
    fn from(unchanged: Unchanged) -> String {
        let (Unchanged::Refused(why) | Unchanged::Suspended(why)) = unchanged;
        why
    }
}

impl Array {
    /// A member has failed: no more I/O goes to it, and a verdict follows.
    pub fn condemn(&self, index: Index, why: &str) {
        if self.live_device(index).is_none() {
            return;
        }
        self.end_service(index);
        let text = format!("{}: {why}", self.member_name(index));
        self.tell_of(index, EventKind::MemberFailed, text);
        self.ex.fire(&self.changed);
        let takes_writes = self.config.borrow().entry(index).state.takes_writes();
        if takes_writes {
            self.failures.borrow_mut().insert(index, why.to_string());
        }
        if self.read_only || self.is_suspended() || !takes_writes {
            return; // nothing is written to it, nobody waits for a verdict
        }
        self.condemned.borrow_mut().insert(index, why.to_string());
        if !self.judging.replace(true) {
            let array = self.me();
            self.ex.spawn(async move { array.judge().await });
        }
    }

    /// Waits until a member that failed has left, durably, or the array is suspended.
    pub async fn wait_until_left(&self, index: Index) {
        if active(Mutant::AnswerBeforeConfig) {
            return;
        }
        let settled = || !self.condemned.borrow().contains_key(&index) || self.is_suspended();
        self.ex.until(&self.changed, settled).await;
    }

    /// Waits for the I/O under way on members that work, but not for ever.
    pub async fn settle_io(&self) {
        let token = self.port.next_token();
        let settled = || {
            let members = self.members.borrow();
            let mut alive = members.values().filter(|m| m.alive);
            alive.all(|m| self.port.is_settled(m.device.id, token))
        };
        let deadline = self.after(SETTLE_MAX);
        self.ex
            .until_or(deadline, &self.port.settled, settled)
            .await;
    }

    /// Waits for the I/O under way and for what it leads to, such as the next of many discards.
    pub async fn settle_all_io(&self) {
        loop {
            let token = self.port.next_token();
            self.settle_io().await;
            self.ex.yield_now().await;
            if self.port.next_token() == token {
                return;
            }
        }
    }

    /// Decides about failed members once their peers had time to show the same fault.
    async fn judge(&self) {
        self.settle_io().await;
        if !self.condemned.borrow().is_empty() {
            // Too few left: that is what suspending is for.
            let _ = self.change_config(|_| Ok(())).await;
        }
        self.judging.set(false);
        if !self.condemned.borrow().is_empty() && !self.is_suspended() {
            self.judging.set(true);
            let array = self.me();
            self.ex.spawn(async move { array.judge().await });
        }
    }

    /// Stops all writes for good: members have no space and the server must go.
    pub fn give_up_on_space(&self) {
        let full: Vec<String> = self
            .full
            .borrow()
            .iter()
            .map(|i| self.member_name(*i))
            .collect();
        if !full.is_empty() {
            let why = format!("no space left on {}", full.join(", "));
            self.suspended.borrow_mut().get_or_insert(why);
            self.wake_all();
        }
    }

    /// Stops all writes: more members failed than the redundancy covers. Nobody is ejected, so
    /// that nothing is lost if it was a cable.
    fn suspend(&self) {
        let why = self.too_many_failed();
        self.tell(EventKind::Suspended, why.clone());
        self.suspended.borrow_mut().get_or_insert(why);
        // Nobody has left, and nothing is written any more: what can be read is served.
        for index in self.condemned.borrow().keys() {
            if let Some(m) = self.members.borrow_mut().get_mut(index) {
                m.alive |= m.refuses_writes;
            }
        }
        self.wake_all();
    }

    fn too_many_failed(&self) -> String {
        let condemned = self.condemned.borrow();
        let names: Vec<String> = condemned.keys().map(|i| self.member_name(*i)).collect();
        format!(
            "more members failed than the redundancy covers ({}): writes are suspended; check \
             cables and controller, then restart the server",
            names.join(", ")
        )
    }

    fn wake_all(&self) {
        self.ex.fire(&self.changed);
        self.ex.fire(&self.flushed);
        for lane in &self.lanes {
            if self.is_suspended() {
                self.fail_units(lane);
            }
            self.ex.fire(&lane.journal_moved);
            self.ex.fire(&lane.slots_moved);
            self.ex.fire(&lane.checkpoint_wanted);
        }
    }

    /// Remembers which members have no space; writes to them wait.
    pub fn no_space(&self, index: Index, full: bool) {
        let changed = match full {
            true => self.full.borrow_mut().insert(index),
            false => !self.full.borrow().is_empty() && self.full.borrow_mut().remove(&index),
        };
        if changed {
            let name = self.member_name(index);
            let (kind, text) = match full {
                true => (
                    EventKind::MemberFull,
                    format!("{name}: no space left; writes to it are tried again until there is"),
                ),
                false => (
                    EventKind::MemberHasSpace,
                    format!("{name}: has space again"),
                ),
            };
            self.tell_of(index, kind, text);
        }
    }

    /// Makes a new config, durable on all its members, and puts it in force. Members condemned
    /// meanwhile leave with it. `change` sees them gone, and may find that what was wanted makes
    /// no sense any more. When too few would be left the array is suspended.
    pub async fn change_config(
        &self,
        change: impl Fn(&mut Config) -> Result<(), String>,
    ) -> Result<(), Unchanged> {
        let _held = self.config_lock.lock(&self.ex).await;
        let old = self.config.borrow().clone();
        let (new, condemned) = self.write_next(&old, 0, change).await?;
        self.enforce(new, old, &condemned);
        Ok(())
    }

    /// Makes the config that follows `old`, above the epoch `floor`, and durable on all its
    /// members; gives it, with the condemned that leave with it. The caller holds the config lock,
    /// and puts it in force.
    pub async fn write_next(
        &self,
        old: &Config,
        mut floor: u64,
        change: impl Fn(&mut Config) -> Result<(), String>,
    ) -> Result<(Config, BTreeSet<Index>), Unchanged> {
        loop {
            let Some(next) = self.next_config(old, floor, &change) else {
                self.suspend();
                let why = self.suspended.borrow().clone().unwrap_or_default();
                return Err(Unchanged::Suspended(why));
            };
            let (new, condemned) = next.map_err(Unchanged::Refused)?;
            floor = new.epoch;
            if self.write_config(&new, old).await {
                return Ok((new, condemned));
            }
            if let Some(why) = self.suspended.borrow().clone() {
                return Err(Unchanged::Suspended(why));
            }
        }
    }

    /// The config that [`Array::change_config`] would make now, or why it would not; changes
    /// nothing.
    pub async fn try_config(
        &self,
        change: impl Fn(&mut Config) -> Result<(), String>,
    ) -> Result<Config, Unchanged> {
        let _held = self.config_lock.lock(&self.ex).await;
        let old = self.config.borrow().clone();
        let next = self.next_config(&old, 0, &change);
        let next = next.ok_or_else(|| Unchanged::Suspended(self.too_many_failed()))?;
        next.map(|(new, _)| new).map_err(Unchanged::Refused)
    }

    /// The successor of `old` after `change`, and the condemned that leave with it. None if too few
    /// members are left.
    fn next_config(
        &self,
        old: &Config,
        floor: u64,
        change: &dyn Fn(&mut Config) -> Result<(), String>,
    ) -> Option<Result<(Config, BTreeSet<Index>), String>> {
        let condemned: BTreeSet<Index> = self.condemned.borrow().keys().copied().collect();
        if !condemned.is_empty() && !self.decodes_without(&|i| condemned.contains(&i)) {
            return None;
        }
        let mut new = old.successor(floor, self.nonce());
        // One that fails while it is taken in has no place in the table yet.
        let known = condemned
            .iter()
            .filter(|i| old.entry(**i).state != EntryState::Empty);
        known.for_each(|i| new.mark_left(*i));
        let changed = change(&mut new);
        self.note_checkpoints(&mut new);
        Some(changed.map(|()| (new, condemned)))
    }

    /// Notes what members that leave now are known to have, should an older image of one return.
    fn note_checkpoints(&self, new: &mut Config) {
        let settled = self
            .lanes
            .iter()
            .map(|l| l.journal.borrow().checkpoint_settled)
            .sum();
        let epoch = new.epoch;
        for entry in &mut new.entries {
            if entry.state == EntryState::Failed && entry.left_epoch == epoch {
                entry.left_checkpoints = settled;
            }
        }
    }

    /// Writes a config to all its live members; `false` when one failed (and is condemned now), or
    /// has no space.
    async fn write_config(&self, new: &Config, old: &Config) -> bool {
        let members = new.members().filter(|(_, e)| e.state != EntryState::Failed);
        let targets: Vec<Index> = members
            .map(|(i, _)| i)
            .filter(|i| self.live_device(*i).is_some())
            .take(if active(Mutant::ConfigOnOneMember) {
                1
            } else {
                usize::MAX
            })
            .collect();
        let write = |index: Index| async move {
            let result = self.write_superblock(index, new, old).await;
            if let Err(error) = result {
                let why = format!("its superblock cannot be written: {}", describe(error));
                self.event(Event::Warning(format!(
                    "{}: {why}",
                    self.member_name(index)
                )));
                // A full device is not a failed one, also when the server must go.
                if !is_no_space(result) {
                    self.superblock_failed(index, new, why);
                }
            }
            result.is_ok()
        };
        join_all(targets.into_iter().map(write))
            .await
            .into_iter()
            .all(|ok| ok)
    }

    fn superblock_failed(&self, index: Index, config: &Config, why: String) {
        self.counters.borrow_mut()[usize::from(index.0)].write_errors += 1;
        if let Some(m) = self.members.borrow_mut().get_mut(&index) {
            m.refuses_writes = true;
        }
        self.end_service(index);
        if config.entry(index).state.takes_writes() {
            self.failures.borrow_mut().insert(index, why.clone());
            self.condemned.borrow_mut().insert(index, why);
        }
    }

    /// Writes one member's superblock, durably.
    pub async fn write_superblock(
        &self,
        index: Index,
        config: &Config,
        previous: &Config,
    ) -> Result<(), IoError> {
        let (device, write, size, member) = {
            let mut members = self.members.borrow_mut();
            let Some(m) = members.get_mut(&index) else {
                return Ok(());
            };
            m.superblock_write += 1;
            (m.device.id, m.superblock_write, m.device.size_bytes, m.uuid)
        };
        let superblock = Superblock {
            features: self.features,
            array: self.uuid,
            name: self.name.clone(),
            key: self.key,
            geometry: self.geometry_told.get().unwrap_or(self.geometry),
            index,
            member,
            write,
            config: config.clone(),
            previous: previous.clone(),
            scrub: self.scrub.borrow().record(),
            counters: self.all_counters(),
        };
        let bytes = self.pool.copy(&superblock.encode());
        let offsets = Superblock::offsets(write, size);
        let writes =
            offsets.map(|offset| self.port.write(device, offset, alloc::vec![bytes.clone()]));
        for (write, offset) in writes.into_iter().zip(offsets) {
            let mut result = write.done().await;
            let mut last_try = false;
            while is_no_space(result) && !self.is_suspended() {
                // As for any write: a full device is not a failed one.
                self.no_space(index, true);
                if last_try {
                    self.give_up_on_space();
                    break;
                }
                let again = self.after(NO_SPACE_RETRY);
                let ending = || self.ending.get();
                self.ex.until_or(again, &self.changed, ending).await;
                last_try = self.ending.get();
                let again = alloc::vec![bytes.clone()];
                result = self.port.write(device, offset, again).done().await;
            }
            result?;
        }
        if active(Mutant::ConfigUnflushed) {
            return Ok(());
        }
        self.port.flush(device).done().await?;
        self.check_kept(device, offsets, &bytes).await
    }

    /// Reads a superblock back: a member that lost it would be believed to have missed a change
    /// of config that all others know, and would take them back to the one before.
    async fn check_kept(
        &self,
        device: DeviceId,
        offsets: [u64; 2],
        bytes: &[u8],
    ) -> Result<(), IoError> {
        for offset in offsets {
            let read = self.port.read(device, offset, self.pool.take(bytes.len()));
            // What cannot be read now is a matter for when it is needed: there is another copy.
            if read.filled().await.is_ok_and(|found| found[..] != *bytes) {
                return Err(IoError::NotKept);
            }
        }
        Ok(())
    }

    fn all_counters(&self) -> Vec<Counters> {
        let scrub = self.scrub.borrow();
        let mut all = self.counters.borrow().clone();
        for (i, counters) in all.iter_mut().enumerate() {
            counters.scrub = scrub.counts(Index(i as u16));
        }
        all
    }

    /// Puts a config that is durable everywhere in force.
    fn enforce(&self, new: Config, old: Config, condemned: &BTreeSet<Index>) {
        let left = |i: &Index| {
            old.members()
                .any(|(o, e)| o == *i && e.state.takes_writes())
                && !new.entry(*i).state.takes_writes()
        };
        let leaving: Vec<Index> = old.members().map(|(i, _)| i).filter(left).collect();
        let epoch = new.epoch;
        let was_whole = self.is_whole();
        *self.previous.borrow_mut() = old;
        *self.config.borrow_mut() = new;
        self.refresh_roles();
        for index in &leaving {
            let text = format!("{} is out of service", self.member_name(*index));
            self.tell_of(*index, EventKind::MemberLeft, text);
            self.end_service(*index);
            self.rebuilds.borrow_mut().remove(index);
            for lane in &self.lanes {
                lane.sums.forget(*index);
                lane.journal.borrow_mut().forget(*index);
            }
            self.release(*index);
        }
        if !leaving.is_empty() {
            self.tell_redundancy();
        }
        if !was_whole && self.is_whole() {
            self.tell_restored();
        }
        if !leaving.is_empty() && !active(Mutant::NoRetag) {
            self.retag(epoch);
        }
        self.condemned
            .borrow_mut()
            .retain(|i, _| !condemned.contains(i));
        self.event(Event::Witness(self.witness()));
        self.wake_all();
        let array = self.me();
        self.ex.spawn(async move { array.maintain().await });
    }

    /// What the member that left missed: stripes journalled since its last checkpoint count as
    /// changed under the config it is not part of.
    fn retag(&self, epoch: u64) {
        for lane in &self.lanes {
            let mut map = lane.map.borrow_mut();
            let overlay = lane.overlay.borrow();
            let touched = map.touched.iter().flatten().copied();
            let touched: Vec<Stripe> = touched.chain(overlay.stripes()).collect();
            for stripe in touched {
                if let Some(slot) = map.get(stripe).slot() {
                    map.set(stripe, MapEntry::new(slot, epoch));
                }
            }
        }
    }

    /// Writes counters and cursors to all members.
    pub async fn save_counters(&self) {
        let _held = self.config_lock.lock(&self.ex).await;
        let (config, previous) = (self.config.borrow().clone(), self.previous.borrow().clone());
        if !self.write_config(&config, &previous).await && !self.judging.replace(true) {
            let array = self.me();
            self.ex.spawn(async move { array.judge().await });
        }
    }

    /// Lets go of a device once no I/O on it is outstanding.
    pub fn release(&self, index: Index) {
        let Some(device) = self.members.borrow().get(&index).map(|m| m.device.clone()) else {
            return;
        };
        let array = self.me();
        self.ex.spawn(async move {
            let token = array.port.next_token();
            let settled = || array.port.is_settled(device.id, token);
            array.ex.until(&array.port.settled, settled).await;
            let mut members = array.members.borrow_mut();
            if members
                .get(&index)
                .is_some_and(|m| m.device.id == device.id && !m.alive)
            {
                members.remove(&index);
                array.event(Event::Released(device.id));
                array.former.borrow_mut().insert(index, device);
            }
        });
    }
}

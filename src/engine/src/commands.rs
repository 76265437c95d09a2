//! What operators ask of a running array.

use crate::api::{Command, CommandError, Device, MemberName, Mode};
use crate::array::Array;
use crate::executor::join_all;
use crate::join::Joining;
use crate::members::Member;
use crate::membership::Unchanged;
use crate::mutants::{Mutant, active};
use crate::open::{inspect_device, read_checkpoint};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_core::config::{Config, Entry, EntryState, Index};
use uraid_core::events::EventKind;
use uraid_core::superblock::{Superblock, copy_ranges};
use uraid_core::units::{BLOCK_BYTES, Uuid};

impl From<Unchanged> for CommandError {
    fn from(unchanged: Unchanged) -> CommandError {
        match unchanged {
            Unchanged::Refused(why) => CommandError::Refused(why),
            Unchanged::Suspended(why) => CommandError::Failed(why),
        }
    }
}

pub(crate) type Result<T> = core::result::Result<T, CommandError>;

pub(crate) fn refused<T>(text: String) -> Result<T> {
    Err(CommandError::Refused(text))
}

impl Array {
    /// Carries out one command, or says what that would come to.
    pub async fn command(&self, command: Command, mode: Mode) -> Result<String> {
        if let Command::Scrub(order) = command {
            return self.order_scrub(order, mode).await;
        }
        if let Command::Set(settings) = command {
            return self.set(settings, mode);
        }
        if !matches!(command, Command::Stop) {
            self.check_changeable(mode)?;
        }
        if let Command::Clear { member } = command {
            return self.clear(member, mode).await;
        }
        // One at a time: each decides by what the one before has left.
        let _held = self.membership_lock.lock(&self.ex).await;
        match command {
            Command::Fail { member, force } => self.fail(&member, force, mode).await,
            Command::Remove { member, force } => self.remove(&member, force, mode).await,
            Command::Add { device, force } => self.add(device, force, mode).await,
            Command::AddCopy { device, force } if mode == Mode::DryRun => {
                self.would_add_copy(&device, force).await
            }
            Command::RemoveCopy if mode == Mode::DryRun => self.would_remove_copy(),
            Command::AddCopy { .. } | Command::RemoveCopy => {
                unreachable!("the engine opens the array anew for it")
            }
            Command::Replace { old, new, force } => self.replace(&old, new, force, mode).await,
            Command::Clear { .. } | Command::Scrub(_) | Command::Set(_) => {
                unreachable!("they need no lock")
            }
            Command::Stop if mode == Mode::DryRun => Ok(self.would_stop()),
            Command::Stop => self.stop().await,
        }
    }

    /// Whether commands may change anything.
    pub fn check_changeable(&self, mode: Mode) -> Result<()> {
        match self.read_only && !(self.dry_run && mode == Mode::DryRun) {
            true => refused(
                "the array is served read-only: stop it and serve it without --read-only".into(),
            ),
            false => Ok(()),
        }
    }

    pub(crate) fn find(&self, name: &MemberName) -> Result<Index> {
        let config = self.config.borrow();
        let found = match name {
            MemberName::Device(id) => {
                let members = self.members.borrow();
                let former = self.former.borrow();
                let current = members
                    .values()
                    .find(|m| m.device.id == *id)
                    .map(|m| m.index);
                current.or_else(|| former.iter().find(|(_, d)| d.id == *id).map(|(i, _)| *i))
            }
            // The holder first: a member that replaces another has the same role.
            MemberName::Slot(slot) => {
                let with_role = || config.members().filter(|(_, e)| e.role == Some(*slot));
                let in_sync = with_role().find(|(_, e)| e.state == EntryState::InSync);
                in_sync.or_else(|| with_role().next()).map(|(i, _)| i)
            }
            MemberName::Uuid(uuid) => config.find(*uuid),
        };
        found
            .filter(|i| config.entry(*i).state != EntryState::Empty)
            .ok_or_else(|| {
                CommandError::Refused("no such member: `uraid status` lists them".into())
            })
    }

    async fn fail(&self, name: &MemberName, force: bool, mode: Mode) -> Result<String> {
        let index = self.find(name)?;
        let (label, next) = (self.member_name(index), self.copy_to_spare(index));
        if let Some(would) = self.take_out(index, force, false, mode).await? {
            return Ok(would);
        }
        Ok(format!("{label} is out of service{next}"))
    }

    /// Takes a member out by config; I/O to it ends only once that is durable, so that no write
    /// is answered that it did not take before its leaving is known. A dry run ends with what
    /// that would come to.
    async fn take_out(
        &self,
        index: Index,
        force: bool,
        forget: bool,
        mode: Mode,
    ) -> Result<Option<String>> {
        let label = self.member_name(index);
        let change = |config: &mut Config| {
            let state = config.entry(index).state;
            if !forget && !state.takes_writes() {
                return Err(format!(
                    "{label} is not in service: `uraid status` shows its state, `uraid remove` \
                     forgets it"
                ));
            }
            if forget && state.takes_writes() && !force {
                return Err(format!(
                    "{label} is in service: fail it first, or use --force"
                ));
            }
            config.mark_left(index);
            if state == EntryState::InSync && !force && !self.config_decodes(config) {
                return Err(format!(
                    "{label} holds data that no other member can replace now: only with --force; \
                     that would leave {} until it returns",
                    self.unavailable(config)
                ));
            }
            if forget {
                *config.entry_mut(index) = Entry::EMPTY;
            }
            Ok(())
        };
        if mode == Mode::DryRun {
            let new = self.try_config(change).await?;
            return Ok(Some(self.would_take_out(index, forget, &new)));
        }
        self.change_config(change).await?;
        self.end_service(index);
        Ok(None)
    }

    async fn remove(&self, name: &MemberName, force: bool, mode: Mode) -> Result<String> {
        let index = self.find(name)?;
        let (label, next) = (self.member_name(index), self.copy_to_spare(index));
        if let Some(would) = self.take_out(index, force, true, mode).await? {
            return Ok(would);
        }
        self.release(index);
        Ok(format!("{label} is no longer a member{next}"))
    }

    /// Reads what a new device holds and refuses what must not be overwritten.
    pub async fn examine(&self, device: &Device, force: bool) -> Result<Option<Superblock>> {
        let needed = self.geometry.member_bytes();
        if device.size_bytes < needed {
            return Err(CommandError::Failed(format!(
                "{}: {} bytes are too small, a member of this array has {needed} bytes: take a \
                 larger one",
                device.path, device.size_bytes
            )));
        }
        let found = inspect_device(&self.port, &self.pool, device)
            .await
            .superblock;
        match found {
            Some(s) if s.array != self.uuid && !force => refused(format!(
                "{} is a member of array \"{}\" ({}): wipe it with `uraid wipe`, or use --force",
                device.path, s.name, s.array
            )),
            Some(s) if s.array == self.uuid && self.is_in_use(s.member) => refused(format!(
                "{} is a copy of a member that is in use ({}): if it is to be overwritten, wipe it \
                 with `uraid wipe` first",
                device.path, s.member
            )),
            found => Ok(found),
        }
    }

    fn is_in_use(&self, member: Uuid) -> bool {
        self.members
            .borrow()
            .values()
            .any(|m| m.uuid == member && m.alive)
    }

    /// A former member whose role is still vacant, and since when it is missing changes.
    fn former_role(&self, s: &Superblock) -> Option<(Index, u16, u64)> {
        if s.array != self.uuid {
            return None; // taken by force, whatever it says
        }
        let config = self.config.borrow();
        let index = config.find(s.member)?;
        let entry = config.entry(index);
        let role = entry.role.filter(|_| entry.state == EntryState::Failed)?;
        let holders = self.roles.borrow()[usize::from(role)];
        let vacant = holders.holder.is_none() && holders.filling.is_none();
        // It held the last config it was part of, or one after it that was never completed.
        let ours = [s.config.nonce, s.config.parent].contains(&entry.left_nonce);
        (vacant && ours && entry.left_epoch > 0).then_some((index, role, entry.left_epoch))
    }

    /// Whether a former member is what it was when it left, not an older image of it: that would
    /// lack changes which nobody remembers it to lack.
    async fn has_all_it_had(&self, device: &Device, s: &Superblock, index: Index) -> bool {
        let lanes = 0..self.lanes.len();
        let read = lanes.map(|lane| read_checkpoint(&self.port, &self.pool, device.id, s, lane));
        let found: Option<u64> = join_all(read)
            .await
            .into_iter()
            .map(|c| Some(c?.checkpoint.number))
            .sum();
        found >= Some(self.config.borrow().entry(index).left_checkpoints)
            || active(Mutant::OldImageCatchesUp)
    }

    async fn add(&self, device: Device, force: bool, mode: Mode) -> Result<String> {
        self.check_open()?;
        let found = self.examine(&device, force).await?;
        let path = device.path.clone();
        let mut former = found.as_ref().and_then(|s| self.former_role(s));
        if let Some((index, ..)) = former
            && let Some(s) = &found
            && !self.has_all_it_had(&device, s, index).await
        {
            if mode == Mode::Earnest {
                let text =
                    format!("{path}: is an older image of the member that left: it is filled anew");
                self.tell_of(index, EventKind::MemberStale, text);
            }
            former = None;
        }
        if former.is_none() {
            self.free_index()?;
        }
        if mode == Mode::DryRun {
            return Ok(self.would_add(&path, found.as_ref(), former));
        }
        if let Some((index, role, since)) = former
            && let Some(s) = &found
        {
            self.forget_device(index, s.write);
            let joining = Joining {
                index,
                uuid: s.member,
                device,
                role,
                since,
            };
            self.join(joining).await.map_err(CommandError::Failed)?;
            let text = format!(
                "{path} is back as member {role}: it catches up with what changed since it left"
            );
            self.tell_of(index, EventKind::MemberReturned, text.clone());
            self.maintain_locked().await;
            return Ok(text);
        }
        let index = self.free_index()?;
        self.blank(&device, found.as_ref()).await?;
        let uuid = self.new_member(index, device);
        self.reserve(index, uuid).await?;
        self.tell_of(
            index,
            EventKind::MemberAdded,
            format!("{path} is a member now"),
        );
        self.maintain_locked().await;
        let role = self.config.borrow().entry(index).role;
        Ok(match role {
            Some(role) => format!("{path} is being rebuilt as member {role}"),
            None => format!("{path} is a spare"),
        })
    }

    /// Whether members may come and go now.
    pub fn check_open(&self) -> Result<()> {
        match &*self.suspended.borrow() {
            Some(why) => Err(CommandError::Failed(why.clone())),
            None if self.stopping.get() => Err(CommandError::Failed(
                "the server is stopping: serve the array again first".into(),
            )),
            None => Ok(()),
        }
    }

    /// A member that returns gets a new device; superblock numbers go on from what it holds.
    fn forget_device(&self, index: Index, write: u64) {
        let device = Device {
            id: crate::api::DeviceId(u32::MAX),
            path: String::new(),
            size_bytes: 0,
        };
        let mut members = self.members.borrow_mut();
        let old = members
            .entry(index)
            .or_insert_with(|| Member::new(index, Uuid::default(), device));
        old.superblock_write = old.superblock_write.max(write);
        drop(members);
        self.end_service(index);
    }

    /// Removes superblocks of any array, so that none of them can be taken for a newer one.
    /// The newest goes last: an older one that a crash left behind would tell of a config that
    /// nobody remembers, and look like another side of the array.
    pub async fn blank(&self, device: &Device, found: Option<&Superblock>) -> Result<()> {
        let newest = found.map(|s| Superblock::offsets(s.write, device.size_bytes));
        let is_newest = |r: &Range<u64>| newest.is_some_and(|n| n.contains(&r.start));
        let (last, first): (Vec<_>, Vec<_>) = copy_ranges(device.size_bytes)
            .into_iter()
            .partition(is_newest);
        let failed = |error| {
            let what = crate::members::describe(error);
            CommandError::Failed(format!(
                "{}: cannot be written: {what}; take another device",
                device.path
            ))
        };
        for ranges in [first, last] {
            for range in ranges {
                let zeros = self.zeros((range.end - range.start) as usize / BLOCK_BYTES);
                let write = self.port.write(device.id, range.start, zeros);
                write.done().await.map_err(failed)?;
            }
            self.port.flush(device.id).done().await.map_err(failed)?;
        }
        Ok(())
    }

    /// A place in the member table for a new member.
    pub fn free_index(&self) -> Result<Index> {
        let index = self.config.borrow().clone().free_index();
        let full = "the member table is full: remove members that are gone with `uraid remove`";
        index.ok_or_else(|| CommandError::Refused(full.into()))
    }

    /// Gives a device an identity, and that place in the table.
    pub fn new_member(&self, index: Index, device: Device) -> Uuid {
        let uuid = Uuid::from_random(self.nonce(), self.nonce());
        self.counters.borrow_mut()[usize::from(index.0)] = Default::default();
        self.scrub.borrow_mut().forget(index);
        self.former.borrow_mut().remove(&index);
        self.failures.borrow_mut().remove(&index);
        self.members
            .borrow_mut()
            .insert(index, Member::new(index, uuid, device));
        uuid
    }

    async fn replace(
        &self,
        old: &MemberName,
        new: Device,
        force: bool,
        mode: Mode,
    ) -> Result<String> {
        self.check_open()?;
        let old = self.find(old)?;
        let label = self.member_name(old);
        let entry = *self.config.borrow().entry(old);
        let Some(role) = entry.role else {
            return refused(format!(
                "{label} has no role that another could take: remove it, then add the new one"
            ));
        };
        let holders = self.roles.borrow()[usize::from(role)];
        if holders.filling.is_some() {
            return refused(format!(
                "{label}: its role is being filled already; `uraid status` shows how far that is"
            ));
        }
        let found = self.examine(&new, force).await?;
        let index = self.free_index()?;
        let path = new.path.clone();
        let served = holders
            .holder
            .is_some_and(|h| self.live_device(h).is_some());
        if mode == Mode::DryRun {
            return Ok(self.would_replace(&label, &path, found.as_ref(), served));
        }
        self.blank(&new, found.as_ref()).await?;
        let uuid = self.new_member(index, new.clone());
        self.reserve(index, uuid).await?;
        let joining = Joining {
            index,
            uuid,
            device: new,
            role,
            since: 0,
        };
        self.join(joining).await.map_err(CommandError::Failed)?;
        self.maintain_locked().await;
        Ok(match served {
            true => format!("{path} is being filled to replace {label}, which serves meanwhile"),
            false => format!("{path} is being rebuilt in place of {label}"),
        })
    }

    /// Gives a new member its place in the table: a spare, for now.
    async fn reserve(&self, index: Index, uuid: Uuid) -> Result<()> {
        let reserved = self
            .change_config(|config| {
                while config.entries.len() <= usize::from(index.0) {
                    config.entries.push(Entry::EMPTY);
                }
                let state = EntryState::Spare;
                *config.entry_mut(index) = Entry {
                    uuid,
                    state,
                    ..Entry::EMPTY
                };
                Ok(())
            })
            .await;
        if reserved.is_err() {
            self.members.borrow_mut().remove(&index); // the host closes the device
        }
        Ok(reserved?)
    }

    async fn clear(&self, member: Option<MemberName>, mode: Mode) -> Result<String> {
        let only = member.map(|name| self.find(&name)).transpose()?;
        if mode == Mode::DryRun {
            let whose = only.map_or("all members".into(), |index| self.member_name(index));
            return Ok(format!(
                "the error counters of {whose} would be zeroed; no data is touched"
            ));
        }
        for (i, c) in self.counters.borrow_mut().iter_mut().enumerate() {
            if only.is_none_or(|index| usize::from(index.0) == i) {
                (c.read_errors, c.write_errors, c.checksum_errors) = (0, 0, 0);
            }
        }
        self.save_counters().await;
        Ok(match only {
            Some(index) => format!("error counters of {} are zero", self.member_name(index)),
            None => "all error counters are zero".into(),
        })
    }
}

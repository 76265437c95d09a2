//! One more copy for a mirror that serves, or one less.
//!
//! An array keeps its layout as long as it is open. So it is closed, as at a stop, until its
//! journals are empty: their entries name all columns, all else on the members is valid under
//! either layout. Then superblocks tell of the other layout, and [`crate::reopen`] opens the array
//! anew from the same devices.
//!
//! With one more copy they do so by a config in which it is being rebuilt: before the last
//! superblock is written a crash leaves the old array (the new device is no member), after it the
//! new one. A copy that goes leaves first, by a config as if it was removed; then either layout
//! fits, and a crash leaves the array with one of them: with a role that nobody holds, or without.

use crate::announce::FoundCheckpoint;
use crate::api::{CommandError, Device};
use crate::array::{Array, RoleMembers};
use crate::commands::{Result, refused};
use crate::executor::LockGuard;
use crate::lane::Lane;
use crate::map::PageNumbers;
use crate::members::describe;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_core::config::{Config, Index};
use uraid_core::events::EventKind;
use uraid_core::geometry::Geometry;
use uraid_core::superblock::Superblock;
use uraid_core::units::Uuid;

/// An array of which nothing changes on its members as long as this is held.
pub struct AtRest<'a> {
    _checkpoints: Vec<LockGuard<'a>>,
    _config: LockGuard<'a>,
}

/// A number of copies that an array is ready to have.
pub struct Copies {
    geometry: Geometry,
    change: Change,
}

enum Change {
    Add(NewCopy),
    /// The path of the member that left, if it was there.
    Remove(Option<String>),
}

/// A device that is about to be one more copy.
struct NewCopy {
    device: Device,
    /// What it has of the map of each lane.
    maps: Vec<PageNumbers>,
}

/// What superblocks tell of once an array is at rest.
pub enum Resized {
    /// A copy was taken in.
    Added {
        /// Its place in the member table.
        index: Index,
        /// Its device.
        path: String,
    },
    /// There is one less.
    Removed {
        /// The device of the member that left, if it was there.
        path: Option<String>,
    },
}

impl Array {
    /// Whether one more copy on `device` makes sense now, and what the device holds.
    async fn check_copy(
        &self,
        device: &Device,
        force: bool,
    ) -> Result<(Geometry, Option<Superblock>)> {
        self.check_open()?;
        let wider = self.geometry.widened().map_err(CommandError::Refused)?;
        self.check_whole(
            self.geometry.shape.columns,
            "before it is given one more copy",
        )?;
        let found = self.examine(device, force).await?;
        self.free_index()?;
        Ok((wider, found))
    }

    /// Whether the last copy can be given up now: the layout without it, and who leaves.
    fn check_narrow(&self) -> Result<(Geometry, Option<String>)> {
        self.check_open()?;
        let narrower = self.geometry.narrowed().map_err(CommandError::Refused)?;
        let copies = narrower.shape.columns;
        self.check_whole(copies, "but for its last copy before that is given up")?;
        let last = self.roles.borrow()[copies];
        let members = self.members.borrow();
        let holder = last.holder.or(last.filling).and_then(|i| members.get(&i));
        Ok((narrower, holder.map(|m| m.device.path.clone())))
    }

    /// What an operator may want to type when a member goes: nobody has to miss it if it is a copy
    /// that can be given up.
    pub fn copy_to_spare(&self, index: Index) -> &'static str {
        let last = self.geometry.shape.columns - 1;
        let role = self.config.borrow().entry(index).role;
        match role == Some(last as u16) && self.geometry.narrowed().is_ok() {
            true => {
                "; if nothing is to take its place, `uraid remove --copy` makes the mirror whole"
            }
            false => "",
        }
    }

    /// Refuses unless the first roles, so many, are held by members in service.
    fn check_whole(&self, roles: usize, when: &str) -> Result<()> {
        let lacking = self.lacking(roles);
        match lacking.is_empty() {
            true => Ok(()),
            false => refused(format!(
                "the array must be whole {when}: {}",
                lacking.join(", ")
            )),
        }
    }

    /// What keeps so many roles from being held, in words.
    fn lacking(&self, roles: usize) -> Vec<String> {
        let live = |i: Index| self.live_device(i).is_some();
        let of_role = |(role, r): (usize, &RoleMembers)| match (r.holder, r.filling) {
            (_, Some(_)) => Some(format!("member {role} is being filled")),
            (Some(holder), None) if live(holder) => None,
            _ => Some(format!("member {role} is missing")),
        };
        let full = self.full.borrow();
        let full = full
            .iter()
            .map(|i| format!("{} has no space", self.member_name(*i)));
        let held = self.roles.borrow();
        let lacking = held.iter().take(roles).enumerate().filter_map(of_role);
        lacking.chain(full).collect()
    }

    /// What one more copy on `device` would come to.
    pub async fn would_add_copy(&self, device: &Device, force: bool) -> Result<String> {
        let (_, found) = self.check_copy(device, force).await?;
        Ok(self.would_widen(&device.path, found.as_ref()))
    }

    /// What one copy less would come to.
    pub fn would_remove_copy(&self) -> Result<String> {
        let (_, leaving) = self.check_narrow()?;
        let leaving = leaving.map(|path| format!("{path} would no longer be a member, and "));
        Ok(self.would_narrow(&leaving.unwrap_or_default()))
    }

    /// Readies a device to be one more copy while the array serves: what takes long. The caller
    /// holds the membership lock.
    pub async fn prepare_copy(&self, device: Device, force: bool) -> Result<Copies> {
        let (geometry, found) = self.check_copy(&device, force).await?;
        self.blank(&device, found.as_ref()).await?;
        let all = self.prepare_maps(&device, None).await?;
        // What changed meanwhile, by itself: the less there is to be written later, the shorter
        // the pause.
        let maps = self.prepare_maps(&device, Some(all)).await?;
        // It may have taken a while.
        self.check_copy(&device, force).await?;
        Ok(Copies {
            geometry,
            change: Change::Add(NewCopy { device, maps }),
        })
    }

    /// Puts what is journalled in place, and the map on a device that `has` these pages of it.
    async fn prepare_maps(
        &self,
        device: &Device,
        has: Option<Vec<PageNumbers>>,
    ) -> Result<Vec<PageNumbers>> {
        let mut maps = Vec::new();
        for lane in &self.lanes {
            self.checkpoint(lane).await;
            let has = has.as_ref().map(|lanes| &lanes[lane.id]);
            let written = self.write_map(lane, device.id, has).await;
            maps.push(written.map_err(|error| cannot_be_written(device, describe(error)))?);
        }
        Ok(maps)
    }

    /// Takes the last copy out, as if it was removed: from here on it is missed by nobody. The
    /// caller holds the membership lock.
    pub async fn leave_copy(&self) -> Result<Copies> {
        let (geometry, path) = self.check_narrow()?;
        let role = geometry.shape.columns as u16;
        let vacate = |config: &mut Config| {
            config.vacate(role);
            // Who fails at this very moment is gone in it.
            let in_sync = config.members().filter(|(i, _)| config.is_in_sync(*i));
            match in_sync.count() == usize::from(role) {
                true => Ok(()),
                false => Err("another copy has just failed, the last one is needed".into()),
            }
        };
        self.change_config(vacate).await?;
        for lane in &self.lanes {
            self.checkpoint(lane).await;
        }
        Ok(Copies {
            geometry,
            change: Change::Remove(path),
        })
    }

    /// Has a checkpoint name the config of a mirror that was widened, if not all `found` ones of the
    /// first lane do, before anything is written under it. Should a member become an older image
    /// of itself that knows of fewer columns, the config would pass for one that was never
    /// completed, and journals be read by a layout that is not theirs.
    pub async fn name_config(&self, mut found: impl Iterator<Item = &FoundCheckpoint>) {
        let nonce = self.config.borrow().nonce;
        let is_named = found.all(|found| found.checkpoint.config_nonce == nonce);
        if self.geometry.shape.is_widened() && !is_named {
            self.witness_tail(&self.lanes[0]).await;
        }
    }

    /// Puts the array to rest, and has superblocks tell of that number of copies. Gives the config
    /// that they hold then. Whatever comes of it, the array must be opened anew, unless it is
    /// suspended.
    ///
    /// The caller has waited for requests and commands under way, and gives no more.
    pub async fn resize(&self, copies: Copies) -> (AtRest<'_>, Result<(Config, Resized)>) {
        self.close_down().await;
        let mut checkpoints = Vec::new();
        for lane in &self.lanes {
            checkpoints.push(lane.checkpoint_lock.lock(&self.ex).await);
        }
        let rest = AtRest {
            _checkpoints: checkpoints,
            _config: self.config_lock.lock(&self.ex).await,
        };
        let resized = self.resize_at_rest(copies).await;
        if resized.is_err() {
            self.geometry_told.set(None);
        }
        self.settle_all_io().await;
        (rest, resized)
    }

    /// Whether all journals are empty, and the maps on the members as they are in memory.
    pub fn all_is_in_place(&self) -> bool {
        let is_empty = |lane: &Lane| {
            let journal = lane.journal.borrow();
            journal.next_seq == journal.tail && !self.has_work(lane)
        };
        self.lanes.iter().all(is_empty)
    }

    async fn resize_at_rest(&self, copies: Copies) -> Result<(Config, Resized)> {
        if let Some(why) = &*self.suspended.borrow() {
            return Err(CommandError::Failed(why.clone()));
        }
        if !self.all_is_in_place() {
            return Err(CommandError::Failed(
                "what is journalled could not be put in place: `uraid status` shows the members"
                    .into(),
            ));
        }
        let old = self.config.borrow().clone();
        let Copies { geometry, change } = copies;
        match change {
            Change::Add(copy) => {
                let path = copy.device.path.clone();
                let (first, index, uuid) = self.tell_copy(copy, &old, geometry).await?;
                let role = self.geometry.shape.columns;
                let widen = |config: &mut Config| config.widen(index, uuid, role);
                let new = self.tell_all(&old, geometry, first.epoch, widen).await?;
                Ok((new, Resized::Added { index, path }))
            }
            Change::Remove(path) => {
                let new = self.tell_all(&old, geometry, 0, |_| {}).await?;
                Ok((new, Resized::Removed { path }))
            }
        }
    }

    /// Makes a device a member that knows of itself, by a config that nobody else is told of:
    /// should it fail, nothing has happened.
    async fn tell_copy(
        &self,
        copy: NewCopy,
        old: &Config,
        wider: Geometry,
    ) -> Result<(Config, Index, Uuid)> {
        let index = self.free_index()?;
        let uuid = self.new_member(index, copy.device.clone());
        let mut config = old.successor(0, self.nonce());
        config.widen(index, uuid, self.geometry.shape.columns);
        let mut told = self.write_zones(index, Some(&copy.maps)).await;
        if told.is_ok() {
            self.geometry_told.set(Some(wider));
            told = self.write_superblock(index, &config, old).await;
        }
        told.map_err(|error| {
            self.members.borrow_mut().remove(&index); // the host closes the device
            cannot_be_written(&copy.device, describe(error))
        })?;
        Ok((config, index, uuid))
    }

    /// Has all members tell of a layout, by the config that follows `old`.
    async fn tell_all(
        &self,
        old: &Config,
        geometry: Geometry,
        floor: u64,
        change: impl Fn(&mut Config),
    ) -> Result<Config> {
        self.geometry_told.set(Some(geometry));
        let change = |config: &mut Config| {
            change(config);
            Ok(())
        };
        let (new, condemned) = self.write_next(old, floor, change).await?;
        for gone in condemned {
            let text = format!("{} is out of service", self.member_name(gone));
            self.tell_of(gone, EventKind::MemberLeft, text);
        }
        Ok(new)
    }
}

fn cannot_be_written(device: &Device, why: String) -> CommandError {
    CommandError::Failed(format!(
        "{}: cannot be written: {why}; take another device",
        device.path
    ))
}

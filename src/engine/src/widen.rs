//! One more copy for a mirror that serves.
//!
//! An array keeps its layout as long as it is open. So it is closed, as at a stop, until its
//! journals are empty: their entries name all columns, all else on the members is valid under
//! either layout. Then superblocks tell of the new copy, by a config in which it is being rebuilt,
//! and [`crate::reopen`] opens the array anew from the same devices. Before the last superblock is
//! written a crash leaves the old array (the new device is no member), after it the new one.

use crate::api::{CommandError, Device};
use crate::array::Array;
use crate::commands::{Result, refused};
use crate::executor::LockGuard;
use crate::lane::Lane;
use crate::members::describe;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_core::config::{Config, Index};
use uraid_core::events::EventKind;
use uraid_core::geometry::Geometry;
use uraid_core::superblock::Superblock;

/// An array of which nothing changes on its members as long as this is held.
pub struct AtRest<'a> {
    _checkpoints: Vec<LockGuard<'a>>,
    _config: LockGuard<'a>,
}

/// A device that is about to be one more copy.
pub struct NewCopy {
    device: Device,
    wider: Geometry,
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
        let lacking = self.lacking();
        if !lacking.is_empty() {
            return refused(format!(
                "the array must be whole before it is given one more copy: {}",
                lacking.join(", ")
            ));
        }
        let found = self.examine(device, force).await?;
        self.free_index()?;
        Ok((wider, found))
    }

    /// What keeps the array from being whole, in words.
    fn lacking(&self) -> Vec<String> {
        let live = |i: Index| self.live_device(i).is_some();
        let roles = self.roles.borrow();
        let of_role = |(role, r): (usize, &crate::array::RoleMembers)| match (r.holder, r.filling) {
            (_, Some(_)) => Some(format!("member {role} is being filled")),
            (Some(holder), None) if live(holder) => None,
            _ => Some(format!("member {role} is missing")),
        };
        let full = self.full.borrow();
        let full = full
            .iter()
            .map(|i| format!("{} has no space", self.member_name(*i)));
        let lacking = roles.iter().enumerate().filter_map(of_role);
        lacking.chain(full).collect()
    }

    /// What one more copy on `device` would come to.
    pub async fn would_add_copy(&self, device: &Device, force: bool) -> Result<String> {
        let (_, found) = self.check_copy(device, force).await?;
        Ok(self.would_widen(&device.path, found.as_ref()))
    }

    /// Readies a device to be one more copy while the array serves: what takes long. The caller
    /// holds the membership lock.
    pub async fn prepare_copy(&self, device: Device, force: bool) -> Result<NewCopy> {
        let (wider, found) = self.check_copy(&device, force).await?;
        self.blank(&device, found.as_ref()).await?;
        for lane in &self.lanes {
            let written = self.write_map(lane, device.id, false).await;
            written.map_err(|error| cannot_be_written(&device, describe(error)))?;
            // The less there is to be put in place later, the shorter the pause.
            self.checkpoint(lane).await;
        }
        // It may have taken a while.
        self.check_copy(&device, force).await?;
        Ok(NewCopy { device, wider })
    }

    /// Puts the array to rest, and has superblocks tell of one more copy. Gives the config that
    /// they hold then, and the place of the copy in it. Whatever comes of it, the array must be
    /// opened anew, unless it is suspended.
    ///
    /// The caller has waited for requests and commands under way, and gives no more.
    pub async fn widen(&self, copy: NewCopy) -> (AtRest<'_>, Result<(Config, Index)>) {
        self.close_down().await;
        let mut checkpoints = Vec::new();
        for lane in &self.lanes {
            checkpoints.push(lane.checkpoint_lock.lock(&self.ex).await);
        }
        let rest = AtRest {
            _checkpoints: checkpoints,
            _config: self.config_lock.lock(&self.ex).await,
        };
        let widened = self.widen_at_rest(copy).await;
        self.settle_all_io().await;
        (rest, widened)
    }

    async fn widen_at_rest(&self, copy: NewCopy) -> Result<(Config, Index)> {
        if let Some(why) = &*self.suspended.borrow() {
            return Err(CommandError::Failed(why.clone()));
        }
        let is_empty = |lane: &Lane| {
            let journal = lane.journal.borrow();
            journal.next_seq == journal.tail && !self.has_work(lane)
        };
        if !self.lanes.iter().all(is_empty) {
            return Err(CommandError::Failed(
                "what is journalled could not be put in place: `uraid status` shows the members"
                    .into(),
            ));
        }
        let index = self.free_index()?;
        let uuid = self.new_member(index, copy.device.clone());
        let old = self.config.borrow().clone();
        let copies = self.geometry.shape.columns;
        let change = |config: &mut Config| {
            config.widen(index, uuid, copies);
            Ok(())
        };
        // The new one first: should it fail, nobody else was told of it.
        let mut first = old.successor(0, self.nonce());
        let _ = change(&mut first);
        let mut prepared = self.write_zones(index, true).await;
        self.wider.set(Some(copy.wider));
        if prepared.is_ok() {
            prepared = self.write_superblock(index, &first, &old).await;
        }
        if let Err(error) = prepared {
            self.wider.set(None);
            self.members.borrow_mut().remove(&index); // the host closes the device
            return Err(cannot_be_written(&copy.device, describe(error)));
        }
        match self.write_next(&old, first.epoch, change).await {
            Ok((new, condemned)) => {
                for gone in condemned {
                    let text = format!("{} is out of service", self.member_name(gone));
                    self.tell_of(gone, EventKind::MemberLeft, text);
                }
                Ok((new, index))
            }
            Err(why) => {
                self.wider.set(None);
                Err(why.into())
            }
        }
    }
}

fn cannot_be_written(device: &Device, why: String) -> CommandError {
    CommandError::Failed(format!(
        "{}: cannot be written: {why}; take another device",
        device.path
    ))
}

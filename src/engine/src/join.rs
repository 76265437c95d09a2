//! Members joining: a device is prepared, taken into the config as being filled, and its rebuild
//! started; spares take over vacant roles by themselves.

use crate::api::{Device, DeviceId, Event, IoError};
use crate::array::Array;
use crate::executor::LockGuard;
use crate::lane::Lane;
use crate::map::{PAGES_PER_READ, PageNumbers};
use crate::members::Member;
use crate::rebuild::Progress;
use crate::ring::Ring;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use uraid_core::config::{Entry, EntryState, Index};
use uraid_core::events::EventKind;
use uraid_core::journal::{Checkpoint, Following};
use uraid_core::units::{BLOCK_BYTES, Uuid, is_blank};

/// A device about to take a place in the array.
pub struct Joining {
    /// Its place in the member table.
    pub index: Index,
    /// Its identity.
    pub uuid: Uuid,
    /// The device.
    pub device: Device,
    /// The role it will fill.
    pub role: u16,
    /// Only stripes changed since this config need filling; 0: all.
    pub since: u64,
}

impl Array {
    /// Locks the checkpoints of all lanes and makes one of each: nothing that is in a journal is
    /// needed any more, and nothing is put in place while the locks are held.
    pub async fn quiesce_checkpoints(&self) -> Vec<LockGuard<'_>> {
        let mut guards = Vec::new();
        for lane in &self.lanes {
            guards.push(lane.checkpoint_lock.lock(&self.ex).await);
            self.checkpoint_locked(lane).await;
        }
        guards
    }

    /// Prepares a device and takes it into the config as being filled.
    pub async fn join(&self, joining: Joining) -> Result<(), String> {
        let index = joining.index;
        let _locks = self.quiesce_checkpoints().await;
        let joined = self.join_quiesced(joining).await;
        if joined.is_err() {
            // The host closes the device.
            self.members.borrow_mut().remove(&index);
            self.rebuilds.borrow_mut().remove(&index);
            for lane in &self.lanes {
                lane.journal.borrow_mut().forget(index);
            }
        }
        joined
    }

    async fn join_quiesced(&self, joining: Joining) -> Result<(), String> {
        let Joining {
            index,
            uuid,
            device,
            role,
            since,
        } = joining;
        let path = device.path.clone();
        if self.is_suspended() {
            return Err("the array is suspended".to_string());
        }
        let write = self
            .members
            .borrow()
            .get(&index)
            .map_or(0, |m| m.superblock_write);
        let mut member = Member::new(index, uuid, device);
        member.superblock_write = write;
        (member.write_mostly, member.read_weight) = self.balance.of_path(&member.device.path);
        self.members.borrow_mut().insert(index, member);
        self.failures.borrow_mut().remove(&index);
        if self.prepare(index).await.is_err() {
            return Err(format!("{path}: cannot be written"));
        }
        {
            let mut counters = self.counters.borrow_mut();
            let counters = &mut counters[usize::from(index.0)];
            counters.rebuild_cursor = 0;
            counters.rebuild_since = since;
        }
        self.rebuilds
            .borrow_mut()
            .insert(index, Progress::begin(0, since));
        for lane in &self.lanes {
            lane.sums.forget(index);
            lane.journal.borrow_mut().rings.insert(index, Ring::at(0));
        }
        self.change_config(|config| {
            if self.live_device(index).is_none() {
                return Err(format!("{path}: failed before it was a member"));
            }
            let with_role = |e: &&Entry| e.role == Some(role) && e.uuid != uuid;
            let states = config.entries.iter().filter(with_role).map(|e| e.state);
            let states: Vec<EntryState> = states.collect();
            if states.iter().any(|s| s.is_filling()) {
                return Err(format!("{path}: role {role} is being filled already"));
            }
            let state = match states.contains(&EntryState::InSync) {
                true => EntryState::Replacing,
                false => EntryState::Rebuilding,
            };
            for (i, e) in config.entries.iter_mut().enumerate() {
                let vacated = e.state == EntryState::Failed && e.role == Some(role);
                if vacated && i != usize::from(index.0) {
                    e.role = None;
                }
            }
            let entry = config.entry_mut(index);
            *entry = Entry {
                uuid,
                role: Some(role),
                state,
                ..*entry
            };
            (entry.left_epoch, entry.left_nonce) = (0, 0);
            Ok(())
        })
        .await
        .map_err(String::from)
    }

    /// Readies a member of the config to take part.
    async fn prepare(&self, index: Index) -> Result<(), IoError> {
        // A member that returns gives up its claim from the config it left, in which it was in
        // sync. Should it never learn that it was taken back, it would look like another side.
        {
            let _alone = self.config_lock.lock(&self.ex).await;
            let (config, previous) = (self.config.borrow().clone(), self.previous.borrow().clone());
            self.write_superblock(index, &config, &previous).await?;
        }
        self.write_zones(index, None).await
    }

    /// Writes the zones that a member must have before it can take part: checkpoints and map, of
    /// which it `has` these pages, if any are told. The caller holds the checkpoint locks of all
    /// lanes.
    pub async fn write_zones(
        &self,
        index: Index,
        has: Option<&[PageNumbers]>,
    ) -> Result<(), IoError> {
        let device = self.live_device(index).ok_or(IoError::TimedOut)?;
        for lane in &self.lanes {
            let checkpoint = {
                let journal = lane.journal.borrow();
                Checkpoint {
                    lane: lane.id as u16,
                    member: index,
                    number: journal.checkpoint_number,
                    epoch: journal.epoch,
                    tail: journal.tail,
                    tail_pos: 0,
                    witnessed_tail: journal.tail,
                    config_nonce: self.config.borrow().nonce,
                    following: journal.following.min(Following::Batches),
                }
            };
            let copy = Checkpoint::copy(checkpoint.number);
            let blocks = [
                (copy, self.encode_record(lane, &checkpoint)),
                (1 - copy, alloc::vec![0; BLOCK_BYTES]),
            ];
            for (copy, bytes) in blocks {
                let offset = self.geometry.checkpoint_offset(lane.id, copy);
                self.port
                    .write(device, offset, alloc::vec![self.pool.copy(&bytes)])
                    .done()
                    .await?;
            }
            lane.journal
                .borrow_mut()
                .records
                .insert(index, (copy, checkpoint));
            let has = has.map(|lanes| &lanes[lane.id]);
            self.write_map(lane, device, has).await?;
        }
        self.port.flush(device).done().await
    }

    /// Writes the map of a lane as it is, but for the pages that the device `has`; on one of which
    /// nothing is known, what is blank stays. Gives what it has then. Pages that change meanwhile
    /// may be missing there, and have other numbers once they are on the members.
    pub async fn write_map(
        &self,
        lane: &Lane,
        device: DeviceId,
        has: Option<&PageNumbers>,
    ) -> Result<PageNumbers, IoError> {
        let pages = self.geometry.map_pages();
        let mut written = PageNumbers::new();
        for first in (0..pages).step_by(PAGES_PER_READ as usize) {
            let some = first..pages.min(first + PAGES_PER_READ);
            let range = some.start as usize..some.end as usize;
            written.extend_from_slice(&lane.map.borrow().sequences[range.clone()]);
            let offset = self.geometry.map_page_offset(lane.id, first, 0);
            let len = range.len() * 2 * BLOCK_BYTES;
            let unused = |page| lane.map.borrow().is_unused(page);
            let is_there = match has {
                Some(has) => has[range.clone()] == written[range],
                None => {
                    let there = || self.port.read(device, offset, self.pool.take(len));
                    some.clone().all(unused) && is_blank(&there().filled().await?)
                }
            };
            if is_there {
                continue;
            }
            let mut wanted = self.pool.zeroed(len);
            for (page, both) in some.zip(wanted.chunks_exact_mut(2 * BLOCK_BYTES)) {
                if !unused(page) {
                    let (sequence, bytes) = self.map_page_bytes(lane, page);
                    let at = (sequence % 2) as usize * BLOCK_BYTES;
                    both[at..at + BLOCK_BYTES].copy_from_slice(&bytes);
                }
            }
            let write = self
                .port
                .write(device, offset, alloc::vec![wanted.freeze()]);
            write.done().await?;
        }
        Ok(written)
    }

    /// Starts what the config in force calls for: rebuilds, and spares for vacant roles.
    pub async fn maintain(&self) {
        let _held = self.membership_lock.lock(&self.ex).await;
        self.maintain_locked().await;
    }

    /// As [`Array::maintain`]; the caller holds the membership lock.
    pub async fn maintain_locked(&self) {
        if self.read_only || self.is_suspended() || self.stopping.get() || !self.open.get() {
            return;
        }
        self.start_rebuilds();
        self.start_scrub();
        while let Some((role, spare)) = self.spare_for_vacancy() {
            let text = format!("{} takes over role {role}", self.member_name(spare));
            self.tell_of(spare, EventKind::SpareTaken, text);
            if let Err(why) = self.promote(spare, role).await {
                self.event(Event::Warning(why));
                break;
            }
            self.start_rebuilds();
        }
    }

    async fn promote(&self, spare: Index, role: u16) -> Result<(), String> {
        let device = self.members.borrow().get(&spare).map(|m| m.device.clone());
        let device = device.ok_or("the spare is gone")?;
        let uuid = self.config.borrow().entry(spare).uuid;
        self.join(Joining {
            index: spare,
            uuid,
            device,
            role,
            since: 0,
        })
        .await
    }

    fn spare_for_vacancy(&self) -> Option<(u16, Index)> {
        let roles = self.roles.borrow();
        let vacant = roles
            .iter()
            .position(|r| r.holder.is_none() && r.filling.is_none())?;
        let config = self.config.borrow();
        let live = |i: Index| self.live_device(i).is_some();
        let mut spares = config
            .members()
            .filter(|(_, e)| e.state == EntryState::Spare);
        let (spare, _) = spares.find(|(i, _)| live(*i))?;
        Some((vacant as u16, spare))
    }
}

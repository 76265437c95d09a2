//! Before a write is answered that a failed member did not take, its failure must be durable on
//! the others.

use crate::clients::Asked;
use crate::load::DraftKind;
use crate::rest::{durable_superblock, superblock_of};
use crate::world::World;
use uraid_core::superblock::Superblock;
use uraid_core::units::Uuid;
use uraid_engine::api::RequestId;

impl World {
    /// Notes from which request on a disk that just failed is known to miss what is written.
    pub(crate) fn note_failures(&mut self) {
        let next = self.clients.next_id();
        for (_, disk) in self.host.devices() {
            if self.disks[disk].has_failed() {
                self.failed_from.entry(disk).or_insert(next);
            }
        }
    }

    /// Checks an answer. Only mirrors: there every write concerns every member, but for one that
    /// was emptied again before anything of it was written.
    pub(crate) fn check_verdicts(&self, id: RequestId, asked: &Asked) -> Result<(), String> {
        if self.geometry.shape.data > 1 || asked.draft.kind != DraftKind::Write {
            return Ok(());
        }
        if self.clients.is_emptied_by_later(id, asked) {
            return Ok(());
        }
        for (_, disk) in self.host.devices() {
            let missed = self.failed_from.get(&disk).is_some_and(|from| *from <= id);
            let member = superblock_of(self.disks[disk].medium()).filter(|_| missed);
            let Some(member) = member.map(|s| s.member) else {
                continue;
            };
            for survivor in self.survivors(disk) {
                if takes_writes(&survivor, member) && takes_writes(&survivor, survivor.member) {
                    return Err(format!(
                        "request {} was answered, disk {disk} had failed before it was asked, and \
                         member {} does not know that durably",
                        id.0, survivor.index.0
                    ));
                }
            }
        }
        Ok(())
    }

    /// What the others say durably, those that are being added aside: they are no members yet.
    fn survivors(&self, failed: usize) -> impl Iterator<Item = Superblock> {
        let in_use = self.disks_in_use();
        let others = in_use.into_iter().filter(move |disk| *disk != failed);
        let sound = |disk: &usize| !self.disks[*disk].is_suspect() && self.is_sound(*disk);
        let sound = others.filter(move |disk| sound(disk) && !self.disks[*disk].has_failed());
        sound.filter_map(|disk| durable_superblock(self.disks[disk].medium()))
    }
}

fn takes_writes(superblock: &Superblock, member: Uuid) -> bool {
    let config = &superblock.config;
    let index = config.find(member);
    index.is_some_and(|i| config.entry(i).state.takes_writes())
}

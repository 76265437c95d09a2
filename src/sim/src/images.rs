//! Members as older images of themselves: a snapshot that was rolled back, a backup restored.

use crate::disk::Disk;
use crate::medium::Medium;
use crate::rest::superblock_of;
use crate::scenario::Fault;
use crate::world::World;

impl World {
    /// Takes an image of a member; later, if there will be a next start, has a member
    /// found as its image then.
    pub(crate) fn plan_rollback(&mut self) {
        let held: Vec<usize> = self.images.keys().copied().collect();
        let starts = [Fault::Restart, Fault::Kill, Fault::Power].map(|f| self.scenario.has(f));
        if held.is_empty() || self.rng.chance(0.5) || !starts.contains(&true) {
            let in_sync: Vec<usize> = self.holders.values().flatten().copied().collect();
            if !in_sync.is_empty() {
                let disk = *self.rng.pick(&in_sync);
                self.say(|| format!("an image of disk {disk} is taken"));
                self.images.insert(disk, image_of(&self.disks[disk]));
            }
            return;
        }
        let Some((_, disk)) = self.victim_among(&held) else {
            return;
        };
        self.counts.other_faults += 1;
        self.rolled_back.insert(disk);
        self.plan_crash();
    }

    /// Members that are to be older images now are.
    pub(crate) fn roll_back(&mut self) {
        for disk in self.rolled_back.clone() {
            self.become_image(disk);
        }
    }

    fn become_image(&mut self, disk: usize) {
        if let Some(image) = self.images.remove(&disk) {
            self.say(|| format!("disk {disk} is an older image of itself"));
            self.disks[disk].replace_medium(image);
        }
    }

    /// A former member may return as an older image of itself.
    pub(crate) fn return_as_image(&mut self, disk: usize) {
        if self.images.contains_key(&disk) && self.rng.chance(0.7) {
            // It alone: others that will be found as images still serve.
            self.become_image(disk);
            if let Some(superblock) = superblock_of(self.disks[disk].medium()) {
                self.returned.insert(disk, superblock);
            }
        }
    }

    /// The operator takes older images out of the way, if any kept the array from starting.
    pub(crate) fn wipe_images(&mut self) -> bool {
        let mut wiped = std::mem::take(&mut self.rolled_back);
        for (disk, superblock) in std::mem::take(&mut self.returned) {
            // Unless the array has taken it in meanwhile.
            if superblock_of(self.disks[disk].medium()) == Some(superblock) {
                wiped.insert(disk);
            }
        }
        for disk in &wiped {
            let bytes = self.disks[*disk].medium().len();
            self.say(|| format!("disk {disk} is wiped"));
            self.disks[*disk].replace_medium(Medium::new(bytes));
            self.healing.emptied(*disk);
        }
        !wiped.is_empty()
    }
}

/// What a snapshot would keep: all that was written.
fn image_of(disk: &Disk) -> Medium {
    let mut image = disk.medium().clone();
    image.flush(image.mark());
    image
}

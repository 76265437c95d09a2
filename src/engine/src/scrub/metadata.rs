//! Scrub of what is in force of the metadata: superblocks, checkpoints, map and checksum pages
//! on every member, against what is in memory. Of pages with two copies by turns the older one is
//! about to be overwritten anyway: when it is damaged it is blanked, and that is no finding. (It is
//! not made a second newest one: the next write would go over whichever of the two is good.)

use crate::array::Array;
use crate::lane::Lane;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::events::EventKind;
use uraid_core::geometry::MAP_ENTRIES_PER_PAGE;
use uraid_core::journal::Checkpoint;
use uraid_core::pages::{ChecksumPage, Found, MapEntry, decode_map_page, encode_map_page};
use uraid_core::superblock::{SUPERBLOCK_BYTES, Superblock};
use uraid_core::units::{BLOCK_BYTES, is_blank};

/// What was found at one of two places of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// As it should be.
    Good,
    /// Nothing, or something older.
    Old,
    /// Neither.
    Damaged,
}

/// A page that is written to two places by turns.
struct Twin {
    /// What people call it.
    what: String,
    index: Index,
    /// Where the two are.
    offsets: [u64; 2],
    /// Which of them counts.
    newest: usize,
    /// What is there.
    found: [Place; 2],
}

impl Array {
    pub(super) async fn scrub_metadata(&self) {
        for lane in &self.lanes {
            let _still = lane.checkpoint_lock.lock(&self.ex).await;
            // After this little is in memory that is not in the pages. Not if there is nothing:
            // it would overwrite what is to be looked at.
            if self.has_work(lane) {
                self.checkpoint_locked(lane).await;
            }
            if self.is_suspended() {
                return;
            }
            self.scrub_checkpoints(lane).await;
            for page in 0..self.geometry.map_pages() {
                self.scrub_map_page(lane, page).await;
            }
            for page in 0..self.geometry.checksum_pages() {
                if self.page_is_used(lane.id, page) {
                    self.scrub_sum_page(lane, page).await;
                }
            }
        }
        self.scrub_superblocks().await;
    }

    /// Live members that hold metadata.
    fn metadata_holders(&self) -> Vec<Index> {
        let live = |i: &Index| self.live_device(*i).is_some();
        self.all_writers().into_iter().filter(live).collect()
    }

    /// Both places of a page; a block that cannot be read is `None`.
    async fn read_twin(&self, index: Index, offsets: [u64; 2]) -> [Option<Buf>; 2] {
        let mut found = [None, None];
        for (place, offset) in found.iter_mut().zip(offsets) {
            *place = self
                .read_member(index, offset, BLOCK_BYTES)
                .await
                .ok()
                .map(|b| b.freeze());
        }
        found
    }

    /// Counts and repairs what is wrong. `bytes` is what the newest place should hold.
    async fn settle_twin(&self, twin: Twin, bytes: impl FnOnce() -> Vec<u8>) {
        let Twin {
            what,
            index,
            offsets,
            newest,
            found,
        } = twin;
        if self.live_device(index).is_none() {
            return; // the whole member has failed meanwhile
        }
        let bad = found[newest] != Place::Good;
        if self.read_only && bad {
            self.report_metadata(index, &what);
        }
        if self.read_only || (!bad && found[1 - newest] != Place::Damaged) {
            return;
        }
        let bytes = self.pool.copy(&bytes());
        // What is in memory may name batches that are not durable yet.
        self.flush_journals().await;
        if bad {
            self.write_member(index, offsets[newest], alloc::vec![bytes])
                .await;
            if self.live_device(index).is_none() {
                return; // it was not damaged in places, but failed
            }
            self.report_metadata(index, &what);
            self.count_found(index, |c| {
                c.repaired_metadata = c.repaired_metadata.saturating_add(1)
            });
        }
        if found[1 - newest] == Place::Damaged {
            self.flush_members().await; // the one that counts first
            self.write_member(index, offsets[1 - newest], self.zeros(1))
                .await;
        }
    }

    /// Tells and counts that something a member holds is wrong.
    fn report_metadata(&self, index: Index, what: &str) {
        let name = self.member_name(index);
        let text = format!("{name}: {what} is not what it should be");
        self.tell_of(index, EventKind::MetadataDamaged, text);
        self.count_found(index, |c| c.bad_metadata = c.bad_metadata.saturating_add(1));
    }

    async fn scrub_checkpoints(&self, lane: &Lane) {
        for index in self.metadata_holders() {
            let record = lane.journal.borrow().records.get(&index).copied();
            let Some((newest, expected)) = record else {
                continue;
            };
            let offsets = [0, 1].map(|copy| self.geometry.checkpoint_offset(lane.id, copy));
            let found = self.read_twin(index, offsets).await.map(|block| {
                let block = block.as_deref()?;
                Some((
                    is_blank(block),
                    Checkpoint::decode(block, self.key, lane.id as u16, index),
                ))
            });
            let found = found.map(|f| match f {
                Some((_, Some(c))) if c == expected => Place::Good,
                Some((true, _) | (_, Some(_))) => Place::Old,
                _ => Place::Damaged,
            });
            let twin = Twin {
                what: format!("the checkpoint of lane {}", lane.id),
                index,
                offsets,
                newest,
                found,
            };
            self.settle_twin(twin, || self.encode_record(lane, &expected))
                .await;
        }
    }

    async fn scrub_map_page(&self, lane: &Lane, page: u64) {
        let id = lane.id as u16;
        let sequence = lane.map.borrow().sequences[page as usize];
        if sequence == 0 {
            return; // never written
        }
        let offsets = [0, 1].map(|copy| self.geometry.map_page_offset(lane.id, page, copy));
        for index in self.metadata_holders() {
            let blocks = self.read_twin(index, offsets).await;
            let (mut entries, dirty) = {
                let map = lane.map.borrow();
                (map.page(page).to_vec(), map.dirty.contains(&page))
            };
            entries.resize(MAP_ENTRIES_PER_PAGE as usize, MapEntry::default());
            let found = blocks.map(|block| {
                let Some(block) = block else {
                    return Place::Damaged;
                };
                match decode_map_page(&block, self.key, &self.geometry, id, page) {
                    Found::Valid(s, e) if s == sequence && (dirty || e == entries) => Place::Good,
                    Found::Valid(..) | Found::Blank => Place::Old,
                    Found::Damaged => Place::Damaged,
                }
            });
            let newest = (sequence % 2) as usize;
            let twin = Twin {
                what: format!("map page {page} of lane {id}"),
                index,
                offsets,
                newest,
                found,
            };
            let bytes =
                || encode_map_page(self.key, id, page, sequence, lane.map.borrow().page(page));
            self.settle_twin(twin, bytes).await;
        }
    }

    async fn scrub_sum_page(&self, lane: &Lane, number: u64) {
        let offset = |copy| self.geometry.checksum_page_offset(lane.id, number, copy);
        let filling = |i: &Index| self.rebuilds.borrow().contains_key(i);
        for index in self.metadata_holders().into_iter().filter(|i| !filling(i)) {
            let page = self.sum_page(lane.id, index, number).await;
            if page.was_unsound() {
                continue; // counted when it was loaded, and about to be rewritten
            }
            let sequence = page.sequence.get();
            if sequence == 0 {
                continue; // no checkpoint has written it yet
            }
            let blocks = self.read_twin(index, [0, 1].map(offset)).await;
            let found = blocks.map(|block| {
                let Some(block) = block else {
                    return Place::Damaged;
                };
                match ChecksumPage::decode(&block, self.key, index, lane.id as u16, number) {
                    Found::Valid(s, content) if s == sequence && page.agrees(&content) => {
                        Place::Good
                    }
                    Found::Valid(..) | Found::Blank => Place::Old,
                    Found::Damaged => Place::Damaged,
                }
            });
            let newest = (sequence % 2) as usize;
            let twin = Twin {
                what: format!("checksum page {number} of lane {}", lane.id),
                index,
                offsets: [0, 1].map(offset),
                newest,
                found,
            };
            self.settle_twin(twin, || page.bytes(self.key)).await;
        }
    }

    async fn scrub_superblocks(&self) {
        let mut any = false;
        {
            let _still = self.config_lock.lock(&self.ex).await;
            let members: Vec<Index> = self.members.borrow().keys().copied().collect();
            for index in members {
                any |= self.scrub_superblock(index).await;
            }
        }
        if any && !self.read_only {
            // Twice: each write goes to one of two places at either end.
            self.save_counters().await;
            self.save_counters().await;
        }
    }

    /// Whether one of the newest copies, at either end of the member, is not as it should be.
    async fn scrub_superblock(&self, index: Index) -> bool {
        let member = self
            .members
            .borrow()
            .get(&index)
            .filter(|m| m.alive)
            .map(|m| (m.device.clone(), m.superblock_write));
        let Some((device, write)) = member else {
            return false;
        };
        let mut bad = 0;
        for offset in Superblock::offsets(write, device.size_bytes) {
            let read = self.read_member(index, offset, SUPERBLOCK_BYTES).await;
            let good = |b: &[u8]| Superblock::decode(b).is_ok_and(|s| s.write == write);
            bad += u32::from(!read.is_ok_and(|bytes| good(&bytes)));
        }
        if bad > 0 && self.live_device(index).is_some() {
            let text = format!(
                "{}: {bad} of its newest superblocks are not what they should be",
                self.member_name(index)
            );
            self.tell_of(index, EventKind::MetadataDamaged, text);
            self.count_metadata(index, bad);
            return true;
        }
        false
    }
}

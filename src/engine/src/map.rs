//! The stripe map when an array is opened: of each page the newest copy on any member in sync.

use crate::array::Array;
use crate::executor::join_all;
use crate::lane::Lane;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_core::config::Index;
use uraid_core::geometry::MAP_ENTRIES_PER_PAGE;
use uraid_core::pages::{Found, MapEntry, decode_map_page, encode_map_page};
use uraid_core::units::BLOCK_BYTES;

/// Map pages read at once.
const PAGES_PER_READ: u64 = 128;

/// Sequence number and entries of a map page.
type MapPage = (u64, Vec<MapEntry>);

impl Array {
    /// Loads the map of a lane. Fails when nobody has a page whole: where its stripes live is
    /// not known then, and reading them as never written would be wrong.
    pub async fn load_map(&self, lane: &Lane) -> Result<(), String> {
        let pages = self.geometry.map_pages();
        let writers = self.all_writers();
        for first in (0..pages).step_by(PAGES_PER_READ as usize) {
            let count = PAGES_PER_READ.min(pages - first);
            let reads = writers
                .iter()
                .map(|i| self.read_map(lane, *i, first, count));
            let found = join_all(reads).await;
            for (at, page) in (first..first + count).enumerate() {
                let copies = found.iter().map(|pages| pages[at].clone()).collect();
                let lacking = self.load_map_page(lane, page, &writers, copies)?;
                self.level_map_page(lane, page, lacking).await;
            }
        }
        Ok(())
    }

    /// What a member has of some pages. One that cannot be read hides no other.
    async fn read_map(
        &self,
        lane: &Lane,
        index: Index,
        first: u64,
        count: u64,
    ) -> Vec<Option<MapPage>> {
        let read = |first: u64, count: u64| {
            let offset = self.geometry.map_page_offset(lane.id, first, 0);
            self.read_member(index, offset, count as usize * 2 * BLOCK_BYTES)
        };
        let decode = |(page, both): (u64, &[u8])| self.newest_map_page(lane, page, both);
        if let Ok(bytes) = read(first, count).await {
            let pages = (first..).zip(bytes.chunks_exact(2 * BLOCK_BYTES));
            return pages.map(decode).collect();
        }
        let one = |page: u64| async move {
            let both = read(page, 1).await.ok()?;
            decode((page, &both))
        };
        join_all((first..first + count).map(one)).await
    }

    /// The newest of two copies. One that is blank counts as number 0, on which the journal has
    /// all that follows: a crash may have torn the very first write of the other.
    fn newest_map_page(&self, lane: &Lane, page: u64, copies: &[u8]) -> Option<MapPage> {
        let id = lane.id as u16;
        let decode = |bytes| match decode_map_page(bytes, self.key, &self.geometry, id, page) {
            Found::Valid(sequence, map) => Some((sequence, map)),
            Found::Blank => {
                let unmapped = alloc::vec![MapEntry::default(); MAP_ENTRIES_PER_PAGE as usize];
                Some((0, unmapped))
            }
            Found::Damaged => None,
        };
        let valid = copies.chunks(BLOCK_BYTES).filter_map(decode);
        valid.max_by_key(|(sequence, _)| *sequence)
    }

    /// Takes the newest page of the members in sync. Gives back who holds another, because a crash
    /// came between the writes.
    fn load_map_page(
        &self,
        lane: &Lane,
        page: u64,
        members: &[Index],
        copies: Vec<Option<MapPage>>,
    ) -> Result<Vec<Index>, String> {
        let config = self.config.borrow();
        let in_sync = members.iter().zip(&copies);
        let in_sync = in_sync.filter(|(i, _)| config.is_in_sync(**i));
        let newest = in_sync
            .filter_map(|(_, copy)| copy.as_ref())
            .max_by_key(|c| c.0);
        let Some(newest) = newest else {
            return Err(format!(
                "map page {page} of lane {} is damaged or unreadable on every member: where its \
                 stripes live is not known, so nothing is served; bring back a member that was \
                 left out, or restore a backup",
                lane.id
            ));
        };
        lane.map.borrow_mut().load_page(page, newest.0, &newest.1);
        let pairs = members.iter().zip(&copies);
        let lacking = pairs.filter(|(_, copy)| copy.as_ref() != Some(newest));
        Ok(lacking.map(|(index, _)| *index).collect())
    }

    /// Gives a page to members that hold another, under the number it has: the next number goes
    /// over the other copy, which may be the only good one they have. The next checkpoint, which
    /// drops the journal records that would tell the difference, begins with a flush.
    async fn level_map_page(&self, lane: &Lane, page: u64, lacking: Vec<Index>) {
        if self.read_only || lacking.is_empty() {
            return;
        }
        let (sequence, bytes) = {
            let map = lane.map.borrow();
            let sequence = map.sequences[page as usize];
            let id = lane.id as u16;
            let bytes = encode_map_page(self.key, id, page, sequence, map.page(page));
            (sequence, self.pool.copy(&bytes))
        };
        let copy = (sequence % 2) as usize;
        let offset = self.geometry.map_page_offset(lane.id, page, copy);
        let give = |index: Index| self.write_member(index, offset, alloc::vec![bytes.clone()]);
        join_all(lacking.into_iter().map(give)).await;
    }
}

//! The stripe map when an array is opened: of each page the newest copy on any member in sync.

use crate::array::Array;
use crate::executor::join_all;
use crate::lane::Lane;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use uraid_core::config::Index;
use uraid_core::geometry::MAP_ENTRIES_PER_PAGE;
use uraid_core::listed::ListedPages;
use uraid_core::pages::{Found, MapEntry, decode_map_page, encode_map_page};
use uraid_core::units::BLOCK_BYTES;

/// Map pages read at once.
pub const PAGES_PER_READ: u64 = 128;

/// Of all pages of a lane's map, the numbers under which they were written.
pub type PageNumbers = Vec<u64>;

/// Sequence number and entries of a map page.
type MapPage = (u64, Vec<MapEntry>);

/// Pages of which members hold another copy than the one that counts, and these members.
pub type Uneven = Vec<(u64, Vec<Index>)>;

/// Runs of pages to be read at once.
fn runs_listed(pages: u64, listed: Option<&ListedPages>) -> impl Iterator<Item = Range<u64>> + '_ {
    let wanted = move |page: &u64| listed.is_none_or(|listed| listed.has(*page));
    let mut next = 0;
    core::iter::from_fn(move || {
        let first = (next..pages).find(wanted)?;
        let most = pages.min(first + PAGES_PER_READ);
        next = (first..most).find(|page| !wanted(page)).unwrap_or(most);
        Some(first..next)
    })
}

impl Array {
    /// Loads the map of a lane: the pages that are listed, or all if no list counts. Fails when
    /// nobody has a page whole: where its stripes live is not known then, and reading them as
    /// never written would be wrong. Writes nothing: a page that does not go with the others may
    /// be the wrong one.
    pub async fn load_map(
        &self,
        lane: &Lane,
        listed: Option<&ListedPages>,
    ) -> Result<Uneven, String> {
        let writers = self.all_writers();
        let mut uneven = Uneven::new();
        for run in runs_listed(self.geometry.map_pages(), listed) {
            let (first, count) = (run.start, run.end - run.start);
            let reads = writers
                .iter()
                .map(|i| self.read_map(lane, *i, first, count));
            let mut found = join_all(reads).await;
            for (at, page) in run.enumerate() {
                let copies = found.iter_mut().map(|pages| pages[at].take()).collect();
                let lacking = self.load_map_page(lane, page, &writers, copies)?;
                if !lacking.is_empty() {
                    uneven.push((page, lacking));
                }
            }
        }
        let mut map = lane.map.borrow_mut();
        if let Some(listed) = listed {
            map.listed.merge(listed);
        }
        let written = (0..self.geometry.map_pages()).filter(|p| map.sequences[*p as usize] > 0);
        let written: Vec<u64> = written.collect();
        written.into_iter().for_each(|page| map.listed.add(page));
        Ok(uneven)
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

    /// A page as it is in memory, under the number it has.
    pub fn map_page_bytes(&self, lane: &Lane, page: u64) -> (u64, Vec<u8>) {
        let map = lane.map.borrow();
        let sequence = map.sequences[page as usize];
        let id = lane.id as u16;
        let bytes = encode_map_page(self.key, id, page, sequence, map.page(page));
        (sequence, bytes)
    }

    /// Gives pages to members that hold others, as they were loaded and under the numbers they
    /// have: the next number goes over the other copy, which may be the only good one they have.
    /// The next checkpoint, which drops the journal records that would tell the difference, begins
    /// with a flush.
    pub async fn level_map(&self, lane: &Lane, uneven: Uneven) {
        if self.read_only {
            return;
        }
        for (page, lacking) in uneven {
            let (sequence, bytes) = self.map_page_bytes(lane, page);
            let bytes = self.pool.copy(&bytes);
            let copy = (sequence % 2) as usize;
            let offset = self.geometry.map_page_offset(lane.id, page, copy);
            let give = |index: Index| self.write_member(index, offset, alloc::vec![bytes.clone()]);
            join_all(lacking.into_iter().map(give)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_core::geometry::{Geometry, Level, Shape};

    #[test]
    fn listed_pages_are_read_in_runs() {
        let shape = Shape::new(Level::Raid6, 6, None, None, None).unwrap();
        let g = Geometry::plan(shape, 1 << 40, None).unwrap();
        let all: Vec<_> = runs_listed(300, None).collect();
        assert_eq!(all, [0..128, 128..256, 256..300]);
        let mut listed = ListedPages::none(&g);
        assert_eq!(runs_listed(300, Some(&listed)).count(), 0);
        for page in [0, 7, 8, 299].into_iter().chain(100..250) {
            listed.add(page);
        }
        let some: Vec<_> = runs_listed(300, Some(&listed)).collect();
        assert_eq!(some, [0..1, 7..9, 100..228, 228..250, 299..300]);
    }
}

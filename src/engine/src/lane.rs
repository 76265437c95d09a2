//! A lane: one journal with its stripes, slots, map and checksum pages.

use crate::api::OpenOptions;
use crate::commit::Journal;
use crate::executor::{Executor, Lock, Signal};
use crate::slots::Slots;
use crate::sums::SumCache;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use hashbrown::{HashMap, HashSet};
use rustc_hash::FxBuildHasher;
use uraid_buffer::Buf;
use uraid_core::geometry::{Geometry, MAP_ENTRIES_PER_PAGE, Slot, Stripe};
use uraid_core::listed::ListedPages;
use uraid_core::pages::{MapEntry, Sum};

/// One lane.
pub struct Lane {
    /// Its number.
    pub id: usize,
    /// Where its stripes live.
    pub map: SharedMap,
    /// Which of its slots are in use.
    pub slots: RefCell<Slots>,
    /// Checksum pages in memory.
    pub sums: SumCache,
    /// Blocks that are journalled and not yet in place.
    pub overlay: RefCell<Overlay>,
    /// The journal.
    pub journal: RefCell<Journal>,
    /// Fired when there is something to commit, or room for it.
    pub journal_moved: Signal,
    /// Fired when [`Slots::changes`] may have grown.
    pub slots_moved: Signal,
    /// Fired when the checkpoint task should look.
    pub checkpoint_wanted: Signal,
    /// Held while a checkpoint is made.
    pub checkpoint_lock: Lock,
}

impl Lane {
    /// A lane with that map, or else an empty one.
    pub fn new(id: usize, g: &Geometry, options: &OpenOptions, map: Option<SharedMap>) -> Lane {
        let lanes = u64::from(g.lanes);
        Lane {
            id,
            map: map.unwrap_or_else(|| Rc::new(RefCell::new(StripeMap::new(g)))),
            slots: RefCell::new(Slots::new(g.slots / lanes)),
            sums: SumCache::new(options.checksum_bytes_max, lanes),
            overlay: RefCell::default(),
            journal: RefCell::new(Journal::default()),
            journal_moved: Signal::default(),
            slots_moved: Signal::default(),
            checkpoint_wanted: Signal::default(),
            checkpoint_lock: Lock::default(),
        }
    }

    /// Undoes one hold on a slot, numbered within the lane.
    pub fn unhold_slot(&self, slot: u64, ex: &Executor) {
        self.slots.borrow_mut().unhold(slot);
        ex.fire(&self.slots_moved);
    }

    /// Wakes the checkpoint task.
    pub fn want_checkpoint(&self, ex: &Executor) {
        ex.fire(&self.checkpoint_wanted);
    }
}

/// A map that an array shares with the one that is opened in its place.
pub type SharedMap = Rc<RefCell<StripeMap>>;

/// A map page in memory.
type MapPage = [MapEntry; MAP_ENTRIES_PER_PAGE as usize];

/// Pages that were never written look like this one, and take no memory.
static BLANK_PAGE: MapPage = [MapEntry(0); MAP_ENTRIES_PER_PAGE as usize];

/// Map of a lane, in memory: 8 bytes a stripe, where any were written.
pub struct StripeMap {
    pages: Vec<Option<Box<MapPage>>>,
    /// Stripes of the lane.
    stripes: u64,
    lanes: u64,
    /// Pages that differ from what is on the members.
    pub dirty: BTreeSet<u64>,
    /// Sequence number of each page.
    pub sequences: Vec<u64>,
    /// Pages that may have been written, as the newest checkpoints of the members have it.
    pub listed: ListedPages,
    /// Stripes journalled since the last checkpoint, and during the one under way.
    pub touched: [HashSet<Stripe, FxBuildHasher>; 2],
}

impl StripeMap {
    fn new(g: &Geometry) -> StripeMap {
        let lanes = u64::from(g.lanes);
        StripeMap {
            pages: core::iter::repeat_with(|| None)
                .take(g.map_pages() as usize)
                .collect(),
            stripes: g.stripes / lanes,
            lanes,
            dirty: BTreeSet::new(),
            sequences: alloc::vec![0; g.map_pages() as usize],
            listed: ListedPages::none(g),
            touched: Default::default(),
        }
    }

    /// The page of a stripe, and its entry there.
    fn place(&self, stripe: Stripe) -> (u64, usize) {
        let number = stripe.0 / self.lanes;
        let (page, entry) = (number / MAP_ENTRIES_PER_PAGE, number % MAP_ENTRIES_PER_PAGE);
        (page, entry as usize)
    }

    /// Where a stripe lives.
    pub fn get(&self, stripe: Stripe) -> MapEntry {
        let (page, entry) = self.place(stripe);
        let page = self.pages[page as usize].as_ref();
        page.map_or(MapEntry::default(), |entries| entries[entry])
    }

    /// Moves a stripe; the page that says so becomes dirty.
    pub fn set(&mut self, stripe: Stripe, new: MapEntry) {
        if self.get(stripe) != new {
            let (page, entry) = self.place(stripe);
            self.page_mut(page)[entry] = new;
            self.dirty.insert(page);
        }
    }

    fn page_mut(&mut self, page: u64) -> &mut MapPage {
        self.pages[page as usize].get_or_insert_with(|| Box::new(BLANK_PAGE))
    }

    /// The entries of one page.
    pub fn page(&self, page: u64) -> &[MapEntry] {
        let entries = self.pages[page as usize].as_deref().unwrap_or(&BLANK_PAGE);
        let left = self.stripes - page * MAP_ENTRIES_PER_PAGE;
        &entries[..left.min(MAP_ENTRIES_PER_PAGE) as usize]
    }

    /// Whether no stripe of a page has a place or remembers one.
    pub fn is_unused(&self, page: u64) -> bool {
        self.page(page).iter().all(|e| *e == MapEntry::default())
    }

    /// Fills a page with what was read from a member.
    pub fn load_page(&mut self, page: u64, sequence: u64, entries: &[MapEntry]) {
        let len = self.page(page).len();
        self.sequences[page as usize] = sequence;
        match entries[..len].iter().all(|e| *e == MapEntry::default()) {
            true => self.pages[page as usize] = None,
            false => self.page_mut(page)[..len].copy_from_slice(&entries[..len]),
        }
    }

    /// Numbers within the lane of stripes in pages that were ever written, and their entries.
    pub fn iter(&self) -> impl Iterator<Item = (u64, MapEntry)> {
        let pages = self.pages.iter().enumerate();
        let written = pages.filter_map(|(page, entries)| Some((page, entries.as_deref()?)));
        written.flat_map(|(page, entries)| {
            let first = page as u64 * MAP_ENTRIES_PER_PAGE;
            (first..).zip(entries.iter().copied())
        })
    }
}

/// A block that is journalled and not yet in place.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its content.
    pub data: Buf,
    /// Its checksum and generation.
    pub sum: Sum,
    /// The batch that journalled it.
    pub seq: u64,
}

/// The journalled blocks of one row.
#[derive(Clone, Debug)]
pub struct RowImage {
    /// Where the stripe lives.
    pub slot: Slot,
    /// The oldest batch whose record is still needed for this row.
    pub first_seq: u64,
    /// Newest version by column, ascending.
    pub columns: Vec<(usize, Version)>,
}

impl RowImage {
    /// The version of a column.
    pub fn column(&self, column: usize) -> Option<&Version> {
        self.columns
            .iter()
            .find(|(c, _)| *c == column)
            .map(|(_, v)| v)
    }

    /// The newest batch in it.
    pub fn newest_seq(&self) -> u64 {
        self.columns.iter().map(|(_, v)| v.seq).max().unwrap_or(0)
    }
}

/// All rows of a lane that are journalled and not yet in place.
#[derive(Default)]
pub struct Overlay {
    stripes: HashMap<Stripe, BTreeMap<u16, RowImage>, FxBuildHasher>,
}

impl Overlay {
    /// The journalled version of a block.
    pub fn block(&self, stripe: Stripe, row: usize, column: usize) -> Option<&Version> {
        self.stripes
            .get(&stripe)?
            .get(&(row as u16))?
            .column(column)
    }

    /// Whether a stripe has any.
    pub fn has(&self, stripe: Stripe) -> bool {
        self.stripes.contains_key(&stripe)
    }

    /// Adds or replaces a block.
    pub fn insert(&mut self, stripe: Stripe, slot: Slot, row: u16, column: usize, new: Version) {
        let rows = self.stripes.entry(stripe).or_default();
        let image = rows.entry(row).or_insert_with(|| RowImage {
            slot,
            first_seq: new.seq,
            columns: Vec::new(),
        });
        debug_assert_eq!(image.slot, slot, "a moved stripe leaves no rows behind");
        match image.columns.binary_search_by_key(&column, |(c, _)| *c) {
            Ok(at) => image.columns[at].1 = new,
            Err(at) => image.columns.insert(at, (column, new)),
        }
    }

    /// Forgets a stripe: it moved or became empty.
    pub fn drop_stripe(&mut self, stripe: Stripe) {
        self.stripes.remove(&stripe);
    }

    /// All stripes with rows.
    pub fn stripes(&self) -> impl Iterator<Item = Stripe> {
        self.stripes.keys().copied()
    }

    /// Stripes with rows all of whose versions are older than `seq`, in order.
    pub fn stripes_before(&self, seq: u64) -> Vec<Stripe> {
        let ready = |rows: &BTreeMap<u16, RowImage>| rows.values().any(|r| r.newest_seq() < seq);
        let mut stripes: Vec<Stripe> = self
            .stripes
            .iter()
            .filter(|(_, rows)| ready(rows))
            .map(|(s, _)| *s)
            .collect();
        stripes.sort();
        stripes
    }

    /// The rows of a stripe all of whose versions are older than `seq`.
    pub fn rows_before(&self, stripe: Stripe, seq: u64) -> Vec<(u16, RowImage)> {
        let Some(rows) = self.stripes.get(&stripe) else {
            return Vec::new();
        };
        let ready = rows.iter().filter(|(_, image)| image.newest_seq() < seq);
        ready.map(|(row, image)| (*row, image.clone())).collect()
    }

    /// `image` is in place: forgets what has not been replaced since.
    pub fn placed(&mut self, stripe: Stripe, row: u16, image: &RowImage) {
        let Some(rows) = self.stripes.get_mut(&stripe) else {
            return;
        };
        let Some(now) = rows.get_mut(&row) else {
            return;
        };
        if now.slot != image.slot {
            return;
        }
        now.columns
            .retain(|(c, v)| image.column(*c).is_none_or(|placed| placed.seq != v.seq));
        match now.columns.iter().map(|(_, v)| v.seq).min() {
            Some(oldest) => now.first_seq = oldest,
            None => {
                rows.remove(&row);
                if rows.is_empty() {
                    self.stripes.remove(&stripe);
                }
            }
        }
    }

    /// The oldest batch that is still needed.
    pub fn oldest_seq(&self) -> Option<u64> {
        self.stripes
            .values()
            .flat_map(|rows| rows.values())
            .map(|r| r.first_seq)
            .min()
    }
}

//! Scrub: looks at everything that is in use, slot by slot, while the array serves; repairs what
//! checksums prove and only that.
//!
//! A block that does not match its checksum is reconstructed from the others and rewritten. Rows
//! that match their checksums and are no codeword are reported and left alone: nothing proves
//! which block is wrong. On a read-only array nothing is repaired, only counted: that is
//! `uraid check`. The cursor is durable, so a scrub goes on after a restart.

mod metadata;
mod rows;

use crate::api::{CommandError, Mode, Nanos, ScrubOrder};
use crate::array::Array;
use crate::executor::join_all;
use crate::meter::Meter;
use crate::status::{ScrubFindings, ScrubState, ScrubStatus};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use uraid_core::config::Index;
use uraid_core::events::EventKind;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::superblock::{ScrubCounts, ScrubRecord, Superblock};

/// Slots looked at at the same time.
const SLOTS_IN_FLIGHT_MAX: usize = 4;
/// How often the cursor is made durable.
const SAVE_EVERY: Nanos = 5_000_000_000;

/// The scrub under way, or the last one.
#[derive(Default, Debug)]
pub struct Scrub {
    /// Where it is in its life.
    pub state: ScrubState,
    /// Slots below are done.
    cursor: u64,
    rate_max: Option<u64>,
    lost_blocks: u64,
    inconsistent_rows: u64,
    found: BTreeMap<Index, ScrubCounts>,
    done_bytes: u64,
    total_bytes: u64,
    meter: Meter,
    /// Whether a task is at it.
    pub working: bool,
}

impl Scrub {
    /// What a superblock remembers.
    pub fn load(superblock: &Superblock) -> Scrub {
        let record = superblock.scrub;
        let counts = superblock.counters.iter().map(|c| c.scrub).enumerate();
        let found = counts.filter(|(_, c)| *c != ScrubCounts::default());
        Scrub {
            state: match record.state {
                1 => ScrubState::Running,
                2 => ScrubState::Paused,
                3 => ScrubState::Finished,
                4 => ScrubState::Stopped,
                _ => ScrubState::Never,
            },
            cursor: record.cursor,
            rate_max: Some(record.rate_max).filter(|rate| *rate > 0),
            lost_blocks: record.lost_blocks,
            inconsistent_rows: record.inconsistent_rows,
            found: found.map(|(i, c)| (Index(i as u16), c)).collect(),
            ..Scrub::default()
        }
    }

    /// What superblocks are to remember.
    pub fn record(&self) -> ScrubRecord {
        ScrubRecord {
            state: self.state as u8,
            cursor: self.cursor,
            rate_max: self.rate_max.unwrap_or(0),
            lost_blocks: self.lost_blocks,
            inconsistent_rows: self.inconsistent_rows,
        }
    }

    /// What was found on a member.
    pub fn counts(&self, index: Index) -> ScrubCounts {
        self.found.get(&index).copied().unwrap_or_default()
    }

    /// Forgets what was found on the member that had this place before.
    pub fn forget(&mut self, index: Index) {
        self.found.remove(&index);
    }
}

type Result = core::result::Result<String, CommandError>;

fn refused(text: &str) -> Result {
    Err(CommandError::Refused(text.to_string()))
}

impl Array {
    /// Carries out an operator's order.
    pub async fn order_scrub(&self, order: ScrubOrder, mode: Mode) -> Result {
        if let Some(why) = &*self.suspended.borrow() {
            return Err(CommandError::Failed(why.clone()));
        }
        let state = self.scrub.borrow().state;
        let active = self.has_scrub();
        let (next, text) = match order {
            ScrubOrder::Start { .. } if active => {
                return refused(
                    "a scrub is under way already: `uraid scrub status` shows it, stop it first",
                );
            }
            ScrubOrder::Start { .. } => (ScrubState::Running, "scrub started"),
            ScrubOrder::Pause if state == ScrubState::Running => {
                (ScrubState::Paused, "scrub paused")
            }
            ScrubOrder::Pause => {
                return refused("no scrub is running: `uraid scrub start` begins one");
            }
            ScrubOrder::Resume if state == ScrubState::Paused => {
                (ScrubState::Running, "scrub resumed")
            }
            ScrubOrder::Resume => {
                return refused("no scrub is paused: `uraid scrub status` shows how it is");
            }
            ScrubOrder::Stop if active => (ScrubState::Stopped, "scrub stopped"),
            ScrubOrder::Stop => {
                return refused("no scrub is under way: `uraid scrub start` begins one");
            }
        };
        if mode == Mode::DryRun {
            return Ok(self.would_scrub(order));
        }
        if next == ScrubState::Running {
            // The one before may still be ending.
            self.until_scrub_rests().await;
        }
        if let ScrubOrder::Start { rate_max } = order {
            *self.scrub.borrow_mut() = Scrub {
                rate_max: rate_max.filter(|rate| *rate > 0),
                ..Scrub::default()
            };
        }
        self.scrub.borrow_mut().state = next;
        if matches!(order, ScrubOrder::Start { .. }) {
            self.tell(EventKind::ScrubStarted, text.to_string());
        }
        self.ex.fire(&self.changed);
        self.until_scrub_rests_unless_running().await;
        self.count_scrub_work();
        self.save_scrub().await;
        self.start_scrub();
        Ok(text.to_string())
    }

    /// Waits until no task is at the scrub.
    pub async fn until_scrub_rests(&self) {
        let rests = || !self.scrub.borrow().working;
        self.ex.until(&self.changed, rests).await;
    }

    async fn until_scrub_rests_unless_running(&self) {
        if self.scrub.borrow().state != ScrubState::Running {
            self.until_scrub_rests().await;
        }
    }

    /// Starts the task of a scrub that is to run and has none.
    pub fn start_scrub(&self) {
        let mut scrub = self.scrub.borrow_mut();
        if scrub.state == ScrubState::Running && !scrub.working {
            scrub.working = true;
            let array = self.me();
            self.ex.spawn(async move { array.scrub_task().await });
        }
    }

    async fn save_scrub(&self) {
        if !self.read_only {
            self.save_counters().await;
        }
    }

    fn is_scrubbing(&self) -> bool {
        self.scrub.borrow().state == ScrubState::Running
            && !self.is_suspended()
            && !self.stopping.get()
    }

    async fn scrub_task(self: Rc<Self>) {
        let mut saved = self.ex.now();
        while self.is_scrubbing() {
            let cursor = self.scrub.borrow().cursor;
            if cursor >= self.geometry.slots {
                self.finish_scrub().await;
                break;
            }
            let begun = (self.ex.now(), self.requests.get());
            let done_bytes = self.scrub_some(cursor).await;
            self.hold_back(begun, done_bytes).await;
            if self.ex.now() >= saved + SAVE_EVERY {
                self.save_scrub().await;
                saved = self.ex.now();
            }
        }
        self.scrub.borrow_mut().working = false;
        self.ex.fire(&self.changed);
    }

    /// The stripe that lives in a slot.
    fn stripe_in(&self, slot: Slot) -> Option<Stripe> {
        let lane = &self.lanes[self.geometry.lane_of_slot(slot)];
        let owner = lane.slots.borrow().owner(self.geometry.in_lane(slot.0))?;
        Some(self.geometry.stripe_in_lane(lane.id, owner))
    }

    /// Counts what a scrub under way has done and has to do, from its cursor.
    pub fn count_scrub_work(&self) {
        let state = self.scrub.borrow().state;
        if !matches!(state, ScrubState::Running | ScrubState::Paused) {
            return;
        }
        let chunk = u64::from(self.geometry.shape.chunk_bytes);
        let cursor = self.scrub.borrow().cursor;
        let (mut done, mut total) = (0, 0);
        let mut slot = self.skip_unused(Slot(0));
        while slot.0 < self.geometry.slots {
            if self.stripe_in(slot).is_some() {
                total += chunk;
                done += if slot.0 < cursor { chunk } else { 0 };
            }
            slot = self.skip_unused(Slot(slot.0 + 1));
        }
        let mut scrub = self.scrub.borrow_mut();
        (scrub.done_bytes, scrub.total_bytes) = (done, total);
    }

    /// Looks at the next few slots and moves the cursor past them; gives the bytes read of each
    /// member.
    async fn scrub_some(&self, cursor: u64) -> u64 {
        let mut next = cursor;
        let mut slots = Vec::new();
        while next < self.geometry.slots && slots.len() < SLOTS_IN_FLIGHT_MAX {
            slots.extend(Some(Slot(next)).filter(|s| self.stripe_in(*s).is_some()));
            next = self.skip_unused(Slot(next + 1)).0;
        }
        join_all(slots.iter().map(|slot| self.scrub_slot(*slot))).await;
        if !self.is_scrubbing() {
            return 0; // looked at once more when it goes on
        }
        let bytes = slots.len() as u64 * u64::from(self.geometry.shape.chunk_bytes);
        let mut scrub = self.scrub.borrow_mut();
        scrub.cursor = next;
        scrub.done_bytes += bytes;
        scrub.total_bytes = scrub.total_bytes.max(scrub.done_bytes);
        let (done, now) = (scrub.done_bytes, self.ex.now());
        scrub.meter.count(done, now);
        bytes
    }

    /// Keeps the scrub under way to so many bytes of each member in a second; none: no limit.
    pub fn set_scrub_rate(&self, rate_max: Option<u64>) {
        self.scrub.borrow_mut().rate_max = rate_max;
    }

    /// Whether a scrub is under way, or rests.
    pub fn has_scrub(&self) -> bool {
        let state = self.scrub.borrow().state;
        matches!(state, ScrubState::Running | ScrubState::Paused)
    }

    /// Keeps to the operator's limit, and leaves half of the time to clients if there are any, or
    /// more if they wait too long.
    async fn hold_back(&self, (begun, requests): (Nanos, u64), bytes: u64) {
        let now = self.ex.now();
        let took = now - begun;
        let rate_max = self.scrub.borrow().rate_max;
        let limit = rate_max.map_or(0, |rate| {
            (u128::from(bytes) * 1_000_000_000 / u128::from(rate)) as u64
        });
        let courtesy = match self.requests.get() != requests {
            true => took.saturating_mul(2000) / self.background.permille(now) - took,
            false => 0,
        };
        let until = now + limit.saturating_sub(took).max(courtesy);
        if until > now {
            let changes = self.background.changes();
            let over = || !self.is_scrubbing() || self.background.changes() != changes;
            self.ex.until_or(until, &self.changed, over).await;
        } else {
            self.ex.yield_now().await;
        }
    }

    async fn finish_scrub(&self) {
        self.scrub_metadata().await;
        if !self.is_scrubbing() {
            return;
        }
        let text = {
            let mut scrub = self.scrub.borrow_mut();
            scrub.state = ScrubState::Finished;
            scrub.done_bytes = scrub.total_bytes;
            self.scrub_verdict(&scrub)
        };
        match text {
            None => {
                let text = "scrub finished: everything in use is as it should be";
                self.tell(EventKind::ScrubFinished, text.into());
            }
            Some(text) => self.tell(EventKind::ScrubFound, format!("scrub finished: {text}")),
        }
        self.save_scrub().await;
    }

    /// What is worth telling an operator, if anything.
    fn scrub_verdict(&self, scrub: &Scrub) -> Option<String> {
        let mut parts: Vec<String> = Vec::new();
        for (index, c) in &scrub.found {
            parts.push(format!(
                "{}: {} wrong block(s), {} repaired; {} damaged metadata page(s), {} repaired",
                self.member_name(*index),
                c.bad_blocks,
                c.repaired_blocks,
                c.bad_metadata,
                c.repaired_metadata
            ));
        }
        if scrub.lost_blocks > 0 {
            parts.push(format!(
                "{} block(s) are lost beyond redundancy: restore them from a backup",
                scrub.lost_blocks
            ));
        }
        if scrub.inconsistent_rows > 0 {
            parts.push(format!(
                "{} row(s) match their checksums and are no codeword: left alone",
                scrub.inconsistent_rows
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// A checksum page of a member turned out to be damaged or stale; it is being made anew.
    pub fn count_unsound_page(&self, index: Index) {
        if self.scrub.borrow().state == ScrubState::Running {
            self.count_metadata(index, 1);
        }
    }

    /// Counts damaged metadata of a member; unless the array is read-only it is repaired.
    fn count_metadata(&self, index: Index, bad: u32) {
        self.count_found(index, |c| {
            c.bad_metadata = c.bad_metadata.saturating_add(bad);
            if !self.read_only {
                c.repaired_metadata = c.repaired_metadata.saturating_add(bad);
            }
        });
    }

    /// Counts something found on a member.
    fn count_found(&self, index: Index, change: impl FnOnce(&mut ScrubCounts)) {
        change(self.scrub.borrow_mut().found.entry(index).or_default());
    }

    /// What `uraid status` shows of it.
    pub fn scrub_status(&self) -> ScrubStatus {
        let scrub = self.scrub.borrow();
        let left = scrub.total_bytes.saturating_sub(scrub.done_bytes);
        let config = self.config.borrow();
        let shown = config
            .members()
            .filter(|(i, e)| e.role.is_some() || scrub.found.contains_key(i));
        let mut members: Vec<ScrubFindings> = shown
            .map(|(index, entry)| {
                let counts = scrub.counts(index);
                ScrubFindings {
                    slot: entry.role,
                    path: self.path_of(index),
                    bad_blocks: counts.bad_blocks.into(),
                    repaired_blocks: counts.repaired_blocks.into(),
                    bad_metadata: counts.bad_metadata.into(),
                    repaired_metadata: counts.repaired_metadata.into(),
                }
            })
            .collect();
        members.sort_by_key(|m| m.slot.unwrap_or(u16::MAX));
        ScrubStatus {
            state: scrub.state,
            done_bytes: scrub.done_bytes,
            total_bytes: scrub.total_bytes,
            bytes_per_second: scrub.meter.bytes_per_second,
            eta_seconds: left.checked_div(scrub.meter.bytes_per_second),
            rate_max: scrub.rate_max,
            lost_blocks: scrub.lost_blocks,
            inconsistent_rows: scrub.inconsistent_rows,
            members,
        }
    }
}

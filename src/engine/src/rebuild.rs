//! Rebuild: fills a member with its role's data, slot by slot, while the array serves.
//!
//! Only slots in use are walked, and for a member that comes back only stripes that changed since
//! it left. Foreground writes reach the member from the moment its config is in force, so each
//! slot needs filling once. What is copied is what is in place; rows that are journalled reach
//! the member with their destage. The cursor becomes durable only after everything below it is.

use crate::api::Nanos;
use crate::array::Array;
use crate::executor::join_all;
use crate::mend::{Misfit, Repair};
use crate::meter::Meter;
use crate::mutants::{Mutant, active};
use crate::pace::{Pace, SLOTS_IN_FLIGHT_MAX};
use crate::settled::{Checked, Placed};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;
use uraid_buffer::Buf;
use uraid_core::config::{Entry, EntryState, Index};
use uraid_core::events::EventKind;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::pages::Sum;

/// Bytes that all members together hold of the slots being filled at the same time.
const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// Slots filled before the cursor moves.
const SLOTS_PER_STEP_MAX: usize = 256;
/// Slots looked at before others have their turn.
const SLOTS_PER_LOOK: usize = 1024;
/// How often the cursor is made durable.
const SAVE_EVERY: Nanos = 2_000_000_000;

/// How far a rebuild is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Slots below are filled.
    pub cursor: u64,
    /// Only stripes changed since this config; 0: all.
    pub since: u64,
    /// Whether a task is at it.
    pub running: bool,
    /// Bytes of the member filled, and to be filled in all, as last counted.
    pub done_bytes: u64,
    /// See `done_bytes`.
    pub total_bytes: u64,
    /// Recent speed.
    pub meter: Meter,
}

impl Progress {
    /// A rebuild that goes on at `cursor`.
    pub fn begin(cursor: u64, since: u64) -> Progress {
        Progress {
            cursor,
            since,
            running: false,
            done_bytes: 0,
            total_bytes: 0,
            meter: Meter::default(),
        }
    }

    fn count(&mut self, bytes: u64, now: Nanos) {
        self.done_bytes += bytes;
        self.meter.count(self.done_bytes, now);
    }
}

impl Array {
    /// Starts a task for every member that is being filled and has none.
    pub fn start_rebuilds(&self) {
        for (index, progress) in self.rebuilds.borrow_mut().iter_mut() {
            let config = self.config.borrow();
            let state = config.entry(*index).state;
            if state.is_filling() && !progress.running && self.live_device(*index).is_some() {
                progress.running = true;
                let (array, index) = (self.me(), *index);
                self.ex.spawn(async move { array.rebuild(index).await });
            }
        }
    }

    fn is_filling(&self, index: Index) -> bool {
        self.rebuilds.borrow().contains_key(&index)
            && self.live_device(index).is_some()
            && !self.is_suspended()
            && !self.stopping.get()
    }

    async fn rebuild(self: Rc<Self>, index: Index) {
        let name = self.member_name(index);
        self.settle_writers().await;
        self.count_work(index).await;
        let from = self.rebuilds.borrow().get(&index).map_or(0, |p| p.cursor);
        let text = match from {
            0 => format!("{name}: rebuild started"),
            _ => format!(
                "{name}: rebuild resumed at slot {from} of {}",
                self.geometry.slots
            ),
        };
        self.tell_of(index, EventKind::RebuildStarted, text);
        let mut saved = self.ex.now();
        let mut pace = Pace::new(self.requests_so_far());
        while self.is_filling(index) {
            let cursor = self.rebuilds.borrow()[&index].cursor;
            if cursor >= self.geometry.slots {
                if self.finish_rebuild(index).await {
                    let text = format!("{name}: rebuild complete");
                    self.tell_of(index, EventKind::RebuildFinished, text);
                }
                break;
            }
            self.fill_some(index, cursor, &mut pace).await;
            if self.ex.now() >= saved + SAVE_EVERY {
                self.save_cursor(index).await;
                saved = self.ex.now();
            }
        }
        if self.live_device(index).is_none() {
            let text = format!("{name}: its rebuild ends, as it has failed");
            self.tell_of(index, EventKind::RebuildFailed, text);
        }
        if let Some(progress) = self.rebuilds.borrow_mut().get_mut(&index) {
            progress.running = false;
        }
        self.ex.fire(&self.changed);
    }

    /// Waits until every batch and checkpoint that began before, with the old set of writers, has
    /// ended.
    async fn settle_writers(&self) {
        for lane in &self.lanes {
            let seq = lane.journal.borrow().next_seq;
            let written = || lane.journal.borrow().is_written(seq) || self.is_suspended();
            self.ex.until(&lane.journal_moved, written).await;
            drop(lane.checkpoint_lock.lock(&self.ex).await);
        }
    }

    /// The used slots from `from` on that a member being filled needs.
    fn needs(&self, slot: Slot, since: u64) -> Option<Stripe> {
        let lane = &self.lanes[self.geometry.lane_of_slot(slot)];
        let owner = lane.slots.borrow().owner(self.geometry.in_lane(slot.0))?;
        let stripe = self.geometry.stripe_in_lane(lane.id, owner);
        let since = since + u64::from(active(Mutant::CatchUpSkips) && since > 0);
        (since == 0 || lane.map.borrow().get(stripe).changed_since(since)).then_some(stripe)
    }

    async fn count_work(&self, index: Index) {
        let Some((cursor, since)) = self
            .rebuilds
            .borrow()
            .get(&index)
            .map(|p| (p.cursor, p.since))
        else {
            return;
        };
        let chunk = u64::from(self.geometry.shape.chunk_bytes);
        let (mut done, mut total) = (0, 0);
        let (next, mut seen) = (Cell::new(0), 0);
        while next.get() < self.geometry.slots {
            match self.next_needed(&next, since) {
                Some(slot) => {
                    total += chunk;
                    done += if slot.0 < cursor { chunk } else { 0 };
                    seen += 1;
                }
                None => seen = SLOTS_PER_LOOK,
            }
            if seen >= SLOTS_PER_LOOK {
                seen = 0;
                self.ex.let_host_run().await;
            }
        }
        if let Some(p) = self.rebuilds.borrow_mut().get_mut(&index) {
            (p.done_bytes, p.total_bytes) = (done, total);
        }
    }

    /// Fills the next few slots and moves the cursor past them.
    async fn fill_some(&self, index: Index, cursor: u64, pace: &mut Pace) {
        let since = self.rebuilds.borrow()[&index].since;
        let (begun, requests) = (self.ex.now(), self.requests_so_far());
        let spent = self.port.background_nanos();
        let busy = pace.is_busy(requests, begun);
        let shape = &self.geometry.shape;
        let stripe_bytes = shape.columns * shape.chunk_bytes as usize;
        let (policy, permille) = (self.background.policy(), self.rebuild_permille());
        let in_flight = match busy && permille < 1000 {
            true => pace.slots,
            false => (IN_FLIGHT_BYTES_MAX / stripe_bytes).clamp(1, SLOTS_IN_FLIGHT_MAX),
        };
        let step = if busy { in_flight } else { SLOTS_PER_STEP_MAX };
        let step = step.min(policy.slots_max(shape.chunk_bytes.into()));
        let (next, done) = (Cell::new(cursor), Cell::new(0));
        let fill = |_| async {
            // Clients that come in the middle of a step end it.
            while self.is_filling(index) && (busy || self.requests_so_far() == requests) {
                if done.get() >= step || next.get() >= self.geometry.slots {
                    return;
                }
                let Some(slot) = self.next_needed(&next, since) else {
                    self.ex.let_host_run().await;
                    continue;
                };
                done.set(done.get() + 1);
                self.fill_slot(index, slot, since).await;
            }
        };
        // Alone it waits for nobody. Checkpoints never do: clients may well wait for those.
        self.ex.set_background(busy);
        join_all((0..in_flight).map(fill)).await;
        self.ex.set_background(false);
        if !self.is_filling(index) {
            return;
        }
        let now = self.ex.now();
        let bytes = done.get() as u64 * u64::from(shape.chunk_bytes);
        if let Some(p) = self.rebuilds.borrow_mut().get_mut(&index) {
            p.cursor = next.get();
            p.count(bytes, now);
            p.total_bytes = p.total_bytes.max(p.done_bytes);
        }
        // Where the host itself moves the bytes, it has told how long that kept clients waiting:
        // the rest of the time was theirs already.
        let own = match self.port.background_nanos() - spent {
            0 => now - begun,
            own => own.min(now - begun),
        };
        let courtesy = match busy {
            true => pace.period(now - begun, own, permille),
            false => now - begun,
        };
        if policy.is_below_floor(now - begun, bytes) {
            pace.press();
        }
        let next_begins = begun.saturating_add(policy.period(courtesy, bytes));
        if next_begins > now {
            let changes = self.background.changes();
            let over = || !self.is_filling(index) || self.background.changes() != changes;
            self.ex.until_or(next_begins, &self.changed, over).await;
        } else {
            self.ex.yield_now().await;
        }
    }

    /// The first slot from `next` on that has to be filled; `next` moves behind it. None when
    /// there is none, or clients have waited long enough.
    fn next_needed(&self, next: &Cell<u64>, since: u64) -> Option<Slot> {
        for _ in 0..SLOTS_PER_LOOK {
            let slot = self.skip_unused(Slot(next.get()));
            next.set(self.geometry.slots.min(slot.0 + 1));
            if slot.0 >= self.geometry.slots {
                return None;
            }
            if self.needs(slot, since).is_some() {
                return Some(slot);
            }
        }
        None
    }

    async fn fill_slot(&self, index: Index, slot: Slot, since: u64) {
        let Some(stripe) = self.needs(slot, since) else {
            return;
        };
        let lane = self.lane(stripe);
        let local = self.geometry.in_lane(slot.0);
        lane.slots.borrow_mut().hold(local);
        let place = match active(Mutant::RebuildUnlocked) {
            true => None,
            false => Some(self.lock_place(stripe).await),
        };
        if lane.map.borrow().get(stripe).slot() == Some(slot) {
            self.fill_column(index, stripe, slot).await;
        }
        drop(place);
        lane.unhold_slot(local, &self.ex);
    }

    /// Copies or reconstructs one column of a slot. The caller holds its place lock.
    async fn fill_column(&self, index: Index, stripe: Stripe, slot: Slot) {
        let Some(role) = self.config.borrow().entry(index).role else {
            return;
        };
        let column = self.geometry.shape.column_of(slot, usize::from(role));
        let rows = self.geometry.shape.rows();
        let sums = self.sums(index, slot, 0..rows).await;
        let holder = self.roles.borrow()[usize::from(role)].holder;
        let holder = holder.filter(|h| *h != index);
        let held: Vec<Checked> = match holder {
            Some(holder) => self.read_checked(holder, slot, column, 0..rows).await,
            None => alloc::vec![Checked::Bad(None); rows],
        };
        let mut blocks: Vec<Option<Placed>> = held.iter().cloned().map(Checked::good).collect();
        let missing: Vec<usize> = (0..rows).filter(|r| blocks[*r].is_none()).collect();
        let mut misfits = Vec::new();
        for run in crate::read::runs(&missing) {
            let place = (stripe, slot, column);
            let found = holder.map(|holder| (holder, &held[run.clone()]));
            let wrong = self.rebuild_rows(place, run.clone(), found, &mut blocks[run]);
            misfits.append(&mut wrong.await);
        }
        for (block, checked) in blocks.iter_mut().zip(held) {
            // Where nothing can be reconstructed, what is only in doubt counts.
            *block = block.take().or_else(|| checked.matching());
        }
        let written: Vec<usize> = (0..rows)
            .filter(|r| blocks[*r].as_ref().is_some_and(|b| !b.sum.is_blank()))
            .collect();
        let data = |r: usize| blocks[r].as_ref().expect("it was found").data.clone();
        let writes = crate::read::runs(&written).into_iter().map(|run| {
            let buffers: Vec<Buf> = run.clone().map(data).collect();
            self.write_member(index, self.geometry.block_offset(slot, run.start), buffers)
        });
        join_all(writes).await;
        let generation = self.lane(stripe).journal.borrow().next_seq;
        self.take_sums(&sums, slot, stripe, generation);
        for (row, block) in blocks.iter().enumerate() {
            match block {
                Some(placed) => self.set_sum(&sums, slot, row, placed.sum),
                None => self.set_sum(&sums, slot, row, Sum::NONE),
            }
        }
        self.repair_misfits(stripe, slot, misfits, Repair::Report)
            .await;
    }

    /// Reconstructs some rows; those that cannot be are left out, one by one. Gives what was found
    /// wrong on the way: on other members, and on the one that is replaced, with what was `found`
    /// there.
    async fn rebuild_rows(
        &self,
        (stripe, slot, column): (Stripe, Slot, usize),
        rows: Range<usize>,
        found: Option<(Index, &[Checked])>,
        blocks: &mut [Option<Placed>],
    ) -> Vec<Misfit> {
        let place = (stripe, slot, column);
        let (made, mut misfits) = self.reconstruct_each(place, rows.clone()).await;
        for (i, (row, made)) in rows.zip(made).enumerate() {
            match made {
                Ok(made) => {
                    misfits.extend(found.and_then(|(index, found)| {
                        Misfit::of((index, column), row, &found[i], &made)
                    }));
                    blocks[i] = Some(made);
                }
                Err(lost) => {
                    let text = format!("lost beyond redundancy: {}", lost.0);
                    self.tell(EventKind::BlocksLost, text);
                }
            }
        }
        misfits
    }

    /// Makes everything below the cursor durable, then the cursor.
    pub async fn save_cursor(&self, index: Index) {
        let Some(cursor) = self.rebuilds.borrow().get(&index).map(|p| p.cursor) else {
            return;
        };
        for lane in &self.lanes {
            self.checkpoint(lane).await;
        }
        if self.is_filling(index) || self.stopping.get() {
            self.counters.borrow_mut()[usize::from(index.0)].rebuild_cursor = cursor;
            self.save_counters().await;
        }
    }

    /// The member is full: it becomes in sync, and a member it replaces leaves.
    async fn finish_rebuild(&self, index: Index) -> bool {
        for lane in &self.lanes {
            self.checkpoint(lane).await;
        }
        if !self.is_filling(index) {
            return false;
        }
        let done = self
            .change_config(|config| {
                let entry = *config.entry(index);
                if !entry.state.is_filling() {
                    return Err("it failed or was removed meanwhile".into());
                }
                let role = entry.role.expect("a member being filled has a role");
                let holds = |e: &Entry| e.role == Some(role) && e.state == EntryState::InSync;
                let replaced = config.members().find(|(_, e)| holds(e)).map(|(i, _)| i);
                if let Some(old) = replaced {
                    config.mark_left(old);
                    config.entry_mut(old).left_epoch = 0;
                }
                // Whoever had the role before comes back as a spare, not to this role.
                for entry in &mut config.entries {
                    if entry.state == EntryState::Failed && entry.role == Some(role) {
                        entry.role = None;
                    }
                }
                config.entry_mut(index).state = EntryState::InSync;
                Ok(())
            })
            .await
            .is_ok();
        let is_whole = || self.config.borrow().is_in_sync(index);
        if !done || !is_whole() {
            return false;
        }
        for lane in &self.lanes {
            for page in lane.sums.forget_idle(index) {
                self.look_closer(lane.id, index, page);
            }
        }
        self.verify_left_over();
        // A peer rolled back to before the config would make it look never completed, and this
        // member never filled: two roles lost. With checkpoints that name it, it stands.
        if !active(Mutant::FilledUnwitnessed) {
            for lane in &self.lanes {
                self.witness_tail(lane).await;
            }
        }
        self.rebuilds.borrow_mut().remove(&index);
        let mut counters = self.counters.borrow_mut();
        counters[usize::from(index.0)].rebuild_cursor = 0;
        counters[usize::from(index.0)].rebuild_since = 0;
        is_whole()
    }
}

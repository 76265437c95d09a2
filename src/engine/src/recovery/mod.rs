//! Recovery of a lane after a crash, or after a stop that left work in the journal.
//!
//! 1. The newest journal epoch with a whole re-log, or a checkpoint, is the basis.
//! 2. Of the batches after the tail the longest prefix is accepted in which every touched row can
//!    be decoded from verified blocks, never below what is known to be durable.
//! 3. Blocks that did not reach new slots are written there: that only adds to what is known.
//! 4. Full images of the touched rows are re-logged in a new epoch on every member and flushed;
//!    only then is anything put in place, and the ordinary checkpoint ends it.
//!
//! So a crash during recovery finds either the old journal or a whole new one.

mod evidence;
mod judge;

use crate::array::Array;
use crate::executor::join_all;
use crate::lane::{Lane, Version};
use crate::map::Uneven;
use crate::mend::Repair;
use crate::mutants::{Mutant, active};
use crate::read::runs;
use crate::ring::Ring;
use crate::slots::Slots;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use evidence::{Evidence, Origin};
use judge::{Change, State};
use uraid_buffer::Buf;
use uraid_core::config::Index;
use uraid_core::events::EventKind;
use uraid_core::geometry::{Slot, Stripe};
use uraid_core::journal::{Checkpoint, Entry, Following, Header, HeaderKind};
use uraid_core::pages::Sum;
use uraid_core::units::BLOCK;
use uraid_parity::ColumnSet;

/// Rows in one part of a re-log.
const RELOG_ROWS_PER_PART: usize = 128;
/// Bytes of entries other than rows in one part of a re-log.
const RELOG_ENTRY_BYTES_PER_PART: usize = 64 << 10;

/// A row as it is to be, all columns.
pub(crate) struct RowFinal {
    stripe: Stripe,
    slot: Slot,
    row: u16,
    columns: Vec<Buf>,
    checksums: Vec<u32>,
}

/// What recovery decided about a lane.
struct Decision {
    /// Batches below are in place once recovery is done.
    next_seq: u64,
    /// New places, in order.
    moves: Vec<Entry>,
    rows: Vec<RowFinal>,
    /// Rows of stripes in a new slot with blocks that did not get there.
    mend: Vec<(Stripe, usize)>,
    /// What was lost, in words.
    lost: Vec<String>,
}

impl Array {
    /// Brings one lane to a state from which it can serve. The map has been loaded; `uneven` is
    /// what members hold of it that does not count. Nothing is written before map and journal are
    /// known to agree.
    pub async fn recover_lane(
        &self,
        lane: &Lane,
        checkpoints: &BTreeMap<Index, Checkpoint>,
        uneven: Uneven,
    ) -> Result<String, String> {
        if checkpoints.is_empty() {
            // Creation writes the first one: where a journal begins is never a guess.
            return Err(format!(
                "lane {}: its checkpoint is damaged or unreadable on every member: where its \
                 journal begins is not known, so nothing is served; bring back a member that was \
                 left out, or restore a backup",
                lane.id
            ));
        }
        // Map pages of different age may contradict each other until the journal is replayed.
        let (slots, claimed) = self.claims(lane, &[]);
        *lane.slots.borrow_mut() = slots;
        let evidence = self.gather_evidence(lane, checkpoints).await;
        let clean = evidence.is_clean(checkpoints);
        let number = checkpoints.values().map(|c| c.number).max().unwrap_or(0);
        if clean {
            claimed?;
            self.level_map(lane, uneven).await;
            if !self.read_only {
                // The checkpoints may be what a killed server wrote and did not flush.
                self.flush_members().await;
            }
            let mut journal = lane.journal.borrow_mut();
            journal.begin(evidence.epoch, evidence.tail, number);
            for index in self.all_writers() {
                let pos = checkpoints.get(&index).map_or(0, |c| c.tail_pos);
                journal.rings.insert(index, Ring::at(pos));
            }
            return Ok(String::from("clean"));
        }
        let decision = self.decide(lane, &evidence).await?;
        for lost in &decision.lost {
            let text = format!("lost beyond redundancy: {lost}");
            self.tell(EventKind::BlocksLost, text);
        }
        self.carry_out(lane, &evidence, &decision, number, uneven)
            .await?;
        let what = match evidence.origin {
            Origin::Ring => format!("{} batches", decision.next_seq - evidence.tail),
            Origin::Relog { .. } => String::from("an interrupted recovery"),
        };
        Ok(format!(
            "{what}, {} rows, {} moves replayed",
            decision.rows.len(),
            decision.moves.len()
        ))
    }

    /// Who owns which slot, as the map has it and these moves change it.
    fn claims(&self, lane: &Lane, moves: &[Entry]) -> (Slots, Result<(), String>) {
        let moved: BTreeMap<u64, Option<Slot>> = moves
            .iter()
            .map(|entry| {
                let (stripe, slot) = place_of(entry);
                (self.geometry.in_lane(stripe.0), slot)
            })
            .collect();
        let map = lane.map.borrow();
        let stays = map.iter().filter(|(stripe, _)| !moved.contains_key(stripe));
        let stays = stays.map(|(stripe, entry)| (stripe, entry.slot()));
        let all = stays.chain(moved.iter().map(|(stripe, slot)| (*stripe, *slot)));
        let claims =
            all.filter_map(|(stripe, slot)| Some((self.geometry.in_lane(slot?.0), stripe)));
        let count = self.geometry.slots / u64::from(self.geometry.lanes);
        let (slots, claimed) = Slots::claimed(count, claims);
        let claimed = claimed.map_err(|local| {
            format!(
                "lane {}: two stripes claim slot {}: its map is damaged. Leave out the member \
                 whose map is wrong, or restore the array from a backup",
                lane.id,
                self.geometry.slot_in_lane(lane.id, local).0
            )
        });
        (slots, claimed)
    }

    /// Chooses the newest acceptable prefix.
    async fn decide(&self, lane: &Lane, evidence: &Evidence) -> Result<Decision, String> {
        let top = evidence.visible_upto();
        let floor = evidence.floor.clamp(evidence.tail, top);
        let mut upto = top;
        if active(Mutant::LastBatchDropped) {
            upto = upto.max(evidence.tail + 1) - 1;
        }
        loop {
            let state = State::replay(self.geometry.lanes.into(), evidence, upto);
            self.check_relog(lane, state.rows())?;
            let mut verdict = self.judge_state(evidence, &state, floor).await;
            let must_take = upto <= floor
                || active(Mutant::UndecodableAccepted)
                || evidence.origin != Origin::Ring;
            if verdict.lost.is_empty() || must_take {
                if let Some(what) = state.contradiction {
                    return Err(format!(
                        "lane {}: its journal contradicts itself: {what}. Leave out the member \
                         whose journal is wrong, or restore the array from a backup",
                        lane.id
                    ));
                }
                let next_seq = evidence.next_seq(upto);
                let moves = state.moves();
                verdict.rows.append(&mut verdict.marked);
                return Ok(Decision {
                    next_seq,
                    moves,
                    rows: verdict.rows,
                    mend: verdict.mend,
                    lost: verdict.lost,
                });
            }
            // All prefixes with the record that is to blame are lost, with or without the rest.
            let without = verdict.lost_with.unwrap_or(upto - 1).clamp(floor, upto - 1);
            upto = without;
        }
    }

    /// Re-logs the decision, then lets it take effect.
    async fn carry_out(
        &self,
        lane: &Lane,
        evidence: &Evidence,
        decision: &Decision,
        number: u64,
        uneven: Uneven,
    ) -> Result<(), String> {
        let parts = relog_parts(decision);
        self.check_relog(lane, parts.iter().map(RelogPart::blocks).sum())?;
        self.claims(lane, &decision.moves).1?;
        self.level_map(lane, uneven).await;
        let epoch = evidence.highest_epoch + u64::from(!active(Mutant::EpochNotRaised));
        for entry in &decision.moves {
            self.take_move(lane, entry, decision.next_seq).await;
        }
        *lane.slots.borrow_mut() = self.claims(lane, &[]).0;
        if !self.read_only {
            // Before the re-log, which makes the moves final: until then fewer columns of a new
            // slot may be there than the next failure leaves room for.
            if !active(Mutant::MendSkipped) {
                self.mend(&decision.mend).await;
            }
            if !active(Mutant::RelogUnannounced) {
                self.announce(lane, Following::Anything).await;
            }
            self.flush_members().await;
            let area = match evidence.origin {
                Origin::Relog { area } => 1 - area,
                Origin::Ring => (epoch % 2) as usize,
            };
            if !active(Mutant::NoRelog) {
                self.write_relog(lane, area, epoch, decision.next_seq, parts)
                    .await;
            }
            self.flush_members().await;
        }
        {
            let mut journal = lane.journal.borrow_mut();
            journal.begin(epoch, decision.next_seq, number);
            // Nothing is known to be on all members before the checkpoint below.
            journal.tail = 0;
            for index in self.all_writers() {
                journal.rings.insert(index, Ring::at(0));
            }
        }
        let seq = decision.next_seq.saturating_sub(1);
        for row in &decision.rows {
            // An absent member may lack any of this: it counts as changed now.
            if !active(Mutant::RecoveredUntagged) {
                self.touch(lane, row.stripe, Some(row.slot));
            }
            let mut overlay = lane.overlay.borrow_mut();
            for (column, data) in row.columns.iter().enumerate() {
                let sum = Sum::new(row.checksums[column], seq);
                let version = Version {
                    data: data.clone(),
                    sum,
                    seq,
                };
                overlay.insert(row.stripe, row.slot, row.row, column, version);
            }
        }
        if self.read_only {
            lane.journal.borrow_mut().tail = decision.next_seq;
        } else {
            self.checkpoint(lane).await;
            self.witness_tail(lane).await;
        }
        Ok(())
    }

    /// A server bounds what a re-log of its journal takes; whoever wrote more was none.
    fn check_relog(&self, lane: &Lane, blocks: u64) -> Result<(), String> {
        if blocks <= self.geometry.relog_blocks {
            return Ok(());
        }
        Err(format!(
            "lane {}: its journal holds more than can be recovered ({blocks} blocks, at most {}): \
             it is damaged. Restore the array from a backup",
            lane.id, self.geometry.relog_blocks
        ))
    }

    /// Applies a new place to map and sums in memory; who owns which slot follows from the map.
    async fn take_move(&self, lane: &Lane, entry: &Entry, seq: u64) {
        let (stripe, slot) = place_of(entry);
        let Some(slot) = slot else {
            return self.touch(lane, stripe, None);
        };
        let checksums = match entry {
            Entry::Remap { checksums, .. } => Some(&checksums[..]),
            _ => None,
        };
        let rows = 0..self.geometry.shape.rows();
        let sums = self
            .all_writers()
            .into_iter()
            .map(|i| self.sums(i, slot, rows.clone()));
        let pinned = join_all(sums).await;
        self.touch(lane, stripe, Some(slot));
        self.set_slot_sums(&pinned, stripe, slot, seq.saturating_sub(1), checksums);
    }

    /// Rewrites what did not reach new slots.
    async fn mend(&self, rows: &[(Stripe, usize)]) {
        let mut by_stripe: BTreeMap<Stripe, Vec<usize>> = BTreeMap::new();
        for (stripe, row) in rows {
            by_stripe.entry(*stripe).or_default().push(*row);
        }
        let columns = 0..self.geometry.shape.columns;
        let mend_stripe = |(stripe, rows): (Stripe, Vec<usize>)| {
            let columns = columns.clone();
            async move {
                for (column, run) in
                    columns.flat_map(|c| runs(&rows).into_iter().map(move |r| (c, r)))
                {
                    // What cannot be read now is no loss: the verdict was that the rest suffices.
                    let _ = self
                        .read_settled(stripe, column, run, ColumnSet::EMPTY, Repair::Quietly)
                        .await;
                }
            }
        };
        join_all(by_stripe.into_iter().map(mend_stripe)).await;
    }

    async fn write_relog(
        &self,
        lane: &Lane,
        area: usize,
        epoch: u64,
        seq: u64,
        parts: Vec<RelogPart<'_>>,
    ) {
        let config = self.config.borrow().clone();
        let total = parts.len() as u32;
        let writers = self.all_writers();
        let start = self.geometry.relog_offset(lane.id, area);
        let mut pos: BTreeMap<Index, u64> = writers.iter().map(|i| (*i, 0)).collect();
        for (part, RelogPart { entries, rows }) in parts.into_iter().enumerate() {
            let mut header = Header {
                kind: HeaderKind::Relog {
                    part: part as u32,
                    parts: total,
                },
                lane: lane.id as u16,
                member: Index(0),
                epoch,
                config_epoch: config.epoch,
                config_nonce: config.nonce,
                seq,
                pos: 0,
                tail: 0,
                durable_upto: 0,
                participants: writers.iter().fold(0, |set, i| set | 1 << i.0),
                payload_blocks: rows.len() as u32,
                entries,
            };
            let mut writes = Vec::new();
            for index in &writers {
                let at = pos.get_mut(index).expect("it is a writer");
                (header.member, header.pos) = (*index, *at);
                let bytes = header.encode(self.key);
                let blocks = bytes.len() as u64 / BLOCK + rows.len() as u64;
                let mut buffers = alloc::vec![self.pool.copy(&bytes)];
                let role = usize::from(config.entry(*index).role.expect("a writer has a role"));
                let own =
                    |r: &&RowFinal| r.columns[self.geometry.shape.column_of(r.slot, role)].clone();
                buffers.extend(rows.iter().map(own));
                writes.push(self.write_member(*index, start + *at * BLOCK, buffers));
                *at += blocks;
            }
            join_all(writes).await;
        }
    }
}

/// Which stripe an entry of a decision moves, and where to.
fn place_of(entry: &Entry) -> (Stripe, Option<Slot>) {
    match entry {
        Entry::Remap { stripe, slot, .. } | Entry::Alloc { stripe, slot } => (*stripe, Some(*slot)),
        Entry::Unmap { first, .. } => (*first, None),
        Entry::Row { .. } => unreachable!("rows are no moves"),
    }
}

/// Part of a re-log: one header, and a block on each member for each row.
struct RelogPart<'a> {
    entries: Vec<Entry>,
    rows: Vec<&'a RowFinal>,
}

impl RelogPart<'_> {
    /// Blocks it takes on a member.
    fn blocks(&self) -> u64 {
        let entry_bytes = self.entries.iter().map(Entry::encoded_bytes).sum();
        (Header::blocks_for(entry_bytes) + self.rows.len()) as u64
    }
}

impl RowFinal {
    fn entry(&self) -> Entry {
        Entry::Row {
            stripe: self.stripe,
            slot: self.slot,
            row: self.row,
            columns: ColumnSet::first(self.columns.len()),
            checksums: self.checksums.clone(),
        }
    }
}

/// Cuts a decision into parts of bounded size; at least one, so that the epoch is on disk.
fn relog_parts(decision: &Decision) -> Vec<RelogPart<'_>> {
    let mut parts: Vec<RelogPart<'_>> = Vec::new();
    let mut bytes = usize::MAX;
    for entry in &decision.moves {
        if bytes > RELOG_ENTRY_BYTES_PER_PART {
            parts.push(RelogPart {
                entries: Vec::new(),
                rows: Vec::new(),
            });
            bytes = 0;
        }
        bytes += entry.encoded_bytes();
        let part = parts.last_mut().expect("a part was begun");
        part.entries.push(entry.clone());
    }
    let rows = decision.rows.chunks(RELOG_ROWS_PER_PART);
    parts.extend(rows.map(|rows| RelogPart {
        entries: rows.iter().map(RowFinal::entry).collect(),
        rows: rows.iter().collect(),
    }));
    if parts.is_empty() {
        parts.push(RelogPart {
            entries: Vec::new(),
            rows: Vec::new(),
        });
    }
    parts
}

/// What a batch does to one stripe's place.
impl Change {
    fn entry(&self, stripe: Stripe) -> Entry {
        match self {
            Change::Remap {
                slot, checksums, ..
            } => Entry::Remap {
                stripe,
                slot: *slot,
                checksums: checksums.clone(),
            },
            Change::Alloc { slot } => Entry::Alloc {
                stripe,
                slot: *slot,
            },
            Change::Unmap => Entry::Unmap {
                first: stripe,
                count: 1,
            },
        }
    }
}

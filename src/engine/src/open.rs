//! Opening an array: superblocks, checkpoints and the assembly rule, the config that says who is
//! here, the map, recovery, and then service.

use crate::announce::{FoundCheckpoint, Outlook};
use crate::api::{Device, DeviceId, Event, IoError, OpenOptions, Refusal};
use crate::array::{Array, Carried};
use crate::executor::{Executor, join_all};
use crate::members::{Member, describe};
use crate::mutants::{Mutant, active};
use crate::port::Port;
use crate::rebuild::Progress;
use crate::witness::read_witness;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use uraid_buffer::{BufMut, Pool};
use uraid_core::assembly::{Assembled, Candidate, Strictness, assemble, how_it_left, one_array};
use uraid_core::config::{Config, EntryState, Index};
use uraid_core::events::EventKind;
use uraid_core::journal::Checkpoint;
use uraid_core::superblock::{Inspection, SUPERBLOCK_BYTES, Superblock, copy_ranges, inspect};
use uraid_core::units::{BLOCK, BLOCK_BYTES, is_blank};

/// Newest checkpoint of each lane, by device.
type Checkpoints = Vec<BTreeMap<usize, FoundCheckpoint>>;

/// What the devices turned out to be.
struct Assembly {
    candidates: Vec<Candidate>,
    checkpoints: Checkpoints,
    assembled: Assembled,
    /// Members left out because they lack what their peers witnessed.
    rolled_back: Vec<Index>,
}

/// What opening needs.
pub struct Opening {
    /// The devices.
    pub devices: Vec<Device>,
    /// How.
    pub options: OpenOptions,
    /// Buffers.
    pub pool: Pool,
    /// The executor.
    pub ex: Executor,
    /// I/O.
    pub port: Rc<Port>,
    /// From the array that was open before, if one was.
    pub carried: Option<Carried>,
}

impl Opening {
    /// Reads the superblocks of a device.
    async fn inspect(&self, device: &Device) -> Inspection {
        inspect_device(&self.port, &self.pool, device).await
    }

    /// Decides which devices make the array.
    async fn assemble(&self) -> Result<Assembly, Refusal> {
        let mut candidates = Vec::new();
        let mut findings = String::new();
        let inspections = join_all(self.devices.iter().map(|d| self.inspect(d))).await;
        for (i, (device, found)) in self.devices.iter().zip(inspections).enumerate() {
            for finding in &found.findings {
                findings.push_str(&format!("\n{}: {finding}", device.path));
            }
            match found.superblock {
                Some(s) if device.size_bytes < s.geometry.member_bytes() => {
                    findings.push_str(&format!(
                        "\n{}: is {} bytes long, a member has {}: it was truncated; restore it \
                         or replace it",
                        device.path,
                        device.size_bytes,
                        s.geometry.member_bytes()
                    ));
                }
                Some(superblock) => {
                    candidates.push(Candidate {
                        device: i,
                        path: device.path.clone(),
                        superblock,
                    });
                }
                None if found.findings.is_empty() => {
                    findings.push_str(&format!(
                        "\n{}: holds no uraid superblock: it is no member, or both its ends were \
                         overwritten; leave it out, or rebuild onto it",
                        device.path
                    ));
                }
                None => {}
            }
        }
        let refused = |r: uraid_core::assembly::Refused| Refusal {
            for_safety: r.for_safety,
            text: r.text + &findings,
        };
        one_array(&candidates).map_err(refused)?;
        let checkpoints = self.read_checkpoints(&candidates).await;
        let completed: BTreeSet<u64> = checkpoints
            .iter()
            .flat_map(|l| l.values().map(|found| found.checkpoint.config_nonce))
            .collect();
        let strictness = self.strictness(&candidates);
        let stale = rolled_back(&candidates, &checkpoints);
        let (behind, current): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .partition(|c| stale.contains(&c.device));
        let mut assembled = assemble(&current, &completed, strictness).map_err(|mut r| {
            // Who is out of date may be all that is missing.
            let newest = current.iter().map(|c| &c.superblock.config);
            let newest = newest.max_by_key(|config| config.epoch);
            for c in &behind {
                r.text.push('\n');
                r.text.push_str(&why_behind(c, newest));
            }
            refused(r)
        })?;
        let rolled_back = behind.iter().map(|c| c.superblock.index).collect();
        for c in behind {
            let why = why_behind(&c, Some(&assembled.reference));
            assembled.rejected.push((c.device, why));
        }
        let lines = findings.lines().filter(|l| !l.is_empty());
        assembled.warnings.extend(lines.map(String::from));
        Ok(Assembly {
            candidates: current,
            checkpoints,
            assembled,
            rolled_back,
        })
    }

    fn strictness(&self, candidates: &[Candidate]) -> Strictness {
        let witness = self.options.witness.as_deref().and_then(read_witness);
        let ours = |array| {
            candidates
                .first()
                .is_some_and(|c| c.superblock.array == array)
        };
        Strictness {
            force: self.options.force,
            read_only: self.options.read_only && !self.options.dry_run,
            witnessed_nonce: witness
                .filter(|(array, _)| ours(*array))
                .map(|(_, nonce)| nonce),
        }
    }

    async fn read_checkpoints(&self, candidates: &[Candidate]) -> Checkpoints {
        let lanes = candidates
            .iter()
            .map(|c| c.superblock.geometry.lanes)
            .max()
            .unwrap_or(0);
        let mut all = Vec::new();
        for lane in 0..usize::from(lanes) {
            let read = |c: &Candidate| {
                let (device, superblock) = (c.device, c.superblock.clone());
                async move {
                    let id = self.devices[device].id;
                    let found = read_checkpoint(&self.port, &self.pool, id, &superblock, lane);
                    Some((device, found.await?))
                }
            };
            all.push(
                join_all(candidates.iter().map(read))
                    .await
                    .into_iter()
                    .flatten()
                    .collect(),
            );
        }
        all
    }

    /// Opens the array.
    pub async fn run(&self) -> Result<Rc<Array>, Refusal> {
        let assembly = self.assemble().await?;
        let Assembly {
            candidates,
            checkpoints,
            assembled,
            ..
        } = &assembly;
        let by_index: BTreeMap<Index, &Candidate> = assembled
            .present
            .iter()
            .map(|(d, i)| {
                (
                    *i,
                    candidates
                        .iter()
                        .find(|c| c.device == *d)
                        .expect("it was given"),
                )
            })
            .collect();
        let newest = by_index
            .values()
            .max_by_key(|c| c.superblock.write)
            .expect("some are present");
        let read_only = self.options.read_only;
        let config = assembled.reference.clone();
        let superblock = Superblock {
            geometry: assembled.geometry,
            ..newest.superblock.clone()
        };
        let nothing = || Carried::nothing(&superblock, &self.options);
        let array = Array::new(
            &superblock,
            config,
            &self.ex,
            self.port.clone(),
            self.pool.clone(),
            &self.options,
            self.carried.clone().unwrap_or_else(nothing),
        );
        for (index, c) in &by_index {
            let device = self.devices[c.device].clone();
            let mut member = Member::new(*index, c.superblock.member, device);
            member.superblock_write = c.superblock.write;
            (member.write_mostly, member.read_weight) = array.balance.of_path(&member.device.path);
            array.members.borrow_mut().insert(*index, member);
        }
        array.refresh_avoided();
        for warning in &assembled.warnings {
            array.event(Event::Warning(warning.clone()));
        }
        for (_, why) in &assembled.rejected {
            let text = format!("{why}; take it back with `uraid add`");
            array.tell(EventKind::MemberStale, text);
        }
        // Whatever is of no use is given back, so that it can be added again.
        let in_use = |device: usize| by_index.values().any(|c| c.device == device);
        let useless = (0..self.devices.len()).filter(|device| !in_use(*device));
        useless.for_each(|device| array.event(Event::Released(self.devices[device].id)));
        self.begin_rebuilds(&array);
        for (lane, found) in array.lanes.iter().zip(checkpoints) {
            let present = by_index.values().filter_map(|c| found.get(&c.device));
            let numbers: Vec<u64> = present.map(|f| f.checkpoint.number).collect();
            let mut journal = lane.journal.borrow_mut();
            journal.checkpoint_settled = numbers.iter().copied().min().unwrap_or(0);
            journal.checkpoint_number = numbers.iter().copied().max().unwrap_or(0);
            let kept = by_index.iter().filter_map(|(index, c)| {
                let found = found.get(&c.device)?;
                Some((*index, (found.place, found.checkpoint)))
            });
            journal.records = kept.collect();
        }
        if !read_only && !self.enter_config(&array, &assembly).await {
            let text = array.suspended.borrow().clone().unwrap_or_default();
            return Err(Refusal {
                for_safety: false,
                text,
            });
        }
        let loaded = self.load(&array, &by_index, checkpoints).await;
        if loaded.is_ok() && !read_only {
            array.name_config(checkpoints[0].values()).await;
        }
        if array.is_suspended() {
            let text = array.suspended.borrow().clone().unwrap_or_default();
            return Err(Refusal {
                for_safety: false,
                text,
            });
        }
        let summary = loaded.map_err(|text| Refusal {
            for_safety: false,
            text,
        })?;
        array.event(Event::Witness(array.witness()));
        array.event(Event::Opened { summary });
        array.start_service();
        Ok(array)
    }

    /// Members being filled go on where their durable cursor is.
    fn begin_rebuilds(&self, array: &Array) {
        let config = array.config.borrow();
        for (index, entry) in config.members() {
            let filling = matches!(entry.state, EntryState::Rebuilding | EntryState::Replacing);
            if filling && array.members.borrow().contains_key(&index) {
                let counters = array.counters.borrow()[usize::from(index.0)];
                let progress = Progress::begin(counters.rebuild_cursor, counters.rebuild_since);
                array.rebuilds.borrow_mut().insert(index, progress);
            }
        }
    }

    /// Makes a new config when members are absent; it is durable before anything else happens.
    async fn enter_config(&self, array: &Array, assembly: &Assembly) -> bool {
        let assembled = &assembly.assembled;
        let gone = |config: &Config| -> Vec<Index> {
            let members = array.members.borrow();
            let absent = |(i, e): &(Index, &uraid_core::config::Entry)| {
                e.state.takes_writes() && !members.contains_key(i)
            };
            config.members().filter(absent).map(|(i, _)| i).collect()
        };
        let fallen_back = assembled.epoch_floor > assembled.reference.epoch;
        let nothing_gone = gone(&array.config.borrow()).is_empty();
        if nothing_gone && !fallen_back {
            return true;
        }
        let floor = assembled.epoch_floor;
        array
            .change_config(|config| {
                config.epoch = config.epoch.max(floor + 1);
                for index in gone(config) {
                    config.mark_left(index);
                    if assembly.rolled_back.contains(&index) {
                        // What it lacks is older than its leaving: it must be filled anew.
                        config.entry_mut(index).left_epoch = 0;
                    }
                }
                Ok(())
            })
            .await
            .is_ok()
    }

    /// Loads map and journal of each lane.
    async fn load(
        &self,
        array: &Rc<Array>,
        by_index: &BTreeMap<Index, &Candidate>,
        checkpoints: &Checkpoints,
    ) -> Result<String, String> {
        let mut summary = String::new();
        for lane in &array.lanes {
            let found: Vec<(Index, &FoundCheckpoint)> = array
                .all_writers()
                .into_iter()
                .filter_map(|i| Some((i, checkpoints[lane.id].get(&by_index.get(&i)?.device)?)))
                .collect();
            let outlooks = found.iter().map(|(_, f)| f.outlook.clone());
            let outlook = outlooks.reduce(|all, one| all.merge(&one));
            let outlook = outlook.unwrap_or(Outlook::UNKNOWN);
            let uneven = match &self.carried {
                Some(Carried { maps: Some(_), .. }) => Vec::new(),
                _ => array.load_map(lane, outlook.listed.as_ref()).await?,
            };
            lane.journal.borrow_mut().following = outlook.following;
            let mine = found.iter().map(|(i, f)| (*i, f.checkpoint)).collect();
            let what = array.recover_lane(lane, &mine, uneven).await?;
            if what != "clean" {
                summary.push_str(&format!(
                    "{}lane {}: {what}",
                    if summary.is_empty() { "" } else { "; " },
                    lane.id
                ));
            }
        }
        if summary.is_empty() {
            summary.push_str("clean");
        }
        Ok(summary)
    }
}

/// Rule 6 of the commit protocol: devices whose checkpoints are behind what peers have witnessed.
fn rolled_back(candidates: &[Candidate], checkpoints: &Checkpoints) -> BTreeSet<usize> {
    let mut stale = BTreeSet::new();
    if active(Mutant::RolledBackTrusted) {
        return stale;
    }
    let in_use = |s: &Superblock| s.config.entry(s.index).state.takes_writes();
    for lane in checkpoints {
        let behind = |c: &&Candidate| {
            let told = candidates.iter().filter(|peer| may_witness(peer, c));
            let told = told.filter_map(|peer| Some(lane.get(&peer.device)?.checkpoint));
            // Of a journal epoch only the words of that epoch count.
            let witnessed = told.map(|t| (t.epoch, t.witnessed_tail)).max();
            let own = lane.get(&c.device).map(|found| &found.checkpoint);
            witnessed.is_some_and(|(epoch, tail)| {
                tail > 0 && own.is_none_or(|own| (own.epoch, own.tail) < (epoch, tail))
            })
        };
        let used = candidates.iter().filter(|c| in_use(&c.superblock));
        stale.extend(used.filter(behind).map(|c| c.device));
    }
    stale
}

/// Whether what a member has witnessed says anything about another: not if it has left by a newer
/// config that the other has. It is the one who is stale then.
fn may_witness(peer: &Candidate, about: &Candidate) -> bool {
    let (peer, config) = (&peer.superblock, &about.superblock.config);
    let entry = config.find(peer.member).map(|index| config.entry(index));
    peer.config.epoch >= config.epoch || entry.is_some_and(|entry| entry.state.takes_writes())
}

/// Why a member lacks what its peers witnessed, in words: it left, as the newest config knows, or
/// it is an old image.
fn why_behind(c: &Candidate, newest: Option<&Config>) -> String {
    let entry = |config: &Config| Some(*config.entry(config.find(c.superblock.member)?));
    let known = newest.and_then(|config| Some((entry(config)?, config)));
    let path = &c.path;
    match known.filter(|(entry, _)| entry.state == EntryState::Failed) {
        Some((entry, config)) => format!("{path}: stale: {}", how_it_left(&entry, config)),
        None => format!(
            "{path}: stale: its journal is older than its peers witnessed: it is an old image of \
             the member"
        ),
    }
}

/// The newest checkpoint of a lane on a member.
pub async fn read_checkpoint(
    port: &Port,
    pool: &Pool,
    device: DeviceId,
    superblock: &Superblock,
    lane: usize,
) -> Option<FoundCheckpoint> {
    let g = &superblock.geometry;
    // One by one: an unreadable copy must not hide the other.
    let read = |copy: usize| {
        let offset = g.checkpoint_offset(lane, copy);
        port.read(device, offset, pool.take(BLOCK_BYTES)).filled()
    };
    let blocks = join_all([0, 1].map(read)).await;
    let decode = |(place, block): (usize, &Result<BufMut, IoError>)| {
        let block = block.as_ref().ok()?;
        let (key, index) = (superblock.key, superblock.index);
        let checkpoint = Checkpoint::decode(block, key, lane as u16, index)?;
        let outlook = Outlook::of(&checkpoint, block, g);
        Some(FoundCheckpoint {
            place,
            checkpoint,
            outlook,
        })
    };
    let found: Vec<_> = blocks.iter().enumerate().filter_map(decode).collect();
    let is_blank = |b: &Result<BufMut, IoError>| b.as_ref().is_ok_and(|b| is_blank(b));
    let whole = found.len() + blocks.iter().filter(|b| is_blank(b)).count() == blocks.len();
    // Of two with the same number the one that announces more is the newer.
    let age = |f: &FoundCheckpoint| (f.checkpoint.number, Reverse(f.checkpoint.following));
    let mut newest = found.iter().max_by_key(|f| age(f))?.clone();
    // Lists only grow: an older one adds nothing, and of two with the same number either may be
    // the newer.
    let lists = found.iter().filter_map(|f| f.outlook.listed.as_ref());
    if let Some(listed) = &mut newest.outlook.listed {
        lists.for_each(|other| listed.merge(other));
    }
    if !whole {
        newest.outlook = Outlook::UNKNOWN;
    }
    Some(newest)
}

/// Reads all four superblock copies of a device; one that cannot be read hides no other.
pub async fn inspect_device(port: &Port, pool: &Pool, device: &Device) -> Inspection {
    let mut copies = [const { Vec::new() }; 4];
    let mut unreadable = None;
    let end = device.size_bytes / BLOCK * BLOCK;
    for (copy, range) in copies.iter_mut().zip(copy_ranges(device.size_bytes)) {
        if range.end > end {
            continue;
        }
        let read = port.read(device.id, range.start, pool.take(SUPERBLOCK_BYTES));
        match read.filled().await {
            Ok(bytes) => *copy = bytes.to_vec(),
            Err(error) => unreadable = Some(error),
        }
    }
    let mut found = inspect(copies.each_ref().map(|copy| &copy[..]));
    if let Some(error) = unreadable {
        found
            .findings
            .push(format!("cannot be read: {}", describe(error)));
    }
    found
}

impl Array {
    /// Starts the tasks that serve.
    fn start_service(&self) {
        self.open.set(true);
        self.ex.fire(&self.changed);
        self.count_scrub_work();
        for lane in 0..self.lanes.len() {
            let (commit, checkpoint) = (self.me(), self.me());
            self.ex.spawn(async move { commit.commit_task(lane).await });
            self.ex
                .spawn(async move { checkpoint.checkpoint_task(lane).await });
        }
        let (array, watch) = (self.me(), self.me());
        self.ex.spawn(async move { array.maintain().await });
        self.ex
            .spawn(async move { watch.watch_for_late_reads().await });
    }
}

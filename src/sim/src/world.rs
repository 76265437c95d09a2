//! One play: an array, its clients, its operators and its bad luck, on one thread and one clock.

use crate::alarms::is_harmless;
use crate::array::create;
use crate::clients::{Asked, Clients};
use crate::content::UNIT_BYTES;
pub use crate::counts::Counts;
use crate::disk::Disk;
use crate::healing::Healing;
use crate::host::{Host, Told};
use crate::load::{Draft, DraftKind, Load};
use crate::medium::Medium;
use crate::model::Crash;
use crate::rng::Rng;
use crate::scenario::{Fault, Scenario};
use crate::trace::{Trace, short};
use crate::watch::Watch;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use uraid_core::geometry::{Geometry, Level};
use uraid_core::superblock::Superblock;
use uraid_engine::api::{
    CommandId, DeviceId, Event, Nanos, OpenOptions, Outcome, Request, RequestId,
};

/// Virtual time after which a request or command counts as stuck.
const STUCK: Nanos = 300_000_000_000;
/// Virtual time that passes when nothing else is to happen.
const IDLE: Nanos = 1_000_000_000;
/// Turns of a play after which it counts as stuck; most have some ten thousand.
const TURNS_MAX: u64 = 2_000_000;
/// Bytes of one read of a sweep.
const SWEEP_READ_BYTES: u64 = 64 << 10;

/// Where the server is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Assembly and recovery.
    Opening,
    /// Requests are served.
    Serving,
    /// `Stop` was asked for.
    Stopping,
    /// Nothing runs.
    Stopped,
}

/// A command under way.
pub struct Ordered {
    /// What, in words.
    pub what: String,
    /// Since when.
    pub at: Nanos,
    /// Members whose role is in doubt until it is carried out.
    pub roles: BTreeSet<u16>,
    /// A device that came with it.
    pub device: Option<DeviceId>,
}

/// Everything there is.
pub struct World {
    pub(crate) scenario: Scenario,
    /// Whether nothing happens that damages what members have.
    pub(crate) harmless: bool,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) now: Nanos,
    turns: u64,
    /// As it is; a mirror may be given one more copy.
    pub(crate) geometry: Geometry,
    created: Geometry,
    pub(crate) key: u64,
    pub(crate) disks: Vec<Disk>,
    pub(crate) host: Host,
    pub(crate) phase: Phase,
    pub(crate) clients: Clients,
    load: Load,
    /// Reads that come before the load.
    pub(crate) script: VecDeque<Draft>,
    next_request_at: Nanos,
    pub(crate) crash: Crash,
    pub(crate) witness: Option<Vec<u8>>,
    next_device: u32,
    next_command: u64,
    pub(crate) ordered: BTreeMap<CommandId, Ordered>,
    /// Roles that were not offered at a start that did not complete.
    pub(crate) doubtful: BTreeSet<u16>,
    /// Roles not offered at this start.
    pub(crate) withheld: BTreeSet<u16>,
    /// Roles without an in-sync member on a sound disk, as last seen.
    pub(crate) weak: BTreeSet<u16>,
    /// Disks on which each role lies, as last seen.
    pub(crate) holders: BTreeMap<u16, BTreeSet<usize>>,
    /// Disks that may hold wrong bytes without saying so.
    pub(crate) healing: Healing,
    /// Disks that failed, and the first request that they are known to miss.
    pub(crate) failed_from: BTreeMap<usize, RequestId>,
    /// Older images of disks.
    pub(crate) images: BTreeMap<usize, Medium>,
    /// Disks that are found as older images of themselves at this start.
    pub(crate) rolled_back: BTreeSet<usize>,
    /// Former members that returned as older images, with what these say.
    pub(crate) returned: BTreeMap<usize, Superblock>,
    /// Whether the operator insists on this start.
    pub(crate) forced: bool,
    /// When a fault that passes does pass, by disk.
    pub(crate) passing: BTreeMap<usize, Nanos>,
    pub(crate) counts: Counts,
}

impl World {
    /// A new array, about to be opened for the first time.
    pub fn new(scenario: Scenario, trace: Trace) -> World {
        let mut rng = scenario.rng.clone();
        let array = create(&scenario, &mut rng);
        let geometry = array.geometry;
        let mut disk = |medium| Disk::with_medium(medium, scenario.speed, rng.fork());
        let disks: Vec<Disk> = array.media.into_iter().map(&mut disk).collect();
        let offered: Vec<_> = (0..disks.len()).map(|i| (DeviceId(i as u32), i)).collect();
        let options = OpenOptions {
            nonce: rng.next(),
            ..scenario.limits()
        };
        let watch = Watch {
            geometry,
            key: array.key,
        };
        let host = Host::open(&offered, &disks, options, watch);
        let stripe_bytes = geometry.shape.stripe_bytes();
        let load = Load::new(
            scenario.mix.clone(),
            rng.fork(),
            geometry.export_bytes,
            stripe_bytes,
        );
        World {
            rng,
            trace,
            now: 0,
            turns: 0,
            geometry,
            created: geometry,
            key: array.key,
            next_device: disks.len() as u32,
            disks,
            host,
            phase: Phase::Opening,
            clients: Clients::new(geometry.export_bytes, stripe_bytes),
            load,
            script: VecDeque::new(),
            next_request_at: 0,
            crash: Crash::Kill,
            witness: None,
            next_command: 0,
            ordered: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            withheld: BTreeSet::new(),
            weak: BTreeSet::new(),
            holders: BTreeMap::new(),
            healing: Healing::default(),
            failed_from: BTreeMap::new(),
            images: BTreeMap::new(),
            rolled_back: BTreeSet::new(),
            returned: BTreeMap::new(),
            forced: false,
            passing: BTreeMap::new(),
            counts: Counts::default(),
            harmless: is_harmless(&scenario),
            scenario,
        }
    }

    /// Plays to the end. The error says what was violated.
    pub fn play(&mut self) -> Result<Counts, String> {
        while self.counts.requests < self.scenario.operations {
            self.turn(true)?;
        }
        self.finish()?;
        Ok(self.tally())
    }

    /// The last lines of the trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// One step of everything: what can happen now does, then time moves on.
    pub(crate) fn turn(&mut self, busy: bool) -> Result<(), String> {
        if busy && self.phase == Phase::Stopped && self.ordered.is_empty() {
            self.start(self.scenario.has(Fault::Absent));
        }
        match self.host.pump(self.now, &mut self.disks, &mut self.trace)? {
            Some(told) => {
                self.note_failures();
                self.counts.reads_aside += self.host.take_served_aside();
                let idle = told.is_empty();
                for one in told {
                    self.hear(one)?;
                }
                if busy && self.phase == Phase::Stopped && self.ordered.is_empty() {
                    self.start(false); // a clean restart in the middle of things
                }
                let asked = busy && self.phase == Phase::Serving && self.ask();
                if idle && !asked {
                    self.pass_time(busy)?;
                }
            }
            None => self.crash_now()?,
        }
        self.watch_the_clock()
    }

    fn hear(&mut self, told: Told) -> Result<(), String> {
        match told {
            Told::Reply(reply) => {
                let id = reply.id;
                let answered = reply.result.is_ok();
                let asked = self.clients.answer(reply, self.phase == Phase::Stopping)?;
                if answered {
                    self.check_verdicts(id, &asked)?;
                }
                self.say(|| format!("request {} {:?} answered", id.0, asked.draft.kind));
                Ok(())
            }
            Told::Outcome(outcome) => self.hear_outcome(outcome),
            Told::Event(event) => self.hear_event(event),
        }
    }

    fn hear_event(&mut self, event: Event) -> Result<(), String> {
        self.say(|| short(&event));
        match event {
            Event::Opened { .. } => {
                self.geometry = self.host.geometry();
                self.opened();
            }
            Event::Refused(refusal) => return self.refused(refusal),
            Event::Released(device) => self.release(device)?,
            Event::Witness(witness) => self.witness = Some(witness),
            Event::Stopped => return self.stopped(),
            Event::Happened(happening) => {
                self.check_alarm(&happening)?;
                self.look_at_scrub();
            }
            Event::Info(_) | Event::Warning(_) => self.look_at_scrub(),
        }
        Ok(())
    }

    fn hear_outcome(&mut self, outcome: Outcome) -> Result<(), String> {
        self.say(|| short(&outcome));
        if self.geometry != self.host.geometry() {
            self.geometry = self.host.geometry();
            self.look_at_roles();
        }
        let ordered = self
            .ordered
            .remove(&outcome.id)
            .ok_or("an outcome of no command")?;
        self.scrub_ordered(outcome.id, outcome.result.is_ok());
        if let (Err(_), Some(device)) = (&outcome.result, ordered.device) {
            self.release(device)?;
        }
        Ok(())
    }

    fn release(&mut self, device: DeviceId) -> Result<(), String> {
        self.host.leave(device, &mut self.disks);
        if let Some(disk) = self.host.disk_of(device)
            && self.disks[disk].next_due().is_some()
        {
            return Err(format!("disk {disk} was released with I/O in flight"));
        }
        if let Some(disk) = self.host.disk_of(device) {
            self.healing.left(disk);
            self.failed_from.remove(&disk);
        }
        self.host.detach(device);
        Ok(())
    }

    fn opened(&mut self) {
        self.phase = Phase::Serving;
        self.next_request_at = self.now;
        self.doubtful.clear();
        // What an older image lacks and nobody reads, only a scrub puts back.
        for disk in std::mem::take(&mut self.rolled_back) {
            self.healing.taint(disk);
        }
        self.look_at_roles();
        if !self.weak.is_empty() {
            self.counts.degraded_starts += 1;
        }
        if self.rng.chance(0.5) {
            self.script_sweep();
        }
    }

    /// Plans to read the whole export, in random order.
    pub(crate) fn script_sweep(&mut self) {
        let export_bytes = self.geometry.export_bytes;
        let mut reads: Vec<Draft> = (0..export_bytes.div_ceil(SWEEP_READ_BYTES))
            .map(|i| i * SWEEP_READ_BYTES)
            .map(|offset| Draft {
                kind: DraftKind::Read,
                offset,
                len: SWEEP_READ_BYTES.min(export_bytes - offset),
                fua: false,
            })
            .collect();
        self.rng.shuffle(&mut reads);
        self.script = reads.into();
    }

    /// Whether all that was planned has been asked and answered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.script.is_empty() && self.clients.in_flight() == 0 && self.ordered.is_empty()
    }

    /// Asks the next request, if it is time.
    fn ask(&mut self) -> bool {
        if self.clients.in_flight() >= self.scenario.depth || self.now < self.next_request_at {
            return false;
        }
        let draft = match self.script.pop_front() {
            Some(draft) => draft,
            None => {
                self.counts.requests += 1;
                self.misfortune();
                self.load.draw()
            }
        };
        if self.phase != Phase::Serving {
            return true; // misfortune struck
        }
        if self.rng.chance(self.scenario.pause) {
            self.next_request_at = self.now + 1_000_000 * self.rng.skewed(13);
        }
        self.ask_for(draft)
    }

    /// Asks what is planned and nothing else.
    pub(crate) fn ask_script(&mut self) {
        while self.clients.in_flight() < self.scenario.depth
            && let Some(draft) = self.script.pop_front()
        {
            self.ask_for(draft);
        }
    }

    fn ask_for(&mut self, draft: Draft) -> bool {
        let Some((id, request)) = self.clients.ask(self.now, draft) else {
            return false;
        };
        self.say(|| describe(id, &request));
        self.host.request(self.now, &mut self.disks, id, request);
        true
    }

    fn pass_time(&mut self, busy: bool) -> Result<(), String> {
        let serving = busy && self.phase == Phase::Serving;
        let asks = serving && self.clients.in_flight() < self.scenario.depth;
        let next = [
            self.host.next_time(&self.disks),
            asks.then_some(self.next_request_at),
            self.passing.values().min().copied(),
        ];
        match next.into_iter().flatten().min() {
            // A draft that could not be asked is tried again a little later.
            Some(next) => self.now = next.max(self.now + u64::from(asks)),
            None if self.phase == Phase::Stopped || self.is_quiet() => self.now += IDLE,
            None => return Err("stuck: nothing is in flight and no time is set".into()),
        }
        self.let_pass();
        Ok(())
    }

    fn watch_the_clock(&mut self) -> Result<(), String> {
        self.turns += 1;
        if self.turns > TURNS_MAX {
            return Err(format!("stuck: {TURNS_MAX} turns and no end"));
        }
        if let Some((id, Asked { draft, at, .. })) = self.clients.oldest()
            && at + STUCK < self.now
        {
            return Err(format!("stuck: request {} {draft:?} gets no answer", id.0));
        }
        match self.ordered.values().find(|o| o.at + STUCK < self.now) {
            Some(ordered) => Err(format!(
                "stuck: command \"{}\" gets no answer",
                ordered.what
            )),
            None => Ok(()),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch {
            geometry: self.created,
            key: self.key,
        }
    }

    /// Whether the array has a copy that it was given.
    pub(crate) fn may_narrow(&self) -> bool {
        self.geometry != self.created
    }

    /// Whether the array is one that can be given one more copy, and was not.
    pub(crate) fn may_widen(&self) -> bool {
        self.scenario.layout.level == Level::Raid1 && self.geometry == self.created
    }

    pub(crate) fn new_device(&mut self) -> DeviceId {
        self.next_device += 1;
        DeviceId(self.next_device)
    }

    /// Gives the engine a command.
    pub(crate) fn order(
        &mut self,
        command: uraid_engine::api::Command,
        ordered: Ordered,
    ) -> CommandId {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        self.counts.commands += 1;
        self.say(|| format!("command {}: {}", id.0, ordered.what));
        self.ordered.insert(id, ordered);
        self.host.engine.command(id, command);
        id
    }

    /// Adds a line to the trace.
    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        self.trace.line(|| format!("{:>12} {}", now / 1000, text()));
    }
}

fn describe(id: RequestId, request: &Request) -> String {
    let units = |offset: u64, len: u64| {
        let end = (offset + len).div_ceil(UNIT_BYTES);
        format!("{offset}+{len} (units {}..{end})", offset / UNIT_BYTES)
    };
    let id = id.0;
    match request {
        Request::Read { offset, len } => format!("request {id}: read {}", units(*offset, *len)),
        Request::Write { offset, data, fua } => {
            let len = data.len() as u64;
            format!("request {id}: write {} fua {fua}", units(*offset, len))
        }
        Request::Flush => format!("request {id}: flush"),
        Request::Trim { offset, len, fua } => {
            format!("request {id}: trim {} fua {fua}", units(*offset, *len))
        }
        Request::WriteZeroes {
            offset,
            len,
            fua,
            keep_space,
            ..
        } => {
            let range = units(*offset, *len);
            format!("request {id}: zero {range} fua {fua} keeping space {keep_space}")
        }
        Request::Extents { offset, len } => {
            format!("request {id}: extents of {}", units(*offset, *len))
        }
    }
}

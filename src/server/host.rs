//! One array on one thread: the engine, and the I/O it asks for. Knows no clients; `serve` adds
//! those, `rebuild` does without.
//!
//! The caller's loop:
//!
//! ```text
//! loop {
//!     host.request(..) / host.command(..)             // work goes in
//!     host.pump();                                    // the engine runs, I/O starts
//!     while let Some(reply) = host.next_reply()    {} // answers come out
//!     while let Some(notice) = host.next_notice()  {} // and what happened to the array
//!     host.wait(timeout, &mut events);                // sockets' events come out
//! }
//! ```

use super::frontend::Carrier;
use super::history::{History, Note};
use super::housekeeping::Housekeeping;
use super::log;
use crate::failure::{Doing, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use uraid_buffer::Pool;
use uraid_core::events::{EventKind, Severity};
use uraid_core::units::Uuid;
use uraid_engine::api::{
    Command, CommandError, CommandId, Device, DeviceId, Event, Happening, MemberName, Mode,
    OpenOptions, Refusal, Reply, Request, RequestId,
};
use uraid_engine::status::{ArrayState, MemberState, Status};
use uraid_engine::{Engine, ReadTimes};
use uraid_io::device::MemberFile;
use uraid_io::driver::{Driver, DriverEvent};

/// Gets the answer to a command.
pub type Answer = Box<dyn FnOnce(Result<String, Failure>) + Send>;

/// What happened to the array, for the caller to act on. The log has it already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Requests are served from now on.
    Opened,
    /// The array will not be served.
    Refused(Failure),
    /// Everything is flushed; nothing more is done.
    Stopped,
}

/// A command under way.
struct Pending {
    answer: Answer,
    mode: Mode,
    /// A device that came with it, to be closed if the engine does not want it.
    device: Option<DeviceId>,
}

/// What was told while the array was opened. The log has it already.
#[derive(Clone, Default, Debug)]
pub struct OpeningReport {
    /// What recovery found and did.
    pub recovery: String,
    /// Which members are not used, which copies are damaged, and the like.
    pub warnings: Vec<String>,
}

/// An array and its members.
pub struct Host {
    engine: Engine,
    driver: Driver,
    housekeeping: Housekeeping,
    /// Origin of the engine's time.
    start: Instant,
    next_device: u32,
    /// Devices in use, and how often that has changed.
    devices: BTreeSet<DeviceId>,
    device_changes: u64,
    next_command: u64,
    commands: BTreeMap<CommandId, Pending>,
    /// Who was last seen at which path; outlives a member's device, so that a member that failed
    /// can still be named by its path.
    paths: BTreeMap<String, Uuid>,
    /// Complete once the array is open.
    opening: OpeningReport,
    opened: bool,
    history: Option<History>,
    events: Vec<DriverEvent>,
}

impl Host {
    /// Begins to open the array whose members are `files`; the outcome comes as a [`Notice`].
    pub fn open(
        files: Vec<MemberFile>,
        options: OpenOptions,
        mut driver: Driver,
        pool: Pool,
        housekeeping: Housekeeping,
    ) -> Result<Host, Failure> {
        let mut next_device = 0;
        let mut devices = Vec::new();
        for file in files {
            devices.push(add_device(
                &mut driver,
                &housekeeping,
                &mut next_device,
                file,
            )?);
        }
        Ok(Host {
            devices: devices.iter().map(|device| device.id).collect(),
            device_changes: 1,
            engine: Engine::open(devices, options, pool),
            driver,
            housekeeping,
            start: Instant::now(),
            next_device,
            next_command: 0,
            commands: BTreeMap::new(),
            paths: BTreeMap::new(),
            opening: OpeningReport::default(),
            opened: false,
            history: None,
            events: Vec::new(),
        })
    }

    /// Has events kept there from now on.
    pub fn keep_history(&mut self, history: History) {
        self.history = Some(history);
    }

    /// Lets the engine run as far as it can, and starts the I/O it wants.
    pub fn pump(&mut self) {
        self.tell_time();
        self.engine.run();
        while let Some(io) = self.engine.next_io() {
            self.driver.submit_io(io);
        }
        let mut answered = false;
        while let Some(outcome) = self.engine.next_outcome() {
            let pending = self
                .commands
                .remove(&outcome.id)
                .expect("each command has one outcome");
            let unwanted = outcome.result.is_err() || pending.mode == Mode::DryRun;
            if let Some(device) = pending.device.filter(|_| unwanted) {
                self.release(device);
            }
            (pending.answer)(outcome.result.map_err(command_failure));
            answered = true;
        }
        if answered {
            self.remember_paths();
        }
    }

    fn tell_time(&mut self) {
        self.engine.advance(self.start.elapsed().as_nanos() as u64);
    }

    /// Waits for the kernel or for the engine's next deadline, at most `timeout`. What concerns
    /// members goes to the engine, the rest to `events`.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<DriverEvent>) {
        let now = self.start.elapsed();
        let deadline = self
            .engine
            .deadline()
            .map(|at| Duration::from_nanos(at).saturating_sub(now));
        let limit = [timeout, deadline].into_iter().flatten().min();
        self.driver.wait(limit, &mut self.events);
        self.tell_time();
        self.engine
            .spent_in_background(self.driver.take_background_time().as_nanos() as u64);
        for event in self.events.drain(..) {
            match event {
                DriverEvent::Member(completion) => self.engine.complete(completion),
                DriverEvent::MemberHung { device, oldest } => {
                    let seconds = oldest.as_secs();
                    self.engine
                        .device_gone(device, format!("it has not answered for {seconds} s"));
                }
                other => events.push(other),
            }
        }
    }

    /// The next answer to a request.
    pub fn next_reply(&mut self) -> Option<Reply> {
        self.engine.next_reply()
    }

    /// The next thing that happened to the array; logs, and does what needs no decision.
    pub fn next_notice(&mut self) -> Option<Notice> {
        while let Some(event) = self.engine.next_event() {
            self.record(&event);
            match event {
                Event::Opened { summary } => {
                    log::info(&summary);
                    self.remember_paths();
                    self.opening.recovery = summary;
                    self.opened = true;
                    return Some(Notice::Opened);
                }
                Event::Refused(refusal) => return Some(Notice::Refused(refusal_failure(refusal))),
                Event::Stopped => return Some(Notice::Stopped),
                Event::Happened(Happening { kind, text, .. })
                    if kind.severity() == Severity::Info =>
                {
                    log::info(&text);
                }
                Event::Info(text) => log::info(&text),
                Event::Happened(Happening { text, .. }) | Event::Warning(text) => {
                    log::warning(&text);
                    if !self.opened {
                        self.opening.warnings.push(text);
                    }
                }
                Event::Released(device) => self.release(device),
                Event::Witness(bytes) => self.housekeeping.keep_witness(bytes),
            }
        }
        None
    }

    /// Has an event kept, if it is worth it; by those members that are in sync after it.
    fn record(&self, event: &Event) {
        let Some(history) = &self.history else { return };
        let (kind, member, text) = match event {
            Event::Happened(happened) => (happened.kind, happened.member, &happened.text),
            Event::Warning(text) => (EventKind::Warning, None, text),
            Event::Opened { summary } => (self.opened_how(), None, summary),
            Event::Stopped => (EventKind::Stopped, None, &"flushed and stopped".to_string()),
            Event::Released(_) => return self.tell_members(history),
            Event::Info(_) | Event::Refused(_) | Event::Witness(_) => return,
        };
        self.tell_members(history);
        history.note(Note::now(kind, member, text));
    }

    fn opened_how(&self) -> EventKind {
        match self.status().map(|status| status.state) {
            Some(ArrayState::Optimal) => EventKind::Opened,
            _ => EventKind::OpenedDegraded,
        }
    }

    fn tell_members(&self, history: &History) {
        let status = self.status();
        let members = status.map(|status| status.members).unwrap_or_default();
        let in_sync = members.iter().filter(|m| m.state == MemberState::InSync);
        let file = |path: &str| {
            let devices = self.devices.iter();
            let mut files = devices.filter_map(|id| self.driver.device(*id));
            files.find(|file| file.path().to_str() == Some(path))
        };
        let keeping = in_sync.filter_map(|m| Some((m.uuid, file(m.path.as_deref()?)?.share())));
        history.set_members(keeping.collect());
    }

    /// Has the engine carry out `command`, or say what that would come to; `answer` gets the result.
    pub fn command(&mut self, command: Command, mode: Mode, answer: Answer) {
        self.start_command(command, mode, None, answer);
    }

    /// As [`Host::command`], for commands that bring a device along.
    pub fn command_with(
        &mut self,
        file: MemberFile,
        command: impl FnOnce(Device) -> Command,
        mode: Mode,
        answer: Answer,
    ) {
        match add_device(
            &mut self.driver,
            &self.housekeeping,
            &mut self.next_device,
            file,
        ) {
            Ok(device) => {
                let id = device.id;
                self.devices.insert(id);
                self.device_changes += 1;
                self.start_command(command(device), mode, Some(id), answer);
            }
            Err(failure) => answer(Err(failure)),
        }
    }

    fn start_command(
        &mut self,
        command: Command,
        mode: Mode,
        device: Option<DeviceId>,
        answer: Answer,
    ) {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        let pending = Pending {
            answer,
            mode,
            device,
        };
        self.commands.insert(id, pending);
        match mode {
            Mode::Earnest => self.engine.command(id, command),
            Mode::DryRun => self.engine.rehearse(id, command),
        }
    }

    /// Other threads have read from a device: how long that took.
    pub fn absorb_reads(&mut self, device: DeviceId, times: &ReadTimes) {
        self.engine.absorb_reads(device, times);
    }

    /// Other threads have answered so many reads in all.
    pub fn reads_elsewhere(&mut self, reads: u64) {
        self.engine.reads_elsewhere(reads);
    }

    /// A member that housekeeping found missing.
    pub fn device_gone(&mut self, device: DeviceId, why: String) {
        self.engine.device_gone(device, why);
    }

    /// How the array is; none before it is assembled.
    pub fn status(&self) -> Option<Status> {
        self.engine.status()
    }

    /// What was told while the array was opened.
    pub fn opening(&self) -> &OpeningReport {
        &self.opening
    }

    /// The engine itself, for what it tells about the export.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Reads what an operator calls a member.
    pub fn member_name(&self, typed: &str) -> Result<MemberName, Failure> {
        if let Ok(slot) = typed.parse() {
            return Ok(MemberName::Slot(slot));
        }
        if let Ok(uuid) = typed.parse() {
            return Ok(MemberName::Uuid(uuid));
        }
        let members = self
            .status()
            .map(|status| status.members)
            .unwrap_or_default();
        let here = members
            .iter()
            .find(|member| member.path.as_deref() == Some(typed));
        let uuid = here
            .map(|member| member.uuid)
            .or_else(|| self.paths.get(typed).copied());
        uuid.map(MemberName::Uuid).ok_or_else(|| {
            Failure::failed(format!(
                "{typed} is no member of this array; `uraid status` lists the members, name one \
                 by its path, slot number or UUID"
            ))
        })
    }

    fn remember_paths(&mut self) {
        let members = self
            .engine
            .status()
            .map(|status| status.members)
            .unwrap_or_default();
        for member in members {
            if let Some(path) = member.path {
                self.paths.insert(path, member.uuid);
            }
        }
    }

    /// How often the devices in use have changed.
    pub fn device_changes(&self) -> u64 {
        self.device_changes
    }

    /// The devices in use, for other threads that read them.
    pub fn shared_devices(&self) -> BTreeMap<DeviceId, MemberFile> {
        let file = |id: &DeviceId| Some((*id, self.driver.device(*id)?.share()));
        self.devices.iter().filter_map(file).collect()
    }

    fn release(&mut self, device: DeviceId) {
        self.devices.remove(&device);
        self.device_changes += 1;
        self.housekeeping.unwatch(device);
        self.driver.remove_device(device);
    }

    /// Ends all I/O and closes the members; waits for what housekeeping still has to write.
    pub fn close(self) {
        drop(self.driver);
        self.history.iter().for_each(History::end);
        self.housekeeping.end();
    }
}

impl Carrier for Host {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn request(&mut self, id: RequestId, request: Request) {
        self.engine.request(id, request);
    }
}

fn add_device(
    driver: &mut Driver,
    housekeeping: &Housekeeping,
    next_device: &mut u32,
    file: MemberFile,
) -> Result<Device, Failure> {
    let id = DeviceId(*next_device);
    *next_device += 1;
    let device = Device {
        id,
        path: file.path().display().to_string(),
        size_bytes: file.size_bytes(),
    };
    let identity = file.identity();
    driver
        .add_device(id, file)
        .doing(|| format!("use {}", device.path))?;
    housekeeping.watch(id, identity);
    Ok(device)
}

fn command_failure(error: CommandError) -> Failure {
    match error {
        CommandError::Refused(text) => Failure::refused(text),
        CommandError::Failed(text) => Failure::failed(text),
    }
}

fn refusal_failure(refusal: Refusal) -> Failure {
    match refusal.for_safety {
        true => Failure::refused(refusal.text),
        false => Failure::failed(refusal.text),
    }
}

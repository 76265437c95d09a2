//! The engine's host: hands its I/O to the simulated devices, brings completions back, tells time.

use crate::aside::Aside;
use crate::disk::Disk;
use crate::trace::{Trace, short};
use crate::watch::Watch;
use std::collections::{BTreeMap, BTreeSet};
use uraid_buffer::Pool;
use uraid_core::geometry::{Geometry, Level};
use uraid_engine::Engine;
use uraid_engine::api::{
    Device, DeviceId, Event, IoKind, Nanos, OpenOptions, Outcome, Reply, Request, RequestId,
};

/// A device that answers nothing for so long is given up.
const HANG_MAX: Nanos = 15_000_000_000;

/// Something the engine told its host.
#[derive(Debug)]
pub enum Told {
    /// To a client.
    Reply(Reply),
    /// To an operator.
    Outcome(Outcome),
    /// To the log.
    Event(Event),
}

/// An engine on its devices.
pub struct Host {
    /// The engine.
    pub engine: Engine,
    aside: Aside,
    watch: Watch,
    /// The layout at creation.
    narrow: Geometry,
    devices: BTreeMap<DeviceId, usize>,
    given_up: BTreeSet<DeviceId>,
    /// I/O to be started or completed before the crash.
    steps_left: Option<u64>,
    /// I/O started or completed so far.
    steps: u64,
}

impl Host {
    /// Begins to open the array on `offered`: devices and the disks behind them.
    pub fn open(
        offered: &[(DeviceId, usize)],
        disks: &[Disk],
        options: OpenOptions,
        watch: Watch,
    ) -> Host {
        let device = |(id, disk): &(DeviceId, usize)| device(*id, *disk, disks);
        let devices = offered.iter().map(device).collect();
        Host {
            engine: Engine::open(devices, options, Pool::heap()),
            aside: Aside::default(),
            narrow: watch.geometry,
            watch,
            devices: offered.iter().copied().collect(),
            given_up: BTreeSet::new(),
            steps_left: None,
            steps: 0,
        }
    }

    /// The disk behind a device.
    pub fn disk_of(&self, device: DeviceId) -> Option<usize> {
        self.devices.get(&device).copied()
    }

    /// The devices the engine holds and the disks behind them.
    pub fn devices(&self) -> impl Iterator<Item = (DeviceId, usize)> {
        self.devices.iter().map(|(id, disk)| (*id, *disk))
    }

    /// Whether the engine holds a disk.
    pub fn holds(&self, disk: usize) -> bool {
        self.devices.values().any(|d| *d == disk)
    }

    /// One more device is open.
    pub fn attach(&mut self, id: DeviceId, disk: usize) {
        self.devices.insert(id, disk);
    }

    /// Takes a client's request: whatever can be read without the engine is.
    pub fn request(&mut self, now: Nanos, disks: &mut [Disk], id: RequestId, request: Request) {
        match self.aside.begin(&self.engine, id, &request) {
            Some(started) => Aside::start(now, started, disks, |device| self.devices[&device]),
            None => self.engine.request(id, request),
        }
    }

    /// Nobody reads from a device any more.
    pub fn leave(&mut self, device: DeviceId, disks: &mut [Disk]) {
        if let Some(disk) = self.disk_of(device) {
            self.aside.leave(&mut self.engine, device, &mut disks[disk]);
        }
    }

    /// Nobody reads from any device: what is under way is left to the engine.
    pub fn leave_all(&mut self, disks: &mut [Disk]) {
        for device in self.devices.keys().copied().collect::<Vec<_>>() {
            self.leave(device, disks);
        }
    }

    /// Reads answered without the engine since this was asked last.
    pub fn take_served_aside(&mut self) -> u64 {
        self.aside.take_served()
    }

    /// The host closes a device.
    pub fn detach(&mut self, id: DeviceId) {
        self.devices.remove(&id);
    }

    /// The server dies after so many I/Os have been started or completed from now.
    pub fn crash_after(&mut self, steps: u64) {
        self.steps_left = Some(steps);
    }

    /// No crash is to come after all.
    pub fn spare(&mut self) {
        self.steps_left = None;
    }

    /// Whether a crash is to come.
    pub fn is_doomed(&self) -> bool {
        self.steps_left.is_some()
    }

    /// I/O started or completed so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    fn step(&mut self) -> bool {
        self.steps += 1;
        match &mut self.steps_left {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        true
    }

    /// Lets the engine do all it can at `now`. `None` when it died before that.
    pub fn pump(
        &mut self,
        now: Nanos,
        disks: &mut [Disk],
        trace: &mut Trace,
    ) -> Result<Option<Vec<Told>>, String> {
        self.engine.advance(now);
        for (id, disk) in self.devices.clone() {
            while let Some(completion) = disks[disk].complete(now) {
                trace.line(|| {
                    let (token, result) = (completion.token, &completion.result);
                    format!("{:>12} disk {disk}: #{token} done {result:?}", now / 1000)
                });
                match Aside::owns(completion.token) {
                    true => self.aside.complete(&mut self.engine, completion),
                    false => self.engine.complete(completion),
                }
                if !self.step() {
                    return Ok(None);
                }
            }
            let hung = disks[disk]
                .oldest_begun()
                .is_some_and(|begun| begun + HANG_MAX <= now);
            if hung && self.given_up.insert(id) {
                trace.line(|| format!("{:>12} disk {disk}: hangs, given up", now / 1000));
                self.engine
                    .device_gone(id, "it has not answered for 15 s".into());
                self.aside.leave(&mut self.engine, id, &mut disks[disk]);
            }
        }
        self.engine.run();
        while let Some(io) = self.engine.next_io() {
            let Some(disk) = self.disk_of(io.device) else {
                return Err(format!("I/O on a device that was released: {}", short(&io)));
            };
            trace.line(|| {
                let what = short(&io.kind);
                format!("{:>12} disk {disk}: #{} {what}", now / 1000, io.token)
            });
            if let IoKind::Write {
                offset, buffers, ..
            } = &io.kind
                && !disks[disk].is_suspect()
                && let Some(what) = self.watch.complaint(disks[disk].medium(), *offset, buffers)
            {
                return Err(format!("disk {disk}: {what}"));
            }
            disks[disk].submit(now, io);
            if let Some(complaint) = disks[disk].complaint() {
                return Err(format!("disk {disk}: {complaint}"));
            }
            if !self.step() {
                return Ok(None);
            }
        }
        Ok(Some(self.take_told()))
    }

    fn take_told(&mut self) -> Vec<Told> {
        let mut told: Vec<Told> = self
            .aside
            .take_answers()
            .into_iter()
            .map(Told::Reply)
            .collect();
        // Answers first: none may be outstanding when the server says that it has stopped.
        while let Some(reply) = self.engine.next_reply() {
            told.push(Told::Reply(reply));
        }
        while let Some(event) = self.engine.next_event() {
            told.push(Told::Event(event));
        }
        while let Some(outcome) = self.engine.next_outcome() {
            told.push(Told::Outcome(outcome));
        }
        let may_widen =
            |t: &Told| matches!(t, Told::Outcome(_) | Told::Event(Event::Opened { .. }));
        if told.iter().any(may_widen) {
            self.look_at_width();
        }
        told
    }

    /// The layout, as the engine has told it last.
    pub fn geometry(&self) -> Geometry {
        self.watch.geometry
    }

    /// A mirror may have been given one more copy, or have none of it after a crash.
    fn look_at_width(&mut self) {
        let narrow = self.narrow;
        let Some(status) = self.engine.status() else {
            return;
        };
        if narrow.shape.level != Level::Raid1 {
            return;
        }
        let copies = usize::from(status.parity) + 1;
        self.watch.geometry = match copies == narrow.shape.copies {
            true => narrow,
            false => narrow.widened().expect("only mirrors widen, and once"),
        };
    }

    /// When something happens next, if nothing is asked meanwhile.
    pub fn next_time(&self, disks: &[Disk]) -> Option<Nanos> {
        let due = self
            .devices
            .values()
            .filter_map(|disk| disks[*disk].next_due());
        let hangs = self
            .devices
            .iter()
            .filter(|(id, _)| !self.given_up.contains(id));
        let hangs = hangs.filter_map(|(_, disk)| disks[*disk].oldest_begun());
        let gives_up = hangs.map(|begun| begun + HANG_MAX);
        due.chain(gives_up).chain(self.engine.deadline()).min()
    }
}

/// A disk as the engine is told of it.
pub fn device(id: DeviceId, disk: usize, disks: &[Disk]) -> Device {
    Device {
        id,
        path: path_of(disk),
        size_bytes: disks[disk].medium().len(),
    }
}

/// What people call a disk.
pub fn path_of(disk: usize) -> String {
    format!("disk{disk}")
}

/// The disk that people call so.
pub fn disk_at(path: &str) -> Option<usize> {
    path.strip_prefix("disk")?.parse().ok()
}

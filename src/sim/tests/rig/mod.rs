//! An array on simulated disks, whose time is exact, and its only client.

#![allow(dead_code)] // no test needs all of it

use uraid_buffer::Pool;
use uraid_core::geometry::Geometry;
use uraid_engine::api::{
    Answer, Command, CommandId, Device, DeviceId, Event, MemberName, Nanos, OpenOptions,
    ReadOptions, Request, RequestId, Setting,
};
use uraid_engine::status::{MemberStatus, Status};
use uraid_sim::array::create;
use uraid_sim::disk::{Disk, Speed};
use uraid_sim::host::{Host, Told, device};
use uraid_sim::medium::Medium;
use uraid_sim::rng::Rng;
use uraid_sim::scenario::{Limits, Scenario};
use uraid_sim::trace::Trace;
use uraid_sim::watch::Watch;

pub const MICROSECOND: Nanos = 1000;
pub const MILLISECOND: Nanos = 1000 * MICROSECOND;
pub const SECOND: Nanos = 1000 * MILLISECOND;

/// What any I/O takes on these disks.
pub const USUAL: Nanos = 200 * MICROSECOND;
const READ_BYTES: u64 = 4096;

/// An array and its only client.
pub struct Rig {
    pub host: Host,
    pub disks: Vec<Disk>,
    pub now: Nanos,
    trace: Trace,
    requests: u64,
    speed: Speed,
    pub size_bytes: u64,
    pub events: Vec<Event>,
    pub geometry: Geometry,
}

impl Rig {
    /// An array full of data.
    pub fn new(layout: &str, reads: ReadOptions) -> Rig {
        let limits = Limits {
            layouts: vec![layout.parse().expect("there is such a layout")],
            chunk_bytes: vec![16 << 10],
            slots: 40..41,
            ..Limits::default()
        };
        let mut scenario = Scenario::new(1, &limits);
        scenario.speed = Speed {
            least: USUAL,
            spread: 0,
            flush: 1,
        };
        let mut rng = Rng::new(1);
        let array = create(&scenario, &mut rng);
        let disk = |medium| Disk::with_medium(medium, scenario.speed, Rng::new(2));
        let disks: Vec<Disk> = array.media.into_iter().map(disk).collect();
        let offered: Vec<_> = (0..disks.len()).map(|i| (DeviceId(i as u32), i)).collect();
        let options = OpenOptions {
            reads,
            ..OpenOptions::default()
        };
        let watch = Watch {
            geometry: array.geometry,
            key: array.key,
        };
        let mut rig = Rig {
            host: Host::open(&offered, &disks, options, watch),
            disks,
            now: 0,
            trace: Trace::default(),
            requests: 0,
            speed: scenario.speed,
            size_bytes: array.geometry.export_bytes,
            events: Vec::new(),
            geometry: array.geometry,
        };
        rig.wait_for(|told| matches!(told, Told::Event(Event::Opened { .. })));
        rig.fill();
        rig
    }

    /// Goes on until something is told; gives the time it took.
    pub fn wait_for(&mut self, wanted: impl Fn(&Told) -> bool) -> Nanos {
        let begun = self.now;
        loop {
            let told = self
                .host
                .pump(self.now, &mut self.disks, &mut self.trace)
                .expect("nothing is wrong")
                .expect("no crash is planned");
            let found = told.iter().any(&wanted);
            for one in told {
                if let Told::Event(event) = one {
                    self.events.push(event);
                }
            }
            if found {
                return self.now - begun;
            }
            let next = self.host.next_time(&self.disks).expect("something comes");
            self.now = self.now.max(next);
        }
    }

    /// Lets time pass, with whatever happens meanwhile.
    pub fn rest(&mut self, time: Nanos) {
        let until = self.now + time;
        while let Some(next) = self
            .host
            .next_time(&self.disks)
            .filter(|next| *next < until)
        {
            self.now = self.now.max(next);
            self.host
                .pump(self.now, &mut self.disks, &mut self.trace)
                .expect("nothing is wrong");
        }
        self.now = until;
    }

    pub fn ask(&mut self, request: Request) -> Nanos {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.host.request(self.now, &mut self.disks, id, request);
        let answered = |told: &Told| match told {
            Told::Reply(reply) if reply.id == id => {
                assert!(reply.result.is_ok(), "{:?}", reply.result);
                if let Ok(Answer::Data(spans)) = &reply.result {
                    let bytes = uraid_buffer::Span::joined(spans);
                    assert!(
                        bytes.iter().all(|b| *b == 7),
                        "other bytes than were written"
                    );
                }
                true
            }
            _ => false,
        };
        self.wait_for(answered)
    }

    fn fill(&mut self) {
        let data = Pool::heap().copy(&vec![7; self.size_bytes as usize]);
        self.ask(Request::Write {
            offset: 0,
            data,
            fua: true,
        });
        self.rest(5 * SECOND); // checkpoints
        self.read_all();
    }

    pub fn read(&mut self, block: u64) -> Nanos {
        let offset = block * READ_BYTES % self.size_bytes;
        let len = READ_BYTES;
        self.ask(Request::Read { offset, len })
    }

    /// Reads block after block, a few times round; the times it took, ascending.
    pub fn read_many(&mut self, reads: u64) -> Vec<Nanos> {
        let mut times: Vec<Nanos> = (0..reads).map(|i| self.read(i * 5)).collect();
        times.sort_unstable();
        times
    }

    pub fn read_all(&mut self) {
        self.read_many(self.size_bytes / READ_BYTES);
    }

    /// Gives an order, which is carried out.
    pub fn order(&mut self, command: Command) {
        self.requests += 1;
        let id = CommandId(self.requests);
        self.host.engine.command(id, command);
        self.wait_for(|told| matches!(told, Told::Outcome(o) if o.id == id && o.result.is_ok()));
    }

    pub fn set(&mut self, setting: Setting) {
        self.order(Command::Set(vec![setting]));
    }

    pub fn fail(&mut self, slot: u16) {
        let member = MemberName::Slot(slot);
        let force = false;
        self.order(Command::Fail { member, force });
    }

    /// A blank disk that the host has opened.
    pub fn blank_disk(&mut self) -> Device {
        let bytes = self.disks[0].medium().len();
        let (id, disk) = (DeviceId(self.disks.len() as u32), self.disks.len());
        let medium = Medium::new(bytes);
        let speed = self.speed;
        self.disks
            .push(Disk::with_medium(medium, speed, Rng::new(3)));
        self.host.attach(id, disk);
        device(id, disk, &self.disks)
    }

    pub fn status(&self) -> Status {
        self.host.engine.status().expect("it is open")
    }

    /// Slots of members that sit out.
    pub fn slow(&self) -> Vec<u16> {
        let status = self.status();
        let slow = status.members.iter().filter(|m| m.slow_nanos.is_some());
        slow.filter_map(|m| m.slot).collect()
    }

    /// Reads of each member so far.
    pub fn reads(&self) -> Vec<u64> {
        let status = self.status();
        let reads = |m: &MemberStatus| m.io.reads.operations;
        status.members.iter().map(reads).collect()
    }

    pub fn warned(&self, text: &str) -> bool {
        let has = |e: &Event| match e {
            Event::Happened(happening) => happening.text.contains(text),
            _ => false,
        };
        self.events.iter().any(has)
    }
}

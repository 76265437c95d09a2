//! A tiny array being driven through a story, up to a crash.

use crate::clients::Clients;
use crate::disk::{Breakdown, Disk, Speed};
use crate::host::{Host, Told, device};
use crate::load::Draft;
use crate::medium::Medium;
use crate::rng::Rng;
use crate::stories::Step;
use crate::trace::Trace;
use crate::watch::Watch;
use std::collections::VecDeque;
use uraid_engine::api::{
    Command, CommandId, Device, DeviceId, Event, MemberName, Nanos, OpenOptions, Request, RequestId,
};

/// All I/O takes the same time: what is reordered is up to the crashes.
const SPEED: Speed = Speed {
    least: 1000,
    spread: 0,
    flush: 1,
};
/// Virtual time in which a story must be told.
const STUCK: Nanos = 600_000_000_000;

/// An array being driven.
pub struct Bench {
    /// The engine, on its devices.
    pub host: Host,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Those who ask.
    pub clients: Clients,
    now: Nanos,
    open: bool,
    ordered: bool,
    /// Disks that break after so many steps.
    pub breaks: Option<(u64, Vec<usize>, Breakdown)>,
    /// Commands may fail.
    pub forgiving: bool,
}

fn is_over(bench: &Bench) -> bool {
    bench.open && !bench.ordered && bench.clients.in_flight() == 0
}

impl Bench {
    /// Begins to open an array, whoever is missing.
    pub fn open(media: Vec<Medium>, clients: Clients, watch: Watch, nonce: u64) -> Bench {
        let disk = |medium| Disk::with_medium(medium, SPEED, Rng::new(1));
        let disks: Vec<Disk> = media.into_iter().map(disk).collect();
        let offered: Vec<_> = (0..disks.len()).map(|i| (DeviceId(i as u32), i)).collect();
        // The operator's word: those who are lost do not come back.
        let options = OpenOptions {
            force: true,
            nonce,
            ..OpenOptions::default()
        };
        Bench {
            host: Host::open(&offered, &disks, options, watch),
            disks,
            clients,
            now: 0,
            open: false,
            ordered: false,
            breaks: None,
            forgiving: false,
        }
    }

    fn break_if_due(&mut self) {
        let is_due = |(at, disks, _): &mut (u64, Vec<usize>, Breakdown)| {
            self.host.steps() >= *at && disks.iter().all(|disk| *disk < self.disks.len())
        };
        if let Some((_, disks, how)) = self.breaks.take_if(is_due) {
            let mut break_it = |disk: usize| self.disks[disk].set_breakdown(Some(how));
            disks.into_iter().for_each(&mut break_it);
        }
    }

    /// Tells a story. Whether it came to its end before the crash.
    pub fn tell(&mut self, mut story: VecDeque<Step>) -> Result<bool, String> {
        let mut idle_until = 0;
        loop {
            if self.now > STUCK {
                return Err("stuck: the story does not end".into());
            }
            self.break_if_due();
            let mut trace = Trace::default();
            let Some(told) = self.host.pump(self.now, &mut self.disks, &mut trace)? else {
                return Ok(false);
            };
            let idle = told.is_empty();
            for one in told {
                self.hear(one)?;
            }
            if !idle {
                continue;
            }
            if is_over(self) && self.now >= idle_until {
                match story.pop_front() {
                    None => return Ok(true),
                    Some(Step::Idle(nanos)) => idle_until = self.now + nanos,
                    Some(step) => self.begin(step),
                }
                continue;
            }
            let next = self.host.next_time(&self.disks);
            let waits = is_over(self).then_some(idle_until);
            match next.into_iter().chain(waits).min() {
                Some(next) => self.now = next.max(self.now),
                None => return Err("stuck: nothing is in flight".into()),
            }
        }
    }

    fn hear(&mut self, told: Told) -> Result<(), String> {
        match told {
            Told::Reply(reply) => self.clients.answer(reply, false).map(|_| ()),
            Told::Event(Event::Opened { .. }) => {
                self.open = true;
                Ok(())
            }
            Told::Event(Event::Refused(refusal)) => {
                Err(format!("the start was refused: {}", refusal.text))
            }
            Told::Event(Event::Released(device)) => {
                self.host.detach(device);
                Ok(())
            }
            Told::Event(_) => Ok(()),
            Told::Outcome(outcome) => {
                self.ordered = false;
                match outcome.result {
                    Err(why) if !self.forgiving => Err(format!("{why:?}")),
                    _ => Ok(()),
                }
            }
        }
    }

    fn begin(&mut self, step: Step) {
        match step {
            Step::Ask(drafts) => drafts.into_iter().for_each(|draft| self.ask(draft)),
            Step::Replace(role) => {
                let command = Command::Replace {
                    old: MemberName::Slot(role),
                    new: self.blank_disk(),
                    force: false,
                };
                self.order(command);
            }
            Step::AddCopy => {
                let device = self.blank_disk();
                let force = false;
                self.order(Command::AddCopy { device, force });
            }
            Step::RemoveCopy => self.order(Command::RemoveCopy),
            Step::Stop => self.order(Command::Stop),
            Step::Idle(_) => unreachable!("the caller waits"),
        }
    }

    fn blank_disk(&mut self) -> Device {
        let medium = Medium::new(self.disks[0].medium().len());
        self.disks
            .push(Disk::with_medium(medium, SPEED, Rng::new(2)));
        let disk = self.disks.len() - 1;
        let id = DeviceId(disk as u32);
        self.host.attach(id, disk);
        device(id, disk, &self.disks)
    }

    fn order(&mut self, command: Command) {
        self.ordered = true;
        self.host.engine.command(CommandId(1), command);
    }

    fn ask(&mut self, draft: Draft) {
        let asked = self.clients.ask(self.now, draft);
        let (id, request): (RequestId, Request) = asked.expect("stories do not merge");
        self.host.engine.request(id, request);
    }
}

//! The engine's host: devices that answer at once and in order, a clock that jumps to the next
//! deadline, and limits on how much of both the engine may use.

use super::member::Member;
use std::collections::VecDeque;
use uraid_buffer::{Pool, Span};
use uraid_core::units::BLOCK_BYTES;
use uraid_engine::Engine;
use uraid_engine::api::{
    Answer, Command, CommandError, CommandId, Completion, Device, DeviceId, Event, Io, IoKind,
    Nanos, OpenOptions, Outcome, Refusal, Reply, Request, RequestError, RequestId,
};

/// Most I/O for one thing asked of the engine, opening included: some times what an honest array
/// of this size takes.
const IO_MAX: u64 = 100_000;
/// Most virtual time for one thing asked of it.
const WAIT_MAX: Nanos = 3600 * 1_000_000_000;

/// An engine on members in memory.
pub struct Host {
    engine: Engine,
    members: Vec<Member>,
    now: Nanos,
    queue: VecDeque<Io>,
    replies: Vec<Reply>,
    outcomes: Vec<Outcome>,
    opened: bool,
    stopped: bool,
    refused: Option<Refusal>,
    next_id: u64,
    io_left: u64,
    deadline: Nanos,
}

/// What becomes of one I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is answered, and lost with the power before the next flush.
    Lost,
    /// The server dies before.
    Killed,
}

impl Host {
    /// Begins to open the array on all members.
    pub fn open(members: Vec<Member>, options: OpenOptions) -> Host {
        let devices = (0..members.len()).map(|i| device(i, &members)).collect();
        Host {
            engine: Engine::open(devices, options, Pool::heap()),
            members,
            now: 0,
            queue: VecDeque::new(),
            replies: Vec::new(),
            outcomes: Vec::new(),
            opened: false,
            stopped: false,
            refused: None,
            next_id: 0,
            io_left: 0,
            deadline: 0,
        }
    }

    /// Waits until it is open or refused.
    pub fn wait_open(&mut self) -> Result<(), Refusal> {
        self.run_until("opening", |host| host.opened || host.refused.is_some());
        self.refused.take().map_or(Ok(()), Err)
    }

    /// Goes on until the server dies: as `fate` decides about its I/O.
    pub fn run_to_death(&mut self, fate: impl Fn(&Io) -> Fate) {
        self.give_time();
        let alive = self.run_unless(&fate, "dying", |_| false);
        assert!(!alive);
    }

    /// Carries out requests side by side; the replies in their order.
    pub fn request(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Vec<Result<Vec<u8>, RequestError>> {
        let first = self.next_id;
        for request in requests {
            self.engine.request(RequestId(self.next_id), request);
            self.next_id += 1;
        }
        let count = (self.next_id - first) as usize;
        self.run_until("requests", |host| host.replies.len() == count);
        let mut replies = std::mem::take(&mut self.replies);
        replies.sort_by_key(|reply| reply.id);
        let flat = |reply: Reply| match reply.result? {
            Answer::Data(spans) => Ok(Span::joined(&spans)),
            Answer::Extents(extents) => {
                assert!(extents.iter().all(|e| e.len > 0) && !extents.is_empty());
                Ok(Vec::new())
            }
            Answer::Done => Ok(Vec::new()),
        };
        replies.into_iter().map(flat).collect()
    }

    /// Carries out an operator's command.
    pub fn command(&mut self, command: Command) -> Result<String, CommandError> {
        self.next_id += 1;
        self.engine.command(CommandId(self.next_id), command);
        self.run_until("a command", |host| !host.outcomes.is_empty());
        self.outcomes.remove(0).result
    }

    /// Lets the engine work for a while.
    pub fn wait(&mut self, time: Nanos) {
        let until = self.now + time;
        self.give_time();
        while self.engine.deadline().is_some_and(|d| d <= until) || !self.queue.is_empty() {
            self.step(&|_| Fate::Done);
            if self.queue.is_empty() {
                self.now = self
                    .engine
                    .deadline()
                    .map_or(until, |d| d.clamp(self.now, until));
                if self.now == until {
                    break;
                }
            }
        }
        self.step(&|_| Fate::Done);
    }

    /// Stops the engine; the members as it leaves them.
    pub fn stop(mut self) -> Vec<Member> {
        let _ = self.command(Command::Stop);
        self.run_until("stopping", |host| host.stopped);
        self.members
    }

    /// The members as a server leaves them that dies now: what it handed over is done.
    pub fn kill(mut self) -> Vec<Member> {
        while let Some(mut io) = self.queue.pop_front() {
            perform(&mut self.members, &mut io);
        }
        self.members
    }

    /// Size of the export and of a stripe of it.
    pub fn sizes(&self) -> (u64, u64) {
        let export = self.engine.export().expect("it is open");
        (export.size_bytes, export.stripe_bytes)
    }

    /// The engine, for what needs no waiting.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// I/O done for the last thing asked of it.
    pub fn io_done(&self) -> u64 {
        IO_MAX - self.io_left
    }

    /// A device to be added.
    pub fn attach(&mut self, member: Member) -> Device {
        self.members.push(member);
        device(self.members.len() - 1, &self.members)
    }

    fn give_time(&mut self) {
        self.io_left = IO_MAX;
        self.deadline = self.now + WAIT_MAX;
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Host) -> bool) {
        self.give_time();
        self.run_unless(&|_| Fate::Done, what, done);
    }

    /// Runs until `done`; `false` when the server died before.
    fn run_unless(
        &mut self,
        fate: &dyn Fn(&Io) -> Fate,
        what: &str,
        done: impl Fn(&Host) -> bool,
    ) -> bool {
        loop {
            if let Fate::Killed = self.step(fate) {
                return false;
            }
            if done(self) {
                return true;
            }
            if self.queue.is_empty() {
                let next = self.engine.deadline();
                let next =
                    next.unwrap_or_else(|| panic!("{what}: nothing is in flight, it is stuck"));
                self.now = self.now.max(next);
                assert!(self.now <= self.deadline, "{what}: it takes for ever");
            }
        }
    }

    /// Completes all I/O and takes what comes of it.
    fn step(&mut self, fate: &dyn Fn(&Io) -> Fate) -> Fate {
        self.engine.advance(self.now);
        while let Some(mut io) = self.queue.pop_front() {
            match fate(&io) {
                Fate::Done => perform(&mut self.members, &mut io),
                Fate::Lost => {}
                Fate::Killed => return Fate::Killed,
            }
            let buffer = match io.kind {
                IoKind::Read { buffer, .. } => Some(buffer),
                _ => None,
            };
            self.engine.complete(Completion {
                token: io.token,
                result: Ok(()),
                buffer,
            });
        }
        self.engine.run();
        while let Some(io) = self.engine.next_io() {
            self.io_left = self.io_left.checked_sub(1).expect("it does I/O for ever");
            self.queue.push_back(io);
        }
        while let Some(reply) = self.engine.next_reply() {
            self.replies.push(reply);
        }
        while let Some(outcome) = self.engine.next_outcome() {
            self.outcomes.push(outcome);
        }
        while let Some(event) = self.engine.next_event() {
            match event {
                Event::Opened { .. } => self.opened = true,
                Event::Refused(refusal) => {
                    assert!(!refusal.text.is_empty(), "a refusal says why");
                    self.refused = Some(refusal);
                }
                Event::Stopped => self.stopped = true,
                Event::Happened(_)
                | Event::Info(_)
                | Event::Warning(_)
                | Event::Released(_)
                | Event::Witness(_) => {}
            }
        }
        Fate::Done
    }
}

fn device(i: usize, members: &[Member]) -> Device {
    Device {
        id: DeviceId(i as u32),
        path: format!("disk{i}"),
        size_bytes: members[i].len,
    }
}

fn perform(members: &mut [Member], io: &mut Io) {
    let member = &mut members[io.device.0 as usize];
    let asks = |offset: u64, len: u64| {
        assert!(
            member.holds(offset, len),
            "I/O on {len} bytes at {offset} of {}",
            member.len
        );
    };
    match &mut io.kind {
        IoKind::Read { offset, buffer } => {
            asks(*offset, buffer.len() as u64);
            member.read(*offset, buffer);
        }
        IoKind::Write {
            offset, buffers, ..
        } => {
            asks(*offset, buffers.iter().map(|b| b.len() as u64).sum());
            let mut at = *offset;
            for buffer in buffers {
                member.write(at, buffer);
                at += buffer.len() as u64;
            }
        }
        IoKind::Discard { offset, len } => {
            asks(*offset, *len);
            let zeros = [0; BLOCK_BYTES];
            (0..*len)
                .step_by(BLOCK_BYTES)
                .for_each(|at| member.write(*offset + at, &zeros));
        }
        IoKind::Flush => {}
    }
}

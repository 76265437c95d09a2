//! Reader threads: they serve an array's clients where there are cores for them. A read is made by
//! the thread itself, on a driver of its own, if the engine's view says how; everything else goes to
//! the data thread and comes back as its answer.

mod board;
mod direct;
mod relay;
mod team;

pub use team::Readers;

use super::frontend::{Carrier, Frontend, Station};
use super::heartbeat::Heartbeat;
use super::operator::Mailbox;
use super::service::Message;
use board::{Board, Stage, Tally};
use direct::{DirectReads, Outcome, Times};
use relay::Relay;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use uraid_buffer::Pool;
use uraid_engine::ReadView;
use uraid_engine::api::{DeviceId, Request, RequestId};
use uraid_io::driver::{Backend, Driver, DriverError, DriverEvent, Limits};

/// Most readers of an array that are worth their while.
const READERS_DEFAULT_MAX: usize = 8;

/// Most readers of an array that can be asked for.
pub const READERS_LIMIT: usize = 64;

/// Descriptors that a reader needs: a ring and a bell.
pub const READER_DESCRIPTORS: usize = 2;

/// How many readers each array has where nothing is said. With few cores, whatever is gained by
/// another thread is lost by passing requests on.
pub fn default_count() -> usize {
    match thread::available_parallelism().map_or(1, |cores| cores.get()) {
        0..=3 => 0,
        cores => (cores - 2).min(READERS_DEFAULT_MAX),
    }
}

/// The I/O of a reader, on `pool`.
pub fn driver(backend: Backend, pool: &Pool) -> Result<Driver, DriverError> {
    // There are several of them: what a call on memory costs is spread already.
    let limits = Limits {
        workers_per_device: 2,
        memory_helpers_max: 0,
        ..Limits::default()
    };
    Driver::new(backend, pool, limits)
}

/// A reader that has not begun.
pub struct Recruit {
    /// Its clients.
    pub station: Station,
    /// All its I/O.
    pub driver: Driver,
    /// Counts its turns.
    pub heartbeat: Heartbeat,
}

/// A reader at work.
struct Reader {
    frontend: Frontend,
    means: Means,
    board: Arc<Board>,
    /// What was last seen there.
    seen: u64,
    stage: Stage,
    mailbox: Mailbox,
    heartbeat: Heartbeat,
}

/// How a reader carries out requests.
struct Means {
    driver: Driver,
    direct: DirectReads,
    relay: Relay,
    tally: Arc<Tally>,
}

/// Says that a thread has ended, however it ends.
struct EndMark(Arc<Tally>, Mailbox);

impl Drop for EndMark {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.1.waker.wake();
    }
}

impl Carrier for Means {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn request(&mut self, id: RequestId, request: Request) {
        if let Request::Read { offset, len } = request
            && self.direct.start(id, offset, len, &mut self.driver)
        {
            return;
        }
        self.ask(id, request);
    }
}

impl Means {
    /// Has the engine carry out a request.
    fn ask(&mut self, id: RequestId, request: Request) {
        self.tally.relayed.add(1);
        self.relay.push(id, request);
    }
}

impl Reader {
    fn new(
        recruit: Recruit,
        view: Option<ReadView>,
        relay: Relay,
        (tally, times): (Arc<Tally>, Arc<Mutex<Times>>),
        (board, mailbox): (Arc<Board>, Mailbox),
    ) -> Reader {
        let pool = recruit.station.pool.clone();
        Reader {
            frontend: Frontend::new(recruit.station),
            means: Means {
                driver: recruit.driver,
                direct: DirectReads::new(view, pool, tally.clone(), times),
                relay,
                tally,
            },
            board,
            seen: 0,
            stage: Stage::Serving,
            mailbox,
            heartbeat: recruit.heartbeat,
        }
    }

    /// Serves until the array's service ends.
    fn run(mut self) {
        let mark = EndMark(self.means.tally.clone(), self.mailbox.clone());
        self.serve();
        // First the clients, the driver and its files: what the mark says is true of all of them.
        drop(self);
        drop(mark);
    }

    fn serve(&mut self) {
        let mut events = Vec::new();
        loop {
            self.heartbeat.beat();
            self.look_at_board();
            let now = Instant::now();
            self.means.direct.tell_time(now);
            for (id, request) in self.means.direct.take_late() {
                self.means.ask(id, request);
            }
            self.frontend.take_newcomers(&mut self.means.driver, now);
            self.settle();
            self.tell_drained();
            if self.is_over() {
                return;
            }
            let timeout = self.timeout();
            self.means.driver.wait(timeout, &mut events);
            self.means.direct.tell_time(Instant::now());
            for event in events.drain(..) {
                self.take(event);
            }
        }
    }

    fn look_at_board(&mut self) {
        let Some((stage, devices)) = self.board.look(&mut self.seen) else {
            return;
        };
        let Means { driver, direct, .. } = &mut self.means;
        for (id, request) in direct.set_devices(devices, driver) {
            self.means.ask(id, request);
        }
        if self.stage == Stage::Serving && stage != Stage::Serving {
            self.frontend.shutdown();
        }
        self.stage = stage;
    }

    fn take(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::Member(completion) => match self.means.direct.completed(completion) {
                None => {}
                Some(Outcome::Answered(reply)) => self.frontend.reply(reply),
                Some(Outcome::Ask(id, request)) => self.means.ask(id, request),
            },
            DriverEvent::MemberHung { device, oldest } => self.take_hung(device, oldest),
            other => self.frontend.handle(other),
        }
    }

    /// A member does not answer: the engine is told, and asked for what is wanted from it. The data
    /// thread may not have read there at all.
    fn take_hung(&mut self, device: DeviceId, oldest: Duration) {
        let why = format!("it has not answered for {} s", oldest.as_secs());
        // If too much waits there, it finds out by what it is asked now.
        let _ = self.mailbox.send(Message::Gone(device, why));
        for (id, request) in self.means.direct.give_up(device) {
            self.means.ask(id, request);
        }
    }

    /// Lets clients run until there is nothing to be done for them; then wakes the data thread if
    /// it has got something.
    fn settle(&mut self) {
        loop {
            let mut busy = self.frontend.advance(&mut self.means);
            while let Some(reply) = self.means.relay.next_reply() {
                self.frontend.reply(reply);
                busy = true;
            }
            if !busy {
                break;
            }
        }
        self.means.relay.wake();
    }

    fn tell_drained(&mut self) {
        let tally = &self.means.tally;
        if self.stage != Stage::Serving
            && self.frontend.is_idle()
            && !tally.drained.swap(true, Ordering::AcqRel)
        {
            self.mailbox.waker.wake();
        }
    }

    fn is_over(&self) -> bool {
        match self.stage {
            Stage::Goodbye(deadline) => self.frontend.is_empty() || Instant::now() >= deadline,
            Stage::Serving | Stage::Draining => false,
        }
    }

    /// When to look again though nothing happened.
    fn timeout(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let goodbye = match self.stage {
            Stage::Goodbye(deadline) => Some(deadline),
            Stage::Serving | Stage::Draining => None,
        };
        let patience = self.frontend.check_patience(&self.means.driver, now);
        let fence = self.frontend.fence_deadline();
        let late = self.means.direct.deadline();
        let turn = self.frontend.turn_deadline(now);
        let all = [goodbye, patience, fence, late, turn];
        let first = all.into_iter().flatten().min();
        first.map(|at| at.saturating_duration_since(now))
    }
}

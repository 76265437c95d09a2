//! The readers of an array, as its data thread sees them.

use super::board::{Board, Stage, Tally};
use super::direct::Times;
use super::relay::{RelayEnd, relay};
use super::{Reader, Recruit};
use crate::control::wire::{IoReport, ReaderReport};
use crate::failure::{Doing, Failure};
use crate::server::frontend::{Carrier, thread_of};
use crate::server::host::Host;
use crate::server::operator::Mailbox;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use uraid_engine::api::Reply;

/// How often the engine hears how long reads took.
const TIMES_INTERVAL: Duration = Duration::from_millis(100);

/// The zone of members that readers read.
const ZONE: &str = "data";

/// One reader.
struct Member {
    relay: RelayEnd,
    tally: Arc<Tally>,
    times: Arc<Mutex<Times>>,
    /// None once it was waited for.
    thread: Option<JoinHandle<()>>,
}

/// All readers of an array; maybe none. They end when this is dropped.
pub struct Readers {
    board: Arc<Board>,
    /// Which of the host's devices the readers know.
    devices_seen: u64,
    /// In the order of their numbers, from 1.
    members: Vec<Member>,
    /// Something new is on the board.
    news: bool,
    /// When the engine is to hear how long reads took.
    next_times: Instant,
}

impl Readers {
    /// Starts the readers of the array that `host` has opened; `mailbox` is the data thread's.
    pub fn start(
        recruits: Vec<Recruit>,
        host: &Host,
        mailbox: &Mailbox,
        name: &str,
    ) -> Result<Readers, Failure> {
        let mut readers = Readers {
            board: Arc::new(Board::new()),
            devices_seen: 0,
            members: Vec::new(),
            news: false,
            next_times: Instant::now(),
        };
        let view = host.engine().view();
        readers.tell_devices(host);
        for recruit in recruits {
            let number = recruit.station.thread;
            let (relay, end) = relay(recruit.driver.waker(), mailbox.waker.clone());
            let tally = Arc::new(Tally::default());
            let shared = (readers.board.clone(), mailbox.clone());
            let times = Arc::new(Mutex::new(Times::new()));
            let own = (tally.clone(), times.clone());
            let reader = Reader::new(recruit, view.clone(), relay, own, shared);
            let thread = thread::Builder::new()
                .name(format!("uraid-{name}-{number}"))
                .spawn(move || reader.run())
                .doing(|| "start a thread".to_string())?;
            readers.members.push(Member {
                relay: end,
                tally,
                times,
                thread: Some(thread),
            });
        }
        Ok(readers)
    }

    /// Tells the engine how long reads took.
    pub fn take_times(&self, host: &mut Host) {
        for reader in &self.members {
            let times = std::mem::take(&mut *reader.times.lock().expect("no holder panics"));
            for (device, times) in times {
                host.absorb_reads(device, &times);
            }
        }
    }

    /// Starts what readers have passed on, and tells what they have not.
    pub fn take_requests(&mut self, host: &mut Host) {
        if !self.members.is_empty() && Instant::now() >= self.next_times {
            self.next_times = Instant::now() + TIMES_INTERVAL;
            self.take_times(host);
        }
        for reader in &mut self.members {
            while let Some((id, request)) = reader.relay.next_request() {
                host.request(id, request);
            }
        }
        let reads = self.members.iter().map(|reader| reader.tally.reads.get());
        host.reads_elsewhere(reads.sum());
    }

    /// Sends an answer to the reader that passed the request on.
    pub fn reply(&mut self, reply: Reply) {
        let reader = thread_of(reply.id) - 1;
        self.members[reader].relay.reply(reply);
    }

    /// Wakes readers that there is something for. Panics as a reader has, if one has.
    pub fn wake(&mut self, host: &Host) {
        self.tell_devices(host);
        let news = std::mem::take(&mut self.news);
        for reader in &mut self.members {
            reader.relay.wake(news);
            reader.wait_if_panicked();
        }
    }

    /// Lets readers know which devices there are, if that has changed.
    fn tell_devices(&mut self, host: &Host) {
        let changes = host.device_changes();
        if self.devices_seen != changes {
            self.devices_seen = changes;
            self.board.set_devices(host.shared_devices());
            self.news = true;
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        self.board.set_stage(stage);
        self.members
            .iter_mut()
            .for_each(|reader| reader.relay.wake(true));
    }

    /// No new requests from now on; those under way are finished.
    pub fn shutdown(&mut self) {
        self.set_stage(Stage::Draining);
    }

    /// Everything is flushed. Clients may get their last answers until `deadline`.
    pub fn say_goodbye(&mut self, deadline: Instant) {
        self.set_stage(Stage::Goodbye(deadline));
    }

    /// Whether no request is under way, after [`Readers::shutdown`].
    pub fn are_idle(&self) -> bool {
        let drained = |reader: &Member| reader.tally.drained.load(Ordering::Acquire);
        self.members.iter().all(drained)
    }

    /// Whether all have ended.
    pub fn have_ended(&self) -> bool {
        self.members.iter().all(Member::has_ended)
    }

    /// Adds what readers have read to what the engine has counted.
    pub fn count(&self, io: &mut IoReport) {
        let zone = io.zones.entry(ZONE.to_string()).or_default();
        for reader in &self.members {
            let tally = &reader.tally;
            zone.reads += tally.member_reads.get();
            zone.read_bytes += tally.member_read_bytes.get();
            io.client_read_bytes += tally.read_bytes.get();
        }
    }

    /// What each has done.
    pub fn report(&self) -> Vec<ReaderReport> {
        let report = |reader: &Member| ReaderReport {
            reads: reader.tally.reads.get(),
            read_bytes: reader.tally.read_bytes.get(),
            relayed: reader.tally.relayed.get(),
        };
        self.members.iter().map(report).collect()
    }
}

impl Drop for Readers {
    /// They let go of the members before this returns.
    fn drop(&mut self) {
        self.set_stage(Stage::Goodbye(Instant::now()));
        for reader in &mut self.members {
            if let Some(thread) = reader.thread.take() {
                let ended = thread.join();
                assert!(
                    ended.is_ok() || thread::panicking(),
                    "a reader has panicked"
                );
            }
        }
    }
}

impl Member {
    fn has_ended(&self) -> bool {
        self.tally.ended.load(Ordering::Acquire)
    }

    /// A reader ends on its own account only if it panics: then so does the data thread.
    fn wait_if_panicked(&mut self) {
        if self.has_ended()
            && let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

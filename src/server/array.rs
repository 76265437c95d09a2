//! One array on its data thread: opened, served, flushed.

use super::alert::Alerts;
use super::budget::Chair;
use super::desk::{Arrival, Desk, Seat};
use super::front::Offer;
use super::frontend::{Frontend, Station};
use super::gate::Gate;
use super::heartbeat::{Heartbeat, Watched};
use super::history::History;
use super::host::{Host, Notice};
use super::housekeeping::{Housekeeping, load_witness};
use super::members::OpenArray;
use super::memory::Memory;
use super::operator::{self, INBOX_MAX, Mailbox};
use super::qos::Throttle;
use super::reader::{self, Readers, Recruit};
use super::service::{Message, Service};
use super::sockets::SocketFile;
use super::succession::Succession;
use super::tally::{Books, Tally};
use super::trend::{Sampler, Trend};
use super::{log, random};
use crate::control::paths;
use crate::control::server::ControlServer;
use crate::control::wire::About;
use crate::failure::{Doing, Failure};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use uraid_buffer::Pool;
use uraid_core::units::Uuid;
use uraid_engine::api::{OpenOptions, ReadOptions};
use uraid_io::driver::{Backend, Driver, Limits};
use uraid_nbd::Export;

/// Largest preferred block that we tell clients; larger stripes are no better for them.
const PREFERRED_BLOCK_BYTES_MAX: u32 = 1 << 20;

/// How arrays are opened.
#[derive(Clone, Debug)]
pub struct Manner {
    /// How members are read and written.
    pub backend: Backend,
    /// Write nothing to the members.
    pub read_only: bool,
    /// Start what would be refused.
    pub force: bool,
    /// Hand out blocks without checking them.
    pub skip_verification: bool,
    /// Share of the time that a rebuild takes while clients are at work, in percent.
    pub rebuild_share_percent: u8,
    /// Bytes of a member that a rebuild fills in a second, whatever clients do; 0: none.
    pub rebuild_floor: u64,
    /// Bytes of a member that a rebuild fills in a second at most; 0: no limit.
    pub rebuild_ceiling: u64,
    /// While 99 of 100 requests of clients take longer, rebuilds and scrubs step back; 0: never.
    pub latency_target_nanos: u64,
    /// How members are chosen for reads.
    pub reads: ReadOptions,
}

/// What a data thread is to do.
pub struct Job {
    /// The members, open and locked.
    pub array: OpenArray,
    /// How to open it.
    pub manner: Manner,
    /// What it may take of memory.
    pub memory: Memory,
    /// Its control socket.
    pub control: (OwnedFd, SocketFile),
    /// Where clients find it.
    pub uris: Vec<String>,
    /// Takes orders to upgrade the server.
    pub succession: Succession,
    /// Where alerts about it go.
    pub alerts: Alerts,
    /// Counts its clients.
    pub gate: Arc<Gate>,
    /// Limits what they get.
    pub throttle: Arc<Throttle>,
    /// Most clients at once.
    pub connections_max: usize,
    /// Threads that serve its clients; with none the data thread does.
    pub readers: usize,
}

/// A data thread at work.
pub struct Running {
    /// Name of the array.
    pub name: String,
    /// Where clients find it.
    pub uris: Vec<String>,
    operator: Arc<operator::Served>,
    gate: Arc<Gate>,
    /// Where clients come in: the readers, or the data thread.
    seats: Vec<Seat>,
    watched: Vec<Watched>,
    opened: Receiver<Result<Option<Export>, Failure>>,
    thread: JoinHandle<Result<(), Failure>>,
}

impl Running {
    /// Starts the data thread of an array; it opens the array first.
    pub fn start(job: Job) -> Result<Running, Failure> {
        let name = job.array.name.clone();
        let uris = job.uris.clone();
        let gate = job.gate.clone();
        let pool = pool(job.memory.pool);
        let driver = start_driver(job.manner.backend, &pool)?;
        let (sender, inbox) = sync_channel(INBOX_MAX);
        let mailbox = Mailbox {
            sender,
            waker: driver.waker(),
        };
        let operator = Arc::new(operator(&job, mailbox)?);
        job.throttle.add(driver.waker());
        let (seat, arrivals) = Seat::new(job.connections_max, driver.waker());
        let (tell_opened, opened) = sync_channel(1);
        let heartbeat = Heartbeat::default();
        let what = format!("the data thread of {name}");
        let mut crew = Crew {
            recruits: Vec::new(),
            seats: Vec::from_iter((job.readers == 0).then_some(seat)),
            watched: vec![Watched::new(what, heartbeat.clone(), driver.waker())],
            chair: Arc::default(),
        };
        (0..job.readers).try_for_each(|_| crew.recruit(&job))?;
        if let Some(last) = crew.recruits.last() {
            let (number, kind) = (crew.recruits.len(), last.driver.kind());
            log::info(&format!(
                "{number} reader threads serve clients, with {kind}"
            ));
        }
        let thread = DataThread {
            job,
            pool,
            driver,
            recruits: crew.recruits,
            operator: operator.clone(),
            inbox,
            arrivals,
            heartbeat,
        };
        let thread = thread::Builder::new()
            .name(format!("uraid-{name}"))
            .spawn(move || thread.run(&tell_opened))
            .doing(|| "start a thread".to_string())?;
        Ok(Running {
            name,
            uris,
            operator,
            gate,
            seats: crew.seats,
            watched: crew.watched,
            opened,
            thread,
        })
    }

    /// Waits until the array is open, and returns what is exported. None when a signal came first.
    pub fn wait_until_open(&self) -> Result<Option<Export>, Failure> {
        let opened = self.opened.recv();
        opened.expect("the data thread tells it before it ends")
    }

    /// What the front thread needs to know of it.
    pub fn offer(&self, export: Export) -> Offer {
        Offer {
            export,
            gate: self.gate.clone(),
            desk: Desk::new(self.seats.clone()),
        }
    }

    /// The way to it.
    pub fn mailbox(&self) -> Mailbox {
        self.operator.mailbox.clone()
    }

    /// The same for those who want to know more than how it is.
    pub fn operator(&self) -> Arc<operator::Served> {
        self.operator.clone()
    }

    /// Has the progress of all its threads watched.
    pub fn watched(&mut self) -> Vec<Watched> {
        std::mem::take(&mut self.watched)
    }

    /// Waits for its end: everything is flushed, or why not.
    pub fn wait_for_end(self) -> Result<(), Failure> {
        let ended = self.thread.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What operators and onlookers of the array meet.
fn operator(job: &Job, mailbox: Mailbox) -> Result<operator::Served, Failure> {
    let name = job.array.name.clone();
    let (told, alerts) = (name.clone(), job.alerts.clone());
    let on_event = Box::new(move |record: &_| alerts.offer(&told, record));
    Ok(operator::Served {
        mailbox,
        succession: job.succession.clone(),
        name,
        history: History::start(job.array.key, job.manner.read_only, on_event)?,
        alerts: job.alerts.clone(),
        trend: Trend::default(),
    })
}

/// Buffers that the kernel knows, if it gives that much memory in one piece.
fn pool(bytes: u64) -> Pool {
    Pool::arena(bytes as usize).unwrap_or_else(|_| Pool::heap())
}

/// The threads of an array, before they begin.
struct Crew {
    recruits: Vec<Recruit>,
    /// Where clients come in.
    seats: Vec<Seat>,
    watched: Vec<Watched>,
    chair: Arc<Chair>,
}

impl Crew {
    /// Prepares another reader thread.
    fn recruit(&mut self, job: &Job) -> Result<(), Failure> {
        let number = self.recruits.len() + 1;
        let memory = job.memory.of_reader(job.readers);
        let pool = pool(memory.pool);
        let driver = reader::driver(job.manner.backend, &pool)
            .map_err(|error| Failure::failed(error.to_string()))?;
        let (seat, arrivals) = Seat::new(job.connections_max, driver.waker());
        let heartbeat = Heartbeat::default();
        let what = format!("reader thread {number} of {}", job.array.name);
        let watched = Watched::new(what, heartbeat.clone(), driver.waker());
        self.chair.add(driver.waker());
        job.throttle.add(driver.waker());
        let station = Station {
            thread: number,
            arrivals,
            gate: job.gate.clone(),
            pool,
            memory,
            chair: self.chair.clone(),
            throttle: job.throttle.clone(),
            tally: Arc::default(),
        };
        self.seats.push(seat);
        self.watched.push(watched);
        self.recruits.push(Recruit {
            station,
            driver,
            heartbeat,
        });
        Ok(())
    }
}

/// What belongs to the data thread.
struct DataThread {
    job: Job,
    pool: Pool,
    driver: Driver,
    recruits: Vec<Recruit>,
    operator: Arc<operator::Served>,
    inbox: Receiver<Message>,
    /// Clients of its own; none where there are readers.
    arrivals: Receiver<Arrival>,
    heartbeat: Heartbeat,
}

impl DataThread {
    fn run(self, opened: &SyncSender<Result<Option<Export>, Failure>>) -> Result<(), Failure> {
        let DataThread {
            job,
            pool,
            driver,
            recruits,
            operator,
            inbox,
            arrivals,
            heartbeat,
        } = self;
        let tell = |what| opened.send(what).expect("somebody waits for it");
        let name = job.array.name.clone();
        let (control, _control_file) = job.control;
        let mailbox = operator.mailbox.clone();
        let host = open(
            job.array,
            (job.manner, &job.memory),
            driver,
            pool.clone(),
            &mailbox,
        );
        let host = host.and_then(|mut host| {
            host.keep_history(operator.history.clone());
            wait_until_open(host, &inbox)
        });
        let host = match host {
            Ok(Some(host)) => host,
            Ok(None) => {
                tell(Ok(None));
                return Ok(());
            }
            Err(failure) => {
                tell(Err(failure.clone()));
                return Err(failure);
            }
        };
        let about = About {
            uris: job.uris,
            upgrades: job.succession.upgrades(),
        };
        let tally = Arc::<Tally>::default();
        let counted = recruits.iter().map(|recruit| recruit.station.tally.clone());
        let books = Books {
            tallies: counted.chain([tally.clone()]).collect(),
            gate: job.gate.clone(),
            throttle: job.throttle.clone(),
            opened: Instant::now(),
        };
        let trend = operator.trend.clone();
        let control = ControlServer::start(UnixListener::from(control), operator);
        let control = control.inspect_err(|failure| tell(Err(failure.clone())))?;
        let sampler = Sampler::start(mailbox.clone(), trend);
        let sampler = sampler.inspect_err(|failure| tell(Err(failure.clone())))?;
        let readers = Readers::start(recruits, &host, &mailbox, &name);
        let readers = readers.inspect_err(|failure| tell(Err(failure.clone())))?;
        tell(Ok(Some(export(&host))));

        let frontend = Frontend::new(Station {
            thread: 0,
            arrivals,
            gate: job.gate,
            pool,
            memory: job.memory,
            chair: Arc::default(),
            throttle: job.throttle,
            tally,
        });
        let service = Service::new((host, readers), frontend, inbox, (about, books), heartbeat);
        let end = service.run();
        let result = end.result.map(|_| format!("{name} is flushed and stopped"));
        for answer in end.answers {
            answer(result.clone());
        }
        drop((control, sampler));
        result.map(|text| log::info(&text))
    }
}

fn open(
    array: OpenArray,
    (manner, memory): (Manner, &Memory),
    driver: Driver,
    pool: Pool,
    mailbox: &Mailbox,
) -> Result<Host, Failure> {
    let mut options = engine_options(array.uuid, manner.read_only, manner.force)?;
    options.reads = manner.reads;
    options.view_bytes_max = memory.view;
    options.skip_verification = manner.skip_verification;
    options.rebuild_share_percent = manner.rebuild_share_percent;
    options.rebuild_floor = manner.rebuild_floor;
    options.rebuild_ceiling = manner.rebuild_ceiling;
    options.latency_target = manner.latency_target_nanos;
    options.in_flight_bytes_max = memory.in_flight;
    options.journalled_bytes_max = memory.journalled;
    options.checksum_bytes_max = memory.checksums;
    if manner.skip_verification {
        log::warning("blocks are not verified when they are read: use this for measuring only");
    }
    let housekeeping = start_housekeeping(array.uuid, manner.read_only, mailbox.clone())?;
    Host::open(array.files, options, driver, pool, housekeeping)
}

pub(super) fn start_driver(backend: Backend, pool: &Pool) -> Result<Driver, Failure> {
    let driver = Driver::new(backend, pool, Limits::default())
        .map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(reason) = driver.fallback_reason() {
        log::warning(reason);
    }
    log::info(&format!(
        "members are read and written with {}",
        driver.kind()
    ));
    driver.note().iter().for_each(|note| log::info(note));
    Ok(driver)
}

/// Where this host notes the last config of the array; none without a home.
pub fn witness_path(array: Uuid) -> Option<PathBuf> {
    paths::state_directory().map(|directory| directory.join(format!("{array}.witness")))
}

pub(super) fn engine_options(
    array: Uuid,
    read_only: bool,
    force: bool,
) -> Result<OpenOptions, Failure> {
    let witness = match witness_path(array) {
        Some(path) => load_witness(&path)?,
        None => None,
    };
    Ok(OpenOptions {
        read_only,
        force,
        witness,
        nonce: random::words()?(),
        ..OpenOptions::default()
    })
}

pub(super) fn start_housekeeping(
    array: Uuid,
    read_only: bool,
    mailbox: Mailbox,
) -> Result<Housekeeping, Failure> {
    let witness = witness_path(array).filter(|_| !read_only);
    let on_gone = move |device, why| {
        if mailbox.send(Message::Gone(device, why)).is_err() {
            log::warning("the data thread is busy; a missing member shows by its I/O errors");
        }
    };
    Housekeeping::start(witness, Box::new(on_gone))
}

/// Runs recovery. None when a signal came first: recovery may be cut short at any time.
pub(super) fn wait_until_open(
    mut host: Host,
    inbox: &Receiver<Message>,
) -> Result<Option<Host>, Failure> {
    let mut events = Vec::new();
    loop {
        host.pump();
        match host.next_notice() {
            Some(Notice::Opened) => return Ok(Some(host)),
            Some(Notice::Refused(failure)) => {
                host.close();
                return Err(failure);
            }
            Some(Notice::Stopped) => panic!("nobody has stopped it"),
            None => {}
        }
        for message in inbox.try_iter() {
            match message {
                Message::Gone(device, why) => host.device_gone(device, why),
                Message::Terminate => {
                    host.close();
                    return Ok(None);
                }
                Message::Status(_) | Message::Order(..) | Message::Notes(_) => {
                    panic!("no operator is served yet")
                }
            }
        }
        host.wait(None, &mut events);
        events.clear();
    }
}

fn export(host: &Host) -> Export {
    let info = host.engine().export().expect("the array is open");
    let preferred = info
        .stripe_bytes
        .clamp(4096, PREFERRED_BLOCK_BYTES_MAX.into()) as u32;
    // A stripe of five members is no power of two; the protocol wants one.
    let preferred_block_bytes = 1 << preferred.ilog2();
    Export {
        description: format!("uraid array {}", info.name),
        name: info.name,
        size_bytes: info.size_bytes,
        read_only: info.read_only,
        preferred_block_bytes,
        ..Export::default()
    }
}

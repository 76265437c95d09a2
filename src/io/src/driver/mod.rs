//! The asynchronous I/O of one data thread: members, listeners and streams in one wait.
//!
//! What an operation owns, how it goes on after a short result and what its errors mean is the
//! same for both backends and lives here; a backend only makes single kernel calls.
//!
//! Queues and their limits: calls on a device, [`Limits::in_flight_per_device_max`]; one receive
//! and one send per stream; one accept per listener. What [`Driver::submit_io`] takes beyond that
//! waits in order; the engine bounds it by the bytes it works on at once.

mod background;
mod bell;
mod call;
mod manner;
mod members;
mod memory;
mod registered;
mod streams;
mod threads;
mod uring;
mod workers;

pub use bell::Waker;
pub use streams::{ListenerId, StreamId};

use bell::Bell;
use call::Call;
use members::{Device, MemberOperation};
use slab::Slab;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use streams::{Listener, ReceiveOperation, SendOperation, Stream};
use threads::Threads;
use uraid_buffer::{BufMut, Pool};
use uraid_engine::api::{Completion, DeviceId};
use uring::Uring;

/// How long a driver that is dropped waits for its last operations.
const DROP_WAIT: Duration = Duration::from_secs(1);

/// Which backend to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// io_uring, or threads where it is refused.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Worker threads and poll(2).
    Threads,
}

/// The backend in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// io_uring
    Uring,
    /// Worker threads and poll(2)
    Threads,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Uring => "io_uring",
            Kind::Threads => "threads",
        })
    }
}

/// The bounds of a driver.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of the submission queue, a power of two. More operations than that may be under way.
    pub ring_entries: u32,
    /// Most calls the kernel has at once for one device; more wait in order.
    pub in_flight_per_device_max: usize,
    /// Threads for each device (thread backend): how many of its calls overlap.
    pub workers_per_device: usize,
    /// Threads that take a share of the work on members that are memory, however many cores there
    /// are (io_uring backend).
    pub memory_helpers_max: usize,
    /// Time after which a device that does not answer is reported as hung.
    pub member_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            ring_entries: 256,
            in_flight_per_device_max: 128,
            workers_per_device: 4,
            memory_helpers_max: 3,
            member_timeout: Duration::from_secs(15),
        }
    }
}

/// Why there is no driver, or a device was not added.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// io_uring was demanded and is not to be had.
    #[error(
        "io_uring is refused: {0}; allow it (sysctl kernel.io_uring_disabled, the container's \
         seccomp profile, the limit on locked memory) or use the thread backend"
    )]
    Uring(io::Error),
    /// The system gives no descriptor or thread.
    #[error("the system has no descriptor or thread left: {0}; raise its limits")]
    Resources(io::Error),
}

/// What happened.
#[derive(Debug)]
pub enum DriverEvent {
    /// A member's I/O is done.
    Member(Completion),
    /// A device has not answered for longer than [`Limits::member_timeout`]. Reported once; the
    /// completions come when the kernel lets go of the buffers.
    MemberHung {
        /// Which device.
        device: DeviceId,
        /// How long its oldest I/O has been under way.
        oldest: Duration,
    },
    /// A client connected.
    Accepted {
        /// On which listener.
        listener: ListenerId,
        /// Its stream, tuned (see [`crate::sockets::tune_stream`]).
        fd: OwnedFd,
    },
    /// The system cannot take connections at present; it is tried again by and by.
    AcceptFailed {
        /// On which listener.
        listener: ListenerId,
        /// Why; usually too many open files.
        error: io::Error,
    },
    /// A receive is done.
    Received {
        /// On which stream.
        stream: StreamId,
        /// The buffer it was given.
        buffer: BufMut,
        /// Bytes received; 0 at the end of the stream.
        result: io::Result<usize>,
    },
    /// A send is done.
    Sent {
        /// On which stream.
        stream: StreamId,
        /// All bytes were handed to the kernel, or why not.
        result: io::Result<()>,
    },
    /// A stream is closed and none of its buffers is in use.
    StreamClosed(StreamId),
    /// A [`Waker`] was used.
    Woken,
}

/// Names an operation under way.
type Key = usize;

/// The result of a call: not negative, or a negative errno.
#[derive(Clone, Copy, Debug)]
struct Done {
    key: Key,
    result: i32,
}

/// Makes kernel calls. Descriptors stay open and memory valid until each call's result is in.
trait KernelCalls: Send {
    /// A device is about to be used.
    fn device_added(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;
    /// A device is about to be closed; no call on it is under way.
    fn device_removed(&mut self, fd: RawFd);
    /// A socket is about to be used.
    fn socket_added(&mut self, fd: BorrowedFd<'_>) -> nix::Result<()>;
    /// Begins a call.
    fn start(&mut self, key: Key, call: Call);
    /// Begins a call on a device that nobody waits for.
    fn start_in_background(&mut self, key: Key, call: Call) {
        self.start(key, call);
    }
    /// Asks for an early end of a socket's call; its result comes all the same.
    fn cancel(&mut self, key: Key);
    /// Time spent on calls in the background since it was last asked, as far as they were made by
    /// the thread that waits.
    fn take_background_time(&mut self) -> Duration {
        Duration::ZERO
    }
    /// Adds results to `done`, waiting at most `timeout` for the first. May return without any.
    /// True when a [`Waker`] was used.
    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> bool;
}

/// What an operation needs until its last result.
enum Operation {
    Member(MemberOperation),
    Accept(ListenerId),
    Receive(ReceiveOperation),
    Send(SendOperation),
}

/// All asynchronous I/O of one data thread. May be made on another thread; belongs to the one
/// that first calls [`Driver::wait`].
pub struct Driver {
    backend: Box<dyn KernelCalls>,
    kind: Kind,
    fallback_reason: Option<String>,
    note: Option<String>,
    limits: Limits,
    pool: Pool,
    bell: Arc<Bell>,
    thread: Option<ThreadId>,
    operations: Slab<Operation>,
    devices: BTreeMap<DeviceId, Device>,
    listeners: BTreeMap<ListenerId, Listener>,
    streams: BTreeMap<StreamId, Stream>,
    /// Events that need no kernel call.
    ready: Vec<DriverEvent>,
    /// When to look for hung devices next.
    hang_check: Instant,
    /// When the last wait for results began: what was done by then has been taken.
    last_wait: Instant,
}

impl Driver {
    /// A driver on the given backend. Buffers of `pool` are registered with the kernel where that
    /// is possible; buffers from elsewhere work too.
    ///
    /// # Errors
    /// [`DriverError::Uring`] only when [`Backend::Uring`] is demanded.
    pub fn new(backend: Backend, pool: &Pool, limits: Limits) -> Result<Driver, DriverError> {
        let bell = Bell::new().map_err(|errno| DriverError::Resources(errno.into()))?;
        let bell = Arc::new(bell);
        let uring = match backend {
            Backend::Threads => None,
            Backend::Auto | Backend::Uring => Some(Uring::new(limits, bell.clone(), pool)),
        };
        let threads = || Box::new(Threads::new(limits, bell.clone()));
        let (calls, kind, fallback_reason, note): (Box<dyn KernelCalls>, _, _, _) = match uring {
            Some(Ok((uring, note))) => (Box::new(uring), Kind::Uring, None, note),
            Some(Err(error)) if backend == Backend::Uring => return Err(DriverError::Uring(error)),
            Some(Err(error)) => {
                let reason = DriverError::Uring(error).to_string();
                (threads(), Kind::Threads, Some(reason), None)
            }
            None => (threads(), Kind::Threads, None, None),
        };
        let mut driver = Driver::with_backend(calls, kind, pool, limits, bell);
        (driver.fallback_reason, driver.note) = (fallback_reason, note);
        Ok(driver)
    }

    fn with_backend(
        backend: Box<dyn KernelCalls>,
        kind: Kind,
        pool: &Pool,
        limits: Limits,
        bell: Arc<Bell>,
    ) -> Driver {
        assert!(limits.in_flight_per_device_max > 0 && limits.workers_per_device > 0);
        Driver {
            backend,
            kind,
            fallback_reason: None,
            note: None,
            limits,
            pool: pool.clone(),
            bell,
            thread: None,
            operations: Slab::new(),
            devices: BTreeMap::new(),
            listeners: BTreeMap::new(),
            streams: BTreeMap::new(),
            ready: Vec::new(),
            hang_check: Instant::now(),
            last_wait: Instant::now(),
        }
    }

    /// The backend in use.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why it is not io_uring although that was wanted.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback_reason.as_deref()
    }

    /// What the backend has to do without, for the log: buffers that could not be registered.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Operations under way, those that wait for a device included.
    pub fn in_flight(&self) -> usize {
        let backlog: usize = self.devices.values().map(Device::backlog_len).sum();
        self.operations.len() + backlog
    }

    /// Something that ends a wait from any thread.
    pub fn waker(&self) -> Waker {
        Waker(self.bell.clone())
    }

    /// Time that [`Driver::wait`] spent on I/O in the background itself, since it was last asked:
    /// none where the kernel or other threads do it.
    pub fn take_background_time(&mut self) -> Duration {
        self.backend.take_background_time()
    }

    /// Submits everything queued and waits until something happens or `timeout` is over (none:
    /// as long as it takes). Adds all that happened to `events`.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<DriverEvent>) {
        let thread = *self.thread.get_or_insert_with(|| thread::current().id());
        assert_eq!(
            thread,
            thread::current().id(),
            "a driver belongs to one thread"
        );
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let before = events.len();
        let mut done = Vec::new();
        loop {
            events.append(&mut self.ready);
            let now = Instant::now();
            self.check_hangs(now, events);
            self.retry_accepts(now);
            let limit = match events.len() > before {
                true => Some(Duration::ZERO),
                false => self.sleep_limit(now, deadline),
            };
            self.last_wait = now;
            if self.backend.wait(limit, &mut done) {
                events.push(DriverEvent::Woken);
            }
            for done in done.drain(..) {
                self.finish(done, events);
            }
            events.append(&mut self.ready);
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if events.len() > before || late {
                return;
            }
        }
    }

    /// How long to sleep before something must be looked at.
    fn sleep_limit(&self, now: Instant, deadline: Option<Instant>) -> Option<Duration> {
        let members = self.devices.values().any(Device::is_busy);
        let hang_check = members.then_some(self.hang_check);
        let accept = self
            .listeners
            .values()
            .filter_map(|listener| listener.retry_at)
            .min();
        let first = [deadline, hang_check, accept].into_iter().flatten().min()?;
        Some(first.saturating_duration_since(now))
    }

    /// Takes the result of a call: the operation goes on, or it is over.
    fn finish(&mut self, done: Done, events: &mut Vec<DriverEvent>) {
        match &self.operations[done.key] {
            Operation::Member(_) => self.finish_member(done, events),
            Operation::Accept(_) => self.finish_accept(done, events),
            Operation::Receive(_) => self.finish_receive(done, events),
            Operation::Send(_) => self.finish_send(done, events),
        }
    }
}

impl Drop for Driver {
    /// Ends what can be ended. Operations that the kernel does not let go of keep their memory
    /// and descriptors for ever: it may still write there.
    fn drop(&mut self) {
        let ours = self
            .thread
            .is_none_or(|thread| thread == thread::current().id());
        if ours {
            self.drain();
        }
        if !self.operations.is_empty() {
            mem::forget(mem::take(&mut self.operations));
            mem::forget(mem::take(&mut self.devices));
            mem::forget(mem::take(&mut self.listeners));
            mem::forget(mem::take(&mut self.streams));
        }
    }
}

impl Driver {
    /// Closes all sockets and waits a while for the members' last I/O.
    fn drain(&mut self) {
        for listener in self.listeners.keys().copied().collect::<Vec<_>>() {
            self.stop_listening(listener);
        }
        for stream in self.streams.keys().copied().collect::<Vec<_>>() {
            self.close_stream(stream);
        }
        for device in self.devices.values_mut() {
            device.forget_backlog();
        }
        let deadline = Instant::now() + DROP_WAIT;
        let mut events = Vec::new();
        while !self.operations.is_empty() && Instant::now() < deadline {
            self.wait(Some(DROP_WAIT / 10), &mut events);
            events.clear();
        }
    }
}

#[cfg(test)]
mod tests;

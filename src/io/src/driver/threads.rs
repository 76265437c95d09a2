//! The backend for kernels and containers that refuse io_uring: blocking member I/O in worker
//! threads, sockets by poll(2).

use super::bell::Bell;
use super::call::Call;
use super::workers::{Results, Workers};
use super::{Done, KernelCalls, Key, Limits};
use crossbeam::channel::{Receiver, unbounded};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Threads {
    limits: Limits,
    bell: Arc<Bell>,
    devices: HashMap<RawFd, Workers>,
    results: Results,
    finished: Receiver<Done>,
    /// Socket calls that would have blocked.
    waiting: Vec<(Key, Call)>,
    /// Socket calls that did not, and cancelled ones.
    ready: VecDeque<Done>,
}

impl Threads {
    pub(super) fn new(limits: Limits, bell: Arc<Bell>) -> Threads {
        // As bounded as the calls that may be under way.
        let (sender, finished) = unbounded();
        let results = Results {
            sender,
            bell: bell.clone(),
        };
        Threads {
            limits,
            bell,
            devices: HashMap::new(),
            results,
            finished,
            waiting: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// Tries a socket call; it waits for its socket when that is not ready.
    fn attempt(&mut self, key: Key, call: Call) {
        let result = try_socket(call);
        if result == -libc::EAGAIN {
            self.waiting.push((key, call));
        } else {
            self.ready.push_back(Done { key, result });
        }
    }

    /// Sleeps until a socket is ready, the bell rings or time is up; then tries what may go on.
    fn poll(&mut self, timeout: Option<Duration>) {
        let mut fds = vec![PollFd::new(self.bell.fd(), PollFlags::POLLIN)];
        fds.extend(self.waiting.iter().map(|(_, call)| interest(call)));
        match ppoll(&mut fds, timeout.map(TimeSpec::from), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Kernel memory is short; the caller comes back.
            Err(Errno::ENOMEM) => return,
            Err(errno) => panic!("poll of our own descriptors: {errno}"),
        }
        let is_ready: Vec<bool> = fds[1..].iter().map(|fd| fd.any().unwrap_or(true)).collect();
        for ((key, call), ready) in std::mem::take(&mut self.waiting).into_iter().zip(is_ready) {
            if ready {
                self.attempt(key, call);
            } else {
                self.waiting.push((key, call));
            }
        }
    }
}

impl KernelCalls for Threads {
    fn device_added(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let limits = self.limits;
        let queued_calls_max = limits.in_flight_per_device_max;
        let workers = Workers::start(limits.workers_per_device, queued_calls_max, &self.results)?;
        self.devices.insert(fd.as_raw_fd(), workers);
        Ok(())
    }

    fn device_removed(&mut self, fd: RawFd) {
        self.devices.remove(&fd);
    }

    fn socket_added(&mut self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        set_nonblocking(fd, true)
    }

    fn start(&mut self, key: Key, call: Call) {
        match call {
            Call::Accept { .. } | Call::Receive { .. } | Call::Send { .. } => {
                self.attempt(key, call);
            }
            Call::Read { fd, .. }
            | Call::Write { fd, .. }
            | Call::Sync { fd }
            | Call::PunchHole { fd, .. }
            | Call::DiscardDevice { fd, .. } => self.devices[&fd].call(key, call),
        }
    }

    fn cancel(&mut self, key: Key) {
        if let Some(index) = self.waiting.iter().position(|(waiting, _)| *waiting == key) {
            self.waiting.swap_remove(index);
            self.ready.push_back(Done {
                key,
                result: -libc::ECANCELED,
            });
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> bool {
        let at_once = !self.ready.is_empty() || !self.finished.is_empty();
        self.poll(if at_once {
            Some(Duration::ZERO)
        } else {
            timeout
        });
        let woken = self.bell.acknowledge();
        done.extend(self.finished.try_iter());
        done.extend(self.ready.drain(..));
        woken
    }
}

/// Sets or clears `O_NONBLOCK`.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> nix::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, nonblocking);
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop)
}

/// What a socket call waits for.
fn interest(call: &Call) -> PollFd<'_> {
    let (fd, flags) = match *call {
        Call::Accept { fd } | Call::Receive { fd, .. } => (fd, PollFlags::POLLIN),
        Call::Send { fd, .. } => (fd, PollFlags::POLLOUT),
        _ => unreachable!("only socket calls wait"),
    };
    // SAFETY: the driver closes a socket only when its last call is done.
    PollFd::new(unsafe { BorrowedFd::borrow_raw(fd) }, flags)
}

/// Makes a socket call; negative errno on error, as the ring has it.
fn try_socket(call: Call) -> i32 {
    let result = match call {
        Call::Accept { fd } => {
            let no_address = std::ptr::null_mut();
            // SAFETY: the kernel is told that nobody wants the peer's address.
            unsafe { libc::accept4(fd, no_address, no_address.cast(), libc::SOCK_CLOEXEC) as i64 }
        }
        Call::Receive { fd, start, len } => {
            // SAFETY: the operation keeps the buffer until this result is reported.
            unsafe { libc::recv(fd, start.cast(), len as usize, 0) as i64 }
        }
        Call::Send { fd, message } => {
            // SAFETY: the operation keeps message and buffers until this result is reported.
            unsafe { libc::sendmsg(fd, message, libc::MSG_NOSIGNAL) as i64 }
        }
        _ => unreachable!("only socket calls are tried"),
    };
    if result < 0 {
        -Errno::last_raw()
    } else {
        result as i32
    }
}

//! The io_uring backend: one ring for members, sockets and wakes.

use super::bell::Bell;
use super::call::Call;
use super::manner::{Manner, manner};
use super::memory::MemoryCalls;
use super::registered::{Region, register};
use super::threads::set_nonblocking;
use super::workers::{Results, Workers};
use super::{Done, KernelCalls, Key, Limits};
use crossbeam::channel::{Receiver, unbounded};
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use rustc_hash::FxBuildHasher;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};
use uraid_buffer::Pool;

/// Marks completions that belong to no operation; keys are far smaller.
const BELL: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// Most kernel threads for calls that cannot be made without blocking. The default, four per
/// core, could all hang in one dead device.
const KERNEL_WORKERS_MAX: u32 = 512;

/// Most turns in a row that are spent on calls on memory, before the ring gets its turn.
const TURNS_WITHOUT_RING_MAX: u32 = 4;

/// Most streams that are waited for by poll(2).
const POLLED_STREAMS_MAX: usize = 16;

/// How long to look for the next request before sleeping, if the last one came that soon. A client
/// with one request at a time sends the next a few microseconds after it was woken; a core that
/// went to sleep meanwhile takes longer to wake than the request takes to serve.
const SPIN_MAX: Duration = Duration::from_micros(30);

pub(super) struct Uring {
    ring: IoUring,
    /// A ring belongs to the thread that starts it: the first that waits.
    started: bool,
    limits: Limits,
    /// Entries on their way into the submission queue; as bounded as the calls under way.
    queued: VecDeque<squeue::Entry>,
    bell: Arc<Bell>,
    bell_armed: bool,
    registered: Option<Region>,
    /// By descriptor; those not in it are sockets.
    manners: Vec<Manner>,
    /// Receives under way, and their sockets.
    receiving: HashMap<Key, RawFd, FxBuildHasher>,
    /// Other calls that the ring has.
    others_under_way: usize,
    /// See [`SPIN_MAX`]; zero where a client could not run meanwhile.
    spin_max: Duration,
    /// Whether the last wait for streams ended within it.
    woken_soon: bool,
    /// Calls on memory, and for how many turns the ring has waited for them.
    memory: MemoryCalls,
    turns_without_ring: u32,
    /// Devices that were asked to discard: the ring has no such call.
    discarders: HashMap<RawFd, Workers>,
    results: Results,
    finished: Receiver<Done>,
}

impl Uring {
    /// Sets up a ring; the note says what it has to do without.
    pub(super) fn new(
        limits: Limits,
        bell: Arc<Bell>,
        pool: &Pool,
    ) -> io::Result<(Uring, Option<String>)> {
        let ring = build(limits.ring_entries)?;
        let params = ring.params();
        if !params.is_feature_nodrop() || !params.is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let (registered, note) = match register(&ring, pool) {
            Ok(region) => (region, None),
            Err(error) => (
                None,
                Some(format!(
                    "buffers are not registered with the kernel: {error}"
                )),
            ),
        };
        let (sender, finished) = unbounded();
        let results = Results {
            sender,
            bell: bell.clone(),
        };
        let alone = available_parallelism().is_ok_and(|cores| cores.get() == 1);
        let spin_max = if alone { Duration::ZERO } else { SPIN_MAX };
        let uring = Uring {
            ring,
            started: false,
            limits,
            queued: VecDeque::new(),
            bell,
            bell_armed: false,
            registered,
            manners: Vec::new(),
            receiving: HashMap::default(),
            others_under_way: 0,
            spin_max,
            woken_soon: false,
            memory: MemoryCalls::new(limits.memory_helpers_max),
            turns_without_ring: 0,
            discarders: HashMap::new(),
            results,
            finished,
        };
        Ok((uring, note))
    }

    fn is_memory(&self, fd: RawFd) -> bool {
        self.manners[fd as usize] == Manner::Memory
    }

    fn start_ring(&mut self) {
        if self.started {
            return;
        }
        self.started = true;
        let submitter = self.ring.submitter();
        if self.ring.params().is_setup_single_issuer() {
            submitter
                .register_enable_rings()
                .expect("the ring was set up disabled");
        }
        // A kernel that cannot change it works with its default.
        let _ = submitter.register_iowq_max_workers(&mut [KERNEL_WORKERS_MAX, 0]);
    }

    /// Moves entries into the submission queue as far as there is room.
    fn fill(&mut self) {
        if !self.bell_armed {
            let poll = opcode::PollAdd::new(Fd(self.bell.raw_fd()), libc::POLLIN as u32);
            self.queued.push_back(poll.build().user_data(BELL));
            self.bell_armed = true;
        }
        let mut submission = self.ring.submission();
        while let Some(entry) = self.queued.pop_front() {
            // SAFETY: the operation keeps everything the entry points to until its completion is
            // reported (see `Call`).
            if unsafe { submission.push(&entry) }.is_err() {
                self.queued.push_front(entry);
                break;
            }
        }
    }

    /// Submits, and waits for one completion at most `timeout`.
    fn enter(&mut self, timeout: Option<Duration>) {
        let submitter = self.ring.submitter();
        let result = match timeout {
            None => submitter.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        let Err(error) = result else { return };
        match error.raw_os_error() {
            // Time is up; a signal; completions first; kernel memory is short. In each case what
            // was not submitted stays in the queue and the caller comes back.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => {}
            _ => panic!("io_uring_enter on our own ring: {error}"),
        }
    }

    /// Submits, and waits for one completion at most `timeout`.
    ///
    /// With few clients, and nothing to wait for but them, the wait is poll(2)'s. A client that
    /// sends a request is about to wait for its answer: the kernel is told so (a synchronous
    /// wake-up) and lets the server run on the same core, which is awake. The ring's own wake-up
    /// does not say it, and where another core sleeps, that one has to be woken first.
    fn sleep(&mut self, timeout: Option<Duration>) {
        let few = (1..=POLLED_STREAMS_MAX).contains(&self.receiving.len());
        if !few || self.others_under_way > 0 {
            return self.enter(timeout);
        }
        // With deferred task work a ring completes nothing but in `enter`, and what it has not
        // taken can be polled for.
        let deferred = self.ring.params().is_setup_single_issuer();
        if !deferred || !self.ring.submission().is_empty() {
            self.enter(Some(Duration::ZERO));
        }
        if self.ring.completion().is_empty() {
            self.poll_streams(timeout);
            self.enter(Some(Duration::ZERO));
        }
    }

    /// Waits until a stream or the bell can be read, at most `timeout`. Whatever happened, the
    /// ring has it too; if nothing did, the caller comes back.
    fn poll_streams(&mut self, timeout: Option<Duration>) {
        let sockets = self.receiving.values().map(|socket| {
            // SAFETY: a socket is closed only when no call on it is under way.
            unsafe { BorrowedFd::borrow_raw(*socket) }
        });
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: Vec<PollFd<'_>> = sockets.chain([self.bell.fd()]).map(readable).collect();
        let begun = Instant::now();
        let mut found = false;
        while self.woken_soon && !found && begun.elapsed() < self.spin_max {
            found = ppoll(&mut fds, Some(TimeSpec::from(Duration::ZERO)), None) != Ok(0);
        }
        if !found {
            let _ = ppoll(&mut fds, timeout.map(TimeSpec::from), None);
        }
        self.woken_soon = begun.elapsed() < self.spin_max;
    }

    /// Takes the completions that are there; true when the bell rang.
    fn reap(&mut self, done: &mut Vec<Done>) -> bool {
        let mut rang = false;
        for entry in self.ring.completion() {
            match entry.user_data() {
                BELL => rang = true,
                CANCEL => {}
                key => {
                    let (key, result) = (key as Key, entry.result());
                    if self.receiving.remove(&key).is_none() {
                        self.others_under_way -= 1;
                    }
                    done.push(Done { key, result });
                }
            }
        }
        if rang {
            self.bell_armed = false;
        }
        rang
    }

    fn entry(&self, call: Call) -> squeue::Entry {
        let no_address = std::ptr::null_mut::<libc::sockaddr>();
        match call {
            Call::Read {
                fd,
                start,
                len,
                offset,
            } => self.read(fd, start, len, offset),
            Call::Write {
                fd,
                segments,
                count,
                offset,
                durable,
            } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                self.write(fd, segments, count, offset, flags)
            }
            Call::Sync { fd } => opcode::Fsync::new(Fd(fd))
                .flags(FsyncFlags::DATASYNC)
                .build(),
            Call::PunchHole { fd, offset, len } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(Fd(fd), len)
                    .offset(offset)
                    .mode(mode)
                    .build()
            }
            Call::DiscardDevice { .. } => unreachable!("discards go to a worker"),
            Call::Accept { fd } => opcode::Accept::new(Fd(fd), no_address, no_address.cast())
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Call::Receive { fd, start, len } => opcode::Recv::new(Fd(fd), start, len).build(),
            Call::Send { fd, message } => {
                // WAITALL: the kernel goes on after a short send by itself.
                let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
                opcode::SendMsg::new(Fd(fd), message).flags(flags).build()
            }
        }
    }

    fn read(&self, fd: RawFd, start: *mut u8, len: u32, offset: u64) -> squeue::Entry {
        let piece = self
            .registered
            .as_ref()
            .and_then(|r| r.piece(start, len as usize));
        match piece {
            Some(piece) => opcode::ReadFixed::new(Fd(fd), start, len, piece)
                .offset(offset)
                .build(),
            None => opcode::Read::new(Fd(fd), start, len).offset(offset).build(),
        }
    }

    fn write(
        &self,
        fd: RawFd,
        segments: *const libc::iovec,
        count: u32,
        offset: u64,
        flags: i32,
    ) -> squeue::Entry {
        if count != 1 {
            let write = opcode::Writev::new(Fd(fd), segments, count);
            return write.offset(offset).rw_flags(flags).build();
        }
        // SAFETY: the operation keeps its one segment where the call says.
        let libc::iovec { iov_base, iov_len } = unsafe { *segments };
        let (start, len) = (iov_base.cast::<u8>().cast_const(), iov_len as u32);
        match self
            .registered
            .as_ref()
            .and_then(|r| r.piece(start, iov_len))
        {
            Some(piece) => {
                let write = opcode::WriteFixed::new(Fd(fd), start, len, piece);
                write.offset(offset).rw_flags(flags).build()
            }
            None => {
                let write = opcode::Write::new(Fd(fd), start, len);
                write.offset(offset).rw_flags(flags).build()
            }
        }
    }

    /// Hands a discard to the device's own thread.
    fn discard(&mut self, key: Key, fd: RawFd, call: Call) {
        if !self.discarders.contains_key(&fd) {
            let queued_calls_max = self.limits.in_flight_per_device_max;
            match Workers::start(1, queued_calls_max, &self.results) {
                Ok(workers) => drop(self.discarders.insert(fd, workers)),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                    let refused = Done {
                        key,
                        result: -errno,
                    };
                    self.results
                        .sender
                        .send(refused)
                        .expect("we hold the other end");
                    self.bell.ring();
                    return;
                }
            }
        }
        self.discarders[&fd].call(key, call);
    }
}

impl KernelCalls for Uring {
    fn device_added(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let index = fd.as_raw_fd() as usize;
        if self.manners.len() <= index {
            self.manners.resize(index + 1, Manner::default());
        }
        self.manners[index] = manner(fd);
        Ok(())
    }

    fn device_removed(&mut self, fd: RawFd) {
        self.manners[fd as usize] = Manner::default();
        self.discarders.remove(&fd);
    }

    fn socket_added(&mut self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        // The ring waits by itself; on a non-blocking descriptor it would report EAGAIN.
        set_nonblocking(fd, false)
    }

    fn start_in_background(&mut self, key: Key, call: Call) {
        match call {
            Call::Read { fd, .. } | Call::Write { fd, .. } if self.is_memory(fd) => {
                self.memory.push_background(key, call);
            }
            _ => self.start(key, call),
        }
    }

    fn take_background_time(&mut self) -> Duration {
        self.memory.take_background_time()
    }

    fn start(&mut self, key: Key, call: Call) {
        if let Call::DiscardDevice { fd, .. } = call {
            return self.discard(key, fd, call);
        }
        let manner = match call {
            Call::Read { fd, .. } | Call::Write { fd, .. } | Call::Sync { fd } => {
                self.manners[fd as usize]
            }
            _ => Manner::Ring,
        };
        if manner == Manner::Memory {
            return self.memory.push(key, call);
        }
        match call {
            Call::Receive { fd, .. } => drop(self.receiving.insert(key, fd)),
            _ => self.others_under_way += 1,
        }
        let entry = self.entry(call).user_data(key as u64);
        self.queued.push_back(match manner {
            Manner::KernelThread => entry.flags(squeue::Flags::ASYNC),
            _ => entry,
        });
    }

    fn cancel(&mut self, key: Key) {
        // Queued behind the call it cancels and before any later call with the same key.
        self.queued.push_back(
            opcode::AsyncCancel::new(key as u64)
                .build()
                .user_data(CANCEL),
        );
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> bool {
        let made = self.memory.has_foreground();
        self.memory.make(&self.bell, done);
        let before = done.len();
        if made && self.turns_without_ring < TURNS_WITHOUT_RING_MAX {
            self.turns_without_ring += 1;
            return false;
        }
        self.turns_without_ring = 0;
        self.start_ring();
        self.fill();
        let mut rang = false;
        while !self.queued.is_empty() {
            self.enter(Some(Duration::ZERO));
            rang |= self.reap(done);
            self.fill();
        }
        self.bell.falls_asleep();
        let at_once = rang
            || !done.is_empty()
            || !self.ring.completion().is_empty()
            || self.memory.has_results()
            || self.memory.has_background();
        match at_once {
            true => self.enter(Some(Duration::ZERO)),
            false => self.sleep(timeout),
        }
        self.bell.wakes_up();
        rang |= self.reap(done);
        let woken = rang && self.bell.acknowledge();
        let served = made || done.len() > before;
        self.memory.take_results(done);
        done.extend(self.finished.try_iter());
        // Last, so that whoever is waited for has been looked at.
        self.memory.make_background(served, done);
        woken
    }
}

/// The best ring this kernel has: completions only when we ask for them (6.1), or at least
/// without interrupting us (5.19), or plain.
fn build(entries: u32) -> io::Result<IoUring> {
    let completions = entries * 4;
    let deferred = IoUring::builder()
        .setup_cqsize(completions)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_r_disabled()
        .build(entries);
    let Err(error) = deferred else {
        return deferred;
    };
    if error.raw_os_error() != Some(libc::EINVAL) {
        return Err(error);
    }
    let cooperative = IoUring::builder()
        .setup_cqsize(completions)
        .setup_submit_all()
        .setup_coop_taskrun()
        .build(entries);
    if cooperative.is_ok() {
        return cooperative;
    }
    IoUring::builder().setup_cqsize(completions).build(entries)
}

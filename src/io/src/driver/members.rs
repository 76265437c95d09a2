//! Member I/O: from the engine's `Io` to its completion.

use super::call::{CALL_BYTES_MAX, Call, Segments, total_len};
use super::{Done, Driver, DriverError, DriverEvent, Key, Operation};
use crate::device::MemberFile;
use nix::libc;
use std::collections::VecDeque;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};
use uraid_buffer::{ALIGNMENT, Buf, BufMut, Pool};
use uraid_engine::api::{Completion, DeviceId, Io, IoError, IoKind};

/// How often a call is repeated that the kernel asks to repeat (EINTR, EAGAIN) before its answer
/// is taken for an error.
const RETRIES_MAX: u32 = 1000;

/// Longest time between two looks for hung devices.
const HANG_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A device and the operations that wait for their turn on it.
pub(super) struct Device {
    file: MemberFile,
    in_flight: usize,
    backlog: VecDeque<Io>,
    removing: bool,
    /// Reported as hung, and still so.
    hung: bool,
}

impl Device {
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    pub(super) fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    pub(super) fn forget_backlog(&mut self) {
        self.backlog.clear();
    }

    fn raw_fd(&self) -> RawFd {
        self.file.as_fd().as_raw_fd()
    }
}

/// A member operation in the kernel's hands.
pub(super) struct MemberOperation {
    device: DeviceId,
    token: u64,
    background: bool,
    started: Instant,
    retries: u32,
    /// Bytes read or written so far.
    done: usize,
    work: Work,
}

enum Work {
    Read {
        offset: u64,
        buffer: BufMut,
    },
    Write {
        offset: u64,
        buffers: Vec<Buf>,
        fua: bool,
        segments: Segments,
    },
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
}

/// What a result means for its operation.
enum Step {
    Again,
    Over(Result<(), IoError>),
}

impl MemberOperation {
    fn new(io: Io, direct: bool, pool: &Pool) -> MemberOperation {
        let work = match io.kind {
            IoKind::Read { offset, buffer } => Work::Read { offset, buffer },
            IoKind::Write {
                offset,
                buffers,
                fua,
            } => {
                let buffers = if direct {
                    aligned(buffers, pool)
                } else {
                    buffers
                };
                Work::Write {
                    offset,
                    buffers,
                    fua,
                    segments: Segments::new(),
                }
            }
            IoKind::Flush => Work::Flush,
            IoKind::Discard { offset, len } => Work::Discard { offset, len },
        };
        MemberOperation {
            device: io.device,
            token: io.token,
            background: io.background,
            started: Instant::now(),
            retries: 0,
            done: 0,
            work,
        }
    }

    /// The call that does what is left.
    fn call(&mut self, device: &Device) -> Call {
        let fd = device.raw_fd();
        match &mut self.work {
            Work::Read { offset, buffer } => {
                let rest = &mut buffer[self.done..];
                let len = rest.len().min(CALL_BYTES_MAX) as u32;
                let offset = *offset + self.done as u64;
                Call::Read {
                    fd,
                    start: rest.as_mut_ptr(),
                    len,
                    offset,
                }
            }
            Work::Write {
                offset,
                buffers,
                fua,
                segments,
            } => {
                let iovecs = segments.point_at(buffers, self.done);
                let (segments, count) = (iovecs.as_ptr(), iovecs.len() as u32);
                let offset = *offset + self.done as u64;
                Call::Write {
                    fd,
                    segments,
                    count,
                    offset,
                    durable: *fua,
                }
            }
            Work::Flush => Call::Sync { fd },
            Work::Discard { offset, len } => {
                let (offset, len) = (*offset, *len);
                match device.file.is_block_device() {
                    true => Call::DiscardDevice { fd, offset, len },
                    false => Call::PunchHole { fd, offset, len },
                }
            }
        }
    }

    fn advance(&mut self, result: i32, direct: bool) -> Step {
        let errno = -result;
        if matches!(errno, libc::EINTR | libc::EAGAIN) && self.retries < RETRIES_MAX {
            self.retries += 1;
            return Step::Again;
        }
        let discard = matches!(self.work, Work::Discard { .. });
        if discard && matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) {
            return Step::Over(Ok(()));
        }
        if result < 0 {
            return Step::Over(Err(IoError::Errno(errno)));
        }
        let Some(len) = self.len() else {
            return Step::Over(Ok(()));
        };
        let mut count = result as usize;
        if self.done + count == len {
            return Step::Over(Ok(()));
        }
        if direct {
            // Direct I/O can only go on from a whole block.
            count -= count % ALIGNMENT;
        }
        if count == 0 {
            return Step::Over(Err(IoError::Short));
        }
        self.done += count;
        Step::Again
    }

    /// Bytes to move; none for operations that move none.
    fn len(&self) -> Option<usize> {
        match &self.work {
            Work::Read { buffer, .. } => Some(buffer.len()),
            Work::Write { buffers, .. } => Some(total_len(buffers)),
            Work::Flush | Work::Discard { .. } => None,
        }
    }

    fn complete(self, result: Result<(), IoError>) -> Completion {
        let buffer = match self.work {
            Work::Read { buffer, .. } => Some(buffer),
            _ => None,
        };
        Completion {
            token: self.token,
            result,
            buffer,
        }
    }
}

impl Driver {
    /// Makes a device known. The id must be new.
    ///
    /// # Errors
    /// [`DriverError::Resources`] when its threads cannot be started (thread backend).
    pub fn add_device(&mut self, id: DeviceId, file: MemberFile) -> Result<(), DriverError> {
        assert!(!self.devices.contains_key(&id), "{id:?} is in use");
        self.backend
            .device_added(file.as_fd())
            .map_err(DriverError::Resources)?;
        let backlog = VecDeque::new();
        let device = Device {
            file,
            in_flight: 0,
            backlog,
            removing: false,
            hung: false,
        };
        self.devices.insert(id, device);
        Ok(())
    }

    /// The file of a device.
    pub fn device(&self, id: DeviceId) -> Option<&MemberFile> {
        self.devices.get(&id).map(|device| &device.file)
    }

    /// Closes a device as soon as its last I/O is done; further I/O is answered with `ENODEV`.
    pub fn remove_device(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.removing = true;
            self.close_if_done(id);
        }
    }

    /// Takes an I/O, always. It is answered by one [`DriverEvent::Member`].
    pub fn submit_io(&mut self, io: Io) {
        let limit = self.limits.in_flight_per_device_max;
        match self.devices.get_mut(&io.device) {
            Some(device) if !device.removing => {
                if moves_nothing(&io.kind) {
                    self.answer(io, Ok(()));
                } else if device.in_flight >= limit {
                    device.backlog.push_back(io);
                } else {
                    self.start_io(io);
                }
            }
            _ => self.answer(io, Err(IoError::Errno(libc::ENODEV))),
        }
    }

    fn start_io(&mut self, io: Io) {
        let device = self
            .devices
            .get_mut(&io.device)
            .expect("the caller looked it up");
        device.in_flight += 1;
        let operation = MemberOperation::new(io, device.file.direct(), &self.pool);
        let key = self.operations.insert(Operation::Member(operation));
        let Operation::Member(operation) = &mut self.operations[key] else {
            unreachable!()
        };
        let (call, background) = (operation.call(device), operation.background);
        self.start_call(key, call, background);
    }

    fn start_call(&mut self, key: Key, call: Call, background: bool) {
        match background {
            true => self.backend.start_in_background(key, call),
            false => self.backend.start(key, call),
        }
    }

    /// Answers an I/O without a kernel call.
    fn answer(&mut self, io: Io, result: Result<(), IoError>) {
        let completion = MemberOperation::new(io, false, &self.pool).complete(result);
        self.ready.push(DriverEvent::Member(completion));
    }

    pub(super) fn finish_member(&mut self, done: Done, events: &mut Vec<DriverEvent>) {
        let Operation::Member(operation) = &mut self.operations[done.key] else {
            unreachable!()
        };
        let id = operation.device;
        let device = self
            .devices
            .get_mut(&id)
            .expect("devices outlive their operations");
        let result = match operation.advance(done.result, device.file.direct()) {
            Step::Again => {
                let (call, background) = (operation.call(device), operation.background);
                return self.start_call(done.key, call, background);
            }
            Step::Over(result) => result,
        };
        let Operation::Member(operation) = self.operations.remove(done.key) else {
            unreachable!()
        };
        events.push(DriverEvent::Member(operation.complete(result)));
        device.in_flight -= 1;
        if let Some(io) = device.backlog.pop_front() {
            self.start_io(io);
        }
        self.close_if_done(id);
    }

    fn close_if_done(&mut self, id: DeviceId) {
        let device = &self.devices[&id];
        if device.removing && device.in_flight == 0 && device.backlog.is_empty() {
            self.backend.device_removed(device.raw_fd());
            let device = self.devices.remove(&id).expect("just seen");
            device.file.close_apart();
        }
    }

    /// Reports devices whose oldest I/O is older than the limit, once for each hang. What counts
    /// is the age when we last looked for results: if we were stopped ourselves (by a signal, by
    /// the host of our virtual machine), all of them may be waiting to be taken.
    pub(super) fn check_hangs(&mut self, now: Instant, events: &mut Vec<DriverEvent>) {
        if now < self.hang_check {
            return;
        }
        let limit = self.limits.member_timeout;
        self.hang_check = now + (limit / 4).min(HANG_CHECK_INTERVAL_MAX);
        for (id, device) in &mut self.devices {
            let own = self
                .operations
                .iter()
                .filter_map(|(_, operation)| match operation {
                    Operation::Member(operation) if operation.device == *id => {
                        Some(operation.started)
                    }
                    _ => None,
                });
            let age = |start| self.last_wait.saturating_duration_since(start);
            let oldest = own.min().map_or(Duration::ZERO, age);
            let was_hung = mem::replace(&mut device.hung, oldest >= limit);
            if device.hung && !was_hung {
                events.push(DriverEvent::MemberHung {
                    device: *id,
                    oldest,
                });
            }
        }
    }
}

/// Whether there is nothing for the kernel to do.
fn moves_nothing(kind: &IoKind) -> bool {
    match kind {
        IoKind::Read { buffer, .. } => buffer.is_empty(),
        IoKind::Write { buffers, .. } => total_len(buffers) == 0,
        IoKind::Flush => false,
        IoKind::Discard { len, .. } => *len == 0,
    }
}

/// Copies buffers that direct I/O could not take: pieces of a block, or not on a block's border.
fn aligned(buffers: Vec<Buf>, pool: &Pool) -> Vec<Buf> {
    let on_border = |buffer: &Buf| {
        (buffer.as_ptr() as usize).is_multiple_of(ALIGNMENT)
            && buffer.len().is_multiple_of(ALIGNMENT)
    };
    if buffers.iter().all(on_border) {
        return buffers;
    }
    let mut whole = pool.take(total_len(&buffers));
    let mut at = 0;
    for buffer in &buffers {
        whole[at..at + buffer.len()].copy_from_slice(buffer);
        at += buffer.len();
    }
    vec![whole.freeze()]
}

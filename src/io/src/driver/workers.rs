//! Threads that carry out blocking calls on one device.

use super::bell::Bell;
use super::call::Call;
use super::{Done, Key};
use crate::block_device;
use crossbeam::channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::libc;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;

/// Where results go.
#[derive(Clone)]
pub(super) struct Results {
    pub(super) sender: Sender<Done>,
    pub(super) bell: Arc<Bell>,
}

/// The threads of one device: each has its own, so that a hung device hangs only itself.
pub(super) struct Workers {
    calls: Sender<(Key, Call)>,
}

impl Workers {
    /// Starts `count` threads that accept up to `queued_calls_max` waiting calls.
    pub(super) fn start(
        count: usize,
        queued_calls_max: usize,
        results: &Results,
    ) -> io::Result<Workers> {
        let (calls, queue) = bounded(queued_calls_max);
        for _ in 0..count {
            let (queue, results) = (queue.clone(), results.clone());
            thread::Builder::new()
                .name("member-io".to_owned())
                .spawn(move || work(&queue, &results))?;
        }
        Ok(Workers { calls })
    }

    /// Hands a call to the next free thread. The device's limit keeps the queue from filling up.
    pub(super) fn call(&self, key: Key, call: Call) {
        self.calls
            .try_send((key, call))
            .expect("no more calls than the device's limit");
    }
}

/// Carries out calls until the other end of the queue is gone. Nobody joins these threads: one of
/// them may hang for as long as its device does.
fn work(queue: &Receiver<(Key, Call)>, results: &Results) {
    for (key, call) in queue {
        let result = carry_out(call);
        if results.sender.send(Done { key, result }).is_err() {
            return;
        }
        results.bell.ring();
    }
}

/// Makes a member call; negative errno on error, as the ring has it.
pub(super) fn carry_out(call: Call) -> i32 {
    let result = match call {
        Call::Read {
            fd,
            start,
            len,
            offset,
        } => {
            // SAFETY: the operation keeps the buffer until this result is reported.
            unsafe { libc::pread64(fd, start.cast(), len as usize, offset as i64) as i64 }
        }
        Call::Write {
            fd,
            segments,
            count,
            offset,
            durable,
        } => {
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            // SAFETY: the operation keeps segments and buffers until this result is reported.
            unsafe { libc::pwritev2(fd, segments, count as i32, offset as i64, flags) as i64 }
        }
        // SAFETY: no memory is involved.
        Call::Sync { fd } => unsafe { libc::fdatasync(fd).into() },
        Call::PunchHole { fd, offset, len } => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: no memory is involved.
            unsafe { libc::fallocate64(fd, mode, offset as i64, len as i64).into() }
        }
        Call::DiscardDevice { fd, offset, len } => {
            // SAFETY: the driver closes a device only when its last operation is done.
            let device = unsafe { BorrowedFd::borrow_raw(fd) };
            match block_device::discard(device, offset, len) {
                Ok(()) => 0,
                Err(errno) => return -(errno as i32),
            }
        }
        Call::Accept { .. } | Call::Receive { .. } | Call::Send { .. } => {
            unreachable!("sockets are not the workers' business")
        }
    };
    // All these calls move less than 2 GiB.
    if result < 0 {
        -Errno::last_raw()
    } else {
        result as i32
    }
}

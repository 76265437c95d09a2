//! Waking a data thread that waits in the kernel.

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Wakes a blocked [`wait`](super::Driver::wait) from any thread. Many wakes before the next wait
/// are one; a wake while nobody waits ends the next wait at once.
#[derive(Clone, Debug)]
pub struct Waker(pub(super) Arc<Bell>);

impl Waker {
    /// Ends the present or the next wait with [`DriverEvent::Woken`](super::DriverEvent::Woken).
    /// What was handed over before is visible to whoever gets that event.
    pub fn wake(&self) {
        self.0.woken.store(true, Ordering::Release);
        self.0.ring();
    }
}

/// An eventfd, and who rang it.
#[derive(Debug)]
pub(super) struct Bell {
    fd: EventFd,
    /// Written and not yet read: no need to write again.
    rung: AtomicBool,
    /// A user's wake, as opposed to a worker's result.
    woken: AtomicBool,
    /// The data thread is asleep, or about to be.
    asleep: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> nix::Result<Bell> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Bell {
            fd,
            rung: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
        })
    }

    /// Rings only if the data thread sleeps: it looks for results by itself before it does. The
    /// result must have been handed over.
    pub(super) fn ring_sleeper(&self) {
        // With the one in `falls_asleep`: either it sees the result, or we see it asleep.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// To be called before the last look for results.
    pub(super) fn falls_asleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn wakes_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Makes the descriptor readable.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.fd.write(1).expect("an eventfd takes a count of one");
        }
    }

    /// Makes it unreadable again; true when somebody called [`Waker::wake`] since the last time.
    ///
    /// The order matters: a ring after the swap writes again, and whatever was handed over before
    /// a ring that did not write is visible after it.
    pub(super) fn acknowledge(&self) -> bool {
        match self.fd.read() {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(errno) => panic!("reading our own eventfd: {errno}"),
        }
        self.rung.swap(false, Ordering::AcqRel);
        self.woken.swap(false, Ordering::AcqRel)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

//! How calls on a device are made, by what its file is on.

use nix::sys::statfs::{FUSE_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};
use std::os::fd::BorrowedFd;

/// How calls on a device are made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Manner {
    /// By the ring.
    #[default]
    Ring,
    /// By the ring's threads at once: the call may block where it is submitted.
    KernelThread,
    /// Here and now: the file is memory. The ring would have a thread of its own copy it, as
    /// these file systems do not say that they never wait.
    Memory,
}

/// How calls on a device are best made.
pub(super) fn manner(fd: BorrowedFd<'_>) -> Manner {
    match fstatfs(fd).map(|found| found.filesystem_type()) {
        // It claims to take calls without blocking and then waits for its lock: one that hangs
        // would stop all others.
        Ok(FUSE_SUPER_MAGIC) => Manner::KernelThread,
        Ok(TMPFS_MAGIC) => Manner::Memory,
        _ => Manner::Ring,
    }
}

//! For a process that the kernel writes to when it wants memory back: it must not need memory
//! that only such a write would free.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::fs;

/// The right to lock memory beyond RLIMIT_MEMLOCK (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;

/// Options of prctl(2); `include/uapi/linux/prctl.h`.
const PR_SET_IO_FLUSHER: i32 = 57;
#[cfg(test)]
const PR_GET_IO_FLUSHER: i32 = 58;

/// Tells the kernel that this thread, all that it starts from now on, and the programs they
/// execute, carry out its writes: allocations then do not wait for write-back, and writes are
/// throttled less (PR_SET_IO_FLUSHER, prctl(2)). `EPERM` without CAP_SYS_RESOURCE, `EINVAL` on
/// kernels before 5.6.
pub fn become_io_flusher() -> nix::Result<()> {
    // SAFETY: this option takes a number and three zeros, and touches no memory of ours.
    let result = unsafe { nix::libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    Errno::result(result).map(drop)
}

/// Keeps all memory of this process from being paged out: what it has now is made resident, what
/// it maps later once it is touched. (A buffer for a payload that a client announced and never
/// sends must not take memory.) Only where there is no limit to that: with one, a later allocation
/// would fail instead. `EPERM` there.
pub fn lock_memory() -> nix::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if limit != RLIM_INFINITY && !has_capability(CAP_IPC_LOCK) {
        return Err(Errno::EPERM);
    }
    mlockall(MlockAllFlags::MCL_CURRENT)?;
    // Without MCL_CURRENT it leaves alone what there is (mlockall(2), apply_mlockall_flags()).
    let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_FUTURE | on_fault)
}

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_capabilities(&status) & (1 << number) != 0
}

/// The effective set in a `/proc/PID/status`; empty if it is not there.
fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        let status = "CapInh:\t0000000000000000\nCapEff:\t0000000000004001\nCapBnd:\tffff\n";
        assert_eq!(effective_capabilities(status), 0x4001);
        assert_eq!(effective_capabilities("Name:\tx\n"), 0);
    }

    /// In a thread of its own: what is set stays set.
    #[test]
    fn who_may_be_an_io_flusher_is_one() {
        let was_set = std::thread::spawn(|| {
            let result = become_io_flusher();
            // SAFETY: as above; this option takes four zeros.
            let now = unsafe { nix::libc::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) };
            (result, now)
        });
        match was_set.join().unwrap() {
            (Ok(()), now) => assert_eq!(now, 1),
            (Err(error), _) => assert!(matches!(error, Errno::EPERM | Errno::EINVAL), "{error}"),
        }
    }
}

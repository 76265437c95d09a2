//! For a process that the kernel writes to when it wants memory back: it must not need memory
//! that only such a write would free.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::fs;
use std::ops::Range;

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

/// Keeps all memory of this process from being paged out: the program itself is made resident,
/// everything else stays once it is touched. (A buffer for a payload that a client announced and
/// never sends must not take memory, nor what the allocator holds in reserve.) Only where there is
/// no limit to that: with one, a later allocation would fail instead. `EPERM` there.
pub fn lock_memory() -> nix::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if limit != RLIM_INFINITY && !has_capability(CAP_IPC_LOCK) {
        return Err(Errno::EPERM);
    }
    let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)?;
    touch_program();
    Ok(())
}

/// Makes code and constants of the program and its libraries resident: they come from files,
/// which may be on the very device that waits for us.
fn touch_program() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for range in maps.lines().filter_map(mapped_file) {
        let (start, len) = (range.start as *mut nix::libc::c_void, range.len());
        // SAFETY: the pages are only read, and populating them changes nothing in them. Where
        // the kernel does not know the advice (before 5.14) they come when they are used.
        unsafe { nix::libc::madvise(start, len, nix::libc::MADV_POPULATE_READ) };
    }
}

/// The range of a line of `/proc/PID/maps` that stands for a readable mapping of a file.
fn mapped_file(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let path = words.nth(3)?;
    let (start, end) = range.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    let is_file = path.starts_with('/') && rights.starts_with('r');
    is_file.then_some(address(start)?..address(end)?)
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

    #[test]
    fn mapped_files_are_found_among_the_mappings() {
        let code = "55d0c000-55d0e000 r-xp 00002000 fd:00 1179 /usr/bin/some thing";
        assert_eq!(mapped_file(code), Some(0x55d0_c000..0x55d0_e000));
        for other in [
            "7f00000000-7f00001000 rw-p 00000000 00:00 0",
            "7ffc0000-7ffc2000 rw-p 00000000 00:00 0 [stack]",
            "55d0c000-55d0e000 ---p 00002000 fd:00 1179 /usr/lib/libc.so.6",
            "",
        ] {
            assert_eq!(mapped_file(other), None, "{other}");
        }
        let own = fs::read_to_string("/proc/self/maps").unwrap();
        let here = mapped_files_hold(&own, mapped_file as fn(&str) -> _ as usize);
        assert!(here, "our own code is none of\n{own}");
    }

    fn mapped_files_hold(maps: &str, address: usize) -> bool {
        maps.lines()
            .filter_map(mapped_file)
            .any(|r| r.contains(&address))
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

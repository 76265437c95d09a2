//! What only block devices can be asked, and told.

use nix::sys::stat;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// The major number of loop devices, in every kernel (admin-guide/devices.txt).
const LOOP_MAJOR: u64 = 7;

mod ioctl {
    use nix::libc::c_int;
    // linux/fs.h: BLKGETSIZE64 and BLKSSZGET (which lacks the size bits, hence "bad").
    nix::ioctl_read!(device_size_bytes, 0x12, 114, u64);
    nix::ioctl_read_bad!(
        logical_block_bytes,
        nix::request_code_none!(0x12, 104),
        c_int
    );
    // BLKROGET.
    nix::ioctl_read_bad!(read_only, nix::request_code_none!(0x12, 94), c_int);
    // BLKDISCARD: offset and length in bytes.
    nix::ioctl_write_ptr_bad!(discard, nix::request_code_none!(0x12, 119), [u64; 2]);
}

/// Its size.
pub fn size_bytes(device: &File) -> io::Result<u64> {
    let mut size_bytes = 0;
    // SAFETY: the kernel writes one u64, which lives until the call returns.
    unsafe { ioctl::device_size_bytes(device.as_raw_fd(), &mut size_bytes)? };
    Ok(size_bytes)
}

/// The least it reads and writes without the page cache.
pub fn logical_block_bytes(device: &File) -> io::Result<usize> {
    let mut block_bytes = 0;
    // SAFETY: the kernel writes one int, which lives until the call returns.
    unsafe { ioctl::logical_block_bytes(device.as_raw_fd(), &mut block_bytes)? };
    Ok(block_bytes as usize)
}

/// Whether writes to it fail, although it can be opened for them.
pub fn is_write_protected(device: &File) -> io::Result<bool> {
    let mut read_only = 0;
    // SAFETY: the kernel writes one int, which lives until the call returns.
    unsafe { ioctl::read_only(device.as_raw_fd(), &mut read_only)? };
    Ok(read_only != 0)
}

/// The file under a loop device; none for other devices and files.
pub fn backing_file(device: &Metadata) -> Option<PathBuf> {
    let number = device.rdev();
    let (major, minor) = (stat::major(number), stat::minor(number));
    if !device.file_type().is_block_device() || major != LOOP_MAJOR {
        return None;
    }
    let told = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/loop/backing_file"));
    Some(PathBuf::from(told.ok()?.trim_end_matches('\n')))
}

/// Tells a block device that `[offset, offset + len)` is no longer needed; returns the errno.
pub fn discard(fd: BorrowedFd<'_>, offset: u64, len: u64) -> nix::Result<()> {
    // SAFETY: the kernel reads two words, which live until the call returns.
    unsafe { ioctl::discard(fd.as_raw_fd(), &[offset, len]) }.map(drop)
}

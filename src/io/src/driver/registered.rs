//! The buffers' memory, made known to the kernel once instead of at each call.

use io_uring::IoUring;
use nix::libc;
use std::io;
use uraid_buffer::Pool;

/// The kernel registers buffers of up to 1 GiB.
const REGISTERED_PIECE_BYTES: usize = 1 << 30;

/// Registered memory.
pub(super) struct Region {
    start: usize,
    len: usize,
}

impl Region {
    /// The index of the registered piece that wholly holds the bytes.
    pub(super) fn piece(&self, start: *const u8, len: usize) -> Option<u16> {
        let first = (start as usize).checked_sub(self.start)?;
        let last = first + len.max(1) - 1;
        let piece = first / REGISTERED_PIECE_BYTES;
        let whole = last < self.len && last / REGISTERED_PIECE_BYTES == piece;
        whole.then_some(piece as u16)
    }
}

/// Registers the pool's region, if it has one.
pub(super) fn register(ring: &IoUring, pool: &Pool) -> io::Result<Option<Region>> {
    let Some((start, len)) = pool.region() else {
        return Ok(None);
    };
    let pieces: Vec<libc::iovec> = (0..len)
        .step_by(REGISTERED_PIECE_BYTES)
        .map(|offset| libc::iovec {
            iov_base: start.wrapping_add(offset).cast_mut().cast(),
            iov_len: REGISTERED_PIECE_BYTES.min(len - offset),
        })
        .collect();
    // SAFETY: the region stays mapped while the driver keeps its clone of the pool, and only
    // memory of live buffers is named in later calls.
    unsafe { ring.submitter().register_buffers(&pieces)? };
    Ok(Some(Region {
        start: start as usize,
        len,
    }))
}

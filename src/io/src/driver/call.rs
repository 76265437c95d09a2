//! One kernel call, as both backends understand it.

use nix::libc;
use std::os::fd::RawFd;
use std::ptr;
use uraid_buffer::Buf;

/// Most buffers in one call (`IOV_MAX` of Linux).
pub(super) const SEGMENTS_MAX: usize = 1024;

/// Most bytes in one call: a power of two below what the kernel moves at once (2 GiB - 4 KiB).
pub(super) const CALL_BYTES_MAX: usize = 1 << 30;

/// A kernel call; its result is a count, a descriptor, or a negative errno.
///
/// Pointers stay valid until the result is reported: the operation behind the call owns what they
/// point to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    /// `pread`
    Read {
        fd: RawFd,
        start: *mut u8,
        len: u32,
        offset: u64,
    },
    /// `pwritev2`, with `RWF_DSYNC` when `durable`
    Write {
        fd: RawFd,
        segments: *const libc::iovec,
        count: u32,
        offset: u64,
        durable: bool,
    },
    /// `fdatasync`
    Sync { fd: RawFd },
    /// `fallocate` that frees a range of a file
    PunchHole { fd: RawFd, offset: u64, len: u64 },
    /// `BLKDISCARD`
    DiscardDevice { fd: RawFd, offset: u64, len: u64 },
    /// `accept4`
    Accept { fd: RawFd },
    /// `recv`
    Receive { fd: RawFd, start: *mut u8, len: u32 },
    /// `sendmsg`
    Send {
        fd: RawFd,
        message: *const libc::msghdr,
    },
}

impl Call {
    /// The file or socket it is about.
    pub(super) fn fd(&self) -> RawFd {
        match *self {
            Call::Read { fd, .. }
            | Call::Write { fd, .. }
            | Call::Sync { fd }
            | Call::PunchHole { fd, .. }
            | Call::DiscardDevice { fd, .. }
            | Call::Accept { fd }
            | Call::Receive { fd, .. }
            | Call::Send { fd, .. } => fd,
        }
    }

    /// The beginning of a call on a member: at most so many bytes, but at least a segment.
    pub(super) fn at_most(self, bytes: usize) -> Call {
        let mut cut = self;
        match &mut cut {
            Call::Read { len, .. } => *len = (*len).min(bytes as u32),
            Call::Write {
                segments, count, ..
            } => {
                // SAFETY: the operation keeps the segments where the call says.
                let all = unsafe { std::slice::from_raw_parts(*segments, *count as usize) };
                let mut sum = 0;
                let fits = |segment: &&libc::iovec| {
                    sum += segment.iov_len;
                    sum <= bytes
                };
                *count = all.iter().take_while(fits).count().max(1) as u32;
            }
            _ => {}
        }
        cut
    }

    /// How many bytes it moves at most, between a member and memory.
    pub(super) fn bytes(&self) -> usize {
        match *self {
            Call::Read { len, .. } => len as usize,
            Call::Write {
                segments, count, ..
            } => {
                // SAFETY: the operation keeps the segments where the call says.
                let segments = unsafe { std::slice::from_raw_parts(segments, count as usize) };
                segments.iter().map(|segment| segment.iov_len).sum()
            }
            _ => 0,
        }
    }
}

// SAFETY: the pointers lead to memory that the operation owns and nobody else touches until the
// result is reported; a call may be carried out by any thread.
unsafe impl Send for Call {}

/// The part of some buffers that is still to be written, in the form the kernel wants.
pub(super) struct Segments {
    iovecs: Vec<libc::iovec>,
    /// For sockets. On the heap, so that it stays where it is when the operation moves.
    message: Option<Box<libc::msghdr>>,
}

// SAFETY: the pointers lead into buffers of the same operation (which may be sent), or into
// `iovecs`.
unsafe impl Send for Segments {}

impl Segments {
    pub(super) fn new() -> Segments {
        Segments {
            iovecs: Vec::new(),
            message: None,
        }
    }

    /// Points at `buffers` from byte `done` on, as many of them as one call takes.
    pub(super) fn point_at(&mut self, buffers: &[Buf], done: usize) -> &[libc::iovec] {
        self.iovecs.clear();
        let (mut skip, mut room) = (done, CALL_BYTES_MAX);
        for buffer in buffers {
            if skip >= buffer.len() {
                skip -= buffer.len();
                continue;
            }
            let rest = &buffer[skip..];
            let len = rest.len().min(room);
            let iov_base = rest.as_ptr().cast_mut().cast();
            self.iovecs.push(libc::iovec {
                iov_base,
                iov_len: len,
            });
            (skip, room) = (0, room - len);
            if room == 0 || self.iovecs.len() == SEGMENTS_MAX {
                break;
            }
        }
        &self.iovecs
    }

    /// The same as a message, for sockets.
    pub(super) fn message(&mut self, buffers: &[Buf], done: usize) -> *const libc::msghdr {
        self.point_at(buffers, done);
        // SAFETY: all-zero bytes are a valid `msghdr` (null pointers, no lengths).
        let empty = || Box::new(unsafe { std::mem::zeroed::<libc::msghdr>() });
        let message = self.message.get_or_insert_with(empty);
        message.msg_iov = self.iovecs.as_mut_ptr();
        message.msg_iovlen = self.iovecs.len() as _;
        ptr::from_ref(&**message)
    }
}

/// The length of some buffers together, in bytes.
pub(super) fn total_len(buffers: &[Buf]) -> usize {
    buffers.iter().map(|buffer| buffer.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_buffer::Pool;

    #[test]
    fn segments_start_where_the_last_call_stopped() {
        let pool = Pool::heap();
        let buffers = [pool.copy(&[1; 10]), Buf::empty(), pool.copy(&[2; 20])];
        let mut segments = Segments::new();
        for done in 0..=30 {
            let iovecs = segments.point_at(&buffers, done);
            let len: usize = iovecs.iter().map(|iovec| iovec.iov_len).sum();
            assert_eq!(len, 30 - done);
            assert!(iovecs.iter().all(|iovec| iovec.iov_len > 0));
        }
    }

    #[test]
    fn one_call_takes_no_more_segments_than_the_kernel() {
        let byte = Pool::heap().copy(&[1]);
        let buffers = vec![byte; SEGMENTS_MAX + 5];
        let mut segments = Segments::new();
        assert_eq!(segments.point_at(&buffers, 0).len(), SEGMENTS_MAX);
        assert_eq!(segments.point_at(&buffers, SEGMENTS_MAX).len(), 5);
    }
}

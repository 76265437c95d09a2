//! Block buffers: 4 KiB aligned, pooled, reference counted.
//!
//! Every byte of member and client data lives in one of two types. [`BufMut`] is the only owner
//! of its memory and may be written; [`Buf`] is a shared, immutable window on frozen memory and
//! is cheap to clone and to slice. A buffer handed to an I/O operation belongs to that operation
//! until its completion gives it back, so no memory can be reused under a device that is still
//! reading or writing it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of every buffer, in bytes: enough for `O_DIRECT` on any device we know of.
pub const ALIGNMENT: usize = 4096;

/// Memory of one buffer; freed when the last owner goes.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: `Memory` is plain bytes; shared access is read-only (`Buf`), exclusive access is
// guarded by `BufMut` being the only owner.
unsafe impl Send for Memory {}
// SAFETY: see above.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT).expect("buffer size fits the address space")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc` with this very layout and is freed once, here.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// Where buffers come from. Clones share the same memory.
#[derive(Clone, Default)]
pub struct Pool {}

impl Pool {
    /// A pool that takes its memory from the heap.
    pub fn heap() -> Pool {
        Pool {}
    }

    /// A buffer of `len` bytes whose content is unspecified: the caller overwrites all of it.
    pub fn take(&self, len: usize) -> BufMut {
        self.zeroed(len)
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(&self, len: usize) -> BufMut {
        let capacity = len.next_multiple_of(ALIGNMENT).max(ALIGNMENT);
        let layout = Memory::layout(capacity);
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(raw) else { handle_alloc_error(layout) };
        // SAFETY: `start` is valid for `capacity` bytes.
        unsafe { start.as_ptr().write_bytes(0, capacity) };
        BufMut { memory: Memory { start, capacity }, len }
    }

    /// A frozen copy of `bytes`.
    pub fn copy(&self, bytes: &[u8]) -> Buf {
        let mut buf = self.take(bytes.len());
        buf.copy_from_slice(bytes);
        buf.freeze()
    }
}

/// A writable buffer with a single owner.
pub struct BufMut {
    memory: Memory,
    len: usize,
}

impl BufMut {
    /// Gives up the right to write; the content can now be shared.
    pub fn freeze(self) -> Buf {
        let len = self.len;
        Buf { memory: Arc::new(self.memory), start: 0, len }
    }

    /// Shortens the buffer to `len` bytes; longer is a bug.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len);
        self.len = len;
    }
}

impl Deref for BufMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid and initialised for `capacity >= len` bytes.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr(), self.len) }
    }
}

impl DerefMut for BufMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only access to this memory.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for BufMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufMut({} bytes)", self.len)
    }
}

/// A shared, immutable window on a frozen buffer.
#[derive(Clone)]
pub struct Buf {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
}

impl Buf {
    /// The bytes `range` of this window, sharing its memory.
    pub fn slice(&self, range: Range<usize>) -> Buf {
        assert!(range.start <= range.end && range.end <= self.len);
        Buf { memory: self.memory.clone(), start: self.start + range.start, len: range.len() }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the window lies inside initialised memory that nobody writes any more.
        unsafe {
            std::slice::from_raw_parts(self.memory.start.as_ptr().add(self.start), self.len)
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

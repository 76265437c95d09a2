//! Block buffers: 4 KiB aligned, pooled, reference counted.
//!
//! Every byte of member and client data lives in one of two types. [`BufMut`] is the only owner
//! of its memory and may be written; [`Buf`] is a shared, immutable window on frozen memory and
//! is cheap to clone and to slice. A buffer handed to an I/O operation belongs to that operation
//! until its completion gives it back, so no memory can be reused under a device that is still
//! reading or writing it.
//!
//! Memory comes from a [`Pool`]: either the heap, or one mapping made at start (the arena) that
//! an I/O ring can register with the kernel. A full arena is no error: the heap helps out, and
//! [`Pool::stats`] says how much.

mod arena;
mod span;

pub use span::Span;

use arena::Arena;
use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Alignment of every buffer, in bytes: enough for `O_DIRECT` on any device we know of.
pub const ALIGNMENT: usize = 4096;

/// From this size on, memory beside the arena is a mapping of its own: it takes up room only as
/// far as it is written, so a buffer for bytes that never come costs nothing.
const MAPPED_BYTES_MIN: usize = 1 << 20;

/// What all clones of a pool and all its buffers share.
#[derive(Default)]
struct Source {
    arena: Option<Arena>,
    heap_bytes: AtomicUsize,
    heap_fallbacks: AtomicU64,
}

impl Source {
    fn heap_freed(&self, bytes: usize) {
        self.heap_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Where buffers come from. Clones share the same memory.
#[derive(Clone, Default)]
pub struct Pool {
    source: Arc<Source>,
}

/// How much memory a pool has handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolStats {
    /// Size of the arena; 0 for a pool on the heap.
    pub arena_bytes: usize,
    /// Bytes of the arena in live buffers.
    pub arena_used_bytes: usize,
    /// Bytes of the heap in live buffers.
    pub heap_bytes: usize,
    /// How often the heap helped out because the arena had no room. Grows when the arena is too
    /// small for the load.
    pub heap_fallbacks: u64,
}

impl Pool {
    /// A pool that takes its memory from the heap.
    pub fn heap() -> Pool {
        Pool::default()
    }

    /// A pool on one mapping of `bytes` (rounded up to 4 KiB), in huge pages where there are.
    ///
    /// # Errors
    /// What `mmap` answers, usually `ENOMEM`: then make the pool smaller.
    pub fn arena(bytes: usize) -> io::Result<Pool> {
        let source = Source {
            arena: Some(Arena::map(bytes)?),
            ..Source::default()
        };
        Ok(Pool {
            source: Arc::new(source),
        })
    }

    /// A buffer of `len` bytes whose content is unspecified: the caller overwrites all of it.
    pub fn take(&self, len: usize) -> BufMut {
        let capacity = len.next_multiple_of(ALIGNMENT).max(ALIGNMENT);
        let memory = match self.take_from_arena(capacity) {
            Some(memory) => memory,
            None => self.take_from_heap(capacity),
        };
        BufMut { memory, len }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(&self, len: usize) -> BufMut {
        let mut buf = self.take(len);
        // The heap's memory is new and zero already.
        if matches!(buf.memory.place, Place::Arena) {
            buf.fill(0);
        }
        buf
    }

    /// A frozen copy of `bytes`.
    pub fn copy(&self, bytes: &[u8]) -> Buf {
        if bytes.is_empty() {
            return Buf::empty();
        }
        let mut buf = self.take(bytes.len());
        buf.copy_from_slice(bytes);
        buf.freeze()
    }

    /// Start and length in bytes of the arena, to register it with the kernel; none for a pool on
    /// the heap. It stays mapped while any clone of the pool or any of its buffers lives.
    pub fn region(&self) -> Option<(*const u8, usize)> {
        self.source.arena.as_ref().map(Arena::region)
    }

    /// Memory handed out at present.
    pub fn stats(&self) -> PoolStats {
        let arena = self.source.arena.as_ref();
        PoolStats {
            arena_bytes: arena.map_or(0, |arena| arena.region().1),
            arena_used_bytes: arena.map_or(0, Arena::used_bytes),
            heap_bytes: self.source.heap_bytes.load(Ordering::Relaxed),
            heap_fallbacks: self.source.heap_fallbacks.load(Ordering::Relaxed),
        }
    }

    fn take_from_arena(&self, capacity: usize) -> Option<Memory> {
        let start = self.source.arena.as_ref()?.take(capacity)?;
        Some(Memory {
            start,
            capacity,
            place: Place::Arena,
            source: self.source.clone(),
        })
    }

    fn take_from_heap(&self, capacity: usize) -> Memory {
        let mapped = match capacity {
            MAPPED_BYTES_MIN.. => MmapMut::map_anon(capacity).ok(),
            _ => None,
        };
        let (start, place) = match mapped {
            Some(mut map) => {
                let start = NonNull::new(map.as_mut_ptr());
                (start.expect("not at address zero"), Place::Mapped(map))
            }
            None => (heap(capacity), Place::Heap),
        };
        if self.source.arena.is_some() {
            self.source.heap_fallbacks.fetch_add(1, Ordering::Relaxed);
        }
        self.source
            .heap_bytes
            .fetch_add(capacity, Ordering::Relaxed);
        Memory {
            start,
            capacity,
            place,
            source: self.source.clone(),
        }
    }
}

/// Zeroed memory, because a `BufMut` can be read before it is written.
fn heap(capacity: usize) -> NonNull<u8> {
    let layout = Memory::layout(capacity);
    // SAFETY: the layout has a non-zero size.
    let raw = unsafe { alloc_zeroed(layout) };
    NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout))
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?})", self.stats())
    }
}

enum Place {
    Arena,
    Heap,
    /// Unmapped with its buffer.
    Mapped(#[allow(dead_code)] MmapMut),
}

/// Memory of one buffer: initialised, a multiple of [`ALIGNMENT`] long, given back when the last
/// owner goes.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
    place: Place,
    source: Arc<Source>,
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
        match &self.place {
            Place::Arena => {
                let arena = self
                    .source
                    .arena
                    .as_ref()
                    .expect("the memory came from an arena");
                arena.give_back(self.start, self.capacity);
            }
            Place::Mapped(_) => self.source.heap_freed(self.capacity),
            Place::Heap => {
                self.source.heap_freed(self.capacity);
                // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed
                // once, here.
                unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
            }
        }
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
        Buf {
            memory: Some(Arc::new(self.memory)),
            start: 0,
            len,
        }
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

/// A shared, immutable window on a frozen buffer. The default is empty and holds no memory.
#[derive(Clone, Default)]
pub struct Buf {
    memory: Option<Arc<Memory>>,
    start: usize,
    len: usize,
}

impl Buf {
    /// No bytes, no memory.
    pub fn empty() -> Buf {
        Buf::default()
    }

    /// The bytes `range` of this window, sharing its memory.
    pub fn slice(&self, range: Range<usize>) -> Buf {
        assert!(range.start <= range.end && range.end <= self.len);
        Buf {
            memory: self.memory.clone(),
            start: self.start + range.start,
            len: range.len(),
        }
    }

    /// Bytes of memory that this window keeps from being used again.
    pub fn pinned_bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.capacity)
    }

    /// This window and `next` as one, if `next` follows it in the same memory.
    pub fn join(&self, next: &Buf) -> Option<Buf> {
        let (mine, other) = (self.memory.as_ref()?, next.memory.as_ref()?);
        let adjacent = Arc::ptr_eq(mine, other) && self.start + self.len == next.start;
        adjacent.then(|| Buf {
            memory: self.memory.clone(),
            start: self.start,
            len: self.len + next.len,
        })
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let Some(memory) = &self.memory else {
            return &[];
        };
        // SAFETY: the window lies inside initialised memory that nobody writes any more.
        unsafe { std::slice::from_raw_parts(memory.start.as_ptr().add(self.start), self.len) }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    const MIB: usize = 1 << 20;

    fn pools() -> [Pool; 2] {
        [Pool::heap(), Pool::arena(4 * MIB).unwrap()]
    }

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for pool in pools() {
            for len in [0, 1, 4095, 4096, 4097, 70_000, MIB] {
                let buf = pool.take(len);
                assert_eq!(buf.len(), len);
                assert_eq!(buf.as_ptr() as usize % ALIGNMENT, 0);
            }
        }
    }

    #[test]
    fn zeroed_is_zero_also_in_used_memory() {
        for pool in pools() {
            for _ in 0..3 {
                pool.take(4 * MIB).fill(0xa5);
                assert!(pool.zeroed(4 * MIB).iter().all(|&byte| byte == 0));
            }
        }
    }

    #[test]
    fn slices_share_memory_and_keep_it_alive() {
        let pool = Pool::arena(MIB).unwrap();
        let whole = pool.copy(&[1, 2, 3, 4, 5]);
        let part = whole.slice(1..4).slice(1..3);
        assert_eq!(part.as_ptr() as usize, whole.as_ptr() as usize + 2);
        drop(whole);
        assert_eq!(pool.stats().arena_used_bytes, ALIGNMENT);
        assert_eq!(&part[..], [3, 4]);
        drop(part);
        assert_eq!(pool.stats().arena_used_bytes, 0);
    }

    #[test]
    fn empty_buffers_are_legal() {
        let empty = Buf::empty();
        assert!(empty.is_empty() && empty.slice(0..0).is_empty() && Buf::default().is_empty());
        assert!(Pool::heap().copy(&[]).is_empty());
        assert!(Pool::heap().take(0).freeze().is_empty());
    }

    #[test]
    fn a_full_arena_is_helped_out_by_the_heap() {
        let pool = Pool::arena(MIB).unwrap();
        let first = pool.take(MIB);
        let mut second = pool.take(33 * MIB);
        second.fill(7);
        let stats = pool.stats();
        assert_eq!((stats.arena_bytes, stats.arena_used_bytes), (MIB, MIB));
        assert_eq!((stats.heap_bytes, stats.heap_fallbacks), (33 * MIB, 1));
        drop((first, second));
        let stats = pool.stats();
        assert_eq!((stats.arena_used_bytes, stats.heap_bytes), (0, 0));
    }

    #[test]
    fn the_largest_request_with_its_header_fits_an_arena() {
        let pool = Pool::arena(64 * MIB).unwrap();
        let mut buf = pool.take(32 * MIB + 4096);
        buf.fill(1);
        assert_eq!(pool.stats().heap_bytes, 0);
    }

    #[test]
    fn buffers_lie_in_the_region() {
        let pool = Pool::arena(MIB).unwrap();
        let (start, len) = pool.region().unwrap();
        let buf = pool.take(100_000);
        let region = start as usize..start as usize + len;
        assert!(region.contains(&(buf.as_ptr() as usize)));
        assert!(region.contains(&(buf.as_ptr() as usize + buf.len())));
        assert!(Pool::heap().region().is_none());
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let buf = Pool::arena(MIB).unwrap().copy(b"still here");
        assert_eq!(&buf[..], b"still here");
    }

    #[test]
    fn buffers_may_be_dropped_by_any_thread() {
        let pool = Pool::arena(8 * MIB).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel::<(Buf, u8)>();
        thread::scope(|scope| {
            for mark in 1..=3u8 {
                let (pool, sender) = (pool.clone(), sender.clone());
                scope.spawn(move || {
                    for step in 0..500 {
                        let mut buf = pool.take(1 + step * 97 % 30_000);
                        buf.fill(mark);
                        sender.send((buf.freeze(), mark)).unwrap();
                    }
                });
            }
            drop(sender);
            scope.spawn(move || {
                for (buf, mark) in receiver {
                    assert!(buf.iter().all(|&byte| byte == mark));
                }
            });
        });
        assert_eq!(pool.stats().arena_used_bytes, 0);
        assert_eq!(pool.stats().heap_bytes, 0);
    }

    #[test]
    fn pools_and_buffers_cross_threads() {
        fn shared<T: Send + Sync + Clone>() {}
        fn sent<T: Send + Sync>() {}
        shared::<Pool>();
        shared::<Buf>();
        sent::<BufMut>();
    }

    proptest! {
        /// Live buffers keep what was written into them, whatever is taken and dropped meanwhile.
        #[test]
        fn live_buffers_never_overlap(
            steps in prop::collection::vec((0usize..300_000, any::<u8>(), any::<bool>()), 1..60),
        ) {
            let pool = Pool::arena(MIB).unwrap();
            let mut live: Vec<(BufMut, u8)> = Vec::new();
            for (len, mark, take) in steps {
                if take || live.is_empty() {
                    let mut buf = pool.take(len);
                    buf.fill(mark);
                    live.push((buf, mark));
                } else {
                    live.swap_remove(len % live.len());
                }
                for (buf, mark) in &live {
                    prop_assert!(buf.iter().all(|byte| byte == mark));
                }
            }
            live.clear();
            prop_assert_eq!(pool.stats().arena_used_bytes, 0);
            prop_assert_eq!(pool.stats().heap_bytes, 0);
        }
    }
}

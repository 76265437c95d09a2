//! What only a kernel that plays along can show: short results, interruptions, hangs.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// A kernel that moves at most one block a call, and asks to repeat every other call.
struct Stingy {
    real: Threads,
    calls: usize,
    refused: Vec<Done>,
}

impl KernelCalls for Stingy {
    fn device_added(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.real.device_added(fd)
    }

    fn device_removed(&mut self, fd: RawFd) {
        self.real.device_removed(fd);
    }

    fn socket_added(&mut self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        self.real.socket_added(fd)
    }

    fn start(&mut self, key: Key, mut call: Call) {
        self.calls += 1;
        match &mut call {
            Call::Read { len, .. } => *len = BLOCK as u32,
            Call::Write { count, .. } => *count = 1,
            _ => {}
        }
        match self.calls % 4 {
            1 => self.refused.push(Done {
                key,
                result: -libc::EINTR,
            }),
            3 => self.refused.push(Done {
                key,
                result: -libc::EAGAIN,
            }),
            _ => self.real.start(key, call),
        }
    }

    fn cancel(&mut self, key: Key) {
        self.real.cancel(key);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> bool {
        done.append(&mut self.refused);
        let timeout = if done.is_empty() {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        self.real.wait(timeout, done)
    }
}

#[test]
fn short_and_interrupted_calls_go_on() {
    let (pool, limits) = (Pool::heap(), Limits::default());
    let bell = Arc::new(Bell::new().unwrap());
    let real = Threads::new(limits, bell.clone());
    let stingy = Box::new(Stingy {
        real,
        calls: 0,
        refused: Vec::new(),
    });
    let mut driver = Driver::with_backend(stingy, Kind::Threads, &pool, limits, bell);
    let (_dir, path, file) = member(MIB, Direct::Try);
    driver.add_device(DEVICE, file).unwrap();
    let content = pattern(6, 20 * BLOCK);
    let buffers = content
        .chunks(2 * BLOCK)
        .map(|bytes| pool.copy(bytes))
        .collect();
    assert_eq!(
        perform(&mut driver, write(BLOCK, buffers, false)).result,
        Ok(())
    );
    assert!(std::fs::read(path).unwrap()[BLOCK..21 * BLOCK] == content[..]);
    let completion = perform(&mut driver, read(&pool, BLOCK, 20 * BLOCK));
    assert!(completion.result == Ok(()) && completion.buffer.unwrap()[..] == content[..]);
    assert_eq!(perform(&mut driver, IoKind::Flush).result, Ok(()));
    let short = perform(&mut driver, read(&pool, MIB - BLOCK, 3 * BLOCK));
    assert_eq!(short.result, Err(IoError::Short));
}

/// A kernel that gives every call the same answer, when it is told to.
struct Stuck {
    answer: i32,
    waiting: Vec<Key>,
    released: Arc<AtomicBool>,
}

impl KernelCalls for Stuck {
    fn device_added(&mut self, _fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn device_removed(&mut self, _fd: RawFd) {}

    fn socket_added(&mut self, _fd: BorrowedFd<'_>) -> nix::Result<()> {
        Ok(())
    }

    fn start(&mut self, key: Key, _call: Call) {
        self.waiting.push(key);
    }

    fn cancel(&mut self, _key: Key) {}

    fn wait(&mut self, _timeout: Option<Duration>, done: &mut Vec<Done>) -> bool {
        if self.released.load(Ordering::Relaxed) {
            let answer = self.answer;
            done.extend(self.waiting.drain(..).map(|key| Done {
                key,
                result: answer,
            }));
        }
        false
    }
}

/// A driver on a stuck kernel, and the switch that releases it.
fn stuck(answer: i32, limits: Limits) -> (Driver, Arc<AtomicBool>) {
    let released = Arc::new(AtomicBool::new(false));
    let stuck = Box::new(Stuck {
        answer,
        waiting: Vec::new(),
        released: released.clone(),
    });
    let bell = Arc::new(Bell::new().unwrap());
    let pool = Pool::heap();
    (
        Driver::with_backend(stuck, Kind::Threads, &pool, limits, bell),
        released,
    )
}

#[test]
fn a_hung_device_is_reported_once_and_completes_when_it_wakes_up() {
    let limits = Limits {
        member_timeout: Duration::from_millis(1),
        ..Limits::default()
    };
    let (mut driver, released) = stuck(-libc::EIO, limits);
    let (_dir, _path, file) = member(MIB, Direct::Try);
    driver.add_device(DEVICE, file).unwrap();
    driver.submit_io(io(1, read(&Pool::heap(), 0, BLOCK)));
    let hung = events(&mut driver);
    let [
        DriverEvent::MemberHung {
            device: DEVICE,
            oldest,
        },
    ] = hung[..]
    else {
        panic!("{hung:?}")
    };
    assert!(oldest >= limits.member_timeout);
    let mut more = Vec::new();
    driver.wait(Some(Duration::from_millis(5)), &mut more);
    assert!(more.is_empty(), "reported again: {more:?}");
    released.store(true, Ordering::Relaxed);
    let completion = completions(&mut driver, 1).remove(&1).unwrap();
    assert_eq!(completion.result, Err(IoError::Errno(libc::EIO)));
    assert_eq!(completion.buffer.unwrap().len(), BLOCK);
}

#[test]
fn a_device_is_not_blamed_for_our_own_absence() {
    let limits = Limits {
        member_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let (mut driver, released) = stuck(-libc::EIO, limits);
    let (_dir, _path, file) = member(MIB, Direct::Try);
    driver.add_device(DEVICE, file).unwrap();
    driver.submit_io(io(1, read(&Pool::heap(), 0, BLOCK)));
    driver.wait(Some(Duration::ZERO), &mut Vec::new());
    std::thread::sleep(2 * limits.member_timeout); // nobody looks meanwhile
    released.store(true, Ordering::Relaxed);
    let found = events(&mut driver);
    assert!(
        matches!(found[..], [DriverEvent::Member(_)]),
        "it was done in time: {found:?}"
    );
}

#[test]
fn a_device_that_cannot_discard_answers_success() {
    let (mut driver, released) = stuck(-libc::EOPNOTSUPP, Limits::default());
    released.store(true, Ordering::Relaxed);
    let (_dir, _path, file) = member(MIB, Direct::Try);
    driver.add_device(DEVICE, file).unwrap();
    let discard = IoKind::Discard {
        offset: 0,
        len: 4096,
    };
    assert_eq!(perform(&mut driver, discard).result, Ok(()));
    let flush = perform(&mut driver, IoKind::Flush);
    assert_eq!(flush.result, Err(IoError::Errno(libc::EOPNOTSUPP)));
}

#[test]
fn endless_interruptions_become_an_error() {
    let (mut driver, released) = stuck(-libc::EAGAIN, Limits::default());
    released.store(true, Ordering::Relaxed);
    let (_dir, _path, file) = member(MIB, Direct::Try);
    driver.add_device(DEVICE, file).unwrap();
    let flush = perform(&mut driver, IoKind::Flush);
    assert_eq!(flush.result, Err(IoError::Errno(libc::EAGAIN)));
}

#[test]
fn memory_in_a_hung_kernel_is_never_reused() {
    let pool = Pool::arena(MIB).unwrap();
    let (mut driver, _never) = stuck(0, Limits::default());
    let (_dir, _path, file) = member(MIB, Direct::Try);
    driver.add_device(DEVICE, file).unwrap();
    driver.submit_io(io(1, read(&pool, 0, BLOCK)));
    drop(driver);
    assert_eq!(pool.stats().arena_used_bytes, BLOCK);
}

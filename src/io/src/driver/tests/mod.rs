//! The same tests for both backends, and for members that are memory.

mod scripted;

use super::*;
use crate::device::{Direct, MemberFile, OpenError, OpenMode, create_sparse};
use crate::sockets::{listen_tcp, listen_unix};
use nix::libc;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use uraid_buffer::{ALIGNMENT, Buf};
use uraid_engine::api::{Io, IoError, IoKind};

const BLOCK: usize = ALIGNMENT;
const MIB: usize = 1 << 20;
const DEVICE: DeviceId = DeviceId(7);
/// Far more than any test needs; only a test that hangs gets there.
const PATIENCE: Duration = Duration::from_secs(60);

thread_local! {
    /// Where members are put.
    static PLACE: RefCell<PathBuf> = RefCell::new(std::env::temp_dir());
}

/// Runs each test on both backends. Where io_uring is refused its half says so and passes.
macro_rules! on_both_backends {
    ($($test:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $test() { super::on(super::Backend::Uring, super::$test); })*
        }
        mod memory {
            $(#[test] fn $test() { super::in_memory(super::$test); })*
        }
        mod threads {
            $(#[test] fn $test() { super::on(super::Backend::Threads, super::$test); })*
        }
    };
}

on_both_backends!(
    what_is_written_is_read,
    many_buffers_make_one_write,
    odd_buffers_are_written_whole,
    the_end_of_the_file_is_short,
    read_only_files_refuse_writes,
    discarding_touches_nothing_else,
    unknown_devices_are_answered,
    removal_waits_for_the_last_io_and_unlocks,
    more_operations_than_any_queue_holds,
    large_operations_on_many_members_at_once,
    empty_operations_succeed,
    background_io_is_whole_and_goes_last,
    slow_devices_are_reported_once,
    waking_ends_a_wait,
    a_wait_ends_in_time,
    streams_echo_over_unix,
    streams_echo_over_tcp,
    a_stream_goes_on_in_another_driver,
    an_ended_stream_is_known_before_its_bytes_are_read,
    a_send_of_many_buffers_is_complete,
    both_directions_at_once,
    a_dead_peer_fails_the_send,
    closing_ends_what_is_under_way,
    a_stopped_listener_accepts_nobody,
    dropping_with_work_under_way_is_safe,
);

type New<'a> = &'a dyn Fn(&Pool, Limits) -> Driver;

fn on(backend: Backend, test: fn(New)) {
    let refused = new_driver(backend, &Pool::heap(), Limits::default()).err();
    match refused {
        Some(error) => eprintln!("not tested: {error}"),
        None => test(&|pool, limits| new_driver(backend, pool, limits).unwrap()),
    }
}

/// With io_uring and members on a tmpfs.
fn in_memory(test: fn(New)) {
    let place = Path::new("/dev/shm");
    let is_memory = statfs(place).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    if !is_memory {
        return eprintln!("not tested: {} is no tmpfs", place.display());
    }
    PLACE.set(place.to_owned());
    on(Backend::Uring, test);
}

/// Rings and registered buffers of other tests may use up what a user may lock: then waits.
fn new_driver(backend: Backend, pool: &Pool, limits: Limits) -> Result<Driver, DriverError> {
    let start = Instant::now();
    loop {
        match Driver::new(backend, pool, limits) {
            Err(DriverError::Uring(error))
                if error.kind() == io::ErrorKind::OutOfMemory && start.elapsed() < PATIENCE =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

fn member(size_bytes: usize, direct: Direct) -> (tempfile::TempDir, PathBuf, MemberFile) {
    let dir = PLACE.with_borrow(|place| tempfile::tempdir_in(place).unwrap());
    let path = dir.path().join("member");
    create_sparse(&path, size_bytes as u64).unwrap();
    let file = MemberFile::open(
        &path,
        OpenMode {
            direct,
            ..OpenMode::default()
        },
    )
    .unwrap();
    (dir, path, file)
}

fn pools() -> [Pool; 2] {
    [Pool::heap(), Pool::arena(8 * MIB).unwrap()]
}

fn io(token: u64, kind: IoKind) -> Io {
    Io {
        token,
        device: DEVICE,
        kind,
        background: false,
    }
}

fn write(offset: usize, buffers: Vec<Buf>, fua: bool) -> IoKind {
    IoKind::Write {
        offset: offset as u64,
        buffers,
        fua,
    }
}

fn read(pool: &Pool, offset: usize, len: usize) -> IoKind {
    IoKind::Read {
        offset: offset as u64,
        buffer: pool.take(len),
    }
}

/// Bytes that differ from block to block.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (seed * 37 + i / BLOCK * 11 + i % 251) as u8)
        .collect()
}

/// Waits until something has happened.
fn events(driver: &mut Driver) -> Vec<DriverEvent> {
    let mut events = Vec::new();
    driver.wait(Some(PATIENCE), &mut events);
    assert!(!events.is_empty(), "nothing happened");
    events
}

/// Waits for `count` completions and returns them by token.
fn completions(driver: &mut Driver, count: usize) -> HashMap<u64, Completion> {
    let mut found = HashMap::new();
    while found.len() < count {
        for event in events(driver) {
            let DriverEvent::Member(completion) = event else {
                panic!("{event:?}")
            };
            let twice = found.insert(completion.token, completion);
            assert!(twice.is_none(), "completed twice: {twice:?}");
        }
    }
    found
}

fn perform(driver: &mut Driver, kind: IoKind) -> Completion {
    driver.submit_io(io(99, kind));
    completions(driver, 1).remove(&99).unwrap()
}

fn what_is_written_is_read(new: New) {
    for pool in pools() {
        for direct in [Direct::Try, Direct::Never] {
            for fua in [false, true] {
                let (_dir, path, file) = member(MIB, direct);
                let mut driver = new(&pool, Limits::default());
                driver.add_device(DEVICE, file).unwrap();
                let content = pattern(1, 40 * BLOCK);
                let written = perform(
                    &mut driver,
                    write(3 * BLOCK, vec![pool.copy(&content)], fua),
                );
                assert_eq!(written.result, Ok(()));
                assert!(written.buffer.is_none());
                assert_eq!(perform(&mut driver, IoKind::Flush).result, Ok(()));
                let completion = perform(&mut driver, read(&pool, 3 * BLOCK, 40 * BLOCK));
                assert_eq!(completion.result, Ok(()));
                assert!(completion.buffer.unwrap()[..] == content[..]);
                let on_disk = std::fs::read(path).unwrap();
                assert!(on_disk[3 * BLOCK..43 * BLOCK] == content[..]);
                assert!(on_disk[43 * BLOCK..].iter().all(|&byte| byte == 0));
            }
        }
    }
}

fn many_buffers_make_one_write(new: New) {
    for pool in pools() {
        let (_dir, path, file) = member(8 * MIB, Direct::Try);
        let mut driver = new(&pool, Limits::default());
        driver.add_device(DEVICE, file).unwrap();
        // More than the kernel takes in one call.
        let content = pattern(5, 1500 * BLOCK);
        let buffers = content
            .chunks(BLOCK)
            .map(|block| pool.copy(block))
            .collect();
        assert_eq!(
            perform(&mut driver, write(BLOCK, buffers, false)).result,
            Ok(())
        );
        assert!(std::fs::read(path).unwrap()[BLOCK..][..content.len()] == content[..]);
    }
}

fn odd_buffers_are_written_whole(new: New) {
    let pool = Pool::heap();
    for direct in [Direct::Try, Direct::Never] {
        let (_dir, path, file) = member(MIB, direct);
        let mut driver = new(&pool, Limits::default());
        driver.add_device(DEVICE, file).unwrap();
        let content = pattern(9, 8 * BLOCK);
        let whole = pool.copy(&content);
        let cuts = [0, 1, 700, 700, 4096, 9000, 8 * BLOCK];
        let buffers = cuts
            .windows(2)
            .map(|cut| whole.slice(cut[0]..cut[1]))
            .collect();
        assert_eq!(
            perform(&mut driver, write(BLOCK, buffers, false)).result,
            Ok(())
        );
        assert!(std::fs::read(path).unwrap()[BLOCK..9 * BLOCK] == content[..]);
    }
}

fn the_end_of_the_file_is_short(new: New) {
    let pool = Pool::heap();
    for direct in [Direct::Try, Direct::Never] {
        for size_bytes in [4 * BLOCK, 4 * BLOCK + 512, 4 * BLOCK + 100] {
            let (_dir, _path, file) = member(size_bytes, direct);
            let mut driver = new(&pool, Limits::default());
            driver.add_device(DEVICE, file).unwrap();
            for (block, blocks) in [(2, 3), (4, 1), (100, 2)] {
                let kind = read(&pool, block * BLOCK, blocks * BLOCK);
                let completion = perform(&mut driver, kind);
                assert_eq!(
                    completion.result,
                    Err(IoError::Short),
                    "{blocks} at {block}"
                );
                assert_eq!(completion.buffer.unwrap().len(), blocks * BLOCK);
            }
            assert_eq!(
                perform(&mut driver, read(&pool, 0, 4 * BLOCK)).result,
                Ok(())
            );
        }
    }
}

fn read_only_files_refuse_writes(new: New) {
    let pool = Pool::heap();
    let (_dir, path, file) = member(MIB, Direct::Try);
    drop(file);
    let mut driver = new(&pool, Limits::default());
    driver
        .add_device(
            DEVICE,
            MemberFile::open(path, OpenMode::read_only()).unwrap(),
        )
        .unwrap();
    let completion = perform(&mut driver, write(0, vec![pool.copy(&[1; BLOCK])], false));
    assert_eq!(completion.result, Err(IoError::Errno(libc::EBADF)));
    assert_eq!(perform(&mut driver, read(&pool, 0, BLOCK)).result, Ok(()));
}

fn discarding_touches_nothing_else(new: New) {
    let pool = Pool::heap();
    let (_dir, path, file) = member(MIB, Direct::Try);
    let mut driver = new(&pool, Limits::default());
    driver.add_device(DEVICE, file).unwrap();
    let content = pattern(3, MIB);
    assert_eq!(
        perform(&mut driver, write(0, vec![pool.copy(&content)], false)).result,
        Ok(())
    );
    let discard = IoKind::Discard {
        offset: 64 << 10,
        len: 128 << 10,
    };
    assert_eq!(perform(&mut driver, discard).result, Ok(()));
    let on_disk = std::fs::read(path).unwrap();
    assert_eq!(on_disk.len(), MIB);
    assert!(on_disk[..64 << 10] == content[..64 << 10]);
    assert!(on_disk[192 << 10..] == content[192 << 10..]);
}

fn unknown_devices_are_answered(new: New) {
    let pool = Pool::heap();
    let mut driver = new(&pool, Limits::default());
    let completion = perform(&mut driver, read(&pool, 0, BLOCK));
    assert_eq!(completion.result, Err(IoError::Errno(libc::ENODEV)));
    assert_eq!(completion.buffer.unwrap().len(), BLOCK);
}

fn removal_waits_for_the_last_io_and_unlocks(new: New) {
    let pool = Pool::heap();
    let (_dir, path, file) = member(MIB, Direct::Try);
    let mut driver = new(
        &pool,
        Limits {
            in_flight_per_device_max: 2,
            ..Limits::default()
        },
    );
    driver.add_device(DEVICE, file).unwrap();
    let content = pattern(4, BLOCK);
    for token in 0..50 {
        let buffers = vec![pool.copy(&content)];
        driver.submit_io(io(token, write(token as usize * BLOCK, buffers, false)));
    }
    driver.remove_device(DEVICE);
    let locked = MemberFile::open(&path, OpenMode::default());
    assert!(matches!(locked, Err(OpenError::Locked { .. })));
    driver.submit_io(io(50, IoKind::Flush));
    let results = completions(&mut driver, 51);
    assert!((0..50).all(|token| results[&token].result == Ok(())));
    assert_eq!(results[&50].result, Err(IoError::Errno(libc::ENODEV)));
    let soon = OpenMode {
        lock_wait: Duration::from_secs(10),
        ..OpenMode::default()
    };
    MemberFile::open(&path, soon).unwrap();
    assert!(
        std::fs::read(&path)
            .unwrap()
            .chunks(BLOCK)
            .take(50)
            .all(|block| block == content)
    );
}

fn more_operations_than_any_queue_holds(new: New) {
    const OPERATIONS: usize = 2000;
    let limits = Limits {
        ring_entries: 8,
        in_flight_per_device_max: 100,
        ..Limits::default()
    };
    for pool in pools() {
        let (_dir, _path, file) = member(OPERATIONS * BLOCK, Direct::Try);
        let mut driver = new(&pool, limits);
        driver.add_device(DEVICE, file).unwrap();
        for token in 0..OPERATIONS {
            let buffers = vec![pool.copy(&pattern(token, BLOCK))];
            driver.submit_io(io(token as u64, write(token * BLOCK, buffers, false)));
        }
        assert_eq!(driver.in_flight(), OPERATIONS);
        let written = completions(&mut driver, OPERATIONS);
        assert!(
            written
                .values()
                .all(|completion| completion.result == Ok(()))
        );
        assert_eq!(driver.in_flight(), 0);
        for token in 0..OPERATIONS {
            driver.submit_io(io(token as u64, read(&pool, token * BLOCK, BLOCK)));
        }
        for (token, completion) in completions(&mut driver, OPERATIONS) {
            assert_eq!(completion.result, Ok(()));
            assert!(completion.buffer.unwrap()[..] == pattern(token as usize, BLOCK)[..]);
        }
    }
}

fn large_operations_on_many_members_at_once(new: New) {
    const MEMBERS: u32 = 5;
    const EACH: usize = 40;
    const LEN: usize = 16 * BLOCK;
    let place = |token: usize| {
        (
            DeviceId(token as u32 % MEMBERS),
            token / MEMBERS as usize * LEN,
        )
    };
    for pool in pools() {
        let files: Vec<_> = (0..MEMBERS)
            .map(|_| member(EACH * LEN, Direct::Try))
            .collect();
        let mut driver = new(&pool, Limits::default());
        let mut dirs = Vec::new();
        for (id, (dir, _, file)) in files.into_iter().enumerate() {
            driver.add_device(DeviceId(id as u32), file).unwrap();
            dirs.push(dir);
        }
        let operations = MEMBERS as usize * EACH;
        let submit = |driver: &mut Driver, token: usize, kind: &dyn Fn(usize) -> IoKind| {
            let (device, offset) = place(token);
            let (token, kind) = (token as u64, kind(offset));
            driver.submit_io(Io {
                token,
                device,
                kind,
                background: false,
            });
        };
        for token in 0..operations {
            let content = pool.copy(&pattern(token, LEN));
            submit(&mut driver, token, &|at| {
                write(at, vec![content.clone()], false)
            });
        }
        let written = completions(&mut driver, operations);
        assert!(
            written
                .values()
                .all(|completion| completion.result == Ok(()))
        );
        for token in 0..operations {
            submit(&mut driver, token, &|at| read(&pool, at, LEN));
        }
        for (token, completion) in completions(&mut driver, operations) {
            assert_eq!(completion.result, Ok(()));
            assert!(completion.buffer.unwrap()[..] == pattern(token as usize, LEN)[..]);
        }
    }
}

fn background_io_is_whole_and_goes_last(new: New) {
    let pool = Pool::heap();
    let mut driver = new(&pool, Limits::default());
    let (_dir, _path, file) = member(MIB, Direct::Try);
    let in_memory = PLACE.with_borrow(|place| place.starts_with("/dev/shm"));
    driver.add_device(DEVICE, file).unwrap();
    let content = pattern(5, MIB - BLOCK);
    // In pieces of different lengths, as a rebuild has them.
    let pieces = content.chunks(3 * BLOCK).map(|piece| pool.copy(piece));
    let background = |token, kind| Io {
        background: true,
        ..io(token, kind)
    };
    driver.submit_io(background(1, write(0, pieces.collect(), false)));
    driver.submit_io(io(2, read(&pool, MIB - BLOCK, BLOCK)));
    let first = events(&mut driver);
    let is_second = |event: &DriverEvent| matches!(event, DriverEvent::Member(c) if c.token == 2);
    if in_memory {
        assert!(
            first.iter().all(is_second),
            "nobody waits for it: {first:?}"
        );
    }
    let mut left = 2 - first.len();
    while left > 0 {
        left -= events(&mut driver).len();
    }
    driver.submit_io(background(3, read(&pool, 0, content.len())));
    let done = completions(&mut driver, 1).remove(&3).unwrap();
    assert_eq!(done.result, Ok(()));
    assert!(done.buffer.unwrap()[..] == content[..]);
    let told = driver.take_background_time();
    assert_eq!(told > Duration::ZERO, in_memory, "{told:?}");
}

fn empty_operations_succeed(new: New) {
    let pool = Pool::heap();
    let (_dir, _path, file) = member(MIB, Direct::Try);
    let mut driver = new(&pool, Limits::default());
    driver.add_device(DEVICE, file).unwrap();
    assert_eq!(perform(&mut driver, read(&pool, 0, 0)).result, Ok(()));
    assert_eq!(
        perform(&mut driver, write(0, vec![Buf::empty()], true)).result,
        Ok(())
    );
    assert_eq!(
        perform(&mut driver, IoKind::Discard { offset: 0, len: 0 }).result,
        Ok(())
    );
}

fn slow_devices_are_reported_once(new: New) {
    let pool = Pool::heap();
    let (_dir, _path, file) = member(MIB, Direct::Try);
    // Everything is too slow for this limit.
    let mut driver = new(
        &pool,
        Limits {
            member_timeout: Duration::ZERO,
            ..Limits::default()
        },
    );
    driver.add_device(DEVICE, file).unwrap();
    driver.submit_io(io(1, read(&pool, 0, BLOCK)));
    driver.submit_io(io(2, IoKind::Flush));
    let (mut hung, mut completed) = (0, 0);
    while completed < 2 {
        for event in events(&mut driver) {
            match event {
                DriverEvent::MemberHung { device, .. } => {
                    assert_eq!((device, completed), (DEVICE, 0));
                    hung += 1;
                }
                DriverEvent::Member(completion) => {
                    assert_eq!(completion.result, Ok(()));
                    completed += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(hung, 1);
}

fn waking_ends_a_wait(new: New) {
    let mut driver = new(&Pool::heap(), Limits::default());
    let woken = |driver: &mut Driver| {
        let events = events(driver);
        assert!(matches!(events[..], [DriverEvent::Woken]), "{events:?}");
    };
    let waker = driver.waker();
    waker.wake();
    waker.wake();
    woken(&mut driver); // Both at once, and although nobody was waiting.
    for _ in 0..100 {
        let (waker, driver) = (waker.clone(), &mut driver);
        thread::scope(|scope| {
            scope.spawn(move || waker.wake());
            woken(driver);
        });
    }
    let mut events = Vec::new();
    driver.wait(Some(Duration::ZERO), &mut events);
    assert!(events.is_empty(), "woken without a wake: {events:?}");
}

fn a_wait_ends_in_time(new: New) {
    let mut driver = new(&Pool::heap(), Limits::default());
    let (start, timeout) = (Instant::now(), Duration::from_millis(5));
    let mut events = Vec::new();
    driver.wait(Some(timeout), &mut events);
    assert!(events.is_empty());
    assert!(start.elapsed() >= timeout && start.elapsed() < PATIENCE);
}

/// Sends back what comes in on every connection until `streams` of them are closed.
fn serve_echo(driver: &mut Driver, pool: &Pool, listener: OwnedFd, streams: u32) {
    const BUFFER_BYTES: usize = 256 << 10;
    // The first bytes are left out: receiving starts anywhere in a buffer.
    let range = 100..BUFFER_BYTES;
    driver.listen(ListenerId(1), listener);
    let (mut accepted, mut closed) = (0, 0);
    while closed < streams {
        for event in events(driver) {
            match event {
                DriverEvent::Accepted { listener, fd } => {
                    assert_eq!(listener, ListenerId(1));
                    driver.add_stream(StreamId(accepted), fd);
                    driver.recv(StreamId(accepted), pool.take(BUFFER_BYTES), range.clone());
                    accepted += 1;
                }
                DriverEvent::Received {
                    stream,
                    buffer,
                    result,
                } => match result.unwrap() {
                    0 => driver.close_stream(stream),
                    count => {
                        let buffer = buffer.freeze();
                        let (half, end) = (100 + count / 2, 100 + count);
                        let buffers = vec![buffer.slice(100..half), buffer.slice(half..end)];
                        driver.send(stream, buffers);
                    }
                },
                DriverEvent::Sent { stream, result } => {
                    result.unwrap();
                    driver.recv(stream, pool.take(BUFFER_BYTES), range.clone());
                }
                DriverEvent::StreamClosed(_) => closed += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    driver.stop_listening(ListenerId(1));
}

/// Sends `len` bytes and expects them back, reading and writing at the same time.
fn expect_echo<S: Read + Write + Send>(mut sender: S, mut receiver: S, len: usize, end: fn(&S)) {
    let content = pattern(len, len);
    let mut echo = vec![0; len];
    thread::scope(|scope| {
        scope.spawn(|| {
            sender.write_all(&content).unwrap();
            end(&sender);
        });
        receiver.read_exact(&mut echo).unwrap();
        assert_eq!(
            receiver.read(&mut [0]).unwrap(),
            0,
            "more came back than was sent"
        );
    });
    assert!(echo == content);
}

fn streams_echo_over_unix(new: New) {
    for pool in pools() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = listen_unix(&path).unwrap();
        let mut driver = new(&pool, Limits::default());
        thread::scope(|scope| {
            for client in 1..=3 {
                let path = &path;
                scope.spawn(move || {
                    let stream = UnixStream::connect(path).unwrap();
                    let end = |stream: &UnixStream| stream.shutdown(Shutdown::Write).unwrap();
                    expect_echo(stream.try_clone().unwrap(), stream, client * MIB, end);
                });
            }
            serve_echo(&mut driver, &pool, listener, 3);
        });
    }
}

fn streams_echo_over_tcp(new: New) {
    let pool = Pool::arena(8 * MIB).unwrap();
    let (listener, address) = listen_tcp("127.0.0.1", 0).unwrap();
    let mut driver = new(&pool, Limits::default());
    thread::scope(|scope| {
        scope.spawn(|| {
            let stream = TcpStream::connect(address).unwrap();
            let end = |stream: &TcpStream| stream.shutdown(Shutdown::Write).unwrap();
            expect_echo(stream.try_clone().unwrap(), stream, 20 * MIB, end);
        });
        serve_echo(&mut driver, &pool, listener, 1);
    });
}

fn an_ended_stream_is_known_before_its_bytes_are_read(new: New) {
    let pool = Pool::heap();
    let (mut driver, mut far) = connected(new, &pool);
    far.write_all(b"last words").unwrap();
    assert!(driver.ended_streams().is_empty());
    drop(far);
    assert_eq!(driver.ended_streams(), [StreamId(1)]);
    driver.recv(StreamId(1), pool.take(64), 0..64);
    let received = events(&mut driver);
    assert!(
        matches!(received[..], [DriverEvent::Received { result: Ok(10), .. }]),
        "{received:?}"
    );
}

fn a_stream_goes_on_in_another_driver(new: New) {
    let pool = Pool::heap();
    let (mut first, mut far) = connected(new, &pool);
    first.send(StreamId(1), vec![pool.copy(b"from the first")]);
    assert!(matches!(
        events(&mut first)[..],
        [DriverEvent::Sent { result: Ok(()), .. }]
    ));
    let fd = first.release_stream(StreamId(1));
    let mut second = new(&pool, Limits::default());
    second.add_stream(StreamId(7), fd);
    drop(first);
    far.write_all(b"to the second").unwrap();
    second.recv(StreamId(7), pool.take(64), 0..64);
    let received = events(&mut second);
    let [
        DriverEvent::Received {
            buffer,
            result: Ok(13),
            ..
        },
    ] = &received[..]
    else {
        panic!("{received:?}")
    };
    assert_eq!(&buffer[..13], b"to the second");
    let mut text = [0; 14];
    far.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"from the first");
}

/// A driver with one end of a connection as stream 1, and the other end.
fn connected(new: New, pool: &Pool) -> (Driver, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut driver = new(pool, Limits::default());
    driver.add_stream(StreamId(1), near.into());
    (driver, far)
}

fn a_send_of_many_buffers_is_complete(new: New) {
    let pool = Pool::heap();
    let (mut driver, mut far) = connected(new, &pool);
    let content = pattern(2, 20 * MIB + 777);
    let buffers = content.chunks(6000).map(|bytes| pool.copy(bytes)).collect();
    driver.send(StreamId(1), buffers);
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        received
    });
    let sent = events(&mut driver);
    assert!(
        matches!(sent[..], [DriverEvent::Sent { result: Ok(()), .. }]),
        "{sent:?}"
    );
    driver.close_stream(StreamId(1));
    assert!(matches!(
        events(&mut driver)[..],
        [DriverEvent::StreamClosed(StreamId(1))]
    ));
    assert!(reader.join().unwrap() == content);
}

fn both_directions_at_once(new: New) {
    let pool = Pool::heap();
    let (mut driver, mut far) = connected(new, &pool);
    driver.recv(StreamId(1), pool.take(10), 0..10);
    // Far more than the socket holds: the send waits for the peer to read.
    driver.send(StreamId(1), vec![pool.copy(&pattern(1, 8 * MIB))]);
    far.write_all(b"over").unwrap();
    let received = events(&mut driver);
    let [
        DriverEvent::Received {
            buffer,
            result: Ok(4),
            ..
        },
    ] = &received[..]
    else {
        panic!("{received:?}")
    };
    assert_eq!(&buffer[..4], b"over");
    let reader = thread::spawn(move || far.read_exact(&mut vec![0; 8 * MIB]));
    assert!(matches!(
        events(&mut driver)[..],
        [DriverEvent::Sent { result: Ok(()), .. }]
    ));
    reader.join().unwrap().unwrap();
}

fn a_dead_peer_fails_the_send(new: New) {
    let pool = Pool::heap();
    let (mut driver, far) = connected(new, &pool);
    drop(far);
    driver.send(StreamId(1), vec![pool.copy(&[1; 100])]);
    let sent = events(&mut driver);
    let [
        DriverEvent::Sent {
            result: Err(error), ..
        },
    ] = &sent[..]
    else {
        panic!("{sent:?}")
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    driver.recv(StreamId(1), pool.take(10), 0..10);
    assert!(matches!(
        events(&mut driver)[..],
        [DriverEvent::Received { result: Ok(0), .. }]
    ));
}

fn closing_ends_what_is_under_way(new: New) {
    let pool = Pool::arena(16 * MIB).unwrap();
    let (mut driver, far) = connected(new, &pool);
    driver.recv(StreamId(1), pool.take(MIB), 0..MIB);
    driver.send(StreamId(1), vec![pool.copy(&pattern(1, 8 * MIB))]);
    let mut nothing = Vec::new();
    driver.wait(Some(Duration::ZERO), &mut nothing);
    assert!(nothing.is_empty(), "{nothing:?}");
    driver.close_stream(StreamId(1));
    driver.close_stream(StreamId(1));
    let closed = events(&mut driver);
    assert!(
        matches!(closed[..], [DriverEvent::StreamClosed(StreamId(1))]),
        "{closed:?}"
    );
    assert_eq!(pool.stats().arena_used_bytes, 0);
    // The id is free again.
    driver.add_stream(StreamId(1), far.into());
}

fn a_stopped_listener_accepts_nobody(new: New) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let mut driver = new(&Pool::heap(), Limits::default());
    driver.listen(ListenerId(1), listen_unix(&path).unwrap());
    let _client = UnixStream::connect(&path).unwrap();
    let accepted = events(&mut driver);
    assert!(
        matches!(accepted[..], [DriverEvent::Accepted { .. }]),
        "{accepted:?}"
    );
    driver.stop_listening(ListenerId(1));
    let mut nothing = Vec::new();
    while driver.in_flight() > 0 {
        driver.wait(Some(Duration::from_millis(1)), &mut nothing);
    }
    assert!(nothing.is_empty(), "{nothing:?}");
    let refused = UnixStream::connect(&path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

fn dropping_with_work_under_way_is_safe(new: New) {
    let pool = Pool::arena(16 * MIB).unwrap();
    let (_dir, path, file) = member(MIB, Direct::Try);
    let (mut driver, mut far) = connected(new, &pool);
    driver.add_device(DEVICE, file).unwrap();
    driver.recv(StreamId(1), pool.take(MIB), 0..MIB);
    for token in 0..200 {
        driver.submit_io(io(token, read(&pool, 0, BLOCK)));
    }
    drop(driver);
    assert_eq!(pool.stats().arena_used_bytes, 0);
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "the stream is closed");
    MemberFile::open(path, OpenMode::default()).expect("the device is closed");
}

#[test]
fn a_driver_may_be_made_on_another_thread() {
    fn sent<T: Send>(_: &T) {}
    let driver = Driver::new(Backend::Auto, &Pool::heap(), Limits::default()).unwrap();
    sent(&driver);
    let woken = thread::spawn(move || {
        let mut driver = driver;
        driver.waker().wake();
        events(&mut driver).len()
    });
    assert_eq!(woken.join().unwrap(), 1);
}

#[test]
fn the_backend_in_use_is_told() {
    let driver = Driver::new(Backend::Threads, &Pool::heap(), Limits::default()).unwrap();
    assert_eq!(
        (driver.kind(), driver.fallback_reason()),
        (Kind::Threads, None)
    );
    let driver = Driver::new(Backend::Auto, &Pool::heap(), Limits::default()).unwrap();
    assert_eq!(
        driver.kind() == Kind::Threads,
        driver.fallback_reason().is_some()
    );
}

//! The client against servers of several kinds: one that does one thing at a time and says
//! nothing to those who do not listen, nbdkit and qemu-nbd.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use uraid_load::{Address, Clients, Drive, Kind, Limit, Load, Order};
use uraid_nbd::wire::{command, transmission_flag};

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 64 * MIB;

/// What a connection asked of the serial server.
#[derive(Default, Debug)]
struct Seen {
    reads: u64,
    writes: u64,
    flushes: u64,
    /// Offsets of writes, in order.
    written_at: Vec<u64>,
    goodbye: bool,
}

/// Serves one connection, one request at a time: while its replies are not taken it takes no
/// request. Replies with `errno` to every request if that is not 0.
fn serve(mut stream: impl Read + Write, errno: u32) -> Seen {
    handshake(&mut stream);
    let mut seen = Seen::default();
    let mut payload = vec![0; MIB as usize];
    let mut header = [0; 28];
    while stream.read_exact(&mut header).is_ok() {
        let command = u16::from_be_bytes([header[6], header[7]]);
        let offset = u64::from_be_bytes(header[16..24].try_into().unwrap());
        let len = u32::from_be_bytes(header[24..28].try_into().unwrap()) as usize;
        assert!(offset + len as u64 <= SIZE_BYTES);
        match command {
            command::READ => seen.reads += 1,
            command::WRITE => {
                stream.read_exact(&mut payload[..len]).expect("payload");
                seen.writes += 1;
                seen.written_at.push(offset);
            }
            command::FLUSH => seen.flushes += 1,
            command::DISC => {
                seen.goodbye = true;
                break;
            }
            other => panic!("command {other}"),
        }
        let mut reply = 0x6744_6698u32.to_be_bytes().to_vec();
        reply.extend(errno.to_be_bytes());
        reply.extend(&header[8..16]);
        if command == command::READ {
            reply.extend(&payload[..len]);
        }
        if stream.write_all(&reply).is_err() {
            break;
        }
    }
    seen
}

/// Grants whatever export is asked for.
fn handshake(stream: &mut (impl Read + Write)) {
    stream
        .write_all(b"NBDMAGICIHAVEOPT\x00\x03")
        .expect("greet");
    let mut option = [0; 4 + 16];
    stream.read_exact(&mut option).expect("flags and an option");
    let len = u32::from_be_bytes(option[16..20].try_into().unwrap());
    let mut data = vec![0; len as usize];
    stream.read_exact(&mut data).expect("its data");
    let flags = transmission_flag::HAS_FLAGS | transmission_flag::SEND_FLUSH;
    let magic = &0x0003_e889_0455_65a9u64.to_be_bytes()[..];
    let go = &option[12..16];
    let info = [&[0, 0][..], &SIZE_BYTES.to_be_bytes(), &flags.to_be_bytes()].concat();
    let told = [magic, go, &[0, 0, 0, 3, 0, 0, 0, 12], &info].concat();
    let granted = [magic, go, &[0, 0, 0, 1, 0, 0, 0, 0]].concat();
    stream.write_all(&[told, granted].concat()).expect("send");
}

/// A serial server for so many connections.
fn serial(dir: &Path, connections: usize, errno: u32) -> (Address, JoinHandle<Vec<Seen>>) {
    let path = dir.join("serial.nbd");
    let listener = UnixListener::bind(&path).expect("bind");
    let serve_all = move || {
        let serve_next = |_| {
            let stream: UnixStream = listener.accept().expect("accept").0;
            thread::spawn(move || serve(stream, errno))
        };
        let threads: Vec<_> = (0..connections).map(serve_next).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    };
    (Address::unix(path), thread::spawn(serve_all))
}

/// Drives a serial server and returns what both sides counted.
fn drive_serial(connections: usize, load: &Load, limit: Limit) -> (Drive, Vec<Seen>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (address, server) = serial(dir.path(), connections, 0);
    let mut clients = Clients::open(&address, connections, 7).expect("connections");
    let drive = clients.drive(load, limit, |_| ()).expect("a drive");
    drop(clients);
    (drive, server.join().expect("the server"))
}

/// Both sockets are full in both directions, over and over.
#[test]
fn a_server_that_waits_for_its_replies_to_be_taken_is_no_deadlock() {
    let mixed = Kind::Mixed { read_percent: 50 };
    let load = Load::new(mixed, Order::Random, MIB as usize, 32);
    let (drive, seen) = drive_serial(1, &load, Limit::Requests(400));
    assert_eq!(drive.requests, 400);
    assert_eq!(seen[0].reads + seen[0].writes, 400);
    assert_eq!(drive.read_bytes, seen[0].reads * MIB);
    assert_eq!(drive.written_bytes, seen[0].writes * MIB);
    assert!(seen[0].goodbye);
}

#[test]
fn a_write_and_its_flush_count_as_one() {
    let load = Load::new(Kind::WriteAndFlush, Order::Scattered, 4096, 4);
    let (drive, seen) = drive_serial(1, &load, Limit::Requests(100));
    assert_eq!((drive.requests, drive.written_bytes), (100, 100 * 4096));
    let seen = &seen[0];
    assert_eq!((seen.reads, seen.writes, seen.flushes), (0, 100, 100));
}

#[test]
fn several_connections_share_the_requests_and_the_export() {
    let load = Load::new(Kind::Write, Order::Sequential, MIB as usize, 4);
    let (drive, seen) = drive_serial(4, &load, Limit::Requests(32));
    assert_eq!(drive.requests, 32);
    let mut quarters: Vec<u64> = seen.iter().map(|s| s.written_at[0]).collect();
    quarters.sort_unstable();
    assert_eq!(quarters, [0, 16 * MIB, 32 * MIB, 48 * MIB]);
    for seen in &seen {
        let first = seen.written_at[0];
        let expected: Vec<u64> = (0..8).map(|i| first + i * MIB).collect();
        assert_eq!(seen.written_at, expected);
    }
}

#[test]
fn a_fill_writes_each_place_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (address, server) = serial(dir.path(), 2, 0);
    let mut clients = Clients::open(&address, 2, 7).expect("connections");
    clients.fill(u64::MAX, |_| ()).expect("a fill");
    drop(clients);
    let seen = server.join().expect("the server");
    let all: Vec<u64> = seen.iter().flat_map(|s| s.written_at.clone()).collect();
    assert_eq!(all, (0..64).map(|i| i * MIB).collect::<Vec<_>>());
    assert_eq!(seen.iter().map(|s| s.flushes).sum::<u64>(), 1);
}

#[test]
fn a_time_limit_is_kept_and_progress_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (address, _server) = serial(dir.path(), 1, 0);
    let mut clients = Clients::open(&address, 1, 7).expect("a connection");
    let load = Load::new(Kind::Read, Order::Random, 4096, 8);
    let mut told = Vec::new();
    let time = Duration::from_millis(500);
    let drive = clients.drive(&load, Limit::Time(time), |p| told.push(p));
    let drive = drive.expect("a drive");
    assert!((0.5..10.0).contains(&drive.seconds), "{drive:?}");
    assert!(!told.is_empty());
    let grows = |pair: &[uraid_load::Progress]| pair[0].requests <= pair[1].requests;
    assert!(told.windows(2).all(grows), "{told:?}");
    assert!(told.last().is_some_and(|p| p.requests <= drive.requests));
}

#[test]
fn an_error_of_the_server_ends_the_drive() {
    let dir = tempfile::tempdir().expect("a directory");
    let (address, _server) = serial(dir.path(), 1, 5);
    let mut clients = Clients::open(&address, 1, 7).expect("a connection");
    let load = Load::new(Kind::Read, Order::Random, 4096, 1);
    let error = clients.drive(&load, Limit::Requests(1), |_| ());
    let text = error.expect_err("an error").to_string();
    assert_eq!(text, "the server answered with error 5");
}

#[test]
fn an_export_without_room_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (address, _server) = serial(dir.path(), 2, 0);
    let mut clients = Clients::open(&address, 2, 7).expect("connections");
    let load = Load {
        working_set_bytes: Some(MIB),
        ..Load::new(Kind::Read, Order::Sequential, MIB as usize, 1)
    };
    let error = clients.drive(&load, Limit::Requests(1), |_| ());
    let text = error.expect_err("an error").to_string();
    assert!(text.contains("no room for 2 requests"), "{text}");
}

#[test]
fn a_server_on_tcp_is_driven_too() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = Address::tcp(listener.local_addr().expect("an address").to_string());
    let server = thread::spawn(move || serve(listener.accept().expect("accept").0, 0));
    let mut clients = Clients::open(&address, 1, 7).expect("a connection");
    let load = Load::new(Kind::Write, Order::Random, MIB as usize, 32);
    let drive = clients.drive(&load, Limit::Requests(100), |_| ());
    assert_eq!(drive.expect("a drive").requests, 100);
    drop(clients);
    assert_eq!(server.join().expect("the server").writes, 100);
}

/// A server of somebody else's, ended when dropped.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Drives a server that listens at what stands for `SOCKET` with all kinds of load.
fn drive_foreign(name: &str, arguments: &[&str]) {
    if Command::new(name).arg("--version").output().is_err() {
        println!("SKIPPED: {name} is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = File::create(dir.path().join("plain")).expect("a file");
    file.set_len(SIZE_BYTES).expect("its size");
    let mut command = Command::new(name);
    let socket = dir.path().join("socket");
    command.args(arguments.iter().map(|a| match *a {
        "SOCKET" => socket.as_os_str(),
        other => OsStr::new(other),
    }));
    command.current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let _server = Foreign(command.spawn().expect(name));
    let address = Address::unix(&socket);
    let mut clients = (0..500)
        .find_map(|_| {
            thread::sleep(Duration::from_millis(20));
            Clients::open(&address, 4, 7).ok()
        })
        .expect("it listens after a while");
    clients.fill(u64::MAX, |_| ()).expect("a fill");
    let mixed = Kind::Mixed { read_percent: 50 };
    for (kind, bytes) in [
        (mixed, MIB as usize),
        (Kind::Write, MIB as usize),
        (Kind::Read, 4096),
        (Kind::WriteAndFlush, 4096),
    ] {
        let load = Load::new(kind, Order::Random, bytes, 32);
        let drive = clients.drive(&load, Limit::Requests(500), |_| ());
        assert_eq!(drive.expect("a drive").requests, 500, "{kind:?}");
    }
}

#[test]
fn nbdkit_is_driven() {
    drive_foreign("nbdkit", &["-f", "-U", "SOCKET", "file", "plain"]);
}

#[test]
fn qemu_nbd_is_driven() {
    let arguments = ["-t", "-e", "8", "-f", "raw", "-k", "SOCKET", "plain"];
    drive_foreign("qemu-nbd", &arguments);
}

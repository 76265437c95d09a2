//! Limits of an export: clients get what is set, all together, and nobody else notices.

mod common;

use common::client::Client;
use common::{Sandbox, Server, USAGE};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use uraid_load::{Address, Clients, Drive, Kind, Limit, Load, Order};

/// Shares of a limit that clients get at least and at most.
const SHARE: std::ops::RangeInclusive<f64> = 0.85..=1.05;

/// How often clients may get less: others may use the machine as well.
const TRIES_MAX: usize = 5;

fn array(sandbox: &Sandbox, name: &str) -> Vec<PathBuf> {
    let members: Vec<_> = (0..2).map(|i| sandbox.path(format!("{name}{i}"))).collect();
    let options = format!("--level raid1 --name {name} --size 64M --export-size 32M");
    sandbox.create(&options, &members);
    members
}

/// A served array named "tank".
fn served(options: &str) -> (Sandbox, Server) {
    let sandbox = Sandbox::new();
    let members = array(&sandbox, "tank");
    let server = sandbox.serve_with(options, &members);
    (sandbox, server)
}

fn address(server: &Server, export: &str) -> Address {
    Address::Unix {
        path: server.socket.clone(),
        export: export.to_string(),
    }
}

fn clients(server: &Server, export: &str, connections: usize) -> Clients {
    Clients::open(&address(server, export), connections, 1).expect("clients")
}

/// Reads and writes of so many bytes, 16 under way on each connection.
fn drive(clients: &mut Clients, bytes: usize, limit: Limit) -> Drive {
    let kind = Kind::Mixed { read_percent: 50 };
    let load = Load::new(kind, Order::Random, bytes, 16);
    clients.drive(&load, limit, |_| {}).expect("a drive")
}

fn two_seconds() -> Limit {
    Limit::Time(Duration::from_secs(2))
}

/// Drives clients for some time, beginning with a burst at most: how much they get of a limit in a
/// second.
fn assert_keeps_to(what: &str, limit: u64, burst: u64, mut drive: impl FnMut() -> (u64, f64)) {
    for _ in 0..TRIES_MAX {
        let (amount, seconds) = drive();
        let share = |amount: u64| amount as f64 / seconds / limit as f64;
        let (least, most) = (share(amount - burst), share(amount));
        println!("{what}: {least:.3} to {most:.3} of the limit");
        assert!(least <= *SHARE.end(), "{what}: {amount} in {seconds} s");
        if most >= *SHARE.start() {
            return;
        }
    }
    panic!("{what}: clients got less than the limit {TRIES_MAX} times");
}

fn limits(sandbox: &Sandbox, server: &Server) -> Value {
    server.status(sandbox)["limits"].take()
}

/// CPU time that a process has used, in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |i: usize| fields[i].parse::<u64>().expect("a number");
    field(11) + field(12)
}

#[test]
fn all_clients_together_get_the_requests_and_bytes_that_are_set() {
    for readers in [0, 2] {
        let options = format!("--readers {readers} --export tank,iops=400,iops-burst=20");
        let (sandbox, server) = served(&options);
        let mut four = clients(&server, "tank", 4);
        let what = |what: &str| format!("{what} with {readers} readers");
        assert_keeps_to(&what("requests"), 400, 20, || {
            let found = drive(&mut four, 4096, two_seconds());
            (found.requests, found.seconds)
        });
        let set = ["iops=0", "bandwidth=16M", "bandwidth-burst=1M"];
        server.uraid(&sandbox, "set", set).succeeded();
        let reads = Load::new(Kind::Read, Order::Random, 64 << 10, 16);
        assert_keeps_to(&what("bytes"), 16 << 20, 1 << 20, || {
            let found = drive(&mut four, 64 << 10, two_seconds());
            (found.bytes(), found.seconds)
        });
        // What was read before comes from readers.
        for again in ["first reads", "reads"] {
            assert_keeps_to(&what(again), 16 << 20, 1 << 20, || {
                let found = four.drive(&reads, two_seconds(), |_| {}).expect("reads");
                (found.bytes(), found.seconds)
            });
        }
        let limits = limits(&sandbox, &server);
        assert_eq!(limits["iops"], 0);
        assert_eq!(limits["bytes_per_second"], 16 << 20);
        assert!(limits["delayed"].as_u64() > Some(500), "{limits}");
        assert!(limits["delayed_nanos"].as_u64() > Some(0), "{limits}");
        let text = server.uraid(&sandbox, "status", [""; 0]).succeeded().stdout;
        assert!(text.contains("clients get 16 MiB/s at most; "), "{text}");
        assert!(text.contains("had to wait, for "), "{text}");
    }
}

#[test]
fn a_burst_goes_at_once_and_then_the_limit_holds() {
    let (_sandbox, server) = served("--export tank,iops=100,iops-burst=300");
    let mut client = clients(&server, "tank", 1);
    let burst = drive(&mut client, 4096, Limit::Requests(300));
    assert!(burst.seconds < 1.5, "{burst:?}");
    let then = drive(&mut client, 4096, Limit::Requests(150));
    let rate = (then.requests as f64 + burst.seconds * 100.0) / (burst.seconds + then.seconds);
    assert!(
        then.seconds > 1.5 - burst.seconds - 0.2,
        "{burst:?} {then:?}"
    );
    println!("burst in {:.3} s, then {rate:.0} a second", burst.seconds);
}

#[test]
fn other_exports_are_not_slowed_and_who_waits_costs_nothing() {
    let sandbox = Sandbox::new();
    let members = [array(&sandbox, "tank"), array(&sandbox, "home")].concat();
    let control = sandbox.dir().display();
    let options = format!("--control {control} --export tank,iops=20,iops-burst=1");
    let server = sandbox.serve_with(&options, &members);
    let mut waiting = clients(&server, "tank", 8);
    let waits = thread::spawn(move || drive(&mut waiting, 4096, Limit::Requests(80)));
    let mut free = clients(&server, "home", 1);
    let found = drive(&mut free, 4096, Limit::Requests(500));
    assert!(
        found.seconds < 3.0,
        "500 would take 25 s at 20 a second: {found:?}"
    );
    let (before, from) = (ticks(server.pid()), Instant::now());
    let found = waits.join().expect("no panic");
    let share = (ticks(server.pid()) - before) as f64 / 100.0 / from.elapsed().as_secs_f64();
    println!("waiting takes {share:.3} of a core");
    assert!(share < 0.25, "{share:.3} of a core to wait");
    assert!(found.seconds > 3.5, "{found:?}");
}

#[test]
fn limits_are_lifted_and_set_under_way() {
    let (sandbox, server) = served("");
    let mut client = clients(&server, "tank", 2);
    let free = drive(&mut client, 4096, Limit::Requests(400));
    assert_eq!(limits(&sandbox, &server)["delayed"], 0);
    let set = |settings: &[&str]| server.uraid(&sandbox, "set", settings).succeeded().stdout;
    let said = set(&["iops=5", "iops-burst=1"]);
    assert!(said.contains("at most 5 requests/s (1 at once)"), "{said}");
    // Would take 80 s.
    let waits = thread::spawn(move || drive(&mut client, 4096, Limit::Requests(400)));
    thread::sleep(Duration::from_millis(500));
    let said = set(&["iops=0", "hedge-percent=1"]);
    assert!(
        said.contains("not limited") && said.contains("may add 1 %"),
        "{said}"
    );
    let found = waits.join().expect("no panic");
    assert!(found.seconds < 20.0, "{free:?} {found:?}");
    assert!(found.seconds >= 0.4, "the limit held: {found:?}");
    set(&["iops=7", "--dry-run"]);
    assert_eq!(limits(&sandbox, &server)["iops"], 0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (sandbox, server) = served("");
    for (setting, what) in [
        ("iops=many", "no number of requests"),
        ("iops=1.5", "no number of requests"),
        ("bandwidth=fast", "a size is"),
        ("iops-burst=9", "without iops"),
        ("bandwidth-burst=1M", "without bandwidth"),
    ] {
        let refused = server.uraid(&sandbox, "set", [setting]);
        refused.exits(USAGE).says(&[what]);
        let export = format!("tank,{setting}");
        let place = sandbox.path("tank0");
        let args = [
            "serve".into(),
            "--export".into(),
            export.into(),
            place.into(),
        ];
        let args: [std::ffi::OsString; 4] = args;
        sandbox.uraid(args).exits(USAGE).says(&[what]);
    }
    assert_eq!(limits(&sandbox, &server)["iops"], 0);
    let file = sandbox.path("uraid.toml");
    let tank = sandbox.path("tank0");
    let text = format!("members = {tank:?}\n[export.tank]\nbandwidth-burst = \"1M\"\n");
    std::fs::write(&file, text).expect("a file");
    let check = ["config".into(), "check".into(), file.into_os_string()];
    let ran = sandbox.uraid(check).exits(USAGE);
    let found = ran.stdout;
    assert!(
        found.contains("bandwidth-burst means nothing without bandwidth"),
        "{found}"
    );
}

/// Requests of a client that does not wait for answers; the last one is a flush.
fn send_writes_and_flush(server: &Server, writes: u64) -> std::os::unix::net::UnixStream {
    let mut stream = Client::connect(&server.socket, "tank")
        .expect("a client")
        .into_stream();
    let mut bytes = Vec::new();
    for cookie in 0..=writes {
        let (command, len) = if cookie == writes {
            (3u16, 0)
        } else {
            (1, 4096)
        };
        bytes.extend(0x2560_9513u32.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend((cookie * 4096 * u64::from(len > 0)).to_be_bytes());
        bytes.extend((len as u32).to_be_bytes());
        bytes.extend(vec![7; len]);
    }
    stream.write_all(&bytes).expect("requests");
    stream
}

#[test]
fn each_request_is_answered_in_the_end_and_a_flush_waits_behind_its_writes() {
    let (_sandbox, server) = served("--export tank,iops=50,iops-burst=1");
    let begun = Instant::now();
    let mut stream = send_writes_and_flush(&server, 60);
    let mut cookies = Vec::new();
    for _ in 0..=60 {
        let mut reply = [0; 16];
        stream.read_exact(&mut reply).expect("an answer");
        assert_eq!(reply[4..8], [0; 4], "no error");
        cookies.push(u64::from_be_bytes(reply[8..].try_into().expect("8 bytes")));
    }
    assert!(
        begun.elapsed() > Duration::from_millis(1100),
        "{:?}",
        begun.elapsed()
    );
    // It may overtake the last writes while those are carried out, and none that still waits.
    let flushed = cookies.iter().position(|cookie| *cookie == 60);
    assert!(flushed >= Some(55), "{cookies:?}");
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(0..=60));
}

#[test]
fn who_waits_keeps_neither_newcomers_nor_a_stop_waiting() {
    let (_sandbox, mut server) = served("--export tank,iops=1,iops-burst=1");
    let begun = Instant::now();
    drop(send_writes_and_flush(&server, 100));
    let mut newcomer = Client::connect(&server.socket, "tank").expect("a newcomer");
    newcomer.read(0, 4096).expect("read");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let _waiting = send_writes_and_flush(&server, 100);
    thread::sleep(Duration::from_millis(200));
    let stopped = Instant::now();
    server.signal(Signal::SIGTERM);
    assert!(server.wait_end().success());
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

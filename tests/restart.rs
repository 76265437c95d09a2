//! Clients that can reconnect do not notice that the server is restarted, killed or upgraded: no
//! error, no wrong byte. And an upgrade is short, closes no door, and does not begin if the new
//! program is not fit.

mod common;

use common::client::{Client, Failure};
use common::manager::Manager;
use common::pattern::{BLOCK, Random, blocks, version_of};
use common::sandbox::{URAID, raid5};
use common::{FAILED, PATIENCE, Sandbox, Server, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Writers on connections of their own; block b belongs to writer b % WRITERS.
const WRITERS: u64 = 3;

/// Blocks they work on: few, so that they meet in every stripe.
const BLOCKS: u64 = 3072;

/// Longest pause of an upgrade that passes: far more than is promised, as tests run on machines
/// that are busy with other tests.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A server that always comes back to the same sockets.
struct Phoenix<'a> {
    sandbox: &'a Sandbox,
    members: &'a [PathBuf],
    server: Option<Server>,
}

impl<'a> Phoenix<'a> {
    fn new(sandbox: &'a Sandbox, members: &'a [PathBuf]) -> Phoenix<'a> {
        let mut phoenix = Phoenix {
            sandbox,
            members,
            server: None,
        };
        phoenix.start();
        phoenix
    }

    fn socket(&self) -> PathBuf {
        self.sandbox.path("phoenix.sock")
    }

    fn control(&self) -> PathBuf {
        self.sandbox.path("phoenix.ctl")
    }

    fn start(&mut self) {
        let (socket, control) = (self.socket(), self.control());
        let options = format!(
            "--listen unix:{} --control {}",
            socket.display(),
            control.display()
        );
        self.server = Some(self.sandbox.serve_with(&options, self.members));
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it is up")
    }

    fn kill9(&mut self) {
        self.server.take().expect("it is up").kill9();
        self.start();
    }

    fn restart(&mut self) {
        self.server.take().expect("it is up").stop();
        self.start();
    }

    fn upgrade(&mut self) {
        let pid = self.server().pid();
        let control = self.control();
        let control = control.to_str().expect("UTF-8");
        self.sandbox
            .uraid(["upgrade", "--control", control])
            .succeeded();
        assert_eq!(self.status()["pid"], pid);
    }

    fn status(&self) -> Value {
        let control = self.control();
        let control = control.to_str().expect("UTF-8");
        self.sandbox
            .uraid(["status", "--json", "--control", control])
            .json()
    }

    fn upgrades(&self) -> u64 {
        self.status()["upgrades"].as_u64().expect("a number")
    }
}

/// What stands between the test and the server, and reconnects.
struct Proxy {
    child: Child,
    socket: PathBuf,
}

impl Proxy {
    fn start(mut command: Command, socket: PathBuf) -> Proxy {
        command.stdin(Stdio::null());
        let mut child = command.spawn().expect("a proxy");
        wait_for("the proxy", || {
            let ended = child.try_wait().expect("exit status");
            assert!(ended.is_none(), "the proxy ended: {ended:?}");
            UnixStream::connect(&socket).ok()
        });
        Proxy { child, socket }
    }

    /// nbdkit's nbd plugin under its retry filter.
    fn nbdkit(sandbox: &Sandbox, server: &Path) -> Proxy {
        let socket = sandbox.path("nbdkit.sock");
        let mut command = sandbox.command("nbdkit");
        command.args(["--foreground", "--filter=retry", "--unix"]);
        command.arg(&socket).arg("nbd");
        command.arg(format!("uri=nbd+unix:///?socket={}", server.display()));
        command.args([
            "retry=30",
            "retries=60",
            "retry-delay=1",
            "retry-exponential=no",
        ]);
        Proxy::start(command, socket)
    }

    /// qemu's client, with what it has for this.
    fn qemu(sandbox: &Sandbox, server: &Path) -> Proxy {
        let socket = sandbox.path("qemu.sock");
        let mut command = sandbox.command("qemu-storage-daemon");
        command.arg("--blockdev").arg(format!(
            "driver=nbd,node-name=array,server.type=unix,server.path={},reconnect-delay=60,\
             open-timeout=60",
            server.display()
        ));
        let place = socket.display();
        command.args(["--nbd-server", &format!("addr.type=unix,addr.path={place}")]);
        command.args([
            "--export",
            "type=nbd,id=export,node-name=array,name=,writable=on",
        ]);
        Proxy::start(command, socket)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One writer and what it knows of its blocks: the version last written.
struct Writer {
    client: Client,
    number: u64,
    random: Random,
    known: HashMap<u64, u64>,
}

impl Writer {
    fn new(socket: &Path, number: u64, random: Random) -> Writer {
        Writer {
            client: Client::connect(socket, "").expect("connect"),
            number,
            random,
            known: HashMap::new(),
        }
    }

    /// A write, and now and then a look at what was written before, or a flush.
    fn step(&mut self, version: u64) {
        let block = self.random.below(BLOCKS / WRITERS) * WRITERS + self.number;
        let content = blocks(block, 1, version);
        let written = self.client.write(block * BLOCK as u64, &content);
        written.unwrap_or_else(|failure| panic!("write {version}: {failure:?}"));
        self.known.insert(block, version);
        match self.random.below(32) {
            0 => self.client.flush().expect("flush"),
            1..8 => {
                let block = self.random.below(BLOCKS / WRITERS) * WRITERS + self.number;
                self.check(block);
            }
            _ => {}
        }
    }

    /// A block is exactly what was written last: nothing older, nothing else.
    fn check(&mut self, block: u64) {
        let content = self.client.read(block * BLOCK as u64, BLOCK);
        let content = content.unwrap_or_else(|failure| panic!("read {block}: {failure:?}"));
        let expected = self.known.get(&block).copied().unwrap_or(0);
        let found = match content.iter().all(|byte| *byte == 0) {
            true => Ok(0),
            false => version_of(block, &content),
        };
        assert_eq!(found, Ok(expected), "block {block}");
    }

    fn check_all(&mut self) {
        let mut known: Vec<u64> = self.known.keys().copied().collect();
        known.sort_unstable();
        for block in known {
            self.check(block);
        }
    }
}

/// Runs `trouble` while writers are at work behind `proxy`; then every block is looked at.
/// `trouble` gets the number of writes done so far, so that it can wait for more.
fn write_and_verify(proxy: &Proxy, random: &mut Random, trouble: impl FnOnce(&AtomicU64)) {
    let writers = (0..WRITERS).map(|number| {
        let random = Random::new(random.next());
        Mutex::new(Writer::new(&proxy.socket, number, random))
    });
    let writers: Vec<_> = writers.collect();
    let (done, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for writer in &writers {
            scope.spawn(|| {
                let mut writer = writer.lock().expect("its own");
                while !done.load(Ordering::Acquire) {
                    let version = 1 + written.fetch_add(1, Ordering::AcqRel);
                    writer.step(version);
                }
            });
        }
        // A failure in here must not leave the writers at work for ever.
        let finish = Finish(&done);
        trouble(&written);
        drop(finish);
    });
    for writer in writers {
        writer.into_inner().expect("no writer panics").check_all();
    }
}

struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Ten restarts, five of them by kill -9, with writes between any two.
fn ten_restarts(proxy: impl FnOnce(&Sandbox, &Path) -> Proxy) {
    let (sandbox, members) = raid5();
    let mut random = Random::from_environment();
    let mut phoenix = Phoenix::new(&sandbox, &members);
    let proxy = proxy(&sandbox, &phoenix.socket());
    write_and_verify(&proxy, &mut Random::new(random.next()), |written| {
        for round in 0..10 {
            let before = written.load(Ordering::Acquire);
            wait_for("writes to go on", || {
                (written.load(Ordering::Acquire) > before + 50).then_some(())
            });
            // Anywhere in the middle of things.
            thread::sleep(Duration::from_millis(random.below(50)));
            match round {
                1 | 3 | 5 | 7 | 9 => phoenix.kill9(),
                2 | 8 => phoenix.restart(),
                _ => phoenix.upgrade(),
            }
        }
        let before = written.load(Ordering::Acquire);
        wait_for("writes to go on", || {
            (written.load(Ordering::Acquire) > before + 50).then_some(())
        });
        println!("{} writes", written.load(Ordering::Acquire));
    });
    assert_eq!(phoenix.status()["state"], "optimal");
}

#[test]
fn clients_of_nbdkit_notice_nothing_of_ten_restarts() {
    need!("nbdkit");
    ten_restarts(Proxy::nbdkit);
}

#[test]
fn clients_of_qemu_notice_nothing_of_ten_restarts() {
    need!("qemu-storage-daemon");
    ten_restarts(Proxy::qemu);
}

/// Reads without end, reconnecting at once; the longest time between two answers.
fn longest_pause(socket: &Path, done: &AtomicBool) -> Duration {
    let mut client = Client::connect(socket, "").expect("connect");
    let mut longest = Duration::ZERO;
    let mut answered = Instant::now();
    while !done.load(Ordering::Acquire) {
        match client.read(0, BLOCK) {
            Ok(_) => {
                longest = longest.max(answered.elapsed());
                answered = Instant::now();
            }
            Err(Failure::Gone(_)) => client = reconnect(socket),
            Err(failure) => panic!("a request was refused: {failure:?}"),
        }
    }
    longest
}

/// The door is open at all times; only a connection that was being greeted may end.
fn reconnect(socket: &Path) -> Client {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        UnixStream::connect(socket).expect("nobody is refused");
        if let Ok(client) = Client::connect(socket, "") {
            return client;
        }
    }
    panic!("nobody served for {PATIENCE:?}");
}

/// Writes without end, reconnecting at once; what was not answered is sent again.
fn load(socket: &Path, number: u64, done: &AtomicBool) {
    let mut client = Client::connect(socket, "").expect("connect");
    let mut random = Random::new(number);
    while !done.load(Ordering::Acquire) {
        let first = random.below(BLOCKS);
        let content = blocks(first, 16, 1);
        while let Err(failure) = client.write(first * BLOCK as u64, &content) {
            match failure {
                Failure::Gone(_) => client = reconnect(socket),
                refused => panic!("a write was refused: {refused:?}"),
            }
        }
    }
}

/// Upgrades five times while `writers` write; the pauses that a reader sees, shortest first.
fn pauses_of_upgrades(writers: u64) -> Vec<Duration> {
    let (sandbox, members) = raid5();
    let mut phoenix = Phoenix::new(&sandbox, &members);
    let socket = phoenix.socket();
    let mut pauses = Vec::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let finish = Finish(&done);
        for number in 0..writers {
            let (socket, done) = (&socket, &done);
            scope.spawn(move || load(socket, number, done));
        }
        for _ in 0..5 {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                let reader = scope.spawn(|| longest_pause(&socket, &over));
                let finish = Finish(&over);
                // The pause is that of the upgrade: without one it is far shorter.
                thread::sleep(Duration::from_millis(100));
                phoenix.upgrade();
                drop(finish);
                pauses.push(reader.join().expect("a pause"));
            });
        }
        drop(finish);
    });
    assert_eq!(phoenix.upgrades(), 5);
    phoenix.server.take().expect("it is up").stop();
    assert!(!socket.exists(), "the last one removes the socket's file");
    pauses.sort();
    pauses
}

#[test]
fn an_upgrade_is_a_short_pause() {
    let idle = pauses_of_upgrades(0);
    let busy = pauses_of_upgrades(4);
    println!("nobody is answered while an idle server is upgraded for {idle:?}");
    println!("and beside four clients that write for {busy:?}");
    for pause in idle.iter().chain(&busy) {
        assert!(*pause < PAUSE_MAX, "{pause:?}");
    }
}

#[test]
fn whoever_waits_for_a_scrub_waits_through_upgrades() {
    let (sandbox, members) = raid5();
    let mut phoenix = Phoenix::new(&sandbox, &members);
    let mut client = Client::connect(&phoenix.socket(), "").expect("connect");
    for first in (0..2048).step_by(256) {
        let content = blocks(first, 256, 1);
        client.write(first * BLOCK as u64, &content).expect("write");
    }
    let control = phoenix.control();
    let waiting = thread::scope(|scope| {
        let scrub = || {
            let options = ["--rate-max", "1M/s", "--wait", "--json", "--control"];
            let options = ["scrub", "start"].into_iter().chain(options);
            let control = control.to_str().expect("UTF-8");
            sandbox.uraid(options.chain([control]))
        };
        let waiting = scope.spawn(scrub);
        wait_for("the scrub", || {
            (phoenix.status()["scrub"]["state"] == "running").then_some(())
        });
        for _ in 0..3 {
            phoenix.upgrade();
            assert_eq!(phoenix.status()["scrub"]["state"], "running");
        }
        waiting.join().expect("an end")
    });
    assert_eq!(waiting.succeeded().json()["scrub"]["state"], "finished");
}

/// A server that runs from a program of its own, so that the program can be replaced.
fn serve_copy(sandbox: &Sandbox, members: &[PathBuf]) -> (PathBuf, Service) {
    let program = sandbox.path("uraid");
    fs::copy(URAID, &program).expect("copy the program");
    let mut command = sandbox.command(&program);
    let listen = format!("unix:{}", sandbox.path("s.sock").display());
    command.args(["serve", "--listen", &listen, "--control"]);
    command.arg(sandbox.path("s.ctl")).args(members);
    command.env("NOTIFY_SOCKET", sandbox.path("notify"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    (program, Service(command.spawn().expect("a server")))
}

/// Killed when dropped.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Replaces `program` by a script, as an installer does: by another file of that name.
fn install(program: &Path, script: &str) {
    let new = program.with_extension("new");
    fs::write(&new, script).expect("write a program");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("set its mode");
    fs::rename(&new, program).expect("install it");
}

#[test]
fn a_program_that_is_not_fit_does_not_take_over() {
    let (sandbox, members) = raid5();
    let manager = Manager::new(&sandbox);
    let hear = || manager.hear();
    let (program, service) = serve_copy(&sandbox, &members);
    assert!(hear().starts_with("READY=1"));
    let mut client = Client::connect(&sandbox.path("s.sock"), "").expect("connect");
    let control = sandbox.path("s.ctl");
    let upgrade = || {
        sandbox.uraid([
            "upgrade".as_ref(),
            "--control".as_ref(),
            control.as_os_str(),
        ])
    };

    install(&program, "no program at all");
    upgrade().exits(FAILED).says(&["nothing has changed"]);
    install(&program, "#!/bin/sh\necho broken >&2; exit 1");
    upgrade().exits(FAILED).says(&["broken"]);
    let takes_no_arguments = "#!/bin/sh\ncase $1 in --version) exit 0;; esac\necho odd >&2; exit 2";
    install(&program, takes_no_arguments);
    upgrade().exits(FAILED).says(&["odd"]);
    fs::remove_file(&program).expect("remove the program");
    upgrade().exits(FAILED).says(&["no such file"]);
    client
        .write(0, &[1; BLOCK])
        .expect("the connection is there");

    // A link to the new version, as some install them.
    std::os::unix::fs::symlink(URAID, &program).expect("a link");
    upgrade().succeeded();
    assert!(hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(hear().starts_with("READY=1"), "and nothing about an end");
    assert!(
        client.read(0, BLOCK).is_err(),
        "the old connection has ended"
    );
    let mut client = Client::connect(&sandbox.path("s.sock"), "").expect("connect");
    assert_eq!(client.read(0, BLOCK).expect("read"), [1; BLOCK]);
    drop(service);
}

#[test]
fn sighup_upgrades_and_all_that_is_in_the_file_system_stays() {
    let (sandbox, members) = raid5();
    let place = |name: &str| sandbox.path(name);
    let options = format!(
        "--listen unix:{} --listen tcp:127.0.0.1:0 --control {} --pidfile {}",
        place("h.sock").display(),
        place("h.ctl").display(),
        place("h.pid").display()
    );
    let server = sandbox.serve_with(&options, &members);
    let inodes = || {
        use std::os::unix::fs::MetadataExt;
        ["h.sock", "h.ctl"].map(|name| fs::metadata(place(name)).expect("a socket").ino())
    };
    // A request that comes while the server is about to end may have no answer.
    let status = || {
        let control = place("h.ctl");
        let args = ["status".as_ref(), "--json".as_ref(), "--control".as_ref()];
        let ran = sandbox.uraid(args.into_iter().chain([control.as_os_str()]));
        serde_json::from_str::<Value>(&ran.stdout).unwrap_or_default()
    };
    let (before, uris) = (inodes(), status()["uris"].clone());
    assert_eq!(uris.as_array().map(Vec::len), Some(2), "{uris}");
    for upgrades in 1..=3 {
        server.signal(Signal::SIGHUP);
        wait_for("the upgrade", || {
            assert_eq!(inodes(), before, "the files are never replaced");
            (status()["upgrades"] == upgrades).then_some(())
        });
        assert_eq!(status()["uris"], uris, "the TCP port stays, too");
        let pid = fs::read_to_string(place("h.pid")).expect("a pidfile");
        assert_eq!(pid.trim(), server.pid().to_string());
    }
    server.stop();
    for name in ["h.sock", "h.ctl", "h.pid"] {
        assert!(!place(name).exists(), "{name} is removed at the end");
    }
}

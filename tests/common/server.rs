//! A running `uraid serve`.

use super::client::Client;
use super::sandbox::{Ran, Sandbox, as_args, spoken};
use super::{PATIENCE, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Servers get numbered sockets, so that one test can run several.
static SERVERS: AtomicUsize = AtomicUsize::new(0);

/// A server that is ready. Dropping it kills it; if the test is failing, its log is shown.
pub struct Server {
    child: Child,
    log: PathBuf,
    /// The line that said it was ready.
    pub ready: String,
    /// Its NBD socket.
    pub socket: PathBuf,
    /// Its control socket.
    pub control: PathBuf,
}

/// Starts a server and kills it after this time, however far it is.
pub fn start_and_kill9(sandbox: &Sandbox, options: &str, members: &[PathBuf], after: Duration) {
    let mut command = sandbox.uraid_command();
    command.arg("serve").args(serve_options(options));
    let place = |name: &str| sandbox.path(format!("short-lived.{name}"));
    for name in ["sock", "ctl"] {
        let _ = std::fs::remove_file(place(name));
    }
    let listen = format!("unix:{}", place("sock").display());
    command.args(["--listen", &listen, "--control"]);
    command.arg(place("ctl")).args(as_args(members));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(place("log")).expect("log file"));
    let mut child = command.spawn().expect("a server");
    std::thread::sleep(after);
    let _ = child.kill();
    child.wait().expect("exit status");
}

/// How many reader threads servers have in a run of the tests, unless a test says it: none if it is
/// not set, however many cores there are.
const READERS_VARIABLE: &str = "URAID_TEST_READERS";

/// Who starts a server with files says everything there.
const CONFIG_OPTION: &str = "--config";

/// The words of `options`, and what holds for all servers: unless a test is about it, members that
/// leave do not come back by themselves.
fn serve_options(options: &str) -> Vec<String> {
    let mut words: Vec<String> = options.split_whitespace().map(String::from).collect();
    if !options.contains("--rejoin") && !options.contains(CONFIG_OPTION) {
        words.extend(["--rejoin".to_string(), "no".to_string()]);
    }
    if !options.contains("--readers") && !options.contains(CONFIG_OPTION) {
        let readers = std::env::var(READERS_VARIABLE).unwrap_or_else(|_| "0".to_string());
        words.extend(["--readers".to_string(), readers]);
    }
    words
}

/// Scrubs a served array to the end; the report.
pub fn scrub_to_end(sandbox: &Sandbox, server: &Server) -> Value {
    let control = server.control.to_str().expect("UTF-8");
    let words = |action| ["scrub", action, "--control", control, "--json"];
    sandbox.uraid(words("start")).succeeded();
    wait_for("the end of the scrub", || {
        let report = sandbox.uraid(words("status")).json()["scrub"].take();
        (report["state"] == "finished").then_some(report)
    })
}

impl Server {
    /// Starts a server on unix sockets of its own, unless `options` name a `--listen`, a
    /// `--control` or a `--config`; `Err` is a server that ended before it was ready.
    pub fn start(sandbox: &Sandbox, options: &str, members: &[PathBuf]) -> Result<Server, Ran> {
        Server::start_in(sandbox, options, members, &[])
    }

    /// The same with these variables in its environment.
    pub fn start_in(
        sandbox: &Sandbox,
        options: &str,
        members: &[PathBuf],
        variables: &[(&str, &str)],
    ) -> Result<Server, Ran> {
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let socket = sandbox.path(format!("s{number}.sock"));
        let control = sandbox.path(format!("s{number}.ctl"));
        let log = sandbox.path(format!("s{number}.log"));
        let mut command = sandbox.uraid_command();
        command.envs(variables.iter().copied());
        command.arg("serve").args(serve_options(options));
        let configured = options.contains(CONFIG_OPTION);
        if !options.contains("--listen") && !configured {
            command
                .arg("--listen")
                .arg(format!("unix:{}", socket.display()));
        }
        if !options.contains("--control") && !configured {
            command.arg("--control").arg(&control);
        }
        command.args(as_args(members));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::create(&log).expect("log file"));
        let what = spoken(&command);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));

        let lines = lines_of(&mut child);
        match lines.recv_timeout(PATIENCE) {
            Ok(ready) if ready.starts_with("ready ") => Ok(Server {
                child,
                log,
                ready,
                socket,
                control,
            }),
            Ok(other) => {
                let _ = child.kill();
                panic!(
                    "expected a line that begins with 'ready': {other:?}\n{}",
                    read(&log)
                );
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = child.wait().expect("exit status");
                let output = Output {
                    status,
                    stdout: Vec::new(),
                    stderr: read(&log).into(),
                };
                Err(Ran::new(what, output))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                panic!(
                    "neither ready nor gone after {PATIENCE:?}: {what}\n{}",
                    read(&log)
                );
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The URI of the default export.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// A new connection to the default export.
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket, "").expect("connection to the server")
    }

    /// The value of the first metric whose line begins like this.
    pub fn metric(&self, start: &str) -> f64 {
        let mut stream = UnixStream::connect(&self.control).expect("connection");
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("request");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("answer");
        let line = page.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no {start} in {page}"));
        let (_, value) = line.rsplit_once(' ').expect("a value");
        value.parse().expect("a number")
    }

    /// Runs `uraid COMMAND --control ... ARGS`.
    pub fn uraid<A: AsRef<OsStr>>(
        &self,
        sandbox: &Sandbox,
        command: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Ran {
        let mut all = vec![
            command.into(),
            "--control".into(),
            self.control.clone().into(),
        ];
        all.extend(args.into_iter().map(|a| a.as_ref().to_os_string()));
        sandbox.uraid(all)
    }

    /// `uraid status --json`. The exit code tells the state too; that is tested on its own.
    #[track_caller]
    pub fn status(&self, sandbox: &Sandbox) -> Value {
        self.uraid(sandbox, "status", ["--json"]).json()
    }

    /// Waits until the array is in this state and returns the status.
    #[track_caller]
    pub fn wait_state(&self, sandbox: &Sandbox, state: &str) -> Value {
        wait_for(&format!("state {state}"), || {
            let status = self.status(sandbox);
            (status["state"] == state).then_some(status)
        })
    }

    /// Waits until the member in `slot` is in this state and returns the status.
    #[track_caller]
    pub fn wait_member(&self, sandbox: &Sandbox, slot: u64, state: &str) -> Value {
        wait_for(&format!("member {slot} {state}"), || {
            let status = self.status(sandbox);
            (member(&status, slot)["state"] == state).then_some(status)
        })
    }

    /// Kills the server the hard way, as a crash of the program would.
    pub fn kill9(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("exit status");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("signal to the server");
    }

    /// Stops the server by SIGTERM and expects that it ends well.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait_end();
        assert!(
            status.success(),
            "the server ended with {status}\n{}",
            read(&self.log)
        );
    }

    /// Waits until the server ends by itself.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        wait_for("the end of the server", || {
            self.child.try_wait().expect("exit status")
        })
    }

    /// Whether the server still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("exit status").is_none()
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> u64 {
        self.resident_kib() / 1024
    }

    /// Most resident memory it ever had, in MiB.
    pub fn peak_mib(&self) -> u64 {
        self.memory_kib("VmHWM:") / 1024
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// What of that is not in huge pages. These hold buffers, and the kernel gathers small pages of
    /// buffers into huge ones whenever it likes, which adds up to 2 MiB that nobody asked for.
    pub fn small_pages_kib(&self) -> u64 {
        let field = |name| self.kib_in("smaps_rollup", name);
        field("Rss:") - field("AnonHugePages:")
    }

    fn memory_kib(&self, field: &str) -> u64 {
        self.kib_in("status", field)
    }

    fn kib_in(&self, file: &str, field: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.pid());
        let told = std::fs::read_to_string(path).expect("what the kernel tells of a process");
        let line = told
            .lines()
            .find(|l| l.starts_with(field))
            .expect("the field");
        let kib = line.split_whitespace().nth(1).expect("a number");
        kib.parse().expect("a number")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    pub fn show_log(&mut self) {
        println!("--- log of the server\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.show_log();
        }
    }
}

/// The member in `slot`, by its state in the status.
#[track_caller]
pub fn member(status: &Value, slot: u64) -> &Value {
    let members = status["members"].as_array().expect("members");
    let found = members.iter().find(|m| m["slot"] == slot);
    found.unwrap_or_else(|| panic!("no member has slot {slot}: {status:#}"))
}

/// How many members are in this state.
pub fn count_in_state(status: &Value, state: &str) -> usize {
    let members = status["members"].as_array().expect("members");
    members.iter().filter(|m| m["state"] == state).count()
}

/// Slot of the member at `path`.
#[track_caller]
pub fn slot_of(status: &Value, path: &Path) -> u64 {
    let members = status["members"].as_array().expect("members");
    let path = path.to_str().expect("a path in UTF-8");
    let found = members.iter().find(|m| m["path"] == path);
    let found = found.unwrap_or_else(|| panic!("no member at {path}: {status:#}"));
    found["slot"].as_u64().expect("a slot")
}

/// Reads the child's standard output in a thread, so that waiting for a line can time out, and
/// so that the child never blocks on a full pipe.
fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    receive
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}

/// A served raid6 of six members, 128 MiB and named "tank".
pub fn tank() -> (Sandbox, Server) {
    let sandbox = Sandbox::new();
    let members = sandbox.members(6);
    sandbox.create(
        "--level raid6 --name tank --size 64M --export-size 128M",
        &members,
    );
    let server = sandbox.serve(&members);
    (sandbox, server)
}

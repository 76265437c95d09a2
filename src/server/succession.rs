//! How a running server becomes a newer program without closing a door.
//!
//! The server stops as it always does: requests that have arrived are finished, everything is
//! flushed, members are let go of. Only its listening sockets stay open, with duplicates that are
//! kept here. Then the process executes the program that is now on disk, which takes the sockets
//! over: whoever has connected meanwhile waits in their queues. The process id stays.

use super::listen::Listen;
use super::log;
use crate::failure::{Doing, Failure};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use uraid_io::sockets::{leave_open, take_left};

/// Where the new program finds what was left to it.
const VARIABLE: &str = "URAID_SUCCESSION";

/// What a service manager says about descriptors that it passes: true for the first program only.
const LISTEN_VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Has a server look at its arguments and end.
pub const TRIAL_OPTION: &str = "--trial";

/// How long the new program may take to say that it can take over.
const TRIAL_MAX: Duration = Duration::from_secs(10);

/// Between two looks whether it has.
const TRIAL_POLL: Duration = Duration::from_millis(5);

/// What a listening socket is for: how the new program knows it again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A place of `--listen`, or a default one.
    Place(String),
    /// A service manager passed it, under this name.
    Passed(String),
    /// The control socket of an array, by its path.
    Control(PathBuf),
    /// The place of `--metrics`.
    Metrics(String),
}

impl Purpose {
    /// The file of a unix socket of ours.
    fn file(&self) -> Option<PathBuf> {
        match self {
            Purpose::Place(place) | Purpose::Metrics(place) => match place.parse() {
                Ok(Listen::Unix(path)) => Some(path),
                _ => None,
            },
            Purpose::Control(path) => Some(path.clone()),
            Purpose::Passed(_) => None,
        }
    }
}

/// What one program leaves to the next.
#[derive(Debug, Serialize, Deserialize)]
struct Will {
    /// The process; what children of it find is not for them.
    pid: u32,
    /// How many programs came before.
    upgrades: u64,
    /// When clients were last served, in microseconds of the monotonic clock.
    stopped_micros: u64,
    sockets: Vec<(RawFd, Purpose)>,
}

/// Keeps the listening sockets of a server for the program that follows it. Clones are the same.
#[derive(Clone)]
pub struct Succession(Arc<Inner>);

struct Inner {
    program: Option<PathBuf>,
    /// What was left to us, until somebody takes it.
    legacy: Mutex<Vec<(OwnedFd, Purpose)>>,
    upgrades: u64,
    /// When our predecessor stopped serving.
    predecessor_stopped: Option<u64>,
    /// What we leave. None once the server ends for good.
    heirlooms: Mutex<Option<Vec<(OwnedFd, Purpose)>>>,
    /// Stops the server; set once it can be.
    stop: OnceLock<Box<dyn Fn() -> Result<(), Failure> + Send + Sync>>,
    /// An upgrade is being tried, or is under way.
    busy: AtomicBool,
    begun: AtomicBool,
    stopped_micros: AtomicU64,
}

impl Succession {
    /// Takes what a former program of this process has left, if there was one.
    pub fn from_environment() -> Result<Succession, Failure> {
        let text = env::var(VARIABLE).ok();
        let will: Option<Will> = text.as_deref().and_then(|t| serde_json::from_str(t).ok());
        let will = will.filter(|will| will.pid == std::process::id());
        let (mut legacy, mut upgrades, mut predecessor_stopped) = (Vec::new(), 0, None);
        if let Some(will) = will {
            let (numbers, purposes): (Vec<_>, Vec<_>) = will.sockets.into_iter().unzip();
            let sockets = take_left(&numbers).doing(|| "use the sockets left to us".to_string())?;
            legacy = sockets.into_iter().zip(purposes).collect();
            upgrades = will.upgrades + 1;
            predecessor_stopped = Some(will.stopped_micros);
        }
        Ok(Succession(Arc::new(Inner {
            program: program(),
            legacy: Mutex::new(legacy),
            upgrades,
            predecessor_stopped,
            heirlooms: Mutex::new(Some(Vec::new())),
            stop: OnceLock::new(),
            busy: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            stopped_micros: AtomicU64::new(0),
        })))
    }

    /// The socket for `purpose` that was left to us.
    pub fn take(&self, purpose: &Purpose) -> Option<OwnedFd> {
        let mut legacy = self.0.legacy.lock().expect("no holder panics");
        let index = legacy.iter().position(|(_, left)| left == purpose)?;
        Some(legacy.remove(index).0)
    }

    /// Takes what a service manager had passed to a former program.
    pub fn take_passed(&self) -> Vec<(OwnedFd, String)> {
        let mut legacy = self.0.legacy.lock().expect("no holder panics");
        let mut passed = Vec::new();
        for (socket, purpose) in std::mem::take(&mut *legacy) {
            match purpose {
                Purpose::Passed(name) => passed.push((socket, name)),
                other => legacy.push((socket, other)),
            }
        }
        passed
    }

    /// Keeps `socket` for the next program.
    pub fn keep(&self, purpose: Purpose, socket: &OwnedFd) -> Result<(), Failure> {
        let socket = socket
            .try_clone()
            .doing(|| "duplicate a socket".to_string())?;
        let mut heirlooms = self.0.heirlooms.lock().expect("no holder panics");
        if let Some(heirlooms) = &mut *heirlooms {
            heirlooms.push((socket, purpose));
        }
        Ok(())
    }

    /// Whether a former program of this process has served before.
    pub fn has_predecessor(&self) -> bool {
        self.0.predecessor_stopped.is_some()
    }

    /// How many programs have served in this process before.
    pub fn upgrades(&self) -> u64 {
        self.0.upgrades
    }

    /// We serve: says for how long nobody did, and closes what was left and is not needed, as
    /// configuration files may name other places now.
    pub fn done(&self) {
        for (socket, purpose) in self.0.legacy.lock().expect("no holder panics").drain(..) {
            // As long as it is open nobody else has made a socket there.
            if let Some(path) = purpose.file() {
                let _ = fs::remove_file(path);
            }
            drop(socket);
        }
        if let Some(stopped) = self.0.predecessor_stopped {
            let pause = Duration::from_micros(monotonic_micros().saturating_sub(stopped));
            let version = env!("CARGO_PKG_VERSION");
            let millis = pause.as_millis();
            log::info(&format!(
                "upgraded to uraid {version}; nobody served for {millis} ms"
            ));
        }
    }

    /// From now on an upgrade is possible: `stop` has everything stop.
    pub fn enable(&self, stop: impl Fn() -> Result<(), Failure> + Send + Sync + 'static) {
        let set = self.0.stop.set(Box::new(stop));
        assert!(set.is_ok(), "enabled once");
    }

    /// Makes sure that the program on disk can serve in our place, and begins the upgrade.
    ///
    /// # Errors
    /// It cannot, and nothing has changed; the text says why.
    pub fn begin(&self) -> Result<String, Failure> {
        if self.0.busy.swap(true, Ordering::AcqRel) {
            return Err(Failure::failed("an upgrade is under way already"));
        }
        let begun = self.try_to_begin();
        if begun.is_err() {
            self.0.begun.store(false, Ordering::Release);
            self.0.busy.store(false, Ordering::Release);
        }
        begun
    }

    fn try_to_begin(&self) -> Result<String, Failure> {
        let stop = self.0.stop.get();
        let stop = stop.ok_or_else(|| Failure::failed("the server is not ready yet; try again"))?;
        let program = self.program()?;
        let version = try_out(program)?;
        if self.0.heirlooms.lock().expect("no holder panics").is_none() {
            return Err(Failure::failed("the server is stopping"));
        }
        let now = monotonic_micros();
        self.0.stopped_micros.store(now, Ordering::Release);
        self.0.begun.store(true, Ordering::Release);
        stop()?;
        let path = program.display();
        Ok(format!("the server becomes {version} ({path})"))
    }

    fn program(&self) -> Result<&Path, Failure> {
        let unknown = || Failure::failed("the path of this program is not known; restart it");
        self.0.program.as_deref().ok_or_else(unknown)
    }

    /// Whether an upgrade has begun: what the next program will need is left where it is.
    pub fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// The server ends for good, whatever was begun: nobody may wait at its doors.
    pub fn renounce(&self) {
        self.0.begun.store(false, Ordering::Release);
        drop(self.0.heirlooms.lock().expect("no holder panics").take());
    }

    /// Becomes the new program, or this one again if it cannot be executed after all. Returns
    /// only why neither can be. Everything else must have ended.
    pub fn execute(&self) -> Failure {
        let heirlooms = self.0.heirlooms.lock().expect("no holder panics").take();
        let heirlooms = heirlooms.unwrap_or_default();
        let left = |(socket, purpose): &(OwnedFd, Purpose)| {
            leave_open(socket).map(|number| (number, purpose.clone()))
        };
        let sockets: io::Result<Vec<_>> = heirlooms.iter().map(left).collect();
        let sockets = match sockets.doing(|| "leave sockets open".to_string()) {
            Ok(sockets) => sockets,
            Err(failure) => return failure,
        };
        let will = Will {
            pid: std::process::id(),
            upgrades: self.0.upgrades,
            stopped_micros: self.0.stopped_micros.load(Ordering::Acquire),
            sockets,
        };
        let will = serde_json::to_string(&will).expect("plain data becomes JSON");
        let running = Path::new("/proc/self/exe");
        let mut reason = String::new();
        for program in [self.program().unwrap_or(running), running] {
            let mut command = Command::new(program);
            command.args(env::args_os().skip(1)).env(VARIABLE, &will);
            if let Some(name) = env::args_os().next() {
                command.arg0(name);
            }
            for variable in LISTEN_VARIABLES {
                command.env_remove(variable);
            }
            let error = command.exec();
            reason = format!("cannot execute {}: {error}", program.display());
            log::warning(&reason);
        }
        Failure::failed(reason)
    }
}

/// How this program was called, if that is what runs: whoever installs a new one may have changed
/// a link. To be asked at the start, before anything is replaced.
fn program() -> Option<PathBuf> {
    let running = env::current_exe().ok()?;
    let called = PathBuf::from(env::args_os().next()?);
    let called = match called.components().count() {
        1 => {
            let path = env::var_os("PATH").unwrap_or_default();
            let here = env::split_paths(&path).map(|directory| directory.join(&called));
            here.into_iter()
                .find(|candidate| is_same(candidate, &running))
        }
        _ => std::path::absolute(called).ok(),
    };
    let called = called.filter(|called| is_same(called, &running));
    Some(called.unwrap_or(running))
}

fn is_same(a: &Path, b: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}

/// Has `program` say its version, and look at our arguments.
fn try_out(program: &Path) -> Result<String, Failure> {
    let version = run(program, &["--version".into()])?;
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let command = arguments.iter().position(|argument| argument == "serve");
    let command = command.ok_or_else(|| Failure::failed("this is not `uraid serve`"))?;
    arguments.insert(command + 1, TRIAL_OPTION.into());
    run(program, &arguments)?;
    Ok(version)
}

fn run(program: &Path, arguments: &[OsString]) -> Result<String, Failure> {
    let refuses = |why: &str| {
        let path = program.display();
        Failure::failed(format!(
            "{path} cannot take over, nothing has changed: {why}"
        ))
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.env_remove(VARIABLE);
    let output = output_in_time(command).map_err(|e| refuses(&e.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    if !output.status.success() {
        let said = format!("{} ({})", text(&output.stderr), output.status);
        return Err(refuses(&said));
    }
    Ok(text(&output.stdout))
}

/// Runs `command`, which says little, to its end.
fn output_in_time(mut command: Command) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + TRIAL_MAX;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            let seconds = TRIAL_MAX.as_secs();
            return Err(io::Error::other(format!("it was not done in {seconds} s")));
        }
        thread::sleep(TRIAL_POLL);
    }
    child.wait_with_output()
}

/// The monotonic clock, the same for all programs until the next boot.
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
    Duration::from(now).as_micros() as u64
}

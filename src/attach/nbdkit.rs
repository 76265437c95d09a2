//! nbdkit between nbdfuse and the server: its retry filter connects anew and sends again what was
//! under way, which nbdfuse does not. It costs a process in between, and lets each connection
//! have one request under way.

use super::device::{missing, within};
use crate::failure::{Doing, Failure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long it may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);
/// How long it may take to end; nobody is connected any more.
const END_MAX: Duration = Duration::from_secs(10);

/// Whether it is installed, with what it takes.
pub fn is_installed() -> bool {
    let mut command = Command::new("nbdkit");
    command.args(["--filter=retry", "nbd", "--help"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let ran = command.stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// Starts one that listens on `socket` and goes on without its server for so many seconds.
/// Returns its process id.
pub fn start(socket: &Path, uri: &str, patience_seconds: u64, log: &Path) -> Result<u32, Failure> {
    let _ = fs::remove_file(socket); // one that was killed leaves it behind
    let pidfile = socket.with_extension("nbdkit-pid");
    let errors = File::create(log).doing(|| format!("create {}", log.display()))?;
    // It goes into the background by itself: in the foreground it ends with whoever started it.
    let mut command = Command::new("nbdkit");
    command.args(["--filter=retry", "--unix"]).arg(socket);
    command.arg("--pidfile").arg(&pidfile);
    command.args(["nbd", &format!("uri={uri}")]);
    command.args([&format!("retries={patience_seconds}"), "retry-delay=1"]);
    command.arg("retry-exponential=no").current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    let status = command
        .status()
        .map_err(|error| missing("nbdkit", "nbdkit", &error))?;
    let mut pid = None;
    within(START_MAX, || {
        let text = fs::read_to_string(&pidfile).unwrap_or_default();
        pid = text.trim().parse().ok();
        pid.is_some() || !status.success()
    });
    let _ = fs::remove_file(&pidfile);
    pid.ok_or_else(|| {
        let said = fs::read_to_string(log).unwrap_or_default();
        let said = said.lines().last().unwrap_or("it said nothing");
        Failure::failed(format!("nbdkit does not start ({status}): {said}"))
    })
}

/// Ends it, once nbdfuse has gone.
pub fn stop(pid: u32, socket: &Path) -> Result<(), Failure> {
    if is_alive(pid) {
        // It may end by itself in this moment.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
    }
    if !within(END_MAX, || !is_alive(pid)) {
        return Err(Failure::failed(format!(
            "nbdkit (process {pid}) does not end"
        )));
    }
    let _ = fs::remove_file(socket);
    Ok(())
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains("(nbdkit) ") && !stat.contains(") Z ")
}

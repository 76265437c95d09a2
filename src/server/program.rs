//! Programs of others that the server runs: nothing that is ours alone is theirs, and they end in
//! time.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks whether a program has ended.
const POLL: Duration = Duration::from_millis(20);

/// What programs inherit from us and must not take for theirs.
const OUR_VARIABLES: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"];

/// Starts a program, in a group of its own, so that its children end with it.
pub fn start(command: &mut Command) -> io::Result<Child> {
    for variable in OUR_VARIABLES {
        command.env_remove(variable);
    }
    command.process_group(0).spawn()
}

/// Waits until it has ended; none if it takes longer than `time_max`, when it and its children are
/// killed. One that hangs in the kernel is waited for until that lets go of it.
pub fn wait(child: &mut Child, time_max: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + time_max;
    loop {
        let status = child.try_wait()?;
        if status.is_some() {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            kill(child);
            return Ok(None);
        }
        sleep(POLL);
    }
}

fn kill(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    // It may have ended by itself just now.
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
}

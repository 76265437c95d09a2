//! What a server spends.

use nix::sys::time::TimeSpec;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::io;
use std::time::Duration;

/// CPU time that a process has used so far, in user and kernel mode, by all its threads, those
/// that have ended too; not by its children.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    let clock = clock_getcpuclockid(Pid::from_raw(pid))?;
    let time: TimeSpec = clock_gettime(clock)?;
    Ok(time.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::process::{Command, Stdio};
    use std::thread::sleep;

    #[test]
    fn work_shows_in_the_cpu_time() {
        let own = std::process::id();
        let before = cpu_time(own).expect("this process");
        let mut sum = 0u64;
        while cpu_time(own).expect("this process") - before < Duration::from_millis(20) {
            sum = black_box(sum.wrapping_add(1));
        }
    }

    #[test]
    fn other_processes_have_theirs_until_they_are_gone() {
        let spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read line";
        let mut shell = Command::new("sh");
        shell.args(["-c", spin]).stdin(Stdio::piped());
        let mut child = shell.spawn().expect("a shell");
        while cpu_time(child.id()).expect("it runs") < Duration::from_millis(5) {
            sleep(Duration::from_millis(1));
        }
        drop(child.stdin.take());
        child.wait().expect("it ends");
        assert!(cpu_time(child.id()).is_err());
    }
}

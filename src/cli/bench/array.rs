//! The array that is measured, behind a server of its own: this very program.

use super::args::State;
use super::interrupt::Interrupt;
use super::members::Members;
use super::place::Scratch;
use crate::cli::args::IoBackend;
use crate::cli::wait::{Stage, stage};
use crate::control::client::Client;
use crate::control::wire::{AddBody, IoReport, MemberBody, MemberReference, Order, StatusReport};
use crate::failure::{Doing, Failure};
use clap::ValueEnum;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use uraid_engine::api::Mode;
use uraid_load::{Address, cpu_time};

/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(100);
/// An array that does not settle in this time hangs.
const PATIENCE: Duration = Duration::from_secs(300);
/// An array at rest makes a last checkpoint, at the soonest so long after the last request: it
/// looks every second, and makes one when there was nothing to do since the last look.
const CHECKPOINT_SOONEST: Duration = Duration::from_millis(900);
/// What still moves after that checkpoint stands still for so long.
const QUIET: Duration = Duration::from_millis(200);
/// Without anything to write down there is no checkpoint.
const QUIET_WITHOUT_CHECKPOINT: Duration = Duration::from_millis(2300);
/// Lines of the log that are shown when the server fails.
const LOG_LINES: usize = 10;

/// A served array. Dropped, it is killed, and its members are gone.
pub struct Array {
    server: Server,
    pub client: Client,
    /// Where it is driven.
    pub address: Address,
    pub members: Members,
    /// Logs and sockets.
    _run: Scratch,
}

/// The server; dropping it kills it. Everything it holds is to be thrown away.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Array {
    /// Serves the members.
    pub fn serve(members: Members, io: Option<IoBackend>) -> Result<Array, Failure> {
        // Short paths, whatever the members' are: those of sockets must be.
        let run = Scratch::new(&std::env::temp_dir())?;
        let place = |name: &str| run.path().join(name);
        let (socket, control, log) = (place("nbd"), place("control"), place("log"));
        let program = std::env::current_exe().doing(|| "find this program".to_string())?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--control").arg(&control);
        let listen = format!("unix:{}", socket.display());
        command.args(["--listen", &listen]);
        if let Some(io) = io.and_then(|io| io.to_possible_value()) {
            command.args(["--io", io.get_name()]);
        }
        command.args(&members.paths).process_group(0);
        let log_file = File::create(&log).doing(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(log_file);
        let mut server = Server(command.spawn().doing(|| "start a server".to_string())?);
        let mut ready = String::new();
        let stdout = server.0.stdout.as_mut().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut ready);
        if read.is_err() || !ready.starts_with("ready ") {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            return Err(Failure::failed(format!("the server failed:\n{end}")));
        }
        Ok(Array {
            server,
            client: Client::new(control),
            address: Address::unix(socket),
            members,
            _run: run,
        })
    }

    /// CPU time the server has used so far.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        cpu_time(self.server.0.id()).doing(|| "look at the server's CPU time".to_string())
    }

    /// Counters of the array.
    pub fn io(&self) -> Result<IoReport, Failure> {
        Ok(self.client.status()?.io)
    }

    /// Brings a healthy array into `state`.
    pub fn enter(&self, state: State, losses: usize) -> Result<(), Failure> {
        match state {
            State::Healthy => Ok(()),
            State::Degraded => (0..losses as u16).try_for_each(|slot| self.fail(slot)),
            State::Rebuilding => self.rebuild(),
        }
    }

    /// Makes it healthy again.
    pub fn leave(&self, state: State, losses: usize, stop: &Interrupt) -> Result<(), Failure> {
        if state == State::Degraded {
            // They only catch up.
            (0..losses).try_for_each(|slot| self.add(slot, false))?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.client.status()?;
            if stage(&status) == Stage::Settled && status.state == "optimal" {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = format!("the array is not whole again after {PATIENCE:?}");
                return Err(Failure::failed(text));
            }
            stop.check()?;
            sleep(LOOK);
        }
    }

    /// Has the first member filled from the others.
    pub fn rebuild(&self) -> Result<(), Failure> {
        self.fail(0)?;
        let first = member(0);
        self.client
            .carry_out(&Order::Remove(first), Mode::Earnest)?;
        self.add(0, true)
    }

    fn fail(&self, slot: u16) -> Result<(), Failure> {
        let fail = Order::Fail(member(slot));
        self.client.carry_out(&fail, Mode::Earnest).map(drop)
    }

    fn add(&self, slot: usize, force: bool) -> Result<(), Failure> {
        let path = crate::cli::orders::path_text(&self.members.paths[slot])?;
        let copy = false;
        let order = Order::Add(AddBody { path, force, copy });
        self.client.carry_out(&order, Mode::Earnest).map(drop)
    }

    /// Waits until the array has made its last checkpoint and does nothing more by itself.
    pub fn rest(&self, stop: &Interrupt) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut last = self.io()?;
        let (mut since, mut checkpoint) = (begun, false);
        loop {
            let quiet = if checkpoint {
                QUIET
            } else {
                QUIET_WITHOUT_CHECKPOINT
            };
            if since.elapsed() >= quiet {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let text = format!("the array does not come to rest in {PATIENCE:?}");
                return Err(Failure::failed(text));
            }
            stop.check()?;
            sleep(LOOK);
            let now = self.io()?;
            if now != last {
                let made = checkpoints(&now) > checkpoints(&last);
                checkpoint |= made && begun.elapsed() >= CHECKPOINT_SOONEST;
                (last, since) = (now, Instant::now());
            }
        }
    }
}

fn checkpoints(io: &IoReport) -> u64 {
    io.zones.get("checkpoints").map_or(0, |zone| zone.writes)
}

fn member(slot: u16) -> MemberBody {
    MemberBody {
        member: MemberReference::Slot(slot),
        force: false,
    }
}

/// Keeps an array rebuilding, and counts.
#[derive(Default)]
pub struct Rebuilder {
    /// Bytes that were rebuilt since the first look.
    pub bytes: u64,
    /// Of the rebuild under way: done, and in all.
    seen: Option<(u64, u64)>,
}

impl Rebuilder {
    /// Looks how far it is; has it begin again if it has ended.
    pub fn look(&mut self, array: &Array) -> Result<(), Failure> {
        let status = array.client.status()?;
        self.count(&status);
        if stage(&status) == Stage::Settled {
            array.rebuild()?;
        }
        Ok(())
    }

    fn count(&mut self, status: &StatusReport) {
        let (done, total) = match &status.rebuild {
            Some(rebuild) => (rebuild.done_bytes, rebuild.total_bytes),
            None => (0, 0),
        };
        // One that has begun anew has first done what was left of the last one.
        if let Some((before, all)) = self.seen.replace((done, total)) {
            self.bytes += done.checked_sub(before).unwrap_or(all - before + done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::samples;

    #[test]
    fn rebuilds_that_follow_each_other_are_added_up() {
        let mut rebuilder = Rebuilder::default();
        let mut status = samples::rebuilding();
        for done in [10, 40, 40, 20, 100] {
            let rebuild = status.rebuild.as_mut().expect("a rebuild");
            (rebuild.done_bytes, rebuild.total_bytes) = (done, 100);
            rebuilder.count(&status);
        }
        assert_eq!(rebuilder.bytes, 190);
        status.rebuild = None;
        rebuilder.count(&status);
        assert_eq!(rebuilder.bytes, 190);
    }
}

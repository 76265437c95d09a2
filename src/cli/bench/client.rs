//! The process that drives a server: `uraid bench` gives it a job, and reads what came of it.

use super::interrupt::Interrupt;
use crate::cli::output::Output;
use crate::failure::{Doing, Failure};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use uraid_load::{Address, Clients, Drive, Limit, Load};

/// Between two looks at what else goes on while a job runs.
const TICK: Duration = Duration::from_millis(100);

/// What the client is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Which server and export.
    pub address: Address,
    /// Over so many connections.
    pub connections: usize,
    /// Chooses content and random places.
    pub seed: u64,
    /// Which work.
    pub work: Work,
}

/// The work itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Write so many bytes once, and flush.
    Fill {
        /// From the beginning.
        bytes: u64,
    },
    /// Keep the server busy.
    Drive {
        /// With this.
        load: Load,
        /// Until then.
        limit: Limit,
    },
}

/// `uraid bench-client`: the job comes on standard input, the result goes to standard output.
pub fn run() -> Result<(), Failure> {
    let mut text = String::new();
    let mut stdin = std::io::stdin();
    let read = stdin.read_to_string(&mut text);
    read.doing(|| "read the job from standard input".to_string())?;
    let job: Job = serde_json::from_str(&text)
        .map_err(|e| Failure::usage(format!("standard input is no job: {e}")))?;
    let what = || format!("drive {}", job.address);
    let mut clients = Clients::open(&job.address, job.connections, job.seed).doing(what)?;
    let drive = match job.work {
        Work::Fill { bytes } => clients.fill(bytes, |_| ()).map(|()| Drive::default()),
        Work::Drive { load, limit } => clients.drive(&load, limit, |_| ()),
    };
    // Asked for or not: nobody but a program reads it.
    Output { json: true }.line("", &drive.doing(what)?)
}

/// A process that is ended with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a process do `job`; meanwhile `tick` is called now and then.
pub fn carry_out(
    job: &Job,
    interrupt: &Interrupt,
    mut tick: impl FnMut() -> Result<(), Failure>,
) -> Result<Drive, Failure> {
    let mut child = Running(start()?);
    let text = serde_json::to_vec(job).expect("plain data becomes JSON");
    let mut stdin = child.0.stdin.take().expect("it is piped");
    // One that has ended already says why on its standard error.
    let _ = stdin.write_all(&text);
    drop(stdin);
    let (said, all) = mpsc::channel();
    let mut outputs = (
        child.0.stdout.take().expect("it is piped"),
        child.0.stderr.take().expect("it is piped"),
    );
    thread::spawn(move || {
        let (mut answer, mut complaint) = (String::new(), String::new());
        let read = outputs.0.read_to_string(&mut answer);
        let read = read.and_then(|_| outputs.1.read_to_string(&mut complaint));
        let _ = said.send(read.map(|_| (answer, complaint)));
    });
    let said = loop {
        match all.recv_timeout(TICK) {
            Ok(said) => break said,
            Err(RecvTimeoutError::Timeout) => tick()?,
            Err(RecvTimeoutError::Disconnected) => unreachable!("it sends before it ends"),
        }
        interrupt.check()?;
    };
    let (answer, complaint) = said.doing(|| "read what the client says".to_string())?;
    serde_json::from_str(&answer).map_err(|_| {
        let complaint = complaint.trim().trim_start_matches("uraid: ");
        Failure::failed(format!("the client of the benchmark failed: {complaint}"))
    })
}

fn start() -> Result<Child, Failure> {
    let program = std::env::current_exe().doing(|| "find this program".to_string())?;
    let mut command = Command::new(program);
    command.arg("bench-client").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command.spawn().doing(|| "start the client".to_string())
}

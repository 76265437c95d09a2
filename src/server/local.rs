//! An array opened in this process, without clients: for repairs and checks of an array that is
//! not served.

use super::array::{engine_options, start_driver, start_housekeeping, wait_until_open};
use super::host::{Answer, Host, Notice, OpeningReport};
use super::members::{OpenArray, open_new};
use super::operator::{INBOX_MAX, LOCK_WAIT, Mailbox};
use super::service::Message;
use crate::control::wire::{About, StatusReport};
use crate::failure::Failure;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use uraid_buffer::Pool;
use uraid_engine::api::{Command, Mode, OpenOptions, ScrubOrder};
use uraid_engine::status::ScrubState;
use uraid_io::driver::Backend;

/// What an array is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To be written.
    Repair,
    /// To be read: nothing is written, recovery is done in memory, any set that decodes will do.
    Check,
    /// To see what would be if it were opened to be written; nothing is.
    Try {
        /// As `uraid serve --force` would.
        force: bool,
    },
}

/// An open array that works only while it is called.
pub struct LocalArray {
    host: Host,
    inbox: Receiver<Message>,
    stopped: bool,
}

impl LocalArray {
    /// Opens it; recovery is done when this returns.
    pub fn open(array: OpenArray, purpose: Purpose) -> Result<LocalArray, Failure> {
        let read_only = purpose != Purpose::Repair;
        let pool = Pool::heap();
        let driver = start_driver(Backend::Auto, &pool)?;
        let (sender, inbox) = sync_channel(INBOX_MAX);
        let mailbox = Mailbox {
            sender,
            waker: driver.waker(),
        };
        let housekeeping = start_housekeeping(array.uuid, read_only, mailbox)?;
        let options = OpenOptions {
            dry_run: matches!(purpose, Purpose::Try { .. }),
            ..engine_options(
                array.uuid,
                read_only,
                purpose == Purpose::Try { force: true },
            )?
        };
        let host = Host::open(array.files, options, driver, pool, housekeeping)?;
        let host = wait_until_open(host, &inbox)?.expect("no signal is forwarded here");
        Ok(LocalArray {
            host,
            inbox,
            stopped: false,
        })
    }

    /// How it is.
    pub fn status(&self) -> Result<StatusReport, Failure> {
        let status = self.host.status().expect("an open array has a status");
        Ok(StatusReport::new(&status, &About::default()))
    }

    /// What was told while it was opened.
    pub fn opening(&self) -> &OpeningReport {
        self.host.opening()
    }

    /// Works for `duration`.
    pub fn run_for(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.turn(Some(end.saturating_duration_since(Instant::now())));
        }
    }

    /// Takes in a device.
    pub fn add(&mut self, path: &Path, force: bool, mode: Mode) -> Result<String, Failure> {
        let file = open_new(path, force, LOCK_WAIT)?;
        let (sender, answer) = sync_channel(1);
        let add = |device| Command::Add { device, force };
        let tell: Answer = Box::new(move |result| drop(sender.send(result)));
        self.host.command_with(file, add, mode, tell);
        self.run_until(&answer)
    }

    /// Begins a scrub from the start, whatever another one has left to do.
    pub fn start_scrub(&mut self) -> Result<(), Failure> {
        let status = self.host.status().expect("an open array has a status");
        if matches!(status.scrub.state, ScrubState::Running | ScrubState::Paused) {
            self.command(Command::Scrub(ScrubOrder::Stop))?;
        }
        let start = ScrubOrder::Start { rate_max: None };
        self.command(Command::Scrub(start)).map(drop)
    }

    /// Flushes and closes everything.
    pub fn stop(mut self) -> Result<(), Failure> {
        let result = self.command(Command::Stop);
        while result.is_ok() && !self.stopped {
            self.turn(None);
        }
        self.host.close();
        result.map(drop)
    }

    fn command(&mut self, command: Command) -> Result<String, Failure> {
        let (sender, answer) = sync_channel(1);
        let tell: Answer = Box::new(move |result| drop(sender.send(result)));
        self.host.command(command, Mode::Earnest, tell);
        self.run_until(&answer)
    }

    fn run_until(&mut self, answer: &Receiver<Result<String, Failure>>) -> Result<String, Failure> {
        loop {
            self.host.pump();
            if let Ok(result) = answer.try_recv() {
                return result;
            }
            self.turn(None);
        }
    }

    fn turn(&mut self, timeout: Option<Duration>) {
        self.host.pump();
        while let Some(notice) = self.host.next_notice() {
            self.stopped |= notice == Notice::Stopped;
        }
        if self.stopped {
            return;
        }
        for message in self.inbox.try_iter() {
            if let Message::Gone(device, why) = message {
                self.host.device_gone(device, why);
            }
        }
        // There are no sockets.
        self.host.wait(timeout, &mut Vec::new());
    }
}

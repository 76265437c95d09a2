//! What the control plane does before and after the data thread: opening devices, waiting.

use super::alert::Alerts;
use super::availability::observed;
use super::clock;
use super::history::History;
use super::members;
use super::service::Message;
use super::succession::Succession;
use super::trend::Trend;
use crate::control::Operator;
use crate::control::wire::{
    AlertTestReport, EventReport, EventsReport, Order, StatusReport, TrendReport,
};
use crate::failure::{Exit, Failure};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use uraid_core::events::{EventRecord, Severity};
use uraid_engine::api::Mode;
use uraid_engine::status::MemberState;
use uraid_io::device::MemberFile;
use uraid_io::driver::Waker;

/// Most messages waiting for the data thread; whoever comes then is told to try again.
pub const INBOX_MAX: usize = 64;

/// How long to wait for the answer about the status, which needs no I/O.
const STATUS_MAX: Duration = Duration::from_secs(10);

/// How long to wait for an order: flushes of slow members, and a verdict on hung ones.
const ORDER_MAX: Duration = Duration::from_secs(100);

/// How long to wait for the lock of a device that is brought: after `fail` the member is let go
/// of when its last I/O is done.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Most events that a status tells, and how far back they are looked for.
const LAST_EVENTS_MAX: usize = 5;
const LAST_EVENTS_AMONG: usize = 50;

/// The way to the data thread.
#[derive(Clone)]
pub struct Mailbox {
    /// Messages. A channel that drops what nobody will read any more when its receiver goes (that
    /// of crossbeam keeps it), so that whoever waits for an answer learns that there is none.
    pub sender: SyncSender<Message>,
    /// Ends the data thread's sleep.
    pub waker: Waker,
}

impl Mailbox {
    /// Hands a message over.
    pub fn send(&self, message: Message) -> Result<(), Failure> {
        self.sender.try_send(message).map_err(|_| {
            Failure::failed("the server has too much to do, or is ending; try again")
        })?;
        self.waker.wake();
        Ok(())
    }
}

impl Mailbox {
    /// Asks how the array is; the answer comes there.
    pub fn ask_status(&self) -> Result<Receiver<Result<StatusReport, Failure>>, Failure> {
        let (sender, receiver) = sync_channel(1);
        self.send(Message::Status(Box::new(move |status| {
            drop(sender.send(status))
        })))?;
        Ok(receiver)
    }
}

/// Asks arrays how they are, all at once. None of who does not say it within `time_max`, all
/// together.
pub fn ask_all<'a>(
    mailboxes: impl IntoIterator<Item = &'a Mailbox>,
    time_max: Duration,
) -> Vec<Option<StatusReport>> {
    let deadline = Instant::now() + time_max;
    let asked: Vec<_> = mailboxes.into_iter().map(Mailbox::ask_status).collect();
    let answer = |asked: Result<Receiver<Result<StatusReport, Failure>>, Failure>| {
        let left = deadline.saturating_duration_since(Instant::now());
        asked.ok()?.recv_timeout(left).ok()?.ok()
    };
    asked.into_iter().map(answer).collect()
}

impl Mailbox {
    /// How the array is.
    pub fn status(&self) -> Result<StatusReport, Failure> {
        let answer = self.ask_status()?.recv_timeout(STATUS_MAX);
        answer.map_err(no_answer)?
    }

    /// Has the array do what an operator asks.
    fn carry_out(&self, order: Order, mode: Mode) -> Result<String, Failure> {
        let file = self.open_device(&order)?;
        self.pass_on(order, mode, file)
    }

    /// Has the array do it, unless `check` refuses the device that the order brings.
    pub fn carry_out_if(
        &self,
        order: Order,
        check: impl FnOnce(&MemberFile) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let file = self.open_device(&order)?;
        file.as_ref().map_or(Ok(()), check)?;
        self.pass_on(order, Mode::Earnest, file)
    }

    fn pass_on(
        &self,
        order: Order,
        mode: Mode,
        file: Option<MemberFile>,
    ) -> Result<String, Failure> {
        let (sender, receiver) = sync_channel(1);
        let answer = Box::new(move |result| drop(sender.send(result)));
        self.send(Message::Order(order, mode, file, answer))?;
        receiver.recv_timeout(ORDER_MAX).map_err(no_answer)?
    }
}

/// An array in service, as its control socket offers it.
pub struct Served {
    /// The way to the array.
    pub mailbox: Mailbox,
    /// What is to become of the whole server.
    pub succession: Succession,
    /// Name of the array.
    pub name: String,
    /// What happened to it.
    pub history: History,
    /// Where alerts about it go.
    pub alerts: Alerts,
    /// What it did over the last hour.
    pub trend: Trend,
}

impl Served {
    /// Events from this number on, oldest first; the last `max` of them.
    pub fn events_from(&self, from: u64, max: usize) -> Vec<EventReport> {
        let records = self.history.records(from, max);
        let report = |record| EventReport::new(&self.name, record);
        records.iter().map(report).collect()
    }

    /// A status of the array's data thread, with what its events tell.
    pub fn complete(&self, status: StatusReport) -> StatusReport {
        let records = self.history.records(0, usize::MAX);
        StatusReport {
            last_events: self.last_events(&records),
            availability: observed(&records, &status.state, clock::millis()),
            ..status
        }
    }

    /// The last events that an operator should look at.
    fn last_events(&self, records: &[EventRecord]) -> Vec<EventReport> {
        let matters = |record: &&EventRecord| record.severity > Severity::Info;
        let among = records.iter().rev().take(LAST_EVENTS_AMONG);
        let newest = among.filter(matters).take(LAST_EVENTS_MAX);
        let mut events: Vec<_> = newest.map(|r| EventReport::new(&self.name, r)).collect();
        events.reverse();
        events
    }
}

impl Operator for Served {
    fn status(&self) -> Result<StatusReport, Failure> {
        Ok(self.complete(self.mailbox.status()?))
    }

    fn events(&self, from: u64, max: usize) -> Result<EventsReport, Failure> {
        let events = self.events_from(from, max);
        Ok(EventsReport { events })
    }

    fn trend(&self, from: u64) -> Result<TrendReport, Failure> {
        Ok(self.trend.report(from))
    }

    fn test_alerts(&self) -> Result<AlertTestReport, Failure> {
        Ok(self.alerts.test(&self.name))
    }

    fn carry_out(&self, order: Order, mode: Mode) -> Result<String, Failure> {
        match order {
            Order::Upgrade(_) if mode == Mode::DryRun => {
                Err(Failure::usage("an upgrade cannot be tried"))
            }
            Order::Upgrade(_) => self.succession.begin(),
            Order::Stop(_) if self.succession.has_begun() => Err(Failure::failed(
                "an upgrade is under way, and the array will be served again; try then",
            )),
            order => self.mailbox.carry_out(order, mode),
        }
    }
}

fn no_answer(why: RecvTimeoutError) -> Failure {
    Failure::failed(match why {
        RecvTimeoutError::Timeout => "the server does not answer; see its log",
        RecvTimeoutError::Disconnected => "the server has ended before it could answer",
    })
}

impl Mailbox {
    /// Opens and checks the device that `order` brings, if it does.
    fn open_device(&self, order: &Order) -> Result<Option<MemberFile>, Failure> {
        let (path, force) = match order {
            Order::Add(body) => (&body.path, body.force),
            Order::Replace(body) => (&body.new, body.force),
            _ => return Ok(None),
        };
        let path = Path::new(path);
        if !path.is_absolute() {
            return Err(Failure::usage(format!(
                "{} is not an absolute path",
                path.display()
            )));
        }
        let path = members::canonical(path);
        let opened = members::open_new(&path, force, LOCK_WAIT);
        opened
            .map(Some)
            .map_err(|failure| self.explain_lock(failure, &path))
    }

    /// The process that holds the lock may be this one.
    fn explain_lock(&self, failure: Failure, path: &Path) -> Failure {
        let Ok(status) = self.status() else {
            return failure;
        };
        let path = path.display().to_string();
        match status
            .members
            .iter()
            .find(|member| member.path.as_ref() == Some(&path))
        {
            Some(member) if failure.exit == Exit::Refused => {
                let state = &member.state;
                let next = match state == MemberState::Spare.as_str() {
                    true => "; `uraid remove` it first",
                    false => "",
                };
                Failure::refused(format!(
                    "{path} is a member of this array already, and is {state}{next}"
                ))
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Instant;
    use uraid_buffer::Pool;
    use uraid_io::driver::{Backend, Driver, Limits};

    #[test]
    fn who_asks_a_server_that_ends_need_not_wait_for_the_answer() {
        let mut driver = Driver::new(Backend::Threads, &Pool::heap(), Limits::default()).unwrap();
        let (sender, inbox) = sync_channel(INBOX_MAX);
        let waker = driver.waker();
        let mailbox = Mailbox { sender, waker };
        let (held, begun) = (mailbox.clone(), Instant::now());
        let asking = thread::spawn(move || mailbox.status());
        driver.wait(Some(STATUS_MAX), &mut Vec::new());
        drop(inbox);
        let failure = asking.join().unwrap().unwrap_err();
        assert!(failure.message.contains("has ended"), "{failure}");
        assert!(begun.elapsed() < STATUS_MAX);
        drop(held);
    }
}

//! What the control plane does before and after the data thread: opening devices, waiting.

use super::members;
use super::service::Message;
use crate::control::Operator;
use crate::control::wire::{Order, StatusReport};
use crate::failure::{Exit, Failure};
use crossbeam::channel::{Sender, bounded};
use std::path::Path;
use std::time::Duration;
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

/// The way to the data thread.
#[derive(Clone)]
pub struct Mailbox {
    /// Messages.
    pub sender: Sender<Message>,
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

impl Operator for Mailbox {
    fn status(&self) -> Result<StatusReport, Failure> {
        let (sender, receiver) = bounded(1);
        self.send(Message::Status(Box::new(move |status| {
            drop(sender.send(status))
        })))?;
        receiver.recv_timeout(STATUS_MAX).map_err(no_answer)?
    }

    fn carry_out(&self, order: Order) -> Result<String, Failure> {
        let file = self.open_device(&order)?;
        let (sender, receiver) = bounded(1);
        let answer = Box::new(move |result| drop(sender.send(result)));
        self.send(Message::Order(order, file, answer))?;
        receiver.recv_timeout(ORDER_MAX).map_err(no_answer)?
    }
}

fn no_answer(_: crossbeam::channel::RecvTimeoutError) -> Failure {
    Failure::failed("the server does not answer; see its log")
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
            Some(member) if failure.exit == Exit::Refused => Failure::refused(format!(
                "{path} is a member of this array already, and is {}",
                member.state
            )),
            _ => failure,
        }
    }
}

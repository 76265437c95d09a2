//! The data thread's loop: one array, its clients or the readers that serve them, and what operators
//! want of it.

use super::frontend::{Carrier, Frontend, thread_of};
use super::heartbeat::Heartbeat;
use super::host::{Answer, Host, Notice};
use super::qos::{Limits, Throttle};
use super::reader::Readers;
use super::settings::{self, Changes};
use super::tally::Books;
use super::{clock, log};
use crate::control::wire::{
    About, AddBody, ClearBody, HealthReport, MemberBody, MemberReference, Order, ReplaceBody,
    ScrubStartBody, StatusReport,
};
use crate::failure::Failure;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use uraid_engine::api::{Command, Device, DeviceId, Mode, ScrubOrder};
use uraid_io::device::MemberFile;

/// How long requests under way may take once the server stops; then clients are cut off.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// How long the last answers may take to reach clients after that.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// What other threads want of the data thread.
pub enum Message {
    /// How the array is.
    Status(Box<dyn FnOnce(Result<StatusReport, Failure>) + Send>),
    /// An operator's order, with the device that it brings.
    Order(Order, Mode, Option<MemberFile>, Answer),
    /// A member is no longer there.
    Gone(DeviceId, String),
    /// What the steward has found.
    Notes(Box<Notes>),
    /// A signal says to end.
    Terminate,
}

/// What only the steward knows of an array, for its status.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Notes {
    /// When the next scrub is due, in milliseconds since 1970; none if none is planned.
    pub scrub_due_millis: Option<u64>,
    /// What devices say of themselves, by the identities of members.
    pub health: BTreeMap<String, HealthReport>,
}

impl Notes {
    fn enter(&self, report: &mut StatusReport) {
        let left = |due: u64| due.saturating_sub(clock::millis()) / 1000;
        report.scrub.due_in_seconds = self.scrub_due_millis.map(left);
        for member in &mut report.members {
            member.health = self.health.get(&member.uuid).cloned();
        }
    }
}

/// What the engine is to do for an order.
enum Plan {
    Command(Command),
    /// The same, and these limits of clients besides.
    WithLimits(Command, Limits),
    /// The command takes in the device that came with the order.
    WithDevice(Box<dyn FnOnce(Device) -> Command>),
}

/// How far the service is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// No new requests; those under way until this time.
    Draining(Instant),
    /// The engine flushes.
    Stopping,
    /// The engine has flushed; clients may get their last answers until this time.
    Goodbye(Instant),
}

/// Whether everything was flushed, in words.
type StopResult = Result<String, Failure>;

/// An array in service.
pub struct Service {
    /// Before the host: they share its members, and let go of them first.
    readers: Readers,
    host: Host,
    /// Has no clients where readers serve them.
    frontend: Frontend,
    inbox: Receiver<Message>,
    about: About,
    books: Books,
    notes: Notes,
    heartbeat: Heartbeat,
    phase: Phase,
    /// Whoever asked for the stop.
    stop_answers: Vec<Answer>,
    /// What the engine said about it.
    stop_result: (SyncSender<StopResult>, Receiver<StopResult>),
}

/// How a service ended.
pub struct End {
    /// Whether everything is flushed, in words.
    pub result: StopResult,
    /// Who is to be told.
    pub answers: Vec<Answer>,
}

impl Service {
    /// An array that is open. Call [`Service::run`].
    pub fn new(
        (host, readers): (Host, Readers),
        frontend: Frontend,
        inbox: Receiver<Message>,
        (about, books): (About, Books),
        heartbeat: Heartbeat,
    ) -> Service {
        Service {
            readers,
            host,
            frontend,
            inbox,
            about,
            books,
            notes: Notes::default(),
            heartbeat,
            phase: Phase::Running,
            stop_answers: Vec::new(),
            stop_result: sync_channel(1),
        }
    }

    /// Serves until a signal or an operator ends it, then flushes and closes everything.
    pub fn run(mut self) -> End {
        let mut events = Vec::new();
        loop {
            self.heartbeat.beat();
            self.take_messages();
            self.frontend
                .take_newcomers(self.host.driver(), Instant::now());
            self.settle();
            self.move_on();
            if self.is_over() {
                break;
            }
            let timeout = self.timeout();
            self.host.wait(timeout, &mut events);
            for event in events.drain(..) {
                self.frontend.handle(event);
            }
        }
        drop(self.readers);
        self.host.close();
        let result = self.stop_result.1.try_recv();
        End {
            result: result.expect("the engine answers the stop before it has stopped"),
            answers: self.stop_answers,
        }
    }

    /// Lets engine and clients run until neither has anything for the other.
    fn settle(&mut self) {
        // Once a turn: readers that always have more leave time for members.
        self.readers.take_requests(&mut self.host);
        loop {
            let mut busy = self.frontend.advance(&mut self.host);
            self.host.pump();
            while let Some(reply) = self.host.next_reply() {
                match thread_of(reply.id) {
                    0 => self.frontend.reply(reply),
                    _ => self.readers.reply(reply),
                }
                busy = true;
            }
            while let Some(notice) = self.host.next_notice() {
                self.take_notice(notice);
            }
            self.readers.wake(&self.host);
            if !busy {
                return;
            }
        }
    }

    fn take_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Stopped => {
                let deadline = Instant::now() + GOODBYE_MAX;
                self.phase = Phase::Goodbye(deadline);
                self.readers.say_goodbye(deadline);
            }
            Notice::Opened | Notice::Refused(_) => panic!("the array is open already"),
        }
    }

    fn take_messages(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Status(answer) => answer(self.status()),
                Message::Order(order, mode, file, answer) => {
                    self.take_order(order, mode, file, answer)
                }
                Message::Gone(device, why) => self.host.device_gone(device, why),
                Message::Notes(notes) => self.notes = *notes,
                Message::Terminate => self.begin_stop(),
            }
        }
    }

    fn status(&mut self) -> Result<StatusReport, Failure> {
        self.readers.take_times(&mut self.host);
        let status = self.host.status();
        let status =
            status.ok_or_else(|| Failure::failed("the array is not assembled yet; try again"))?;
        let mut report = StatusReport::new(&status, &self.about);
        self.readers.count(&mut report.io);
        self.books.enter(&mut report);
        self.notes.enter(&mut report);
        report.readers = self.readers.report();
        Ok(report)
    }

    fn take_order(&mut self, order: Order, mode: Mode, file: Option<MemberFile>, answer: Answer) {
        if let (Order::Stop(_), Mode::Earnest) = (&order, mode) {
            self.stop_answers.push(answer);
            return self.begin_stop();
        }
        if self.phase != Phase::Running {
            return answer(Err(Failure::failed("the server is stopping")));
        }
        match self.plan(order) {
            Ok(Plan::Command(command)) => self.host.command(command, mode, answer),
            Ok(Plan::WithLimits(command, limits)) => {
                let answer = with_limits(limits, mode, self.books.throttle.clone(), answer);
                self.host.command(command, mode, answer);
            }
            Ok(Plan::WithDevice(command)) => {
                let file = file.expect("the operator opened the device");
                self.host.command_with(file, command, mode, answer);
            }
            Err(failure) => answer(Err(failure)),
        }
    }

    /// What the engine is to do for an order.
    fn plan(&self, order: Order) -> Result<Plan, Failure> {
        let member = |reference: &MemberReference| match reference {
            MemberReference::Slot(slot) => self.host.member_name(&slot.to_string()),
            MemberReference::Text(text) => self.host.member_name(text),
        };
        let scrub = |order| Plan::Command(Command::Scrub(order));
        Ok(match order {
            Order::Fail(MemberBody { member: m, force }) => Plan::Command(Command::Fail {
                member: member(&m)?,
                force,
            }),
            Order::Remove(MemberBody { member: m, force }) => Plan::Command(Command::Remove {
                member: member(&m)?,
                force,
            }),
            Order::RemoveCopy(_) => Plan::Command(Command::RemoveCopy),
            Order::Clear(ClearBody { member: m }) => Plan::Command(Command::Clear {
                member: m.as_ref().map(member).transpose()?,
            }),
            Order::Add(AddBody { force, copy, .. }) => {
                Plan::WithDevice(Box::new(move |device| match copy {
                    true => Command::AddCopy { device, force },
                    false => Command::Add { device, force },
                }))
            }
            Order::Replace(ReplaceBody { old, force, .. }) => {
                let old = member(&old)?;
                Plan::WithDevice(Box::new(move |new| Command::Replace { old, new, force }))
            }
            Order::Set(body) => {
                let of = body.member.as_ref().map(member).transpose()?;
                let limits = self.books.throttle.limits();
                let changes = settings::read(&body.settings, of.as_ref(), limits)?;
                let Changes { engine, limits } = changes;
                match limits {
                    Some(limits) => Plan::WithLimits(Command::Set(engine), limits),
                    None => Plan::Command(Command::Set(engine)),
                }
            }
            Order::ScrubStart(ScrubStartBody {
                bytes_per_second_max,
            }) => scrub(ScrubOrder::Start {
                rate_max: bytes_per_second_max,
            }),
            Order::ScrubPause(_) => scrub(ScrubOrder::Pause),
            Order::ScrubResume(_) => scrub(ScrubOrder::Resume),
            Order::ScrubStop(_) => scrub(ScrubOrder::Stop),
            Order::Stop(_) => Plan::Command(Command::Stop),
            Order::Upgrade(_) => unreachable!("it is for the whole server"),
        })
    }

    fn begin_stop(&mut self) {
        if self.phase == Phase::Running {
            log::info("stopping");
            self.frontend.shutdown();
            self.readers.shutdown();
            self.phase = Phase::Draining(Instant::now() + DRAIN_MAX);
        }
    }

    /// From one phase to the next, when its time has come.
    fn move_on(&mut self) {
        if let Phase::Draining(deadline) = self.phase
            && (self.is_idle() || Instant::now() >= deadline)
        {
            self.phase = Phase::Stopping;
            let result = self.stop_result.0.clone();
            let answer = Box::new(move |r| drop(result.try_send(r)));
            self.host.command(Command::Stop, Mode::Earnest, answer);
            self.settle();
        }
    }

    /// Whether no request is under way.
    fn is_idle(&self) -> bool {
        self.frontend.is_idle() && self.readers.are_idle()
    }

    fn is_over(&self) -> bool {
        let is_empty = || self.frontend.is_empty() && self.readers.have_ended();
        match self.phase {
            Phase::Goodbye(deadline) => is_empty() || Instant::now() >= deadline,
            _ => false,
        }
    }

    /// When to look again though nothing happened.
    fn timeout(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let phase = match self.phase {
            Phase::Draining(deadline) | Phase::Goodbye(deadline) => Some(deadline),
            Phase::Running | Phase::Stopping => None,
        };
        let patience = self.frontend.check_patience(self.host.driver(), now);
        let fence = self.frontend.fence_deadline();
        let turn = self.frontend.turn_deadline(now);
        let first = [phase, patience, fence, turn].into_iter().flatten().min();
        first.map(|at| at.saturating_duration_since(now))
    }
}

/// Has clients limited once the engine has done its part, if it does; then gives the `answer`.
fn with_limits(limits: Limits, mode: Mode, throttle: Arc<Throttle>, answer: Answer) -> Answer {
    Box::new(move |done| {
        let earnest = done.is_ok() && mode == Mode::Earnest;
        if earnest {
            throttle.set(limits);
        }
        let said = earnest.then(|| limits.describe());
        answer(done.map(|text| {
            let parts = [Some(text), said].into_iter().flatten();
            let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
            parts.join("; ")
        }))
    })
}

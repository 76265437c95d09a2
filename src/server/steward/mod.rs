//! What the server does by itself where an operator would: one thread looks at the status of each
//! array once a second, decides, and gives orders as an operator would.
//!
//! ```text
//! statuses, the time --> rejoin, spares,   decide; know no clock, no file, no thread
//!                        early, schedule
//!                             | deeds
//!                             v
//!                        deeds             orders to arrays, on threads that may hang
//! ```
//!
//! An array never waits for any of this. Devices are opened and read on threads of their own, one
//! for each member at most, and one for each array's deed.

mod deeds;
mod early;
mod health;
mod look;
mod rejoin;
mod schedule;
mod smart;
mod spares;

pub use schedule::Hours;

use super::history::{History, Note};
use super::operator::{Mailbox, Served, ask_all};
use super::service::{Message, Notes};
use super::{clock, log};
use crate::control::wire::{HealthReport, MemberReport, StatusReport};
use crate::failure::{Doing, Failure};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use deeds::{Action, Deed};
use early::Early;
use health::{Change, Health};
use rejoin::{Rejoin, Step};
use schedule::Schedule;
use spares::Spares;
use std::collections::{BTreeMap, BTreeSet};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use uraid_core::events::{EventKind, EventMember, Severity};
use uraid_core::units::Uuid;
use uraid_io::local_time::hour_of_day;

/// Between two looks at the arrays.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long all arrays together may take to say how they are; who has not is passed over.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Stack of each thread: all that is touched of it is locked in memory, where memory is.
const STACK_BYTES: usize = 512 << 10;

/// What the server is to do by itself.
#[derive(Clone, Debug)]
pub struct StewardOptions {
    /// Take members back that left by themselves.
    pub rejoin: bool,
    /// How long a member stays out when it leaves for the second time.
    pub rejoin_wait: Duration,
    /// Names of arrays that help each other out with spares.
    pub spare_groups: Vec<Vec<String>>,
    /// Replace members that fail by their own word, or have had more than so many errors.
    pub replace_errors: Option<u64>,
    /// Time from one scrub to the next.
    pub scrub_every: Option<Duration>,
    /// Hours of the day in which that may begin.
    pub scrub_hours: Option<Hours>,
}

/// An array that is looked after.
#[derive(Clone)]
pub struct Charge {
    /// Its name.
    pub name: String,
    /// The way to it.
    pub mailbox: Mailbox,
    /// Where it is told what was done.
    pub history: History,
}

impl From<&Served> for Charge {
    fn from(served: &Served) -> Charge {
        Charge {
            name: served.name.clone(),
            mailbox: served.mailbox.clone(),
            history: served.history.clone(),
        }
    }
}

impl Charge {
    /// Tells of the array, in its history and in the log.
    fn tell(&self, kind: EventKind, member: Option<EventMember>, text: &str) {
        match kind.severity() {
            Severity::Info => log::info(text),
            _ => log::warning(text),
        }
        self.history.note(Note::now(kind, member, text));
    }
}

/// The thread; ends when dropped. What it has begun goes on.
pub struct Steward {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Steward {
    /// Looks after these arrays.
    pub fn start(options: &StewardOptions, charges: Vec<Charge>) -> Result<Steward, Failure> {
        let is_there = |name: &&String| charges.iter().any(|charge| charge.name == **name);
        let named = options.spare_groups.iter().flatten();
        for stranger in named.filter(|name| !is_there(name)) {
            log::warning(&format!(
                "--spare-group speaks of {stranger}, which is not served: it neither gives nor gets \
                 spares"
            ));
        }
        let (stop, stopped) = bounded::<()>(0);
        let rounds = Rounds::new(options.clone(), charges);
        let thread = thread::Builder::new().name("uraid-steward".to_string());
        let thread = thread.stack_size(STACK_BYTES);
        let thread = thread.spawn(move || rounds.run(&stopped));
        Ok(Steward {
            stop: Some(stop),
            thread: Some(thread.doing(|| "start a thread".to_string())?),
        })
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the steward does not panic");
        }
    }
}

/// What other threads have found or done.
enum Report {
    /// Whether the device of a member is back.
    Looked(String, Uuid, bool),
    /// What the device of a member says of itself.
    Asked(EventMember, String, Option<HealthReport>),
    /// A deed is over.
    Done(Deed, Result<String, Failure>),
}

struct Rounds {
    options: StewardOptions,
    charges: BTreeMap<String, Charge>,
    /// Origin of the time by which it is decided.
    start: Instant,
    rejoins: BTreeMap<String, Rejoin>,
    spares: Spares,
    early: Option<Early>,
    schedule: Option<Schedule>,
    health: Health,
    /// Members whose devices a thread is asking.
    asking: BTreeSet<Uuid>,
    /// What each array was last told to show.
    notes: BTreeMap<String, Notes>,
    /// Members at whose devices a thread is looking.
    looking: BTreeSet<(String, Uuid)>,
    /// Arrays to which something is being done.
    busy: BTreeSet<String>,
    /// What was last told not to be done, so that it is told once.
    complaints: BTreeMap<String, String>,
    /// At most one for each member that is looked at and for each deed.
    reports: (Sender<Report>, Receiver<Report>),
}

impl Rounds {
    fn new(options: StewardOptions, charges: Vec<Charge>) -> Rounds {
        Rounds {
            spares: Spares::new(options.spare_groups.clone()),
            early: options.replace_errors.map(Early::new),
            schedule: options
                .scrub_every
                .map(|every| Schedule::new(every, options.scrub_hours)),
            health: Health::default(),
            asking: BTreeSet::new(),
            notes: BTreeMap::new(),
            options,
            charges: charges.into_iter().map(|c| (c.name.clone(), c)).collect(),
            start: Instant::now(),
            rejoins: BTreeMap::new(),
            looking: BTreeSet::new(),
            busy: BTreeSet::new(),
            complaints: BTreeMap::new(),
            reports: unbounded(),
        }
    }

    fn run(mut self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            while let Ok(report) = self.reports.1.try_recv() {
                self.take(report);
            }
            let statuses = self.statuses();
            self.ask_devices(&statuses);
            self.rejoin(&statuses);
            self.share_spares(&statuses);
            self.replace_early(&statuses);
            self.scrub(&statuses);
        }
    }

    /// How those arrays are that can be changed, are not being changed, and have said it in time.
    fn statuses(&self) -> Vec<StatusReport> {
        let idle = self
            .charges
            .values()
            .filter(|c| !self.busy.contains(&c.name));
        let statuses = ask_all(idle.map(|c| &c.mailbox), ANSWER_MAX);
        let may_change = |status: &StatusReport| !status.read_only && status.suspended.is_none();
        let statuses = statuses.into_iter().flatten();
        statuses.filter(may_change).collect()
    }

    fn rejoin(&mut self, statuses: &[StatusReport]) {
        if !self.options.rejoin {
            return;
        }
        let (now, failing) = (self.start.elapsed(), self.health.failing());
        for status in statuses {
            let wait = self.options.rejoin_wait;
            let rejoin = self.rejoins.entry(status.name.clone());
            let early = self.early.as_ref();
            let ails = |m: &MemberReport| early.is_some_and(|e| e.ailment(m, &failing).is_some());
            let rejoin = rejoin.or_insert_with(|| Rejoin::new(wait));
            let steps = rejoin.step(status, ails, now);
            for step in steps {
                match step {
                    Step::Look { member, path } => self.look(status, member, path),
                    Step::Do(deed) => self.begin(deed),
                    Step::GiveUp { member, text } => {
                        let charge = &self.charges[&status.name];
                        charge.tell(EventKind::StaysOut, Some(member), &text);
                    }
                }
            }
        }
    }

    /// Has threads ask devices how they are, and shows what they have said.
    fn ask_devices(&mut self, statuses: &[StatusReport]) {
        for status in statuses {
            for (member, path) in self.health.due(status, self.start.elapsed()) {
                if self.asking.insert(member.uuid) {
                    let (name, reports) = (status.name.clone(), self.reports.0.clone());
                    spawn(move || {
                        let report = health::ask(&path);
                        let _ = reports.send(Report::Asked(member, name, report));
                    });
                }
            }
            let known = self.health.of(status);
            self.note(&status.name, |notes| notes.health = known);
        }
    }

    fn take_health(&mut self, member: EventMember, name: &str, report: Option<HealthReport>) {
        self.asking.remove(&member.uuid);
        let change = self.health.learn(member.uuid, report);
        let whose = match member.slot {
            Some(slot) => format!("the device of member {slot}"),
            None => "the device of a spare".to_string(),
        };
        let (kind, text) = match change {
            None => return,
            Some(Change::Well) => (EventKind::MemberWell, format!("{whose} is well again")),
            Some(Change::Unwell(problems)) => {
                let text = format!("{whose} is not well by its own word: {problems}");
                (EventKind::MemberUnwell, text)
            }
        };
        self.charges[name].tell(kind, Some(member), &text);
    }

    fn share_spares(&mut self, statuses: &[StatusReport]) {
        let deeds = self.spares.step(statuses, self.start.elapsed());
        deeds.into_iter().for_each(|deed| self.begin(deed));
    }

    fn replace_early(&mut self, statuses: &[StatusReport]) {
        let Some(early) = &self.early else { return };
        let now = self.start.elapsed();
        let failing = self.health.failing();
        let deed = |status| early.step(status, &failing, now);
        let deeds: Vec<Deed> = statuses.iter().filter_map(deed).collect();
        deeds.into_iter().for_each(|deed| self.begin(deed));
    }

    fn scrub(&mut self, statuses: &[StatusReport]) {
        let Some(schedule) = &mut self.schedule else {
            return;
        };
        let now = clock::millis();
        let mut deeds = Vec::new();
        let mut due_times = Vec::new();
        for status in statuses {
            let history = &self.charges[&status.name].history;
            let records = history.records(schedule.next_event(&status.name), usize::MAX);
            let Some(last) = schedule.learn(&status.name, &records) else {
                continue;
            };
            let due = schedule.due(last, now);
            due_times.push((status.name.clone(), due));
            deeds.extend(schedule.step(status, due, now, hour_of_day(now)));
        }
        for (name, due) in due_times {
            self.note(&name, |notes| notes.scrub_due_millis = Some(due));
        }
        deeds.into_iter().for_each(|deed| self.begin(deed));
    }

    /// Has an array show something in its status, if that has changed.
    fn note(&mut self, name: &str, change: impl FnOnce(&mut Notes)) {
        let notes = self.notes.entry(name.to_string()).or_default();
        let before = notes.clone();
        change(notes);
        let message = Message::Notes(Box::new(notes.clone()));
        if *notes != before && self.charges[name].mailbox.send(message).is_err() {
            *notes = before; // it has too much to do: the next time, then
        }
    }

    /// Has a thread look whether a member's device is back, unless one still does.
    fn look(&mut self, status: &StatusReport, member: Uuid, path: String) {
        let (name, array) = (status.name.clone(), uuid(&status.uuid));
        if !self.looking.insert((name.clone(), member)) {
            return;
        }
        let reports = self.reports.0.clone();
        spawn(move || {
            let is_back = look::is_back(&path, array, member);
            let _ = reports.send(Report::Looked(name, member, is_back));
        });
    }

    /// Does something, unless something is being done to an array that it concerns.
    fn begin(&mut self, deed: Deed) {
        if deed.arrays().any(|name| self.busy.contains(name)) {
            return;
        }
        self.busy.extend(deed.arrays().map(String::from));
        for (name, kind, member, text) in deed.announcement() {
            self.charges[name].tell(kind, member, &text);
        }
        let (charges, reports) = (self.charges.clone(), self.reports.0.clone());
        spawn(move || {
            let result = deed.carry_out(&charges);
            let _ = reports.send(Report::Done(deed, result));
        });
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Looked(name, member, is_back) => {
                self.looking.remove(&(name.clone(), member));
                if let Some(rejoin) = self.rejoins.get_mut(&name) {
                    rejoin.saw(member, is_back);
                }
            }
            Report::Asked(member, name, report) => self.take_health(member, &name, report),
            Report::Done(deed, result) => {
                for name in deed.arrays() {
                    self.busy.remove(name);
                }
                let charge = &self.charges[&deed.array];
                match result {
                    Ok(answer) => {
                        self.complaints.remove(&deed.array);
                        if let Some((kind, member, text)) = deed.success(&answer) {
                            charge.tell(kind, member, &text);
                        }
                    }
                    Err(failure) => self.complain(&deed, &failure),
                }
            }
        }
    }

    /// Tells what was not done and why, the same thing once.
    fn complain(&mut self, deed: &Deed, failure: &Failure) {
        let (array, now) = (&deed.array, self.start.elapsed());
        match (&deed.action, &mut self.early, &mut self.schedule) {
            (Action::MoveSpare { .. }, ..) => self.spares.put_off(array, now),
            (Action::Replace { .. }, Some(early), _) => early.put_off(array, now),
            (Action::Scrub, _, Some(schedule)) => schedule.put_off(array, clock::millis()),
            _ => {} // who is not taken back was put off when that began
        }
        let text = deed.failure(failure);
        let said = self.complaints.insert(deed.array.clone(), text.clone());
        if said.as_ref() != Some(&text) {
            self.charges[&deed.array].tell(EventKind::NotDone, None, &text);
        }
    }
}

/// Starts a thread that may hang. Where there is none to be had, its report never comes, and what
/// it was to do is not tried again: the host has other sorrows then.
fn spawn(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().name("uraid-deed".to_string());
    if let Err(error) = thread.stack_size(STACK_BYTES).spawn(work) {
        log::warning(&format!("cannot start a thread: {error}"));
    }
}

/// An identity as status reports have it.
fn uuid(text: &str) -> Uuid {
    text.parse().unwrap_or_default()
}

/// A member, for an event.
fn event_member(member: &MemberReport) -> EventMember {
    EventMember {
        slot: member.slot,
        uuid: uuid(&member.uuid),
    }
}

//! What happened to an array: in memory for whoever asks, on the members for those who come later,
//! and on its way to people who want to be alarmed.
//!
//! A thread of its own does all of it. The data thread hands events over and never waits: what finds
//! no room is counted. A member that does not take the log is left out of it, and of nothing else.

mod book;
mod limit;
mod store;

pub use book::Note;

use super::log;
use crate::failure::{Doing, Failure};
use book::Book;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use limit::Limiter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use store::Store;
use uraid_core::events::{EventKind, EventRecord};
use uraid_core::units::Uuid;
use uraid_io::device::MemberFile;

/// Most tasks that wait for the thread; what more comes is counted.
const TASKS_MAX: usize = 1024;

/// Most events that are kept before the members' log is read.
const EARLY_MAX: usize = 64;

/// How long the thread may take to end; one that is stuck in a member is left behind.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Told of each event that is kept.
pub type OnEvent = Box<dyn Fn(&EventRecord) + Send>;

enum Task {
    Note(Note),
    Members(Vec<(Uuid, MemberFile)>),
    End,
}

/// What the thread and those who ask it share.
#[derive(Default)]
struct Shared {
    book: Mutex<Book>,
    /// Events that found no room on their way.
    lost: AtomicU64,
}

/// The history of one array. Clones are the same.
#[derive(Clone)]
pub struct History {
    shared: Arc<Shared>,
    tasks: Sender<Task>,
    ended: Receiver<()>,
}

impl History {
    /// The history of the array with this key, which is empty until members are there. `on_event`
    /// must not wait for anything.
    pub fn start(key: u64, read_only: bool, on_event: OnEvent) -> Result<History, Failure> {
        let (tasks, receiver) = bounded(TASKS_MAX);
        let (end_mark, ended) = bounded::<()>(0);
        let shared = Arc::new(Shared::default());
        let keeper = Keeper {
            shared: shared.clone(),
            store: Store::new(key, read_only),
            limiter: Limiter::default(),
            early: Some(Vec::new()),
            on_event,
        };
        let run = move || {
            keeper.run(&receiver);
            drop(end_mark);
        };
        let thread = thread::Builder::new().name("uraid-events".to_string());
        thread.spawn(run).doing(|| "start a thread".to_string())?;
        Ok(History {
            shared,
            tasks,
            ended,
        })
    }

    /// Something happened.
    pub fn note(&self, note: Note) {
        if self.tasks.try_send(Task::Note(note)).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// These members are in sync from now on: they keep the log.
    pub fn set_members(&self, members: Vec<(Uuid, MemberFile)>) {
        if self.tasks.try_send(Task::Members(members)).is_err() {
            log::warning("the log of events is stuck: a member does not answer");
        }
    }

    /// Events from this number on, oldest first; the last `max` of them.
    pub fn records(&self, from: u64, max: usize) -> Vec<EventRecord> {
        let book = self.shared.book.lock().expect("no holder panics");
        book.records(from, max)
    }

    /// Ends the thread after all it was given, and lets go of the members.
    pub fn end(&self) {
        // A full queue means that it is stuck.
        if self.tasks.try_send(Task::End).is_ok() {
            let _ = self.ended.recv_timeout(GOODBYE_MAX);
        }
    }
}

struct Keeper {
    shared: Arc<Shared>,
    store: Store,
    limiter: Limiter,
    /// What came before the members did.
    early: Option<Vec<Note>>,
    on_event: OnEvent,
}

impl Keeper {
    fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            let task = match self.limiter.deadline() {
                Some(deadline) => tasks.recv_deadline(deadline),
                None => tasks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let first = match task {
                Ok(task) => Some(task),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut ends = false;
            for task in first.into_iter().chain(tasks.try_iter()) {
                match task {
                    Task::Note(note) => self.take(note),
                    Task::Members(members) => self.set_members(members),
                    Task::End => ends = true,
                }
            }
            self.sum_up();
            let pages: Vec<_> = {
                let book = self.shared.book.lock().expect("no holder panics");
                book.pages().cloned().collect()
            };
            self.store.write(&pages);
            if ends {
                return;
            }
        }
    }

    fn take(&mut self, note: Note) {
        match &mut self.early {
            Some(early) if early.len() < EARLY_MAX => early.push(note),
            Some(_) => drop(self.shared.lost.fetch_add(1, Ordering::Relaxed)),
            None if self.limiter.admit(note.kind(), Instant::now()) => self.keep(note),
            None => {}
        }
    }

    fn keep(&mut self, note: Note) {
        let record = {
            let mut book = self.shared.book.lock().expect("no holder panics");
            book.add(note)
        };
        (self.on_event)(&record);
    }

    fn set_members(&mut self, members: Vec<(Uuid, MemberFile)>) {
        self.store.set_members(members);
        if let Some(early) = self.early.take() {
            let book = Book::continued(self.store.read());
            *self.shared.book.lock().expect("no holder panics") = book;
            early.into_iter().for_each(|note| self.take(note));
        }
    }

    /// Tells what was left out.
    fn sum_up(&mut self) {
        for text in self.limiter.summaries(Instant::now()) {
            self.keep(Note::now(EventKind::LeftOut, None, &text));
        }
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = format!("{lost} events came faster than they could be kept; see the log");
            self.keep(Note::now(EventKind::LeftOut, None, &text));
        }
    }
}

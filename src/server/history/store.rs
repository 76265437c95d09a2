//! The log of events on the members. Members are read and written by threads that may hang with
//! them, and are waited for so long and no longer.

use crate::server::log;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};
use uraid_core::events::{EVENTS_AT, EVENTS_BYTES, EventPage, read_event_pages};
use uraid_core::units::Uuid;
use uraid_io::device::MemberFile;

/// How many members are read at a start: all have the same, unless they failed to take some.
const READ_MAX: usize = 3;

/// How long members may take, all together. One that takes longer is left out from then on.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long nothing may be answered until another thread takes over what a member may hold up.
const STALL_MAX: Duration = Duration::from_millis(100);

/// Stack of a thread that reads or writes.
const STACK_BYTES: usize = 128 << 10;

/// A member that keeps the log.
struct Keeping {
    file: MemberFile,
    /// Which version it has of which page.
    written: BTreeMap<u64, u64>,
}

/// Where the log is kept.
pub struct Store {
    key: u64,
    read_only: bool,
    members: BTreeMap<Uuid, Keeping>,
}

impl Store {
    /// No members yet.
    pub fn new(key: u64, read_only: bool) -> Store {
        Store {
            key,
            read_only,
            members: BTreeMap::new(),
        }
    }

    /// From now on these keep it. One that was there before need not be written anew.
    pub fn set_members(&mut self, members: Vec<(Uuid, MemberFile)>) {
        let mut before = std::mem::take(&mut self.members);
        for (uuid, file) in members {
            let same = |old: &Keeping| old.file.path() == file.path();
            let old = before.remove(&uuid);
            let written = old.as_ref().filter(|old| same(old));
            let written = written.map(|old| old.written.clone()).unwrap_or_default();
            old.into_iter().for_each(|old| old.file.close_apart());
            self.members.insert(uuid, Keeping { file, written });
        }
        let gone = before.into_values();
        gone.for_each(|member| member.file.close_apart());
    }

    /// What the members hold.
    pub fn read(&self) -> Vec<EventPage> {
        let (sender, zones) = bounded(READ_MAX);
        for member in self.members.values().take(READ_MAX) {
            let (file, sender) = (member.file.share(), sender.clone());
            apart(move || {
                let mut zone = vec![0; EVENTS_BYTES as usize];
                if file.read_at(EVENTS_AT, &mut zone).is_ok() {
                    drop(sender.send(zone));
                }
            });
        }
        drop(sender);
        let deadline = Instant::now() + ANSWER_MAX;
        let zones: Vec<Vec<u8>> =
            std::iter::from_fn(|| zones.recv_deadline(deadline).ok()).collect();
        read_event_pages(zones.iter().map(|zone| &zone[..]), self.key)
    }

    /// Writes what members lack of these pages.
    pub fn write(&mut self, pages: &[EventPage]) {
        if self.read_only {
            return;
        }
        let writes = self.lacking(pages);
        if writes.is_empty() {
            return;
        }
        let mut waiting: BTreeMap<Uuid, String> = BTreeMap::new();
        for write in &writes {
            waiting.insert(write.member, write.file.path().display().to_string());
        }
        for (member, result) in write_all(writes) {
            let path = waiting.remove(&member).expect("each answers once");
            if let Err(error) = result {
                self.leave_out(member, &path, &error.to_string());
            }
        }
        for (member, path) in waiting {
            self.leave_out(member, &path, "it does not answer");
        }
    }

    /// What members lack of these pages. From now on they are thought to have it.
    fn lacking(&mut self, pages: &[EventPage]) -> Vec<Write> {
        let mut writes = Vec::new();
        for (uuid, member) in &mut self.members {
            let lacking =
                |page: &&EventPage| member.written.get(&page.number) != Some(&page.version);
            let encode = |page: &EventPage| (page.offset(), page.encode(self.key));
            let lacking: Vec<_> = pages.iter().filter(lacking).map(encode).collect();
            if lacking.is_empty() {
                continue;
            }
            member.written = pages
                .iter()
                .map(|page| (page.number, page.version))
                .collect();
            writes.push(Write {
                member: *uuid,
                file: member.file.share(),
                pages: lacking,
            });
        }
        writes
    }

    /// The member keeps the log no longer, until it is in sync anew.
    fn leave_out(&mut self, uuid: Uuid, path: &str, why: &str) {
        log::warning(&format!("{path}: does not take the log of events: {why}"));
        let member = self.members.remove(&uuid);
        member
            .into_iter()
            .for_each(|member| member.file.close_apart());
    }
}

/// Does `work` on a thread that nobody waits for.
fn apart(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().name("uraid-log".to_string());
    // Without a thread it is as if the member had failed to do it.
    drop(thread.stack_size(STACK_BYTES).spawn(work));
}

/// Encoded pages and where a member takes them.
struct Write {
    member: Uuid,
    file: MemberFile,
    pages: Vec<(u64, Vec<u8>)>,
}

/// How it went with those that answered in time.
fn write_all(writes: Vec<Write>) -> Vec<(Uuid, io::Result<()>)> {
    let count = writes.len();
    let (queue, queued) = bounded(count);
    writes
        .into_iter()
        .for_each(|write| queue.send(write).expect("there is room for all"));
    drop(queue);
    let (answer, answers) = bounded(count);
    let deadline = Instant::now() + ANSWER_MAX;
    let mut done = Vec::with_capacity(count);
    // One thread does it, as each keeps memory of its own; more only beside members that hang.
    start_writing(&queued, &answer);
    while done.len() < count {
        match answers.recv_deadline(deadline.min(Instant::now() + STALL_MAX)) {
            Ok(result) => done.push(result),
            Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => break,
            Err(_) => start_writing(&queued, &answer),
        }
    }
    // What nobody began with is not to be written any more, when a member comes back to life.
    queued.try_iter().for_each(drop);
    done
}

fn start_writing(queued: &Receiver<Write>, answer: &Sender<(Uuid, io::Result<()>)>) {
    let (queued, answer) = (queued.clone(), answer.clone());
    apart(move || {
        for Write {
            member,
            file,
            pages,
        } in queued
        {
            let mut pages = pages.iter();
            let result = pages.try_for_each(|(offset, bytes)| file.write_at(*offset, bytes));
            // Nobody listens any more if it took too long.
            drop(answer.send((member, result)));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::book::{Book, Note};
    use super::*;
    use uraid_core::events::EventKind;
    use uraid_io::device::{OpenMode, create_sparse};

    fn members(directory: &tempfile::TempDir, names: &[&str]) -> Vec<(Uuid, MemberFile)> {
        let open = |(i, name): (usize, &&str)| {
            let path = directory.path().join(name);
            if !path.exists() {
                create_sparse(&path, 2 << 20).unwrap();
            }
            let file = MemberFile::open(&path, OpenMode::default()).unwrap();
            (Uuid([i as u8 + 1; 16]), file)
        };
        names.iter().enumerate().map(open).collect()
    }

    #[test]
    fn a_member_that_comes_later_gets_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = Book::default();
        let mut store = Store::new(7, false);
        store.set_members(members(&directory, &["a"]));
        for text in ["first", "second"] {
            book.add(Note::now(EventKind::Warning, None, text));
            store.write(&book.pages().cloned().collect::<Vec<_>>());
        }
        drop(store);
        let mut store = Store::new(7, false);
        store.set_members(members(&directory, &["a", "b"]));
        let pages = store.read();
        store.write(&pages);
        drop(store);
        let mut store = Store::new(7, false);
        store.set_members(members(&directory, &["b"]));
        let found = Book::continued(store.read()).records(0, 9);
        let texts: Vec<_> = found.iter().map(|record| &record.text[..]).collect();
        assert_eq!(texts, ["first", "second"]);
    }
}

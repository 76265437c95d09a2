//! The events of an array in memory: as many as members keep.

use crate::server::clock;
use std::collections::VecDeque;
use uraid_core::events::{EVENT_PAGES, EventKind, EventMember, EventPage, EventRecord};

/// An event that has no number yet.
#[derive(Clone, Debug)]
pub struct Note {
    time_millis: u64,
    kind: EventKind,
    member: Option<EventMember>,
    text: String,
}

impl Note {
    /// Something that happens now.
    pub fn now(kind: EventKind, member: Option<EventMember>, text: &str) -> Note {
        Note {
            time_millis: clock::millis(),
            kind,
            member,
            text: text.to_string(),
        }
    }

    /// What happened.
    pub fn kind(&self) -> EventKind {
        self.kind
    }
}

/// Pages, oldest first, as members are to have them.
#[derive(Default)]
pub struct Book {
    pages: VecDeque<EventPage>,
    next_sequence: u64,
}

impl Book {
    /// Goes on after what members hold.
    pub fn continued(pages: Vec<EventPage>) -> Book {
        let last = pages.iter().rev().find_map(|page| page.records.last());
        Book {
            next_sequence: last.map_or(0, |record| record.sequence + 1),
            pages: pages.into(),
        }
    }

    /// Adds an event.
    pub fn add(&mut self, note: Note) -> EventRecord {
        let record = EventRecord {
            sequence: self.next_sequence,
            time_millis: note.time_millis,
            severity: note.kind.severity(),
            kind: note.kind,
            member: note.member,
            text: note.text,
        };
        self.next_sequence += 1;
        match self.pages.back_mut() {
            Some(page) if page.has_room(&record) => {
                page.records.push(record.clone());
                page.version += 1;
            }
            last => {
                let number = last.map_or(0, |page| page.number + 1);
                self.pages.push_back(EventPage {
                    number,
                    version: 0,
                    records: vec![record.clone()],
                });
                if self.pages.len() > EVENT_PAGES as usize {
                    self.pages.pop_front();
                }
            }
        }
        record
    }

    /// All pages.
    pub fn pages(&self) -> impl Iterator<Item = &EventPage> {
        self.pages.iter()
    }

    /// Events from this number on, oldest first; the last `max` of them.
    pub fn records(&self, from: u64, max: usize) -> Vec<EventRecord> {
        let newest_first = self
            .pages
            .iter()
            .rev()
            .flat_map(|page| page.records.iter().rev());
        let wanted = newest_first.take_while(|record| record.sequence >= from);
        let mut records: Vec<EventRecord> = wanted.take(max).cloned().collect();
        records.reverse();
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_make_room_and_numbers_go_on() {
        let mut book = Book::default();
        let text = "x".repeat(500);
        let count = EVENT_PAGES * 20;
        for _ in 0..count {
            book.add(Note::now(EventKind::Repaired, None, &text));
        }
        assert_eq!(book.pages().count(), EVENT_PAGES as usize);
        let records = book.records(0, usize::MAX);
        assert!((200..count as usize).contains(&records.len()));
        assert_eq!(records.last().unwrap().sequence, count - 1);
        assert!(records.is_sorted_by_key(|record| record.sequence));
        assert_eq!(book.records(count - 3, 2).len(), 2);
        assert_eq!(book.records(count, 9), []);

        let mut continued = Book::continued(book.pages().cloned().collect());
        let next = continued.add(Note::now(EventKind::Opened, None, ""));
        assert_eq!(next.sequence, count);
    }
}

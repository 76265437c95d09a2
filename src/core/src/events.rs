//! Events, and the log of them that every member keeps: between the superblocks at its start, where
//! programs that know nothing of it neither read nor write.
//!
//! The log is a ring of pages of 4 KiB, each in two copies by turns, so that a torn write costs what
//! was added last. Pages that are no pages, for whatever reason, are events that were forgotten.

use crate::codec::{Reader, Writer};
use crate::journal::{check_seal, seal};
use crate::units::{BLOCK, BLOCK_BYTES, Uuid};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// Where the log begins on a member.
pub const EVENTS_AT: u64 = 64 << 10;
/// Pages of the ring.
pub const EVENT_PAGES: u64 = 32;
/// Size of the log: two copies of each page.
pub const EVENTS_BYTES: u64 = EVENT_PAGES * 2 * BLOCK;
/// Longest text of an event; what is more is cut off.
pub const EVENT_TEXT_BYTES_MAX: usize = 600;

const MAGIC: u32 = u32::from_le_bytes(*b"uEV1");
const HEADER_BYTES: usize = 32;
const NO_SLOT: u16 = u16::MAX;

/// How much an event matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// As it should be.
    Info,
    /// To be looked at by day.
    Warning,
    /// To be looked at now.
    Critical,
}

impl Severity {
    /// All, from the least.
    pub const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }

    fn from_code(code: u8) -> Option<Severity> {
        Severity::ALL.get(usize::from(code)).copied()
    }
}

/// Makes [`EventKind`] with the code, the severity and the word of each.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal $severity:ident $word:literal,)*) => {
        /// What happened. Codes and words are for ever.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum EventKind {
            $($(#[$doc])* $name,)*
            /// Something that a newer program knows.
            Unknown(u16),
        }

        impl EventKind {
            /// All that this program knows.
            pub const ALL: &[EventKind] = &[$(EventKind::$name,)*];

            /// What stands for it on disk.
            pub fn code(self) -> u16 {
                match self {
                    $(EventKind::$name => $code,)*
                    EventKind::Unknown(code) => code,
                }
            }

            /// What a code on disk stands for.
            pub fn from_code(code: u16) -> EventKind {
                match code {
                    $($code => EventKind::$name,)*
                    code => EventKind::Unknown(code),
                }
            }

            /// How much it matters.
            pub fn severity(self) -> Severity {
                match self {
                    $(EventKind::$name => Severity::$severity,)*
                    EventKind::Unknown(_) => Severity::Warning,
                }
            }

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(EventKind::$name => $word,)*
                    EventKind::Unknown(_) => "unknown",
                }
            }
        }
    };
}

kinds! {
    /// The array is served, with all members.
    Opened = 1 Info "opened",
    /// The array is served, without some.
    OpenedDegraded = 2 Warning "opened-degraded",
    /// The array is flushed and no longer served.
    Stopped = 3 Info "stopped",
    /// A member that was named is not used: it has missed something, or is not what it was.
    MemberStale = 4 Warning "member-stale",
    /// A member fails: errors, silence, or it is gone.
    MemberFailed = 10 Warning "member-failed",
    /// A member is out of service, durably.
    MemberLeft = 11 Warning "member-left",
    /// A former member is back.
    MemberReturned = 12 Info "member-returned",
    /// A device became a member.
    MemberAdded = 13 Info "member-added",
    /// A member is slow, and is spared reads.
    MemberSlow = 14 Warning "member-slow",
    /// A slow member is as fast as its peers again.
    MemberRecovered = 15 Info "member-recovered",
    /// A member has no space.
    MemberFull = 16 Warning "member-full",
    /// It has space again.
    MemberHasSpace = 17 Info "member-has-space",
    /// The loss of one more member would lose data.
    NoRedundancyLeft = 18 Critical "no-redundancy-left",
    /// Every member is in sync again.
    RedundancyRestored = 19 Info "redundancy-restored",
    /// A spare takes over a role.
    SpareTaken = 20 Warning "spare-taken",
    /// A rebuild begins, or goes on.
    RebuildStarted = 21 Info "rebuild-started",
    /// A rebuild is complete.
    RebuildFinished = 22 Info "rebuild-finished",
    /// A rebuild ended before its time.
    RebuildFailed = 23 Warning "rebuild-failed",
    /// A scrub begins.
    ScrubStarted = 30 Info "scrub-started",
    /// A scrub has looked at everything and found nothing.
    ScrubFinished = 31 Info "scrub-finished",
    /// A scrub has looked at everything and found something.
    ScrubFound = 32 Warning "scrub-found",
    /// Blocks did not match their checksums and were rewritten.
    Repaired = 40 Warning "repaired",
    /// Metadata of a member was damaged or stale.
    MetadataDamaged = 41 Warning "metadata-damaged",
    /// Blocks are lost beyond redundancy.
    BlocksLost = 42 Critical "blocks-lost",
    /// Rows match their checksums and are no codeword.
    RowsInconsistent = 43 Critical "rows-inconsistent",
    /// Writes are suspended.
    Suspended = 50 Critical "suspended",
    /// Something else an operator should look at.
    Warning = 60 Warning "warning",
    /// Events that came too fast to be kept one by one.
    LeftOut = 61 Warning "left-out",
    /// An operator tries whether alerts arrive.
    Test = 62 Info "test",
    /// The server took a member back that had left by itself.
    TakenBack = 70 Info "taken-back",
    /// A member leaves again and again: the server no longer takes it back.
    StaysOut = 71 Warning "stays-out",
    /// The server moves a spare from one array to another.
    SpareMoved = 72 Warning "spare-moved",
    /// The server replaces a member that still serves, before it fails.
    ReplacedEarly = 73 Warning "replaced-early",
    /// The server begins a scrub because it is time.
    ScrubDue = 74 Info "scrub-due",
    /// Something that the server wanted to do by itself was not done.
    NotDone = 75 Warning "not-done",
    /// A device says of itself that it is not well.
    MemberUnwell = 76 Warning "member-unwell",
    /// It says that it is well again.
    MemberWell = 77 Info "member-well",
}

impl EventKind {
    /// What an operator is to type or do next, if there is something; `NAME` stands for the array.
    pub fn next_step(self) -> Option<&'static str> {
        Some(match self {
            EventKind::OpenedDegraded | EventKind::MemberFailed | EventKind::MemberLeft => {
                "uraid status --name NAME; then, unless a spare takes over: uraid rebuild --name \
                 NAME NEW, or uraid add --name NAME PATH if it was a cable"
            }
            EventKind::NoRedundancyLeft => {
                "uraid rebuild --name NAME NEW, unless a rebuild is under way already"
            }
            EventKind::MemberStale => "uraid add --name NAME PATH takes it back",
            EventKind::MemberSlow => {
                "look at its cable and its SMART values; uraid replace --name NAME SLOT NEW"
            }
            EventKind::MemberFull => "make room on the file system that the member is on",
            EventKind::SpareTaken => "uraid add --name NAME PATH gives the array a new spare",
            EventKind::RebuildFailed => "uraid status --name NAME",
            EventKind::ScrubFound => "uraid scrub status --name NAME",
            EventKind::Repaired | EventKind::MetadataDamaged => {
                "if it comes again: uraid scrub start --name NAME --wait, then uraid replace"
            }
            EventKind::BlocksLost => {
                "uraid status --name NAME says where; restore them from a backup"
            }
            EventKind::RowsInconsistent => "compare the stripes that the log names with a backup",
            EventKind::StaysOut => {
                "look at its cable and its SMART values; uraid add --name NAME PATH, or uraid \
                 rebuild --name NAME NEW"
            }
            EventKind::SpareMoved | EventKind::ReplacedEarly => {
                "uraid add --name NAME PATH gives the array a new spare"
            }
            EventKind::NotDone => "uraid status --name NAME; uraid explain says whose a device is",
            EventKind::MemberUnwell => "uraid replace --name NAME SLOT NEW, before it fails",
            EventKind::Suspended => {
                "look for a controller, a cable, a power supply; then restart the server"
            }
            _ => return None,
        })
    }
}

/// The member that an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventMember {
    /// Its role then, if it had one.
    pub slot: Option<u16>,
    /// Its identity.
    pub uuid: Uuid,
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventRecord {
    /// Its number: one more than that of the one before.
    pub sequence: u64,
    /// When it happened, in milliseconds since 1970, as the host's clock had it.
    pub time_millis: u64,
    /// How much it matters.
    pub severity: Severity,
    /// What happened.
    pub kind: EventKind,
    /// To which member.
    pub member: Option<EventMember>,
    /// A sentence.
    pub text: String,
}

/// The longest beginning of `text` that an event holds.
fn cut(text: &str) -> &str {
    let mut len = text.len().min(EVENT_TEXT_BYTES_MAX);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    &text[..len]
}

impl EventRecord {
    fn encoded_bytes(&self) -> usize {
        40 + cut(&self.text).len()
    }

    fn encode(&self, w: &mut Writer) {
        w.u64(self.sequence).u64(self.time_millis);
        let (slot, uuid) = match &self.member {
            Some(member) => (member.slot.unwrap_or(NO_SLOT), member.uuid),
            None => (NO_SLOT, Uuid::default()),
        };
        w.u8(self.severity as u8).u8(self.member.is_some().into());
        w.u16(self.kind.code()).u16(slot).bytes(&uuid.0);
        let text = cut(&self.text);
        w.u16(text.len() as u16).bytes(text.as_bytes());
    }

    fn decode(r: &mut Reader<'_>) -> Option<EventRecord> {
        let (sequence, time_millis) = (r.count()?, r.count()?);
        let severity = Severity::from_code(r.u8()?)?;
        let has_member = r.u8()? == 1;
        let kind = EventKind::from_code(r.u16()?);
        let slot = Some(r.u16()?).filter(|slot| *slot != NO_SLOT);
        let uuid = Uuid(r.bytes(16)?.try_into().ok()?);
        let len = usize::from(r.u16()?);
        let text = core::str::from_utf8(r.bytes(len)?).ok()?;
        Some(EventRecord {
            sequence,
            time_millis,
            severity,
            kind,
            member: has_member.then_some(EventMember { slot, uuid }),
            text: text.into(),
        })
    }
}

/// One page of the log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct EventPage {
    /// Its number; it lies where that number has it, modulo [`EVENT_PAGES`].
    pub number: u64,
    /// How often it was written: its lowest bit chooses the copy.
    pub version: u64,
    /// In order.
    pub records: Vec<EventRecord>,
}

impl EventPage {
    /// Whether one more finds room.
    pub fn has_room(&self, record: &EventRecord) -> bool {
        let used: usize = self.records.iter().map(EventRecord::encoded_bytes).sum();
        HEADER_BYTES + used + record.encoded_bytes() <= BLOCK_BYTES
    }

    /// Where it lies on a member.
    pub fn offset(&self) -> u64 {
        EVENTS_AT + (self.number % EVENT_PAGES * 2 + self.version % 2) * BLOCK
    }

    /// Its bytes, for the array with this key.
    pub fn encode(&self, key: u64) -> Vec<u8> {
        let mut w = Writer::default();
        w.u32(MAGIC).u32(0).u64(self.number).u64(self.version);
        w.u16(self.records.len() as u16).pad_to(HEADER_BYTES);
        self.records.iter().for_each(|record| record.encode(&mut w));
        w.pad_to(BLOCK_BYTES);
        seal(w.finish(), key)
    }

    /// Reads a page of the array with this key; none if it is none.
    pub fn decode(bytes: &[u8], key: u64) -> Option<EventPage> {
        let mut r = Reader::new(bytes);
        if r.u32()? != MAGIC {
            return None;
        }
        check_seal(bytes, key)?;
        r.u32()?;
        let (number, version, count) = (r.count()?, r.count()?, r.u16()?);
        r.zeros_to(HEADER_BYTES)?;
        let records = (0..count).map(|_| EventRecord::decode(&mut r));
        Some(EventPage {
            number,
            version,
            records: records.collect::<Option<_>>()?,
        })
    }
}

/// The log that members hold, from the [`EVENTS_BYTES`] of each: pages by number, the newest copy of
/// each, oldest first, no more than the ring holds.
pub fn read_event_pages<'a>(zones: impl Iterator<Item = &'a [u8]>, key: u64) -> Vec<EventPage> {
    let mut pages: BTreeMap<u64, EventPage> = BTreeMap::new();
    for zone in zones {
        let blocks = zone.chunks_exact(BLOCK_BYTES);
        for page in blocks.filter_map(|block| EventPage::decode(block, key)) {
            let newer = pages.get(&page.number);
            if newer.is_none_or(|there| there.version < page.version) {
                pages.insert(page.number, page);
            }
        }
    }
    let newest = pages.keys().next_back().copied().unwrap_or(0);
    let pages = pages.into_values();
    pages
        .filter(|page| page.number + EVENT_PAGES > newest)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superblock::{COPY_OFFSETS, SUPERBLOCK_BYTES};
    use alloc::format;
    use alloc::vec;

    fn record(sequence: u64, text: &str) -> EventRecord {
        EventRecord {
            sequence,
            time_millis: 1_700_000_000_000 + sequence,
            severity: Severity::Critical,
            kind: EventKind::MemberFailed,
            member: Some(EventMember {
                slot: Some(3),
                uuid: Uuid([7; 16]),
            }),
            text: text.into(),
        }
    }

    fn page(number: u64, version: u64) -> EventPage {
        EventPage {
            number,
            version,
            records: vec![record(number, &format!("version {version}"))],
        }
    }

    #[test]
    fn the_log_lies_between_the_superblocks() {
        let first_end = COPY_OFFSETS[0] + SUPERBLOCK_BYTES as u64;
        assert!(first_end <= EVENTS_AT && EVENTS_AT + EVENTS_BYTES <= COPY_OFFSETS[1]);
        let last = EventPage {
            number: EVENT_PAGES - 1,
            version: 1,
            ..EventPage::default()
        };
        assert_eq!(last.offset() + BLOCK, EVENTS_AT + EVENTS_BYTES);
    }

    #[test]
    fn pages_are_read_as_they_were_written_and_not_by_another_array() {
        let mut page = page(5, 1);
        page.records.push(EventRecord {
            member: None,
            kind: EventKind::Unknown(999),
            ..record(6, "ä")
        });
        let bytes = page.encode(42);
        assert_eq!(EventPage::decode(&bytes, 42), Some(page));
        assert_eq!(EventPage::decode(&bytes, 43), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(EventPage::decode(&damaged, 42), None, "byte {at}");
        }
    }

    #[test]
    fn a_page_takes_what_fits_and_long_texts_are_cut() {
        let mut page = EventPage::default();
        let long = "ä".repeat(EVENT_TEXT_BYTES_MAX);
        while page.has_room(&record(0, &long)) {
            page.records.push(record(page.records.len() as u64, &long));
        }
        assert_eq!(page.records.len(), 6);
        let back = EventPage::decode(&page.encode(1), 1).expect("a page");
        assert_eq!(back.records[5].text.len(), EVENT_TEXT_BYTES_MAX);
    }

    #[test]
    fn the_newest_copy_of_each_page_counts_and_old_rounds_do_not() {
        let mut zones = vec![vec![0; EVENTS_BYTES as usize]; 2];
        let mut put = |zone: usize, page: EventPage| {
            let at = (page.offset() - EVENTS_AT) as usize;
            zones[zone][at..at + BLOCK_BYTES].copy_from_slice(&page.encode(1));
        };
        put(0, page(EVENT_PAGES, 4));
        put(0, page(EVENT_PAGES, 5));
        put(1, page(EVENT_PAGES, 6));
        put(1, page(0, 1)); // what page 32 has replaced on the other member
        put(0, page(EVENT_PAGES - 1, 0));
        let pages = read_event_pages(zones.iter().map(|zone| &zone[..]), 1);
        let found: Vec<(u64, u64)> = pages.iter().map(|p| (p.number, p.version)).collect();
        assert_eq!(found, [(EVENT_PAGES - 1, 0), (EVENT_PAGES, 6)]);
    }

    #[test]
    fn codes_and_words_are_each_of_one_kind() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_code(kind.code()), *kind);
            let same = EventKind::ALL
                .iter()
                .filter(|k| k.as_str() == kind.as_str());
            assert_eq!(same.count(), 1, "{kind:?}");
        }
        assert_eq!(EventKind::from_code(9999).code(), 9999);
    }
}

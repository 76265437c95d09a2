//! Events, as `uraid events --json` prints them and alerts carry them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uraid_core::events::{EventMember, EventRecord};

/// One event. Fields may be added, never changed or removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventReport {
    /// Name of the array.
    pub array: String,
    /// Its number: one more than that of the one before.
    pub sequence: u64,
    /// When, as "2026-01-31T23:59:59.123Z".
    pub time: String,
    /// "info", "warning" or "critical".
    pub severity: String,
    /// What happened: "member-failed", "rebuild-finished", ...
    pub kind: String,
    /// To which member, or null.
    pub member: Option<EventMemberReport>,
    /// A sentence.
    pub text: String,
    /// What to do or type next, or null.
    pub next: Option<String>,
}

/// The member that an event is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventMemberReport {
    /// Its role then, or null.
    pub slot: Option<u16>,
    /// Its UUID.
    pub uuid: String,
}

/// Answer to `GET /v1/events`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct EventsReport {
    /// Oldest first.
    pub events: Vec<EventReport>,
}

impl EventReport {
    /// An event of the array with this name.
    pub fn new(array: &str, record: &EventRecord) -> EventReport {
        let member = |member: &EventMember| EventMemberReport {
            slot: member.slot,
            uuid: member.uuid.to_string(),
        };
        let next = record.kind.next_step();
        EventReport {
            array: array.to_string(),
            sequence: record.sequence,
            time: rfc3339(record.time_millis),
            severity: record.severity.as_str().to_string(),
            kind: record.kind.as_str().to_string(),
            member: record.member.as_ref().map(member),
            text: record.text.clone(),
            next: next.map(|next| next.replace("NAME", array)),
        }
    }
}

/// A time since 1970 as RFC 3339 has it; what is beyond its years is the first second.
pub fn rfc3339(millis: u64) -> String {
    let at = |millis| OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    let time = at(millis).or(at(0)).expect("1970 is a year");
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_core::events::EventKind;
    use uraid_core::units::Uuid;

    #[test]
    fn times_are_utc() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(u64::MAX), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn an_event_says_what_to_type_for_its_array() {
        let kind = EventKind::MemberFailed;
        let uuid = Uuid([1; 16]);
        let record = EventRecord {
            sequence: 3,
            time_millis: 0,
            severity: kind.severity(),
            kind,
            member: Some(EventMember {
                slot: Some(2),
                uuid,
            }),
            text: "gone".to_string(),
        };
        let report = EventReport::new("tank", &record);
        let next = report.next.expect("something to do");
        assert!(next.contains("uraid status --name tank"), "{next}");
        assert_eq!(
            (&report.severity[..], &report.kind[..]),
            ("warning", "member-failed")
        );
        assert_eq!(report.member.expect("a member").slot, Some(2));
    }
}

//! What goes over the control socket, and what `--json` prints: the same bytes.

mod activity;
mod alert;
mod availability;
mod event;
mod health;
mod io;
mod member;
mod overview;
mod scrub;
mod trend;

pub use activity::{ClientsReport, LimitsReport, PaceReport, RoomReport};
pub use alert::{AlertResult, AlertTestReport};
pub use availability::AvailabilityReport;
pub use event::{EventReport, EventsReport, rfc3339};
pub use health::HealthReport;
pub use io::{IoReport, ReaderReport};
pub use member::{MemberReport, OperationReport, ReadReport};
pub use overview::{Advice, ArrayOverview, ArrayTrend, OverviewReport, TrendsReport};
pub use scrub::{LostRun, ScrubMemberReport, ScrubReport};
pub use trend::{MemberTrend, Rate, TrendReport, TrendSample};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uraid_engine::status::{RebuildStatus, Status};

/// How an operator names a member, as typed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MemberReference {
    /// A slot as a JSON number.
    Slot(u16),
    /// A slot number, a UUID or an absolute path.
    Text(String),
}

/// Body of `fail` and `remove`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberBody {
    /// Which member.
    pub member: MemberReference,
    /// Also beyond the redundancy (fail), also when in service (remove).
    #[serde(default)]
    pub force: bool,
}

/// Body of `add`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddBody {
    /// Absolute path of the device.
    pub path: String,
    /// Overwrite what it holds.
    #[serde(default)]
    pub force: bool,
    /// Make it one more copy of a mirror.
    #[serde(default)]
    pub copy: bool,
}

/// Body of `replace`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceBody {
    /// The member to be replaced.
    pub old: MemberReference,
    /// Absolute path of the new device.
    pub new: String,
    /// Overwrite what it holds.
    #[serde(default)]
    pub force: bool,
}

/// Body of `clear`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClearBody {
    /// Which member; none means all.
    #[serde(default)]
    pub member: Option<MemberReference>,
}

/// Body of `set`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBody {
    /// Of which member; none means of the array.
    #[serde(default)]
    pub member: Option<MemberReference>,
    /// Names and values, as `uraid set` takes them.
    pub settings: BTreeMap<String, String>,
}

/// Body of `scrub/start`.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubStartBody {
    /// Most bytes per second to read of each member; none means no limit.
    #[serde(default)]
    pub bytes_per_second_max: Option<u64>,
}

/// Body of orders that need no words: `remove-copy`, `stop`, `upgrade`, `scrub/pause`,
/// `scrub/resume`, `scrub/stop`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyBody {}

/// Where orders go that are not meant; the rest of the path is the same.
pub const DRY_RUN: &str = "/v1/dry-run";

/// What an operator asks of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Take a member out of service.
    Fail(MemberBody),
    /// Forget a member.
    Remove(MemberBody),
    /// Give up the copy that a mirror was given last.
    RemoveCopy(EmptyBody),
    /// Take in a device.
    Add(AddBody),
    /// Move a member's role to another device.
    Replace(ReplaceBody),
    /// Zero error counters.
    Clear(ClearBody),
    /// Change how the array runs.
    Set(SetBody),
    /// Begin a scrub.
    ScrubStart(ScrubStartBody),
    /// Have the scrub keep its place and do nothing.
    ScrubPause(EmptyBody),
    /// Have it go on.
    ScrubResume(EmptyBody),
    /// End it where it is.
    ScrubStop(EmptyBody),
    /// Flush and end.
    Stop(EmptyBody),
    /// Become the program that is now on disk; for all arrays of the server.
    Upgrade(EmptyBody),
}

impl Order {
    /// Path of the request, and its body.
    pub fn to_request(&self) -> (&'static str, String) {
        fn body(value: &impl Serialize) -> String {
            serde_json::to_string(value).expect("plain data becomes JSON")
        }
        match self {
            Order::Fail(b) => ("/v1/fail", body(b)),
            Order::Remove(b) => ("/v1/remove", body(b)),
            Order::RemoveCopy(b) => ("/v1/remove-copy", body(b)),
            Order::Add(b) => ("/v1/add", body(b)),
            Order::Replace(b) => ("/v1/replace", body(b)),
            Order::Clear(b) => ("/v1/clear", body(b)),
            Order::Set(b) => ("/v1/set", body(b)),
            Order::ScrubStart(b) => ("/v1/scrub/start", body(b)),
            Order::ScrubPause(b) => ("/v1/scrub/pause", body(b)),
            Order::ScrubResume(b) => ("/v1/scrub/resume", body(b)),
            Order::ScrubStop(b) => ("/v1/scrub/stop", body(b)),
            Order::Stop(b) => ("/v1/stop", body(b)),
            Order::Upgrade(b) => ("/v1/upgrade", body(b)),
        }
    }
}

/// Answer to an order that was carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DoneBody {
    /// What was done.
    pub message: String,
}

/// Answer when something was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What, where, and what to do next.
    pub error: String,
    /// What the command exits with; see `uraid --help`.
    pub exit_code: u8,
}

/// `uraid status --json`. Fields may be added, never changed or removed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// Array name.
    pub name: String,
    /// Array UUID.
    pub uuid: String,
    /// "raid0" .. "rs".
    pub level: String,
    /// Data members per stripe (raid1: 1; raid10: members / copies).
    pub data: u16,
    /// Parity members, or further copies.
    pub parity: u16,
    /// Chunk in bytes.
    pub chunk_bytes: u32,
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// Bytes that a device must have to be a member.
    #[serde(default)]
    pub member_bytes: u64,
    /// "optimal", "degraded", "rebuilding" or "failed".
    pub state: String,
    /// Further losses survived in the worst case.
    pub redundancy_left: u16,
    /// Why writes are suspended, or null.
    pub suspended: Option<String>,
    /// Whether nothing is written to the members.
    pub read_only: bool,
    /// Stripes that hold data.
    pub used_stripes: u64,
    /// Stripes in all.
    pub total_stripes: u64,
    /// Blocks of 4096 bytes known to be lost beyond redundancy.
    pub lost_blocks: u64,
    /// Where they are.
    #[serde(default)]
    pub lost: Vec<LostRun>,
    /// The scrub under way, or the last one.
    #[serde(default = "ScrubReport::never")]
    pub scrub: ScrubReport,
    /// All members, roles first.
    pub members: Vec<MemberReport>,
    /// The least advanced rebuild, or null.
    pub rebuild: Option<RebuildReport>,
    /// All rebuilds, least advanced first.
    pub rebuilds: Vec<RebuildReport>,
    /// I/O since the server started, all members together.
    #[serde(default)]
    pub io: IoReport,
    /// How members are chosen for reads.
    #[serde(default)]
    pub reads: ReadReport,
    /// What clients asked for since the server started, by kind: "read", "write", "flush", "trim",
    /// "write-zeroes", "block-status"; their times are from when they were taken up.
    #[serde(default)]
    pub requests: BTreeMap<String, OperationReport>,
    /// Clients of this array.
    #[serde(default)]
    pub clients: ClientsReport,
    /// How much clients get at most.
    #[serde(default)]
    pub limits: LimitsReport,
    /// How rebuilds and scrubs get on with clients.
    #[serde(default)]
    pub background: PaceReport,
    /// Room for what is to be written.
    #[serde(default)]
    pub room: RoomReport,
    /// Blocks that were wrong and were rewritten from other members, since the server started.
    #[serde(default)]
    pub repaired_blocks: u64,
    /// How long the array has been served, in seconds.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// The last events that matter, oldest first.
    #[serde(default)]
    pub last_events: Vec<EventReport>,
    /// How available it has been, as its events tell; null without any.
    #[serde(default)]
    pub availability: Option<AvailabilityReport>,
    /// Threads that serve clients beside the data thread; none where it does so by itself.
    #[serde(default)]
    pub readers: Vec<ReaderReport>,
    /// Process id of the server.
    pub pid: u32,
    /// Version of the server; empty from those that do not say it.
    #[serde(default)]
    pub version: String,
    /// How often the server has become another program since its process began.
    #[serde(default)]
    pub upgrades: u64,
    /// Where clients connect.
    pub uris: Vec<String>,
}

/// What only the server knows of itself.
#[derive(Clone, Default, Debug)]
pub struct About {
    /// Where clients connect.
    pub uris: Vec<String>,
    /// How often it was upgraded.
    pub upgrades: u64,
}

/// One rebuild in [`StatusReport`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RebuildReport {
    /// The slot being filled.
    pub member: u16,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes to do in all: what is used, not the member's size.
    pub total_bytes: u64,
    /// Recent speed.
    pub bytes_per_second: u64,
    /// Time left at that speed, or null.
    pub eta_seconds: Option<u64>,
}

impl StatusReport {
    /// What the engine says, with what only the server knows.
    pub fn new(status: &Status, about: &About) -> StatusReport {
        let rebuilds: Vec<_> = status.rebuilds.iter().map(RebuildReport::from).collect();
        StatusReport {
            name: status.name.clone(),
            uuid: status.uuid.to_string(),
            level: status.level.to_string(),
            data: status.data,
            parity: status.parity,
            chunk_bytes: status.chunk_bytes,
            size_bytes: status.size_bytes,
            member_bytes: status.member_bytes,
            state: status.state.as_str().to_string(),
            redundancy_left: status.redundancy_left,
            suspended: status.suspended.clone(),
            read_only: status.read_only,
            used_stripes: status.used_stripes,
            total_stripes: status.total_stripes,
            lost_blocks: status.lost_blocks,
            lost: LostRun::merge(&status.lost_offsets),
            scrub: ScrubReport::from(&status.scrub),
            members: status.members.iter().map(MemberReport::from).collect(),
            rebuild: rebuilds.first().cloned(),
            rebuilds,
            io: IoReport::from(&status.io),
            reads: ReadReport::from(&status.reads),
            requests: BTreeMap::new(),
            clients: ClientsReport::default(),
            limits: LimitsReport::default(),
            background: PaceReport::from(&status.pace),
            room: RoomReport::from(&status.room),
            repaired_blocks: status.repaired_blocks,
            uptime_seconds: 0,
            last_events: Vec::new(),
            availability: None,
            readers: Vec::new(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            upgrades: about.upgrades,
            uris: about.uris.clone(),
        }
    }
}

impl From<&RebuildStatus> for RebuildReport {
    fn from(rebuild: &RebuildStatus) -> RebuildReport {
        RebuildReport {
            member: rebuild.slot,
            done_bytes: rebuild.done_bytes,
            total_bytes: rebuild.total_bytes,
            bytes_per_second: rebuild.bytes_per_second,
            eta_seconds: rebuild.eta_seconds,
        }
    }
}

#[cfg(test)]
pub mod samples {
    //! Reports for tests.

    use super::*;

    /// A member in `slot`, in `state`, called like its slot.
    pub fn member(slot: Option<u16>, state: &str) -> MemberReport {
        MemberReport {
            slot,
            path: Some(format!("/m{}", slot.unwrap_or(9))),
            uuid: "00000000-0000-4000-8000-000000000000".to_string(),
            state: state.to_string(),
            size_bytes: Some(1 << 30),
            failure: None,
            health: None,
            read_errors: 0,
            write_errors: 0,
            checksum_errors: 0,
            slow_seconds: None,
            sit_outs: 0,
            write_mostly: false,
            read_weight: 1,
            io: Default::default(),
        }
    }

    /// An event of that severity.
    pub fn event(severity: &str, text: &str) -> EventReport {
        EventReport {
            array: "demo".to_string(),
            sequence: 7,
            time: "2026-01-01T00:00:00.000Z".to_string(),
            severity: severity.to_string(),
            kind: "warning".to_string(),
            member: None,
            text: text.to_string(),
            next: None,
        }
    }

    /// A healthy raid6 of four members.
    pub fn optimal() -> StatusReport {
        StatusReport {
            name: "demo".to_string(),
            uuid: "11111111-1111-4111-8111-111111111111".to_string(),
            level: "raid6".to_string(),
            data: 2,
            parity: 2,
            chunk_bytes: 65_536,
            size_bytes: 2 << 30,
            member_bytes: 1 << 30,
            state: "optimal".to_string(),
            redundancy_left: 2,
            suspended: None,
            read_only: false,
            used_stripes: 10,
            total_stripes: 100,
            lost_blocks: 0,
            lost: Vec::new(),
            scrub: scrub("never"),
            members: (0..4).map(|slot| member(Some(slot), "in-sync")).collect(),
            rebuild: None,
            rebuilds: Vec::new(),
            io: IoReport::default(),
            reads: ReadReport::default(),
            requests: BTreeMap::from([("read".to_string(), OperationReport::default())]),
            clients: ClientsReport::default(),
            limits: LimitsReport::default(),
            background: PaceReport::default(),
            room: RoomReport::default(),
            repaired_blocks: 0,
            uptime_seconds: 60,
            last_events: Vec::new(),
            availability: None,
            readers: Vec::new(),
            pid: 4711,
            version: "0.1.0".to_string(),
            upgrades: 0,
            uris: vec!["nbd+unix:///demo?socket=/run/uraid/demo.nbd".to_string()],
        }
    }

    /// A scrub of four members in `state` that has found nothing.
    pub fn scrub(state: &str) -> ScrubReport {
        let member = |slot: u16| ScrubMemberReport {
            slot: Some(slot),
            path: Some(format!("/m{slot}")),
            bad_blocks: 0,
            repaired_blocks: 0,
            bad_metadata: 0,
            repaired_metadata: 0,
        };
        ScrubReport {
            state: state.to_string(),
            done_bytes: 256 << 20,
            total_bytes: 1 << 30,
            bytes_per_second: 64 << 20,
            eta_seconds: Some(12),
            members: (0..4).map(member).collect(),
            ..ScrubReport::default()
        }
    }

    /// The same with slot 2 half rebuilt.
    pub fn rebuilding() -> StatusReport {
        let mut report = optimal();
        report.state = "rebuilding".to_string();
        report.redundancy_left = 1;
        report.members[2].state = "rebuilding".to_string();
        let rebuild = RebuildReport {
            member: 2,
            done_bytes: 512 << 20,
            total_bytes: 1 << 30,
            bytes_per_second: 64 << 20,
            eta_seconds: Some(8),
        };
        report.rebuild = Some(rebuild.clone());
        report.rebuilds = vec![rebuild];
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_are_what_the_documentation_says() {
        let body: MemberBody = serde_json::from_value(json!({"member": 3})).unwrap();
        assert_eq!(
            body,
            MemberBody {
                member: MemberReference::Slot(3),
                force: false
            }
        );
        let body: MemberBody =
            serde_json::from_value(json!({"member": "/dev/sda", "force": true})).unwrap();
        assert_eq!(body.member, MemberReference::Text("/dev/sda".to_string()));
        assert!(serde_json::from_value::<MemberBody>(json!({"member": -1})).is_err());
        assert!(serde_json::from_value::<MemberBody>(json!({"member": 1, "froce": true})).is_err());
        let all: ClearBody = serde_json::from_value(json!({})).unwrap();
        assert_eq!(all.member, None);
    }

    #[test]
    fn a_status_has_the_documented_fields() {
        let value = serde_json::to_value(samples::rebuilding()).unwrap();
        for field in [
            "name",
            "uuid",
            "level",
            "data",
            "parity",
            "chunk_bytes",
            "size_bytes",
            "state",
            "redundancy_left",
            "members",
            "rebuild",
            "rebuilds",
            "suspended",
            "lost_blocks",
            "lost",
            "scrub",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        for field in [
            "slot",
            "path",
            "uuid",
            "state",
            "read_errors",
            "write_errors",
            "slow_seconds",
            "io",
        ] {
            assert!(value["members"][0].get(field).is_some(), "{field}");
        }
        assert_eq!(value["rebuild"]["member"], 2);
        assert_eq!(value["rebuild"]["eta_seconds"], 8);
        let optimal = serde_json::to_value(samples::optimal()).unwrap();
        assert_eq!(
            (&optimal["rebuild"], &optimal["suspended"]),
            (&json!(null), &json!(null))
        );
    }

    #[test]
    fn a_status_of_an_older_server_is_understood() {
        let mut value = serde_json::to_value(samples::optimal()).unwrap();
        let fields = value.as_object_mut().unwrap();
        fields.remove("lost");
        fields.remove("scrub");
        fields.remove("reads");
        for member in fields["members"].as_array_mut().unwrap() {
            member.as_object_mut().unwrap().remove("io");
        }
        let report: StatusReport = serde_json::from_value(value).unwrap();
        assert_eq!(report.scrub, ScrubReport::never());
    }
}

//! Which metrics there are. Names and labels are an interface: dashboards and alert rules of
//! others hang on them. They may be added to, never changed.

use super::encode::{Page, Samples, Value};
use super::service;
use crate::control::wire::{MemberReport, OperationReport, ScrubReport, StatusReport};
use crate::server::alert::AlertCount;
use prometheus_client::metrics::MetricType;
use std::fmt;

/// Goes up and down.
pub const GAUGE: MetricType = MetricType::Gauge;
/// Only goes up.
pub const COUNTER: MetricType = MetricType::Counter;
const HISTOGRAM: MetricType = MetricType::Histogram;

/// Of samples that say something by their labels. (A type of its own is unknown to readers of the
/// older text format.)
const ONE: Value = Value::Gauge(1.0);

const ARRAY_STATES: [&str; 4] = ["optimal", "degraded", "rebuilding", "failed"];
const MEMBER_STATES: [&str; 6] = [
    "in-sync",
    "rebuilding",
    "replacing",
    "failed",
    "missing",
    "spare",
];
const SCRUB_STATES: [&str; 5] = ["never", "running", "paused", "finished", "stopped"];

const HEALTH_VERDICTS: [&str; 3] = ["well", "unwell", "failing"];

/// Writes all families.
pub fn write(page: &mut Page, alerts: &[AlertCount]) -> fmt::Result {
    server(page, alerts)?;
    arrays(page)?;
    service::availability(page)?;
    room(page)?;
    clients(page)?;
    service::limits(page)?;
    io(page)?;
    members(page)?;
    rebuilds(page)?;
    service::background(page)?;
    scrubs(page)
}

/// A value that goes up and down.
pub fn gauge(value: u64) -> Value<'static> {
    Value::Gauge(value as f64)
}

fn flag(value: bool) -> Value<'static> {
    gauge(u64::from(value))
}

/// One sample for each of `states`: 1 for the one that `is`, 0 for the others.
fn state_set(samples: &mut Samples, labels: &[(&str, &str)], states: &[&str], is: &str) {
    for state in states {
        let all: Vec<_> = labels.iter().copied().chain([("state", *state)]).collect();
        samples.add(&all, flag(*state == is));
    }
}

fn server(page: &mut Page, counts: &[AlertCount]) -> fmt::Result {
    page.server(("uraid_build_info", "The program", GAUGE), |s| {
        s.add(&[("version", env!("CARGO_PKG_VERSION"))], ONE);
    })?;
    let help = "Alerts, by way and by what became of them";
    page.server(("uraid_alerts", help, COUNTER), |s| {
        for count in counts {
            let of = |result| [("channel", count.channel.as_str()), ("result", result)];
            s.add(&of("sent"), Value::Counter(count.sent));
            s.add(&of("failed"), Value::Counter(count.failed));
            s.add(&of("left-out"), Value::Counter(count.left_out));
        }
    })?;
    let help = "1 if the array says how it is, 0 if it does not answer or has ended";
    page.all(("uraid_array_up", help, GAUGE), |seen, s| {
        s.add(&[], flag(seen.status.is_some()));
    })
}

fn arrays(page: &mut Page) -> fmt::Result {
    page.arrays(("uraid_array_info", "What the array is", GAUGE), |a, s| {
        s.add(&[("uuid", &a.uuid), ("level", &a.level)], ONE);
    })?;
    let help = "State of the array: 1 for the one it is in";
    page.arrays(("uraid_array_state", help, GAUGE), |a, s| {
        state_set(s, &[], &ARRAY_STATES, &a.state);
    })?;
    type Read = fn(&StatusReport) -> u64;
    let gauges: [(&str, &str, Read); 8] = [
        (
            "uraid_array_redundancy",
            "Members whose loss is survived when all are in sync",
            |a| a.parity.into(),
        ),
        (
            "uraid_array_redundancy_left",
            "Further losses of members that are survived",
            |a| a.redundancy_left.into(),
        ),
        (
            "uraid_array_suspended",
            "1 if writes are suspended or wait for space",
            |a| a.suspended.is_some().into(),
        ),
        ("uraid_array_read_only", "1 if nothing is written", |a| {
            a.read_only.into()
        }),
        ("uraid_array_size_bytes", "Size of the export", |a| {
            a.size_bytes
        }),
        (
            "uraid_array_lost_blocks",
            "Blocks of 4096 bytes known to be lost beyond redundancy",
            |a| a.lost_blocks,
        ),
        ("uraid_array_spares", "Members in reserve", |a| {
            a.members.iter().filter(|m| m.state == "spare").count() as u64
        }),
        (
            "uraid_array_uptime_seconds",
            "How long the array has been served",
            |a| a.uptime_seconds,
        ),
    ];
    for (name, help, read) in gauges {
        page.arrays((name, help, GAUGE), |a, s| s.add(&[], gauge(read(a))))?;
    }
    let help = "Blocks that were wrong or unreadable and were rewritten from other members";
    page.arrays(("uraid_array_repaired_blocks", help, COUNTER), |a, s| {
        s.add(&[], Value::Counter(a.repaired_blocks));
    })?;
    let help = "How often the server has become another program";
    page.arrays(("uraid_array_upgrades", help, COUNTER), |a, s| {
        s.add(&[], Value::Counter(a.upgrades));
    })
}

fn room(page: &mut Page) -> fmt::Result {
    type Read = fn(&StatusReport) -> f64;
    let gauges: [(&str, &str, Read); 7] = [
        (
            "uraid_journal_used_bytes",
            "What batches not yet in place take of a member's journal, of the fullest member",
            |a| a.room.journal_used_bytes as f64,
        ),
        ("uraid_journal_bytes", "Size of a member's journal", |a| {
            a.room.journal_bytes as f64
        }),
        (
            "uraid_journal_fullest_lane_ratio",
            "How full the fullest lane of the journal is; writes wait for one that is full",
            |a| f64::from(a.room.fullest_lane_permille) / 1000.0,
        ),
        (
            "uraid_slots_free",
            "Slots that whole stripes may be written to at once",
            |a| a.room.free_slots as f64,
        ),
        ("uraid_slots", "Slots in all", |a| a.room.slots as f64),
        ("uraid_stripes_used", "Stripes that hold data", |a| {
            a.used_stripes as f64
        }),
        ("uraid_stripes", "Stripes in all", |a| {
            a.total_stripes as f64
        }),
    ];
    for (name, help, read) in gauges {
        let sample = |a: &StatusReport, s: &mut Samples| s.add(&[], Value::Gauge(read(a)));
        page.arrays((name, help, GAUGE), sample)?;
    }
    Ok(())
}

fn clients(page: &mut Page) -> fmt::Result {
    page.arrays(("uraid_clients", "Clients connected", GAUGE), |a, s| {
        s.add(&[], gauge(a.clients.connected));
    })?;
    let help = "Clients that may be connected";
    page.arrays(("uraid_clients_limit", help, GAUGE), |a, s| {
        s.add(&[], gauge(a.clients.max));
    })?;
    let help = "Time from when a client's request was taken up until it was answered";
    page.arrays(("uraid_request_seconds", help, HISTOGRAM), |a, s| {
        for (kind, requests) in &a.requests {
            s.add(&[("kind", kind)], Value::Histogram(requests));
        }
    })?;
    let help = "Bytes of clients' requests that succeeded";
    page.arrays(("uraid_request_bytes", help, COUNTER), |a, s| {
        for (kind, requests) in &a.requests {
            s.add(&[("kind", kind)], Value::Counter(requests.bytes));
        }
    })?;
    let help = "Clients' requests that failed";
    page.arrays(("uraid_request_errors", help, COUNTER), |a, s| {
        for (kind, requests) in &a.requests {
            s.add(&[("kind", kind)], Value::Counter(requests.failed));
        }
    })
}

fn io(page: &mut Page) -> fmt::Result {
    let help = "Reads and writes of members, by zone, all members together";
    page.arrays(("uraid_io_operations", help, COUNTER), |a, s| {
        for (zone, io) in &a.io.zones {
            let of = |way| [("zone", zone.as_str()), ("direction", way)];
            s.add(&of("read"), Value::Counter(io.reads));
            s.add(&of("write"), Value::Counter(io.writes));
        }
    })?;
    let help = "Bytes read from and written to members, by zone, all members together";
    page.arrays(("uraid_io_bytes", help, COUNTER), |a, s| {
        for (zone, io) in &a.io.zones {
            let of = |way| [("zone", zone.as_str()), ("direction", way)];
            s.add(&of("read"), Value::Counter(io.read_bytes));
            s.add(&of("write"), Value::Counter(io.written_bytes));
        }
    })?;
    let help = "How often parts of the array's own work were done";
    page.arrays(("uraid_work", help, COUNTER), |a, s| {
        for (part, done) in &a.io.parts {
            s.add(&[("part", part)], Value::Counter(done.count));
        }
    })?;
    let help = "How long they took, waiting included";
    page.arrays(("uraid_work_seconds", help, COUNTER), |a, s| {
        for (part, done) in &a.io.parts {
            s.add(&[("part", part)], Value::Nanos(done.nanos));
        }
    })?;
    let help = "Reads that reader threads answered by themselves";
    page.arrays(("uraid_reader_reads", help, COUNTER), |a, s| {
        for (number, reader) in (1..).zip(&a.readers) {
            let number: String = i32::to_string(&number);
            s.add(&[("reader", &number)], Value::Counter(reader.reads));
        }
    })?;
    let help = "Requests that reader threads passed on";
    page.arrays(("uraid_reader_relayed", help, COUNTER), |a, s| {
        for (number, reader) in (1..).zip(&a.readers) {
            let number: String = i32::to_string(&number);
            s.add(&[("reader", &number)], Value::Counter(reader.relayed));
        }
    })
}

/// The slot of a member as a label: empty for one without.
fn slot_of(slot: Option<u16>) -> String {
    slot.map(|slot| slot.to_string()).unwrap_or_default()
}

fn each_member(a: &StatusReport, mut write: impl FnMut(&MemberReport, &[(&str, &str)])) {
    for member in &a.members {
        let slot = slot_of(member.slot);
        write(member, &[("slot", &slot), ("member", &member.uuid)]);
    }
}

fn members(page: &mut Page) -> fmt::Result {
    let help = "Where a member is: empty if it is not there";
    page.arrays(("uraid_member_info", help, GAUGE), |a, s| {
        each_member(a, |m, labels| {
            let path = m.path.as_deref().unwrap_or_default();
            s.add(&[labels[0], labels[1], ("path", path)], ONE);
        });
    })?;
    let help = "State of a member: 1 for the one it is in";
    page.arrays(("uraid_member_state", help, GAUGE), |a, s| {
        each_member(a, |m, labels| {
            state_set(s, labels, &MEMBER_STATES, &m.state);
        });
    })?;
    members_io(page)?;
    let help = "Reads and writes that a member failed, and blocks that did not match their \
                checksum; kept by the array";
    page.arrays(("uraid_member_errors", help, COUNTER), |a, s| {
        each_member(a, |m, labels| {
            let counts = [
                ("read", m.read_errors),
                ("write", m.write_errors),
                ("checksum", m.checksum_errors),
            ];
            for (kind, count) in counts {
                s.add(
                    &[labels[0], labels[1], ("kind", kind)],
                    Value::Counter(count),
                );
            }
        });
    })
}

/// What a member was asked, by kind.
fn operations(m: &MemberReport) -> [(&'static str, &OperationReport); 3] {
    let io = &m.io;
    [
        ("read", &io.reads),
        ("write", &io.writes),
        ("flush", &io.flushes),
    ]
}

fn members_io(page: &mut Page) -> fmt::Result {
    let help = "Time that a member took for reads, writes and flushes";
    page.arrays(("uraid_member_seconds", help, HISTOGRAM), |a, s| {
        each_member(a, |m, labels| {
            for (kind, done) in operations(m) {
                let labels = [labels[0], labels[1], ("kind", kind)];
                s.add(&labels, Value::Histogram(done));
            }
        });
    })?;
    let help = "Bytes read from and written to a member";
    page.arrays(("uraid_member_bytes", help, COUNTER), |a, s| {
        each_member(a, |m, labels| {
            for (kind, done) in operations(m) {
                let labels = [labels[0], labels[1], ("kind", kind)];
                s.add(&labels, Value::Counter(done.bytes));
            }
        });
    })?;
    let help = "Operations of a member under way";
    page.arrays(("uraid_member_in_flight", help, GAUGE), |a, s| {
        each_member(a, |m, labels| s.add(labels, gauge(m.io.in_flight)));
    })?;
    let help = "1 if a member is out of reads for being slow";
    page.arrays(("uraid_member_slow", help, GAUGE), |a, s| {
        each_member(a, |m, labels| s.add(labels, flag(m.slow_seconds.is_some())));
    })?;
    let help =
        "What a member's device says of itself: 1 for the verdict; not there if it is silent";
    page.arrays(("uraid_member_health", help, GAUGE), |a, s| {
        each_member(a, |m, labels| {
            if let Some(health) = &m.health {
                state_set(s, labels, &HEALTH_VERDICTS, &health.verdict);
            }
        });
    })?;
    let help = "Temperature of a member's device, if it says it";
    page.arrays(("uraid_member_temperature_celsius", help, GAUGE), |a, s| {
        each_member(a, |m, labels| {
            if let Some(degrees) = m.health.as_ref().and_then(|h| h.temperature_celsius) {
                s.add(labels, Value::Gauge(degrees as f64));
            }
        });
    })?;
    let help = "Late reads, by what became of them";
    page.arrays(("uraid_hedges", help, COUNTER), |a, s| {
        let counts = [
            ("made", a.reads.hedges),
            ("won", a.reads.hedges_won),
            ("denied", a.reads.hedges_denied),
        ];
        for (result, count) in counts {
            s.add(&[("result", result)], Value::Counter(count));
        }
    })
}

fn rebuilds(page: &mut Page) -> fmt::Result {
    type Read = fn(&crate::control::wire::RebuildReport) -> u64;
    let gauges: [(&str, &str, Read); 3] = [
        (
            "uraid_rebuild_done_bytes",
            "What is rebuilt of a member; there only while one is",
            |r| r.done_bytes,
        ),
        (
            "uraid_rebuild_total_bytes",
            "What is to be rebuilt of it in all",
            |r| r.total_bytes,
        ),
        (
            "uraid_rebuild_bytes_per_second",
            "Recent speed of the rebuild",
            |r| r.bytes_per_second,
        ),
    ];
    for (name, help, read) in gauges {
        page.arrays((name, help, GAUGE), |a, s| {
            for rebuild in &a.rebuilds {
                let slot = slot_of(Some(rebuild.member));
                s.add(&[("slot", &slot)], gauge(read(rebuild)));
            }
        })?;
    }
    Ok(())
}

fn scrubs(page: &mut Page) -> fmt::Result {
    let help = "State of the scrub under way or of the last one: 1 for the one it is in";
    page.arrays(("uraid_scrub_state", help, GAUGE), |a, s| {
        state_set(s, &[], &SCRUB_STATES, &a.scrub.state);
    })?;
    type Read = fn(&ScrubReport) -> u64;
    let gauges: [(&str, &str, Read); 4] = [
        (
            "uraid_scrub_done_bytes",
            "What the scrub has looked at, of each member",
            |s| s.done_bytes,
        ),
        (
            "uraid_scrub_total_bytes",
            "What it is to look at in all, of each member",
            |s| s.total_bytes,
        ),
        (
            "uraid_scrub_lost_blocks",
            "Blocks it found lost beyond redundancy",
            |s| s.lost_blocks,
        ),
        (
            "uraid_scrub_inconsistent_rows",
            "Rows it found that match their checksums and are no codeword",
            |s| s.inconsistent_rows,
        ),
    ];
    for (name, help, read) in gauges {
        page.arrays((name, help, GAUGE), |a, s| {
            s.add(&[], gauge(read(&a.scrub)))
        })?;
    }
    let help = "What the scrub found wrong on a member, and repaired";
    page.arrays(("uraid_scrub_findings", help, GAUGE), |a, s| {
        for member in &a.scrub.members {
            let slot = slot_of(member.slot);
            let counts = [
                ("bad-blocks", member.bad_blocks),
                ("repaired-blocks", member.repaired_blocks),
                ("bad-metadata", member.bad_metadata),
                ("repaired-metadata", member.repaired_metadata),
            ];
            for (kind, count) in counts {
                s.add(&[("slot", &slot), ("kind", kind)], gauge(count));
            }
        }
    })
}

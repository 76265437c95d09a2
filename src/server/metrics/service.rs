//! Metrics of how an array serves: how available it has been, how much clients get, and how rebuilds
//! and scrubs get on with them.

use super::encode::{Page, Samples, Value};
use super::families::{COUNTER, GAUGE, gauge};
use crate::control::wire::{AvailabilityReport, StatusReport};
use std::fmt;

/// As events tell it.
pub fn availability(page: &mut Page) -> fmt::Result {
    type Read = fn(&AvailabilityReport) -> Option<f64>;
    let gauges: [(&str, &str, Read); 3] = [
        (
            "uraid_array_served_ratio",
            "Share of the time since the oldest event in which the array was served",
            |a| a.served_share,
        ),
        (
            "uraid_array_redundant_ratio",
            "Share of the time served in which every member was in sync",
            |a| a.redundant_share,
        ),
        (
            "uraid_array_repair_seconds",
            "From the loss of a member until its role was filled again, on average; not there \
             before any was",
            |a| a.repair_mean_millis.map(|millis| millis as f64 / 1000.0),
        ),
    ];
    for (name, help, read) in gauges {
        page.arrays((name, help, GAUGE), |a, s| {
            let value = a.availability.as_ref().and_then(read);
            value.into_iter().for_each(|v| s.add(&[], Value::Gauge(v)));
        })?;
    }
    let help = "Time since the oldest event, by how the array was";
    page.arrays(("uraid_array_observed_seconds", help, GAUGE), |a, s| {
        if let Some(a) = &a.availability {
            let states = [
                ("redundant", a.redundant_millis),
                ("degraded", a.degraded_millis),
                ("suspended", a.suspended_millis),
                ("stopped", a.stopped_millis),
                ("unknown", a.unknown_millis),
            ];
            for (state, millis) in states {
                s.add(&[("state", state)], Value::Gauge(millis as f64 / 1000.0));
            }
        }
    })
}

/// How much clients get at most, and who had to wait for it.
pub fn limits(page: &mut Page) -> fmt::Result {
    type Read = fn(&StatusReport) -> u64;
    let gauges: [(&str, &str, Read); 2] = [
        (
            "uraid_limit_requests_per_second",
            "Requests that clients may make in a second; 0: no limit",
            |a| a.limits.iops,
        ),
        (
            "uraid_limit_bytes_per_second",
            "Bytes that clients may read and write in a second; 0: no limit",
            |a| a.limits.bytes_per_second,
        ),
    ];
    for (name, help, read) in gauges {
        page.arrays((name, help, GAUGE), |a, s| s.add(&[], gauge(read(a))))?;
    }
    let help = "Requests that had to wait for a limit";
    page.arrays(("uraid_limit_delayed", help, COUNTER), |a, s| {
        s.add(&[], Value::Counter(a.limits.delayed));
    })?;
    let help = "How long they waited before they were taken up";
    page.arrays(("uraid_limit_delay_seconds", help, COUNTER), |a, s| {
        s.add(&[], Value::Nanos(a.limits.delayed_nanos));
    })
}

/// How rebuilds and scrubs get on with clients.
pub fn background(page: &mut Page) -> fmt::Result {
    type Read = fn(&StatusReport) -> f64;
    let gauges: [(&str, &str, Read); 4] = [
        (
            "uraid_background_share_ratio",
            "What is left to rebuilds and scrubs of their share: 1 unless clients wait too long",
            |a| f64::from(a.background.left_permille) / 1000.0,
        ),
        (
            "uraid_background_latency_target_seconds",
            "What 99 of 100 requests may take before they step back; 0: never",
            |a| a.background.latency_target_nanos as f64 / 1e9,
        ),
        (
            "uraid_background_floor_bytes_per_second",
            "What a rebuild fills of a member in a second at least; 0: none",
            |a| a.background.rebuild_bytes_per_second_min as f64,
        ),
        (
            "uraid_background_ceiling_bytes_per_second",
            "What a rebuild fills of a member in a second at most; 0: no limit",
            |a| a.background.rebuild_bytes_per_second_max as f64,
        ),
    ];
    for (name, help, read) in gauges {
        let sample = |a: &StatusReport, s: &mut Samples| s.add(&[], Value::Gauge(read(a)));
        page.arrays((name, help, GAUGE), sample)?;
    }
    Ok(())
}

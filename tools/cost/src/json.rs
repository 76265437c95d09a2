//! What was measured, for programs.

use crate::counters::{Counters, Traffic};
use crate::design::Design;
use crate::flush_rule::Check;
use crate::measure::{Case, Measured, Plan, Results, Sample};
use crate::report::{PARTS, cores, excesses, violations};
use serde_json::{Value, json};

/// The report.
pub fn report(plan: &Plan, measured: &[Measured]) -> Value {
    json!({
        "rounds": plan.rounds,
        "seconds": plan.time.as_secs_f64(),
        "pairs": plan.pairs,
        "seed": plan.seed,
        "array_bytes": plan.array_bytes,
        "cores": cores(),
        "layouts": measured.iter().map(layout_json).collect::<Vec<_>>(),
        "excesses": excesses(measured),
        "violations": violations(measured),
    })
}

fn layout_json(m: &Measured) -> Value {
    let case = |(case, results, design): (&Case, &Results, Design)| {
        json!({
            "load": case.name,
            "design": {"least": traffic_json(&design.least), "most": traffic_json(&design.most)},
            "results": results_json(results),
        })
    };
    let check = |c: &Check| {
        json!({
            "what": c.what, "found": c.found, "at_least": c.at_least, "at_most": c.at_most,
            "holds": c.holds(),
        })
    };
    json!({
        "layout": m.layout.name,
        "export_bytes": m.sizes.export_bytes,
        "chunk_bytes": m.sizes.chunk_bytes,
        "journal_blocks": m.sizes.journal_blocks,
        "cases": m.with_design().map(case).collect::<Vec<_>>(),
        "write_and_flush": {
            "results": results_json(&m.pairs),
            "checks": m.checks.iter().map(check).collect::<Vec<_>>(),
        },
    })
}

fn results_json(results: &Results) -> Value {
    let sample = |s: &Sample| {
        json!({
            "requests": s.drive.requests,
            "bytes": s.drive.bytes(),
            "seconds": s.drive.seconds,
            "median_micros": s.drive.latency.p50_micros,
            "p99_micros": s.drive.latency.p99_micros,
            "cpu_seconds": s.cpu_seconds,
        })
    };
    let [uraid, unverified, nbdkit] =
        [0, 1, 2].map(|t: usize| results.samples[t].iter().map(sample).collect::<Vec<_>>());
    let parts = |c: &Counters| {
        let part = |name: &str| {
            let part = c.part(name);
            (
                name.to_string(),
                json!({"count": part.count, "nanos": part.nanos}),
            )
        };
        PARTS
            .iter()
            .map(|p| part(p))
            .collect::<serde_json::Map<_, _>>()
    };
    json!({
        "uraid": uraid,
        "unverified": unverified,
        "nbdkit": nbdkit,
        "bytes_per_byte": results.counters.as_ref().map(|c| traffic_json(&c.traffic())),
        "parts": results.counters.as_ref().map(parts),
    })
}

fn traffic_json(traffic: &Traffic) -> Value {
    let written = traffic.written().into_iter();
    let all = written.chain([
        ("written in all", traffic.written_in_all()),
        ("read", traffic.read),
    ]);
    let all = all.map(|(kind, bytes)| (kind.replace(' ', "_"), json!(bytes)));
    Value::Object(all.collect())
}

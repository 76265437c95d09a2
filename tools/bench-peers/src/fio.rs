//! fio as the client of a file: it keeps requests under way in the process that makes them.

use crate::driven::run;
use crate::loads::Work;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use uraid_load::{Drive, Kind, Latency, Limit, Order};

/// Writes the whole file once.
pub fn fill(file: &Path, bytes: u64) -> Result<(), String> {
    let mut command = command(file, bytes);
    command.args(["--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1"]);
    run(&mut command).map(drop)
}

/// Puts a load on the file.
pub fn drive(file: &Path, bytes: u64, work: &Work, limit: Limit) -> Result<Drive, String> {
    let load = &work.load;
    let mut command = command(file, bytes);
    command.arg(format!("--rw={}", pattern(work)));
    command.arg(format!("--bs={}", load.bytes));
    command.arg(format!("--iodepth={}", load.depth));
    command.arg(format!("--numjobs={}", work.connections));
    if load.kind == Kind::WriteAndFlush {
        command.arg("--fdatasync=1");
    }
    match limit {
        Limit::Time(time) => {
            command.args(["--time_based", &format!("--runtime={}ms", time.as_millis())])
        }
        Limit::Requests(requests) => command.arg(format!("--number_ios={requests}")),
    };
    let report = run(&mut command)?;
    // Warnings may stand before the report.
    let json = report.find('{').map_or("", |at| &report[at..]);
    let report = serde_json::from_str(json).map_err(|e| format!("fio printed no JSON: {e}"))?;
    parse(&report, load.writes()).ok_or_else(|| "fio's report is not as expected".into())
}

fn command(file: &Path, bytes: u64) -> Command {
    let mut command = Command::new("fio");
    command.args(["--name=peer", "--ioengine=io_uring", "--direct=1"]);
    command.args(["--output-format=json", "--group_reporting", "--thread"]);
    command.args(["--randrepeat=0", "--norandommap", "--fallocate=none"]);
    command.arg(format!("--filename={}", file.display()));
    command.arg(format!("--size={bytes}"));
    command
}

fn pattern(work: &Work) -> &'static str {
    match (work.load.order, work.load.writes()) {
        (Order::Sequential, false) => "read",
        (Order::Sequential, true) => "write",
        (_, false) => "randread",
        (_, true) => "randwrite",
    }
}

fn parse(report: &Value, writes: bool) -> Option<Drive> {
    let job = &report["jobs"][0];
    let side = &job[if writes { "write" } else { "read" }];
    let bytes = side["io_bytes"].as_u64()?;
    let micros = |quantile: &str| {
        side["clat_ns"]["percentile"][quantile]
            .as_f64()
            .map(|n| n / 1e3)
    };
    Some(Drive {
        requests: side["total_ios"].as_u64()?,
        read_bytes: if writes { 0 } else { bytes },
        written_bytes: if writes { bytes } else { 0 },
        seconds: side["runtime"].as_f64()? / 1e3,
        latency: Latency {
            p50_micros: micros("50.000000")?,
            p99_micros: micros("99.000000")?,
            p999_micros: micros("99.900000")?,
            max_micros: side["clat_ns"]["max"].as_f64()? / 1e3,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reports_are_understood() {
        let side = json!({
            "io_bytes": 8192, "total_ios": 2, "runtime": 500,
            "clat_ns": {"max": 9000, "percentile": {
                "50.000000": 1000, "99.000000": 5000, "99.900000": 8000,
            }},
        });
        let report = json!({"jobs": [{"write": side}]});
        let drive = parse(&report, true).expect("a report");
        assert_eq!(
            (drive.requests, drive.written_bytes, drive.read_bytes),
            (2, 8192, 0)
        );
        assert_eq!((drive.seconds, drive.latency.p99_micros), (0.5, 5.0));
        assert_eq!(parse(&report, false), None);
    }
}

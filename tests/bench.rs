//! `uraid bench`: what it tells, what it refuses, and that nothing is left of it.

mod common;

use common::sandbox::contents;
use common::{FAILED, MIB, REFUSED, Ran, Sandbox, USAGE, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const LOADS: usize = 8;

fn bench(sandbox: &Sandbox, options: &str) -> Ran {
    sandbox.uraid(["bench"].into_iter().chain(options.split_whitespace()))
}

/// Every file below `directory`.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

fn assert_nothing_left(sandbox: &Sandbox) {
    let left = files(sandbox.dir());
    assert!(left.is_empty(), "{left:?}");
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    let what = || panic!("{name} in {value:#}");
    value[name].as_array().unwrap_or_else(what)
}

#[test]
fn a_quick_run_tells_each_load_of_each_layout_and_leaves_nothing_but_its_chart() {
    let sandbox = Sandbox::elsewhere();
    let ran = bench(
        &sandbox,
        "--quick --layout raid1x2,rs-3+2 --connections 1,2 --seconds 0.05 --svg chart.svg --json",
    );
    let report = ran.succeeded().json();
    let note = report["note"].as_str().expect("a note");
    assert!(note.contains("this machine"), "{note}");
    let arrays = list(&report, "arrays");
    let layouts: Vec<&Value> = arrays.iter().map(|a| &a["layout"]).collect();
    assert_eq!(layouts, ["raid1x2", "rs-3+2"]);
    for array in arrays {
        assert_eq!(array["state"], "healthy");
        assert_eq!(array["driven_bytes"], 64 * MIB);
        let loads = list(array, "loads");
        assert_eq!(loads.len(), 2 * LOADS);
        loads.iter().for_each(check_load);
    }
    let chart = sandbox.path("chart.svg");
    check_chart(&fs::read_to_string(&chart).expect("a chart"));
    assert_eq!(files(sandbox.dir()), [chart]);
}

/// Figures that follow from each other do.
fn check_load(load: &Value) {
    let [round] = &list(load, "rounds")[..] else {
        panic!("one round: {load:#}")
    };
    assert_eq!(round["figures"], load["median"]);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{load:#}"));
    let requests = number(&round["requests"]);
    let bytes = number(&round["read_bytes"]) + number(&round["written_bytes"]);
    assert!(requests > 0.0, "{load:#}");
    assert_eq!(bytes, requests * number(&load["request_bytes"]), "{load:#}");
    let name = load["load"].as_str().expect("a name");
    let reads = number(&round["read_bytes"]) > 0.0;
    let writes = number(&round["written_bytes"]) > 0.0;
    match name {
        _ if name.contains('%') => {}
        _ if name.contains("read") => assert!(reads && !writes, "{load:#}"),
        _ => assert!(writes && !reads, "{load:#}"),
    }
    let latency = &round["latency"];
    let latencies = ["p50_micros", "p99_micros", "p999_micros", "max_micros"];
    let latencies = latencies.map(|l| number(&latency[l]));
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{load:#}");
    assert!(number(&load["median"]["cpu_seconds_per_gib"]) > 0.0);
}

/// Each element is closed, and each bar is there.
fn check_chart(chart: &str) {
    assert!(chart.starts_with("<svg xmlns="), "{chart}");
    assert!(chart.trim_end().ends_with("</svg>"), "{chart}");
    for element in ["svg", "style", "text"] {
        let opened = chart.matches(&format!("<{element}")).count();
        let closed = chart.matches(&format!("</{element}>")).count();
        assert_eq!(opened, closed, "{element} in {chart}");
    }
    for words in ["raid1x2 healthy", "rs-3+2 healthy", "2 connections", "IOPS"] {
        assert!(chart.contains(words), "{words} in {chart}");
    }
    // The paper, two in the legend, and two layouts with two numbers of connections.
    assert_eq!(chart.matches("<rect").count(), 1 + 2 + LOADS * 4);
}

#[test]
fn people_get_a_table() {
    let sandbox = Sandbox::new();
    let ran = bench(
        &sandbox,
        "--quick --level raid5 --members 3 --rounds 2 --seconds 0.05",
    );
    let ran = ran.succeeded();
    let rows = ran
        .stdout
        .lines()
        .filter(|l| l.contains("4 KiB") || l.contains("1 MiB,"));
    assert_eq!(rows.count(), LOADS, "{ran}");
    for words in [
        "raid5-2+1, healthy",
        "p99.9",
        "CPU s/GiB",
        "least - most",
        "this machine",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {ran}");
    }
    // Where members were, before anything took time.
    assert!(ran.stderr.contains("members in "), "{ran}");
    assert!(
        !ran.stderr.contains('\x1b'),
        "no bar where there is no terminal: {ran}"
    );
}

#[test]
fn an_array_is_measured_in_every_state() {
    let sandbox = Sandbox::new();
    let ran = bench(
        &sandbox,
        "--quick --layout raid6-2+2 --states healthy,degraded,rebuilding --json",
    );
    let report = ran.succeeded().json();
    let arrays = list(&report, "arrays");
    let states: Vec<&Value> = arrays.iter().map(|a| &a["state"]).collect();
    assert_eq!(states, ["healthy", "degraded", "rebuilding"]);
    let rebuilt = |array: &Value| -> Vec<Option<f64>> {
        let rate = |load: &Value| load["median"]["rebuild_mib_per_second"].as_f64();
        list(array, "loads").iter().map(rate).collect()
    };
    assert_eq!(rebuilt(&arrays[0]), [None; LOADS]);
    assert_eq!(rebuilt(&arrays[1]), [None; LOADS]);
    let rates = rebuilt(&arrays[2]);
    assert!(rates.iter().flatten().any(|rate| *rate > 0.0), "{rates:?}");
}

/// A mirror writes a stream twice and little more, a block at least four times: to two journals,
/// and from there in place.
#[test]
fn what_a_write_takes_is_counted_until_the_array_is_at_rest() {
    let sandbox = Sandbox::new();
    let options = "--layout raid1x2 --size 64M --seconds 0.3 --connections 1 --json";
    let report = bench(&sandbox, options).succeeded().json();
    assert_eq!(report["at_rest"], true);
    let loads = list(&report["arrays"][0], "loads");
    let amplification = |name: &str| {
        let load = loads.iter().find(|load| load["load"] == name);
        load.unwrap_or_else(|| panic!("{name} in {report:#}"))["median"]["write_amplification"]
            .as_f64()
    };
    assert_eq!(amplification("read 1 MiB, depth 16"), None);
    let stream = amplification("write 1 MiB, depth 16").expect("a figure");
    assert!((2.0..2.3).contains(&stream), "{stream}");
    let pairs = amplification("write 4 KiB + FLUSH, depth 1").expect("a figure");
    assert!((4.0..12.0).contains(&pairs), "{pairs}");
}

#[test]
fn members_with_data_are_refused_and_not_touched() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --size 96M --name precious", &members);
    let before = contents(&members);
    bench(&sandbox, "--quick --level raid1 m0 m1")
        .exits(REFUSED)
        .says(&["precious"]);
    bench(&sandbox, "--quick --level raid1 m0 fresh")
        .exits(REFUSED)
        .says(&["precious"]);
    assert_eq!(contents(&members), before);
    assert_eq!(files(sandbox.dir()), members);
}

#[test]
fn members_that_are_given_lose_what_they_hold_and_stay() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --size 96M --name old", &members);
    let ran = bench(
        &sandbox,
        "--quick --seconds 0.05 --level raid1 --force m0 m1 made",
    );
    ran.succeeded();
    for member in &members {
        assert_eq!(fs::metadata(member).expect("it stays").len(), 96 * MIB);
    }
    assert!(!sandbox.path("made").exists());
    // They are nobody's members now.
    sandbox.create("--level raid1 --name new", &members);
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.uraid_command();
    command.args(["bench", "--layout", "raid6-2+2", "--seconds", "60"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().expect("uraid");
    let sockets = || {
        let found = files(sandbox.dir());
        found.into_iter().find(|path| path.ends_with("control"))
    };
    wait_for("a server", sockets);
    let children = children(child.id());
    assert!(!children.is_empty());
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
    let output = child.wait_with_output().expect("it ends");
    let ran = Ran::new("uraid bench".to_string(), output).exits(FAILED);
    ran.says(&["interrupted"]);
    assert_nothing_left(&sandbox);
    let alive = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    assert!(!children.iter().any(alive), "{children:?}");
}

/// Processes that this one has started.
fn children(pid: u32) -> BTreeSet<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).expect("children");
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    for (options, reason) in [
        ("--layout raid5", "raid6-4+2"),
        ("--layout raid6-4+1", "cannot be chosen"),
        ("--layout raid0x3 --states degraded", "survives no failure"),
        ("--level raid5", "--members"),
        ("--level raid5 --members 1", "members"),
        ("--level raid1 a", "members"),
        ("--states broken", "rebuilding"),
        ("--size 1M", "64M"),
        ("--seconds none", "seconds"),
        ("--connections 65", "1..=64"),
        ("a b", "--level"),
        ("--dir . --level raid1 a b", "--dir"),
    ] {
        bench(&sandbox, options).exits(USAGE).says(&[reason]);
    }
    for (options, reason) in [
        ("--size 1P", "--size"),
        ("--dir nowhere", "nowhere"),
        ("--svg nowhere/chart.svg", "nowhere/chart.svg"),
        ("--svg .", "directory"),
    ] {
        bench(&sandbox, options).exits(FAILED).says(&[reason]);
    }
    assert_nothing_left(&sandbox);
}

#[test]
fn a_client_without_a_job_says_so() {
    let sandbox = Sandbox::new();
    let mut command: Command = sandbox.uraid_command();
    command.arg("bench-client").stdin(Stdio::null());
    let output = command.output().expect("it ends");
    let ran = Ran::new("uraid bench-client".to_string(), output);
    ran.exits(USAGE).says(&["no job"]);
}

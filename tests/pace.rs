//! The pace of rebuilds and scrubs, set while they are under way.

mod common;

use common::pattern::blocks;
use common::{MIB, REFUSED, Sandbox, Server, USAGE, wait_for};
use serde_json::Value;
use std::ffi::OsString;
use std::thread;
use std::time::{Duration, Instant};

/// What is written, and so what a rebuild fills on a mirror.
const WRITTEN_MIB: u64 = 48;

/// A served mirror with data on it.
fn served(options: &str) -> (Sandbox, Server) {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 128M", &members);
    let server = sandbox.serve_with(options, &members);
    let mut client = server.connect();
    for at in 0..WRITTEN_MIB {
        let data = blocks(at * MIB / 4096, MIB / 4096, 1);
        client.write(at * MIB, &data).expect("write");
    }
    client.flush().expect("flush");
    (sandbox, server)
}

fn set(sandbox: &Sandbox, server: &Server, setting: &str) {
    server.uraid(sandbox, "set", [setting]).succeeded();
}

/// Has member 0 replaced by a blank disk.
fn begin_rebuild(sandbox: &Sandbox, server: &Server) {
    let new = sandbox.file("new", 128 * MIB);
    server.uraid(sandbox, "fail", ["0"]).succeeded();
    server.uraid(sandbox, "add", [&new]).succeeded();
}

fn rebuilt(sandbox: &Sandbox, server: &Server) -> u64 {
    let status = server.status(sandbox);
    status["rebuild"]["done_bytes"].as_u64().unwrap_or(0)
}

/// Bytes that a rebuild fills in a second.
fn speed(sandbox: &Sandbox, server: &Server) -> f64 {
    let (from, begun) = (rebuilt(sandbox, server), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let done = rebuilt(sandbox, server) - from;
    done as f64 / begun.elapsed().as_secs_f64()
}

#[test]
fn a_rebuild_keeps_to_a_ceiling_that_is_set_and_hurries_when_it_is_lifted() {
    let (sandbox, server) = served("--rebuild-ceiling 4M");
    begin_rebuild(&sandbox, &server);
    wait_for("some progress", || {
        (rebuilt(&sandbox, &server) > MIB).then_some(())
    });
    for (setting, rate) in [("rebuild-ceiling=4M", 4), ("rebuild-ceiling=1M", 1)] {
        set(&sandbox, &server, setting);
        let found = speed(&sandbox, &server) / MIB as f64;
        println!("{setting}: {found:.2} MiB/s");
        let allowed = f64::from(rate) * 0.5..=f64::from(rate) * 1.3;
        assert!(allowed.contains(&found), "{setting}: {found:.2} MiB/s");
    }
    let background = server.status(&sandbox)["background"].take();
    assert_eq!(background["rebuild_bytes_per_second_max"], MIB);
    assert_eq!(background["left_permille"], 1000);
    // At this speed what is left would take half a minute and more.
    let left = WRITTEN_MIB * MIB - rebuilt(&sandbox, &server);
    assert!(left > 24 * MIB, "{left}");
    let begun = Instant::now();
    set(&sandbox, &server, "rebuild-ceiling=0");
    server.wait_state(&sandbox, "optimal");
    let took = begun.elapsed();
    println!("lifted: {} MiB in {took:?}", left / MIB);
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn a_floor_counts_more_than_clients_do() {
    let (sandbox, server) = served("--rebuild-share 1 --rebuild-ceiling 1M");
    begin_rebuild(&sandbox, &server);
    let socket = server.socket.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        // A client that is always at work.
        let at_work = scope.spawn(|| {
            let mut client = common::client::Client::connect(&socket, "").expect("a client");
            let mut longest = Duration::ZERO;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let begun = Instant::now();
                client.write(0, &[7; 4096]).expect("write");
                longest = longest.max(begun.elapsed());
            }
            longest
        });
        // Its requests take longer than that: next to nothing is left to the rebuild.
        let settings = ["rebuild-ceiling=0", "latency-target=1us"];
        server.uraid(&sandbox, "set", settings).succeeded();
        let left = wait_for("the rebuild to step back", || {
            let left = server.status(&sandbox)["background"]["left_permille"].as_u64();
            left.filter(|left| *left <= 100)
        });
        let slow = speed(&sandbox, &server) / MIB as f64;
        set(&sandbox, &server, "rebuild-floor=4M");
        let floor = speed(&sandbox, &server) / MIB as f64;
        println!("{left} thousandths of 1 %: {slow:.2} MiB/s; with a floor: {floor:.2} MiB/s");
        assert!(slow < 2.0, "{slow:.2} MiB/s");
        assert!(floor > 3.0, "{floor:.2} MiB/s");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("longest request: {:?}", at_work.join().expect("no panic"));
    });
}

#[test]
fn a_scrub_keeps_to_a_speed_that_is_set_under_way() {
    let (sandbox, server) = served("");
    let none = server.uraid(&sandbox, "set", ["scrub-rate=1M"]);
    none.exits(REFUSED).says(&["no scrub is under way"]);
    let control = server.control.to_str().expect("UTF-8");
    let start = ["scrub", "start", "--control", control, "--rate-max", "1M/s"];
    sandbox.uraid(start).succeeded();
    let scrub = || server.status(&sandbox)["scrub"].take();
    let done = |scrub: &Value| scrub["done_bytes"].as_u64().expect("bytes");
    let from = done(&scrub());
    thread::sleep(Duration::from_secs(2));
    let slow = scrub();
    assert!(done(&slow) - from <= 3 * MIB, "{slow:#}");
    assert_eq!(slow["bytes_per_second_max"], MIB);
    set(&sandbox, &server, "scrub-rate=0");
    let begun = Instant::now();
    wait_for("the end of the scrub", || {
        let scrub = scrub();
        (scrub["state"] == "finished").then_some(())
    });
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (sandbox, server) = served("--rebuild-ceiling 4M");
    for (setting, code, what) in [
        ("rebuild-share=0", USAGE, "from 1 to 100"),
        ("rebuild-share=101", USAGE, "from 1 to 100"),
        ("rebuild-ceiling=quick", USAGE, "a size is"),
        ("latency-target=5", USAGE, "like 500us"),
        ("rebuild-floor=5M", REFUSED, "rebuild-ceiling"),
    ] {
        let ran = server.uraid(&sandbox, "set", [setting]);
        ran.exits(code).says(&[what]);
    }
    let background = server.status(&sandbox)["background"].take();
    assert_eq!(background["rebuild_bytes_per_second_min"], 0);
    let words = "serve --rebuild-floor 5M --rebuild-ceiling 4M m0";
    let words = words.split(' ').map(OsString::from);
    let ran = sandbox.uraid(words.collect::<Vec<_>>());
    ran.exits(USAGE).says(&["--rebuild-ceiling"]);
}

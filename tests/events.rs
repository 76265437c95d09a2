//! The history of an array: what is told of it while it is served, and after.

mod common;

use common::server::slot_of;
use common::{Array, Sandbox, Server, USAGE, wait_for};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

/// The events of a served array.
fn events(sandbox: &Sandbox, server: &Server) -> Vec<Value> {
    let report = server.uraid(sandbox, "events", ["--json"]).succeeded();
    report.json()["events"].as_array().expect("events").clone()
}

/// The events that members hold.
fn offline(sandbox: &Sandbox, members: &[PathBuf]) -> Vec<Value> {
    let words = ["events".into(), "--json".into()];
    let members = members.iter().map(|path| path.clone().into_os_string());
    let report = sandbox.uraid(words.into_iter().chain(members)).succeeded();
    report.json()["events"].as_array().expect("events").clone()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|e| e["kind"].as_str().expect("a kind"))
        .collect()
}

/// Waits until a served array has told of this kind; the event.
fn wait_kind(sandbox: &Sandbox, server: &Server, kind: &str) -> Value {
    wait_for(kind, || {
        let events = events(sandbox, server);
        events.into_iter().find(|event| event["kind"] == kind)
    })
}

/// Whether these come in this order, with others between them.
fn in_order(all: &[&str], wanted: &[&str]) -> bool {
    let mut all = all.iter();
    wanted.iter().all(|kind| all.any(|k| k == kind))
}

#[test]
fn a_disk_swap_is_told_step_by_step_and_members_remember_it() {
    let mut array = Array::new("--level raid5 --name tank", 3);
    let gone = slot_of(&array.status(), &array.members[1]);
    std::fs::remove_file(&array.members[1]).expect("a member");
    let failed = wait_kind(&array.sandbox, &array.server, "member-failed");
    assert_eq!(failed["member"]["slot"], gone);
    assert_eq!(failed["severity"], "warning");
    let next = failed["next"].as_str().expect("something to type");
    assert!(next.contains("uraid rebuild --name tank"), "{next}");
    let critical = wait_kind(&array.sandbox, &array.server, "no-redundancy-left");
    assert_eq!(critical["severity"], "critical");

    let blank = array.blank("new");
    array.run("rebuild", &[&blank]).succeeded();
    wait_kind(&array.sandbox, &array.server, "rebuild-finished");
    let story = [
        "opened",
        "member-failed",
        "member-left",
        "rebuild-started",
        "redundancy-restored",
        "rebuild-finished",
    ];
    let told = events(&array.sandbox, &array.server);
    assert!(in_order(&kinds(&told), &story), "{:?}", kinds(&told));
    let numbers: Vec<u64> = told
        .iter()
        .map(|e| e["sequence"].as_u64().expect("u64"))
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );

    array.stop();
    array.members[1] = blank;
    // The new member has all of it, and so has each of the others.
    for member in &array.members {
        let kept = offline(&array.sandbox, std::slice::from_ref(member));
        assert_eq!(kept[..told.len()], told, "{member:?}");
        assert_eq!(kinds(&kept).last(), Some(&"stopped"));
    }
    let before = offline(&array.sandbox, &array.members);
    array.server = array.sandbox.serve(&array.members);
    wait_for("the second opening", || {
        let told = events(&array.sandbox, &array.server);
        (told.len() > before.len()).then_some(())
    });
    let told = events(&array.sandbox, &array.server);
    assert_eq!(told[..before.len()], before, "numbers go on");
    assert_eq!(kinds(&told).last(), Some(&"opened"));
    array.assert_intact();
}

#[test]
fn what_a_killed_server_has_told_is_there() {
    let mut array = Array::new("--level raid1 --name tank", 2);
    let control = array.server.control.to_str().expect("UTF-8").to_string();
    let scrub = ["scrub", "start", "--control", &control, "--wait"];
    array.sandbox.uraid(scrub).succeeded();
    wait_kind(&array.sandbox, &array.server, "scrub-finished");
    wait_for("the members to have it", || {
        let kept = offline(&array.sandbox, &array.members);
        kinds(&kept).contains(&"scrub-finished").then_some(())
    });
    array.kill();
    let kept = offline(&array.sandbox, &array.members[..1]);
    assert!(in_order(
        &kinds(&kept),
        &["opened", "scrub-started", "scrub-finished"]
    ));
}

#[test]
fn an_array_without_a_member_says_so_each_time_it_is_opened() {
    let mut array = Array::new("--level raid5 --name tank", 3);
    array.stop();
    array.server = array.sandbox.serve(&array.members[1..]);
    let event = wait_kind(&array.sandbox, &array.server, "opened-degraded");
    assert_eq!(event["severity"], "warning");
    array.stop();
    // It has missed something now.
    array.server = array.sandbox.serve(&array.members);
    let stale = wait_kind(&array.sandbox, &array.server, "member-stale");
    assert!(
        stale["text"].as_str().expect("text").contains("m0"),
        "{stale}"
    );
}

#[test]
fn nothing_is_written_to_members_that_are_served_read_only() {
    let mut array = Array::new("--level raid1 --name tank", 2);
    array.stop();
    let before = common::sandbox::contents(&array.members);
    let kept = offline(&array.sandbox, &array.members);
    let options = "--read-only";
    array.server = Server::start(&array.sandbox, options, &array.members)
        .ok()
        .expect("a server");
    wait_for("the opening", || {
        (events(&array.sandbox, &array.server).len() > kept.len()).then_some(())
    });
    array.stop();
    assert!(before == common::sandbox::contents(&array.members));
}

#[test]
fn followers_see_what_comes() {
    let array = Array::new("--level raid1 --name tank", 2);
    let mut command = array.sandbox.uraid_command();
    let control = array.server.control.to_str().expect("UTF-8");
    command.args([
        "events",
        "--control",
        control,
        "--follow",
        "--json",
        "--severity",
        "warning",
    ]);
    let mut follower = command.stdout(Stdio::piped()).spawn().expect("a follower");
    let lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    array
        .server
        .uraid(&array.sandbox, "fail", ["1"])
        .succeeded();
    let events = lines.map(|line| serde_json::from_str::<Value>(&line.expect("a line")));
    let mut kinds = events.map(|event| event.expect("JSON")["kind"].clone());
    assert_eq!(kinds.next(), Some("member-left".into()));
    assert!(kinds.any(|kind| kind == "no-redundancy-left"));
    follower.kill().expect("it still follows");
    follower.wait().expect("exit status");
}

#[test]
fn members_of_two_arrays_have_no_common_history() {
    let sandbox = Sandbox::new();
    let (a, b) = (sandbox.members(2), [sandbox.path("x"), sandbox.path("y")]);
    sandbox.create("--level raid1 --name one --size 64M", &a);
    sandbox.create("--level raid1 --name two --size 64M", &b);
    sandbox
        .uraid([&"events".into(), &a[0], &b[0]])
        .exits(USAGE)
        .says(&["of two, not of one"]);
    assert!(offline(&sandbox, &a).is_empty(), "it was never served");
}

#[test]
fn how_available_it_has_been_is_in_the_status() {
    let mut array = Array::new("--level raid1 --name tank", 2);
    let seen = |array: &Array| array.status()["availability"].take();
    let millis = |seen: &Value, what: &str| seen[what].as_u64().expect("milliseconds");
    // A server answers before it has read what happened before, and told what happens now.
    let seen_with = |array: &Array, what: &str| {
        wait_for(what, || {
            let seen = seen(array);
            (seen[what].as_u64() > Some(0)).then_some(seen)
        })
    };
    let first = seen_with(&array, "served_millis");
    assert_eq!(first["from_first_event"], true, "{first:#}");
    assert_eq!(first["redundant_share"], 1.0, "{first:#}");
    assert_eq!(
        (&first["failures"], &first["repair_mean_millis"]),
        (&0.into(), &Value::Null)
    );

    let gone = array.members.remove(0);
    array.run("fail", &[&gone]).succeeded();
    let blank = array.blank("new");
    array.run("rebuild", &[&blank]).succeeded();
    let repaired = seen_with(&array, "repairs");
    assert_eq!(
        (&repaired["failures"], &repaired["repairs"]),
        (&1.into(), &1.into())
    );
    assert!(millis(&repaired, "repair_mean_millis") >= millis(&repaired, "rebuild_mean_millis"));
    assert!(millis(&repaired, "degraded_millis") > 0, "{repaired:#}");
    assert!(
        repaired["redundant_share"].as_f64() < Some(1.0),
        "{repaired:#}"
    );

    array.members.push(blank);
    array.restart_on(&array.members.clone());
    let restarted = seen_with(&array, "stopped_millis");
    assert_eq!(restarted["unknown_millis"], 0, "{restarted:#}");
    assert_eq!(restarted["repairs"], 1, "{restarted:#}");

    // Of a server that was killed before that was on the members nobody ever knew.
    wait_for("the second opening to be kept", || {
        let kept = offline(&array.sandbox, &array.members);
        let opened = kinds(&kept).into_iter().filter(|kind| *kind == "opened");
        (opened.count() == 2).then_some(())
    });
    array.restart_killed();
    seen_with(&array, "unknown_millis");
    let text = array.run("status", &[]).stdout;
    assert!(
        text.contains("so far  served ") && text.contains("nobody knows"),
        "{text}"
    );
}

//! What the server does by itself: members come back, spares go where they are needed, members that
//! fail are replaced before, scrubs fall due.

mod common;

use common::client::Client;
use common::damage::{Zones, overwrite};
use common::pattern::{BLOCK, blocks};
use common::server::{count_in_state, member, scrub_to_end};
use common::tools::is_root;
use common::{Array, MIB, Ran, Sandbox, Server, wait_for};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longer than the server takes to bring back what is to be brought back.
const A_WHILE: Duration = Duration::from_secs(6);

/// An array whose server does by itself what `options` say.
fn array(level: &str, count: usize, options: &str) -> Array {
    let mut array = Array::new(level, count);
    array.stop();
    array.server = array.sandbox.serve_with(options, &array.members);
    array
}

/// Events of this kind that a served array has told of.
fn events(sandbox: &Sandbox, control: &Path, kind: &str) -> Vec<Value> {
    let control = control.to_str().expect("UTF-8");
    let words = ["events", "--json", "--control", control];
    let mut report = sandbox.uraid(words).succeeded().json();
    let mut events = report["events"]
        .as_array_mut()
        .expect("events")
        .split_off(0);
    events.retain(|event| event["kind"] == kind);
    events
}

/// Waits until a served array has told of this kind; the last such event.
fn wait_event(sandbox: &Sandbox, control: &Path, kind: &str) -> Value {
    wait_for(kind, || events(sandbox, control, kind).pop())
}

/// Waits until that device has the role, in sync; the status.
fn wait_in_sync(array: &Array, slot: u64, path: &Path) -> Value {
    let path = path.to_str().expect("UTF-8");
    wait_for("the spare to have the role", || {
        let status = array.status();
        let holder = member(&status, slot);
        (holder["path"] == path && holder["state"] == "in-sync").then_some(status)
    })
}

fn text(event: &Value) -> &str {
    event["text"].as_str().expect("a text")
}

/// A device that goes and comes: the path at which it is meanwhile.
struct Loose(PathBuf);

fn pull(path: &Path) -> Loose {
    let elsewhere = path.with_extension("unplugged");
    fs::rename(path, &elsewhere).expect("rename");
    Loose(elsewhere)
}

impl Loose {
    fn plug(self) {
        let path = self.0.with_extension("");
        fs::rename(self.0, path).expect("rename");
    }
}

#[test]
fn a_member_that_was_gone_comes_back_by_itself_with_what_it_missed() {
    let mut array = array("--level raid5 --name tank", 3, "--rejoin yes");
    let loose = pull(&array.members[1]);
    array.server.wait_state(&array.sandbox, "degraded");
    array.rewrite(100, 700, 2);
    loose.plug();
    array.server.wait_state(&array.sandbox, "optimal");
    let told = wait_event(&array.sandbox, &array.server.control, "taken-back");
    assert_eq!(told["member"]["slot"], 1);
    assert!(text(&told).contains("no longer leads to it"), "{told}");
    // Now it must carry its share.
    array.run("fail", &[&array.members[0]]).succeeded();
    array.assert_intact();
}

#[test]
fn who_leaves_again_and_again_stays_out_until_it_is_added() {
    let array = array(
        "--level raid1 --name tank",
        2,
        "--rejoin yes --rejoin-wait 1s",
    );
    let control = &array.server.control;
    for _ in 0..2 {
        let loose = pull(&array.members[1]);
        array.server.wait_state(&array.sandbox, "degraded");
        loose.plug();
        array.server.wait_state(&array.sandbox, "optimal");
        std::thread::sleep(Duration::from_secs(2)); // the server sees that, too
    }
    let loose = pull(&array.members[1]);
    let told = wait_event(&array.sandbox, control, "stays-out");
    let path = array.members[1].display();
    let command = format!("uraid add --name tank {path}");
    assert!(text(&told).contains(&command), "{told}");
    loose.plug();
    std::thread::sleep(A_WHILE);
    assert_eq!(array.status()["state"], "degraded");
    assert_eq!(events(&array.sandbox, control, "taken-back").len(), 2);
    array.run("add", &[&array.members[1]]).succeeded();
    array.server.wait_state(&array.sandbox, "optimal");
    array.assert_intact();
}

#[test]
fn who_did_not_return_or_is_not_wanted_is_left_alone() {
    let failed = array("--level raid6 --name tank", 4, "--rejoin yes");
    failed.run("fail", &[&failed.members[0]]).succeeded();
    let loose = pull(&failed.members[2]);
    failed.server.wait_member(&failed.sandbox, 2, "failed");
    loose.plug();

    let switched_off = array("--level raid1 --name tank", 2, "--rejoin no");
    let loose = pull(&switched_off.members[1]);
    let degraded = |array: &Array| array.server.wait_state(&array.sandbox, "degraded");
    degraded(&switched_off);
    loose.plug();

    let another = array("--level raid1 --name tank", 2, "--rejoin yes");
    let loose = pull(&another.members[1]);
    degraded(&another);
    let blank = another.blank("m1");

    std::thread::sleep(A_WHILE);
    // The server was at work there, and an operator had the other one leave.
    let status = failed.server.wait_member(&failed.sandbox, 2, "in-sync");
    assert_eq!(member(&status, 0)["state"], "failed");
    failed.assert_intact();
    assert_eq!(switched_off.status()["state"], "degraded");
    assert_eq!(another.status()["state"], "degraded");
    let content = fs::read(&blank).expect("the blank file");
    assert!(content.iter().all(|byte| *byte == 0), "it was written to");
    loose.plug();
    another.server.wait_state(&another.sandbox, "optimal");
    another.assert_intact();
}

#[test]
fn who_returns_after_a_spare_has_taken_over_becomes_a_spare() {
    let array = array("--level raid1 --name tank", 2, "--rejoin yes");
    let spare = array.blank("spare");
    array.run("add", &[&spare]).succeeded();
    let loose = pull(&array.members[1]);
    wait_in_sync(&array, 1, &spare);
    loose.plug();
    let status = wait_for("the spare", || {
        let status = array.status();
        (count_in_state(&status, "spare") == 1).then_some(status)
    });
    assert_eq!(status["state"], "optimal");
    array.assert_intact();
}

/// Two served arrays: "tank" with content, and "old" with a spare.
struct Two {
    sandbox: Sandbox,
    server: Server,
    tank: Vec<PathBuf>,
    spare: PathBuf,
}

impl Two {
    fn new(options: &str) -> Two {
        let sandbox = Sandbox::new();
        let paths = |name: &str| -> Vec<PathBuf> {
            (0..2).map(|i| sandbox.path(format!("{name}{i}"))).collect()
        };
        let (tank, old) = (paths("tank"), paths("old"));
        sandbox.create("--level raid1 --name tank --size 64M", &tank);
        sandbox.create("--level raid1 --name old --size 64M", &old);
        let control = sandbox.dir().display().to_string();
        let options = format!("--control {control} {options}");
        let server = sandbox.serve_with(&options, &[&tank[..], &old].concat());
        let spare = sandbox.file("spare", 64 * MIB);
        let two = Two {
            sandbox,
            server,
            tank,
            spare,
        };
        two.run("old", "add", &two.spare).succeeded();
        two
    }

    fn control(&self, name: &str) -> PathBuf {
        self.sandbox.path(format!("{name}.control"))
    }

    fn run(&self, name: &str, command: &str, word: impl AsRef<OsStr>) -> Ran {
        let control = self.control(name);
        let words = [
            OsStr::new(command),
            OsStr::new("--control"),
            control.as_os_str(),
        ];
        self.sandbox.uraid(words.into_iter().chain([word.as_ref()]))
    }

    fn status(&self, name: &str) -> Value {
        self.run(name, "status", "--json").json()
    }
}

#[test]
fn a_spare_goes_to_the_array_of_its_group_that_needs_it() {
    let two = Two::new("--spare-group tank,old");
    let content = blocks(0, 4 * MIB / BLOCK as u64, 1);
    let mut client = Client::connect(&two.server.socket, "tank").expect("a client");
    client.write(0, &content).expect("write");
    assert_eq!(count_in_state(&two.status("old"), "spare"), 1);

    pull(&two.tank[1]);
    wait_for("tank to be rebuilt", || {
        let status = two.status("tank");
        let rebuilt = status["state"] == "optimal" && member(&status, 1)["state"] == "in-sync";
        let path = two.spare.to_str().expect("UTF-8");
        (rebuilt && member(&status, 1)["path"] == path).then_some(())
    });
    let old = two.status("old");
    assert_eq!(old["state"], "optimal");
    assert_eq!(count_in_state(&old, "spare"), 0);
    for name in ["tank", "old"] {
        let told = wait_event(&two.sandbox, &two.control(name), "spare-moved");
        assert!(text(&told).contains("tank misses member 1"), "{told}");
        assert!(text(&told).contains("from old to tank"), "{told}");
    }
    // The spare alone has it all.
    two.run("tank", "fail", "0").succeeded();
    let found = client.read(0, content.len()).expect("read");
    assert!(found == content, "other bytes than were written");
}

#[test]
fn a_member_with_many_errors_is_replaced_by_the_spare_while_it_serves() {
    let mut array = Array::new("--level raid5 --name tank", 3);
    array.stop();
    let data = Zones::of(&array.sandbox, &array.members[1]).data;
    overwrite(&array.members[1], &(data.start..data.start + 2 * MIB), 0xa5);
    let options = "--replace-errors 20";
    array.server = array.sandbox.serve_with(options, &array.members);
    let spare = array.blank("spare");
    array.run("add", &[&spare]).succeeded();
    scrub_to_end(&array.sandbox, &array.server);
    let status = wait_in_sync(&array, 1, &spare);
    assert_eq!(status["state"], "optimal");
    let control = &array.server.control;
    let told = wait_event(&array.sandbox, control, "replaced-early");
    assert_eq!(told["member"]["slot"], 1);
    assert!(text(&told).contains("errors"), "{told}");
    for kind in ["member-failed", "no-redundancy-left", "not-done"] {
        assert!(events(&array.sandbox, control, kind).is_empty(), "{kind}");
    }
    array.run("fail", &[&array.members[0]]).succeeded();
    array.assert_intact();
}

#[test]
fn scrubs_fall_due_and_the_schedule_outlasts_the_server() {
    let mut array = array("--level raid1 --name tank", 2, "--scrub-every 2s");
    let control = array.server.control.clone();
    wait_for("two scrubs", || {
        let found = |kind| events(&array.sandbox, &control, kind).len() >= 2;
        (found("scrub-due") && found("scrub-finished")).then_some(())
    });
    array.stop();
    let options = "--scrub-every 10h";
    array.server = array.sandbox.serve_with(options, &array.members);
    let seconds = wait_for("when the next one is due", || {
        array.status()["scrub"]["due_in_seconds"].as_u64()
    });
    // From the last one on, not from the start of the server or never.
    assert!((35_000..=36_000).contains(&seconds), "{seconds}");
    let shown = array.run("status", &[]).succeeded().stdout;
    assert!(shown.contains("the next one is due in 9 h"), "{shown}");
}

/// A loop device over a file; detached when dropped.
struct Loop(PathBuf);

impl Loop {
    /// None where there are no loop devices.
    fn over(sandbox: &Sandbox, file: &Path) -> Option<Loop> {
        let words = ["--find", "--show"].map(OsStr::new);
        let ran = sandbox.run("losetup", words.into_iter().chain([file.as_os_str()]));
        (ran.code == 0).then(|| Loop(ran.stdout.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// What stands for `smartctl`: it says that this device fails, and nothing of the others.
fn fake_smartctl(sandbox: &Sandbox, failing: &Path) {
    let (script, bin) = (sandbox.path("bin/smartctl"), sandbox.path("bin"));
    fs::create_dir(&bin).expect("a directory");
    let answer = r#"{"smart_status": {"passed": false}, "temperature": {"current": 51}}"#;
    let device = failing.display();
    let text = format!(
        "#!/bin/sh\n[ \"$*\" = '--json -H -A {device}' ] || exit 1\necho '{answer}'\nexit 8\n"
    );
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[test]
fn a_device_that_says_it_fails_is_told_and_replaced_by_the_spare() {
    need!("losetup");
    if !is_root() {
        skip!("loop devices take root");
    }
    let sandbox = Sandbox::new();
    let mut members = sandbox.members(2);
    let backing = sandbox.file("backing", 64 * MIB);
    let Some(device) = Loop::over(&sandbox, &backing) else {
        skip!("there are no loop devices");
    };
    members[1] = device.0.clone();
    sandbox.create("--level raid1 --name tank --size 64M --force", &members);
    fake_smartctl(&sandbox, &device.0);
    let path = format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        sandbox.path("bin").display()
    );
    let server = Server::start_in(&sandbox, "", &members, &[("PATH", &path)]);
    let server = server.unwrap_or_else(|ran| panic!("the server did not start: {ran}"));
    let content = blocks(0, 4 * MIB / BLOCK as u64, 1);
    let mut client = server.connect();
    client.write(0, &content).expect("write");

    let unwell = wait_event(&sandbox, &server.control, "member-unwell");
    assert_eq!(unwell["member"]["slot"], 1);
    let status = wait_for("the health in the status", || {
        let status = server.status(&sandbox);
        (member(&status, 1)["health"]["verdict"] == "failing").then_some(status)
    });
    assert_eq!(member(&status, 1)["health"]["temperature_celsius"], 51);
    assert!(member(&status, 0)["health"].is_null(), "a file has none");
    let uuid = member(&status, 1)["uuid"].as_str().expect("a UUID");
    let failing = format!(
        "uraid_member_health{{array=\"tank\",slot=\"1\",member=\"{uuid}\",state=\"failing\"}}"
    );
    wait_for("the health in the metrics", || {
        (server.metric(&failing) == 1.0).then_some(())
    });
    let shown = server.uraid::<&str>(&sandbox, "status", []).stdout;
    assert!(shown.contains("is not well by its own word"), "{shown}");
    assert!(events(&sandbox, &server.control, "replaced-early").is_empty());

    let spare = sandbox.file("spare", 64 * MIB);
    server.uraid(&sandbox, "add", [&spare]).succeeded();
    wait_for("the spare to replace it", || {
        let status = server.status(&sandbox);
        let holder = member(&status, 1);
        (holder["path"] == spare.to_str().expect("UTF-8") && holder["state"] == "in-sync")
            .then_some(())
    });
    let told = wait_event(&sandbox, &server.control, "replaced-early");
    assert!(text(&told).contains("its own assessment"), "{told}");
    server.uraid(&sandbox, "fail", ["0"]).succeeded();
    let found = client.read(0, content.len()).expect("read");
    assert!(found == content, "other bytes than were written");
}

//! The command line: help, status, and the commands that look at or clean single members.

mod common;

use common::sandbox::{self, contents, raid5};
use common::tools::is_root;
use common::{DEGRADED, FAILED, REFUSED, Sandbox, USAGE};
use std::path::Path;

// ---- help and usage ----

#[test]
fn every_command_has_help_with_an_example() {
    let sandbox = Sandbox::new();
    let commands = [
        "create", "serve", "status", "examine", "fail", "remove", "add", "replace", "rebuild",
        "stop", "list", "wipe", "clear", "scrub", "check", "tls", "bench", "plan", "explain",
        "top",
    ];
    for command in commands {
        let help = sandbox.uraid([command, "--help"]).succeeded().stdout;
        assert!(
            help.contains(&format!("uraid {command} ")),
            "no example for {command}: {help}"
        );
        assert!(help.contains("--json"), "{command} has no --json: {help}");
    }
}

#[test]
fn help_states_the_defaults_of_name_listen_and_control() {
    let sandbox = Sandbox::new();
    let help = sandbox
        .uraid(["serve", "--help"])
        .succeeded()
        .stdout
        .to_lowercase();
    assert!(
        help.contains("--listen") && help.contains("--control"),
        "{help}"
    );
    assert!(help.contains("default"), "{help}");
}

#[test]
fn version_is_told() {
    let ran = Sandbox::new().uraid(["--version"]).succeeded();
    assert!(ran.stdout.starts_with("uraid "), "{ran}");
}

#[test]
fn unknown_command_is_a_usage_error() {
    Sandbox::new().uraid(["frobnicate"]).exits(USAGE);
}

// ---- status and list ----

#[test]
fn status_json_has_every_promised_field() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    let status = server
        .uraid(&sandbox, "status", ["--json"])
        .succeeded()
        .json();
    assert_eq!(status["level"], "raid5");
    assert_eq!(status["data"], 2);
    assert_eq!(status["parity"], 1);
    assert_eq!(status["chunk_bytes"], 65536);
    assert_eq!(status["state"], "optimal");
    assert_eq!(status["redundancy_left"], 1);
    assert_eq!(status["suspended"], serde_json::Value::Null);
    assert_eq!(status["rebuild"], serde_json::Value::Null);
    assert!(
        status["name"].is_string() && status["uuid"].is_string(),
        "{status:#}"
    );
    let size = status["size_bytes"].as_u64().expect("size_bytes");
    assert!(size > 64 << 20 && size < 128 << 20, "{size}");
    let listed = status["members"].as_array().expect("members");
    assert_eq!(listed.len(), 3);
    for (slot, member) in listed.iter().enumerate() {
        assert_eq!(member["slot"], slot);
        assert_eq!(member["path"], members[slot].to_str().expect("UTF-8"));
        assert_eq!(member["state"], "in-sync");
        assert!(member["uuid"].is_string());
        for counter in ["read_errors", "write_errors", "checksum_errors"] {
            assert_eq!(member[counter], 0, "{counter}");
        }
    }
}

#[test]
fn status_for_people_names_array_state_and_members() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    let text = server.uraid(&sandbox, "status", [""; 0]).succeeded().stdout;
    assert!(text.contains("raid5") && text.contains("optimal"), "{text}");
    assert!(text.contains(members[2].to_str().expect("UTF-8")), "{text}");
}

#[test]
fn status_without_a_server_fails() {
    let sandbox = Sandbox::new();
    let control = sandbox.path("nothing.ctl");
    let ran = sandbox.uraid(["status", "--control", control.to_str().expect("UTF-8")]);
    ran.exits(FAILED)
        .says(&["no server", "not running", "connect", "no such file"]);
}

#[test]
fn status_of_a_degraded_array_exits_with_3() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    server.uraid(&sandbox, "fail", [&members[0]]).succeeded();
    let ran = server.uraid(&sandbox, "status", ["--json"]).exits(DEGRADED);
    assert_eq!(ran.json()["state"], "degraded");
}

#[test]
fn control_socket_answers_http() {
    need!("curl");
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    let control = server.control.to_str().expect("UTF-8");
    let ran = sandbox.run(
        "curl",
        [
            "-sf",
            "--unix-socket",
            control,
            "http://localhost/v1/status",
        ],
    );
    assert_eq!(ran.succeeded().json()["state"], "optimal");
}

#[test]
fn control_socket_is_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    need!("curl", "setpriv");
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    if !is_root() {
        skip!("becoming somebody else takes root");
    }
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    // Even where the permissions of the file let anybody in.
    open(sandbox.dir(), 0o755);
    open(&server.control, 0o777);
    let control = server.control.to_str().expect("UTF-8");
    let curl = [
        "curl",
        "-sf",
        "--unix-socket",
        control,
        "http://localhost/v1/status",
    ];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let ran = sandbox.run("setpriv", nobody.iter().chain(&curl));
    assert!(
        ran.code != 0 && ran.stdout.is_empty(),
        "a stranger was answered: {ran}"
    );
    sandbox.run("curl", &curl[1..]).succeeded();
}

#[test]
fn status_watch_shows_it_again_and_again() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    let control = server.control.to_str().expect("UTF-8");
    let watch = [sandbox::URAID, "status", "--watch", "--control", control];
    let ran = sandbox.run("timeout", ["--signal=INT", "3"].iter().chain(&watch));
    assert!(ran.stdout.matches("optimal").count() >= 2, "{ran}");
}

#[test]
fn commands_find_a_server_by_name() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name byname --size 64M", &members);
    let socket = sandbox.path("sock");
    let mut command = sandbox.uraid_command();
    command
        .args(["serve", "--listen", &format!("unix:{}", socket.display())])
        .args(&members);
    let mut child = command.spawn().expect("server");
    common::wait_for("a server that --name finds", || {
        let ran = sandbox.uraid(["status", "--name", "byname", "--json"]);
        (ran.code == 0).then(|| assert_eq!(ran.json()["name"], "byname"))
    });
    let list = sandbox.uraid(["list", "--json"]).succeeded();
    assert!(list.stdout.contains("byname"), "{list}");
    sandbox.uraid(["stop", "--name", "byname"]).succeeded();
    assert!(child.wait().expect("exit status").success());
}

// ---- examine, wipe, clear ----

#[test]
fn examine_tells_what_a_member_is() {
    let (sandbox, members) = raid5();
    let report = sandbox.examine(&members[1]);
    assert_eq!(report["slot"], 1);
    assert_eq!(report["level"], "raid5");
    assert_eq!(report["chunk_bytes"], 65536);
    let offset = report["data_offset_bytes"]
        .as_u64()
        .expect("data_offset_bytes");
    let len = report["data_bytes"].as_u64().expect("data_bytes");
    assert!(offset > 0 && offset + len <= 64 << 20, "{report:#}");
}

#[test]
fn examine_changes_nothing_and_works_beside_a_server() {
    let (sandbox, members) = raid5();
    let before = contents(&members);
    sandbox.examine(&members[0]);
    assert!(contents(&members) == before);
    let server = sandbox.serve(&members);
    sandbox.examine(&members[0]);
    assert_eq!(server.status(&sandbox)["state"], "optimal");
}

#[test]
fn examine_tells_udev_what_a_member_is_and_nothing_of_other_files() {
    let (sandbox, members) = raid5();
    let export =
        |path: &Path| sandbox.uraid(["examine".as_ref(), "--export".as_ref(), path.as_os_str()]);
    let superblock = sandbox.examine(&members[1]);
    let said = export(&members[1]).succeeded().stdout;
    for (key, field) in [
        ("ID_FS_UUID", "uuid"),
        ("ID_FS_UUID_SUB", "member_uuid"),
        ("ID_FS_LABEL", "name"),
    ] {
        let value = superblock[field].as_str().expect("a word");
        for line in [format!("{key}={value}"), format!("{key}_ENC={value}")] {
            assert!(said.lines().any(|l| l == line), "no {line} in {said}");
        }
    }
    assert!(
        said.starts_with("ID_FS_TYPE=uraid_member\nID_FS_USAGE=raid\n"),
        "{said}"
    );
    assert!(said.lines().all(|line| line.contains('=')), "{said}");
    sandbox
        .uraid(["examine", "--export", "--json", "m1"])
        .exits(USAGE);
    let blank = sandbox.file("blank", 64 << 20);
    assert_eq!(export(&blank).exits(FAILED).stdout, "");
}

#[test]
fn examine_fails_on_a_file_that_is_no_member() {
    let sandbox = Sandbox::new();
    let blank = sandbox.file("blank", 64 << 20);
    sandbox
        .uraid(["examine".as_ref(), blank.as_os_str()])
        .exits(FAILED);
}

#[test]
fn wipe_makes_a_member_a_blank_file() {
    let (sandbox, members) = raid5();
    let member = members[0].as_os_str();
    let ran = sandbox.uraid(["wipe".as_ref(), member]);
    let ran = if ran.code == REFUSED {
        sandbox.uraid(["wipe".as_ref(), "--force".as_ref(), member])
    } else {
        ran
    };
    ran.succeeded();
    sandbox.uraid(["examine".as_ref(), member]).exits(FAILED);
    sandbox.create(
        "--level raid1",
        &[members[0].clone(), sandbox.file("new", 64 << 20)],
    );
}

#[test]
fn wipe_refuses_a_member_of_a_live_array() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    let ran = sandbox.uraid(["wipe".as_ref(), members[0].as_os_str()]);
    ran.exits(REFUSED)
        .says(&["in use", "locked", "live", "serv"]);
    assert_eq!(server.status(&sandbox)["state"], "optimal");
}

#[test]
fn clear_zeroes_the_error_counters() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    server.uraid(&sandbox, "clear", [""; 0]).succeeded();
    let status = server.status(&sandbox);
    assert_eq!(status["members"][0]["read_errors"], 0);
}

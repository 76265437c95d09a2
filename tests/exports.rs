//! Several arrays behind one server: what is listed, what is the default, who is let in, and what
//! becomes of the others when one fails or stops.

mod common;

use common::client::Client;
use common::sandbox::raid5;
use common::tools::{assert_export_is, copy_in, noise_file};
use common::{DEGRADED, FAILED, MIB, REFUSED, Ran, Sandbox, Server, USAGE, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::PathBuf;

const EPERM: u32 = 1;

/// Two stopped arrays: "tank", a mirror of 32 MiB, and "home", a raid5 of 48 MiB.
struct Two {
    sandbox: Sandbox,
    tank: Vec<PathBuf>,
    home: Vec<PathBuf>,
}

impl Two {
    fn new() -> Two {
        Two::in_sandbox(Sandbox::new())
    }

    fn in_sandbox(sandbox: Sandbox) -> Two {
        let paths = |name: &str, count: usize| -> Vec<PathBuf> {
            (0..count)
                .map(|i| sandbox.path(format!("{name}{i}")))
                .collect()
        };
        let (tank, home) = (paths("t", 2), paths("h", 3));
        sandbox.create(
            "--level raid1 --name tank --size 64M --export-size 32M",
            &tank,
        );
        sandbox.create(
            "--level raid5 --name home --size 64M --export-size 48M",
            &home,
        );
        Two {
            sandbox,
            tank,
            home,
        }
    }

    fn members(&self) -> Vec<PathBuf> {
        [&self.tank[..], &self.home].concat()
    }

    /// Serves both at one socket, control sockets in the sandbox's directory.
    fn serve(&self, options: &str) -> Server {
        started(self.try_serve(options, &self.members()))
    }

    fn serve_members(&self, members: &[PathBuf]) -> Server {
        started(self.try_serve("", members))
    }

    fn try_serve(&self, options: &str, members: &[PathBuf]) -> Result<Server, Ran> {
        let control = self.sandbox.dir().display();
        Server::start(
            &self.sandbox,
            &format!("--control {control} {options}"),
            members,
        )
    }

    fn status(&self, name: &str) -> Ran {
        let control = self.sandbox.path(format!("{name}.control"));
        let words = ["status", "--json", "--control"].map(Into::into);
        self.sandbox
            .uraid(words.into_iter().chain([control.into_os_string()]))
    }
}

fn started(server: Result<Server, Ran>) -> Server {
    server.unwrap_or_else(|ran| panic!("the server did not start: {ran}"))
}

fn uri(server: &Server, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", server.socket.display())
}

fn connect(server: &Server, name: &str) -> std::io::Result<Client> {
    Client::connect(&server.socket, name)
}

fn listed(sandbox: &Sandbox, uri: &str) -> Vec<String> {
    let ran = sandbox.run("nbdinfo", ["--list", "--json", uri]);
    let exports = ran.succeeded().json()["exports"].take();
    let name = |export: &Value| export["export-name"].as_str().expect("a name").to_string();
    exports
        .as_array()
        .expect("exports")
        .iter()
        .map(name)
        .collect()
}

#[test]
fn arrays_are_served_side_by_side_and_kept_apart() {
    need!("nbdinfo", "nbdcopy", "qemu-io");
    let two = Two::new();
    let server = two.serve("");
    let words: Vec<&str> = server.ready.split(' ').collect();
    let (tank, home) = (uri(&server, "tank"), uri(&server, "home"));
    assert_eq!(words, ["ready", "tank", &tank, "home", &home]);
    assert_eq!(listed(&two.sandbox, &server.uri()), ["tank", "home"]);
    let noise = noise_file(&two.sandbox, "noise", 32 * MIB, 1);
    copy_in(&two.sandbox, &noise, &tank);
    let pattern = ["-f", "raw", &home, "-c", "write -P 7 0 1M"];
    two.sandbox.run("qemu-io", pattern).succeeded();
    assert_export_is(&two.sandbox, &tank, &noise);
    let pattern = ["-f", "raw", &home, "-c", "read -P 7 0 1M"];
    two.sandbox.run("qemu-io", pattern).succeeded();
    assert_eq!(two.status("tank").succeeded().json()["name"], "tank");
    let status = two.status("home").succeeded().json();
    assert_eq!(
        (&status["name"], &status["uris"][0]),
        (&"home".into(), &home.into())
    );
    server.stop();
    for name in ["tank", "home"] {
        let control = two.sandbox.path(format!("{name}.control"));
        assert!(!control.exists(), "{name} leaves its socket behind");
    }
}

#[test]
fn a_server_ends_with_the_last_of_its_arrays() {
    let two = Two::new();
    let mut server = two.serve("");
    let mut client = connect(&server, "tank").expect("connect");
    client.write(0, &[1; 4096]).expect("write");
    let stop = |name: &str| {
        let control = two.sandbox.path(format!("{name}.control"));
        let words = ["stop", "--control"].map(Into::into);
        let words = words.into_iter().chain([control.into_os_string()]);
        two.sandbox.uraid(words).succeeded();
    };
    stop("tank");
    client.read(0, 4096).expect_err("tank is gone");
    connect(&server, "tank").err().expect("tank is gone");
    // Nobody gets the other one instead.
    connect(&server, "").err().expect("there is no default");
    let mut client = connect(&server, "home").expect("connect");
    client.write(0, &[2; 4096]).expect("write");
    stop("home");
    assert!(server.wait_end().success(), "{}", server.log());
}

#[test]
fn the_empty_name_is_the_only_array_that_is_not_hidden() {
    need!("nbdinfo");
    let two = Two::new();
    let server = two.serve("");
    connect(&server, "").err().expect("there are two");
    server.stop();
    let server = two.serve("--export tank,hidden");
    assert_eq!(connect(&server, "").expect("home").size, 48 * MIB);
    assert_eq!(connect(&server, "tank").expect("tank").size, 32 * MIB);
    assert_eq!(listed(&two.sandbox, &server.uri()), ["home"]);
    server.stop();
    let server = two.serve("--export tank,hidden --export home,hidden");
    connect(&server, "").err().expect("both are hidden");
    assert!(listed(&two.sandbox, &server.uri()).is_empty());
}

#[test]
fn without_places_each_array_has_a_socket_of_its_own() {
    need!("nbdinfo");
    let two = Two::in_sandbox(Sandbox::elsewhere());
    let mut child = two.sandbox.uraid_command();
    child.arg("serve").args(two.members());
    let mut child = child.spawn().expect("a server");
    let directory = match common::tools::is_root() {
        true => two.sandbox.path("system/run/uraid"),
        false => two.sandbox.path("uraid"),
    };
    for (name, size) in [("tank", 32 * MIB), ("home", 48 * MIB)] {
        let socket = directory.join(format!("{name}.nbd"));
        let default = wait_for("the socket", || Client::connect(&socket, "").ok());
        assert_eq!(default.size, size);
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        assert_eq!(listed(&two.sandbox, &uri), [name]);
    }
    child.kill().expect("kill");
    child.wait().expect("exit status");
}

#[test]
fn an_array_that_cannot_be_served_leaves_the_others_alone() {
    let two = Two::new();
    let members = [&two.home[..1], &two.tank].concat();
    let server = two.serve_members(&members);
    assert!(server.ready.starts_with("ready tank "), "{}", server.ready);
    assert!(
        server.log().contains("home is not served: "),
        "{}",
        server.log()
    );
    connect(&server, "home").err().expect("home is not served");
    // Yesterday there were two, and no default.
    connect(&server, "")
        .err()
        .expect("nobody gets another array");
    let mut client = connect(&server, "tank").expect("connect");
    client.write(0, &[1; 4096]).expect("write");
    server.stop();
}

#[test]
fn when_no_array_can_be_served_neither_is_the_server() {
    let two = Two::new();
    let members = [two.home[0].clone(), two.sandbox.file("blank", MIB)];
    let alone = two.try_serve("", &members).err().expect("too few members");
    alone.exits(REFUSED).says(&["needed"]);
    // Members of two arrays, neither of which can start.
    let other: Vec<PathBuf> = (0..3).map(|i| two.sandbox.path(format!("o{i}"))).collect();
    two.sandbox
        .create("--level raid5 --name other --size 64M", &other);
    let members = [two.home[0].clone(), other[0].clone()];
    let both = two.try_serve("", &members).err().expect("too few members");
    both.exits(REFUSED).says(&["none of home, other"]);
}

#[test]
fn a_degraded_array_beside_a_whole_one_is_served() {
    let two = Two::new();
    let members = [&two.home[..2], &two.tank].concat();
    let server = two.serve_members(&members);
    two.status("home").exits(DEGRADED);
    two.status("tank").succeeded();
    connect(&server, "home").expect("connect");
}

#[test]
fn a_path_that_belongs_to_no_array_is_left_out_and_named() {
    let two = Two::new();
    let mut members = two.members();
    members.push(two.sandbox.file("blank", 64 * MIB));
    let server = two.serve_members(&members);
    assert!(
        server.log().contains("blank shows no sign"),
        "{}",
        server.log()
    );
    two.status("home").succeeded();
}

#[test]
fn arrays_of_one_name_are_refused_and_told_apart() {
    let (sandbox, members) = raid5();
    let others: Vec<PathBuf> = (0..3).map(|i| sandbox.path(format!("other{i}"))).collect();
    sandbox.create("--level raid5 --size 64M", &others);
    let all = [members, others].concat();
    let ran = sandbox.serve_refused("", &all);
    ran.exits(REFUSED)
        .says(&["two arrays are called raid5"])
        .says(&["other0"]);
}

#[test]
fn signals_stop_all_arrays() {
    let two = Two::new();
    let mut server = two.serve("");
    for name in ["tank", "home"] {
        let mut client = connect(&server, name).expect("connect");
        client.write(0, &[3; 4096]).expect("write");
    }
    server.signal(Signal::SIGTERM);
    assert!(server.wait_end().success(), "{}", server.log());
    for name in ["tank", "home"] {
        let line = format!("{name} is flushed and stopped");
        assert!(server.log().contains(&line), "{}", server.log());
    }
    let server = two.serve("");
    for name in ["tank", "home"] {
        let mut client = connect(&server, name).expect("connect");
        assert_eq!(client.read(0, 4096).expect("read"), [3; 4096]);
    }
}

// ---- options of exports ----

#[test]
fn a_read_only_export_is_not_written_by_clients() {
    need!("nbdinfo");
    let two = Two::new();
    let server = two.serve("--export tank,read-only,description=no,touching");
    let ran = two
        .sandbox
        .run("nbdinfo", ["--json", &uri(&server, "tank")]);
    let info = ran.succeeded().json()["exports"][0].take();
    assert_eq!(info["is_read_only"], true);
    assert_eq!(info["description"], "no,touching");
    let mut client = connect(&server, "tank").expect("connect");
    let refused = client.write(0, &[1; 512]).expect_err("a write");
    assert_eq!(refused.errno(), EPERM);
    assert_eq!(client.read(0, 512).expect("read"), [0; 512]);
    let mut other = connect(&server, "home").expect("connect");
    other.write(0, &[1; 512]).expect("write");
    assert_eq!(two.status("tank").json()["read_only"], false);
}

#[test]
fn limits_on_connections_turn_away_with_a_reason_and_let_in_again() {
    need!("nbdinfo");
    let two = Two::new();
    let server = two.serve("--max-connections 3 --export tank,max-connections=2");
    let first = connect(&server, "tank").expect("connect");
    let second = connect(&server, "tank").expect("connect");
    connect(&server, "tank").err().expect("tank takes two");
    let tank = uri(&server, "tank");
    let ran = two.sandbox.run("nbdinfo", ["--size", &tank]).exits(1);
    ran.says(&["server policy"]);
    let third = connect(&server, "home").expect("home has no limit of its own");
    connect(&server, "home").err().expect("three in all");
    drop(second);
    let second = wait_for("a free place", || connect(&server, "tank").ok());
    for mut client in [first, second, third] {
        client.write(4096, &[1; 4096]).expect("write");
    }
}

#[test]
fn exports_that_are_not_there_and_malformed_ones_are_refused() {
    let two = Two::new();
    for (options, says) in [
        (
            "--export tonk,hidden",
            "none of the arrays found: tank, home",
        ),
        ("--export tank,hiden", "none of read-only, hidden"),
        ("--export tank --export tank,hidden", "twice"),
        ("--export tank,max-connections=0", "from 1 up"),
        ("--max-connections 0", "1 to"),
    ] {
        let ran = two.try_serve(options, &two.members());
        let ran = ran.err().unwrap_or_else(|| panic!("{options}"));
        ran.exits(USAGE).says(&[says]);
    }
    let place = two.sandbox.path("one.control");
    let options = format!("--control {}", place.display());
    let ran = two.sandbox.serve_refused(&options, &two.members());
    ran.exits(USAGE).says(&["is not a directory"]);
}

// ---- the network ----

#[test]
fn listening_to_other_hosts_takes_a_word() {
    let (sandbox, members) = raid5();
    for place in ["tcp:0.0.0.0:0", "tcp:[::]:0"] {
        let ran = sandbox.serve_refused(&format!("--listen {place}"), &members);
        assert!(ran.code == REFUSED || ran.code == FAILED, "{ran}");
        if ran.code == FAILED {
            // No IPv6 on this host.
            ran.says(&["cannot listen"]);
            continue;
        }
        ran.says(&["--insecure"]);
    }
    let server = sandbox.serve_with("--listen tcp:0.0.0.0:0 --insecure", &members);
    assert!(server.ready.contains("nbd://0.0.0.0:"), "{}", server.ready);
}

//! `uraid serve`: what it starts, what it refuses, where it listens, how it stops.

mod common;

use common::sandbox::{contents, raid5};
use common::{DEGRADED, FAILED, REFUSED, Sandbox, Server};
use nix::sys::signal::Signal;
use std::fs;
use std::path::PathBuf;

// ---- what serve refuses ----

/// Expects that serving these members ends with this code and words, and changes nothing.
fn assert_serve_ends(sandbox: &Sandbox, members: &[PathBuf], code: i32, says: &[&str]) {
    let files: Vec<PathBuf> = members.iter().filter(|m| m.is_file()).cloned().collect();
    let before = contents(&files);
    sandbox.serve_refused("", members).exits(code).says(says);
    assert!(
        contents(&files) == before,
        "a refused start has changed a member"
    );
}

#[test]
fn serve_refuses_members_of_different_arrays() {
    let (sandbox, members) = raid5();
    let others: Vec<PathBuf> = (0..3).map(|i| sandbox.path(format!("other{i}"))).collect();
    sandbox.create("--level raid5 --size 64M", &others);
    let mixed = [members[0].clone(), members[1].clone(), others[2].clone()];
    assert_serve_ends(
        &sandbox,
        &mixed,
        REFUSED,
        &["other array", "different array", "foreign", "arrays"],
    );
}

#[test]
fn serve_refuses_the_same_file_twice() {
    let (sandbox, members) = raid5();
    let twice = [members[0].clone(), members[1].clone(), members[1].clone()];
    assert_serve_ends(&sandbox, &twice, REFUSED, &["twice", "same", "duplicate"]);
}

#[test]
fn serve_refuses_a_copy_of_a_member_beside_the_member() {
    let (sandbox, members) = raid5();
    let copy = sandbox.copies("copy-of-", &members[1..2]).remove(0);
    let mixed = [
        members[0].clone(),
        members[1].clone(),
        members[2].clone(),
        copy,
    ];
    assert_serve_ends(
        &sandbox,
        &mixed,
        REFUSED,
        &["twice", "same", "duplicate", "copy"],
    );
}

#[test]
fn serve_refuses_too_few_members() {
    let (sandbox, members) = raid5();
    assert_serve_ends(&sandbox, &members[..1], REFUSED, &["member"]);
}

#[test]
fn serve_fails_on_files_that_are_no_members() {
    let sandbox = Sandbox::new();
    let blank = [sandbox.file("a", 64 << 20), sandbox.file("b", 64 << 20)];
    let ran = sandbox.serve_refused("", &blank);
    assert!(ran.code == FAILED || ran.code == REFUSED, "{ran}");
    ran.says(&["superblock", "not a member", "no member", "no array"]);
}

#[test]
fn serve_fails_on_a_missing_path_alone() {
    let sandbox = Sandbox::new();
    let ran = sandbox.serve_refused("", &[sandbox.path("nothing")]);
    assert!(ran.code == FAILED || ran.code == REFUSED, "{ran}");
    ran.says(&["nothing"]);
}

#[test]
fn serve_fails_on_a_directory_alone() {
    let sandbox = Sandbox::new();
    let ran = sandbox.serve_refused("", &[sandbox.dir().to_path_buf()]);
    assert!(ran.code == FAILED || ran.code == REFUSED, "{ran}");
    ran.says(&["directory"]);
}

#[test]
fn serve_starts_degraded_without_a_truncated_member_and_says_so() {
    let (sandbox, members) = raid5();
    sandbox.serve(&members).stop();
    fs::OpenOptions::new()
        .write(true)
        .open(&members[2])
        .and_then(|f| f.set_len(0))
        .expect("truncate");
    let server = sandbox.serve(&members);
    server.uraid(&sandbox, "status", ["--json"]).exits(DEGRADED);
    assert!(
        server.log().contains(members[2].to_str().expect("UTF-8")),
        "{}",
        server.log()
    );
}

#[test]
fn serve_finds_members_in_any_order() {
    let (sandbox, members) = raid5();
    let order = [members[2].clone(), members[0].clone(), members[1].clone()];
    let server = sandbox.serve(&order);
    server.uraid(&sandbox, "status", ["--json"]).succeeded();
}

#[test]
fn serve_scans_a_directory() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("disks");
    fs::create_dir(&directory).expect("directory");
    fs::write(directory.join("README"), "not a member").expect("write");
    let members: Vec<PathBuf> = (0..3).map(|i| directory.join(format!("disk{i}"))).collect();
    sandbox.create("--level raid5 --size 64M", &members);
    let server = sandbox.serve_with(&format!("--scan {}", directory.display()), &[]);
    assert_eq!(server.status(&sandbox)["state"], "optimal");
}

#[test]
fn serve_refuses_a_scan_that_finds_nothing() {
    let sandbox = Sandbox::new();
    let ran = sandbox.serve_refused(&format!("--scan {}", sandbox.dir().display()), &[]);
    assert!(ran.code == FAILED || ran.code == REFUSED, "{ran}");
}

#[test]
fn read_only_serves_and_changes_nothing() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    server.connect().write(0, &[7; 8192]).expect("write");
    server.stop();
    let before = contents(&members);
    let server = sandbox.serve_with("--read-only", &members);
    let mut client = server.connect();
    assert_eq!(client.read(0, 8192).expect("read"), vec![7; 8192]);
    assert_eq!(
        client.write(0, &[8; 4096]).expect_err("a write").errno(),
        1,
        "EPERM"
    );
    server.stop();
    assert!(
        contents(&members) == before,
        "a read-only server has written"
    );
}

#[test]
fn both_io_backends_serve_the_same_data() {
    let (sandbox, members) = raid5();
    let data = common::pattern::blocks(3, 100, 1);
    for (writer, reader) in [("uring", "threads"), ("threads", "uring")] {
        let server = sandbox.serve_with(&format!("--io {writer}"), &members);
        server.connect().write(12345, &data).expect("write");
        server.stop();
        let server = sandbox.serve_with(&format!("--io {reader}"), &members);
        assert!(server.connect().read(12345, data.len()).expect("read") == data);
        server.stop();
    }
}

#[test]
fn pidfile_holds_the_process_id_while_serving() {
    let (sandbox, members) = raid5();
    let file = sandbox.path("pid");
    let server = sandbox.serve_with(&format!("--pidfile {}", file.display()), &members);
    let pid = fs::read_to_string(&file).expect("the pid file");
    assert_eq!(pid.trim(), server.pid().to_string());
    server.stop();
    assert!(!file.exists(), "the pid file outlives the server");
}

// ---- sockets ----

#[test]
fn a_stale_socket_is_replaced() {
    let (sandbox, members) = raid5();
    let stale = sandbox.path("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bind"));
    assert!(stale.exists(), "the listener leaves its socket behind");
    let options = format!("--listen unix:{}", stale.display());
    let mut server = sandbox.serve_with(&options, &members);
    server.socket = stale;
    assert_eq!(server.connect().read(0, 512).expect("read"), vec![0; 512]);
}

#[test]
fn a_live_socket_is_refused() {
    let (sandbox, members) = raid5();
    let live = sandbox.path("live.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&live).expect("bind");
    let ran = sandbox.serve_refused(&format!("--listen unix:{}", live.display()), &members);
    assert!(ran.code == FAILED || ran.code == REFUSED, "{ran}");
    ran.says(&["in use"]);
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let (sandbox, members) = raid5();
    let file = sandbox.path("precious");
    fs::write(&file, "text").expect("write");
    let ran = sandbox.serve_refused(&format!("--listen unix:{}", file.display()), &members);
    assert!(ran.code == FAILED || ran.code == REFUSED, "{ran}");
    assert_eq!(fs::read_to_string(&file).expect("read"), "text");
}

#[test]
fn tcp_port_zero_prints_the_real_port() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve_with("--listen tcp:127.0.0.1:0", &members);
    let uri = server.ready.split(' ').nth(2).expect("a URI").to_string();
    let port = uri
        .strip_prefix("nbd://127.0.0.1:")
        .and_then(|r| r.split('/').next());
    let port: u16 = port.expect("host and port").parse().expect("a port");
    assert_ne!(port, 0);
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("connection");
}

#[test]
fn several_listeners_serve_the_same_array() {
    let (sandbox, members) = raid5();
    let (a, b) = (sandbox.path("a.sock"), sandbox.path("b.sock"));
    let options = format!(
        "--listen unix:{} --listen unix:{}",
        a.display(),
        b.display()
    );
    let mut server: Server = sandbox.serve_with(&options, &members);
    server.socket = a;
    server.connect().write(0, &[5; 512]).expect("write");
    server.socket = b;
    assert_eq!(server.connect().read(0, 512).expect("read"), vec![5; 512]);
}

#[test]
fn a_listen_address_in_use_is_refused() {
    let (sandbox, members) = raid5();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port();
    let ran = sandbox.serve_refused(&format!("--listen tcp:127.0.0.1:{port}"), &members);
    assert!(ran.code == FAILED || ran.code == REFUSED, "{ran}");
    ran.says(&["in use"]);
}
// ---- stopping ----

#[test]
fn sigterm_flushes_and_stops_cleanly() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    server.connect().write(4096, &[9; 4096]).expect("write");
    let (socket, control) = (server.socket.clone(), server.control.clone());
    server.stop();
    assert!(
        !socket.exists() && !control.exists(),
        "sockets are left behind"
    );
    let server = sandbox.serve(&members);
    assert_eq!(
        server.connect().read(4096, 4096).expect("read"),
        vec![9; 4096]
    );
}

#[test]
fn sigint_stops_like_sigterm() {
    let (sandbox, members) = raid5();
    let mut server = sandbox.serve(&members);
    server.signal(Signal::SIGINT);
    assert!(server.wait_end().success(), "{}", server.log());
}

#[test]
fn stop_command_stops_the_server() {
    let (sandbox, members) = raid5();
    let mut server = sandbox.serve(&members);
    server.uraid(&sandbox, "stop", [""; 0]).succeeded();
    assert!(server.wait_end().success(), "{}", server.log());
}

#[test]
fn stop_with_connected_clients_does_not_hang() {
    let (sandbox, members) = raid5();
    let server = sandbox.serve(&members);
    let mut client = server.connect();
    client.write(0, &[1; 4096]).expect("write");
    server.stop();
    client.read(0, 4096).expect_err("the server is gone");
}

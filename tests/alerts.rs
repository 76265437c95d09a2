//! Alerts: to programs, web servers and mailboxes, and what comes of those that hang.

mod common;

use common::array::Array;
use common::server::slot_of;
use common::{FAILED, PATIENCE, Ran, Sandbox, Server, USAGE, wait_for};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A program in the sandbox.
fn script(sandbox: &Sandbox, name: &str, body: &str) -> PathBuf {
    let path = sandbox.path(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

/// A server of a mirror that sends alerts as `options` say.
fn mirror(sandbox: &Sandbox, options: &str) -> Server {
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    Server::start(sandbox, options, &members)
        .ok()
        .expect("a server")
}

/// Runs `uraid alert test`.
fn alert_test(sandbox: &Sandbox, server: &Server, options: &[&str]) -> Ran {
    let control = server.control.to_str().expect("UTF-8");
    let words = ["alert", "test", "--control", control];
    sandbox.uraid(words.iter().chain(options))
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(String::from).collect()
}

/// Takes one request; its body.
fn body(mut stream: TcpStream, answer: &str) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let got = stream.read(&mut piece).expect("request");
        request.extend_from_slice(&piece[..got]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1).expect("a length");
        let length = length.split("\r\n").next().expect("a line");
        if body.len() == length.parse::<usize>().expect("a number") {
            assert!(head.starts_with("post /hook ") && head.contains("application/json"));
            let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).expect("answer");
            return body.to_string();
        }
    }
}

#[test]
fn a_program_is_told_what_failed_and_what_to_type() {
    let sandbox = Sandbox::new();
    let told = sandbox.path("told");
    let hook = script(&sandbox, "hook", &format!("cat >> {}", told.display()));
    let server = mirror(&sandbox, &format!("--alert-exec {}", hook.display()));
    let gone = slot_of(&server.status(&sandbox), &sandbox.path("m1"));
    fs::remove_file(sandbox.path("m1")).expect("a member");
    let events = wait_for("three alerts", || {
        let lines = lines(&told);
        (lines.len() >= 3).then_some(lines)
    });
    let events: Vec<Value> = events
        .iter()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    let kinds: Vec<_> = events
        .iter()
        .map(|e| e["kind"].as_str().expect("a kind"))
        .collect();
    assert_eq!(
        kinds,
        ["member-failed", "member-left", "no-redundancy-left"]
    );
    assert_eq!(events[0]["array"], "tank");
    assert_eq!(events[0]["member"]["slot"], gone);
    assert_eq!(events[0]["left_out"], 0);
    assert!(
        events[0]["next"]
            .as_str()
            .expect("text")
            .contains("--name tank")
    );
    assert!(!events[0]["host"].as_str().expect("text").is_empty());
}

#[test]
fn what_does_not_matter_enough_is_no_alert() {
    let sandbox = Sandbox::new();
    let told = sandbox.path("told");
    let hook = script(&sandbox, "hook", &format!("cat >> {}", told.display()));
    let options = format!("--alert-exec {} --alert-severity critical", hook.display());
    let server = mirror(&sandbox, &options);
    server.uraid(&sandbox, "fail", ["1"]).succeeded();
    let events = wait_for("the alert", || Some(lines(&told)).filter(|l| !l.is_empty()));
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].contains("no-redundancy-left"), "{events:?}");
}

#[test]
fn mails_have_a_subject_and_say_what_to_type() {
    let sandbox = Sandbox::new();
    let told = sandbox.path("mail");
    let program = script(
        &sandbox,
        "sendmail",
        &format!("echo \"$@\" > {0}; cat >> {0}", told.display()),
    );
    let options = format!(
        "--alert-mail root --alert-mail-program {}",
        program.display()
    );
    let server = mirror(&sandbox, &options);
    let results = alert_test(&sandbox, &server, &[]);
    assert_eq!(results.succeeded().stdout.trim(), "mail root: arrived");
    let mail = lines(&told);
    assert_eq!(mail[..2], ["-t", "To: root"]);
    let subject = mail[2]
        .strip_prefix("Subject: uraid on ")
        .expect("a subject");
    assert!(subject.ends_with(": tank: info: test"), "{subject}");
}

#[test]
fn a_web_server_that_fails_once_is_asked_again() {
    let sandbox = Sandbox::new();
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", web.local_addr().expect("an address"));
    let options = format!("--alert-webhook {url} --alert-severity critical");
    let server = mirror(&sandbox, &options);
    server.uraid(&sandbox, "fail", ["1"]).succeeded();
    let first = body(
        web.accept().expect("a request").0,
        "503 Service Unavailable",
    );
    let again = body(web.accept().expect("another one").0, "200 OK");
    assert_eq!(first, again);
    let event: Value = serde_json::from_str(&again).expect("JSON");
    assert_eq!(event["kind"], "no-redundancy-left");
    wait_for("a line about it", || {
        server.log().contains("did not arrive").then_some(())
    });
}

#[test]
fn what_hangs_is_told_apart_and_clients_do_not_notice() {
    let array = Array::new("--level raid1 --name other", 2);
    let sandbox = &array.sandbox;
    // A web server that takes the connection and never answers.
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", web.local_addr().expect("an address"));
    let (hangs, works) = (
        script(sandbox, "hangs", "sleep 1000"),
        script(sandbox, "works", ":"),
    );
    let (hangs, works) = (hangs.display(), works.display());
    let options = format!("--alert-webhook {url} --alert-exec {hangs} --alert-exec {works}");
    let members = [sandbox.path("t0"), sandbox.path("t1")];
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    let server = Server::start(sandbox, &options, &members)
        .ok()
        .expect("a server");
    server.uraid(sandbox, "fail", ["1"]).succeeded();
    let begun = Instant::now();
    let mut client = server.connect();
    for block in 0..200 {
        client.write(block * 4096, &[7; 4096]).expect("write");
        client.read(block * 4096, 4096).expect("read");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );

    let ran = alert_test(sandbox, &server, &["--json"]).exits(FAILED);
    let results = ran.json()["results"].as_array().expect("results").clone();
    let error = |way: String| {
        let result = results.iter().find(|r| r["channel"] == way);
        result.unwrap_or_else(|| panic!("{way}: {results:?}"))["error"].clone()
    };
    assert_eq!(error(format!("exec {works}")), Value::Null);
    let hung = error(format!("exec {hangs}"));
    assert!(hung.as_str().expect("a reason").contains("10 s"), "{hung}");
    assert!(error(format!("webhook {url}")).is_string());
    server.stop();
}

#[test]
fn where_alerts_cannot_go_is_said_at_once() {
    let sandbox = Sandbox::new();
    let server = mirror(&sandbox, "");
    let ran = alert_test(&sandbox, &server, &[]).exits(FAILED);
    ran.says(&["--alert-exec"]);
    server.stop();
    let options = "--alert-exec /nonexistent/hook";
    let ran = Server::start(&sandbox, options, &sandbox.members(2))
        .err()
        .expect("no server");
    ran.exits(USAGE).says(&["/nonexistent/hook"]);
}

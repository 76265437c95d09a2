//! The page of a server, as a browser meets it; and `uraid top`, as scripts do.

mod common;

use common::sandbox::URAID;
use common::server::slot_of;
use common::tools::{installed, is_root};
use common::{FAILED, PATIENCE, REFUSED, Sandbox, Server, USAGE, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Names of the browser, by distribution.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// What a terminal is told to show again what was there before.
const LEAVES_SCREEN: &str = "\x1b[?1049l";

/// Screenshots are kept here, if it is set.
const SHOTS_VARIABLE: &str = "URAID_TEST_SHOTS";

/// A served raid6 of four members with a page at a port of its own.
struct Shown {
    server: Server,
    address: String,
    members: Vec<PathBuf>,
    sandbox: Sandbox,
}

impl Shown {
    fn new(options: &str) -> Shown {
        let sandbox = Sandbox::new();
        let members = sandbox.members(4);
        sandbox.create("--level raid6 --name tank --size 64M", &members);
        let options = format!("--page tcp:127.0.0.1:0 {options}");
        let server = Server::start(&sandbox, &options, &members);
        let server = server.ok().expect("a server");
        let log = server.log();
        let address = log.split("http://").nth(1).expect("the address is logged");
        let address = address.split('/').next().expect("an address").to_string();
        Shown {
            server,
            address,
            members,
            sandbox,
        }
    }

    /// Head and body of the answer to a request, which is from a page of `host`.
    fn ask(&self, method: &str, path: &str, host: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).expect("connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_string(), body.to_string())
    }

    fn get(&self, path: &str) -> (String, String) {
        let (head, body) = self.ask("GET", path, &self.address);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        (head, body)
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).1).expect("JSON")
    }

    fn fail_one(&self) {
        let slot = slot_of(&self.server.status(&self.sandbox), &self.members[1]).to_string();
        self.server
            .uraid(&self.sandbox, "fail", [&slot])
            .succeeded();
    }
}

#[test]
fn the_page_is_one_document_that_may_load_nothing_else() {
    let shown = Shown::new("");
    let (head, body) = shown.get("/");
    assert!(
        head.contains("content-type: text/html; charset=utf-8"),
        "{head}"
    );
    assert!(head.contains("cache-control: no-store"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    let policy = head
        .split("content-security-policy: ")
        .nth(1)
        .expect("a policy");
    let policy = policy.split("\r\n").next().expect("a line");
    for rule in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "form-action 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let nonce = policy.split("script-src 'nonce-").nth(1).expect("a nonce");
    let nonce = nonce.split('\'').next().expect("its end");
    assert_eq!(body.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert!(body.starts_with("<!DOCTYPE html>") && body.trim_end().ends_with("</html>"));
    let again = shown.get("/").1;
    assert!(!again.contains(nonce), "a nonce is for one answer");
}

#[test]
fn it_takes_nothing() {
    let shown = Shown::new("");
    for path in ["/", "/overview", "/trends", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let (head, _) = shown.ask(method, path, &shown.address);
            assert!(head.starts_with("HTTP/1.1 405"), "{method} {path}: {head}");
        }
    }
    for path in ["/v1/status", "/v1/stop", "/v1/fail", "/../etc/passwd"] {
        for method in ["GET", "POST"] {
            let (head, _) = shown.ask(method, path, &shown.address);
            assert!(head.starts_with("HTTP/1.1 404"), "{method} {path}: {head}");
        }
    }
}

/// Or a web site could read it, through the browser of somebody who may see it.
#[test]
fn it_is_shown_under_no_name_of_others() {
    let shown = Shown::new("");
    for path in ["/", "/overview", "/trends"] {
        let (head, body) = shown.ask("GET", path, "site.example");
        assert!(head.starts_with("HTTP/1.1 403"), "{path}: {head}");
        assert!(
            !body.contains("tank") && body.contains("localhost"),
            "{body}"
        );
    }
    let (head, _) = shown.ask("GET", "/overview", "localhost:8080");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // Those who collect metrics come by names.
    let (head, _) = shown.ask("GET", "/metrics", "nas.example:9177");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[test]
fn it_tells_how_the_array_is_and_what_to_type() {
    let shown = Shown::new("");
    let overview = shown.json("/overview");
    let array = &overview["arrays"][0];
    assert_eq!(array["name"], "tank");
    assert_eq!(array["status"]["state"], "optimal");
    assert_eq!(array["advice"]["next"], serde_json::json!([]));
    shown.fail_one();
    let array = wait_for("the page to show it", || {
        let array = shown.json("/overview")["arrays"][0].take();
        let left = |event: &Value| event["kind"] == "member-left";
        let told = array["events"].as_array().expect("events").iter().any(left);
        (array["status"]["state"] == "degraded" && told).then_some(array)
    });
    let next = array["advice"]["next"][0].as_str().expect("advice");
    assert!(next.contains("uraid rebuild --name tank"), "{next}");
    let trends = shown.json("/trends");
    assert_eq!(trends["arrays"][0]["name"], "tank");
    assert!(trends["arrays"][0]["samples"].is_array());
}

#[test]
fn a_page_for_the_world_is_refused() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    let refused = Server::start(&sandbox, "--page tcp:0.0.0.0:0", &members);
    let ran = refused.err().expect("no server").exits(REFUSED);
    assert!(ran.stderr.contains("the page"), "{}", ran.stderr);
}

/// What a browser makes of the page: its elements once the script has run.
fn browse(sandbox: &Sandbox, browser: &str, options: &[&str], url: &str) -> String {
    let mut command = Command::new(browser);
    command.args(["--headless", "--disable-gpu", "--virtual-time-budget=4000"]);
    command.arg(format!(
        "--user-data-dir={}",
        sandbox.path("browser").display()
    ));
    if is_root() {
        command.arg("--no-sandbox");
    }
    let output = command.args(options).arg(url).output().expect("a browser");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_browser_shows_the_array_on_large_and_small_screens() {
    let Some(browser) = BROWSERS.into_iter().find(|name| installed(name)) else {
        skip!("no browser is here: apt-get install chromium");
    };
    let shown = Shown::new("");
    shown.server.connect().write(0, &[7; 8192]).expect("write");
    shown.fail_one();
    let limit = ["iops=4000"];
    shown.server.uraid(&shown.sandbox, "set", limit).succeeded();
    let url = format!("http://{}/", shown.address);
    let page = browse(&shown.sandbox, browser, &["--dump-dom"], &url);
    for words in [
        "<h2>tank</h2>",
        "degraded",
        "redundancy: 1 of 2 left",
        "uraid rebuild --name tank",
        "Throughput",
        "served so far",
        "all redundancy",
        "4000/s",
    ] {
        assert!(page.contains(words), "no {words} in\n{page}");
    }
    assert_eq!(page.matches("class=\"slot\"").count(), 4, "{page}");
    let shots = std::env::var_os(SHOTS_VARIABLE).map(PathBuf::from);
    for size in ["1280,900", "390,844"] {
        let name = format!("page-{}.png", size.replace(',', "x"));
        let shot = shots.as_deref().unwrap_or(shown.sandbox.dir()).join(name);
        let to = format!("--screenshot={}", shot.display());
        let window = format!("--window-size={size}");
        browse(
            &shown.sandbox,
            browser,
            &[&to, &window, "--hide-scrollbars"],
            &url,
        );
        let drawn = fs::metadata(&shot).expect("a picture").len();
        assert!(drawn > 20_000, "{size}: {drawn} bytes are an empty page");
    }
}

#[test]
fn top_prints_a_screen_for_scripts() {
    let shown = Shown::new("");
    shown.fail_one();
    let ran = shown
        .server
        .uraid(&shown.sandbox, "top", ["--once"])
        .succeeded();
    for words in [
        "tank  raid6 2+2",
        "degraded",
        "1 of 2 left",
        "next  ",
        "journal",
    ] {
        assert!(ran.stdout.contains(words), "no {words} in\n{}", ran.stdout);
    }
    assert!(ran.stdout.lines().count() <= 24, "{}", ran.stdout);
    let wide = ["--once", "--size", "160x50"];
    let ran = shown.server.uraid(&shown.sandbox, "top", wide).succeeded();
    let path = shown.members[0].to_str().expect("UTF-8");
    assert!(ran.stdout.contains(path), "{}", ran.stdout);
}

#[test]
fn top_leaves_the_terminal_as_it_was_when_a_signal_ends_it() {
    need!("script", "stty");
    let shown = Shown::new("");
    let (pid, screen) = (shown.sandbox.path("pid"), shown.sandbox.path("screen"));
    let top = format!(
        "echo $$ > {}; exec {} top --control {}",
        pid.display(),
        URAID,
        shown.server.control.display()
    );
    let typed = format!("stty rows 24 cols 80; stty -g; sh -c '{top}'; echo code $?; stty -g");
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut terminal = shown.sandbox.command("script");
        terminal.args(["-q", "-f", "-c", &typed]).arg(&screen);
        let terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut terminal = terminal.spawn().expect("script");
        let seen = || String::from_utf8_lossy(&fs::read(&screen).unwrap_or_default()).into_owned();
        wait_for("the screen", || seen().contains("raid6 2+2").then_some(()));
        let top = fs::read_to_string(&pid).expect("its number");
        let top = Pid::from_raw(top.trim().parse().expect("a number"));
        kill(top, signal).expect("a signal");
        terminal.wait().expect("its end");
        let seen = seen();
        assert!(seen.contains(LEAVES_SCREEN), "{signal}: {seen}");
        let died = format!("code {}", 128 + signal as i32);
        assert!(seen.contains(&died), "{signal}: {seen}");
        let lines: Vec<&str> = seen.lines().collect();
        let modes = |line: &&&str| line.matches(':').count() > 20;
        let modes: Vec<_> = lines.iter().filter(modes).collect();
        assert!(
            modes.len() == 2 && modes[0] == modes[1],
            "{signal}: {modes:?}"
        );
        fs::remove_file(&screen).expect("the next screen is another");
    }
}

#[test]
fn top_without_a_terminal_or_a_server_says_what_would_help() {
    let shown = Shown::new("");
    let top = |args: &[&str]| shown.server.uraid(&shown.sandbox, "top", args);
    let ran = top(&[]).exits(USAGE);
    assert!(ran.stderr.contains("uraid top --once"), "{}", ran.stderr);
    let ran = top(&["--json"]).exits(USAGE);
    assert!(ran.stderr.contains("uraid status --json"), "{}", ran.stderr);
    let nowhere = ["top", "--once", "--control", "/nonexistent/control"];
    let ran = shown.sandbox.uraid(nowhere).exits(FAILED);
    assert!(
        ran.stderr.contains("/nonexistent/control"),
        "{}",
        ran.stderr
    );
}

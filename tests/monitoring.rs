//! Metrics, as a monitoring system meets them; the dashboard and the rules that come along, checked
//! against what a server really exports.

mod common;

use common::server::slot_of;
use common::tools::SYSTEM_PYTHON;
use common::{FAILED, PATIENCE, REFUSED, Sandbox, Server, wait_for};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Turns a page into JSON: families with their types, samples with labels and values. Fails on what
/// is not OpenMetrics.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
families = [{'name': f.name, 'type': f.type, 'help': f.documentation,
             'samples': [[s.name, s.labels, s.value] for s in f.samples]}
            for f in parse(sys.stdin.read())]
json.dump(families, sys.stdout)
";

/// Labels that a monitoring system adds, and those of histograms.
const LABELS_OF_OTHERS: [&str; 3] = ["instance", "job", "le"];

macro_rules! need_parser {
    () => {
        if !has_parser() {
            skip!("python3-prometheus-client is not installed (scripts/install-deps installs it)");
        }
    };
}

fn has_parser() -> bool {
    let import = ["-c", "import prometheus_client.openmetrics.parser"];
    let mut command = std::process::Command::new(SYSTEM_PYTHON);
    let ran = command.args(import).stderr(std::process::Stdio::null());
    ran.status().is_ok_and(|status| status.success())
}

/// Asks a socket for its metrics.
fn get(mut stream: impl Read + Write) -> String {
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    body.to_string()
}

fn get_unix(path: &Path) -> String {
    get(UnixStream::connect(path).expect("connection"))
}

/// A page as a real parser understands it.
struct Page {
    families: Vec<Value>,
}

impl Page {
    fn parse(sandbox: &Sandbox, page: &str) -> Page {
        let path = sandbox.path("page.txt");
        fs::write(&path, page).expect("page");
        let script = format!("sys_in = open({path:?})\nimport sys\nsys.stdin = sys_in\n{PARSE}");
        let ran = sandbox.run(SYSTEM_PYTHON, ["-c", &script]).succeeded();
        let families: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let families = families.as_array().expect("families").clone();
        Page { families }
    }

    fn samples(&self) -> impl Iterator<Item = (&str, &Value, f64)> {
        let samples = self.families.iter();
        let samples = samples.flat_map(|f| f["samples"].as_array().expect("samples"));
        samples.map(|s| {
            let name = s[0].as_str().expect("a name");
            (name, &s[1], s[2].as_f64().expect("a number"))
        })
    }

    /// The sum of the samples with this name and these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.samples().filter(|(n, of, _)| {
            *n == name && labels.iter().all(|(label, value)| of[*label] == *value)
        });
        let values: Vec<f64> = found.map(|(_, _, value)| value).collect();
        assert!(!values.is_empty(), "no {name} with {labels:?}");
        values.iter().sum()
    }

    /// Labels by the names of samples, of families without samples too.
    fn names(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, labels, _) in self.samples() {
            let labels = labels.as_object().expect("labels").keys().cloned();
            names.entry(name.to_string()).or_default().extend(labels);
        }
        // There only while a rebuild is under way, or where devices say how they are.
        let labels_of = |name: &str| match name {
            "uraid_member_health" => vec!["array", "slot", "member", "state"],
            _ if name.starts_with("uraid_rebuild_") => vec!["array", "slot"],
            _ => Vec::new(),
        };
        for family in &self.families {
            let name = family["name"].as_str().expect("a name");
            let labels = labels_of(name);
            if !labels.is_empty() {
                let labels = labels.into_iter().map(String::from);
                names.entry(name.to_string()).or_default().extend(labels);
            }
        }
        names
    }
}

fn metrics_option(sandbox: &Sandbox) -> (String, PathBuf) {
    let path = sandbox.path("metrics.sock");
    (format!("--metrics unix:{}", path.display()), path)
}

#[test]
fn what_clients_and_members_do_shows_in_the_metrics() {
    need_parser!();
    let sandbox = Sandbox::new();
    let members = sandbox.members(3);
    sandbox.create("--level raid5 --name tank --size 64M", &members);
    let (option, path) = metrics_option(&sandbox);
    let server = Server::start(&sandbox, &option, &members)
        .ok()
        .expect("a server");
    let mut client = server.connect();
    client.write(0, &[7; 8192]).expect("write");
    client.read(0, 4096).expect("read");
    client.read(4096, 4096).expect("read");

    let page = Page::parse(&sandbox, &get_unix(&path));
    let of = |kind| [("array", "tank"), ("kind", kind)];
    assert_eq!(page.sum("uraid_request_seconds_count", &of("read")), 2.0);
    assert_eq!(page.sum("uraid_request_seconds_count", &of("write")), 1.0);
    assert_eq!(page.sum("uraid_request_bytes_total", &of("read")), 8192.0);
    assert!(page.sum("uraid_request_seconds_sum", &of("write")) > 0.0);
    assert_eq!(page.sum("uraid_clients", &[("array", "tank")]), 1.0);
    let state = |page: &Page, state| page.sum("uraid_array_state", &[("state", state)]);
    assert_eq!(
        (state(&page, "optimal"), state(&page, "degraded")),
        (1.0, 0.0)
    );

    let gone = slot_of(&server.status(&sandbox), &members[1]).to_string();
    server.uraid(&sandbox, "fail", [&gone]).succeeded();
    // The same socket that `uraid status` asks; it is never a second old.
    let page = Page::parse(&sandbox, &get_unix(&server.control));
    assert_eq!(
        (state(&page, "optimal"), state(&page, "degraded")),
        (0.0, 1.0)
    );
    assert_eq!(page.sum("uraid_array_redundancy_left", &[]), 0.0);
    assert_eq!(page.sum("uraid_array_redundancy", &[]), 1.0);
    let failed = [("slot", gone.as_str()), ("state", "failed")];
    assert_eq!(page.sum("uraid_member_state", &failed), 1.0);
    server.stop();
    assert!(!path.exists(), "the socket goes with the server");
}

#[test]
fn requests_that_readers_answer_count_too() {
    need_parser!();
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    let (option, path) = metrics_option(&sandbox);
    let options = format!("{option} --readers 2");
    let server = Server::start(&sandbox, &options, &members)
        .ok()
        .expect("a server");
    for _ in 0..2 {
        let mut client = server.connect();
        client.write(0, &[7; 4096]).expect("write");
        (0..5).for_each(|_| drop(client.read(0, 4096).expect("read")));
    }
    let page = Page::parse(&sandbox, &get_unix(&path));
    let reads = page.sum("uraid_request_seconds_count", &[("kind", "read")]);
    assert_eq!(reads, 10.0);
}

#[test]
fn an_array_that_is_stopped_alone_is_shown_as_down() {
    need_parser!();
    let sandbox = Sandbox::new();
    let (a, b) = (
        vec![sandbox.path("a0"), sandbox.path("a1")],
        sandbox.path("b0"),
    );
    sandbox.create("--level raid1 --name first --size 64M", &a);
    sandbox.create(
        "--level raid0 --name second --size 64M",
        &[b.clone(), sandbox.path("b1")],
    );
    let (option, path) = metrics_option(&sandbox);
    let members: Vec<PathBuf> = a.into_iter().chain([b, sandbox.path("b1")]).collect();
    let options = format!("{option} --control {}", sandbox.dir().display());
    let _server = Server::start(&sandbox, &options, &members)
        .ok()
        .expect("a server");
    let up = |page: &Page, array| page.sum("uraid_array_up", &[("array", array)]);
    let page = Page::parse(&sandbox, &get_unix(&path));
    assert_eq!((up(&page, "first"), up(&page, "second")), (1.0, 1.0));
    let control = sandbox.path("first.control");
    sandbox
        .uraid(["stop".into(), "--control".into(), control.into_os_string()])
        .succeeded();
    wait_for("the page to show it", || {
        let page = Page::parse(&sandbox, &get_unix(&path));
        (up(&page, "first") == 0.0 && up(&page, "second") == 1.0).then_some(())
    });
}

#[test]
fn a_place_that_cannot_be_had_is_named() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    let refused = |option: &str| {
        Server::start(&sandbox, option, &members)
            .err()
            .expect("no server")
    };

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let ran = refused(&format!("--metrics tcp:{address}")).exits(FAILED);
    assert!(
        ran.stderr.contains(&format!("--metrics tcp:{address}")),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("in use"), "{}", ran.stderr);

    let ran = refused("--metrics unix:/nonexistent/metrics").exits(FAILED);
    assert!(
        ran.stderr.contains("/nonexistent/metrics"),
        "{}",
        ran.stderr
    );

    let ran = refused("--metrics tcp:0.0.0.0:0").exits(REFUSED);
    assert!(ran.stderr.contains("--metrics-insecure"), "{}", ran.stderr);
    let options = "--metrics tcp:0.0.0.0:0 --metrics-insecure";
    let server = Server::start(&sandbox, options, &members)
        .ok()
        .expect("a server");
    server.stop();
}

#[test]
fn visitors_that_say_nothing_keep_nobody_out_for_long() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    let (option, path) = metrics_option(&sandbox);
    let server = Server::start(&sandbox, &option, &members)
        .ok()
        .expect("a server");
    let mut client = server.connect();
    client.write(0, &[1; 4096]).expect("write");
    get_unix(&path);
    let before = server.small_pages_kib();
    let connect = |_| UnixStream::connect(&path).expect("connection");
    let silent: Vec<UnixStream> = (0..20).map(connect).collect();
    client.read(0, 4096).expect("clients do not notice");
    // More than are served at once: the first ones are given up.
    let stream = UnixStream::connect(&path).expect("connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    assert!(get(stream).contains("uraid_array_up"));
    let more = server.small_pages_kib().saturating_sub(before);
    assert!(more < 1024, "silent visitors took {more} KiB");
    drop(silent);
}

#[test]
fn metrics_are_there_again_after_an_upgrade() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    let server = Server::start(&sandbox, "--metrics tcp:127.0.0.1:0", &members);
    let server = server.ok().expect("a server");
    let log = server.log();
    let address = log.split("http://").nth(1).expect("the address is logged");
    let address = address.split('/').next().expect("an address").to_string();
    let page = || get(TcpStream::connect(&address).expect("connection"));
    assert!(page().contains("uraid_array_upgrades_total{array=\"tank\"} 0"));
    server.uraid::<&str>(&sandbox, "upgrade", []).succeeded();
    assert!(page().contains("uraid_array_upgrades_total{array=\"tank\"} 1"));
    server.stop();
}

/// What an expression speaks of: names, and the labels it wants of each; labels that it groups by.
fn spoken_of(text: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for (at, _) in text.match_indices("uraid_") {
        if text[..at].ends_with(is_word) {
            continue;
        }
        let end = text[at..]
            .find(|c| !is_word(c))
            .map_or(text.len(), |len| at + len);
        let matchers = text[end..]
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next());
        let label = |matcher: &str| {
            matcher
                .split(['=', '!', '~'])
                .next()
                .unwrap_or("")
                .to_string()
        };
        let labels = matchers.map(|m| m.split(',').map(|m| label(m.trim())).collect());
        names.push((text[at..end].to_string(), labels.unwrap_or_default()));
    }
    let mut grouped = Vec::new();
    for word in ["by (", "on (", "without (", "group_left ("] {
        for part in text.split(word).skip(1) {
            let labels = part.split(')').next().expect("a part");
            grouped.extend(labels.split(',').map(|label| label.trim().to_string()));
        }
    }
    (names, grouped)
}

/// Labels in `{{ $labels.x }}` and `{{x}}`.
fn labels_shown(text: &str) -> Vec<String> {
    let inside = text
        .split("{{")
        .skip(1)
        .map(|part| part.split("}}").next().unwrap_or(""));
    let names = inside.map(|name| name.trim().trim_start_matches("$labels.").to_string());
    names.filter(|name| name != "$value").collect()
}

/// Complains about each metric and label in an expression that the server does not export.
fn complaints(
    expr: &str,
    shown: &[&str],
    exported: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let (names, grouped) = spoken_of(expr);
    let mut found = Vec::new();
    if names.is_empty() {
        found.push(format!("{expr}: no metric of ours"));
    }
    let mut known: BTreeSet<String> = LABELS_OF_OTHERS.map(String::from).into();
    for (name, labels) in names {
        let Some(has) = exported.get(&name) else {
            found.push(format!("{expr}: there is no {name}"));
            continue;
        };
        let lacking = labels.iter().filter(|label| !has.contains(*label));
        found.extend(lacking.map(|label| format!("{expr}: {name} has no label {label}")));
        known.extend(has.iter().cloned());
    }
    let shown = shown.iter().flat_map(|text| labels_shown(text));
    let unknown = grouped
        .into_iter()
        .chain(shown)
        .filter(|label| !known.contains(label));
    found.extend(unknown.map(|label| format!("{expr}: nothing has a label {label}")));
    found
}

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/monitoring")
        .join(file)
}

/// Everything that a server can export.
fn exported() -> BTreeMap<String, BTreeSet<String>> {
    let sandbox = Sandbox::new();
    let members = sandbox.members(3);
    sandbox.create("--level raid5 --name tank --size 64M", &members);
    let (option, path) = metrics_option(&sandbox);
    let options = format!("{option} --readers 1 --alert-exec /bin/true");
    let server = Server::start(&sandbox, &options, &members);
    let _server = server.ok().expect("a server");
    // There before a share of the time are the first event and some time.
    wait_for("all that it can tell", || {
        let names = Page::parse(&sandbox, &get_unix(&path)).names();
        names
            .contains_key("uraid_array_redundant_ratio")
            .then_some(names)
    })
}

#[test]
fn the_dashboard_shows_what_there_is() {
    need_parser!();
    let exported = exported();
    let text = fs::read_to_string(monitoring("grafana-dashboard.json")).expect("dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut found = Vec::new();
    let mut expressions = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let expr = target["expr"].as_str().expect("an expression");
            let legend = target["legendFormat"].as_str().expect("a legend");
            found.extend(complaints(expr, &[legend], &exported));
            expressions += 1;
        }
    }
    assert!(expressions > 20, "{expressions}");
    assert!(found.is_empty(), "{}", found.join("\n"));
    let variable = "label_values(uraid_array_up, array)";
    assert!(text.contains(variable) && exported["uraid_array_up"].contains("array"));
}

#[test]
fn the_rules_speak_of_what_there_is() {
    need_parser!();
    let sandbox = Sandbox::new();
    let exported = exported();
    let script = format!(
        "import json, yaml; print(json.dumps(yaml.safe_load(open({:?}))))",
        monitoring("uraid.rules.yml")
    );
    let ran = sandbox.run(SYSTEM_PYTHON, ["-c", &script]).succeeded();
    let rules: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    assert!(rules.len() > 10, "{}", rules.len());
    let mut found = Vec::new();
    for rule in rules {
        let text = |key: &str| rule["annotations"][key].as_str().expect("an annotation");
        let expr = rule["expr"].as_str().expect("an expression");
        found.extend(complaints(
            expr,
            &[text("summary"), text("next")],
            &exported,
        ));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_is_not_exported_is_complained_about() {
    let labels = BTreeSet::from(["array", "slot"].map(String::from));
    let exported = BTreeMap::from([("uraid_x_total".to_string(), labels)]);
    let right = r#"sum by (array) (rate(uraid_x_total{slot="1"}[5m])) > 0"#;
    assert_eq!(complaints(right, &["{{array}}"], &exported), [""; 0]);
    for (expr, shown) in [
        ("uraid_y > 0", ""),
        (r#"uraid_x_total{disk="1"}"#, ""),
        ("sum by (disk) (uraid_x_total)", ""),
        ("uraid_x_total", "{{ $labels.disk }}"),
        ("up == 0", ""),
    ] {
        assert_eq!(complaints(expr, &[shown], &exported).len(), 1, "{expr}");
    }
}

#[test]
fn the_rules_do_what_they_say() {
    need!("promtool");
    let sandbox = Sandbox::new();
    let rules = monitoring("uraid.rules.yml").into_os_string();
    sandbox
        .run("promtool", ["check".into(), "rules".into(), rules])
        .succeeded();
    let tests = monitoring("uraid.rules.test.yml").into_os_string();
    sandbox
        .run("promtool", ["test".into(), "rules".into(), tests])
        .succeeded();
}

#[test]
fn the_last_hour_is_there_sample_by_sample() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    let server = Server::start(&sandbox, "", &members)
        .ok()
        .expect("a server");
    let mut client = server.connect();
    let trend = |from: u64| {
        let path = format!("http://x/v1/trend?from={from}");
        let control = server.control.to_str().expect("UTF-8");
        let ran = sandbox.run("curl", ["-sS", "--unix-socket", control, &path]);
        ran.succeeded().json()["samples"]
            .as_array()
            .expect("samples")
            .clone()
    };
    // One sample at least has some of what is written all the time.
    let sample = wait_for("a sample", || {
        client.write(0, &[7; 4096]).expect("write");
        trend(0).into_iter().next()
    });
    assert!(
        sample["writes"]["operations"].as_u64() > Some(0),
        "{sample}"
    );
    assert!(
        sample["writes"]["p99_micros"].as_u64() > Some(0),
        "{sample}"
    );
    let members = sample["members"].as_array().expect("members");
    assert_eq!(members.len(), 2);
    assert!(
        members[0]["writes"]["bytes"].as_u64() >= Some(4096),
        "{sample}"
    );
    assert!(trend(1_000_000).is_empty());
}

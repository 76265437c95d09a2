//! Configuration files: a server does what they say, mistakes in them are found where they are, and
//! none of them stops a server that runs.

mod common;

use common::sandbox::contents;
use common::{FAILED, REFUSED, Ran, Sandbox, Server, USAGE, wait_for};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/uraid.toml");

/// A stopped array called tank, a directory for its members, and one for configuration files.
struct Place {
    sandbox: Sandbox,
    members: Vec<PathBuf>,
}

impl Place {
    fn new() -> Place {
        let sandbox = Sandbox::new();
        for directory in ["members", "etc"] {
            fs::create_dir(sandbox.path(directory)).expect("a directory");
        }
        let member = |i: usize| sandbox.path(format!("members/m{i}"));
        let members: Vec<PathBuf> = (0..3).map(member).collect();
        sandbox.create("--level raid5 --name tank --size 64M", &members);
        Place { sandbox, members }
    }

    /// The sandbox's path, for files.
    fn here(&self) -> String {
        self.sandbox.dir().display().to_string()
    }

    /// Writes a file; HERE in it is the sandbox's path.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.sandbox.path("etc").join(name);
        fs::write(&path, text.replace("HERE", &self.here())).expect("write a file");
        path
    }

    /// The least that is needed: the array, and its sockets.
    fn write_basics(&self) {
        let text = "scan = \"HERE/members\"\nlisten = [\"unix:HERE/c.sock\"]\ncontrol = \"HERE/c.ctl\"\n\
                    readers = 0\n";
        self.write("a.toml", text);
    }

    fn check(&self) -> Ran {
        let etc = self.sandbox.path("etc");
        self.sandbox
            .uraid(["config".as_ref(), "check".as_ref(), etc.as_os_str()])
    }

    fn check_json(&self) -> Value {
        let etc = self.sandbox.path("etc");
        let words = ["config", "check", "--json"].map(OsStr::new);
        self.sandbox
            .uraid(words.into_iter().chain([etc.as_os_str()]))
            .json()
    }

    fn serve(&self, options: &str) -> Server {
        let options = format!("--config {} {options}", self.sandbox.path("etc").display());
        let server = Server::start(&self.sandbox, &options, &[]);
        let mut server = server.unwrap_or_else(|ran| panic!("the server did not start: {ran}"));
        server.socket = self.sandbox.path("c.sock");
        server.control = self.sandbox.path("c.ctl");
        server
    }

    fn upgrade(&self, server: &Server) -> Ran {
        server.uraid(&self.sandbox, "upgrade", [""; 0])
    }
}

/// Whether clients may write.
fn takes_writes(server: &Server) -> bool {
    server.connect().write(0, &[7; 4096]).is_ok()
}

#[test]
fn a_server_does_what_files_say_and_what_is_typed_wins() {
    let place = Place::new();
    place.write_basics();
    let file = place.write("tank.toml", "[export.tank]\nread-only = true\n");
    place.check().succeeded();
    let server = place.serve("");
    assert!(server.ready.contains("c.sock"), "{}", server.ready);
    assert!(!takes_writes(&server), "the export is read-only");
    assert_eq!(server.status(&place.sandbox)["name"], "tank");
    server.stop();

    let server = place.serve("--export tank,description=typed");
    assert!(takes_writes(&server), "what was typed says nothing of it");
    server.stop();

    fs::remove_file(file).expect("remove a file");
    let typed = place.sandbox.path("typed.sock");
    let mut server = place.serve(&format!("--listen unix:{}", typed.display()));
    assert!(!place.sandbox.path("c.sock").exists(), "it was not typed");
    server.socket = typed;
    assert!(takes_writes(&server));
    server.stop();
}

#[test]
fn mistakes_are_found_where_they_are_and_nothing_is_touched() {
    let place = Place::new();
    place.write_basics();
    let before = contents(&place.members);
    let listed = |name: &str| place.sandbox.path("etc").join(name).display().to_string();
    let text = "memroy = \"2G\"\nrebuild-share = 200\ntls-clients = \"off\"\nmetrics-insecure = true\n\
                alert-exec = [\"HERE/no-program\"]\n\n[export.tank]\nhiden = true\n";
    place.write("b.toml", text);
    let ran = place.check().exits(USAGE);
    let b = listed("b.toml");
    let expected = [
        format!("{b}:1:1: there is no key `memroy`; did you mean `memory`?"),
        format!("{b}:2:17: `rebuild-share` cannot be \"200\": "),
        format!("{b}:3:15: `tls-clients` means nothing without `tls-certificates`"),
        format!("{b}:4:20: `metrics-insecure` means nothing without `metrics`"),
        format!("{b}:5:15: `alert-exec`: there is no program "),
        format!("{b}:8:1: there is no key `hiden`; did you mean `hidden`?"),
    ];
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{ran}");
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.starts_with(expected), "{expected}: {ran}");
    }
    let report = place.check_json();
    assert_eq!(report["files"][1], b);
    let first = &report["findings"][0];
    assert_eq!((&first["line"], &first["column"]), (&1.into(), &1.into()));
    assert_eq!(first["exit_code"], USAGE);
    let codes: Vec<i64> = findings(&report)
        .iter()
        .filter_map(|f| f["exit_code"].as_i64())
        .collect();
    assert_eq!(codes, [2, 2, 2, 2, 1, 2]);

    // What a server says is the same, and it does not start.
    let etc = place.sandbox.path("etc");
    let refused = place
        .sandbox
        .serve_refused(&format!("--config {}", etc.display()), &[]);
    refused.exits(USAGE).says(&[expected[0].as_str()]);
    assert!(before == contents(&place.members), "members have changed");
}

fn findings(report: &Value) -> &Vec<Value> {
    report["findings"].as_array().expect("findings")
}

#[test]
fn the_exit_code_says_what_kind_of_mistake_it_is() {
    let place = Place::new();
    place.write_basics();
    place.check().succeeded();
    for (text, code, words) in [
        ("listen = \"tcp:0.0.0.0:0\"", REFUSED, "--insecure"),
        ("members = \"HERE/none\"", FAILED, "no file"),
        (
            "alert-mail = \"root\"\nalert-mail-program = \"HERE/a\"",
            FAILED,
            "no program",
        ),
        ("tls-certificates = \"HERE\"", FAILED, "server-cert.pem"),
        ("tls = \"required\"", USAGE, "--tls-certificates"),
        (
            "[export.home]\nhidden = true",
            USAGE,
            "those found are tank",
        ),
        (
            "spare-group = \"tank,old\"",
            USAGE,
            "no array is called old; those found are tank",
        ),
        (
            "[export.tank]\ntls = true",
            USAGE,
            "nobody could use the export tank",
        ),
        (
            "tls-psk = \"/a\"\ntls-certificates = \"/b\"",
            USAGE,
            "exclude one another",
        ),
        ("readers = 1", USAGE, "a.toml:4:"),
        ("readers = ", USAGE, "not TOML"),
    ] {
        place.write("b.toml", text);
        let ran = place.check().exits(code);
        let name = place.sandbox.path("etc/b.toml").display().to_string();
        assert!(ran.stdout.starts_with(&format!("{name}:")), "{text}: {ran}");
        assert!(ran.stdout.contains(words), "{text}: {words}: {ran}");
    }
    place.write("b.toml", "insecure = true\nlisten = \"tcp:0.0.0.0:0\"");
    place.check().succeeded();
    let nowhere = place.sandbox.path("nowhere");
    let words = ["config".as_ref(), "check".as_ref(), nowhere.as_os_str()];
    place
        .sandbox
        .uraid(words)
        .exits(FAILED)
        .says(&["No such file"]);
}

#[test]
fn an_upgrade_reads_files_again_and_does_not_begin_if_they_are_wrong() {
    let place = Place::new();
    place.write_basics();
    let former = place.write("b.toml", "listen = \"unix:HERE/former.sock\"\n");
    let server = place.serve("");
    let pid = server.pid();
    assert!(place.sandbox.path("former.sock").exists());
    fs::remove_file(former).expect("remove a file");
    for (text, words) in [
        ("[export.tank]\nread-onyl = true\n", "b.toml:2:1"),
        ("[export.home]\nread-only = true\n", "home"),
        ("listen = \"tcp:0.0.0.0:0\"\n", "--insecure"),
        ("scan = \"HERE/nowhere\"\n", "nowhere"),
    ] {
        place.write("b.toml", text);
        let refused = place.upgrade(&server).exits(FAILED);
        refused.says(&["nothing has changed"]);
        let refused = place.upgrade(&server);
        assert!(refused.stderr.contains(words), "{words}: {refused}");
        assert_eq!(server.status(&place.sandbox)["upgrades"], 0);
        assert!(takes_writes(&server), "it serves as before");
    }
    place.write("b.toml", "[export.tank]\nread-only = true\n");
    place.upgrade(&server).succeeded();
    wait_for("the new program", || {
        let status = server.status(&place.sandbox);
        (status["upgrades"] == 1).then_some(())
    });
    assert_eq!(server.status(&place.sandbox)["pid"], pid);
    assert!(!takes_writes(&server), "files have changed");
    let former = place.sandbox.path("former.sock");
    assert!(!former.exists(), "a place that is named no more is gone");
    server.stop();
}

#[test]
fn what_is_shown_is_a_configuration_that_says_the_same() {
    let place = Place::new();
    place.write_basics();
    place.write(
        "b.toml",
        "memory = \"1G\"\n[export.tank]\ntls-client = [\"a\"]\nmax-connections = 3\n",
    );
    let show = |path: &Path, option: &str| {
        let path = path.to_str().expect("UTF-8");
        let words = ["config", "show", path, option];
        let words = words.into_iter().filter(|word| !word.is_empty());
        place.sandbox.uraid(words).succeeded()
    };
    let etc = place.sandbox.path("etc");
    let text = show(&etc, "").stdout;
    assert!(
        text.contains("#max-connections = 1024  # default\n"),
        "{text}"
    );
    assert!(text.contains("memory = \"1G\"  # "), "{text}");
    let json = show(&etc, "--json").json();
    assert_eq!(json["settings"]["memory"], "1G");
    assert_eq!(json["settings"]["readers"], 0);
    assert_eq!(json["exports"]["tank"]["max-connections"], 3);
    let again = place.sandbox.path("again.toml");
    fs::write(&again, text).expect("write a file");
    assert_eq!(show(&again, "--json").json(), json);
}

/// Lines `#KEY = VALUE` of the example become settings, unless `leave` says no.
fn with_all_keys(text: &str, leave: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| {
        let setting = line.strip_prefix('#');
        let setting = setting.filter(|rest| !rest.starts_with(' ') && !leave(rest));
        setting.unwrap_or(line).to_string()
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n")
}

#[test]
fn the_example_has_every_key_and_nothing_is_wrong_with_it() {
    let place = Place::new();
    let example = fs::read_to_string(EXAMPLE).expect("the example");
    // As it is, only that the members are elsewhere.
    place.write("a.toml", &example.replace("/srv/members", "HERE/members"));
    place.check().succeeded();

    // With all its keys it can be understood; what it names is not there.
    let is_psk = |key: &str| key.starts_with("tls-psk");
    let is_certificates = |key: &str| {
        ["tls-certificates", "tls-clients"]
            .iter()
            .any(|k| key.starts_with(k))
    };
    for leave in [&is_psk as &dyn Fn(&str) -> bool, &is_certificates] {
        place.write("a.toml", &with_all_keys(&example, leave));
        let report = place.check_json();
        for finding in findings(&report) {
            assert_eq!(finding["exit_code"], FAILED, "{finding}");
        }
    }

    let all = with_all_keys(&example, |_| false);
    let etc = place.write("a.toml", &with_all_keys(&example, is_psk));
    let words = [
        "config".as_ref(),
        "show".as_ref(),
        "--json".as_ref(),
        etc.as_os_str(),
    ];
    let shown = place.sandbox.uraid(words).succeeded().json();
    let settings = shown["settings"].as_object().expect("settings");
    assert!(settings.len() > 20, "{settings:?}");
    for key in settings.keys() {
        let is_there = all
            .lines()
            .any(|line| line.starts_with(&format!("{key} = ")));
        assert!(is_there, "{key} is missing in docs/uraid.toml");
    }
    let export = shown["exports"]["tank"].as_object().expect("an export");
    assert_eq!(
        export.len(),
        10,
        "an option of exports is missing: {export:?}"
    );
}

//! A night that nobody is awake in: a member turns slow and dies, a spare takes over, latent errors
//! show up on the way, another member goes and returns with old data. Afterwards all bytes are right,
//! and events, alerts, metrics, the page and status tell the same story.
//!
//! With `--show-output` the story is printed as `uraid events` tells it.

mod common;

use common::client::Client;
use common::pattern::{BLOCK, Random, block, blocks};
use common::places::Places;
use common::server::{count_in_state, member, scrub_to_end};
use common::volatile::Disks;
use common::{Sandbox, Server, wait_for};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const MEMBERS: usize = 6;
/// Blocks that clients read and write all night.
const BUSY: u64 = 2048;
/// Blocks in all: those at the end are written once and left alone.
const BLOCKS: u64 = 8192;

/// The member that turns slow and dies.
const SLOW: usize = 1;
/// The one with sectors that cannot be read.
const WORN: usize = 3;
/// The one that goes and returns.
const STALE: usize = 4;

struct Night {
    // In the order of dropping: the server goes before its disks do.
    server: Server,
    disks: Disks,
    places: Places,
    told: PathBuf,
    page: PathBuf,
    sandbox: Sandbox,
}

impl Night {
    /// An array with a spare, its disks, and somebody who writes down the alerts.
    fn falls() -> Night {
        let sandbox = Sandbox::new();
        let backing = sandbox.members(MEMBERS + 1);
        let spare = format!("--spare {}", backing[MEMBERS].display());
        let options = format!("--level raid6 --name tank --size 64M {spare}");
        sandbox.create(&options, &backing[..MEMBERS]);
        let server = sandbox.serve(&backing);
        let mut client = server.connect();
        client.write(0, &blocks(0, BLOCKS, 1)).expect("write");
        server.stop();
        let places = Places::read(&backing[..MEMBERS]);
        let told = sandbox.path("told");
        let hook = sandbox.path("hook");
        let body = format!("#!/bin/sh\n{{ cat; echo; }} >> {}\n", told.display());
        fs::write(&hook, body).expect("a hook");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("mode");
        let disks = Disks::attach(&sandbox, &backing, 1);
        let page = sandbox.path("page");
        let alerts = format!("--alert-exec {}", hook.display());
        let shown = format!("--rejoin yes --page unix:{}", page.display());
        let server = sandbox.serve_with(&format!("{alerts} {shown}"), &disks.members());
        Night {
            server,
            disks,
            places,
            told,
            page,
            sandbox,
        }
    }

    fn events(&self) -> Vec<Value> {
        let report = self.server.uraid(&self.sandbox, "events", ["--json"]);
        report.succeeded().json()["events"]
            .as_array()
            .expect("events")
            .clone()
    }

    /// Waits for an event of this kind, of this member if it is of one.
    fn wait(&self, kind: &str, slot: Option<usize>) {
        let is_it = |event: &Value| {
            let same = slot.is_none_or(|slot| event["member"]["slot"] == slot);
            event["kind"] == kind && same
        };
        wait_for(kind, || self.events().iter().any(is_it).then_some(()));
    }

    /// Sectors of blocks that nobody reads go bad on one member; gives how many.
    fn wear_out(&self, disk: usize) -> usize {
        let of_disk = (BUSY..BLOCKS)
            .map(|block| self.places.data(block))
            .filter(|place| place.role == disk)
            .map(|place| place.range.start / 512);
        let sectors: BTreeSet<u64> = of_disk.step_by(200).collect();
        let count = sectors.len();
        self.disks
            .set_faults(disk, |faults| faults.bad_sectors = sectors);
        count
    }

    fn fails(&self, disk: usize, yes: bool) {
        self.disks.set_faults(disk, |faults| {
            faults.fail_reads = yes;
            faults.fail_writes = yes;
            faults.fail_flushes = yes;
        });
    }

    /// What happens. Gives how many blocks went bad.
    fn passes(&self) -> usize {
        let worn = self.wear_out(WORN);
        let slow = Duration::from_millis(50);
        self.disks.set_faults(SLOW, |faults| faults.delay = slow);
        self.wait("member-slow", Some(SLOW));
        self.disks
            .set_faults(SLOW, |faults| faults.delay = Duration::ZERO);
        self.fails(SLOW, true);
        self.wait("spare-taken", None);
        self.wait("rebuild-finished", None);
        self.fails(STALE, true);
        self.wait("member-left", Some(STALE));
        // It misses some of what is written meanwhile.
        thread::sleep(Duration::from_secs(1));
        self.fails(STALE, false);
        self.wait("taken-back", Some(STALE));
        self.server.wait_state(&self.sandbox, "optimal");
        worn
    }
}

/// Reads and writes until it is over; all reads are right. The versions of the blocks at the end.
fn works(mut client: Client, over: &AtomicBool) -> BTreeMap<u64, u64> {
    let mut random = Random::from_environment();
    let mut versions: BTreeMap<u64, u64> = (0..BUSY).map(|b| (b, 1)).collect();
    let mut version = 1;
    while !over.load(Ordering::Relaxed) {
        let first = random.below(BUSY - 8);
        let range = first..first + 1 + random.below(8);
        let at = first * BLOCK as u64;
        if random.below(3) == 0 {
            version += 1;
            let data = blocks(first, range.end - first, version);
            client.write(at, &data).expect("write");
            versions.extend(range.map(|b| (b, version)));
        } else {
            let wanted: Vec<u8> = range.clone().flat_map(|b| block(b, versions[&b])).collect();
            assert!(client.read(at, wanted.len()).expect("read") == wanted);
        }
    }
    versions
}

/// Whether these come in this order, with others between them.
fn assert_in_order(events: &[Value], story: &[(&str, Option<usize>)]) {
    let mut rest = events.iter();
    for (kind, slot) in story {
        let is_it = |event: &Value| {
            event["kind"] == *kind && slot.is_none_or(|slot| event["member"]["slot"] == slot)
        };
        let found = rest.any(is_it);
        let told: Vec<_> = events.iter().map(|e| (&e["kind"], &e["text"])).collect();
        assert!(
            found,
            "{kind} of {slot:?} is not where it belongs: {told:#?}"
        );
    }
}

#[test]
fn nobody_has_to_get_up() {
    need_volatile_disks!();
    let night = Night::falls();
    let over = AtomicBool::new(false);
    let client = night.server.connect();
    let (worn, versions) = thread::scope(|scope| {
        let clients = scope.spawn(|| works(client, &over));
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| night.passes()));
        over.store(true, Ordering::Relaxed);
        let versions = clients.join().expect("no wrong byte");
        let worn = passed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (worn, versions)
    });

    night.show();
    let events = night.events();
    assert_in_order(
        &events,
        &[
            ("opened", None),
            ("member-slow", Some(SLOW)),
            ("member-failed", Some(SLOW)),
            ("member-left", Some(SLOW)),
            ("spare-taken", None),
            ("rebuild-started", None),
            ("repaired", Some(WORN)),
            ("rebuild-finished", None),
            ("member-failed", Some(STALE)),
            ("member-left", Some(STALE)),
            ("member-returned", Some(STALE)),
            ("rebuild-finished", Some(STALE)),
        ],
    );
    // That it did so, and why, the server tells when that is done, whatever goes on meanwhile.
    let by_itself = [
        ("member-returned", Some(STALE)),
        ("taken-back", Some(STALE)),
    ];
    assert_in_order(&events, &by_itself);
    let repaired = |e: &&Value| e["kind"] == "repaired" && e["member"]["slot"] == WORN;
    assert_eq!(events.iter().filter(repaired).count(), worn, "each once");
    night.assert_all_alerts_arrived(&events);
    night.assert_told_the_same(worn, &events);
    night.assert_nothing_is_left();

    let mut client = night.server.connect();
    let version_of = |b: u64| versions.get(&b).copied().unwrap_or(1);
    let wanted: Vec<u8> = (0..BLOCKS).flat_map(|b| block(b, version_of(b))).collect();
    for (i, piece) in wanted.chunks(4 << 20).enumerate() {
        let found = client.read((i as u64) << 22, piece.len()).expect("read");
        assert!(found == piece, "other bytes than were written");
    }
}

impl Night {
    /// What mattered was told, each once, in order.
    fn assert_all_alerts_arrived(&self, events: &[Value]) {
        let mattered = events.iter().filter(|e| e["severity"] != "info");
        let wanted: Vec<_> = mattered.map(|e| e["sequence"].clone()).collect();
        assert!(wanted.len() >= 7, "{wanted:?}");
        let arrived = wait_for("the alerts", || {
            let text = fs::read_to_string(&self.told).ok()?;
            let lines = text.lines().filter(|line| !line.is_empty());
            let parsed = lines.map(serde_json::from_str::<Value>);
            let alerts: Vec<Value> = parsed.collect::<Result<_, _>>().ok()?;
            (alerts.len() >= wanted.len()).then_some(alerts)
        });
        let arrived: Vec<_> = arrived.iter().map(|e| e["sequence"].clone()).collect();
        assert_eq!(arrived, wanted);
    }

    /// Status, metrics and the page say that all is well again, and count what was repaired.
    fn assert_told_the_same(&self, worn: usize, events: &[Value]) {
        let status = self.server.status(&self.sandbox);
        assert_eq!(status["state"], "optimal");
        assert_eq!(count_in_state(&status, "in-sync"), MEMBERS);
        let of_worn = member(&status, WORN as u64);
        assert_eq!(of_worn["checksum_errors"], worn);
        let shown = wait_for("the page to say the same", || {
            let array = self.overview()["arrays"][0].take();
            (essence(&array["status"]) == essence(&status)).then_some(array)
        });
        let latest = shown["events"].as_array().expect("events");
        assert!(!latest.is_empty() && events.ends_with(latest), "{latest:?}");
        let metric = |name: &str, labels: &str| {
            let start = format!("{name}{{array=\"tank\"{labels}");
            self.server.metric(&start)
        };
        assert_eq!(metric("uraid_array_up", ""), 1.0);
        assert_eq!(metric("uraid_array_state", ",state=\"optimal\""), 1.0);
        assert_eq!(metric("uraid_array_redundancy_left", ""), 2.0);
        assert_eq!(metric("uraid_array_spares", ""), 0.0);
        assert_eq!(metric("uraid_array_lost_blocks", ""), 0.0);
        // Where a member failed a read before it failed a write, that was repaired as well.
        let repaired = metric("uraid_array_repaired_blocks_total", "");
        assert_eq!(Some(repaired), status["repaired_blocks"].as_f64());
        assert!(repaired >= worn as f64, "{repaired} of {worn}");
        let uuid = of_worn["uuid"].as_str().expect("a UUID");
        let labels = format!(",slot=\"{WORN}\",member=\"{uuid}\",kind=\"checksum\"");
        let counted = metric("uraid_member_errors_total", &labels);
        assert_eq!(counted, worn as f64);
    }

    /// What the page asks for.
    fn overview(&self) -> Value {
        let mut stream = UnixStream::connect(&self.page).expect("connection");
        let request = b"GET /overview HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        serde_json::from_str(body).expect("JSON")
    }

    /// The disk reads all its sectors again, and a scrub has nothing to add.
    fn assert_nothing_is_left(&self) {
        self.disks.set_faults(WORN, |faults| {
            assert!(faults.bad_sectors.is_empty(), "{:?}", faults.bad_sectors);
        });
        let found = scrub_to_end(&self.sandbox, &self.server);
        for member in found["members"].as_array().expect("members") {
            assert_eq!(member["bad_blocks"], 0, "{found:#}");
        }
    }

    /// The story, for whoever wants to read it.
    fn show(&self) {
        let story = self.server.uraid(&self.sandbox, "events", [""; 0]);
        println!("{}", story.succeeded().stdout);
    }
}

/// What matters of a status.
fn essence(status: &Value) -> Value {
    let of_member = |m: &Value| json!([m["slot"], m["uuid"], m["state"], m["checksum_errors"]]);
    let members = status["members"].as_array().expect("members").iter();
    json!({
        "state": status["state"],
        "redundancy_left": status["redundancy_left"],
        "repaired_blocks": status["repaired_blocks"],
        "lost_blocks": status["lost_blocks"],
        "members": members.map(of_member).collect::<Vec<_>>(),
    })
}

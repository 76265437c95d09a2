//! Members that become slow while clients read: reads go around them, as quickly as before.

mod common;

use common::client::Client;
use common::pattern::{BLOCK, Random, blocks};
use common::server::member;
use common::volatile::Disks;
use common::{MIB, Sandbox, Server, USAGE, wait_for};
use serde_json::Value;
use std::time::{Duration, Instant};

/// What a slow member takes for anything.
const DELAY: Duration = Duration::from_millis(50);

/// Reads whose times are compared.
const READS: usize = 1500;

/// Below this a time says more about the machine than about the array.
const NOISE: Duration = Duration::from_millis(3);

/// Reads here and there: all are right. Gives the time within which 99 of 100 were answered.
fn tail(client: &mut Client, content: &[u8], random: &mut Random) -> Duration {
    let mut times: Vec<Duration> = (0..READS)
        .map(|_| {
            let at = random.below((content.len() / BLOCK) as u64) as usize * BLOCK;
            let begun = Instant::now();
            let found = client.read(at as u64, BLOCK).expect("read");
            let took = begun.elapsed();
            assert!(
                found == content[at..at + BLOCK],
                "other bytes than were written"
            );
            took
        })
        .collect();
    times.sort_unstable();
    times[READS * 99 / 100]
}

/// The event of this kind, if there was one.
fn event(sandbox: &Sandbox, server: &Server, kind: &str) -> Option<Value> {
    let report = server.uraid(sandbox, "events", ["--json"]).succeeded();
    let events = report.json()["events"].as_array().expect("events").clone();
    events.into_iter().find(|event| event["kind"] == kind)
}

/// Waits until the metrics, which may be a second old, say whether member 1 sits out.
fn wait_metric(server: &Server, value: u8) {
    wait_for("the metrics to say it", || {
        let found = server.metric("uraid_member_slow{array=\"tank\",slot=\"1\"");
        (found == f64::from(value)).then_some(())
    });
}

/// Everything that speaks of it says that member 1 sits out.
fn assert_told(sandbox: &Sandbox, server: &Server) {
    assert!(server.log().contains("member 1"), "{}", server.log());
    let told = event(sandbox, server, "member-slow").expect("it is told");
    assert_eq!(told["member"]["slot"], 1);
    assert_eq!(told["severity"], "warning");
    let next = told["next"].as_str().expect("something to type");
    assert!(next.contains("uraid replace --name tank"), "{next}");
    let shown = server.uraid::<&str>(sandbox, "status", []).stdout;
    assert!(shown.contains("member 1 is slow"), "{shown}");
    wait_metric(server, 1);
    assert!(event(sandbox, server, "member-recovered").is_none());
}

fn a_slow_member_is_not_waited_for(level: &str, count: usize, options: &str) {
    need_volatile_disks!();
    let sandbox = Sandbox::new();
    let backing = sandbox.members(count);
    sandbox.create(&format!("--level {level} --name tank --size 64M"), &backing);
    let disks = Disks::attach(&sandbox, &backing, 1);
    let server = sandbox.serve_with(options, &disks.members());
    let mut random = Random::from_environment();
    let content = blocks(0, 16 * MIB / BLOCK as u64, 1);
    let mut client = server.connect();
    client.write(0, &content).expect("write");
    client.flush().expect("flush");
    let slow = || member(&server.status(&sandbox), 1)["slow_seconds"].clone();

    tail(&mut client, &content, &mut random);
    let healthy = tail(&mut client, &content, &mut random).max(NOISE);
    assert!(slow().is_null(), "nobody is slow yet");
    disks.set_faults(1, |f| f.delay = DELAY);
    wait_for("the member to sit out", || {
        tail(&mut client, &content, &mut random);
        (!slow().is_null()).then_some(())
    });
    assert_told(&sandbox, &server);
    let around = tail(&mut client, &content, &mut random);
    println!("{level} {options}: p99 {healthy:?}, around a slow member {around:?}");
    assert!(around <= 3 * healthy, "{around:?} instead of {healthy:?}");

    disks.set_faults(1, |f| f.delay = Duration::ZERO);
    wait_for("the member to return", || {
        tail(&mut client, &content, &mut random);
        slow().is_null().then_some(())
    });
    assert_eq!(server.status(&sandbox)["state"], "optimal");
    let back = event(&sandbox, &server, "member-recovered").expect("it is told");
    assert_eq!(back["member"]["slot"], 1);
    wait_metric(&server, 0);
}

#[test]
fn a_slow_mirror_is_not_waited_for() {
    a_slow_member_is_not_waited_for("raid1", 2, "--read-balance address-hash");
}

#[test]
fn a_slow_member_with_parity_is_not_waited_for() {
    a_slow_member_is_not_waited_for("raid5", 3, "");
}

#[test]
fn readers_do_not_wait_for_a_slow_member_either() {
    a_slow_member_is_not_waited_for("raid5", 3, "--readers 1");
}

#[test]
fn what_is_set_shows_and_nonsense_is_refused() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name tank --size 64M", &members);
    let path = members[1].display();
    let options = format!("--read-balance round-robin --hedge-percent 7 --write-mostly {path}");
    let server = sandbox.serve_with(&options, &members);
    let status = server.status(&sandbox);
    assert_eq!(status["reads"]["balance"], "round-robin");
    assert_eq!(status["reads"]["hedge_percent"], 7);
    assert_eq!(member(&status, 1)["write_mostly"], true);
    let mut client = server.connect();
    let content = blocks(0, MIB / BLOCK as u64, 1);
    client.write(0, &content).expect("write");
    client.flush().expect("flush");

    let set = |words: &[&str]| server.uraid(&sandbox, "set", words);
    set(&["--member", "1", "write-mostly=no", "read-weight=3"]).succeeded();
    set(&["read-balance=weighted", "hedge-percent=0"]).succeeded();
    let status = server.status(&sandbox);
    assert_eq!(status["reads"]["balance"], "weighted");
    assert_eq!(status["reads"]["hedge_percent"], 0);
    assert_eq!(member(&status, 1)["write_mostly"], false);
    assert_eq!(member(&status, 1)["read_weight"], 3);
    for (words, said) in [
        (vec!["read-balance=fastest"], "least-latency"),
        (vec!["write-mostly=yes"], "--member"),
        (vec!["speed=high"], "no setting speed"),
        (vec!["hedge-percent=1", "hedge-percent=2"], "twice"),
    ] {
        let ran = set(&words);
        assert_eq!(ran.code, USAGE, "{words:?}");
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

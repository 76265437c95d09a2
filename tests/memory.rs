//! What a server takes of memory under load: no more than stated, or than it was told.

mod common;

use common::{MIB, REFUSED, Sandbox, Server};
use uraid_load::{Address, Clients, Kind, Limit, Load, Order};

/// What docs/operations.md states for a small array.
const DEFAULT_MIB_MAX: u64 = 384;

/// Four clients, each with 64 requests of 1 MiB under way, then small ones everywhere.
fn load(server: &Server) {
    let mut clients = Clients::open(&Address::unix(&server.socket), 4, 1).expect("connect");
    let kinds = [Kind::Write, Kind::Read];
    let orders = [Order::Sequential, Order::Random];
    for (kind, order) in kinds.into_iter().flat_map(|k| orders.map(|o| (k, o))) {
        // Not whole stripes: parts of them are journalled.
        for bytes in [1 << 20, (1 << 20) - 4096, 4096] {
            let load = Load {
                kind,
                order,
                bytes,
                depth: 64,
                working_set_bytes: None,
            };
            let limit = Limit::Requests(if bytes > 4096 { 300 } else { 3000 });
            clients.drive(&load, limit, |_| {}).expect("answers");
        }
    }
}

fn peak_after_load(options: &str) -> u64 {
    let sandbox = Sandbox::new();
    let members = sandbox.members(6);
    sandbox.create("--level raid6 --size 256M", &members);
    let server = sandbox.serve_with(options, &members);
    load(&server);
    let peak = server.peak_mib();
    server.stop();
    peak
}

#[test]
fn a_small_array_stays_within_the_default() {
    let peak = peak_after_load("");
    assert!((64..=DEFAULT_MIB_MAX).contains(&peak), "{peak} MiB");
}

#[test]
fn a_limit_is_kept() {
    for limit in [128, 192] {
        let peak = peak_after_load(&format!("--memory {limit}M"));
        assert!((16..=limit).contains(&peak), "{peak} MiB of {limit}");
    }
}

#[test]
fn a_limit_that_is_too_small_is_refused_with_what_is_needed() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(6);
    sandbox.create("--level raid6 --size 1T", &members);
    let refused = sandbox.serve_refused("--memory 200M", &members);
    let words = refused.exits(REFUSED).says(&["raise --memory"]).stderr;
    let words: Vec<&str> = words.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "least");
    let needed: u64 = words[at.expect("what is needed") + 1].parse().expect("MiB");
    let server = sandbox.serve_with(&format!("--memory {needed}M"), &members);
    let mut client = server.connect();
    client.write(0, &[1; 4096]).expect("write");
    client.write(MIB * 1024 * 1024, &[1; 4096]).expect("write");
    assert!(server.peak_mib() <= needed);
}

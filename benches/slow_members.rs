//! What clients notice of a member that has become slow, and what watching for it costs while
//! nobody is: the program itself, driven by the client of `uraid bench`.
//!
//! `cargo bench --bench slow_members [-- --quick]`, as root, where `nbdfuse` is installed. With
//! `TMPDIR=/dev/shm` members are memory, beside which the cost is greatest.

#[path = "../tests/common/mod.rs"]
mod common;

use common::volatile::Disks;
use common::{MIB, Sandbox, Server};
use cost::table::{Spread, Table};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use uraid_load::{Address, Clients, Drive, Kind, Limit, Load, Order};

/// What is read; members' checksum pages for it are in memory.
const DATA_BYTES: u64 = 64 * MIB;
/// Level and number of members.
const LAYOUTS: [(&str, usize); 2] = [("raid1", 2), ("raid6", 6)];
const DEPTHS: [usize; 2] = [1, 32];
/// What a slow member takes longer for anything.
const DELAY: Duration = Duration::from_millis(50);
/// How much longer than before 99 of 100 reads may take beside it.
const TIMES_MAX: f64 = 3.0;
/// Time of which the slowest of 100 reads is told apart from that before.
const WINDOW: Duration = Duration::from_millis(100);
/// So many windows in a row have to be good.
const GOOD_WINDOWS: usize = 10;
/// It is given up after this.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long things are measured.
struct Times {
    /// Reads before and after.
    drive: Duration,
    /// Turns with and without hedging.
    turn: Duration,
    rounds: usize,
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let times = match quick {
        true => Times {
            drive: Duration::from_secs(1),
            turn: Duration::from_millis(200),
            rounds: 2,
        },
        false => Times {
            drive: Duration::from_secs(5),
            turn: Duration::from_secs(2),
            rounds: 5,
        },
    };
    println!("{}", around_a_slow_member(&times));
    println!("{}", while_nobody_is_slow(&times));
}

fn clients_of(server: &Server) -> Clients {
    let address = Address::unix(&server.socket);
    let mut clients = Clients::open(&address, 1, 1).expect("a connection");
    clients.fill(DATA_BYTES, |_| {}).expect("data");
    clients
}

fn read(clients: &mut Clients, depth: usize, time: Duration) -> Drive {
    let load = Load {
        working_set_bytes: Some(DATA_BYTES),
        ..Load::new(Kind::Read, Order::Random, 4096, depth)
    };
    let drive = clients.drive(&load, Limit::Time(time), |_| {});
    drive.expect("reads are answered")
}

/// Random reads before and after a member becomes slow.
fn around_a_slow_member(times: &Times) -> Table {
    let headings = [
        "random read 4 KiB",
        "healthy p99, µs",
        "worst p99 of 100 ms, µs",
        "within 3 times after, ms",
        "p99 then, µs",
        "of healthy",
    ];
    let mut table = Table::new(headings);
    for (level, count) in LAYOUTS {
        for depth in DEPTHS {
            table.row(around(level, count, depth, times));
        }
    }
    table
}

fn around(level: &str, count: usize, depth: usize, times: &Times) -> Vec<String> {
    let sandbox = Sandbox::new();
    let backing = sandbox.members(count);
    sandbox.create(
        &format!("--level {level} --name tank --size 512M"),
        &backing,
    );
    let disks = Disks::attach(&sandbox, &backing, 1);
    let server = sandbox.serve(&disks.members());
    let mut clients = clients_of(&server);
    read(&mut clients, depth, times.drive);
    let healthy = read(&mut clients, depth, times.drive).latency.p99_micros;

    disks.set_faults(1, |f| f.delay = DELAY);
    let begun = Instant::now();
    let mut windows: Vec<(Duration, f64)> = Vec::new();
    let good_from = loop {
        let at = begun.elapsed();
        assert!(at < PATIENCE, "{level} depth {depth}: {windows:?}");
        let p99 = read(&mut clients, depth, WINDOW).latency.p99_micros;
        windows.push((at, p99));
        if let ControlFlow::Break(from) = settled(&windows, TIMES_MAX * healthy) {
            break from;
        }
    };
    let first = windows.iter().take_while(|(at, _)| at.as_secs() < 1);
    let worst = first.map(|(_, p99)| *p99).fold(0.0, f64::max);
    let after = read(&mut clients, depth, times.drive).latency.p99_micros;
    vec![
        format!("{level} x{count}, depth {depth}"),
        format!("{healthy:.0}"),
        format!("{worst:.0}"),
        format!("{}", good_from.as_millis()),
        format!("{after:.0}"),
        format!("{:.2}", after / healthy),
    ]
}

/// When the last windows began to be good, if there are enough of them.
fn settled(windows: &[(Duration, f64)], limit: f64) -> ControlFlow<Duration> {
    let good = windows.iter().rev().take_while(|(_, p99)| *p99 <= limit);
    let good: Vec<Duration> = good.map(|(at, _)| *at).collect();
    match good.len() >= GOOD_WINDOWS {
        true => ControlFlow::Break(*good.last().expect("there are some")),
        false => ControlFlow::Continue(()),
    }
}

/// The same array with hedging and without, turn by turn.
fn while_nobody_is_slow(times: &Times) -> Table {
    let mut table = Table::new([
        "healthy, random read 4 KiB",
        "rate, of that without",
        "p99, of that without",
    ]);
    for (level, count) in LAYOUTS {
        let sandbox = Sandbox::new();
        let members = sandbox.members(count);
        sandbox.create(
            &format!("--level {level} --name tank --size 512M"),
            &members,
        );
        let server = sandbox.serve(&members);
        let mut clients = clients_of(&server);
        for depth in DEPTHS {
            let mut turn = |percent: u8| {
                let setting = format!("hedge-percent={percent}");
                server.uraid(&sandbox, "set", [setting]).succeeded();
                read(&mut clients, depth, times.turn / 10);
                read(&mut clients, depth, times.turn)
            };
            let mut rates = Vec::new();
            let mut tails = Vec::new();
            for round in 0..times.rounds {
                // Whoever is first changes, as whatever warms up or wears out does not.
                let (with, without) = match round % 2 == 0 {
                    true => (turn(5), turn(0)),
                    false => {
                        let without = turn(0);
                        (turn(5), without)
                    }
                };
                let rate = |drive: &Drive| drive.requests as f64 / drive.seconds;
                rates.push(rate(&with) / rate(&without));
                tails.push(with.latency.p99_micros / without.latency.p99_micros);
            }
            let spread = |figures| Spread::of(figures).expect("there were rounds").to_string();
            table.row(vec![
                format!("{level} x{count}, depth {depth}"),
                spread(rates),
                spread(tails),
            ]);
        }
    }
    table
}

//! Every layout under load from fio, which verifies each byte, while members fail one after the
//! other and are replaced; afterwards every set of members that can serve is started on its own
//! and compared byte for byte.

mod common;

use common::server::slot_of;
use common::tools::Fio;
use common::{MIB, Sandbox, Server, wait_for};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const EXPORT_BYTES: u64 = 32 * MIB;
const MEMBER_BYTES: u64 = 64 * MIB;
const CONNECTIONS: u64 = 4;

/// What a layout promises.
struct Layout {
    /// Options of `create`.
    options: &'static str,
    /// Members.
    count: usize,
    /// Losses it survives, whichever they are.
    losses: usize,
    /// Sets of members, of every size that may be enough, that can serve.
    sets: u64,
}

#[test]
fn raid0() {
    // No member may be lost; one is replaced under load.
    let (sandbox, members) = (Sandbox::new(), 3);
    let layout = Layout {
        options: "--level raid0",
        count: members,
        losses: 0,
        sets: 1,
    };
    need!("fio");
    let (server, paths) = layout.serve(&sandbox);
    let new = sandbox.file("new", MEMBER_BYTES);
    under_load(&sandbox, &server, |load| {
        load.wait_for_a_run();
        let args = [Path::new("--wait"), &paths[1], &new];
        server.uraid(&sandbox, "replace", args).succeeded();
    });
    layout.assert_every_set_serves(&sandbox, server, &[paths[0].clone(), new, paths[2].clone()]);
}

#[test]
fn raid1_of_two() {
    Layout {
        options: "--level raid1",
        count: 2,
        losses: 1,
        sets: 2 + 1,
    }
    .survives();
}

#[test]
fn raid1_of_three() {
    Layout {
        options: "--level raid1",
        count: 3,
        losses: 2,
        sets: 3 + 3 + 1,
    }
    .survives();
}

#[test]
fn raid10_of_four() {
    // All; three of four; one of each pair.
    Layout {
        options: "--level raid10",
        count: 4,
        losses: 1,
        sets: 1 + 4 + 4,
    }
    .survives();
}

#[test]
fn raid10_of_six_in_three_copies() {
    // Of each three at least one: (2^3 - 1)^2.
    Layout {
        options: "--level raid10 --copies 3",
        count: 6,
        losses: 2,
        sets: 49,
    }
    .survives();
}

#[test]
fn raid5_of_four() {
    Layout {
        options: "--level raid5",
        count: 4,
        losses: 1,
        sets: 4 + 1,
    }
    .survives();
}

#[test]
fn raid6_of_six() {
    Layout {
        options: "--level raid6",
        count: 6,
        losses: 2,
        sets: 15 + 6 + 1,
    }
    .survives();
}

#[test]
fn rs_of_four_and_three() {
    let options = "--level rs --parity 3 --chunk 16K";
    Layout {
        options,
        count: 7,
        losses: 3,
        sets: 35 + 21 + 7 + 1,
    }
    .survives();
}

#[test]
fn rs_of_two_and_three() {
    let options = "--level rs --parity 3 --chunk 128K";
    Layout {
        options,
        count: 5,
        losses: 3,
        sets: 10 + 10 + 5 + 1,
    }
    .survives();
}

impl Layout {
    /// The whole story.
    fn survives(&self) {
        need!("fio");
        let sandbox = Sandbox::new();
        let (server, mut members) = self.serve(&sandbox);
        under_load(&sandbox, &server, |load| {
            load.wait_for_a_run();
            for (slot, member) in members.iter().enumerate().take(self.losses) {
                lose(&sandbox, &server, member, slot);
                load.wait_for_a_run();
            }
            for (slot, member) in members.iter_mut().enumerate().take(self.losses) {
                *member = swap(&sandbox, &server, slot);
                load.wait_for_a_run();
            }
        });
        assert_eq!(server.status(&sandbox)["state"], "optimal");
        self.assert_every_set_serves(&sandbox, server, &members);
    }

    /// Makes the array and starts it.
    fn serve(&self, sandbox: &Sandbox) -> (Server, Vec<PathBuf>) {
        let members = sandbox.members(self.count);
        sandbox.create(
            &format!(
                "{} --size {MEMBER_BYTES} --export-size {EXPORT_BYTES}",
                self.options
            ),
            &members,
        );
        (sandbox.serve(&members), members)
    }

    /// Stops the array and starts copies of each set of its members, from all down to the
    /// smallest that may do. Whatever starts must serve every byte as the whole array did.
    fn assert_every_set_serves(&self, sandbox: &Sandbox, server: Server, members: &[PathBuf]) {
        let expected = content(&server);
        server.stop();
        let mut served = 0;
        for set in 1u32..1 << members.len() {
            let of_set = |i: &usize| set & 1 << i != 0;
            let chosen: Vec<PathBuf> = (0..members.len())
                .filter(of_set)
                .map(|i| members[i].clone())
                .collect();
            let must_serve = members.len() - chosen.len() <= self.losses;
            if !must_serve && !self.options.contains("raid10") {
                continue;
            }
            let copies = sandbox.copies("copy-of-", &chosen);
            match Server::start(sandbox, "--force", &copies) {
                Ok(server) => {
                    assert!(
                        content(&server) == expected,
                        "set {set:b} serves other bytes"
                    );
                    served += 1;
                }
                Err(ran) => assert!(!must_serve, "set {set:b} does not start: {ran}"),
            }
            for copy in copies {
                std::fs::remove_file(copy).expect("remove the copy");
            }
        }
        assert_eq!(served, self.sets, "sets that serve");
    }
}

/// Loses the member in `slot`: every other one by the operator's word, the rest as a disk does.
fn lose(sandbox: &Sandbox, server: &Server, member: &Path, slot: usize) {
    if slot.is_multiple_of(2) {
        server.uraid(sandbox, "fail", [member]).succeeded();
    } else {
        OpenOptions::new()
            .write(true)
            .open(member)
            .and_then(|f| f.set_len(0))
            .expect("truncate");
    }
    server.wait_member(sandbox, slot as u64, "failed");
}

/// Puts a new disk in the place of the one lost from `slot` and waits until it is in sync.
fn swap(sandbox: &Sandbox, server: &Server, slot: usize) -> PathBuf {
    let new = sandbox.file(&format!("new{slot}"), MEMBER_BYTES);
    server.uraid(sandbox, "add", [&new]).succeeded();
    let status = server.wait_member(sandbox, slot as u64, "in-sync");
    assert_eq!(slot_of(&status, &new), slot as u64);
    new
}

/// Everything the export holds, read on one connection.
fn content(server: &Server) -> Vec<u8> {
    let mut client = server.connect();
    let piece = 4 * MIB;
    let pieces =
        (0..EXPORT_BYTES / piece).map(|i| client.read(i * piece, piece as usize).expect("read"));
    pieces.flatten().collect()
}

/// fio running again and again beside the test.
struct Load {
    runs: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// Waits until a run that began after this call has ended: the array as it is now has been
    /// written and verified.
    fn wait_for_a_run(&self) {
        let now = self.runs.load(Ordering::Acquire);
        wait_for("a run of fio", || {
            (self.runs.load(Ordering::Acquire) > now + 1).then_some(())
        });
    }
}

/// Runs `story` while fio writes and verifies without pause, then a last time after it; any
/// mismatch or error panics.
fn under_load(sandbox: &Sandbox, server: &Server, story: impl FnOnce(&Load)) {
    let load = Load {
        runs: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let fio = scope.spawn(|| {
            let mut last_round = false;
            while !last_round {
                last_round = load.stop.load(Ordering::Acquire);
                run_fio(sandbox, server, load.runs.load(Ordering::Acquire));
                load.runs.fetch_add(1, Ordering::AcqRel);
            }
        });
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&load)));
        load.stop.store(true, Ordering::Release);
        let loaded = fio.join();
        // fio's failure is the more telling one.
        loaded
            .and(told)
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    println!("{} runs of fio verified", load.runs.into_inner());
}

/// One run: all of the export, by turns at random and in sequence, in requests of all sizes.
fn run_fio(sandbox: &Sandbox, server: &Server, round: u64) {
    let fio = Fio {
        uri: &server.uri(),
        pattern: ["randwrite", "write"][round as usize % 2],
        block_sizes: ["512-1m", "4k-64k", "512-16k"][round as usize % 3],
        bytes_per_connection: EXPORT_BYTES / CONNECTIONS,
        connections: CONNECTIONS,
    };
    fio.run(sandbox, round + 1).succeeded();
}

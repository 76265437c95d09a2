//! What clients are told of the parts of an export: what was never written, and how safe the rest
//! is; and requests of any length.

mod common;

use common::pattern::blocks;
use common::places::Places;
use common::speaker::Speaker;
use common::tools::{SYSTEM_PYTHON, has_python_nbd};
use common::{GIB, MIB, Sandbox, Server, tank};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uraid_nbd::Dialect;
use uraid_nbd::client::{Command, Reply};

/// Of a raid6 of six members: four chunks of 64 KiB.
const STRIPE: u64 = 256 << 10;
const HOLE: u64 = 3;
const EMPTY: u64 = 1024;
const LOST: u64 = 512;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOTSUP: u32 = 95;

/// Numbers of the contexts.
const ALLOCATION: u32 = 1;
const REDUNDANCY: u32 = 2;

/// A served raid6 of six members, 128 MiB, with a block written in stripes 3, 4 and 100.
fn written() -> (Sandbox, Server) {
    let (sandbox, server) = tank();
    let mut client = server.connect();
    for stripe in [3, 4, 100] {
        let data = blocks(stripe, 1, 1);
        client.write(stripe * STRIPE + 8192, &data).expect("write");
    }
    (sandbox, server)
}

/// The same as lengths and statuses: `hole` where nothing is, `data` elsewhere.
fn expected(hole: u64, data: u64) -> Vec<(u64, u64)> {
    vec![
        (3 * STRIPE, hole),
        (2 * STRIPE, data),
        (95 * STRIPE, hole),
        (STRIPE, data),
        (128 * MIB - 101 * STRIPE, hole),
    ]
}

fn errno(reply: &Reply) -> u32 {
    reply.result.as_ref().expect_err("an error").errno
}

fn zeroes(offset: u64, len: u64, no_hole: bool, fast: bool) -> Command<'static> {
    Command::WriteZeroes {
        offset,
        len,
        fua: false,
        no_hole,
        fast,
    }
}

// ---- what real clients make of it ----

#[test]
fn nbdinfo_maps_what_was_written() {
    need!("nbdinfo");
    let (sandbox, server) = written();
    let map = |option: &str| {
        let map = sandbox.run("nbdinfo", ["--json", option, &server.uri()]);
        let map = map.succeeded().json();
        let part = |e: &Value| (e["length"].as_u64().unwrap(), e["type"].as_u64().unwrap());
        map.as_array()
            .expect("extents")
            .iter()
            .map(part)
            .collect::<Vec<_>>()
    };
    assert_eq!(map("--map"), expected(HOLE, 0));
    assert_eq!(map("--map=x-uraid:redundancy"), expected(EMPTY, 2));
    let info = sandbox.run("nbdinfo", ["--json", &server.uri()]);
    let info = info.succeeded().json();
    let export = &info["exports"][0];
    assert_eq!(info["structured"], true, "{info:#}");
    assert_eq!(
        export["contexts"],
        json!(["base:allocation", "x-uraid:redundancy"])
    );
    for (field, value) in [
        ("can_cache", true),
        ("can_fast_zero", true),
        ("is_rotational", false),
    ] {
        assert_eq!(export[field], value, "{field}");
    }
    assert_eq!(export["block_size_preferred"], STRIPE);
}

#[test]
fn qemu_img_maps_what_was_written() {
    need!("qemu-img");
    let (sandbox, server) = written();
    let uri = server.uri();
    let map = sandbox.run("qemu-img", ["map", "--output=json", "-f", "raw", &uri]);
    let map = map.succeeded().json();
    let part = |e: &Value| {
        let status = if e["data"] == true { 0 } else { HOLE };
        (e["length"].as_u64().unwrap(), status)
    };
    let found: Vec<_> = map.as_array().expect("extents").iter().map(part).collect();
    assert_eq!(found, expected(HOLE, 0));
}

#[test]
fn nbdcopy_of_a_mostly_empty_array_moves_only_what_was_written() {
    need!("nbdcopy");
    let (sandbox, server) = written();
    let read = || server.status(&sandbox)["io"]["client_read_bytes"].as_u64();
    let before = read().expect("a count");
    let copy = sandbox.path("copy");
    let args = [server.uri(), copy.display().to_string()];
    sandbox.run("nbdcopy", args).succeeded();
    let moved = read().expect("a count") - before;
    assert_eq!(moved, 3 * STRIPE, "of 128 MiB");
    let copied = std::fs::read(copy).expect("the copy");
    assert_eq!(copied.len() as u64, 128 * MIB);
    let mut client = server.connect();
    for (at, part) in (0..).step_by(32 << 20).zip(copied.chunks(32 << 20)) {
        assert!(client.read(at, part.len()).expect("read") == part);
    }
}

#[test]
fn qemu_speaks_extended_headers() {
    need!("qemu-io", "qemu-nbd");
    let (sandbox, server) = written();
    let socket = server.socket.display().to_string();
    let list = sandbox.run("qemu-nbd", ["--list", "-k", &socket]);
    let list = list.succeeded().stdout;
    assert!(list.contains("transaction size: 64-bit"), "{list}");
    assert!(list.contains("x-uraid:redundancy"), "{list}");
    let commands = [
        "write -P 7 0 1M",
        "write -z -u 0 300k",
        "read -P 0 0 300k",
        "read -P 7 300k 724k",
        "write -z 0 1M",
        "discard 0 128M",
        "read -P 0 0 1M",
    ];
    let mut args = vec!["-f".to_string(), "raw".to_string(), server.uri()];
    args.extend(commands.iter().flat_map(|c| ["-c".into(), c.to_string()]));
    let ran = sandbox.run("qemu-io", args).succeeded();
    assert!(!ran.stdout.contains("failed"), "{ran}");
    assert!(
        server.log().contains("extended headers"),
        "{}",
        server.log()
    );
}

#[test]
fn nbdsh_reads_holes_and_zeroes_fast() {
    if !has_python_nbd() {
        skip!("the package python3-libnbd is not installed");
    }
    let (sandbox, server) = written();
    let script = "
parts = []
note = lambda data, offset, kind, error: parts.append((len(data), offset, kind))
start = 2 * 262144
h.pread_structured(3 * 262144, start, note)
assert sum(p[0] for p in parts if p[2] == nbd.READ_HOLE) == 3 * 262144 - 8192, parts
assert sum(p[0] for p in parts if p[2] == nbd.READ_DATA) == 8192, parts
parts.clear()
h.pread_structured(65536, 3 * 262144, note, nbd.CMD_FLAG_DF)
assert [p[2] for p in parts] == [nbd.READ_DATA], parts
try:
    h.zero(4096, 3 * 262144, nbd.CMD_FLAG_FAST_ZERO)
    raise Exception('a part of a stripe is not fast')
except nbd.Error as error:
    assert error.errno == 'ENOTSUP', error
h.zero(262144, 3 * 262144, nbd.CMD_FLAG_FAST_ZERO)
h.zero(4096, 50 * 262144, nbd.CMD_FLAG_FAST_ZERO)
h.cache(1048576, 0)
";
    let args = ["-m", "nbd", "-u", &server.uri(), "-c", script];
    sandbox.run(SYSTEM_PYTHON, args).succeeded();
}

// ---- allocation ----

#[test]
fn maps_are_the_same_in_every_dialect_and_in_parts() {
    let (_sandbox, server) = written();
    for dialect in [Dialect::Structured, Dialect::Extended] {
        let mut speaker = Speaker::connect(&server, dialect);
        assert_eq!(speaker.map(ALLOCATION, 0, 128 * MIB), expected(HOLE, 0));
        assert_eq!(speaker.map(REDUNDANCY, 0, 128 * MIB), expected(EMPTY, 2));
        let cut = speaker.map(ALLOCATION, 3 * STRIPE - 10, STRIPE + 20);
        assert_eq!(cut, [(10, HOLE), (STRIPE + 10, 0)]);
        let one = speaker.ask(Command::BlockStatus {
            offset: 5,
            len: MIB,
            one: true,
            only: &[],
        });
        assert_eq!(one.extents[&ALLOCATION], [(3 * STRIPE - 5, HOLE)]);
    }
}

#[test]
fn what_was_never_written_is_not_sent() {
    let (_sandbox, server) = written();
    let mut speaker = Speaker::connect(&server, Dialect::Structured);
    let reply = speaker.read(2 * STRIPE + 100, 3 * STRIPE as u32);
    // Of stripe 3 and 4 a block each was written; all else is blank.
    assert_eq!(reply.hole_bytes as u64, 3 * STRIPE - 8192);
    let expected = server.connect().read(2 * STRIPE + 100, 3 << 18);
    assert!(reply.result == Ok(expected.expect("read")));
}

#[test]
fn zeroes_that_keep_their_space_are_no_hole() {
    let (sandbox, server) = written();
    let mut speaker = Speaker::connect(&server, Dialect::Extended);
    let used = || server.status(&sandbox)["used_stripes"].as_u64();
    let before = used();
    speaker
        .ask(zeroes(10 * STRIPE, 4 * STRIPE, true, false))
        .result
        .expect("zeroed");
    assert_eq!(
        speaker.map(ALLOCATION, 10 * STRIPE, 5 * STRIPE),
        [(4 * STRIPE, 0), (STRIPE, HOLE)]
    );
    assert_eq!(used(), before.map(|used| used + 4));
    speaker
        .ask(zeroes(3 * STRIPE, 2 * STRIPE, true, false))
        .result
        .expect("zeroed");
    let zero = speaker.read(3 * STRIPE, 2 << 18).result;
    assert!(zero.expect("read").iter().all(|byte| *byte == 0));
    assert_eq!(speaker.map(ALLOCATION, 3 * STRIPE, STRIPE), [(STRIPE, 0)]);
    speaker
        .ask(zeroes(3 * STRIPE, 2 * STRIPE, false, false))
        .result
        .expect("zeroed");
    assert_eq!(
        speaker.map(ALLOCATION, 3 * STRIPE, STRIPE),
        [(STRIPE, HOLE)]
    );
}

#[test]
fn only_fast_zeroes_are_done_if_only_they_are_wanted() {
    let (_sandbox, server) = written();
    let mut speaker = Speaker::connect(&server, Dialect::Extended);
    let at = 3 * STRIPE + 8192;
    let before = speaker.read(at, 4096).result.expect("read");
    for (offset, len, no_hole) in [
        (at, 4096, false),
        (at, STRIPE, false),
        (50 * STRIPE, STRIPE, true),
    ] {
        let reply = speaker.ask(zeroes(offset, len, no_hole, true));
        assert_eq!(errno(&reply), ENOTSUP, "{offset} {len}");
    }
    assert_eq!(speaker.read(at, 4096).result.expect("read"), before);
    speaker
        .ask(zeroes(50 * STRIPE, 5000, false, true))
        .result
        .expect("empty");
    speaker
        .ask(zeroes(0, 128 * MIB, false, true))
        .result
        .expect("whole stripes");
    assert_eq!(speaker.map(ALLOCATION, 0, 128 * MIB), [(128 * MIB, HOLE)]);
}

#[test]
fn the_last_part_of_an_export_is_served_to_the_byte() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(3);
    sandbox.create("--level raid5 --size 64M --export-size 10000001", &members);
    let server = sandbox.serve(&members);
    let mut speaker = Speaker::connect(&server, Dialect::Extended);
    let size = speaker.info().size_bytes;
    assert_eq!(size, 10_000_001);
    let data = [7; 5000];
    let offset = size - 5000;
    let write = |data| Command::Write {
        offset,
        data,
        fua: true,
    };
    speaker.ask(write(&data)).result.expect("the tail");
    assert_eq!(speaker.read(offset, 5000).result.expect("the tail"), data);
    assert_eq!(errno(&speaker.read(offset, 5001)), EINVAL);
    let stripe = 2 * 65536;
    let last = size % stripe;
    assert_eq!(speaker.map(ALLOCATION, size - last, last), [(last, 0)]);
    // The last stripe is whole as far as it goes.
    speaker
        .ask(zeroes(size - last, last, false, true))
        .result
        .expect("fast");
    assert_eq!(speaker.map(ALLOCATION, size - last, last), [(last, HOLE)]);
    assert_eq!(
        speaker.read(offset, 5000).result.expect("the tail"),
        [0; 5000]
    );
    server.stop();
}

// ---- redundancy ----

#[test]
fn redundancy_follows_the_members() {
    let (sandbox, server) = written();
    let mut speaker = Speaker::connect(&server, Dialect::Extended);
    let mut redundancy = || speaker.map(REDUNDANCY, 0, 128 * MIB);
    server.uraid(&sandbox, "fail", ["1"]).succeeded();
    assert_eq!(redundancy(), expected(EMPTY, 1));
    server.uraid(&sandbox, "fail", ["4"]).succeeded();
    assert_eq!(redundancy(), expected(EMPTY, 0));
    let new = sandbox.file("new", 64 * MIB);
    server.uraid(&sandbox, "add", [&new]).succeeded();
    server.wait_state(&sandbox, "degraded");
    assert_eq!(redundancy(), expected(EMPTY, 1));
    // That is all it stands; the next goes by force only.
    server.uraid(&sandbox, "fail", ["0"]).succeeded();
    server.uraid(&sandbox, "fail", ["--force", "2"]).succeeded();
    assert_eq!(redundancy(), expected(EMPTY, LOST));
}

#[test]
fn lost_blocks_are_mapped_and_their_error_names_members_and_place() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(3);
    sandbox.create("--level raid5 --size 64M --export-size 32M", &members);
    let server = sandbox.serve(&members);
    server.connect().write(0, &blocks(0, 32, 1)).expect("write");
    server.stop();
    let places = Places::read(&members);
    let (block, parity) = (places.data(5), places.parity(5, 0));
    block.rot();
    parity.rot();
    let server = sandbox.serve(&members);
    let mut speaker = Speaker::connect(&server, Dialect::Structured);
    let reply = speaker.read(0, 16 * 4096);
    let error = reply.result.expect_err("lost");
    assert_eq!(error.errno, EIO);
    for place in [&block, &parity] {
        let name = format!("member {} ({}", place.role, place.member.display());
        assert!(
            error.text.contains(&name),
            "{} does not name {name}",
            error.text
        );
    }
    let offset = error.offset.expect("a place");
    assert!(offset <= 5 * 4096, "the error is at {offset}");
    assert!(
        speaker.read(6 * 4096, 4096).result.is_ok(),
        "only one is lost"
    );
    let map = speaker.map(REDUNDANCY, 0, 8 * 4096);
    assert_eq!(map, [(5 * 4096, 1), (4096, LOST), (2 * 4096, 1)]);
}

// ---- any length ----

/// An array of some 500 GiB in sparse files.
fn large() -> (Sandbox, Server, u64) {
    let sandbox = Sandbox::new();
    let members = sandbox.members(3);
    sandbox.create("--level raid5 --size 256G", &members);
    let server = sandbox.serve(&members);
    let size = server.connect().size;
    assert!(size > 480 * GIB, "{size}");
    (sandbox, server, size)
}

#[test]
fn requests_longer_than_four_gigabytes_are_served_and_hold_up_nobody() {
    let (_sandbox, server, size) = large();
    let mut speaker = Speaker::connect(&server, Dialect::Extended);
    let data = blocks(0, 256, 1);
    for place in 0..8 {
        server
            .connect()
            .write(size / 8 * place, &data)
            .expect("write");
    }
    let begun = Instant::now();
    let others = std::thread::scope(|scope| {
        let whole = scope.spawn(|| {
            let trim = |offset, len| Command::Trim {
                offset,
                len,
                fua: true,
            };
            speaker.ask(trim(GIB, size - GIB)).result.expect("trimmed");
            speaker
                .ask(zeroes(0, size, false, true))
                .result
                .expect("zeroed");
            let cache = Command::Cache {
                offset: 0,
                len: size,
            };
            speaker.ask(cache).result.expect("cached");
            assert_eq!(speaker.map(ALLOCATION, 0, size), [(size, HOLE)]);
        });
        let mut longest = Duration::ZERO;
        let mut client = server.connect();
        while !whole.is_finished() {
            let asked = Instant::now();
            client.read(size / 2, 4096).expect("read");
            longest = longest.max(asked.elapsed());
        }
        longest
    });
    println!(
        "{:?} in all, others waited {others:?} at most",
        begun.elapsed()
    );
    assert!(others < Duration::from_secs(2), "others waited {others:?}");
    assert!(server.resident_mib() < 512, "{} MiB", server.resident_mib());
}

//! The engine alone: no socket, no ring, no thread; members are memory, and an I/O is a copy that
//! is done at once. What is left is what the engine costs, with the copy that a real member's
//! kernel would make in its place.
//!
//! `cargo bench --bench engine [-- --quick]`; 32 requests of 4 KiB or 16 of 1 MiB are under way at
//! the same time. Journals of these small members wrap many times, so writes carry their share of
//! checkpoints.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::{Duration, Instant};
use uraid_buffer::{Buf, Pool};
use uraid_core::create::{CreateOptions, plan};
use uraid_core::geometry::Level;
use uraid_engine::Engine;
use uraid_engine::api::{
    Completion, Device, DeviceId, Event, Io, IoKind, OpenOptions, Request, RequestId,
};

/// As the program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MEMBER_BYTES: u64 = 64 << 20;
/// As the server's: large enough that the heap never helps out.
const POOL_BYTES: usize = 256 << 20;
const SMALL_BYTES: usize = 4 << 10;
const LARGE_BYTES: usize = 1 << 20;

const LEVELS: [(&str, Level, usize); 3] = [
    ("raid1 x2", Level::Raid1, 2),
    ("raid5 4+1", Level::Raid5, 5),
    ("raid6 4+2", Level::Raid6, 6),
];

/// An open array with nothing around it.
struct Bare {
    engine: Engine,
    members: Vec<Vec<u8>>,
    begun: Instant,
    /// What is written.
    content: Buf,
    size_bytes: u64,
    /// State of a xorshift generator (Marsaglia 2003).
    random: u64,
    sent: u64,
}

#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    write: bool,
    random: bool,
    bytes: usize,
    depth: u64,
}

const LOADS: [Load; 4] = [
    Load::new("random read 4 KiB", false, true),
    Load::new("random write 4 KiB", true, true),
    Load::new("read 1 MiB", false, false),
    Load::new("write 1 MiB", true, false),
];

impl Load {
    const fn new(name: &'static str, write: bool, random: bool) -> Load {
        let (bytes, depth) = match random {
            true => (SMALL_BYTES, 32),
            false => (LARGE_BYTES, 16),
        };
        Load {
            name,
            write,
            random,
            bytes,
            depth,
        }
    }
}

impl Bare {
    /// A new array, open and written once from end to end.
    fn new(level: Level, members: usize) -> Bare {
        let mut number = 0;
        let made = plan(CreateOptions {
            name: "bare".into(),
            level,
            parity: None,
            copies: None,
            chunk_bytes: None,
            export_bytes: None,
            member_bytes: vec![MEMBER_BYTES; members],
            spare_bytes: Vec::new(),
            random: &mut || {
                number += 1;
                uraid_core::checksum::mix(number)
            },
        });
        let made = made.expect("the array is possible");
        let member = |plan: &uraid_core::create::MemberPlan| {
            let mut bytes = vec![0; MEMBER_BYTES as usize];
            for (offset, content) in &plan.writes {
                bytes[*offset as usize..][..content.len()].copy_from_slice(content);
            }
            bytes
        };
        let device = |id: usize| Device {
            id: DeviceId(id as u32),
            path: format!("member{id}"),
            size_bytes: MEMBER_BYTES,
        };
        let pool = Pool::arena(POOL_BYTES).expect("memory");
        let devices = (0..members).map(device).collect();
        let mut bare = Bare {
            engine: Engine::open(devices, OpenOptions::default(), pool.clone()),
            members: made.members.iter().map(member).collect(),
            begun: Instant::now(),
            content: pool.copy(&vec![0x5a; LARGE_BYTES]),
            size_bytes: made.size_bytes,
            random: 0x9e37_79b9_7f4a_7c15,
            sent: 0,
        };
        bare.open();
        bare.drive(&LOADS[3], made.size_bytes / LARGE_BYTES as u64);
        bare
    }

    fn open(&mut self) {
        while self.engine.export().is_none() {
            self.turn();
            while let Some(event) = self.engine.next_event() {
                assert!(!matches!(event, Event::Refused(_)), "{event:?}");
            }
        }
    }

    /// Carries out `requests` requests of `load`; the time it took.
    fn drive(&mut self, load: &Load, requests: u64) -> Duration {
        let begun = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        while answered < requests {
            while sent < requests && sent - answered < load.depth {
                self.send(load);
                sent += 1;
            }
            self.turn();
            while let Some(reply) = self.engine.next_reply() {
                reply.result.expect("members of memory never fail");
                answered += 1;
            }
        }
        begun.elapsed()
    }

    fn send(&mut self, load: &Load) {
        self.sent += 1;
        let places = self.size_bytes / load.bytes as u64;
        let place = if load.random {
            self.next_random() % places
        } else {
            self.sent % places
        };
        let offset = place * load.bytes as u64;
        let request = match load.write {
            true => Request::Write {
                offset,
                data: self.content.slice(0..load.bytes),
                fua: false,
            },
            false => Request::Read {
                offset,
                len: load.bytes as u64,
            },
        };
        self.engine.request(RequestId(self.sent), request);
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A turn of a host's loop.
    fn turn(&mut self) {
        let now = self.begun.elapsed().as_nanos() as u64;
        self.engine.advance(now);
        self.engine.run();
        while let Some(io) = self.engine.next_io() {
            let completion = self.carry_out(io);
            self.engine.complete(completion);
        }
        while self.engine.next_event().is_some() {}
    }

    fn carry_out(&mut self, io: Io) -> Completion {
        let member = &mut self.members[io.device.0 as usize];
        let mut filled = None;
        match io.kind {
            IoKind::Read { offset, mut buffer } => {
                let len = buffer.len();
                buffer.copy_from_slice(&member[offset as usize..][..len]);
                filled = Some(buffer);
            }
            IoKind::Write {
                offset, buffers, ..
            } => {
                let mut at = offset as usize;
                for buffer in buffers {
                    member[at..][..buffer.len()].copy_from_slice(&buffer);
                    at += buffer.len();
                }
            }
            IoKind::Flush | IoKind::Discard { .. } => {}
        }
        Completion {
            token: io.token,
            result: Ok(()),
            buffer: filled,
        }
    }
}

fn engine(c: &mut Criterion) {
    for (name, level, members) in LEVELS {
        let mut bare = Bare::new(level, members);
        let mut group = c.benchmark_group(format!("engine/{name}"));
        for load in LOADS {
            group.throughput(match load.random {
                true => Throughput::Elements(1),
                false => Throughput::Bytes(load.bytes as u64),
            });
            group.bench_function(load.name, |b| {
                b.iter_custom(|requests| bare.drive(&load, requests))
            });
        }
    }
}

criterion_group!(benches, engine);
criterion_main!(benches);

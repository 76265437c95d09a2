//! What the tests share: exports, a raw connection, a disk to serve and random numbers.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;

use uraid_buffer::{Buf, Pool};
use uraid_nbd::client::{split_chunk, split_option_reply};
use uraid_nbd::wire::{self, RequestHeader, handshake_flag, option, option_reply};
use uraid_nbd::{Admission, ClientRequest, Export, ReplyError, RequestKind, Session};

/// Size of the writable export.
pub const SIZE: u64 = 1 << 20;
/// Size of the read-only export.
pub const READ_ONLY_SIZE: u64 = 64 << 10;
/// Size of the export for the longest requests.
pub const LARGE_SIZE: u64 = 1 << 40;

fn export(name: &str, size_bytes: u64, read_only: bool) -> Export {
    Export {
        name: name.into(),
        description: format!("the export {name}"),
        size_bytes,
        read_only,
        preferred_block_bytes: 65536,
        hidden: false,
        is_default: false,
        admission: Admission::Open,
    }
}

/// A writable, a read-only and a large export.
pub fn exports() -> Arc<[Export]> {
    [
        export("disk", SIZE, false),
        export("frozen", READ_ONLY_SIZE, true),
        export("large", LARGE_SIZE, false),
    ]
    .into()
}

/// A session spoken to in bytes.
pub struct Connection {
    pub session: Session,
}

impl Connection {
    /// Fresh, the greeting not yet fetched.
    pub fn new() -> Connection {
        Connection {
            session: Session::new(exports(), Pool::heap()),
        }
    }

    /// The greeting fetched and client flags sent.
    pub fn greeted() -> Connection {
        let mut connection = Connection::new();
        assert_eq!(connection.output().len(), wire::GREETING_BYTES);
        connection.send(&client_flags());
        connection
    }

    /// In transmission on `export`.
    pub fn transmitting(export: &str, structured: bool) -> Connection {
        let mut connection = Connection::greeted();
        if structured {
            let replies = connection.option(option::STRUCTURED_REPLY, &[]);
            assert_eq!(types(&replies), [option_reply::ACK]);
        }
        let replies = connection.option(option::GO, &info_request(export, &[]));
        assert_eq!(types(&replies), [option_reply::INFO, option_reply::ACK]);
        connection
    }

    /// Sends bytes the session must take entirely.
    pub fn send(&mut self, bytes: &[u8]) {
        assert_eq!(
            self.session.receive(bytes),
            bytes.len(),
            "all input is taken"
        );
    }

    /// Everything the session has to send.
    pub fn output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(buffers) = self.session.take_output() {
            bytes.extend(joined(&buffers));
        }
        bytes
    }

    /// Sends an option and returns the replies to it as (type, data).
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        wire::put_option(&mut bytes, option, data);
        self.send(&bytes);
        let output = self.output();
        option_replies(option, &output)
    }

    /// Sends a request header.
    pub fn request(&mut self, command: u16, flags: u16, handle: u64, offset: u64, len: u32) {
        self.send(
            &RequestHeader {
                flags,
                command,
                handle,
                offset,
                len,
            }
            .encode(),
        );
    }

    /// The one request that is ready.
    pub fn next(&mut self) -> ClientRequest {
        self.session.next_request().expect("a request is ready")
    }

    /// Everything logged so far.
    pub fn log(&mut self) -> String {
        std::iter::from_fn(|| self.session.log())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Flags of a modern client.
pub fn client_flags() -> [u8; 4] {
    u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes()
}

/// Data of INFO or GO.
pub fn info_request(name: &str, items: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    wire::put_info_request(&mut data, name.as_bytes(), items);
    data
}

/// Splits replies to `option` into (type, data).
pub fn option_replies(option: u32, mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..8], wire::OPTION_REPLY_MAGIC.to_be_bytes());
        let (to, reply, data) = split_option_reply(bytes).expect("whole replies");
        assert_eq!(to, option, "replies name their option");
        replies.push((reply, data.to_vec()));
        bytes = &bytes[wire::OPTION_REPLY_HEADER_BYTES + data.len()..];
    }
    replies
}

/// The types of replies to an option.
pub fn types(replies: &[(u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|(reply, _)| *reply).collect()
}

/// Splits structured replies into (flags, type, handle, payload).
pub fn chunks(mut bytes: &[u8]) -> Vec<(u16, u16, u64, Vec<u8>)> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..4], wire::STRUCTURED_REPLY_MAGIC.to_be_bytes());
        let (flags, kind, handle, payload) = split_chunk(bytes).expect("whole chunks");
        chunks.push((flags, kind, handle, payload.to_vec()));
        bytes = &bytes[wire::CHUNK_HEADER_BYTES + payload.len()..];
    }
    chunks
}

/// A disk in memory.
pub struct Disk(pub Vec<u8>);

impl Disk {
    /// All zero.
    pub fn new(size_bytes: u64) -> Disk {
        Disk(vec![0; size_bytes as usize])
    }

    /// Carries out one request; reads come back in several buffers.
    pub fn carry_out(&mut self, kind: &RequestKind) -> Result<Vec<Buf>, ReplyError> {
        let mut zero = |offset: u64, len: u32| {
            let start = offset as usize;
            self.0[start..start + len as usize].fill(0);
        };
        match kind {
            RequestKind::Read { offset, len } => {
                let start = *offset as usize;
                let data = &self.0[start..start + *len as usize];
                return Ok(data
                    .chunks(5000)
                    .map(|part| Pool::heap().copy(part))
                    .collect());
            }
            RequestKind::Write { offset, data, .. } => {
                let start = *offset as usize;
                self.0[start..start + data.len()].copy_from_slice(data);
            }
            RequestKind::Flush => {}
            RequestKind::Trim { offset, len, .. } => zero(*offset, *len),
            RequestKind::WriteZeroes { offset, len, .. } => zero(*offset, *len),
        }
        Ok(Vec::new())
    }
}

/// Random numbers (xorshift64*) whose seed is printed, so that a failure can be replayed.
pub struct Random(u64);

impl Random {
    /// Seeded by the environment's URAID_SEED, else by the clock.
    pub fn new() -> Random {
        let clock = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.expect("the clock is past 1970").as_nanos() as u64
        };
        let given = std::env::var("URAID_SEED").ok();
        let seed = given.map_or_else(clock, |text| text.parse().expect("URAID_SEED is a number"));
        println!("replay with URAID_SEED={seed}");
        Random(seed | 1)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// So many random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// The bytes of an output.
pub fn joined(buffers: &[Buf]) -> Vec<u8> {
    buffers
        .iter()
        .flat_map(|buffer| buffer.iter().copied())
        .collect()
}

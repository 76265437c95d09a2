//! What the tests share: exports, a raw connection, a disk to serve and random numbers.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;

use uraid_buffer::{Buf, Pool, Span};
use uraid_nbd::client::{split_chunk, split_option_reply};
use uraid_nbd::wire::{self, RequestHeader, handshake_flag, option, option_reply};
use uraid_nbd::{Answer, ClientRequest, Dialect, Export, Extent, ReplyError, RequestKind, Session};

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
        ..Export::default()
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
    /// How requests are written.
    pub dialect: Dialect,
}

impl Connection {
    /// Fresh, the greeting not yet fetched.
    pub fn new() -> Connection {
        Connection::with(Session::new(exports(), Pool::heap()))
    }

    /// Of this session, the greeting not yet fetched.
    pub fn with(session: Session) -> Connection {
        Connection {
            session,
            dialect: Dialect::Simple,
        }
    }

    /// The greeting fetched and client flags sent.
    pub fn greeted() -> Connection {
        Connection::new().greet()
    }

    /// The greeting fetched and client flags sent.
    pub fn greet(mut self) -> Connection {
        assert_eq!(self.output().len(), wire::GREETING_BYTES);
        self.send(&client_flags());
        self
    }

    /// Agrees on a dialect.
    pub fn agree(&mut self, dialect: Dialect) {
        let option = match dialect {
            Dialect::Simple => return,
            Dialect::Structured => option::STRUCTURED_REPLY,
            Dialect::Extended => option::EXTENDED_HEADERS,
        };
        assert_eq!(types(&self.option(option, &[])), [option_reply::ACK]);
        self.dialect = dialect;
    }

    /// Chooses metadata contexts; returns what came back as (number, name).
    pub fn choose_contexts(&mut self, export: &str, queries: &[&str]) -> Vec<(u32, String)> {
        let data = meta_request(export, queries);
        let replies = self.option(option::SET_META_CONTEXT, &data);
        contexts(&replies)
    }

    /// In transmission on `export`.
    pub fn transmitting(export: &str, dialect: Dialect) -> Connection {
        let mut connection = Connection::greeted();
        connection.agree(dialect);
        connection.go(export);
        connection
    }

    /// In transmission on `export`, with all contexts there are.
    pub fn with_contexts(export: &str, dialect: Dialect) -> Connection {
        let mut connection = Connection::greeted();
        connection.agree(dialect);
        let all = ["base:allocation", "x-uraid:redundancy"];
        assert_eq!(connection.choose_contexts(export, &all).len(), 2);
        connection.go(export);
        connection
    }

    /// Enters transmission.
    pub fn go(&mut self, export: &str) {
        let replies = self.option(option::GO, &info_request(export, &[]));
        assert_eq!(types(&replies), [option_reply::INFO, option_reply::ACK]);
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
    pub fn request(
        &mut self,
        command: u16,
        flags: u16,
        handle: u64,
        offset: u64,
        len: impl TryInto<u64, Error: std::fmt::Debug>,
    ) {
        let header = RequestHeader {
            flags,
            command,
            handle,
            offset,
            len: len.try_into().expect("a length"),
        };
        self.send(&header.encode(self.dialect));
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

/// Data of LIST_META_CONTEXT or SET_META_CONTEXT.
pub fn meta_request(name: &str, queries: &[&str]) -> Vec<u8> {
    let queries: Vec<&[u8]> = queries.iter().map(|query| query.as_bytes()).collect();
    let mut data = Vec::new();
    wire::put_meta_request(&mut data, name.as_bytes(), &queries);
    data
}

/// The contexts in replies that end with an ACK, as (number, name).
pub fn contexts(replies: &[(u32, Vec<u8>)]) -> Vec<(u32, String)> {
    let (last, contexts) = replies.split_last().expect("replies");
    assert_eq!(last, &(option_reply::ACK, vec![]));
    let context = |(reply, data): &(u32, Vec<u8>)| {
        assert_eq!(*reply, option_reply::META_CONTEXT);
        let id = u32::from_be_bytes(data[..4].try_into().unwrap());
        (id, String::from_utf8(data[4..].to_vec()).unwrap())
    };
    contexts.iter().map(context).collect()
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

/// Splits extended replies into (flags, type, handle, offset, payload).
pub fn extended_chunks(mut bytes: &[u8]) -> Vec<(u16, u16, u64, u64, Vec<u8>)> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let mut reader = wire::Reader::new(bytes);
        assert_eq!(reader.u32(), Some(wire::EXTENDED_REPLY_MAGIC));
        let (flags, kind) = (reader.u16().unwrap(), reader.u16().unwrap());
        let (handle, offset) = (reader.u64().unwrap(), reader.u64().unwrap());
        let len = reader.u64().unwrap() as usize;
        let payload = reader.bytes(len).expect("whole chunks").to_vec();
        chunks.push((flags, kind, handle, offset, payload));
        bytes = reader.rest();
    }
    chunks
}

/// Data as a host gives it.
pub fn data(bytes: &[u8]) -> Answer {
    Answer::Data(vec![Span::Data(Pool::heap().copy(bytes))])
}

/// A disk in memory.
pub struct Disk(pub Vec<u8>);

impl Disk {
    /// All zero.
    pub fn new(size_bytes: u64) -> Disk {
        Disk(vec![0; size_bytes as usize])
    }

    /// Carries out one request. Reads come back in several pieces, those that are all zero
    /// without memory; so do their extents.
    pub fn carry_out(&mut self, kind: &RequestKind) -> Result<Answer, ReplyError> {
        let mut zero = |offset: u64, len: u64| {
            let start = offset as usize;
            self.0[start..start + len as usize].fill(0);
        };
        match kind {
            RequestKind::Read { offset, len } => {
                let start = *offset as usize;
                let data = &self.0[start..start + *len as usize];
                let span = |part: &[u8]| match is_zero(part) {
                    true => Span::Zeros(part.len() as u64),
                    false => Span::Data(Pool::heap().copy(part)),
                };
                return Ok(Answer::Data(data.chunks(5000).map(span).collect()));
            }
            RequestKind::BlockStatus { offset, len } => {
                let data = &self.0[*offset as usize..(offset + len) as usize];
                let extent = |part: &[u8]| Extent {
                    len: part.len() as u64,
                    allocation: if is_zero(part) { 3 } else { 0 },
                    redundancy: u32::from(part[0]),
                };
                return Ok(Answer::Extents(data.chunks(512).map(extent).collect()));
            }
            RequestKind::Write { offset, data, .. } => {
                let start = *offset as usize;
                self.0[start..start + data.len()].copy_from_slice(data);
            }
            RequestKind::Flush => {}
            RequestKind::Trim { offset, len, .. } => zero(*offset, *len),
            RequestKind::WriteZeroes { offset, len, .. } => zero(*offset, *len),
        }
        Ok(Answer::Done)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
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

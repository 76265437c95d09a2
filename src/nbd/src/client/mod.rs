//! The client's side of the protocol, for tests and tools: as pure as the server's.
//!
//! [`Client::receive`] takes the server's bytes, [`Client::take_output`] gives the bytes to send.
//! Once [`Client::info`] is there, requests may be sent, and replies come out in the server's
//! order.

mod command;
mod handshake;
mod replies;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub use command::Command;
use replies::Pending;

use crate::wire::{self, Dialect, Reader};

/// Most data of a reply to an option, and most payload of a chunk besides what was asked for: a
/// text and some numbers.
pub const REPLY_EXTRA_BYTES_MAX: usize = 2 * wire::STRING_BYTES_MAX;

/// Most payload of a chunk with extents: as many as a server should send.
pub const STATUS_BYTES_MAX: usize = 8 + (16 << 20);

/// What the server told about the export.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ExportInfo {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Bits of [`wire::transmission_flag`].
    pub flags: u16,
    /// The smallest block that can be addressed; 0 if not told.
    pub minimum_block_bytes: u32,
    /// The block that is served best; 0 if not told.
    pub preferred_block_bytes: u32,
    /// The longest read or write; 0 if not told.
    pub payload_bytes_max: u32,
}

/// The server's answer to one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The handle given with the request.
    pub handle: u64,
    /// Bytes of what was read that came as holes.
    pub hole_bytes: usize,
    /// For a status: by the number of the context, lengths and statuses.
    pub extents: BTreeMap<u32, Vec<(u64, u64)>>,
    /// For a read its data, otherwise nothing; or the error.
    pub result: Result<Vec<u8>, RequestError>,
}

/// An error the server answered with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestError {
    /// The error number; see [`wire::NbdError`].
    pub errno: u32,
    /// What the server said; empty in simple replies.
    pub text: String,
    /// Byte offset in the export, if the server told it.
    pub offset: Option<u64>,
}

/// Why the conversation cannot go on: the server refused the export or broke the protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProtocolError(pub String);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    /// This way of talking was asked for.
    Dialect(Dialect),
    Contexts,
    Go,
    Transmission,
}

/// A client of one export.
pub struct Client {
    export: String,
    wanted: Dialect,
    wanted_contexts: Vec<String>,
    stage: Stage,
    dialect: Dialect,
    contexts: BTreeMap<u32, String>,
    input: Vec<u8>,
    output: Vec<u8>,
    info: ExportInfo,
    pending: BTreeMap<u64, Pending>,
    replies: VecDeque<Reply>,
}

impl Client {
    /// A client that is going to ask for `export`, in the `wanted` dialect or the best one below
    /// that the server offers.
    pub fn new(export: &str, wanted: Dialect) -> Client {
        Client {
            export: export.into(),
            wanted,
            wanted_contexts: Vec::new(),
            stage: Stage::Greeting,
            dialect: Dialect::Simple,
            contexts: BTreeMap::new(),
            input: Vec::new(),
            output: Vec::new(),
            info: ExportInfo::default(),
            pending: BTreeMap::new(),
            replies: VecDeque::new(),
        }
    }

    /// Asks for these metadata contexts too, where the dialect has any.
    pub fn with_contexts(mut self, contexts: &[&str]) -> Client {
        self.wanted_contexts = contexts.iter().map(ToString::to_string).collect();
        self
    }

    /// What is known of the export, once requests may be sent.
    pub fn info(&self) -> Option<ExportInfo> {
        (self.stage == Stage::Transmission).then_some(self.info)
    }

    /// What was agreed on.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The metadata contexts that the server gave, by their numbers.
    pub fn contexts(&self) -> &BTreeMap<u32, String> {
        &self.contexts
    }

    /// The bytes to send; empty if there are none.
    pub fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.output)
    }

    /// The next reply.
    pub fn next_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// How many requests wait for their replies.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Queues a request under `handle`, which must not be pending. Panics before transmission,
    /// and if the dialect has no way to say it.
    pub fn send(&mut self, handle: u64, request: Command<'_>) {
        assert!(
            self.stage == Stage::Transmission,
            "request before transmission"
        );
        request.put(self.dialect, handle, &mut self.output);
        let (offset, read_len) = match request {
            Command::Disconnect => return,
            Command::Read { offset, len, .. } => (offset, len as usize),
            Command::Write { offset, .. }
            | Command::Trim { offset, .. }
            | Command::WriteZeroes { offset, .. }
            | Command::Cache { offset, .. }
            | Command::BlockStatus { offset, .. } => (offset, 0),
            Command::Flush => (0, 0),
        };
        let pending = Pending {
            offset,
            data: alloc::vec![0; read_len],
            status: matches!(request, Command::BlockStatus { .. }),
            told_bytes: 0,
            hole_bytes: 0,
            extents: BTreeMap::new(),
            error: None,
        };
        let previous = self.pending.insert(handle, pending);
        assert!(previous.is_none(), "handle {handle} is pending already");
    }

    /// Takes bytes from the server.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.input.extend_from_slice(bytes);
        let mut input = core::mem::take(&mut self.input);
        let mut consumed = 0;
        while let Some(len) = self.receive_message(&input[consumed..])? {
            consumed += len;
        }
        input.drain(..consumed);
        self.input = input;
        Ok(())
    }

    /// Handles the message `input` starts with and says how long it was; `None` if it is not
    /// whole yet.
    fn receive_message(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        match self.stage {
            Stage::Greeting => self.receive_greeting(input),
            Stage::Dialect(_) | Stage::Contexts | Stage::Go => self.receive_option_reply(input),
            Stage::Transmission => self.receive_reply(input),
        }
    }
}

/// Option, reply type and data of the reply `input` starts with; `None` if it is not whole.
pub fn split_option_reply(input: &[u8]) -> Option<(u32, u32, &[u8])> {
    let mut reader = Reader::new(input);
    let _magic = reader.u64()?;
    let (option, reply, len) = (reader.u32()?, reader.u32()?, reader.u32()?);
    Some((option, reply, reader.bytes(len as usize)?))
}

/// Flags, type, handle and payload of the structured chunk `input` starts with; `None` if it is
/// not whole.
pub fn split_chunk(input: &[u8]) -> Option<(u16, u16, u64, &[u8])> {
    let mut reader = Reader::new(input);
    let _magic = reader.u32()?;
    let (flags, kind, handle, len) = (reader.u16()?, reader.u16()?, reader.u64()?, reader.u32()?);
    Some((flags, kind, handle, reader.bytes(len as usize)?))
}

fn violation(what: String) -> ProtocolError {
    ProtocolError(format!("the server broke the protocol: {what}"))
}

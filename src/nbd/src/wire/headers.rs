//! Messages of fixed size, in each of the ways that client and server can agree on.

use alloc::vec::Vec;

use super::{
    CHUNK_HEADER_BYTES, EXTENDED_CHUNK_HEADER_BYTES, EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_BYTES,
    EXTENDED_REQUEST_MAGIC, OPTION_MAGIC, OPTION_REPLY_HEADER_BYTES, OPTION_REPLY_MAGIC,
    REQUEST_BYTES, REQUEST_MAGIC, Reader, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
};

/// How requests and replies look: what the negotiation came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Dialect {
    /// Compact requests, simple replies: what every client understands.
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Requests and replies with extended headers: 64-bit lengths.
    Extended,
}

impl Dialect {
    /// Length of a request less its payload.
    pub fn request_bytes(self) -> usize {
        match self {
            Dialect::Simple | Dialect::Structured => REQUEST_BYTES,
            Dialect::Extended => EXTENDED_REQUEST_BYTES,
        }
    }

    /// A word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Simple => "simple replies",
            Dialect::Structured => "structured replies",
            Dialect::Extended => "extended headers",
        }
    }
}

/// A request without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// Bits of [`super::command_flag`].
    pub flags: u16,
    /// One of [`super::command`], or unknown.
    pub command: u16,
    /// The client's name for the request (the protocol's cookie), opaque to the server.
    pub handle: u64,
    /// Byte offset in the export.
    pub offset: u64,
    /// Bytes concerned, or with extended headers and PAYLOAD_LEN bytes of payload.
    pub len: u64,
}

impl RequestHeader {
    /// The bytes on the wire. Panics if the dialect has no way to tell the length.
    pub fn encode(&self, dialect: Dialect) -> Vec<u8> {
        let extended = dialect == Dialect::Extended;
        let magic = match extended {
            true => EXTENDED_REQUEST_MAGIC,
            false => REQUEST_MAGIC,
        };
        let mut bytes = Vec::with_capacity(dialect.request_bytes());
        bytes.extend_from_slice(&magic.to_be_bytes());
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        bytes.extend_from_slice(&self.command.to_be_bytes());
        bytes.extend_from_slice(&self.handle.to_be_bytes());
        bytes.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            bytes.extend_from_slice(&self.len.to_be_bytes());
        } else {
            let len = u32::try_from(self.len).expect("compact requests have 32-bit lengths");
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        bytes
    }

    /// The request in `bytes`; `None` if they are too few or do not start with the magic number.
    pub fn decode(bytes: &[u8], dialect: Dialect) -> Option<RequestHeader> {
        let mut reader = Reader::new(bytes);
        let extended = dialect == Dialect::Extended;
        let magic = match extended {
            true => EXTENDED_REQUEST_MAGIC,
            false => REQUEST_MAGIC,
        };
        if reader.u32()? != magic {
            return None;
        }
        Some(RequestHeader {
            flags: reader.u16()?,
            command: reader.u16()?,
            handle: reader.u64()?,
            offset: reader.u64()?,
            len: match extended {
                true => reader.u64()?,
                false => reader.u32()?.into(),
            },
        })
    }

    /// Whether `bit` of [`super::command_flag`] is set.
    pub fn has(&self, bit: u16) -> bool {
        self.flags & bit != 0
    }
}

/// Appends an option as a client sends it.
pub fn put_option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    put_string(out, data);
}

/// Appends the data of INFO or GO: which export, and which `info` items are wanted.
pub fn put_info_request(out: &mut Vec<u8>, name: &[u8], items: &[u16]) {
    put_string(out, name);
    let count = u16::try_from(items.len()).expect("few items");
    out.extend_from_slice(&count.to_be_bytes());
    for item in items {
        out.extend_from_slice(&item.to_be_bytes());
    }
}

/// Appends the data of LIST_META_CONTEXT or SET_META_CONTEXT: which export, and which contexts.
pub fn put_meta_request(out: &mut Vec<u8>, name: &[u8], queries: &[&[u8]]) {
    put_string(out, name);
    out.extend_from_slice(&len_u32(queries.len()).to_be_bytes());
    queries.iter().for_each(|query| put_string(out, query));
}

/// Length and bytes.
fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&len_u32(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The header of a reply to an option.
pub fn option_reply_header(option: u32, reply: u32, len: usize) -> [u8; OPTION_REPLY_HEADER_BYTES] {
    let mut bytes = [0; OPTION_REPLY_HEADER_BYTES];
    bytes[0..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    bytes[8..12].copy_from_slice(&option.to_be_bytes());
    bytes[12..16].copy_from_slice(&reply.to_be_bytes());
    bytes[16..20].copy_from_slice(&len_u32(len).to_be_bytes());
    bytes
}

/// A simple reply less its data; `error` is 0 for success.
pub fn simple_reply(handle: u64, error: u32) -> [u8; SIMPLE_REPLY_BYTES] {
    let mut bytes = [0; SIMPLE_REPLY_BYTES];
    bytes[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..16].copy_from_slice(&handle.to_be_bytes());
    bytes
}

/// What the header of a reply's chunk says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Whether it is the last one of its reply.
    pub done: bool,
    /// One of [`super::chunk`].
    pub kind: u16,
    /// Bytes that follow the header.
    pub len: usize,
}

/// The header of a chunk of the reply to `request`, structured or extended.
pub fn chunk_header(dialect: Dialect, request: &RequestHeader, chunk: Chunk) -> Vec<u8> {
    let extended = dialect == Dialect::Extended;
    let (magic, len) = match extended {
        true => (EXTENDED_REPLY_MAGIC, EXTENDED_CHUNK_HEADER_BYTES),
        false => (STRUCTURED_REPLY_MAGIC, CHUNK_HEADER_BYTES),
    };
    let flags = match chunk.done {
        true => super::chunk::FLAG_DONE,
        false => 0,
    };
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&magic.to_be_bytes());
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&chunk.kind.to_be_bytes());
    bytes.extend_from_slice(&request.handle.to_be_bytes());
    if extended {
        bytes.extend_from_slice(&request.offset.to_be_bytes());
        bytes.extend_from_slice(&(chunk.len as u64).to_be_bytes());
    } else {
        bytes.extend_from_slice(&len_u32(chunk.len).to_be_bytes());
    }
    bytes
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("messages are far shorter than 4 GiB")
}

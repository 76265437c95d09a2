//! Numbers and fixed-size messages of the protocol, named as in `doc/proto.md` less the `NBD_`.
//!
//! Everything on the wire is big endian.

use alloc::vec::Vec;

/// First eight bytes a server sends: "NBDMAGIC".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Announces newstyle, and starts every option: "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Starts every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Longest string the protocol allows, in bytes.
pub const STRING_BYTES_MAX: usize = 4096;
/// Zeroes after the answer to EXPORT_NAME, for clients that did not decline them.
pub const EXPORT_NAME_PADDING_BYTES: usize = 124;
/// Length of the server's first message.
pub const GREETING_BYTES: usize = 18;
/// Length of an option's header.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Length of the header of a reply to an option.
pub const OPTION_REPLY_HEADER_BYTES: usize = 20;
/// Length of a request less its payload.
pub const REQUEST_BYTES: usize = 28;
/// Length of a simple reply less its payload.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Length of the header of a structured reply's chunk.
pub const CHUNK_HEADER_BYTES: usize = 20;

/// Handshake flags; client flags have the same values.
pub mod handshake_flag {
    /// Both sides understand options other than EXPORT_NAME.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No padding after the answer to EXPORT_NAME.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options a client sends while negotiating.
pub mod option {
    /// Enter transmission, without a way to refuse.
    pub const EXPORT_NAME: u32 = 1;
    /// End the connection in order.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Upgrade the connection to TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and enter transmission.
    pub const GO: u32 = 7;
    /// Use structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use requests and replies with 64-bit lengths.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of the list.
    pub const SERVER: u32 = 2;
    /// One item of information on an export.
    pub const INFO: u32 = 3;
    /// Set in every error.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = ERROR_BIT + 1;
    /// Not for this client, or not now.
    pub const ERR_POLICY: u32 = ERROR_BIT + 2;
    /// Malformed option.
    pub const ERR_INVALID: u32 = ERROR_BIT + 3;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT + 6;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT + 7;
    /// Longer than the server cares to process.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT + 9;
}

/// Items of information on an export.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum and preferred block, maximum payload.
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do, as told at the start of transmission.
pub mod transmission_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writing is refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES and its NO_HOLE flag are understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// FLUSH and FUA on one connection cover writes completed on the others.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Request types.
pub mod command {
    /// Read data.
    pub const READ: u16 = 0;
    /// Write the data that follows.
    pub const WRITE: u16 = 1;
    /// Disconnect; no reply.
    pub const DISC: u16 = 2;
    /// Make completed writes durable.
    pub const FLUSH: u16 = 3;
    /// The range is no longer needed.
    pub const TRIM: u16 = 4;
    /// Prefetch; not offered.
    pub const CACHE: u16 = 5;
    /// Zero a range.
    pub const WRITE_ZEROES: u16 = 6;
    /// Query metadata; not offered.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub mod command_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES must leave the range provisioned.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ must be answered by a single content chunk.
    pub const DF: u16 = 1 << 2;
    /// WRITE_ZEROES must fail unless it is faster than a write; not offered.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Types and flags of a structured reply's chunks.
pub mod chunk {
    /// Flag: the last chunk of its reply.
    pub const FLAG_DONE: u16 = 1 << 0;
    /// No content: success.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Set in the type of every error chunk.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = ERROR_BIT + 1;
    /// An error at a known offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT + 2;
}

/// The errors the protocol has. ENOMEM is left out: a server should not send it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum NbdError {
    /// EPERM: writing to a read-only export.
    NotPermitted = 1,
    /// EIO: the data cannot be read or stored.
    Io = 5,
    /// EINVAL: the request makes no sense.
    Invalid = 22,
    /// ENOSPC: no room, or past the end of the export.
    NoSpace = 28,
    /// EOVERFLOW: too long for one answer.
    Overflow = 75,
    /// ENOTSUP: a fast zero that would not be fast.
    NotSupported = 95,
    /// ESHUTDOWN: the server is shutting down.
    ShuttingDown = 108,
}

/// A request without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// Bits of [`command_flag`].
    pub flags: u16,
    /// One of [`command`], or unknown.
    pub command: u16,
    /// The client's name for the request (the protocol's cookie), opaque to the server.
    pub handle: u64,
    /// Byte offset in the export.
    pub offset: u64,
    /// Bytes concerned.
    pub len: u32,
}

impl RequestHeader {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.handle.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// The request in `bytes`; `None` if it does not start with the magic number.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<RequestHeader> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != REQUEST_MAGIC {
            return None;
        }
        Some(RequestHeader {
            flags: reader.u16()?,
            command: reader.u16()?,
            handle: reader.u64()?,
            offset: reader.u64()?,
            len: reader.u32()?,
        })
    }

    /// Whether `bit` of [`command_flag`] is set.
    pub fn has(&self, bit: u16) -> bool {
        self.flags & bit != 0
    }
}

/// Appends an option as a client sends it.
pub fn put_option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&len_u32(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends the data of INFO or GO: which export, and which `info` items are wanted.
pub fn put_info_request(out: &mut Vec<u8>, name: &[u8], items: &[u16]) {
    out.extend_from_slice(&len_u32(name.len()).to_be_bytes());
    out.extend_from_slice(name);
    let count = u16::try_from(items.len()).expect("few items");
    out.extend_from_slice(&count.to_be_bytes());
    for item in items {
        out.extend_from_slice(&item.to_be_bytes());
    }
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

/// The header of a structured reply's last chunk, of type `kind` with `len` bytes to follow.
pub fn last_chunk_header(handle: u64, kind: u16, len: usize) -> [u8; CHUNK_HEADER_BYTES] {
    let mut bytes = [0; CHUNK_HEADER_BYTES];
    bytes[0..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&chunk::FLAG_DONE.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&handle.to_be_bytes());
    bytes[16..20].copy_from_slice(&len_u32(len).to_be_bytes());
    bytes
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("messages are far shorter than 4 GiB")
}

/// Takes fields off the front of a message; `None` once it is too short.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the start.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

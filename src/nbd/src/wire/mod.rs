//! Numbers and fixed-size messages of the protocol, named as in `doc/proto.md` less the `NBD_`.
//!
//! Everything on the wire is big endian.

mod headers;

pub use headers::{
    Chunk, Dialect, RequestHeader, chunk_header, option_reply_header, put_info_request,
    put_meta_request, put_option, simple_reply,
};

/// First eight bytes a server sends: "NBDMAGIC".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Announces newstyle, and starts every option: "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Starts every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts every request once extended headers are agreed on.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Starts a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Starts a chunk of a reply once extended headers are agreed on.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

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
/// Length of a request with extended headers, less its payload.
pub const EXTENDED_REQUEST_BYTES: usize = 32;
/// Length of a simple reply less its payload.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Length of the header of a structured reply's chunk.
pub const CHUNK_HEADER_BYTES: usize = 20;
/// Length of the same with extended headers.
pub const EXTENDED_CHUNK_HEADER_BYTES: usize = 32;

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
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = ERROR_BIT + 1;
    /// The server's settings forbid it.
    pub const ERR_POLICY: u32 = ERROR_BIT + 2;
    /// Malformed option.
    pub const ERR_INVALID: u32 = ERROR_BIT + 3;
    /// Not without TLS.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT + 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT + 6;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT + 7;
    /// Longer than the server cares to process.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT + 9;
    /// Extended headers are in use, or must be.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT + 10;
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
    /// CACHE is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO flag is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// BLOCK_STATUS may name the contexts it is about.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
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
    /// Prefetch.
    pub const CACHE: u16 = 5;
    /// Zero a range.
    pub const WRITE_ZEROES: u16 = 6;
    /// Query metadata.
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
    /// BLOCK_STATUS must tell of one extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES must fail unless it is faster than a write.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// With extended headers: the length is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
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
    /// Extents of a metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// The same with 64-bit lengths.
    pub const BLOCK_STATUS_EXT: u16 = 6;
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

    /// The next string: 32 bits of length, then the bytes.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        self.bytes(len)
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

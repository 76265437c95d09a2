//! What a client may ask, as the host sees it, and what the host answers.

use alloc::vec::Vec;

use uraid_buffer::{Buf, Span};

use crate::context::Extent;

/// Most bytes one request may read or carry, as advertised.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// What the answer to a BLOCK_STATUS is taken to hold until it is sent, in bytes: a host that
/// gives at most [`EXTENTS_MAX`] extents keeps to it in every dialect.
pub const STATUS_BYTES: u32 = 128 << 10;

/// Most extents a host should give to a BLOCK_STATUS.
pub const EXTENTS_MAX: usize = 4000;

/// A request of the client for the host to carry out and to answer with `Session::reply`.
#[derive(Debug)]
pub struct ClientRequest {
    /// Names the request; never used twice in a session.
    pub cookie: u64,
    /// Which of the exports.
    pub export: usize,
    /// What to do. Ranges are inside the export and not empty.
    pub kind: RequestKind,
}

/// What a client may ask.
#[derive(Debug)]
pub enum RequestKind {
    /// Read `len` bytes.
    Read {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to read: at most [`PAYLOAD_BYTES_MAX`].
        len: u32,
    },
    /// Write `data`.
    Write {
        /// Byte offset in the export.
        offset: u64,
        /// The bytes. They have the alignment of `offset` modulo 4096 in memory, so whole blocks
        /// of the export are aligned blocks of memory.
        data: Buf,
        /// Durable before the answer.
        fua: bool,
    },
    /// Everything answered so far becomes durable.
    Flush,
    /// The content is no longer needed.
    Trim {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to trim.
        len: u64,
        /// Durable before the answer.
        fua: bool,
    },
    /// The range reads as zero afterwards.
    WriteZeroes {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to zero.
        len: u64,
        /// Durable before the answer.
        fua: bool,
        /// The range takes up space afterwards.
        keep_space: bool,
        /// To be refused with [`crate::NbdError::NotSupported`], changing nothing, unless it is
        /// faster than writing zeros.
        only_if_fast: bool,
    },
    /// Tell the extents of a range.
    BlockStatus {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes of interest.
        len: u64,
    },
}

impl RequestKind {
    /// Bytes that the request and its answer hold, in whichever direction.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            RequestKind::Read { len, .. } => u64::from(*len),
            RequestKind::Write { data, .. } => data.len() as u64,
            RequestKind::BlockStatus { .. } => u64::from(STATUS_BYTES),
            RequestKind::Flush | RequestKind::Trim { .. } | RequestKind::WriteZeroes { .. } => 0,
        }
    }
}

/// What a request gave.
#[derive(Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// To a read: exactly the bytes asked for.
    Data(Vec<Span>),
    /// To a question for the status: extents from the start of the range on, without gaps; at
    /// least one and none beyond the end of the range.
    Extents(Vec<Extent>),
}

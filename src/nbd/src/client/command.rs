//! Requests as a client makes them.

use alloc::vec::Vec;

use crate::wire::{Dialect, RequestHeader, command, command_flag};

/// What a client can ask of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Read `len` bytes.
    Read {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to read.
        len: u32,
        /// The answer must come in one piece.
        unfragmented: bool,
    },
    /// Write `data`.
    Write {
        /// Byte offset in the export.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
        /// Durable before the reply.
        fua: bool,
    },
    /// Make every write replied to durable.
    Flush,
    /// The range is no longer needed.
    Trim {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to trim.
        len: u64,
        /// Durable before the reply.
        fua: bool,
    },
    /// Zero the range.
    WriteZeroes {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to zero.
        len: u64,
        /// Durable before the reply.
        fua: bool,
        /// The range must stay provisioned.
        no_hole: bool,
        /// Only if it is faster than writing.
        fast: bool,
    },
    /// The range will be wanted soon.
    Cache {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes wanted.
        len: u64,
    },
    /// What is known of the range in the contexts chosen.
    BlockStatus {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes of interest.
        len: u64,
        /// Of the first extent only.
        one: bool,
        /// In these contexts only; all, if there is none. Others need extended headers.
        only: &'a [u32],
    },
    /// Say goodbye; there is no reply.
    Disconnect,
}

impl Command<'_> {
    /// Appends the request. Panics if the dialect has no way to say it.
    pub(super) fn put(&self, dialect: Dialect, handle: u64, out: &mut Vec<u8>) {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let payload = self.payload();
        let has_payload = payload.is_some() && dialect == Dialect::Extended;
        let mut flags = flag(has_payload, command_flag::PAYLOAD_LEN);
        let (command, offset, len) = match *self {
            Command::Read {
                offset,
                len,
                unfragmented,
            } => {
                flags |= flag(unfragmented, command_flag::DF);
                (command::READ, offset, len.into())
            }
            Command::Write { offset, data, fua } => {
                flags |= flag(fua, command_flag::FUA);
                (command::WRITE, offset, data.len() as u64)
            }
            Command::Flush => (command::FLUSH, 0, 0),
            Command::Trim { offset, len, fua } => {
                flags |= flag(fua, command_flag::FUA);
                (command::TRIM, offset, len)
            }
            Command::WriteZeroes {
                offset,
                len,
                fua,
                no_hole,
                fast,
            } => {
                flags |= flag(fua, command_flag::FUA)
                    | flag(no_hole, command_flag::NO_HOLE)
                    | flag(fast, command_flag::FAST_ZERO);
                (command::WRITE_ZEROES, offset, len)
            }
            Command::Cache { offset, len } => (command::CACHE, offset, len),
            Command::BlockStatus {
                offset, len, one, ..
            } => {
                flags |= flag(one, command_flag::REQ_ONE);
                let sayable = payload.is_none() || dialect == Dialect::Extended;
                assert!(sayable, "choosing contexts needs extended headers");
                let filter = payload.as_ref().map(|ids| ids.len() as u64);
                (command::BLOCK_STATUS, offset, filter.unwrap_or(len))
            }
            Command::Disconnect => (command::DISC, 0, 0),
        };
        let header = RequestHeader {
            flags,
            command,
            handle,
            offset,
            len,
        };
        out.extend_from_slice(&header.encode(dialect));
        if let Some(payload) = payload {
            out.extend_from_slice(&payload);
        }
    }

    fn payload(&self) -> Option<Vec<u8>> {
        match self {
            Command::Write { data, .. } => Some(data.to_vec()),
            Command::BlockStatus { len, only, .. } if !only.is_empty() => {
                let ids = only.iter().flat_map(|id| id.to_be_bytes());
                Some(len.to_be_bytes().into_iter().chain(ids).collect())
            }
            _ => None,
        }
    }
}

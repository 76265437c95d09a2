//! The client's reading of replies: simple ones, and chunks put together.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{
    Client, ProtocolError, REPLY_EXTRA_BYTES_MAX, Reply, RequestError, STATUS_BYTES_MAX, violation,
};
use crate::wire::{self, Dialect, Reader, chunk};

/// A request not yet answered in full.
pub(super) struct Pending {
    pub offset: u64,
    /// Room for what is read; empty for other requests.
    pub data: Vec<u8>,
    /// Whether it asked for the status of a range.
    pub status: bool,
    /// Bytes of `data` told so far, and how many of them as holes.
    pub told_bytes: usize,
    pub hole_bytes: usize,
    pub extents: BTreeMap<u32, Vec<(u64, u64)>>,
    pub error: Option<RequestError>,
}

/// The header of a chunk, whichever way it is written.
struct ChunkHead {
    done: bool,
    kind: u16,
    handle: u64,
    /// The request's offset, if it is told.
    offset: Option<u64>,
    header_bytes: usize,
    len: u64,
}

impl ChunkHead {
    /// `None` if `input` is too short to tell.
    fn read(input: &[u8], dialect: Dialect) -> Option<ChunkHead> {
        let mut reader = Reader::new(input);
        let _magic = reader.u32()?;
        let (flags, kind, handle) = (reader.u16()?, reader.u16()?, reader.u64()?);
        let extended = dialect == Dialect::Extended;
        let offset = if extended { Some(reader.u64()?) } else { None };
        let len = match extended {
            true => reader.u64()?,
            false => reader.u32()?.into(),
        };
        Some(ChunkHead {
            done: flags & chunk::FLAG_DONE != 0,
            kind,
            handle,
            offset,
            header_bytes: input.len() - reader.rest().len(),
            len,
        })
    }
}

impl Client {
    pub(super) fn receive_reply(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        match (Reader::new(input).u32(), self.dialect) {
            (None, _) => Ok(None),
            (Some(wire::SIMPLE_REPLY_MAGIC), Dialect::Simple | Dialect::Structured) => {
                self.receive_simple_reply(input)
            }
            (Some(wire::STRUCTURED_REPLY_MAGIC), Dialect::Structured)
            | (Some(wire::EXTENDED_REPLY_MAGIC), Dialect::Extended) => self.receive_chunk(input),
            (Some(other), _) => Err(violation(format!("reply starts with {other:#x}"))),
        }
    }

    fn receive_simple_reply(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let mut reader = Reader::new(input);
        let header = (reader.u32(), reader.u32(), reader.u64());
        let (_, Some(errno), Some(handle)) = header else {
            return Ok(None);
        };
        let pending = self
            .pending
            .get_mut(&handle)
            .ok_or_else(|| unknown_handle(handle))?;
        let mut len = wire::SIMPLE_REPLY_BYTES;
        if errno == 0 {
            let Some(data) = reader.bytes(pending.data.len()) else {
                return Ok(None);
            };
            pending.data.copy_from_slice(data);
            pending.told_bytes = data.len();
            len += data.len();
        } else {
            pending.error = Some(RequestError {
                errno,
                text: String::new(),
                offset: None,
            });
        }
        self.finish(handle)?;
        Ok(Some(len))
    }

    fn receive_chunk(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(head) = ChunkHead::read(input, self.dialect) else {
            return Ok(None);
        };
        let handle = head.handle;
        let pending = self
            .pending
            .get_mut(&handle)
            .ok_or_else(|| unknown_handle(handle))?;
        if head.offset.is_some_and(|offset| offset != pending.offset) {
            return Err(violation(format!(
                "chunk for request {handle} repeats another offset"
            )));
        }
        let expected = match pending.status {
            true => STATUS_BYTES_MAX,
            false => pending.data.len() + REPLY_EXTRA_BYTES_MAX,
        };
        if head.len > expected as u64 {
            let what = format!("chunk of {} bytes for request {handle}", head.len);
            return Err(violation(what));
        }
        let len = head.len as usize;
        let Some(payload) = input.get(head.header_bytes..head.header_bytes + len) else {
            return Ok(None);
        };
        pending.take_chunk(head.kind, payload).ok_or_else(|| {
            violation(format!(
                "chunk of type {:#x} does not fit request {handle}",
                head.kind
            ))
        })?;
        if head.done {
            self.finish(handle)?;
        }
        Ok(Some(head.header_bytes + len))
    }

    fn finish(&mut self, handle: u64) -> Result<(), ProtocolError> {
        let Some(pending) = self.pending.remove(&handle) else {
            return Ok(());
        };
        if pending.error.is_none() && pending.told_bytes != pending.data.len() {
            let (told, len) = (pending.told_bytes, pending.data.len());
            let what = format!("{told} bytes told of the {len} of request {handle}");
            return Err(violation(what));
        }
        self.replies.push_back(Reply {
            handle,
            hole_bytes: pending.hole_bytes,
            extents: pending.extents,
            result: match pending.error {
                Some(error) => Err(error),
                None => Ok(pending.data),
            },
        });
        Ok(())
    }
}

impl Pending {
    /// Takes in one chunk; `None` if it makes no sense.
    fn take_chunk(&mut self, kind: u16, payload: &[u8]) -> Option<()> {
        let mut reader = Reader::new(payload);
        match kind {
            chunk::NONE => payload.is_empty().then_some(()),
            chunk::OFFSET_DATA => {
                let offset = reader.u64()?;
                let data = reader.rest();
                self.part(offset, data.len())?.copy_from_slice(data);
                Some(())
            }
            chunk::OFFSET_HOLE => {
                let offset = reader.u64()?;
                let len = reader.u32()? as usize;
                self.part(offset, len)?.fill(0);
                self.hole_bytes += len;
                reader.rest().is_empty().then_some(())
            }
            chunk::BLOCK_STATUS => self.take_extents(reader, false),
            chunk::BLOCK_STATUS_EXT => self.take_extents(reader, true),
            _ if kind & chunk::ERROR_BIT != 0 => {
                let errno = reader.u32()?;
                let text_len = usize::from(reader.u16()?);
                let text = String::from_utf8_lossy(reader.bytes(text_len)?).to_string();
                let offset = match kind {
                    chunk::ERROR_OFFSET => Some(reader.u64()?),
                    _ => None,
                };
                self.error = Some(RequestError {
                    errno,
                    text,
                    offset,
                });
                Some(())
            }
            _ => None,
        }
    }

    fn take_extents(&mut self, mut reader: Reader<'_>, extended: bool) -> Option<()> {
        let context = reader.u32()?;
        let count = match extended {
            true => Some(reader.u32()? as usize),
            false => None,
        };
        let mut extents = Vec::new();
        while !reader.rest().is_empty() {
            extents.push(match extended {
                true => (reader.u64()?, reader.u64()?),
                false => (reader.u32()?.into(), reader.u32()?.into()),
            });
        }
        let sound = self.status
            && !extents.is_empty()
            && count.is_none_or(|count| count == extents.len())
            && extents.iter().all(|(len, _)| *len > 0);
        let fresh = self.extents.insert(context, extents).is_none();
        (sound && fresh).then_some(())
    }

    /// Where `len` bytes at `offset` of the export belong.
    fn part(&mut self, offset: u64, len: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let end = start.checked_add(len)?;
        self.told_bytes = self.told_bytes.checked_add(len)?;
        self.data.get_mut(start..end)
    }
}

fn unknown_handle(handle: u64) -> ProtocolError {
    violation(format!("reply to request {handle}, which is not pending"))
}

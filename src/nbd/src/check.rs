//! Whether a request can be served at all.

use alloc::format;
use alloc::string::String;

use crate::context::{Context, ContextSet};
use crate::reply::ReplyError;
use crate::request::PAYLOAD_BYTES_MAX;
use crate::wire::{Dialect, NbdError, Reader, RequestHeader, command, command_flag};

/// Longest payload of a BLOCK_STATUS that can be right: a length and each context once.
pub(crate) const FILTER_BYTES_MAX: usize = size_of::<u64>() + Context::ALL.len() * ID_BYTES;

/// Length of a context's number in it.
const ID_BYTES: usize = size_of::<u32>();

/// What requests are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub dialect: Dialect,
    /// Contexts chosen while negotiating.
    pub contexts: ContextSet,
    pub size_bytes: u64,
    pub read_only: bool,
}

impl Limits {
    /// Bytes that follow a request's header. The client of qemu (10.0) agrees on extended headers
    /// and leaves out the flag with its writes: their payload comes all the same.
    pub fn payload_bytes(&self, request: &RequestHeader) -> u64 {
        let flagged = self.dialect == Dialect::Extended && request.has(command_flag::PAYLOAD_LEN);
        match flagged || request.command == command::WRITE {
            true => request.len,
            false => 0,
        }
    }

    /// Whether a request can be served as far as its header tells: the range of a BLOCK_STATUS
    /// with a payload is in the payload.
    pub fn check(&self, request: &RequestHeader) -> Result<(), ReplyError> {
        self.check_flags(request)?;
        match request.command {
            command::FLUSH if request.offset != 0 || request.len != 0 => {
                Err(invalid("a flush has no offset and no length"))
            }
            command::FLUSH => Ok(()),
            command::READ => self.check_read(request),
            command::CACHE => self.check_range(request, NbdError::Invalid),
            command::BLOCK_STATUS => self.check_status(request),
            _ if self.read_only => Err(ReplyError::new(
                NbdError::NotPermitted,
                "the export is read-only",
            )),
            command::TRIM => self.check_range(request, NbdError::Invalid),
            _ => self.check_range(request, NbdError::NoSpace),
        }
    }

    fn check_flags(&self, request: &RequestHeader) -> Result<(), ReplyError> {
        let payload_len = match self.dialect {
            Dialect::Simple | Dialect::Structured => 0,
            Dialect::Extended => command_flag::PAYLOAD_LEN,
        };
        // FUA is allowed on everything, as some clients set it on everything.
        let allowed = match request.command {
            command::READ if self.dialect >= Dialect::Structured => command_flag::DF,
            command::WRITE => payload_len,
            command::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO,
            command::BLOCK_STATUS => command_flag::REQ_ONE | payload_len,
            command::READ | command::FLUSH | command::TRIM | command::CACHE => 0,
            unknown => return Err(invalid(format!("command {unknown} is not offered"))),
        };
        let (flags, command) = (request.flags, request.command);
        if flags & !(command_flag::FUA | allowed) != 0 {
            let text = format!("flags {flags:#x} are not valid for command {command}");
            return Err(invalid(text));
        }
        Ok(())
    }

    fn check_read(&self, request: &RequestHeader) -> Result<(), ReplyError> {
        if request.len > PAYLOAD_BYTES_MAX.into() {
            let text = format!("read of {} bytes, {PAYLOAD_BYTES_MAX} allowed", request.len);
            // Only in chunks may the client be told to ask for less.
            let errno = match self.dialect {
                Dialect::Simple => NbdError::Invalid,
                Dialect::Structured | Dialect::Extended => NbdError::Overflow,
            };
            return Err(ReplyError::new(errno, text));
        }
        self.check_range(request, NbdError::Invalid)
    }

    fn check_status(&self, request: &RequestHeader) -> Result<(), ReplyError> {
        if self.contexts.is_empty() {
            return Err(invalid("no metadata context was chosen"));
        }
        if !request.has(command_flag::PAYLOAD_LEN) {
            return self.check_status_range(request);
        }
        let ids_bytes = request.len.saturating_sub(size_of::<u64>() as u64);
        let whole = ids_bytes > 0 && ids_bytes.is_multiple_of(ID_BYTES as u64);
        if !whole || request.len > FILTER_BYTES_MAX as u64 {
            let text = format!(
                "a payload of {} bytes is no length with metadata contexts each named once",
                request.len
            );
            return Err(invalid(text));
        }
        Ok(())
    }

    fn check_status_range(&self, request: &RequestHeader) -> Result<(), ReplyError> {
        if request.len == 0 {
            return Err(invalid("an empty range has no status"));
        }
        self.check_range(request, NbdError::Invalid)
    }

    /// What a BLOCK_STATUS with this payload asks for: the request with the length it is about,
    /// and which contexts.
    pub fn filter(
        &self,
        request: RequestHeader,
        payload: &[u8],
    ) -> Result<(RequestHeader, ContextSet), ReplyError> {
        let mut reader = Reader::new(payload);
        let len = reader.u64().expect("the length was checked");
        let mut wanted = ContextSet::default();
        while let Some(id) = reader.u32() {
            let context = Context::of_id(id).filter(|c| self.contexts.contains(*c));
            if !context.is_some_and(|context| wanted.insert(context)) {
                let text = format!("metadata context {id} was not chosen, or is named twice");
                return Err(invalid(text));
            }
        }
        let request = RequestHeader { len, ..request };
        self.check_status_range(&request)?;
        Ok((request, wanted))
    }

    fn check_range(&self, request: &RequestHeader, errno: NbdError) -> Result<(), ReplyError> {
        match request.offset.checked_add(request.len) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => {
                let RequestHeader { offset, len, .. } = request;
                let size = self.size_bytes;
                let text = format!("{len} bytes at {offset} reach past the end of {size} bytes");
                Err(ReplyError::new(errno, text))
            }
        }
    }
}

fn invalid(text: impl Into<String>) -> ReplyError {
    ReplyError::new(NbdError::Invalid, text)
}

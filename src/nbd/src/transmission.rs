//! The transmission phase: requests in, replies out.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use uraid_buffer::{ALIGNMENT, Buf, BufMut, Pool};

use crate::export::Export;
use crate::output::{Load, Output};
use crate::reply::{self, ReplyError};
use crate::wire::{NbdError, REQUEST_BYTES, RequestHeader, command, command_flag};

/// Most bytes one request may read or carry, as advertised.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Most requests of one client that are under way, replies not yet sent included.
pub const IN_FLIGHT_REQUESTS_MAX: usize = 256;
/// From this many bytes under way on, no further request is taken; hence one session holds less
/// than this plus one payload.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// A payload of which at most this much is missing is copied out of the received bytes; for
/// more, the host is offered the request's own buffer.
pub const PAYLOAD_COPY_BYTES_MAX: usize = 16 << 10;

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
        len: u32,
        /// Durable before the answer.
        fua: bool,
    },
    /// The range reads as zero afterwards.
    WriteZeroes {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to zero.
        len: u32,
        /// Durable before the answer.
        fua: bool,
        /// Whether the space may be given back.
        may_trim: bool,
    },
}

/// Why input ends.
pub(crate) enum Stop {
    /// The client said so.
    Disconnected,
    /// The connection must be dropped.
    Violation(String),
}

/// What the next byte of input belongs to.
enum Input {
    Header {
        bytes: [u8; REQUEST_BYTES],
        filled: usize,
    },
    Payload(Payload),
    /// The payload of a refused request.
    Discard {
        request: RequestHeader,
        remaining: usize,
        refusal: ReplyError,
    },
}

const NEXT_HEADER: Input = Input::Header {
    bytes: [0; REQUEST_BYTES],
    filled: 0,
};

/// The payload of a WRITE on its way in.
struct Payload {
    request: RequestHeader,
    /// None while the host receives into it.
    buffer: Option<BufMut>,
    /// Where the next byte goes; the end is the buffer's.
    next: usize,
    end: usize,
}

impl Payload {
    fn new(request: RequestHeader, pool: &Pool) -> Payload {
        let head = offset_in_block(request.offset);
        let end = head + request.len as usize;
        Payload {
            request,
            buffer: Some(pool.take(end)),
            next: head,
            end,
        }
    }
}

/// A request handed out or about to be.
struct Pending {
    request: RequestHeader,
    load: Load,
}

pub(crate) struct Transmission {
    pub export_index: usize,
    size_bytes: u64,
    read_only: bool,
    structured: bool,
    shutting_down: bool,
    pub pool: Pool,
    input: Input,
    ready: VecDeque<ClientRequest>,
    /// By cookie: everything in `ready` and everything the host is working on.
    pending: BTreeMap<u64, Pending>,
    next_cookie: u64,
    load: Load,
}

impl Transmission {
    pub fn new(export_index: usize, export: &Export, structured: bool, pool: Pool) -> Transmission {
        Transmission {
            export_index,
            size_bytes: export.size_bytes,
            read_only: export.read_only,
            structured,
            shutting_down: false,
            pool,
            input: NEXT_HEADER,
            ready: VecDeque::new(),
            pending: BTreeMap::new(),
            next_cookie: 0,
            load: Load::default(),
        }
    }

    /// Refuses every request from now on; those under way go on.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    pub fn wants_input(&self) -> bool {
        match &self.input {
            Input::Header { filled: 0, .. } => {
                self.load.requests < IN_FLIGHT_REQUESTS_MAX && self.load.bytes < IN_FLIGHT_BYTES_MAX
            }
            Input::Payload(payload) => payload.buffer.is_some(),
            Input::Header { .. } | Input::Discard { .. } => true,
        }
    }

    pub fn is_mid_message(&self) -> bool {
        !matches!(self.input, Input::Header { filled: 0, .. })
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes some of `bytes`, at least one; to be called while input is wanted.
    pub fn receive(&mut self, bytes: &[u8], output: &mut Output) -> (usize, Option<Stop>) {
        match &mut self.input {
            Input::Header {
                bytes: header,
                filled,
            } => {
                let taken = (REQUEST_BYTES - *filled).min(bytes.len());
                header[*filled..*filled + taken].copy_from_slice(&bytes[..taken]);
                *filled += taken;
                if *filled < REQUEST_BYTES {
                    return (taken, None);
                }
                let header = *header;
                self.input = NEXT_HEADER;
                (taken, self.request(&header, output))
            }
            Input::Payload(payload) => {
                let taken = (payload.end - payload.next).min(bytes.len());
                let buffer = payload
                    .buffer
                    .as_mut()
                    .expect("input is not wanted while lent");
                buffer[payload.next..payload.next + taken].copy_from_slice(&bytes[..taken]);
                self.payload_received(taken);
                (taken, None)
            }
            Input::Discard {
                request,
                remaining,
                refusal,
            } => {
                let taken = (*remaining).min(bytes.len());
                *remaining -= taken;
                if *remaining == 0 {
                    let (request, refusal) = (*request, refusal.clone());
                    self.input = NEXT_HEADER;
                    self.answer(&request, one_request(), Err(refusal), output);
                }
                (taken, None)
            }
        }
    }

    fn request(&mut self, header: &[u8; REQUEST_BYTES], output: &mut Output) -> Option<Stop> {
        let Some(request) = RequestHeader::decode(header) else {
            let text = format!(
                "request starts with {:02x?}, not the magic number",
                &header[..4]
            );
            return Some(Stop::Violation(text));
        };
        if request.command == command::DISC {
            return Some(Stop::Disconnected);
        }
        let carries_payload = request.command == command::WRITE && request.len > 0;
        if carries_payload && request.len > PAYLOAD_BYTES_MAX {
            let text = format!(
                "write of {} bytes, {PAYLOAD_BYTES_MAX} allowed",
                request.len
            );
            return Some(Stop::Violation(text));
        }
        self.load.add(one_request());
        match self.check(&request) {
            Err(refusal) if carries_payload => {
                self.input = Input::Discard {
                    request,
                    remaining: request.len as usize,
                    refusal,
                };
            }
            Err(refusal) => self.answer(&request, one_request(), Err(refusal), output),
            // The protocol leaves empty requests open; doing nothing is done at once.
            Ok(()) if request.len == 0 && request.command != command::FLUSH => {
                self.answer(&request, one_request(), Ok(Vec::new()), output);
            }
            Ok(()) if carries_payload => {
                let payload = Payload::new(request, &self.pool);
                self.load.bytes += payload.end;
                self.input = Input::Payload(payload);
            }
            Ok(()) => self.hand_out_without_payload(request),
        }
        None
    }

    /// Whether the request can be served at all.
    fn check(&self, request: &RequestHeader) -> Result<(), ReplyError> {
        let invalid = |text: String| Err(ReplyError::new(NbdError::Invalid, text));
        if self.shutting_down {
            return Err(ReplyError::new(
                NbdError::ShuttingDown,
                "the server is shutting down",
            ));
        }
        // FUA is allowed on everything, as some clients set it on everything.
        let extra_flags = match request.command {
            command::READ if self.structured => command_flag::DF,
            command::WRITE_ZEROES => command_flag::NO_HOLE,
            command::READ | command::WRITE | command::FLUSH | command::TRIM => 0,
            unknown => return invalid(format!("command {unknown} is not offered")),
        };
        if request.flags & !(command_flag::FUA | extra_flags) != 0 {
            let (flags, command) = (request.flags, request.command);
            return invalid(format!(
                "flags {flags:#x} are not valid for command {command}"
            ));
        }
        match request.command {
            command::FLUSH if request.offset != 0 || request.len != 0 => {
                invalid("a flush has no offset and no length".into())
            }
            command::FLUSH => Ok(()),
            command::READ if request.len > PAYLOAD_BYTES_MAX => invalid(format!(
                "read of {} bytes, {PAYLOAD_BYTES_MAX} allowed",
                request.len
            )),
            command::READ => self.check_range(request, NbdError::Invalid),
            _ if self.read_only => Err(ReplyError::new(
                NbdError::NotPermitted,
                "the export is read-only",
            )),
            command::TRIM => self.check_range(request, NbdError::Invalid),
            _ => self.check_range(request, NbdError::NoSpace),
        }
    }

    fn check_range(&self, request: &RequestHeader, errno: NbdError) -> Result<(), ReplyError> {
        match request.offset.checked_add(u64::from(request.len)) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => {
                let RequestHeader { offset, len, .. } = request;
                let size = self.size_bytes;
                let text = format!("{len} bytes at {offset} reach past the end of {size} bytes");
                Err(ReplyError::new(errno, text))
            }
        }
    }

    fn hand_out_without_payload(&mut self, request: RequestHeader) {
        let RequestHeader { offset, len, .. } = request;
        let fua = request.has(command_flag::FUA);
        let (kind, bytes) = match request.command {
            command::READ => (RequestKind::Read { offset, len }, len as usize),
            command::FLUSH => (RequestKind::Flush, 0),
            command::TRIM => (RequestKind::Trim { offset, len, fua }, 0),
            command::WRITE_ZEROES => {
                let may_trim = !request.has(command_flag::NO_HOLE);
                (
                    RequestKind::WriteZeroes {
                        offset,
                        len,
                        fua,
                        may_trim,
                    },
                    0,
                )
            }
            other => unreachable!("command {other} was checked"),
        };
        self.load.bytes += bytes;
        self.hand_out(request, kind, bytes);
    }

    fn hand_out(&mut self, request: RequestHeader, kind: RequestKind, bytes: usize) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.pending.insert(
            cookie,
            Pending {
                request,
                load: Load { requests: 1, bytes },
            },
        );
        self.ready.push_back(ClientRequest {
            cookie,
            export: self.export_index,
            kind,
        });
    }

    /// The buffer of a large payload and the part of it to be filled.
    pub fn take_payload(&mut self) -> Option<(BufMut, Range<usize>)> {
        let Input::Payload(payload) = &mut self.input else {
            return None;
        };
        if payload.end - payload.next <= PAYLOAD_COPY_BYTES_MAX {
            return None;
        }
        payload
            .buffer
            .take()
            .map(|buffer| (buffer, payload.next..payload.end))
    }

    /// Takes the lent buffer back with `received` more bytes in it.
    pub fn return_payload(&mut self, buffer: BufMut, received: usize) {
        // Input may have ended meanwhile; then the payload is of no use.
        let Input::Payload(payload) = &mut self.input else {
            return;
        };
        assert!(payload.buffer.is_none(), "no payload buffer was lent");
        assert!(buffer.len() == payload.end, "not the buffer that was lent");
        assert!(
            received <= payload.end - payload.next,
            "received past the payload's end"
        );
        payload.buffer = Some(buffer);
        self.payload_received(received);
    }

    fn payload_received(&mut self, received: usize) {
        let Input::Payload(payload) = &mut self.input else {
            unreachable!("a payload came in")
        };
        payload.next += received;
        if payload.next < payload.end {
            return;
        }
        let Input::Payload(payload) = core::mem::replace(&mut self.input, NEXT_HEADER) else {
            unreachable!("matched above")
        };
        let Payload {
            request,
            buffer,
            end,
            ..
        } = payload;
        let whole = buffer.expect("the buffer is back").freeze();
        let data = whole.slice(offset_in_block(request.offset)..end);
        let fua = request.has(command_flag::FUA);
        self.hand_out(
            request,
            RequestKind::Write {
                offset: request.offset,
                data,
                fua,
            },
            end,
        );
    }

    pub fn next_request(&mut self) -> Option<ClientRequest> {
        self.ready.pop_front()
    }

    /// Queues the reply to a request handed out.
    pub fn reply(
        &mut self,
        cookie: u64,
        result: Result<Vec<Buf>, ReplyError>,
        output: &mut Output,
    ) {
        let pending = self
            .pending
            .remove(&cookie)
            .unwrap_or_else(|| panic!("request {cookie} is not pending"));
        self.answer(&pending.request, pending.load, result, output);
    }

    fn answer(
        &mut self,
        request: &RequestHeader,
        load: Load,
        result: Result<Vec<Buf>, ReplyError>,
        output: &mut Output,
    ) {
        if let Ok(data) = &result {
            let len: usize = data.iter().map(|buf| buf.len()).sum();
            let expected = if request.command == command::READ {
                request.len as usize
            } else {
                0
            };
            assert!(
                len == expected,
                "reply of {len} bytes where {expected} were asked for"
            );
        }
        reply::put(output, request, result, self.structured);
        output.end_reply(load);
    }

    /// Replies of this load are sent: room for more requests.
    pub fn release(&mut self, load: Load) {
        self.load.subtract(load);
    }

    /// No more input comes: forgets a request that has arrived in part.
    pub fn end_input(&mut self) {
        self.input = NEXT_HEADER;
    }

    /// Nobody waits for replies any more: forgets requests that were not handed out yet.
    pub fn abandon(&mut self) {
        self.end_input();
        for request in self.ready.drain(..) {
            self.pending.remove(&request.cookie);
        }
    }

    /// Forgets a request handed out, its reply being of no use any more.
    pub fn forget(&mut self, cookie: u64) {
        self.pending
            .remove(&cookie)
            .unwrap_or_else(|| panic!("request {cookie} is not pending"));
    }
}

fn one_request() -> Load {
    Load {
        requests: 1,
        bytes: 0,
    }
}

/// Where in its block a byte offset lies, so that blocks of the export are blocks in memory.
fn offset_in_block(offset: u64) -> usize {
    (offset % ALIGNMENT as u64) as usize
}

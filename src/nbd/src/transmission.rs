//! The transmission phase: requests in, replies out.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use core::ops::Range;

use uraid_buffer::{ALIGNMENT, BufMut, Pool};

use crate::check::{FILTER_BYTES_MAX, Limits};
use crate::context::ContextSet;
use crate::export::Export;
use crate::output::{Load, Output};
use crate::reply::{Asked, ReplyError};
use crate::request::{Answer, ClientRequest, PAYLOAD_BYTES_MAX, RequestKind};
use crate::wire::{Dialect, EXTENDED_REQUEST_BYTES, RequestHeader, command, command_flag};

/// Most requests of one client that are under way, replies not yet sent included.
pub const IN_FLIGHT_REQUESTS_MAX: usize = 256;
/// From this many bytes under way on, no further request is taken; hence one session holds less
/// than this plus one payload.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// A payload of which at most this much is missing is copied out of the received bytes; for
/// more, the host is offered the request's own buffer.
pub const PAYLOAD_COPY_BYTES_MAX: usize = 16 << 10;

/// What the negotiation came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    /// Index of the export.
    pub export: usize,
    pub dialect: Dialect,
    pub contexts: ContextSet,
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
        bytes: [u8; EXTENDED_REQUEST_BYTES],
        filled: usize,
    },
    Payload(Payload),
    /// The payload of a BLOCK_STATUS.
    Filter {
        request: RequestHeader,
        bytes: [u8; FILTER_BYTES_MAX],
        filled: usize,
    },
    /// The payload of a refused request.
    Discard {
        request: RequestHeader,
        remaining: usize,
        refusal: ReplyError,
    },
}

const NEXT_HEADER: Input = Input::Header {
    bytes: [0; EXTENDED_REQUEST_BYTES],
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
    asked: Asked,
    load: Load,
}

pub(crate) struct Transmission {
    pub export_index: usize,
    limits: Limits,
    pub pool: Pool,
    input: Input,
    ready: VecDeque<ClientRequest>,
    /// By cookie: everything in `ready` and everything the host is working on.
    pending: BTreeMap<u64, Pending>,
    next_cookie: u64,
    load: Load,
}

impl Transmission {
    pub fn new(chosen: Chosen, export: &Export, pool: Pool) -> Transmission {
        Transmission {
            export_index: chosen.export,
            limits: Limits {
                dialect: chosen.dialect,
                contexts: chosen.contexts,
                size_bytes: export.size_bytes,
                read_only: export.read_only,
            },
            pool,
            input: NEXT_HEADER,
            ready: VecDeque::new(),
            pending: BTreeMap::new(),
            next_cookie: 0,
            load: Load::default(),
        }
    }

    pub fn wants_input(&self) -> bool {
        match &self.input {
            Input::Header { filled: 0, .. } => {
                self.load.requests < IN_FLIGHT_REQUESTS_MAX && self.load.bytes < IN_FLIGHT_BYTES_MAX
            }
            Input::Payload(payload) => payload.buffer.is_some(),
            Input::Header { .. } | Input::Filter { .. } | Input::Discard { .. } => true,
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
                let wanted = &mut header[..self.limits.dialect.request_bytes()];
                let taken = fill(wanted, filled, bytes);
                if *filled < wanted.len() {
                    return (taken, None);
                }
                let request = RequestHeader::decode(wanted, self.limits.dialect);
                let start = [wanted[0], wanted[1], wanted[2], wanted[3]];
                self.input = NEXT_HEADER;
                let stop = match request {
                    Some(request) => self.request(request, output),
                    None => {
                        let text =
                            format!("request starts with {start:02x?}, not the magic number");
                        Some(Stop::Violation(text))
                    }
                };
                (taken, stop)
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
            Input::Filter {
                request,
                bytes: payload,
                filled,
            } => {
                let wanted = &mut payload[..request.len as usize];
                let taken = fill(wanted, filled, bytes);
                if *filled == wanted.len() {
                    let request = *request;
                    let filtered = self.limits.filter(request, wanted);
                    self.input = NEXT_HEADER;
                    match filtered {
                        Ok((request, contexts)) => self.hand_out_status(request, contexts),
                        Err(refusal) => self.answer(request, Err(refusal), output),
                    }
                }
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
                    self.answer(request, Err(refusal), output);
                }
                (taken, None)
            }
        }
    }

    fn request(&mut self, request: RequestHeader, output: &mut Output) -> Option<Stop> {
        if request.command == command::DISC {
            return Some(Stop::Disconnected);
        }
        let payload_bytes = self.limits.payload_bytes(&request);
        if payload_bytes > PAYLOAD_BYTES_MAX.into() {
            let command = request.command;
            let text = format!(
                "command {command} with {payload_bytes} bytes of payload, \
                 {PAYLOAD_BYTES_MAX} allowed"
            );
            return Some(Stop::Violation(text));
        }
        self.load.add(one_request());
        match self.limits.check(&request) {
            Err(refusal) if payload_bytes > 0 => {
                self.input = Input::Discard {
                    request,
                    remaining: payload_bytes as usize,
                    refusal,
                };
            }
            Err(refusal) => self.answer(request, Err(refusal), output),
            // The protocol leaves empty requests open; doing nothing is done at once. Nothing is
            // cached that a CACHE could bring in.
            Ok(()) if is_done_at_once(&request) => {
                self.answer(request, Ok(Answer::Done), output);
            }
            Ok(()) if request.command == command::WRITE => {
                let payload = Payload::new(request, &self.pool);
                self.load.bytes += payload.end;
                self.input = Input::Payload(payload);
            }
            Ok(()) if request.has(command_flag::PAYLOAD_LEN) => {
                self.input = Input::Filter {
                    request,
                    bytes: [0; FILTER_BYTES_MAX],
                    filled: 0,
                };
            }
            Ok(()) => self.hand_out_without_payload(request),
        }
        None
    }

    fn hand_out_without_payload(&mut self, request: RequestHeader) {
        let RequestHeader { offset, len, .. } = request;
        let fua = request.has(command_flag::FUA);
        let kind = match request.command {
            command::READ => RequestKind::Read {
                offset,
                len: u32::try_from(len).expect("reads are limited"),
            },
            command::FLUSH => RequestKind::Flush,
            command::TRIM => RequestKind::Trim { offset, len, fua },
            command::WRITE_ZEROES => RequestKind::WriteZeroes {
                offset,
                len,
                fua,
                keep_space: request.has(command_flag::NO_HOLE),
                only_if_fast: request.has(command_flag::FAST_ZERO),
            },
            command::BLOCK_STATUS => return self.hand_out_status(request, self.limits.contexts),
            other => unreachable!("command {other} was checked"),
        };
        let bytes = kind.payload_bytes() as usize;
        self.load.bytes += bytes;
        self.hand_out(self.asked(request), kind, bytes);
    }

    fn hand_out_status(&mut self, request: RequestHeader, contexts: ContextSet) {
        let RequestHeader { offset, len, .. } = request;
        let kind = RequestKind::BlockStatus { offset, len };
        let bytes = kind.payload_bytes() as usize;
        self.load.bytes += bytes;
        let asked = Asked {
            contexts,
            ..self.asked(request)
        };
        self.hand_out(asked, kind, bytes);
    }

    fn hand_out(&mut self, asked: Asked, kind: RequestKind, bytes: usize) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let load = Load { requests: 1, bytes };
        self.pending.insert(cookie, Pending { asked, load });
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
        let kind = RequestKind::Write {
            offset: request.offset,
            data: whole.slice(offset_in_block(request.offset)..end),
            fua: request.has(command_flag::FUA),
        };
        self.hand_out(self.asked(request), kind, end);
    }

    pub fn next_request(&mut self) -> Option<ClientRequest> {
        self.ready.pop_front()
    }

    /// Queues the reply to a request handed out.
    pub fn reply(&mut self, cookie: u64, result: Result<Answer, ReplyError>, output: &mut Output) {
        let Pending { asked, load } = self.take_pending(cookie);
        asked.put(result, output);
        output.end_reply(load);
    }

    /// Queues the reply to a request that was not handed out.
    fn answer(
        &mut self,
        request: RequestHeader,
        result: Result<Answer, ReplyError>,
        output: &mut Output,
    ) {
        self.asked(request).put(result, output);
        output.end_reply(one_request());
    }

    fn asked(&self, request: RequestHeader) -> Asked {
        Asked {
            request,
            dialect: self.limits.dialect,
            contexts: ContextSet::default(),
        }
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
        self.take_pending(cookie);
    }

    fn take_pending(&mut self, cookie: u64) -> Pending {
        let pending = self.pending.remove(&cookie);
        pending.unwrap_or_else(|| panic!("request {cookie} is not pending"))
    }
}

/// Copies what fits behind what is filled already; says how much.
fn fill(wanted: &mut [u8], filled: &mut usize, bytes: &[u8]) -> usize {
    let taken = (wanted.len() - *filled).min(bytes.len());
    wanted[*filled..*filled + taken].copy_from_slice(&bytes[..taken]);
    *filled += taken;
    taken
}

/// Whether there is nothing to be done for a request that was found good.
fn is_done_at_once(request: &RequestHeader) -> bool {
    match request.command {
        command::CACHE => true,
        command::FLUSH | command::BLOCK_STATUS => false,
        _ => request.len == 0,
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

//! The client's side of the protocol, for tests and tools: as pure as the server's.
//!
//! [`Client::receive`] takes the server's bytes, [`Client::take_output`] gives the bytes to send.
//! Once [`Client::info`] is there, requests may be sent, and replies come out in the server's
//! order.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::wire::{
    self, Reader, RequestHeader, chunk, command, command_flag, handshake_flag, info, option,
    option_reply,
};

/// Most data of a reply to an option, and most payload of a chunk besides what was asked for: a
/// text and some numbers.
pub const REPLY_EXTRA_BYTES_MAX: usize = 2 * wire::STRING_BYTES_MAX;

/// What a client can ask of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Read `len` bytes.
    Read {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to read.
        len: u32,
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
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Zero the range.
    WriteZeroes {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to zero.
        len: u32,
        /// Durable before the reply.
        fua: bool,
        /// The range must stay provisioned.
        no_hole: bool,
    },
    /// Say goodbye; there is no reply.
    Disconnect,
}

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
    StructuredReply,
    Go,
    Transmission,
}

/// A request not yet answered in full.
struct Pending {
    offset: u64,
    /// Room for what is read; empty for other requests.
    data: Vec<u8>,
    error: Option<RequestError>,
}

/// A client of one export.
pub struct Client {
    export: String,
    want_structured: bool,
    stage: Stage,
    input: Vec<u8>,
    output: Vec<u8>,
    info: ExportInfo,
    pending: BTreeMap<u64, Pending>,
    replies: VecDeque<Reply>,
}

impl Client {
    /// A client that is going to ask for `export`, with structured replies if wanted and offered.
    pub fn new(export: &str, want_structured: bool) -> Client {
        Client {
            export: export.into(),
            want_structured,
            stage: Stage::Greeting,
            input: Vec::new(),
            output: Vec::new(),
            info: ExportInfo::default(),
            pending: BTreeMap::new(),
            replies: VecDeque::new(),
        }
    }

    /// What is known of the export, once requests may be sent.
    pub fn info(&self) -> Option<ExportInfo> {
        (self.stage == Stage::Transmission).then_some(self.info)
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
    /// and if data is longer than 32 bits tell.
    pub fn send(&mut self, handle: u64, request: Command<'_>) {
        assert!(
            self.stage == Stage::Transmission,
            "request before transmission"
        );
        let (command, flags, offset, len) = encode_command(&request);
        let header = RequestHeader {
            flags,
            command,
            handle,
            offset,
            len,
        };
        self.output.extend_from_slice(&header.encode());
        if let Command::Write { data, .. } = request {
            self.output.extend_from_slice(data);
        }
        if request == Command::Disconnect {
            return;
        }
        let read_len = if command == command::READ {
            len as usize
        } else {
            0
        };
        let pending = Pending {
            offset,
            data: alloc::vec![0; read_len],
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
            Stage::StructuredReply | Stage::Go => self.receive_option_reply(input),
            Stage::Transmission => match Reader::new(input).u32() {
                None => Ok(None),
                Some(wire::SIMPLE_REPLY_MAGIC) => self.receive_simple_reply(input),
                Some(wire::STRUCTURED_REPLY_MAGIC) => self.receive_chunk(input),
                Some(other) => Err(violation(format!("reply starts with {other:#x}"))),
            },
        }
    }

    fn receive_greeting(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(greeting) = Reader::new(input).bytes(wire::GREETING_BYTES) else {
            return Ok(None);
        };
        let mut reader = Reader::new(greeting);
        let magics = (reader.u64(), reader.u64());
        if magics != (Some(wire::INIT_MAGIC), Some(wire::OPTION_MAGIC)) {
            return Err(violation("not a newstyle NBD server".into()));
        }
        let flags = reader.u16().unwrap_or(0);
        if flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(violation("server without fixed newstyle".into()));
        }
        let known = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        self.output
            .extend_from_slice(&u32::from(flags & known).to_be_bytes());
        if self.want_structured {
            self.stage = Stage::StructuredReply;
            wire::put_option(&mut self.output, option::STRUCTURED_REPLY, &[]);
        } else {
            self.send_go();
        }
        Ok(Some(wire::GREETING_BYTES))
    }

    fn send_go(&mut self) {
        self.stage = Stage::Go;
        let mut data = Vec::new();
        wire::put_info_request(&mut data, self.export.as_bytes(), &[info::BLOCK_SIZE]);
        wire::put_option(&mut self.output, option::GO, &data);
    }

    fn receive_option_reply(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let mut header = Reader::new(input);
        let fields = (header.u64(), header.u32(), header.u32(), header.u32());
        let (Some(magic), Some(_option), Some(_reply), Some(len)) = fields else {
            return Ok(None);
        };
        if magic != wire::OPTION_REPLY_MAGIC || len as usize > REPLY_EXTRA_BYTES_MAX {
            let what = format!("option reply starts with {magic:#x} and has {len} bytes");
            return Err(violation(what));
        }
        let Some((_option, reply, data)) = split_option_reply(input) else {
            return Ok(None);
        };
        match (self.stage, reply) {
            // Without structured replies a server is still of use.
            (Stage::StructuredReply, _) => self.send_go(),
            (_, option_reply::ACK) => self.stage = Stage::Transmission,
            (_, option_reply::INFO) => self.receive_info(data),
            (_, other) => {
                let (name, text) = (&self.export, String::from_utf8_lossy(data));
                let text = format!("export {name:?} refused with error {other:#x}: {text}");
                return Err(ProtocolError(text));
            }
        }
        Ok(Some(wire::OPTION_REPLY_HEADER_BYTES + data.len()))
    }

    fn receive_info(&mut self, data: &[u8]) {
        let mut reader = Reader::new(data);
        match reader.u16() {
            Some(info::EXPORT) => {
                self.info.size_bytes = reader.u64().unwrap_or(0);
                self.info.flags = reader.u16().unwrap_or(0);
            }
            Some(info::BLOCK_SIZE) => {
                self.info.minimum_block_bytes = reader.u32().unwrap_or(0);
                self.info.preferred_block_bytes = reader.u32().unwrap_or(0);
                self.info.payload_bytes_max = reader.u32().unwrap_or(0);
            }
            _ => {}
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
            len += data.len();
        } else {
            pending.error = Some(RequestError {
                errno,
                text: String::new(),
                offset: None,
            });
        }
        self.finish(handle);
        Ok(Some(len))
    }

    fn receive_chunk(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let mut header = Reader::new(input);
        let fields = (header.u64(), header.u64(), header.u32());
        let (_, Some(handle), Some(len)) = fields else {
            return Ok(None);
        };
        let pending = self
            .pending
            .get_mut(&handle)
            .ok_or_else(|| unknown_handle(handle))?;
        if len as usize > pending.data.len() + REPLY_EXTRA_BYTES_MAX {
            let what = format!("chunk of {len} bytes for request {handle}");
            return Err(violation(what));
        }
        let Some((flags, kind, _, payload)) = split_chunk(input) else {
            return Ok(None);
        };
        pending.take_chunk(kind, payload).ok_or_else(|| {
            violation(format!(
                "chunk of type {kind:#x} does not fit request {handle}"
            ))
        })?;
        if flags & chunk::FLAG_DONE != 0 {
            self.finish(handle);
        }
        Ok(Some(wire::CHUNK_HEADER_BYTES + payload.len()))
    }

    fn finish(&mut self, handle: u64) {
        let Some(pending) = self.pending.remove(&handle) else {
            return;
        };
        let result = match pending.error {
            Some(error) => Err(error),
            None => Ok(pending.data),
        };
        self.replies.push_back(Reply { handle, result });
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
                Some(())
            }
            _ if kind & chunk::ERROR_BIT != 0 => {
                let errno = reader.u32()?;
                let text_len = usize::from(reader.u16()?);
                let text = String::from_utf8_lossy(reader.bytes(text_len)?).to_string();
                let offset = if kind == chunk::ERROR_OFFSET {
                    Some(reader.u64()?)
                } else {
                    None
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

    /// Where `len` bytes at `offset` of the export belong.
    fn part(&mut self, offset: u64, len: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let end = start.checked_add(len)?;
        self.data.get_mut(start..end)
    }
}

/// Option, reply type and data of the reply `input` starts with; `None` if it is not whole.
pub fn split_option_reply(input: &[u8]) -> Option<(u32, u32, &[u8])> {
    let mut reader = Reader::new(input);
    let _magic = reader.u64()?;
    let (option, reply, len) = (reader.u32()?, reader.u32()?, reader.u32()?);
    Some((option, reply, reader.bytes(len as usize)?))
}

/// Flags, type, handle and payload of the chunk `input` starts with; `None` if it is not whole.
pub fn split_chunk(input: &[u8]) -> Option<(u16, u16, u64, &[u8])> {
    let mut reader = Reader::new(input);
    let _magic = reader.u32()?;
    let (flags, kind, handle, len) = (reader.u16()?, reader.u16()?, reader.u64()?, reader.u32()?);
    Some((flags, kind, handle, reader.bytes(len as usize)?))
}

/// Command, flags, offset and length of a request.
fn encode_command(request: &Command<'_>) -> (u16, u16, u64, u32) {
    let flag = |set: bool, bit: u16| if set { bit } else { 0 };
    match *request {
        Command::Read { offset, len } => (command::READ, 0, offset, len),
        Command::Write { offset, data, fua } => {
            let len = u32::try_from(data.len()).expect("payload length fits 32 bits");
            (command::WRITE, flag(fua, command_flag::FUA), offset, len)
        }
        Command::Flush => (command::FLUSH, 0, 0, 0),
        Command::Trim { offset, len, fua } => {
            (command::TRIM, flag(fua, command_flag::FUA), offset, len)
        }
        Command::WriteZeroes {
            offset,
            len,
            fua,
            no_hole,
        } => {
            let flags = flag(fua, command_flag::FUA) | flag(no_hole, command_flag::NO_HOLE);
            (command::WRITE_ZEROES, flags, offset, len)
        }
        Command::Disconnect => (command::DISC, 0, 0, 0),
    }
}

fn violation(what: String) -> ProtocolError {
    ProtocolError(format!("the server broke the protocol: {what}"))
}

fn unknown_handle(handle: u64) -> ProtocolError {
    violation(format!("reply to request {handle}, which is not pending"))
}

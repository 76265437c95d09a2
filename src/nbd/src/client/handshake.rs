//! The client's negotiation: the best way of talking that it wants and the server offers, then
//! metadata contexts, then the export.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Client, ProtocolError, REPLY_EXTRA_BYTES_MAX, Stage, split_option_reply, violation};
use crate::wire::{self, Dialect, Reader, handshake_flag, info, option, option_reply};

impl Client {
    pub(super) fn receive_greeting(
        &mut self,
        input: &[u8],
    ) -> Result<Option<usize>, ProtocolError> {
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
        self.ask_for(self.wanted);
        Ok(Some(wire::GREETING_BYTES))
    }

    fn ask_for(&mut self, dialect: Dialect) {
        self.stage = Stage::Dialect(dialect);
        match dialect {
            Dialect::Simple => self.ask_for_export(),
            Dialect::Structured => self.put_option(option::STRUCTURED_REPLY, &[]),
            Dialect::Extended => self.put_option(option::EXTENDED_HEADERS, &[]),
        }
    }

    fn ask_for_contexts(&mut self) {
        if self.wanted_contexts.is_empty() {
            return self.ask_for_export();
        }
        self.stage = Stage::Contexts;
        let mut data = Vec::new();
        let queries: Vec<&[u8]> = self.wanted_contexts.iter().map(|q| q.as_bytes()).collect();
        wire::put_meta_request(&mut data, self.export.as_bytes(), &queries);
        self.put_option(option::SET_META_CONTEXT, &data);
    }

    fn ask_for_export(&mut self) {
        self.stage = Stage::Go;
        let mut data = Vec::new();
        wire::put_info_request(&mut data, self.export.as_bytes(), &[info::BLOCK_SIZE]);
        self.put_option(option::GO, &data);
    }

    fn put_option(&mut self, option: u32, data: &[u8]) {
        wire::put_option(&mut self.output, option, data);
    }

    pub(super) fn receive_option_reply(
        &mut self,
        input: &[u8],
    ) -> Result<Option<usize>, ProtocolError> {
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
            (Stage::Dialect(dialect), option_reply::ACK) => {
                self.dialect = dialect;
                self.ask_for_contexts();
            }
            // A server that understands less is still of use.
            (Stage::Dialect(Dialect::Extended), _) => self.ask_for(Dialect::Structured),
            (Stage::Dialect(_), _) => self.ask_for_export(),
            (Stage::Contexts, option_reply::META_CONTEXT) => self.receive_context(data),
            (Stage::Contexts, _) => self.ask_for_export(),
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

    fn receive_context(&mut self, data: &[u8]) {
        let mut reader = Reader::new(data);
        if let Some(id) = reader.u32() {
            let name = String::from_utf8_lossy(reader.rest()).into_owned();
            self.contexts.insert(id, name);
        }
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
}

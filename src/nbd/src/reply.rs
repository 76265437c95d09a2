//! Replies to requests, as bytes.

use alloc::string::String;
use alloc::vec::Vec;

use uraid_buffer::Span;

use crate::context::{ContextSet, Extent};
use crate::output::Output;
use crate::request::Answer;
use crate::wire::{
    self, Chunk, Dialect, NbdError, RequestHeader, chunk, chunk_header, command, command_flag,
};

/// Longest error text sent to a client.
const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// Most extents of one context in a reply; the protocol's own limit.
const STATUSES_MAX: usize = 1 << 20;

/// Why a request failed, for the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplyError {
    /// The error number.
    pub errno: NbdError,
    /// A sentence for people; only clients with structured replies see it.
    pub text: String,
    /// Byte offset in the export where it happened, if known and inside the request.
    pub offset: Option<u64>,
}

impl ReplyError {
    /// An error of the request as a whole.
    pub fn new(errno: NbdError, text: impl Into<String>) -> ReplyError {
        ReplyError {
            errno,
            text: text.into(),
            offset: None,
        }
    }
}

/// A request to be replied to, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub request: RequestHeader,
    pub dialect: Dialect,
    /// For BLOCK_STATUS: what to tell of.
    pub contexts: ContextSet,
}

impl Asked {
    /// Appends the reply.
    pub fn put(&self, result: Result<Answer, ReplyError>, output: &mut Output) {
        if let Ok(answer) = &result {
            self.assert_fits(answer);
        }
        match self.dialect {
            Dialect::Simple => self.put_simple(result, output),
            Dialect::Structured | Dialect::Extended => self.put_chunks(result, output),
        }
    }

    /// An answer that does not fit the question is the host's mistake, and would confuse the
    /// client for good.
    fn assert_fits(&self, answer: &Answer) {
        let RequestHeader { command, len, .. } = self.request;
        match answer {
            Answer::Done => assert!(
                len == 0 || (command != command::READ && command != command::BLOCK_STATUS),
                "command {command} wants data for an answer"
            ),
            Answer::Data(spans) => {
                let given = Span::total_bytes(spans);
                assert!(
                    command == command::READ && given == len,
                    "reply of {given} bytes to command {command} where {len} were asked for"
                );
            }
            Answer::Extents(extents) => {
                let told: u64 = extents.iter().map(|extent| extent.len).sum();
                assert!(
                    command == command::BLOCK_STATUS && (1..=len).contains(&told),
                    "extents of {told} bytes to command {command} where {len} were asked for"
                );
            }
        }
    }

    fn put_simple(&self, result: Result<Answer, ReplyError>, output: &mut Output) {
        let handle = self.request.handle;
        match result {
            Ok(Answer::Data(spans)) => {
                output.push_small(&wire::simple_reply(handle, 0));
                spans.into_iter().for_each(|span| output.push_span(span));
            }
            Ok(_) => output.push_small(&wire::simple_reply(handle, 0)),
            Err(error) => output.push_small(&wire::simple_reply(handle, error.errno as u32)),
        }
    }

    /// The whole answer is known before any of it is sent: the last chunk of content is also the
    /// last of the reply.
    fn put_chunks(&self, result: Result<Answer, ReplyError>, output: &mut Output) {
        match result {
            Ok(Answer::Data(spans)) if self.request.len > 0 => self.put_data(spans, output),
            Ok(Answer::Extents(extents)) => self.put_extents(&extents, output),
            Ok(_) => self.put_header(true, chunk::NONE, 0, output),
            Err(error) => self.put_error(&error, output),
        }
    }

    fn put_header(&self, done: bool, kind: u16, len: usize, output: &mut Output) {
        let chunk = Chunk { done, kind, len };
        output.push_small(&chunk_header(self.dialect, &self.request, chunk));
    }

    /// A chunk for each run of data and each run of zeros; one for all if the client cannot put
    /// them together.
    fn put_data(&self, spans: Vec<Span>, output: &mut Output) {
        let is_zeros = |span: &Span| matches!(span, Span::Zeros(_));
        let whole = self.request.has(command_flag::DF) && !spans.iter().all(is_zeros);
        let mut offset = self.request.offset;
        let mut left = self.request.len;
        let mut spans = spans.into_iter().filter(|s| s.bytes() > 0).peekable();
        while let Some(first) = spans.next() {
            let zeros = is_zeros(&first) && !whole;
            let mut run = alloc::vec![first];
            while let Some(next) = spans.next_if(|next| whole || is_zeros(next) == zeros) {
                run.push(next);
            }
            let len = Span::total_bytes(&run);
            left -= len;
            if zeros {
                let payload_bytes = size_of::<u64>() + size_of::<u32>();
                self.put_header(left == 0, chunk::OFFSET_HOLE, payload_bytes, output);
                output.push_small(&offset.to_be_bytes());
                let hole = u32::try_from(len).expect("reads are short");
                output.push_small(&hole.to_be_bytes());
            } else {
                let payload_bytes = size_of::<u64>() + len as usize;
                self.put_header(left == 0, chunk::OFFSET_DATA, payload_bytes, output);
                output.push_small(&offset.to_be_bytes());
                run.into_iter().for_each(|span| output.push_span(span));
            }
            offset += len;
        }
    }

    /// A chunk for each context.
    fn put_extents(&self, extents: &[Extent], output: &mut Output) {
        let count = match self.request.has(command_flag::REQ_ONE) {
            true => 1,
            false => STATUSES_MAX,
        };
        let mut contexts = self.contexts.iter().peekable();
        while let Some(context) = contexts.next() {
            let statuses = context.statuses(extents, count);
            let done = contexts.peek().is_none();
            let mut payload = context.id().to_be_bytes().to_vec();
            if self.dialect == Dialect::Extended {
                let count = u32::try_from(statuses.len()).expect("they are limited");
                payload.extend_from_slice(&count.to_be_bytes());
                for (len, status) in statuses {
                    payload.extend_from_slice(&len.to_be_bytes());
                    payload.extend_from_slice(&u64::from(status).to_be_bytes());
                }
                self.put_header(done, chunk::BLOCK_STATUS_EXT, payload.len(), output);
            } else {
                for (len, status) in statuses {
                    let len = u32::try_from(len).expect("not longer than what was asked for");
                    payload.extend_from_slice(&len.to_be_bytes());
                    payload.extend_from_slice(&status.to_be_bytes());
                }
                self.put_header(done, chunk::BLOCK_STATUS, payload.len(), output);
            }
            output.push_small(&payload);
        }
    }

    fn put_error(&self, error: &ReplyError, output: &mut Output) {
        let request = &self.request;
        let text = shortened(&error.text).as_bytes();
        let text_len = u16::try_from(text.len()).expect("cut to less");
        let range = request.offset..request.offset.saturating_add(request.len);
        let offset = error.offset.filter(|offset| range.contains(offset));
        let kind = match offset {
            Some(_) => chunk::ERROR_OFFSET,
            None => chunk::ERROR,
        };
        let offset_bytes = offset.map(u64::to_be_bytes);
        let offset_bytes = offset_bytes.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let len = size_of::<u32>() + size_of::<u16>() + text.len() + offset_bytes.len();
        self.put_header(true, kind, len, output);
        output.push_small(&(error.errno as u32).to_be_bytes());
        output.push_small(&text_len.to_be_bytes());
        output.push_small(text);
        output.push_small(offset_bytes);
    }
}

/// `text` cut to what is sent, between characters.
fn shortened(text: &str) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=ERROR_TEXT_BYTES_MAX.min(text.len())).rev().find(fits);
    &text[..end.expect("the start is a boundary")]
}

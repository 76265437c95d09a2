//! Replies to requests, as bytes.

use alloc::string::String;
use alloc::vec::Vec;

use uraid_buffer::Buf;

use crate::output::Output;
use crate::wire::{self, NbdError, RequestHeader, chunk, command};

/// Longest error text sent to a client.
const ERROR_TEXT_BYTES_MAX: usize = 1024;

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

/// Appends the reply to `request`: for a read with its data, otherwise with none.
pub(crate) fn put(
    output: &mut Output,
    request: &RequestHeader,
    result: Result<Vec<Buf>, ReplyError>,
    structured: bool,
) {
    if structured {
        put_structured(request, result, output);
    } else {
        put_simple(request, result, output);
    }
}

fn put_simple(request: &RequestHeader, result: Result<Vec<Buf>, ReplyError>, output: &mut Output) {
    match result {
        Ok(data) => {
            output.push_small(&wire::simple_reply(request.handle, 0));
            data.into_iter().for_each(|buf| output.push_data(buf));
        }
        Err(error) => output.push_small(&wire::simple_reply(request.handle, error.errno as u32)),
    }
}

/// One chunk, always: the whole answer is known before any of it is sent.
fn put_structured(
    request: &RequestHeader,
    result: Result<Vec<Buf>, ReplyError>,
    output: &mut Output,
) {
    let handle = request.handle;
    match result {
        Ok(data) if request.command == command::READ && request.len > 0 => {
            let len = size_of::<u64>() + request.len as usize;
            output.push_small(&wire::last_chunk_header(handle, chunk::OFFSET_DATA, len));
            output.push_small(&request.offset.to_be_bytes());
            data.into_iter().for_each(|buf| output.push_data(buf));
        }
        Ok(_) => output.push_small(&wire::last_chunk_header(handle, chunk::NONE, 0)),
        Err(error) => put_error_chunk(request, &error, output),
    }
}

fn put_error_chunk(request: &RequestHeader, error: &ReplyError, output: &mut Output) {
    let text = shortened(&error.text).as_bytes();
    let text_len = u16::try_from(text.len()).expect("cut to less");
    let range = request.offset..request.offset.saturating_add(u64::from(request.len));
    let offset = error.offset.filter(|offset| range.contains(offset));
    let kind = if offset.is_some() {
        chunk::ERROR_OFFSET
    } else {
        chunk::ERROR
    };
    let offset_bytes = offset.map(u64::to_be_bytes);
    let offset_bytes = offset_bytes.as_ref().map_or(&[][..], |bytes| &bytes[..]);
    let len = size_of::<u32>() + size_of::<u16>() + text.len() + offset_bytes.len();
    output.push_small(&wire::last_chunk_header(request.handle, kind, len));
    output.push_small(&(error.errno as u32).to_be_bytes());
    output.push_small(&text_len.to_be_bytes());
    output.push_small(text);
    output.push_small(offset_bytes);
}

/// `text` cut to what is sent, between characters.
fn shortened(text: &str) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=ERROR_TEXT_BYTES_MAX.min(text.len())).rev().find(fits);
    &text[..end.expect("the start is a boundary")]
}

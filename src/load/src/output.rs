//! Requests that are to be sent, as many at a time as the socket takes.

use crate::load::{BLOCK_BYTES, REQUEST_BYTES_MAX};
use crate::places::Random;
use crate::socket::Socket;
use std::array;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use uraid_nbd::wire::{Dialect, RequestHeader, command};

/// Pieces given to the kernel at once.
const SLICES_MAX: usize = 64;
/// What is written is taken from here; random, so that nobody compresses it.
const CONTENT_BYTES: usize = 2 * REQUEST_BYTES_MAX;

/// The queue of what is not sent yet. Its length is bounded by the requests under way.
pub struct Output {
    content: Vec<u8>,
    requests: VecDeque<Request>,
    /// So many bytes of the first request are sent.
    sent_bytes: usize,
    /// Each write takes its content from another place.
    writes: usize,
}

struct Request {
    header: Vec<u8>,
    payload: Range<usize>,
}

impl Output {
    /// `seed` chooses what is written.
    pub fn new(seed: u64) -> Output {
        let mut random = Random(seed);
        let words = (0..CONTENT_BYTES / 8).map(|_| random.next().to_le_bytes());
        Output {
            content: words.flatten().collect(),
            requests: VecDeque::new(),
            sent_bytes: 0,
            writes: 0,
        }
    }

    /// Whether all is sent.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Appends a request.
    pub fn push(&mut self, command: u16, handle: u64, offset: u64, len: usize) {
        let header = RequestHeader {
            flags: 0,
            command,
            handle,
            offset,
            len: len as u64,
        };
        let payload = if command == command::WRITE {
            self.writes += 1;
            let begin = self.writes * BLOCK_BYTES as usize % (CONTENT_BYTES - len);
            begin..begin + len
        } else {
            0..0
        };
        self.requests.push_back(Request {
            header: header.encode(Dialect::Simple),
            payload,
        });
    }

    /// Sends what the socket takes now.
    pub fn send(&mut self, socket: &Socket) -> io::Result<()> {
        while !self.is_empty() {
            let mut slices: [IoSlice; SLICES_MAX] = array::from_fn(|_| IoSlice::new(&[]));
            let mut filled = 0;
            for request in self.requests.iter().take(SLICES_MAX / 2) {
                slices[filled] = IoSlice::new(&request.header);
                slices[filled + 1] = IoSlice::new(&self.content[request.payload.clone()]);
                filled += 2;
            }
            let mut unsent = &mut slices[..filled];
            IoSlice::advance_slices(&mut unsent, self.sent_bytes);
            let sent = socket.send_some(unsent)?;
            if sent == 0 {
                break;
            }
            self.forget(sent);
        }
        Ok(())
    }

    fn forget(&mut self, sent: usize) {
        self.sent_bytes += sent;
        while let Some(first) = self.requests.front() {
            let len = first.header.len() + first.payload.len();
            if self.sent_bytes < len {
                break;
            }
            self.sent_bytes -= len;
            self.requests.pop_front();
        }
    }
}

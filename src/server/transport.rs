//! The bytes of one connection: what its socket does at present, and what has arrived and was not
//! used yet. It moves from one thread's driver to another's together with what it has read.
//!
//! This is the layer between socket and session: whoever encrypts does it here.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use uraid_buffer::{Buf, BufMut, Pool};
use uraid_io::driver::{Driver, StreamId};

/// What is received into while little comes: all that an idle connection holds.
const NARROW_BYTES: usize = 4 << 10;

/// What is received into once a narrow buffer was filled; large payloads go straight into their
/// request's buffer.
const WIDE_BYTES: usize = 64 << 10;

/// What the socket's receiving side does.
enum Receiving {
    /// Nothing is under way; `buffer[unread]` was not used yet. An empty range has no buffer.
    Idle {
        buffer: Option<BufMut>,
        unread: Range<usize>,
    },
    /// The driver receives into our buffer.
    Header,
    /// The driver receives into a request's payload.
    Payload,
}

const NOTHING_READ: Receiving = Receiving::Idle {
    buffer: None,
    unread: 0..0,
};

/// What a receive brought.
pub enum Received {
    /// Bytes to be had from [`Transport::unread`].
    Bytes,
    /// A payload's buffer comes back with so many bytes more.
    Payload(BufMut, usize),
}

/// A socket in the care of a driver.
pub struct Transport {
    stream: StreamId,
    pool: Pool,
    receiving: Receiving,
    receive_bytes: usize,
    sending: bool,
}

/// A socket between two drivers, with what was read from it.
pub struct Detached {
    fd: OwnedFd,
    unread: Vec<u8>,
}

impl Detached {
    /// A connection that was just accepted.
    pub fn fresh(fd: OwnedFd) -> Detached {
        Detached {
            fd,
            unread: Vec::new(),
        }
    }
}

impl Transport {
    /// Gives a socket to `driver`, which knows it as `stream` from now on.
    pub fn attach(
        detached: Detached,
        stream: StreamId,
        pool: Pool,
        driver: &mut Driver,
    ) -> Transport {
        driver.add_stream(stream, detached.fd);
        let receiving = if detached.unread.is_empty() {
            NOTHING_READ
        } else {
            let mut buffer = pool.take(detached.unread.len());
            buffer.copy_from_slice(&detached.unread);
            Receiving::Idle {
                buffer: Some(buffer),
                unread: 0..detached.unread.len(),
            }
        };
        Transport {
            stream,
            pool,
            receiving,
            receive_bytes: NARROW_BYTES,
            sending: false,
        }
    }

    /// Takes the socket away from `driver`. Panics unless [`Transport::is_idle`].
    pub fn detach(self, driver: &mut Driver) -> Detached {
        let unread = self.unread().expect("nothing is received").to_vec();
        let fd = driver.release_stream(self.stream);
        Detached { fd, unread }
    }

    /// Whether the driver does nothing with the socket.
    pub fn is_idle(&self) -> bool {
        !self.sending && self.unread().is_some()
    }

    /// Whether the driver sends.
    pub fn is_sending(&self) -> bool {
        self.sending
    }

    /// What has arrived and was not used; none while the driver receives.
    pub fn unread(&self) -> Option<&[u8]> {
        match &self.receiving {
            Receiving::Idle { buffer, unread } => {
                let bytes = buffer.as_ref().map(|buffer| &buffer[unread.clone()]);
                Some(bytes.unwrap_or_default())
            }
            Receiving::Header | Receiving::Payload => None,
        }
    }

    /// So many of the unread bytes were used.
    pub fn used(&mut self, bytes: usize) {
        let Receiving::Idle { unread, .. } = &mut self.receiving else {
            panic!("nothing was unread")
        };
        unread.start += bytes;
        assert!(unread.start <= unread.end, "used what did not arrive");
    }

    /// Has the driver receive whatever comes next. What was unread must be used up.
    pub fn receive(&mut self, driver: &mut Driver) {
        let was = std::mem::replace(&mut self.receiving, Receiving::Header);
        let Receiving::Idle { buffer, unread } = was else {
            panic!("receiving already")
        };
        assert!(unread.is_empty(), "unread bytes would be lost");
        let buffer = buffer.filter(|buffer| buffer.len() == self.receive_bytes);
        let buffer = buffer.unwrap_or_else(|| self.pool.take(self.receive_bytes));
        driver.recv(self.stream, buffer, 0..self.receive_bytes);
    }

    /// Has the driver receive into `range` of a request's payload.
    pub fn receive_payload(&mut self, driver: &mut Driver, buffer: BufMut, range: Range<usize>) {
        assert!(matches!(self.unread(), Some([])), "unread bytes come first");
        self.receiving = Receiving::Payload;
        driver.recv(self.stream, buffer, range);
    }

    /// Takes the end of a receive that brought `len` bytes.
    pub fn received(&mut self, buffer: BufMut, len: usize) -> Received {
        match std::mem::replace(&mut self.receiving, NOTHING_READ) {
            Receiving::Payload => Received::Payload(buffer, len),
            Receiving::Header => {
                self.receive_bytes = match len {
                    NARROW_BYTES.. => WIDE_BYTES,
                    _ => NARROW_BYTES,
                };
                self.receiving = Receiving::Idle {
                    buffer: Some(buffer),
                    unread: 0..len,
                };
                Received::Bytes
            }
            Receiving::Idle { .. } => panic!("received without asking"),
        }
    }

    /// Has the driver send all of `buffers`.
    pub fn send(&mut self, driver: &mut Driver, buffers: Vec<Buf>) {
        assert!(!self.sending, "sending already");
        self.sending = true;
        driver.send(self.stream, buffers);
    }

    /// Takes the end of a send.
    pub fn sent(&mut self) {
        self.sending = false;
    }
}

/// Bytes of a receive; none of one that failed.
pub fn received_len(result: &io::Result<usize>) -> usize {
    *result.as_ref().unwrap_or(&0)
}

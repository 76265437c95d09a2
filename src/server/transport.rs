//! The bytes of one connection: what its socket does at present, and what has arrived and was not
//! used yet. It moves from one thread's driver to another's together with what it has read.
//!
//! This is the layer between socket and session: with TLS, what goes through is encrypted here.

use super::secure::Secure;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use uraid_buffer::{Buf, BufMut, Pool};
use uraid_io::driver::{Driver, StreamId};
use uraid_io::sockets::peer_has_ended;
use uraid_tls::TlsStream;

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
    /// The driver receives into our buffer what is to be decrypted into a request's payload.
    SealedPayload {
        payload: BufMut,
        range: Range<usize>,
    },
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

/// Why nothing more comes.
pub enum End {
    /// The peer has closed the connection.
    PeerClosed,
    /// Something is wrong with it.
    Failed(String),
}

/// A socket in the care of a driver.
pub struct Transport {
    stream: StreamId,
    pool: Pool,
    receiving: Receiving,
    receive_bytes: usize,
    /// The driver sends.
    sending: bool,
    /// What was last given to [`Transport::send`] is not all sent.
    unsent: bool,
    /// Goodbye was said, where that is the custom.
    parted: bool,
    /// Sending has failed: nothing more goes out.
    broken: bool,
    secure: Option<Box<Secure>>,
}

/// A socket between two drivers, with what was read from it.
pub struct Detached {
    fd: OwnedFd,
    unread: Vec<u8>,
    secure: Option<Box<Secure>>,
}

impl Detached {
    /// A connection that was just accepted.
    pub fn fresh(fd: OwnedFd) -> Detached {
        Detached {
            fd,
            unread: Vec::new(),
            secure: None,
        }
    }

    /// Whether the peer has closed it, though bytes that it sent before may be waiting.
    pub fn has_ended(&self) -> bool {
        peer_has_ended(&self.fd)
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
            unsent: false,
            parted: false,
            broken: false,
            secure: detached.secure,
        }
    }

    /// Takes the socket away from `driver`. Panics unless [`Transport::is_idle`].
    pub fn detach(self, driver: &mut Driver) -> Detached {
        let unread = self.unread().expect("nothing is received").to_vec();
        let fd = driver.release_stream(self.stream);
        let secure = self.secure;
        Detached { fd, unread, secure }
    }

    /// Goes on with TLS, whose handshake comes next. Panics unless [`Transport::is_idle`], and if
    /// something is unread.
    pub fn begin_tls(&mut self, tls: TlsStream) {
        let quiet = self.is_idle() && self.unread().is_some_and(<[u8]>::is_empty);
        assert!(quiet, "clear text where TLS is due");
        self.secure = Some(Box::new(Secure::new(tls)));
    }

    /// Whether there is TLS, at least its handshake.
    pub fn is_secure(&self) -> bool {
        self.secure.is_some()
    }

    /// The names that the peer proved to have, once the handshake is done.
    pub fn peer_names(&self) -> Option<Vec<String>> {
        self.secure.as_ref()?.peer_names()
    }

    /// Whether the driver does nothing with the socket, and has nothing to do.
    pub fn is_idle(&self) -> bool {
        let has_output = self.secure.as_ref().is_some_and(|s| s.has_output());
        !self.is_sending() && !has_output && self.unread().is_some()
    }

    /// Whether something is on its way out.
    pub fn is_sending(&self) -> bool {
        self.sending || self.unsent
    }

    /// What has arrived and was not used; none while the driver receives.
    pub fn unread(&self) -> Option<&[u8]> {
        match &self.receiving {
            Receiving::Idle { buffer, unread } => {
                let bytes = buffer.as_ref().map(|buffer| &buffer[unread.clone()]);
                Some(bytes.unwrap_or_default())
            }
            Receiving::Header | Receiving::Payload | Receiving::SealedPayload { .. } => None,
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
        if self.secure.is_none() {
            self.receiving = Receiving::Payload;
            return driver.recv(self.stream, buffer, range);
        }
        self.receiving = Receiving::SealedPayload {
            payload: buffer,
            range,
        };
        let sealed = self.pool.take(WIDE_BYTES);
        driver.recv(self.stream, sealed, 0..WIDE_BYTES);
    }

    /// Takes the end of a receive; also says if it was the last one.
    pub fn received(
        &mut self,
        buffer: BufMut,
        result: io::Result<usize>,
    ) -> (Received, Option<End>) {
        let len = *result.as_ref().unwrap_or(&0);
        let was = std::mem::replace(&mut self.receiving, NOTHING_READ);
        if matches!(was, Receiving::Header) {
            self.receive_bytes = match len {
                NARROW_BYTES.. => WIDE_BYTES,
                _ => NARROW_BYTES,
            };
        }
        let end = match result {
            Ok(0) => Some(End::PeerClosed),
            Ok(_) => None,
            Err(error) => Some(End::Failed(format!("receiving failed: {error}"))),
        };
        match was {
            Receiving::Idle { .. } => panic!("received without asking"),
            Receiving::Payload => (Received::Payload(buffer, len), end),
            Receiving::Header if self.secure.is_none() => {
                self.receiving = Receiving::Idle {
                    buffer: Some(buffer),
                    unread: 0..len,
                };
                (Received::Bytes, end)
            }
            Receiving::Header => {
                let (_, failed) = self.open(&buffer[..len], &mut []);
                (Received::Bytes, end.or(failed))
            }
            Receiving::SealedPayload { mut payload, range } => {
                let (bytes, failed) = self.open(&buffer[..len], &mut payload[range]);
                (Received::Payload(payload, bytes), end.or(failed))
            }
        }
    }

    /// Decrypts into `payload`, and what is more becomes unread. Returns how many bytes came into
    /// the payload.
    fn open(&mut self, cipher: &[u8], payload: &mut [u8]) -> (usize, Option<End>) {
        let secure = self.secure.as_mut().expect("there is TLS");
        let opened = match secure.open(cipher, payload, &self.pool) {
            Ok(opened) => opened,
            Err(error) => return (0, Some(End::Failed(format!("TLS: {error}")))),
        };
        if let Some((buffer, len)) = opened.rest {
            self.receiving = Receiving::Idle {
                buffer: Some(buffer),
                unread: 0..len,
            };
        }
        (opened.payload_bytes, None)
    }

    /// Whether the peer has said goodbye and all that it sent before was used. The end of the
    /// bytes themselves, which the driver sees, comes back from [`Transport::received`].
    pub fn has_ended(&self) -> bool {
        let said_goodbye = self.secure.as_ref().is_some_and(|s| s.peer_closed());
        said_goodbye && matches!(self.unread(), Some([]))
    }

    /// Has the driver send all of `buffers`.
    pub fn send(&mut self, driver: &mut Driver, buffers: Vec<Buf>) -> Result<(), String> {
        assert!(!self.is_sending(), "sending already");
        self.unsent = true;
        let Some(secure) = &mut self.secure else {
            self.sending = true;
            driver.send(self.stream, buffers);
            return Ok(());
        };
        secure.push(buffers);
        self.flush(driver)
    }

    /// Has the driver send what TLS has to say.
    pub fn flush(&mut self, driver: &mut Driver) -> Result<(), String> {
        if let Some(secure) = &mut self.secure
            && !self.sending
            && !self.broken
        {
            let sealed = secure.seal(&self.pool);
            if let Some(buffer) = sealed.map_err(|error| format!("TLS: {error}"))? {
                self.sending = true;
                driver.send(self.stream, vec![buffer]);
            }
        }
        Ok(())
    }

    /// Takes the end of a send; whether all is sent that was given to [`Transport::send`] last.
    /// If it is not, the next [`Transport::flush`] goes on.
    pub fn sent(&mut self, result: &io::Result<()>) -> bool {
        self.sending = false;
        self.broken |= result.is_err();
        let has_more = self.secure.as_ref().is_some_and(|s| s.has_output());
        if has_more && !self.broken {
            return false;
        }
        std::mem::take(&mut self.unsent)
    }

    /// Says goodbye where that is the custom; whether all is said and the socket may be closed.
    pub fn part(&mut self, driver: &mut Driver) -> bool {
        if let Some(secure) = &mut self.secure
            && !self.unsent
            && !std::mem::replace(&mut self.parted, true)
        {
            secure.close();
        }
        // What cannot be encrypted will not be missed.
        let _ = self.flush(driver);
        !self.is_sending()
    }

    /// The driver is done with the socket.
    pub fn closed(&mut self) {
        (self.sending, self.unsent) = (false, false);
    }
}

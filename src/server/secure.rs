//! TLS between a socket and a session: what is received is decrypted as a whole, what is to be
//! sent is encrypted piece by piece.

use std::collections::VecDeque;
use std::io::IoSlice;
use uraid_buffer::{Buf, BufMut, Pool};
use uraid_tls::{TlsError, TlsStream};

/// Most plain text that is encrypted at once: an answer of 32 MiB is not held twice.
const SEALED_BYTES_MAX: usize = 256 << 10;

/// Most bytes that TLS may have kept of a record that was not complete (RFC 8446, section 5.2,
/// and some for older versions).
const RECORD_BYTES_MAX: usize = 20 << 10;

/// TLS on one connection.
pub struct Secure {
    tls: TlsStream,
    /// What is to be encrypted, in order.
    plain: VecDeque<Buf>,
}

/// What decrypting brought.
pub struct Opened {
    /// So many bytes came into the payload.
    pub payload_bytes: usize,
    /// What there is besides: a buffer, and how much of it.
    pub rest: Option<(BufMut, usize)>,
}

impl Secure {
    /// TLS whose handshake is still to come.
    pub fn new(tls: TlsStream) -> Secure {
        Secure {
            tls,
            plain: VecDeque::new(),
        }
    }

    /// Decrypts all of `cipher`: into `payload` first, then into a buffer of `pool`.
    pub fn open(
        &mut self,
        mut cipher: &[u8],
        payload: &mut [u8],
        pool: &Pool,
    ) -> Result<Opened, TlsError> {
        let payload_bytes = self.tls.decrypt(&mut cipher, payload)?;
        if payload_bytes < payload.len() {
            let rest = None;
            return Ok(Opened {
                payload_bytes,
                rest,
            });
        }
        let mut plain = pool.take(cipher.len() + RECORD_BYTES_MAX);
        let len = self.tls.decrypt(&mut cipher, &mut plain)?;
        assert!(cipher.is_empty() && len < plain.len(), "room for all");
        Ok(Opened {
            payload_bytes,
            rest: (len > 0).then_some((plain, len)),
        })
    }

    /// Takes what is to be encrypted and sent.
    pub fn push(&mut self, buffers: Vec<Buf>) {
        self.plain
            .extend(buffers.into_iter().filter(|buffer| !buffer.is_empty()));
    }

    /// Whether there is something to be sent.
    pub fn has_output(&self) -> bool {
        !self.plain.is_empty() || self.tls.has_output()
    }

    /// The next bytes to be sent; none if there are none.
    pub fn seal(&mut self, pool: &Pool) -> Result<Option<Buf>, TlsError> {
        let sealed_bytes = match self.tls.has_output() {
            true => 0,
            false => self.seal_some()?,
        };
        if !self.tls.has_output() {
            return Ok(None);
        }
        // A record of 16 KiB grows by some thirty bytes; what does not fit comes next.
        let mut cipher = pool.take(sealed_bytes + sealed_bytes / 256 + 4096);
        let len = self.tls.take_output(&mut cipher);
        Ok(Some(cipher.freeze().slice(0..len)))
    }

    /// Encrypts a piece of the plain text; returns how many bytes.
    fn seal_some(&mut self) -> Result<usize, TlsError> {
        let mut bytes = 0;
        let mut pieces = Vec::new();
        while bytes < SEALED_BYTES_MAX
            && let Some(mut buffer) = self.plain.pop_front()
        {
            let room = SEALED_BYTES_MAX - bytes;
            if buffer.len() > room {
                self.plain.push_front(buffer.slice(room..buffer.len()));
                buffer = buffer.slice(0..room);
            }
            bytes += buffer.len();
            pieces.push(buffer);
        }
        if bytes > 0 {
            let slices: Vec<IoSlice> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            self.tls.encrypt(&slices)?;
        }
        Ok(bytes)
    }

    /// The names the peer proved to have; none before the handshake is done.
    pub fn peer_names(&self) -> Option<Vec<String>> {
        self.tls.is_established().then(|| self.tls.peer_names())
    }

    /// Whether the peer has said goodbye.
    pub fn peer_closed(&self) -> bool {
        self.tls.peer_closed()
    }

    /// Says goodbye: nothing may be pushed any more.
    pub fn close(&mut self) {
        self.tls.close();
    }
}

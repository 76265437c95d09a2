//! Connections of peers that know a shared secret, by OpenSSL: rustls has no such thing.
//!
//! TLS 1.3 with one suite: keys of this kind go with one hash function, and the suite that OpenSSL
//! would choose by itself is three times slower.

use crate::SetupError;
use crate::psk_file;
use crate::stream::{Decrypted, TlsError};
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
    SslSessionCacheMode, SslStream, SslVersion,
};
use std::io::{self, IoSlice, Read, Write};
use std::path::Path;

const SUITE: &str = "TLS_AES_128_GCM_SHA256";

/// What is given to OpenSSL at once, received or to be sent: the plain text of a record.
const PIECE_BYTES: usize = 16 << 10;

/// Keys of all users, ready for connections.
#[derive(Clone)]
pub struct Keys {
    context: SslContext,
    user: Index<Ssl, String>,
}

impl Keys {
    /// The keys in the file `path`.
    pub fn load(path: &Path) -> Result<Keys, SetupError> {
        let keys = psk_file::load(path)?;
        let make = || -> Result<Keys, ErrorStack> {
            let user = Ssl::new_ex_index()?;
            let mut builder = SslContextBuilder::new(SslMethod::tls_server())?;
            builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
            builder.set_ciphersuites(SUITE)?;
            builder.set_session_cache_mode(SslSessionCacheMode::OFF);
            // Idle connections hold no memory for what they may receive.
            builder.set_mode(SslMode::RELEASE_BUFFERS);
            builder.set_options(SslOptions::NO_TICKET);
            builder.set_num_tickets(0)?;
            builder.set_psk_server_callback(move |connection, identity, key| {
                Ok(find(&keys, identity, key, connection, user))
            });
            let context = builder.build();
            Ok(Keys { context, user })
        };
        make().map_err(|error| SetupError::Failed(format!("OpenSSL cannot be used: {error}")))
    }

    /// The server's side of a connection.
    pub fn accept(&self) -> Connection {
        let ssl = Ssl::new(&self.context).expect("memory for a connection");
        let stream = SslStream::new(ssl, Pipe::default()).expect("memory for a connection");
        Connection {
            stream,
            user: self.user,
            established: false,
        }
    }
}

/// Puts the key of the user `identity` into `into`, and says how long it is; 0 for unknown users.
fn find(
    keys: &[(String, Vec<u8>)],
    identity: Option<&[u8]>,
    into: &mut [u8],
    connection: &mut SslRef,
    user: Index<Ssl, String>,
) -> usize {
    let known = keys
        .iter()
        .find(|(name, _)| Some(name.as_bytes()) == identity);
    let Some((name, key)) = known.filter(|(_, key)| key.len() <= into.len()) else {
        return 0;
    };
    into[..key.len()].copy_from_slice(key);
    // Whoever does not know the key gets no further than this name.
    connection.set_ex_data(user, name.clone());
    key.len()
}

/// The server's side of one connection.
pub struct Connection {
    stream: SslStream<Pipe>,
    user: Index<Ssl, String>,
    established: bool,
}

/// What OpenSSL takes for a socket.
#[derive(Default)]
struct Pipe {
    incoming: Vec<u8>,
    used: usize,
    outgoing: Vec<u8>,
    sent: usize,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let unread = &self.incoming[self.used..];
        if unread.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = unread.len().min(into.len());
        into[..len].copy_from_slice(&unread[..len]);
        self.used += len;
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pipe {
    fn unsent(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Moves some of `cipher` here.
    fn fill(&mut self, cipher: &mut &[u8]) {
        let (piece, rest) = cipher.split_at(cipher.len().min(PIECE_BYTES));
        self.incoming.drain(..self.used);
        self.incoming.extend_from_slice(piece);
        self.used = 0;
        *cipher = rest;
    }

    /// Gives back the memory of what was read.
    fn release(&mut self) {
        self.incoming.drain(..self.used);
        self.incoming.shrink_to_fit();
        self.used = 0;
    }
}

impl Connection {
    /// See [`crate::TlsStream::decrypt`].
    pub fn decrypt(&mut self, cipher: &mut &[u8], plain: &mut [u8]) -> Result<Decrypted, TlsError> {
        let mut len = 0;
        let mut peer_closed = false;
        while len < plain.len() && !peer_closed {
            match self.step(&mut plain[len..]) {
                Ok(read) => len += read,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => peer_closed = true,
                Err(error) if error.code() == ErrorCode::WANT_READ => {
                    if cipher.is_empty() {
                        self.stream.get_mut().release();
                        break;
                    }
                    self.stream.get_mut().fill(cipher);
                }
                Err(error) => return Err(self.describe(&error)),
            }
        }
        Ok(Decrypted { len, peer_closed })
    }

    fn step(&mut self, plain: &mut [u8]) -> Result<usize, openssl::ssl::Error> {
        if !self.established {
            self.stream.accept()?;
            self.established = true;
        }
        self.stream.ssl_read(plain)
    }

    fn describe(&self, error: &openssl::ssl::Error) -> TlsError {
        let user = self.stream.ssl().ex_data(self.user);
        let text = match user {
            None if !self.established => {
                format!("the client names no user that has a key here: {error}")
            }
            Some(user) if !self.established => {
                format!("the client calls itself {user:?} and has another key: {error}")
            }
            _ => error.to_string(),
        };
        TlsError(text)
    }

    /// See [`crate::TlsStream::encrypt`].
    pub fn encrypt(&mut self, plain: &[IoSlice]) -> Result<(), TlsError> {
        // A record for each little piece would cost more than bringing them together does.
        let mut gathered = Vec::with_capacity(PIECE_BYTES);
        for mut piece in plain.iter().map(|piece| &piece[..]) {
            while !piece.is_empty() {
                if gathered.is_empty() && piece.len() >= PIECE_BYTES {
                    self.write(&piece[..PIECE_BYTES])?;
                    piece = &piece[PIECE_BYTES..];
                    continue;
                }
                let taken = piece.len().min(PIECE_BYTES - gathered.len());
                gathered.extend_from_slice(&piece[..taken]);
                piece = &piece[taken..];
                if gathered.len() == PIECE_BYTES {
                    self.write(&gathered)?;
                    gathered.clear();
                }
            }
        }
        if !gathered.is_empty() {
            self.write(&gathered)?;
        }
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), TlsError> {
        let written = self.stream.ssl_write(piece);
        let written = written.map_err(|error| TlsError(error.to_string()))?;
        assert_eq!(written, piece.len(), "memory takes everything");
        Ok(())
    }

    /// See [`crate::TlsStream::has_output`].
    pub fn has_output(&self) -> bool {
        !self.stream.get_ref().unsent().is_empty()
    }

    /// See [`crate::TlsStream::take_output`].
    pub fn take_output(&mut self, cipher: &mut [u8]) -> usize {
        let pipe = self.stream.get_mut();
        let unsent = pipe.unsent();
        let len = unsent.len().min(cipher.len());
        cipher[..len].copy_from_slice(&unsent[..len]);
        pipe.sent += len;
        if pipe.unsent().is_empty() {
            // Nor for what they have sent.
            (pipe.outgoing, pipe.sent) = (Vec::new(), 0);
        }
        len
    }

    /// See [`crate::TlsStream::close`].
    pub fn close(&mut self) {
        // It says so, or the connection is broken and there is nobody to hear it.
        let _ = self.stream.shutdown();
    }

    /// See [`crate::TlsStream::is_established`].
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// See [`crate::TlsStream::peer_names`].
    pub fn peer_names(&self) -> Vec<String> {
        self.stream
            .ssl()
            .ex_data(self.user)
            .cloned()
            .into_iter()
            .collect()
    }
}

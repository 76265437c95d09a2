//! One TLS connection between bytes received and bytes to be sent.

use rustls::{CertificateError, Error as RustlsError, ServerConnection};
use std::io::{self, IoSlice, Read, Write};

/// Why a connection cannot go on; what remains in [`TlsStream::take_output`] tells the peer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub String);

/// The server's side of one TLS connection. It may go from thread to thread at any time, and holds
/// at most about two records of 16 KiB.
pub struct TlsStream {
    engine: Engine,
    peer_closed: bool,
}

/// What decrypting came to.
pub(crate) struct Decrypted {
    /// Bytes of plain text.
    pub len: usize,
    /// The peer has said goodbye: what follows is no part of the connection.
    pub peer_closed: bool,
}

enum Engine {
    Certificates(Box<ServerConnection>),
    #[cfg(feature = "psk")]
    Keys(crate::psk::Connection),
}

impl TlsStream {
    pub(crate) fn certificates(connection: ServerConnection) -> TlsStream {
        TlsStream {
            engine: Engine::Certificates(Box::new(connection)),
            peer_closed: false,
        }
    }

    #[cfg(feature = "psk")]
    pub(crate) fn keys(connection: crate::psk::Connection) -> TlsStream {
        TlsStream {
            engine: Engine::Keys(connection),
            peer_closed: false,
        }
    }

    /// Decrypts from the front of `cipher` into `plain`, and returns how many bytes of plain text
    /// there are now. `cipher` is used up unless `plain` is full. Handshake messages and the like
    /// are dealt with on the way: afterwards there may be [output](TlsStream::take_output).
    pub fn decrypt(&mut self, cipher: &mut &[u8], plain: &mut [u8]) -> Result<usize, TlsError> {
        let decrypted = match &mut self.engine {
            Engine::Certificates(connection) => decrypt(connection, cipher, plain)?,
            #[cfg(feature = "psk")]
            Engine::Keys(connection) => connection.decrypt(cipher, plain)?,
        };
        if decrypted.peer_closed {
            self.peer_closed = true;
            *cipher = &[];
        }
        Ok(decrypted.len)
    }

    /// Whether the peer has said goodbye, and all that it said before was decrypted.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Encrypts all of `plain`: it is [output](TlsStream::take_output) now. Panics before the
    /// handshake is done.
    pub fn encrypt(&mut self, plain: &[IoSlice]) -> Result<(), TlsError> {
        assert!(self.is_established(), "plain text before the handshake");
        match &mut self.engine {
            Engine::Certificates(connection) => {
                let len: usize = plain.iter().map(|piece| piece.len()).sum();
                // Its buffer has no limit, as nobody has set one.
                let taken = connection.writer().write_vectored(plain).unwrap_or(0);
                assert_eq!(taken, len, "rustls takes everything");
                Ok(())
            }
            #[cfg(feature = "psk")]
            Engine::Keys(connection) => connection.encrypt(plain),
        }
    }

    /// Whether there is something to be sent: what was encrypted, or what the handshake or an
    /// alert has to say.
    pub fn has_output(&self) -> bool {
        match &self.engine {
            Engine::Certificates(connection) => connection.wants_write(),
            #[cfg(feature = "psk")]
            Engine::Keys(connection) => connection.has_output(),
        }
    }

    /// Moves what is to be sent into `cipher`, as far as there is room; returns how many bytes.
    pub fn take_output(&mut self, cipher: &mut [u8]) -> usize {
        match &mut self.engine {
            Engine::Certificates(connection) => take_output(connection, cipher),
            #[cfg(feature = "psk")]
            Engine::Keys(connection) => connection.take_output(cipher),
        }
    }

    /// Says goodbye: afterwards nothing may be encrypted any more.
    pub fn close(&mut self) {
        match &mut self.engine {
            Engine::Certificates(connection) => connection.send_close_notify(),
            #[cfg(feature = "psk")]
            Engine::Keys(connection) => connection.close(),
        }
    }

    /// Whether the handshake is done.
    pub fn is_established(&self) -> bool {
        match &self.engine {
            Engine::Certificates(connection) => !connection.is_handshaking(),
            #[cfg(feature = "psk")]
            Engine::Keys(connection) => connection.is_established(),
        }
    }

    /// The names the peer proved to have: those of its certificate, or of its key.
    pub fn peer_names(&self) -> Vec<String> {
        match &self.engine {
            Engine::Certificates(connection) => match connection.peer_certificates() {
                Some([certificate, ..]) => crate::names::names(certificate),
                _ => Vec::new(),
            },
            #[cfg(feature = "psk")]
            Engine::Keys(connection) => connection.peer_names(),
        }
    }
}

fn decrypt(
    connection: &mut ServerConnection,
    cipher: &mut &[u8],
    plain: &mut [u8],
) -> Result<Decrypted, TlsError> {
    let mut len = 0;
    let mut peer_closed = false;
    while len < plain.len() && !peer_closed {
        match connection.reader().read(&mut plain[len..]) {
            Ok(0) => peer_closed = true,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if cipher.is_empty() {
                    break;
                }
                // It fails only if a handshake message is longer than any may be.
                let read = connection.read_tls(cipher);
                read.map_err(|error| TlsError(error.to_string()))?;
                let result = connection.process_new_packets();
                result.map_err(|error| describe(&error))?;
            }
            Err(error) => unreachable!("the end of the stream is not ours to say: {error}"),
        }
    }
    Ok(Decrypted { len, peer_closed })
}

fn take_output(connection: &mut ServerConnection, cipher: &mut [u8]) -> usize {
    let mut len = 0;
    while len < cipher.len() && connection.wants_write() {
        let mut room = &mut cipher[len..];
        len += connection
            .write_tls(&mut room)
            .expect("memory takes everything");
    }
    len
}

fn describe(error: &RustlsError) -> TlsError {
    let text = match error {
        RustlsError::NoCertificatesPresented => {
            "the client shows no certificate of the authority in ca-cert.pem".into()
        }
        RustlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the client's certificate has expired".into(),
        RustlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "the client's certificate is not from the authority in ca-cert.pem".into(),
        RustlsError::AlertReceived(alert) => format!("the client gave up: {alert:?}"),
        other => other.to_string(),
    };
    TlsError(text)
}

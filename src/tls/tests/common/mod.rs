//! A client of each kind, without sockets, and the bytes that go between it and a server.
#![allow(dead_code)] // every test target uses some of it

use std::io::IoSlice;
use uraid_tls::{TlsError, TlsStream};

/// A client that talks to a [`TlsStream`].
pub trait Peer {
    /// Takes received bytes; says what went wrong.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), String>;
    /// What it has to send.
    fn output(&mut self) -> Vec<u8>;
    /// Has plain text sent.
    fn write(&mut self, plain: &[u8]);
    /// The plain text that has arrived.
    fn read(&mut self) -> Vec<u8>;
}

/// A client and a server, and what the server got.
pub struct Pair<P> {
    pub client: P,
    pub server: TlsStream,
    /// Plain text that the server has decrypted.
    pub got: Vec<u8>,
    /// Bytes that travel at once.
    pub piece_bytes: usize,
}

impl<P: Peer> Pair<P> {
    pub fn new(client: P, server: TlsStream) -> Pair<P> {
        Pair {
            client,
            server,
            got: Vec::new(),
            piece_bytes: 1 << 16,
        }
    }

    /// Moves bytes until nobody has any; the server's error comes first.
    pub fn pump(&mut self) -> Result<(), String> {
        loop {
            let sent = self.client.output();
            for piece in sent.chunks(self.piece_bytes) {
                let result = receive(&mut self.server, piece, &mut self.got);
                if let Err(error) = result {
                    self.tell();
                    return Err(error.to_string());
                }
            }
            if !self.tell() && sent.is_empty() {
                return Ok(());
            }
        }
    }

    /// Moves the server's bytes to the client; whether there were any.
    fn tell(&mut self) -> bool {
        let output = take_output(&mut self.server);
        for piece in output.chunks(self.piece_bytes) {
            // What a client thinks of it is the client's business.
            let _ = self.client.receive(piece);
        }
        !output.is_empty()
    }

    /// Has the server send `plain`, in these pieces.
    pub fn send(&mut self, plain: &[&[u8]]) {
        let pieces: Vec<IoSlice> = plain.iter().map(|piece| IoSlice::new(piece)).collect();
        self.server
            .encrypt(&pieces)
            .expect("an established connection");
        let cipher = take_output(&mut self.server);
        for piece in cipher.chunks(self.piece_bytes) {
            self.client.receive(piece).expect("good records");
        }
    }
}

/// All that the server has to send, taken in small pieces.
pub fn take_output(server: &mut TlsStream) -> Vec<u8> {
    let mut output = Vec::new();
    while server.has_output() {
        let mut piece = [0; 1000];
        let len = server.take_output(&mut piece);
        output.extend_from_slice(&piece[..len]);
    }
    output
}

/// Decrypts all of `bytes` with a buffer that is much too small.
pub fn receive(server: &mut TlsStream, bytes: &[u8], got: &mut Vec<u8>) -> Result<(), TlsError> {
    let mut cipher = bytes;
    let mut plain = [0; 1000];
    loop {
        let len = server.decrypt(&mut cipher, &mut plain)?;
        got.extend_from_slice(&plain[..len]);
        if len < plain.len() {
            assert!(cipher.is_empty(), "it stopped without need");
            return Ok(());
        }
    }
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect()
}

/// What must work over any connection, however its bytes are cut.
pub fn check_traffic<P: Peer>(mut pair: Pair<P>, piece_bytes: usize) {
    pair.piece_bytes = piece_bytes;
    pair.pump().expect("a handshake");
    assert!(pair.server.is_established());
    let data = pattern(100_000);
    pair.client.write(&data);
    pair.pump().expect("good records");
    assert!(pair.got == data, "the server got something else");
    // A header, then data, as replies are; and nothing at all.
    pair.send(&[&data[..16], &data[16..], &[]]);
    pair.send(&[]);
    assert!(pair.client.read() == data, "the client got something else");
    // From another thread it goes on as before.
    let mut server = pair.server;
    pair.client.write(b"more");
    let sent = pair.client.output();
    let moved = std::thread::spawn(move || {
        let mut got = Vec::new();
        receive(&mut server, &sent, &mut got).expect("good records");
        got
    });
    assert_eq!(moved.join().expect("no panic"), b"more");
}

//! Connections with shared secrets, against OpenSSL's client.
#![cfg(feature = "psk")]

mod common;

use common::{Pair, Peer, check_traffic, receive};
use openssl::ssl::{ErrorCode, Ssl, SslContextBuilder, SslMethod, SslStream, SslVersion};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use uraid_tls::{Acceptor, TlsStream, psk_file};

#[derive(Default)]
struct Wire {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.incoming.len().min(into.len());
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        into[..len].copy_from_slice(&self.incoming[..len]);
        self.incoming.drain(..len);
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Client {
    stream: SslStream<Wire>,
    connected: bool,
    got: Vec<u8>,
}

impl Client {
    fn new(user: &str, key: &[u8], version: SslVersion) -> Client {
        let mut builder = SslContextBuilder::new(SslMethod::tls_client()).expect("context");
        builder
            .set_max_proto_version(Some(version))
            .expect("version");
        let (user, key) = (format!("{user}\0"), key.to_vec());
        builder.set_psk_client_callback(move |_, _, identity, into| {
            identity[..user.len()].copy_from_slice(user.as_bytes());
            into[..key.len()].copy_from_slice(&key);
            Ok(key.len())
        });
        let ssl = Ssl::new(&builder.build()).expect("connection");
        let stream = SslStream::new(ssl, Wire::default()).expect("connection");
        let mut client = Client {
            stream,
            connected: false,
            got: Vec::new(),
        };
        client.receive(&[]).expect("a hello");
        client
    }
}

impl Peer for Client {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.get_mut().incoming.extend_from_slice(bytes);
        let mut step = || {
            if !self.connected {
                self.stream.connect()?;
                self.connected = true;
            }
            let mut plain = [0; 4096];
            loop {
                let len = self.stream.ssl_read(&mut plain)?;
                self.got.extend_from_slice(&plain[..len]);
            }
        };
        let result: Result<(), openssl::ssl::Error> = step();
        result.or_else(|error| match error.code() {
            ErrorCode::WANT_READ | ErrorCode::ZERO_RETURN => Ok(()),
            _ => Err(error.to_string()),
        })
    }

    fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.stream.get_mut().outgoing)
    }

    fn write(&mut self, plain: &[u8]) {
        self.stream
            .write_all(plain)
            .expect("memory takes everything");
    }

    fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.got)
    }
}

fn keys() -> (TempDir, PathBuf, Vec<u8>) {
    let root = tempfile::tempdir().expect("directory");
    let path = root.path().join("keys.psk");
    psk_file::add(&path, "bob").expect("key");
    psk_file::add(&path, "alice").expect("key");
    let keys = psk_file::load(&path).expect("keys");
    (root, path, keys[1].1.clone())
}

fn server(path: &Path) -> TlsStream {
    Acceptor::from_keys_file(path).expect("keys").0.accept()
}

#[test]
fn bytes_arrive_however_they_are_cut() {
    let (_root, path, key) = keys();
    for piece_bytes in [1, 7, 1000, 1 << 16] {
        let client = Client::new("alice", &key, SslVersion::TLS1_3);
        check_traffic(Pair::new(client, server(&path)), piece_bytes);
    }
}

#[test]
fn the_peer_has_the_name_of_its_key_and_the_pinned_suite() {
    let (_root, path, key) = keys();
    let client = Client::new("alice", &key, SslVersion::TLS1_3);
    let mut pair = Pair::new(client, server(&path));
    pair.pump().expect("a handshake");
    assert_eq!(pair.server.peer_names(), ["alice"]);
    let cipher = pair.client.stream.ssl().current_cipher().expect("a suite");
    assert_eq!(cipher.name(), "TLS_AES_128_GCM_SHA256");
}

#[test]
fn strangers_are_kept_out_and_the_log_says_why() {
    let (_root, path, key) = keys();
    let refusal = |user: &str, key: &[u8], version| {
        let mut pair = Pair::new(Client::new(user, key, version), server(&path));
        let error = pair.pump().expect_err("a stranger came in");
        assert!(!pair.server.is_established());
        error
    };
    let unknown = refusal("mallory", &key, SslVersion::TLS1_3);
    assert!(unknown.contains("no user that has a key"), "{unknown}");
    let wrong = refusal("alice", &[7; 32], SslVersion::TLS1_3);
    assert!(wrong.contains("\"alice\" and has another key"), "{wrong}");
    refusal("alice", &key, SslVersion::TLS1_2);
}

#[test]
fn garbage_and_goodbyes() {
    let (_root, path, key) = keys();
    let mut got = Vec::new();
    receive(&mut server(&path), b"GET / HTTP/1.1\r\n\r\n", &mut got).expect_err("no handshake");

    let mut pair = Pair::new(
        Client::new("alice", &key, SslVersion::TLS1_3),
        server(&path),
    );
    pair.pump().expect("a handshake");
    pair.client.write(b"last words");
    pair.client.stream.shutdown().expect("goodbye");
    pair.pump().expect("good records");
    assert!(pair.server.peer_closed());
    assert_eq!(pair.got, b"last words");
}

#[test]
fn unusable_files_are_named() {
    let (_root, path, _) = keys();
    fs::write(&path, "alice").expect("file");
    let error = Acceptor::from_keys_file(&path)
        .err()
        .expect("no keys")
        .to_string();
    assert!(
        error.contains("keys.psk") && error.contains("line 1"),
        "{error}"
    );
}

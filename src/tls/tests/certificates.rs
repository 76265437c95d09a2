//! Connections with certificates, against rustls's client: what works, and who is kept out.

mod common;

use common::{Pair, Peer, check_traffic, pattern, receive, take_output};
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use uraid_tls::directory::{self, Plan};
use uraid_tls::{Acceptor, ClientCertificates, TlsStream};

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

impl Peer for ClientConnection {
    fn receive(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            // Its buffer of plain text is small: the caller gets what is in it by `read`.
            self.read_tls(&mut bytes).map_err(|e| e.to_string())?;
            self.process_new_packets().map_err(|e| e.to_string())?;
            RECEIVED.with_borrow_mut(|all| {
                let _ = self.reader().read_to_end(all);
            });
        }
        Ok(())
    }

    fn output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.wants_write() {
            self.write_tls(&mut bytes).expect("memory takes everything");
        }
        bytes
    }

    fn write(&mut self, plain: &[u8]) {
        self.set_buffer_limit(None);
        self.writer().write_all(plain).expect("no limit");
    }

    fn read(&mut self) -> Vec<u8> {
        RECEIVED.take()
    }
}

thread_local! {
    static RECEIVED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn authority() -> TempDir {
    let root = tempfile::tempdir().expect("directory");
    let names = ["localhost".to_string(), "127.0.0.1".to_string()];
    let plan = Plan {
        server_names: &names,
        clients: &["alice".to_string()],
        days: 60,
    };
    directory::init(root.path(), &plan).expect("certificates");
    root
}

/// A client that trusts the authority in `authority` and shows the certificate in `own`, if any.
fn client(
    authority: &Path,
    own: Option<&Path>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(authority.join("ca-cert.pem")).expect("certificate");
    roots.add(ca).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::from_pem_file(own.join("client-cert.pem"));
            let key = PrivateKeyDer::from_pem_file(own.join("client-key.pem"));
            let chain = vec![chain.expect("certificate")];
            builder
                .with_client_auth_cert(chain, key.expect("key"))
                .expect("a pair")
        }
    };
    let name = ServerName::try_from("localhost").expect("name");
    ClientConnection::new(Arc::new(config), name).expect("client")
}

fn server(directory: &Path, clients: ClientCertificates) -> TlsStream {
    Acceptor::from_directory(directory, clients)
        .expect("certificates")
        .0
        .accept()
}

/// A certificate of the authority in `directory` that was valid until a minute ago.
fn expired(
    directory: &Path,
    names: &[String],
    purpose: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let text = |name: &str| fs::read_to_string(directory.join(name)).expect("file");
    let ca_key = KeyPair::from_pem(&text("ca-key.pem")).expect("key");
    let issuer = Issuer::from_ca_cert_pem(&text("ca-cert.pem"), ca_key).expect("authority");
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, "late");
    params.extended_key_usages = vec![purpose];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::DAY, now - Duration::MINUTE);
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, &issuer).expect("certificate");
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn bytes_arrive_however_they_are_cut() {
    let authority = authority();
    let alice = authority.path().join("alice");
    for versions in [BOTH, &[&version::TLS12]] {
        for piece_bytes in [1, 7, 1000, 1 << 16] {
            let server = server(authority.path(), ClientCertificates::Required);
            let client = client(authority.path(), Some(&alice), versions);
            check_traffic(Pair::new(client, server), piece_bytes);
        }
    }
}

#[test]
fn the_peer_has_the_names_of_its_certificate() {
    let authority = authority();
    let alice = authority.path().join("alice");
    let names = |clients, own: Option<&Path>| {
        let client = client(authority.path(), own, BOTH);
        let mut pair = Pair::new(client, server(authority.path(), clients));
        pair.pump().expect("a handshake");
        pair.server.peer_names()
    };
    assert_eq!(names(ClientCertificates::Required, Some(&alice)), ["alice"]);
    assert_eq!(
        names(ClientCertificates::Allowed, Some(authority.path())),
        ["client"]
    );
    assert!(names(ClientCertificates::Allowed, None).is_empty());
    assert!(
        names(ClientCertificates::Off, Some(&alice)).is_empty(),
        "nobody asked"
    );
}

#[test]
fn strangers_are_kept_out_and_the_log_says_why() {
    let (authority, foreign) = (authority(), authority());
    let late = authority.path().join("late");
    fs::create_dir(&late).expect("directory");
    let (certificate, key) = expired(authority.path(), &[], ExtendedKeyUsagePurpose::ClientAuth);
    fs::write(late.join("client-cert.pem"), certificate).expect("file");
    fs::write(late.join("client-key.pem"), key).expect("file");

    let refusal = |clients, own: Option<&Path>| {
        for versions in [BOTH, &[&version::TLS12]] {
            let client = client(authority.path(), own, versions);
            let mut pair = Pair::new(client, server(authority.path(), clients));
            let error = pair.pump().expect_err("a stranger came in");
            assert!(!pair.server.is_established());
            if versions.len() == 1 {
                return error;
            }
        }
        unreachable!("the last one has one version")
    };
    let required = ClientCertificates::Required;
    assert!(refusal(required, None).contains("shows no certificate of the authority"));
    for clients in [required, ClientCertificates::Allowed] {
        let text = refusal(clients, Some(foreign.path()));
        assert!(text.contains("not from the authority"), "{text}");
        let text = refusal(clients, Some(&late));
        assert!(text.contains("has expired"), "{text}");
    }
}

#[test]
fn a_client_that_trusts_another_authority_says_so() {
    let (authority, foreign) = (authority(), authority());
    let client = client(foreign.path(), Some(foreign.path()), BOTH);
    let mut pair = Pair::new(
        client,
        server(authority.path(), ClientCertificates::Required),
    );
    // The client's alert is in its output only after it has failed.
    let error = pair.pump().expect_err("it must give up");
    assert!(error.contains("the client gave up: UnknownCA"), "{error}");
}

#[test]
fn garbage_gets_an_alert_and_no_more() {
    let authority = authority();
    let mut many = Vec::new();
    for _ in 0..100_000 {
        // Handshake records of one byte each, of a message that claims to be 65535 bytes long.
        many.extend_from_slice(&[22, 3, 1, 0, 1, 1]);
        if many.len() == 6 {
            many.extend_from_slice(&[22, 3, 1, 0, 3, 0, 255, 255]);
        }
    }
    let long = [&[22, 3, 1, 255, 255][..], &[1; 70_000]].concat();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 5000], &many, &long] {
        let mut server = server(authority.path(), ClientCertificates::Off);
        let mut got = Vec::new();
        receive(&mut server, bytes, &mut got).expect_err("it is no handshake");
        assert!(got.is_empty() && !server.is_established());
        let output = take_output(&mut server);
        assert!(output.len() < 100, "{output:?}");
    }
}

#[test]
fn a_changed_byte_ends_the_connection() {
    let authority = authority();
    let client = client(authority.path(), None, BOTH);
    let mut pair = Pair::new(client, server(authority.path(), ClientCertificates::Off));
    pair.pump().expect("a handshake");
    pair.client.write(b"something");
    let mut sent = pair.client.output();
    *sent.last_mut().expect("bytes") ^= 1;
    receive(&mut pair.server, &sent, &mut pair.got).expect_err("it was forged");
    assert!(pair.got.is_empty());
}

#[test]
fn no_more_is_decrypted_than_there_is_room_for() {
    let authority = authority();
    let client = client(authority.path(), None, BOTH);
    let mut pair = Pair::new(client, server(authority.path(), ClientCertificates::Off));
    pair.pump().expect("a handshake");
    let data = pattern(1 << 20);
    pair.client.write(&data);
    let sent = pair.client.output();
    let (mut cipher, mut plain) = (&sent[..], [0; 1000]);
    assert_eq!(pair.server.decrypt(&mut cipher, &mut plain), Ok(1000));
    assert!(
        sent.len() - cipher.len() < 40_000,
        "it holds what was not asked for"
    );
    assert_eq!(plain[..], data[..1000]);
}

#[test]
fn goodbyes_are_heard_and_said() {
    let authority = authority();
    let client = client(authority.path(), None, BOTH);
    let mut pair = Pair::new(client, server(authority.path(), ClientCertificates::Off));
    pair.pump().expect("a handshake");
    pair.client.write(b"last words");
    pair.client.send_close_notify();
    let mut sent = pair.client.output();
    sent.extend_from_slice(b"and what anybody may have added");
    receive(&mut pair.server, &sent, &mut pair.got).expect("good records");
    assert!(pair.server.peer_closed());
    assert_eq!(pair.got, b"last words");

    pair.server.close();
    let output = take_output(&mut pair.server);
    pair.client.receive(&output).expect("good records");
    let end = pair.client.reader().read(&mut [0; 10]);
    assert_eq!(end.expect("a clean end"), 0);
}

#[test]
fn unusable_files_are_named() {
    let problem = |change: &dyn Fn(&Path)| {
        let authority = authority();
        change(authority.path());
        let result = Acceptor::from_directory(authority.path(), ClientCertificates::Required);
        result.err().expect("it must not start").to_string()
    };
    let missing = problem(&|path| fs::remove_file(path.join("server-key.pem")).expect("file"));
    assert!(
        missing.contains("server-key.pem") && missing.contains("uraid tls init"),
        "{missing}"
    );
    let empty = problem(&|path| fs::write(path.join("ca-cert.pem"), "").expect("file"));
    assert!(empty.contains("ca-cert.pem"), "{empty}");
    let garbled = problem(&|path| {
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(path.join("server-cert.pem"), text).expect("file");
    });
    assert!(garbled.contains("server-cert.pem"), "{garbled}");
    let mixed = problem(&|path| {
        fs::copy(path.join("client-key.pem"), path.join("server-key.pem")).expect("copy");
    });
    assert!(mixed.contains("cannot be used together"), "{mixed}");
    let late = problem(&|path| {
        let names = ["localhost".to_string()];
        let (certificate, key) = expired(path, &names, ExtendedKeyUsagePurpose::ServerAuth);
        fs::write(path.join("server-cert.pem"), certificate).expect("file");
        fs::write(path.join("server-key.pem"), key).expect("file");
    });
    assert!(
        late.contains("expired") && late.contains("server-cert.pem"),
        "{late}"
    );
}

#[test]
fn what_an_operator_should_look_at_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let authority = authority();
    let notices = |directory: &Path| {
        Acceptor::from_directory(directory, ClientCertificates::Off)
            .expect("certificates")
            .1
    };
    assert!(notices(authority.path()).is_empty());
    let key = authority.path().join("server-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("mode");
    let said = notices(authority.path());
    assert!(said[0].contains("chmod 600"), "{said:?}");

    let soon = tempfile::tempdir().expect("directory");
    let names = ["localhost".to_string()];
    let plan = Plan {
        server_names: &names,
        clients: &[],
        days: 3,
    };
    directory::init(soon.path(), &plan).expect("certificates");
    let said = notices(soon.path());
    assert!(said[0].contains("expires in 2 days"), "{said:?}");
}

/// Certificates for the tests that make many connections.
static SHARED: LazyLock<TempDir> = LazyLock::new(authority);

proptest! {
    /// Whatever a client changes in what it sends, wherever it is cut: the server goes on, or it
    /// says what is wrong; it hands out nothing but what was really said.
    #[test]
    fn a_client_that_sends_anything_does_no_harm(
        established in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        piece_bytes in 1..5000usize,
    ) {
        let alice = SHARED.path().join("alice");
        let client = client(SHARED.path(), Some(&alice), BOTH);
        let server = server(SHARED.path(), ClientCertificates::Required);
        let mut pair = Pair::new(client, server);
        let said = pattern(20_000);
        if established {
            pair.pump().expect("a handshake");
            pair.client.write(&said);
        }
        let mut sent = pair.client.output();
        for (place, value) in changes {
            *place.get_mut(&mut sent) = value;
        }
        sent.truncate(cut.index(sent.len()) + 1);
        let mut failed = false;
        for piece in sent.chunks(piece_bytes) {
            failed = failed || receive(&mut pair.server, piece, &mut pair.got).is_err();
        }
        prop_assert!(said.starts_with(&pair.got));
        take_output(&mut pair.server);
        if failed {
            receive(&mut pair.server, b"more", &mut pair.got).expect_err("it has failed");
        }
    }
}

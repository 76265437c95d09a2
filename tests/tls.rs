//! Encrypted connections, with real clients: what works, who is kept out, and what is not told to
//! whom.

mod common;

use common::client::{Client, Handshake, OPT_ABORT, OPT_GO, OPT_INFO, OPT_LIST, REP_ACK};
use common::client::{OPT_EXPORT_NAME, export_request};
use common::sandbox::raid5;
use common::tools::{SYSTEM_PYTHON, assert_export_is, copy_in, has_python_nbd, noise_file};
use common::{FAILED, MIB, REFUSED, Ran, Sandbox, Server, USAGE, wait_for};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

const OPT_STARTTLS: u32 = 5;
const REP_ERR_INVALID: u32 = (1 << 31) + 3;
const REP_ERR_TLS_REQD: u32 = (1 << 31) + 5;

/// The first bytes of a TLS record, and nothing after them.
const HALF_A_HELLO: [u8; 6] = [22, 3, 1, 2, 0, 1];

/// An array, "tank", and certificates: for a server at localhost and the clients alice and bob.
struct Fixture {
    sandbox: Sandbox,
    members: Vec<PathBuf>,
}

impl Fixture {
    fn new() -> Fixture {
        let sandbox = Sandbox::new();
        let members = sandbox.members(3);
        sandbox.create(
            "--level raid5 --name tank --size 64M --export-size 64M",
            &members,
        );
        authority(&sandbox, "tls");
        Fixture { sandbox, members }
    }

    /// Serves with these certificates at a socket of the server's own.
    fn serve(&self, options: &str) -> Server {
        let options = format!("{} {options}", self.certificates());
        self.sandbox.serve_with(&options, &self.members)
    }

    fn certificates(&self) -> String {
        format!("--tls-certificates {}", self.tls("").display())
    }

    /// What belongs to a client.
    fn tls(&self, client: &str) -> PathBuf {
        self.sandbox.path("tls").join(client)
    }

    /// Runs a script of libnbd's Python shell.
    fn nbdsh(&self, script: &str) {
        let args = ["-m", "nbd", "-c", script];
        self.sandbox.run(SYSTEM_PYTHON, args).succeeded();
    }

    fn nbdinfo(&self, uri: &str) -> Ran {
        self.sandbox.run("nbdinfo", ["--json", uri])
    }
}

fn authority(sandbox: &Sandbox, name: &str) {
    let words = "--server-name localhost --server-name 127.0.0.1 --client alice --client bob";
    let args = ["tls", "init", name].into_iter().chain(words.split(' '));
    sandbox.uraid(args).succeeded();
}

/// The export `name` at the server's socket, for libnbd with the certificates in `own`.
fn uri(server: &Server, name: &str, own: &Path) -> String {
    let (socket, own) = (server.socket.display(), own.display());
    format!("nbds+unix:///{name}?socket={socket}&tls-certificates={own}")
}

/// A port of its own at localhost, from the line of a server that was told `tcp:HOST:0`.
fn port(server: &Server) -> String {
    let uri = server
        .ready
        .split(' ')
        .find(|word| word.starts_with("nbds://"));
    let address = uri.expect("a TCP address").trim_start_matches("nbds://");
    let address = address.split('/').next().expect("an address");
    address.rsplit(':').next().expect("a port").to_string()
}

fn names(list: &Value) -> Vec<&str> {
    let exports = list["exports"].as_array().expect("exports");
    exports
        .iter()
        .map(|e| e["export-name"].as_str().expect("a name"))
        .collect()
}

/// Waits for the server to close the connection.
fn assert_closed(mut stream: UnixStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

fn wait_for_log(server: &Server, text: &str) {
    wait_for(&format!("{text:?} in the log"), || {
        server.log().contains(text).then_some(())
    });
}

/// Has TLS granted, up to where the handshake begins.
fn start_tls(server: &Server) -> UnixStream {
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake.option(OPT_STARTTLS, &[]).expect("option");
    assert_eq!(handshake.reply(OPT_STARTTLS).expect("reply").0, REP_ACK);
    handshake.into_stream()
}

// ---- real clients ----

#[test]
fn libnbd_reads_and_writes() {
    need!("nbdinfo", "nbdcopy");
    let fixture = Fixture::new();
    let server = fixture.serve("");
    assert!(
        server.ready.contains("nbds+unix:///tank?"),
        "{}",
        server.ready
    );
    let uri = uri(&server, "tank", &fixture.tls("alice"));
    let info = fixture.nbdinfo(&uri).succeeded().json();
    assert_eq!(info["TLS"], true, "{info:#}");
    assert_eq!(info["exports"][0]["export-size"], 64 * MIB);
    let noise = noise_file(&fixture.sandbox, "noise", 64 * MIB, 1);
    copy_in(&fixture.sandbox, &noise, &uri);
    assert_export_is(&fixture.sandbox, &uri, &noise);
    assert!(server.log().contains("client uses TLS as alice"));
    server.stop();
}

#[test]
fn libnbd_checks_the_name_of_the_server_over_tcp() {
    need!("nbdinfo");
    let fixture = Fixture::new();
    let server = fixture.serve("--listen tcp:0.0.0.0:0");
    let (port, own) = (port(&server), fixture.tls("alice"));
    let uri = |host: &str| {
        format!(
            "nbds://{host}:{port}/tank?tls-certificates={}",
            own.display()
        )
    };
    assert_eq!(
        fixture.nbdinfo(&uri("localhost")).succeeded().json()["TLS"],
        true
    );
    fixture.nbdinfo(&uri("127.0.0.2")).exits(FAILED);
}

#[test]
fn who_leaves_gets_all_answers_before() {
    if !has_python_nbd() {
        skip!("the package python3-libnbd is not installed");
    }
    let fixture = Fixture::new();
    let server = fixture.serve("");
    let uri = uri(&server, "tank", &fixture.tls("alice"));
    // Much more than is encrypted at once.
    let script = format!(
        "\
h.set_uri_allow_local_file(True)
h.connect_uri('{uri}')
data = bytes(range(256)) * (32 << 12)
h.pwrite(data, 0)
buffer = nbd.Buffer(len(data))
read = h.aio_pread(buffer, 0)
h.aio_disconnect(0)
while h.aio_in_flight() > 0:
    h.poll(-1)
assert h.aio_command_completed(read)
assert buffer.to_bytearray() == data"
    );
    fixture.nbdsh(&script);
    server.stop();
}

/// A client that sends its last requests and its goodbyes, of NBD and of TLS, all at once.
#[test]
fn requests_that_come_with_the_goodbye_are_carried_out() {
    if !has_python_nbd() {
        skip!("the package python3-libnbd is not installed");
    }
    let fixture = Fixture::new();
    let server = fixture.serve("");
    let uri = uri(&server, "tank", &fixture.tls("alice"));
    // While the server is stopped, all of it waits at the socket together.
    let script = format!(
        "\
import os, signal
h.set_uri_allow_local_file(True)
h.connect_uri('{uri}')
h.pwrite(b'x' * 4096, 0)
os.kill({pid}, signal.SIGSTOP)
buffer = nbd.Buffer(4096)
read = h.aio_pread(buffer, 0)
h.aio_disconnect(0)
h.poll(100)
os.kill({pid}, signal.SIGCONT)
while h.aio_in_flight() > 0:
    h.poll(-1)
assert h.aio_command_completed(read)
assert buffer.to_bytearray() == b'x' * 4096",
        pid = server.pid()
    );
    fixture.nbdsh(&script);
    server.stop();
}

#[test]
fn qemu_reads_and_writes() {
    need!("qemu-img", "qemu-io", "qemu-nbd");
    let fixture = Fixture::new();
    let server = fixture.serve("--listen tcp:127.0.0.1:0");
    let port = port(&server);
    let own = fixture.tls("alice");
    let object = format!(
        "tls-creds-x509,id=tls,dir={},endpoint=client",
        own.display()
    );
    let list = format!("--list --tls-creds tls -b localhost -p {port}");
    let list = ["--object", &object].into_iter().chain(list.split(' '));
    let listed = fixture.sandbox.run("qemu-nbd", list).succeeded();
    assert!(listed.stdout.contains("export: 'tank'"), "{listed}");

    let image = format!(
        "driver=nbd,server.type=inet,server.host=localhost,server.port={port},export=tank,\
         tls-creds=tls"
    );
    let io = |commands: &[&str]| {
        let mut args = vec!["--object", &object, "--image-opts", &image];
        commands
            .iter()
            .for_each(|command| args.extend(["-c", command]));
        fixture.sandbox.run("qemu-io", args).succeeded()
    };
    io(&["write -P 7 4k 3M", "write -P 9 1M 512", "flush"]);
    let read = io(&["read -P 7 4k 1020k", "read -P 9 1M 512", "read -P 0 4M 1M"]);
    assert!(!read.stdout.contains("verification failed"), "{read}");
    // What was written lies in the clear on the members: only connections are encrypted.
    drop(server);
    let server = fixture.sandbox.serve(&fixture.members);
    let mut client = Client::connect(&server.socket, "tank").expect("connection");
    assert_eq!(
        client.read(MIB, 1024).expect("data"),
        [[9; 512], [7; 512]].concat()
    );
}

// ---- who is kept out ----

/// A client's directory in `to`, with a certificate of the authority in `from` that has expired.
fn expired(from: &Path, to: &Path) {
    let text = |name: &str| std::fs::read_to_string(from.join(name)).expect("file");
    let ca_key = KeyPair::from_pem(&text("ca-key.pem")).expect("key");
    let issuer = Issuer::from_ca_cert_pem(&text("ca-cert.pem"), ca_key).expect("authority");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "late");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::DAY, now - Duration::MINUTE);
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, &issuer).expect("certificate");
    std::fs::create_dir(to).expect("directory");
    for (name, text) in [
        ("ca-cert.pem", text("ca-cert.pem")),
        ("client-cert.pem", certificate.pem()),
        ("client-key.pem", key.serialize_pem()),
    ] {
        std::fs::write(to.join(name), text).expect("file");
    }
}

#[test]
fn strangers_are_kept_out() {
    need!("nbdinfo");
    let fixture = Fixture::new();
    let server = fixture.serve("");
    let mut clients = 0..;
    let mut refused = |own: &Path, why: &str| {
        let number = clients.next().expect("a number");
        fixture.nbdinfo(&uri(&server, "tank", own)).exits(FAILED);
        wait_for_log(
            &server,
            &format!("client {number}: connection dropped: TLS: {why}"),
        );
    };

    let nobody = fixture.tls("nobody");
    std::fs::create_dir(&nobody).expect("directory");
    std::fs::copy(fixture.tls("ca-cert.pem"), nobody.join("ca-cert.pem")).expect("copy");
    refused(&nobody, "the client shows no certificate of the authority");

    // It believes us, and we do not believe it: its library does not even try.
    authority(&fixture.sandbox, "foreign");
    let foreign = fixture.sandbox.path("foreign/alice");
    std::fs::copy(fixture.tls("ca-cert.pem"), foreign.join("ca-cert.pem")).expect("copy");
    refused(&foreign, "the client shows no certificate of the authority");

    let late = fixture.tls("late");
    expired(&fixture.tls(""), &late);
    refused(&late, "the client's certificate has expired");

    // And one that does not believe us.
    refused(&fixture.sandbox.path("foreign/bob"), "");
    fixture
        .nbdinfo(&uri(&server, "tank", &fixture.tls("bob")))
        .succeeded();
}

#[test]
fn exports_are_for_those_who_are_named() {
    need!("nbdinfo");
    let fixture = Fixture::new();
    let sandbox = &fixture.sandbox;
    let homes = [sandbox.path("h0"), sandbox.path("h1")];
    sandbox.create(
        "--level raid1 --name home --size 64M --export-size 32M",
        &homes,
    );
    let members = [&fixture.members[..], &homes].concat();
    let options = format!(
        "{} --control {} --export tank,tls-client=alice,tls-client=carol",
        fixture.certificates(),
        sandbox.dir().display()
    );
    let server = sandbox.serve_with(&options, &members);
    let listed = |client: &str| {
        let all = uri(&server, "", &fixture.tls(client));
        let list = sandbox
            .run("nbdinfo", ["--list", "--json", &all])
            .succeeded()
            .json();
        names(&list).join(" ")
    };
    assert_eq!(listed("alice"), "tank home");
    assert_eq!(listed("bob"), "home");
    fixture
        .nbdinfo(&uri(&server, "tank", &fixture.tls("alice")))
        .succeeded();
    fixture
        .nbdinfo(&uri(&server, "home", &fixture.tls("bob")))
        .succeeded();
    fixture
        .nbdinfo(&uri(&server, "tank", &fixture.tls("bob")))
        .exits(FAILED);

    // One that is added later needs no restart of the server.
    let tls = fixture.tls("");
    sandbox
        .uraid([
            "tls".as_ref(),
            "client".as_ref(),
            tls.as_os_str(),
            "carol".as_ref(),
        ])
        .succeeded();
    assert_eq!(listed("carol"), "tank home");
}

#[test]
fn before_tls_nothing_is_told() {
    let fixture = Fixture::new();
    let server = fixture.serve("");
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    for name in ["tank", "tonk"] {
        for option in [OPT_LIST, OPT_INFO, OPT_GO] {
            let data = export_request(name);
            let data = if option == OPT_LIST { &[] } else { &data[..] };
            handshake.option(option, data).expect("option");
            let (kind, text) = handshake.reply(option).expect("reply");
            assert_eq!(kind, REP_ERR_TLS_REQD, "{option}");
            assert!(!String::from_utf8_lossy(&text).contains("tank"), "{text:?}");
        }
    }
    handshake.option(OPT_ABORT, &[]).expect("option");
    assert_eq!(handshake.reply(OPT_ABORT).expect("reply").0, REP_ACK);

    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake.option(OPT_EXPORT_NAME, b"tank").expect("option");
    assert_closed(handshake.into_stream());
}

#[test]
fn where_tls_is_allowed_only_some_exports_need_it() {
    need!("nbdinfo");
    let fixture = Fixture::new();
    let server = fixture.serve("--tls allowed");
    assert!(server.ready.contains(" nbd+unix://"), "{}", server.ready);
    Client::connect(&server.socket, "tank").expect("in the clear");
    let info = fixture.nbdinfo(&uri(&server, "tank", &fixture.tls("bob")));
    assert_eq!(info.succeeded().json()["TLS"], true);
    drop(server);

    let server = fixture.serve("--tls allowed --tls-clients allowed --export tank,tls");
    Client::connect(&server.socket, "tank")
        .err()
        .expect("it needs TLS");
    let nobody = fixture.tls("nobody");
    std::fs::create_dir(&nobody).expect("directory");
    std::fs::copy(fixture.tls("ca-cert.pem"), nobody.join("ca-cert.pem")).expect("copy");
    fixture.nbdinfo(&uri(&server, "tank", &nobody)).succeeded();
    assert!(
        server
            .log()
            .contains("client uses TLS without a certificate")
    );
}

// ---- abuse ----

#[test]
fn what_is_no_handshake_ends_the_connection() {
    let fixture = Fixture::new();
    let server = fixture.serve("");
    // Clear text in the same packet as STARTTLS, or where the handshake is due.
    let mut eager = Handshake::start(&server.socket)
        .expect("greeting")
        .into_stream();
    let option = |number: u32| [b"IHAVEOPT", &number.to_be_bytes()[..], &[0; 4]].concat();
    let both = [option(OPT_STARTTLS), option(OPT_LIST)].concat();
    eager.write_all(&both).expect("send");
    assert_closed(eager);
    wait_for_log(&server, "clear text");
    for bytes in [&option(OPT_LIST)[..], &[0; 100_000], &[22; 100_000]] {
        let mut stream = start_tls(&server);
        // The server may have hung up before it has read everything.
        let _ = stream.write_all(bytes);
        assert_closed(stream);
    }
    // Half a handshake, and the client is gone.
    for len in 0..HALF_A_HELLO.len() {
        start_tls(&server)
            .write_all(&HALF_A_HELLO[..len])
            .expect("send");
    }
    // TLS takes no data, and the connection goes on.
    let mut handshake = Handshake::start(&server.socket).expect("greeting");
    handshake.option(OPT_STARTTLS, b"x").expect("option");
    assert_eq!(
        handshake.reply(OPT_STARTTLS).expect("reply").0,
        REP_ERR_INVALID
    );
    handshake.option(OPT_STARTTLS, &[]).expect("option");
    assert_eq!(handshake.reply(OPT_STARTTLS).expect("reply").0, REP_ACK);
    server.stop();
}

#[test]
fn a_handshake_that_never_ends_is_dropped() {
    let fixture = Fixture::new();
    let server = fixture.serve("");
    let mut stream = start_tls(&server);
    stream.write_all(&HALF_A_HELLO).expect("send");
    assert_closed(stream);
    wait_for_log(&server, "no export was chosen in 30 s");
}

// ---- the command line ----

#[test]
fn certificates_are_never_overwritten() {
    let fixture = Fixture::new();
    let sandbox = &fixture.sandbox;
    let key = std::fs::read(fixture.tls("server-key.pem")).expect("key");
    sandbox
        .uraid(["tls", "init", "tls"])
        .exits(REFUSED)
        .says(&["ca-cert.pem is there already"]);
    sandbox
        .uraid(["tls", "client", "tls", "bob"])
        .exits(REFUSED)
        .says(&["bob is there already"]);
    assert_eq!(
        std::fs::read(fixture.tls("server-key.pem")).expect("key"),
        key
    );
    sandbox
        .uraid(["tls", "client", "tls", "../bob"])
        .exits(FAILED);
    sandbox
        .uraid(["tls", "client", "nowhere", "bob"])
        .exits(FAILED)
        .says(&["nowhere/ca-cert"]);
    sandbox.uraid(["tls", "psk", "keys.psk", "bob"]).succeeded();
    sandbox
        .uraid(["tls", "psk", "keys.psk", "bob"])
        .exits(REFUSED);
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    let (sandbox, members) = raid5();
    authority(&sandbox, "tls");
    let refused = |options: &str, code: i32, says: &str| {
        sandbox
            .serve_refused(options, &members)
            .exits(code)
            .says(&[says]);
    };
    refused("--tls required", USAGE, "uraid tls init");
    refused(
        "--tls-certificates nowhere",
        FAILED,
        "nowhere/server-cert.pem",
    );
    refused(
        "--tls-certificates tls --tls-psk keys",
        USAGE,
        "cannot be used with",
    );
    refused("--export raid5,tls-client=bob", USAGE, "--tls-certificates");
    let unasked = "--tls-certificates tls --tls-clients off --export raid5,tls-client=bob";
    refused(unasked, USAGE, "--tls-clients off");
    // Where others can connect, TLS must be required.
    let open = "--listen tcp:0.0.0.0:0 --tls-certificates tls --tls allowed";
    refused(open, REFUSED, "can be reached from other hosts");
    if cfg!(not(feature = "psk")) {
        refused("--tls-psk keys.psk", FAILED, "--features psk");
    }
}

// ---- shared secrets ----

#[cfg(feature = "psk")]
#[test]
fn libnbd_and_qemu_use_shared_secrets() {
    need!("nbdinfo", "nbdcopy", "qemu-img");
    let fixture = Fixture::new();
    let sandbox = &fixture.sandbox;
    for user in ["bob", "alice"] {
        sandbox.uraid(["tls", "psk", "keys.psk", user]).succeeded();
    }
    let keys = sandbox.path("keys.psk");
    let options = format!(
        "--tls-psk {} --export tank,tls-client=alice",
        keys.display()
    );
    let server = sandbox.serve_with(&options, &fixture.members);
    let socket = server.socket.display();
    let uri = |user: &str| {
        format!(
            "nbds+unix://{user}@/tank?socket={socket}&tls-psk-file={}",
            keys.display()
        )
    };
    let noise = noise_file(sandbox, "noise", 64 * MIB, 2);
    copy_in(sandbox, &noise, &uri("alice"));
    assert_export_is(sandbox, &uri("alice"), &noise);
    fixture.nbdinfo(&uri("bob")).exits(FAILED);

    let object = format!(
        "tls-creds-psk,id=tls,dir={},username=alice,endpoint=client",
        sandbox.dir().display()
    );
    let image =
        format!("driver=nbd,server.type=unix,server.path={socket},export=tank,tls-creds=tls");
    let compare = ["compare", "--object", &object, "--image-opts", &image];
    let file = format!("driver=raw,file.filename={}", noise.display());
    sandbox
        .run("qemu-img", compare.into_iter().chain([file.as_str()]))
        .succeeded();

    // Somebody who has a key of that name, and it is another one.
    sandbox
        .uraid(["tls", "psk", "other.psk", "alice"])
        .succeeded();
    let other = uri("alice").replace("keys.psk", "other.psk");
    fixture.nbdinfo(&other).exits(FAILED);
    wait_for_log(&server, "has another key");
}

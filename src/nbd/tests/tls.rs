//! The place of TLS in the handshake.

mod common;

use common::*;
use std::sync::Arc;
use uraid_buffer::Pool;
use uraid_nbd::wire::{self, handshake_flag, option, option_reply};
use uraid_nbd::{Access, Export, Session, State, TlsPolicy};

/// For anyone, for TLS, for alice; and for alice, hidden.
fn exports() -> Arc<[Export]> {
    let export = |name: &str, hidden, access| Export {
        name: name.into(),
        size_bytes: 4096,
        hidden,
        access,
        ..Export::default()
    };
    let alice = || Access::Names(vec!["alice".into(), "also".into()]);
    [
        export("open", false, Access::Anyone),
        export("private", false, Access::Tls),
        export("hers", false, alice()),
        export("secret", true, alice()),
    ]
    .into()
}

fn offered(tls: TlsPolicy) -> Connection {
    Connection::with(Session::with_tls(exports(), tls, Pool::heap())).greet()
}

/// Over TLS, as somebody with these names.
fn over_tls(tls: TlsPolicy, names: &[&str]) -> Connection {
    let mut connection = offered(tls);
    start_tls(&mut connection, names);
    connection
}

fn start_tls(connection: &mut Connection, names: &[&str]) {
    let replies = connection.option(option::STARTTLS, &[]);
    assert_eq!(replies, [(option_reply::ACK, vec![])]);
    assert_eq!(connection.session.state(), State::WantsTls);
    let names = names.iter().map(ToString::to_string).collect();
    connection.session.tls_established(names);
}

fn listed(connection: &mut Connection) -> Vec<String> {
    let mut replies = connection.option(option::LIST, &[]);
    assert_eq!(replies.pop(), Some((option_reply::ACK, vec![])));
    let name = |(_, data): (u32, Vec<u8>)| String::from_utf8(data[4..].to_vec()).unwrap();
    replies.into_iter().map(name).collect()
}

/// The last reply to INFO.
fn info(connection: &mut Connection, name: &str) -> u32 {
    let replies = connection.option(option::INFO, &info_request(name, &[]));
    *types(&replies).last().expect("a reply")
}

#[test]
fn without_tls_it_is_unsupported_and_never_required() {
    let mut connection = offered(TlsPolicy::Off);
    for data in [&b""[..], b"x"] {
        let replies = connection.option(option::STARTTLS, data);
        assert_eq!(types(&replies), [option_reply::ERR_UNSUP]);
    }
    assert_eq!(listed(&mut connection), ["open"]);
    assert_eq!(info(&mut connection, "open"), option_reply::ACK);
    assert_eq!(info(&mut connection, "nope"), option_reply::ERR_UNKNOWN);
    assert_eq!(info(&mut connection, "private"), option_reply::ERR_POLICY);
}

#[test]
fn where_tls_is_required_nothing_else_is_talked_of_before() {
    let mut connection = offered(TlsPolicy::Required);
    let options = [
        option::LIST,
        option::INFO,
        option::GO,
        option::STRUCTURED_REPLY,
        option::EXTENDED_HEADERS,
        option::LIST_META_CONTEXT,
        option::SET_META_CONTEXT,
        4711,
    ];
    for option in options {
        for data in [vec![], info_request("open", &[]), vec![0; 20_000]] {
            let replies = connection.option(option, &data);
            assert_eq!(types(&replies), [option_reply::ERR_TLS_REQD], "{option}");
        }
    }
    start_tls(&mut connection, &[]);
    assert_eq!(listed(&mut connection), ["open", "private"]);
    connection.go("private");
}

#[test]
fn old_clients_get_nowhere_where_tls_is_required() {
    let mut connection = offered(TlsPolicy::Required);
    let mut bytes = Vec::new();
    wire::put_option(&mut bytes, option::EXPORT_NAME, b"open");
    connection.send(&bytes);
    assert_eq!(connection.session.state(), State::Closed);
    assert!(connection.output().is_empty());

    let session = Session::with_tls(exports(), TlsPolicy::Required, Pool::heap());
    let mut connection = Connection::with(session);
    connection.output();
    let flags = u32::from(handshake_flag::NO_ZEROES).to_be_bytes();
    connection.send(&flags);
    assert_eq!(connection.session.state(), State::Closed);
}

#[test]
fn abort_works_before_tls() {
    let mut connection = offered(TlsPolicy::Required);
    let replies = connection.option(option::ABORT, &[]);
    assert_eq!(types(&replies), [option_reply::ACK]);
    assert!(connection.session.is_finished());
}

#[test]
fn where_tls_is_allowed_only_some_exports_need_it() {
    let mut connection = offered(TlsPolicy::Allowed);
    assert_eq!(listed(&mut connection), ["open"]);
    for name in ["private", "hers", "secret", "nope"] {
        // What is secret looks like what is not there.
        assert_eq!(info(&mut connection, name), option_reply::ERR_TLS_REQD);
    }
    connection.go("open");
    let mut connection = offered(TlsPolicy::Allowed);
    let mut bytes = Vec::new();
    wire::put_option(&mut bytes, option::EXPORT_NAME, b"private");
    connection.send(&bytes);
    assert_eq!(connection.session.state(), State::Closed);
}

#[test]
fn names_decide_over_tls() {
    for tls in [TlsPolicy::Allowed, TlsPolicy::Required] {
        let mut nobody = over_tls(tls, &[]);
        assert_eq!(listed(&mut nobody), ["open", "private"]);
        assert_eq!(info(&mut nobody, "hers"), option_reply::ERR_POLICY);
        assert_eq!(info(&mut nobody, "secret"), option_reply::ERR_UNKNOWN);
        assert_eq!(info(&mut nobody, "nope"), option_reply::ERR_UNKNOWN);
        let mut alice = over_tls(tls, &["somebody", "alice"]);
        assert_eq!(listed(&mut alice), ["open", "private", "hers"]);
        assert_eq!(info(&mut alice, "hers"), option_reply::ACK);
        alice.go("secret");
    }
}

#[test]
fn tls_makes_void_what_was_agreed_before() {
    let mut connection = offered(TlsPolicy::Allowed);
    let replies = connection.option(option::EXTENDED_HEADERS, &[]);
    assert_eq!(types(&replies), [option_reply::ACK]);
    connection.choose_contexts("open", &["base:allocation"]);
    start_tls(&mut connection, &[]);
    let set = meta_request("open", &["base:allocation"]);
    let replies = connection.option(option::SET_META_CONTEXT, &set);
    assert_eq!(
        types(&replies),
        [option_reply::ERR_INVALID],
        "no dialect for it"
    );
    let replies = connection.option(option::STRUCTURED_REPLY, &[]);
    assert_eq!(
        types(&replies),
        [option_reply::ACK],
        "not extended any more"
    );
    connection.go("open");
    connection.dialect = uraid_nbd::Dialect::Structured;
    connection.request(wire::command::BLOCK_STATUS, 0, 1, 0, 1);
    assert!(
        connection.session.next_request().is_none(),
        "no context is left"
    );
}

#[test]
fn tls_does_not_start_twice() {
    let mut connection = over_tls(TlsPolicy::Required, &[]);
    let replies = connection.option(option::STARTTLS, &[]);
    assert_eq!(types(&replies), [option_reply::ERR_INVALID]);
    let mut connection = offered(TlsPolicy::Allowed);
    for data in [vec![0], vec![0; 20_000]] {
        let replies = connection.option(option::STARTTLS, &data);
        assert_eq!(
            types(&replies),
            [option_reply::ERR_INVALID],
            "takes no data"
        );
    }
}

#[test]
fn the_handshake_waits_until_the_client_was_told() {
    let mut connection = offered(TlsPolicy::Required);
    let mut bytes = Vec::new();
    wire::put_option(&mut bytes, option::STARTTLS, &[]);
    connection.send(&bytes);
    assert_eq!(connection.session.state(), State::Negotiating);
    assert!(!connection.session.wants_input());
    assert!(connection.session.take_output().is_some());
    assert_eq!(
        connection.session.state(),
        State::Negotiating,
        "not sent yet"
    );
    assert!(connection.session.take_output().is_none());
    assert_eq!(connection.session.state(), State::WantsTls);
}

#[test]
fn clear_text_after_starttls_is_never_taken_for_protected() {
    let mut go = Vec::new();
    wire::put_option(&mut go, option::GO, &info_request("open", &[]));
    // In one piece with STARTTLS, or in a piece of its own before and after the client was told.
    let mut starttls = Vec::new();
    wire::put_option(&mut starttls, option::STARTTLS, &[]);
    let together = [&starttls[..], &go].concat();
    for (pieces, fetch) in [
        (vec![&together[..]], false),
        (vec![&starttls[..], &go], false),
        (vec![&starttls[..], &go], true),
        (vec![&starttls[..], &go[..1]], true),
    ] {
        let mut connection = offered(TlsPolicy::Allowed);
        for piece in pieces {
            connection.session.receive(piece);
            if fetch {
                connection.output();
            }
        }
        assert_eq!(connection.session.state(), State::Closed);
        assert!(connection.log().contains("clear text where TLS is due"));
        connection.session.tls_established(vec![]);
        assert_eq!(connection.session.state(), State::Closed, "for good");
    }
}

#[test]
fn a_server_that_shuts_down_starts_no_tls() {
    let mut connection = offered(TlsPolicy::Required);
    connection.session.shutdown();
    let replies = connection.option(option::STARTTLS, &[]);
    assert_eq!(types(&replies), [option_reply::ERR_SHUTDOWN]);
}

#[test]
fn sessions_can_be_handed_to_another_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Session>();
}

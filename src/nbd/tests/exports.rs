//! Several exports in one list: hidden ones, the default, and those that take nobody now.

mod common;

use common::{Connection, exports, info_request, types};
use uraid_buffer::Pool;
use uraid_nbd::wire::{self, option, option_reply};
use uraid_nbd::{Admission, Answer, Dialect, Export, Session, State};

/// A greeted connection to these exports.
fn offered(exports: &[Export]) -> Connection {
    Connection::with(Session::new(exports.into(), Pool::heap())).greet()
}

fn go(connection: &mut Connection, name: &str) -> Vec<u32> {
    types(&connection.option(option::GO, &info_request(name, &[])))
}

#[test]
fn hidden_exports_are_served_and_not_listed() {
    let mut exports = exports().to_vec();
    exports[1].hidden = true;
    let mut connection = offered(&exports);
    let listed = connection.option(option::LIST, &[]);
    let texts: Vec<_> = listed
        .iter()
        .map(|(_, data)| String::from_utf8_lossy(data))
        .collect();
    assert_eq!(listed.len(), 3, "{texts:?}");
    assert!(!texts.concat().contains("frozen"), "{texts:?}");
    let taken = [option_reply::INFO, option_reply::ACK];
    assert_eq!(go(&mut connection, "frozen"), taken);
    assert_eq!(connection.session.export(), Some(1));
}

#[test]
fn the_empty_name_means_the_default_if_there_is_one() {
    let mut exports = exports().to_vec();
    let unknown = [option_reply::ERR_UNKNOWN];
    assert_eq!(go(&mut offered(&exports), ""), unknown);
    exports[1].is_default = true;
    let mut connection = offered(&exports);
    assert_eq!(
        go(&mut connection, ""),
        [option_reply::INFO, option_reply::ACK]
    );
    assert_eq!(connection.session.export(), Some(1));
}

#[test]
fn exports_that_take_nobody_say_why_and_negotiation_goes_on() {
    let mut exports = exports().to_vec();
    exports[0].admission = Admission::Full;
    exports[1].admission = Admission::Stopping;
    let mut connection = offered(&exports);
    assert_eq!(go(&mut connection, "disk"), [option_reply::ERR_POLICY]);
    assert_eq!(go(&mut connection, "frozen"), [option_reply::ERR_SHUTDOWN]);
    let info = connection.option(option::INFO, &info_request("disk", &[]));
    let described = [option_reply::INFO, option_reply::ACK];
    assert_eq!(types(&info), described, "it may be asked about");
    exports[0].admission = Admission::Open;
    connection.session.set_exports(exports.into());
    assert_eq!(go(&mut connection, "disk"), described);
}

#[test]
fn old_clients_are_turned_away_by_the_end_of_the_connection() {
    let mut exports = exports().to_vec();
    exports[0].admission = Admission::Full;
    let mut connection = offered(&exports);
    let mut bytes = Vec::new();
    wire::put_option(&mut bytes, option::EXPORT_NAME, b"disk");
    connection.send(&bytes);
    assert_eq!(connection.session.state(), State::Closed);
    assert!(connection.log().contains("as many clients as are allowed"));
}

#[test]
fn a_session_goes_on_in_another_thread() {
    let mut connection = Connection::transmitting("disk", Dialect::Simple);
    let request = wire::RequestHeader {
        flags: 0,
        command: wire::command::WRITE,
        handle: 1,
        offset: 0,
        len: 4096,
    };
    connection.send(&request.encode(Dialect::Simple));
    connection.send(&[7; 1000]);
    let there = std::thread::spawn(move || {
        let pool = Pool::heap();
        connection.session.use_pool(pool.clone());
        connection.send(&[7; 3096]);
        let cookie = connection.next().cookie;
        connection.session.reply(cookie, Ok(Answer::Done));
        let reply = connection.session.take_output().expect("a reply");
        (reply.len(), pool.stats().heap_bytes)
    });
    let (buffers, bytes) = there.join().expect("no panic");
    assert_eq!(buffers, 1);
    assert!(bytes > 0, "the reply lies in the pool of its thread");
}

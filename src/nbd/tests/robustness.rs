//! Any cut of the stream, any garbage, any valid traffic.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::*;
use uraid_buffer::Pool;
use uraid_nbd::client::{Client, Command};
use uraid_nbd::wire::{self, NbdError, RequestHeader, command, command_flag, option};
use uraid_nbd::{
    Answer, ClientRequest, Dialect, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_REQUESTS_MAX, PAYLOAD_BYTES_MAX,
    ReplyError, Session, State,
};

const DIALECTS: [Dialect; 3] = [Dialect::Simple, Dialect::Structured, Dialect::Extended];

/// The bytes of a whole conversation with every kind of message in it.
fn conversation(dialect: Dialect) -> Vec<u8> {
    let mut bytes = client_flags().to_vec();
    match dialect {
        Dialect::Simple => {}
        Dialect::Structured => wire::put_option(&mut bytes, option::STRUCTURED_REPLY, &[]),
        Dialect::Extended => wire::put_option(&mut bytes, option::EXTENDED_HEADERS, &[]),
    }
    let contexts = meta_request("disk", &["base:allocation", "x-uraid:redundancy", "x-y:z"]);
    wire::put_option(&mut bytes, option::LIST_META_CONTEXT, &contexts);
    wire::put_option(&mut bytes, option::SET_META_CONTEXT, &contexts);
    wire::put_option(&mut bytes, option::LIST, &[]);
    wire::put_option(&mut bytes, 77, b"unknown");
    wire::put_option(
        &mut bytes,
        option::INFO,
        &info_request("nope", &[0, 1, 2, 3]),
    );
    wire::put_option(&mut bytes, option::LIST, &vec![0; 10_000]);
    wire::put_option(&mut bytes, option::GO, &info_request("disk", &[0, 1, 2, 3]));
    let extended = dialect == Dialect::Extended;
    let mut request = |command, flags: u16, handle, offset, len: u64| {
        let payload = match extended && command == command::WRITE {
            true => command_flag::PAYLOAD_LEN,
            false => 0,
        };
        let flags = flags | payload;
        let header = RequestHeader {
            flags,
            command,
            handle,
            offset,
            len,
        };
        bytes.extend(header.encode(dialect));
        if command == command::WRITE || extended && flags & command_flag::PAYLOAD_LEN != 0 {
            bytes.extend((0..len).map(|i| (i + handle) as u8));
        }
    };
    request(command::WRITE, 1, 1, 5, 20_000);
    request(command::WRITE, 0, 2, 0, 0);
    request(command::READ, 0, 3, 0, 30_000);
    request(command::WRITE, 0x40, 4, 0, 100);
    request(command::TRIM, 0, 5, 100, 1000);
    request(99, 0, 6, 0, 10);
    request(command::WRITE_ZEROES, 0, 7, 4000, 100);
    request(command::FLUSH, 0, 8, 0, 0);
    request(command::WRITE, 0, 9, SIZE, 50_000);
    request(command::READ, 0, 10, 0, 10_000);
    request(command::BLOCK_STATUS, 0, 12, 0, 100_000);
    request(command::BLOCK_STATUS, command_flag::REQ_ONE, 13, 3, 100);
    request(command::BLOCK_STATUS, command_flag::PAYLOAD_LEN, 14, 0, 16);
    request(command::TRIM, command_flag::PAYLOAD_LEN, 15, 0, 200);
    request(command::CACHE, 0, 16, 0, 100);
    request(command::DISC, 0, 11, 0, 0);
    bytes
}

/// Feeds `input` in pieces of `piece()` bytes to a session, then serves all requests from a disk;
/// returns all it sends.
fn converse(input: &[u8], mut piece: impl FnMut() -> usize) -> Vec<u8> {
    let mut connection = Connection::new();
    let mut fed = 0;
    while fed < input.len() {
        let end = fed.saturating_add(piece()).min(input.len());
        connection.send(&input[fed..end]);
        fed = end;
    }
    // Serving at the end only makes the order of replies the same for all cuts.
    let mut disk = Disk::new(SIZE);
    while let Some(request) = connection.session.next_request() {
        connection
            .session
            .reply(request.cookie, disk.carry_out(&request.kind));
    }
    let output = connection.output();
    assert!(
        connection.session.is_finished(),
        "the conversation ends in a disconnect"
    );
    output
}

#[test]
fn cuts_in_the_stream_make_no_difference() {
    let mut random = Random::new();
    for dialect in DIALECTS {
        let input = conversation(dialect);
        let whole = converse(&input, || usize::MAX);
        assert!(whole.len() > 25_000, "both reads are answered");
        assert!(converse(&input, || 1) == whole, "byte by byte");
        for _ in 0..50 {
            assert!(converse(&input, || 1 + random.below(5000) as usize) == whole);
        }
    }
}

#[test]
fn disconnecting_at_any_byte_leaves_nothing_behind() {
    for dialect in DIALECTS {
        let flags = match dialect {
            Dialect::Extended => command_flag::PAYLOAD_LEN,
            _ => 0,
        };
        let header = RequestHeader {
            flags,
            command: 1,
            handle: 1,
            offset: 3,
            len: 20_000,
        };
        let mut bytes = header.encode(dialect);
        let header_len = bytes.len();
        bytes.extend(vec![9; 20_000]);
        let cuts = (0..header_len + 100).chain((header_len + 100..bytes.len()).step_by(997));
        for cut in cuts {
            let mut connection = Connection::transmitting("disk", dialect);
            connection.send(&bytes[..cut]);
            connection.session.peer_closed();
            assert!(connection.session.next_request().is_none(), "cut at {cut}");
            assert!(connection.output().is_empty());
            assert!(connection.session.is_finished());
            let expected = if cut == 0 {
                "without disconnecting"
            } else {
                "middle of a message"
            };
            assert!(connection.log().contains(expected));
        }
        let mut connection = Connection::transmitting("disk", dialect);
        connection.send(&bytes);
        connection.session.peer_closed();
        let cookie = connection.next().cookie;
        connection.session.reply(cookie, Ok(Answer::Done));
        assert!(!connection.output().is_empty());
        assert!(connection.session.is_finished());
    }
}

#[test]
fn disconnecting_at_any_byte_of_the_handshake_is_the_end() {
    let input = conversation(Dialect::Extended);
    let mut negotiating = 0;
    for cut in 0..input.len() {
        let mut connection = Connection::new();
        let mut fed = 0;
        while fed < cut {
            fed += connection.session.receive(&input[fed..cut]);
            connection.output();
        }
        if connection.session.state() != State::Negotiating {
            break;
        }
        negotiating += 1;
        connection.session.peer_closed();
        connection.output();
        assert!(connection.session.is_finished());
    }
    assert!(negotiating > 6000, "the whole handshake was cut");
}

/// Feeds `input` to a session whose host never replies and never sends: what it holds is bounded.
fn assert_bounded(connection: &mut Connection, input: &[u8]) {
    let mut fed = 0;
    loop {
        let taken = connection.session.receive(&input[fed..]);
        fed += taken;
        if taken == 0 || fed == input.len() {
            break;
        }
    }
    let mut requests = 0;
    let mut bytes = 0;
    while let Some(request) = connection.session.next_request() {
        requests += 1;
        bytes += request.kind.payload_bytes() as usize;
    }
    assert!(requests <= IN_FLIGHT_REQUESTS_MAX);
    assert!(bytes < IN_FLIGHT_BYTES_MAX + PAYLOAD_BYTES_MAX as usize);
    assert!(connection.output().len() < 1 << 20);
}

#[test]
fn garbage_is_survived_within_bounds() {
    let mut random = Random::new();
    for _ in 0..2000 {
        let len = random.below(2000) as usize;
        let garbage = random.bytes(len);
        assert_bounded(&mut Connection::new(), &garbage);
        assert_bounded(&mut Connection::greeted(), &garbage);
        let dialect = DIALECTS[random.below(3) as usize];
        assert_bounded(&mut Connection::transmitting("disk", dialect), &garbage);
    }
}

#[test]
fn nearly_valid_options_are_survived_within_bounds() {
    let mut random = Random::new();
    for _ in 0..1000 {
        let mut bytes = Vec::new();
        for _ in 0..random.below(80) {
            let name = ["disk", "frozen", "nope", ""][random.below(4) as usize];
            let mut data = info_request(name, &[0, 1, 2, 3]);
            if random.one_in(3) {
                let at = random.below(data.len() as u64) as usize;
                data[at] = random.next() as u8;
            }
            let chosen = [3, 6, 8, 9, 10, 11, random.below(14) as u32][random.below(7) as usize];
            wire::put_option(&mut bytes, chosen, &data);
            if random.one_in(50) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
        }
        assert_bounded(&mut Connection::greeted(), &bytes);
    }
}

#[test]
fn nearly_valid_requests_are_survived_within_bounds() {
    let mut random = Random::new();
    for _ in 0..1000 {
        let dialect = DIALECTS[random.below(3) as usize];
        let mut bytes = Vec::new();
        for handle in 0..random.below(400) {
            let header = RequestHeader {
                flags: if random.one_in(4) {
                    random.next() as u16
                } else {
                    0
                },
                command: random.below(10) as u16,
                handle,
                offset: if random.one_in(4) {
                    random.next()
                } else {
                    random.below(SIZE)
                },
                len: if random.one_in(20) {
                    random.next() >> 32
                } else {
                    random.below(300)
                },
            };
            if header.command == command::DISC && !random.one_in(50) {
                continue;
            }
            bytes.extend(header.encode(dialect));
            if header.command == command::WRITE {
                bytes.extend(random.bytes(header.len.min(300) as usize));
            }
        }
        let export = ["disk", "frozen", "large"][random.below(3) as usize];
        let mut connection = match dialect {
            Dialect::Simple => Connection::transmitting(export, dialect),
            _ => Connection::with_contexts(export, dialect),
        };
        assert_bounded(&mut connection, &bytes);
    }
}

/// Lengths and statuses by context.
type Extents = BTreeMap<u32, Vec<(u64, u64)>>;

/// A session and a client joined by two streams of which random parts move, a disk served out of
/// order, and what each request must be answered with.
struct World {
    random: Random,
    session: Session,
    client: Client,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    disk: Disk,
    /// Carried out, not yet replied to.
    carried_out: Vec<(ClientRequest, Result<Answer, ReplyError>)>,
    model: Disk,
    expected: HashMap<u64, (Result<Vec<u8>, u32>, Extents)>,
    hole_bytes: usize,
    payloads_in_place: usize,
}

impl World {
    fn new(random: Random, dialect: Dialect) -> World {
        World {
            random,
            session: Session::new(exports(), Pool::heap()),
            client: Client::new("disk", dialect)
                .with_contexts(&["base:allocation", "x-uraid:redundancy"]),
            to_server: Vec::new(),
            to_client: Vec::new(),
            disk: Disk::new(SIZE),
            carried_out: Vec::new(),
            model: Disk::new(SIZE),
            expected: HashMap::new(),
            hole_bytes: 0,
            payloads_in_place: 0,
        }
    }

    /// Sends a random request and notes the answer it must get.
    fn send(&mut self, handle: u64) {
        let offset = self.random.below(SIZE);
        let longest = if self.random.one_in(8) { 200_000 } else { 9000 };
        let len = self.random.below(longest);
        let (place, end) = (offset as usize, (offset + len) as usize);
        let inside = end as u64 <= SIZE;
        let answer = |errno: NbdError, answer: Vec<u8>| match inside {
            true => Ok(answer),
            false => Err(errno as u32),
        };
        let kinds = if self.client.dialect() == Dialect::Simple {
            7
        } else {
            9
        };
        let expected = match self.random.below(kinds) {
            0 | 1 => {
                let command = Command::Read {
                    offset,
                    len: len as u32,
                    unfragmented: kinds == 9 && self.random.one_in(2),
                };
                self.client.send(handle, command);
                let range = place..end.min(SIZE as usize);
                answer(NbdError::Invalid, self.model.0[range].to_vec())
            }
            2 | 3 => {
                let data = self.random.bytes(len as usize);
                let fua = self.random.one_in(2);
                let data = &data[..];
                self.client
                    .send(handle, Command::Write { offset, data, fua });
                if inside {
                    self.model.0[place..end].copy_from_slice(data);
                }
                answer(NbdError::NoSpace, Vec::new())
            }
            4 => {
                let command = Command::WriteZeroes {
                    offset,
                    len,
                    fua: self.random.one_in(2),
                    no_hole: self.random.one_in(2),
                    fast: self.random.one_in(2),
                };
                self.client.send(handle, command);
                if inside {
                    self.model.0[place..end].fill(0);
                }
                answer(NbdError::NoSpace, Vec::new())
            }
            5 => {
                self.client.send(handle, Command::Cache { offset, len });
                answer(NbdError::Invalid, Vec::new())
            }
            6 => {
                self.client.send(handle, Command::Flush);
                Ok(Vec::new())
            }
            _ => return self.send_status(handle, offset, len),
        };
        self.expected.insert(handle, (expected, BTreeMap::new()));
    }

    fn send_status(&mut self, handle: u64, offset: u64, len: u64) {
        let one = self.random.one_in(3);
        let extended = self.client.dialect() == Dialect::Extended;
        let only: &[u32] = match self.random.below(4) {
            1 if extended => &[1],
            2 if extended => &[2, 1],
            3 if extended => &[2, 2],
            _ => &[],
        };
        let command = Command::BlockStatus {
            offset,
            len,
            one,
            only,
        };
        self.client.send(handle, command);
        let sound = len > 0 && offset + len <= SIZE && only != [2, 2];
        let expected = match sound {
            true => {
                let ids = if only.is_empty() { &[1, 2] } else { only };
                let extents = ids
                    .iter()
                    .map(|id| (*id, self.statuses(*id, offset, len, one)));
                (Ok(Vec::new()), extents.collect())
            }
            false => (Err(NbdError::Invalid as u32), BTreeMap::new()),
        };
        self.expected.insert(handle, expected);
    }

    /// What the disk tells of a range, put together byte by byte.
    fn statuses(&self, context: u32, offset: u64, len: u64, one: bool) -> Vec<(u64, u64)> {
        let mut statuses: Vec<(u64, u64)> = Vec::new();
        let data = &self.model.0[offset as usize..(offset + len) as usize];
        for part in data.chunks(512) {
            let zero = part.iter().all(|byte| *byte == 0);
            let status = match context {
                1 if zero => 3,
                1 => 0,
                _ => u64::from(part[0]),
            };
            for _ in part {
                match statuses.last_mut() {
                    Some((len, last)) if *last == status => *len += 1,
                    _ => statuses.push((1, status)),
                }
            }
        }
        statuses.truncate(if one { 1 } else { usize::MAX });
        statuses
    }

    /// Moves some bytes to the server, into the payload's place where that is offered.
    fn deliver_to_server(&mut self) {
        self.to_server.extend(self.client.take_output());
        let some = self.random.below(100_000) as usize;
        let len = some.min(self.to_server.len());
        let in_place = self.random.one_in(2);
        let payload = if in_place {
            self.session.take_payload()
        } else {
            None
        };
        let taken = match payload {
            Some((mut buffer, range)) => {
                let len = len.min(range.len());
                buffer[range][..len].copy_from_slice(&self.to_server[..len]);
                self.session.return_payload(buffer, len);
                self.payloads_in_place += 1;
                len
            }
            None => self.session.receive(&self.to_server[..len]),
        };
        self.to_server.drain(..taken);
    }

    fn serve(&mut self) {
        while let Some(request) = self.session.next_request() {
            let result = self.disk.carry_out(&request.kind);
            self.carried_out.push((request, result));
        }
        while !self.carried_out.is_empty() && !self.random.one_in(3) {
            let chosen = self.random.below(self.carried_out.len() as u64) as usize;
            let (request, result) = self.carried_out.swap_remove(chosen);
            self.session.reply(request.cookie, result);
        }
        if let Some(buffers) = self.session.take_output() {
            self.to_client.extend(joined(&buffers));
        }
    }

    /// Moves some bytes to the client and checks the replies they make.
    fn deliver_to_client(&mut self) {
        let some = self.random.below(100_000) as usize;
        let len = some.min(self.to_client.len());
        let bytes: Vec<u8> = self.to_client.drain(..len).collect();
        self.client
            .receive(&bytes)
            .expect("the server keeps to the protocol");
        while let Some(reply) = self.client.next_reply() {
            let result = reply.result.map_err(|error| error.errno);
            let expected = self.expected.remove(&reply.handle).expect("one reply each");
            self.hole_bytes += reply.hole_bytes;
            assert!(
                (result, reply.extents) == expected,
                "request {} got a wrong answer",
                reply.handle
            );
        }
    }

    fn step(&mut self) {
        self.deliver_to_server();
        self.serve();
        self.deliver_to_client();
    }
}

#[test]
fn random_traffic_matches_a_model_disk() {
    for dialect in DIALECTS {
        let mut world = World::new(Random::new(), dialect);
        while world.client.info().is_none() {
            world.step();
        }
        let info = world.client.info().expect("negotiated");
        assert_eq!(info.size_bytes, SIZE);
        assert_eq!(info.preferred_block_bytes, 65536);
        assert_eq!(info.payload_bytes_max, PAYLOAD_BYTES_MAX);
        for handle in 0..1500 {
            world.send(handle);
            while world.client.pending() > 40 {
                world.step();
            }
        }
        while world.client.pending() > 0 {
            world.step();
        }
        assert!(world.expected.is_empty());
        assert!(world.payloads_in_place > 0, "large writes came in place");
        assert_eq!(world.hole_bytes > 0, dialect != Dialect::Simple);
        assert!(world.disk.0 == world.model.0);
        world.client.send(0, Command::Disconnect);
        while !world.session.is_finished() {
            world.step();
        }
    }
}

#[test]
fn client_reports_a_refused_export() {
    let mut session = Session::new(exports(), Pool::heap());
    let mut client = Client::new("nope", Dialect::Structured);
    let error = loop {
        let output = session
            .take_output()
            .map(|buffers| joined(&buffers))
            .unwrap_or_default();
        if let Err(error) = client.receive(&output) {
            break error;
        }
        session.receive(&client.take_output());
    };
    assert!(
        error.0.contains("nope") && error.0.contains("not served"),
        "{error:?}"
    );
}

#[test]
fn client_sees_texts_and_offsets_of_errors() {
    let mut world = World::new(Random::new(), Dialect::Structured);
    while world.client.info().is_none() {
        world.step();
    }
    world.client.send(
        1,
        Command::Trim {
            offset: 512,
            len: 512,
            fua: false,
        },
    );
    world.session.receive(&world.client.take_output());
    let request = world.session.next_request().expect("a trim");
    let error = ReplyError {
        offset: Some(600),
        ..ReplyError::new(NbdError::Io, "member 2 is gone")
    };
    world.session.reply(request.cookie, Err(error));
    world
        .client
        .receive(&joined(&world.session.take_output().expect("a reply")))
        .expect("valid");
    let error = world
        .client
        .next_reply()
        .expect("a reply")
        .result
        .expect_err("an error");
    assert_eq!(
        (error.errno, error.text.as_str(), error.offset),
        (5, "member 2 is gone", Some(600))
    );
}

#[test]
fn client_waits_for_no_message_longer_than_an_honest_one() {
    let reply = |len: u32| {
        let mut bytes = wire::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        for field in [option::GO, 3, len] {
            bytes.extend(field.to_be_bytes());
        }
        bytes
    };
    let greeted = || {
        let mut client = Client::new("disk", Dialect::Simple);
        let mut session = Session::new(exports(), Pool::heap());
        let greeting = session.take_output().expect("a greeting");
        client.receive(&joined(&greeting)).expect("valid");
        client
    };
    assert!(greeted().receive(&reply(100)).is_ok(), "more is to come");
    assert!(greeted().receive(&reply(u32::MAX)).is_err());

    let chunk = |len: u32| {
        let mut bytes = wire::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend([0, 1, 0, 1]); // done, data
        bytes.extend(1u64.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes
    };
    let asked = || {
        let mut world = World::new(Random::new(), Dialect::Structured);
        while world.client.info().is_none() {
            world.step();
        }
        let len = 1 << 20;
        let command = Command::Read {
            offset: 0,
            len,
            unfragmented: false,
        };
        world.client.send(1, command);
        world.client
    };
    assert!(
        asked().receive(&chunk(8 + (1 << 20))).is_ok(),
        "all that was asked for"
    );
    assert!(asked().receive(&chunk(2 << 20)).is_err());
}

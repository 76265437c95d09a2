//! One client's connection: its session and its socket.

use super::frontend::NEGOTIATION_MAX;
use super::log;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use uraid_buffer::{Buf, BufMut, Pool};
use uraid_io::driver::{Driver, StreamId};
use uraid_nbd::{ClientRequest, Export, ReplyError, RequestKind, Session, State};

/// Size of the buffer that headers and small payloads are received into; large payloads go
/// straight into their request's buffer.
const RECEIVE_BYTES: usize = 64 << 10;

/// What the socket's receiving side does.
enum Receiving {
    /// Nothing is under way; `buffer[unread]` has not been given to the session yet.
    Idle {
        buffer: BufMut,
        unread: Range<usize>,
    },
    /// The driver receives into our buffer.
    Header,
    /// The driver receives into a request's payload; our own buffer is kept meanwhile.
    Payload { own: BufMut },
}

/// A connected client.
pub struct Client {
    stream: StreamId,
    session: Session,
    connected: Instant,
    receiving: Receiving,
    sending: bool,
    /// Input is wanted, but there was no room in the budget.
    waits_for_room: bool,
    /// Payload of requests that the engine works on.
    engine_bytes: u64,
    /// Payload of requests answered since the last output was taken.
    answered_bytes: u64,
    /// Payload of requests whose answers are being sent.
    sending_bytes: u64,
    /// It had said that it leaves, and now it is gone: nothing worth a line.
    left: bool,
    closing: bool,
    closed: bool,
}

impl Client {
    /// A client that has just connected.
    pub fn new(stream: StreamId, exports: Arc<[Export]>, pool: Pool) -> Client {
        let buffer = pool.take(RECEIVE_BYTES);
        Client {
            stream,
            session: Session::new(exports, pool),
            connected: Instant::now(),
            receiving: Receiving::Idle {
                buffer,
                unread: 0..0,
            },
            sending: false,
            waits_for_room: false,
            engine_bytes: 0,
            answered_bytes: 0,
            sending_bytes: 0,
            left: false,
            closing: false,
            closed: false,
        }
    }

    /// Moves bytes as far as they go. `room`: whether further requests may be received.
    pub fn advance(&mut self, driver: &mut Driver, room: bool) {
        // Twice, because sending frees what receiving waits for, and what is received may be
        // answered at once.
        self.send(driver);
        self.receive(driver, room);
        self.send(driver);
        while let Some(line) = self.session.log() {
            if !self.left {
                log::info(&format!("client {}: {line}", self.stream.0));
            }
        }
        let over =
            self.session.state() == State::Closed || self.session.is_finished() && !self.sending;
        if over && !self.closing {
            self.closing = true;
            driver.close_stream(self.stream);
        }
    }

    fn send(&mut self, driver: &mut Driver) {
        if self.sending || self.closing {
            return;
        }
        if let Some(buffers) = self.session.take_output() {
            self.sending = true;
            self.sending_bytes += std::mem::take(&mut self.answered_bytes);
            driver.send(self.stream, buffers);
        }
    }

    /// Gives the session what was received; when it wants more, asks the driver for it.
    fn receive(&mut self, driver: &mut Driver, room: bool) {
        self.waits_for_room = false;
        while let Receiving::Idle { buffer, unread } = &mut self.receiving
            && self.session.wants_input()
            && !self.closing
        {
            if !room {
                self.waits_for_room = true;
                return;
            }
            let bytes = &buffer[unread.clone()];
            if bytes.is_empty() {
                return self.start_receive(driver);
            }
            unread.start += self.session.receive(bytes);
        }
    }

    fn start_receive(&mut self, driver: &mut Driver) {
        let was = std::mem::replace(&mut self.receiving, Receiving::Header);
        let Receiving::Idle { buffer: own, .. } = was else {
            panic!("receiving already")
        };
        match self.session.take_payload() {
            Some((payload, missing)) => {
                self.receiving = Receiving::Payload { own };
                driver.recv(self.stream, payload, missing);
            }
            None => driver.recv(self.stream, own, 0..RECEIVE_BYTES),
        }
    }

    /// Takes the end of a receive.
    pub fn received(&mut self, buffer: BufMut, result: io::Result<usize>) {
        let len = *result.as_ref().unwrap_or(&0);
        let was = std::mem::replace(&mut self.receiving, Receiving::Header);
        self.receiving = match was {
            Receiving::Payload { own } => {
                self.session.return_payload(buffer, len);
                Receiving::Idle {
                    buffer: own,
                    unread: 0..0,
                }
            }
            Receiving::Header => Receiving::Idle {
                buffer,
                unread: 0..len,
            },
            Receiving::Idle { .. } => panic!("received without asking"),
        };
        match result {
            Ok(0) => self.session.peer_closed(),
            Ok(_) => {}
            Err(error) => self.session.close(&format!("receiving failed: {error}")),
        }
    }

    /// Takes the end of a send.
    pub fn sent(&mut self, result: io::Result<()>) {
        self.sending = false;
        self.sending_bytes = 0;
        if let Err(error) = result {
            // Some clients say goodbye and do not wait for the answer.
            self.left = self.session.state() == State::Draining;
            self.session.close(&format!("sending failed: {error}"));
        }
    }

    /// The driver is done with the socket.
    pub fn closed(&mut self) {
        assert!(self.closing, "streams are closed by us");
        self.closed = true;
        self.sending = false;
    }

    /// The next request to carry out.
    pub fn next_request(&mut self) -> Option<ClientRequest> {
        let request = self.session.next_request()?;
        self.engine_bytes += payload_bytes(&request.kind);
        Some(request)
    }

    /// Takes an answer to a request of `bytes` of payload.
    pub fn reply(&mut self, cookie: u64, bytes: u64, result: Result<Vec<Buf>, ReplyError>) {
        self.engine_bytes -= bytes;
        self.answered_bytes += bytes;
        self.session.reply(cookie, result);
    }

    /// Refuses new requests from now on.
    pub fn shutdown(&mut self) {
        self.session.shutdown();
    }

    /// Ends the connection for a reason.
    pub fn drop_connection(&mut self, reason: &str) {
        self.session.close(reason);
    }

    /// Whether input waits for room in the budget.
    pub fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }

    /// When the client must have chosen an export; none if it has, or is leaving.
    pub fn negotiation_deadline(&self) -> Option<Instant> {
        let negotiating = self.session.state() == State::Negotiating && !self.closing;
        negotiating.then(|| self.connected + NEGOTIATION_MAX)
    }

    /// Payload under way: from the moment a request is taken until its answer is sent.
    pub fn in_flight_bytes(&self) -> u64 {
        self.engine_bytes + self.answered_bytes + self.sending_bytes
    }

    /// Whether nothing is left: the socket is closed and no request is under way.
    pub fn is_over(&self) -> bool {
        self.closed && self.session.is_finished()
    }
}

/// The payload that `kind` carries, in whichever direction.
pub fn payload_bytes(kind: &RequestKind) -> u64 {
    match kind {
        RequestKind::Read { len, .. } => u64::from(*len),
        RequestKind::Write { data, .. } => data.len() as u64,
        RequestKind::Flush | RequestKind::Trim { .. } | RequestKind::WriteZeroes { .. } => 0,
    }
}

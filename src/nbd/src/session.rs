//! One client's connection: the phases put together behind one interface.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use uraid_buffer::{Buf, BufMut, Pool};

use crate::export::Export;
use crate::negotiation::{Negotiation, Step};
use crate::output::Output;
use crate::reply::ReplyError;
use crate::request::{Answer, ClientRequest};
use crate::tls::{TlsPolicy, Upgrade};
use crate::transmission::{Stop, Transmission};

/// Most lines of log kept for a host that does not fetch them.
const LOG_LINES_MAX: usize = 16;

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The client has not chosen an export yet.
    Negotiating,
    /// The client was told to go on with TLS: the host is to do the handshake and then to call
    /// [`Session::tls_established`].
    WantsTls,
    /// Requests are served.
    Transmitting,
    /// The client sends nothing more; requests under way and their replies are finished.
    Draining,
    /// The connection is to be closed at once; results of requests under way are dropped.
    Closed,
}

/// A server's side of one NBD connection.
pub struct Session {
    exports: Arc<[Export]>,
    pool: Pool,
    output: Output,
    phase: Phase,
    upgrade: Upgrade,
    end: Option<End>,
    shutting_down: bool,
    log: VecDeque<String>,
}

enum Phase {
    Negotiation(Negotiation),
    Transmission(Transmission),
}

/// Why no more input is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Draining,
    Closed,
}

impl Session {
    /// A session for a fresh connection; the greeting is ready to be sent.
    ///
    /// Panics if an export breaks the limits named at its fields.
    pub fn new(exports: Arc<[Export]>, pool: Pool) -> Session {
        Session::with_tls(exports, TlsPolicy::Off, pool)
    }

    /// As [`Session::new`], with TLS as `tls` says.
    pub fn with_tls(exports: Arc<[Export]>, tls: TlsPolicy, pool: Pool) -> Session {
        exports.iter().for_each(Export::assert_valid);
        let mut output = Output::new(pool.clone());
        let negotiation = Negotiation::new(exports.clone(), tls, &mut output);
        Session {
            exports,
            pool,
            output,
            phase: Phase::Negotiation(negotiation),
            upgrade: Upgrade::None,
            end: None,
            shutting_down: false,
            log: VecDeque::new(),
        }
    }

    /// Tells clients that have not chosen yet of these exports instead, in the same order: what may
    /// change is whether they are admitted. Panics like [`Session::new`].
    pub fn set_exports(&mut self, exports: Arc<[Export]>) {
        exports.iter().for_each(Export::assert_valid);
        assert!(exports.len() == self.exports.len(), "exports come and go");
        if let Phase::Negotiation(negotiation) = &mut self.phase {
            negotiation.set_exports(exports.clone());
        }
        self.exports = exports;
    }

    /// Takes memory from `pool` from now on: for a session that another thread goes on with.
    pub fn use_pool(&mut self, pool: Pool) {
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.pool = pool.clone();
        }
        self.output.use_pool(pool.clone());
        self.pool = pool;
    }

    /// The index of the export that the client has chosen; none while it negotiates.
    pub fn export(&self) -> Option<usize> {
        match &self.phase {
            Phase::Negotiation(_) => None,
            Phase::Transmission(transmission) => Some(transmission.export_index),
        }
    }

    /// Whether the host should receive more. If not, the client has too much under way, the
    /// payload buffer is lent, TLS is due, or the session has ended.
    pub fn wants_input(&self) -> bool {
        self.end.is_none()
            && self.upgrade == Upgrade::None
            && match &self.phase {
                Phase::Negotiation(negotiation) => negotiation.wants_input(&self.output),
                Phase::Transmission(transmission) => {
                    !self.shutting_down && transmission.wants_input()
                }
            }
    }

    /// Consumes received bytes; returns how many. The rest is to be offered again when
    /// [`wants_input`](Self::wants_input) says so, or dropped if the session has ended.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        while consumed < bytes.len() && self.wants_input() {
            consumed += self.receive_some(&bytes[consumed..]);
        }
        // Taken for part of what TLS protects, they would be anybody's.
        if self.upgrade != Upgrade::None && consumed < bytes.len() {
            self.close("bytes in clear text where TLS is due");
        }
        consumed
    }

    /// The TLS handshake is done, and the client proved to have these names (none if it showed no
    /// certificate). Negotiation begins anew. Panics in any state but [`State::WantsTls`], unless
    /// the session was closed meanwhile.
    pub fn tls_established(&mut self, peer_names: Vec<String>) {
        if self.end.is_some() {
            return;
        }
        assert!(self.upgrade == Upgrade::Due, "no TLS handshake is due");
        let Phase::Negotiation(negotiation) = &mut self.phase else {
            unreachable!("TLS is due in negotiation only")
        };
        self.upgrade = Upgrade::None;
        let line = match &peer_names[..] {
            [] => "client uses TLS without a certificate".into(),
            names => format!("client uses TLS as {}", names.join(", ")),
        };
        negotiation.tls_established(peer_names);
        self.note(line);
    }

    fn receive_some(&mut self, bytes: &[u8]) -> usize {
        match &mut self.phase {
            Phase::Negotiation(negotiation) => {
                let (taken, step) = negotiation.receive(bytes, &mut self.output);
                self.negotiated(step);
                taken
            }
            Phase::Transmission(transmission) => {
                let (taken, stop) = transmission.receive(bytes, &mut self.output);
                match stop {
                    None => {}
                    Some(Stop::Disconnected) => self.drain("client disconnected"),
                    Some(Stop::Violation(text)) => self.close(&text),
                }
                taken
            }
        }
    }

    fn negotiated(&mut self, step: Step) {
        match step {
            Step::Continue => {}
            Step::Transmit(chosen) => {
                let export = &self.exports[chosen.export];
                let (name, dialect) = (&export.name, chosen.dialect.as_str());
                let line = format!("client uses export {name:?} with {dialect}");
                let transmission = Transmission::new(chosen, export, self.pool.clone());
                self.phase = Phase::Transmission(transmission);
                self.note(line);
            }
            Step::StartTls => self.upgrade = Upgrade::Granted,
            Step::Aborted => self.drain("client ended the negotiation"),
            Step::Violation(text) => self.close(&text),
        }
    }

    /// While much of a payload is awaited: the request's own buffer and the part of it still to
    /// be filled, so that the host receives straight into it. The host gives it back with
    /// [`return_payload`](Self::return_payload).
    pub fn take_payload(&mut self) -> Option<(BufMut, Range<usize>)> {
        match &mut self.phase {
            Phase::Transmission(transmission) if self.end.is_none() => transmission.take_payload(),
            _ => None,
        }
    }

    /// Returns the buffer of [`take_payload`](Self::take_payload), of which `received` bytes
    /// from the start of the range are filled; the range need not be full.
    pub fn return_payload(&mut self, buffer: BufMut, received: usize) {
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.return_payload(buffer, received);
        }
    }

    /// The next request to carry out.
    pub fn next_request(&mut self) -> Option<ClientRequest> {
        match &mut self.phase {
            Phase::Transmission(transmission) => transmission.next_request(),
            Phase::Negotiation(_) => None,
        }
    }

    /// Answers a request, in any order. Also needed, though without effect, for requests under
    /// way when the session was closed. Panics if `cookie` is not under way, or if the answer
    /// does not fit the request.
    pub fn reply(&mut self, cookie: u64, result: Result<Answer, ReplyError>) {
        let Phase::Transmission(transmission) = &mut self.phase else {
            panic!("reply to request {cookie} before transmission");
        };
        if self.end == Some(End::Closed) {
            transmission.forget(cookie);
        } else {
            transmission.reply(cookie, result, &mut self.output);
        }
    }

    /// The bytes to send next, in order; none if there is nothing to send. The host sends all of
    /// it before it asks again: asking says that what came before is sent.
    pub fn take_output(&mut self) -> Option<Vec<Buf>> {
        let sent = self.output.take_sent();
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.release(sent);
        }
        let output = self.output.take();
        if output.is_none() && self.upgrade == Upgrade::Granted {
            self.upgrade = Upgrade::Due;
        }
        output
    }

    /// How far the session is.
    pub fn state(&self) -> State {
        match (self.end, &self.phase) {
            (Some(End::Closed), _) => State::Closed,
            (Some(End::Draining), _) => State::Draining,
            (None, Phase::Negotiation(_)) if self.upgrade == Upgrade::Due => State::WantsTls,
            (None, Phase::Negotiation(_)) => State::Negotiating,
            (None, Phase::Transmission(_)) => State::Transmitting,
        }
    }

    /// Whether the client is in the middle of a message, or still negotiating: if nothing comes
    /// for long, the host may take it for dead.
    pub fn is_mid_message(&self) -> bool {
        self.end.is_none()
            && match &self.phase {
                Phase::Negotiation(_) => true,
                Phase::Transmission(transmission) => transmission.is_mid_message(),
            }
    }

    /// The host has seen the end of the client's stream. What is under way is still answered,
    /// as the client may have closed one direction only.
    pub fn peer_closed(&mut self) {
        let text = if self.is_mid_message() {
            "client closed the connection in the middle of a message"
        } else {
            "client closed the connection without disconnecting"
        };
        self.drain(text);
    }

    /// The server is shutting down: from now on options are refused with ERR_SHUTDOWN, and no
    /// further request is taken, while those under way complete. When the session
    /// [is finished](Self::is_finished), or a deadline of the host has passed, it may be closed.
    ///
    /// Requests that were not taken get no answer: a client that comes back sends them again.
    /// ESHUTDOWN, which the protocol allows as well, would be the end for Linux and qemu: they
    /// hand it on as an I/O error.
    pub fn shutdown(&mut self) {
        self.shutting_down = true;
        if let Phase::Negotiation(negotiation) = &mut self.phase {
            negotiation.shut_down();
        }
    }

    /// Ends the session at once: the connection has failed, or the client broke the protocol or
    /// a deadline. Requests already handed out still have to be replied to.
    pub fn close(&mut self, reason: &str) {
        if self.end == Some(End::Closed) {
            return;
        }
        self.note(format!("connection dropped: {reason}"));
        self.end = Some(End::Closed);
        self.output.clear();
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.abandon();
        }
    }

    /// Whether the connection can be closed and the session dropped: it has ended (or the server
    /// is shutting down), no request is under way and nothing is left to send but what the host
    /// is sending now.
    pub fn is_finished(&self) -> bool {
        let busy = match &self.phase {
            Phase::Negotiation(_) => false,
            Phase::Transmission(transmission) => {
                transmission.has_pending() || transmission.is_mid_message() && !self.shutting_down
            }
        };
        (self.end.is_some() || self.shutting_down) && !busy && self.output.is_empty()
    }

    /// The next line for the log: what was chosen and why the session ended.
    pub fn log(&mut self) -> Option<String> {
        self.log.pop_front()
    }

    fn drain(&mut self, reason: &str) {
        if self.end.is_some() {
            return;
        }
        self.note(reason.into());
        self.end = Some(End::Draining);
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.end_input();
        }
    }

    fn note(&mut self, line: String) {
        if self.log.len() < LOG_LINES_MAX {
            self.log.push_back(line);
        }
    }
}

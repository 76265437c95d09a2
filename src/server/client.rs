//! One client of an array: its session, its transport, and the memory it has under way.

use super::budget::Budget;
use super::front::Handover;
use super::gate::Ticket;
use super::log::Chatter;
use super::qos::{Throttle, Turn};
use super::transport::{End, Received, Transport};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uraid_buffer::{BufMut, Pool};
use uraid_io::driver::{Driver, StreamId};
use uraid_nbd::{Answer, ClientRequest, NbdError, ReplyError, RequestKind, Session, State};

/// How long a client may move no byte of the answer that it is to read, or of the payload that it
/// is to send, while others wait for the memory.
const STALL_MAX: Duration = Duration::from_secs(2);

/// How long an answer or a payload may take in all, while others wait; and so much longer for each
/// MiB.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_PER_MIB: Duration = Duration::from_secs(1);

/// Whole pieces, and bytes of the next one.
type Progress = (u64, usize);

/// Bytes that the peer has to move.
struct Transfer {
    bytes: u64,
    since: Instant,
    /// How far it was when somebody last looked, and when it got there.
    moved: Progress,
    moved_at: Instant,
}

impl Transfer {
    fn start(bytes: u64) -> Transfer {
        let now = Instant::now();
        Transfer {
            bytes,
            since: now,
            moved: (0, 0),
            moved_at: now,
        }
    }

    /// Whether others need have no more patience with it, now that so much has moved.
    fn is_overdue(&mut self, moved: Progress, now: Instant) -> bool {
        if moved != self.moved {
            (self.moved, self.moved_at) = (moved, now);
        }
        let mib = u32::try_from(self.bytes >> 20).expect("a payload of some MiB");
        let end = self.since + PATIENCE + PATIENCE_PER_MIB * mib;
        self.bytes > 0 && (self.moved_at + STALL_MAX <= now || end <= now)
    }
}

/// A client in the transmission phase.
pub struct Client {
    stream: StreamId,
    session: Session,
    transport: Transport,
    _ticket: Ticket,
    /// Requests that the engine works on.
    under_way: usize,
    /// Requests that were not begun yet.
    ready: VecDeque<ClientRequest>,
    /// When the first of them may begin, under the export's limits; none before anybody asked.
    turn: Option<Turn>,
    /// It waits for that.
    waits_for_turn: bool,
    /// When it is in the queue of those that wait for their turn: the owner of the queue keeps
    /// this.
    pub queued_until: Option<Instant>,
    /// The server is to stop: nothing is kept waiting any more.
    shutting_down: bool,
    /// A payload that must not come yet, as there is no room for it.
    parked: Option<(BufMut, Range<usize>)>,
    /// The payload that the peer is sending.
    arriving: Option<Transfer>,
    /// How much of it has come.
    arrived_bytes: usize,
    /// The answers that the peer is to read.
    sending: Option<Transfer>,
    /// Pieces of answers that were sent before they were whole, as TLS has it.
    pieces_sent: u64,
    /// Payload of requests answered since the last output was taken.
    answered_bytes: u64,
    /// Something has to wait for room in the budget.
    waits_for_room: bool,
    /// It is in the queue of those that wait for room: the owner of the queue keeps this.
    pub queued: bool,
    /// It had said that it leaves, and now it is gone: nothing worth a line.
    left: bool,
    closing: bool,
    closed: bool,
}

impl Client {
    /// Takes a client over from the front thread.
    pub fn new(handover: Handover, pool: Pool, driver: &mut Driver) -> Client {
        let Handover {
            stream,
            mut session,
            connection,
            ticket,
        } = handover;
        session.use_pool(pool.clone());
        Client {
            stream,
            session,
            transport: Transport::attach(connection, stream, pool, driver),
            _ticket: ticket,
            under_way: 0,
            ready: VecDeque::new(),
            turn: None,
            waits_for_turn: false,
            queued_until: None,
            shutting_down: false,
            parked: None,
            arriving: None,
            arrived_bytes: 0,
            sending: None,
            pieces_sent: 0,
            answered_bytes: 0,
            waits_for_room: false,
            queued: false,
            left: false,
            closing: false,
            closed: false,
        }
    }

    /// Moves bytes as far as they go.
    pub fn advance(&mut self, driver: &mut Driver, budget: &mut Budget, chatter: &mut Chatter) {
        // Twice, because sending frees what receiving waits for, and what is received may be
        // answered at once.
        self.waits_for_room = false;
        self.send(driver);
        self.receive(driver, budget);
        self.send(driver);
        while let Some(line) = self.session.log() {
            if !self.left {
                chatter.info(self.stream, &line);
            }
        }
        let is_closed = self.session.state() == State::Closed;
        if is_closed {
            self.abandon(budget);
        }
        if !self.closing && (is_closed || self.session.is_finished() && self.transport.part(driver))
        {
            self.closing = true;
            driver.close_stream(self.stream);
        }
    }

    /// Forgets what nobody will see the answer of.
    fn abandon(&mut self, budget: &mut Budget) {
        self.parked = None;
        self.turn = None;
        for request in std::mem::take(&mut self.ready) {
            if !answers_with_data(&request) {
                budget.give_back(self.stream, request.kind.payload_bytes());
            }
            let gone = ReplyError::new(NbdError::Io, "the client is gone");
            self.session.reply(request.cookie, Err(gone));
        }
        budget.give_back(self.stream, std::mem::take(&mut self.answered_bytes));
    }

    fn send(&mut self, driver: &mut Driver) {
        if self.closing {
            return;
        }
        let mut result = self.transport.flush(driver);
        if result.is_ok()
            && !self.transport.is_sending()
            && let Some(buffers) = self.session.take_output()
        {
            let bytes = std::mem::take(&mut self.answered_bytes);
            self.sending = Some(Transfer::start(bytes));
            result = self.transport.send(driver, buffers);
        }
        if let Err(text) = result {
            self.session.close(&text);
        }
    }

    /// Gives the session what was received; when it wants more, asks the driver for it.
    fn receive(&mut self, driver: &mut Driver, budget: &mut Budget) {
        if self.parked.is_some() {
            return self.receive_payload(driver, budget);
        }
        while !self.closing
            && let Some(bytes) = self.transport.unread()
            && self.session.wants_input()
        {
            if self.arriving.is_none() && !budget.has_room(self.stream) {
                self.waits_for_room = true;
                return;
            }
            if self.transport.has_ended() {
                return self.session.peer_closed();
            }
            if bytes.is_empty() {
                self.parked = self.session.take_payload();
                if self.parked.is_some() {
                    return self.receive_payload(driver, budget);
                }
                return self.transport.receive(driver);
            }
            let used = self.session.receive(bytes);
            self.transport.used(used);
            self.collect(budget);
        }
    }

    /// Has the parked payload come, if there is room for it.
    fn receive_payload(&mut self, driver: &mut Driver, budget: &mut Budget) {
        if self.closing {
            return;
        }
        let (buffer, range) = self.parked.take().expect("the caller has seen it");
        if self.arriving.is_none() {
            let bytes = range.len() as u64;
            if !budget.try_take(self.stream, bytes) {
                self.waits_for_room = true;
                self.parked = Some((buffer, range));
                return;
            }
            self.arriving = Some(Transfer::start(bytes));
            self.arrived_bytes = 0;
        }
        self.transport.receive_payload(driver, buffer, range);
    }

    /// Takes requests out of the session; the payload of writes is in memory from now on.
    fn collect(&mut self, budget: &mut Budget) {
        while let Some(request) = self.session.next_request() {
            if matches!(request.kind, RequestKind::Write { .. }) {
                // One payload comes at a time: it is this one.
                let arriving = self.arriving.take().map_or(0, |arriving| arriving.bytes);
                budget.give_back(self.stream, arriving);
                budget.take(self.stream, request.kind.payload_bytes());
            }
            self.ready.push_back(request);
        }
    }

    /// Takes the end of a receive.
    pub fn received(&mut self, buffer: BufMut, result: io::Result<usize>, budget: &mut Budget) {
        let (received, end) = self.transport.received(buffer, result);
        match received {
            Received::Bytes => {}
            Received::Payload(buffer, len) => {
                self.arrived_bytes += len;
                self.session.return_payload(buffer, len);
                self.collect(budget);
            }
        }
        match end {
            None => {}
            Some(End::PeerClosed) => self.session.peer_closed(),
            Some(End::Failed(text)) => self.session.close(&text),
        }
    }

    /// Takes the end of a send.
    pub fn sent(&mut self, result: io::Result<()>, budget: &mut Budget) {
        if self.transport.sent(&result) {
            let sent = self.sending.take().expect("something was sent");
            budget.give_back(self.stream, sent.bytes);
        } else {
            self.pieces_sent += 1;
        }
        if let Err(error) = result {
            // Some clients say goodbye and do not wait for the answer.
            self.left = self.session.state() == State::Draining;
            self.session.close(&format!("sending failed: {error}"));
        }
    }

    /// The driver is done with the socket.
    pub fn closed(&mut self, budget: &mut Budget) {
        assert!(self.closing, "streams are closed by us");
        self.closed = true;
        let under_way = [self.arriving.take(), self.sending.take()];
        for transfer in under_way.into_iter().flatten() {
            budget.give_back(self.stream, transfer.bytes);
        }
        self.transport.closed();
    }

    /// The next request to carry out, if it is its turn and there is room for its payload.
    pub fn next_request(
        &mut self,
        throttle: &Arc<Throttle>,
        budget: &mut Budget,
    ) -> Option<ClientRequest> {
        let request = self.ready.front()?;
        let hurry = self.shutting_down;
        self.waits_for_turn = !throttle.admits(&mut self.turn, &request.kind, hurry);
        if self.waits_for_turn {
            return None;
        }
        if answers_with_data(request) && !budget.try_take(self.stream, request.kind.payload_bytes())
        {
            self.waits_for_room = true;
            return None;
        }
        self.turn.take().into_iter().for_each(Turn::take);
        self.under_way += 1;
        self.ready.pop_front()
    }

    /// When its next request may begin, if that has to wait.
    pub fn turn_at(&self) -> Option<Instant> {
        let turn = self.turn.as_ref().filter(|_| self.waits_for_turn);
        turn.map(|turn| turn.at)
    }

    /// Takes an answer to a request of `bytes` of payload.
    pub fn reply(
        &mut self,
        cookie: u64,
        bytes: u64,
        result: Result<Answer, ReplyError>,
        budget: &mut Budget,
    ) {
        self.under_way -= 1;
        match self.session.state() {
            State::Closed => budget.give_back(self.stream, bytes),
            _ => self.answered_bytes += bytes,
        }
        self.session.reply(cookie, result);
    }

    /// Refuses new requests from now on.
    pub fn shutdown(&mut self) {
        self.shutting_down = true;
        self.session.shutdown();
    }

    /// Ends the connection for a reason.
    pub fn drop_connection(&mut self, reason: &str) {
        self.session.close(reason);
    }

    /// Whether something waits for room in the budget.
    pub fn waits_for_room(&self) -> bool {
        self.waits_for_room && !self.closing
    }

    /// Whether others that wait for memory need have no more patience with this peer. False when
    /// it is not the peer that holds things up.
    pub fn is_overdue(&mut self, driver: &Driver, now: Instant) -> bool {
        let sent = driver.send_progress(self.stream).unwrap_or(0);
        let sent = (self.pieces_sent, sent);
        let arrived = (0, self.arrived_bytes);
        let sending = self.sending.as_mut();
        let arriving = self.arriving.as_mut();
        sending.is_some_and(|transfer| transfer.is_overdue(sent, now))
            || arriving.is_some_and(|transfer| transfer.is_overdue(arrived, now))
    }

    /// Whether it cannot change anything any more: no input comes, and all of its requests have
    /// been carried out. Answers may still be on their way.
    pub fn is_settled(&self) -> bool {
        let ended = matches!(self.session.state(), State::Draining | State::Closed);
        ended && self.under_way == 0 && self.ready.is_empty()
    }

    /// Whether nothing is left: the socket is closed and no request is under way.
    pub fn is_over(&self) -> bool {
        self.closed && self.session.is_finished()
    }
}

/// Whether its answer takes room, and the request none.
fn answers_with_data(request: &ClientRequest) -> bool {
    matches!(
        request.kind,
        RequestKind::Read { .. } | RequestKind::BlockStatus { .. }
    )
}

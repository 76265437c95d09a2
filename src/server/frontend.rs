//! NBD clients of one array that one thread serves: their connections, their requests on the way to
//! whatever carries them out and the answers back.
//!
//! A session says what it wants; this module moves bytes between it and the driver, and requests
//! between it and a [`Carrier`]. Memory is bounded by a [`Budget`]: a client that has its share of it
//! under way is not read from.

use super::budget::{Budget, Chair};
use super::client::Client;
use super::desk::Arrival;
use super::fence::Fence;
use super::gate::Gate;
use super::log::Chatter;
use super::memory::Memory;
use super::qos::{PAUSE_MIN, Throttle};
use super::tally::{Begun, Tally};
use super::translate::{client_answer, engine_request};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use uraid_buffer::Pool;
use uraid_engine::api::{Reply, Request, RequestError, RequestId};
use uraid_io::driver::{Driver, DriverEvent, StreamId};

/// Most clients that get a chance in one turn to go on with what waited for room.
const WAITING_TURNS_MAX: usize = 32;

/// How often to look for peers that hold up others.
const PATIENCE_CHECK: Duration = Duration::from_secs(1);

/// What carries out clients' requests: the engine, or a thread that reads for itself and asks the
/// engine.
pub trait Carrier {
    /// The I/O of this thread, for sockets.
    fn driver(&mut self) -> &mut Driver;
    /// Starts a request. Its reply goes to [`Frontend::reply`].
    fn request(&mut self, id: RequestId, request: Request);
}

/// Where a thread's numbers of requests begin: each thread of an array has its own, so that the
/// engine's replies tell where they belong.
const THREAD_SHIFT: u32 = 48;

/// The thread that a request came from: 0 is the data thread, readers follow.
pub fn thread_of(id: RequestId) -> usize {
    (id.0 >> THREAD_SHIFT) as usize
}

/// What belongs to the clients of one thread.
pub struct Station {
    /// The thread's number, see [`thread_of`].
    pub thread: usize,
    /// Clients that the front thread sends, here and to the other threads of the array.
    pub arrivals: Receiver<Arrival>,
    /// Counts clients, and is closed at the end.
    pub gate: Arc<Gate>,
    /// Memory for requests and answers.
    pub pool: Pool,
    /// How much of it.
    pub memory: Memory,
    /// Where a client sits with a larger request; shared with the other threads of the array.
    pub chair: Arc<Chair>,
    /// Limits what they get; shared with the other threads of the array.
    pub throttle: Arc<Throttle>,
    /// Counts what was answered.
    pub tally: Arc<Tally>,
}

/// A request that is being carried out.
struct UnderWay {
    stream: StreamId,
    cookie: u64,
    bytes: u64,
    begun: Begun,
}

/// All clients of one thread.
pub struct Frontend {
    arrivals: Receiver<Arrival>,
    fence: Fence,
    gate: Arc<Gate>,
    pool: Pool,
    clients: BTreeMap<StreamId, Client>,
    /// Clients something has happened to.
    touched: BTreeSet<StreamId>,
    budget: Budget,
    /// Clients that something waits for room in, in the order of their turns.
    waiting: VecDeque<StreamId>,
    /// When to look next for peers that hold up those.
    next_check: Option<Instant>,
    throttle: Arc<Throttle>,
    /// Clients that wait for their turn, by when it comes.
    turns: BTreeSet<(Instant, StreamId)>,
    /// Those are turns of this round.
    round: u64,
    requests: BTreeMap<RequestId, UnderWay>,
    next_request: u64,
    chatter: Chatter,
    tally: Arc<Tally>,
    shutting_down: bool,
}

impl Frontend {
    /// Serves whoever comes from the front thread.
    pub fn new(station: Station) -> Frontend {
        Frontend {
            arrivals: station.arrivals,
            fence: Fence::default(),
            gate: station.gate,
            pool: station.pool,
            clients: BTreeMap::new(),
            touched: BTreeSet::new(),
            budget: Budget::new(&station.memory, station.chair),
            waiting: VecDeque::new(),
            next_check: None,
            throttle: station.throttle,
            turns: BTreeSet::new(),
            round: 0,
            requests: BTreeMap::new(),
            next_request: (station.thread as u64) << THREAD_SHIFT,
            chatter: Chatter::default(),
            tally: station.tally,
            shutting_down: false,
        }
    }

    /// Takes in clients that the front thread has sent, behind those that have hung up.
    pub fn take_newcomers(&mut self, driver: &mut Driver, now: Instant) {
        // Whoever hangs up after this look has not come back yet: its successor is none of these.
        let batch: Vec<Arrival> = self.arrivals.try_iter().collect();
        if !batch.is_empty() {
            let unsettled = |stream: &StreamId| !self.clients[stream].is_settled();
            let ended = driver.ended_streams().into_iter().filter(unsettled);
            self.fence.hold(batch, ended.collect(), now);
        }
        for stream in self.fence.overdue(now) {
            if let Some(client) = self.clients.get_mut(&stream) {
                client.drop_connection("it hung up, and newcomers wait for the last of it");
                self.touched.insert(stream);
            }
        }
        let clients = &self.clients;
        let settled = |stream| clients.get(&stream).is_none_or(Client::is_settled);
        for handover in self.fence.released(settled) {
            let stream = handover.stream;
            let mut client = Client::new(handover, self.pool.clone(), driver);
            if self.shutting_down {
                client.shutdown();
            }
            self.clients.insert(stream, client);
            self.touched.insert(stream);
        }
    }

    /// Takes what happened to a socket.
    pub fn handle(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::Received {
                stream,
                buffer,
                result,
            } => {
                let (client, budget) = self.touch(stream);
                client.received(buffer, result, budget);
            }
            DriverEvent::Sent { stream, result } => {
                let (client, budget) = self.touch(stream);
                client.sent(result, budget);
            }
            DriverEvent::StreamClosed(stream) => {
                let (client, budget) = self.touch(stream);
                client.closed(budget);
            }
            DriverEvent::Woken => {}
            DriverEvent::Accepted { .. } | DriverEvent::AcceptFailed { .. } => {
                unreachable!("the front thread listens")
            }
            DriverEvent::Member(_) | DriverEvent::MemberHung { .. } => {
                unreachable!("the carrier keeps what concerns members")
            }
        }
    }

    fn touch(&mut self, stream: StreamId) -> (&mut Client, &mut Budget) {
        self.touched.insert(stream);
        let client = self.clients.get_mut(&stream);
        let client = client.expect("clients outlive their streams");
        (client, &mut self.budget)
    }

    /// Moves everything that can move: bytes in and out of sessions, requests to where they are
    /// carried out. True when there were any.
    pub fn advance(&mut self, carrier: &mut impl Carrier) -> bool {
        let mut requested = false;
        self.take_turns();
        for stream in std::mem::take(&mut self.touched) {
            requested |= self.advance_client(stream, carrier);
        }
        for _ in 0..self.waiting.len().min(WAITING_TURNS_MAX) {
            let stream = self.waiting.pop_front().expect("counted");
            // It may have gone, or have got what it waited for.
            let Some(client) = self.clients.get_mut(&stream) else {
                continue;
            };
            client.queued = false;
            if client.waits_for_room() {
                requested |= self.advance_client(stream, carrier);
            }
        }
        requested
    }

    /// Has clients looked at whose turn has come, or who are to ask for another one.
    fn take_turns(&mut self) {
        if self.turns.is_empty() {
            return;
        }
        let (now, round) = (Instant::now(), self.throttle.round());
        let anew = std::mem::replace(&mut self.round, round) != round;
        while let Some((at, stream)) = self.turns.first().copied()
            && (anew || at <= now)
        {
            self.turns.pop_first();
            let client = self.clients.get_mut(&stream);
            client.expect("who has gone waits for nothing").queued_until = None;
            self.touched.insert(stream);
        }
    }

    fn advance_client(&mut self, stream: StreamId, carrier: &mut impl Carrier) -> bool {
        let mut requested = false;
        let client = self.clients.get_mut(&stream);
        let client = client.expect("touched clients are there");
        loop {
            client.advance(carrier.driver(), &mut self.budget, &mut self.chatter);
            if client.is_over() {
                let queued = client.queued_until.take();
                queued.map(|at| self.turns.remove(&(at, stream)));
                self.clients.remove(&stream);
                return requested;
            }
            let Some(request) = client.next_request(&self.throttle, &mut self.budget) else {
                break;
            };
            let id = RequestId(self.next_request);
            self.next_request += 1;
            let under_way = UnderWay {
                stream,
                cookie: request.cookie,
                bytes: request.kind.payload_bytes(),
                begun: Begun::now(&request.kind),
            };
            self.requests.insert(id, under_way);
            carrier.request(id, engine_request(request.kind));
            requested = true;
        }
        let turn = client.turn_at();
        let before = std::mem::replace(&mut client.queued_until, turn);
        if before != turn {
            before.map(|at| self.turns.remove(&(at, stream)));
            self.turns.extend(turn.map(|at| (at, stream)));
        }
        if client.waits_for_room() && !client.queued {
            client.queued = true;
            self.waiting.push_back(stream);
        }
        requested
    }

    /// Takes an answer.
    pub fn reply(&mut self, reply: Reply) {
        let under_way = self.requests.remove(&reply.id);
        let UnderWay {
            stream,
            cookie,
            bytes,
            begun,
        } = under_way.expect("each request has one answer");
        self.tally.answered(&begun, reply.result.is_ok());
        let (client, budget) = self.touch(stream);
        if matches!(reply.result, Err(RequestError::Stopping)) {
            // No answer is better than this one: who comes back sends the request again.
            client.drop_connection("the server is stopping");
        }
        client.reply(cookie, bytes, client_answer(reply.result), budget);
    }

    /// Accepts nobody any more; requests under way are finished, new ones refused.
    pub fn shutdown(&mut self) {
        self.shutting_down = true;
        self.gate.close();
        for (stream, client) in &mut self.clients {
            client.shutdown();
            self.touched.insert(*stream);
        }
    }

    /// Whether no request is being carried out.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether all clients are gone.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// When those that newcomers wait for are to be dropped.
    pub fn fence_deadline(&self) -> Option<Instant> {
        self.fence.deadline()
    }

    /// When the next client's turn comes, or a little later.
    pub fn turn_deadline(&self, now: Instant) -> Option<Instant> {
        let (at, _) = self.turns.first()?;
        Some((*at).max(now + PAUSE_MIN))
    }

    /// While clients wait for memory, or those of other threads for their turn with a large
    /// request: drops those whose peers have kept some of it for too long.
    /// Returns when to look again.
    pub fn check_patience(&mut self, driver: &Driver, now: Instant) -> Option<Instant> {
        let guest = self.budget.wanted_guest();
        if self.waiting.is_empty() && guest.is_none() {
            self.next_check = None;
            return None;
        }
        let due = *self.next_check.get_or_insert(now + PATIENCE_CHECK);
        if due <= now {
            self.next_check = Some(now + PATIENCE_CHECK);
            let suspects = match self.waiting.is_empty() {
                true => Vec::from_iter(guest),
                false => self.budget.holders().collect(),
            };
            for stream in suspects {
                let client = self.clients.get_mut(&stream);
                let client = client.expect("only clients hold memory");
                if client.is_overdue(driver, now) {
                    client.drop_connection("it kept memory that others wait for");
                    self.touched.insert(stream);
                }
            }
        }
        self.next_check
    }
}

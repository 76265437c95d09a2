//! The front thread: takes connections on all listeners, negotiates, and hands each client to a
//! thread of the array that it has chosen.
//!
//! What comes in here costs no array anything: a flood of connections, clients that say nothing
//! or too much, and clients that nobody wants are dealt with on this thread alone.

use super::desk::Desk;
use super::gate::{Gate, Ticket};
use super::heartbeat::Heartbeat;
use super::log::{self, Chatter};
use super::sockets::{Listener, SocketFile};
use super::tls::Tls;
use super::transport::{Detached, End, Received, Transport};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uraid_buffer::Pool;
use uraid_io::driver::{Driver, DriverEvent, ListenerId, StreamId};
use uraid_nbd::{Admission, Export, Session, State, TlsPolicy};

/// How long a client may take to choose an export.
pub const NEGOTIATION_MAX: Duration = Duration::from_secs(30);

/// Most clients that negotiate at once. When another one comes, the one that has taken longest is
/// dropped: a crowd that only connects keeps nobody out who knows what it wants.
pub const NEGOTIATING_MAX: usize = 256;

/// How long clients that negotiate may still take once the server ends.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// A client on its way to the thread that serves it.
pub struct Handover {
    /// Its number, the same in all threads and in the log.
    pub stream: StreamId,
    /// Its session, in the transmission phase.
    pub session: Session,
    /// Its socket.
    pub connection: Detached,
    /// Counts it as long as it is there.
    pub ticket: Ticket,
}

/// An array, as the front thread sees it.
pub struct Offer {
    /// What clients are told; whether it takes clients is the gate's to say.
    pub export: Export,
    /// Counts and limits its clients.
    pub gate: Arc<Gate>,
    /// Where clients go that choose it.
    pub desk: Desk,
}

/// What holds for all clients, whatever they choose.
pub struct Guard {
    /// Counts and limits them all together.
    pub everyone: Arc<Gate>,
    /// Whether and how they are encrypted.
    pub tls: Option<Tls>,
}

/// A listening socket, and what is to be had there.
pub struct Place {
    /// The socket.
    pub listener: Listener,
    /// Which of the offers are offered there.
    pub offers: Vec<usize>,
    /// Which of the offers the empty name means there.
    pub default: Option<usize>,
}

/// A place, and what clients are told there at present.
struct Listing {
    offers: Vec<usize>,
    default: Option<usize>,
    exports: Arc<[Export]>,
}

/// A client that negotiates.
struct Visitor {
    session: Session,
    transport: Transport,
    listener: ListenerId,
    connected: Instant,
    /// Once it has chosen.
    ticket: Option<Ticket>,
}

/// All that the front thread works on.
pub struct Front {
    driver: Driver,
    pool: Pool,
    offers: Vec<Offer>,
    everyone: Arc<Gate>,
    tls: Option<Tls>,
    listings: BTreeMap<ListenerId, Listing>,
    /// What the listings say about who is let in.
    admissions: Vec<Admission>,
    /// In the order they came.
    visitors: BTreeMap<StreamId, Visitor>,
    next_stream: u64,
    chatter: Chatter,
    /// True once the server ends.
    end: Arc<AtomicBool>,
    /// Files of the listening sockets, to be removed at the end.
    _files: Vec<SocketFile>,
    heartbeat: Heartbeat,
    goodbye: Option<Instant>,
}

impl Front {
    /// Listens at `places`.
    pub fn new(
        mut driver: Driver,
        offers: Vec<Offer>,
        guard: Guard,
        places: Vec<Place>,
        end: Arc<AtomicBool>,
        heartbeat: Heartbeat,
    ) -> Front {
        let mut files = Vec::new();
        let mut listings = BTreeMap::new();
        for (id, place) in (0..).map(ListenerId).zip(places) {
            let listing = Listing {
                offers: place.offers,
                default: place.default,
                exports: Arc::new([]),
            };
            listings.insert(id, listing);
            driver.listen(id, place.listener.fd);
            files.extend(place.listener.file);
        }
        let mut front = Front {
            driver,
            pool: Pool::heap(),
            offers,
            everyone: guard.everyone,
            tls: guard.tls,
            listings,
            admissions: Vec::new(),
            visitors: BTreeMap::new(),
            next_stream: 0,
            chatter: Chatter::default(),
            end,
            _files: files,
            heartbeat,
            goodbye: None,
        };
        front.refresh();
        front
    }

    /// Works until the server ends.
    pub fn run(mut self) {
        let mut events = Vec::new();
        loop {
            self.heartbeat.beat();
            let now = Instant::now();
            self.look_for_end(now);
            self.drop_late(now);
            let gone = |at: Instant| self.visitors.is_empty() || at <= now;
            if self.goodbye.is_some_and(gone) {
                return;
            }
            let timeout = self.next_deadline().map(|at| at - now);
            self.driver.wait(timeout, &mut events);
            for event in events.drain(..) {
                self.handle(event);
            }
        }
    }

    /// When to look again though nothing happened.
    fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.visitors.values().next();
        let oldest = oldest.map(|visitor| visitor.connected + NEGOTIATION_MAX);
        [oldest, self.goodbye].into_iter().flatten().min()
    }

    fn look_for_end(&mut self, now: Instant) {
        if self.goodbye.is_some() || !self.end.load(Ordering::Acquire) {
            return;
        }
        self.goodbye = Some(now + GOODBYE_MAX);
        for listener in self.listings.keys() {
            self.driver.stop_listening(*listener);
        }
        for stream in self.visitors.keys().copied().collect::<Vec<_>>() {
            self.visitors
                .entry(stream)
                .and_modify(|visitor| visitor.session.shutdown());
            self.advance(stream);
        }
    }

    fn drop_late(&mut self, now: Instant) {
        while let Some(oldest) = self.visitors.first_entry()
            && oldest.get().connected + NEGOTIATION_MAX <= now
        {
            let seconds = NEGOTIATION_MAX.as_secs();
            let stream = *oldest.key();
            self.drop_visitor(stream, &format!("no export was chosen in {seconds} s"));
        }
    }

    fn drop_visitor(&mut self, stream: StreamId, reason: &str) {
        self.chatter
            .info(stream, &format!("connection dropped: {reason}"));
        self.visitors.remove(&stream);
        self.driver.close_stream(stream);
    }

    fn handle(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::Accepted { listener, fd } => self.welcome(listener, fd),
            DriverEvent::AcceptFailed { error, .. } => {
                log::warning(&format!("cannot take a connection: {error}; trying again"));
            }
            DriverEvent::Received {
                stream,
                buffer,
                result,
            } => {
                // It may have been dropped for another one since.
                let Some(visitor) = self.visitors.get_mut(&stream) else {
                    return;
                };
                let (received, end) = visitor.transport.received(buffer, result);
                let Received::Bytes = received else {
                    panic!("there are no payloads in negotiation")
                };
                match end {
                    None => {}
                    Some(End::PeerClosed) => visitor.session.peer_closed(),
                    Some(End::Failed(text)) => visitor.session.close(&text),
                }
                self.advance(stream);
            }
            DriverEvent::Sent { stream, result } => {
                let Some(visitor) = self.visitors.get_mut(&stream) else {
                    return;
                };
                visitor.transport.sent(&result);
                if let Err(error) = result {
                    visitor.session.close(&format!("sending failed: {error}"));
                }
                self.advance(stream);
            }
            DriverEvent::StreamClosed(_) | DriverEvent::Woken => {}
            DriverEvent::Member(_) | DriverEvent::MemberHung { .. } => {
                unreachable!("there are no members here")
            }
        }
    }

    fn welcome(&mut self, listener: ListenerId, fd: OwnedFd) {
        if self.visitors.len() >= NEGOTIATING_MAX {
            let oldest = *self.visitors.keys().next().expect("there are many");
            let why = format!("{NEGOTIATING_MAX} others negotiate, and it took longest");
            self.drop_visitor(oldest, &why);
        }
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        let pool = self.pool.clone();
        let exports = self.listings[&listener].exports.clone();
        let policy = self.tls.as_ref().map_or(TlsPolicy::Off, |tls| tls.policy);
        let visitor = Visitor {
            session: Session::with_tls(exports, policy, pool.clone()),
            transport: Transport::attach(Detached::fresh(fd), stream, pool, &mut self.driver),
            listener,
            connected: Instant::now(),
            ticket: None,
        };
        self.visitors.insert(stream, visitor);
        self.advance(stream);
    }

    /// Moves a visitor's bytes as far as they go; hands it over when it has chosen.
    fn advance(&mut self, stream: StreamId) {
        self.refresh();
        let visitor = self.visitors.get_mut(&stream).expect("the caller has it");
        if visitor.session.export().is_none() {
            let exports = &self.listings[&visitor.listener].exports;
            visitor.session.set_exports(exports.clone());
        }
        visitor.send(&mut self.driver);
        visitor.shake_hands(&mut self.driver, self.tls.as_ref());
        visitor.receive(&mut self.driver);
        visitor.send(&mut self.driver);
        while let Some(line) = visitor.session.log() {
            self.chatter.info(stream, &line);
        }
        if visitor.ticket.is_none()
            && let Some(chosen) = visitor.session.export()
        {
            let offer = &self.offers[self.listings[&visitor.listener].offers[chosen]];
            visitor.ticket = Some(Ticket::new([self.everyone.clone(), offer.gate.clone()]));
        }
        if visitor.is_over(&mut self.driver) {
            self.visitors.remove(&stream);
            self.driver.close_stream(stream);
        } else if visitor.ticket.is_some() && visitor.transport.is_idle() {
            self.hand_over(stream);
        }
    }

    fn hand_over(&mut self, stream: StreamId) {
        let visitor = self.visitors.remove(&stream).expect("the caller has it");
        let chosen = visitor.session.export().expect("it has chosen");
        let offer = &mut self.offers[self.listings[&visitor.listener].offers[chosen]];
        let handover = Handover {
            stream,
            session: visitor.session,
            connection: visitor.transport.detach(&mut self.driver),
            ticket: visitor.ticket.expect("it has chosen"),
        };
        if !offer.desk.hand_over(handover) {
            // Its threads have ended since; the connection is closed with them.
            self.chatter
                .info(stream, "the export is not served any more");
        }
    }

    /// Brings the listings up to date with who is let in.
    fn refresh(&mut self) {
        let everyone = self.everyone.admission();
        let admission = |offer: &Offer| match offer.gate.admission() {
            Admission::Open => everyone,
            closed => closed,
        };
        let admissions: Vec<Admission> = self.offers.iter().map(admission).collect();
        if admissions == self.admissions {
            return;
        }
        for listing in self.listings.values_mut() {
            let told = |offer: &usize| Export {
                admission: admissions[*offer],
                is_default: listing.default == Some(*offer),
                ..self.offers[*offer].export.clone()
            };
            listing.exports = listing.offers.iter().map(told).collect();
        }
        self.admissions = admissions;
    }
}

impl Visitor {
    fn send(&mut self, driver: &mut Driver) {
        let mut result = self.transport.flush(driver);
        if !self.transport.is_sending()
            && self.session.state() != State::Closed
            && let Some(buffers) = self.session.take_output()
        {
            result = self.transport.send(driver, buffers);
        }
        if let Err(text) = result {
            self.session.close(&text);
        }
    }

    /// Does the handshake of TLS where one is due; then the session goes on.
    fn shake_hands(&mut self, driver: &mut Driver, tls: Option<&Tls>) {
        if self.session.state() != State::WantsTls {
            return;
        }
        if !self.transport.is_secure() {
            let tls = tls.expect("sessions want it only if it is offered");
            self.transport.begin_tls(tls.acceptor.accept());
        }
        if let Some(names) = self.transport.peer_names() {
            self.session.tls_established(names);
        } else if self.transport.unread().is_some() {
            self.transport.receive(driver);
        }
    }

    /// Whether the connection is to be closed now. Who is refused by TLS is told before.
    fn is_over(&mut self, driver: &mut Driver) -> bool {
        match self.session.state() {
            State::Closed if !self.transport.is_secure() => true,
            State::Closed => self.transport.part(driver),
            _ => self.session.is_finished() && self.transport.part(driver),
        }
    }

    /// Gives the session what was received, until the client has chosen: from there on the data
    /// thread does.
    fn receive(&mut self, driver: &mut Driver) {
        while let Some(bytes) = self.transport.unread()
            && self.session.export().is_none()
            && self.session.wants_input()
        {
            if self.transport.has_ended() {
                return self.session.peer_closed();
            }
            if bytes.is_empty() {
                return self.transport.receive(driver);
            }
            let used = self.session.receive(bytes);
            self.transport.used(used);
        }
    }
}

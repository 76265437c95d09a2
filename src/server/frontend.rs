//! NBD clients of one array: their connections, their requests on the way to the engine and the
//! answers back.
//!
//! A session says what it wants; this module moves bytes between it and the driver, and requests
//! between it and the host. Memory is bounded by [`IN_FLIGHT_BYTES_MAX`]: a client that has its
//! share of it under way is not read from.

use super::client::{Client, payload_bytes};
use super::host::Host;
use super::log;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uraid_buffer::Pool;
use uraid_engine::api::{Reply, Request, RequestError, RequestId};
use uraid_io::driver::{Driver, DriverEvent, ListenerId, StreamId};
use uraid_nbd::{ClientRequest, Export, NbdError, ReplyError, RequestKind};

/// Payload under way for all clients together, in bytes: from the moment a request is taken until
/// its answer is sent. One more request of each client may come on top.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;

/// Most connections at once; more are closed as soon as they come.
pub const CLIENTS_MAX: usize = 128;

/// How long a client may take to choose an export.
pub const NEGOTIATION_MAX: Duration = Duration::from_secs(30);

/// A request in the engine's hands.
struct UnderWay {
    stream: StreamId,
    cookie: u64,
    bytes: u64,
}

/// All clients of one array.
pub struct Frontend {
    exports: Arc<[Export]>,
    pool: Pool,
    listeners: Vec<ListenerId>,
    clients: BTreeMap<StreamId, Client>,
    /// Clients something has happened to.
    touched: BTreeSet<StreamId>,
    requests: BTreeMap<RequestId, UnderWay>,
    next_stream: u64,
    next_request: u64,
    shutting_down: bool,
}

impl Frontend {
    /// Serves `export` to whoever connects to `listeners`.
    pub fn start(
        export: Export,
        pool: Pool,
        listeners: Vec<OwnedFd>,
        driver: &mut Driver,
    ) -> Frontend {
        let ids: Vec<_> = (0..listeners.len() as u32).map(ListenerId).collect();
        for (id, fd) in ids.iter().zip(listeners) {
            driver.listen(*id, fd);
        }
        Frontend {
            exports: Arc::from([export]),
            pool,
            listeners: ids,
            clients: BTreeMap::new(),
            touched: BTreeSet::new(),
            requests: BTreeMap::new(),
            next_stream: 0,
            next_request: 0,
            shutting_down: false,
        }
    }

    /// Takes what happened to a socket.
    pub fn handle(&mut self, event: DriverEvent, driver: &mut Driver) {
        match event {
            DriverEvent::Accepted { fd, .. } => self.accept(fd, driver),
            DriverEvent::AcceptFailed { error, .. } => {
                log::warning(&format!("cannot take a connection: {error}; trying again"));
            }
            DriverEvent::Received {
                stream,
                buffer,
                result,
            } => {
                self.touch(stream).received(buffer, result);
            }
            DriverEvent::Sent { stream, result } => {
                self.touch(stream).sent(result);
            }
            DriverEvent::StreamClosed(stream) => self.touch(stream).closed(),
            DriverEvent::Woken => {}
            DriverEvent::Member(_) | DriverEvent::MemberHung { .. } => {
                unreachable!("the host keeps what concerns members")
            }
        }
    }

    fn touch(&mut self, stream: StreamId) -> &mut Client {
        self.touched.insert(stream);
        self.clients
            .get_mut(&stream)
            .expect("clients outlive their streams")
    }

    fn accept(&mut self, fd: OwnedFd, driver: &mut Driver) {
        if self.clients.len() >= CLIENTS_MAX {
            log::warning(&format!(
                "{CLIENTS_MAX} clients are connected; turned another one away"
            ));
            return;
        }
        let stream = StreamId(self.next_stream);
        self.next_stream += 1;
        driver.add_stream(stream, fd);
        let mut client = Client::new(stream, self.exports.clone(), self.pool.clone());
        if self.shutting_down {
            client.shutdown();
        }
        self.clients.insert(stream, client);
        self.touched.insert(stream);
    }

    /// Moves everything that can move: bytes in and out of sessions, requests to the engine.
    /// True when the engine got something to do.
    pub fn advance(&mut self, host: &mut Host) -> bool {
        let mut requested = false;
        let waiting = self
            .clients
            .iter()
            .filter(|(_, client)| client.waits_for_room());
        self.touched.extend(waiting.map(|(stream, _)| *stream));
        for stream in std::mem::take(&mut self.touched) {
            requested |= self.advance_client(stream, host);
        }
        requested
    }

    fn advance_client(&mut self, stream: StreamId, host: &mut Host) -> bool {
        let mut requested = false;
        loop {
            let room = self.has_room(stream);
            let client = self
                .clients
                .get_mut(&stream)
                .expect("touched clients are there");
            client.advance(host.driver(), room);
            if client.is_over() {
                self.clients.remove(&stream);
                return requested;
            }
            let Some(request) = client.next_request() else {
                return requested;
            };
            let id = RequestId(self.next_request);
            self.next_request += 1;
            let bytes = payload_bytes(&request.kind);
            self.requests.insert(
                id,
                UnderWay {
                    stream,
                    cookie: request.cookie,
                    bytes,
                },
            );
            host.request(id, engine_request(request));
            requested = true;
        }
    }

    fn has_room(&self, stream: StreamId) -> bool {
        let total = self.clients.values().map(Client::in_flight_bytes).sum();
        let own = self.clients.get(&stream).map_or(0, Client::in_flight_bytes);
        budget_has_room(own, total)
    }

    /// Takes an answer of the engine.
    pub fn reply(&mut self, reply: Reply) {
        let under_way = self
            .requests
            .remove(&reply.id)
            .expect("each request has one answer");
        let client = self.touch(under_way.stream);
        client.reply(
            under_way.cookie,
            under_way.bytes,
            reply.result.map_err(nbd_error),
        );
    }

    /// Accepts nobody any more; requests under way are finished, new ones refused.
    pub fn shutdown(&mut self, driver: &mut Driver) {
        self.shutting_down = true;
        self.listeners
            .drain(..)
            .for_each(|listener| driver.stop_listening(listener));
        for (stream, client) in &mut self.clients {
            client.shutdown();
            self.touched.insert(*stream);
        }
    }

    /// Whether the engine works on nothing.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether all clients are gone.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Drops clients that have not chosen an export in time; returns when to look again.
    pub fn check_negotiations(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (stream, client) in &mut self.clients {
            let Some(deadline) = client.negotiation_deadline() else {
                continue;
            };
            if deadline > now {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            } else {
                let seconds = NEGOTIATION_MAX.as_secs();
                client.drop_connection(&format!("no export was chosen in {seconds} s"));
                self.touched.insert(*stream);
            }
        }
        next
    }
}

/// Whether a client with `own` bytes under way, of `total` for all clients, may take further
/// requests: it may have as much under way as is still free (the dynamic threshold of Choudhury
/// and Hahne, 1998). Clients that are equally busy get equal shares, and one that never reads its
/// answers cannot take all. Whoever has nothing under way may always have one request.
fn budget_has_room(own: u64, total: u64) -> bool {
    own == 0 || own < IN_FLIGHT_BYTES_MAX.saturating_sub(total)
}

fn engine_request(request: ClientRequest) -> Request {
    assert_eq!(request.export, 0, "there is one export");
    match request.kind {
        RequestKind::Read { offset, len } => Request::Read {
            offset,
            len: len.into(),
        },
        RequestKind::Write { offset, data, fua } => Request::Write { offset, data, fua },
        RequestKind::Flush => Request::Flush,
        RequestKind::Trim { offset, len, fua } => Request::Trim {
            offset,
            len: len.into(),
            fua,
        },
        RequestKind::WriteZeroes {
            offset, len, fua, ..
        } => Request::WriteZeroes {
            offset,
            len: len.into(),
            fua,
        },
    }
}

fn nbd_error(error: RequestError) -> ReplyError {
    let (errno, text) = match error {
        RequestError::Io(text) => (NbdError::Io, text),
        RequestError::Invalid(text) => (NbdError::Invalid, text),
        RequestError::NoSpace(text) => (NbdError::NoSpace, text),
        RequestError::ReadOnly => (NbdError::NotPermitted, "the array is read-only".to_string()),
        RequestError::Stopping => (NbdError::ShuttingDown, "the server is stopping".to_string()),
    };
    ReplyError::new(errno, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of `clients` takes requests of `bytes` by turns, as long as it may.
    fn fill(clients: &mut [u64], bytes: u64) {
        loop {
            let before: u64 = clients.iter().sum();
            for index in 0..clients.len() {
                if budget_has_room(clients[index], clients.iter().sum()) {
                    clients[index] += bytes;
                }
            }
            if clients.iter().sum::<u64>() == before {
                return;
            }
        }
    }

    #[test]
    fn busy_clients_share_the_budget_equally_and_do_not_exceed_it() {
        for count in [1, 2, 4, 16] {
            let mut clients = vec![0; count];
            fill(&mut clients, 64 << 10);
            let (least, most) = (clients.iter().min().unwrap(), clients.iter().max().unwrap());
            assert!(most - least <= 64 << 10, "{clients:?}");
            assert!(
                *least >= IN_FLIGHT_BYTES_MAX / (count as u64 + 2),
                "{clients:?}"
            );
            assert!(
                clients.iter().sum::<u64>() <= IN_FLIGHT_BYTES_MAX,
                "{clients:?}"
            );
        }
    }

    #[test]
    fn clients_that_never_read_their_answers_leave_room_for_others() {
        let mut clients = vec![0];
        for _ in 0..20 {
            fill(&mut clients, 1 << 20);
            clients.push(0);
            let newest = clients.len() - 1;
            assert!(
                budget_has_room(clients[newest], clients.iter().sum()),
                "{clients:?}"
            );
        }
        let most = IN_FLIGHT_BYTES_MAX + ((clients.len() as u64) << 20);
        assert!(clients.iter().sum::<u64>() <= most, "{clients:?}");
    }
}

//! One connection and the requests under way on it.

use crate::address::Address;
use crate::drive::Tally;
use crate::input::Input;
use crate::load::{Kind, Limit, Load};
use crate::output::Output;
use crate::places::Places;
use crate::socket::Socket;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use uraid_nbd::client::{Client, ExportInfo};
use uraid_nbd::wire::{Dialect, command, transmission_flag};

/// A connection to an export.
pub struct Connection {
    socket: Socket,
    pub info: ExportInfo,
    pub places: Places,
    input: Input,
    output: Output,
}

/// A request under way; its number is the handle.
struct Slot {
    begun: Instant,
    /// What the server is asked; nothing if the slot is free.
    command: Option<u16>,
}

/// One load while it runs on one connection.
struct Run<'a> {
    load: &'a Load,
    limit: Limit,
    slots: Vec<Slot>,
    begun: Instant,
    sent: u64,
    pending: usize,
    tally: Tally,
}

impl Connection {
    /// Connects. `seed` chooses content and random places.
    pub fn open(address: &Address, places: Places, seed: u64) -> io::Result<Connection> {
        let mut socket = Socket::connect(address)?;
        let info = shake_hands(&mut socket, address.export())?;
        Ok(Connection {
            socket,
            info,
            places,
            input: Input::new(),
            output: Output::new(seed),
        })
    }

    /// Whether the server takes FLUSH.
    pub fn flushes(&self) -> bool {
        self.info.flags & transmission_flag::SEND_FLUSH != 0
    }

    /// Keeps the server busy with `load` until `limit`; counts requests in `done` too.
    pub fn drive(&mut self, load: &Load, limit: Limit, done: &AtomicU64) -> io::Result<Tally> {
        let mut run = Run::new(load, limit);
        for handle in 0..load.depth {
            let now = run.begun;
            self.begin(&mut run, handle, now);
        }
        while run.pending > 0 {
            self.exchange()?;
            let now = Instant::now();
            let before = run.tally.requests();
            while let Some(handle) = self.input.next(|handle| run.payload_bytes(handle))? {
                self.answered(&mut run, handle as usize, now);
            }
            done.fetch_add(run.tally.requests() - before, Ordering::Relaxed);
        }
        Ok(run.tally)
    }

    /// FLUSH, answered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.push(command::FLUSH, 0, 0, 0);
        loop {
            self.exchange()?;
            if self.input.next(|_| Some(0))?.is_some() {
                return Ok(());
            }
        }
    }

    /// Sends what is to be sent and receives something, whichever is possible.
    ///
    /// Receiving never waits for sending: a server whose replies nobody takes may well stop
    /// taking requests, and both would wait for ever.
    fn exchange(&mut self) -> io::Result<()> {
        self.output.send(&self.socket)?;
        if !self.output.is_empty() && !self.socket.wait_for_either()? {
            return Ok(());
        }
        self.input.receive(&mut self.socket)
    }

    /// Queues one more request, unless the limit is reached.
    fn begin(&mut self, run: &mut Run, handle: usize, now: Instant) {
        run.slots[handle].command = None;
        let more = match run.limit {
            Limit::Time(time) => now - run.begun < time,
            Limit::Requests(requests) => run.sent < requests,
        };
        if !more {
            return;
        }
        let command = match run.load.kind {
            Kind::Read => command::READ,
            Kind::Mixed { read_percent } => {
                if self.places.random.next() % 100 < u64::from(read_percent) {
                    command::READ
                } else {
                    command::WRITE
                }
            }
            Kind::Write | Kind::WriteAndFlush => command::WRITE,
        };
        let offset = self.places.next(run.load, self.info.size_bytes);
        self.output
            .push(command, handle as u64, offset, run.load.bytes);
        run.slots[handle] = Slot {
            begun: now,
            command: Some(command),
        };
        (run.sent, run.pending) = (run.sent + 1, run.pending + 1);
    }

    fn answered(&mut self, run: &mut Run, handle: usize, now: Instant) {
        let slot = &mut run.slots[handle];
        if run.load.kind == Kind::WriteAndFlush && slot.command == Some(command::WRITE) {
            slot.command = Some(command::FLUSH);
            self.output.push(command::FLUSH, handle as u64, 0, 0);
            return;
        }
        let (read_bytes, written_bytes) = match slot.command {
            Some(command::READ) => (run.load.bytes, 0),
            _ => (0, run.load.bytes),
        };
        run.tally.add(slot.begun, now, read_bytes, written_bytes);
        run.pending -= 1;
        self.begin(run, handle, now);
    }
}

/// Says goodbye, if the socket takes it: some servers report those who leave without.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.output.is_empty() {
            self.output.push(command::DISC, 0, 0, 0);
            let _ = self.output.send(&self.socket);
        }
    }
}

impl Run<'_> {
    fn new(load: &Load, limit: Limit) -> Run<'_> {
        let begun = Instant::now();
        let free = || Slot {
            begun,
            command: None,
        };
        Run {
            load,
            limit,
            slots: (0..load.depth).map(|_| free()).collect(),
            begun,
            sent: 0,
            pending: 0,
            tally: Tally::new(begun),
        }
    }

    /// Bytes that come with the reply to `handle`.
    fn payload_bytes(&self, handle: u64) -> Option<usize> {
        let slot = self.slots.get(usize::try_from(handle).ok()?)?;
        Some(match slot.command? {
            command::READ => self.load.bytes,
            _ => 0,
        })
    }
}

fn shake_hands(socket: &mut Socket, export: &str) -> io::Result<ExportInfo> {
    let mut client = Client::new(export, Dialect::Simple);
    loop {
        if let Some(info) = client.info() {
            return Ok(info);
        }
        socket.send_all(&client.take_output())?;
        let mut buffer = [0; 512];
        let len = socket.receive(&mut buffer)?;
        client
            .receive(&buffer[..len])
            .map_err(|error| io::Error::other(error.0))?;
    }
}

//! Several connections at work, each on a thread of its own.

use crate::address::Address;
use crate::connection::Connection;
use crate::drive::{Drive, Tally};
use crate::load::{Kind, Limit, Load, Order, REQUEST_BYTES_MAX};
use crate::places::Places;
use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at how far a drive is.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Requests under way while an export is filled.
const FILL_DEPTH: usize = 4;

/// How far a drive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Requests answered so far.
    pub requests: u64,
    /// Time since it began.
    pub elapsed: Duration,
}

/// Connections to one export. An error leaves them unusable: drop them.
pub struct Clients {
    connections: Vec<Connection>,
}

impl Clients {
    /// Opens so many connections, at least one. `seed` chooses content and random places.
    ///
    /// # Errors
    /// Of the socket; what the server refuses or does not keep to.
    pub fn open(address: &Address, connections: usize, seed: u64) -> io::Result<Clients> {
        assert!(connections > 0, "a connection is needed");
        let open = |i| {
            let own = seed.wrapping_add(i << 32);
            Connection::open(address, Places::new(own, i, connections as u64), own)
        };
        let connections = (0..connections as u64).map(open);
        Ok(Clients {
            connections: connections.collect::<io::Result<_>>()?,
        })
    }

    /// Size of the export in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.connections[0].info.size_bytes
    }

    /// Keeps the server busy with `load` until `limit`; `progress` is told now and then how far
    /// it is. Sequences go on where the last drive left them.
    ///
    /// # Errors
    /// Of the socket; every error reply; a working set with no room for each connection.
    pub fn drive(
        &mut self,
        load: &Load,
        limit: Limit,
        progress: impl FnMut(Progress),
    ) -> io::Result<Drive> {
        load.assert_sane();
        let set = load.working_set_bytes.unwrap_or(u64::MAX);
        let connections = self.connections.len();
        if set.min(self.size_bytes()) < (load.bytes * connections) as u64 {
            return Err(io::Error::other(format!(
                "the export or the working set has no room for {connections} requests of {} bytes",
                load.bytes
            )));
        }
        if load.kind == Kind::WriteAndFlush {
            self.check_flush()?;
        }
        run(&mut self.connections, load, limit, progress)
    }

    /// Writes `bytes` from the beginning of the export once, less a rest of less than 1 MiB, and
    /// flushes. Sequences begin anew after it.
    ///
    /// # Errors
    /// As [`Clients::drive`].
    pub fn fill(&mut self, bytes: u64, progress: impl FnMut(Progress)) -> io::Result<()> {
        let load = Load::new(
            Kind::Write,
            Order::Sequential,
            REQUEST_BYTES_MAX,
            FILL_DEPTH,
        );
        // The first connection does it alone, as if there were no other.
        let alone = Places::new(0, 0, 1);
        let own = std::mem::replace(&mut self.connections[0].places, alone);
        let requests = bytes.min(self.size_bytes()) / load.bytes as u64;
        let filled = run(
            &mut self.connections[..1],
            &load,
            Limit::Requests(requests),
            progress,
        );
        self.connections[0].places = own;
        filled?;
        self.connections.iter_mut().for_each(|c| c.places.rewind());
        self.flush()
    }

    /// FLUSH, answered.
    ///
    /// # Errors
    /// As [`Clients::drive`]; an export that takes no FLUSH.
    pub fn flush(&mut self) -> io::Result<()> {
        self.check_flush()?;
        self.connections[0].flush()
    }

    fn check_flush(&self) -> io::Result<()> {
        if self.connections[0].flushes() {
            return Ok(());
        }
        Err(io::Error::other("the export takes no FLUSH"))
    }
}

/// Drives all connections, each on its thread, beginning together.
fn run(
    connections: &mut [Connection],
    load: &Load,
    limit: Limit,
    mut progress: impl FnMut(Progress),
) -> io::Result<Drive> {
    let count = connections.len();
    let (begun, done) = (Instant::now(), AtomicU64::new(0));
    let start = Barrier::new(count);
    let (ended, all_ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, connection) in connections.iter_mut().enumerate() {
            let limit = limit.share(number as u64, count as u64);
            let (ended, done, start) = (ended.clone(), &done, &start);
            threads.push(scope.spawn(move || {
                start.wait();
                let tally = connection.drive(load, limit, done);
                drop(ended);
                tally
            }));
        }
        drop(ended);
        while all_ended.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
            progress(Progress {
                requests: done.load(Ordering::Relaxed),
                elapsed: begun.elapsed(),
            });
        }
        let tallies = threads
            .into_iter()
            .map(|t| t.join().expect("no bug in it"))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Tally::sum(&tallies))
    })
}

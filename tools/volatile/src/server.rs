//! Serving disks: a thread for each connection moves bytes between its socket and the protocol
//! machine, and carries out one request after the other.

use crate::disk::{Disk, lose_power};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use uraid_buffer::Pool;
use uraid_nbd::{Export, Session};

/// Bytes received at once.
const RECEIVE_BYTES: usize = 256 << 10;

/// Disks being served. Dropping it shuts the disks down in an orderly way.
pub struct Server {
    shared: Arc<Shared>,
    socket: PathBuf,
}

struct Shared {
    disks: Vec<Disk>,
    exports: Arc<[Export]>,
    /// All connections, to end them when the disks are gone.
    connections: Mutex<Vec<UnixStream>>,
    over: AtomicBool,
}

impl Server {
    /// Serves `disks` at `socket`, which must not exist.
    ///
    /// # Errors
    /// What binding the socket answers.
    pub fn start(socket: &Path, disks: Vec<Disk>) -> io::Result<Server> {
        let listener = UnixListener::bind(socket)?;
        let exports = disks.iter().enumerate().map(|(i, disk)| Export {
            name: i.to_string(),
            description: "a disk with a volatile write cache".into(),
            size_bytes: disk.bytes(),
            read_only: false,
            preferred_block_bytes: 4096,
            ..Export::default()
        });
        let shared = Arc::new(Shared {
            exports: exports.collect(),
            disks,
            connections: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&listener));
        Ok(Server {
            shared,
            socket: socket.to_owned(),
        })
    }

    /// The disks, in the order of their exports.
    pub fn disks(&self) -> &[Disk] {
        &self.shared.disks
    }

    /// The power of all disks fails, and the server ends; the files hold what is left. Returns
    /// how many sectors were in the balance.
    pub fn lose_power(self) -> usize {
        lose_power(&self.shared.disks)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.disks.iter().for_each(Disk::power_off);
        self.shared.over.store(true, Ordering::SeqCst);
        // A connection of our own makes the listener look whether it is over.
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
        let connections = self.shared.connections.lock();
        for connection in connections.expect("no holder panics").iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn accept(self: Arc<Shared>, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let Ok(held) = stream.try_clone() else { return };
            self.connections
                .lock()
                .expect("no holder panics")
                .push(held);
            let shared = self.clone();
            thread::spawn(move || shared.converse(stream));
        }
    }

    /// One connection, from its greeting to its end, whichever side ends it.
    fn converse(&self, mut stream: UnixStream) {
        let mut session = Session::new(self.exports.clone(), Pool::heap());
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut unread = 0..0;
        while self.send(&mut session, &mut stream).is_ok() && !session.is_finished() {
            if unread.is_empty() {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(len) => unread = 0..len,
                }
            }
            unread.start += session.receive(&buffer[unread.clone()]);
            while let Some(request) = session.next_request() {
                let result = self.disks[request.export].serve(request.kind);
                session.reply(request.cookie, result);
            }
            while session.log().is_some() {}
        }
    }

    fn send(&self, session: &mut Session, stream: &mut UnixStream) -> io::Result<()> {
        while let Some(buffers) = session.take_output() {
            for buffer in buffers {
                stream.write_all(&buffer)?;
            }
        }
        Ok(())
    }
}

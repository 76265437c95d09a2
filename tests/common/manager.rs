//! What a service manager such as systemd hears from the server.

use super::{PATIENCE, Sandbox};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// A socket for `NOTIFY_SOCKET`.
pub struct Manager {
    /// Where it is.
    pub place: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    /// Listens in the sandbox.
    pub fn new(sandbox: &Sandbox) -> Manager {
        let place = sandbox.path("notify");
        let socket = UnixDatagram::bind(&place).expect("bind");
        let set = socket.set_read_timeout(Some(PATIENCE));
        set.expect("a socket option");
        Manager { place, socket }
    }

    /// The next message.
    pub fn hear(&self) -> String {
        let mut bytes = [0; 1000];
        let len = self.socket.recv(&mut bytes).expect("word of the server");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }
}

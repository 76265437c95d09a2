//! A connected socket: reads wait, writes do not.

use crate::address::Address;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, sendmsg};
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A server that is silent for longer hangs.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Either kind of socket.
pub enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    pub fn connect(address: &Address) -> io::Result<Socket> {
        match address {
            Address::Unix { path, .. } => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                Ok(Socket::Unix(stream))
            }
            Address::Tcp { host_port, .. } => {
                let stream = TcpStream::connect(host_port)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }

    /// Receives at least a byte.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let received = match self {
                Socket::Unix(stream) => stream.read(buffer),
                Socket::Tcp(stream) => stream.read(buffer),
            };
            match received {
                Ok(0) => return Err(io::Error::other("the server hung up")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(silent()),
                other => return other,
            }
        }
    }

    /// Sends all of a short message of the handshake.
    pub fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Socket::Unix(stream) => stream.write_all(bytes),
            Socket::Tcp(stream) => stream.write_all(bytes),
        }
    }

    /// Sends as much as fits into the socket now; returns how many bytes.
    pub fn send_some(&self, slices: &[IoSlice]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match sendmsg::<()>(self.as_fd().as_raw_fd(), slices, &[], flags, None) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                other => return Ok(other?),
            }
        }
    }

    /// Waits until the socket takes bytes or has some; returns whether it has some.
    pub fn wait_for_either(&self) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(SILENCE_MAX).expect("a minute is in range");
        loop {
            let mut fds = [PollFd::new(
                self.as_fd(),
                PollFlags::POLLIN | PollFlags::POLLOUT,
            )];
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                Ok(0) => return Err(silent()),
                other => {
                    other?;
                    let found = fds[0].revents().unwrap_or(PollFlags::empty());
                    // What is wrong with a socket is told by reading from it.
                    return Ok(found != PollFlags::POLLOUT);
                }
            }
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}

fn silent() -> io::Error {
    let text = format!("the server said nothing for {SILENCE_MAX:?}");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

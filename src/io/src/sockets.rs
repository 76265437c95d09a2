//! Listening sockets and what is set on the streams they accept.

use nix::sys::socket::{
    AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt,
};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Idle time after which a TCP peer is asked whether it still lives, in seconds.
const KEEPALIVE_IDLE_SECONDS: u32 = 60;
/// Time between two such questions, in seconds.
const KEEPALIVE_INTERVAL_SECONDS: u32 = 10;
/// Unanswered questions after which the connection is dropped.
const KEEPALIVE_PROBES: u32 = 6;

/// Why nobody listens now. Each says what would help.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum ListenError {
    #[error(
        "{path}: another process listens on this socket; stop it first, or choose another path"
    )]
    SocketInUse { path: PathBuf },
    #[error("{path}: exists and is not a socket; remove it first, or choose another path")]
    NotASocket { path: PathBuf },
    #[error("{path}: cannot listen: {error}; check that its directory exists and is writable")]
    Socket { path: PathBuf, error: io::Error },
    #[error("{address}: cannot listen: {error}; choose another address or port")]
    Address { address: String, error: io::Error },
}

/// Listens on a unix socket. A socket file that a dead process left behind is replaced.
pub fn listen_unix(path: impl AsRef<Path>) -> Result<OwnedFd, ListenError> {
    let path = path.as_ref();
    let fail = |error| ListenError::Socket {
        path: path.to_owned(),
        error,
    };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            UnixListener::bind(path).map(OwnedFd::from).map_err(fail)
        }
        bound => bound.map(OwnedFd::from).map_err(fail),
    }
}

/// Removes a socket file nobody listens on; refuses anything else.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let fail = |error| ListenError::Socket {
        path: path.to_owned(),
        error,
    };
    let meta = std::fs::symlink_metadata(path).map_err(fail)?;
    if !meta.file_type().is_socket() {
        return Err(ListenError::NotASocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(fail)
        }
        // Answered, or too busy to: somebody is there.
        _ => Err(ListenError::SocketInUse {
            path: path.to_owned(),
        }),
    }
}

/// Listens on a TCP port; port 0 lets the system choose. Returns the real address.
pub fn listen_tcp(host: &str, port: u16) -> Result<(OwnedFd, SocketAddr), ListenError> {
    let fail = |error| ListenError::Address {
        address: format!("{host}:{port}"),
        error,
    };
    let listener = TcpListener::bind((host, port)).map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    Ok((listener.into(), address))
}

/// Sets up a stream: on TCP answers go out at once and dead peers are noticed after some minutes.
/// Other sockets need nothing.
pub fn tune_stream(stream: impl AsFd) -> nix::Result<()> {
    let fd = stream.as_fd();
    let family = getsockname::<SockaddrStorage>(fd.as_raw_fd())?.family();
    if !matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6)) {
        return Ok(());
    }
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(&fd, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    setsockopt(&fd, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)
}

/// The user at the other end of a unix socket.
pub fn peer_uid(stream: impl AsFd) -> nix::Result<u32> {
    getsockopt(&stream.as_fd(), sockopt::PeerCredentials).map(|peer| peer.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = listen_unix(&path).unwrap();
        let error = listen_unix(&path).unwrap_err();
        assert!(matches!(error, ListenError::SocketInUse { .. }), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        let _second = listen_unix(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(
            listen_unix(&path),
            Err(ListenError::NotASocket { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        let nowhere = listen_unix(dir.path().join("no/such/socket")).unwrap_err();
        assert!(matches!(nowhere, ListenError::Socket { .. }));
    }

    #[test]
    fn tcp_tells_the_port_it_got() {
        let (_listener, address) = listen_tcp("127.0.0.1", 0).unwrap();
        assert_ne!(address.port(), 0);
        TcpStream::connect(address).unwrap();
        let taken = listen_tcp("127.0.0.1", address.port()).unwrap_err();
        assert!(taken.to_string().contains(&address.port().to_string()));
    }

    #[test]
    fn streams_are_tuned_whatever_they_are() {
        let (_listener, address) = listen_tcp("127.0.0.1", 0).unwrap();
        let tcp = TcpStream::connect(address).unwrap();
        tune_stream(&tcp).unwrap();
        assert!(tcp.nodelay().unwrap());
        let (unix, _peer) = UnixStream::pair().unwrap();
        tune_stream(&unix).unwrap();
        assert_eq!(peer_uid(&unix).unwrap(), nix::unistd::geteuid().as_raw());
    }
}

//! Listening sockets and what is set on the streams they accept.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, setsockopt,
    sockopt,
};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Idle time after which a TCP peer is asked whether it still lives, in seconds.
const KEEPALIVE_IDLE_SECONDS: u32 = 60;
/// Time between two such questions, in seconds.
const KEEPALIVE_INTERVAL_SECONDS: u32 = 10;
/// Unanswered questions after which the connection is dropped.
const KEEPALIVE_PROBES: u32 = 6;

/// Most bytes that a unix socket holds for a peer to receive (the kernel takes half of what it
/// grants for its own books). By default an answer of 1 MiB takes five turns, each of which ends
/// with both sides being woken; what a peer does not receive takes memory of the kernel.
const UNIX_SEND_BYTES_MAX: usize = 256 << 10;

/// How long a server on a socket may take to say a first word; after that it counts as one that
/// lets clients speak first.
const WORD_MAX: Duration = Duration::from_secs(1);
/// How often a socket that nobody seems to be behind is looked at before it is left alone.
const ORPHAN_LOOKS_MAX: usize = 10;

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
    for _ in 0..ORPHAN_LOOKS_MAX {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return std::fs::remove_file(path).map_err(fail);
            }
            Ok(stream) if is_orphan(&stream) => {}
            // Answered, or too busy to: somebody is there.
            _ => break,
        }
    }
    Err(ListenError::SocketInUse {
        path: path.to_owned(),
    })
}

/// Whether nobody was at the other end of a new connection: it ended without a word. The kernel
/// keeps the socket of a killed process for a moment, until its rings are gone.
fn is_orphan(mut stream: &UnixStream) -> bool {
    let waiting = stream.set_read_timeout(Some(WORD_MAX));
    match waiting.and_then(|()| stream.read(&mut [0])) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
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

/// A listening socket that whoever started us has opened.
#[derive(Debug)]
pub struct Inherited {
    /// The socket.
    pub fd: OwnedFd,
    /// What it is called (`FileDescriptorName=`); empty if nobody said.
    pub name: String,
}

/// First of the descriptors that are passed (`SD_LISTEN_FDS_START`).
const LISTEN_FDS_START: RawFd = 3;

/// Most descriptors that are passed.
const LISTEN_FDS_MAX: RawFd = 1024;

/// Takes the sockets that a service manager has passed to this process (sd_listen_fds(3)): once,
/// from then on there are none.
///
/// # Errors
/// The variables are malformed, or a descriptor is not open.
pub fn take_inherited() -> io::Result<Vec<Inherited>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name: &str| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    if !ours || TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    let count = variable("LISTEN_FDS").unwrap_or_default();
    let count = count.parse().ok().filter(|count| *count <= LISTEN_FDS_MAX);
    let count: RawFd = count.ok_or_else(|| io::Error::other("LISTEN_FDS is not a number"))?;
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut found = Vec::new();
    for fd in LISTEN_FDS_START..LISTEN_FDS_START + count {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            let text = format!("LISTEN_FDS speaks of descriptor {fd}, which is not open");
            return Err(io::Error::other(text));
        }
        // SAFETY: it is open, as was just seen. The variables name this process and say that these descriptors were passed to
        // it to own; nothing else here takes them, and this is done once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let name = names.next().unwrap_or_default().to_string();
        found.push(Inherited { fd, name });
    }
    Ok(found)
}

/// Lets a listening socket outlive the program that is running: the one that this process executes
/// next finds it under the number that is returned, by [`take_left`].
pub fn leave_open(socket: &OwnedFd) -> io::Result<RawFd> {
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(socket.as_raw_fd())
}

/// Takes listening sockets that the program which this process ran before has left open: once.
///
/// # Errors
/// A number is not that of such a socket.
pub fn take_left(fds: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    assert!(!TAKEN.swap(true, Ordering::AcqRel), "taken already");
    let take = |fd: &RawFd| {
        if *fd < LISTEN_FDS_START {
            return Err(io::Error::other(format!("{fd} is not a socket's number")));
        }
        // SAFETY: the number is only looked at, and `fcntl` says what it is worth.
        let flags = fcntl(unsafe { BorrowedFd::borrow_raw(*fd) }, FcntlArg::F_GETFD)?;
        if FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC) {
            return Err(io::Error::other(format!("descriptor {fd} was not left")));
        }
        // SAFETY: it is open, and it is not ours from before: we open nothing without CLOEXEC.
        // It becomes ours here alone, as this is done once; a number given twice fails above.
        let socket = unsafe { OwnedFd::from_raw_fd(*fd) };
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        listening_address(&socket)?;
        Ok(socket)
    };
    fds.iter().map(take).collect()
}

/// Where a socket listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A unix socket; without a path if it has none that others could use.
    Unix(Option<PathBuf>),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// Where `socket` listens.
///
/// # Errors
/// It does not, or is neither a TCP nor a unix stream socket.
pub fn listening_address(socket: &OwnedFd) -> io::Result<Address> {
    let kind = getsockopt(socket, sockopt::SockType)?;
    if kind != SockType::Stream || !getsockopt(socket, sockopt::AcceptConn)? {
        return Err(io::Error::other("it is not a listening stream socket"));
    }
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd())?;
    if let Some(unix) = address.as_unix_addr() {
        return Ok(Address::Unix(unix.path().map(Path::to_owned)));
    }
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()));
    let v6 = address
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::V6((*v6).into()));
    v4.or(v6)
        .map(Address::Tcp)
        .ok_or_else(|| io::Error::other("it is neither a TCP nor a unix socket"))
}

/// Sets up a stream: on TCP answers go out at once and dead peers are noticed after some minutes;
/// a unix socket takes more of a large answer at a time. (TCP sizes its buffers by itself.)
pub fn tune_stream(stream: impl AsFd) -> nix::Result<()> {
    let fd = stream.as_fd();
    let family = getsockname::<SockaddrStorage>(fd.as_raw_fd())?.family();
    if !matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6)) {
        return setsockopt(&fd, sockopt::SndBuf, &UNIX_SEND_BYTES_MAX);
    }
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(&fd, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    setsockopt(&fd, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)
}

/// Whether the peer of `stream` sends nothing more, though bytes that it sent before may be
/// waiting. When the kernel cannot tell, it is taken for ended.
pub fn peer_has_ended(stream: impl AsFd) -> bool {
    let ends = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut fds = [PollFd::new(stream.as_fd(), ends)];
    poll(&mut fds, PollTimeout::ZERO).is_err() || fds[0].any().unwrap_or(true)
}

/// The user at the other end of a unix socket.
pub fn peer_uid(stream: impl AsFd) -> nix::Result<u32> {
    getsockopt(&stream.as_fd(), sockopt::PeerCredentials).map(|peer| peer.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::fd::IntoRawFd;

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
    fn the_socket_of_a_process_that_is_about_to_be_gone_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = listen_unix(&path).unwrap();
        std::thread::scope(|scope| {
            // Lasts until somebody has connected, whom it never accepts.
            scope.spawn(move || {
                let mut connected = [PollFd::new(first.as_fd(), PollFlags::POLLIN)];
                poll(&mut connected, PollTimeout::NONE).unwrap();
            });
            listen_unix(&path).unwrap();
        });
    }

    #[test]
    fn a_socket_says_where_it_listens() {
        let (tcp, address) = listen_tcp("127.0.0.1", 0).unwrap();
        assert_eq!(listening_address(&tcp).unwrap(), Address::Tcp(address));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let unix = listen_unix(&path).unwrap();
        assert_eq!(listening_address(&unix).unwrap(), Address::Unix(Some(path)));
        let (connected, _peer) = UnixStream::pair().unwrap();
        assert!(listening_address(&connected.into()).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(listening_address(&file.into()).is_err());
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
    fn only_sockets_that_were_left_are_taken() {
        let (socket, address) = listen_tcp("127.0.0.1", 0).unwrap();
        let (ours, _) = listen_tcp("127.0.0.1", 0).unwrap();
        let left = leave_open(&socket).unwrap();
        // From here on it belongs to nobody, as after an exec.
        let _ = socket.into_raw_fd();
        let ours = ours.as_raw_fd();
        let error = take_left(&[left, left, ours]).unwrap_err();
        assert!(error.to_string().contains("was not left"), "{error}");
        assert!(
            TcpStream::connect(address).is_err(),
            "it was taken, and let go"
        );
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

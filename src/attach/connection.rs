//! One connection to a server, negotiated as far as the kernel wants it before it takes over.

use super::uri::{Place, Uri};
use crate::failure::{Doing, Failure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use uraid_io::sockets::tune_stream;
use uraid_nbd::client::{Client, ExportInfo};
use uraid_nbd::wire::Dialect;

/// How long a server may take to accept, and for each of its answers in the negotiation.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long bytes may stay unacknowledged before a TCP peer counts as gone, in milliseconds.
const TCP_SILENCE_MS_MAX: u32 = 30_000;

/// A connection in the transmission phase, with nothing under way.
pub struct Connection {
    stream: OwnedFd,
    /// What the server told about the export.
    pub info: ExportInfo,
}

impl Connection {
    /// Connects and negotiates: fixed newstyle, GO, simple replies, which is what Linux speaks.
    pub fn open(uri: &Uri) -> Result<Connection, Failure> {
        let open = match &uri.place {
            Place::Unix(path) => open_unix(path, &uri.export),
            Place::Tcp(host, port) => open_tcp(host, *port, &uri.export),
        };
        open.doing(|| format!("attach to {uri}"))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn open_unix(path: &Path, export: &str) -> io::Result<Connection> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // A server that hangs with a full backlog would make connect wait for ever.
    let limit = TimeVal::new(ANSWER_MAX.as_secs().cast_signed(), 0);
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    negotiated(UnixStream::from(fd), export)
}

fn open_tcp(host: &str, port: u16, export: &str) -> io::Result<Connection> {
    let stream = connect_tcp(host, port)?;
    tune_stream(&stream)?;
    setsockopt(&stream, sockopt::TcpUserTimeout, &TCP_SILENCE_MS_MAX)?;
    negotiated(stream, export)
}

/// Negotiates within time limits, and lifts them: the kernel heeds them too, and would take an idle
/// minute for a dead server.
fn negotiated<S>(mut stream: S, export: &str) -> io::Result<Connection>
where
    S: Read + Write + AsFd + Into<OwnedFd>,
{
    let limit = |stream: &S, seconds: u64| -> nix::Result<()> {
        let limit = TimeVal::new(seconds.cast_signed(), 0);
        setsockopt(stream, sockopt::ReceiveTimeout, &limit)?;
        setsockopt(stream, sockopt::SendTimeout, &limit)
    };
    limit(&stream, ANSWER_MAX.as_secs())?;
    let info = negotiate(&mut stream, export)?;
    limit(&stream, 0)?;
    Ok(Connection {
        stream: stream.into(),
        info,
    })
}

/// Tries the addresses of the host one after another; the last error counts.
fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::other(format!("{host} has no address")));
    for address in (host, port).to_socket_addrs()? {
        result = TcpStream::connect_timeout(&address, ANSWER_MAX);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn negotiate(stream: &mut (impl Read + Write), export: &str) -> io::Result<ExportInfo> {
    let mut client = Client::new(export, Dialect::Simple);
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(&client.take_output())?;
        if let Some(info) = client.info() {
            return Ok(info);
        }
        let len = match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::other("the server closed the connection")),
            // A process that was stopped and goes on finds its limited reads interrupted.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // What a read says that ran into its limit.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let text = format!("the server was silent for {ANSWER_MAX:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            read => read?,
        };
        client
            .receive(&buffer[..len])
            .map_err(|error| io::Error::other(error.0))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn who_closes_or_talks_nonsense_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let uri: Uri = format!("nbd+unix:///x?socket={}", path.display())
            .parse()
            .unwrap();
        // Nothing is asserted while the other side still waits for a client.
        let (closed, nonsense) = std::thread::scope(|scope| {
            scope.spawn(|| {
                drop(listener.accept().unwrap());
                let (mut second, _) = listener.accept().unwrap();
                second.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
            });
            let failure = || Connection::open(&uri).err().unwrap();
            (failure(), failure())
        });
        assert!(closed.message.contains("closed"), "{closed}");
        assert!(closed.message.contains(&uri.to_string()), "{closed}");
        assert!(nonsense.message.contains("newstyle"), "{nonsense}");
    }
}

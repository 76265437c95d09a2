//! The listening sockets of a server, its control sockets and its pidfile: what it makes in the
//! file system, and takes away again.

use super::listen::{Listen, tcp_uri, unix_uri};
use super::log;
use super::succession::{Purpose, Succession};
use crate::control::paths;
use crate::failure::{Doing, Failure};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use uraid_io::sockets::{
    Address, Inherited, ListenError, listen_tcp, listen_unix, listening_address,
};

/// Where a socket can be reached.
pub enum Reach {
    /// By a path.
    Unix(PathBuf),
    /// By an address.
    Tcp(SocketAddr),
    /// Only by whoever passed it.
    Unnamed,
}

impl Reach {
    /// The URI of export `name` there; `tls`: for clients that speak TLS.
    pub fn uri(&self, name: &str, tls: bool) -> Option<String> {
        let uri = match self {
            Reach::Unix(path) => unix_uri(path, name),
            Reach::Tcp(address) => tcp_uri(*address, name),
            Reach::Unnamed => return None,
        };
        Some(match tls {
            true => uri.replacen("nbd", "nbds", 1),
            false => uri,
        })
    }
}

/// A listening socket for clients.
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// Where.
    pub reach: Reach,
    /// The name of the only array that is offered here; none means all of them.
    pub only: Option<String>,
    /// A file that is ours to remove.
    pub file: Option<SocketFile>,
}

impl Listener {
    /// Whether the array `name` is offered here.
    pub fn offers(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

/// Opens the places of `--listen`, or those that were passed to us, or a socket for each array.
/// `open`: also where others than this host can connect. All are kept for the next program.
pub fn open_listeners(
    places: &[Listen],
    inherited: Vec<Inherited>,
    names: &[String],
    open: bool,
    succession: &Succession,
) -> Result<Vec<Listener>, Failure> {
    let mut listeners = Vec::new();
    for socket in inherited {
        succession.keep(Purpose::Passed(socket.name.clone()), &socket.fd)?;
        listeners.push(take_over(socket, names)?);
    }
    for place in places {
        let purpose = Purpose::Place(place.to_string());
        listeners.push(listen(place, purpose, succession)?);
    }
    if listeners.is_empty() {
        paths::make_private_directory(&paths::socket_directory())?;
        for name in names {
            let place = Listen::Unix(paths::nbd_path(name));
            let only = Some(name.clone());
            let purpose = Purpose::Place(place.to_string());
            listeners.push(Listener {
                only,
                ..listen(&place, purpose, succession)?
            });
        }
    }
    for listener in &listeners {
        check_secure(&listener.reach, open)?;
    }
    Ok(listeners)
}

/// A socket that is named like an array offers that array alone.
fn take_over(socket: Inherited, names: &[String]) -> Result<Listener, Failure> {
    let Inherited { fd, name } = socket;
    let address = listening_address(&fd)
        .doing(|| format!("use the socket {name:?} that was passed to us"))?;
    let reach = match address {
        Address::Tcp(address) => Reach::Tcp(address),
        Address::Unix(Some(path)) => Reach::Unix(path),
        Address::Unix(None) => Reach::Unnamed,
    };
    let only = names.contains(&name).then_some(name);
    Ok(Listener {
        fd,
        reach,
        only,
        file: None,
    })
}

fn listen(place: &Listen, purpose: Purpose, succession: &Succession) -> Result<Listener, Failure> {
    match place {
        Listen::Unix(path) => {
            let path =
                std::path::absolute(path).doing(|| format!("make {} absolute", path.display()))?;
            let (fd, file) = SocketFile::listen(&path, purpose, succession)?;
            Ok(Listener {
                fd,
                reach: Reach::Unix(path),
                only: None,
                file: Some(file),
            })
        }
        Listen::Tcp { host, port } => {
            let (fd, address) = match succession.take(&purpose) {
                Some(fd) => {
                    let address = tcp_address(&fd)?;
                    (fd, address)
                }
                None => listen_tcp(host, *port).map_err(|e| Failure::failed(e.to_string()))?,
            };
            succession.keep(purpose, &fd)?;
            Ok(Listener {
                fd,
                reach: Reach::Tcp(address),
                only: None,
                file: None,
            })
        }
    }
}

/// The place of `--metrics`.
pub struct MetricsListener {
    /// The socket.
    pub fd: OwnedFd,
    /// Whether it is a unix socket, and no TCP socket.
    pub is_unix: bool,
    /// A file that is ours to remove.
    pub file: Option<SocketFile>,
}

/// Opens the place of `--metrics`; `open`: also where others than this host can connect. It is
/// kept for the next program.
pub fn open_metrics(
    place: &Listen,
    open: bool,
    succession: &Succession,
) -> Result<MetricsListener, Failure> {
    let purpose = Purpose::Metrics(place.to_string());
    let Listener {
        fd, reach, file, ..
    } = listen(place, purpose, succession).map_err(|failure| Failure {
        message: format!("--metrics {place}: {}", failure.message),
        ..failure
    })?;
    if let Reach::Tcp(address) = reach {
        check_metrics_secure(place, &address, open)?;
        log::info(&format!(
            "the page is at http://{address}/, metrics are at http://{address}/metrics"
        ));
    }
    let is_unix = file.is_some();
    Ok(MetricsListener { fd, is_unix, file })
}

/// Refuses to show metrics to the network unasked.
fn check_metrics_secure(place: &Listen, address: &SocketAddr, open: bool) -> Result<(), Failure> {
    match open || is_local(address) {
        true => Ok(()),
        false => Err(Failure::refused(format!(
            "--metrics {place}: {address} can be reached from other hosts, and whoever connects \
             sees all metrics and the page, unencrypted; listen on a loopback address or a unix \
             socket, or say --metrics-insecure if the network is yours alone"
        ))),
    }
}

/// Whether a place of `--metrics` would not be refused for safety; nothing is opened.
pub fn check_metrics_place(place: &Listen, open: bool) -> Result<(), Failure> {
    let check = |address| check_metrics_secure(place, address, open);
    addresses(place)?.iter().try_for_each(check)
}

/// Whether a place of `--listen` would not be refused for safety; nothing is opened.
pub fn check_place(place: &Listen, open: bool) -> Result<(), Failure> {
    let check = |address: &SocketAddr| check_secure(&Reach::Tcp(*address), open);
    addresses(place)?.iter().try_for_each(check)
}

/// What the host's name stands for; none for a unix socket.
fn addresses(place: &Listen) -> Result<Vec<SocketAddr>, Failure> {
    match place {
        Listen::Unix(_) => Ok(Vec::new()),
        Listen::Tcp { host, port } => {
            let found = (host.as_str(), *port).to_socket_addrs();
            Ok(found.doing(|| format!("listen on {place}"))?.collect())
        }
    }
}

fn tcp_address(fd: &OwnedFd) -> Result<SocketAddr, Failure> {
    match listening_address(fd).doing(|| "use a socket that was left to us".to_string())? {
        Address::Tcp(address) => Ok(address),
        Address::Unix(_) => Err(Failure::failed(
            "a unix socket was left to us for a TCP port",
        )),
    }
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Refuses to let the network in where nothing is encrypted and nobody asked who it is.
fn check_secure(reach: &Reach, open: bool) -> Result<(), Failure> {
    match reach {
        Reach::Tcp(address) if !open && !is_local(address) => Err(Failure::refused(format!(
            "{address} can be reached from other hosts, and whoever connects may read and \
                 write everything, unencrypted; require TLS (--tls-certificates, see `uraid tls`), \
                 listen on a loopback address or a unix socket, or say --insecure if the network \
                 is yours alone"
        ))),
        _ => Ok(()),
    }
}

/// The control socket of the array `name`: where `--control` says, which is a directory when
/// there are several arrays.
pub fn open_control(
    place: Option<&Path>,
    name: &str,
    alone: bool,
    succession: &Succession,
) -> Result<(OwnedFd, SocketFile), Failure> {
    let path = match place {
        None => {
            paths::make_private_directory(&paths::socket_directory())?;
            paths::control_path(name)
        }
        Some(place) if place.is_dir() => place.join(format!("{name}{}", paths::CONTROL_SUFFIX)),
        Some(place) if alone => place.to_owned(),
        Some(place) => {
            return Err(Failure::usage(format!(
                "{} is not a directory: with several arrays --control names one, for a control \
                 socket of each",
                place.display()
            )));
        }
    };
    SocketFile::listen(&path, Purpose::Control(path.clone()), succession)
}

/// A unix socket's file, removed when dropped, unless an upgrade is under way.
pub struct SocketFile {
    path: PathBuf,
    succession: Succession,
}

impl SocketFile {
    /// Listens at `path`, on the socket that was left to us if there is one.
    fn listen(
        path: &Path,
        purpose: Purpose,
        succession: &Succession,
    ) -> Result<(OwnedFd, SocketFile), Failure> {
        let listen = || {
            listen_unix(path).map_err(|error| match error {
                ListenError::SocketInUse { path } => Failure::refused(format!(
                    "{} is in use: another server listens there; stop it, or choose another place",
                    path.display()
                )),
                other => Failure::failed(other.to_string()),
            })
        };
        let fd = succession.take(&purpose).map_or_else(listen, Ok)?;
        let file = SocketFile {
            path: path.to_owned(),
            succession: succession.clone(),
        };
        succession.keep(purpose, &fd)?;
        Ok((fd, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.succession.has_begun() {
            remove(&self.path);
        }
    }
}

/// A file with our process id, removed when dropped.
pub struct Pidfile {
    path: PathBuf,
}

impl Pidfile {
    /// Writes it.
    pub fn write(path: &Path) -> Result<Pidfile, Failure> {
        let path = path.to_owned();
        let write = || {
            let mut file = fs::File::create(&path)?;
            writeln!(file, "{}", std::process::id())
        };
        write().doing(|| format!("write the pidfile {}", path.display()))?;
        Ok(Pidfile { path })
    }

    /// Leaves it to the program that follows in this process.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        log::warning(&format!("cannot remove {}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn what_others_can_reach_takes_a_word() {
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.168.1.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
        ] {
            let reach = Reach::Tcp(address.parse().unwrap());
            assert_eq!(check_secure(&reach, false).is_ok(), local, "{address}");
            assert!(check_secure(&reach, true).is_ok(), "{address}");
        }
    }

    #[test]
    fn several_arrays_need_a_directory_for_their_control_sockets() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("control");
        let succession = Succession::from_environment().unwrap();
        let failure = open_control(Some(&file), "a", false, &succession)
            .err()
            .unwrap();
        assert_eq!(failure.exit, Exit::Usage);
        drop(open_control(Some(&file), "a", true, &succession).unwrap());
        assert!(!file.exists(), "removed with its socket");
        let _a = open_control(Some(directory.path()), "a", false, &succession).unwrap();
        assert!(directory.path().join("a.control").exists());
    }
}

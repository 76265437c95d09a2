//! Setting up a server, and taking it down: members, sockets, signals, files.

use super::frontend::{Frontend, IN_FLIGHT_BYTES_MAX};
use super::host::{Host, Notice};
use super::housekeeping::{Housekeeping, load_witness};
use super::listen::{Listen, tcp_uri, unix_uri};
use super::members::{Access, open_array};
use super::operator::{INBOX_MAX, Mailbox};
use super::service::{Message, Service};
use super::{log, random, signals};
use crate::control::paths;
use crate::control::server::ControlServer;
use crate::failure::{Doing, Failure};
use crossbeam::channel::{Receiver, bounded};
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uraid_buffer::Pool;
use uraid_core::units::Uuid;
use uraid_engine::api::OpenOptions;
use uraid_io::driver::{Backend, Driver, Limits};
use uraid_io::sockets::{ListenError, listen_tcp, listen_unix};
use uraid_nbd::{Admission, Export};

/// Memory for buffers, registered with the kernel where possible; the heap helps out beyond it.
/// Twice what clients may have under way: the other half is for parity, journal and rebuild.
const POOL_BYTES: usize = 2 * IN_FLIGHT_BYTES_MAX as usize;

/// Largest preferred block that we tell clients; larger stripes are no better for them.
const PREFERRED_BLOCK_BYTES_MAX: u32 = 1 << 20;

/// What is to be served, and how.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Canonical paths of the members.
    pub members: Vec<PathBuf>,
    /// Where to listen; none means the default place.
    pub listen: Vec<Listen>,
    /// Control socket; none means the default place.
    pub control: Option<PathBuf>,
    /// Write nothing to the members.
    pub read_only: bool,
    /// Start what would be refused.
    pub force: bool,
    /// How members are read and written.
    pub backend: Backend,
    /// Hand out blocks without checking them.
    pub skip_verification: bool,
    /// Where to write the process id.
    pub pidfile: Option<PathBuf>,
}

/// Serves until told to stop. `ready` gets the array's name and URIs once clients can connect.
pub fn serve(
    options: &ServeOptions,
    ready: impl FnOnce(&str, &[String]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let access = match options.read_only {
        true => Access::Read,
        false => Access::Serve,
    };
    let array = open_array(&options.members, access)?;
    // After the wait for locks, which a signal may end as it likes, and before any thread is
    // started: all of them inherit what is blocked.
    let signals = signals::block()?;
    let name = array.name.clone();
    let mut sockets = Sockets::open(options, &name)?;
    let pool = Pool::arena(POOL_BYTES).unwrap_or_else(|_| Pool::heap());
    let driver = start_driver(options.backend, &pool)?;

    let (sender, inbox) = bounded(INBOX_MAX);
    let mailbox = Mailbox {
        sender,
        waker: driver.waker(),
    };
    signals.forward_to(mailbox.clone())?;
    let mut engine_options = engine_options(array.uuid, options.read_only, options.force)?;
    engine_options.skip_verification = options.skip_verification;
    if options.skip_verification {
        log::warning("blocks are not verified when they are read: use this for measuring only");
    }
    let housekeeping = start_housekeeping(array.uuid, options.read_only, mailbox.clone())?;
    let host = Host::open(
        array.files,
        engine_options,
        driver,
        pool.clone(),
        housekeeping,
    )?;
    let Some(mut host) = wait_until_open(host, &inbox)? else {
        return Ok(());
    };

    let export = export(&host);
    let listeners = std::mem::take(&mut sockets.listeners);
    let frontend = Frontend::start(export, pool, listeners, host.driver());
    let control = UnixListener::from(sockets.control.take().expect("opened above"));
    let control = ControlServer::start(control, Arc::new(mailbox))?;
    let _pidfile = options.pidfile.as_deref().map(Pidfile::write).transpose()?;
    ready(&name, &sockets.uris)?;

    let end = Service::new(host, frontend, inbox, sockets.uris.clone()).run();
    let result = end.result.map(|_| format!("{name} is flushed and stopped"));
    for answer in end.answers {
        answer(result.clone());
    }
    drop(control);
    result.map(|text| log::info(&text))
}

pub(super) fn start_driver(backend: Backend, pool: &Pool) -> Result<Driver, Failure> {
    let driver = Driver::new(backend, pool, Limits::default())
        .map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(reason) = driver.fallback_reason() {
        log::warning(reason);
    }
    log::info(&format!(
        "members are read and written with {}",
        driver.kind()
    ));
    driver.note().iter().for_each(|note| log::info(note));
    Ok(driver)
}

fn witness_path(array: Uuid) -> Option<PathBuf> {
    paths::state_directory().map(|directory| directory.join(format!("{array}.witness")))
}

pub(super) fn engine_options(
    array: Uuid,
    read_only: bool,
    force: bool,
) -> Result<OpenOptions, Failure> {
    let witness = match witness_path(array) {
        Some(path) => load_witness(&path)?,
        None => None,
    };
    Ok(OpenOptions {
        read_only,
        force,
        witness,
        nonce: random::words()?(),
        in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
        ..OpenOptions::default()
    })
}

pub(super) fn start_housekeeping(
    array: Uuid,
    read_only: bool,
    mailbox: Mailbox,
) -> Result<Housekeeping, Failure> {
    let witness = witness_path(array).filter(|_| !read_only);
    let on_gone = move |device, why| {
        if mailbox.send(Message::Gone(device, why)).is_err() {
            log::warning("the data thread is busy; a missing member shows by its I/O errors");
        }
    };
    Housekeeping::start(witness, Box::new(on_gone))
}

/// Runs recovery. None when a signal came first: recovery may be cut short at any time.
pub(super) fn wait_until_open(
    mut host: Host,
    inbox: &Receiver<Message>,
) -> Result<Option<Host>, Failure> {
    let mut events = Vec::new();
    loop {
        host.pump();
        match host.next_notice() {
            Some(Notice::Opened) => return Ok(Some(host)),
            Some(Notice::Refused(failure)) => {
                host.close();
                return Err(failure);
            }
            Some(Notice::Stopped) => panic!("nobody has stopped it"),
            None => {}
        }
        for message in inbox.try_iter() {
            match message {
                Message::Gone(device, why) => host.device_gone(device, why),
                Message::Terminate => {
                    host.close();
                    return Ok(None);
                }
                Message::Status(_) | Message::Order(..) => panic!("no operator is served yet"),
            }
        }
        host.wait(None, &mut events);
        events.clear();
    }
}

fn export(host: &Host) -> Export {
    let info = host.engine().export().expect("the array is open");
    let preferred = info
        .stripe_bytes
        .clamp(4096, PREFERRED_BLOCK_BYTES_MAX.into()) as u32;
    // A stripe of five members is no power of two; the protocol wants one.
    let preferred_block_bytes = 1 << preferred.ilog2();
    Export {
        description: format!("uraid array {}", info.name),
        name: info.name,
        size_bytes: info.size_bytes,
        read_only: info.read_only,
        preferred_block_bytes,
        hidden: false,
        admission: Admission::Open,
    }
}

/// All sockets of a server; unix sockets are removed when dropped.
struct Sockets {
    listeners: Vec<OwnedFd>,
    control: Option<OwnedFd>,
    uris: Vec<String>,
    created: Vec<PathBuf>,
}

impl Sockets {
    fn open(options: &ServeOptions, name: &str) -> Result<Sockets, Failure> {
        if options.listen.is_empty() || options.control.is_none() {
            paths::make_private_directory(&paths::socket_directory())?;
        }
        let mut sockets = Sockets {
            listeners: Vec::new(),
            control: None,
            uris: Vec::new(),
            created: Vec::new(),
        };
        let control = options
            .control
            .clone()
            .unwrap_or_else(|| paths::control_path(name));
        sockets.control = Some(sockets.listen_unix(&control)?);
        let default = [Listen::Unix(paths::nbd_path(name))];
        let places = if options.listen.is_empty() {
            &default[..]
        } else {
            &options.listen
        };
        for place in places {
            sockets.listen(place, name)?;
        }
        Ok(sockets)
    }

    fn listen(&mut self, place: &Listen, name: &str) -> Result<(), Failure> {
        match place {
            Listen::Unix(path) => {
                let path = std::path::absolute(path)
                    .doing(|| format!("make {} absolute", path.display()))?;
                let fd = self.listen_unix(&path)?;
                self.listeners.push(fd);
                self.uris.push(unix_uri(&path, name));
            }
            Listen::Tcp { host, port } => {
                let (fd, address) =
                    listen_tcp(host, *port).map_err(|e| Failure::failed(e.to_string()))?;
                self.listeners.push(fd);
                self.uris.push(tcp_uri(address, name));
            }
        }
        Ok(())
    }

    fn listen_unix(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        let fd = listen_unix(path).map_err(|error| match error {
            ListenError::SocketInUse { path } => Failure::refused(format!(
                "{} is in use: another server listens there; stop it, or choose another place",
                path.display()
            )),
            other => Failure::failed(other.to_string()),
        })?;
        self.created.push(path.to_owned());
        Ok(fd)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.created {
            if let Err(error) = fs::remove_file(path) {
                log::warning(&format!("cannot remove {}: {error}", path.display()));
            }
        }
    }
}

/// A file with our process id, removed when dropped.
struct Pidfile {
    path: PathBuf,
}

impl Pidfile {
    fn write(path: &Path) -> Result<Pidfile, Failure> {
        let path = path.to_owned();
        let write = || {
            let mut file = fs::File::create(&path)?;
            writeln!(file, "{}", std::process::id())
        };
        write().doing(|| format!("write the pidfile {}", path.display()))?;
        Ok(Pidfile { path })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warning(&format!(
                "cannot remove the pidfile {}: {error}",
                self.path.display()
            ));
        }
    }
}

//! The service manager's side of things: telling it how far we are (sd_notify(3)). Without one
//! none of this does anything.

use super::heartbeat::Watched;
use super::log;
use super::succession::monotonic_micros;
use crate::failure::{Doing, Failure};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

/// Where the service manager listens.
#[derive(Clone)]
pub struct Notifier {
    address: Option<SocketAddr>,
}

impl Notifier {
    /// Listens to `NOTIFY_SOCKET`.
    pub fn from_environment() -> Result<Notifier, Failure> {
        let place = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty());
        let address = place.as_deref().map(address_of).transpose();
        let address = address.doing(|| "use NOTIFY_SOCKET".to_string())?;
        Ok(Notifier { address })
    }

    /// Clients can connect.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=flushing and stopping");
    }

    /// The same process is about to become a newer program, which will say that it is ready.
    pub fn reloading(&self) {
        let now = monotonic_micros();
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=upgrading"
        ));
    }

    fn send(&self, state: &str) {
        let Some(address) = &self.address else {
            return;
        };
        let send = || {
            UnixDatagram::unbound()?
                .send_to_addr(state.as_bytes(), address)
                .map(drop)
        };
        if let Err(error) = send() {
            log::warning(&format!("cannot tell the service manager: {error}"));
        }
    }

    /// Tells a watchdog, if there is one (`WatchdogSec=`), that all `watched` threads are alive,
    /// as long as they are.
    pub fn start_watchdog(&self, mut watched: Vec<Watched>) -> Result<(), Failure> {
        let Some(limit) = watchdog_limit() else {
            return Ok(());
        };
        let notifier = self.clone();
        // Two looks in a limit, as systemd advises; a thread must have moved between them.
        let watch = move || {
            loop {
                thread::sleep(limit / 2);
                // Each has to be looked at, as that wakes it.
                let alive = |all, watched: &mut Watched| watched.look() && all;
                if watched.iter_mut().fold(true, alive) {
                    notifier.send("WATCHDOG=1");
                }
            }
        };
        let thread = thread::Builder::new().name("uraid-watchdog".to_string());
        thread
            .spawn(watch)
            .map(drop)
            .doing(|| "start a thread".to_string())
    }
}

/// A path, or a name in the abstract namespace after an `@`.
fn address_of(place: &OsStr) -> io::Result<SocketAddr> {
    match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(place),
    }
}

/// How long the watchdog waits for a sign of life from this process.
fn watchdog_limit() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let limit = number("WATCHDOG_USEC").filter(|_| ours)?;
    (limit > 0).then(|| Duration::from_micros(limit))
}

//! The kernel's way: a device of the nbd driver, and the loop that gives it new connections when
//! the old ones die.
//!
//! The kernel answers nobody and forgets nothing while a connection is dead: requests wait, up to
//! the dead-connection timeout, until RECONFIGURE brings a new one. What was under way on the dead
//! one is sent again once its time is over. With several connections the kernel knows one time
//! limit for both this and a server that does not answer, so it must not be short; a single one
//! may do without the latter, and looks often whether its connection has been replaced.

use super::block_signals;
use super::connection::Connection;
use super::device;
use super::nbd_family::{Driver, LinkEvents, Settings};
use super::record::Attachment;
use super::uri::Uri;
use crate::failure::{Doing, Failure};
use crate::server::log;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use uraid_nbd::client::ExportInfo;
use uraid_nbd::wire::transmission_flag;

/// Connections when nobody says how many and the server allows several.
const CONNECTIONS: u16 = 4;

/// How often a single connection's requests are looked at: whether they must be sent again.
const RESEND_CHECK: Duration = Duration::from_secs(2);

/// Between two attempts to connect anew, at first.
const RETRY: Duration = Duration::from_millis(50);
/// And once the server has been away for [`RETRY_EAGER`].
const RETRY_LATER: Duration = Duration::from_secs(1);
/// For how long a server is expected back every moment.
const RETRY_EAGER: Duration = Duration::from_secs(30);

/// How long the kernel may take to notice what we have seen: that a connection is dead. Before
/// that it would drop a new one.
const NOTICE_MAX: Duration = Duration::from_secs(1);

/// Blocks of at most 4 KiB: the unit of the array's checksums, and of pages.
const BLOCK_BYTES_MAX: u64 = 4096;
/// The smallest block of Linux.
const BLOCK_BYTES_MIN: u64 = 512;

/// Who is behind an event.
const SIGNAL: u64 = u64::MAX;
const KERNEL: u64 = u64::MAX - 1;

/// A device and its connections.
pub struct Supervisor {
    driver: Driver,
    uri: Uri,
    index: u32,
    info: ExportInfo,
    slots: Vec<Slot>,
    epoll: Epoll,
    signals: SignalFd,
    events: Option<LinkEvents>,
    /// Deaths that the kernel has told of and that were not yet made good.
    deaths_told: usize,
    /// When the first of the connections died that are dead now.
    dead_since: Option<Instant>,
}

/// A connection's place. The kernel has the socket too; we keep it to see its end.
struct Slot {
    connection: Connection,
    alive: bool,
}

impl Supervisor {
    /// Makes a device of the export. Call it before any thread is started: it blocks signals.
    pub fn start(mut driver: Driver, attachment: &Attachment) -> Result<Supervisor, Failure> {
        let uri: Uri = attachment.uri.parse().map_err(Failure::usage)?;
        let first = Connection::open(&uri)?;
        let info = first.info;
        let count = connection_count(attachment.connections, info)?;
        let mut connections = vec![first];
        for _ in 1..count {
            connections.push(Connection::open(&uri)?);
        }
        // Deaths must be heard of from the first on.
        let events = driver.events();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "poll".to_string())?;
        let signals = take_signals(&epoll)?;
        if let Some(events) = &events {
            watch(&epoll, events, KERNEL, EpollFlags::EPOLLIN)?;
        }
        let sockets: Vec<_> = connections.iter().map(AsFd::as_fd).collect();
        let index = driver
            .connect(settings(attachment, info, count), &sockets)
            .doing(|| "have the kernel's nbd driver make a device".to_string())?;
        let mut supervisor = Supervisor {
            driver,
            uri,
            index,
            info,
            slots: Vec::new(),
            epoll,
            signals,
            events,
            deaths_told: 0,
            dead_since: None,
        };
        let ready = supervisor.make_ready(connections);
        if ready.is_err() {
            // The failure that matters is the first one.
            let _ = supervisor.driver.disconnect(index);
        }
        ready.map(|()| supervisor)
    }

    fn make_ready(&mut self, connections: Vec<Connection>) -> Result<(), Failure> {
        if connections.len() == 1 {
            let path = format!("/sys/block/nbd{}/queue/io_timeout", self.index);
            fs::write(&path, RESEND_CHECK.as_millis().to_string())
                .doing(|| format!("write {path}"))?;
        }
        for connection in connections {
            self.watch_slot(self.slots.len(), &connection)?;
            self.slots.push(Slot {
                connection,
                alive: true,
            });
        }
        device::wait_for(&self.device(), self.info.size_bytes)
    }

    /// The block device.
    pub fn device(&self) -> PathBuf {
        PathBuf::from(format!("/dev/nbd{}", self.index))
    }

    /// How many connections it has.
    pub fn connections(&self) -> u16 {
        u16::try_from(self.slots.len()).expect("few")
    }

    /// Ends the device.
    pub fn disconnect(mut self) -> Result<(), Failure> {
        let device = self.device();
        let ended = self.driver.disconnect(self.index);
        ended.doing(|| format!("disconnect {}", device.display()))
    }

    /// Keeps the connections up until a signal comes and `leave` agrees, or until somebody else
    /// has ended the device.
    pub fn run(mut self, mut leave: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
        loop {
            if self.wait()? {
                match leave() {
                    Ok(()) => return self.disconnect(),
                    Err(failure) => log::warning(&format!("not ending: {failure}")),
                }
            }
            if self.dead_since.is_some() && !self.reconnect()? {
                log::info(&format!("{} was disconnected", self.device().display()));
                return Ok(());
            }
        }
    }

    /// Waits for something to happen. Returns whether a signal came.
    fn wait(&mut self) -> Result<bool, Failure> {
        let timeout = self.dead_since.map(|since| match since.elapsed() {
            short if short < RETRY_EAGER => RETRY,
            _ => RETRY_LATER,
        });
        let timeout = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).expect("short"));
        let mut happened = [EpollEvent::empty(); 16];
        let count = match self.epoll.wait(&mut happened, epoll_timeout(timeout)) {
            Err(nix::Error::EINTR) => 0,
            count => count.doing(|| "poll".to_string())?,
        };
        let mut signalled = false;
        for event in &happened[..count] {
            match event.data() {
                SIGNAL => signalled |= matches!(self.signals.read_signal(), Ok(Some(_))),
                KERNEL => self.count_deaths(),
                slot => self.lose(usize::try_from(slot).expect("a slot")),
            }
        }
        Ok(signalled)
    }

    fn count_deaths(&mut self) {
        let told = self.events.as_ref().map_or(0, |e| e.dead(self.index));
        self.deaths_told += told;
    }

    fn lose(&mut self, slot: usize) {
        if self.dead_since.is_none() {
            self.dead_since = Some(Instant::now());
            log::warning(&format!("a connection to {} is lost", self.uri));
        }
        self.slots[slot].alive = false;
        // It would be reported over and over.
        let _ = self.epoll.delete(&self.slots[slot].connection);
    }

    /// Tries to replace dead connections. False once the device is no longer one.
    fn reconnect(&mut self) -> Result<bool, Failure> {
        let since = self.dead_since.expect("something is dead");
        while let Some(slot) = self.slots.iter().position(|slot| !slot.alive) {
            let connected = self.driver.is_connected(self.index);
            if !connected.doing(|| format!("ask for the state of nbd{}", self.index))? {
                return Ok(false);
            }
            let Ok(connection) = Connection::open(&self.uri) else {
                return Ok(true); // tried again soon
            };
            if let Err(why) = same_export(self.info, connection.info) {
                log::warning(&format!("{}: {why}; not using it", self.uri));
                std::thread::sleep(RETRY_LATER);
                return Ok(true);
            }
            self.wait_for_the_kernel_to_notice(since);
            if let Err(error) = self.driver.reconfigure(self.index, connection.as_fd()) {
                log::warning(&format!("the kernel takes no new connection: {error}"));
                return Ok(true);
            }
            self.deaths_told = self.deaths_told.saturating_sub(1);
            self.watch_slot(slot, &connection)?;
            self.slots[slot] = Slot {
                connection,
                alive: true,
            };
        }
        self.dead_since = None;
        log::info(&format!(
            "all connections are back, {:.3} s after the first was lost",
            since.elapsed().as_secs_f64()
        ));
        Ok(true)
    }

    fn wait_for_the_kernel_to_notice(&mut self, since: Instant) {
        let left = NOTICE_MAX.saturating_sub(since.elapsed());
        device::within(left, || {
            self.count_deaths();
            self.deaths_told > 0
        });
    }

    fn watch_slot(&self, slot: usize, connection: &Connection) -> Result<(), Failure> {
        // A hang-up is always reported; what arrives is for the kernel.
        watch(&self.epoll, connection, slot as u64, EpollFlags::empty())
    }
}

fn watch(epoll: &Epoll, fd: impl AsFd, who: u64, flags: EpollFlags) -> Result<(), Failure> {
    epoll
        .add(fd, EpollEvent::new(flags, who))
        .doing(|| "poll".to_string())
}

fn epoll_timeout(milliseconds: i32) -> nix::sys::epoll::EpollTimeout {
    milliseconds.try_into().expect("minus one or more")
}

/// From now on signals that end a process are events.
fn take_signals(epoll: &Epoll) -> Result<SignalFd, Failure> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&block_signals()?, flags);
    let signals = signals.doing(|| "take signals".to_string())?;
    watch(epoll, &signals, SIGNAL, EpollFlags::EPOLLIN)?;
    Ok(signals)
}

fn connection_count(wanted: Option<u16>, info: ExportInfo) -> Result<u16, Failure> {
    let several = info.flags & transmission_flag::CAN_MULTI_CONN != 0;
    match wanted {
        Some(n) if n > 1 && !several => Err(Failure::usage(
            "this export is for one connection at a time; leave out --connections".to_string(),
        )),
        Some(n) => Ok(n),
        None => Ok(if several { CONNECTIONS } else { 1 }),
    }
}

fn settings(attachment: &Attachment, info: ExportInfo, connections: u16) -> Settings {
    let timeout = Duration::from_secs(attachment.timeout_seconds);
    Settings {
        size_bytes: info.size_bytes,
        block_bytes: block_bytes(info),
        flags: info.flags,
        timeout: (connections > 1).then_some(timeout),
        dead_connection_timeout: Duration::from_secs(attachment.dead_timeout_seconds),
    }
}

/// The largest block that the size is a multiple of, within what Linux can do.
fn block_bytes(info: ExportInfo) -> u32 {
    let fits = |bytes: &u64| info.size_bytes.is_multiple_of(*bytes);
    let smaller = std::iter::successors(Some(BLOCK_BYTES_MAX), |bytes| Some(bytes / 2));
    let mut candidates = smaller.take_while(|bytes| *bytes > BLOCK_BYTES_MIN);
    let bytes = candidates.find(fits).unwrap_or(BLOCK_BYTES_MIN);
    u32::try_from(bytes).expect("at most a page")
}

/// A server that came back with something else must not get our requests.
fn same_export(old: ExportInfo, new: ExportInfo) -> Result<(), String> {
    if old.size_bytes != new.size_bytes {
        return Err(format!(
            "the export had {} bytes and now has {}",
            old.size_bytes, new.size_bytes
        ));
    }
    let lost = old.flags & !new.flags & !transmission_flag::READ_ONLY;
    if lost != 0 {
        return Err(format!("the export has lost abilities ({lost:#x})"));
    }
    if new.flags & !old.flags & transmission_flag::READ_ONLY != 0 {
        return Err("the export has become read-only".to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(size_bytes: u64, flags: u16) -> ExportInfo {
        ExportInfo {
            size_bytes,
            flags,
            ..ExportInfo::default()
        }
    }

    #[test]
    fn blocks_divide_the_size() {
        for (size_bytes, bytes) in [
            (1 << 30, 4096),
            ((1 << 30) + 2048, 2048),
            ((1 << 30) + 512, 512),
            ((1 << 30) + 1, 512),
        ] {
            assert_eq!(block_bytes(info(size_bytes, 1)), bytes, "{size_bytes}");
        }
    }

    #[test]
    fn several_connections_only_where_the_server_says_so() {
        let many = info(4096, transmission_flag::CAN_MULTI_CONN);
        assert_eq!(connection_count(None, many).unwrap(), CONNECTIONS);
        assert_eq!(connection_count(Some(7), many).unwrap(), 7);
        assert_eq!(connection_count(None, info(4096, 1)).unwrap(), 1);
        assert!(connection_count(Some(2), info(4096, 1)).is_err());
    }

    #[test]
    fn another_export_is_not_taken_for_ours() {
        let trim = 1 | transmission_flag::SEND_TRIM;
        assert!(same_export(info(4096, 1), info(4096, 1)).is_ok());
        assert!(same_export(info(4096, 1), info(4096, trim)).is_ok());
        assert!(same_export(info(4096, trim), info(4096, 1)).is_err());
        assert!(same_export(info(4096, 1), info(8192, 1)).is_err());
        let read_only = 1 | transmission_flag::READ_ONLY;
        assert!(same_export(info(4096, 1), info(4096, read_only)).is_err());
    }
}

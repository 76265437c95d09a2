//! The netlink family "nbd" of the kernel: devices made of negotiated connections
//! (`include/uapi/linux/nbd-netlink.h`).

use super::netlink::{Attributes, Channel, Events, Family, attributes, find, read_u32};
use crate::failure::{Doing, Failure};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

const NAME: &str = "nbd";
const EVENTS: &str = "nbd_mc_group";

const NBD_CMD_CONNECT: u8 = 1;
const NBD_CMD_DISCONNECT: u8 = 2;
const NBD_CMD_RECONFIGURE: u8 = 3;
const NBD_CMD_LINK_DEAD: u8 = 4;
const NBD_CMD_STATUS: u8 = 5;

const NBD_ATTR_INDEX: u16 = 1;
const NBD_ATTR_SIZE_BYTES: u16 = 2;
const NBD_ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const NBD_ATTR_TIMEOUT: u16 = 4;
const NBD_ATTR_SERVER_FLAGS: u16 = 5;
const NBD_ATTR_SOCKETS: u16 = 7;
const NBD_ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const NBD_ATTR_DEVICE_LIST: u16 = 9;
const NBD_SOCK_ITEM: u16 = 1;
const NBD_SOCK_FD: u16 = 1;
const NBD_DEVICE_INDEX: u16 = 1;
const NBD_DEVICE_CONNECTED: u16 = 2;

/// What the kernel must know of a device besides its connections.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Size of the export.
    pub size_bytes: u64,
    /// Unit of all requests.
    pub block_bytes: u32,
    /// Flags of the transmission phase, as the server sent them.
    pub flags: u16,
    /// After which time a request counts as lost and its connection as dead. `None`: never.
    pub timeout: Option<Duration>,
    /// How long requests wait for a new connection before they fail.
    pub dead_connection_timeout: Duration,
}

/// The kernel's nbd driver.
pub struct Driver {
    channel: Channel,
    family: Family,
}

impl Driver {
    /// Finds it, loading the module if need be. The inner error says why there is none.
    pub fn find() -> Result<Driver, Failure> {
        let mut channel = Channel::open().doing(|| "open a netlink socket".to_string())?;
        let mut lookup = || {
            let found = channel.family(NAME, EVENTS);
            found.doing(|| "ask the kernel for its nbd driver".to_string())
        };
        let family = match lookup()? {
            Some(family) => family,
            None => {
                let reason = load_module();
                lookup()?.ok_or_else(|| {
                    Failure::failed(format!("this kernel has no nbd driver ({reason})"))
                })?
            }
        };
        Ok(Driver { channel, family })
    }

    /// Hears of connections that die. None if the kernel does not tell.
    pub fn events(&self) -> Option<LinkEvents> {
        let events = Events::join(self.family.group?).ok()?;
        Some(LinkEvents { events })
    }

    /// Makes a device of these connections; the kernel chooses a free one. Returns its number.
    pub fn connect(&mut self, settings: Settings, sockets: &[BorrowedFd<'_>]) -> io::Result<u32> {
        let mut list = Attributes::default()
            .u64(NBD_ATTR_SIZE_BYTES, settings.size_bytes)
            .u64(NBD_ATTR_BLOCK_SIZE_BYTES, settings.block_bytes.into())
            .u64(NBD_ATTR_SERVER_FLAGS, settings.flags.into())
            .u64(
                NBD_ATTR_DEAD_CONN_TIMEOUT,
                settings.dead_connection_timeout.as_secs(),
            );
        if let Some(timeout) = settings.timeout {
            list = list.u64(NBD_ATTR_TIMEOUT, timeout.as_secs());
        }
        let list = list.nested(NBD_ATTR_SOCKETS, &socket_list(sockets));
        let answers = self.request(NBD_CMD_CONNECT, &list)?;
        let index = answers.iter().find_map(|a| find(a, NBD_ATTR_INDEX));
        index
            .and_then(read_u32)
            .ok_or_else(|| io::Error::other("the kernel did not say which device it took"))
    }

    /// Gives a device a new connection in place of one that is dead. If none of them is, the
    /// kernel drops the new one without a word.
    pub fn reconfigure(&mut self, index: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let list = Attributes::default()
            .u32(NBD_ATTR_INDEX, index)
            .nested(NBD_ATTR_SOCKETS, &socket_list(&[socket]));
        self.request(NBD_CMD_RECONFIGURE, &list).map(drop)
    }

    /// Ends a device. Requests under way fail.
    pub fn disconnect(&mut self, index: u32) -> io::Result<()> {
        let list = Attributes::default().u32(NBD_ATTR_INDEX, index);
        self.request(NBD_CMD_DISCONNECT, &list).map(drop)
    }

    /// Whether a device is one, be its connections dead or alive.
    pub fn is_connected(&mut self, index: u32) -> io::Result<bool> {
        let list = Attributes::default().u32(NBD_ATTR_INDEX, index);
        let answers = self.request(NBD_CMD_STATUS, &list)?;
        let devices = answers.iter().filter_map(|a| find(a, NBD_ATTR_DEVICE_LIST));
        let connected = devices.flat_map(attributes).any(|(_, device)| {
            find(device, NBD_DEVICE_INDEX).and_then(read_u32) == Some(index)
                && find(device, NBD_DEVICE_CONNECTED) == Some(&[1])
        });
        Ok(connected)
    }

    fn request(&mut self, command: u8, attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        self.channel.request(self.family.id, command, attributes)
    }
}

/// The kernel's words about connections that died.
pub struct LinkEvents {
    events: Events,
}

impl LinkEvents {
    /// How many connections of the device the kernel has given up since the last call.
    pub fn dead(&self, index: u32) -> usize {
        let is_ours = |(command, list): &(u8, Vec<u8>)| {
            *command == NBD_CMD_LINK_DEAD
                && find(list, NBD_ATTR_INDEX).and_then(read_u32) == Some(index)
        };
        self.events
            .take()
            .iter()
            .filter(|event| is_ours(event))
            .count()
    }
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn socket_list(sockets: &[BorrowedFd<'_>]) -> Attributes {
    let item = |socket: &BorrowedFd<'_>| {
        Attributes::default().u32(NBD_SOCK_FD, socket.as_raw_fd().cast_unsigned())
    };
    sockets.iter().fold(Attributes::default(), |list, socket| {
        list.nested(NBD_SOCK_ITEM, &item(socket))
    })
}

/// Returns what modprobe said, for the case that it did not help.
fn load_module() -> String {
    let ran = Command::new("modprobe")
        .arg(NAME)
        .stdin(Stdio::null())
        .output();
    match ran {
        Ok(ran) if ran.status.success() => "modprobe nbd has helped nothing".to_string(),
        Ok(ran) => String::from_utf8_lossy(&ran.stderr).trim().to_string(),
        Err(error) => format!("modprobe: {error}"),
    }
}

//! Generic netlink, as far as one family of the kernel needs it: messages of attributes, the
//! lookup of a family by its name, requests with their answers, events of a multicast group.
//!
//! Format: <https://docs.kernel.org/userspace-api/netlink/intro.html>. Everything is in the byte
//! order of the machine.

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Length of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Length of `struct genlmsghdr`.
const GENERIC_HEADER_BYTES: usize = 4;
/// Length of `struct nlattr`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
/// All but the two flags of an attribute's type.
const NLA_TYPE_MASK: u16 = !(3 << 14);

/// The family that knows the others, and its one number that is fixed.
const CONTROL_FAMILY: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

/// A list of attributes that is being put together.
#[derive(Clone, Default, Debug)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Appends a number.
    pub fn u32(self, kind: u16, value: u32) -> Attributes {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a number.
    pub fn u64(self, kind: u16, value: u64) -> Attributes {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a text, with the zero at its end.
    pub fn text(self, kind: u16, text: &str) -> Attributes {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Appends a list of attributes as one.
    pub fn nested(self, kind: u16, inner: &Attributes) -> Attributes {
        self.put(kind | NLA_F_NESTED, &inner.0)
    }

    fn put(mut self, kind: u16, value: &[u8]) -> Attributes {
        let len = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).expect("short values");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }
}

/// Types and values of the attributes in `bytes`, up to the first that is malformed.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(read_u16(rest, 0)?);
        let kind = read_u16(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..len)?;
        rest = rest.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// The number at the start of an attribute's value.
pub fn read_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A family of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    /// The type of its messages, new with every boot.
    pub id: u16,
    /// The multicast group that was asked for, if it has that.
    pub group: Option<u32>,
}

/// A socket for requests.
pub struct Channel {
    socket: Socket,
    sequence: u32,
}

impl Channel {
    /// Opens one.
    pub fn open() -> io::Result<Channel> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Channel {
            socket,
            sequence: 0,
        })
    }

    /// Looks up a family and one of its multicast groups; none if the kernel has no such family.
    pub fn family(&mut self, name: &str, group: &str) -> io::Result<Option<Family>> {
        let by_name = Attributes::default().text(CTRL_ATTR_FAMILY_NAME, name);
        let answers = match self.request(CONTROL_FAMILY, CTRL_CMD_GETFAMILY, &by_name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            answers => answers?,
        };
        Ok(answers
            .iter()
            .find_map(|answer| parse_family(answer, group)))
    }

    /// Sends a request and waits for its end. Returns the attributes of all answers.
    pub fn request(
        &mut self,
        family: u16,
        command: u8,
        attributes: &Attributes,
    ) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        self.socket
            .send(&encode(family, command, self.sequence, attributes), 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in messages(&datagram).filter(|m| m.sequence == self.sequence) {
                match message.outcome() {
                    Some(Ok(())) => return Ok(answers),
                    Some(Err(error)) => return Err(error),
                    None => answers.push(message.attributes().to_vec()),
                }
            }
        }
    }
}

/// A socket that hears what a multicast group says.
pub struct Events {
    socket: Socket,
}

impl Events {
    /// Joins a group.
    pub fn join(group: u32) -> io::Result<Events> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.add_membership(group)?;
        socket.set_non_blocking(true)?;
        Ok(Events { socket })
    }

    /// Commands and attributes of what was said since the last call. What was lost for want of
    /// memory is lost: nobody may depend on hearing everything.
    pub fn take(&self) -> Vec<(u8, Vec<u8>)> {
        let mut events = Vec::new();
        while let Ok((datagram, _)) = self.socket.recv_from_full() {
            let heard = messages(&datagram)
                .filter_map(|m| Some((*m.payload.first()?, m.attributes().to_vec())));
            events.extend(heard);
        }
        events
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn encode(family: u16, command: u8, sequence: u32, attributes: &Attributes) -> Vec<u8> {
    let len = HEADER_BYTES + GENERIC_HEADER_BYTES + attributes.0.len();
    let len = u32::try_from(len).expect("short messages");
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&family.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes()); // the kernel knows who we are
    bytes.extend_from_slice(&[command, 1, 0, 0]); // version 1
    bytes.extend_from_slice(&attributes.0);
    bytes
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Message<'_> {
    /// How the request ended, if this message says so.
    fn outcome(&self) -> Option<io::Result<()>> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let errno = read_u32(self.payload).map_or(-1, u32::cast_signed);
        Some(match errno {
            0 => Ok(()),
            negative => Err(io::Error::from_raw_os_error(-negative)),
        })
    }

    fn attributes(&self) -> &[u8] {
        self.payload.get(GENERIC_HEADER_BYTES..).unwrap_or_default()
    }
}

/// The messages in a datagram, up to the first that is malformed.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = usize::try_from(read_u32(rest)?).ok()?;
        let message = Message {
            kind: read_u16(rest, 4)?,
            sequence: read_u32(rest.get(8..)?)?,
            payload: rest.get(HEADER_BYTES..len)?,
        };
        rest = rest.get(aligned(len)..).unwrap_or_default();
        Some(message)
    })
}

fn parse_family(answer: &[u8], group: &str) -> Option<Family> {
    let id = read_u16(find(answer, CTRL_ATTR_FAMILY_ID)?, 0)?;
    let groups = find(answer, CTRL_ATTR_MCAST_GROUPS).unwrap_or_default();
    let is_wanted = |bytes: &&[u8]| {
        let name = find(bytes, CTRL_ATTR_MCAST_GRP_NAME).unwrap_or_default();
        name.strip_suffix(&[0]) == Some(group.as_bytes())
    };
    let found = attributes(groups).map(|(_, value)| value).find(is_wanted);
    Some(Family {
        id,
        group: found.and_then(|bytes| read_u32(find(bytes, CTRL_ATTR_MCAST_GRP_ID)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_out_as_they_went_in() {
        let inner = Attributes::default().u32(1, 7);
        let list = Attributes::default()
            .text(2, "nbd!")
            .u64(3, u64::MAX)
            .nested(4, &inner);
        let found: Vec<_> = attributes(&list.0).collect();
        assert_eq!(found[0], (2, &b"nbd!\0"[..]));
        assert_eq!(found[1], (3, &[0xff; 8][..]));
        assert_eq!(found[2].0, 4);
        assert_eq!(find(found[2].1, 1).and_then(read_u32), Some(7));
        assert_eq!(list.0.len(), 12 + 12 + 12, "each is padded to four bytes");
    }

    #[test]
    fn malformed_messages_end_the_list() {
        let whole = encode(16, 3, 9, &Attributes::default().u32(1, 7));
        assert_eq!(messages(&whole).count(), 1);
        for len in 0..whole.len() {
            assert_eq!(messages(&whole[..len]).count(), 0, "{len} bytes");
        }
        let mut short = whole.clone();
        short[..4].copy_from_slice(&4_u32.to_ne_bytes());
        assert_eq!(messages(&short).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0, "a length of zero");
        assert_eq!(attributes(&[8, 0, 1, 0]).count(), 0, "longer than the list");
    }

    /// The family of all families is in every kernel, and may be asked by everybody.
    #[test]
    fn the_kernel_answers() {
        let Ok(mut channel) = Channel::open() else {
            println!("SKIPPED: the_kernel_answers: no generic netlink here");
            return;
        };
        let control = channel.family("nlctrl", "notify").unwrap().unwrap();
        assert_eq!(control.id, CONTROL_FAMILY);
        Events::join(control.group.expect("its only group")).unwrap();
        assert_eq!(channel.family("no-such-family", "x").unwrap(), None);
    }
}

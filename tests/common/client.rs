//! A small NBD client of the tests' own: blocking, simple replies, as bare as the protocol
//! document (github.com/NetworkBlockDevice/nbd, doc/proto.md) allows, and able to misbehave.
//! It shares no code with the server, so that a mistake is not made twice the same way.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const CMD_READ: u16 = 0;
pub const CMD_WRITE: u16 = 1;
pub const CMD_DISC: u16 = 2;
pub const CMD_FLUSH: u16 = 3;
pub const CMD_TRIM: u16 = 4;
pub const CMD_WRITE_ZEROES: u16 = 6;
pub const FLAG_FUA: u16 = 1;

pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;

pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_LIST: u32 = 3;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;

pub const REP_ACK: u32 = 1;
pub const REP_SERVER: u32 = 2;
pub const REP_INFO: u32 = 3;
pub const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
pub const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;

const MAGIC_SERVER: u64 = 0x4e42_444d_4147_4943;
const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const MAGIC_REQUEST: u32 = 0x2560_9513;
const MAGIC_SIMPLE_REPLY: u32 = 0x6744_6698;
const CLIENT_FLAGS: u32 = 0b11; // fixed newstyle, no zeroes

/// A request that hangs longer than this is a failure.
const REPLY_SECONDS_MAX: u64 = 60;

/// A connection in the option phase.
pub struct Handshake {
    stream: UnixStream,
}

/// A connection in the transmission phase, one request at a time.
pub struct Client {
    stream: UnixStream,
    /// Size of the export in bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    cookie: u64,
}

/// Why a request did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The server answered with this error.
    Refused(u32),
    /// The connection is gone.
    Gone(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Gone(error)
    }
}

impl Failure {
    /// The errno of the answer; panics if there was no answer.
    #[track_caller]
    pub fn errno(self) -> u32 {
        match self {
            Failure::Refused(errno) => errno,
            Failure::Gone(error) => panic!("the connection is gone: {error}"),
        }
    }
}

impl Handshake {
    /// Connects and greets.
    pub fn start(socket: &Path) -> io::Result<Handshake> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(REPLY_SECONDS_MAX)))?;
        assert_eq!(read_u64(&mut stream)?, MAGIC_SERVER);
        assert_eq!(read_u64(&mut stream)?, MAGIC_OPTION);
        let flags = read_u16(&mut stream)?;
        assert_eq!(
            flags & 0b11,
            0b11,
            "the server speaks fixed newstyle without zeroes"
        );
        stream.write_all(&CLIENT_FLAGS.to_be_bytes())?;
        Ok(Handshake { stream })
    }

    /// Sends an option.
    pub fn option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let mut message = MAGIC_OPTION.to_be_bytes().to_vec();
        message.extend(option.to_be_bytes());
        message.extend(
            u32::try_from(data.len())
                .expect("a short option")
                .to_be_bytes(),
        );
        message.extend(data);
        self.stream.write_all(&message)
    }

    /// Receives one reply to `option`: its type and data.
    pub fn reply(&mut self, option: u32) -> io::Result<(u32, Vec<u8>)> {
        assert_eq!(read_u64(&mut self.stream)?, MAGIC_OPTION_REPLY);
        assert_eq!(read_u32(&mut self.stream)?, option);
        let kind = read_u32(&mut self.stream)?;
        let len = read_u32(&mut self.stream)?;
        Ok((kind, read_vec(&mut self.stream, len as usize)?))
    }

    /// Asks for the export and enters the transmission phase.
    pub fn go(mut self, export: &str) -> io::Result<Client> {
        self.option(OPT_GO, &export_request(export))?;
        let (mut size, mut flags) = (0, 0);
        loop {
            let (kind, data) = self.reply(OPT_GO)?;
            match kind {
                REP_INFO if data[..2] == [0, 0] => {
                    size = u64::from_be_bytes(data[2..10].try_into().expect("8 bytes"));
                    flags = u16::from_be_bytes(data[10..12].try_into().expect("2 bytes"));
                }
                REP_INFO => {}
                REP_ACK => break,
                other => return Err(io::Error::other(format!("OPT_GO answered {other:#x}"))),
            }
        }
        Ok(Client {
            stream: self.stream,
            size,
            flags,
            cookie: 0,
        })
    }

    /// The bare socket.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

/// The data of OPT_INFO and OPT_GO: a name and no information requests.
pub fn export_request(export: &str) -> Vec<u8> {
    let mut data = u32::try_from(export.len())
        .expect("a short name")
        .to_be_bytes()
        .to_vec();
    data.extend(export.as_bytes());
    data.extend(0u16.to_be_bytes());
    data
}

impl Client {
    /// Connects and asks for the export.
    pub fn connect(socket: &Path, export: &str) -> io::Result<Client> {
        Handshake::start(socket)?.go(export)
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        self.send(CMD_READ, 0, offset, len as u64, &[])?;
        self.receive()?;
        Ok(read_vec(&mut self.stream, len)?)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.send(CMD_WRITE, 0, offset, data.len() as u64, data)?;
        self.receive()
    }

    pub fn write_fua(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.send(CMD_WRITE, FLAG_FUA, offset, data.len() as u64, data)?;
        self.receive()
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        self.send(CMD_FLUSH, 0, 0, 0, &[])?;
        self.receive()
    }

    pub fn trim(&mut self, offset: u64, len: u64) -> Result<(), Failure> {
        self.send(CMD_TRIM, 0, offset, len, &[])?;
        self.receive()
    }

    pub fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<(), Failure> {
        self.send(CMD_WRITE_ZEROES, 0, offset, len, &[])?;
        self.receive()
    }

    /// Sends any request, sensible or not.
    pub fn send(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u64,
        payload: &[u8],
    ) -> io::Result<()> {
        self.cookie += 1;
        let mut message = Vec::with_capacity(28 + payload.len());
        message.extend(MAGIC_REQUEST.to_be_bytes());
        message.extend(flags.to_be_bytes());
        message.extend(command.to_be_bytes());
        message.extend(self.cookie.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(u32::try_from(len).expect("a 32-bit length").to_be_bytes());
        message.extend(payload);
        self.stream.write_all(&message)
    }

    /// Receives the head of the answer to the last request.
    pub fn receive(&mut self) -> Result<(), Failure> {
        assert_eq!(read_u32(&mut self.stream)?, MAGIC_SIMPLE_REPLY);
        let error = read_u32(&mut self.stream)?;
        assert_eq!(
            read_u64(&mut self.stream)?,
            self.cookie,
            "answers come to their requests"
        );
        if error == 0 {
            Ok(())
        } else {
            Err(Failure::Refused(error))
        }
    }

    /// The bare socket.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

fn read_vec(stream: &mut UnixStream, len: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data)?;
    Ok(data)
}

fn read_u16(stream: &mut UnixStream) -> io::Result<u16> {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(stream: &mut UnixStream) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(stream: &mut UnixStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

//! A lean NBD client that keeps a number of requests under way and measures each. The handshake
//! is `uraid-nbd`'s; beyond it only simple replies are understood, without a copy that a fast
//! server would have to wait for.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use uraid_nbd::client::Client;
use uraid_nbd::wire::{
    Dialect, Reader, RequestHeader, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, command,
    transmission_flag,
};

/// Unit of small requests.
pub const BLOCK_BYTES: u64 = 4096;
/// Buffered in each direction; longer payloads go past the buffer.
const BUFFER_BYTES: usize = 256 << 10;
/// A server that is silent for longer hangs.
const REPLY_MAX: Duration = Duration::from_secs(60);
/// The longest request.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// A stream of equal requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Writes, or reads.
    pub write: bool,
    /// At random places, or one after the other.
    pub random: bool,
    /// Length of each, in bytes: at most 1 MiB.
    pub bytes: usize,
    /// Requests under way at the same time.
    pub depth: usize,
}

/// When a drive ends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After so many requests.
    Requests(u64),
}

/// What came of driving a server.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Drive {
    /// Requests answered.
    pub requests: u64,
    /// From the first request to the last reply.
    pub seconds: f64,
    /// Median latency in microseconds.
    pub median_micros: f64,
    /// Latency that 99 of 100 requests keep below, in microseconds.
    pub p99_micros: f64,
}

/// A connection to the default export of a server.
pub struct Connection {
    input: BufReader<UnixStream>,
    output: BufWriter<UnixStream>,
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// What is written; reads land in it too.
    content: Vec<u8>,
    random: Random,
    /// Where the next of a sequence of requests goes.
    next: u64,
    /// How many scattered blocks were chosen so far.
    scattered: u64,
}

/// A small generator (splitmix64, Steele and others 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Connection {
    /// Connects to a unix socket. `seed` chooses content and random places.
    ///
    /// # Errors
    /// Of the socket, or what the server did not keep to.
    pub fn open(socket: &Path, seed: u64) -> io::Result<Connection> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(REPLY_MAX))?;
        let info = shake_hands(&mut stream)?;
        if info.flags & transmission_flag::SEND_FLUSH == 0 {
            return Err(io::Error::other("the export takes no FLUSH"));
        }
        let mut random = Random(seed);
        let words = (0..REQUEST_BYTES_MAX / 8).map(|_| random.next().to_le_bytes());
        let content = words.flatten().collect();
        Ok(Connection {
            input: BufReader::with_capacity(BUFFER_BYTES, stream.try_clone()?),
            output: BufWriter::with_capacity(BUFFER_BYTES, stream),
            size_bytes: info.size_bytes,
            content,
            random,
            next: 0,
            scattered: 0,
        })
    }

    /// Writes the whole export once.
    ///
    /// # Errors
    /// As [`Connection::drive`].
    pub fn fill(&mut self) -> io::Result<()> {
        let load = Load {
            write: true,
            random: false,
            bytes: REQUEST_BYTES_MAX,
            depth: 4,
        };
        self.next = 0;
        let requests = self.size_bytes / load.bytes as u64;
        self.drive(&load, Limit::Requests(requests))?;
        self.flush()
    }

    /// Keeps the server busy with `load` until `limit`.
    ///
    /// # Errors
    /// Of the socket; every error reply.
    pub fn drive(&mut self, load: &Load, limit: Limit) -> io::Result<Drive> {
        let begun = Instant::now();
        let mut sent_at = vec![begun; load.depth];
        let mut latencies = Vec::new();
        let mut sent = 0;
        let mut pending = 0;
        let more = |sent: u64| match limit {
            Limit::Time(time) => begun.elapsed() < time,
            Limit::Requests(requests) => sent < requests,
        };
        for (handle, at) in sent_at.iter_mut().enumerate() {
            if more(sent) {
                *at = Instant::now();
                self.request(load, handle)?;
                (sent, pending) = (sent + 1, pending + 1);
            }
        }
        while pending > 0 {
            // Send only when there is nothing left to receive: fewer, fuller packets.
            if self.input.buffer().is_empty() {
                self.output.flush()?;
            }
            let handle = self.reply(if load.write { 0 } else { load.bytes })?;
            latencies.push(sent_at[handle].elapsed());
            if more(sent) {
                sent_at[handle] = Instant::now();
                self.request(load, handle)?;
                sent += 1;
            } else {
                pending -= 1;
            }
        }
        Ok(Drive::new(begun.elapsed(), latencies))
    }

    /// Writes a block and flushes, `pairs` times, one after the other; each to a block that no
    /// other pair has touched (as long as there are any), far from the last one.
    ///
    /// # Errors
    /// As [`Connection::drive`].
    pub fn write_and_flush(&mut self, pairs: u64) -> io::Result<Drive> {
        /// A prime: steps of it meet every block once, unless it divides their number.
        const STEP: u64 = 1_000_003;
        let blocks = self.size_bytes / BLOCK_BYTES;
        let begun = Instant::now();
        let mut latencies = Vec::new();
        for _ in 0..pairs {
            let block = self.scattered.wrapping_mul(STEP) % blocks;
            self.scattered += 1;
            let at = Instant::now();
            self.send(command::WRITE, 0, block * BLOCK_BYTES, BLOCK_BYTES as usize)?;
            self.output.flush()?;
            self.reply(0)?;
            self.flush()?;
            latencies.push(at.elapsed());
        }
        Ok(Drive::new(begun.elapsed(), latencies))
    }

    /// FLUSH, answered.
    ///
    /// # Errors
    /// As [`Connection::drive`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.send(command::FLUSH, 0, 0, 0)?;
        self.output.flush()?;
        self.reply(0).map(drop)
    }

    fn request(&mut self, load: &Load, handle: usize) -> io::Result<()> {
        let places = self.size_bytes / load.bytes as u64;
        let place = if load.random {
            self.random.next() % places
        } else {
            self.next += 1;
            (self.next - 1) % places
        };
        let command = if load.write {
            command::WRITE
        } else {
            command::READ
        };
        let offset = place * load.bytes as u64;
        self.send(command, handle as u64, offset, load.bytes)
    }

    fn send(&mut self, command: u16, handle: u64, offset: u64, len: usize) -> io::Result<()> {
        let header = RequestHeader {
            flags: 0,
            command,
            handle,
            offset,
            len: len as u64,
        };
        self.output.write_all(&header.encode(Dialect::Simple))?;
        if command == command::WRITE {
            self.output.write_all(&self.content[..len])?;
        }
        Ok(())
    }

    /// Receives one reply and its payload of `len` bytes; returns the handle.
    fn reply(&mut self, len: usize) -> io::Result<usize> {
        let mut header = [0; SIMPLE_REPLY_BYTES];
        self.input.read_exact(&mut header)?;
        let mut reader = Reader::new(&header);
        let (magic, errno, handle) = (reader.u32(), reader.u32(), reader.u64());
        if magic != Some(SIMPLE_REPLY_MAGIC) {
            return Err(io::Error::other("the server's reply is no simple reply"));
        }
        if errno != Some(0) {
            let text = format!("the server answered with error {}", errno.unwrap_or(0));
            return Err(io::Error::other(text));
        }
        self.input.read_exact(&mut self.content[..len])?;
        Ok(handle.expect("the header is whole") as usize)
    }
}

impl Drive {
    fn new(elapsed: Duration, mut latencies: Vec<Duration>) -> Drive {
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            let found = latencies.get(index.min(latencies.len().saturating_sub(1)));
            found.map_or(0.0, |l| l.as_secs_f64() * 1e6)
        };
        Drive {
            requests: latencies.len() as u64,
            seconds: elapsed.as_secs_f64(),
            median_micros: at(0.5),
            p99_micros: at(0.99),
        }
    }
}

fn shake_hands(stream: &mut UnixStream) -> io::Result<uraid_nbd::client::ExportInfo> {
    let mut client = Client::new("", Dialect::Simple);
    loop {
        if let Some(info) = client.info() {
            return Ok(info);
        }
        stream.write_all(&client.take_output())?;
        let mut buffer = [0; 512];
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Err(io::Error::other("the server hung up"));
        }
        client
            .receive(&buffer[..len])
            .map_err(|error| io::Error::other(error.0))?;
    }
}

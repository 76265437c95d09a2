//! Replies as they come in; payloads are thrown away.

use crate::socket::Socket;
use std::io;
use uraid_nbd::wire::{Reader, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC};

/// Received at once, at most: as much as stays in a core's own cache.
const BUFFER_BYTES: usize = 256 << 10;

/// What was received and not looked at yet.
pub struct Input {
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
    /// The reply whose payload is coming in, and how much is still to come.
    current: Option<(u64, usize)>,
}

impl Input {
    pub fn new() -> Input {
        Input {
            buffer: vec![0; BUFFER_BYTES].into(),
            begin: 0,
            end: 0,
            current: None,
        }
    }

    /// Waits for bytes. Everything whole was taken before.
    pub fn receive(&mut self, socket: &mut Socket) -> io::Result<()> {
        // At most a part of a header is left.
        self.buffer.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        self.end += socket.receive(&mut self.buffer[self.end..])?;
        Ok(())
    }

    /// The handle of the next reply that has come in whole. `payload_bytes` says for a handle how
    /// much data belongs to the reply, and nothing for one that is not under way.
    pub fn next(
        &mut self,
        payload_bytes: impl Fn(u64) -> Option<usize>,
    ) -> io::Result<Option<u64>> {
        let (handle, missing) = match self.current.take() {
            Some(current) => current,
            None if self.end - self.begin < SIMPLE_REPLY_BYTES => return Ok(None),
            None => {
                let handle = self.header()?;
                let unknown = || io::Error::other("the server answered what nobody asked");
                (handle, payload_bytes(handle).ok_or_else(unknown)?)
            }
        };
        let taken = missing.min(self.end - self.begin);
        self.begin += taken;
        if taken < missing {
            self.current = Some((handle, missing - taken));
            return Ok(None);
        }
        Ok(Some(handle))
    }

    fn header(&mut self) -> io::Result<u64> {
        let mut reader = Reader::new(&self.buffer[self.begin..][..SIMPLE_REPLY_BYTES]);
        let fields = (reader.u32(), reader.u32(), reader.u64());
        let (Some(magic), Some(errno), Some(handle)) = fields else {
            unreachable!("the header is whole");
        };
        self.begin += SIMPLE_REPLY_BYTES;
        if magic != SIMPLE_REPLY_MAGIC {
            return Err(io::Error::other("the server's reply is no simple reply"));
        }
        if errno != 0 {
            let text = format!("the server answered with error {errno}");
            return Err(io::Error::other(text));
        }
        Ok(handle)
    }
}

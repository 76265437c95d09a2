//! A client that speaks every dialect of the protocol: `uraid-nbd`'s, on a socket.

use super::server::Server;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use uraid_nbd::Dialect;
use uraid_nbd::client::{Client, Command, ExportInfo, Reply};

/// A connection to the default export, with both metadata contexts where there are any.
pub struct Speaker {
    stream: UnixStream,
    client: Client,
    requests: u64,
}

impl Speaker {
    /// Connects; the server must offer this dialect.
    pub fn connect(server: &Server, dialect: Dialect) -> Speaker {
        let stream = UnixStream::connect(&server.socket).expect("connect");
        let limit = Some(Duration::from_secs(60));
        stream.set_read_timeout(limit).expect("timeout");
        let contexts = ["base:allocation", "x-uraid:redundancy"];
        let mut speaker = Speaker {
            stream,
            client: Client::new("", dialect).with_contexts(&contexts),
            requests: 0,
        };
        while speaker.client.info().is_none() {
            speaker.exchange();
        }
        assert_eq!(speaker.client.dialect(), dialect);
        speaker
    }

    fn exchange(&mut self) {
        let output = self.client.take_output();
        self.stream.write_all(&output).expect("send");
        let mut buffer = [0; 1 << 16];
        let len = self.stream.read(&mut buffer).expect("receive");
        assert!(len > 0, "the server hung up");
        let received = self.client.receive(&buffer[..len]);
        received.expect("the server keeps to the protocol");
    }

    /// What the server told about the export.
    pub fn info(&self) -> ExportInfo {
        self.client.info().expect("negotiated")
    }

    /// Carries out one request.
    pub fn ask(&mut self, command: Command<'_>) -> Reply {
        self.requests += 1;
        self.client.send(self.requests, command);
        let output = self.client.take_output();
        self.stream.write_all(&output).expect("send");
        loop {
            if let Some(reply) = self.client.next_reply() {
                return reply;
            }
            self.exchange();
        }
    }

    /// Reads.
    pub fn read(&mut self, offset: u64, len: u32) -> Reply {
        self.ask(Command::Read {
            offset,
            len,
            unfragmented: false,
        })
    }

    /// Lengths and statuses in a context from `offset` on, put together from as many answers as
    /// it takes.
    pub fn map(&mut self, context: u32, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let mut all: Vec<(u64, u64)> = Vec::new();
        let mut told = 0;
        while told < len {
            let reply = self.ask(Command::BlockStatus {
                offset: offset + told,
                len: len - told,
                one: false,
                only: &[],
            });
            reply.result.expect("a status");
            for (len, status) in &reply.extents[&context] {
                told += len;
                match all.last_mut() {
                    Some((before, last)) if last == status => *before += len,
                    _ => all.push((*len, *status)),
                }
            }
        }
        all
    }
}

//! The client's side of NBD with a server that sends anything.

use crate::choices::Choices;
use uraid_nbd::client::{Client, Command};
use uraid_nbd::wire::{self, Dialect};

/// A conversation. The client gives up or goes on; every request has at most one reply.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    let dialects = [Dialect::Simple, Dialect::Structured, Dialect::Extended];
    let dialect = *c.pick(&dialects);
    let mut client = Client::new("disk", dialect).with_contexts(&["base:allocation"]);
    let mut handle = 0;
    let mut replies = 0;
    let mut stream = Vec::new();
    if !c.one_in(8) {
        negotiate(&mut stream, dialect);
    }
    while !c.is_empty() {
        if client.info().is_some() && c.one_in(3) {
            handle += 1;
            send(&mut c, &mut client, handle);
        }
        say(&mut c, &mut stream, dialect, handle);
        let piece = match c.one_in(2) {
            true => stream.len(),
            false => (c.word(2) as usize).min(stream.len()),
        };
        if client.receive(&stream[..piece]).is_err() {
            return;
        }
        stream.drain(..piece);
        while let Some(reply) = client.next_reply() {
            assert!(
                (1..=handle).contains(&reply.handle),
                "a reply nobody asked for"
            );
            replies += 1;
        }
        assert_eq!(
            client.pending() as u64 + replies,
            handle,
            "each request has one reply"
        );
        client.take_output();
    }
}

fn negotiate(stream: &mut Vec<u8>, dialect: Dialect) {
    stream.extend(wire::INIT_MAGIC.to_be_bytes());
    stream.extend(wire::OPTION_MAGIC.to_be_bytes());
    stream.extend(3u16.to_be_bytes());
    let ack = wire::option_reply::ACK;
    if dialect != Dialect::Simple {
        let option = match dialect {
            Dialect::Extended => wire::option::EXTENDED_HEADERS,
            _ => wire::option::STRUCTURED_REPLY,
        };
        option_reply(stream, option, ack, &[]);
        let set = wire::option::SET_META_CONTEXT;
        let context = b"\0\0\0\x01base:allocation";
        option_reply(stream, set, wire::option_reply::META_CONTEXT, context);
        option_reply(stream, set, ack, &[]);
    }
    let mut info = wire::info::EXPORT.to_be_bytes().to_vec();
    info.extend((1u64 << 30).to_be_bytes());
    info.extend(1u16.to_be_bytes());
    option_reply(stream, wire::option::GO, wire::option_reply::INFO, &info);
    option_reply(stream, wire::option::GO, wire::option_reply::ACK, &[]);
}

fn option_reply(stream: &mut Vec<u8>, option: u32, reply: u32, data: &[u8]) {
    stream.extend(wire::OPTION_REPLY_MAGIC.to_be_bytes());
    stream.extend(option.to_be_bytes());
    stream.extend(reply.to_be_bytes());
    stream.extend((data.len() as u32).to_be_bytes());
    stream.extend(data);
}

fn send(c: &mut Choices<'_>, client: &mut Client, handle: u64) {
    let (offset, len) = (c.word(2), c.word(2) as u32);
    let command = match c.below(5) {
        0 => Command::Read {
            offset,
            len,
            unfragmented: false,
        },
        1 => Command::Write {
            offset,
            data: &[1; 100],
            fua: false,
        },
        2 => Command::Trim {
            offset,
            len: len.into(),
            fua: true,
        },
        3 => Command::BlockStatus {
            offset,
            len: len.into(),
            one: false,
            only: &[],
        },
        _ => Command::Flush,
    };
    client.send(handle, command);
}

/// Something a server might say, more or less.
fn say(c: &mut Choices<'_>, stream: &mut Vec<u8>, dialect: Dialect, handle: u64) {
    let start = stream.len();
    let to = c.below(handle + 2);
    match c.below(5) {
        0 => {
            let errno = if c.one_in(2) { 5 } else { 0 };
            stream.extend(wire::simple_reply(to, errno));
            let data = c.word(1) as usize * 8;
            stream.resize(stream.len() + data, 3);
        }
        1 | 2 => {
            let kind = *c.pick(&[0, 1, 2, 5, 6, 0x8001, 0x8002, 7]);
            let extended = dialect == Dialect::Extended;
            let mut payload = c.word(2).to_be_bytes().to_vec();
            let more = c.word(1) as usize;
            payload.extend(c.bytes(more));
            let magic = match extended {
                true => wire::EXTENDED_REPLY_MAGIC,
                false => wire::STRUCTURED_REPLY_MAGIC,
            };
            stream.extend(magic.to_be_bytes());
            stream.extend((c.below(3) as u16).to_be_bytes());
            stream.extend((kind as u16).to_be_bytes());
            stream.extend(to.to_be_bytes());
            if extended {
                stream.extend(c.word(2).to_be_bytes());
                stream.extend((payload.len() as u64).to_be_bytes());
            } else {
                stream.extend((payload.len() as u32).to_be_bytes());
            }
            stream.extend(payload);
        }
        3 => {
            let (option, reply) = (c.below(10) as u32, *c.pick(&[1, 2, 3, 0x8000_0001]));
            let len = c.word(1) as usize;
            option_reply(stream, option, reply, c.bytes(len));
        }
        _ => {
            let len = c.index(64);
            stream.extend(c.bytes(len));
        }
    }
    if c.one_in(6) {
        c.edit(&mut stream[start..]);
    }
}

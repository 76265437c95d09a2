//! A server session with a client that sends anything, in any pieces, and a host that answers
//! when it likes.

use crate::choices::Choices;
use std::sync::Arc;
use uraid_buffer::{Pool, Span};
use uraid_nbd::wire::{self, RequestHeader, command, command_flag, option};
use uraid_nbd::{
    Access, Answer, Dialect, Export, Extent, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_REQUESTS_MAX, NbdError,
    PAYLOAD_BYTES_MAX, ReplyError, RequestKind, Session, State, TlsPolicy,
};

/// Sizes of the exports.
const SIZES: [u64; 3] = [1 << 20, 64 << 10, 1 << 40];
/// What a session may hold besides payloads: replies and the message being received.
const OVERHEAD_BYTES_MAX: u64 = 1 << 20;
/// Lines a client may cause in the log.
const LOG_LINES_MAX: usize = 16;

/// A conversation.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    let tls = *c.pick(&[TlsPolicy::Off, TlsPolicy::Allowed, TlsPolicy::Required]);
    let mut talk = Conversation::new(tls);
    if !c.one_in(4) {
        talk.negotiate(&mut c);
    }
    while !c.is_empty() && talk.session.state() != State::Closed {
        talk.turn(&mut c);
        talk.assert_bounded();
    }
    talk.finish();
}

struct Conversation {
    session: Session,
    pool: Pool,
    /// Sent by the client, not yet taken by the session.
    stream: Vec<u8>,
    pending: Vec<(u64, RequestKind)>,
    log_lines: usize,
    /// How the client writes requests, which need not be what was agreed on.
    dialect: Dialect,
    tls: TlsPolicy,
    /// Over TLS, and whether with the name that the last export is for.
    secured: Option<bool>,
}

impl Conversation {
    fn new(tls: TlsPolicy) -> Conversation {
        let export = |(i, size_bytes): (usize, u64)| Export {
            name: format!("disk{i}"),
            description: "an export".into(),
            size_bytes,
            read_only: i == 1,
            preferred_block_bytes: 65536,
            hidden: i == 2,
            is_default: i == 0,
            access: match i {
                2 => Access::Names(vec!["alice".into()]),
                _ => Access::Anyone,
            },
            ..Export::default()
        };
        let exports: Arc<[Export]> = SIZES.into_iter().enumerate().map(export).collect();
        let pool = Pool::heap();
        Conversation {
            session: Session::with_tls(exports, tls, pool.clone()),
            pool,
            stream: Vec::new(),
            pending: Vec::new(),
            log_lines: 0,
            dialect: Dialect::Simple,
            tls,
            secured: None,
        }
    }

    /// As an honest client would, so that what follows meets transmission.
    fn negotiate(&mut self, c: &mut Choices<'_>) {
        self.stream.extend(3u32.to_be_bytes());
        if self.tls != TlsPolicy::Off && !c.one_in(4) {
            wire::put_option(&mut self.stream, option::STARTTLS, &[]);
            self.deliver(usize::MAX);
            self.secure(c);
        }
        let dialects = [Dialect::Simple, Dialect::Structured, Dialect::Extended];
        self.dialect = *c.pick(&dialects);
        match self.dialect {
            Dialect::Simple => {}
            Dialect::Structured => {
                wire::put_option(&mut self.stream, option::STRUCTURED_REPLY, &[]);
            }
            Dialect::Extended => wire::put_option(&mut self.stream, option::EXTENDED_HEADERS, &[]),
        }
        let name = format!("disk{}", c.below(3));
        let mut data = Vec::new();
        let contexts: [&[u8]; 2] = [b"base:allocation", b"x-uraid:redundancy"];
        wire::put_meta_request(&mut data, name.as_bytes(), &contexts[..c.index(3)]);
        wire::put_option(&mut self.stream, option::SET_META_CONTEXT, &data);
        data.clear();
        wire::put_info_request(&mut data, name.as_bytes(), &[0, 3]);
        wire::put_option(&mut self.stream, option::GO, &data);
        self.deliver(usize::MAX);
    }

    /// Does the handshake, if it is due.
    fn secure(&mut self, c: &mut Choices<'_>) {
        while self.session.take_output().is_some() {}
        if self.session.state() == State::WantsTls {
            let named = c.one_in(2);
            let names = if named { vec!["alice".into()] } else { vec![] };
            self.session.tls_established(names);
            self.secured = Some(named);
        }
    }

    fn turn(&mut self, c: &mut Choices<'_>) {
        match c.below(13) {
            0..=2 => self.send_request(c),
            3 => self.send_option(c),
            4 => {
                let len = c.index(256);
                self.stream.extend(c.bytes(len));
            }
            5 | 6 => {
                let piece = c.word(2) as usize;
                self.deliver(piece);
            }
            7 => self.deliver(usize::MAX),
            8 => self.reply(c),
            9 => while self.session.take_output().is_some() {},
            10 => self.lend(c),
            11 => self.secure(c),
            _ => match c.below(8) {
                0 => self.session.peer_closed(),
                1 => self.session.shutdown(),
                2 => self.session.close("the host says so"),
                _ => self.deliver(usize::MAX),
            },
        }
    }

    fn send_request(&mut self, c: &mut Choices<'_>) {
        let offset = c.word(2);
        let most = u64::from(PAYLOAD_BYTES_MAX);
        let len = *c.pick(&[1, 4096, 20_000, 0, most, u32::MAX.into(), 1 << 39]);
        let mut header = RequestHeader {
            flags: 0,
            command: c.below(8) as u16,
            handle: c.word(1),
            offset,
            len,
        };
        let extended = self.dialect == Dialect::Extended;
        if extended && (header.command == command::WRITE && !c.one_in(4) || c.one_in(8)) {
            header.flags |= command_flag::PAYLOAD_LEN;
        }
        if c.one_in(4) {
            header.flags |= 1 << c.below(6);
        }
        match c.below(8) {
            0 => c.replace(&mut header.flags),
            1 => c.replace(&mut header.offset),
            2 => c.replace(&mut header.len),
            3 => c.replace(&mut header.command),
            _ => {}
        }
        if !extended {
            header.len &= u64::from(u32::MAX);
        }
        self.stream.extend(header.encode(self.dialect));
        let carries = match extended {
            true => {
                header.command == command::WRITE || header.flags & command_flag::PAYLOAD_LEN != 0
            }
            false => header.command == command::WRITE,
        };
        if carries && header.len < 1 << 16 {
            let end = self.stream.len() + header.len as usize;
            if header.command == command::BLOCK_STATUS {
                self.stream.extend(c.word(2).to_be_bytes());
                (0..4).for_each(|_| self.stream.extend((c.below(4) as u32).to_be_bytes()));
            }
            self.stream.resize(end, 7);
        }
    }

    fn send_option(&mut self, c: &mut Choices<'_>) {
        let mut data = Vec::new();
        let items: Vec<u16> = (0..c.below(4)).map(|_| c.below(5) as u16).collect();
        match c.one_in(2) {
            true => {
                let queries: [&[u8]; 4] = [b"base:", b"x-uraid:", b"base:allocation", b"qemu:"];
                wire::put_meta_request(&mut data, b"disk0", &queries[..c.index(5)]);
            }
            false => wire::put_info_request(&mut data, b"disk0", &items),
        }
        if c.one_in(8) {
            data.clear();
        }
        if c.one_in(3) {
            c.edit(&mut data);
        }
        if c.one_in(16) {
            data.resize(c.word(2) as usize * 2, 0);
        }
        let start = self.stream.len();
        wire::put_option(&mut self.stream, c.below(14) as u32, &data);
        if c.one_in(8) {
            c.edit(&mut self.stream[start..]);
        }
    }

    fn deliver(&mut self, piece: usize) {
        let piece = piece.min(self.stream.len());
        let taken = self.session.receive(&self.stream[..piece]);
        let ended = !matches!(
            self.session.state(),
            State::Negotiating | State::WantsTls | State::Transmitting
        );
        assert!(
            taken == piece || ended || !self.session.wants_input(),
            "neither takes nor refuses"
        );
        self.stream.drain(..taken);
        self.assert_entitled();
        self.fetch();
    }

    /// Nothing is served that TLS or a name should have protected.
    fn assert_entitled(&self) {
        let Some(export) = self.session.export() else {
            return;
        };
        assert!(self.tls != TlsPolicy::Required || self.secured.is_some());
        assert!(
            export != 2 || self.secured == Some(true),
            "not for this client"
        );
    }

    /// Receives into the request's own buffer, where that is offered.
    fn lend(&mut self, c: &mut Choices<'_>) {
        if let Some((mut buffer, range)) = self.session.take_payload() {
            assert!(!self.session.wants_input(), "the payload has its place");
            let len = (c.word(2) as usize).min(range.len());
            buffer[range][..len].fill(9);
            self.session.return_payload(buffer, len);
            self.fetch();
        }
    }

    fn fetch(&mut self) {
        while let Some(request) = self.session.next_request() {
            let size = SIZES[request.export];
            let range = match &request.kind {
                RequestKind::Read { offset, len } => Some((*offset, u64::from(*len))),
                RequestKind::Write { offset, data, .. } => Some((*offset, data.len() as u64)),
                RequestKind::Trim { offset, len, .. }
                | RequestKind::WriteZeroes { offset, len, .. }
                | RequestKind::BlockStatus { offset, len } => Some((*offset, *len)),
                RequestKind::Flush => None,
            };
            if let Some((offset, len)) = range {
                assert!(len > 0 && offset.checked_add(len).is_some_and(|end| end <= size));
            }
            let changes = matches!(
                request.kind,
                RequestKind::Write { .. }
                    | RequestKind::Trim { .. }
                    | RequestKind::WriteZeroes { .. }
            );
            assert!(
                !changes || request.export != 1,
                "a change of a read-only export"
            );
            self.pending.push((request.cookie, request.kind));
        }
        while self.session.log().is_some() {
            self.log_lines += 1;
        }
    }

    fn reply(&mut self, c: &mut Choices<'_>) {
        if self.pending.is_empty() {
            return;
        }
        let (cookie, kind) = self.pending.swap_remove(c.index(self.pending.len()));
        let result = match kind {
            _ if c.one_in(4) => Err(ReplyError::new(NbdError::Io, "x".repeat(c.index(4000)))),
            kind => Ok(answer(&kind, c.index(3))),
        };
        self.session.reply(cookie, result);
    }

    fn assert_bounded(&self) {
        assert!(self.pending.len() <= IN_FLIGHT_REQUESTS_MAX);
        let read = |kind: &RequestKind| match kind {
            RequestKind::Write { .. } => 0,
            other => other.payload_bytes(),
        };
        let to_read: u64 = self.pending.iter().map(|(_, kind)| read(kind)).sum();
        let held = to_read + self.pool.stats().heap_bytes as u64;
        let most = IN_FLIGHT_BYTES_MAX as u64 + u64::from(PAYLOAD_BYTES_MAX) + OVERHEAD_BYTES_MAX;
        assert!(held <= most, "{held} bytes held for one client");
        assert!(self.log_lines <= LOG_LINES_MAX, "a client fills the log");
    }

    /// However it went, the connection comes to an end once the client is gone.
    fn finish(mut self) {
        self.session.peer_closed();
        self.fetch();
        for (cookie, kind) in std::mem::take(&mut self.pending) {
            self.session.reply(cookie, Ok(answer(&kind, 1)));
        }
        while self.session.take_output().is_some() {}
        assert!(
            self.session.is_finished(),
            "the client is gone, the session stays"
        );
        drop(self.session);
        assert_eq!(
            self.pool.stats().heap_bytes,
            0,
            "buffers of a session that ended"
        );
    }
}

/// What an honest host might answer. `pattern`: how data and holes, or states, change by turns.
fn answer(kind: &RequestKind, pattern: usize) -> Answer {
    match kind {
        RequestKind::Read { len, .. } => Answer::Data(content(*len as usize, pattern)),
        RequestKind::BlockStatus { len, .. } => {
            let parts = if pattern == 0 { 1 } else { (*len).min(1000) };
            let extent = |part: u64| Extent {
                len: len / parts + u64::from(part < len % parts),
                allocation: (part % 2 * 3) as u32,
                redundancy: (part % 3) as u32,
            };
            Answer::Extents((0..parts).map(extent).collect())
        }
        _ => Answer::Done,
    }
}

/// Data of a read: all in memory, data and holes by turns, or nothing but a hole.
fn content(len: usize, pattern: usize) -> Vec<Span> {
    const PIECE: usize = 1 << 20;
    let piece = Pool::heap().zeroed(PIECE.min(len.max(1))).freeze();
    let mut hole = pattern == 2;
    let span = |at: usize| {
        let len = PIECE.min(len - at);
        hole = pattern == 2 || pattern == 1 && !hole;
        match hole {
            true => Span::Zeros(len as u64),
            false => Span::Data(piece.slice(0..len)),
        }
    };
    (0..len).step_by(PIECE).map(span).collect()
}

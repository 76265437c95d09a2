//! The protocol machine of a client's connection: requests parsed and answered, without a socket.
//!
//! `cargo bench --bench nbd [-- --quick]`; each figure is for one request of 32 that arrive
//! together. Payloads of writes of 4 KiB are copied out of what was received, as they are when
//! they come with others; those of 1 MiB go past the machine, as the socket fills the request's
//! own buffer: what is left is the machine's own work.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use uraid_buffer::{Buf, Pool, Span};
use uraid_nbd::client::Client;
use uraid_nbd::wire::{Dialect, RequestHeader, command, command_flag};
use uraid_nbd::{Answer, Export, RequestKind, Session};

/// As the program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: u64 = 32;
const EXPORT_BYTES: u64 = 1 << 30;
const LARGE_BYTES: u64 = 1 << 20;

/// A session in transmission.
struct Talk {
    session: Session,
    /// What reads are answered with.
    content: Buf,
    answered: u64,
}

impl Talk {
    fn new(dialect: Dialect) -> Talk {
        let pool = Pool::arena(256 << 20).expect("memory");
        let export = Export {
            size_bytes: EXPORT_BYTES,
            is_default: true,
            ..Export::default()
        };
        let mut session = Session::new(Arc::new([export]), pool.clone());
        let mut client = Client::new("", dialect);
        while client.info().is_none() {
            let sent = session.take_output().unwrap_or_default();
            for bytes in sent {
                client
                    .receive(&bytes)
                    .expect("our client understands our server");
            }
            let bytes = client.take_output();
            assert_eq!(session.receive(&bytes), bytes.len());
        }
        assert_eq!(client.dialect(), dialect);
        Talk {
            session,
            content: pool.copy(&vec![0x5a; LARGE_BYTES as usize]),
            answered: 0,
        }
    }

    /// Takes in what a client sent, piece by piece, and answers it.
    fn serve(&mut self, pieces: &[Vec<u8>]) {
        for piece in pieces {
            let taken = self.session.receive(piece);
            assert_eq!(taken, piece.len(), "the session takes a batch");
            if let Some((buffer, range)) = self.session.take_payload() {
                self.session.return_payload(buffer, range.len());
            }
        }
        while let Some(request) = self.session.next_request() {
            let answer = match request.kind {
                RequestKind::Read { len, .. } => {
                    Answer::Data(vec![Span::Data(self.content.slice(0..len as usize))])
                }
                _ => Answer::Done,
            };
            self.session.reply(request.cookie, Ok(answer));
            self.answered += 1;
        }
        while let Some(output) = self.session.take_output() {
            black_box(output);
        }
    }
}

/// A batch as it comes from a client: in one piece, or if payloads take their own way (see the
/// top) one header after the other.
fn batch(dialect: Dialect, command: u16, len: u64) -> Vec<Vec<u8>> {
    let writes = command == command::WRITE;
    let flags = match dialect {
        Dialect::Extended if writes => command_flag::PAYLOAD_LEN,
        _ => 0,
    };
    let request = |handle: u64| {
        let header = RequestHeader {
            flags,
            command,
            handle,
            offset: handle * LARGE_BYTES,
            len,
        };
        header.encode(dialect)
    };
    let mut requests: Vec<Vec<u8>> = (0..BATCH).map(request).collect();
    if writes && len == LARGE_BYTES {
        return requests;
    }
    if writes {
        let with_payload = |r: &mut Vec<u8>| r.resize(r.len() + len as usize, 0x5a);
        requests.iter_mut().for_each(with_payload);
    }
    vec![requests.concat()]
}

fn requests(c: &mut Criterion) {
    const REQUESTS: [(&str, u16, u64); 4] = [
        ("read 4 KiB", command::READ, 4096),
        ("write 4 KiB", command::WRITE, 4096),
        ("read 1 MiB", command::READ, LARGE_BYTES),
        ("write 1 MiB", command::WRITE, LARGE_BYTES),
    ];
    for dialect in [Dialect::Simple, Dialect::Structured, Dialect::Extended] {
        let mut group = c.benchmark_group(format!("nbd/{}", dialect.as_str()));
        group.throughput(Throughput::Elements(BATCH));
        for (name, command, len) in REQUESTS {
            let mut talk = Talk::new(dialect);
            let pieces = batch(dialect, command, len);
            talk.serve(&pieces);
            assert_eq!(talk.answered, BATCH, "{name}: the batch is whole");
            group.bench_function(name, |b| b.iter(|| talk.serve(black_box(&pieces))));
        }
    }
}

criterion_group!(benches, requests);
criterion_main!(benches);

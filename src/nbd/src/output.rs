//! The bytes to send: small headers and data buffers, in order, without copying the data.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use uraid_buffer::{Buf, Pool, Span};

/// Most buffers in one output; half of what one `sendmsg` takes on Linux.
pub const OUTPUT_BUFFERS_MAX: usize = 512;

/// Zeros kept to be sent to clients that cannot be told of holes.
const ZEROS_BYTES: usize = 64 << 10;

/// What a client's requests hold: from the arrival of a request until its reply is sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Load {
    pub requests: usize,
    pub bytes: usize,
}

impl Load {
    pub fn add(&mut self, other: Load) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }

    pub fn subtract(&mut self, other: Load) {
        self.requests -= other.requests;
        self.bytes -= other.bytes;
    }
}

enum Part {
    /// So many bytes from the front of `Output::small`.
    Small(usize),
    Data(Buf),
    /// A reply ends here; once sent, its request's load is gone.
    ReplyEnd(Load),
}

pub(crate) struct Output {
    pool: Pool,
    /// The bytes of all `Part::Small`, in order.
    small: Vec<u8>,
    parts: VecDeque<Part>,
    /// [`ZEROS_BYTES`] zeros once some were needed, sent over and over.
    zeros: Buf,
    /// The load of the replies in the output last taken.
    sending: Load,
}

impl Output {
    pub fn new(pool: Pool) -> Output {
        Output {
            pool,
            small: Vec::new(),
            parts: VecDeque::new(),
            zeros: Buf::empty(),
            sending: Load::default(),
        }
    }

    /// Takes memory from `pool` from now on.
    pub fn use_pool(&mut self, pool: Pool) {
        self.pool = pool;
        self.zeros = Buf::empty();
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes of headers and texts waiting, data not counted.
    pub fn small_bytes(&self) -> usize {
        self.small.len()
    }

    pub fn push_small(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.small.extend_from_slice(bytes);
        match self.parts.back_mut() {
            Some(Part::Small(len)) => *len += bytes.len(),
            _ => self.parts.push_back(Part::Small(bytes.len())),
        }
    }

    pub fn push_data(&mut self, data: Buf) {
        if !data.is_empty() {
            self.parts.push_back(Part::Data(data));
        }
    }

    /// Appends data or zeros, the latter without filling memory for each.
    pub fn push_span(&mut self, span: Span) {
        let mut left = match span {
            Span::Data(data) => return self.push_data(data),
            Span::Zeros(len) => len,
        };
        if left > 0 && self.zeros.is_empty() {
            self.zeros = self.pool.zeroed(ZEROS_BYTES).freeze();
        }
        while left > 0 {
            let len = left.min(ZEROS_BYTES as u64);
            self.push_data(self.zeros.slice(0..len as usize));
            left -= len;
        }
    }

    pub fn end_reply(&mut self, load: Load) {
        self.parts.push_back(Part::ReplyEnd(load));
    }

    /// The load of replies that have been sent since the last call: those of the output taken
    /// before, as the host asks for more only when that is sent.
    pub fn take_sent(&mut self) -> Load {
        core::mem::take(&mut self.sending)
    }

    /// The next bytes to send, in at most [`OUTPUT_BUFFERS_MAX`] buffers.
    pub fn take(&mut self) -> Option<Vec<Buf>> {
        let mut pieces = Vec::new();
        let mut small_bytes = 0;
        while let Some(part) = self.parts.front() {
            let merges = matches!(
                (part, pieces.last()),
                (Part::Small(_), Some(Piece::Small(_)))
            );
            let needs_buffer = !merges && !matches!(part, Part::ReplyEnd(_));
            if needs_buffer && pieces.len() == OUTPUT_BUFFERS_MAX {
                break;
            }
            match self.parts.pop_front() {
                Some(Part::Small(len)) => {
                    small_bytes += len;
                    match pieces.last_mut() {
                        Some(Piece::Small(previous)) => *previous += len,
                        _ => pieces.push(Piece::Small(len)),
                    }
                }
                Some(Part::Data(data)) => pieces.push(Piece::Data(data)),
                Some(Part::ReplyEnd(load)) => self.sending.add(load),
                None => unreachable!("the front was seen above"),
            }
        }
        if pieces.is_empty() {
            return None;
        }
        let mut small = self.pool.copy(&self.small[..small_bytes]);
        self.small.drain(..small_bytes);
        Some(
            pieces
                .into_iter()
                .map(|piece| piece.into_buf(&mut small))
                .collect(),
        )
    }

    /// Forgets everything not yet taken.
    pub fn clear(&mut self) {
        self.small.clear();
        self.parts.clear();
    }
}

/// One buffer of an output being gathered.
enum Piece {
    Small(usize),
    Data(Buf),
}

impl Piece {
    /// The buffer; headers come off the front of `small`.
    fn into_buf(self, small: &mut Buf) -> Buf {
        match self {
            Piece::Data(data) => data,
            Piece::Small(len) => {
                let taken = small.slice(0..len);
                *small = small.slice(len..small.len());
                taken
            }
        }
    }
}

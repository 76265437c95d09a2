//! NBD server sessions as pure protocol machines: bytes go in, requests and bytes come out.
//!
//! A [`Session`] speaks the fixed newstyle protocol of one connection. It owns no socket, clock
//! or thread; a host moves the bytes, carries out the requests and enforces deadlines:
//!
//! ```text
//! loop {
//!     if session.wants_input()                       { receive bytes, or lend take_payload() }
//!     while let Some(request) = session.next_request() { start it; later session.reply(..) }
//!     if nothing is being sent { if let Some(bufs) = session.take_output() { send all of it } }
//!     while let Some(line) = session.log()           { log it }
//!     if session.state() == State::WantsTls          { TLS handshake, then tls_established(..) }
//!     if session.is_finished()                       { close the connection }
//! }
//! ```
//!
//! In [`State::WantsTls`] the client was told to go on with TLS. Whatever arrives from then on
//! belongs to the TLS layer; what it decrypts is given to the session, and what the session sends
//! goes through it. Bytes that the host had received in clear text and not yet offered must not
//! be kept for later: offered to the session they end it.
//!
//! The format is that of `doc/proto.md` of the NetworkBlockDevice project. [`client`] holds the
//! other side of it, for tests and tools.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
pub mod client;
pub mod context;
mod export;
mod negotiation;
mod output;
mod reply;
mod request;
mod session;
mod tls;
mod transmission;
pub mod wire;

pub use context::{Context, Extent};
pub use export::{Access, Admission, Export, MINIMUM_BLOCK_BYTES};
pub use negotiation::{OPTION_DATA_BYTES_MAX, OPTION_SKIP_BYTES_MAX, OPTIONS_MAX};
pub use output::OUTPUT_BUFFERS_MAX;
pub use reply::ReplyError;
pub use request::{
    Answer, ClientRequest, EXTENTS_MAX, PAYLOAD_BYTES_MAX, RequestKind, STATUS_BYTES,
};
pub use session::{Session, State};
pub use tls::TlsPolicy;
pub use transmission::{IN_FLIGHT_BYTES_MAX, IN_FLIGHT_REQUESTS_MAX, PAYLOAD_COPY_BYTES_MAX};
pub use wire::{Dialect, NbdError};

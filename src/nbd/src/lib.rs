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
//!     if session.is_finished()                       { close the connection }
//! }
//! ```
//!
//! The format is that of `doc/proto.md` of the NetworkBlockDevice project. [`client`] holds the
//! other side of it, for tests and tools.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod client;
mod export;
mod negotiation;
mod output;
mod reply;
mod session;
mod transmission;
pub mod wire;

pub use export::{Admission, Export, MINIMUM_BLOCK_BYTES};
pub use negotiation::{OPTION_DATA_BYTES_MAX, OPTION_SKIP_BYTES_MAX, OPTIONS_MAX};
pub use output::OUTPUT_BUFFERS_MAX;
pub use reply::ReplyError;
pub use session::{Session, State};
pub use transmission::{
    ClientRequest, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_REQUESTS_MAX, PAYLOAD_BYTES_MAX,
    PAYLOAD_COPY_BYTES_MAX, RequestKind,
};
pub use wire::NbdError;

//! TLS for NBD connections, without sockets: a [`TlsStream`] turns received bytes into plain text
//! and plain text into bytes to be sent; its host moves both.
//!
//! An [`Acceptor`] says who may connect: whoever shows a certificate of one's own authority, or
//! (feature `psk`) whoever knows a shared secret. [`directory`] makes such an authority and its
//! certificates in the layout of files that qemu and libnbd expect.

#![forbid(unsafe_code)]

mod acceptor;
mod authority;
pub mod directory;
mod names;
#[cfg(feature = "psk")]
mod psk;
pub mod psk_file;
mod stream;

pub use acceptor::{Acceptor, ClientCertificates};
pub use authority::DAYS_MAX;
pub use stream::{TlsError, TlsStream};

/// Why certificates or keys cannot be used or made: which file, what is wrong, what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SetupError {
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// It was not tried, as something would be lost.
    #[error("{0}")]
    Refused(String),
}

//! The place of TLS in a session: the session decides and waits, its host does the handshake.

/// Whether a connection may or must be upgraded to TLS.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TlsPolicy {
    /// There is none.
    #[default]
    Off,
    /// If the client wants it, or the export it wants needs it.
    Allowed,
    /// Nothing else is talked of before.
    Required,
}

/// How far an upgrade is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Upgrade {
    /// Not asked for, or done.
    #[default]
    None,
    /// Granted; the client is being told.
    Granted,
    /// The client was told: what comes next is its handshake.
    Due,
}

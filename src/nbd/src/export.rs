//! What is served: exports, who may use them, and what clients are told about them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::request::PAYLOAD_BYTES_MAX;
use crate::wire::{Dialect, STRING_BYTES_MAX, transmission_flag as flag};

/// Requests of any byte offset and length are served.
pub const MINIMUM_BLOCK_BYTES: u32 = 1;

/// Whether clients may choose an export at present.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Admission {
    /// They may.
    #[default]
    Open,
    /// As many clients as may use it are connected.
    Full,
    /// It is being taken out of service.
    Stopping,
}

/// A block device offered to clients.
#[derive(Clone, Debug)]
pub struct Export {
    /// The name clients ask for: at most 4096 bytes.
    pub name: String,
    /// A line for people: at most 4096 bytes.
    pub description: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The block that is served without read-modify-write: a power of two from 512 bytes to
    /// [`PAYLOAD_BYTES_MAX`].
    pub preferred_block_bytes: u32,
    /// Whether it is kept out of lists: only who knows the name gets it.
    pub hidden: bool,
    /// Whether it is what the empty name means; at most one of a list is.
    pub is_default: bool,
    /// Who may use it.
    pub access: Access,
    /// Whether clients may choose it at present.
    pub admission: Admission,
}

/// Who may use an export.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Access {
    /// Any client.
    #[default]
    Anyone,
    /// Any client that speaks TLS.
    Tls,
    /// Clients that speak TLS and proved to have one of these names.
    Names(Vec<String>),
}

impl Default for Export {
    /// An empty export without a name, for anyone.
    fn default() -> Export {
        Export {
            name: String::new(),
            description: String::new(),
            size_bytes: 0,
            read_only: false,
            preferred_block_bytes: 4096,
            hidden: false,
            is_default: false,
            access: Access::Anyone,
            admission: Admission::Open,
        }
    }
}

impl Export {
    /// Panics if the export cannot be described to a client.
    pub(crate) fn assert_valid(&self) {
        assert!(
            self.name.len() <= STRING_BYTES_MAX,
            "export name over {STRING_BYTES_MAX} bytes"
        );
        assert!(
            self.description.len() <= STRING_BYTES_MAX,
            "description too long"
        );
        let preferred = self.preferred_block_bytes;
        assert!(
            preferred.is_power_of_two() && (512..=PAYLOAD_BYTES_MAX).contains(&preferred),
            "preferred block of {preferred} bytes is not a power of two the protocol allows"
        );
    }

    /// The transmission flags, given what was agreed on. `contexts`: whether any was chosen.
    pub(crate) fn transmission_flags(&self, dialect: Dialect, contexts: bool) -> u16 {
        // Flush and FUA are served by one engine for all connections: hence CAN_MULTI_CONN.
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::SEND_TRIM
            | flag::SEND_WRITE_ZEROES
            | flag::SEND_FAST_ZERO
            | flag::SEND_CACHE
            | flag::CAN_MULTI_CONN;
        if dialect >= Dialect::Structured {
            flags |= flag::SEND_DF;
        }
        if dialect == Dialect::Extended && contexts {
            flags |= flag::BLOCK_STATUS_PAYLOAD;
        }
        if self.read_only {
            flags |= flag::READ_ONLY;
        }
        flags
    }
}

/// The index of the export called `name`; the empty name means the default, if there is one.
pub(crate) fn find(exports: &[Export], name: &[u8]) -> Option<usize> {
    let by_name = exports
        .iter()
        .position(|export| export.name.as_bytes() == name);
    let default = || exports.iter().position(|export| export.is_default);
    by_name.or_else(|| default().filter(|_| name.is_empty()))
}

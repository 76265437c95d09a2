//! What is served: exports and what clients are told about them.

use alloc::string::String;

use crate::transmission::PAYLOAD_BYTES_MAX;
use crate::wire::{STRING_BYTES_MAX, transmission_flag as flag};

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
    /// Whether clients may choose it at present.
    pub admission: Admission,
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

    /// The transmission flags, given whether structured replies were negotiated.
    pub(crate) fn transmission_flags(&self, structured: bool) -> u16 {
        // Flush and FUA are served by one engine for all connections: hence CAN_MULTI_CONN.
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::SEND_TRIM
            | flag::SEND_WRITE_ZEROES
            | flag::CAN_MULTI_CONN;
        if structured {
            flags |= flag::SEND_DF;
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

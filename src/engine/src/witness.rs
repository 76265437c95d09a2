//! Witnesses: what a host keeps of an array so that its next start knows the last config served.

use crate::array::Array;
use alloc::vec::Vec;
use uraid_core::codec::{Reader, Writer};
use uraid_core::config::Config;
use uraid_core::units::Uuid;

impl Array {
    /// A few bytes from which the next start on this host knows the last config served.
    pub fn witness(&self) -> Vec<u8> {
        self.witness_of(&self.config.borrow())
    }

    /// As [`Array::witness`], of a config that is about to be served.
    pub fn witness_of(&self, config: &Config) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes(&self.uuid.0).u64(config.nonce);
        w.finish()
    }
}

/// Reads what [`Array::witness`] wrote: the array and the nonce.
pub fn read_witness(bytes: &[u8]) -> Option<(Uuid, u64)> {
    let mut r = Reader::new(bytes);
    Some((Uuid(r.bytes(16)?.try_into().ok()?), r.u64()?))
}

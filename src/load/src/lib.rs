//! Loads for NBD servers: a lean client that keeps requests under way on one or several
//! connections and measures each.
//!
//! Client and server share the machine, so what the client spends is taken from the server: the
//! handshake is `uraid-nbd`'s, beyond it only simple replies without TLS are understood, requests
//! are sent many at a time without a copy, and what is read is thrown away unseen. Contents are
//! therefore **not verified**: this measures, and tests nothing.

#![forbid(unsafe_code)]

mod address;
mod clients;
mod connection;
mod cpu;
mod drive;
mod input;
mod load;
mod output;
mod places;
mod socket;

pub use address::Address;
pub use clients::{Clients, Progress};
pub use cpu::cpu_time;
pub use drive::{Drive, Latency};
pub use load::{BLOCK_BYTES, DEPTH_MAX, Kind, Limit, Load, Order, REQUEST_BYTES_MAX};

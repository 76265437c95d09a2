//! Serving an array: the data thread, its clients, and what surrounds them.
//!
//! ```text
//! signals --------.                     .-- clients (frontend, client) -- NBD sessions
//! control socket --+--> service --------+
//! housekeeping ---'     (data thread)   '-- host -- engine -- driver -- members
//! ```
//!
//! Everything to the left reaches the data thread through one bounded inbox and never makes it
//! wait.

mod client;
mod frontend;
pub mod host;
mod housekeeping;
pub mod listen;
pub mod local;
pub mod log;
pub mod members;
mod operator;
pub mod random;
pub mod serve;
mod service;
mod signals;

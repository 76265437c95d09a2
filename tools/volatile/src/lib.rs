//! Disks for tests, served over NBD: what is written stays in a cache until it is flushed, the
//! power fails on command, and what else goes wrong with disks does so on command too.
//!
//! [`disk::Disk`] is the disk, on the simulator's model of a medium; [`server::Server`] serves
//! some of them on a unix socket as exports named `0`, `1` and so on. Through `nbdfuse` they are
//! files, on which `fsync` becomes a flush.
#![forbid(unsafe_code)]

pub mod command;
pub mod disk;
pub mod server;

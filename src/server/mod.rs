//! Serving an array: the data thread, its clients, and what surrounds them.

pub mod listen;
pub mod log;

//! The array engine: requests in, member I/O out. Pure; see [`api`] for how it is driven.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod api;
pub mod status;

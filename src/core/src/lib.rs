//! What turns bytes into decisions, without a clock, a file, a socket or a thread.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod units;

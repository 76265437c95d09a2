#![no_std]
#![forbid(unsafe_code)]
#![doc = "placeholder"]
extern crate alloc;

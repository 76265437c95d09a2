//! What turns bytes into decisions, without a clock, a file, a socket or a thread.
//!
//! * [`units`], [`geometry`]: identifiers, layouts, where every stripe, slot and zone lies
//! * [`checksum`], [`codec`]: block checksums, little-endian encoding
//! * [`superblock`], [`config`], [`journal`], [`listed`], [`pages`]: the on-disk format, version 1
//! * [`events`]: what happened, and the log of it that members keep
//! * [`mark`]: what stands in place of lost blocks
//! * [`create`]: what a new array looks like on its members
//! * [`assembly`]: which members may be believed, and whether an array may start
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod assembly;
pub mod checksum;
pub mod codec;
pub mod config;
pub mod create;
pub mod events;
pub mod geometry;
pub mod journal;
pub mod listed;
pub mod mark;
pub mod pages;
pub mod superblock;
pub mod units;

//! `uraid`: a userspace RAID block device for Linux.

mod cli;
mod control;
mod failure;
mod server;

fn main() {}

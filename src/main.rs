//! `uraid`: a userspace RAID block device.
fn main() {}

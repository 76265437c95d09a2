//! Hostile bytes for everything that reads bytes it did not write itself: superblocks, journals,
//! pages, whole members, both sides of the NBD protocol.
//!
//! A target is a function of bytes that panics when something is wrong. libFuzzer drives it from
//! `fuzz/`, with coverage; `tests/budget.rs` drives it on stable, for a few seconds in every run
//! of the tests. Most targets read the bytes as a sequence of [`choices`]: what to build, which of
//! its numbers to replace by which, and then seal the result again, so that hostile numbers get
//! past the checksums.
#![forbid(unsafe_code)]

pub mod assembly;
pub mod choices;
pub mod journal;
pub mod layouts;
pub mod nbd_client;
pub mod nbd_session;
pub mod open;
pub mod pages;
pub mod seal;
pub mod superblock;

/// A function of hostile bytes. It panics when something is wrong.
#[derive(Clone, Copy)]
pub struct Target {
    /// As its libFuzzer binary and the directory of its kept inputs are called.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 7] = [
    target("superblock", superblock::run),
    target("journal", journal::run),
    target("pages", pages::run),
    target("assembly", assembly::run),
    target("open", open::run),
    target("nbd_session", nbd_session::run),
    target("nbd_client", nbd_client::run),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// The target with this name.
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

//! A deterministic simulator that drives the shipped engine: simulated members with faults,
//! clients that check every byte, crashes at any step, one thread and one virtual clock.
//!
//! The same seed plays the same story every time. [`play::play`] plays one and says what was
//! violated, if anything; what may happen in it is bounded by [`scenario::Limits`].
//!
//! What is checked: [`model`] (reads are linearisable, what was answered survives a kill, what
//! was flushed survives a loss of power together with the loss of members, nothing goes back),
//! [`rest`] (codewords, checksums and map of the stopped array), [`finale`] (every set of members
//! that decodes gives the same bytes), [`disk`] (no two writes in flight overlap).
#![forbid(unsafe_code)]

pub mod alarms;
pub mod array;
mod aside;
mod bench;
pub mod clients;
pub mod content;
pub mod counts;
pub mod disk;
pub mod exhaust;
pub mod finale;
pub mod healing;
pub mod host;
pub mod images;
pub mod load;
pub mod medium;
pub mod model;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod play;
pub mod reader;
pub mod rest;
pub mod rng;
pub mod scenario;
pub mod speed;
pub mod starts;
pub mod stories;
pub mod trace;
pub mod trouble;
pub mod verdicts;
pub mod watch;
pub mod world;

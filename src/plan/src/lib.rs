//! What an array would be, before there is one: what it holds, what it survives, what a write
//! costs, how long it is likely to live. Arithmetic only; nothing is opened or measured.
//!
//! * [`layout`]: capacity from the geometry that `create` uses, losses survived, cost of writes
//! * [`chain`]: Markov chains that end in loss, solved without subtraction
//! * [`outlook`]: repair times, mean time to data loss, chance of loss in a year, availability
//!
//! The model of [`outlook`] is the usual one, with its usual weaknesses; [`NOT_COVERED`] names
//! them, and whoever shows its figures shows those as well.
#![forbid(unsafe_code)]

pub mod chain;
pub mod layout;
pub mod outlook;

/// Hours of a year.
pub const YEAR_HOURS: f64 = 8766.0;

/// What the figures do not know of, in words.
pub const NOT_COVERED: [&str; 5] = [
    "members are taken to fail independently and at a constant rate: a common power supply, \
     controller, batch, room or age makes losses likelier, often by orders of magnitude",
    "fire, theft, bugs, mistakes of people and whatever else a backup is for",
    "one repair at a time in each mirror or code group, and a spare that is used is replaced at \
     once",
    "bad blocks on several members of the same row while there is redundancy left",
    "clients that slow a rebuild down: give the rate that it has beside them",
];

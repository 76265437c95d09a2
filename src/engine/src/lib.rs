//! The array engine: requests in, member I/O out. Pure; see [`api`] for how it is driven.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod announce;
pub mod api;
mod apply;
mod array;
mod balance;
mod checkpoint;
mod close;
mod commands;
mod commit;
mod encode;
mod engine;
pub mod executor;
mod extents;
mod hedge;
mod join;
mod lane;
mod latency;
mod lost;
mod map;
mod members;
mod membership;
mod mend;
mod meter;
pub mod mutants;
mod open;
mod pace;
mod port;
mod read;
mod rebuild;
mod reconstruct;
mod recovery;
mod rehearse;
mod reopen;
mod report;
mod ring;
mod scrub;
mod settings;
mod settled;
mod slots;
mod slow;
pub mod status;
mod stripes;
mod sums;
mod tell;
mod traffic;
mod trust;
mod view;
mod widen;
mod witness;
mod write;

pub use engine::{Engine, ExportInfo};
pub use hedge::Budget;
pub use latency::ReadTimes;
pub use view::{PlannedRead, ReadPlan, ReadView};

/// Whether rules can be broken for the sake of tests. Nothing that ships may be built so.
pub const MUTANTS: bool = cfg!(feature = "mutants");

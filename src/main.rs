//! `uraid`: a userspace RAID block device for Linux.

mod attach;
mod cli;
mod control;
mod failure;
mod server;
mod sizes;

use clap::Parser;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// A request is made of dozens of small allocations, all of one thread: where the system's
/// allocator takes a sixth of the time of a small write, this one takes little.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

// Tests may break the engine's rules; the program may not.
const _: () = assert!(
    !uraid_engine::MUTANTS,
    "build without the feature \"mutants\""
);

fn main() -> ExitCode {
    let cli = cli::args::Cli::parse();
    cli::run(&cli).map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit.code()))
}

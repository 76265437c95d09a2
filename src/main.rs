//! `uraid`: a userspace RAID block device for Linux.

mod attach;
mod cli;
mod control;
mod failure;
mod server;

use clap::Parser;
use std::process::ExitCode;

// Tests may break the engine's rules; the program may not.
const _: () = assert!(
    !uraid_engine::MUTANTS,
    "build without the feature \"mutants\""
);

fn main() -> ExitCode {
    let cli = cli::args::Cli::parse();
    cli::run(&cli).map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit.code()))
}

//! `uraid`: a userspace RAID block device for Linux.

mod cli;
mod control;
mod failure;
mod server;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::args::Cli::parse();
    cli::run(&cli).map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit.code()))
}

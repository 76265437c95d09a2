//! `uraid scrub` as it is typed.

use super::args::ServerArgs;
use super::dry_run::DryRunArgs;
use crate::sizes::parse_rate;
use clap::{Args, Subcommand};

/// `uraid scrub`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid scrub start --name demo --rate-max 50M/s
  uraid scrub start --name demo --wait
  uraid scrub status --name demo

A scrub reads every block in use on every member, compares it with its checksum and its row with
the code, and looks at the metadata too. What the checksums prove wrong is rewritten from the
other members. It yields to clients, and goes on by itself after a restart of the server.

Exit code of `status`, and of `start` and `resume` with --wait: 0 nothing is wrong, or all of it
was repaired; 1 blocks are lost, or rows are inconsistent, or a repair was not possible.")]
pub struct ScrubArgs {
    #[command(subcommand)]
    pub action: ScrubAction,
}

/// What is to become of the scrub.
#[derive(Subcommand, Debug)]
pub enum ScrubAction {
    /// Begin a scrub
    #[command(after_help = "Example:\n  uraid scrub start --name demo --rate-max 50M/s --wait")]
    Start(ScrubStartArgs),
    /// Have it keep its place and do nothing
    #[command(after_help = "Example:\n  uraid scrub pause --name demo")]
    Pause(ScrubServerArgs),
    /// Have it go on after a pause
    #[command(after_help = "Example:\n  uraid scrub resume --name demo --wait")]
    Resume(ScrubResumeArgs),
    /// Show how far it is and what it found
    #[command(after_help = "Example:\n  uraid scrub status --name demo --wait")]
    Status(ScrubStatusArgs),
    /// End it where it is
    #[command(after_help = "Example:\n  uraid scrub stop --name demo")]
    Stop(ScrubServerArgs),
}

/// `uraid scrub start`.
#[derive(Args, Debug)]
pub struct ScrubStartArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Most bytes per second to read of each member, like 50M or 50M/s
    #[arg(long, value_name = "SIZE/s", value_parser = parse_rate)]
    pub rate_max: Option<u64>,
    /// Wait, with a progress bar, until it has ended
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
}

/// `uraid scrub pause` and `uraid scrub stop`.
#[derive(Args, Debug)]
pub struct ScrubServerArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
}

/// `uraid scrub resume`.
#[derive(Args, Debug)]
pub struct ScrubResumeArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Wait, with a progress bar, until it has ended
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
}

/// `uraid scrub status`.
#[derive(Args, Debug)]
pub struct ScrubStatusArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Wait, with a progress bar, until it has ended
    #[arg(long, conflicts_with = "watch")]
    pub wait: bool,
    /// Show it anew every second until interrupted
    #[arg(long)]
    pub watch: bool,
}

//! `--dry-run`: what a command would do and what that would risk, with nothing changed.

use super::output::Output;
use crate::failure::Failure;
use clap::Args;
use serde::Serialize;
use uraid_engine::api::Mode;

/// `--dry-run`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct DryRunArgs {
    /// Say what would be done and what it would risk, and change nothing; what would be refused
    /// is refused, with the same exit code
    #[arg(long)]
    pub dry_run: bool,
}

impl DryRunArgs {
    /// Whether it is meant.
    pub fn mode(self) -> Mode {
        match self.dry_run {
            true => Mode::DryRun,
            false => Mode::Earnest,
        }
    }
}

/// What `--dry-run --json` prints.
#[derive(Serialize)]
struct Would<'a> {
    dry_run: bool,
    message: &'a str,
}

/// Says what would be done.
pub fn tell(output: Output, message: &str) -> Result<(), Failure> {
    let would = Would {
        dry_run: true,
        message,
    };
    output.result(&format!("{message}\n{NOTHING_CHANGED}"), &would)
}

const NOTHING_CHANGED: &str = "(dry run: nothing was changed)";

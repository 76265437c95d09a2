//! `uraid events` as it is typed.

use super::args::ServerArgs;
use clap::{ArgAction, Args, ValueEnum};
use std::path::PathBuf;

/// `uraid events`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid events --name demo --last 20
  uraid events --name demo --follow --severity warning
  uraid events a.img b.img c.img d.img
  uraid events --scan /srv/members --name demo

Every member keeps the last few hundred events of its array. Without members and --scan a server is
asked; with them their logs are read, served or not, and nothing is written.")]
pub struct EventsArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Show what comes, too, until interrupted; with --json one object on each line
    #[arg(long, conflicts_with_all = ["scan", "members"])]
    pub follow: bool,
    /// The last N of those that are kept [default: all]
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Only those that matter so much
    #[arg(long, value_name = "SEVERITY", value_enum, default_value_t = SeverityName::Info)]
    pub severity: SeverityName,
    /// Read the logs of every member found in this directory (repeatable)
    #[arg(long, value_name = "DIR", action = ArgAction::Append, conflicts_with = "control")]
    pub scan: Vec<PathBuf>,
    /// Read the logs of these members
    #[arg(value_name = "MEMBER", conflicts_with = "control")]
    pub members: Vec<PathBuf>,
}

/// How much events matter.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeverityName {
    /// All
    Info,
    /// To be looked at by day
    Warning,
    /// To be looked at now
    Critical,
}

impl SeverityName {
    /// As events have it.
    pub fn as_str(self) -> &'static str {
        match self {
            SeverityName::Info => "info",
            SeverityName::Warning => "warning",
            SeverityName::Critical => "critical",
        }
    }
}

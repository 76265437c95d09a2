//! `uraid config` as it is typed.

use super::files::DIRECTORY_DEFAULT;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `uraid config`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid config check
  uraid config check new.toml --json
  uraid config show /etc/uraid
  uraid serve --config /etc/uraid

Each option of `uraid serve` is a key, MEMBER is `members`, and --export a table for each array:
  scan = [\"/srv/members\"]
  listen = [\"unix:/run/uraid/all.nbd\"]
  memory = \"2G\"
  [export.tank]
  max-connections = 4

The files of a directory are read in the order of their names. Keys that may be given several times
are joined, all others may be in one file only. What is typed wins: it replaces the key, `scan` and
`members` together, an export as a whole.")]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// What to do with configuration files.
#[derive(Subcommand, Debug)]
pub enum ConfigAction {
    /// Say what is wrong with them, and where, and what to write instead (read only)
    #[command(after_help = "\
Example:
  uraid config check /etc/uraid

Exit code: 0 nothing is wrong; 1 something that is named is not there, or the files cannot be read;
2 a server could not understand them; 4 it would refuse for safety.")]
    Check(ConfigPlaceArgs),
    /// Show what would hold, and where that is set
    #[command(after_help = "\
Example:
  uraid config show /etc/uraid

What is shown is a configuration file itself. With --json, `settings` has all keys.")]
    Show(ConfigPlaceArgs),
}

/// Where the files are.
#[derive(Args, Debug)]
pub struct ConfigPlaceArgs {
    /// A file, or a directory of files *.toml
    #[arg(value_name = "FILE|DIR", default_value = DIRECTORY_DEFAULT)]
    pub place: PathBuf,
}

//! `uraid explain`: why members will or will not assemble. Nothing is written.
//!
//! The verdict is that of a start: the array is opened as a server would open it, only that
//! nothing goes to the members. What would help is tried in the same way before it is advised.

mod look;
mod report;
mod verdict;

use super::output::Output;
use crate::failure::{Exit, Failure};
use clap::{ArgAction, Args};
use look::Look;
use report::Report;
use std::collections::BTreeMap;
use std::path::PathBuf;
use uraid_core::units::Uuid;
use verdict::Verdict;

/// `uraid explain`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid explain a.img b.img c.img
  uraid explain --scan /srv/members

Says for each member what it is and whether it counts, whether the array would start, and what
to type, in the order in which to try it.

Exit code: 0 all arrays are well; 1 some would start, or are served, without all their members, or
something is no member; 4 some would be refused, as by `uraid serve`.")]
pub struct ExplainArgs {
    /// Take what looks like a member in this directory, damaged ones too (repeatable)
    #[arg(long, value_name = "DIR", action = ArgAction::Append)]
    pub scan: Vec<PathBuf>,
    /// Files or block devices
    #[arg(value_name = "MEMBER", required_unless_present = "scan")]
    pub members: Vec<PathBuf>,
}

/// Explains all members that were named or found, array by array.
pub fn run(args: &ExplainArgs, output: Output) -> Result<Option<Exit>, Failure> {
    let looks = look::all(&args.members, &args.scan)?;
    let mut arrays: BTreeMap<Uuid, Vec<&Look>> = BTreeMap::new();
    let mut strangers = Vec::new();
    for look in &looks {
        match &look.superblock {
            Some(superblock) => arrays.entry(superblock.array).or_default().push(look),
            None => strangers.push(look),
        }
    }
    let verdicts: Vec<Verdict> = arrays.values().map(|looks| Verdict::of(looks)).collect();
    let report = Report::new(&verdicts, &strangers);
    output.result(&report.text(), &report)?;
    Ok(report.exit())
}

//! `uraid wipe`: erases superblocks, so that a device is no longer taken for a member.

use super::args::WipeArgs;
use super::output::Output;
use crate::failure::{Doing, Failure};
use crate::server::members;
use serde::Serialize;
use std::path::PathBuf;
use uraid_core::superblock::{Inspection, wipe_ranges};
use uraid_core::units::Uuid;
use uraid_io::device::{MemberFile, OpenMode};

/// Wipes all members, or none if one of them is refused.
pub fn run(args: &WipeArgs, output: Output) -> Result<(), Failure> {
    let paths: Vec<PathBuf> = args
        .members
        .iter()
        .map(|path| members::canonical(path))
        .collect();
    members::check_distinct(&paths)?;
    let files = paths
        .iter()
        .map(|path| members::open(path, OpenMode::default()))
        .collect::<Result<Vec<MemberFile>, Failure>>()?;
    let inspections = files
        .iter()
        .map(members::inspect)
        .collect::<Result<Vec<Inspection>, Failure>>()?;
    for (file, inspection) in files.iter().zip(&inspections) {
        check(file, inspection, args.force)?;
    }
    check_one_array(&inspections, args.force)?;
    for file in &files {
        wipe(file).doing(|| format!("wipe {}", file.path().display()))?;
    }
    let wiped: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    output.result(
        &format!("wiped {}", wiped.join(", ")),
        &Report { wiped: &wiped },
    )
}

#[derive(Serialize)]
struct Report<'a> {
    wiped: &'a [String],
}

/// Refuses what is not ours to wipe; an array that is being served holds its lock anyway.
fn check(file: &MemberFile, inspection: &Inspection, force: bool) -> Result<(), Failure> {
    let path = file.path().display();
    if inspection.superblock.is_none() && inspection.findings.is_empty() {
        return Err(Failure::failed(format!("{path} has no superblock to wipe")));
    }
    match force {
        true => Ok(()),
        false => members::check_no_other_content(file),
    }
}

/// Members of several arrays in one command are more likely a slip than meant.
fn check_one_array(inspections: &[Inspection], force: bool) -> Result<(), Failure> {
    let mut arrays: Vec<Uuid> = inspections
        .iter()
        .filter_map(|i| i.superblock.as_ref())
        .map(|s| s.array)
        .collect();
    arrays.sort();
    arrays.dedup();
    if force || arrays.len() <= 1 {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "these are members of {} arrays; --force wipes them all the same",
        arrays.len()
    )))
}

fn wipe(file: &MemberFile) -> std::io::Result<()> {
    for range in wipe_ranges(file.size_bytes()) {
        // A damaged member may be shorter than its superblocks' places.
        if range.end <= file.size_bytes() {
            members::zero(file, range)?;
        }
    }
    file.sync()
}

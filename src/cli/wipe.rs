//! `uraid wipe`: erases superblocks, so that a device is no longer taken for a member.

use super::args::WipeArgs;
use super::dry_run;
use super::output::Output;
use crate::failure::{Doing, Failure};
use crate::server::members;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use uraid_core::config::{Entry, EntryState};
use uraid_core::geometry::Slot;
use uraid_core::superblock::{Inspection, Superblock, copy_ranges};
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
    if args.dry_run.dry_run {
        return dry_run::tell(output, &would(&files, &inspections));
    }
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

/// What would be wiped, and what would be left of the arrays.
fn would(files: &[MemberFile], inspections: &[Inspection]) -> String {
    let mut lines = Vec::new();
    for (file, inspection) in files.iter().zip(inspections) {
        let what = match &inspection.superblock {
            None => "damaged superblocks".to_string(),
            Some(s) => format!(
                "the superblocks of a member of array {} ({}), written under config {}",
                s.name, s.array, s.config.epoch
            ),
        };
        lines.push(format!("{}: would erase {what}", file.path().display()));
    }
    let wiped: Vec<&Superblock> = inspections
        .iter()
        .filter_map(|i| i.superblock.as_ref())
        .collect();
    let mut newest: BTreeMap<Uuid, &Superblock> = BTreeMap::new();
    for superblock in &wiped {
        let known = newest.entry(superblock.array).or_insert(superblock);
        if superblock.config.epoch > known.config.epoch {
            *known = superblock;
        }
    }
    lines.extend(newest.values().map(|newest| what_is_left(newest, &wiped)));
    lines.join("\n")
}

/// Whether the members that `newest` knows to be in sync, without those wiped, hold all data.
fn what_is_left(newest: &Superblock, wiped: &[&Superblock]) -> String {
    let shape = &newest.geometry.shape;
    let is_wiped = |uuid: Uuid| wiped.iter().any(|s| s.member == uuid);
    let stays = |e: &&Entry| e.state == EntryState::InSync && !is_wiped(e.uuid);
    let entries = newest.config.members().map(|(_, entry)| entry);
    let roles = entries.filter(stays).filter_map(|entry| entry.role);
    let left = roles.map(|role| shape.column_of(Slot(0), role.into()));
    let (code, left) = (shape.code(), left.collect());
    let name = &newest.name;
    match (code.can_decode(left), code.losses_survived(left)) {
        (false, _) => format!(
            "array {name}: too few members would be left, whatever the others are like: all its data \
             would be lost"
        ),
        (true, 0) => format!(
            "array {name}: its other members hold all data if they are well, and none of them could \
             be lost then"
        ),
        (true, n) => format!(
            "array {name}: its other members hold all data if they are well, and {n} more could be \
             lost then"
        ),
    }
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
    for range in copy_ranges(file.size_bytes()) {
        // A damaged member may be shorter than its superblocks' places.
        if range.end <= file.size_bytes() {
            members::zero(file, range)?;
        }
    }
    file.sync()
}

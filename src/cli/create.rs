//! `uraid create`: everything is checked before anything is changed.

use super::args::{CreateArgs, LevelName};
use super::dry_run;
use super::output::Output;
use crate::failure::{Doing, Failure};
use crate::server::{members, random};
use crate::sizes::show_size;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use uraid_core::create::{CreateError, CreateOptions, CreatePlan, MemberPlan, plan};
use uraid_core::geometry::Level;
use uraid_io::device::{MemberFile, OpenMode, create_sparse};

/// Makes an array and says what was made.
pub fn run(args: &CreateArgs, output: Output) -> Result<(), Failure> {
    let places = survey(args)?;
    let plan = make_plan(args, &places)?;
    if args.dry_run.dry_run {
        return dry_run::tell(output, &would(args, &places, &plan)?);
    }
    let created = create_missing(&places)?;
    let written = write_all(&places, &plan);
    if let Err(failure) = written {
        created.iter().for_each(|path| drop(fs::remove_file(path)));
        return Err(failure);
    }
    let report = Report::new(args, &places, &plan);
    output.result(&report.text(), &report)
}

/// What would be made, and what that would overwrite.
fn would(args: &CreateArgs, places: &[Place], plan: &CreatePlan) -> Result<String, Failure> {
    let mut lines = vec![format!(
        "would make {}: {} of {} members, {} in reserve, {} to use",
        name(args),
        level(args.level),
        args.members.len(),
        args.spare.len(),
        show_size(plan.size_bytes)
    )];
    for place in places {
        let what = match &place.file {
            None => format!("would be made, {} and sparse", show_size(place.size_bytes)),
            Some(file) => match members::holds(file)? {
                None => "holds nothing that is known; it would be overwritten".to_string(),
                Some(what) => format!("holds {what}, which would be lost"),
            },
        };
        lines.push(format!("{}: {what}", place.path.display()));
    }
    Ok(lines.join("\n"))
}

/// A member to be.
struct Place {
    path: PathBuf,
    size_bytes: u64,
    /// None: does not exist yet.
    file: Option<MemberFile>,
}

/// Looks at all members and spares; changes nothing.
fn survey(args: &CreateArgs) -> Result<Vec<Place>, Failure> {
    let typed: Vec<&PathBuf> = args.members.iter().chain(&args.spare).collect();
    let paths: Vec<PathBuf> = typed.iter().map(|path| members::canonical(path)).collect();
    let mut distinct = BTreeSet::new();
    if let Some(twice) = paths.iter().find(|path| !distinct.insert(*path)) {
        let twice = twice.display();
        return Err(Failure::refused(format!(
            "{twice} is named twice; name each member once"
        )));
    }
    members::check_distinct(&paths)?;
    paths
        .into_iter()
        .map(|path| survey_one(args, path))
        .collect()
}

fn survey_one(args: &CreateArgs, path: PathBuf) -> Result<Place, Failure> {
    // A dangling link exists for open(2) but not for us; create_sparse says so later.
    if let Some(size_bytes) = args.size
        && !path.exists()
    {
        let parent = path.parent().filter(|parent| parent.is_dir());
        return match parent {
            Some(_) => Ok(Place {
                path,
                size_bytes,
                file: None,
            }),
            None => Err(Failure::failed(format!(
                "{}: its directory does not exist; make it first",
                path.display()
            ))),
        };
    }
    let file = members::open(&path, OpenMode::default()).map_err(|failure| {
        let hint = if path.exists() {
            ""
        } else {
            ", or let --size SIZE make it"
        };
        Failure {
            message: failure.message + hint,
            ..failure
        }
    })?;
    if !args.force {
        check_blank(&file)?;
    }
    Ok(Place {
        path,
        size_bytes: file.size_bytes(),
        file: Some(file),
    })
}

/// Refuses what holds an array, a filesystem or a partition table.
fn check_blank(file: &MemberFile) -> Result<(), Failure> {
    let path = file.path().display();
    let inspection = members::inspect(file)?;
    if let Some(superblock) = inspection.superblock {
        return Err(Failure::refused(format!(
            "{path} is a member of array {} ({}); --force overwrites it",
            superblock.name, superblock.array
        )));
    }
    if let Some(finding) = inspection.findings.first() {
        return Err(Failure::refused(format!(
            "{path}: {finding}; --force overwrites it"
        )));
    }
    members::check_no_other_content(file)
}

fn make_plan(args: &CreateArgs, places: &[Place]) -> Result<CreatePlan, Failure> {
    let chunk_bytes = args.chunk.map(u32::try_from).transpose().map_err(|_| {
        Failure::usage("the chunk is too large; it is a power of two from 4K to 4M")
    })?;
    let sizes: Vec<u64> = places.iter().map(|place| place.size_bytes).collect();
    let (member_bytes, spare_bytes) = sizes.split_at(args.members.len());
    let options = CreateOptions {
        name: name(args),
        level: level(args.level),
        parity: args.parity,
        copies: args.copies,
        chunk_bytes,
        export_bytes: args.export_size,
        member_bytes: member_bytes.to_vec(),
        spare_bytes: spare_bytes.to_vec(),
        random: &mut random::words()?,
    };
    plan(options).map_err(|error| plan_failure(&error, places))
}

fn plan_failure(error: &CreateError, places: &[Place]) -> Failure {
    if error.is_usage() {
        return Failure::usage(error.to_string());
    }
    let smallest = places.iter().min_by_key(|place| place.size_bytes);
    let hint = smallest.map_or(String::new(), |place| {
        format!(
            " (the smallest is {} with {})",
            place.path.display(),
            show_size(place.size_bytes)
        )
    });
    Failure::failed(format!("{error}{hint}"))
}

fn name(args: &CreateArgs) -> String {
    args.name
        .clone()
        .unwrap_or_else(|| level(args.level).to_string())
}

/// The level of that name.
pub fn level(name: LevelName) -> Level {
    match name {
        LevelName::Raid0 => Level::Raid0,
        LevelName::Raid1 => Level::Raid1,
        LevelName::Raid10 => Level::Raid10,
        LevelName::Raid5 => Level::Raid5,
        LevelName::Raid6 => Level::Raid6,
        LevelName::Rs => Level::Rs,
    }
}

/// Makes the files that are not there; on failure removes again what it made.
fn create_missing(places: &[Place]) -> Result<Vec<PathBuf>, Failure> {
    let mut created: Vec<PathBuf> = Vec::new();
    for place in places.iter().filter(|place| place.file.is_none()) {
        if let Err(error) = create_sparse(&place.path, place.size_bytes) {
            created.iter().for_each(|path| drop(fs::remove_file(path)));
            return Err(Failure::failed(error.to_string()));
        }
        created.push(place.path.clone());
    }
    Ok(created)
}

/// Writes all members at once: each is a different disk, in earnest use.
fn write_all(places: &[Place], plan: &CreatePlan) -> Result<(), Failure> {
    assert_eq!(places.len(), plan.members.len(), "a plan for each member");
    std::thread::scope(|scope| {
        let pairs = places.iter().zip(&plan.members);
        let writers: Vec<_> = pairs
            .map(|(place, plan)| scope.spawn(move || write_place(place, plan)))
            .collect();
        let results: Vec<_> = writers
            .into_iter()
            .map(|w| w.join().expect("writers do not panic"))
            .collect();
        results.into_iter().collect::<Result<(), Failure>>()
    })?;
    let parents: BTreeSet<&Path> = places
        .iter()
        .filter(|p| p.file.is_none())
        .filter_map(|p| p.path.parent())
        .collect();
    parents.into_iter().try_for_each(|directory| {
        let sync = || File::open(directory)?.sync_all();
        sync().doing(|| format!("flush the directory {}", directory.display()))
    })
}

fn write_place(place: &Place, plan: &MemberPlan) -> Result<(), Failure> {
    let opened;
    let file = match &place.file {
        Some(file) => file,
        None => {
            opened = members::open(&place.path, OpenMode::default())?;
            &opened
        }
    };
    write_member(file, plan).doing(|| format!("write to {}", place.path.display()))
}

fn write_member(file: &MemberFile, plan: &MemberPlan) -> std::io::Result<()> {
    for range in &plan.zero {
        members::zero(file, range.clone())?;
    }
    for (offset, bytes) in &plan.writes {
        file.write_at(*offset, bytes)?;
    }
    file.sync()
}

/// What was made.
#[derive(Serialize)]
struct Report {
    name: String,
    uuid: String,
    level: String,
    size_bytes: u64,
    members: Vec<ReportMember>,
}

#[derive(Serialize)]
struct ReportMember {
    /// None: a spare.
    slot: Option<usize>,
    path: String,
    uuid: String,
}

impl Report {
    fn new(args: &CreateArgs, places: &[Place], plan: &CreatePlan) -> Report {
        let with_role = args.members.len();
        let pairs = places.iter().zip(&plan.members).enumerate();
        let members = pairs.map(|(index, (place, plan))| ReportMember {
            slot: (index < with_role).then_some(index),
            path: place.path.display().to_string(),
            uuid: plan.uuid.to_string(),
        });
        Report {
            name: name(args),
            uuid: plan.array.to_string(),
            level: level(args.level).to_string(),
            size_bytes: plan.size_bytes,
            members: members.collect(),
        }
    }

    fn text(&self) -> String {
        let spares = self
            .members
            .iter()
            .filter(|member| member.slot.is_none())
            .count();
        let members = self.members.len() - spares;
        let and_spares = if spares > 0 {
            format!(" and {spares} in reserve")
        } else {
            String::new()
        };
        let paths: Vec<_> = self
            .members
            .iter()
            .map(|member| member.path.as_str())
            .collect();
        format!(
            "made {}: {} of {members} members{and_spares}, {} to use, UUID {}\nserve it with: uraid serve {}",
            self.name,
            self.level,
            show_size(self.size_bytes),
            self.uuid,
            paths.join(" ")
        )
    }
}

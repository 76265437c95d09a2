//! `uraid rebuild`: the tool after a disk swap. Finds what is missing, says what it will do, does
//! it, and ends when the array is whole.

use super::args::RebuildArgs;
use super::orders::path_text;
use super::output::Output;
use super::wait::{Settled, Stage, Watched, stage, until_settled};
use super::{dry_run, render, serve, target};
use crate::control::client::Client;
use crate::control::wire::{AddBody, MemberReport, Order, StatusReport};
use crate::failure::Failure;
use crate::server::local::{LocalArray, Purpose};
use crate::server::members::{Access, canonical, inspect, open, open_array};
use std::path::{Path, PathBuf};
use uraid_engine::api::Mode;
use uraid_io::device::OpenMode;

/// Rebuilds a served array, or with `--members` or `--scan` one that is not.
pub fn run(args: &RebuildArgs, output: Output) -> Result<(), Failure> {
    let new = args.new.as_deref().map(canonical);
    if args.members.is_empty() && args.scan.is_empty() {
        let mut client = target::resolve(&args.server)?;
        return rebuild(&mut client, new.as_deref(), args, output);
    }
    let name = args.server.name.as_deref();
    let mut members = serve::members(&args.members, &args.scan, name)?;
    let new = match new {
        Some(new) => Some(new),
        None => take_blank(&mut members)?,
    };
    members.retain(|path| Some(path) != new.as_ref());
    let (access, purpose) = match args.dry_run.mode() {
        Mode::Earnest => (Access::Serve, Purpose::Repair),
        Mode::DryRun => (Access::Read, Purpose::Try { force: false }),
    };
    let mut array = LocalArray::open(open_array(&members, access)?, purpose)?;
    let result = rebuild(&mut array, new.as_deref(), args, output);
    result.and(array.stop())
}

/// Takes the one blank file out of `members`: it is the new disk.
fn take_blank(members: &mut Vec<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let mut blank = None;
    for (index, path) in members.iter().enumerate() {
        let inspection = inspect(&open(path, OpenMode::inspect())?)?;
        if inspection.superblock.is_some() || !inspection.findings.is_empty() {
            continue;
        }
        if blank.replace(index).is_some() {
            return Err(Failure::usage(
                "more than one of the members is blank; name the new one as NEW",
            ));
        }
    }
    Ok(blank.map(|index| members.remove(index)))
}

/// An array that can be given a device.
trait Repairable: Watched {
    fn add(&mut self, path: &Path, force: bool, mode: Mode) -> Result<String, Failure>;
}

impl Repairable for Client {
    fn add(&mut self, path: &Path, force: bool, mode: Mode) -> Result<String, Failure> {
        let path = path_text(path)?;
        let body = AddBody {
            path,
            force,
            copy: false,
        };
        self.carry_out(&Order::Add(body), mode)
    }
}

impl Repairable for LocalArray {
    fn add(&mut self, path: &Path, force: bool, mode: Mode) -> Result<String, Failure> {
        LocalArray::add(self, path, force, mode)
    }
}

fn rebuild(
    array: &mut impl Repairable,
    new: Option<&Path>,
    args: &RebuildArgs,
    output: Output,
) -> Result<(), Failure> {
    let mode = args.dry_run.mode();
    let status = array.status()?;
    let plan = Plan::new(&status, new, |path| Path::new(path).exists())?;
    if mode == Mode::DryRun {
        let mut would = vec![plan.text(&status)];
        for path in plan.devices() {
            would.push(array.add(path, args.force, mode)?);
        }
        return dry_run::tell(output, &would.join("\n"));
    }
    output.note(&plan.text(&status));
    for path in plan.devices() {
        output.note(&array.add(path, args.force, mode)?);
    }
    let settled = until_settled(output, array)?;
    let verdict = verdict(&settled)?;
    output.result(&verdict, &settled.status)
}

/// What a rebuild comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Plan {
    /// Nothing is missing.
    Nothing,
    /// It goes on by itself already.
    Wait,
    /// Former members are at their places again.
    Return(Vec<PathBuf>),
    /// A new device takes the place of a missing member.
    New(PathBuf),
}

impl Plan {
    fn new(
        status: &StatusReport,
        new: Option<&Path>,
        exists: impl Fn(&str) -> bool,
    ) -> Result<Plan, Failure> {
        let vacant: Vec<&MemberReport> = vacant(status).collect();
        let name = &status.name;
        if status.read_only {
            return Err(Failure::refused(format!(
                "{name} is served read-only; serve it again"
            )));
        }
        if status.parity == 0 && !vacant.is_empty() {
            return Err(Failure::failed(format!(
                "{name} has no redundancy: what was on the missing member cannot be rebuilt"
            )));
        }
        if let Some(new) = new
            && !vacant.is_empty()
        {
            return Ok(Plan::New(new.to_owned()));
        }
        if stage(status) != Stage::Settled {
            return Ok(Plan::Wait);
        }
        if vacant.is_empty() {
            return Ok(Plan::Nothing);
        }
        let paths = vacant.iter().filter_map(|member| member.path.as_deref());
        let back: Vec<PathBuf> = paths
            .filter(|path| exists(path))
            .map(PathBuf::from)
            .collect();
        if back.is_empty() {
            return Err(Failure::failed(format!(
                "{name}: {} out of service, and there is nothing to rebuild on; name the new disk",
                are(&vacant)
            )));
        }
        Ok(Plan::Return(back))
    }

    fn devices(&self) -> &[PathBuf] {
        match self {
            Plan::Nothing | Plan::Wait => &[],
            Plan::Return(paths) => paths,
            Plan::New(path) => std::slice::from_ref(path),
        }
    }

    fn text(&self, status: &StatusReport) -> String {
        let name = &status.name;
        let vacant: Vec<&MemberReport> = vacant(status).collect();
        match self {
            Plan::Nothing => format!("{name} misses no member"),
            Plan::Wait => format!("{name} is being rebuilt already; waiting for the end"),
            Plan::Return(paths) => {
                let paths: Vec<_> = paths
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                format!(
                    "{name}: {} out of service; taking back {}",
                    are(&vacant),
                    paths.join(", ")
                )
            }
            Plan::New(path) => format!(
                "{name}: {} out of service; rebuilding on {}, whose content is overwritten",
                are(&vacant),
                path.display()
            ),
        }
    }
}

/// Members whose place is empty.
fn vacant(status: &StatusReport) -> impl Iterator<Item = &MemberReport> {
    let gone = |member: &&MemberReport| member.is_gone();
    status
        .members
        .iter()
        .filter(|member| member.slot.is_some())
        .filter(gone)
}

fn are(members: &[&MemberReport]) -> String {
    let slots: Vec<String> = members
        .iter()
        .filter_map(|member| member.slot)
        .map(|slot| slot.to_string())
        .collect();
    match slots.len() {
        1 => format!("member {} is", slots[0]),
        _ => format!("members {} are", slots.join(", ")),
    }
}

fn verdict(settled: &Settled) -> Result<String, Failure> {
    let status = &settled.status;
    if render::exit(status).is_none() {
        return Ok(format!("{} is whole", status.name));
    }
    let vacant: Vec<&MemberReport> = vacant(status).collect();
    Err(Failure::failed(format!(
        "{} is {}: {} still out of service; give it another disk",
        status.name,
        status.state,
        are(&vacant)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::samples;

    fn degraded() -> StatusReport {
        let mut status = samples::optimal();
        status.state = "degraded".to_string();
        status.members[1].state = "failed".to_string();
        status
    }

    fn plan(status: &StatusReport, new: Option<&str>, exists: bool) -> Result<Plan, Failure> {
        Plan::new(status, new.map(Path::new), |_| exists)
    }

    #[test]
    fn the_plan_follows_from_what_is_missing() {
        assert_eq!(plan(&samples::optimal(), None, true), Ok(Plan::Nothing));
        assert_eq!(
            plan(&samples::optimal(), Some("/new"), true),
            Ok(Plan::Nothing)
        );
        assert_eq!(plan(&samples::rebuilding(), None, true), Ok(Plan::Wait));
        assert_eq!(
            plan(&degraded(), None, true),
            Ok(Plan::Return(vec!["/m1".into()]))
        );
        assert_eq!(
            plan(&degraded(), Some("/new"), true),
            Ok(Plan::New("/new".into()))
        );
    }

    #[test]
    fn nothing_to_rebuild_on_is_an_error_that_says_what_to_type() {
        let failure = plan(&degraded(), None, false).unwrap_err();
        assert!(
            failure.message.contains("member 1 is out of service"),
            "{failure}"
        );
        assert!(failure.message.contains("name the new disk"), "{failure}");
    }

    #[test]
    fn a_stripe_without_redundancy_cannot_be_rebuilt() {
        let mut status = degraded();
        status.parity = 0;
        assert!(
            plan(&status, Some("/new"), true)
                .unwrap_err()
                .message
                .contains("no redundancy")
        );
    }

    #[test]
    fn the_plan_is_said_in_words() {
        let text = plan(&degraded(), Some("/new"), true)
            .unwrap()
            .text(&degraded());
        assert!(text.contains("member 1") && text.contains("/new"), "{text}");
        assert!(text.contains("overwritten"), "{text}");
    }

    #[test]
    fn only_a_whole_array_is_a_success() {
        let settled = |status| Settled {
            status,
            rebuilt: true,
        };
        assert!(verdict(&settled(samples::optimal())).is_ok());
        assert!(
            verdict(&settled(degraded()))
                .unwrap_err()
                .message
                .contains("member 1")
        );
    }
}

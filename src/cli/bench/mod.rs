//! `uraid bench`: throughput, latency and what they cost, measured on real files with the real
//! server, and driven over the real socket from a process of its own.

pub mod args;
mod array;
mod chart;
pub mod client;
mod interrupt;
mod layout;
mod measure;
mod members;
mod place;
mod progress;
mod report;

use super::output::Output;
use crate::failure::{Doing, Failure};
use crate::server::members::canonical;
use crate::sizes::show_duration;
use args::BenchArgs;
use clap::ValueEnum;
use interrupt::Interrupt;
use measure::{Measured, Plan};
use members::Source;
use place::Scratch;
use progress::Steps;
use report::Report;
use std::fs;
use std::path::{Path, PathBuf};

/// Measures what was typed, and reports it.
pub fn run(args: &BenchArgs, output: Output) -> Result<(), Failure> {
    let plan = Plan::new(args)?;
    let stop = Interrupt::catch()?;
    // Before minutes are spent.
    args.svg.as_deref().map_or(Ok(()), place::check_writable)?;
    let source = source(args, &plan)?;
    let directory = source.directory();
    let filesystem = place::filesystem(&directory);
    output.note(&format!(
        "members in {} ({filesystem}); this takes about {}",
        directory.display(),
        show_duration(plan.estimate())
    ));
    let measured = measure(&plan, &source, &stop, output)?;
    let directory = directory.display().to_string();
    let report = Report::new(&plan, directory, filesystem, &measured);
    drop(source);
    if let Some(path) = &args.svg {
        let written = fs::write(path, chart::svg(&report));
        written.doing(|| format!("write {}", path.display()))?;
    }
    output.result(&report.text(), &report)
}

fn measure(
    plan: &Plan,
    source: &Source,
    stop: &Interrupt,
    output: Output,
) -> Result<Vec<Measured>, Failure> {
    let mut steps = Steps::new(output, plan.steps());
    let mut measured = Vec::new();
    for layout in &plan.layouts {
        measured.extend(plan.measure(layout, source, stop, &mut steps)?);
    }
    Ok(measured)
}

/// Where members come from. Without room for them nothing is begun.
fn source(args: &BenchArgs, plan: &Plan) -> Result<Source, Failure> {
    if !args.members.is_empty() {
        let paths = args.members.iter().map(|path| canonical(path)).collect();
        let force = args.force;
        return Ok(Source::Given { paths, force });
    }
    let parent = args.dir.clone().unwrap_or_else(place::default_parent);
    let needed = |layout: &layout::Layout| plan.member_bytes(layout) * layout.members() as u64;
    let most = plan.layouts.iter().map(needed).max().unwrap_or(0);
    let scratch = Scratch::new(&parent)?;
    place::check_room(scratch.path(), most)?;
    Ok(Source::Made { scratch })
}

impl Source {
    /// The directory of the first member.
    fn directory(&self) -> PathBuf {
        match self {
            Source::Made { scratch } => scratch.path().to_owned(),
            Source::Given { paths, .. } => {
                let parent = paths[0].parent().unwrap_or(Path::new("/"));
                parent.to_owned()
            }
        }
    }
}

impl Plan {
    fn new(args: &BenchArgs) -> Result<Plan, Failure> {
        let mut states = Vec::new();
        for state in &args.states {
            if !states.contains(state) {
                states.push(*state);
            }
        }
        Ok(Plan {
            layouts: args.layouts()?,
            states,
            connections: args.connections(),
            rounds: args.rounds,
            time: args.time(),
            size_bytes: args.size_bytes(),
            rest: !args.quick,
            io: args.io,
        })
    }

    /// As it is typed.
    fn io_name(&self) -> String {
        let name = self.io.and_then(|io| io.to_possible_value());
        name.map_or("auto".to_string(), |value| value.get_name().to_string())
    }
}

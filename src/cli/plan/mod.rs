//! `uraid plan`: what an array would hold, survive and cost, before there is one.

pub mod args;
mod report;

use super::create::level;
use super::output::Output;
use crate::failure::Failure;
use args::PlanArgs;
use report::Report;
use uraid_core::config::MEMBERS_MAX;
use uraid_plan::layout::{Layout, Request};
use uraid_plan::outlook::Assumptions;

/// Works it out and shows it; opens nothing.
pub fn run(args: &PlanArgs, output: Output) -> Result<(), Failure> {
    if args.members.saturating_add(args.spares) > MEMBERS_MAX {
        return Err(Failure::usage(format!(
            "{} members and {} in reserve: an array takes at most {MEMBERS_MAX}",
            args.members, args.spares
        )));
    }
    let positive = [
        ("--mtbf", args.mtbf),
        ("--scrub-interval", args.scrub_interval),
    ];
    if let Some((option, _)) = positive.iter().find(|(_, hours)| *hours <= 0.0) {
        return Err(Failure::usage(format!("{option} must be more than 0")));
    }
    let report = Report::new(args, &layouts(args)?, assumptions(args));
    output.result(&report.text(), &report)
}

/// The layout that was named, or all there are.
fn layouts(args: &PlanArgs) -> Result<Vec<Layout>, Failure> {
    let chunk_bytes = args.chunk.map(u32::try_from).transpose().map_err(|_| {
        Failure::usage("the chunk is too large; it is a power of two from 4K to 4M")
    })?;
    let Some(name) = args.level else {
        let all = Layout::all(args.members, args.size, chunk_bytes);
        return match all.is_empty() {
            false => Ok(all),
            // What stands in the way of one stands in the way of all.
            true => one(args, uraid_core::geometry::Level::Raid0, chunk_bytes),
        };
    };
    one(args, level(name), chunk_bytes)
}

fn one(
    args: &PlanArgs,
    level: uraid_core::geometry::Level,
    chunk_bytes: Option<u32>,
) -> Result<Vec<Layout>, Failure> {
    let layout = Layout::new(Request {
        level,
        members: args.members,
        parity: args.parity,
        copies: args.copies,
        chunk_bytes,
        member_bytes: args.size,
    });
    layout.map(|l| vec![l]).map_err(Failure::usage)
}

fn assumptions(args: &PlanArgs) -> Assumptions {
    Assumptions {
        mtbf_hours: args.mtbf,
        detection_hours: args.detection_time,
        swap_hours: if args.spares > 0 { 0.0 } else { args.swap_time },
        rebuild_bytes_per_second: args.rebuild_rate as f64,
        used_share: f64::from(args.used) / 100.0,
        ure_per_bit: args.ure_rate,
        latent_per_year: args.latent_errors,
        scrub_hours: Some(args.scrub_interval),
        life_hours: args.life,
        restore_hours: args.restore_time,
    }
}

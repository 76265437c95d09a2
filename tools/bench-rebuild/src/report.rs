//! The report as people read it, on a terminal and in Markdown.

use crate::measure::{OfLayout, OfLoad, Plan, Turn};
use cost::place;
use cost::table::{Spread, Table, cell};
use std::thread::available_parallelism;
use uraid_load::Drive;

const MIB: f64 = (1u64 << 20) as f64;
/// What a latency that 99 of 100 requests keep below may become beside a rebuild.
const P99_RATIO_MAX: f64 = 2.0;

/// All of it; headings are of the third level.
///
/// # Errors
/// When the directory is gone.
pub fn text(plan: &Plan, results: &[OfLayout]) -> Result<String, String> {
    let mut text = conditions(plan)?;
    if !plan.loads.is_empty() {
        text += &format!("\n### Beside clients\n\n{}", beside_clients(results));
    }
    text += &format!("\n### Alone\n\n{}", alone(results));
    Ok(text)
}

fn conditions(plan: &Plan) -> Result<String, String> {
    let whose = match plan.share {
        Some(share) => format!("of {share} %"),
        None => "as it comes".to_string(),
    };
    let place = match place::is_memory(&plan.dir)? {
        true => "memory",
        false => "files on a disk",
    };
    let slow = match plan.slow {
        Some((part, rate)) => {
            let which = format!("{part:?}").to_lowercase();
            format!(", the {which} kept to {} MiB/s", rate >> 20)
        }
        None => String::new(),
    };
    Ok(format!(
        "{} rounds of {:.1} s for each load in each state; {} MiB of data on each member, members \
         in {place}{slow}; {} CPUs, which client and server share; the rebuild's share {whose}; \
         seed {}. Figures are median (least-most) of the rounds.\n",
        plan.rounds,
        plan.time.as_secs_f64(),
        plan.data_bytes >> 20,
        available_parallelism().map_or(1, |n| n.get()),
        plan.seed,
    ))
}

fn beside_clients(results: &[OfLayout]) -> String {
    let headings = [
        "array, load",
        "p50 degraded, µs",
        "p99 degraded, µs",
        "p50 rebuilding",
        "p99 rebuilding",
        "p99 by round",
        "IOPS by round",
        "rebuild, MiB/s",
        "of its speed alone, %",
        "p99 at most twice",
    ];
    let mut table = Table::new(headings);
    for of_layout in results {
        let alone = Spread::of(of_layout.alone.iter().map(|a| a.rebuilt));
        for of_load in &of_layout.loads {
            let name = format!("{}, {}", of_layout.layout.name, of_load.name);
            table.row(row(name, of_load, alone));
        }
    }
    table.to_string()
}

fn row(name: String, of_load: &OfLoad, alone: Option<Spread>) -> Vec<String> {
    let spread = |of: &dyn Fn(&Turn) -> f64| Spread::of(of_load.turns.iter().map(of));
    let p99 = |drive: &Drive| drive.latency.p99_micros;
    let ratio = spread(&|t| p99(&t.rebuilding) / p99(&t.degraded));
    let iops = |drive: &Drive| drive.requests as f64 / drive.seconds;
    let rebuilt = spread(&|t| t.rebuilt / MIB);
    let share = rebuilt
        .zip(alone)
        .map(|(r, a)| 100.0 * r.median * MIB / a.median);
    let met = ratio.map(|r| {
        if r.median <= P99_RATIO_MAX {
            "yes"
        } else {
            "NO"
        }
    });
    vec![
        name,
        cell(spread(&|t| t.degraded.latency.p50_micros)),
        cell(spread(&|t| p99(&t.degraded))),
        cell(spread(&|t| t.rebuilding.latency.p50_micros)),
        cell(spread(&|t| p99(&t.rebuilding))),
        cell(ratio),
        cell(spread(&|t| iops(&t.rebuilding) / iops(&t.degraded))),
        cell(rebuilt),
        cell(share.map(cost::table::figure)),
        cell(met),
    ]
}

fn alone(results: &[OfLayout]) -> String {
    let headings = [
        "array",
        "rebuild, MiB/s",
        "dd of a member, MiB/s",
        "dd's time to the rebuild's",
    ];
    let mut table = Table::new(headings);
    for of_layout in results {
        let rounds = &of_layout.alone;
        table.row(vec![
            of_layout.layout.name.into(),
            cell(Spread::of(rounds.iter().map(|a| a.rebuilt / MIB))),
            cell(Spread::of(rounds.iter().map(|a| a.copied / MIB))),
            cell(Spread::of(rounds.iter().map(|a| a.rebuilt / a.copied))),
        ]);
    }
    table.to_string()
}

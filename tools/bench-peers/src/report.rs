//! The report as people read it, on a terminal and in Markdown.

use crate::loads::Work;
use crate::results::{OfWork, Quantity, Ratio, Results};
use crate::target::Target;
use crate::wanted::{Bound, Finding, Wish, wishes};
use cost::table::{Table, cell, figure};

/// All of it; headings are of the third level.
pub fn text(results: &Results) -> String {
    let mut text = format!("{}\n\n### Found beside wanted\n\n", conditions(results));
    text += &verdicts(results);
    for of_work in results.works.iter().filter(|w| !w.targets.is_empty()) {
        text += &format!(
            "\n### {}\n\n{}",
            capitalised(of_work.work.name),
            table(results, of_work)
        );
    }
    for skipped in &results.skipped {
        text += &format!("\nLeft out: {}: {}.\n", skipped.target, skipped.why.trim());
    }
    text
}

fn conditions(results: &Results) -> String {
    let setup = &results.setup;
    format!(
        "{} rounds of {:.2} s for each load on each target; exports of {} MiB, members in {}, {} \
         CPUs, which clients and servers share; seed {}. Figures are median (least-most) of the \
         rounds; *of A* is the ratio to {}: of the medians, and in each round.",
        setup.rounds,
        setup.seconds,
        setup.export_mib,
        if setup.in_memory {
            "memory"
        } else {
            "files on a disk"
        },
        setup.cpus,
        setup.seed,
        Target::NbdkitFile.name(),
    )
}

/// What was wanted and what came of it, as far as it was measured, with a line that counts.
fn verdicts(results: &Results) -> String {
    let headings = [
        "wanted of",
        "what",
        "beside",
        "wanted",
        "of medians",
        "by round",
        "met",
    ];
    let mut table = Table::new(headings);
    let judged: Vec<(Wish, Finding)> = wishes()
        .into_iter()
        .map(|w| (w, w.judge(results)))
        .collect();
    for (wish, finding) in judged.iter().filter(|(_, f)| f.ratio.is_some()) {
        table.row(vec![
            Target::Uraid(wish.array).name().into(),
            what(wish),
            beside(wish),
            bound(wish.bound),
            cell(finding.ratio.map(|r| figure(r.of_medians))),
            cell(finding.ratio.map(|r| r.by_round)),
            met(finding.met).into(),
        ]);
    }
    let count = |met| judged.iter().filter(|(_, f)| f.met == Some(met)).count();
    let (met, missed) = (count(true), count(false));
    let rest = judged.len() - met - missed;
    format!("{table}\n{met} met, {missed} missed, {rest} not measured or not to be told here.\n")
}

fn what(wish: &Wish) -> String {
    let quantity = match wish.quantity {
        Quantity::Rate => return wish.work.name.into(),
        Quantity::P50 => "p50",
        Quantity::P99 => "p99",
        Quantity::CpuPerGib => "CPU time per GiB",
    };
    format!("{}: {quantity}", wish.work.name)
}

fn beside(wish: &Wish) -> String {
    match wish.of == Target::Uraid(wish.array) {
        true => "itself, healthy".into(),
        false => wish.of.name().into(),
    }
}

fn bound(bound: Bound) -> String {
    match bound {
        Bound::AtLeast(bound) => format!(">= {bound}"),
        Bound::AtMost(bound) => format!("<= {bound}"),
    }
}

fn met(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "not told in memory",
    }
}

/// All targets under one load.
fn table(results: &Results, of_work: &OfWork) -> String {
    let work = &of_work.work;
    let unit = work.unit.name();
    let headings = [
        "target",
        unit,
        "of A",
        "of A by round",
        "p50, µs",
        "p99, µs",
        "CPU s/GiB",
    ];
    let mut table = Table::new(headings);
    for of_target in &of_work.targets {
        let name = of_target.target;
        let spread = |quantity| cell(results.spread(work, name, quantity));
        let ratio = of_baseline(results, work, name);
        table.row(vec![
            name.into(),
            spread(Quantity::Rate),
            cell(ratio.map(|r| figure(r.of_medians))),
            cell(ratio.map(|r| r.by_round)),
            spread(Quantity::P50),
            spread(Quantity::P99),
            spread(Quantity::CpuPerGib),
        ]);
    }
    table.to_string()
}

/// How the rate of a target compares with the baseline's. A degraded array is compared with the
/// baseline as it is: it cannot be degraded.
pub fn of_baseline(results: &Results, work: &Work, target: &str) -> Option<Ratio> {
    let of_work = Work {
        degraded: false,
        ..*work
    };
    let same = |w: &&OfWork| {
        (w.work.load, w.work.connections, w.work.degraded)
            == (of_work.load, of_work.connections, false)
    };
    let of_work = results.works.iter().find(same)?;
    let baseline = (&of_work.work, Target::NbdkitFile.name());
    results.ratio((work, target), baseline, Quantity::Rate)
}

/// What a load is called at the beginning of a line.
pub fn capitalised(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loads::{DEGRADED_READ, RANDOM_READ, SEQUENTIAL_READ};
    use crate::results::tests::{of_target, results};

    #[test]
    fn found_stands_beside_wanted() {
        let results = results(vec![OfWork {
            work: SEQUENTIAL_READ,
            targets: vec![
                of_target("nbdkit file (A)", &[100, 110, 90]),
                of_target("uraid raid1 x2", &[99, 120, 80]),
                of_target("uraid raid5 4+1", &[50, 60, 40]),
            ],
        }]);
        let text = text(&results);
        let line = |array: &str| {
            let begins = format!("| {array}");
            let line = text
                .lines()
                .find(|l| l.starts_with(&begins) && l.contains(" 0.9"));
            line.unwrap_or_else(|| panic!("no line for {array}:\n{text}"))
                .to_string()
        };
        let mirror = line("uraid raid1 x2");
        assert!(
            mirror.contains("0.990 (0.889-1.09)") && mirror.ends_with("| yes |"),
            "{mirror}"
        );
        let parity = line("uraid raid5 4+1");
        assert!(
            parity.contains("0.500 (0.444-0.545)") && parity.trim_end().ends_with("NO |"),
            "{parity}"
        );
        assert!(text.contains("\n2 met, 2 missed, "), "{text}");
    }

    #[test]
    fn the_baseline_of_a_degraded_array_is_whole() {
        let results = results(vec![
            OfWork {
                work: RANDOM_READ,
                targets: vec![of_target("nbdkit file (A)", &[100])],
            },
            OfWork {
                work: DEGRADED_READ,
                targets: vec![of_target("uraid raid5 4+1", &[70])],
            },
        ]);
        let ratio = of_baseline(&results, &DEGRADED_READ, "uraid raid5 4+1");
        assert_eq!(ratio.expect("both were measured").of_medians, 0.7);
    }
}

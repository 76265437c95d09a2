//! The report for programs.

use crate::report::of_baseline;
use crate::results::{Ratio, Results};
use crate::target::Target;
use crate::wanted::wishes;
use serde_json::{Value, json};

/// Everything that was measured, sample by sample, and what was wanted of it.
pub fn report(results: &Results) -> Value {
    let wanted = wishes().into_iter().map(|wish| {
        let finding = wish.judge(results);
        json!({
            "target": Target::Uraid(wish.array).name(),
            "work": wish.work.name,
            "quantity": wish.quantity,
            "beside": wish.of.name(),
            "beside_work": wish.of_work.name,
            "bound": wish.bound,
            "found": finding.ratio.map(ratio),
            "met": finding.met,
        })
    });
    let of_baseline = results.works.iter().flat_map(|of_work| {
        of_work.targets.iter().map(|of_target| {
            let found = of_baseline(results, &of_work.work, of_target.target);
            json!({
                "target": of_target.target,
                "work": of_work.work.name,
                "found": found.map(ratio),
            })
        })
    });
    json!({
        "measured": results,
        "wanted": wanted.collect::<Vec<_>>(),
        "rate_of_baseline": of_baseline.collect::<Vec<_>>(),
    })
}

fn ratio(ratio: Ratio) -> Value {
    json!({
        "of_medians": ratio.of_medians,
        "by_round": {
            "median": ratio.by_round.median,
            "least": ratio.by_round.least,
            "most": ratio.by_round.most,
        },
    })
}

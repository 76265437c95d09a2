//! Plots as SVG: for each load, how every target compares with the baseline.

use crate::loads::{Unit, Work};
use crate::report::{capitalised, of_baseline};
use crate::results::{OfWork, Ratio, Results};
use crate::target::Target;
use cost::table::figure;
use std::fmt::Write;
use std::path::Path;

/// All lengths are in pixels.
const WIDTH: f64 = 640.0;
const MARGIN: f64 = 12.0;
const LABEL_WIDTH: f64 = 130.0;
const FIGURE_WIDTH: f64 = 40.0;
const LINE_HEIGHT: f64 = 17.0;
const BAR_HEIGHT: f64 = 11.0;
const HEADING_HEIGHT: f64 = 24.0;
/// Between two loads.
const GAP: f64 = 10.0;

/// What is ours stands out.
const OURS: &str = "#1f6feb";
const PEERS: &str = "#afb8c1";
const INK: &str = "#24292f";

/// Plots: of streams, of many small requests at the same time, and of those that come alone or to
/// an array that is not whole.
const PLOTS: [&str; 3] = ["streams", "random", "special"];

/// In which of them a load is.
fn plot_of(work: &Work) -> &'static str {
    let [streams, random, special] = PLOTS;
    match work.unit {
        Unit::MibPerSecond => streams,
        Unit::Iops if work.degraded || work.load.depth == 1 => special,
        Unit::Iops => random,
    }
}

/// Writes all plots into a directory, under names that begin with `prefix`; returns the names.
///
/// # Errors
/// Of the files.
pub fn write(results: &Results, dir: &Path, prefix: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for name in PLOTS {
        let wanted = |w: &&OfWork| plot_of(&w.work) == name && !w.targets.is_empty();
        let works: Vec<&OfWork> = results.works.iter().filter(wanted).collect();
        if works.is_empty() {
            continue;
        }
        let name = format!("{prefix}-{name}.svg");
        let path = dir.join(&name);
        std::fs::write(&path, svg(results, &works))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        names.push(name);
    }
    Ok(names)
}

/// One below the other; all on one scale, so that lengths can be compared.
fn svg(results: &Results, works: &[&OfWork]) -> String {
    let panels: Vec<(Work, Vec<(&str, Ratio)>)> = works.iter().map(|w| bars(results, w)).collect();
    let all = panels.iter().flat_map(|(_, bars)| bars);
    let longest = all.map(|(_, r)| r.by_round.most).fold(1.0, f64::max);
    let scale = (WIDTH - 2.0 * MARGIN - LABEL_WIDTH - FIGURE_WIDTH) / longest;
    let mut body = String::new();
    let mut y = MARGIN;
    for (work, bars) in &panels {
        y = panel(&mut body, work, bars, y, scale) + GAP;
    }
    let height = y - GAP + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\" \
         fill=\"{INK}\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn bars<'a>(results: &Results, of_work: &'a OfWork) -> (Work, Vec<(&'a str, Ratio)>) {
    let ratio = |target: &'a str| Some((target, of_baseline(results, &of_work.work, target)?));
    // In memory a plain file says nothing, and it is so fast that nobody else would be seen.
    let telling = |name: &str| !(results.setup.in_memory && name == Target::PlainFile.name());
    let targets = of_work.targets.iter().filter(|t| telling(t.target));
    let bars = targets.filter_map(|t| ratio(t.target));
    (of_work.work, bars.collect())
}

/// Draws from `y` downwards; returns where it ends.
fn panel(out: &mut String, work: &Work, bars: &[(&str, Ratio)], y: f64, scale: f64) -> f64 {
    let left = MARGIN + LABEL_WIDTH;
    let mut line = |text: String| writeln!(out, "{text}").expect("strings take everything");
    line(format!(
        "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{}; rate, A is 1</text>",
        y + 13.0,
        capitalised(work.name)
    ));
    let top = y + HEADING_HEIGHT;
    for (number, (target, ratio)) in bars.iter().enumerate() {
        let y = top + number as f64 * LINE_HEIGHT;
        let (text_y, middle) = (y + BAR_HEIGHT - 1.0, y + BAR_HEIGHT / 2.0);
        let colour = if target.starts_with("uraid") {
            OURS
        } else {
            PEERS
        };
        let spread = ratio.by_round;
        let x = |value: f64| left + value * scale;
        line(format!(
            "<text x=\"{MARGIN}\" y=\"{text_y:.1}\">{target}</text>"
        ));
        line(format!(
            "<rect x=\"{left}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" \
             fill=\"{colour}\"/>",
            spread.median * scale
        ));
        line(format!(
            "<path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"{INK}\"/>",
            x(spread.least),
            x(spread.most)
        ));
        line(format!(
            "<text x=\"{:.1}\" y=\"{text_y:.1}\">{}</text>",
            x(spread.most) + 4.0,
            figure(spread.median)
        ));
    }
    let bottom = top + bars.len() as f64 * LINE_HEIGHT;
    line(format!(
        "<path d=\"M{:.1} {:.1}V{:.1}\" stroke=\"{INK}\" stroke-dasharray=\"2 3\"/>",
        left + scale,
        top - 3.0,
        bottom
    ));
    bottom
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loads::SEQUENTIAL_READ;
    use crate::results::tests::{of_target, results};

    #[test]
    fn bars_are_as_long_as_ratios() {
        let works = vec![OfWork {
            work: SEQUENTIAL_READ,
            targets: vec![
                of_target("nbdkit file (A)", &[100]),
                of_target("uraid raid1 x2", &[50]),
            ],
        }];
        let results = results(works);
        let svg = svg(&results, &[&results.works[0]]);
        let width = |colour: &str| -> f64 {
            let bar = svg
                .lines()
                .find(|l| l.starts_with("<rect x") && l.contains(colour));
            let bar = bar.expect("a bar");
            let width = bar.split("width=\"").nth(1).expect("a width");
            width
                .split('"')
                .next()
                .expect("a figure")
                .parse()
                .expect("a number")
        };
        assert!((width(PEERS) / width(OURS) - 2.0).abs() < 0.01, "{svg}");
        assert!(
            svg.contains("uraid raid1 x2") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
    }
}

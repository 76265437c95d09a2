//! The rates as a bar chart: an SVG, written by hand, as there is not much to it. Each load has a
//! panel with a scale of its own, as some are told in MiB and some in requests a second.

use super::report::{ArrayReport, LoadReport, Report, connections, count, digits};
use std::fmt::Write;

/// All in pixels.
const WIDTH: usize = 960;
const MARGIN: usize = 24;
const GAP: usize = 32;
const HEAD: usize = 96;
const FOOT: usize = 40;
const PANEL_HEAD: usize = 34;
const BAR: usize = 15;
const BAR_GAP: usize = 3;
/// Between the bars of one array and those of the next.
const GROUP_GAP: usize = 7;
/// Names stand to the left of the bars, figures to the right.
const NAME: usize = 146;
const FIGURE: usize = 56;
const COLUMNS: usize = 2;
const PANEL: usize = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS;

/// For each number of connections, beginning with the first.
const COLOURS: [&str; 4] = ["#1f77b4", "#8ecae6", "#0b4f7d", "#062b45"];
const INK: &str = "#1a1a1a";
const FAINT: &str = "#666";

const STYLE: &str = "text{font-family:system-ui,-apple-system,'DejaVu Sans',sans-serif;font-size:11px}\
    .title{font-size:18px;font-weight:600}.panel{font-size:13px;font-weight:600}";

/// Draws the chart.
pub fn svg(report: &Report) -> String {
    let panels = panels(report);
    let rows = panels.chunks(COLUMNS);
    let height_of = |panel: &Panel| panel.height();
    let heights: Vec<usize> = rows
        .clone()
        .map(|row| row.iter().map(height_of).max().unwrap_or(0) + GAP)
        .collect();
    let height = HEAD + heights.iter().sum::<usize>() + FOOT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\">\n<style>{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    head(&mut out, report);
    let mut y = HEAD;
    for (row, height) in rows.zip(heights) {
        for (column, panel) in row.iter().enumerate() {
            panel.draw(&mut out, MARGIN + column * (PANEL + GAP), y);
        }
        y += height;
    }
    text(&mut out, MARGIN, height - 18, FAINT, "", report.note);
    out.push_str("</svg>\n");
    out
}

/// Title, where it was measured, and which colour is what.
fn head(out: &mut String, report: &Report) {
    let title = format!("uraid {}: longer bars are better", report.version);
    text(out, MARGIN, 34, INK, "title", &title);
    let place = format!(
        "{} CPUs, Linux {}, members on {}, io {}, {} s for each load, {}",
        report.cpus,
        report.kernel,
        report.filesystem,
        report.io,
        report.seconds,
        count(report.rounds as usize, "round")
    );
    text(out, MARGIN, 54, FAINT, "", &place);
    let mut x = MARGIN;
    for (index, number) in numbers(report).into_iter().enumerate() {
        rect(out, x, 66, BAR, colour(index));
        text(out, x + BAR + 6, 78, INK, "", &connections(number));
        x += 120;
    }
}

/// Numbers of connections, in the order in which they were measured.
fn numbers(report: &Report) -> Vec<usize> {
    let mut numbers = Vec::new();
    for load in report.arrays.iter().flat_map(|array| &array.loads) {
        if !numbers.contains(&load.connections) {
            numbers.push(load.connections);
        }
    }
    numbers
}

fn colour(index: usize) -> &'static str {
    COLOURS[index.min(COLOURS.len() - 1)]
}

/// All bars of one load.
struct Panel {
    title: String,
    groups: Vec<Group>,
}

/// The bars of one array.
struct Group {
    name: String,
    rates: Vec<f64>,
}

fn panels(report: &Report) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for array in &report.arrays {
        for loads in array.loads.chunk_by(|a, b| a.load == b.load) {
            let title = title(&loads[0]);
            let known = panels.iter().position(|panel| panel.title == title);
            let at = known.unwrap_or(panels.len());
            if known.is_none() {
                let groups = Vec::new();
                panels.push(Panel { title, groups });
            }
            panels[at].groups.push(group(array, loads));
        }
    }
    panels
}

fn title(load: &LoadReport) -> String {
    let unit = if load.is_stream() { "MiB/s" } else { "IOPS" };
    format!("{}: {unit}", load.load)
}

fn group(array: &ArrayReport, loads: &[LoadReport]) -> Group {
    Group {
        name: format!("{} {}", array.layout, array.state),
        rates: loads
            .iter()
            .map(|load| load.rate_of(&load.median))
            .collect(),
    }
}

impl Group {
    fn height(&self) -> usize {
        self.rates.len() * (BAR + BAR_GAP) + GROUP_GAP
    }
}

impl Panel {
    fn height(&self) -> usize {
        PANEL_HEAD + self.groups.iter().map(Group::height).sum::<usize>()
    }

    fn draw(&self, out: &mut String, x: usize, y: usize) {
        text(out, x, y + 14, INK, "panel", &self.title);
        let rates = self.groups.iter().flat_map(|group| &group.rates);
        let most = rates.copied().fold(f64::MIN_POSITIVE, f64::max);
        let room = (PANEL - NAME - FIGURE) as f64;
        let mut y = y + PANEL_HEAD - 8;
        for group in &self.groups {
            text(out, x, y + BAR - 3, INK, "", &group.name);
            for (index, rate) in group.rates.iter().enumerate() {
                let top = y + index * (BAR + BAR_GAP);
                let length = (rate / most * room).round().max(1.0) as usize;
                rect(out, x + NAME, top, length, colour(index));
                let end = x + NAME + length + 5;
                text(out, end, top + BAR - 3, INK, "", &digits(*rate));
            }
            y += group.height();
        }
    }
}

fn rect(out: &mut String, x: usize, y: usize, width: usize, colour: &str) {
    writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
    )
    .expect("a string takes all");
}

fn text(out: &mut String, x: usize, y: usize, colour: &str, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let class = match class {
        "" => String::new(),
        class => format!(" class=\"{class}\""),
    };
    writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\"{class}>{words}</text>"
    )
    .expect("a string takes all");
}

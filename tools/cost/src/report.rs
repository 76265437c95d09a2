//! What was measured, as tables and as JSON.

use crate::counters::Traffic;
use crate::flush_rule::checkpoints;
use crate::measure::{CASES, Measured, Plan, Results, Sample, Target};
use crate::table::{Spread, Table, cell, figure};
use uraid_load::Order;

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

/// Work of the engine whose time is measured, in the order in which it happens.
pub const PARTS: [&str; 4] = ["commit", "flush", "destage", "pages"];

impl Results {
    fn spread(&self, target: Target, of: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples[target as usize].iter().map(of))
    }

    /// How one target compares with another, round by round.
    fn ratio(&self, of: Target, to: Target, rate: impl Fn(&Sample) -> f64) -> Option<Spread> {
        let (above, below) = (&self.samples[of as usize], &self.samples[to as usize]);
        Spread::of(above.iter().zip(below).map(|(a, b)| rate(a) / rate(b)))
    }
}

impl Sample {
    fn requests_per_second(&self) -> f64 {
        self.drive.requests as f64 / self.drive.seconds
    }

    fn mib_per_second(&self) -> f64 {
        self.drive.bytes() as f64 / MIB / self.drive.seconds
    }

    fn cpu_seconds_per_gib(&self) -> f64 {
        self.cpu_seconds / (self.drive.bytes() as f64 / GIB)
    }
}

/// The cases at depth 32 in [`CASES`].
const STREAM_IN: usize = 1;
const STREAM_OUT: usize = 3;
const SMALL_IN: usize = 5;
const SMALL_OUT: usize = 7;

/// What broke the rule on flushes, in words; empty if nothing did.
pub fn violations(measured: &[Measured]) -> Vec<String> {
    let broken = measured.iter().flat_map(|m| {
        let broken = m.checks.iter().filter(|c| !c.holds());
        broken.map(|c| format!("{}: {}", m.layout.name, c.explain()))
    });
    broken.collect()
}

/// What moves more than the design says, in words.
pub fn excesses(measured: &[Measured]) -> Vec<String> {
    let mut found = Vec::new();
    for m in measured {
        for (case, results, design) in m.with_design() {
            let Some(counters) = &results.counters else {
                continue;
            };
            let excess = design.excesses(&counters.traffic());
            let line = |e| format!("{}, {}: {e}", m.layout.name, case.name);
            found.extend(excess.into_iter().map(line));
        }
    }
    found
}

/// The report as text, which is Markdown too.
pub fn text(plan: &Plan, measured: &[Measured]) -> String {
    let mut blocks = vec![preamble(plan), promises(measured).to_string()];
    for m in measured {
        blocks.extend([
            format!("### {}", m.layout.name),
            speed(m).to_string(),
            "Bytes moved for each byte of clients:".to_string(),
            bytes(m).to_string(),
            "A 4 KiB write and a FLUSH at depth 1, counts for each such pair:".to_string(),
            flushes(m).to_string(),
            flush_times(m),
            "Work of the engine, counts for 1000 requests:".to_string(),
            times(m).to_string(),
        ]);
    }
    let lists = [
        ("More than the design says:", excesses(measured)),
        ("THE RULE ON FLUSHES IS BROKEN:", violations(measured)),
    ];
    for (title, lines) in lists.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        blocks.push(title.to_string());
        blocks.push(format!("- {}", lines.join("\n- ")));
    }
    let blocks: Vec<&str> = blocks.iter().map(|b| b.trim_end()).collect();
    blocks.join("\n\n") + "\n"
}

fn preamble(plan: &Plan) -> String {
    format!(
        "{} rounds of {:.2} s for each load on each server; {} pairs of write and FLUSH a round; \
         arrays of {:.0} MiB on {} cores, which the client shares; seed {}. Absolute figures say \
         more about the machine than about the program: only ratios and counts mean anything. \
         Rates and ratios are given as median (least-most) of the rounds.",
        plan.rounds,
        plan.time.as_secs_f64(),
        plan.pairs,
        plan.array_bytes as f64 / MIB,
        cores(),
        plan.seed,
    )
}

/// Cores of the machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What each promise costs, a column for each layout.
fn promises(measured: &[Measured]) -> Table {
    let names = measured.iter().map(|m| m.layout.name);
    let mut table = Table::new(["promise, and what it costs"].into_iter().chain(names));
    let mut row = |what: &str, of: &dyn Fn(&Measured) -> Option<f64>| {
        let cells = measured.iter().map(|m| cell(of(m).map(figure)));
        table.row([what.to_string()].into_iter().chain(cells).collect());
    };
    let moved = |case: usize, kind: fn(&Traffic) -> f64| {
        move |m: &Measured| Some(kind(&m.cases[case].counters.as_ref()?.traffic()))
    };
    let placed = |t: &Traffic| t.in_place + t.slots;
    let journalled = |t: &Traffic| t.headers + t.journal;
    let speed = |case: usize| {
        move |m: &Measured| {
            let ratio =
                m.cases[case].ratio(Target::Uraid, Target::Baseline, Sample::mib_per_second);
            ratio.map(|r| r.median)
        }
    };
    row(
        "redundancy: bytes in place a byte, stream",
        &moved(STREAM_OUT, placed),
    );
    row(
        "redundancy: bytes in place a byte, 4 KiB",
        &moved(SMALL_OUT, placed),
    );
    row(
        "no write hole: bytes journalled a byte, stream",
        &moved(STREAM_OUT, journalled),
    );
    row(
        "no write hole: bytes journalled a byte, 4 KiB",
        &moved(SMALL_OUT, journalled),
    );
    row(
        "no wrong byte: bytes of checksums a byte, 4 KiB",
        &moved(SMALL_OUT, |t| t.pages),
    );
    row("no wrong byte: CPU s/GiB to verify a stream", &|m| {
        let cpu = |t| m.cases[STREAM_IN].spread(t, Sample::cpu_seconds_per_gib);
        Some(cpu(Target::Uraid)?.median - cpu(Target::Unverified)?.median)
    });
    row("durable: flushes of members for a FLUSH", &|m| {
        let flushes = m.pairs.counters.as_ref()?.part("flush").count;
        Some(flushes as f64 / pairs_of(&m.pairs))
    });
    row("durable: time of write + FLUSH, of nbdkit's", &|m| {
        let ratio = m.pairs.ratio(Target::Uraid, Target::Baseline, |s| {
            s.drive.latency.p50_micros
        });
        ratio.map(|r| r.median)
    });
    row("all: rate of a stream read, of nbdkit's", &speed(STREAM_IN));
    row(
        "all: rate of a stream written, of nbdkit's",
        &speed(STREAM_OUT),
    );
    row("all: rate of 4 KiB reads, of nbdkit's", &speed(SMALL_IN));
    row("all: rate of 4 KiB writes, of nbdkit's", &speed(SMALL_OUT));
    table
}

fn speed(m: &Measured) -> Table {
    use Target::{Baseline, Unverified, Uraid};
    let mut table = Table::new([
        "load",
        "uraid, MiB/s or IOPS",
        "of nbdkit's",
        "of unverified",
        "p50, µs",
        "CPU s/GiB",
        "unverified",
        "nbdkit",
    ]);
    for (case, r) in CASES.iter().zip(&m.cases) {
        let rate = if case.load.order == Order::Random {
            Sample::requests_per_second
        } else {
            Sample::mib_per_second
        };
        let median = |s: Option<Spread>| cell(s.map(|s| figure(s.median)));
        let cpu = |target| median(r.spread(target, Sample::cpu_seconds_per_gib));
        table.row(vec![
            case.name.to_string(),
            cell(r.spread(Uraid, rate)),
            cell(r.ratio(Uraid, Baseline, rate)),
            cell(r.ratio(Uraid, Unverified, rate)),
            median(r.spread(Uraid, |s| s.drive.latency.p50_micros)),
            cpu(Uraid),
            cpu(Unverified),
            cpu(Baseline),
        ]);
    }
    table
}

fn bytes(m: &Measured) -> Table {
    let kinds = Traffic::default().written().map(|(kind, _)| kind);
    let headings = ["load"].into_iter().chain(kinds);
    let mut table = Table::new(headings.chain(["written in all", "read"]));
    let mut row = |name: String, cells: Vec<String>| {
        table.row([name].into_iter().chain(cells).collect());
    };
    for (case, results, design) in m.with_design() {
        let Some(counters) = results.counters.as_ref().filter(|_| case.load.writes()) else {
            continue;
        };
        let shown = |t: &Traffic| -> Vec<f64> {
            let kinds = t.written().map(|(_, bytes)| bytes);
            kinds
                .into_iter()
                .chain([t.written_in_all(), t.read])
                .collect()
        };
        let measured = shown(&counters.traffic());
        row(
            case.name.to_string(),
            measured.into_iter().map(figure).collect(),
        );
        let bounds = shown(&design.least).into_iter().zip(shown(&design.most));
        row("- by design".to_string(), bounds.map(range).collect());
    }
    table
}

fn range((least, most): (f64, f64)) -> String {
    if least == most {
        figure(least)
    } else {
        format!("{}-{}", figure(least), figure(most))
    }
}

fn pairs_of(r: &Results) -> f64 {
    let requests = r.samples[Target::Uraid as usize]
        .iter()
        .map(|s| s.drive.requests);
    requests.sum::<u64>().max(1) as f64
}

fn flushes(m: &Measured) -> Table {
    let mut table = Table::new(["counted", "found", "at least", "at most", "rule"]);
    let pairs = pairs_of(&m.pairs);
    for check in &m.checks {
        let each = |count: u64| figure(count as f64 / pairs);
        table.row(vec![
            check.what.to_string(),
            each(check.found),
            each(check.at_least),
            each(check.at_most),
            if check.holds() { "kept" } else { "BROKEN" }.to_string(),
        ]);
    }
    table
}

/// Where the time of a pair goes.
fn flush_times(m: &Measured) -> String {
    let Some(counters) = &m.pairs.counters else {
        return String::new();
    };
    let pair = |s: &Sample| s.drive.seconds * 1e6 / s.drive.requests as f64;
    let mean = m.pairs.spread(Target::Uraid, pair);
    let (commit, flush) = (counters.part("commit"), counters.part("flush"));
    let rest = mean.map(|m| m.median - commit.mean_micros() - flush.mean_micros());
    let p50 = |target| cell(m.pairs.spread(target, |s| s.drive.latency.p50_micros));
    let ratio = m.pairs.ratio(Target::Uraid, Target::Baseline, pair);
    format!(
        "A pair takes {} µs on average: commit {}, flush of a member {}, the rest (socket twice, \
         reading old blocks, parity) {}. p50 {} µs, p99 {}; nbdkit p50 {} µs; of nbdkit's time {}. Beside it {} \
         checkpoints, with their flushes in the count.",
        cell(mean),
        figure(commit.mean_micros()),
        figure(flush.mean_micros()),
        cell(rest.map(figure)),
        p50(Target::Uraid),
        cell(
            m.pairs
                .spread(Target::Uraid, |s| s.drive.latency.p99_micros)
        ),
        p50(Target::Baseline),
        cell(ratio),
        checkpoints(&m.layout, counters),
    )
}

fn times(m: &Measured) -> Table {
    let headings = PARTS
        .iter()
        .flat_map(|p| [p.to_string(), "mean µs".to_string()]);
    let mut table = Table::new(["load".to_string()].into_iter().chain(headings));
    let of_cases = CASES.iter().zip(&m.cases).filter(|(c, _)| c.load.writes());
    let of_cases = of_cases.map(|(c, r)| (c.name, r));
    for (name, r) in of_cases.chain([("4 KiB write + FLUSH", &m.pairs)]) {
        let Some(counters) = &r.counters else {
            continue;
        };
        let requests = pairs_of(r);
        let mut cells = vec![name.to_string()];
        for part in PARTS.map(|p| counters.part(p)) {
            cells.push(figure(part.count as f64 * 1e3 / requests));
            cells.push(figure(part.mean_micros()));
        }
        table.row(cells);
    }
    table
}

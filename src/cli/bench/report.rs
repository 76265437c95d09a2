//! What was measured, as tables and as JSON.

use super::measure::{Cell, Measured, Plan, Sample};
use crate::cli::output::table;
use crate::sizes::show_size;
use serde::Serialize;
use uraid_load::Drive;

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;
/// Requests from here on are told in bytes a second, shorter ones in requests.
const STREAM_BYTES: usize = 64 << 10;

/// What must be said with any figure.
pub const NOTE: &str = "Absolute figures say more about this machine than about uraid, and client \
                        and server share its CPUs: compare runs on one machine only.";

/// `uraid bench --json`. Fields may be added, never changed or removed.
#[derive(Serialize)]
pub struct Report {
    /// Version of uraid.
    pub version: &'static str,
    /// What the figures are good for.
    pub note: &'static str,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Where the members were.
    pub directory: String,
    /// Type of the filesystem there; of members that were named, that of the first one.
    pub filesystem: String,
    /// How members were read and written: "auto", "uring" or "threads".
    pub io: String,
    /// For each load in each round.
    pub seconds: f64,
    /// Rounds.
    pub rounds: u32,
    /// Whether arrays came to rest after writes, and that was charged to them.
    pub at_rest: bool,
    /// Each layout in each state.
    pub arrays: Vec<ArrayReport>,
}

/// One layout in one state.
#[derive(Serialize)]
pub struct ArrayReport {
    /// As it is typed.
    pub layout: String,
    /// "healthy", "degraded" or "rebuilding".
    pub state: &'static str,
    /// Members in all.
    pub members: usize,
    /// Size of the export.
    pub export_bytes: u64,
    /// Of them were written and read.
    pub driven_bytes: u64,
    /// What was measured.
    pub loads: Vec<LoadReport>,
}

/// One load over one number of connections.
#[derive(Serialize)]
pub struct LoadReport {
    /// What it is called.
    pub load: &'static str,
    /// Length of a request.
    pub request_bytes: usize,
    /// Requests under way on each connection.
    pub depth: usize,
    /// Connections.
    pub connections: usize,
    /// Medians of the rounds.
    pub median: Figures,
    /// Each round.
    pub rounds: Vec<Round>,
}

/// One round.
#[derive(Serialize)]
pub struct Round {
    /// What the client counted.
    #[serde(flatten)]
    pub drive: Drive,
    /// What follows from it.
    pub figures: Figures,
}

/// What is compared.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// MiB a second.
    pub mib_per_second: f64,
    /// Requests a second; a write with its FLUSH is one.
    pub requests_per_second: f64,
    /// The median of latencies in microseconds.
    pub p50_micros: f64,
    /// 99 of 100 took no longer.
    pub p99_micros: f64,
    /// 999 of 1000 took no longer.
    pub p999_micros: f64,
    /// CPU time of the server for each GiB read or written.
    pub cpu_seconds_per_gib: f64,
    /// Bytes written to members for each byte the client wrote, or null where it cannot be told.
    pub write_amplification: Option<f64>,
    /// Speed of the rebuild, or null where there is none.
    pub rebuild_mib_per_second: Option<f64>,
}

impl Report {
    /// Of all that was measured.
    pub fn new(plan: &Plan, directory: String, filesystem: String, all: &[Measured]) -> Report {
        let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned());
        Report {
            version: env!("CARGO_PKG_VERSION"),
            note: NOTE,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.unwrap_or_default(),
            directory,
            filesystem,
            io: plan.io_name(),
            seconds: plan.time.as_secs_f64(),
            rounds: plan.rounds,
            at_rest: plan.rest,
            arrays: all.iter().map(ArrayReport::new).collect(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut lines = vec![format!(
            "uraid {} on {} CPUs, Linux {}; members in {} ({}), io {}; {} s for each load, {}",
            self.version,
            self.cpus,
            self.kernel,
            self.directory,
            self.filesystem,
            self.io,
            self.seconds,
            count(self.rounds as usize, "round"),
        )];
        lines.push(self.note.to_string());
        for array in &self.arrays {
            lines.push(String::new());
            lines.push(array.heading());
            lines.push(array.table(self.rounds > 1));
        }
        lines.push(String::new());
        lines.push(self.legend());
        lines.join("\n")
    }

    fn legend(&self) -> String {
        let cpu = "CPU s/GiB: CPU time of the server for each GiB read or written.";
        let written = "written/byte: bytes written to members for each byte the client wrote.";
        let rest = if self.at_rest {
            "Both take in what the array does until it is at rest again, but not while it rebuilds."
        } else {
            "Without waiting until the array is at rest again, it cannot be told what a write takes \
             in all."
        };
        format!("{cpu}\n{written}\n{rest}")
    }
}

impl ArrayReport {
    fn new(measured: &Measured) -> ArrayReport {
        ArrayReport {
            layout: measured.layout.name(),
            state: measured.state.name(),
            members: measured.layout.members(),
            export_bytes: measured.export_bytes,
            driven_bytes: measured.driven_bytes,
            loads: measured.cells.iter().map(LoadReport::new).collect(),
        }
    }

    fn heading(&self) -> String {
        format!(
            "{}, {}: {}, {} driven",
            self.layout,
            self.state,
            count(self.members, "member"),
            show_size(self.driven_bytes)
        )
    }

    /// Columns that nothing is known for are left out.
    fn table(&self, spread: bool) -> String {
        let any =
            |of: fn(&Figures) -> Option<f64>| self.loads.iter().any(|l| of(&l.median).is_some());
        let written = any(|f| f.write_amplification);
        let rebuilt = any(|f| f.rebuild_mib_per_second);
        let mut header = vec!["load", "conns", "        rate"];
        header.extend(spread.then_some("least - most"));
        header.extend(["    p50", "    p99", "  p99.9", "CPU s/GiB"]);
        header.extend(written.then_some("written/byte"));
        header.extend(rebuilt.then_some("rebuild"));
        let rows: Vec<Vec<String>> = self
            .loads
            .iter()
            .map(|load| {
                let median = &load.median;
                let mut row = vec![load.load.to_string(), format!("{:>5}", load.connections)];
                row.push(format!("{:>12}", load.rate(median)));
                row.extend(spread.then(|| load.spread()));
                row.extend(
                    [median.p50_micros, median.p99_micros, median.p999_micros]
                        .map(|micros| format!("{:>7}", show_micros(micros))),
                );
                row.push(format!("{:>9}", digits(median.cpu_seconds_per_gib)));
                row.extend(written.then(|| {
                    let cell = median.write_amplification.map(|a| format!("{a:.2}"));
                    format!("{:>12}", cell.unwrap_or("-".to_string()))
                }));
                row.extend(rebuilt.then(|| {
                    let rate = median.rebuild_mib_per_second.unwrap_or_default();
                    format!("{rate:.0} MiB/s")
                }));
                row
            })
            .collect();
        table(&header, &rows)
    }
}

impl LoadReport {
    fn new(cell: &Cell) -> LoadReport {
        let round = |sample: &Sample| Round {
            drive: sample.drive,
            figures: Figures::of(sample),
        };
        let rounds: Vec<Round> = cell.samples.iter().map(round).collect();
        LoadReport {
            load: cell.case.name,
            request_bytes: cell.case.load.bytes,
            depth: cell.case.load.depth,
            connections: cell.connections,
            median: Figures::median(&rounds),
            rounds,
        }
    }

    /// Whether its rate is told in bytes rather than requests a second.
    pub fn is_stream(&self) -> bool {
        self.request_bytes >= STREAM_BYTES
    }

    /// The rate in the unit that suits the load.
    pub fn rate_of(&self, figures: &Figures) -> f64 {
        if self.is_stream() {
            figures.mib_per_second
        } else {
            figures.requests_per_second
        }
    }

    fn rate(&self, figures: &Figures) -> String {
        let unit = if self.is_stream() { "MiB/s" } else { "IOPS" };
        format!("{} {unit:<5}", digits(self.rate_of(figures)))
    }

    fn spread(&self) -> String {
        let mut rates: Vec<f64> = self
            .rounds
            .iter()
            .map(|r| self.rate_of(&r.figures))
            .collect();
        rates.sort_by(f64::total_cmp);
        let end = |rate: Option<&f64>| digits(rate.copied().unwrap_or_default());
        format!("{} - {}", end(rates.first()), end(rates.last()))
    }
}

impl Figures {
    fn of(sample: &Sample) -> Figures {
        let drive = &sample.drive;
        // A server that answers nothing for so long is an error; still, nothing divides by zero.
        let seconds = drive.seconds.max(1e-9);
        let latency = drive.latency;
        Figures {
            mib_per_second: drive.bytes() as f64 / MIB / seconds,
            requests_per_second: drive.requests as f64 / seconds,
            p50_micros: latency.p50_micros,
            p99_micros: latency.p99_micros,
            p999_micros: latency.p999_micros,
            cpu_seconds_per_gib: sample.cpu_seconds / (drive.bytes().max(1) as f64 / GIB),
            write_amplification: sample.write_amplification,
            rebuild_mib_per_second: sample.rebuilt_bytes_per_second.map(|bytes| bytes / MIB),
        }
    }

    /// Each figure's own median.
    fn median(rounds: &[Round]) -> Figures {
        let of = |figure: fn(&Figures) -> f64| {
            let all = rounds.iter().map(|r| figure(&r.figures)).collect();
            median(all).unwrap_or_default()
        };
        let of_some = |figure: fn(&Figures) -> Option<f64>| {
            median(rounds.iter().filter_map(|r| figure(&r.figures)).collect())
        };
        Figures {
            mib_per_second: of(|f| f.mib_per_second),
            requests_per_second: of(|f| f.requests_per_second),
            p50_micros: of(|f| f.p50_micros),
            p99_micros: of(|f| f.p99_micros),
            p999_micros: of(|f| f.p999_micros),
            cpu_seconds_per_gib: of(|f| f.cpu_seconds_per_gib),
            write_amplification: of_some(|f| f.write_amplification),
            rebuild_mib_per_second: of_some(|f| f.rebuild_mib_per_second),
        }
    }
}

/// The one in the middle, or the mean of the two there.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    let upper = figures.get(half)?;
    if figures.len() % 2 == 1 {
        return Some(*upper);
    }
    Some((figures[half - 1] + upper) / 2.0)
}

/// Three significant digits, or all digits before the point.
pub fn digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn show_micros(micros: f64) -> String {
    match micros {
        m if m < 999.5 => format!("{m:.0} µs"),
        m if m < 999_500.0 => format!("{} ms", digits(m / 1e3)),
        m => format!("{} s", digits(m / 1e6)),
    }
}

/// "1 connection", "4 connections".
pub fn connections(number: usize) -> String {
    count(number, "connection")
}

/// A number of things.
pub fn count(number: usize, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {what}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn figures_follow_from_what_was_counted() {
        let drive = Drive {
            requests: 1024,
            read_bytes: 3 << 20,
            written_bytes: 1 << 20,
            seconds: 2.0,
            ..Drive::default()
        };
        let figures = Figures::of(&Sample {
            drive,
            cpu_seconds: 0.5,
            write_amplification: Some(3.5),
            rebuilt_bytes_per_second: None,
        });
        assert_eq!(figures.mib_per_second, 2.0);
        assert_eq!(figures.requests_per_second, 512.0);
        assert_eq!(figures.cpu_seconds_per_gib, 128.0);
        assert_eq!(figures.write_amplification, Some(3.5));
    }

    #[test]
    fn times_read_well() {
        let shown = [0.4, 123.4, 1234.0, 45_678.0, 2_500_000.0].map(show_micros);
        assert_eq!(shown, ["0 µs", "123 µs", "1.23 ms", "45.7 ms", "2.50 s"]);
    }
}

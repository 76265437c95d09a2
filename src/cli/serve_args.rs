//! `uraid serve` as it is typed.

use super::alert_args::ServeAlertArgs;
use super::args::parse_name;
use super::steward_args::ServeStewardArgs;
use super::tls_args::ServeTlsArgs;
use crate::server::export::ExportOptions;
use crate::server::limits::{CONNECTIONS_DEFAULT, CONNECTIONS_LIMIT};
use crate::server::listen::Listen;
use crate::server::reader::READERS_LIMIT;
use crate::server::settings::{HEDGE_PERCENT_MAX, READ_WEIGHT_MAX};
use crate::sizes::{parse_latency as latency_nanos, parse_size};
use clap::{ArgAction, Args, ValueEnum, ValueHint};
use std::path::PathBuf;
use uraid_engine::api::ReadOptions;
use uraid_engine::status::ReadBalance;

/// `uraid serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid serve a.img b.img c.img d.img
  uraid serve --listen tcp:127.0.0.1:10809 --scan /srv/members
  uraid serve --config /etc/uraid
  uraid serve --scan /srv --export tank,max-connections=4 --export old,read-only,hidden
  uraid serve --listen tcp:0.0.0.0:10809 --tls-certificates /etc/uraid/tls --scan /srv/members
  qemu-img info 'nbd+unix:///demo?socket=/run/uraid/demo.nbd'

Once clients can connect, `ready NAME URI...` is printed on standard output; the log goes to
standard error. SIGTERM, SIGINT and `uraid stop` flush and stop cleanly; SIGHUP and `uraid upgrade`
make the server the program that is now on disk.

All arrays whose members are named or found are served, each as an export of its name, each with a
control socket of its own. Without --listen each has an NBD socket of its own too, where it is the
only export; places of --listen offer all arrays. The default export (the empty name) is the only
one that is not hidden, where there is only one. An array that cannot be served is logged and left
out, unless it is the only one. Sockets passed by systemd (LISTEN_FDS) take the place of the
default; one with FileDescriptorName=NAME offers the array NAME alone.")]
pub struct ServeArgs {
    /// Take options from this file, or from all files *.toml of a directory: each option is a key
    /// there, MEMBER is `members`; what is typed wins (see `uraid config`)
    #[arg(long, value_name = "FILE|DIR")]
    pub config: Option<PathBuf>,
    /// Where to listen: unix:PATH or tcp:HOST:PORT, port 0 takes a free one (repeatable)
    /// [default: unix:DIR/NAME.nbd, DIR being /run/uraid (root), $XDG_RUNTIME_DIR/uraid or
    /// /tmp/uraid-UID]
    #[arg(long, value_name = "ADDRESS", action = ArgAction::Append)]
    pub listen: Vec<Listen>,
    /// Control socket, or a directory where each array has NAME.control [default: beside the
    /// default NBD socket]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// How an array is offered: NAME, then any of read-only (clients may not write), hidden (not
    /// listed), tls (only over TLS), tls-client=NAME (only for clients that prove to have this name;
    /// more than once for several), max-connections=N, iops=N and bandwidth=SIZE (most requests and bytes
    /// a second), iops-burst=N and bandwidth-burst=SIZE (at once after a rest), description=TEXT (to the
    /// end), after commas (repeatable)
    #[arg(long, value_name = "NAME[,OPTION...]", action = ArgAction::Append)]
    pub export: Vec<ExportOptions>,
    /// Most clients at once, of all arrays together
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_DEFAULT,
          value_parser = parse_connections)]
    pub max_connections: usize,
    #[command(flatten)]
    pub tls: ServeTlsArgs,
    #[command(flatten)]
    pub alerts: ServeAlertArgs,
    #[command(flatten)]
    pub steward: ServeStewardArgs,
    /// Listen on TCP addresses that other hosts can reach even if TLS is not required: whoever
    /// connects may read and write, and nothing is encrypted
    #[arg(long)]
    pub insecure: bool,
    /// Write nothing to the members, serve whatever set of them can be read
    #[arg(long)]
    pub read_only: bool,
    /// Take every member found in this directory (repeatable)
    #[arg(long, value_name = "DIR", action = ArgAction::Append, value_hint = ValueHint::DirPath)]
    pub scan: Vec<PathBuf>,
    /// With --scan: the one array to serve
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
    /// Start what would be refused for safety, after saying what may be lost
    #[arg(long)]
    pub force: bool,
    /// Most memory the server takes, for all its arrays together [default: 384M for each array, and
    /// 13 bytes for each stripe that was written]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Share of the time that a rebuild takes while clients are at work, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 20,
          value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rebuild_share: u8,
    /// Bytes of a member that a rebuild fills in a second, whatever clients do, as far as members can;
    /// 0: none
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub rebuild_floor: u64,
    /// Bytes of a member that a rebuild fills in a second at most; 0: no limit
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub rebuild_ceiling: u64,
    /// Rebuilds and scrubs step back while 99 of 100 requests of clients take longer than this, like
    /// 5ms; 0: never
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_latency)]
    pub latency_target: Latency,
    /// Which copy is read where there are several: least-latency (the one that is expected to answer
    /// first), round-robin, weighted (by --read-weight) or address-hash
    #[arg(long, value_name = "HOW", default_value = ReadBalance::default().as_str(),
          value_parser = str::parse::<ReadBalance>)]
    pub read_balance: ReadBalance,
    /// Extra reads that may be made for late ones, of other members, in percent of all; 0: none
    #[arg(long, value_name = "PERCENT", default_value_t = ReadOptions::HEDGE_PERCENT,
          value_parser = clap::value_parser!(u8).range(..=i64::from(HEDGE_PERCENT_MAX)))]
    pub hedge_percent: u8,
    /// Read this member only when others cannot be (repeatable)
    #[arg(long, value_name = "MEMBER", action = ArgAction::Append)]
    pub write_mostly: Vec<PathBuf>,
    /// With --read-balance weighted: this member's share of the reads, beside 1 for each that is not
    /// named (repeatable)
    #[arg(long, value_name = "MEMBER=N", action = ArgAction::Append, value_parser = parse_weight)]
    pub read_weight: Vec<(PathBuf, u16)>,
    /// How members are read and written [default: uring where the kernel allows it]
    #[arg(long, value_name = "BACKEND", value_enum)]
    pub io: Option<IoBackend>,
    /// Threads that serve the clients of each array and read members by themselves; with 0 the
    /// array's one thread serves them as well [default: 0 with up to 3 cores, else all but two, at
    /// most 8]
    #[arg(long, value_name = "N", value_parser = parse_readers)]
    pub readers: Option<usize>,
    /// Do not verify blocks when they are read: only to measure what verification costs
    #[arg(long, hide = true)]
    pub skip_verification: bool,
    /// Serve, by HTTP, a page that shows how the arrays are, at /, and metrics for Prometheus, at
    /// /metrics: tcp:HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS", visible_alias = "page")]
    pub metrics: Option<Listen>,
    /// Also at an address that other hosts can reach: whoever connects sees both
    #[arg(long, requires = "metrics", visible_alias = "page-insecure")]
    pub metrics_insecure: bool,
    /// Look at the arguments and the certificates, and end: whether a server could become this
    /// program
    #[arg(long, hide = true)]
    pub trial: bool,
    /// Write the process id here once ready, remove it at the end
    #[arg(long, value_name = "PATH")]
    pub pidfile: Option<PathBuf>,
    /// Members, in any order
    #[arg(value_name = "MEMBER", required_unless_present_any = ["scan", "config"],
          value_hint = ValueHint::FilePath)]
    pub members: Vec<PathBuf>,
}

/// The choices of `--io`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoBackend {
    /// io_uring
    Uring,
    /// Threads and pread/pwrite
    Threads,
}

/// How long requests may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// In nanoseconds.
    pub nanos: u64,
}

fn parse_latency(text: &str) -> Result<Latency, String> {
    latency_nanos(text).map(|nanos| Latency { nanos })
}

fn parse_readers(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= READERS_LIMIT);
    number.ok_or_else(|| format!("a number up to {READERS_LIMIT}"))
}

fn parse_weight(text: &str) -> Result<(PathBuf, u16), String> {
    let (path, weight) = text.rsplit_once('=').ok_or("MEMBER=N is wanted")?;
    let weight = weight.parse().ok();
    let weight = weight.filter(|weight| (1..=READ_WEIGHT_MAX).contains(weight));
    let weight = weight.ok_or_else(|| format!("a weight from 1 to {READ_WEIGHT_MAX}"))?;
    Ok((path.into(), weight))
}

fn parse_connections(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    let number = number.filter(|number| (1..=CONNECTIONS_LIMIT).contains(number));
    number.ok_or_else(|| format!("a number from 1 to {CONNECTIONS_LIMIT}"))
}

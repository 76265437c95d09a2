//! `uraid bench` as it is typed.

use super::layout::Layout;
use crate::cli::args::{IoBackend, LevelName};
use crate::failure::Failure;
use crate::sizes::parse_size;
use clap::{ArgAction, Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Most connections of a load: each is a thread of the client.
const CONNECTIONS_MAX: u64 = 64;
/// Members of less data than this would be mostly journal.
const SIZE_BYTES_MIN: u64 = 64 << 20;

/// `uraid bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid bench                                   # three layouts, about two minutes
  uraid bench --quick --dir /dev/shm            # a few seconds, in memory
  uraid bench --layout raid6-4+2 --states healthy,degraded,rebuilding --svg bench.svg
  uraid bench --level raid5 /dev/sdb /dev/sdc /dev/sdd

Makes an array, fills it, and drives the real NBD socket of a real server from a process of its
own. Members are made in a fresh directory, and all that was made is removed again, after an
interrupt too. Members that are given and hold an array, a filesystem or a partition table are
refused without --force; what they held is gone afterwards, and so is the array.

Layouts are raid0xN, raid1xN, raid10xN, raid5-K+1, raid6-K+2 and rs-K+M, for N members, or K of
data and M of parity. Absolute figures depend on the machine, which client and server share:
compare figures of one machine, and runs that were done side by side.")]
pub struct BenchArgs {
    /// Where members are made, in a directory that is removed at the end [default: the current
    /// directory if it can be written to, else the system's temporary directory]
    #[arg(long, value_name = "DIR", conflicts_with = "members")]
    pub dir: Option<PathBuf>,
    /// Layouts, one after the other [default: raid1x2,raid5-4+1,raid6-4+2]
    #[arg(long, value_name = "LAYOUT,...", value_delimiter = ',', value_parser = Layout::parse,
          conflicts_with_all = ["level", "members"])]
    pub layout: Vec<Layout>,
    /// One layout: its level
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub level: Option<LevelName>,
    /// With --level: so many members, made for the purpose
    #[arg(long = "members", value_name = "N", requires = "level", conflicts_with = "members",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub count: Option<u16>,
    /// With --level rs: parity members [default: 2]
    #[arg(long, value_name = "M", requires = "level",
          value_parser = clap::value_parser!(u16).range(1..=8))]
    pub parity: Option<u16>,
    /// What the array is like meanwhile: healthy, degraded (as many members failed as it can do
    /// without), rebuilding (one member, over and over)
    #[arg(
        long,
        value_name = "STATE,...",
        value_enum,
        value_delimiter = ',',
        default_value = "healthy"
    )]
    pub states: Vec<State>,
    /// Data that is written, read and overwritten [default: 512M; --quick: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parse_data_size)]
    pub size: Option<u64>,
    /// Seconds for each load [default: 1; --quick: 0.2]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub seconds: Option<f64>,
    /// Rounds over all loads; medians are shown
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Connections of the client, one number after the other [default: 1,4; --quick: 1]
    #[arg(long, value_name = "N,...", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    pub connections: Vec<u64>,
    /// A few seconds, with less of everything, to see that it works: what the server does when it
    /// comes to rest after writing is not counted
    #[arg(long)]
    pub quick: bool,
    /// How members are read and written [default: uring where the kernel allows it]
    #[arg(long, value_name = "BACKEND", value_enum)]
    pub io: Option<IoBackend>,
    /// Draw a bar chart of the rates; an existing file is replaced
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Overwrite what MEMBERs hold
    #[arg(long, requires = "members", conflicts_with = "count")]
    pub force: bool,
    /// Files or block devices to be used; files that are not there are made, and removed at the end
    #[arg(value_name = "MEMBER", requires = "level", action = ArgAction::Append)]
    pub members: Vec<PathBuf>,
}

/// What an array is like while it is measured.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Every member is in sync
    Healthy,
    /// As many members have failed as the array can do without
    Degraded,
    /// A member is being filled
    Rebuilding,
}

impl State {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            State::Healthy => "healthy",
            State::Degraded => "degraded",
            State::Rebuilding => "rebuilding",
        }
    }
}

impl BenchArgs {
    /// The layouts to be measured; what cannot be is refused.
    pub fn layouts(&self) -> Result<Vec<Layout>, Failure> {
        let layouts = match self.level {
            Some(level) => {
                let given = (!self.members.is_empty()).then_some(self.members.len());
                let count = given.or(self.count.map(usize::from)).ok_or_else(|| {
                    Failure::usage("--level needs members: say --members N, or name them")
                })?;
                vec![Layout::of_level(level, count, self.parity).map_err(Failure::usage)?]
            }
            None if self.layout.is_empty() => Layout::defaults(),
            None => self.layout.clone(),
        };
        let broken = self.states.iter().find(|s| **s != State::Healthy);
        let brittle = layouts.iter().find(|l| l.losses() == 0);
        if let Some((state, layout)) = broken.zip(brittle) {
            return Err(Failure::usage(format!(
                "{} survives no failure, so it is never {}; leave out one of the two",
                layout.name(),
                state.name()
            )));
        }
        Ok(layouts)
    }

    /// Bytes that are written and read.
    pub fn size_bytes(&self) -> u64 {
        let default = if self.quick { 64 << 20 } else { 512 << 20 };
        self.size.unwrap_or(default)
    }

    /// Time for each load in each round.
    pub fn time(&self) -> Duration {
        let default = if self.quick { 0.2 } else { 1.0 };
        Duration::from_secs_f64(self.seconds.unwrap_or(default))
    }

    /// Numbers of connections, each once.
    pub fn connections(&self) -> Vec<usize> {
        let default: &[u64] = if self.quick { &[1] } else { &[1, 4] };
        let typed = if self.connections.is_empty() {
            default
        } else {
            &self.connections
        };
        let mut distinct: Vec<usize> = Vec::new();
        for number in typed.iter().map(|n| *n as usize) {
            if !distinct.contains(&number) {
                distinct.push(number);
            }
        }
        distinct
    }
}

fn parse_data_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes < SIZE_BYTES_MIN {
        return Err("less than 64M would be mostly journal".to_string());
    }
    Ok(bytes)
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok();
    let sensible = seconds.filter(|s| (0.05..=3600.0).contains(s));
    sensible.ok_or_else(|| "a number of seconds from 0.05 to 3600".to_string())
}

/// `uraid bench-client`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid bench-client < job.json

The client of `uraid bench`: reads a job as JSON, puts its load on a server, prints what came of it
as JSON.")]
pub struct BenchClientArgs {}

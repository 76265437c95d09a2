//! The command line of `uraid plan`.

use super::super::args::LevelName;
use crate::sizes::{parse_hours, parse_rate, parse_size};
use clap::Args;

/// `uraid plan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid plan --members 6 --size 8T                         # all layouts, compared
  uraid plan --level raid6 --members 6 --spares 1 --size 8T --used 60 --rebuild-rate 150M

Times are hours, or have a unit: 15s, 30m, 24h, 30d, 5y. Nothing is opened or changed.")]
pub struct PlanArgs {
    /// How members share the data [default: all ways there are, compared]
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub level: Option<LevelName>,
    /// Members, those in reserve not counted
    #[arg(long, value_name = "N")]
    pub members: usize,
    /// Size of each member
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: u64,
    /// Parity members (rs: 1 to 8)
    #[arg(long, value_name = "M", requires = "level")]
    pub parity: Option<u16>,
    /// Copies of each block (raid10)
    #[arg(long, value_name = "C", requires = "level")]
    pub copies: Option<u16>,
    /// Bytes on one member before the next one's turn [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub chunk: Option<u64>,
    /// Members in reserve: a rebuild begins without waiting for people
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub spares: usize,
    /// Mean time between failures of a member; large sites see 2 to 4 % fail in a year
    #[arg(long, value_name = "TIME", value_parser = parse_hours, default_value = "300000")]
    pub mtbf: f64,
    /// Speed of a rebuild, of each member
    #[arg(long, value_name = "SIZE/s", value_parser = parse_rate, default_value = "100M")]
    pub rebuild_rate: u64,
    /// Share of the array that holds data, in percent: only that is rebuilt
    #[arg(long, value_name = "PERCENT", default_value_t = 100,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub used: u8,
    /// From a failure to its being noticed
    #[arg(long, value_name = "TIME", value_parser = parse_hours, default_value = "15s")]
    pub detection_time: f64,
    /// From there to a new member in place, if there is no spare
    #[arg(long, value_name = "TIME", value_parser = parse_hours, default_value = "24h")]
    pub swap_time: f64,
    /// Bits that cannot be read, of each bit read: the disk's data sheet has it
    #[arg(long, value_name = "RATE", value_parser = parse_share, default_value = "1e-15")]
    pub ure_rate: f64,
    /// Blocks of a member that go bad unseen in a year
    #[arg(long, value_name = "NUMBER", value_parser = parse_number, default_value = "0.013")]
    pub latent_errors: f64,
    /// From one scrub to the next; what comes of never scrubbing is told as well
    #[arg(long, value_name = "TIME", value_parser = parse_hours, default_value = "30d")]
    pub scrub_interval: f64,
    /// How long members stay in service
    #[arg(long, value_name = "TIME", value_parser = parse_hours, default_value = "5y")]
    pub life: f64,
    /// Getting everything back from a backup [default: swap, then all at the rebuild's speed]
    #[arg(long, value_name = "TIME", value_parser = parse_hours)]
    pub restore_time: Option<f64>,
}

fn parse_number(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    let fits = number.filter(|n| n.is_finite() && *n >= 0.0);
    fits.ok_or_else(|| "a number that is not negative, like 0.013".to_string())
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = parse_number(text).ok().filter(|share| *share < 1.0);
    share.ok_or_else(|| "a share of all bits, like 1e-15".to_string())
}

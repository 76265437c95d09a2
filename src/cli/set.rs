//! `uraid set`: how a served array runs.

use super::args::{ServerArgs, WaitArgs};
use super::dry_run::DryRunArgs;
use super::orders;
use super::output::Output;
use crate::control::wire::{Order, SetBody};
use crate::failure::Failure;
use clap::Args;
use std::collections::BTreeMap;

/// `uraid set`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid set --name demo read-balance=round-robin hedge-percent=0
  uraid set --name demo --member 2 write-mostly=yes
  uraid set --name demo iops=500 bandwidth=100M
  uraid set --name demo rebuild-ceiling=50M latency-target=5ms

Of an array:
  read-balance   which copy is read: least-latency (the one that is expected to answer first),
                 round-robin, weighted (by read-weight), address-hash
  hedge-percent  extra reads that may be made for late ones, in percent of all; 0: none
  iops           requests that clients may make in a second, reads and writes together; 0: no limit
  bandwidth      bytes that they may read and write in a second, like 100M; 0: no limit
  iops-burst, bandwidth-burst
                 what may come at once after a rest; 0: as much as in a tenth of a second
  rebuild-share  share of the time that a rebuild takes while clients are at work, from 1 to 100
  rebuild-floor, rebuild-ceiling
                 bytes that it fills in a second at least, and at most, like 50M; 0: none
  scrub-rate     bytes of each member that the scrub under way reads in a second at most; 0: no limit
  latency-target rebuilds and scrubs step back while 99 of 100 requests of clients take longer, like
                 5ms; 0: never
Of a member:
  write-mostly   yes: it is read only when others cannot be; no
  read-weight    its share of the reads where they are weighted, from 1 to 1000

`uraid serve` has options for the same, which last.")]
pub struct SetArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Of a member: path, slot number or UUID
    #[arg(long, value_name = "MEMBER")]
    pub member: Option<String>,
    /// What is to be set, and to what
    #[arg(value_name = "NAME=VALUE", required = true, value_parser = parse_setting)]
    pub settings: Vec<(String, String)>,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    Ok((name.to_string(), value.to_string()))
}

/// Has the server change them.
pub fn run(args: &SetArgs, output: Output) -> Result<(), Failure> {
    let mut settings = BTreeMap::new();
    for (name, value) in &args.settings {
        if settings.insert(name.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("{name} is set twice")));
        }
    }
    let body = SetBody {
        member: args.member.as_deref().map(orders::member),
        settings,
    };
    let how = (WaitArgs::default(), args.dry_run);
    orders::carry_out(&args.server, how, &Order::Set(body), output)
}

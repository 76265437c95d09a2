//! `uraid attach` and `uraid detach`.

use super::output::Output;
use crate::attach::record::{Attachment, Way};
use crate::attach::{self, Keeper, Wanted};
use crate::failure::Failure;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// `uraid attach`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid attach tank
  uraid attach tank --mount /srv
  uraid attach nbd://10.0.0.7/tank

By the kernel's nbd driver where there is one (`modprobe nbd` is tried): a process in the
background gives the device new connections when the server comes back, so that a restart of the
server is a pause. Otherwise by nbdfuse, with a loop device over its file, through nbdkit where
that is installed: it connects anew as well. Without root there is only the file.

--mount mounts what is there; no filesystem is ever made. `uraid detach` undoes everything.")]
pub struct AttachArgs {
    /// Name of an array that is served on this host, or nbd://HOST:PORT/EXPORT, or
    /// nbd+unix:///EXPORT?socket=PATH
    #[arg(value_name = "NAME|URI")]
    pub target: String,
    /// Mount the filesystem there on this directory
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// How to attach [default: kernel where there is the driver and the right to
    /// use it, else nbdkit if it is installed, else nbdfuse]
    #[arg(long, value_name = "WAY", value_enum)]
    pub via: Option<Via>,
    /// Connections to the server [default: 4 if it says that it can, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub connections: Option<u16>,
    /// Kernel, several connections: seconds without an answer until a request is sent again on
    /// another connection; what a killed server had under way waits as long
    #[arg(long, value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Kernel, nbdkit: seconds that requests wait for a server that is away before they fail
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub dead_timeout: u64,
    /// Stay in the foreground; SIGTERM and SIGINT detach
    #[arg(long)]
    pub foreground: bool,
}

/// The choices of `--via`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// The kernel's nbd driver
    Kernel,
    /// nbdfuse and a loop device, through nbdkit's retry filter
    Nbdkit,
    /// nbdfuse, and a loop device where there is the right to make one
    Nbdfuse,
}

/// `uraid detach`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid detach tank
  uraid detach /dev/nbd0
  uraid detach /srv

Unmounts what `uraid attach` mounted, flushes, and ends the device. Refused while anything else
uses it.")]
pub struct DetachArgs {
    /// What was attached: its name, the device, the file or the mount point
    #[arg(value_name = "NAME|DEVICE|DIR")]
    pub what: String,
}

/// `uraid supervise`: what stays in the background after `uraid attach`.
#[derive(Args, Debug)]
#[command(after_help = "Example (it is started by `uraid attach`):\n  uraid supervise tank")]
pub struct SuperviseArgs {
    /// Name of the attachment
    pub name: String,
}

/// `uraid attach`.
pub fn attach(args: &AttachArgs, output: Output) -> Result<(), Failure> {
    let wanted = Wanted {
        target: args.target.clone(),
        mount: args.mount.clone(),
        way: args.via.map(|via| match via {
            Via::Kernel => Way::Kernel,
            Via::Nbdkit => Way::Nbdkit,
            Via::Nbdfuse => Way::Nbdfuse,
        }),
        connections: args.connections,
        timeout_seconds: args.timeout,
        dead_timeout_seconds: args.dead_timeout,
    };
    let (attachment, keeper) = attach::attach(&wanted, args.foreground, |text| output.note(text))?;
    output.result(&describe(&attachment), &attachment)?;
    match keeper {
        Keeper::Background => Ok(()),
        Keeper::Here(_) => attach::keep(&attachment, keeper),
    }
}

/// `uraid detach`.
pub fn detach(args: &DetachArgs, output: Output) -> Result<(), Failure> {
    let attachment = attach::detach(&args.what)?;
    output.done(&format!("{} is detached", attachment.name))
}

fn describe(attachment: &Attachment) -> String {
    let name = &attachment.name;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    match (
        path(&attachment.device),
        path(&attachment.file),
        path(&attachment.mount),
    ) {
        (Some(device), _, Some(mount)) => format!("{name} is {device}, mounted on {mount}"),
        (Some(device), _, None) => format!("{name} is {device}"),
        (None, Some(file), _) => format!("{name} is the file {file}"),
        (None, None, _) => panic!("an attachment is something"),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::args::Cli;
    use clap::Parser;

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            "uraid attach",
            "uraid attach tank --connections 0",
            "uraid attach tank --connections 17",
            "uraid attach tank --timeout 0",
            "uraid attach tank --via magic",
            "uraid detach",
            "uraid detach a b",
        ] {
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert_eq!(parsed.unwrap_err().exit_code(), 2, "{line}");
        }
    }
}

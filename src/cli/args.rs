//! The command line as it is typed; `uraid help` is generated from these definitions.

pub use super::alert_args::{AlertAction, AlertArgs};
pub use super::attach::{AttachArgs, DetachArgs, SuperviseArgs};
pub use super::bench::args::{BenchArgs, BenchClientArgs};
pub use super::config::args::ConfigArgs;
use super::dry_run::DryRunArgs;
pub use super::events_args::EventsArgs;
pub use super::examine::ExamineArgs;
pub use super::explain::ExplainArgs;
pub use super::generate::GenerateArgs;
pub use super::plan::args::PlanArgs;
pub use super::scrub_args::{ScrubAction, ScrubArgs, ScrubStatusArgs};
pub use super::serve_args::{IoBackend, ServeArgs};
pub use super::set::SetArgs;
pub use super::tls_args::{TlsAction, TlsArgs};
pub use super::top::args::TopArgs;
use crate::control::paths::check_name;
use crate::sizes::parse_size;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0  done (status: optimal)
  1  failed: an I/O error, a member too small, no server (status: failed; scrub, check: something
     is wrong and is still wrong)
  2  malformed arguments
  3  status only: degraded or rebuilding
  4  refused for safety; the message says what would help

Example, an array of four files that survives the loss of two:
  uraid create --level raid6 --name demo --size 1G a.img b.img c.img d.img
  uraid serve a.img b.img c.img d.img &
  nbdinfo 'nbd+unix:///demo?socket=/run/uraid/demo.nbd'
  uraid status
  uraid stop";

/// Software RAID as an NBD server: redundancy, checksums, online repair.
#[derive(Parser, Debug)]
#[command(name = "uraid", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make an array out of files or block devices
    Create(CreateArgs),
    /// What an array would hold, survive and cost (nothing is opened)
    Plan(PlanArgs),
    /// Serve arrays over NBD, in the foreground
    Serve(Box<ServeArgs>),
    /// Check or show the configuration files of `uraid serve`
    Config(ConfigArgs),
    /// Show how a served array is
    Status(StatusArgs),
    /// Show what arrays do, on a screen that keeps up
    Top(TopArgs),
    /// Show what happened to an array
    Events(EventsArgs),
    /// Try whether alerts arrive
    Alert(AlertArgs),
    /// Show what a member's superblocks say (offline, read only)
    Examine(ExamineArgs),
    /// Say why members will or will not make an array, and what to type (read only)
    Explain(ExplainArgs),
    /// Take a member out of service
    Fail(FailArgs),
    /// Forget a failed, missing or spare member
    Remove(RemoveArgs),
    /// Give an array a spare, or a former member back
    Add(AddArgs),
    /// Copy a member's role onto a new device while the old one serves
    Replace(ReplaceArgs),
    /// After a disk swap: find what is missing, rebuild it, wait until the array is whole
    Rebuild(RebuildArgs),
    /// Verify all that a served array holds, and repair what checksums prove
    Scrub(ScrubArgs),
    /// Verify an array that is not served (offline, read only)
    Check(CheckArgs),
    /// Flush and stop a server
    Stop(StopArgs),
    /// Have a server become the program that is now on disk
    Upgrade(UpgradeArgs),
    /// List the arrays that are being served (control sockets in the default directory)
    #[command(after_help = "Example:\n  uraid list --json")]
    List,
    /// Erase the superblocks of members
    Wipe(WipeArgs),
    /// Zero the error counters
    Clear(ClearArgs),
    /// Change how a served array runs, until its server ends
    Set(SetArgs),
    /// Make certificates and keys for encrypted connections
    Tls(TlsArgs),
    /// Make a block device of a served array on this host, and mount it
    Attach(AttachArgs),
    /// Undo an attach: unmount, end the device
    Detach(DetachArgs),
    /// Measure throughput and latency, and what they cost, on this machine
    Bench(BenchArgs),
    /// Put one load on a server
    #[command(hide = true)]
    BenchClient(BenchClientArgs),
    /// Keep an attached device up
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    /// Write the manual, or completions for shells: what packages are made of
    #[command(hide = true)]
    Generate(GenerateArgs),
}

/// Which server a command is for.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// Control socket of the server
    ///
    /// Default: that of --name, or of the only server running. Control sockets are
    /// NAME.control in /run/uraid (root), $XDG_RUNTIME_DIR/uraid or /tmp/uraid-UID.
    #[arg(long, value_name = "PATH", conflicts_with = "name")]
    pub control: Option<PathBuf>,
    /// Name of the array
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
}

/// `--wait`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct WaitArgs {
    /// Wait, with a progress bar, until no rebuild is left to do
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
}

/// `uraid create`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid create --level rs --parity 3 --name media --spare s.img --size 1G m{0,1,2,3,4,5,6}.img

Nothing is changed before all members are checked. Members that hold an array, a filesystem or
a partition table are refused without --force; mounted and locked ones are always refused.")]
pub struct CreateArgs {
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// How members share the data
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub level: LevelName,
    /// Name of the array, also the name of the NBD export [default: the level]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
    /// Parity members (rs: 1 to 8) [default: what the level says; rs: 2]
    #[arg(long, value_name = "M")]
    pub parity: Option<u16>,
    /// Copies of each block (raid10) [default: 2; raid1: one per member]
    #[arg(long, value_name = "C")]
    pub copies: Option<u16>,
    /// Bytes on one member before the next one's turn; a power of two from 4K to 4M
    /// [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub chunk: Option<u64>,
    /// Make members that do not exist, as sparse files of this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Size of the array, where it is to be less than would fit
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub export_size: Option<u64>,
    /// A member in reserve: takes over by itself when another one fails (repeatable)
    #[arg(long, value_name = "PATH", action = ArgAction::Append)]
    pub spare: Vec<PathBuf>,
    /// Overwrite what the members hold
    #[arg(long)]
    pub force: bool,
    /// Files or block devices
    #[arg(value_name = "MEMBER", required = true)]
    pub members: Vec<PathBuf>,
}

/// The levels of `--level`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[value(rename_all = "lower")]
pub enum LevelName {
    /// Stripes, no redundancy
    Raid0,
    /// Mirror: every member is a copy
    Raid1,
    /// Stripes of mirrors
    Raid10,
    /// One parity member
    Raid5,
    /// Two parity members
    Raid6,
    /// Reed-Solomon: --parity members
    Rs,
}

/// `uraid status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid status --name demo --watch

Exit code: 0 optimal, 3 degraded or rebuilding, 1 failed or no server.")]
pub struct StatusArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Show it anew every second until interrupted
    #[arg(long)]
    pub watch: bool,
}

/// `uraid fail`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid fail --name demo 2")]
pub struct FailArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Also when data becomes unavailable
    #[arg(long)]
    pub force: bool,
    /// Path, slot number or UUID
    pub member: String,
}

/// `uraid remove`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid remove --name demo /srv/members/c.img

With --copy a mirror has one copy less: of three-way it becomes two-way. It is the copy that it was
given last with `uraid add --copy`, and its member leaves, if it is there; all others must be in
service. Clients wait for a moment.")]
pub struct RemoveArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Also when it is in service
    #[arg(long)]
    pub force: bool,
    /// Give up the copy that the mirror (raid1) was given last
    #[arg(long, conflicts_with = "force")]
    pub copy: bool,
    /// Path, slot number or UUID
    #[arg(required_unless_present = "copy", conflicts_with = "copy")]
    pub member: Option<String>,
}

/// `uraid add`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid add --name demo --wait /srv/members/new.img

A former member of the array catches up with what changed since it left; anything else becomes
a spare, and takes the place of a missing member by itself. With --copy a mirror gets one more
copy: of two-way it becomes three-way. It must be whole; clients wait for a moment.")]
pub struct AddArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Overwrite what the device holds
    #[arg(long)]
    pub force: bool,
    /// Make it one more copy of a mirror (raid1)
    #[arg(long)]
    pub copy: bool,
    /// File or block device
    pub path: PathBuf,
}

/// `uraid replace`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid replace --name demo --wait 1 /srv/members/new.img")]
pub struct ReplaceArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Overwrite what the new device holds
    #[arg(long)]
    pub force: bool,
    /// The member to be replaced: path, slot number or UUID
    pub old: String,
    /// The new file or block device
    pub new: PathBuf,
}

/// `uraid rebuild`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid rebuild --name demo /srv/members/new.img
  uraid rebuild new.img --members a.img b.img c.img
  uraid rebuild --scan /srv/members

Without --members and --scan the array is being served; with them it is not, and is opened
here for as long as the rebuild takes. Without NEW a spare or a returned member is used.")]
pub struct RebuildArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// The new file or block device
    #[arg(value_name = "NEW")]
    pub new: Option<PathBuf>,
    /// Members of an array that is not being served; one that is blank is taken as NEW
    #[arg(long, value_name = "MEMBER", num_args = 1.., conflicts_with = "control")]
    pub members: Vec<PathBuf>,
    /// Take the members found in this directory (repeatable)
    #[arg(long, value_name = "DIR", action = ArgAction::Append, conflicts_with = "control")]
    pub scan: Vec<PathBuf>,
    /// Overwrite what NEW holds
    #[arg(long)]
    pub force: bool,
}

/// `uraid check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid check a.img b.img c.img d.img
  uraid check --scan /srv/members

Reads everything that `uraid scrub` would, of an array that is not being served, and writes
nothing: what a server would replay after a crash is replayed in memory. Members may be missing.

Exit code: 0 clean; 1 something is wrong, the text says what and what to do; 2 malformed
arguments; 4 refused, for instance because the array is being served: use `uraid scrub`.")]
pub struct CheckArgs {
    /// Take every member found in this directory (repeatable)
    #[arg(long, value_name = "DIR", action = ArgAction::Append)]
    pub scan: Vec<PathBuf>,
    /// With --scan: the array to check, where there are several
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
    /// Members, in any order
    #[arg(value_name = "MEMBER", required_unless_present = "scan")]
    pub members: Vec<PathBuf>,
}

/// `uraid stop`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  uraid stop --name demo")]
pub struct StopArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
}

/// `uraid upgrade`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid upgrade --name demo       # after the new program was installed

The server finishes the requests under way, flushes, and becomes the program that is now at its
path, with its arguments and what its configuration files say now, in the same process. Its sockets
stay open: who connects meanwhile waits, and clients that can reconnect go on. All arrays of the
server take part. If the new program cannot be executed or does not take the arguments, nothing
changes. SIGHUP does the same.")]
pub struct UpgradeArgs {
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `uraid wipe`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid wipe old.img

A member of an array with a valid superblock is refused without --force; one that is being
served is always refused.")]
pub struct WipeArgs {
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Also when it belongs to an array
    #[arg(long)]
    pub force: bool,
    /// Files or block devices
    #[arg(value_name = "MEMBER", required = true)]
    pub members: Vec<PathBuf>,
}

/// `uraid clear`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  uraid clear --name demo 2")]
pub struct ClearArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Path, slot number or UUID [default: all members]
    pub member: Option<String>,
}

pub(super) fn parse_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example_and_takes_json() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| c.get_name() != "list")
        {
            let help = command.clone().render_long_help().to_string();
            assert!(
                help.contains(&format!("\n  uraid {} ", command.get_name())),
                "{help}"
            );
        }
        for line in [
            "uraid list --json",
            "uraid --json status",
            "uraid examine --json a",
        ] {
            assert!(parse(line).unwrap().json, "{line}");
        }
    }

    #[test]
    fn malformed_lines_exit_with_2() {
        for line in [
            "uraid",
            "uraid frobnicate",
            "uraid create a b",
            "uraid create --level raid7 a b",
            "uraid create --level raid6",
            "uraid create --level raid6 --name a/b a b c d",
            "uraid create --level raid6 --chunk 64X a b c d",
            "uraid create --level raid6 --size -1 a b c d",
            "uraid serve",
            "uraid serve --listen unix: a",
            "uraid serve --listen tcp:localhost a",
            "uraid serve --io magic a",
            "uraid serve --config",
            "uraid config",
            "uraid config check a b",
            "uraid status --name a --control /b",
            "uraid fail",
            "uraid replace 1",
            "uraid set",
            "uraid set read-balance",
            "uraid serve --read-balance fastest a",
            "uraid serve --hedge-percent 101 a",
            "uraid serve --read-weight a a",
            "uraid serve --read-weight a=0 a",
            "uraid scrub",
            "uraid scrub begin",
            "uraid scrub start --rate-max fast",
            "uraid scrub start --rate-max 0",
            "uraid scrub status --wait --watch",
            "uraid fail 1 --wait --dry-run",
            "uraid scrub start --wait --dry-run",
            "uraid upgrade --dry-run",
            "uraid check",
            "uraid explain",
            "uraid plan",
            "uraid plan --members 6",
            "uraid plan --members 6 --size 1T --copies 2",
            "uraid plan --members 6 --size 1T --mtbf soon",
            "uraid plan --members 6 --size 1T --ure-rate 1",
            "uraid plan --members 6 --size 1T --used 101",
            "uraid alert",
            "uraid serve --alert-webhook ftp://x a",
            "uraid serve --alert-mail a,b a",
            "uraid events --follow a.img",
            "uraid events --severity loud",
            "uraid tls",
            "uraid tls init",
            "uraid tls init d --days 0",
            "uraid tls init d --days 40000",
            "uraid tls client d",
            "uraid tls psk f",
            "uraid bench a b",
            "uraid bench --layout raid5",
            "uraid bench --layout raid1x2 --level raid1 --members 2",
            "uraid bench --level raid1 --members 2 a b",
            "uraid bench --states whole",
            "uraid bench --size 1M",
            "uraid bench --seconds 0",
            "uraid bench --connections 0",
            "uraid bench --force --level raid1 --members 2",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(
            parse("uraid --help").unwrap_err().kind(),
            ErrorKind::DisplayHelp
        );
        assert_eq!(parse("uraid --help").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn create_is_read_as_typed() {
        let line = "uraid create --level rs --parity 3 --chunk 1M --size 2G --spare s --spare t \
                    a b c d e";
        let Command::Create(args) = parse(line).unwrap().command else {
            panic!("create")
        };
        assert_eq!(
            (args.level, args.parity, args.copies),
            (LevelName::Rs, Some(3), None)
        );
        assert_eq!((args.chunk, args.size), (Some(1 << 20), Some(2 << 30)));
        assert_eq!(
            (args.spare.len(), args.members.len(), args.force),
            (2, 5, false)
        );
    }

    #[test]
    fn rebuild_takes_the_new_disk_before_the_members() {
        let line = "uraid rebuild new --members a b c";
        let Command::Rebuild(args) = parse(line).unwrap().command else {
            panic!("rebuild")
        };
        assert_eq!(
            (args.new, args.members.len()),
            (Some(PathBuf::from("new")), 3)
        );
    }
}

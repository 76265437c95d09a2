//! Attaching an export to this host as a block device, and undoing that.
//!
//! ```text
//! attach --> record --> kernel: supervisor -- netlink (nbd_family) -- /dev/nbdN --.
//!                  '--> nbdfuse -- file -- loop device ----------------------------+--> mount
//! ```
//!
//! Each step is noted in the record before or as it is done, so that `detach` finds what there is
//! to undo whenever it was cut short.

mod connection;
mod device;
mod nbd_family;
mod nbdfuse;
mod nbdkit;
mod netlink;
pub mod record;
mod supervisor;
mod uri;

use crate::control::client::Client;
use crate::control::paths;
use crate::failure::{Doing, Failure};
use crate::server::reclaim;
use nbd_family::Driver;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, Uid};
use record::{Attachment, Records, Way};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use supervisor::Supervisor;
use uri::Uri;

/// Ending of the supervisor's log.
const LOG_SUFFIX: &str = ".attached.log";

/// How long a supervisor may take to end: the kernel first settles what is under way.
const SUPERVISOR_END_MAX: Duration = Duration::from_secs(60);

/// The line with which a supervisor reports that the device is there.
const READY: &str = "ready";

/// What is to be attached, and how.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name of an array served on this host, or a URI.
    pub target: String,
    /// Where to mount it.
    pub mount: Option<PathBuf>,
    /// How; none means the best there is.
    pub way: Option<Way>,
    /// Connections; none means as many as make sense.
    pub connections: Option<u16>,
    /// Kernel, several connections: when a request counts as lost.
    pub timeout_seconds: u64,
    /// Kernel: how long requests wait for the server to come back.
    pub dead_timeout_seconds: u64,
}

/// What keeps an attachment up.
pub enum Keeper {
    /// A process in the background.
    Background,
    /// This process, which has to call [`keep`].
    Here(Option<Box<Supervisor>>),
}

/// Attaches. `note` tells people what is being done.
pub fn attach(
    wanted: &Wanted,
    foreground: bool,
    note: impl Fn(&str),
) -> Result<(Attachment, Keeper), Failure> {
    let is_root = Uid::effective().is_root();
    let mount = wanted.mount.as_deref().map(mount_point).transpose()?;
    if mount.is_some() && !is_root {
        return Err(Failure::refused("--mount needs root"));
    }
    let (name, uri) = resolve(&wanted.target)?;
    let (way, driver) = choose_way(wanted.way, &uri, is_root, &note)?;
    let mut attachment = Attachment {
        name,
        uri: uri.to_string(),
        way,
        connections: wanted.connections,
        timeout_seconds: wanted.timeout_seconds,
        dead_timeout_seconds: wanted.dead_timeout_seconds,
        device: None,
        file: None,
        mount: None,
        pid: None,
        nbdkit_pid: None,
    };
    let records = Records::open()?;
    if foreground {
        // One that comes while we are at it is heeded at the end.
        block_signals()?;
    }
    records.claim(&attachment)?;
    let mut keeper = Keeper::Background;
    let result = make(&records, &mut attachment, driver, foreground, &mut keeper)
        .and_then(|()| mount_there(&records, &mut attachment, mount));
    match result {
        Ok(()) => Ok((attachment, keeper)),
        Err(failure) => {
            let undone = undo(&records, &attachment, keeper);
            let left = undone.err().map_or(String::new(), |left| {
                format!("; and it could not be undone: {left}")
            });
            let message = format!("{}{left}", failure.message);
            Err(Failure { message, ..failure })
        }
    }
}

/// Does what a background process would, until a signal comes. The attachment is undone then.
pub fn keep(attachment: &Attachment, keeper: Keeper) -> Result<(), Failure> {
    let records = Records::open()?;
    match keeper {
        Keeper::Background => Ok(()),
        Keeper::Here(Some(supervisor)) => {
            let leave = || leave(attachment);
            supervisor.run(leave)?;
            forget(&records, &attachment.name)
        }
        Keeper::Here(None) => {
            let set = block_signals()?;
            loop {
                set.wait().doing(|| "wait for a signal".to_string())?;
                match undo(&records, attachment, Keeper::Here(None)) {
                    Ok(()) => return Ok(()),
                    Err(failure) => crate::server::log::warning(&failure.message),
                }
            }
        }
    }
}

/// Undoes an attachment: the record `what` speaks of by name, device, file or mount point.
pub fn detach(what: &str) -> Result<Attachment, Failure> {
    let records = Records::open()?;
    let attachment = records.find(what)?;
    undo(&records, &attachment, Keeper::Background)?;
    Ok(attachment)
}

/// The supervisor in the background: makes the device, says so, and keeps it up.
pub fn supervise(name: &str) -> Result<(), Failure> {
    // A leader of its group would be refused, but is not one: it was just started.
    let _ = nix::unistd::setsid();
    let records = Records::open()?;
    let mut attachment = records.load(name)?;
    let supervisor = start_supervisor(&records, &mut attachment, Driver::find()?)?;
    writeln!(std::io::stdout(), "{READY}").doing(|| "report to uraid attach".to_string())?;
    // What it mounted afterwards is in the record by the time it is asked to leave.
    supervisor.run(|| records.load(name).and_then(|now| leave(&now)))
}

/// Has the signals that would end this thread wait until they are taken.
fn block_signals() -> Result<SigSet, Failure> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    set.thread_block().doing(|| "block signals".to_string())?;
    Ok(set)
}

/// The array's or export's name, and where the server is.
fn resolve(target: &str) -> Result<(String, Uri), Failure> {
    if target.contains("://") {
        let uri: Uri = target.parse().map_err(Failure::usage)?;
        let name = match uri.export.as_str() {
            "" => "default".to_string(),
            export => export.to_string(),
        };
        let usable = paths::check_name(&name);
        return match usable {
            Ok(()) => Ok((name, uri)),
            Err(why) => Err(Failure::usage(format!("the export's name: {why}"))),
        };
    }
    paths::check_name(target).map_err(Failure::usage)?;
    let status = Client::new(paths::control_path(target)).status()?;
    let uris = status.uris.iter().filter_map(|uri| uri.parse::<Uri>().ok());
    // Sockets in the file system first: nothing is faster.
    let best = uris.min_by_key(|uri| (uri.tls, matches!(uri.place, uri::Place::Tcp(..))));
    let uri = best.ok_or_else(|| {
        Failure::failed(format!(
            "the server of {target} names no place to connect to"
        ))
    })?;
    Ok((target.to_string(), uri))
}

/// An absolute path, for it is looked up later and from elsewhere.
fn mount_point(directory: &Path) -> Result<PathBuf, Failure> {
    let path = fs::canonicalize(directory).doing(|| format!("mount on {}", directory.display()))?;
    match path.is_dir() {
        true => Ok(path),
        false => Err(Failure::usage(format!(
            "{} is no directory",
            path.display()
        ))),
    }
}

fn choose_way(
    wanted: Option<Way>,
    uri: &Uri,
    is_root: bool,
    note: &impl Fn(&str),
) -> Result<(Way, Option<Driver>), Failure> {
    let why_not = if matches!(wanted, Some(Way::Nbdfuse | Way::Nbdkit)) {
        "as asked for".to_string()
    } else if uri.tls {
        "the kernel's nbd driver does not speak TLS".to_string()
    } else if !is_root {
        "the kernel's nbd driver and loop devices need root".to_string()
    } else {
        match Driver::find() {
            Ok(driver) => {
                note("attaching by the kernel's nbd driver; restarts of the server are pauses");
                return Ok((Way::Kernel, Some(driver)));
            }
            Err(failure) => failure.message,
        }
    };
    if wanted == Some(Way::Kernel) {
        return Err(Failure::failed(why_not));
    }
    let loop_device = if is_root { " and a loop device" } else { "" };
    let way = wanted.unwrap_or(match nbdkit::is_installed() {
        true => Way::Nbdkit,
        false => Way::Nbdfuse,
    });
    let (through, restarts) = match way {
        Way::Nbdkit => (" through nbdkit", "restarts of the server are pauses"),
        _ => (
            "",
            "stop using it before the server stops, or install nbdkit: nbdfuse alone does not \
             connect anew",
        ),
    };
    note(&format!(
        "attaching by nbdfuse{through}{loop_device} ({why_not}); {restarts}"
    ));
    Ok((way, None))
}

fn make(
    records: &Records,
    attachment: &mut Attachment,
    driver: Option<Driver>,
    foreground: bool,
    keeper: &mut Keeper,
) -> Result<(), Failure> {
    match (driver, foreground) {
        (Some(driver), true) => {
            let supervisor = start_supervisor(records, attachment, driver)?;
            *keeper = Keeper::Here(Some(Box::new(supervisor)));
            Ok(())
        }
        (Some(_), false) => spawn_supervisor(records, attachment),
        (None, _) => {
            if foreground {
                *keeper = Keeper::Here(None);
            }
            // nbdfuse inherits this; locked memory it would not.
            reclaim::do_not_wait_for_writeback();
            nbdfuse::start(records, attachment)
        }
    }
}

fn start_supervisor(
    records: &Records,
    attachment: &mut Attachment,
    driver: Driver,
) -> Result<Supervisor, Failure> {
    // What waits for memory while it keeps a disk going may wait for that disk.
    reclaim::prepare();
    let supervisor = Supervisor::start(driver, attachment)?;
    attachment.device = Some(supervisor.device());
    attachment.connections = Some(supervisor.connections());
    attachment.pid = Some(std::process::id());
    records.save(attachment)?;
    Ok(supervisor)
}

/// Starts the supervisor in the background and waits until the device is there.
fn spawn_supervisor(records: &Records, attachment: &mut Attachment) -> Result<(), Failure> {
    let log = records.beside(&attachment.name, LOG_SUFFIX);
    let errors = File::create(&log).doing(|| format!("create {}", log.display()))?;
    let program = std::env::current_exe().doing(|| "find this program".to_string())?;
    let mut child = Command::new(program)
        .args(["supervise", &attachment.name])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .doing(|| "start the supervisor".to_string())?;
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    output
        .read_line(&mut line)
        .doing(|| "hear from the supervisor".to_string())?;
    if line.trim_end() == READY {
        *attachment = records.load(&attachment.name)?;
        return Ok(());
    }
    let status = child
        .wait()
        .doing(|| "wait for the supervisor".to_string())?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    let said = said.lines().last().unwrap_or_default();
    let said = said.strip_prefix("uraid: ").unwrap_or(said);
    Err(Failure::failed(match said {
        "" => format!("the supervisor ended with {status}"),
        said => said.to_string(),
    }))
}

fn mount_there(
    records: &Records,
    attachment: &mut Attachment,
    mount: Option<PathBuf>,
) -> Result<(), Failure> {
    let (Some(directory), Some(device)) = (mount, attachment.device.clone()) else {
        return Ok(());
    };
    device::mount(&device, &directory)?;
    attachment.mount = Some(directory);
    records.save(attachment)
}

/// What comes before the end of a device: unmount it, see that nobody else uses it.
fn leave(attachment: &Attachment) -> Result<(), Failure> {
    let device = attachment.device.as_deref();
    if let Some(directory) = &attachment.mount {
        device::unmount(device, directory)?;
    }
    device.map_or(Ok(()), device::settle)
}

/// In the opposite order of making it.
fn undo(records: &Records, attachment: &Attachment, keeper: Keeper) -> Result<(), Failure> {
    if let Some(directory) = &attachment.mount {
        device::unmount(attachment.device.as_deref(), directory)?;
    }
    match (attachment.way, keeper) {
        (Way::Nbdfuse | Way::Nbdkit, _) => nbdfuse::stop(records, attachment)?,
        (Way::Kernel, Keeper::Here(Some(supervisor))) => {
            leave(attachment)?;
            supervisor.disconnect()?;
        }
        (Way::Kernel, _) => end_device(attachment)?,
    }
    forget(records, &attachment.name)
}

fn forget(records: &Records, name: &str) -> Result<(), Failure> {
    let _ = fs::remove_file(records.beside(name, LOG_SUFFIX));
    match records.load(name) {
        Ok(_) => records.remove(name),
        Err(_) => Ok(()), // the supervisor was faster
    }
}

/// Has the supervisor end the device; does so in its place if it is gone.
fn end_device(attachment: &Attachment) -> Result<(), Failure> {
    let Some(device) = &attachment.device else {
        return Ok(());
    };
    let digits = device.to_string_lossy();
    let digits = digits.strip_prefix("/dev/nbd").unwrap_or_default();
    let index: u32 = digits
        .parse()
        .doing(|| format!("understand the device {}", device.display()))?;
    let mut driver = Driver::find()?;
    let mut is_connected = || {
        let connected = driver.is_connected(index);
        connected.doing(|| format!("ask for the state of {}", device.display()))
    };
    if !is_connected()? {
        return Ok(());
    }
    leave(attachment)?;
    let supervisor = attachment
        .pid
        .filter(|pid| is_supervisor(*pid, &attachment.name));
    if let Some(pid) = supervisor {
        let pid_number = Pid::from_raw(pid.cast_signed());
        kill(pid_number, Signal::SIGTERM).doing(|| format!("end the supervisor {pid}"))?;
        device::within(SUPERVISOR_END_MAX, || !is_supervisor(pid, &attachment.name));
    }
    if !is_connected()? {
        return Ok(());
    }
    let ended = driver.disconnect(index);
    ended.doing(|| format!("disconnect {}", device.display()))
}

/// Whether the process is the one that keeps `name` up, and not another of the same number.
fn is_supervisor(pid: u32, name: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let has = |word: &str| words.contains(&word.as_bytes());
    has("supervise") && has(name) || has("attach") && has("--foreground")
}

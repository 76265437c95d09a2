//! The way without a driver in the kernel: nbdfuse shows the export as a file, a loop device
//! makes a block device of that where there is the right to.

use super::connection::Connection;
use super::device::{self, missing, run, within};
use super::nbdkit;
use super::record::{Attachment, Records, Way};
use super::uri::Uri;
use crate::failure::{Doing, Failure};
use crate::server::listen::unix_uri;
use nix::unistd::Uid;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use uraid_nbd::wire::transmission_flag;

/// Ending of the file that nbdfuse mounts the export on.
const FILE_SUFFIX: &str = ".disk";
/// Ending of the file with what nbdfuse has to say.
const LOG_SUFFIX: &str = ".nbdfuse.log";

/// Ending of nbdkit's socket.
const NBDKIT_SUFFIX: &str = ".nbdkit";
/// Ending of the file with what nbdkit has to say.
const NBDKIT_LOG_SUFFIX: &str = ".nbdkit.log";

/// Connections when nobody says how many and the server allows several.
const CONNECTIONS: u16 = 4;

/// How long nbdfuse may take until the file is there.
const START_MAX: Duration = Duration::from_secs(30);
/// How long nbdfuse may take to end once nobody uses the file.
const END_MAX: Duration = Duration::from_secs(30);

/// Starts nbdfuse and makes a loop device, and notes down each step as it is done.
pub fn start(records: &Records, attachment: &mut Attachment) -> Result<(), Failure> {
    if !Path::new("/dev/fuse").exists() {
        return Err(Failure::failed(
            "there is no /dev/fuse, which nbdfuse needs: `modprobe fuse`, or attach on another host",
        ));
    }
    let uri: Uri = attachment.uri.parse().map_err(Failure::usage)?;
    // Ours says better than nbdfuse why a server cannot be used; but it does not know TLS.
    let info = match uri.tls {
        false => Some(Connection::open(&uri)?.info),
        true => None,
    };
    let several = info.is_none_or(|info| info.flags & transmission_flag::CAN_MULTI_CONN != 0);
    let connections = match attachment.connections {
        Some(n) if n > 1 && !several => {
            return Err(Failure::usage(
                "this export is for one connection at a time; leave out --connections",
            ));
        }
        wanted => wanted.unwrap_or(if several { CONNECTIONS } else { 1 }),
    };
    let file = records.beside(&attachment.name, FILE_SUFFIX);
    create(&file)?;
    attachment.connections = Some(connections);
    attachment.file = Some(file.clone());
    records.save(attachment)?;

    let mut uri = attachment.uri.clone();
    if attachment.way == Way::Nbdkit {
        let socket = records.beside(&attachment.name, NBDKIT_SUFFIX);
        let log = records.beside(&attachment.name, NBDKIT_LOG_SUFFIX);
        let patience = attachment.dead_timeout_seconds;
        attachment.nbdkit_pid = Some(nbdkit::start(&socket, &uri, patience, &log)?);
        records.save(attachment)?;
        uri = unix_uri(&socket, "");
    }
    let log = records.beside(&attachment.name, LOG_SUFFIX);
    let mut child = spawn(connections, &file, &uri, &log)?;
    attachment.pid = Some(child.id());
    records.save(attachment)?;
    wait_until_mounted(&mut child, &file, &log)?;

    if Uid::effective().is_root() {
        let read_only = info.is_some_and(|i| i.flags & transmission_flag::READ_ONLY != 0);
        attachment.device = Some(make_loop_device(&file, read_only)?);
        records.save(attachment)?;
    }
    Ok(())
}

/// The mount point must be a file, and empty, for its size to tell when nbdfuse is ready.
fn create(file: &Path) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let created = options.open(file);
    created
        .map(drop)
        .doing(|| format!("create {}", file.display()))
}

fn spawn(connections: u16, file: &Path, uri: &str, log: &Path) -> Result<Child, Failure> {
    let output = File::create(log).doing(|| format!("create {}", log.display()))?;
    let errors = output.try_clone().doing(|| "share the log".to_string())?;
    Command::new("nbdfuse")
        .args(["-C", &connections.to_string()])
        .arg(file)
        .arg(uri)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // Out of reach of Ctrl-C in the terminal it was started from.
        .process_group(0)
        .spawn()
        .map_err(|error| missing("nbdfuse", "nbdfuse (older releases: libnbd-bin)", &error))
}

fn wait_until_mounted(child: &mut Child, file: &Path, log: &Path) -> Result<(), Failure> {
    let mut ended = None;
    let is_there = within(START_MAX, || {
        ended = child.try_wait().unwrap_or_default();
        ended.is_some() || fs::metadata(file).is_ok_and(|meta| meta.len() > 0)
    });
    if is_there && ended.is_none() {
        return Ok(());
    }
    // Nothing is mounted yet that could suffer.
    let _ = child.kill();
    let _ = child.wait();
    let said = fs::read_to_string(log).unwrap_or_default();
    let said = said.lines().last().unwrap_or("it said nothing");
    Err(Failure::failed(match ended {
        Some(status) => format!("nbdfuse could not show the export as a file ({status}): {said}"),
        None => format!("nbdfuse has not come up within {START_MAX:?}: {said}"),
    }))
}

/// With O_DIRECT underneath: otherwise everything would be cached twice, and reads after a
/// repair would come from the old copy.
fn make_loop_device(file: &Path, read_only: bool) -> Result<PathBuf, Failure> {
    let mut args = vec!["--find", "--show", "--direct-io=on"];
    if read_only {
        args.push("--read-only");
    }
    let file = file.to_str().expect("our own path, of ASCII names");
    args.push(file);
    let device = run("losetup", "mount", &args)?;
    if !read_only {
        // A number that was read-only before stays so on some kernels.
        run("blockdev", "util-linux", ["--setrw", &device])?;
    }
    Ok(PathBuf::from(device))
}

/// Undoes what [`start`] did, as far as it got. Refused while the device is in use.
pub fn stop(records: &Records, attachment: &Attachment) -> Result<(), Failure> {
    let Some(file) = &attachment.file else {
        return Ok(());
    };
    if let Some(loop_device) = attachment.device.as_ref().filter(|d| attachment.has(d)) {
        device::settle(loop_device)?;
        run("losetup", "mount", ["-d".as_ref(), loop_device.as_os_str()])?;
    }
    unmount(file)?;
    if let Some(pid) = attachment.pid {
        // It ends by itself, after its last flush.
        let path = format!("/proc/{pid}/comm");
        let lives = || fs::read_to_string(&path).is_ok_and(|name| name.trim() == "nbdfuse");
        if !within(END_MAX, || !lives() || is_zombie(pid)) {
            return Err(Failure::failed(format!(
                "nbdfuse (process {pid}) does not end; does the server answer?"
            )));
        }
    }
    if let Some(pid) = attachment.nbdkit_pid {
        nbdkit::stop(pid, &records.beside(&attachment.name, NBDKIT_SUFFIX))?;
    }
    for suffix in [LOG_SUFFIX, NBDKIT_LOG_SUFFIX] {
        let _ = fs::remove_file(records.beside(&attachment.name, suffix));
    }
    fs::remove_file(file).doing(|| format!("remove {}", file.display()))
}

/// A loop device may let go of the file a moment after it was told to.
fn unmount(file: &Path) -> Result<(), Failure> {
    const TRIES_FOR: Duration = Duration::from_secs(10);
    let is_mounted = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let place = format!(" {} ", file.display());
        table.contains(&place)
    };
    let mut last = Ok(String::new());
    within(TRIES_FOR, || {
        if !is_mounted() {
            return true;
        }
        last = run("fusermount3", "fuse3", ["-u".as_ref(), file.as_os_str()]);
        last.is_ok()
    });
    if is_mounted() { last.map(drop) } else { Ok(()) }
}

/// It may be our own child, which nobody has waited for.
fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") Z ")
}

//! Block devices, mounts and the programs that make them.

use crate::failure::{Exit, Failure};
use crate::server::log;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at something that takes its time.
const POLL: Duration = Duration::from_millis(20);

/// Polls until `done`, at most so long. Returns whether it came true.
pub fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Runs a program to its end and returns what it printed. `package` says where it comes from.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    package: &str,
    args: impl IntoIterator<Item = A>,
) -> Result<String, Failure> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env("LC_ALL", "C");
    let ran = command
        .output()
        .map_err(|error| missing(program, package, &error))?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).trim().to_string());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(Failure::failed(format!("{program}: {}", said.trim())))
}

/// Why a program did not start, and what to install.
pub fn missing(program: &str, package: &str, error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => Failure::failed(format!(
            "{program} is not installed; on Debian and Ubuntu it is in the package {package}"
        )),
        _ => Failure::failed(format!("cannot start {program}: {error}")),
    }
}

/// Takes a device for us alone for a moment, and makes what was written to it durable. Refused
/// while it is mounted, a member of something, or swap. That the server is gone for good is no
/// reason to refuse: then there is nothing to wait for.
pub fn settle(device: &Path) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    let open = options
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(device);
    let file = open.map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => {
            let mounts = mounts_of(device);
            let mounts: Vec<_> = mounts.iter().map(|p| p.display().to_string()).collect();
            Failure::refused(format!(
                "{} is in use{}; end that first",
                device.display(),
                match mounts[..] {
                    [] => String::new(),
                    _ => format!(" (mounted on {})", mounts.join(", ")),
                }
            ))
        }
        _ => Failure::failed(format!("cannot open {}: {error}", device.display())),
    })?;
    if let Err(error) = file.sync_all() {
        log::warning(&format!(
            "{}: what was written last may be lost: {error}",
            device.display()
        ));
    }
    Ok(())
}

/// Waits until the device is there in its full size.
pub fn wait_for(device: &Path, size_bytes: u64) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let is_there = || File::open(device).is_ok_and(|file| size_of(&file) == size_bytes);
    if within(PATIENCE, is_there) {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{} has not appeared with {size_bytes} bytes; is udev running?",
        device.display()
    )))
}

fn size_of(mut file: &File) -> u64 {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::End(0)).unwrap_or(0)
}

/// Mounts the filesystem that is on the device; never makes one.
pub fn mount(device: &Path, directory: &Path) -> Result<(), Failure> {
    let probe = Command::new("blkid")
        .args(["-p", "-o", "value", "-s", "USAGE"])
        .arg(device)
        .stdin(Stdio::null())
        .output();
    // Without blkid it is for mount to find out.
    if probe.is_ok_and(|ran| ran.status.code() == Some(NOTHING_FOUND)) {
        return Err(no_filesystem(device));
    }
    run(
        "mount",
        "mount",
        [device.as_os_str(), directory.as_os_str()],
    )
    .map(drop)
}

/// What blkid exits with when a device shows no sign of a filesystem.
const NOTHING_FOUND: i32 = 2;

fn no_filesystem(device: &Path) -> Failure {
    Failure::refused(format!(
        "there is no filesystem on {}, and none is made by itself: attach without --mount, make \
         one (mkfs.ext4 DEVICE), then mount it",
        device.display()
    ))
}

/// Unmounts what we mounted, unless somebody has done so already.
pub fn unmount(device: Option<&Path>, directory: &Path) -> Result<(), Failure> {
    let is_ours = |d: &Path| mounts_of(d).iter().any(|mount| mount == directory);
    if !device.is_some_and(is_ours) {
        return Ok(());
    }
    run("umount", "mount", [directory])
        .map(drop)
        .map_err(|failure| Failure {
            exit: Exit::Refused,
            ..failure
        })
}

/// Where a device is mounted.
pub fn mounts_of(device: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse_mounts(&table, &device.to_string_lossy())
}

/// Mount points of `source` in a `mountinfo` (proc_pid_mountinfo(5)).
fn parse_mounts(table: &str, source: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let directory = before.split(' ').nth(4)?;
        let from = after.split(' ').nth(1)?;
        (unescape(from) == source).then(|| PathBuf::from(unescape(directory)))
    };
    table.lines().filter_map(mount).collect()
}

/// Undoes the octal escapes of spaces, tabs, line ends and backslashes.
fn unescape(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    escapes
        .iter()
        .fold(field.to_string(), |text, (code, c)| text.replace(code, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_device() {
        let table = "\
36 35 98:0 / /mnt/my\\040disk rw,noatime master:1 - ext4 /dev/nbd0 rw,errors=continue
37 35 98:1 / /srv rw - xfs /dev/nbd1 rw
38 35 98:0 /sub /bind rw shared:2 - ext4 /dev/nbd0 rw
39 35 0:5 / /proc rw - proc proc rw
";
        let found = parse_mounts(table, "/dev/nbd0");
        assert_eq!(found, [Path::new("/mnt/my disk"), Path::new("/bind")]);
        assert!(parse_mounts(table, "/dev/nbd2").is_empty());
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let failure = run("uraid-no-such-program", "the-package", [""; 0]).unwrap_err();
        assert!(
            failure.message.contains("uraid-no-such-program")
                && failure.message.contains("the-package"),
            "{failure}"
        );
    }
}

//! Where members are: directories that are removed again, and what they are on.

use crate::failure::{Doing, Failure};
use crate::sizes::show_size;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, mkdtemp};
use std::fs;
use std::path::{Path, PathBuf};

/// Beside members there is a little else: logs, metadata of the filesystem.
const RESERVE_BYTES: u64 = 16 << 20;

/// A fresh directory, removed with all that is in it when dropped.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one in `parent`.
    pub fn new(parent: &Path) -> Result<Scratch, Failure> {
        let what = || format!("make a directory in {}", parent.display());
        let parent = parent.canonicalize().doing(what)?;
        let template = format!("uraid-bench-{}", "X".repeat(6));
        let path = mkdtemp(&parent.join(template)).doing(what)?;
        Ok(Scratch { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("uraid: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// The current directory if it can be written to, else the system's temporary directory.
pub fn default_parent() -> PathBuf {
    let here = PathBuf::from(".");
    match access(&here, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => here,
        Err(_) => std::env::temp_dir(),
    }
}

/// Refuses a file that could not be written.
pub fn check_writable(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        let text = format!("{} is a directory; name a file", path.display());
        return Err(Failure::failed(text));
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let target = if path.exists() {
        path
    } else {
        parent.unwrap_or(Path::new("."))
    };
    access(target, AccessFlags::W_OK).doing(|| format!("write {}", path.display()))
}

/// Refuses to fill a filesystem.
pub fn check_room(directory: &Path, needed_bytes: u64) -> Result<(), Failure> {
    let room = statvfs(directory).doing(|| format!("look at {}", directory.display()))?;
    let free_bytes = room.blocks_available() * room.fragment_size();
    if free_bytes >= needed_bytes + RESERVE_BYTES {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{} has {} free, the members need {}; say another place with --dir, or less with --size",
        directory.display(),
        show_size(free_bytes),
        show_size(needed_bytes)
    )))
}

/// Type of the filesystem that holds `path`, as `mount` calls it; "unknown" if nothing says it.
pub fn filesystem(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.canonicalize().unwrap_or(path.to_path_buf());
    filesystem_in(&mounts, &path).unwrap_or_else(|| "unknown".to_string())
}

/// The mount that is deepest holds the path; of several there, the last one.
fn filesystem_in(mounts: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        // Spaces in paths are written in octal.
        let point = PathBuf::from(place.split(' ').nth(4)?.replace("\\040", " "));
        let kind = kind.split(' ').next()?.to_string();
        path.starts_with(&point)
            .then(|| (point.components().count(), kind))
    };
    let deepest = mounts.lines().filter_map(mount);
    deepest
        .max_by_key(|(depth, _)| *depth)
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_counts() {
        let mounts = "\
22 1 252:1 / / rw,relatime - ext4 /dev/vda1 rw
23 22 0:20 / /dev rw shared:2 - devtmpfs udev rw
24 23 0:21 / /dev/shm rw,nosuid - tmpfs tmpfs rw
25 22 0:30 / /my\\040disk rw - xfs /dev/vdb rw";
        for (path, kind) in [
            ("/srv/x", "ext4"),
            ("/dev/shm/y", "tmpfs"),
            ("/dev/shmoo", "devtmpfs"),
            ("/my disk/z", "xfs"),
        ] {
            let found = filesystem_in(mounts, Path::new(path));
            assert_eq!(found.as_deref(), Some(kind), "{path}");
        }
        assert_eq!(filesystem_in("", Path::new("/")), None);
    }

    #[test]
    fn a_scratch_directory_goes_with_all_that_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        fs::write(scratch.path().join("member"), "x").unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        let failure = check_room(Path::new("/"), u64::MAX / 2).unwrap_err();
        assert!(failure.message.contains("--dir"), "{failure}");
        check_room(Path::new("/"), 0).unwrap();
    }
}

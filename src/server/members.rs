//! Member files before they are in service: finding, opening and looking at them.

use super::log;
use crate::control::paths::check_name;
use crate::failure::{Doing, Failure};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uraid_core::geometry::Geometry;
use uraid_core::superblock::{self, Inspection, SUPERBLOCK_BYTES, copy_ranges};
use uraid_core::units::Uuid;
use uraid_io::device::{MemberFile, OpenError, OpenMode};
use uraid_io::probe;

/// How long to wait for another holder of a member: the kernel may still be finishing the I/O of
/// a server that was killed.
pub const LOCK_WAIT: Duration = Duration::from_secs(30);

/// As [`LOCK_WAIT`] where a server that serves is likelier than one that was killed.
const LOCK_WAIT_CHECK: Duration = Duration::from_secs(5);

/// Most entries of one directory that a scan looks at.
pub const SCAN_ENTRIES_MAX: usize = 10_000;

/// Zeros are written in pieces of this size where a hole cannot be punched.
const ZERO_PIECE_BYTES: usize = 1 << 20;

/// Opens `path`; the error carries the exit code the command line documents.
pub fn open(path: &Path, mode: OpenMode) -> Result<MemberFile, Failure> {
    MemberFile::open(path, mode).map_err(|error| open_failure(&error))
}

/// Held by somebody is "refused", the rest "failed".
pub fn open_failure(error: &OpenError) -> Failure {
    match error {
        OpenError::Locked { path, waited } => {
            let waited = match waited.as_secs() {
                0 => String::new(),
                seconds => format!(" for {seconds} s"),
            };
            Failure::refused(format!(
                "{} is in use: locked{waited} by another server or tool; stop it first",
                path.display()
            ))
        }
        OpenError::Mounted { .. } | OpenError::Busy { .. } => Failure::refused(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

/// The path that stays valid whatever becomes of symlinks and the working directory. A path that
/// leads nowhere is only made absolute.
pub fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

/// Reads what `file` says about itself.
pub fn inspect(file: &MemberFile) -> Result<Inspection, Failure> {
    let mut copies = [const { Vec::new() }; 4];
    for (copy, range) in copies.iter_mut().zip(copy_ranges(file.size_bytes())) {
        if range.end > file.size_bytes() {
            continue;
        }
        copy.resize(SUPERBLOCK_BYTES, 0);
        file.read_at(range.start, copy)
            .doing(|| format!("read {}", file.path().display()))?;
    }
    Ok(superblock::inspect(copies.each_ref().map(|copy| &copy[..])))
}

/// Refuses the same file named twice, be it by another name or by a link.
pub fn check_distinct(paths: &[PathBuf]) -> Result<(), Failure> {
    let mut seen: BTreeMap<(u64, u64), &Path> = BTreeMap::new();
    for path in paths {
        // What cannot be looked at is reported when it is opened.
        let Ok(meta) = fs::metadata(path) else {
            continue;
        };
        // All nodes of one block device are the same disk.
        let disk = meta.rdev() != 0;
        let identity = if disk {
            (u64::MAX, meta.rdev())
        } else {
            (meta.dev(), meta.ino())
        };
        if let Some(first) = seen.insert(identity, path) {
            let (first, second) = (first.display(), path.display());
            return Err(Failure::refused(format!(
                "{first} and {second} are the same file; name each member once"
            )));
        }
    }
    Ok(())
}

/// Refuses `file` if it holds something that is not uraid's.
pub fn check_no_other_content(file: &MemberFile) -> Result<(), Failure> {
    let path = file.path().display();
    let content = probe::existing_content(file).doing(|| format!("read {path}"))?;
    match content {
        None => Ok(()),
        Some(what) => Err(Failure::refused(format!(
            "{path} holds {what}; --force overwrites it"
        ))),
    }
}

/// What `file` holds, to complete the sentence "it holds ..."; none if nothing is known.
pub fn holds(file: &MemberFile) -> Result<Option<String>, Failure> {
    let inspection = inspect(file)?;
    if let Some(superblock) = inspection.superblock {
        let (name, uuid) = (superblock.name, superblock.array);
        return Ok(Some(format!("a member of array {name} ({uuid})")));
    }
    if let Some(finding) = inspection.findings.into_iter().next() {
        return Ok(Some(format!("what was a member of an array ({finding})")));
    }
    let content = probe::existing_content(file);
    let content = content.doing(|| format!("read {}", file.path().display()))?;
    Ok(content.map(|what| what.to_string()))
}

/// Makes `range` read as zero; cheaply where the file system or device can.
pub fn zero(file: &MemberFile, range: Range<u64>) -> io::Result<()> {
    let how = match file.is_block_device() {
        true => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        false => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
    } | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(
        file,
        how,
        range.start as i64,
        (range.end - range.start) as i64,
    ) {
        Ok(()) => return Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    let zeros = vec![0; ZERO_PIECE_BYTES];
    let mut offset = range.start;
    while offset < range.end {
        let len = (range.end - offset).min(ZERO_PIECE_BYTES as u64);
        file.write_at(offset, &zeros[..len as usize])?;
        offset += len;
    }
    Ok(())
}

/// Opens a device that an array is to take in. What belongs to an array is for the engine to
/// judge; other content is refused here, without `force`.
pub fn open_new(path: &Path, force: bool, lock_wait: Duration) -> Result<MemberFile, Failure> {
    let file = open(
        path,
        OpenMode {
            lock_wait,
            ..OpenMode::default()
        },
    )?;
    if !force && inspect(&file)?.superblock.is_none() {
        check_no_other_content(&file)?;
    }
    Ok(file)
}

/// The members of one array, open and locked.
pub struct OpenArray {
    /// In the order they were named.
    pub files: Vec<MemberFile>,
    /// UUID of the array.
    pub uuid: Uuid,
    /// Its name; safe to be part of a path.
    pub name: String,
    /// Its layout.
    pub geometry: Geometry,
    /// What seeds the checksums of its metadata.
    pub key: u64,
}

/// What members are opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To be read and written; waits for the lock of a server that was just killed.
    Serve,
    /// To be read by a server; waits as well.
    Read,
    /// To be checked: read; whoever holds them for long is serving them.
    Check,
}

impl Access {
    fn mode(self) -> OpenMode {
        match self {
            Access::Serve => OpenMode::default(),
            Access::Read | Access::Check => OpenMode::read_only(),
        }
    }
}

/// Opens and locks `paths`, which must be canonical, and finds out which array they are of.
/// Whether they can start it is the engine's to say.
pub fn open_array(paths: &[PathBuf], access: Access) -> Result<OpenArray, Failure> {
    check_distinct(paths)?;
    let mode = access.mode();
    let start = Instant::now();
    let mut files = Vec::new();
    let mut arrays: BTreeMap<Uuid, (String, Vec<&Path>)> = BTreeMap::new();
    let mut geometries = BTreeMap::new();
    // The engine tells it all again, unless it never gets to see these.
    let mut findings = String::new();
    for path in paths {
        let file = match MemberFile::open(path, mode) {
            Err(OpenError::Locked { .. }) => open_locked(path, access, start.elapsed())?,
            opened => opened.map_err(|error| open_failure(&error))?,
        };
        // A device that cannot be read is one member less, not the end of the array.
        let inspection = inspect(&file).unwrap_or_else(|failure| Inspection {
            superblock: None,
            findings: vec![failure.message],
        });
        match inspection.superblock {
            Some(superblock) => {
                let array = arrays.entry(superblock.array);
                let array = array.or_insert((superblock.name, Vec::new()));
                let known = (superblock.geometry, superblock.key);
                geometries.insert(superblock.array, known);
                array.1.push(path);
            }
            None if inspection.findings.is_empty() => {
                findings += &format!("\n{}: holds no uraid superblock", path.display());
            }
            None => {}
        }
        for finding in &inspection.findings {
            findings += &format!("\n{}: {finding}", path.display());
        }
        files.push(file);
    }
    let (uuid, name) = only_array(&arrays, &findings)?;
    Ok(OpenArray {
        files,
        uuid,
        name,
        geometry: geometries[&uuid].0,
        key: geometries[&uuid].1,
    })
}

/// Opens a member that somebody holds, unless `waited` has used up the time for that.
fn open_locked(path: &Path, access: Access, waited: Duration) -> Result<MemberFile, Failure> {
    let patience = match access {
        Access::Serve | Access::Read => LOCK_WAIT,
        Access::Check => LOCK_WAIT_CHECK,
    };
    let seconds = patience.saturating_sub(waited).as_secs();
    let shown = path.display();
    log::info(&format!("{shown} is locked; waiting {seconds} s at most"));
    let mode = OpenMode {
        lock_wait: Duration::from_secs(seconds),
        ..access.mode()
    };
    MemberFile::open(path, mode).map_err(|error| match error {
        OpenError::Locked { .. } if access == Access::Check => Failure::refused(format!(
            "{shown} is in use: an array that is being served is checked with `uraid scrub start`"
        )),
        error => open_failure(&error),
    })
}

/// The one array in `arrays`; `findings` is what else was found, one line for each.
fn only_array(
    arrays: &BTreeMap<Uuid, (String, Vec<&Path>)>,
    findings: &str,
) -> Result<(Uuid, String), Failure> {
    if arrays.len() > 1 {
        let belong = |(uuid, (name, paths)): (&Uuid, &(String, Vec<&Path>))| {
            let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            let verb = if paths.len() == 1 {
                "belongs"
            } else {
                "belong"
            };
            format!("{} {verb} to {name} ({uuid})", paths.join(", "))
        };
        let list: Vec<String> = arrays.iter().map(belong).collect();
        return Err(Failure::refused(format!(
            "these are members of different arrays: {}; name the members of one",
            list.join("; ")
        )));
    }
    let Some((uuid, (name, _))) = arrays.iter().next() else {
        return Err(Failure::failed(format!(
            "none of these holds a valid superblock; `uraid examine` says more, `uraid create` \
             makes an array{findings}"
        )));
    };
    check_name(name).map_err(|why| {
        Failure::failed(format!(
            "the array's name is {name:?}: {why}; its superblock is damaged"
        ))
    })?;
    Ok((*uuid, name.clone()))
}

/// Members by the array that they are of.
pub struct Group {
    /// Name of the array; empty if no superblock could be read.
    pub name: String,
    uuid: Option<Uuid>,
    /// Its members.
    pub paths: Vec<PathBuf>,
}

impl Group {
    /// The array with its members, for a message.
    pub fn describe(&self) -> String {
        let uuid = self.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let paths: Vec<_> = self.paths.iter().map(|p| p.display().to_string()).collect();
        format!("{uuid} ({})", paths.join(", "))
    }
}

/// Sorts `paths` by array, in the order in which arrays are first named. What cannot be read stays
/// with the array if there is only one, which may miss it; among several it is left out.
pub fn groups(paths: &[PathBuf]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut strays = Vec::new();
    for path in paths {
        let Some(found) = look(path) else {
            strays.push(path);
            continue;
        };
        let group = groups.iter_mut().find(|g| g.uuid == Some(found.array));
        match group {
            Some(group) => group.paths.push(path.clone()),
            None => groups.push(Group {
                name: found.name,
                uuid: Some(found.array),
                paths: vec![path.clone()],
            }),
        }
    }
    if groups.len() > 1 {
        for stray in strays {
            log::warning(&format!(
                "{} shows no sign of any of these arrays and is left out; `uraid examine` says \
                 more",
                stray.display()
            ));
        }
        return groups;
    }
    let name = groups.pop().map(|group| (group.name, group.uuid));
    let (name, uuid) = name.unwrap_or_default();
    vec![Group {
        name,
        uuid,
        paths: paths.to_vec(),
    }]
}

/// A member that a scan found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where.
    pub path: PathBuf,
    /// The array it belongs to.
    pub array: Uuid,
    /// Name of that array.
    pub name: String,
}

/// All members in `directories`, in order of their paths; what is no member is passed over.
pub fn scan(directories: &[PathBuf]) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    for directory in directories {
        let what = || format!("scan the directory {}", directory.display());
        let entries = fs::read_dir(directory).doing(what)?;
        let mut paths = Vec::new();
        for entry in entries.take(SCAN_ENTRIES_MAX) {
            paths.push(entry.doing(what)?.path());
        }
        paths.sort();
        found.extend(paths.iter().filter_map(|path| look(path)));
    }
    Ok(found)
}

fn look(path: &Path) -> Option<Found> {
    let path = canonical(path);
    let file = MemberFile::open(&path, OpenMode::inspect()).ok()?;
    let superblock = inspect(&file).ok()?.superblock?;
    Some(Found {
        path,
        array: superblock.array,
        name: superblock.name,
    })
}

/// All members that were found, or those of the array called `name`; there must be some.
pub fn choose_all(found: Vec<Found>, name: Option<&str>) -> Result<Vec<PathBuf>, Failure> {
    let of_name = |member: &Found| name.is_none_or(|name| name == member.name);
    let chosen: Vec<_> = found.into_iter().filter(of_name).map(|m| m.path).collect();
    match chosen.is_empty() {
        true => Err(none_found(name)),
        false => Ok(chosen),
    }
}

fn none_found(name: Option<&str>) -> Failure {
    Failure::failed(match name {
        Some(name) => format!("the scan found no member of an array called {name}"),
        None => "the scan found no member of an array".to_string(),
    })
}

/// The members of the one array that was found, or of the one called `name`.
pub fn choose_array(found: Vec<Found>, name: Option<&str>) -> Result<Vec<PathBuf>, Failure> {
    let mut arrays: BTreeMap<Uuid, (String, Vec<PathBuf>)> = BTreeMap::new();
    for member in found
        .into_iter()
        .filter(|m| name.is_none_or(|name| name == m.name))
    {
        let array = arrays
            .entry(member.array)
            .or_insert_with(|| (member.name, Vec::new()));
        array.1.push(member.path);
    }
    if arrays.len() > 1 {
        let list: Vec<_> = arrays
            .iter()
            .map(|(uuid, (name, _))| format!("{name} ({uuid})"))
            .collect();
        return Err(Failure::refused(format!(
            "members of {} arrays were found: {}; choose one with --name, or name its members",
            arrays.len(),
            list.join(", ")
        )));
    }
    match arrays.into_values().next() {
        Some((_, paths)) => Ok(paths),
        None => Err(none_found(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn the_same_file_by_two_names_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a"), "").unwrap();
        fs::write(path("b"), "").unwrap();
        fs::hard_link(path("a"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("a"), path("soft")).unwrap();
        check_distinct(&[path("a"), path("b"), path("missing")]).unwrap();
        for twin in ["a", "hard", "soft"] {
            let failure = check_distinct(&[path("a"), path("b"), path(twin)]).unwrap_err();
            assert_eq!(failure.exit, Exit::Refused);
            assert!(failure.message.contains("same file"));
        }
    }

    #[test]
    fn a_member_in_use_is_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        fs::write(&path, "").unwrap();
        let _held = open(&path, OpenMode::default()).unwrap();
        let failure = open(&path, OpenMode::default()).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused);
        assert!(
            failure.message.contains("is in use: locked by another"),
            "{failure}"
        );
    }

    #[test]
    fn scanning_passes_over_what_is_no_member() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("noise"), [7; 5000]).unwrap();
        fs::write(directory.path().join("empty"), "").unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        assert!(scan(&[directory.path().to_owned()]).unwrap().is_empty());
        let missing = scan(&[directory.path().join("missing")]).unwrap_err();
        assert_eq!(missing.exit, Exit::Failed);
    }

    #[test]
    fn one_of_several_arrays_has_to_be_chosen() {
        let member = |array: u8, name: &str, path: &str| Found {
            path: PathBuf::from(path),
            array: Uuid([array; 16]),
            name: name.to_string(),
        };
        let found = || {
            vec![
                member(1, "a", "/1"),
                member(2, "b", "/2"),
                member(1, "a", "/3"),
            ]
        };
        let refused = choose_array(found(), None).unwrap_err();
        assert_eq!(refused.exit, Exit::Refused);
        assert!(refused.message.contains("--name"));
        let chosen = choose_array(found(), Some("a")).unwrap();
        assert_eq!(chosen, [PathBuf::from("/1"), PathBuf::from("/3")]);
        assert_eq!(
            choose_array(found(), Some("c")).unwrap_err().exit,
            Exit::Failed
        );
        assert_eq!(
            choose_array(Vec::new(), None).unwrap_err().exit,
            Exit::Failed
        );
    }
}

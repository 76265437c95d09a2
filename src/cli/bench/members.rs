//! The members of the array that is measured, and what is left of them.

use super::interrupt::Interrupt;
use super::layout::Layout;
use super::place::Scratch;
use crate::control::wire::ErrorBody;
use crate::failure::{Doing, Exit, Failure};
use crate::server::array::witness_path;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use uraid_core::units::Uuid;

/// Name of the array.
pub const NAME: &str = "bench";

/// How long a killed server's members may stay locked.
const UNLOCK_MAX: Duration = Duration::from_secs(30);
/// Between two attempts to wipe them.
const LOOK: Duration = Duration::from_millis(50);

/// Where members come from.
pub enum Source {
    /// They are made in a directory.
    Made { scratch: Scratch },
    /// They were named; with `force` whatever they hold.
    Given { paths: Vec<PathBuf>, force: bool },
}

/// An array that was made, not served yet. When dropped, what was made is removed: files, else
/// superblocks, and what this host noted of the array.
pub struct Members {
    pub paths: Vec<PathBuf>,
    array: Uuid,
    /// Files that were not there before.
    made: Vec<PathBuf>,
}

impl Members {
    /// Makes the array. Members that do not exist get `member_bytes`.
    pub fn create(
        source: &Source,
        layout: &Layout,
        member_bytes: u64,
        interrupt: &Interrupt,
    ) -> Result<Members, Failure> {
        let (paths, force) = match source {
            Source::Made { scratch } => {
                let path = |i| scratch.path().join(format!("member{i}"));
                ((0..layout.members()).map(path).collect(), false)
            }
            Source::Given { paths, force } => (paths.clone(), *force),
        };
        let made: Vec<PathBuf> = paths.iter().filter(|p| !p.exists()).cloned().collect();
        interrupt.check()?;
        let mut arguments = layout.create_options();
        arguments.extend(["--name", NAME, "--size"].map(String::from));
        arguments.push(member_bytes.to_string());
        arguments.extend(force.then(|| "--force".to_string()));
        let words = arguments.iter().map(OsStr::new);
        let created = uraid("create", words.chain(paths.iter().map(|p| p.as_os_str())))?;
        let array = created["uuid"].as_str().and_then(|uuid| uuid.parse().ok());
        Ok(Members {
            paths,
            array: array.expect("uraid create tells the UUID"),
            made,
        })
    }

    /// Bytes of all journals together.
    pub fn journals_bytes(&self) -> Result<u64, Failure> {
        let report = uraid("examine", [self.paths[0].as_os_str()])?;
        let zones = &report["members"][0]["superblock"]["zones"];
        let begin = |zone: &str| zones[zone].as_u64().expect("uraid examine tells zones");
        Ok((begin("relog") - begin("journal")) * self.paths.len() as u64)
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        let given = |path: &&PathBuf| !self.made.contains(path);
        let given: Vec<&OsStr> = self
            .paths
            .iter()
            .filter(given)
            .map(|p| p.as_ref())
            .collect();
        if !given.is_empty()
            && let Err(failure) = wipe(&given)
        {
            eprintln!("uraid: {failure}");
        }
        self.made.iter().for_each(|path| remove(path));
        witness_path(self.array)
            .iter()
            .for_each(|path| remove(path));
    }
}

/// Erases superblocks. The server was killed, and the kernel may still have its members locked
/// until their last I/O has ended.
fn wipe(paths: &[&OsStr]) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let words = [OsStr::new("--force")]
            .into_iter()
            .chain(paths.iter().copied());
        match uraid("wipe", words) {
            Err(failure) if failure.exit == Exit::Refused && begun.elapsed() < UNLOCK_MAX => {
                sleep(LOOK);
            }
            other => return other.map(drop),
        }
    }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("uraid: cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

/// Runs a command of this very program; what it fails with, this fails with.
fn uraid<'a>(verb: &str, words: impl IntoIterator<Item = &'a OsStr>) -> Result<Value, Failure> {
    let program = std::env::current_exe().doing(|| "find this program".to_string())?;
    let mut command = Command::new(program);
    command.args(["--json", verb]).args(words);
    let output = command.output().doing(|| format!("run uraid {verb}"))?;
    let strange = |_| Failure::failed(format!("uraid {verb} ended with {}", output.status));
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).map_err(strange);
    }
    let error: ErrorBody = serde_json::from_slice(&output.stdout).map_err(strange)?;
    Err(Failure {
        exit: Exit::from_code(error.exit_code),
        message: error.error,
    })
}

//! Members whose power can fail: files that `nbdfuse` makes of disks with a volatile write cache,
//! which are served by this very process.

use super::sandbox::Sandbox;
use super::wait_for;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use volatile_disk::disk::{Disk, Faults, lose_power};
use volatile_disk::server::Server;

/// Each time disks are attached they get a socket of its own.
static ATTACHED: AtomicUsize = AtomicUsize::new(0);

/// Skips the test where files cannot be made of NBD exports.
#[macro_export]
macro_rules! need_volatile_disks {
    () => {
        need!("nbdfuse", "fusermount3");
        if !$crate::common::tools::is_root() || !std::path::Path::new("/dev/fuse").exists() {
            skip!("files over nbdfuse take root and /dev/fuse");
        }
    };
}

/// Disks in service.
pub struct Disks {
    server: Option<Server>,
    mounts: Vec<Mount>,
}

/// An export as a file; unmounted when dropped.
struct Mount {
    file: PathBuf,
    nbdfuse: Child,
}

impl Disks {
    /// Puts these files behind write caches. `seed` decides what a loss of power leaves.
    pub fn attach(sandbox: &Sandbox, backing: &[PathBuf], seed: u64) -> Disks {
        let number = ATTACHED.fetch_add(1, Ordering::Relaxed);
        let socket = sandbox.path(format!("disks{number}.sock"));
        let open = |(i, path): (usize, &PathBuf)| {
            Disk::open(path, seed.wrapping_add(i as u64)).expect("a disk over the file")
        };
        let disks = backing.iter().enumerate().map(open).collect();
        let server = Server::start(&socket, disks).expect("a server of disks");
        // All are started before any is waited for.
        let start = |(i, path): (usize, &PathBuf)| {
            let name = path.file_name().expect("a name").to_string_lossy();
            Mount::start(
                sandbox.file(&format!("{name}.disk"), 0),
                &format!("nbd+unix:///{i}?socket={}", socket.display()),
            )
        };
        let mounts: Vec<Mount> = backing.iter().enumerate().map(start).collect();
        mounts.iter().for_each(Mount::wait_until_there);
        Disks {
            server: Some(server),
            mounts,
        }
    }

    /// The files to be used as members.
    pub fn members(&self) -> Vec<PathBuf> {
        self.mounts.iter().map(|mount| mount.file.clone()).collect()
    }

    /// Changes what is wrong with one disk.
    pub fn set_faults(&self, disk: usize, change: impl FnOnce(&mut Faults)) {
        let server = self.server.as_ref().expect("there is power");
        server.disks()[disk].set_faults(change);
    }

    /// The power of some disks fails, while the others go on.
    pub fn lose_power_of(&self, disks: &[usize]) {
        let server = self.server.as_ref().expect("there is power");
        lose_power(disks.iter().map(|disk| &server.disks()[*disk]));
    }

    /// The power of all disks fails at one instant. Returns how many sectors were not flushed.
    pub fn lose_power(&mut self) -> usize {
        self.server.take().expect("there was power").lose_power()
    }
}

impl Mount {
    fn start(file: PathBuf, uri: &str) -> Mount {
        let mut nbdfuse = Command::new("nbdfuse");
        // What it says when its server dies is no news.
        nbdfuse.arg(&file).arg(uri).stderr(Stdio::null());
        let nbdfuse = nbdfuse.spawn().expect("nbdfuse");
        Mount { file, nbdfuse }
    }

    fn wait_until_there(&self) {
        let len = |path: &Path| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        wait_for("nbdfuse", || (len(&self.file) > 0).then_some(()));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut unmount = Command::new("fusermount3");
        let _ = unmount.args(["-u", "-z"]).arg(&self.file).status();
        let _ = self.nbdfuse.kill();
        let _ = self.nbdfuse.wait();
    }
}

//! A member that is slow: its file behind nbdkit's rate filter, as a file again by nbdfuse.

use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Which member is slow.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlowPart {
    /// One that is read
    Source,
    /// The one that is filled
    Target,
}

/// A mount that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// A file that is slow. Dropped, it is gone.
pub struct Slow {
    mount: PathBuf,
    path: PathBuf,
    nbdfuse: Child,
}

impl Slow {
    /// Shows `file` once more, at so many bytes a second.
    ///
    /// # Errors
    /// Without nbdkit and nbdfuse, or where mounts are refused.
    pub fn mount(dir: &Path, file: &Path, bytes_per_second: u64) -> Result<Slow, String> {
        let mount = dir.join("slow");
        std::fs::create_dir(&mount).map_err(|e| format!("{}: {e}", mount.display()))?;
        let path = mount.join("member");
        let mut command = Command::new("nbdfuse");
        command.arg(&path).args(["--command", "nbdkit", "-s"]);
        command.args(["--filter=rate", "file"]).arg(file);
        command.arg(format!("rate={}", bytes_per_second * 8));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let spawned = command.spawn();
        let nbdfuse = spawned.map_err(|e| format!("nbdfuse, which makes a member slow: {e}"))?;
        let mut slow = Slow {
            mount,
            path,
            nbdfuse,
        };
        let deadline = Instant::now() + PATIENCE;
        while !slow.path.exists() {
            let ended = !matches!(slow.nbdfuse.try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                return Err("nbdfuse shows no slow member: are nbdkit and FUSE there?".into());
            }
            sleep(LOOK);
        }
        Ok(slow)
    }

    /// The slow file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let unmount = Command::new("fusermount3")
            .arg("-uz")
            .arg(&self.mount)
            .status();
        if unmount.is_err() {
            let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        }
        let _ = self.nbdfuse.kill();
        let _ = self.nbdfuse.wait();
    }
}

//! btrfs in the kernel, on loop devices over files: a file without copy on write and checksums
//! (`nodatacow`), used past the page cache by fio in the same process as its loads.

use crate::driven::{Absence, Driven, Started, need, run, sparse};
use crate::fio;
use crate::loads::Work;
use crate::nbd::Site;
use crate::target::Array;
use nix::unistd::Uid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use uraid_load::{Drive, Limit};

/// Members are so much larger than their share of the file: the kernel's own needs.
const MEMBER_SLACK: (u64, u64) = (192 << 20, 8);

/// A mounted filesystem with one file. Dropping it takes everything away again.
pub struct Btrfs {
    loops: Vec<String>,
    mounted: Option<PathBuf>,
    file: PathBuf,
    bytes: u64,
}

impl Btrfs {
    /// Makes and mounts one.
    pub fn start(site: &Site<'_>, array: &Array) -> Started {
        check_kernel()?;
        let layout = &array.layout;
        let share = site.export_bytes / layout.data;
        let member_bytes = share + share / MEMBER_SLACK.1 + MEMBER_SLACK.0;
        let mount = site.dir.join(format!("btrfs-{}", layout.name));
        fs::create_dir(&mount).map_err(|e| format!("{}: {e}", mount.display()))?;
        let mut btrfs = Btrfs {
            loops: Vec::new(),
            mounted: None,
            file: mount.join("file"),
            bytes: site.export_bytes,
        };
        for member in 0..layout.members() {
            let path = site.dir.join(format!("btrfs-{}.m{member}", layout.name));
            sparse(&path, member_bytes)?;
            btrfs.loops.push(attach(&path)?);
        }
        btrfs.make(array)?;
        btrfs.mount(mount)?;
        Ok(Box::new(btrfs))
    }

    fn make(&self, array: &Array) -> Result<(), Absence> {
        let mut command = Command::new("mkfs.btrfs");
        command.args(["-q", "-f", "-d", array.layout.level]);
        command.args(["-m", array.btrfs_metadata]).args(&self.loops);
        run(&mut command).map(drop).map_err(Absence::Failed)
    }

    fn mount(&mut self, at: PathBuf) -> Result<(), Absence> {
        let devices = self.loops.iter().map(|l| format!("device={l}"));
        let options: Vec<String> = devices.chain(["nodatacow,noatime".to_string()]).collect();
        let mut command = Command::new("mount");
        command.args(["-t", "btrfs", "-o", &options.join(",")]);
        command.arg(&self.loops[0]).arg(&at);
        run(&mut command)
            .map_err(|text| Absence::Skipped(format!("it cannot be mounted: {text}")))?;
        self.mounted = Some(at);
        Ok(())
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        if let Some(mounted) = &self.mounted {
            tell(run(Command::new("umount").arg(mounted)));
        }
        for device in &self.loops {
            tell(run(Command::new("losetup").args(["--detach", device])));
        }
    }
}

impl Driven for Btrfs {
    fn fill(&mut self) -> Result<(), String> {
        fio::fill(&self.file, self.bytes)
    }

    fn drive(&mut self, work: &Work, limit: Limit) -> Result<Drive, String> {
        let drive = fio::drive(&self.file, self.bytes, work, limit)?;
        if work.load.writes() {
            let file = fs::File::open(&self.file).and_then(|f| f.sync_data());
            file.map_err(|e| format!("{}: {e}", self.file.display()))?;
        }
        Ok(drive)
    }

    fn cpu_seconds(&mut self, _: &Work) -> Result<Option<f64>, String> {
        Ok(None)
    }
}

fn check_kernel() -> Result<(), Absence> {
    let skip = |text: &str| Err(Absence::Skipped(text.into()));
    if !Uid::effective().is_root() {
        return skip("loop devices and mounts take root");
    }
    need("fio")?;
    need("mkfs.btrfs")?;
    need("losetup")?;
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loaded = |text: &str| text.lines().any(|line| line.trim() == "btrfs");
    if loaded(&known) || run(Command::new("modprobe").arg("btrfs")).is_ok() {
        return Ok(());
    }
    skip("this kernel has no btrfs")
}

/// A loop device over a file; past the page cache where the file's filesystem can do that.
fn attach(path: &Path) -> Result<String, Absence> {
    let attach = |direct: &str| {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", direct]).arg(path);
        run(&mut command)
    };
    let attached = attach("--direct-io=on").or_else(|_| attach("--direct-io=off"));
    let device = attached.map_err(|e| Absence::Skipped(format!("no loop device: {e}")))?;
    Ok(device.trim().to_string())
}

/// What cannot be taken away is told; there is nothing else to be done about it.
fn tell(result: Result<String, String>) {
    if let Err(text) = result {
        eprintln!("warning: {text}");
    }
}

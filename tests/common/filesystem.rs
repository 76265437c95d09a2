//! Filesystems on a served array, through the kernel: nbdfuse makes a file of the export, a loop
//! device makes a block device of that.

use super::sandbox::Sandbox;
use super::server::Server;
use super::wait_for;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A filesystem and its tools.
pub struct Kind {
    pub name: &'static str,
    pub mkfs: &'static [&'static str],
    pub fsck: &'static [&'static str],
}

pub const EXT4: Kind = Kind {
    name: "ext4",
    mkfs: &["mkfs.ext4", "-q", "-F"],
    fsck: &["e2fsck", "-f", "-n"],
};
pub const XFS: Kind = Kind {
    name: "xfs",
    mkfs: &["mkfs.xfs", "-q", "-f"],
    fsck: &["xfs_repair", "-n"],
};
pub const BTRFS: Kind = Kind {
    name: "btrfs",
    mkfs: &["mkfs.btrfs", "-q", "-f"],
    fsck: &["btrfs", "check"],
};

/// Skips the test where this filesystem cannot be made and mounted.
#[macro_export]
macro_rules! need_filesystem {
    ($kind:expr) => {
        need!(
            "nbdfuse",
            "fusermount3",
            "losetup",
            "mount",
            $kind.mkfs[0],
            $kind.fsck[0]
        );
        if !$crate::common::tools::is_root() {
            skip!("mounting takes root");
        }
        if !std::path::Path::new("/dev/fuse").exists() {
            skip!("there is no /dev/fuse");
        }
    };
}

/// A block device in the kernel that is the export of a server.
pub struct Attached<'a> {
    sandbox: &'a Sandbox,
    file: PathBuf,
    device: String,
    nbdfuse: Child,
}

impl Attached<'_> {
    /// `Err` says what the machine cannot do.
    pub fn new<'a>(sandbox: &'a Sandbox, server: &Server) -> Result<Attached<'a>, String> {
        let file = sandbox.file("export", 0);
        let mut nbdfuse = Command::new("nbdfuse")
            .args(["-C", "4"])
            .stderr(Stdio::null()) // that its server dies is no news
            .arg(&file)
            .arg(server.uri())
            .spawn()
            .expect("nbdfuse");
        wait_for("nbdfuse", || {
            let ended = nbdfuse.try_wait().expect("exit status").is_some();
            let len = std::fs::metadata(&file).map(|m| m.len()).unwrap_or(0);
            (ended || len > 0).then_some(())
        });
        if let Some(status) = nbdfuse.try_wait().expect("exit status") {
            return Err(format!("nbdfuse cannot mount here ({status})"));
        }
        let args = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
        let ran = sandbox.run("losetup", args.into_iter().chain([file.as_os_str()]));
        let device = ran.stdout.trim().to_string();
        let attached = Attached {
            sandbox,
            file,
            device,
            nbdfuse,
        };
        if ran.code == 0 {
            Ok(attached)
        } else {
            Err(format!("no loop device: {}", ran.stderr))
        }
    }

    /// Runs a program on the device.
    pub fn run(&self, words: &[&str]) {
        let args = words[1..].iter().copied().chain([self.device.as_str()]);
        self.sandbox.run(words[0], args).succeeded();
    }

    /// Mounts it.
    pub fn mount(&self, kind: &Kind) -> Mounted<'_> {
        let directory = self.sandbox.path("mnt");
        std::fs::create_dir_all(&directory).expect("mount point");
        let mountpoint = directory.to_str().expect("UTF-8");
        self.sandbox
            .run("mount", ["-t", kind.name, &self.device, mountpoint])
            .succeeded();
        Mounted {
            sandbox: self.sandbox,
            directory,
        }
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            self.sandbox.run("losetup", ["-d", &self.device]);
        }
        self.sandbox
            .run("fusermount3", [OsStr::new("-u"), self.file.as_os_str()]);
        // It ends once it is unmounted; killed only if something still holds on to the mount.
        let ended = || self.nbdfuse.try_wait().is_ok_and(|status| status.is_some());
        if !within(Duration::from_secs(10), ended) {
            let _ = self.nbdfuse.kill();
            let _ = self.nbdfuse.wait();
        }
    }
}

/// A mounted filesystem; unmounted when dropped.
pub struct Mounted<'a> {
    sandbox: &'a Sandbox,
    pub directory: PathBuf,
}

impl Mounted<'_> {
    /// Copies the trees into a directory of this name and makes them durable.
    pub fn fill(&self, name: &str, trees: &[PathBuf]) {
        let to = self.directory.join(name);
        std::fs::create_dir(&to).expect("directory");
        let args = ["-a", "--"].map(OsStr::new).into_iter();
        let args = args
            .chain(trees.iter().map(|t| t.as_os_str()))
            .chain([to.as_os_str()]);
        self.sandbox.run("cp", args).succeeded();
        self.sandbox
            .run("sync", [OsStr::new("-f"), to.as_os_str()])
            .succeeded();
    }

    /// Compares every file with its original.
    pub fn assert_holds(&self, name: &str, trees: &[PathBuf]) {
        for tree in trees {
            let copy = self
                .directory
                .join(name)
                .join(tree.file_name().expect("a name"));
            let args = ["-r", "--no-dereference"].map(OsStr::new);
            let args = args.into_iter().chain([tree.as_os_str(), copy.as_os_str()]);
            self.sandbox.run("diff", args).succeeded();
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        self.sandbox.run("umount", [&self.directory]);
    }
}

/// Whether this comes true within the time; for clean-up, where panics would hide the reason.
fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

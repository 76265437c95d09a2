//! Filesystems made, mounted and filled on an array that loses members, through the kernel:
//! uraid, nbdfuse, a loop device, and what people put on their disks.

mod common;

use common::tools::is_root;
use common::{MIB, Sandbox, Server, wait_for};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

const MEMBER_BYTES: u64 = 256 * MIB;

/// A filesystem and its tools.
struct Kind {
    name: &'static str,
    mkfs: &'static [&'static str],
    fsck: &'static [&'static str],
}

const EXT4: Kind = Kind {
    name: "ext4",
    mkfs: &["mkfs.ext4", "-q", "-F"],
    fsck: &["e2fsck", "-f", "-n"],
};
const XFS: Kind = Kind {
    name: "xfs",
    mkfs: &["mkfs.xfs", "-q", "-f"],
    fsck: &["xfs_repair", "-n"],
};
const BTRFS: Kind = Kind {
    name: "btrfs",
    mkfs: &["mkfs.btrfs", "-q", "-f"],
    fsck: &["btrfs", "check"],
};

#[test]
fn ext4_survives_two_losses_and_a_rebuild() {
    survives_two_losses_and_a_rebuild(&EXT4);
}

#[test]
fn xfs_survives_two_losses_and_a_rebuild() {
    survives_two_losses_and_a_rebuild(&XFS);
}

#[test]
fn btrfs_survives_two_losses_and_a_rebuild() {
    survives_two_losses_and_a_rebuild(&BTRFS);
}

/// A block device in the kernel that is the export of a server.
struct Attached<'a> {
    sandbox: &'a Sandbox,
    file: PathBuf,
    device: String,
    nbdfuse: Child,
}

impl Attached<'_> {
    /// `Err` says what the machine cannot do.
    fn new<'a>(sandbox: &'a Sandbox, server: &Server) -> Result<Attached<'a>, String> {
        let file = sandbox.file("export", 0);
        let mut nbdfuse = Command::new("nbdfuse")
            .args(["-C", "4"])
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

    fn run(&self, words: &[&str]) {
        let args = words[1..].iter().copied().chain([self.device.as_str()]);
        self.sandbox.run(words[0], args).succeeded();
    }

    fn mount(&self, kind: &Kind) -> Mounted<'_> {
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
struct Mounted<'a> {
    sandbox: &'a Sandbox,
    directory: PathBuf,
}

impl Mounted<'_> {
    /// Copies the trees into a directory of this name and makes them durable.
    fn fill(&self, name: &str, trees: &[PathBuf]) {
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
    fn assert_holds(&self, name: &str, trees: &[PathBuf]) {
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

/// Real trees of files: our own sources, and what every system has.
fn trees() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = [
        own.join("src"),
        own.join("tests"),
        "/usr/include".into(),
        "/usr/share/perl5".into(),
    ];
    candidates
        .into_iter()
        .filter(|tree| tree.is_dir())
        .collect()
}

fn survives_two_losses_and_a_rebuild(kind: &Kind) {
    need!(
        "nbdfuse",
        "fusermount3",
        "losetup",
        "mount",
        kind.mkfs[0],
        kind.fsck[0]
    );
    if !is_root() {
        skip!("mounting takes root");
    }
    if !Path::new("/dev/fuse").exists() {
        skip!("there is no /dev/fuse");
    }
    let sandbox = Sandbox::new();
    let members = sandbox.members(6);
    sandbox.create("--level raid6 --size 256M", &members);
    let server = sandbox.serve(&members);
    let device = match Attached::new(&sandbox, &server) {
        Ok(device) => device,
        Err(reason) => skip!("{reason}"),
    };
    let trees = trees();

    device.run(kind.mkfs);
    let mounted = device.mount(kind);
    mounted.fill("before", &trees);
    thread::scope(|scope| {
        let load = scope.spawn(|| mounted.fill("while-members-die", &trees));
        server.uraid(&sandbox, "fail", [&members[1]]).succeeded();
        let disk = OpenOptions::new()
            .write(true)
            .open(&members[4])
            .expect("open");
        disk.set_len(0).expect("truncate");
        load.join().expect("copying while members die");
    });
    server.wait_member(&sandbox, 1, "failed");
    server.wait_member(&sandbox, 4, "failed");

    drop(mounted); // what is read next comes from the array, not from a cache
    let mounted = device.mount(kind);
    mounted.assert_holds("before", &trees);
    mounted.assert_holds("while-members-die", &trees);

    for new in ["new1", "new4"] {
        server
            .uraid(&sandbox, "add", [sandbox.file(new, MEMBER_BYTES)])
            .succeeded();
    }
    mounted.fill("while-rebuilding", &trees);
    server.wait_state(&sandbox, "optimal");

    drop(mounted);
    device.run(kind.fsck);
    let mounted = device.mount(kind);
    for name in ["before", "while-members-die", "while-rebuilding"] {
        mounted.assert_holds(name, &trees);
    }
    drop(mounted);
    drop(device);
    server.stop();
}

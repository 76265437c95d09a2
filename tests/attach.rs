//! `uraid attach` by nbdfuse and a loop device, with and without nbdkit in between, and `uraid detach`. (The kernel's nbd driver needs
//! a kernel that has it: scripts/kernel-client.)

mod common;

use common::client::Client;
use common::tools::is_root;
use common::{FAILED, MIB, REFUSED, Ran, Sandbox, Server, USAGE, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Records of what is attached lie in one directory for all of root's: names must differ.
static ARRAYS: AtomicUsize = AtomicUsize::new(0);

/// Skips the test where a loop device over nbdfuse cannot be made.
macro_rules! need_loop_device {
    () => {
        need!(
            "nbdfuse",
            "fusermount3",
            "losetup",
            "mount",
            "blkid",
            "mkfs.ext4"
        );
        if !is_root() {
            skip!("loop devices and mounts take root");
        }
        if !Path::new("/dev/fuse").exists() {
            skip!("there is no /dev/fuse");
        }
    };
}

/// A served array of 64 MiB.
struct Array {
    sandbox: Sandbox,
    members: Vec<PathBuf>,
    server: Option<Server>,
    socket: PathBuf,
    name: String,
    uri: String,
}

impl Array {
    fn new() -> Array {
        let sandbox = Sandbox::new();
        let number = ARRAYS.fetch_add(1, Ordering::Relaxed);
        let name = format!("attach-{}-{number}", std::process::id());
        let members = sandbox.members(2);
        let options = format!("--level raid1 --name {name} --size 96M --export-size 64M");
        sandbox.create(&options, &members);
        let server = sandbox.serve(&members);
        let uri = format!("nbd+unix:///{name}?socket={}", server.socket.display());
        Array {
            sandbox,
            members,
            socket: server.socket.clone(),
            server: Some(server),
            name,
            uri,
        }
    }

    fn attach(&self, options: &[&str]) -> Ran {
        self.attach_via("nbdfuse", options)
    }

    fn attach_via(&self, way: &str, options: &[&str]) -> Ran {
        let words = ["attach", &self.uri, "--via", way, "--json"];
        self.sandbox.uraid(words.iter().chain(options))
    }

    fn detach(&self, what: &str) -> Ran {
        self.sandbox.uraid(["detach", what])
    }

    /// Ends the server, by kill -9 or in peace, and starts another in its place.
    fn restart(&mut self, kill9: bool) {
        let server = self.server.take().expect("a server");
        match kill9 {
            true => server.kill9(),
            false => server.stop(),
        }
        let listen = format!("--listen unix:{}", self.socket.display());
        self.server = Some(self.sandbox.serve_with(&listen, &self.members));
    }

    /// A directory to mount on.
    fn mount_point(&self) -> String {
        let path = self.sandbox.path("mnt");
        fs::create_dir_all(&path).expect("mount point");
        let path = path.canonicalize().expect("it is there");
        path.to_str().expect("UTF-8").to_string()
    }

    fn make_filesystem(&self) {
        let attached = self.attach(&[]).succeeded().json();
        let args = ["-q", "-F", text(&attached["device"])];
        self.sandbox.run("mkfs.ext4", args).succeeded();
        self.detach(&self.name).succeeded();
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // A failed test leaves nothing behind in the system; usually it is detached already.
        let _ = self.detach(&self.name);
    }
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}: not a text"))
}

/// Neither the loop device nor the file of nbdfuse is left.
fn assert_gone(attached: &Value) {
    let file = PathBuf::from(text(&attached["file"]));
    assert!(!file.exists(), "{} is still there", file.display());
    let device = Path::new(text(&attached["device"]));
    let name = device.file_name().expect("a name").to_string_lossy();
    let backing = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    let backing = backing.unwrap_or_default();
    assert_ne!(Path::new(backing.trim_end()), file);
}

fn is_mounted(directory: &str) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table.contains(&format!(" {directory} "))
}

#[test]
fn a_filesystem_outlives_detach_and_attach() {
    need_loop_device!();
    let array = Array::new();
    array.make_filesystem();
    let directory = array.mount_point();
    let file = Path::new(&directory).join("file");

    let attached = array.attach(&["--mount", &directory]).succeeded().json();
    assert_eq!(text(&attached["mount"]), directory);
    fs::write(&file, "kept").expect("write");
    array.detach(&directory).succeeded();
    assert!(!is_mounted(&directory));
    assert_gone(&attached);

    let attached = array.attach(&["--mount", &directory]).succeeded().json();
    assert_eq!(fs::read_to_string(&file).expect("read"), "kept");
    array.detach(text(&attached["device"])).succeeded();
    assert!(!is_mounted(&directory));
    assert_gone(&attached);
}

#[test]
fn what_is_attached_is_not_attached_again() {
    need_loop_device!();
    let array = Array::new();
    let attached = array.attach(&[]).succeeded().json();
    let again = array.attach(&[]).exits(REFUSED);
    assert!(again.stderr.contains(text(&attached["device"])), "{again}");
    array.detach(&array.name).succeeded();
    assert_gone(&attached);
    let again = array.detach(&array.name).exits(FAILED);
    assert!(again.stderr.contains("not attached"), "{again}");
}

#[test]
fn no_filesystem_is_ever_made_and_nothing_stays_behind() {
    need_loop_device!();
    let array = Array::new();
    let directory = array.mount_point();
    let ran = array.attach(&["--mount", &directory]).exits(REFUSED);
    assert!(ran.stderr.contains("no filesystem"), "{ran}");
    assert!(!is_mounted(&directory));
    array.detach(&array.name).exits(FAILED);
    let start = Client::connect(&array.socket, "")
        .expect("connection")
        .read(0, 8192)
        .expect("read");
    assert!(start.iter().all(|byte| *byte == 0), "something was written");
}

/// nbdkit waits for the server and sends again what a killed one had not answered.
#[test]
fn through_nbdkit_a_restart_of_the_server_is_a_pause() {
    need_loop_device!();
    need!("nbdkit");
    let mut array = Array::new();
    array.make_filesystem();
    let directory = array.mount_point();
    let options = ["--mount", &directory];
    let attached = array.attach_via("nbdkit", &options).succeeded().json();
    let nbdkit = attached["nbdkit_pid"].as_i64().expect("a process");
    let file = Path::new(&directory).join("file");
    let content = |round: usize| vec![b'a' + round as u8; 8 * MIB as usize];
    for round in 0..2 {
        let directory = Path::new(&directory);
        let write = std::thread::scope(|scope| {
            let write = scope.spawn(|| {
                fs::write(directory.join("file"), content(round))?;
                File::open(directory.join("file"))?.sync_all()
            });
            array.restart(round == 0);
            write.join().expect("no panic")
        });
        write.expect("no error is seen");
        let other = directory.join(format!("after-{round}"));
        fs::write(&other, "x").expect("write after the restart");
    }
    assert!(fs::read(&file).expect("read") == content(1));
    array.detach(&array.name).succeeded();
    assert_gone(&attached);
    assert!(
        !Path::new(&format!("/proc/{nbdkit}/exe")).exists(),
        "nbdkit is left"
    );

    array.attach(&["--mount", &directory]).succeeded();
    assert!(fs::read(&file).expect("read") == content(1));
    array.detach(&array.name).succeeded();
}

#[test]
fn what_is_in_use_is_not_detached() {
    need_loop_device!();
    let array = Array::new();
    array.make_filesystem();
    let directory = array.mount_point();
    array.attach(&["--mount", &directory]).succeeded();
    let open = File::create(Path::new(&directory).join("open")).expect("create");
    array.detach(&array.name).exits(REFUSED);
    assert!(is_mounted(&directory));
    drop(open);
    array.detach(&array.name).succeeded();

    // Mounted by somebody else.
    let attached = array.attach(&[]).succeeded().json();
    let device = text(&attached["device"]);
    array.sandbox.run("mount", [device, &directory]).succeeded();
    let ran = array.detach(&array.name).exits(REFUSED);
    assert!(ran.stderr.contains(&directory), "{ran}");
    array.sandbox.run("umount", [&directory]).succeeded();
    array.detach(&array.name).succeeded();
    assert_gone(&attached);
}

#[test]
fn what_is_left_of_a_killed_nbdfuse_is_cleared_away() {
    need_loop_device!();
    let array = Array::new();
    let attached = array.attach(&[]).succeeded().json();
    let pid = attached["pid"].as_i64().expect("a process");
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    kill(pid, Signal::SIGKILL).expect("kill");
    array.detach(&array.name).succeeded();
    assert_gone(&attached);
    let attached = array.attach(&[]).succeeded().json();
    array.detach(&array.name).succeeded();
    assert_gone(&attached);
}

#[test]
fn in_the_foreground_a_signal_detaches() {
    need_loop_device!();
    let array = Array::new();
    array.make_filesystem();
    let directory = array.mount_point();
    let mut command = array.sandbox.uraid_command();
    command.args(["attach", &array.uri, "--via", "nbdfuse", "--foreground"]);
    command.args(["--mount", &directory]);
    let mut child = command.stdout(Stdio::null()).spawn().expect("uraid");
    wait_for("the mount", || is_mounted(&directory).then_some(()));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    kill(pid, Signal::SIGTERM).expect("kill");
    let status = child.wait().expect("exit status");
    assert!(status.success(), "{status}");
    assert!(!is_mounted(&directory));
    array.detach(&array.name).exits(FAILED);
}

#[test]
fn what_is_missing_is_named() {
    if !Path::new("/dev/fuse").exists() {
        skip!("there is no /dev/fuse");
    }
    let array = Array::new();
    let mut command = array.sandbox.uraid_command();
    command.args(["attach", &array.uri, "--via", "nbdfuse"]);
    command.env("PATH", "/nonexistent");
    let output = command.output().expect("uraid");
    let ran = Ran::new("attach without programs".to_string(), output).exits(FAILED);
    assert!(ran.stderr.contains("nbdfuse is not installed"), "{ran}");
    assert!(ran.stderr.contains("package"), "{ran}");
    array.detach(&array.name).exits(FAILED);
}

#[test]
fn what_cannot_be_attached_is_refused_with_a_reason() {
    let sandbox = Sandbox::new();
    let nobody = sandbox.path("nobody");
    let nobody = format!("nbd+unix:///x?socket={}", nobody.display());
    let attach = |target: &str| sandbox.uraid(["attach", target, "--via", "nbdfuse"]);
    attach("attach-no-such-array").exits(FAILED);
    let ran = attach(&nobody).exits(FAILED);
    assert!(ran.stderr.contains(&nobody), "{ran}");
    for malformed in [
        "http://localhost/",
        "nbd://",
        "a b",
        "nbd://localhost/a%20b",
    ] {
        attach(malformed).exits(USAGE);
    }
    let directory = sandbox.path("not-there");
    let directory = directory.to_str().expect("UTF-8");
    let options = ["attach", &nobody, "--mount", directory];
    sandbox.uraid(options).exits(FAILED);
}

#[test]
fn the_device_has_the_size_of_the_export() {
    need_loop_device!();
    let array = Array::new();
    let attached = array.attach(&["--connections", "1"]).succeeded().json();
    assert_eq!(attached["connections"], 1);
    let device = text(&attached["device"]);
    let ran = array.sandbox.run("blockdev", ["--getsize64", device]);
    assert_eq!(ran.stdout.trim(), (64 * MIB).to_string());
    array.detach(&array.name).succeeded();
}

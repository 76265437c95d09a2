//! The real clients the tests run: which are there, and how they are called.

use super::sandbox::{Ran, Sandbox};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Whether `program` can be found (an absolute path, or a name to look for).
pub fn installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\" >/dev/null", program])
        .status();
    found.is_ok_and(|status| status.success())
}

/// The interpreter that the packages of the system install their modules for.
pub const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// Whether libnbd's Python module is there.
pub fn has_python_nbd() -> bool {
    Command::new(SYSTEM_PYTHON)
        .args(["-c", "import nbd"])
        .status()
        .is_ok_and(|s| s.success())
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Copies the export to a file, on several connections.
#[track_caller]
pub fn copy_out(sandbox: &Sandbox, uri: &str, to: &Path) {
    let args = [
        OsStr::new("--connections=4"),
        OsStr::new(uri),
        to.as_os_str(),
    ];
    sandbox.run("nbdcopy", args).succeeded();
}

/// Copies a file to the export, on several connections.
#[track_caller]
pub fn copy_in(sandbox: &Sandbox, from: &Path, uri: &str) {
    let args = ["--connections=4", "--flush"].map(OsStr::new);
    let args = args.into_iter().chain([from.as_os_str(), OsStr::new(uri)]);
    sandbox.run("nbdcopy", args).succeeded();
}

/// Fills a new file with `bytes` of noise, the same for the same seed.
pub fn noise_file(sandbox: &Sandbox, name: &str, bytes: u64, seed: u64) -> std::path::PathBuf {
    use std::io::Write;
    let path = sandbox.path(name);
    let file = std::fs::File::create(&path).expect("file");
    let mut writer = std::io::BufWriter::new(file);
    let mut random = super::pattern::Random::new(seed);
    for _ in 0..bytes / 8 {
        writer
            .write_all(&random.next().to_le_bytes())
            .expect("write");
    }
    writer.flush().expect("write");
    path
}

/// Compares two files byte for byte.
#[track_caller]
pub fn assert_same(sandbox: &Sandbox, a: &Path, b: &Path) {
    sandbox.run("cmp", [a, b]).succeeded();
}

/// Copies the export out and compares it with a file of the same size.
#[track_caller]
pub fn assert_export_is(sandbox: &Sandbox, uri: &str, expected: &Path) {
    let copy = sandbox.path("export-copy");
    copy_out(sandbox, uri, &copy);
    assert_same(sandbox, &copy, expected);
    std::fs::remove_file(&copy).expect("remove the copy");
}

/// One fio run with verification over NBD.
pub struct Fio<'a> {
    pub uri: &'a str,
    /// fio's --rw: "randwrite", "write", "read", ...
    pub pattern: &'a str,
    /// fio's --bsrange.
    pub block_sizes: &'a str,
    /// Bytes each of the connections works on, side by side.
    pub bytes_per_connection: u64,
    pub connections: u64,
}

impl Fio<'_> {
    /// Writes, verifies while writing and again at the end; any mismatch is a failure.
    pub fn run(&self, sandbox: &Sandbox, seed: u64) -> Ran {
        let size = self.bytes_per_connection;
        let args = [
            "--name=verify".to_string(),
            "--ioengine=nbd".to_string(),
            format!("--uri={}", self.uri),
            format!("--rw={}", self.pattern),
            format!("--bsrange={}", self.block_sizes),
            format!("--size={size}"),
            format!("--offset_increment={size}"),
            format!("--numjobs={}", self.connections),
            format!("--randseed={seed}"),
            "--iodepth=32".to_string(),
            "--verify=crc32c".to_string(),
            "--verify_fatal=1".to_string(),
            "--verify_backlog=128".to_string(),
            "--thread".to_string(),
            "--group_reporting".to_string(),
            "--output-format=terse".to_string(),
        ];
        sandbox.run("fio", args)
    }
}

/// A page of this byte at an address that `O_DIRECT` takes.
pub fn aligned_page(byte: u8) -> AlignedPage {
    AlignedPage(Box::new(Page([byte; 4096])))
}

/// Memory as large and as aligned as a page.
pub struct AlignedPage(Box<Page>);

#[repr(align(4096))]
struct Page([u8; 4096]);

impl AlignedPage {
    pub fn bytes(&self) -> &[u8; 4096] {
        &self.0.0
    }

    pub fn bytes_mut(&mut self) -> &mut [u8; 4096] {
        &mut self.0.0
    }
}

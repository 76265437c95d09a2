//! Arrays that earlier versions made open for ever, in whatever state they were left, and read as
//! they did then. `scripts/golden-images` made the images, once for each format.

mod common;

use common::Sandbox;
use common::sandbox::as_args;
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories of images, by the format they are in.
const FORMATS: [&str; 1] = ["tests/golden/format-1"];

/// Where the superblocks at the beginning of a member are, written by turns.
const SUPERBLOCKS_AT: [usize; 2] = [4 << 10, 512 << 10];

fn unpacked(path: &Path) -> Vec<u8> {
    let output = Command::new("gzip").arg("-dc").arg(path).output();
    let output = output.expect("gzip runs");
    assert!(output.status.success(), "{}", path.display());
    output.stdout
}

fn sorted_entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory of images");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// Files with what the members of an image hold.
fn members_of(image: &Path, sandbox: &Sandbox) -> Vec<PathBuf> {
    let mut members = Vec::new();
    for packed in sorted_entries(image) {
        let stem = packed.file_stem().and_then(OsStr::to_str).expect("a name");
        if stem.starts_with("member") {
            let member = sandbox.path(stem);
            fs::write(&member, unpacked(&packed)).expect("write");
            members.push(member);
        }
    }
    members
}

fn opens_and_reads_as_before(image: &Path) {
    let name = image.file_name().and_then(OsStr::to_str).expect("a name");
    let sandbox = Sandbox::new();
    let members = members_of(image, &sandbox);
    let expected = unpacked(&image.join("export.gz"));
    let server = sandbox.serve(&members);
    let degraded = name.ends_with("degraded");
    let state = if degraded { "degraded" } else { "optimal" };
    assert_eq!(server.status(&sandbox)["state"], state, "{name}");
    let mut client = server.connect();
    let found = client.read(0, expected.len()).expect("read");
    let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{name}: the first byte that has changed");

    let block = [0x5a; 4096];
    client.write(8192, &block).expect("write");
    client.flush().expect("flush");
    assert!(client.read(8192, 4096).expect("read") == block, "{name}");
    drop(client);
    server.stop();
    if !degraded {
        let check = [OsStr::new("check")].into_iter().chain(as_args(&members));
        sandbox.uraid(check).succeeded();
    }
}

#[test]
fn images_of_every_format_open_and_read_as_they_did() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for format in FORMATS {
        let images = sorted_entries(&root.join(format));
        assert!(images.len() >= 6, "{format}: images are missing");
        images
            .iter()
            .for_each(|image| opens_and_reads_as_before(image));
    }
}

/// What incompatible features the newest superblock of a member names.
fn features(member: &Path) -> u8 {
    let bytes = fs::read(member).expect("read");
    let number = |at: &usize| u64::from_le_bytes(bytes[at + 216..at + 224].try_into().expect("8"));
    let newest = SUPERBLOCKS_AT.into_iter().max_by_key(number);
    bytes[newest.expect("two") + 32]
}

/// What earlier versions made announces nothing of what its journals may hold: a start reads all
/// of them, with batches in them that were written before the mirror was widened.
#[test]
fn a_mirror_of_before_bounded_starts_is_given_one_more_copy_and_gives_it_up() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1/raid1-killed");
    let sandbox = Sandbox::new();
    let mut members = members_of(&image, &sandbox);
    let mut expected = unpacked(&image.join("export.gz"));
    let size = fs::metadata(&members[0]).expect("a file").len();
    let new = sandbox.file("new", size);
    let rewrite = |server: &common::Server, expected: &mut [u8], byte: u8| {
        let mut client = server.connect();
        for block in (0..64).step_by(3) {
            let at = block * 4096;
            expected[at..at + 4096].fill(byte);
            client
                .write(at as u64, &expected[at..at + 4096])
                .expect("write");
        }
    };
    let assert_holds = |server: &common::Server, expected: &[u8]| {
        let found = server.connect().read(0, expected.len()).expect("read");
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that differs");
    };

    assert_eq!(features(&members[0]), 0, "no bounded start");
    let server = sandbox.serve(&members);
    rewrite(&server, &mut expected, 1);
    let words = [Path::new("--copy"), Path::new("--wait"), &new];
    server.uraid(&sandbox, "add", words).succeeded();
    rewrite(&server, &mut expected, 2);
    assert_holds(&server, &expected);
    let mut server = server;
    server.signal(Signal::SIGKILL);
    server.wait_end();
    assert_eq!(features(&members[0]), 2, "widened, and nothing else");
    members.push(new);
    let server = sandbox.serve(&members);
    assert_eq!(server.status(&sandbox)["redundancy_left"], 2);
    for slot in ["0", "1"] {
        server.uraid(&sandbox, "fail", [slot]).succeeded();
    }
    assert_holds(&server, &expected);
    for member in &members[..2] {
        server.uraid(&sandbox, "add", [member]).succeeded();
    }
    server.wait_state(&sandbox, "optimal");
    rewrite(&server, &mut expected, 3);
    server.uraid(&sandbox, "remove", ["--copy"]).succeeded();
    rewrite(&server, &mut expected, 4);
    let mut server = server;
    server.signal(Signal::SIGKILL);
    server.wait_end();
    assert_eq!(features(&members[0]), 0, "as it was made");
    let server = sandbox.serve(&members[..2]);
    assert_eq!(server.status(&sandbox)["state"], "optimal");
    assert_holds(&server, &expected);
}

//! Arrays that earlier versions made open for ever, in whatever state they were left, and read as
//! they did then. `scripts/golden-images` made the images, once for each format.

mod common;

use common::Sandbox;
use common::sandbox::as_args;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories of images, by the format they are in.
const FORMATS: [&str; 1] = ["tests/golden/format-1"];

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

fn opens_and_reads_as_before(image: &Path) {
    let name = image.file_name().and_then(OsStr::to_str).expect("a name");
    let sandbox = Sandbox::new();
    let mut members = Vec::new();
    for packed in sorted_entries(image) {
        let stem = packed.file_stem().and_then(OsStr::to_str).expect("a name");
        if stem.starts_with("member") {
            let member = sandbox.path(stem);
            fs::write(&member, unpacked(&packed)).expect("write");
            members.push(member);
        }
    }
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

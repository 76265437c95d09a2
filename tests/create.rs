//! `uraid create`: what it makes, and what it refuses without leaving a trace.

mod common;

use common::sandbox::{contents, raid5};
use common::{FAILED, REFUSED, Ran, Sandbox, USAGE};
use std::fs;
use std::path::Path;

const RAID5: &str = "--level raid5 --size 64M";

/// What `create` answers to these options and `count` members that do not exist yet.
fn create(options: &str, count: usize) -> (Sandbox, Ran) {
    let sandbox = Sandbox::new();
    let ran = sandbox.try_create(options, &sandbox.members(count));
    (sandbox, ran)
}

/// Expects a usage error and that no member file was left behind.
fn assert_usage(options: &str, count: usize, says: &[&str]) {
    let (sandbox, ran) = create(options, count);
    ran.exits(USAGE).says(says);
    for member in sandbox.members(count) {
        assert!(
            !member.exists(),
            "a refused create left {} behind",
            member.display()
        );
    }
}

// ---- usage ----

#[test]
fn unknown_option_is_a_usage_error() {
    assert_usage("--level raid5 --size 64M --wobble", 3, &["--wobble"]);
}

#[test]
fn create_without_members_is_a_usage_error() {
    Sandbox::new()
        .uraid(["create", "--level", "raid5"])
        .exits(USAGE);
}

#[test]
fn create_without_level_is_a_usage_error() {
    assert_usage("--size 64M", 3, &["--level"]);
}

#[test]
fn unknown_level_is_a_usage_error() {
    assert_usage("--level raid7 --size 64M", 3, &["raid7"]);
}

// ---- bounds of create ----

#[test]
fn raid6_of_two_members_is_a_usage_error() {
    assert_usage("--level raid6 --size 64M", 2, &["member", "at least"]);
}

#[test]
fn parity_above_eight_is_a_usage_error() {
    assert_usage("--level rs --parity 9 --size 64M", 12, &["parity", "8"]);
}

#[test]
fn more_parity_than_members_is_a_usage_error() {
    assert_usage("--level rs --parity 4 --size 64M", 4, &["parity", "member"]);
}

#[test]
fn chunk_that_is_no_power_of_two_is_a_usage_error() {
    assert_usage("--level raid5 --chunk 96K --size 64M", 3, &["power of two"]);
}

#[test]
fn chunk_below_4k_is_a_usage_error() {
    assert_usage(
        "--level raid5 --chunk 2K --size 64M",
        3,
        &["4k", "4096", "4 k"],
    );
}

#[test]
fn chunk_above_4m_is_a_usage_error() {
    assert_usage("--level raid5 --chunk 8M --size 64M", 3, &["4m", "4 m"]);
}

#[test]
fn raid10_members_no_multiple_of_copies_is_a_usage_error() {
    assert_usage("--level raid10 --size 64M", 5, &["multiple"]);
}

#[test]
fn name_with_a_slash_is_a_usage_error() {
    assert_usage("--level raid5 --name a/b --size 64M", 3, &["name"]);
}

#[test]
fn size_that_is_no_number_is_a_usage_error() {
    assert_usage("--level raid5 --size many", 3, &["size", "many"]);
}

#[test]
fn sixty_four_members_make_an_array() {
    let (sandbox, ran) = create("--level rs --parity 8 --chunk 4K --size 16M", 64);
    ran.succeeded();
    let server = sandbox.serve(&sandbox.members(64));
    let status = server.status(&sandbox);
    assert_eq!(status["data"], 56);
    assert_eq!(status["parity"], 8);
    assert_eq!(status["redundancy_left"], 8);
}

// ---- sizes and names ----

#[test]
fn size_makes_sparse_members_of_exactly_that_size() {
    use std::os::unix::fs::MetadataExt;
    let (_sandbox, members) = raid5();
    for member in members {
        let found = fs::metadata(member).expect("metadata");
        assert_eq!(found.len(), 64 << 20);
        assert!(
            found.blocks() * 512 < 32 << 20,
            "not sparse: {} blocks",
            found.blocks()
        );
    }
}

#[test]
fn export_size_need_not_be_a_multiple_of_a_stripe() {
    let (sandbox, ran) = create("--level raid5 --size 64M --export-size 10000000", 3);
    ran.succeeded();
    let server = sandbox.serve(&sandbox.members(3));
    assert_eq!(server.status(&sandbox)["size_bytes"], 10_000_000);
    assert_eq!(server.connect().size, 10_000_000);
}

#[test]
fn export_size_beyond_the_members_is_refused() {
    let (_sandbox, ran) = create("--level raid5 --size 64M --export-size 10G", 3);
    assert!(ran.code == FAILED || ran.code == USAGE, "{ran}");
}

#[test]
fn name_becomes_the_export_and_part_of_the_uri() {
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --name my.array_1 --size 64M", &members);
    let server = sandbox.serve(&members);
    let uri = format!("nbd+unix:///my.array_1?socket={}", server.socket.display());
    assert_eq!(server.ready, format!("ready my.array_1 {uri}"));
    assert_eq!(server.status(&sandbox)["name"], "my.array_1");
}

#[test]
fn create_answers_json() {
    let (_sandbox, ran) = create("--json --level raid6 --size 64M", 6);
    let report = ran.succeeded().json();
    assert!(report.to_string().contains("raid6"), "{report}");
}

// ---- what create refuses ----

/// Expects that `create` refuses this file for safety, and leaves it alone, unless forced.
fn assert_refused_unless_forced(sandbox: &Sandbox, precious: &Path, says: &[&str]) {
    let mut members = sandbox.members(2);
    members.push(precious.to_path_buf());
    let before = fs::read(precious).expect("read");
    sandbox
        .try_create(RAID5, &members)
        .exits(REFUSED)
        .says(says);
    assert!(
        fs::read(precious).expect("read") == before,
        "the refused file has changed"
    );
    assert!(!members[0].exists(), "a refused create left a file behind");
    sandbox
        .try_create(&format!("{RAID5} --force"), &members)
        .succeeded();
}

#[test]
fn create_refuses_a_member_of_an_array() {
    let (sandbox, members) = raid5();
    let before = contents(&members);
    let fresh = sandbox.path("fresh");
    let mixed = vec![members[0].clone(), fresh.clone(), sandbox.path("fresh2")];
    sandbox
        .try_create(RAID5, &mixed)
        .exits(REFUSED)
        .says(&["array", "member"]);
    assert!(contents(&members) == before, "a member has changed");
    assert!(!fresh.exists());
}

#[test]
fn create_refuses_a_filesystem() {
    need!("mkfs.ext4");
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk", 64 << 20);
    sandbox
        .run("mkfs.ext4", ["-q", "-F", disk.to_str().expect("UTF-8")])
        .succeeded();
    assert_refused_unless_forced(&sandbox, &disk, &["ext", "filesystem", "file system"]);
}

#[test]
fn create_refuses_xfs() {
    need!("mkfs.xfs");
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk", 512 << 20);
    sandbox
        .run("mkfs.xfs", ["-q", disk.to_str().expect("UTF-8")])
        .succeeded();
    assert_refused_unless_forced(&sandbox, &disk, &["xfs", "filesystem", "file system"]);
}

#[test]
fn create_refuses_btrfs() {
    need!("mkfs.btrfs");
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk", 256 << 20);
    sandbox
        .run("mkfs.btrfs", ["-q", disk.to_str().expect("UTF-8")])
        .succeeded();
    assert_refused_unless_forced(&sandbox, &disk, &["btrfs", "filesystem", "file system"]);
}

#[test]
fn create_refuses_a_partition_table() {
    use std::os::unix::fs::FileExt;
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk", 64 << 20);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .expect("open");
    // A master boot record with one Linux partition.
    let partition = [
        0x80, 0, 2, 0, 0x83, 0xff, 0xff, 0xff, 0, 8, 0, 0, 0, 0, 1, 0,
    ];
    file.write_all_at(&partition, 446).expect("write");
    file.write_all_at(&[0x55, 0xaa], 510).expect("write");
    assert_refused_unless_forced(&sandbox, &disk, &["partition"]);
}

#[test]
fn create_refuses_a_gpt() {
    use std::os::unix::fs::FileExt;
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk", 64 << 20);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .expect("open");
    file.write_all_at(b"EFI PART\0\0\x01\0\x5c\0\0\0", 512)
        .expect("write");
    assert_refused_unless_forced(&sandbox, &disk, &["partition", "gpt"]);
}

#[test]
fn create_refuses_the_same_file_twice() {
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk", 64 << 20);
    let members = [disk.clone(), sandbox.path("other"), disk];
    sandbox
        .try_create(RAID5, &members)
        .exits(REFUSED)
        .says(&["twice", "same", "duplicate"]);
}

#[test]
fn create_refuses_the_same_file_under_two_names() {
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk", 64 << 20);
    let link = sandbox.path("link");
    std::os::unix::fs::symlink(&disk, &link).expect("symlink");
    let members = [disk, sandbox.path("other"), link];
    sandbox
        .try_create(RAID5, &members)
        .exits(REFUSED)
        .says(&["twice", "same", "duplicate"]);
}

#[test]
fn create_fails_on_a_member_too_small() {
    let sandbox = Sandbox::new();
    let members = [
        sandbox.file("a", 64 << 20),
        sandbox.file("b", 64 << 20),
        sandbox.file("c", 64 << 10),
    ];
    sandbox
        .try_create("--level raid5", &members)
        .exits(FAILED)
        .says(&["small"]);
}

#[test]
fn create_fails_on_an_empty_file() {
    let sandbox = Sandbox::new();
    let members = [
        sandbox.file("a", 64 << 20),
        sandbox.file("b", 64 << 20),
        sandbox.file("c", 0),
    ];
    sandbox
        .try_create("--level raid5", &members)
        .exits(FAILED)
        .says(&["small", "empty"]);
}

#[test]
fn create_fails_on_a_directory() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("directory");
    fs::create_dir(&directory).expect("directory");
    let members = [sandbox.path("a"), sandbox.path("b"), directory];
    sandbox
        .try_create(RAID5, &members)
        .exits(FAILED)
        .says(&["directory"]);
}

#[test]
fn create_without_size_fails_on_a_missing_path() {
    let sandbox = Sandbox::new();
    let ran = sandbox.try_create("--level raid5", &sandbox.members(3));
    assert!(ran.code == FAILED || ran.code == USAGE, "{ran}");
    ran.says(&["no such file", "does not exist", "--size"]);
}

//! A mounted filesystem whose server is killed, or whose disks lose power: after a restart it
//! mounts, is clean, and every file that was synced is there.

mod common;

use common::filesystem::{Attached, BTRFS, EXT4, Kind, Mounted, XFS};
use common::pattern::Random;
use common::volatile::Disks;
use common::{MIB, Sandbox};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const MEMBER_BYTES: u64 = 128 * MIB;

/// How it ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Kill,
    PowerLoss,
}

/// A file is a function of its number.
fn content(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let words = 1 + random.below(20_000);
    (0..words)
        .flat_map(|_| random.next().to_le_bytes())
        .collect()
}

fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory
        .join((number % 10).to_string())
        .join(number.to_string())
}

/// Writes a file and makes it durable, its name too.
fn write_durably(directory: &Path, number: u64) -> io::Result<()> {
    let path = path_of(directory, number);
    let parent = path.parent().expect("it has one");
    fs::create_dir_all(parent)?;
    File::open(directory)?.sync_all()?;
    let mut file = File::create(&path)?;
    file.write_all(&content(number))?;
    file.sync_all()?;
    File::open(parent)?.sync_all()
}

/// Writes files, those between unsynced, until it is no longer possible. Returns the synced.
fn write_until_the_end(directory: &Path, from: u64) -> Vec<u64> {
    let mut durable = Vec::new();
    for number in from.. {
        let synced = number % 4 != 0;
        let written = match synced {
            true => write_durably(directory, number),
            false => fs::write(
                directory.join(format!("unsynced{}", number % 40)),
                content(number),
            ),
        };
        if written.is_err() {
            break;
        }
        if synced {
            durable.push(number);
        }
    }
    durable
}

#[track_caller]
fn assert_there(mounted: &Mounted<'_>, durable: &[u64]) {
    for number in durable {
        let path = path_of(&mounted.directory, *number);
        let found = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(found == content(*number), "{} is damaged", path.display());
    }
}

fn survives(kind: &Kind, end: End, cycles: u64) {
    need_filesystem!(kind);
    let sandbox = Sandbox::new();
    let backing = sandbox.members(4);
    sandbox.create(&format!("--size {MEMBER_BYTES} --level raid5"), &backing);
    let mut random = Random::from_environment();
    let mut durable: Vec<u64> = Vec::new();
    for cycle in 0..=cycles {
        let mut disks =
            (end == End::PowerLoss).then(|| Disks::attach(&sandbox, &backing, random.next()));
        let members = disks.as_ref().map_or(backing.clone(), Disks::members);
        let server = sandbox.serve(&members);
        let device = match Attached::new(&sandbox, &server) {
            Ok(device) => device,
            Err(reason) => skip!("{reason}"),
        };
        if cycle == 0 {
            device.run(kind.mkfs);
        }
        let mounted = device.mount(kind); // replays its journal
        assert_there(&mounted, &durable);
        drop(mounted);
        device.run(kind.fsck);
        let mounted = device.mount(kind);
        if cycle == cycles {
            break;
        }
        let from = durable.last().map_or(1, |last| last + 10);
        let more = thread::scope(|scope| {
            let directory = &mounted.directory;
            let writer = scope.spawn(move || write_until_the_end(directory, from));
            thread::sleep(Duration::from_millis(300 + random.below(1500)));
            if let Some(disks) = &mut disks {
                disks.lose_power();
            }
            server.signal(Signal::SIGKILL);
            writer.join().expect("the writer")
        });
        println!("{} files synced before the end", more.len());
        durable.extend(more);
        drop(mounted);
        drop(device);
        server.kill9();
    }
    assert!(
        durable.len() as u64 > 3 * cycles,
        "hardly a file was synced"
    );
}

#[test]
fn ext4_survives_kills_of_its_server() {
    survives(&EXT4, End::Kill, 3);
}

#[test]
fn xfs_survives_kills_of_its_server() {
    survives(&XFS, End::Kill, 2);
}

#[test]
fn btrfs_survives_kills_of_its_server() {
    survives(&BTRFS, End::Kill, 2);
}

#[test]
fn ext4_survives_losses_of_power() {
    survives(&EXT4, End::PowerLoss, 3);
}

#[test]
fn xfs_survives_losses_of_power() {
    survives(&XFS, End::PowerLoss, 2);
}

#[test]
fn btrfs_survives_losses_of_power() {
    survives(&BTRFS, End::PowerLoss, 2);
}

//! Block devices, by way of loop devices. Needs root, so it runs only when asked for:
//! `cargo test -p uraid-io --test block_devices -- --ignored`

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use uraid_buffer::Pool;
use uraid_engine::api::{DeviceId, Io, IoKind};
use uraid_io::device::{Health, MemberFile, OpenError, OpenMode, create_sparse};
use uraid_io::driver::{Backend, Driver, DriverEvent, Limits};
use uraid_io::probe;

const SIZE_BYTES: u64 = 16 << 20;

fn command(program: &str, arguments: &[&Path]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A loop device on a sparse file; goes away with this value.
struct Loop {
    device: PathBuf,
    backing: PathBuf,
    _dir: tempfile::TempDir,
}

impl Loop {
    fn new() -> Loop {
        let dir = tempfile::tempdir().unwrap();
        let backing = dir.path().join("backing");
        create_sparse(&backing, SIZE_BYTES).unwrap();
        let arguments = ["--find", "--show"].map(Path::new);
        let device = command("losetup", &[arguments[0], arguments[1], &backing]).into();
        Loop {
            device,
            backing,
            _dir: dir,
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        command("losetup", &[Path::new("--detach"), &self.device]);
    }
}

#[test]
#[ignore = "needs root"]
fn a_block_device_is_opened_once() {
    let disk = Loop::new();
    let member = MemberFile::open(&disk.device, OpenMode::default()).unwrap();
    assert!(member.is_block_device());
    assert_eq!(member.size_bytes(), SIZE_BYTES);
    assert_eq!(member.identity().check(), Health::Present);
    let second = MemberFile::open(&disk.device, OpenMode::default()).unwrap_err();
    assert!(
        matches!(second, OpenError::Busy { .. } | OpenError::Locked { .. }),
        "{second}"
    );
    MemberFile::open(&disk.device, OpenMode::inspect()).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_mounted_device_is_refused() {
    let disk = Loop::new();
    command("mkfs.ext4", &[Path::new("-q"), &disk.device]);
    let content = MemberFile::open(&disk.device, OpenMode::read_only()).unwrap();
    assert_eq!(
        probe::existing_content(&content).unwrap(),
        Some("an ext4 filesystem")
    );
    drop(content);
    let place = tempfile::tempdir().unwrap();
    command("mount", &[&disk.device, place.path()]);
    let refused = MemberFile::open(
        &disk.device,
        OpenMode {
            lock_wait: Duration::from_secs(3600),
            ..OpenMode::default()
        },
    );
    let mounted = probe::is_mounted(&disk.device).unwrap();
    command("umount", &[place.path()]);
    let Err(OpenError::Mounted { mount_point, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(Path::new(&mount_point), place.path());
    assert!(mounted && !probe::is_mounted(&disk.device).unwrap());
}

#[test]
#[ignore = "needs root"]
fn a_block_device_is_written_and_discarded() {
    use std::os::unix::fs::MetadataExt;
    for backend in [Backend::Uring, Backend::Threads] {
        let disk = Loop::new();
        let (device, pool) = (DeviceId(1), Pool::heap());
        let mut driver = Driver::new(backend, &pool, Limits::default()).unwrap();
        driver
            .add_device(
                device,
                MemberFile::open(&disk.device, OpenMode::default()).unwrap(),
            )
            .unwrap();
        let mut perform = |kind| {
            driver.submit_io(Io {
                token: 1,
                device,
                kind,
                background: false,
            });
            let mut events = Vec::new();
            driver.wait(None, &mut events);
            let Some(DriverEvent::Member(completion)) = events.pop() else {
                panic!("{events:?}")
            };
            completion.result.unwrap();
            completion.buffer
        };
        let content = pool.copy(&[0xa5; 4 << 20]);
        perform(IoKind::Write {
            offset: 0,
            buffers: vec![content.clone()],
            fua: true,
        });
        perform(IoKind::Flush);
        let buffer = perform(IoKind::Read {
            offset: 0,
            buffer: pool.take(4 << 20),
        });
        assert!(buffer.unwrap()[..] == content[..]);
        let full = std::fs::metadata(&disk.backing).unwrap().blocks();
        perform(IoKind::Discard {
            offset: 1 << 20,
            len: 2 << 20,
        });
        let discarded = std::fs::metadata(&disk.backing).unwrap().blocks();
        assert!(discarded + 4096 <= full, "{full} blocks became {discarded}");
    }
}

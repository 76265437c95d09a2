//! Member files: regular files and block devices, opened so that nobody else writes to them.

use nix::libc;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use uraid_buffer::{ALIGNMENT, Pool};

pub use crate::identity::{Health, Identity};
use crate::{block_device, probe};

/// Largest piece that the blocking helpers move at once, in bytes.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// How long to sleep between two attempts to take a lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Whether the page cache is bypassed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direct {
    /// `O_DIRECT` where the file system and the device can; [`MemberFile::direct`] tells.
    #[default]
    Try,
    /// Through the page cache.
    Never,
}

/// What the lock on the file shuts out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lock {
    /// Everybody: we write.
    #[default]
    Exclusive,
    /// Writers: we read what must not change.
    Shared,
    /// Nobody: a look that may see a running array's changes.
    None,
}

/// How a member file is opened. The default is for service: read and write, locked, direct.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenMode {
    /// Refuse to write. Takes a shared lock unless `lock` says none.
    pub read_only: bool,
    /// Page cache or not.
    pub direct: Direct,
    /// What to shut out.
    pub lock: Lock,
    /// How long to wait for another holder to let go. A server that was killed holds its members
    /// until the kernel has finished its last I/O.
    pub lock_wait: Duration,
}

impl OpenMode {
    /// For reading what nobody may change meanwhile.
    pub fn read_only() -> OpenMode {
        OpenMode {
            read_only: true,
            lock: Lock::Shared,
            ..OpenMode::default()
        }
    }

    /// For a look at a file that may be in service.
    pub fn inspect() -> OpenMode {
        OpenMode {
            read_only: true,
            lock: Lock::None,
            ..OpenMode::default()
        }
    }
}

/// Why a member file was not opened. Each names the path and what would help.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum OpenError {
    #[error("{path}: there is no such file or device; check the path, or create the file first")]
    NotFound { path: PathBuf },
    #[error("{path}: is a directory; name a file in it or a block device")]
    IsDirectory { path: PathBuf },
    #[error("{path}: permission denied; run as root or as a user who may {access} it")]
    Permission { path: PathBuf, access: &'static str },
    #[error(
        "{path}: locked by another process after waiting {waited:?}; another server or tool \
         uses this member: stop it first"
    )]
    Locked { path: PathBuf, waited: Duration },
    #[error("{path}: mounted at {mount_point}; unmount it first")]
    Mounted { path: PathBuf, mount_point: String },
    #[error(
        "{path}: the device is in use (by a mounted partition, md, LVM, swap or another program); \
         release it there first"
    )]
    Busy { path: PathBuf },
    #[error(
        "{path}: the device is write-protected; lift that (`blockdev --setrw`), or leave it out"
    )]
    WriteProtected { path: PathBuf },
    #[error("{path}: neither a regular file nor a block device; members must be one of the two")]
    NotRegularOrBlock { path: PathBuf },
    #[error("{path}: exists already; remove it first, or choose another name")]
    Exists { path: PathBuf },
    #[error("{path}: {error}; see whether the device and its file system are in order")]
    Other { path: PathBuf, error: io::Error },
}

impl OpenError {
    fn from_io(path: &Path, access: &'static str, error: io::Error) -> OpenError {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => OpenError::NotFound { path },
            io::ErrorKind::IsADirectory => OpenError::IsDirectory { path },
            io::ErrorKind::PermissionDenied => OpenError::Permission { path, access },
            io::ErrorKind::ResourceBusy => OpenError::Busy { path },
            io::ErrorKind::AlreadyExists => OpenError::Exists { path },
            _ => OpenError::Other { path, error },
        }
    }

    /// The errno behind [`OpenError::Other`], if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            OpenError::Other { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }
}

/// An open, locked member. Dropping it, and all that it was shared with, releases the lock and the
/// device.
#[derive(Debug)]
pub struct MemberFile {
    file: Arc<File>,
    /// The file under a loop device, held for its lock alone.
    _below: Option<Arc<File>>,
    identity: Identity,
    direct: bool,
    block_device: bool,
}

/// A file opened and locked.
struct Locked {
    file: File,
    below: Option<File>,
    direct: bool,
}

impl MemberFile {
    /// Opens `path` and locks it.
    ///
    /// The lock is a `flock` on the very descriptor that does the I/O: the kernel keeps it for a
    /// killed process until the last I/O on that descriptor is finished, so a successor cannot
    /// overtake it. Block devices are opened with `O_EXCL`, which mounts, md and LVM respect.
    pub fn open(path: impl AsRef<Path>, mode: OpenMode) -> Result<MemberFile, OpenError> {
        let path = path.as_ref();
        let access = if mode.read_only {
            "read"
        } else {
            "read and write"
        };
        let fail = |error| OpenError::from_io(path, access, error);
        // Looked at first, because opening a FIFO or a tape has effects of its own.
        let meta = std::fs::metadata(path).map_err(fail)?;
        let kind = meta.file_type();
        let block_device = kind.is_block_device();
        if kind.is_dir() {
            return Err(OpenError::IsDirectory {
                path: path.to_owned(),
            });
        }
        if !kind.is_file() && !block_device {
            return Err(OpenError::NotRegularOrBlock {
                path: path.to_owned(),
            });
        }
        let locked = open_locked(path, mode, block_device, access)?;
        let meta = locked.file.metadata().map_err(fail)?;
        // Opening it is allowed, writing would fail: better now than in the middle of service.
        if block_device
            && !mode.read_only
            && block_device::is_write_protected(&locked.file).map_err(fail)?
        {
            return Err(OpenError::WriteProtected {
                path: path.to_owned(),
            });
        }
        let size_bytes = size_bytes(&locked.file, &meta).map_err(fail)?;
        let identity = Identity::of(path, &meta, size_bytes);
        Ok(MemberFile {
            file: Arc::new(locked.file),
            _below: locked.below.map(Arc::new),
            identity,
            direct: locked.direct,
            block_device,
        })
    }

    /// The same descriptor, for another thread.
    pub fn share(&self) -> MemberFile {
        MemberFile {
            file: self.file.clone(),
            _below: self._below.clone(),
            identity: self.identity.clone(),
            direct: self.direct,
            block_device: self.block_device,
        }
    }

    /// Drops it on a thread of its own: the last close of a file may wait for whatever serves it.
    pub fn close_apart(self) {
        // Where no thread is to be had, the closure is dropped here, and the file with it.
        let close = move || drop(self);
        let _ = thread::Builder::new().name("close".into()).spawn(close);
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.identity.path
    }

    /// Size in bytes when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    /// Whether I/O bypasses the page cache; then it must be aligned to 4096 bytes.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Whether it is a block device rather than a regular file.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// What a health check needs; outlives this descriptor.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Whether the path no longer leads to this file.
    pub fn path_is_gone(&self) -> bool {
        let unlinked = self.file.metadata().is_ok_and(|meta| meta.nlink() == 0);
        unlinked || self.identity.check() == Health::Gone
    }

    /// Fills `bytes` from `offset`, any alignment. Blocks; for tools, not for service.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before, else what the device answers.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut piece = Pool::heap().take(PIECE_BYTES_MAX.min(bytes.len() + 2 * ALIGNMENT));
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let skip = (at % ALIGNMENT as u64) as usize;
            let want = (skip + bytes.len() - done)
                .next_multiple_of(ALIGNMENT)
                .min(piece.len());
            let want = want - want % ALIGNMENT;
            let got = read_up_to(&self.file, at - skip as u64, &mut piece[..want])?;
            if got <= skip {
                return Err(self.end_error(at));
            }
            let len = (got - skip).min(bytes.len() - done);
            bytes[done..done + len].copy_from_slice(&piece[skip..skip + len]);
            done += len;
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`; both offset and length must be multiples of 4096. Blocks; for
    /// tools, not for service.
    ///
    /// # Errors
    /// `InvalidInput` for other multiples, else what the device answers.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !offset.is_multiple_of(ALIGNMENT as u64) || !bytes.len().is_multiple_of(ALIGNMENT) {
            let message = format!(
                "{}: a write of {} bytes at {offset} is not a multiple of {ALIGNMENT}",
                self.path().display(),
                bytes.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut piece = Pool::heap().take(PIECE_BYTES_MAX.min(bytes.len()));
        for (index, source) in bytes.chunks(PIECE_BYTES_MAX).enumerate() {
            let piece = &mut piece[..source.len()];
            piece.copy_from_slice(source);
            self.file
                .write_all_at(piece, offset + (index * PIECE_BYTES_MAX) as u64)?;
        }
        Ok(())
    }

    /// Makes everything written durable. Blocks.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn end_error(&self, offset: u64) -> io::Error {
        let message = format!("{}: ends before byte {offset}", self.path().display());
        io::Error::new(io::ErrorKind::UnexpectedEof, message)
    }
}

impl AsFd for MemberFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes a new file of `size_bytes` that takes no space until it is written.
pub fn create_sparse(path: impl AsRef<Path>, size_bytes: u64) -> Result<(), OpenError> {
    let path = path.as_ref();
    let create = || {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.set_len(size_bytes)?;
        // Its size is not written again, so it must not be lost now.
        file.sync_all()
    };
    create().map_err(|error| OpenError::from_io(path, "create", error))
}

/// Opens and locks, again and again until `lock_wait` is over.
fn open_locked(
    path: &Path,
    mode: OpenMode,
    block_device: bool,
    access: &'static str,
) -> Result<Locked, OpenError> {
    let start = Instant::now();
    loop {
        let error = match try_open_locked(path, mode, block_device) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let locked = error.kind() == io::ErrorKind::WouldBlock;
        let busy = error.kind() == io::ErrorKind::ResourceBusy;
        if !locked && !busy {
            return Err(OpenError::from_io(path, access, error));
        }
        if busy && let Ok(Some(mount_point)) = probe::mount_point(path) {
            // Nobody unmounts it for us: waiting would only hide the mistake.
            return Err(OpenError::Mounted {
                path: path.to_owned(),
                mount_point,
            });
        }
        if start.elapsed() >= mode.lock_wait {
            let path = path.to_owned();
            return Err(match busy {
                true => OpenError::Busy { path },
                false => OpenError::Locked {
                    path,
                    waited: mode.lock_wait,
                },
            });
        }
        thread::sleep(LOCK_RETRY.min(mode.lock_wait));
    }
}

/// One attempt; `WouldBlock` when somebody else holds the lock.
fn try_open_locked(path: &Path, mode: OpenMode, block_device: bool) -> io::Result<Locked> {
    // Two readers may share a device, which O_EXCL would not allow.
    let exclusive = if block_device && !mode.read_only {
        libc::O_EXCL
    } else {
        0
    };
    let open = |flags: i32| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(!mode.read_only)
            .custom_flags(exclusive | flags)
            .open(path)
    };
    let (mut file, mut direct) = match mode.direct {
        Direct::Never => (open(0)?, false),
        Direct::Try => match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (open(0)?, false),
            opened => (opened?, true),
        },
    };
    if direct && block_device && block_device::logical_block_bytes(&file)? > ALIGNMENT {
        drop(file);
        (file, direct) = (open(0)?, false);
    }
    lock(&file, mode)?;
    // Who uses the file itself does not see the lock on the device, nor the other way round.
    let below = block_device::backing_file(&file.metadata()?);
    let below = below.and_then(|path| File::open(path).ok());
    if let Some(below) = &below {
        lock(below, mode)?;
    }
    Ok(Locked {
        file,
        below,
        direct,
    })
}

/// `WouldBlock` when somebody else holds it.
fn lock(file: &File, mode: OpenMode) -> io::Result<()> {
    let locked = match mode.lock {
        Lock::None => Ok(()),
        Lock::Exclusive if !mode.read_only => file.try_lock(),
        Lock::Exclusive | Lock::Shared => file.try_lock_shared(),
    };
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
        TryLockError::Error(error) => error,
    })
}

fn size_bytes(file: &File, meta: &Metadata) -> io::Result<u64> {
    if !meta.file_type().is_block_device() {
        return Ok(meta.len());
    }
    block_device::size_bytes(file)
}

/// Reads until `bytes` is full or the file ends; returns how many.
fn read_up_to(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !done.is_multiple_of(ALIGNMENT) {
            break; // The end of the file; O_DIRECT could not go on from here.
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn sparse(size_bytes: u64) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("member");
        create_sparse(&path, size_bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn opening_tells_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| MemberFile::open(path, OpenMode::default()).unwrap_err();
        let missing = open(&dir.path().join("missing"));
        assert!(matches!(missing, OpenError::NotFound { .. }));
        assert!(missing.to_string().contains("missing") && missing.to_string().contains("create"));
        assert!(matches!(open(dir.path()), OpenError::IsDirectory { .. }));
        let no_member = open(Path::new("/dev/null"));
        assert!(matches!(no_member, OpenError::NotRegularOrBlock { .. }));
    }

    #[test]
    fn forbidden_files_say_so() {
        if nix::unistd::geteuid().is_root() {
            return; // Nothing is forbidden to root.
        }
        let (_dir, path) = sparse(4096);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        let error = MemberFile::open(&path, OpenMode::default()).unwrap_err();
        assert!(matches!(error, OpenError::Permission { .. }));
    }

    #[test]
    fn a_second_writer_is_refused_readers_share() {
        let (_dir, path) = sparse(8192);
        let writer = MemberFile::open(&path, OpenMode::default()).unwrap();
        for mode in [OpenMode::default(), OpenMode::read_only()] {
            let error = MemberFile::open(&path, mode).unwrap_err();
            assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        }
        MemberFile::open(&path, OpenMode::inspect()).unwrap();
        drop(writer);
        let _reader = MemberFile::open(&path, OpenMode::read_only()).unwrap();
        let _another = MemberFile::open(&path, OpenMode::read_only()).unwrap();
        let error = MemberFile::open(&path, OpenMode::default()).unwrap_err();
        assert!(matches!(error, OpenError::Locked { .. }));
    }

    #[test]
    fn a_waiting_opener_gets_the_lock_when_it_is_free() {
        let (_dir, path) = sparse(8192);
        let writer = MemberFile::open(&path, OpenMode::default()).unwrap();
        let waiter = thread::spawn(move || {
            let lock_wait = Duration::from_secs(60);
            MemberFile::open(
                &path,
                OpenMode {
                    lock_wait,
                    ..OpenMode::default()
                },
            )
        });
        thread::sleep(Duration::from_millis(20)); // Either order passes; this one is the point.
        drop(writer);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn creating_over_a_file_is_refused() {
        let (_dir, path) = sparse(12288);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 12288);
        assert!(matches!(
            create_sparse(&path, 1),
            Err(OpenError::Exists { .. })
        ));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 12288);
    }

    #[test]
    fn reads_any_range_writes_whole_blocks() {
        for direct in [Direct::Try, Direct::Never] {
            let size_bytes = 3 << 20;
            let (_dir, path) = sparse(size_bytes as u64 + 100);
            let file = MemberFile::open(
                &path,
                OpenMode {
                    direct,
                    ..OpenMode::default()
                },
            )
            .unwrap();
            let content: Vec<u8> = (0..size_bytes).map(|i| (i % 251) as u8).collect();
            file.write_at(0, &content).unwrap();
            file.sync().unwrap();
            for (offset, len) in [(0, size_bytes), (1, 4095), (4095, 2), (777, 2_500_000)] {
                let mut bytes = vec![0; len];
                file.read_at(offset as u64, &mut bytes).unwrap();
                assert!(
                    bytes == content[offset..offset + len],
                    "{len} bytes at {offset}"
                );
            }
            file.read_at(size_bytes as u64, &mut [1; 100]).unwrap();
            let end = file.read_at(size_bytes as u64, &mut [1; 101]).unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
            let odd = file.write_at(512, &[0; 4096]).unwrap_err();
            assert_eq!(odd.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn read_only_files_are_not_written() {
        let (_dir, path) = sparse(4096);
        let file = MemberFile::open(&path, OpenMode::read_only()).unwrap();
        assert!(file.write_at(0, &[1; 4096]).is_err());
    }

    #[test]
    fn deletion_replacement_and_shrinking_are_noticed() {
        let (dir, path) = sparse(8192);
        let file = MemberFile::open(&path, OpenMode::default()).unwrap();
        let identity = file.identity();
        assert_eq!(identity.check(), Health::Present);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(4096)
            .unwrap();
        assert_eq!(identity.check(), Health::Shrunk { size_bytes: 4096 });
        assert!(!file.path_is_gone());
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        assert!(file.path_is_gone());
        create_sparse(&path, 8192).unwrap();
        assert_eq!(
            identity.check(),
            Health::Gone,
            "another file took its place"
        );
    }
}

//! Whether a member is still there: what its path leads to, compared with what it was.

use crate::probe;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What became of a member's path since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// The path still leads to the same file, no smaller than it was.
    Present,
    /// The path leads nowhere, or to another file: it was deleted, replaced or unplugged.
    Gone,
    /// It became smaller.
    Shrunk {
        /// Size at present.
        size_bytes: u64,
    },
}

/// Enough to see whether a member is still there, without its descriptor: a check may hang on a
/// dead file system and belongs on a thread that may.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(crate) path: PathBuf,
    /// Of a block device its number, of a file its file system's.
    device: u64,
    /// None for block devices: their node may be made anew.
    inode: Option<u64>,
    pub(crate) size_bytes: u64,
}

impl Identity {
    pub(crate) fn of(path: &Path, meta: &Metadata, size_bytes: u64) -> Identity {
        let path = path.to_owned();
        let (device, inode) = Self::numbers(meta);
        Identity {
            path,
            device,
            inode,
            size_bytes,
        }
    }

    fn numbers(meta: &Metadata) -> (u64, Option<u64>) {
        if meta.file_type().is_block_device() {
            (meta.rdev(), None)
        } else {
            (meta.dev(), Some(meta.ino()))
        }
    }

    /// Looks at the path. May block as long as its file system does.
    pub fn check(&self) -> Health {
        let Ok(meta) = std::fs::metadata(&self.path) else {
            return Health::Gone;
        };
        if Self::numbers(&meta) != (self.device, self.inode) {
            return Health::Gone;
        }
        let size_bytes = match self.inode {
            Some(_) => Some(meta.len()),
            None => probe::sysfs_size_bytes(self.device),
        };
        match size_bytes {
            None => Health::Gone,
            Some(size_bytes) if size_bytes < self.size_bytes => Health::Shrunk { size_bytes },
            Some(_) => Health::Present,
        }
    }
}

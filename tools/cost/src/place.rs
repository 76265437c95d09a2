//! Where members are put.

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use std::path::{Path, PathBuf};

/// Memory, where there is room for so many bytes in it; else the system's temporary directory.
pub fn default_dir(bytes: u64) -> PathBuf {
    let shm = Path::new("/dev/shm");
    match room_bytes(shm) {
        Ok(room) if room >= bytes => shm.to_path_buf(),
        _ => std::env::temp_dir(),
    }
}

/// Room in the filesystem of a directory.
///
/// # Errors
/// When there is no such directory.
pub fn room_bytes(dir: &Path) -> Result<u64, String> {
    let stat = statvfs(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Whether a directory is in memory, where making data durable costs nothing.
///
/// # Errors
/// When there is no such directory.
pub fn is_memory(dir: &Path) -> Result<bool, String> {
    let stat = statfs(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(stat.filesystem_type() == TMPFS_MAGIC)
}

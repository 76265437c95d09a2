//! Where servers and their clients meet when nobody names a place.

use crate::failure::{Doing, Failure};
use nix::unistd::Uid;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest name of an array, in bytes; with it the default socket paths fit `sockaddr_un`.
pub use uraid_core::superblock::NAME_BYTES_MAX;

/// Ending of a control socket in the default directory; `uraid list` looks for it.
pub const CONTROL_SUFFIX: &str = ".control";

/// Ending of an NBD socket in the default directory.
pub const NBD_SUFFIX: &str = ".nbd";

/// The directory of sockets: `/run/uraid` for root, else `$XDG_RUNTIME_DIR/uraid`, else
/// `/tmp/uraid-UID`.
pub fn socket_directory() -> PathBuf {
    let uid = Uid::effective();
    if uid.is_root() {
        return PathBuf::from("/run/uraid");
    }
    absolute_variable("XDG_RUNTIME_DIR")
        .map(|runtime| runtime.join("uraid"))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/uraid-{uid}")))
}

/// The directory of what must outlive a reboot: `/var/lib/uraid` for root, else
/// `$XDG_STATE_HOME/uraid`, else `~/.local/state/uraid`. `None` when there is no home either.
pub fn state_directory() -> Option<PathBuf> {
    if Uid::effective().is_root() {
        return Some(PathBuf::from("/var/lib/uraid"));
    }
    absolute_variable("XDG_STATE_HOME")
        .or_else(|| absolute_variable("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("uraid"))
}

/// The default control socket of the array `name`.
pub fn control_path(name: &str) -> PathBuf {
    socket_directory().join(format!("{name}{CONTROL_SUFFIX}"))
}

/// The default NBD socket of the array `name`.
pub fn nbd_path(name: &str) -> PathBuf {
    socket_directory().join(format!("{name}{NBD_SUFFIX}"))
}

/// The XDG specification wants relative values ignored.
fn absolute_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Makes `directory` for us alone, or checks that it is: in `/tmp` anybody could have made it.
pub fn make_private_directory(directory: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .doing(|| format!("create the directory {}", directory.display()))?;
    let metadata = fs::symlink_metadata(directory)
        .doing(|| format!("look at the directory {}", directory.display()))?;
    let private = metadata.permissions().mode() & 0o022 == 0;
    if metadata.is_dir() && metadata.uid() == Uid::effective().as_raw() && private {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{} is not a directory that only you can write to; remove it, or name other places \
         with --listen and --control",
        directory.display()
    )))
}

/// Whether `name` can be an array's name: it becomes an export name and part of file names.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!("a name has 1 to {NAME_BYTES_MAX} characters"));
    }
    if let Some(odd) = name.chars().find(|c| !allowed(*c)) {
        return Err(format!(
            "{odd:?} cannot be in a name; letters, digits, '.', '_' and '-' can"
        ));
    }
    if name.starts_with(['.', '-']) {
        return Err("a name begins with a letter, a digit or '_'".to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names_are_safe_in_paths_and_uris() {
        for good in [
            "a",
            "raid6",
            "my-array_1.old",
            "9",
            &"x".repeat(NAME_BYTES_MAX),
        ] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a b",
            "a/b",
            "..",
            ".",
            "-x",
            "ä",
            "a\n",
            &"x".repeat(NAME_BYTES_MAX + 1),
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_directory_others_can_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("sockets");
        make_private_directory(&directory).unwrap();
        make_private_directory(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            make_private_directory(&directory)
                .unwrap_err()
                .message
                .contains("--listen")
        );
    }

    #[test]
    fn the_longest_default_socket_path_fits_a_socket_address() {
        let name = "x".repeat(NAME_BYTES_MAX);
        let longest = format!("/tmp/uraid-4294967295/{name}{CONTROL_SUFFIX}");
        assert!(
            longest.len() < 108,
            "sockaddr_un holds 108 bytes with the final zero"
        );
    }
}

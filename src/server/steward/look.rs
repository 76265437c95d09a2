//! Whether a device is back: there, the same member, and readable. May hang as long as the device.

use crate::server::members;
use std::path::Path;
use std::time::{Duration, Instant};
use uraid_core::units::{BLOCK, BLOCK_BYTES, Uuid};
use uraid_io::device::{MemberFile, OpenMode};

/// Who takes longer than this to answer is not back.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Blocks that are read, from the first to the last one of the device.
const SAMPLES: u64 = 5;

/// Whether there is that member at `path`, and answers in time.
pub fn is_back(path: &str, array: Uuid, member: Uuid) -> bool {
    let begun = Instant::now();
    let Ok(file) = MemberFile::open(Path::new(path), OpenMode::inspect()) else {
        return false;
    };
    is_member(&file, array, member) && is_readable(&file) && begun.elapsed() < LOOK_MAX
}

/// Whether `file` says that it is that member.
pub fn is_member(file: &MemberFile, array: Uuid, member: Uuid) -> bool {
    let found = members::inspect(file).ok().and_then(|i| i.superblock);
    found.is_some_and(|s| (s.array, s.member) == (array, member))
}

fn is_readable(file: &MemberFile) -> bool {
    let last = (file.size_bytes() / BLOCK).saturating_sub(1);
    let mut block = [0; BLOCK_BYTES];
    let offsets = (0..SAMPLES).map(|i| last * i / (SAMPLES - 1) * BLOCK);
    { offsets }.all(|offset| file.read_at(offset, &mut block).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_or_no_member_is_not_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("m");
        let text = path.to_str().expect("UTF-8").to_string();
        let (array, member) = (Uuid([1; 16]), Uuid([2; 16]));
        assert!(!is_back(&text, array, member));
        std::fs::write(&path, vec![7; 1 << 20]).expect("a file");
        assert!(!is_back(&text, array, member));
    }
}

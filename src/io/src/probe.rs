//! What a file or block device already holds, so that nobody's data is overwritten by mistake.
//!
//! Signatures and offsets as in the headers of the kernel and the tools concerned; `blkid` and
//! `wipefs` look at the same places.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::device::MemberFile;

/// A magic number at a fixed offset from the start.
struct Signature {
    offset: u64,
    magic: &'static [u8],
    what: &'static str,
}

const fn at(offset: u64, magic: &'static [u8], what: &'static str) -> Signature {
    Signature {
        offset,
        magic,
        what,
    }
}

const LVM: &str = "an LVM physical volume";
const SWAP: &str = "swap space";
const MD: &str = "an md RAID member";
const MD_MAGIC: &[u8] = &0xa92b_4efc_u32.to_le_bytes();

/// The first that matches wins: containers stand before what they may contain.
const SIGNATURES: &[Signature] = &[
    at(0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    at(0, MD_MAGIC, MD),    // version 1.1
    at(4096, MD_MAGIC, MD), // version 1.2
    at(24, b"LVM2 001", LVM),
    at(512 + 24, b"LVM2 001", LVM),
    at(1024 + 24, b"LVM2 001", LVM),
    at(1536 + 24, b"LVM2 001", LVM),
    at(0, b"XFSB", "an xfs filesystem"),
    at(65536 + 64, b"_BHRfS_M", "a btrfs filesystem"),
    at(1024, &0xf2f5_2010_u32.to_le_bytes(), "an f2fs filesystem"),
    at(3, b"NTFS    ", "an NTFS filesystem"),
    at(3, b"EXFAT   ", "an exFAT filesystem"),
    at(54, b"FAT12   ", "a FAT filesystem"),
    at(54, b"FAT16   ", "a FAT filesystem"),
    at(82, b"FAT32   ", "a FAT filesystem"),
    at(4096 - 10, b"SWAPSPACE2", SWAP),
    at(8192 - 10, b"SWAPSPACE2", SWAP),
    at(16384 - 10, b"SWAPSPACE2", SWAP),
    at(65536 - 10, b"SWAPSPACE2", SWAP),
    at(32769, b"CD001", "an ISO 9660 image"),
    at(512, b"EFI PART", "a GPT partition table"),
    at(4096, b"EFI PART", "a GPT partition table"),
];

/// Names what `file` holds ("an ext4 filesystem"), or none when nothing known is found. An
/// array's own superblock is not looked for here.
///
/// # Errors
/// What reading answers.
pub fn existing_content(file: &MemberFile) -> io::Result<Option<&'static str>> {
    let size_bytes = file.size_bytes();
    let mut head = vec![0; size_bytes.min(256 << 10) as usize];
    file.read_at(0, &mut head)?;
    // Beyond the end of a small file everything reads as zero and matches nothing.
    head.resize(256 << 10, 0);
    for signature in SIGNATURES {
        if has(&head, signature.offset as usize, signature.magic) {
            return Ok(Some(signature.what));
        }
    }
    if let Some(what) = ext(&head) {
        return Ok(Some(what));
    }
    if zfs(&head) {
        return Ok(Some("a ZFS pool member"));
    }
    if md_at_end(file, size_bytes)? {
        return Ok(Some(MD));
    }
    Ok(mbr(&head).then_some("an MBR partition table"))
}

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes[offset..].starts_with(magic)
}

fn le32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// ext2, 3 and 4 share a magic number; features tell them apart.
fn ext(head: &[u8]) -> Option<&'static str> {
    const SUPERBLOCK: usize = 1024;
    const COMPAT_HAS_JOURNAL: u32 = 0x4;
    const INCOMPAT_EXT4: u32 = 0x40 | 0x80 | 0x200; // extents, 64bit, flex_bg
    if !has(head, SUPERBLOCK + 0x38, &[0x53, 0xef]) {
        return None;
    }
    let compat = le32(head, SUPERBLOCK + 0x5c);
    let incompat = le32(head, SUPERBLOCK + 0x60);
    Some(if incompat & INCOMPAT_EXT4 != 0 {
        "an ext4 filesystem"
    } else if compat & COMPAT_HAS_JOURNAL != 0 {
        "an ext3 filesystem"
    } else {
        "an ext2 filesystem"
    })
}

/// Some uberblock of the first label, in either byte order.
fn zfs(head: &[u8]) -> bool {
    const MAGIC: u64 = 0x00ba_b10c;
    let mut uberblocks = head[128 << 10..].chunks(1024);
    uberblocks.any(|u| u.starts_with(&MAGIC.to_le_bytes()) || u.starts_with(&MAGIC.to_be_bytes()))
}

/// md keeps the superblocks of versions 0.90 and 1.0 near the end.
fn md_at_end(file: &MemberFile, size_bytes: u64) -> io::Result<bool> {
    const RESERVED: u64 = 64 << 10;
    let version_0 = (size_bytes & !(RESERVED - 1)).checked_sub(RESERVED);
    let version_1 = (size_bytes & !4095).checked_sub(8192);
    for offset in [version_0, version_1].into_iter().flatten() {
        let mut magic = [0; 4];
        file.read_at(offset, &mut magic)?;
        let big_endian = magic.iter().rev().eq(MD_MAGIC.iter());
        if magic == MD_MAGIC || big_endian {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A boot sector whose partition entries make sense, at least one of them in use.
fn mbr(head: &[u8]) -> bool {
    if !has(head, 510, &[0x55, 0xaa]) {
        return false;
    }
    let entries: Vec<&[u8]> = head[446..510].chunks(16).collect();
    let sensible = entries
        .iter()
        .all(|entry| entry[0] == 0 || entry[0] == 0x80);
    sensible
        && entries
            .iter()
            .any(|entry| entry[4] != 0 && le32(entry, 12) != 0)
}

/// Where a block device, or one of its partitions, is mounted.
///
/// # Errors
/// What reading `/proc` or the path answers.
pub fn mount_point(path: &Path) -> io::Result<Option<String>> {
    let meta = std::fs::metadata(path)?;
    if !meta.file_type().is_block_device() {
        return Ok(None);
    }
    let mut numbers = partitions(meta.rdev());
    numbers.push(number_text(meta.rdev()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounted_at(&mounts, &numbers, &path.to_string_lossy()))
}

/// Whether a block device, or one of its partitions, is mounted.
///
/// # Errors
/// As for [`mount_point`].
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(mount_point(path)?.is_some())
}

/// Searches the text of mountinfo (proc(5)): the third field is the device, the fifth the mount
/// point, and after " - " come type and source (btrfs gives its device only there).
fn mounted_at(mounts: &str, numbers: &[String], source: &str) -> Option<String> {
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        let fields: Vec<&str> = place.split(' ').collect();
        let by_number = numbers
            .iter()
            .any(|number| fields.get(2) == Some(&number.as_str()));
        let by_source = kind.split(' ').nth(1) == Some(source);
        if by_number || by_source {
            return fields.get(4).map(|escaped| unescape(escaped));
        }
    }
    None
}

/// Undoes the octal escapes of spaces and backslashes.
fn unescape(escaped: &str) -> String {
    let text = escaped.replace("\\040", " ").replace("\\011", "\t");
    text.replace("\\012", "\n").replace("\\134", "\\")
}

fn number_text(device: u64) -> String {
    format!(
        "{}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    )
}

/// The numbers of a disk's partitions; none for partitions and when sysfs does not say.
fn partitions(device: u64) -> Vec<String> {
    let dir = format!("/sys/dev/block/{}", number_text(device));
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let partitions = entries
        .flatten()
        .filter(|entry| entry.path().join("partition").exists());
    let numbers = partitions.filter_map(|p| std::fs::read_to_string(p.path().join("dev")).ok());
    numbers.map(|number| number.trim().to_owned()).collect()
}

/// The size of a block device by its number, without opening it.
pub(crate) fn sysfs_size_bytes(device: u64) -> Option<u64> {
    let path = format!("/sys/dev/block/{}/size", number_text(device));
    let sectors: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(sectors * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{OpenMode, create_sparse};
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    /// What is found in a file of `size_bytes` with `pieces` written into it.
    fn probed(size_bytes: u64, pieces: &[(u64, &[u8])]) -> Option<&'static str> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        create_sparse(&path, size_bytes).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for (offset, bytes) in pieces {
            file.write_all_at(bytes, *offset).unwrap();
        }
        drop(file);
        existing_content(&MemberFile::open(&path, OpenMode::read_only()).unwrap()).unwrap()
    }

    const SIZE: u64 = (1 << 20) + 4096;

    #[test]
    fn empty_and_small_files_hold_nothing() {
        for size_bytes in [0, 100, 4096, 8192, 65536, SIZE] {
            assert_eq!(probed(size_bytes, &[]), None);
        }
        let noise: Vec<u8> = (0..SIZE as u32)
            .map(|i| (i.wrapping_mul(2654435761) >> 13) as u8)
            .collect();
        assert_eq!(probed(SIZE, &[(0, &noise)]), None);
    }

    #[test]
    fn every_signature_is_found() {
        for signature in SIGNATURES {
            let found = probed(SIZE, &[(signature.offset, signature.magic)]);
            assert_eq!(found, Some(signature.what));
        }
    }

    #[test]
    fn the_exts_are_told_apart() {
        let ext = |compat: u8, incompat: u16| {
            let magic: (u64, &[u8]) = (1024 + 0x38, &[0x53, 0xef]);
            let incompat = incompat.to_le_bytes();
            probed(
                SIZE,
                &[magic, (1024 + 0x5c, &[compat]), (1024 + 0x60, &incompat)],
            )
        };
        assert_eq!(ext(0, 0), Some("an ext2 filesystem"));
        assert_eq!(ext(4, 2), Some("an ext3 filesystem"));
        assert_eq!(ext(4, 0x242), Some("an ext4 filesystem"));
    }

    #[test]
    fn md_superblocks_at_the_end_are_found() {
        assert_eq!(probed(SIZE, &[((1 << 20) - 65536, MD_MAGIC)]), Some(MD));
        assert_eq!(probed(SIZE, &[(SIZE - 8192, MD_MAGIC)]), Some(MD));
    }

    #[test]
    fn zfs_is_found_in_either_byte_order() {
        let magic = 0x00ba_b10c_u64;
        let found = Some("a ZFS pool member");
        assert_eq!(
            probed(SIZE, &[((128 << 10) + 4096, &magic.to_le_bytes())]),
            found
        );
        assert_eq!(
            probed(SIZE, &[((128 << 10) + 4096, &magic.to_be_bytes())]),
            found
        );
    }

    #[test]
    fn a_boot_sector_counts_only_with_partitions() {
        assert_eq!(probed(SIZE, &[(510, &[0x55, 0xaa])]), None);
        let linux: &[u8] = &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0];
        let found = probed(SIZE, &[(510, &[0x55, 0xaa]), (446, linux)]);
        assert_eq!(found, Some("an MBR partition table"));
    }

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let mounts = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      22 21 0:30 / /my\\040data rw shared:1 - btrfs /dev/sdb rw\n";
        let number = |text: &str| vec![text.to_owned()];
        let at = |numbers: &[String], source| mounted_at(mounts, numbers, source);
        assert_eq!(at(&number("8:1"), "/dev/other").as_deref(), Some("/"));
        assert_eq!(at(&number("8:16"), "/dev/sdb").as_deref(), Some("/my data"));
        assert_eq!(at(&number("8:32"), "/dev/sdc"), None);
    }

    #[test]
    fn files_are_not_mounted() {
        assert!(!is_mounted(tempfile::NamedTempFile::new().unwrap().path()).unwrap());
    }
}

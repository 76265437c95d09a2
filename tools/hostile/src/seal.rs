//! Checksums over metadata, made right again after hostile hands were at it.

use uraid_core::checksum;

/// Where a superblock keeps its checksum, which has no seed.
const SUPERBLOCK_CRC_AT: usize = 12;
/// Where every other structure keeps its own, seeded by the array's key.
const CRC_AT: usize = 4;

/// Seals the bytes of a superblock.
pub fn superblock(bytes: &mut [u8]) {
    at(bytes, SUPERBLOCK_CRC_AT, 0);
}

/// Seals a checkpoint, a journal header, a map page or a checksum page.
pub fn metadata(bytes: &mut [u8], key: u64) {
    at(bytes, CRC_AT, key);
}

fn at(bytes: &mut [u8], place: usize, key: u64) {
    bytes[place..place + 4].fill(0);
    let crc = checksum::metadata(key, bytes);
    bytes[place..place + 4].copy_from_slice(&crc.to_le_bytes());
}

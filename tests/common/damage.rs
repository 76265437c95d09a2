//! Damage to members at rest or in service: by zone, bit by bit or in whole.

use super::sandbox::Sandbox;
use super::tools::aligned_page;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The least that is read and written directly.
const SECTOR_BYTES: usize = 512;

/// Where the zones of a member lie, in bytes.
#[derive(Clone, Debug)]
pub struct Zones {
    pub superblocks: [Range<u64>; 4],
    pub checkpoints: Range<u64>,
    pub journal: Range<u64>,
    pub relog: Range<u64>,
    pub map: Range<u64>,
    pub checksums: Range<u64>,
    pub data: Range<u64>,
}

impl Zones {
    /// The zones of `member`, and so of all members of its array that are as large.
    pub fn of(sandbox: &Sandbox, member: &Path) -> Zones {
        const SUPERBLOCK_BYTES: u64 = 32 << 10;
        let report = sandbox.examine(member);
        let at = |zone: &str| report["zones"][zone].as_u64().expect("an offset");
        let bytes = std::fs::metadata(member).expect("metadata").len();
        let tail = bytes - (1 << 20);
        let offsets = [4 << 10, 512 << 10, tail + (4 << 10), tail + (512 << 10)];
        Zones {
            superblocks: offsets.map(|offset| offset..offset + SUPERBLOCK_BYTES),
            checkpoints: at("checkpoints")..at("journal"),
            journal: at("journal")..at("relog"),
            relog: at("relog")..at("map"),
            map: at("map")..at("checksums"),
            checksums: at("checksums")..at("data"),
            data: at("data")..at("end"),
        }
    }

    /// All but the superblocks.
    pub fn inner(&self) -> [&Range<u64>; 6] {
        [
            &self.checkpoints,
            &self.journal,
            &self.relog,
            &self.map,
            &self.checksums,
            &self.data,
        ]
    }
}

/// Flips one bit, past the page cache: what is written through it beside a server's direct writes
/// makes the kernel fail those.
pub fn flip_bit(member: &Path, offset: u64, bit: u8) {
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags);
        options.open(member)
    };
    let file = open(nix::libc::O_DIRECT).or_else(|_| open(0));
    let file = file.expect("open the member");
    let mut page = aligned_page(0);
    let sector = &mut page.bytes_mut()[..SECTOR_BYTES];
    let start = offset / SECTOR_BYTES as u64 * SECTOR_BYTES as u64;
    file.read_exact_at(sector, start).expect("read");
    sector[(offset - start) as usize] ^= 1 << bit;
    file.write_all_at(sector, start).expect("write");
}

/// Fills a range with one byte.
pub fn overwrite(member: &Path, range: &Range<u64>, byte: u8) {
    let file = OpenOptions::new().write(true).open(member);
    let content = vec![byte; (range.end - range.start) as usize];
    let write = |file: File| {
        file.write_all_at(&content, range.start)?;
        file.sync_data() // dirty pages beside a server's direct writes make the kernel fail those
    };
    file.and_then(write)
        .expect("overwrite a part of the member");
}

/// Copies a range of one member over the same range of another.
pub fn transplant(from: &Path, to: &Path, range: &Range<u64>) {
    let mut content = vec![0; (range.end - range.start) as usize];
    let source = OpenOptions::new().read(true).open(from).expect("open");
    source
        .read_exact_at(&mut content, range.start)
        .expect("read");
    let target = OpenOptions::new().write(true).open(to).expect("open");
    target.write_all_at(&content, range.start).expect("write");
    target.sync_data().expect("sync");
}

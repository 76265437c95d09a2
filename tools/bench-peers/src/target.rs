//! Who is measured: uraid's layouts and their peers.

use crate::loads::Work;
use cost::layout::Layout;
use uraid_load::Kind;

/// A server or filesystem that is driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// nbdkit over one plain file: the baseline.
    NbdkitFile,
    /// nbdkit over its own memory.
    NbdkitMemory,
    /// qemu-nbd over one plain file.
    QemuRaw,
    /// qemu-nbd over its mirror of two files.
    QemuQuorum,
    /// An array of uraid.
    Uraid(&'static Array),
    /// btrfs in the kernel, on loop devices over files.
    Btrfs(&'static Array),
    /// One plain file without a server: `pwrite` and `fdatasync`.
    PlainFile,
}

/// A layout and how uraid and btrfs call it.
#[derive(PartialEq, Eq, Debug)]
pub struct Array {
    /// As people write it.
    pub name: &'static str,
    /// Its members.
    pub layout: Layout,
    /// What keeps btrfs's metadata alive on as many members.
    pub btrfs_metadata: &'static str,
    /// The target that is uraid.
    uraid: &'static str,
    /// The target that is btrfs.
    btrfs: &'static str,
}

pub const RAID1: Array = Array {
    name: "raid1 x2",
    layout: layout("raid1x2", "raid1", 1, 1),
    btrfs_metadata: "raid1",
    uraid: "uraid raid1 x2",
    btrfs: "btrfs raid1 x2",
};
pub const RAID10: Array = Array {
    name: "raid10 x4",
    // Two pairs; the second of each are further copies.
    layout: layout("raid10x4", "raid10", 2, 2),
    btrfs_metadata: "raid10",
    uraid: "uraid raid10 x4",
    btrfs: "btrfs raid10 x4",
};
pub const RAID5: Array = Array {
    name: "raid5 4+1",
    layout: layout("raid5-4+1", "raid5", 4, 1),
    btrfs_metadata: "raid1",
    uraid: "uraid raid5 4+1",
    btrfs: "btrfs raid5 4+1",
};
pub const RAID6: Array = Array {
    name: "raid6 4+2",
    layout: layout("raid6-4+2", "raid6", 4, 2),
    btrfs_metadata: "raid1c3",
    uraid: "uraid raid6 4+2",
    btrfs: "btrfs raid6 4+2",
};

/// All there are: uraid's stand together, see [`crate::measure`].
pub const ALL: [Target; 13] = [
    Target::NbdkitFile,
    Target::NbdkitMemory,
    Target::QemuRaw,
    Target::QemuQuorum,
    Target::Uraid(&RAID1),
    Target::Uraid(&RAID10),
    Target::Uraid(&RAID5),
    Target::Uraid(&RAID6),
    Target::Btrfs(&RAID1),
    Target::Btrfs(&RAID10),
    Target::Btrfs(&RAID5),
    Target::Btrfs(&RAID6),
    Target::PlainFile,
];

const fn layout(name: &'static str, level: &'static str, data: u64, parity: u64) -> Layout {
    Layout {
        name,
        level,
        data,
        parity,
    }
}

impl Target {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Target::NbdkitFile => "nbdkit file (A)",
            Target::NbdkitMemory => "nbdkit memory",
            Target::QemuRaw => "qemu-nbd raw",
            Target::QemuQuorum => "qemu quorum x2",
            Target::Uraid(array) => array.uraid,
            Target::Btrfs(array) => array.btrfs,
            Target::PlainFile => "plain file",
        }
    }

    /// Whether it takes part in a load.
    pub fn takes(self, work: &Work) -> bool {
        match self {
            Target::Uraid(_) => true,
            Target::PlainFile => work.load.kind == Kind::WriteAndFlush,
            _ => !work.degraded,
        }
    }

    /// Bytes of files for an export of so many, at most.
    pub fn file_bytes(self, export_bytes: u64, with_degraded: bool) -> u64 {
        let of_array = |array: &Array| export_bytes * array.layout.members() / array.layout.data;
        match self {
            Target::NbdkitFile | Target::NbdkitMemory | Target::QemuRaw | Target::PlainFile => {
                export_bytes
            }
            Target::QemuQuorum => 2 * export_bytes,
            Target::Uraid(array) => of_array(array) * (1 + u64::from(with_degraded)),
            // Metadata, and extents that wait for a commit to be freed.
            Target::Btrfs(array) => of_array(array) * 5 / 4,
        }
    }
}

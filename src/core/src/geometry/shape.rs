//! Levels and shapes: how a stripe is spread over members.
//!
//! Roles rotate over the members by slot, left-symmetric as Linux md does it: with `n` members
//! the first parity column of slot `s` is on member `P = n-1 - s mod n`, further parities follow,
//! then the data columns, all modulo `n`. A copy that a mirror was given later stands still: its
//! column is its role. So the others keep theirs, and with them the checksums of all blocks.

use super::Slot;
use crate::units::BLOCK;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use uraid_parity::Code;

/// Most columns of a stripe.
pub const COLUMNS_MAX: usize = 96;
/// Most parities of an `rs` array.
pub const PARITY_MAX: usize = 8;
/// Smallest chunk.
pub const CHUNK_BYTES_MIN: u32 = 4096;
/// Largest chunk.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;

/// The kinds of array users know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Striping without redundancy.
    Raid0,
    /// Copies on every member.
    Raid1,
    /// Stripes of mirrors.
    Raid10,
    /// One parity.
    Raid5,
    /// Two parities.
    Raid6,
    /// Reed-Solomon with one to eight parities.
    Rs,
}

impl Level {
    const ALL: [Level; 6] = [
        Level::Raid0,
        Level::Raid1,
        Level::Raid10,
        Level::Raid5,
        Level::Raid6,
        Level::Rs,
    ];

    /// The name users type.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Raid0 => "raid0",
            Level::Raid1 => "raid1",
            Level::Raid10 => "raid10",
            Level::Raid5 => "raid5",
            Level::Raid6 => "raid6",
            Level::Rs => "rs",
        }
    }

    /// The number on disk.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// From the number on disk.
    pub fn from_code(code: u8) -> Option<Level> {
        Level::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(text: &str) -> Result<Level, String> {
        Level::ALL
            .into_iter()
            .find(|l| l.as_str() == text)
            .ok_or_else(|| {
                alloc::format!(
                    "unknown level \"{text}\": use raid0, raid1, raid10, raid5, raid6 or rs"
                )
            })
    }
}

/// How a stripe is spread over members: valid by construction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The kind.
    pub level: Level,
    /// Members with a role, columns of a stripe: `n`.
    pub columns: usize,
    /// Data columns: `k`.
    pub data: usize,
    /// Copies of each block (raid1, raid10), else 1.
    pub copies: usize,
    /// Columns whose roles rotate: all that there were at creation.
    pub rotating: usize,
    /// Bytes of a stripe on one member.
    pub chunk_bytes: u32,
}

impl Shape {
    /// Checks what a user asked for and fills in what was left out.
    pub fn new(
        level: Level,
        members: usize,
        parity: Option<u16>,
        copies: Option<u16>,
        chunk_bytes: Option<u32>,
    ) -> Result<Shape, String> {
        let chunk_bytes = chunk_bytes.unwrap_or(64 << 10);
        check_chunk(chunk_bytes)?;
        let (data, copies) = match level {
            Level::Raid0 => (members, 1),
            Level::Raid1 => (1, members),
            Level::Raid10 => {
                let copies = usize::from(copies.unwrap_or(2));
                if copies < 2 || !members.is_multiple_of(copies.max(1)) {
                    return Err(alloc::format!(
                        "raid10 with {copies} copies needs a multiple of {copies} members \
                         and at least 2 copies, not {members} members"
                    ));
                }
                (members / copies, copies)
            }
            Level::Raid5 => (members.saturating_sub(1), 1),
            Level::Raid6 => (members.saturating_sub(2), 1),
            Level::Rs => {
                let parity = usize::from(parity.ok_or("level rs needs --parity M (1 to 8)")?);
                if !(1..=PARITY_MAX).contains(&parity) {
                    return Err(alloc::format!(
                        "{parity} parities: rs takes 1 to {PARITY_MAX}"
                    ));
                }
                (members.saturating_sub(parity), 1)
            }
        };
        let shape = Shape {
            level,
            columns: members,
            data,
            copies,
            rotating: members,
            chunk_bytes,
        };
        shape.check_options(parity)?;
        shape.check()?;
        Ok(shape)
    }

    fn check_options(&self, parity: Option<u16>) -> Result<(), String> {
        match parity {
            Some(p) if self.user_parity() != usize::from(p) => Err(alloc::format!(
                "level {} with {} members has {} parities, not {p}: leave --parity out or use rs",
                self.level,
                self.columns,
                self.user_parity()
            )),
            _ => Ok(()),
        }
    }

    /// Whether such an array can exist; used on what is read from disk as well.
    pub fn check(&self) -> Result<(), String> {
        check_chunk(self.chunk_bytes)?;
        let least = match self.level {
            Level::Raid0 => 1,
            Level::Raid1 | Level::Raid10 => 2,
            Level::Raid5 => 2,
            Level::Raid6 => 3,
            Level::Rs => 2,
        };
        if self.columns < least || self.data == 0 {
            return Err(alloc::format!(
                "level {} needs at least {least} members and one for data, {} given",
                self.level,
                self.columns
            ));
        }
        if self.columns > COLUMNS_MAX {
            return Err(alloc::format!(
                "{} members: an array takes at most {COLUMNS_MAX}",
                self.columns
            ));
        }
        if self.is_consistent() {
            Ok(())
        } else {
            Err(alloc::format!(
                "no level {} has {} data columns of {} and {} copies",
                self.level,
                self.data,
                self.columns,
                self.copies
            ))
        }
    }

    /// Whether columns, data and copies belong together: true of all that [`Shape::new`] makes.
    fn is_consistent(&self) -> bool {
        let (columns, data, copies) = (self.columns, self.data, self.copies);
        let parities = columns.checked_sub(data);
        let widened = self.level == Level::Raid1 && (2..columns).contains(&self.rotating);
        if self.rotating != columns && !widened {
            return false;
        }
        match self.level {
            Level::Raid0 => parities == Some(0) && copies == 1,
            Level::Raid1 => data == 1 && copies == columns,
            Level::Raid10 => copies >= 2 && data * copies == columns,
            Level::Raid5 => parities == Some(1) && copies == 1,
            Level::Raid6 => parities == Some(2) && copies == 1,
            Level::Rs => parities.is_some_and(|p| (1..=PARITY_MAX).contains(&p)) && copies == 1,
        }
    }

    /// Whether it was given further copies after its creation.
    pub fn is_widened(&self) -> bool {
        self.rotating < self.columns
    }

    /// A mirror of so many copies that rotates as this one does; other shapes stay what they are.
    pub(super) fn with_copies(self, copies: usize) -> Shape {
        match self.level {
            Level::Raid1 => Shape {
                columns: copies,
                copies,
                ..self
            },
            _ => self,
        }
    }

    /// The erasure code of a stripe.
    pub fn code(&self) -> Code {
        match self.level {
            Level::Raid1 | Level::Raid10 => Code::mirrored(self.data, self.copies),
            _ => Code::mds(self.data, self.columns - self.data),
        }
        .expect("a checked shape has a code")
    }

    /// Parities, or further copies, as users count them.
    pub fn user_parity(&self) -> usize {
        if self.copies > 1 {
            self.copies - 1
        } else {
            self.columns - self.data
        }
    }

    /// Blocks of a chunk: rows of a stripe.
    pub fn rows(&self) -> usize {
        self.chunk_bytes as usize / BLOCK as usize
    }

    /// Bytes of user data in a stripe.
    pub fn stripe_bytes(&self) -> u64 {
        u64::from(self.chunk_bytes) * self.data as u64
    }

    /// The role (position among the members) that holds `column` of `slot`.
    pub fn role_of(&self, slot: Slot, column: usize) -> usize {
        let n = self.rotating;
        if column >= n {
            return column;
        }
        let first_parity = n - 1 - (slot.0 % n as u64) as usize;
        let step = if column < self.data {
            n - self.data + column
        } else {
            column - self.data
        };
        (first_parity + step) % n
    }

    /// The column of `slot` that is on `role`.
    pub fn column_of(&self, slot: Slot, role: usize) -> usize {
        let n = self.rotating;
        if role >= n {
            return role;
        }
        let first_parity = n - 1 - (slot.0 % n as u64) as usize;
        let step = (role + n - first_parity) % n;
        let parities = n - self.data;
        if step < parities {
            self.data + step
        } else {
            step - parities
        }
    }
}

fn check_chunk(bytes: u32) -> Result<(), String> {
    if bytes.is_power_of_two() && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes) {
        Ok(())
    } else {
        Err(alloc::format!(
            "chunk of {bytes} bytes: it must be a power of two from 4K to 4M"
        ))
    }
}

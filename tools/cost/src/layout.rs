//! The layouts that are measured.

/// How an array is laid out: `data + parity` members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// As the user types it here.
    pub name: &'static str,
    /// As `uraid create --level` calls it.
    pub level: &'static str,
    /// Data members of a stripe; 1 for mirrors.
    pub data: u64,
    /// Parity members, or further copies.
    pub parity: u64,
}

impl Layout {
    /// All there are.
    pub const ALL: [Layout; 3] = [
        Layout::new("raid1x2", "raid1", 1, 1),
        Layout::new("raid5-4+1", "raid5", 4, 1),
        Layout::new("raid6-4+2", "raid6", 4, 2),
    ];

    const fn new(name: &'static str, level: &'static str, data: u64, parity: u64) -> Layout {
        Layout {
            name,
            level,
            data,
            parity,
        }
    }

    /// The layout of this name.
    ///
    /// # Errors
    /// What names there are.
    pub fn parse(name: &str) -> Result<Layout, String> {
        let found = Layout::ALL.into_iter().find(|l| l.name == name);
        let names = Layout::ALL.map(|l| l.name).join(", ");
        found.ok_or_else(|| format!("there is no layout {name:?}: there are {names}"))
    }

    /// Members in all.
    pub fn members(&self) -> u64 {
        self.data + self.parity
    }

    /// Members that take part in a change of one block: its own and the parities.
    pub fn participants(&self) -> u64 {
        1 + self.parity
    }

    /// Old blocks that must be read to change one: itself and the parities, or all other data.
    pub fn old_blocks(&self) -> u64 {
        self.participants().min(self.data - 1)
    }
}

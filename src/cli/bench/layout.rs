//! Layouts as they are typed: `raid1x2`, `raid6-4+2`.

use crate::cli::args::LevelName;
use clap::ValueEnum;

/// Most members of an array.
const MEMBERS_MAX: usize = 64;
/// Most parity members of Reed-Solomon codes.
const PARITY_MAX: u16 = 8;
const GRAMMAR: &str =
    "a layout is raid0xN, raid1xN, raid10xN, raid5-K+1, raid6-K+2 or rs-K+M, like raid6-4+2";

/// How an array is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    level: LevelName,
    members: usize,
    parity: u16,
}

impl Layout {
    /// What is measured when nobody says what.
    pub fn defaults() -> Vec<Layout> {
        let known = |name| Layout::parse(name).expect("a layout");
        ["raid1x2", "raid5-4+1", "raid6-4+2"].map(known).to_vec()
    }

    /// Reads a layout. For clap; the error completes "invalid value ...: ".
    pub fn parse(text: &str) -> Result<Layout, String> {
        let malformed = || GRAMMAR.to_string();
        let (level, members, parity) = match text.split_once('-') {
            None => {
                let (level, members) = text.rsplit_once('x').ok_or_else(malformed)?;
                (level, members.parse().map_err(|_| malformed())?, None)
            }
            Some((level, numbers)) => {
                let (data, parity) = numbers.split_once('+').ok_or_else(malformed)?;
                let data: u16 = data.parse().map_err(|_| malformed())?;
                let parity: u16 = parity.parse().map_err(|_| malformed())?;
                (level, usize::from(data) + usize::from(parity), Some(parity))
            }
        };
        let level = LevelName::from_str(level, false).map_err(|_| malformed())?;
        if level.has_parity() != parity.is_some() {
            return Err(malformed());
        }
        Layout::of_level(level, members, parity)
    }

    /// A level with so many members; `parity` is for Reed-Solomon codes.
    pub fn of_level(
        level: LevelName,
        members: usize,
        parity: Option<u16>,
    ) -> Result<Layout, String> {
        let own = level.losses(members);
        let free = level == LevelName::Rs;
        if parity.is_some_and(|parity| !free && parity != own) {
            return Err(format!(
                "the parity of {} cannot be chosen; that of rs can",
                level.name()
            ));
        }
        let layout = Layout {
            level,
            members,
            parity: parity.unwrap_or(own),
        };
        let least = match level {
            LevelName::Raid0 => 1,
            LevelName::Raid1 => 2,
            LevelName::Raid10 => 4,
            _ => usize::from(layout.parity) + 1,
        };
        if !(least..=MEMBERS_MAX).contains(&members) {
            let name = level.name();
            return Err(format!(
                "{name} takes {least} to {MEMBERS_MAX} members here"
            ));
        }
        if free && !(1..=PARITY_MAX).contains(&layout.parity) {
            return Err(format!("rs has 1 to {PARITY_MAX} parity members"));
        }
        if level == LevelName::Raid10 && !members.is_multiple_of(2) {
            return Err("raid10 takes an even number of members here".to_string());
        }
        Ok(layout)
    }

    /// As it is typed.
    pub fn name(&self) -> String {
        let Layout {
            level,
            members,
            parity,
        } = self;
        if level.has_parity() {
            let data = members - usize::from(*parity);
            format!("{}-{data}+{parity}", level.name())
        } else {
            format!("{}x{members}", level.name())
        }
    }

    /// Members in all.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Losses that are survived in any case.
    pub fn losses(&self) -> usize {
        self.parity.into()
    }

    /// Members whose space is the array's.
    pub fn data(&self) -> usize {
        match self.level {
            LevelName::Raid1 => 1,
            LevelName::Raid10 => self.members / 2,
            _ => self.members - self.losses(),
        }
    }

    /// What `uraid create` is told.
    pub fn create_options(&self) -> Vec<String> {
        let mut options = vec!["--level".to_string(), self.level.name()];
        if self.level == LevelName::Rs {
            options.extend(["--parity".to_string(), self.parity.to_string()]);
        }
        options
    }
}

impl LevelName {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("every level has a name");
        value.get_name().to_string()
    }

    /// Whether members are told apart as data and parity.
    fn has_parity(self) -> bool {
        matches!(self, LevelName::Raid5 | LevelName::Raid6 | LevelName::Rs)
    }

    /// Losses that are survived in any case, unless said otherwise.
    fn losses(self, members: usize) -> u16 {
        match self {
            LevelName::Raid0 => 0,
            LevelName::Raid1 => members.saturating_sub(1).min(MEMBERS_MAX) as u16,
            LevelName::Raid10 | LevelName::Raid5 => 1,
            LevelName::Raid6 | LevelName::Rs => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_read_and_written_alike() {
        for (name, members, data, losses) in [
            ("raid0x3", 3, 3, 0),
            ("raid1x2", 2, 1, 1),
            ("raid1x3", 3, 1, 2),
            ("raid10x4", 4, 2, 1),
            ("raid5-4+1", 5, 4, 1),
            ("raid6-4+2", 6, 4, 2),
            ("rs-8+3", 11, 8, 3),
        ] {
            let layout = Layout::parse(name).expect(name);
            assert_eq!(layout.name(), name);
            let found = (layout.members(), layout.data(), layout.losses());
            assert_eq!(found, (members, data, losses), "{name}");
        }
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        for text in [
            "",
            "raid5",
            "raid5x3",
            "raid5-4",
            "raid5-4+2",
            "raid6-4+1",
            "raid1-1+1",
            "raid7x2",
            "raid1x",
            "raid1x1",
            "raid1x65",
            "raid5-0+1",
            "rs-8+9",
            "rs-8+0",
            "rs-60+8",
            "raid10x3",
            "raid10x5",
            "RAID1x2",
        ] {
            assert!(Layout::parse(text).is_err(), "{text}");
        }
    }
}

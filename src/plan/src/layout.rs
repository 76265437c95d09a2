//! What layouts hold, which losses they survive and what a write costs them.

use uraid_core::geometry::{Geometry, Level, PARITY_MAX, Shape};

/// A layout on members of a size.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// How stripes are spread.
    pub shape: Shape,
    /// What `create` would make of it.
    pub geometry: Geometry,
    /// Bytes of each member.
    pub member_bytes: u64,
}

/// What users ask of a layout.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Kind.
    pub level: Level,
    /// Members with data, spares not counted.
    pub members: usize,
    /// Parities, for `rs`.
    pub parity: Option<u16>,
    /// Copies, for `raid10`.
    pub copies: Option<u16>,
    /// Chunk in bytes; what `create` takes if none is given.
    pub chunk_bytes: Option<u32>,
    /// Bytes of each member.
    pub member_bytes: u64,
}

/// What a write costs, as docs/cost.md has it "by design".
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct WriteCost {
    /// Blocks written in place for a block of 4 KiB, parities and copies included.
    pub small_in_place_blocks: usize,
    /// Blocks journalled for it, without headers.
    pub small_journal_blocks: usize,
    /// Blocks of headers at most; writes under way at the same time share them.
    pub small_header_blocks_max: usize,
    /// Old blocks read for it, unless they are in memory.
    pub small_read_blocks: usize,
    /// Bytes written for each byte of a stream.
    pub stream_bytes_per_byte: f64,
}

/// Members that hold the same data, or the parities of it: any `data` of them have it all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Groups {
    /// How many such groups the array has.
    pub count: usize,
    /// Members of each.
    pub columns: usize,
    /// Members of a group that are enough.
    pub data: usize,
}

impl Groups {
    /// Losses in one group that are survived.
    pub fn tolerance(&self) -> usize {
        self.columns - self.data
    }
}

impl Layout {
    /// Works a request out.
    ///
    /// # Errors
    /// Why there is no such array, in the words of `create`.
    pub fn new(request: Request) -> Result<Layout, String> {
        let Request {
            level,
            members,
            parity,
            copies,
            chunk_bytes,
            member_bytes,
        } = request;
        let shape = Shape::new(level, members, parity, copies, chunk_bytes)?;
        Ok(Layout {
            shape,
            geometry: Geometry::plan(shape, member_bytes, None)?,
            member_bytes,
        })
    }

    /// Every layout that so many members allow: by level, then by what it survives.
    pub fn all(members: usize, member_bytes: u64, chunk_bytes: Option<u32>) -> Vec<Layout> {
        let plain = |level| (level, None, None);
        let mut wanted = vec![plain(Level::Raid0), plain(Level::Raid1)];
        let copies = (2..members).filter(|copies| members.is_multiple_of(*copies));
        wanted.extend(copies.map(|c| (Level::Raid10, None, Some(c as u16))));
        wanted.extend([plain(Level::Raid5), plain(Level::Raid6)]);
        // One and two parities are raid5 and raid6.
        wanted.extend((3..=PARITY_MAX).map(|m| (Level::Rs, Some(m as u16), None)));
        let make = |(level, parity, copies)| {
            Layout::new(Request {
                level,
                members,
                parity,
                copies,
                chunk_bytes,
                member_bytes,
            })
        };
        wanted.into_iter().filter_map(|w| make(w).ok()).collect()
    }

    /// Its name: the level, and what the level leaves open.
    pub fn name(&self) -> String {
        match self.shape.level {
            Level::Raid10 => format!("raid10 x{}", self.shape.copies),
            Level::Rs => format!("rs +{}", self.shape.user_parity()),
            level => level.to_string(),
        }
    }

    /// Bytes to use.
    pub fn usable_bytes(&self) -> u64 {
        self.geometry.export_bytes
    }

    /// Share of all members' bytes, `spares` of them in reserve, that can be used.
    pub fn efficiency(&self, spares: usize) -> f64 {
        let members = (self.shape.columns + spares) as f64;
        self.usable_bytes() as f64 / (self.member_bytes as f64 * members)
    }

    /// Bytes of one member that a full array uses for data: what a rebuild copies.
    pub fn data_bytes_per_member(&self) -> u64 {
        self.geometry.stripes * u64::from(self.shape.chunk_bytes)
    }

    /// How members hang together.
    pub fn groups(&self) -> Groups {
        match self.shape.copies {
            1 => Groups {
                count: 1,
                columns: self.shape.columns,
                data: self.shape.data,
            },
            copies => Groups {
                count: self.shape.data,
                columns: copies,
                data: 1,
            },
        }
    }

    /// Losses survived, whichever members they hit.
    pub fn losses_guaranteed(&self) -> usize {
        self.groups().tolerance()
    }

    /// Losses survived if they hit the right members.
    pub fn losses_lucky(&self) -> usize {
        let groups = self.groups();
        groups.count * groups.tolerance()
    }

    /// The chance that the loss of so many members at once, any of them alike, is survived.
    pub fn survival(&self, losses: usize) -> f64 {
        let groups = self.groups();
        let members = groups.count * groups.columns;
        // Ways to lose `j` members, no group more than it survives: group by group.
        let mut ways = vec![0.0; losses + 1];
        ways[0] = 1.0;
        for _ in 0..groups.count {
            let with_one_more = |j: usize| {
                let hit = 0..=groups.tolerance().min(j);
                hit.map(|i| choose(groups.columns, i) * ways[j - i]).sum()
            };
            ways = (0..=losses).map(with_one_more).collect();
        }
        match losses <= members {
            true => ways[losses] / choose(members, losses),
            false => 0.0,
        }
    }

    /// What writes cost.
    pub fn write_cost(&self) -> WriteCost {
        let groups = self.groups();
        let written = 1 + groups.tolerance();
        // New parity comes from the old blocks, or from all the other data, whichever is less.
        let read = match groups.tolerance() {
            0 => 0,
            _ => written.min(groups.data - 1),
        };
        WriteCost {
            small_in_place_blocks: written,
            small_journal_blocks: written,
            small_header_blocks_max: written,
            small_read_blocks: read,
            stream_bytes_per_byte: groups.columns as f64 / groups.data as f64,
        }
    }
}

/// Ways to choose `some` of `all`.
fn choose(all: usize, some: usize) -> f64 {
    if some > all {
        return 0.0;
    }
    let factor = |i: usize| (all - i) as f64 / (i + 1) as f64;
    (0..some).map(factor).product::<f64>().round()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_parity::ColumnSet;

    #[test]
    fn survival_is_what_the_code_says_of_every_set() {
        for members in 2..=10 {
            for layout in Layout::all(members, 1 << 30, None) {
                let code = layout.shape.code();
                let mut survived = vec![0u32; members + 1];
                let mut tried = vec![0u32; members + 1];
                for lost in 0..1u32 << members {
                    let left = (0..members).filter(|c| lost >> c & 1 == 0);
                    let left: ColumnSet = left.collect();
                    let losses = lost.count_ones() as usize;
                    tried[losses] += 1;
                    survived[losses] += u32::from(code.can_decode(left));
                }
                for losses in 0..=members {
                    let expected = f64::from(survived[losses]) / f64::from(tried[losses]);
                    let found = layout.survival(losses);
                    let name = layout.name();
                    assert!((found - expected).abs() < 1e-12, "{name}, {losses} lost");
                    let guaranteed = losses <= layout.losses_guaranteed();
                    assert_eq!(guaranteed, expected == 1.0, "{name}, {losses} lost");
                    let lucky = losses <= layout.losses_lucky();
                    assert_eq!(lucky, expected > 0.0, "{name}, {losses} lost");
                }
            }
        }
    }

    #[test]
    fn the_layouts_of_six_members_are_all_there() {
        let names: Vec<String> = Layout::all(6, 1 << 30, None)
            .iter()
            .map(Layout::name)
            .collect();
        let expected = [
            "raid0",
            "raid1",
            "raid10 x2",
            "raid10 x3",
            "raid5",
            "raid6",
            "rs +3",
            "rs +4",
            "rs +5",
        ];
        assert_eq!(names, expected);
        assert!(
            Layout::all(1, 1 << 30, None)
                .iter()
                .all(|l| l.name() != "raid5")
        );
    }

    #[test]
    fn writes_cost_what_is_documented() {
        let cost = |level, members| {
            let request = Request {
                level,
                members,
                parity: None,
                copies: None,
                chunk_bytes: None,
                member_bytes: 1 << 30,
            };
            Layout::new(request).unwrap().write_cost()
        };
        // The arrays that docs/cost.md measures.
        let mirror = cost(Level::Raid1, 2);
        assert_eq!(
            (mirror.small_in_place_blocks, mirror.small_read_blocks),
            (2, 0)
        );
        let raid5 = cost(Level::Raid5, 5);
        assert_eq!(
            (raid5.small_in_place_blocks, raid5.small_read_blocks),
            (2, 2)
        );
        assert_eq!(raid5.stream_bytes_per_byte, 1.25);
        let raid6 = cost(Level::Raid6, 6);
        assert_eq!(
            (raid6.small_in_place_blocks, raid6.small_read_blocks),
            (3, 3)
        );
        assert_eq!(raid6.stream_bytes_per_byte, 1.5);
        let stripes = cost(Level::Raid0, 4);
        assert_eq!(
            (stripes.small_in_place_blocks, stripes.small_read_blocks),
            (1, 0)
        );
    }

    #[test]
    fn capacity_is_that_of_the_geometry() {
        let layout = Layout::all(6, 1 << 40, None).remove(5);
        assert_eq!(layout.usable_bytes(), 4 * layout.data_bytes_per_member());
        assert!(layout.geometry.member_bytes() <= 1 << 40);
        let efficiency = layout.efficiency(0);
        assert!((0.65..0.6667).contains(&efficiency), "{efficiency}");
        assert!((layout.efficiency(2) / efficiency - 6.0 / 8.0).abs() < 1e-12);
    }
}

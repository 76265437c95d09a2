//! The arithmetic of the design: what each kind of write should move, between which bounds.

use crate::counters::Traffic;
use crate::layout::Layout;
use uraid_load::{BLOCK_BYTES, Load, Order};

/// Beyond this a measured figure is more than the design says: the map, superblocks, and rounding
/// take a little.
const TOLERANCE: f64 = 0.02;

/// What the design says of a load: bytes moved for each byte of clients.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Design {
    /// With as much shared between requests as can be.
    pub least: Traffic,
    /// With nothing shared.
    pub most: Traffic,
}

impl Design {
    /// For an array with such chunks, that is checkpointed every so many rows.
    pub fn of(layout: &Layout, load: &Load, chunk_bytes: u64, rows_per_checkpoint: u64) -> Design {
        match (load.writes(), load.order != Order::Sequential) {
            (false, _) => Design::of_reads(),
            (true, true) => Design::of_rows(layout, load, rows_per_checkpoint),
            (true, false) => Design::of_stripes(layout, chunk_bytes),
        }
    }

    /// Whole requests and nothing else; the checksums are in memory or come along now and then.
    fn of_reads() -> Design {
        let least = Traffic {
            read: 1.0,
            ..Traffic::default()
        };
        let most = Traffic { read: 1.1, ..least };
        Design { least, most }
    }

    /// One block: it and its parities go to the journal, later in place. A batch of one has a
    /// header on each participant; requests under way together share headers, and those that meet
    /// in one row share parities. A checksum page on each participant is written for each row,
    /// unless rows share it.
    fn of_rows(layout: &Layout, load: &Load, rows_per_checkpoint: u64) -> Design {
        let participants = layout.participants() as f64;
        let alone = load.depth == 1;
        let least = Traffic {
            headers: if alone { participants } else { 0.0 },
            journal: if alone { participants } else { 1.0 },
            ..Traffic::default()
        };
        let most = Traffic {
            headers: participants,
            journal: participants,
            in_place: participants,
            pages: participants,
            checkpoints: layout.members() as f64 / rows_per_checkpoint.max(1) as f64,
            read: layout.old_blocks() as f64,
            ..least
        };
        Design { least, most }
    }

    /// Whole stripes go to new slots. Each is recorded in a header on each member, and in a
    /// checksum page on each, which neighbours share.
    fn of_stripes(layout: &Layout, chunk_bytes: u64) -> Design {
        let members = layout.members() as f64;
        let stripe_bytes = (layout.data * chunk_bytes) as f64;
        let page_each = members * BLOCK_BYTES as f64 / stripe_bytes;
        let least = Traffic {
            slots: members / layout.data as f64,
            ..Traffic::default()
        };
        let most = Traffic {
            headers: page_each,
            pages: page_each,
            ..least
        };
        Design { least, most }
    }

    /// The same where the array came to rest `rests` times in the course of `client_bytes`: each
    /// time with a checkpoint.
    pub fn with_rests(mut self, layout: &Layout, rests: u64, client_bytes: u64) -> Design {
        let records_bytes = rests * layout.members() * BLOCK_BYTES;
        self.most.checkpoints += records_bytes as f64 / client_bytes.max(1) as f64;
        self
    }

    /// What moves more than the design says, in words.
    pub fn excesses(&self, measured: &Traffic) -> Vec<String> {
        let kinds = measured
            .written()
            .into_iter()
            .chain([("read", measured.read)]);
        let most = self
            .most
            .written()
            .into_iter()
            .chain([("read", self.most.read)]);
        let all = ("written in all", measured.written_in_all());
        let most_in_all = ("written in all", self.most.written_in_all());
        let both = kinds.chain([all]).zip(most.chain([most_in_all]));
        both.filter(|((_, found), (_, most))| *found > most * (1.0 + TOLERANCE) + TOLERANCE)
            .map(|((kind, found), (_, most))| {
                format!("{kind}: {found:.3} bytes a byte, at most {most:.3} by design")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_load::Kind;

    const RAID6: Layout = Layout::ALL[2];

    fn small_write(depth: usize) -> Design {
        let load = Load::new(Kind::Write, Order::Random, 4096, depth);
        Design::of(&RAID6, &load, 65536, 128)
    }

    #[test]
    fn a_small_write_moves_its_block_and_parities_twice_and_the_books() {
        let design = small_write(1);
        let all = design.most.written_in_all();
        assert!((12.0..12.1).contains(&all), "{all}");
        assert_eq!(design.most.read, 3.0);
    }

    #[test]
    fn a_stream_moves_one_stripe_and_little_more() {
        let load = Load::new(Kind::Write, Order::Sequential, 1 << 20, 1);
        let design = Design::of(&RAID6, &load, 65536, 128);
        assert_eq!(design.least.written_in_all(), 1.5);
        assert!(design.most.written_in_all() < 1.7);
    }

    #[test]
    fn what_is_more_than_the_design_says_is_named() {
        let design = small_write(1);
        assert_eq!(design.excesses(&design.most), [""; 0]);
        let twice = Traffic {
            journal: 6.0,
            ..design.most
        };
        let found = design.excesses(&twice);
        assert!(found[0].starts_with("journal blocks: 6.000"), "{found:?}");
    }
}

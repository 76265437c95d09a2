//! What clients ask for: a random mix of requests, most of them where others are at work too.

use crate::content::UNIT_BYTES;
use crate::rng::Rng;
use uraid_core::units::BLOCK;

/// One request before it has content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draft {
    /// What to do.
    pub kind: DraftKind,
    /// Byte offset in the export.
    pub offset: u64,
    /// Bytes; not 0 except for a flush.
    pub len: u64,
    /// Durable before the answer.
    pub fua: bool,
}

/// The kinds of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum DraftKind {
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes,
}

/// Shape and proportions of the load.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Weight of reads.
    pub reads: u64,
    /// Weight of writes.
    pub writes: u64,
    /// Weight of flushes.
    pub flushes: u64,
    /// Weight of trims.
    pub trims: u64,
    /// Weight of write zeroes.
    pub zeroes: u64,
    /// How likely a change is to be FUA.
    pub fua: f64,
    /// How likely a request is to go to one of a few places.
    pub hot: f64,
    /// How likely a request is to follow the one before it.
    pub sequential: f64,
    /// How likely a request covers whole stripes.
    pub stripes: f64,
    /// How likely offset and length are odd bytes.
    pub odd: f64,
    /// How likely offset and length are sectors, not blocks.
    pub sectors: f64,
}

impl Mix {
    /// Whole stripes, and flushes that free the slots they leave, among writes that leave rows to
    /// destage.
    pub const MOVING: Mix = Mix {
        reads: 5,
        writes: 60,
        flushes: 20,
        fua: 0.05,
        stripes: 0.5,
        ..Mix::SCATTERED
    };

    /// Reads and small writes all over the export.
    pub const SCATTERED: Mix = Mix {
        reads: 30,
        writes: 60,
        flushes: 2,
        trims: 0,
        zeroes: 0,
        fua: 0.0,
        hot: 0.0,
        sequential: 0.0,
        stripes: 0.0,
        odd: 0.0,
        sectors: 0.0,
    };

    /// One of many kinds of load.
    pub fn random(rng: &mut Rng) -> Mix {
        let mut level = |choices: &[f64]| *rng.pick(choices);
        let (hot, sequential) = (level(&[0.0, 0.5, 0.95]), level(&[0.0, 0.0, 0.5, 0.95]));
        let (stripes, odd) = (level(&[0.0, 0.2, 0.8]), level(&[0.0, 0.0, 0.1, 0.4]));
        let (sectors, fua) = (level(&[0.0, 0.3, 0.8]), level(&[0.0, 0.0, 0.05, 0.3]));
        Mix {
            reads: *rng.pick(&[10, 30, 60]),
            writes: *rng.pick(&[30, 60]),
            flushes: *rng.pick(&[1, 5, 20]),
            trims: *rng.pick(&[0, 2, 10]),
            zeroes: *rng.pick(&[0, 2, 10]),
            fua,
            hot,
            sequential,
            stripes,
            odd,
            sectors,
        }
    }
}

/// Draws requests.
pub struct Load {
    mix: Mix,
    rng: Rng,
    export_bytes: u64,
    stripe_bytes: u64,
    hot_places: Vec<u64>,
    next_offset: u64,
}

impl Load {
    /// A load on an export of so many bytes.
    pub fn new(mix: Mix, mut rng: Rng, export_bytes: u64, stripe_bytes: u64) -> Load {
        let places = rng.within(1..8);
        let hot_places = (0..places)
            .map(|_| rng.below(export_bytes / BLOCK) * BLOCK)
            .collect();
        Load {
            mix,
            rng,
            export_bytes,
            stripe_bytes,
            hot_places,
            next_offset: 0,
        }
    }

    /// The next request.
    pub fn draw(&mut self) -> Draft {
        let kind = self.kind();
        if kind == DraftKind::Flush {
            return Draft {
                kind,
                offset: 0,
                len: 0,
                fua: false,
            };
        }
        let (offset, len) = self.range(kind);
        let changes = kind != DraftKind::Read;
        let fua = changes && self.rng.chance(self.mix.fua);
        Draft {
            kind,
            offset,
            len,
            fua,
        }
    }

    fn kind(&mut self) -> DraftKind {
        let weights = [
            (DraftKind::Read, self.mix.reads),
            (DraftKind::Write, self.mix.writes),
            (DraftKind::Flush, self.mix.flushes),
            (DraftKind::Trim, self.mix.trims),
            (DraftKind::WriteZeroes, self.mix.zeroes),
        ];
        let mut drawn = self.rng.below(weights.iter().map(|(_, w)| w).sum());
        for (kind, weight) in weights {
            if drawn < weight {
                return kind;
            }
            drawn -= weight;
        }
        unreachable!("the draw is below the sum of the weights")
    }

    fn range(&mut self, kind: DraftKind) -> (u64, u64) {
        let mut offset = if self.rng.chance(self.mix.sequential) {
            self.next_offset
        } else if self.rng.chance(self.mix.hot) {
            *self.rng.pick(&self.hot_places) + self.rng.below(4) * UNIT_BYTES
        } else {
            self.rng.below(self.export_bytes)
        };
        let whole_stripes = self.rng.chance(self.mix.stripes);
        let mut len = match whole_stripes {
            true => self.stripe_bytes * self.rng.skewed(2),
            false => UNIT_BYTES * self.rng.skewed(7),
        };
        // Trims are usually large, and matter most when they empty stripes.
        if kind == DraftKind::Trim && self.rng.chance(0.7) {
            len = self.stripe_bytes * self.rng.skewed(3);
        }
        let unit = if whole_stripes {
            self.stripe_bytes
        } else if self.rng.chance(self.mix.odd) {
            len = (len - self.rng.below(UNIT_BYTES.min(len))).max(1);
            1
        } else if self.rng.chance(self.mix.sectors) {
            UNIT_BYTES
        } else {
            len = len.next_multiple_of(BLOCK);
            BLOCK
        };
        offset = offset / unit * unit % self.export_bytes;
        len = len.min(self.export_bytes - offset);
        self.next_offset = (offset + len) % self.export_bytes;
        (offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_lie_in_the_export() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mix = Mix::random(&mut rng);
            let mut load = Load::new(mix, rng, 1 << 20, 3 * 8192);
            for _ in 0..200 {
                let d = load.draw();
                assert!(d.offset + d.len <= 1 << 20, "{d:?}");
                assert_eq!(d.len == 0, d.kind == DraftKind::Flush, "{d:?}");
            }
        }
    }
}

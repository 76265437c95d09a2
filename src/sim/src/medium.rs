//! What a member remembers: for every sector the durable content and, newer than that, all
//! contents that were written since and not yet flushed. A loss of power leaves any one of them,
//! or garbage, for each sector on its own.

use crate::rng::Rng;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use uraid_buffer::{Buf, Pool};

/// The unit of atomicity, in bytes.
pub const SECTOR_BYTES: u64 = 512;
const SECTOR: usize = SECTOR_BYTES as usize;

/// Content of one sector that no flush has covered.
#[derive(Clone)]
struct Unflushed {
    /// Which write it was, by order of completion.
    write: u64,
    bytes: Buf,
}

/// What a loss of power does to unflushed sectors.
#[derive(Clone, Copy, Debug)]
pub struct Tearing {
    /// How likely a write is to be kept as a whole.
    pub whole: f64,
    /// How likely a write is to be lost as a whole; the rest is decided sector by sector.
    pub lost: f64,
    /// How likely a sector of the rest is to be kept.
    pub kept: f64,
    /// How likely a sector of the rest is to become garbage.
    pub garbage: f64,
}

impl Tearing {
    /// Nothing that was not flushed is left.
    pub const ALL_LOST: Tearing = Tearing {
        whole: 0.0,
        lost: 1.0,
        kept: 0.0,
        garbage: 0.0,
    };

    /// One of many ways to lose data.
    pub fn random(rng: &mut Rng) -> Tearing {
        let (whole, lost) = *rng.pick(&[
            (1.0, 0.0),
            (0.0, 1.0),
            (0.0, 0.0),
            (0.5, 0.5),
            (0.3, 0.3),
            (0.9, 0.05),
        ]);
        Tearing {
            whole,
            lost,
            kept: *rng.pick(&[0.1, 0.5, 0.9]),
            garbage: *rng.pick(&[0.0, 0.0, 0.05, 0.5]),
        }
    }
}

/// What becomes of one write when the power fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// All of it is there.
    Whole,
    /// Nothing changed.
    Lost,
    /// Some sectors are there and others are not, or are garbage.
    Torn,
    /// Its first block is there and nothing else.
    Head,
}

/// Content in pieces, which copies share until one of them changes.
#[derive(Clone)]
pub struct Pieces {
    pieces: Vec<Rc<[u8]>>,
    bytes: u64,
}

/// Bytes of one piece.
const PIECE: usize = 4096;

impl Pieces {
    fn zeros(bytes: u64) -> Pieces {
        assert!(bytes.is_multiple_of(SECTOR_BYTES));
        let zeros: Rc<[u8]> = vec![0; PIECE].into();
        Pieces {
            pieces: vec![zeros; (bytes as usize).div_ceil(PIECE)],
            bytes,
        }
    }
}

impl Durable for Pieces {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn load(&self, offset: u64, mut bytes: &mut [u8]) {
        let mut at = offset as usize;
        while !bytes.is_empty() {
            let from = &self.pieces[at / PIECE][at % PIECE..];
            let len = from.len().min(bytes.len());
            bytes[..len].copy_from_slice(&from[..len]);
            bytes = &mut bytes[len..];
            at += len;
        }
    }

    fn store(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut at = offset as usize;
        while !bytes.is_empty() {
            let piece = Rc::make_mut(&mut self.pieces[at / PIECE]);
            let to = &mut piece[at % PIECE..];
            let len = to.len().min(bytes.len());
            to[..len].copy_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            at += len;
        }
    }
}

/// Where flushed content is: in memory for simulated members, in a file for a test server.
pub trait Durable {
    /// Its size in bytes.
    fn bytes(&self) -> u64;
    /// Fills `bytes` with the content at `offset`; all of it is inside.
    fn load(&self, offset: u64, bytes: &mut [u8]);
    /// Makes `bytes` the content at `offset`.
    fn store(&mut self, offset: u64, bytes: &[u8]);
}

/// The content of a member.
#[derive(Clone)]
pub struct Medium<D = Pieces> {
    durable: D,
    /// By sector, oldest first.
    unflushed: BTreeMap<u64, Vec<Unflushed>>,
    /// Writes completed so far.
    writes: u64,
}

impl Medium {
    /// An empty medium: all zeros.
    pub fn new(bytes: u64) -> Medium {
        Medium::over(Pieces::zeros(bytes))
    }
}

impl<D: Durable> Medium<D> {
    /// A medium with this content, all of it durable.
    pub fn over(durable: D) -> Medium<D> {
        assert!(durable.bytes().is_multiple_of(SECTOR_BYTES));
        Medium {
            durable,
            unflushed: BTreeMap::new(),
            writes: 0,
        }
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.durable.bytes()
    }

    /// Whether it has no sectors at all.
    pub fn is_empty(&self) -> bool {
        self.durable.bytes() == 0
    }

    /// What is durable, for damage below the cache.
    pub fn durable_mut(&mut self) -> &mut D {
        &mut self.durable
    }

    /// What is durable.
    pub fn durable(&self) -> &D {
        &self.durable
    }

    /// How many sectors hold content that no flush has covered.
    pub fn unflushed_sectors(&self) -> usize {
        self.unflushed.len()
    }

    /// The offsets among `bytes` of sectors that hold content that no flush has covered.
    pub fn unflushed_in(&self, bytes: Range<u64>) -> impl Iterator<Item = u64> {
        let sectors = bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES);
        let unflushed = self.unflushed.range(sectors);
        unflushed.map(|(sector, _)| sector * SECTOR_BYTES)
    }

    /// Fills `bytes` with the newest content from `offset` on.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.durable.load(offset, bytes);
        let first = offset / SECTOR_BYTES;
        let sectors = first..(offset + bytes.len() as u64).div_ceil(SECTOR_BYTES);
        for (sector, versions) in self.unflushed.range(sectors) {
            let at = (sector - first) as usize * SECTOR;
            bytes[at..at + SECTOR].copy_from_slice(&newest(versions).bytes);
        }
    }

    /// A write of `data` at `offset` completes; only the sectors that `reaches` names change.
    pub fn write(&mut self, offset: u64, data: &[Buf], mut reaches: impl FnMut(u64) -> bool) {
        self.writes += 1;
        let mut sector = offset / SECTOR_BYTES;
        for buf in data {
            for at in (0..buf.len()).step_by(SECTOR) {
                if reaches(sector) {
                    let bytes = buf.slice(at..at + SECTOR);
                    let version = Unflushed {
                        write: self.writes,
                        bytes,
                    };
                    self.unflushed.entry(sector).or_default().push(version);
                }
                sector += 1;
            }
        }
    }

    /// The writes completed so far, as a flush that begins now covers them.
    pub fn mark(&self) -> u64 {
        self.writes
    }

    /// A flush that began at `mark` completes.
    pub fn flush(&mut self, mark: u64) {
        let durable = &mut self.durable;
        self.unflushed.retain(|sector, versions| {
            let covered = versions.iter().take_while(|v| v.write <= mark).count();
            if let Some(newest) = versions.drain(..covered).next_back() {
                store(durable, *sector, &newest.bytes);
            }
            !versions.is_empty()
        });
    }

    /// The device makes some of what was written durable of its own accord: each unflushed sector
    /// with this probability.
    pub fn write_back(&mut self, probability: f64, rng: &mut Rng) {
        let durable = &mut self.durable;
        self.unflushed.retain(|sector, versions| {
            let chosen = rng.chance(probability);
            if chosen {
                store(durable, *sector, &newest(versions).bytes);
            }
            !chosen
        });
    }

    /// `sectors` as written by a write that is durable when it completes.
    pub fn harden(&mut self, sectors: std::ops::Range<u64>) {
        for sector in sectors {
            if let Some(versions) = self.unflushed.remove(&sector) {
                store(&mut self.durable, sector, &newest(&versions).bytes);
            }
        }
    }

    /// The power fails.
    pub fn lose_power(&mut self, tearing: Tearing, rng: &mut Rng) {
        let mut fates = HashMap::new();
        for (sector, versions) in std::mem::take(&mut self.unflushed) {
            let mut torn = false;
            let mut kept = Vec::new();
            for version in versions {
                let fate = *fates
                    .entry(version.write)
                    .or_insert_with(|| tearing.fate(rng));
                torn |= matches!(fate, Fate::Torn);
                match fate {
                    Fate::Whole => kept.push(version),
                    Fate::Torn if rng.chance(tearing.kept) => kept.push(version),
                    _ => {}
                }
            }
            if torn && rng.chance(tearing.garbage) {
                let mut garbage = [0; SECTOR];
                rng.fill(&mut garbage);
                store(&mut self.durable, sector, &garbage);
                continue;
            }
            // Mostly the newest that is left; the device may have reordered them, though.
            let stays = match kept.len() {
                0 => continue,
                n if rng.chance(0.8) => n - 1,
                n => rng.below(n as u64) as usize,
            };
            store(&mut self.durable, sector, &kept[stays].bytes);
        }
    }

    /// Unflushed writes, oldest first, and how many sectors each has.
    pub fn unflushed_writes(&self) -> BTreeMap<u64, usize> {
        let mut writes = BTreeMap::new();
        for version in self.unflushed.values().flatten() {
            *writes.entry(version.write).or_insert(0) += 1;
        }
        writes
    }

    /// The power fails, and this becomes of each unflushed write. Of a torn one every other
    /// sector is there and the rest is garbage.
    pub fn lose_power_as(&mut self, fate: impl Fn(u64) -> Fate) {
        let mut starts: HashMap<u64, u64> = HashMap::new();
        for (sector, versions) in std::mem::take(&mut self.unflushed) {
            for version in versions {
                let into = sector - *starts.entry(version.write).or_insert(sector);
                let kept = match fate(version.write) {
                    Fate::Whole => true,
                    Fate::Lost => false,
                    Fate::Torn => into.is_multiple_of(2),
                    Fate::Head => into < PIECE as u64 / SECTOR_BYTES,
                };
                if kept {
                    store(&mut self.durable, sector, &version.bytes);
                } else if fate(version.write) == Fate::Torn {
                    store(&mut self.durable, sector, &[0xa5; SECTOR]);
                }
            }
        }
    }

    /// Makes `data` the durable content at `offset`: for preparing members and for damage.
    pub fn set(&mut self, offset: u64, data: &[u8]) {
        let buf = Pool::heap().copy(data);
        self.write(offset, &[buf], |_| true);
        let sectors = offset / SECTOR_BYTES..(offset + data.len() as u64) / SECTOR_BYTES;
        self.harden(sectors);
    }
}

impl Tearing {
    fn fate(&self, rng: &mut Rng) -> Fate {
        let drawn = rng.below(1 << 20) as f64 / f64::from(1 << 20);
        if drawn < self.whole {
            Fate::Whole
        } else if drawn < self.whole + self.lost {
            Fate::Lost
        } else {
            Fate::Torn
        }
    }
}

fn newest(versions: &[Unflushed]) -> &Unflushed {
    versions
        .last()
        .expect("a sector without versions is not kept")
}

fn store(durable: &mut impl Durable, sector: u64, bytes: &[u8]) {
    durable.store(sector * SECTOR_BYTES, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_LOST: Tearing = Tearing {
        whole: 0.0,
        lost: 1.0,
        kept: 0.0,
        garbage: 0.0,
    };

    fn write(m: &mut Medium, offset: u64, byte: u8, sectors: usize) {
        let buf = Pool::heap().copy(&vec![byte; sectors * SECTOR]);
        m.write(offset, &[buf], |_| true);
    }

    fn first_bytes(m: &Medium) -> Vec<u8> {
        let mut bytes = vec![0; m.len() as usize];
        m.read(0, &mut bytes);
        bytes.iter().step_by(SECTOR).copied().collect()
    }

    #[test]
    fn reads_see_what_is_not_flushed_and_a_loss_of_power_takes_it_away() {
        let mut m = Medium::new(4 * SECTOR_BYTES);
        write(&mut m, 512, 1, 2);
        let mark = m.mark();
        write(&mut m, 1024, 2, 2);
        assert_eq!(first_bytes(&m), [0, 1, 2, 2]);
        m.flush(mark);
        assert_eq!(first_bytes(&m), [0, 1, 2, 2]);
        m.lose_power(ALL_LOST, &mut Rng::new(1));
        assert_eq!(first_bytes(&m), [0, 1, 1, 0]);
    }

    #[test]
    fn a_torn_write_is_kept_in_part() {
        let mut m = Medium::new(1000 * SECTOR_BYTES);
        write(&mut m, 0, 1, 1000);
        write(&mut m, 0, 2, 1000);
        let tearing = Tearing {
            whole: 0.0,
            lost: 0.0,
            kept: 0.5,
            garbage: 0.1,
        };
        m.lose_power(tearing, &mut Rng::new(1));
        let found = first_bytes(&m);
        for byte in 0..3 {
            let count = found.iter().filter(|b| **b == byte).count();
            assert!((100..600).contains(&count), "{byte} is found {count} times");
        }
        assert!(found.iter().any(|b| *b > 2), "some is garbage");
    }

    #[test]
    fn what_the_device_writes_back_survives() {
        let mut m = Medium::new(1000 * SECTOR_BYTES);
        write(&mut m, 0, 1, 1000);
        m.write_back(0.5, &mut Rng::new(1));
        let left = m.unflushed_sectors();
        assert!((300..700).contains(&left), "{left} are left");
        m.lose_power(ALL_LOST, &mut Rng::new(1));
        let kept = first_bytes(&m).iter().filter(|b| **b == 1).count();
        assert_eq!(kept, 1000 - left);
    }

    #[test]
    fn a_durable_write_survives() {
        let mut m = Medium::new(2 * SECTOR_BYTES);
        write(&mut m, 0, 1, 2);
        m.harden(0..1);
        m.lose_power(ALL_LOST, &mut Rng::new(1));
        assert_eq!(first_bytes(&m), [1, 0]);
    }
}

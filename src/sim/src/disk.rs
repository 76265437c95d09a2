//! A member device: takes I/O, completes it in its own time and order, and fails as told.

use crate::medium::{Medium, SECTOR_BYTES, Tearing};
use crate::rng::Rng;
pub use crate::speed::Speed;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use uraid_buffer::{Buf, Pool};
use uraid_core::units::BLOCK;
use uraid_engine::api::{Completion, Io, IoError, IoKind, Nanos};

const EIO: IoError = IoError::Errno(5);
const ENODEV: IoError = IoError::Errno(19);
const ENOSPC: IoError = IoError::Errno(28);

/// How a device fails for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breakdown {
    /// It was pulled: nothing works.
    Gone,
    /// Reads work, writes and flushes fail.
    NoWrites,
    /// Everything fails.
    NoAnswer,
    /// It lost its end: I/O comes up short.
    Short,
}

/// One wrong deed of a device that reports success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mischief {
    /// The next write that begins in these bytes changes nothing.
    LoseWrite(u64, u64),
    /// The next write goes elsewhere: this many blocks further on.
    MisdirectWrite(i64),
    /// The next read comes from elsewhere: this many blocks further on.
    MisdirectRead(i64),
}

struct Job {
    io: Io,
    begun: Nanos,
    /// For flushes: what they cover.
    mark: u64,
}

/// What a device did, for the report.
#[derive(Clone, Copy, Default, Debug)]
pub struct DiskCounts {
    /// I/O completed.
    pub completed: u64,
    /// I/O that failed.
    pub failed: u64,
    /// Wrong deeds done.
    pub mischief: u64,
}

/// A simulated device.
pub struct Disk {
    medium: Medium,
    speed: Speed,
    rng: Rng,
    /// In flight, by the time they complete.
    queue: BTreeMap<(Nanos, u64), Job>,
    next_job: u64,
    /// Sectors that cannot be read until they are written.
    unreadable: BTreeSet<u64>,
    breakdown: Option<Breakdown>,
    mischief: Option<Mischief>,
    /// Nothing completes before this.
    hangs_until: Nanos,
    /// What is begun before this takes longer, and how much.
    slow: (Nanos, Nanos),
    full: bool,
    /// The next flush fails, and what it was to make durable is gone.
    flush_fails: bool,
    /// Whether a write or flush has failed for good since the server took it.
    failed: bool,
    /// Whether what it holds may be other than what was written to it.
    suspect: bool,
    counts: DiskCounts,
    complaint: Option<String>,
}

impl Disk {
    /// A blank device.
    pub fn new(bytes: u64, speed: Speed, rng: Rng) -> Disk {
        Disk::with_medium(Medium::new(bytes), speed, rng)
    }

    /// A device with this content.
    pub fn with_medium(medium: Medium, speed: Speed, rng: Rng) -> Disk {
        Disk {
            medium,
            speed,
            rng,
            queue: BTreeMap::new(),
            next_job: 0,
            unreadable: BTreeSet::new(),
            breakdown: None,
            mischief: None,
            hangs_until: 0,
            slow: (0, 0),
            full: false,
            flush_fails: false,
            failed: false,
            suspect: false,
            counts: DiskCounts::default(),
            complaint: None,
        }
    }

    /// Its content.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// Its content, to prepare or damage it.
    pub fn medium_mut(&mut self) -> &mut Medium {
        self.suspect = true;
        &mut self.medium
    }

    /// What it did so far.
    pub fn counts(&self) -> DiskCounts {
        self.counts
    }

    /// Breaks, or is whole again.
    pub fn set_breakdown(&mut self, breakdown: Option<Breakdown>) {
        self.suspect = true;
        self.breakdown = breakdown;
    }

    /// Whether it is broken for good.
    pub fn is_broken(&self) -> bool {
        self.breakdown.is_some()
    }

    /// Whether it is not there at all.
    pub fn is_gone(&self) -> bool {
        self.breakdown == Some(Breakdown::Gone)
    }

    /// Whether it gives back what it holds, its superblock in any case.
    pub fn answers_reads(&self) -> bool {
        matches!(self.breakdown, None | Some(Breakdown::NoWrites))
    }

    /// Whether anything was ever wrong with it, so that it may hold other than what was written.
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Whether some of its sectors cannot be read.
    pub fn has_unreadable_sectors(&self) -> bool {
        !self.unreadable.is_empty()
    }

    /// Faults that pass have passed: it answers, has space and reads all its sectors.
    pub fn recover(&mut self) {
        self.hangs_until = 0;
        self.full = false;
        self.flush_fails = false;
        self.unreadable.clear();
    }

    /// The next flush fails.
    pub fn fail_next_flush(&mut self) {
        self.suspect = true;
        self.flush_fails = true;
    }

    /// Whether a write or flush has failed for good since [`Disk::attached`].
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// A server takes it.
    pub fn attached(&mut self) {
        self.failed = false;
    }

    /// It turns out to hold this.
    pub fn replace_medium(&mut self, medium: Medium) {
        self.suspect = true;
        self.medium = medium;
    }

    /// Does something wrong soon.
    pub fn set_mischief(&mut self, mischief: Mischief) {
        self.suspect = true;
        self.mischief = Some(mischief);
    }

    /// Does nothing wrong after all.
    pub fn forgo_mischief(&mut self) {
        self.mischief = None;
    }

    /// Whether it has yet to do something wrong.
    pub fn has_mischief(&self) -> bool {
        self.mischief.is_some()
    }

    /// Completes nothing before `until`.
    pub fn hang(&mut self, until: Nanos) {
        self.hangs_until = until;
    }

    /// All that is begun before `until` takes so much longer.
    pub fn slow_down(&mut self, until: Nanos, longer: Nanos) {
        self.slow = (until, longer);
    }

    /// Has, or has no, space.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Whether it has no space.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Reads of these bytes fail until they are written.
    pub fn make_unreadable(&mut self, bytes: Range<u64>) {
        self.suspect = true;
        self.unreadable
            .extend(bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES));
    }

    /// Takes an I/O.
    pub fn submit(&mut self, now: Nanos, io: Io) {
        self.inspect(&io);
        let mut takes = self.speed.draw(&io.kind, &mut self.rng);
        if now < self.slow.0 {
            takes += self.slow.1;
        }
        let due = (now + takes).max(self.hangs_until);
        let job = Job {
            io,
            begun: now,
            mark: self.medium.mark(),
        };
        self.queue.insert((due, self.next_job), job);
        self.next_job += 1;
    }

    /// Notes what no correct engine asks for.
    fn inspect(&mut self, io: &Io) {
        let Some(bytes) = bytes_of(&io.kind) else {
            return;
        };
        let aligned = bytes.start.is_multiple_of(BLOCK) && bytes.end.is_multiple_of(BLOCK);
        if !aligned || bytes.is_empty() || bytes.end > self.medium.len() {
            self.complaint = Some(format!("I/O on bytes {bytes:?} of {}", self.medium.len()));
        }
        let changing =
            |kind: &IoKind| matches!(kind, IoKind::Write { .. } | IoKind::Discard { .. });
        let meets = |job: &&Job| {
            let other = bytes_of(&job.io.kind);
            changing(&job.io.kind)
                && other.is_some_and(|o| o.start < bytes.end && bytes.start < o.end)
        };
        if changing(&io.kind)
            && let Some(other) = self.queue.values().find(meets)
        {
            let other = bytes_of(&other.io.kind);
            self.complaint = Some(format!(
                "two writes in flight overlap: bytes {bytes:?} and {other:?}"
            ));
        }
    }

    /// The first complaint about the engine.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// When the next I/O completes.
    pub fn next_due(&self) -> Option<Nanos> {
        self.queue.keys().next().map(|(due, _)| *due)
    }

    /// When the oldest I/O in flight was taken.
    pub fn oldest_begun(&self) -> Option<Nanos> {
        self.queue.values().map(|job| job.begun).min()
    }

    /// Completes one I/O whose time has come.
    pub fn complete(&mut self, now: Nanos) -> Option<Completion> {
        let entry = self
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= now)?;
        let mut job = entry.remove();
        let result = self.perform(&mut job);
        self.counts.completed += 1;
        self.counts.failed += u64::from(result.is_err());
        let buffer = match job.io.kind {
            IoKind::Read { buffer, .. } => Some(buffer),
            _ => None,
        };
        Some(Completion {
            token: job.io.token,
            result,
            buffer,
        })
    }

    /// Nobody waits for an I/O any more.
    pub fn cancel(&mut self, token: u64) {
        self.queue.retain(|_, job| job.io.token != token);
    }

    /// The server is gone; what it handed over completes all the same.
    pub fn settle(&mut self) {
        for (_, mut job) in std::mem::take(&mut self.queue) {
            // Nobody is there to be told.
            let _ = self.perform(&mut job);
        }
        self.hangs_until = 0;
    }

    /// The power fails.
    pub fn lose_power(&mut self, tearing: Tearing) {
        for (_, mut job) in std::mem::take(&mut self.queue) {
            if !matches!(job.io.kind, IoKind::Flush | IoKind::Read { .. }) {
                make_plain(&mut job.io.kind);
                // Nobody is there to be told.
                let _ = self.perform(&mut job);
            }
        }
        self.medium.lose_power(tearing, &mut self.rng);
        self.hangs_until = 0;
    }

    /// The power fails now; what was under way is written and not flushed.
    pub fn drop_dead(mut self) -> Medium {
        for (_, mut job) in std::mem::take(&mut self.queue) {
            if !matches!(job.io.kind, IoKind::Flush | IoKind::Read { .. }) {
                make_plain(&mut job.io.kind);
                // Nobody is there to be told.
                let _ = self.perform(&mut job);
            }
        }
        self.medium
    }

    fn perform(&mut self, job: &mut Job) -> Result<(), IoError> {
        let failure = self.failure(&job.io.kind);
        match &mut job.io.kind {
            IoKind::Read { offset, buffer } => {
                let from = match self.mischief {
                    Some(Mischief::MisdirectRead(blocks)) => self.elsewhere(*offset, blocks),
                    _ => *offset,
                };
                self.medium.read(from, buffer);
                self.race(*offset, buffer);
            }
            IoKind::Write {
                offset,
                buffers,
                fua,
            } => {
                let offset = *offset;
                let reach = if failure.is_some() {
                    *self.rng.pick(&[0.0, 0.5, 1.0])
                } else {
                    1.0
                };
                self.change(offset, buffers, reach);
                if *fua && failure.is_none() {
                    let len: usize = buffers.iter().map(|b| b.len()).sum();
                    let end = offset + len as u64;
                    self.medium
                        .harden(offset / SECTOR_BYTES..end / SECTOR_BYTES);
                }
            }
            IoKind::Discard { offset, len } => {
                let mut content = Pool::heap().zeroed(*len as usize);
                if self.rng.chance(0.2) {
                    self.rng.fill(&mut content);
                }
                let reach = *self.rng.pick(&[0.0, 0.9, 1.0]);
                self.change(*offset, &[content.freeze()], reach);
            }
            IoKind::Flush if failure.is_none() => self.medium.flush(job.mark),
            IoKind::Flush if std::mem::take(&mut self.flush_fails) => {
                self.medium.lose_power(Tearing::ALL_LOST, &mut self.rng);
            }
            IoKind::Flush => {}
        }
        let changes = matches!(job.io.kind, IoKind::Write { .. } | IoKind::Flush);
        self.failed |= changes && failure.is_some_and(|error| error != ENOSPC);
        failure.map_or(Ok(()), Err)
    }

    /// Why an I/O is to fail, if it is.
    fn failure(&self, kind: &IoKind) -> Option<IoError> {
        let reads = matches!(kind, IoKind::Read { .. });
        match self.breakdown {
            Some(Breakdown::Gone) => return Some(ENODEV),
            Some(Breakdown::NoAnswer) => return Some(EIO),
            Some(Breakdown::NoWrites) if !reads => return Some(EIO),
            Some(Breakdown::Short) => return Some(IoError::Short),
            Some(Breakdown::NoWrites) | None => {}
        }
        if self.flush_fails && matches!(kind, IoKind::Flush) {
            return Some(EIO);
        }
        if self.full && matches!(kind, IoKind::Write { .. }) {
            return Some(ENOSPC);
        }
        let bytes = bytes_of(kind).filter(|_| reads)?;
        let sectors = bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES);
        self.unreadable.range(sectors).next().map(|_| EIO)
    }

    fn change(&mut self, offset: u64, data: &[Buf], reach: f64) {
        let offset = match self.mischief {
            Some(Mischief::LoseWrite(start, end)) if (start..end).contains(&offset) => {
                self.mischief = None;
                self.counts.mischief += 1;
                return;
            }
            Some(Mischief::MisdirectWrite(blocks)) => self.elsewhere(offset, blocks),
            _ => offset,
        };
        let (rng, unreadable) = (&mut self.rng, &mut self.unreadable);
        self.medium.write(offset, data, |sector| {
            let reached = reach >= 1.0 || rng.chance(reach);
            if reached {
                unreadable.remove(&sector);
            }
            reached
        });
    }

    fn elsewhere(&mut self, offset: u64, blocks: i64) -> u64 {
        self.mischief = None;
        self.counts.mischief += 1;
        let moved = offset as i64 + blocks * BLOCK as i64;
        // Large enough an I/O still ends on the device when it begins in the first half.
        moved.rem_euclid(self.medium.len() as i64 / 2) as u64
    }

    /// A read beside writes in flight may or may not see them, sector by sector.
    fn race(&mut self, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        for job in self.queue.values() {
            let IoKind::Write {
                offset: at,
                buffers,
                ..
            } = &job.io.kind
            else {
                continue;
            };
            let mut at = *at;
            for buf in buffers {
                for start in (0..buf.len()).step_by(SECTOR_BYTES as usize) {
                    if at >= offset && at + SECTOR_BYTES <= end && self.rng.chance(0.5) {
                        let to = (at - offset) as usize;
                        let sector = &buf[start..start + SECTOR_BYTES as usize];
                        bytes[to..to + sector.len()].copy_from_slice(sector);
                    }
                    at += SECTOR_BYTES;
                }
            }
        }
    }
}

/// A write that does not live to complete is as torn as any other.
fn make_plain(kind: &mut IoKind) {
    if let IoKind::Write { fua, .. } = kind {
        *fua = false;
    }
}

fn bytes_of(kind: &IoKind) -> Option<Range<u64>> {
    let (offset, len) = match kind {
        IoKind::Read { offset, buffer } => (*offset, buffer.len() as u64),
        IoKind::Write {
            offset, buffers, ..
        } => (*offset, buffers.iter().map(|b| b.len() as u64).sum()),
        IoKind::Discard { offset, len } => (*offset, *len),
        IoKind::Flush => return None,
    };
    Some(offset..offset + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_engine::api::DeviceId;

    fn disk() -> Disk {
        Disk::new(
            1 << 20,
            Speed {
                least: 10,
                spread: 4,
                flush: 1,
            },
            Rng::new(1),
        )
    }

    fn write(token: u64, offset: u64, byte: u8) -> Io {
        let buffers = vec![Pool::heap().copy(&[byte; 4096])];
        Io {
            token,
            device: DeviceId(0),
            background: false,
            kind: IoKind::Write {
                offset,
                buffers,
                fua: false,
            },
        }
    }

    fn read(disk: &mut Disk, offset: u64) -> (Result<(), IoError>, u8) {
        let kind = IoKind::Read {
            offset,
            buffer: Pool::heap().take(4096),
        };
        disk.submit(
            0,
            Io {
                token: 99,
                device: DeviceId(0),
                background: false,
                kind,
            },
        );
        let done = disk.complete(u64::MAX).unwrap();
        (done.result, done.buffer.unwrap()[0])
    }

    #[test]
    fn io_completes_out_of_order_and_in_time() {
        let mut d = disk();
        (0..20).for_each(|i| d.submit(0, write(i, i * 4096, 1)));
        let mut order = Vec::new();
        while let Some(due) = d.next_due() {
            assert!(d.complete(due - 1).is_none() && (10..=160).contains(&due));
            order.push(d.complete(due).unwrap().token);
        }
        assert!(!order.is_sorted(), "{order:?}");
        assert!(d.complaint().is_none());
    }

    #[test]
    fn broken_devices_say_so_and_bad_sectors_heal_when_written() {
        let mut d = disk();
        d.make_unreadable(512..1024);
        assert_eq!(read(&mut d, 0).0, Err(EIO));
        assert_eq!(read(&mut d, 4096).0, Ok(()));
        d.submit(0, write(1, 0, 7));
        assert!(d.complete(u64::MAX).unwrap().result.is_ok());
        assert_eq!(read(&mut d, 0), (Ok(()), 7));
        d.set_breakdown(Some(Breakdown::NoWrites));
        d.submit(0, write(1, 0, 8));
        assert_eq!(d.complete(u64::MAX).unwrap().result, Err(EIO));
        d.set_breakdown(Some(Breakdown::Gone));
        assert_eq!(read(&mut d, 0).0, Err(ENODEV));
    }

    #[test]
    fn mischief_reports_success() {
        let mut d = disk();
        for (mischief, expected) in [
            (Mischief::LoseWrite(0, 4096), (0, 0)),
            (Mischief::MisdirectWrite(1), (0, 3)),
        ] {
            d.set_mischief(mischief);
            d.submit(0, write(1, 0, 3));
            assert!(d.complete(u64::MAX).unwrap().result.is_ok());
            assert_eq!((read(&mut d, 0).1, read(&mut d, 4096).1), expected);
        }
        assert_eq!(d.counts().mischief, 2);
    }

    #[test]
    fn overlapping_writes_are_complained_about() {
        let mut d = disk();
        d.submit(0, write(1, 0, 1));
        d.submit(0, write(2, 4096, 1));
        assert!(d.complaint().is_none());
        d.submit(0, write(3, 4096, 1));
        assert!(d.complaint().is_some());
    }

    #[test]
    fn a_killed_server_loses_nothing_it_handed_over() {
        let mut d = disk();
        d.submit(0, write(1, 0, 5));
        d.settle();
        assert_eq!(read(&mut d, 0), (Ok(()), 5));
    }
}

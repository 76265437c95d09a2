//! One disk: a file behind a volatile write cache, and everything that can go wrong with it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use uraid_buffer::{Pool, Span};
use uraid_nbd::{Answer, Extent, NbdError, ReplyError, RequestKind};
use uraid_sim::medium::{Durable, Medium, SECTOR_BYTES, Tearing};
use uraid_sim::rng::Rng;

/// Most unflushed data; beyond it the disk writes half of it back, in no order.
const CACHE_BYTES_MAX: u64 = 32 << 20;

/// Zeroes are written in pieces of this size.
const ZERO_PIECE_BYTES: u64 = 1 << 20;

/// How often a disk that hangs looks whether it may go on.
const HANG_POLL: Duration = Duration::from_millis(5);

/// What is wrong with a disk. The default is nothing.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Reads answer EIO.
    pub fail_reads: bool,
    /// Writes, trims and zeroes answer EIO.
    pub fail_writes: bool,
    /// Flushes answer EIO, and flush nothing.
    pub fail_flushes: bool,
    /// Writes answer ENOSPC.
    pub full: bool,
    /// Flushes are answered but flush nothing.
    pub lying_flush: bool,
    /// How many of the next writes are answered but not done.
    pub writes_to_lose: u32,
    /// Every request takes so much longer.
    pub delay: Duration,
    /// Requests are held until then.
    pub hangs_until: Option<Instant>,
    /// Sectors that cannot be read until they are written: the latent errors of disks.
    pub bad_sectors: BTreeSet<u64>,
}

/// The durable content of a disk.
struct Backing {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Durable for Backing {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn load(&self, offset: u64, bytes: &mut [u8]) {
        self.expect("read", self.file.read_exact_at(bytes, offset));
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        self.expect("written", self.file.write_all_at(bytes, offset));
    }
}

impl Backing {
    /// A test bench whose own files fail proves nothing: give up.
    fn expect(&self, what: &str, result: io::Result<()>) {
        let path = self.path.display();
        result.unwrap_or_else(|error| panic!("{path} cannot be {what}: {error}"));
    }
}

/// One disk.
pub struct Disk {
    state: Mutex<State>,
}

struct State {
    medium: Medium<Backing>,
    faults: Faults,
    rng: Rng,
    powered: bool,
}

impl Disk {
    /// A disk whose durable content is that of the file, as it is now and as it will be after a
    /// loss of power.
    ///
    /// # Errors
    /// What opening the file answers; `InvalidInput` if it does not consist of whole sectors.
    pub fn open(path: &Path, seed: u64) -> io::Result<Disk> {
        let file = File::options().read(true).write(true).open(path)?;
        let bytes = file.metadata()?.len();
        if !bytes.is_multiple_of(SECTOR_BYTES) || bytes == 0 {
            let text = format!("{} bytes are no number of whole sectors", bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let path = path.to_owned();
        let state = State {
            medium: Medium::over(Backing { file, path, bytes }),
            faults: Faults::default(),
            rng: Rng::new(seed),
            powered: true,
        };
        Ok(Disk {
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread has panicked with a disk")
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.lock().medium.len()
    }

    /// Changes what is wrong with it.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// Flips one bit of the content, as decay would: the cache does not notice.
    /// Panics if `offset` is outside.
    pub fn flip_bit(&self, offset: u64, bit: u8) {
        let mut state = self.lock();
        let durable = state.medium.durable_mut();
        let mut byte = [0];
        durable.load(offset, &mut byte);
        durable.store(offset, &[byte[0] ^ 1 << (bit % 8)]);
    }

    /// Carries out one request.
    pub fn serve(&self, request: RequestKind) -> Result<Answer, ReplyError> {
        self.wait_until_it_may_go_on();
        self.lock().serve(request)
    }

    fn wait_until_it_may_go_on(&self) {
        thread::sleep(self.lock().faults.delay);
        let hangs = |state: &State| {
            let until = state.faults.hangs_until;
            state.powered && until.is_some_and(|until| Instant::now() < until)
        };
        while hangs(&self.lock()) {
            thread::sleep(HANG_POLL);
        }
    }

    /// Writes back everything, as an orderly shutdown does. From now on all requests fail.
    pub fn power_off(&self) {
        let mut state = self.lock();
        let mark = state.medium.mark();
        state.medium.flush(mark);
        state.powered = false;
    }
}

impl State {
    fn serve(&mut self, request: RequestKind) -> Result<Answer, ReplyError> {
        if !self.powered {
            return Err(failure("there is no power"));
        }
        match request {
            RequestKind::Read { offset, len } => self.read(offset, len.into()),
            RequestKind::Flush => self.flush(),
            RequestKind::Write { offset, data, fua } => {
                if self.may_write()? {
                    self.write(offset, &data);
                    self.harden(offset, data.len() as u64, fua);
                }
                Ok(Answer::Done)
            }
            RequestKind::Trim { offset, len, fua }
            | RequestKind::WriteZeroes {
                offset, len, fua, ..
            } => {
                if self.may_write()? {
                    self.zero(offset, len);
                    self.harden(offset, len, fua);
                }
                Ok(Answer::Done)
            }
            RequestKind::BlockStatus { len, .. } => Ok(Answer::Extents(vec![Extent {
                len,
                allocation: 0,
                redundancy: 0,
            }])),
        }
    }

    fn read(&mut self, offset: u64, len: u64) -> Result<Answer, ReplyError> {
        if self.faults.fail_reads {
            return Err(failure("reads fail"));
        }
        let sectors = offset / SECTOR_BYTES..(offset + len).div_ceil(SECTOR_BYTES);
        if self.faults.bad_sectors.range(sectors).next().is_some() {
            return Err(failure("a sector cannot be read"));
        }
        let skip = offset % SECTOR_BYTES;
        let sectors_len = (skip + len).next_multiple_of(SECTOR_BYTES);
        let mut bytes = Pool::heap().take(sectors_len as usize);
        self.medium.read(offset - skip, &mut bytes);
        let skip = skip as usize;
        let data = bytes.freeze().slice(skip..skip + len as usize);
        Ok(Answer::Data(vec![Span::Data(data)]))
    }

    /// Whether a write is to be done; a lost one is only answered.
    fn may_write(&mut self) -> Result<bool, ReplyError> {
        if self.faults.fail_writes {
            return Err(failure("writes fail"));
        }
        if self.faults.full {
            let text = "the disk is full";
            return Err(ReplyError::new(NbdError::NoSpace, text));
        }
        let lost = self.faults.writes_to_lose > 0;
        self.faults.writes_to_lose -= u32::from(lost);
        Ok(!lost)
    }

    /// Writes to the cache; the sectors at the ends keep what is not written of them.
    fn write(&mut self, offset: u64, data: &[u8]) {
        let skip = offset % SECTOR_BYTES;
        let end = (offset + data.len() as u64).next_multiple_of(SECTOR_BYTES);
        let mut bytes = Pool::heap().take((end - (offset - skip)) as usize);
        if bytes.len() != data.len() {
            self.medium.read(offset - skip, &mut bytes);
        }
        bytes[skip as usize..][..data.len()].copy_from_slice(data);
        let written = (offset - skip) / SECTOR_BYTES..end / SECTOR_BYTES;
        let still_bad = |sector: &u64| !written.contains(sector);
        self.faults.bad_sectors.retain(still_bad);
        self.medium
            .write(offset - skip, &[bytes.freeze()], |_| true);
        if self.medium.unflushed_sectors() as u64 * SECTOR_BYTES > CACHE_BYTES_MAX {
            self.medium.write_back(0.5, &mut self.rng);
        }
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let zeros = Pool::heap().zeroed(ZERO_PIECE_BYTES.min(len) as usize);
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(ZERO_PIECE_BYTES);
            self.write(offset + done, &zeros[..piece as usize]);
            done += piece;
        }
    }

    fn harden(&mut self, offset: u64, len: u64, fua: bool) {
        if fua && !self.faults.lying_flush {
            let end = (offset + len).div_ceil(SECTOR_BYTES);
            self.medium.harden(offset / SECTOR_BYTES..end);
        }
    }

    fn flush(&mut self) -> Result<Answer, ReplyError> {
        if self.faults.fail_flushes {
            return Err(failure("flushes fail"));
        }
        if !self.faults.lying_flush {
            let mark = self.medium.mark();
            self.medium.flush(mark);
        }
        Ok(Answer::Done)
    }
}

fn failure(text: &str) -> ReplyError {
    ReplyError::new(NbdError::Io, text)
}

/// The power of all these disks fails at one instant: each unflushed sector is kept, lost, or
/// garbage. Returns how many sectors were in the balance.
pub fn lose_power<'a>(disks: impl IntoIterator<Item = &'a Disk>) -> usize {
    let mut states: Vec<_> = disks.into_iter().map(Disk::lock).collect();
    let mut unflushed = 0;
    for state in states.iter_mut().filter(|state| state.powered) {
        state.powered = false;
        unflushed += state.medium.unflushed_sectors();
        let tearing = Tearing::random(&mut state.rng);
        let State { medium, rng, .. } = &mut **state;
        medium.lose_power(tearing, rng);
    }
    unflushed
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = 64 << 10;

    /// A disk of zeros, and the directory that holds its file.
    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(ALL.into()).unwrap();
        let disk = Disk::open(&path, 1).unwrap();
        (dir, disk)
    }

    fn write(disk: &Disk, offset: u64, byte: u8, fua: bool) -> Result<Answer, ReplyError> {
        let data = Pool::heap().copy(&[byte; 4096]);
        disk.serve(RequestKind::Write { offset, data, fua })
    }

    /// What the disk gives for a read of this many bytes from its start.
    fn content(disk: &Disk, len: u32) -> Vec<u8> {
        let read = RequestKind::Read { offset: 0, len };
        let Answer::Data(found) = disk.serve(read).unwrap() else {
            panic!("a read gives data")
        };
        Span::joined(&found)
    }

    fn first_bytes(disk: &Disk) -> Vec<u8> {
        content(disk, ALL).into_iter().step_by(4096).collect()
    }

    /// What the file holds once all unflushed writes are lost.
    fn durable(dir: &tempfile::TempDir) -> Vec<u8> {
        let bytes = std::fs::read(dir.path().join("disk")).unwrap();
        bytes.iter().step_by(4096).copied().collect()
    }

    #[test]
    fn a_bad_sector_spoils_the_reads_that_touch_it_until_it_is_written() {
        let (_dir, disk) = disk();
        disk.set_faults(|faults| faults.bad_sectors = BTreeSet::from([9, 17]));
        let read = |offset| disk.serve(RequestKind::Read { offset, len: 4096 });
        assert!(read(0).is_ok() && read(4096).is_err() && read(8192).is_err());
        write(&disk, 4096, 7, false).unwrap();
        assert!(read(4096).is_ok() && read(8192).is_err());
    }

    #[test]
    fn only_flushed_and_forced_writes_are_durable() {
        let (dir, disk) = disk();
        write(&disk, 0, 1, false).unwrap();
        disk.serve(RequestKind::Flush).unwrap();
        write(&disk, 4096, 2, true).unwrap();
        write(&disk, 8192, 3, false).unwrap();
        assert_eq!(first_bytes(&disk)[..4], [1, 2, 3, 0]);
        assert_eq!(durable(&dir)[..4], [1, 2, 0, 0]);
        disk.power_off();
        assert_eq!(durable(&dir)[..4], [1, 2, 3, 0], "an orderly end");
        assert!(write(&disk, 0, 9, false).is_err(), "there is no power");
    }

    #[test]
    fn a_loss_of_power_leaves_the_flushed_or_a_later_content_or_garbage() {
        let (dir, disk) = disk();
        for block in 0..16 {
            write(&disk, block * 4096, 1, true).unwrap();
            write(&disk, block * 4096, 2, false).unwrap();
        }
        assert_eq!(lose_power(&[disk]), 128);
        let bytes = std::fs::read(dir.path().join("disk")).unwrap();
        let whole = |sector: &&[u8]| [[1; 512], [2; 512]].contains(&(**sector).try_into().unwrap());
        let garbage = bytes.chunks(512).filter(|sector| !whole(sector)).count();
        assert!(garbage < 128, "{garbage} of 128 sectors are garbage");
    }

    #[test]
    fn a_disk_does_wrong_what_it_is_told() {
        let (dir, disk) = disk();
        disk.set_faults(|f| f.lying_flush = true);
        write(&disk, 0, 1, true).unwrap();
        disk.serve(RequestKind::Flush).unwrap();
        assert_eq!(durable(&dir)[0], 0, "neither was done");
        disk.set_faults(|f| {
            *f = Faults {
                full: true,
                ..Faults::default()
            }
        });
        assert_eq!(
            write(&disk, 0, 2, false).unwrap_err().errno,
            NbdError::NoSpace
        );
        disk.set_faults(|f| {
            *f = Faults {
                writes_to_lose: 1,
                ..Faults::default()
            }
        });
        write(&disk, 4096, 3, false).unwrap();
        write(&disk, 8192, 4, false).unwrap();
        assert_eq!(first_bytes(&disk)[..3], [1, 0, 4]);
        disk.set_faults(|f| f.fail_flushes = true);
        assert_eq!(
            disk.serve(RequestKind::Flush).unwrap_err().errno,
            NbdError::Io
        );
        disk.flip_bit(12288, 2);
        assert_eq!(first_bytes(&disk)[3], 4);
    }

    #[test]
    fn parts_of_sectors_keep_what_is_beside_them() {
        let (_dir, disk) = disk();
        write(&disk, 4096, 7, false).unwrap();
        let data = Pool::heap().copy(&[9; 700]);
        disk.serve(RequestKind::Write {
            offset: 4396,
            data,
            fua: false,
        })
        .unwrap();
        let found = content(&disk, 5100);
        assert_eq!(found[4390..4396], [7; 6]);
        assert_eq!(found[4396..5096], [9; 700]);
        assert_eq!(found[5096..], [7; 4]);
        disk.serve(RequestKind::Trim {
            offset: 4096,
            len: 8192,
            fua: false,
        })
        .unwrap();
        assert_eq!(first_bytes(&disk)[..3], [0, 0, 0]);
    }
}

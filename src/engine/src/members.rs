//! Member devices as the engine sees them: I/O with its accounting, flushes, and what an error
//! leads to.

use crate::api::{Completion, Device, DeviceId, IoError, Nanos};
use crate::array::Array;
use crate::executor::join_all;
use crate::mutants::{Mutant, active};
use crate::port::Pending;
use crate::slow::SitOut;
use crate::traffic::Part;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use uraid_buffer::{Buf, BufMut};
use uraid_core::config::{EntryState, Index};
use uraid_core::units::Uuid;

/// Linux errno values that decide something here.
mod errno {
    pub const ENXIO: i32 = 6;
    pub const EBADF: i32 = 9;
    pub const ENODEV: i32 = 19;
    pub const ENOSPC: i32 = 28;
    pub const EDQUOT: i32 = 122;
}

/// A member that failed this many reads since it was opened is taken out of service.
pub const READ_ERRORS_MAX: u64 = 64;
/// How often a write that found no space is tried again.
pub const NO_SPACE_RETRY: Nanos = 1_000_000_000;

/// One device in use.
#[derive(Debug)]
pub struct Member {
    /// Place in the member table.
    pub index: Index,
    /// Identity.
    pub uuid: Uuid,
    /// The device.
    pub device: Device,
    /// Whether I/O is sent to it. False from the first fatal error on, before any config says so.
    pub alive: bool,
    /// It failed by not taking writes: what it holds may still be read.
    pub refuses_writes: bool,
    /// Read errors since the device was opened.
    pub recent_read_errors: u64,
    /// It is read only when others cannot be.
    pub write_mostly: bool,
    /// Its share of the reads where they are weighted.
    pub read_weight: u16,
    /// Whether it is too slow to be read.
    pub sit_out: SitOut,
    /// Number of its last superblock write.
    pub superblock_write: u64,
    /// Writes completed.
    written: u64,
    /// Writes that a flush has made durable.
    flushed: u64,
    flushing: bool,
}

impl Member {
    /// A device just taken in.
    pub fn new(index: Index, uuid: Uuid, device: Device) -> Member {
        Member {
            index,
            uuid,
            device,
            alive: true,
            refuses_writes: false,
            recent_read_errors: 0,
            write_mostly: false,
            read_weight: 1,
            sit_out: SitOut::default(),
            superblock_write: 0,
            written: 1, // whatever an earlier server wrote may not be durable yet
            flushed: 0,
            flushing: false,
        }
    }

    /// Whether it is too slow to be read.
    pub fn sits_out(&self) -> bool {
        self.sit_out.since.is_some()
    }
}

impl Array {
    /// The device of a member that may be sent I/O.
    pub fn live_device(&self, index: Index) -> Option<DeviceId> {
        let members = self.members.borrow();
        members.get(&index).filter(|m| m.alive).map(|m| m.device.id)
    }

    /// "member 3 (/dev/sdd)".
    pub fn member_name(&self, index: Index) -> String {
        let (role, state) = {
            let config = self.config.borrow();
            (config.entry(index).role, config.entry(index).state)
        };
        let label = match (role, state) {
            (Some(role), _) => format!("member {role}"),
            (None, EntryState::Spare) => "spare".to_string(),
            (None, _) => "former member".to_string(),
        };
        match self.members.borrow().get(&index) {
            Some(m) => format!("{label} ({})", m.device.path),
            None => format!("{label} ({})", self.config.borrow().entry(index).uuid),
        }
    }

    /// Reads `len` bytes from a member. An error has been counted and may condemn the member.
    pub async fn read_member(&self, index: Index, offset: u64, len: usize) -> Result<BufMut, ()> {
        let pending = self.start_read(index, offset, len);
        self.finish_read(index, pending).await
    }

    /// Waits for an I/O on a member, but not beyond the moment the member is condemned.
    async fn wait_for(&self, index: Index, pending: Pending) -> Option<Completion> {
        let completion = pending.done_in_service(&self.port).await;
        self.unless_given_up(index, completion)
    }

    /// A completion, unless it only says that nobody waits any longer.
    fn unless_given_up(&self, index: Index, completion: Completion) -> Option<Completion> {
        if completion.result == Err(IoError::TimedOut) {
            // Unless it is: the device may have been given up before it was a member.
            self.condemn(index, &describe(IoError::TimedOut));
            return None;
        }
        Some(completion)
    }

    /// No more I/O goes to a member, and nobody waits for what is under way.
    pub fn end_service(&self, index: Index) {
        let mut members = self.members.borrow_mut();
        if let Some(member) = members.get_mut(&index) {
            member.alive = false;
            self.port.end_service(member.device.id);
        }
        drop(members);
        self.refresh_avoided();
        if let Some(view) = &self.view {
            view.forget_all();
        }
    }

    fn read_failed(&self, index: Index, error: IoError) {
        let gone = matches!(
            error,
            IoError::Short | IoError::Errno(errno::ENXIO | errno::EBADF | errno::ENODEV)
        );
        let condemned = {
            let mut members = self.members.borrow_mut();
            let Some(m) = members.get_mut(&index) else {
                return;
            };
            self.counters.borrow_mut()[usize::from(index.0)].read_errors += 1;
            m.recent_read_errors += 1;
            gone || m.recent_read_errors > READ_ERRORS_MAX
        };
        if condemned {
            let why = format!("reads fail: {}", describe(error));
            self.condemn(index, &why);
        }
    }

    /// Writes to a member. Returns once the data is written or the member's failure is durable on
    /// the others (or the array is suspended): either way the caller may go on.
    pub async fn write_member(&self, index: Index, offset: u64, buffers: Vec<Buf>) {
        loop {
            if self.is_suspended() {
                return;
            }
            let Some(device) = self.live_device(index) else {
                return self.wait_until_left(index).await;
            };
            self.count_write(offset, buffers.iter().map(|b| b.len()).sum());
            let pending = self.port.write(device, offset, buffers.clone());
            let Some(completion) = self.wait_for(index, pending).await else {
                continue;
            };
            match completion.result {
                Ok(()) => {
                    if let Some(m) = self.members.borrow_mut().get_mut(&index) {
                        m.written += 1;
                    }
                    self.no_space(index, false);
                    return;
                }
                Err(IoError::Errno(errno::ENOSPC | errno::EDQUOT))
                    if !active(Mutant::NoSpaceEjects) =>
                {
                    // Not a dead disk: nothing is ejected, the write waits for space.
                    self.no_space(index, true);
                    if self.ending.get() {
                        self.give_up_on_space();
                        return;
                    }
                    // A stop is told at once whether there is space by now.
                    let again = self.after(NO_SPACE_RETRY);
                    let over = || self.is_suspended() || self.ending.get();
                    self.ex.until_or(again, &self.changed, over).await;
                }
                Err(error) => return self.write_failed(index, error).await,
            }
        }
    }

    async fn write_failed(&self, index: Index, error: IoError) {
        if let Some(m) = self.members.borrow_mut().get_mut(&index) {
            m.refuses_writes = true;
        }
        self.counters.borrow_mut()[usize::from(index.0)].write_errors += 1;
        self.condemn(index, &format!("a write failed: {}", describe(error)));
        self.wait_until_left(index).await;
    }

    /// Makes everything written to a member durable. Returns as [`Array::write_member`] does.
    pub async fn flush_member(&self, index: Index) {
        let Some(target) = self.members.borrow().get(&index).map(|m| m.written) else {
            return;
        };
        loop {
            if self.is_suspended() {
                return;
            }
            let Some(device) = self.live_device(index) else {
                return self.wait_until_left(index).await;
            };
            let flush = {
                let mut members = self.members.borrow_mut();
                let m = members.get_mut(&index).expect("it is alive");
                if m.flushed >= target {
                    return;
                }
                // Joins a flush in flight and checks whether that covered enough.
                (!core::mem::replace(&mut m.flushing, true)).then_some(m.written)
            };
            let Some(covered) = flush else {
                let flushing = || {
                    self.members
                        .borrow()
                        .get(&index)
                        .is_some_and(|m| m.flushing)
                };
                self.ex.until(&self.flushed, || !flushing()).await;
                continue;
            };
            let begun = self.ex.now();
            let pending = self.port.flush(device);
            let mut result = self.wait_for(index, pending).await.map(|c| c.result);
            if active(Mutant::FailedFlushBelieved) {
                result = result.and(Some(Ok(())));
            }
            self.count_time(Part::Flush, begun);
            if let Some(m) = self.members.borrow_mut().get_mut(&index) {
                m.flushing = false;
                if result == Some(Ok(())) {
                    m.flushed = m.flushed.max(covered);
                }
            }
            self.ex.fire(&self.flushed);
            if let Some(Err(error)) = result {
                // Never retried and believed: the kernel may have dropped the dirty pages.
                return self.write_failed(index, error).await;
            }
        }
    }

    /// Flushes all members that take writes.
    pub async fn flush_members(&self) {
        let writers = self.all_writers();
        let skipped = usize::from(active(Mutant::FlushSkipsMember));
        join_all(
            writers
                .into_iter()
                .skip(skipped)
                .map(|i| self.flush_member(i)),
        )
        .await;
    }

    /// Starts reading from a member; for callers that want several reads under way at once.
    pub fn start_read(&self, index: Index, offset: u64, len: usize) -> Option<Pending> {
        let device = self.live_device(index)?;
        self.count_read(offset, len);
        Some(self.port.read(device, offset, self.pool.take(len)))
    }

    /// Waits for [`Array::start_read`], with the accounting of [`Array::read_member`].
    pub async fn finish_read(&self, index: Index, pending: Option<Pending>) -> Result<BufMut, ()> {
        let completion = pending.ok_or(())?.done_in_service(&self.port).await;
        self.read_over(index, completion)
    }

    /// Takes the end of a read of a member, with the accounting of [`Array::read_member`].
    pub fn read_over(&self, index: Index, completion: Completion) -> Result<BufMut, ()> {
        let completion = self.unless_given_up(index, completion).ok_or(())?;
        match completion.result {
            Ok(()) => Ok(completion.buffer.expect("a read gives its buffer back")),
            Err(error) => {
                self.read_failed(index, error);
                Err(())
            }
        }
    }
}

/// Whether an I/O failed for want of space.
pub fn is_no_space(result: Result<(), IoError>) -> bool {
    matches!(result, Err(IoError::Errno(errno::ENOSPC | errno::EDQUOT)))
}

/// An I/O error in words.
pub fn describe(error: IoError) -> String {
    match error {
        IoError::Errno(5) => "input/output error (EIO)".to_string(),
        IoError::Errno(errno::ENOSPC) => "no space left (ENOSPC)".to_string(),
        IoError::Errno(errno::ENODEV | errno::ENXIO) => "the device is gone".to_string(),
        IoError::Errno(code) => format!("error {code}"),
        IoError::Short => "the device is shorter than it was".to_string(),
        IoError::NotKept => "it does not hold what was written to it".to_string(),
        IoError::TimedOut => "the device does not answer".to_string(),
    }
}

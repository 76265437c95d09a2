//! Reads that a reader thread makes by itself: of members, as the engine's view says. Whatever is
//! out of the ordinary, a failed read or a block that does not match, is for the engine, which
//! reads again, repairs and counts errors.

use super::board::Tally;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uraid_buffer::{BufMut, Pool};
use uraid_engine::api::{Answer, Completion, DeviceId, Io, IoKind, Reply, Request, RequestId};
use uraid_engine::{Budget, PlannedRead, ReadPlan, ReadTimes, ReadView};
use uraid_io::device::MemberFile;
use uraid_io::driver::Driver;

/// Tokens of member I/O: the number of the read above, that of its part below.
const PART_BITS: u32 = 24;

/// A client's read under way.
struct Direct {
    id: RequestId,
    begun: Instant,
    offset: u64,
    len: u64,
    plan: ReadPlan,
    /// What was read, in the order of the plan.
    buffers: Vec<Option<BufMut>>,
    /// Parts that the driver is at.
    missing: usize,
    failed: bool,
    /// The engine was asked; only buffers are waited for.
    given_up: bool,
    /// It is late, and was so when there was nothing to spare for another way.
    endured: bool,
}

impl Direct {
    fn request(&self) -> (RequestId, Request) {
        let (offset, len) = (self.offset, self.len);
        (self.id, Request::Read { offset, len })
    }
}

/// What became of a read.
pub enum Outcome {
    /// It is answered.
    Answered(Reply),
    /// The engine is to carry it out.
    Ask(RequestId, Request),
}

/// All reads of one thread. As many as its clients may have under way.
pub struct DirectReads {
    view: Option<ReadView>,
    pool: Pool,
    tally: Arc<Tally>,
    devices: BTreeSet<DeviceId>,
    reads: BTreeMap<u64, Direct>,
    next_read: u64,
    /// This turn's time.
    now: Instant,
    times: Arc<Mutex<Times>>,
    /// Of what is asked of the engine because it is late.
    budget: Budget,
    /// When to look for late reads; none while there are no reads.
    look_at: Option<Instant>,
}

/// How long reads of each device took, until the data thread takes it.
pub type Times = BTreeMap<DeviceId, ReadTimes>;

impl DirectReads {
    /// Reads what `view` shows, into memory of `pool`.
    pub fn new(
        view: Option<ReadView>,
        pool: Pool,
        tally: Arc<Tally>,
        times: Arc<Mutex<Times>>,
    ) -> DirectReads {
        DirectReads {
            view,
            pool,
            tally,
            devices: BTreeSet::new(),
            reads: BTreeMap::new(),
            next_read: 0,
            now: Instant::now(),
            times,
            budget: Budget::new(0),
            look_at: None,
        }
    }

    /// A turn begins.
    pub fn tell_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// When to look for late reads.
    pub fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// Reads that are late, if it is time to look: for the engine, which knows other ways.
    pub fn take_late(&mut self) -> Vec<(RequestId, Request)> {
        let (Some(view), Some(at)) = (&self.view, self.look_at) else {
            return Vec::new();
        };
        let mut requests = Vec::new();
        if at > self.now {
            return requests;
        }
        self.look_at = None;
        self.budget.percent = view.hedge_percent();
        for direct in self.reads.values_mut() {
            let Some(after) = late_after(view, &direct.plan) else {
                continue;
            };
            let late_at = direct.begun + after;
            if direct.given_up || direct.endured {
                continue;
            }
            if late_at > self.now {
                let first = self.look_at.map_or(late_at, |at| at.min(late_at));
                self.look_at = Some(first);
            } else if self.budget.spend(direct.plan.reads.len()) {
                direct.given_up = true;
                requests.push(direct.request());
            } else {
                direct.endured = true;
            }
        }
        requests
    }

    /// Begins a read; false if the engine must be asked.
    pub fn start(&mut self, id: RequestId, offset: u64, len: u64, driver: &mut Driver) -> bool {
        let plan = self.view.as_ref().and_then(|view| view.plan(offset, len));
        let Some(plan) = plan else { return false };
        let known = |read: &PlannedRead| self.devices.contains(&read.device);
        if !plan.reads.iter().all(known) || plan.reads.len() >= 1 << PART_BITS {
            return false;
        }
        let number = self.next_read;
        self.next_read += 1;
        for (part, read) in plan.reads.iter().enumerate() {
            let buffer = self.pool.take(read.len);
            driver.submit_io(Io {
                background: false,
                token: number << PART_BITS | part as u64,
                device: read.device,
                kind: IoKind::Read {
                    offset: read.offset,
                    buffer,
                },
            });
            self.tally.member_reads.add(1);
            self.tally.member_read_bytes.add(read.len as u64);
        }
        self.budget.earn();
        if self.look_at.is_none() {
            let view = self.view.as_ref().expect("the plan came from there");
            self.look_at = late_after(view, &plan).map(|after| self.now + after);
        }
        let missing = plan.reads.len();
        let direct = Direct {
            id,
            begun: self.now,
            offset,
            len,
            buffers: (0..missing).map(|_| None).collect(),
            plan,
            missing,
            failed: false,
            given_up: false,
            endured: false,
        };
        self.reads.insert(number, direct);
        true
    }

    /// Takes the end of a member's read; says so if it was the last one of a client's.
    pub fn completed(&mut self, completion: Completion) -> Option<Outcome> {
        let number = completion.token >> PART_BITS;
        let part = (completion.token & ((1 << PART_BITS) - 1)) as usize;
        let direct = self.reads.get_mut(&number);
        let direct = direct.expect("a read outlives its parts");
        let read = &direct.plan.reads[part];
        let took = self.now.saturating_duration_since(direct.begun).as_nanos() as u64;
        let succeeded = completion.result.is_ok();
        let mut times = self.times.lock().expect("no holder panics");
        times
            .entry(read.device)
            .or_default()
            .add(read.len, succeeded, took);
        drop(times);
        direct.buffers[part] = completion.buffer;
        direct.failed |= completion.result.is_err();
        direct.missing -= 1;
        if direct.missing > 0 {
            return None;
        }
        let direct = self.reads.remove(&number).expect("just seen");
        (!direct.given_up).then(|| self.finish(direct))
    }

    fn finish(&self, direct: Direct) -> Outcome {
        let (id, request) = direct.request();
        if direct.failed {
            return Outcome::Ask(id, request);
        }
        let view = self.view.as_ref().expect("the plan came from there");
        let buffers: Option<Vec<BufMut>> = direct.buffers.into_iter().collect();
        let buffers = buffers.expect("reads give their buffers back");
        if !view.check(&direct.plan, &buffers) {
            return Outcome::Ask(id, request);
        }
        self.tally.reads.add(1);
        self.tally.read_bytes.add(direct.len);
        let spans = direct.plan.spans(buffers);
        Outcome::Answered(Reply {
            id,
            result: Ok(Answer::Data(spans)),
        })
    }

    /// Brings the driver's devices up to date. Returns what the engine is to carry out instead.
    pub fn set_devices(
        &mut self,
        files: BTreeMap<DeviceId, MemberFile>,
        driver: &mut Driver,
    ) -> Vec<(RequestId, Request)> {
        let gone: Vec<_> = self
            .devices
            .iter()
            .filter(|id| !files.contains_key(id))
            .copied()
            .collect();
        let mut requests = Vec::new();
        for device in gone {
            self.devices.remove(&device);
            driver.remove_device(device);
            requests.extend(self.give_up(device));
        }
        for (id, file) in files {
            // If there is no thread for it, the engine is asked for what it holds.
            if !self.devices.contains(&id) && driver.add_device(id, file).is_ok() {
                self.devices.insert(id);
            }
        }
        requests
    }

    /// Waits no more for what is read from a device, which may never answer. Returns what the
    /// engine is to carry out instead.
    pub fn give_up(&mut self, device: DeviceId) -> Vec<(RequestId, Request)> {
        let mut requests = Vec::new();
        for direct in self.reads.values_mut() {
            let parts = direct.plan.reads.iter().zip(&direct.buffers);
            let stuck = |(read, buffer): (&PlannedRead, &Option<BufMut>)| {
                read.device == device && buffer.is_none()
            };
            if !direct.given_up && parts.into_iter().any(stuck) {
                direct.given_up = true;
                requests.push(direct.request());
            }
        }
        requests
    }
}

/// After how long a client's read is late: as long as its longest part may take.
fn late_after(view: &ReadView, plan: &ReadPlan) -> Option<Duration> {
    let longest = plan.reads.iter().map(|read| read.len).max()?;
    view.late_after(longest).map(Duration::from_nanos)
}

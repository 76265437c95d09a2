//! What the data thread and a reader thread know of each other: state, not messages. Nobody waits
//! for a thread that is slow, and one that looks late sees what matters.

use crate::server::counter::Counter;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use uraid_engine::api::DeviceId;
use uraid_io::device::MemberFile;

/// How far the array's service is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Requests are served.
    Serving,
    /// No new requests; those under way are finished.
    Draining,
    /// Everything is flushed; clients may get their last answers until this time.
    Goodbye(Instant),
}

/// What readers are to know.
struct Notice {
    stage: Stage,
    devices: BTreeMap<DeviceId, MemberFile>,
}

/// What the data thread lets all readers of its array know.
pub struct Board {
    /// Raised with each change.
    version: AtomicU64,
    notice: Mutex<Notice>,
}

impl Board {
    /// Nothing is known but that requests are served.
    pub fn new() -> Board {
        Board {
            version: AtomicU64::new(1),
            notice: Mutex::new(Notice {
                stage: Stage::Serving,
                devices: BTreeMap::new(),
            }),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Notice)) {
        change(&mut self.notice.lock().expect("no holder panics"));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// From now on this is the stage.
    pub fn set_stage(&self, stage: Stage) {
        self.change(|notice| notice.stage = stage);
    }

    /// From now on these are the devices.
    pub fn set_devices(&self, devices: BTreeMap<DeviceId, MemberFile>) {
        self.change(|notice| {
            let before = std::mem::replace(&mut notice.devices, devices);
            before.into_values().for_each(MemberFile::close_apart);
        });
    }

    /// What is there to know, if it has changed since the reader has `seen` it.
    pub fn look(&self, seen: &mut u64) -> Option<(Stage, BTreeMap<DeviceId, MemberFile>)> {
        let version = self.version.load(Ordering::Acquire);
        if version == *seen {
            return None;
        }
        *seen = version;
        let notice = self.notice.lock().expect("no holder panics");
        let devices = notice.devices.iter();
        let devices = devices.map(|(id, file)| (*id, file.share()));
        Some((notice.stage, devices.collect()))
    }
}

/// What a reader lets the data thread know. It alone writes here, on lines of the cache that are
/// no other thread's.
#[derive(Default)]
#[repr(align(128))]
pub struct Tally {
    /// Reads it has answered by itself.
    pub reads: Counter,
    /// Bytes of those.
    pub read_bytes: Counter,
    /// Reads of members that it has begun.
    pub member_reads: Counter,
    /// Bytes of those.
    pub member_read_bytes: Counter,
    /// Requests that it has passed on to the data thread.
    pub relayed: Counter,
    /// The stage is past serving, and no request is under way.
    pub drained: AtomicBool,
    /// It touches nothing any more.
    pub ended: AtomicBool,
}

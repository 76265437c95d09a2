//! Reads that go past the engine, as threads beside its own make them: planned by its view,
//! carried out on the devices, checked by the view again; what does not work out is asked of the
//! engine.

use crate::disk::Disk;
use std::collections::BTreeMap;
use uraid_buffer::{BufMut, Pool};
use uraid_engine::api::{
    Answer, Completion, DeviceId, Io, IoKind, Nanos, Reply, Request, RequestId,
};
use uraid_engine::{Engine, ReadPlan};

/// Tokens from here on are not the engine's.
const FIRST_TOKEN: u64 = 1 << 63;

/// Reads under way beside the engine.
#[derive(Default)]
pub struct Aside {
    reads: BTreeMap<RequestId, Read>,
    /// I/O under way: whose it is, which of its reads, and where.
    io: BTreeMap<u64, (RequestId, usize, DeviceId)>,
    next_token: u64,
    answers: Vec<Reply>,
    served: u64,
}

struct Read {
    offset: u64,
    len: u64,
    plan: ReadPlan,
    /// What has come so far.
    buffers: Vec<Option<BufMut>>,
}

impl Aside {
    /// Whether an I/O is one of these.
    pub fn owns(token: u64) -> bool {
        token >= FIRST_TOKEN
    }

    /// Begins a read, if the engine's view knows how. Gives the I/O to be started.
    pub fn begin(&mut self, engine: &Engine, id: RequestId, request: &Request) -> Option<Vec<Io>> {
        let Request::Read { offset, len } = *request else {
            return None;
        };
        let plan = engine.view()?.plan(offset, len)?;
        let mut started = Vec::new();
        for (i, read) in plan.reads.iter().enumerate() {
            let token = FIRST_TOKEN + self.next_token;
            self.next_token += 1;
            self.io.insert(token, (id, i, read.device));
            let buffer = Pool::heap().take(read.len);
            let (device, offset) = (read.device, read.offset);
            let kind = IoKind::Read { offset, buffer };
            started.push(Io {
                token,
                device,
                kind,
                background: false,
            });
        }
        let buffers = started.iter().map(|_| None).collect();
        let read = Read {
            offset,
            len,
            plan,
            buffers,
        };
        self.reads.insert(id, read);
        Some(started)
    }

    /// Takes the end of an I/O.
    pub fn complete(&mut self, engine: &mut Engine, completion: Completion) {
        let found = self.io.remove(&completion.token);
        let (id, which, _) = found.expect("it was started here");
        // The rest of a read that the engine has been asked for.
        let Some(read) = self.reads.get_mut(&id) else {
            return;
        };
        if completion.result.is_err() {
            return self.ask(engine, id);
        }
        read.buffers[which] = completion.buffer;
        if read.buffers.iter().any(Option::is_none) {
            return;
        }
        let buffers: Vec<BufMut> = read.buffers.drain(..).flatten().collect();
        let view = engine.view().expect("it made the plan");
        if !view.check(&read.plan, &buffers) {
            return self.ask(engine, id);
        }
        let read = self.reads.remove(&id).expect("just seen");
        let result = Ok(Answer::Data(read.plan.spans(buffers)));
        self.answers.push(Reply { id, result });
        self.served += 1;
    }

    /// Leaves a read to the engine.
    fn ask(&mut self, engine: &mut Engine, id: RequestId) {
        let Read { offset, len, .. } = self.reads.remove(&id).expect("it is under way");
        engine.request(id, Request::Read { offset, len });
    }

    /// A device is closed, or given up: nobody waits for it.
    pub fn leave(&mut self, engine: &mut Engine, device: DeviceId, disk: &mut Disk) {
        let of_device = |(_, (_, _, at)): &(&u64, &(RequestId, usize, DeviceId))| *at == device;
        let io = self.io.iter().filter(of_device);
        let left: Vec<(u64, RequestId)> = io.map(|(token, (id, ..))| (*token, *id)).collect();
        for (token, id) in left {
            self.io.remove(&token);
            disk.cancel(token);
            if self.reads.contains_key(&id) {
                self.ask(engine, id);
            }
        }
    }

    /// Answers for clients.
    pub fn take_answers(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.answers)
    }

    /// Reads answered without the engine since this was asked last.
    pub fn take_served(&mut self) -> u64 {
        std::mem::take(&mut self.served)
    }

    /// Starts the I/O of a read on the disks.
    pub fn start(now: Nanos, started: Vec<Io>, disks: &mut [Disk], at: impl Fn(DeviceId) -> usize) {
        for io in started {
            disks[at(io.device)].submit(now, io);
        }
    }
}

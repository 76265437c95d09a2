//! Where the engine's I/O leaves and its completions come back.

use crate::api::{Completion, DeviceId, Io, IoError, IoKind, Nanos};
use crate::executor::{Executor, Promise, Signal};
use crate::latency::{Account, Length, ReadTimes, Work};
use crate::status::MemberIo;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use uraid_buffer::{Buf, BufMut};

struct Outstanding {
    device: DeviceId,
    work: Work,
    begun: Nanos,
    /// Whoever waits; none when told already that no answer will come.
    promise: Option<Promise<Completion>>,
    /// Whether the wait ends when the member is taken out of service.
    ends_with_service: bool,
    /// Whoever waits wants to know when it is late, and has not been told.
    tells_late: bool,
}

/// One device, as long as there is a port: ids are never reused.
#[derive(Default)]
struct Use {
    /// Tokens in flight, oldest first.
    tokens: BTreeSet<u64>,
    account: Account,
}

/// The queue of I/O to be started and the table of I/O in flight.
pub struct Port {
    executor: Executor,
    next_token: Cell<u64>,
    queue: RefCell<VecDeque<Io>>,
    outstanding: RefCell<HashMap<u64, Outstanding, FxBuildHasher>>,
    devices: RefCell<BTreeMap<DeviceId, Use>>,
    /// Devices that nobody waits for any longer; ids are never reused.
    given_up: RefCell<BTreeSet<DeviceId>>,
    /// Tokens of late reads, until whoever waits has seen it.
    late: RefCell<BTreeSet<u64>>,
    /// Fired at each completion.
    pub settled: Signal,
    /// How long the host was kept from other work by I/O in the background.
    background_nanos: Cell<Nanos>,
}

/// An I/O that has been handed out.
pub struct Pending {
    token: u64,
    work: Work,
    promise: Promise<Completion>,
}

impl Pending {
    /// Waits for success or error.
    pub async fn done(self) -> Result<(), IoError> {
        self.promise.get().await.result
    }

    /// Waits for the completion, but not beyond the end of the device's service (see
    /// [`Port::end_service`]): a device that hangs keeps its buffers, but not those who wait for
    /// it. The failure is then [`IoError::TimedOut`].
    pub async fn done_in_service(self, port: &Port) -> Completion {
        if let Some(entry) = port.outstanding.borrow_mut().get_mut(&self.token) {
            entry.ends_with_service = true;
        }
        self.promise.get().await
    }

    /// As [`Pending::done_in_service`], but not beyond the moment a read is late: then there is no
    /// completion yet.
    pub async fn done_or_late(&self, port: &Port) -> Option<Completion> {
        if let Some(entry) = port.outstanding.borrow_mut().get_mut(&self.token) {
            (entry.ends_with_service, entry.tells_late) = (true, true);
        }
        poll_fn(|_| match self.promise.poll() {
            Poll::Ready(completion) => Poll::Ready(Some(completion)),
            Poll::Pending if port.take_late(self.token) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The completion, if it is there; else the task that asks is the one that waits for it.
    pub fn poll(&self) -> Poll<Completion> {
        self.promise.poll()
    }

    /// The length of a read.
    pub fn length(&self) -> Length {
        match self.work {
            Work::Read(bytes) => Length::of(bytes),
            Work::Write(_) | Work::Flush | Work::Discard => unreachable!("it is a read"),
        }
    }

    /// Waits for a read's buffer.
    pub async fn filled(self) -> Result<BufMut, IoError> {
        let completion = self.promise.get().await;
        completion.result?;
        Ok(completion
            .buffer
            .expect("a successful read gives its buffer back"))
    }
}

impl Port {
    /// An idle port.
    pub fn new(executor: &Executor) -> Port {
        Port {
            executor: executor.clone(),
            next_token: Cell::new(1),
            queue: RefCell::default(),
            outstanding: RefCell::default(),
            devices: RefCell::default(),
            given_up: RefCell::default(),
            late: RefCell::default(),
            settled: Signal::default(),
            background_nanos: Cell::new(0),
        }
    }

    /// The host was kept from other work by I/O in the background once more.
    pub fn spent_in_background(&self, nanos: Nanos) {
        self.background_nanos
            .set(self.background_nanos.get() + nanos);
    }

    /// How long the host was kept from other work by I/O in the background so far.
    pub fn background_nanos(&self) -> Nanos {
        self.background_nanos.get()
    }

    fn start(&self, device: DeviceId, kind: IoKind) -> Pending {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        let promise = self.executor.promise();
        let work = Work::of(&kind);
        if self.given_up.borrow().contains(&device) {
            promise.fulfil(no_answer(token));
            return Pending {
                token,
                work,
                promise,
            };
        }
        let entry = Outstanding {
            device,
            work,
            begun: self.executor.now(),
            promise: Some(promise.clone()),
            ends_with_service: false,
            tells_late: false,
        };
        self.outstanding.borrow_mut().insert(token, entry);
        let mut devices = self.devices.borrow_mut();
        let device_use = devices.entry(device).or_default();
        device_use.tokens.insert(token);
        device_use.account.begin();
        drop(devices);
        self.queue.borrow_mut().push_back(Io {
            token,
            device,
            kind,
            background: self.executor.is_in_background(),
        });
        Pending {
            token,
            work,
            promise,
        }
    }

    /// Starts a read into `buffer`.
    pub fn read(&self, device: DeviceId, offset: u64, buffer: BufMut) -> Pending {
        self.start(device, IoKind::Read { offset, buffer })
    }

    /// Starts a write.
    pub fn write(&self, device: DeviceId, offset: u64, buffers: Vec<Buf>) -> Pending {
        self.start(
            device,
            IoKind::Write {
                offset,
                buffers,
                fua: false,
            },
        )
    }

    /// Starts a flush.
    pub fn flush(&self, device: DeviceId) -> Pending {
        self.start(device, IoKind::Flush)
    }

    /// Starts a discard.
    pub fn discard(&self, device: DeviceId, offset: u64, len: u64) -> Pending {
        self.start(device, IoKind::Discard { offset, len })
    }

    /// The next I/O for the host.
    pub fn next(&self) -> Option<Io> {
        self.queue.borrow_mut().pop_front()
    }

    /// Takes a completion from the host.
    pub fn complete(&self, completion: Completion) {
        let Some(entry) = self.outstanding.borrow_mut().remove(&completion.token) else {
            panic!(
                "completion of an I/O that is not in flight: token {}",
                completion.token
            )
        };
        if !self.late.borrow().is_empty() {
            self.take_late(completion.token);
        }
        let (succeeded, now) = (completion.result.is_ok(), self.executor.now());
        let mut devices = self.devices.borrow_mut();
        let device_use = devices.get_mut(&entry.device).expect("it was in flight");
        device_use.tokens.remove(&completion.token);
        let account = &mut device_use.account;
        account.end(entry.work, succeeded, entry.begun, now);
        drop(devices);
        if let Some(promise) = entry.promise {
            promise.fulfil(completion);
        }
        self.executor.fire(&self.settled);
    }

    /// Ends all waiting for a device: what is in flight on it, and whatever is asked of it from
    /// now on, has failed with [`IoError::TimedOut`]. What is in flight still counts as unsettled
    /// until it completes: the kernel has its buffers.
    pub fn give_up(&self, device: DeviceId) {
        if !self.given_up.borrow_mut().insert(device) {
            return;
        }
        self.end_waits(device, |_| true);
    }

    /// The device's member is out of service: those who wait for it as
    /// [`Pending::done_in_service`] does wait no longer.
    pub fn end_service(&self, device: DeviceId) {
        self.end_waits(device, |entry| entry.ends_with_service);
    }

    fn end_waits(&self, device: DeviceId, which: impl Fn(&Outstanding) -> bool) {
        let mut outstanding = self.outstanding.borrow_mut();
        let devices = self.devices.borrow();
        for token in devices.get(&device).iter().flat_map(|u| &u.tokens) {
            let entry = outstanding.get_mut(token).expect("it is in flight");
            if which(entry)
                && let Some(promise) = entry.promise.take()
            {
                promise.fulfil(no_answer(*token));
            }
        }
    }

    /// What was asked of a device so far, and how long it took.
    pub fn totals(&self, device: DeviceId) -> MemberIo {
        let devices = self.devices.borrow();
        let account = devices.get(&device).map(|u| &u.account);
        account.map_or(MemberIo::default(), |a| a.totals(self.executor.now()))
    }

    /// How long a read of a device that is begun now can be expected to take.
    pub fn expected(&self, device: DeviceId) -> Nanos {
        let devices = self.devices.borrow();
        let account = devices.get(&device).map(|u| &u.account);
        account.map_or(0, |a| a.expected(self.executor.now()))
    }

    /// Looks at a device's account, if anything was asked of it yet.
    pub fn look_at<T>(&self, device: DeviceId, look: impl FnOnce(&Account) -> T) -> Option<T> {
        let devices = self.devices.borrow();
        devices.get(&device).map(|u| look(&u.account))
    }

    /// Counts what others have read of a device.
    pub fn absorb(&self, device: DeviceId, times: &ReadTimes) {
        let mut devices = self.devices.borrow_mut();
        devices.entry(device).or_default().account.absorb(times);
    }

    /// What was read of a device lately says nothing any more.
    pub fn forget_recent(&self, device: DeviceId) {
        if let Some(device_use) = self.devices.borrow_mut().get_mut(&device) {
            device_use.account.forget_recent();
        }
    }

    /// What was read of devices counts for half as much from now on.
    pub fn fade(&self) {
        let mut devices = self.devices.borrow_mut();
        devices.values_mut().for_each(|u| u.account.fade());
    }

    /// Tells those who wait for reads that are late, and want to know. Gives the time when the
    /// next one will be.
    pub fn mark_late(&self, after: impl Fn(Length) -> Option<Nanos>) -> Option<Nanos> {
        let now = self.executor.now();
        let mut next: Option<Nanos> = None;
        let mut outstanding = self.outstanding.borrow_mut();
        for Use { tokens, account } in self.devices.borrow_mut().values_mut() {
            for token in tokens.iter() {
                let entry = outstanding.get_mut(token).expect("it is in flight");
                let Work::Read(bytes) = entry.work else {
                    continue;
                };
                let length = Length::of(bytes);
                let Some(after) = after(length).filter(|_| entry.tells_late) else {
                    continue;
                };
                let at = entry.begun + after;
                if at > now {
                    next = Some(next.map_or(at, |next| next.min(at)));
                    continue;
                }
                entry.tells_late = false;
                account.count_late(length, now - entry.begun);
                if let Some(promise) = &entry.promise {
                    self.late.borrow_mut().insert(*token);
                    promise.nudge();
                }
            }
        }
        next
    }

    /// Whether a read is late; said once.
    fn take_late(&self, token: u64) -> bool {
        let mut late = self.late.borrow_mut();
        !late.is_empty() && late.remove(&token)
    }

    /// The token the next I/O will get.
    pub fn next_token(&self) -> u64 {
        self.next_token.get()
    }

    /// Whether every I/O on `device` with a token below `token` has completed.
    pub fn is_settled(&self, device: DeviceId, token: u64) -> bool {
        let devices = self.devices.borrow();
        let oldest = devices.get(&device).and_then(|u| u.tokens.first());
        oldest.is_none_or(|oldest| *oldest >= token)
    }
}

/// What those get who wait for a device that is given up.
fn no_answer(token: u64) -> Completion {
    Completion {
        token,
        result: Err(IoError::TimedOut),
        buffer: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;

    #[test]
    fn nobody_waits_for_a_device_that_is_given_up() {
        let ex = Executor::default();
        let port = Rc::new(Port::new(&ex));
        let (hung, sound) = (DeviceId(1), DeviceId(2));
        let results = Rc::new(RefCell::new(Vec::new()));
        for device in [hung, sound] {
            let (port, results) = (port.clone(), results.clone());
            ex.spawn(async move {
                let flushed = port.flush(device).done().await;
                results.borrow_mut().push((device, flushed));
            });
        }
        ex.run();
        let tokens: Vec<u64> = core::iter::from_fn(|| port.next())
            .map(|io| io.token)
            .collect();
        port.give_up(hung);
        port.give_up(hung);
        ex.run();
        assert_eq!(*results.borrow(), [(hung, Err(IoError::TimedOut))]);
        let later = port.next_token();
        assert!(!port.is_settled(hung, later), "the kernel still has it");

        for token in tokens {
            let (result, buffer) = (Ok(()), None);
            port.complete(Completion {
                token,
                result,
                buffer,
            });
        }
        ex.run();
        assert_eq!(results.borrow()[1..], [(sound, Ok(()))]);
        assert!(port.is_settled(hung, later));
        assert!(port.flush(hung).promise.is_ready());
        assert!(port.next().is_none(), "nothing more is asked of it");
    }
}

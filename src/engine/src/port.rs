//! Where the engine's I/O leaves and its completions come back.

use crate::api::{Completion, DeviceId, Io, IoError, IoKind};
use crate::executor::{Executor, Promise, Signal};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use uraid_buffer::{Buf, BufMut};

struct Outstanding {
    device: DeviceId,
    promise: Promise<Completion>,
}

/// The queue of I/O to be started and the table of I/O in flight.
pub struct Port {
    executor: Executor,
    next_token: Cell<u64>,
    queue: RefCell<VecDeque<Io>>,
    outstanding: RefCell<HashMap<u64, Outstanding, FxBuildHasher>>,
    /// Tokens in flight by device, oldest first.
    by_device: RefCell<BTreeMap<DeviceId, BTreeSet<u64>>>,
    /// Devices that nobody waits for any longer; ids are never reused.
    given_up: RefCell<BTreeSet<DeviceId>>,
    /// Fired at each completion.
    pub settled: Signal,
}

/// An I/O that has been handed out.
pub struct Pending(Promise<Completion>);

impl Pending {
    /// Waits for success or error.
    pub async fn done(self) -> Result<(), IoError> {
        self.0.get().await.result
    }

    /// Waits for the completion, or for `gone` to hold, which is checked when `signal` fires. A
    /// device that hangs keeps its buffers, but not those who wait for it.
    pub async fn done_unless(
        self,
        executor: &Executor,
        signal: &Signal,
        gone: impl Fn() -> bool,
    ) -> Option<Completion> {
        executor.until(signal, || self.0.is_ready() || gone()).await;
        if self.0.is_ready() {
            Some(self.0.get().await)
        } else {
            None
        }
    }

    /// Waits for a read's buffer.
    pub async fn filled(self) -> Result<BufMut, IoError> {
        let completion = self.0.get().await;
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
            by_device: RefCell::default(),
            given_up: RefCell::default(),
            settled: Signal::default(),
        }
    }

    fn start(&self, device: DeviceId, kind: IoKind) -> Pending {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        let promise = self.executor.promise();
        if self.given_up.borrow().contains(&device) {
            promise.fulfil(no_answer(token));
            return Pending(promise);
        }
        let entry = Outstanding {
            device,
            promise: promise.clone(),
        };
        self.outstanding.borrow_mut().insert(token, entry);
        self.by_device
            .borrow_mut()
            .entry(device)
            .or_default()
            .insert(token);
        self.queue.borrow_mut().push_back(Io {
            token,
            device,
            kind,
        });
        Pending(promise)
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
        if let Some(tokens) = self.by_device.borrow_mut().get_mut(&entry.device) {
            tokens.remove(&completion.token);
        }
        if !self.given_up.borrow().contains(&entry.device) {
            entry.promise.fulfil(completion);
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
        let outstanding = self.outstanding.borrow();
        for token in self.by_device.borrow().get(&device).into_iter().flatten() {
            outstanding[token].promise.fulfil(no_answer(*token));
        }
    }

    /// The token the next I/O will get.
    pub fn next_token(&self) -> u64 {
        self.next_token.get()
    }

    /// Whether every I/O on `device` with a token below `token` has completed.
    pub fn is_settled(&self, device: DeviceId, token: u64) -> bool {
        let by_device = self.by_device.borrow();
        let oldest = by_device.get(&device).and_then(|tokens| tokens.first());
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
        assert!(port.flush(hung).0.is_ready());
        assert!(port.next().is_none(), "nothing more is asked of it");
    }
}

//! Calls on members that are memory (tmpfs). They take no longer than a copy, so they are made
//! here and now: a thread of the kernel's for each would cost more than the call. When there is
//! much to copy, threads of our own take a share of it.

use super::background::Background;
use super::bell::Bell;
use super::call::Call;
use super::workers::carry_out;
use super::{Done, Key};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// A call that is worth handing over: small ones cost as much to hand over as to make.
const LARGE_CALL_BYTES: usize = 32 << 10;

/// So many bytes of large calls are worth waking helpers for.
const SHARED_BYTES_MIN: usize = 256 << 10;

/// Batches that wait for a helper; what is more is made here.
const BATCHES_MAX: usize = 4;

type Calls = Vec<(Key, Call)>;

/// Calls on memory: some to be made, some with helpers.
pub(super) struct MemoryCalls {
    queued: Calls,
    queued_large_bytes: usize,
    helpers: Helpers,
    background: Background,
}

enum Helpers {
    /// So many when they are needed.
    Asleep(usize),
    Awake(Team),
}

/// Threads that take calls by the batch. Each file has one thread, or this one: two that write to
/// the same file at once would only wait for its lock.
struct Team {
    batches: Vec<Sender<Calls>>,
    results: Receiver<Vec<Done>>,
}

impl MemoryCalls {
    /// With so many helpers at most, and fewer where there are not as many cores.
    pub(super) fn new(helpers_max: usize) -> MemoryCalls {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        MemoryCalls {
            queued: Vec::new(),
            queued_large_bytes: 0,
            helpers: Helpers::Asleep((cores - 1).min(helpers_max)),
            background: Background::new(),
        }
    }

    pub(super) fn push(&mut self, key: Key, call: Call) {
        if is_large(&call) {
            self.queued_large_bytes += call.bytes();
        }
        self.queued.push((key, call));
    }

    /// Adds a call that nobody waits for.
    pub(super) fn push_background(&mut self, key: Key, call: Call) {
        self.background.push(key, call);
    }

    /// Whether there is something to be made that somebody may wait for.
    pub(super) fn has_foreground(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Whether there is something to be made that nobody waits for.
    pub(super) fn has_background(&self) -> bool {
        !self.background.is_empty()
    }

    /// Makes some of what nobody waits for. `served`: there was other work since the last time.
    pub(super) fn make_background(&mut self, served: bool, done: &mut Vec<Done>) {
        self.background.take_turn(served, make, done);
    }

    /// Time spent on calls in the background since it was last asked.
    pub(super) fn take_background_time(&mut self) -> Duration {
        self.background.take_time()
    }

    /// Makes what is queued, and takes what helpers have made.
    pub(super) fn make(&mut self, bell: &Arc<Bell>, done: &mut Vec<Done>) {
        if self.queued_large_bytes >= SHARED_BYTES_MIN {
            self.share(bell);
        }
        self.queued_large_bytes = 0;
        done.extend(self.queued.drain(..).map(make));
        self.take_results(done);
    }

    /// Takes what helpers have made.
    pub(super) fn take_results(&mut self, done: &mut Vec<Done>) {
        if let Helpers::Awake(team) = &self.helpers {
            done.extend(team.results.try_iter().flatten());
        }
    }

    /// Whether helpers have results that were not taken.
    pub(super) fn has_results(&self) -> bool {
        matches!(&self.helpers, Helpers::Awake(team) if !team.results.is_empty())
    }

    /// Gives helpers the large calls on their files.
    fn share(&mut self, bell: &Arc<Bell>) {
        if let Helpers::Asleep(count @ 1..) = self.helpers
            && let Some(team) = Team::start(count, bell)
        {
            self.helpers = Helpers::Awake(team);
        }
        if let Helpers::Awake(team) = &self.helpers {
            let hands = team.batches.len() as RawFd + 1;
            for (hand, batches) in (1..hands).zip(&team.batches) {
                let of_hand =
                    |(_, call): &mut (Key, Call)| call.fd() % hands == hand && is_large(call);
                let batch: Calls = self.queued.extract_if(.., of_hand).collect();
                if !batch.is_empty()
                    && let Err(refused) = batches.try_send(batch)
                {
                    self.queued.extend(refused.into_inner());
                }
            }
        }
    }
}

impl Team {
    /// None when the system gives no thread: then there is no help.
    fn start(count: usize, bell: &Arc<Bell>) -> Option<Team> {
        // As bounded as the batches under way.
        let (sender, results) = unbounded();
        let start_one = |_| {
            let (batches, queue) = bounded(BATCHES_MAX);
            let (sender, bell) = (sender.clone(), bell.clone());
            let work = move || help(&queue, &sender, &bell);
            let name = "member-memory".to_owned();
            thread::Builder::new().name(name).spawn(work).ok()?;
            Some(batches)
        };
        let batches = (0..count).map(start_one).collect::<Option<_>>()?;
        Some(Team { batches, results })
    }
}

/// Makes calls until the other end of the queue is gone.
fn help(queue: &Receiver<Calls>, results: &Sender<Vec<Done>>, bell: &Bell) {
    for batch in queue {
        let made = batch.into_iter().map(make).collect();
        if results.send(made).is_err() {
            return;
        }
        bell.ring_sleeper();
    }
}

fn is_large(call: &Call) -> bool {
    call.bytes() >= LARGE_CALL_BYTES
}

fn make((key, call): (Key, Call)) -> Done {
    let result = carry_out(call);
    Done { key, result }
}

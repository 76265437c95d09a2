//! A deterministic, single-threaded executor: protocols of several steps read top to bottom as
//! `async` functions, and the same inputs give the same schedule every time.
//!
//! Wakers are not used. Every leaf future here knows the executor, notes which task polled it,
//! and wakes that task by number; a spurious wake-up costs a poll and nothing else, because every
//! wait re-checks its condition.

use crate::api::Nanos;
use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct Inner {
    tasks: RefCell<Vec<Option<Task>>>,
    vacant: RefCell<Vec<usize>>,
    ready: RefCell<VecDeque<usize>>,
    queued: RefCell<Vec<bool>>,
    /// Tasks that nobody waits for.
    background: RefCell<Vec<bool>>,
    current: Cell<usize>,
    now: Cell<Nanos>,
    timers: RefCell<BTreeSet<(Nanos, usize)>>,
}

/// Handle on the executor; clones are the same one.
#[derive(Clone, Default)]
pub struct Executor(Rc<Inner>);

impl Executor {
    /// Starts a task; it first runs in the next [`Executor::run`].
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.0.tasks.borrow_mut();
        let id = self.0.vacant.borrow_mut().pop().unwrap_or_else(|| {
            tasks.push(None);
            self.0.queued.borrow_mut().push(false);
            self.0.background.borrow_mut().push(false);
            tasks.len() - 1
        });
        self.0.background.borrow_mut()[id] = false;
        tasks[id] = Some(Box::pin(future));
        drop(tasks);
        self.wake(id);
    }

    fn wake(&self, id: usize) {
        // A cleared executor knows no tasks; dropping them may still wake others.
        if let Some(queued) = self.0.queued.borrow_mut().get_mut(id)
            && !core::mem::replace(queued, true)
        {
            self.0.ready.borrow_mut().push_back(id);
        }
    }

    /// Runs until no task can move.
    pub fn run(&self) {
        while let Some(id) = self.next_ready() {
            self.0.queued.borrow_mut()[id] = false;
            let Some(mut task) = self.0.tasks.borrow_mut()[id].take() else {
                continue;
            };
            self.0.current.set(id);
            match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(()) => self.0.vacant.borrow_mut().push(id),
                Poll::Pending => self.0.tasks.borrow_mut()[id] = Some(task),
            }
        }
    }

    fn next_ready(&self) -> Option<usize> {
        self.0.ready.borrow_mut().pop_front()
    }

    /// Says of the task that runs whether anybody waits for it.
    pub fn set_background(&self, background: bool) {
        self.0.background.borrow_mut()[self.0.current.get()] = background;
    }

    /// Whether nobody waits for the task that runs.
    pub fn is_in_background(&self) -> bool {
        let background = self.0.background.borrow();
        background.get(self.0.current.get()) == Some(&true)
    }

    /// Drops all tasks; nothing runs any more.
    pub fn clear(&self) {
        let tasks = core::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        self.0.vacant.borrow_mut().clear();
        self.0.ready.borrow_mut().clear();
        self.0.queued.borrow_mut().clear();
    }

    /// The time the host last told.
    pub fn now(&self) -> Nanos {
        self.0.now.get()
    }

    /// Moves time forward and wakes the tasks whose time has come.
    pub fn advance(&self, now: Nanos) {
        assert!(now >= self.now(), "time runs backwards");
        self.0.now.set(now);
        loop {
            let due = self
                .0
                .timers
                .borrow()
                .first()
                .copied()
                .filter(|(at, _)| *at <= now);
            let Some(timer) = due else { break };
            self.0.timers.borrow_mut().remove(&timer);
            self.wake(timer.1);
        }
    }

    /// When [`Executor::advance`] must be called at the latest.
    pub fn deadline(&self) -> Option<Nanos> {
        self.0.timers.borrow().first().map(|(at, _)| *at)
    }

    /// Waits until `condition` holds; it is checked again whenever `signal` fires.
    pub async fn until(&self, signal: &Signal, mut condition: impl FnMut() -> bool) {
        poll_fn(|_| {
            if condition() {
                return Poll::Ready(());
            }
            signal.register(self.0.current.get());
            Poll::Pending
        })
        .await;
    }

    /// As [`Executor::until`], but not beyond `deadline`; tells whether the condition holds.
    pub async fn until_or(
        &self,
        deadline: Nanos,
        signal: &Signal,
        mut condition: impl FnMut() -> bool,
    ) -> bool {
        let held = poll_fn(|_| {
            if condition() {
                return Poll::Ready(true);
            }
            if self.now() >= deadline {
                return Poll::Ready(false);
            }
            signal.register(self.0.current.get());
            self.0
                .timers
                .borrow_mut()
                .insert((deadline, self.0.current.get()));
            Poll::Pending
        })
        .await;
        self.0
            .timers
            .borrow_mut()
            .remove(&(deadline, self.0.current.get()));
        held
    }

    /// Waits until `deadline`.
    pub async fn sleep_until(&self, deadline: Nanos) {
        poll_fn(|_| {
            if self.now() >= deadline {
                return Poll::Ready(());
            }
            self.0
                .timers
                .borrow_mut()
                .insert((deadline, self.0.current.get()));
            Poll::Pending
        })
        .await;
    }

    /// Lets the host do what has come up meanwhile: I/O, requests.
    pub async fn let_host_run(&self) {
        self.sleep_until(self.now() + 1).await;
    }

    /// Lets every other ready task run once.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|_| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            self.wake(self.0.current.get());
            Poll::Pending
        })
        .await;
    }

    /// Fires a signal: every task that waits on it checks its condition again.
    pub fn fire(&self, signal: &Signal) {
        for id in signal.waiting.take() {
            self.wake(id);
        }
    }

    /// A place for one value that another task will deliver.
    pub fn promise<T>(&self) -> Promise<T> {
        let inner = PromiseInner {
            value: RefCell::new(None),
            waiter: Cell::new(None),
        };
        Promise {
            executor: self.clone(),
            inner: Rc::new(inner),
        }
    }
}

/// Something tasks wait for. Fired with [`Executor::fire`].
#[derive(Default)]
pub struct Signal {
    waiting: RefCell<Vec<usize>>,
}

impl Signal {
    fn register(&self, task: usize) {
        self.waiting.borrow_mut().push(task);
    }
}

/// Runs futures side by side inside one task; the results in the order given.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures = futures.into_iter();
    let Some(first) = futures.next() else {
        return Vec::new();
    };
    // One alone needs no place of its own.
    let Some(second) = futures.next() else {
        return alloc::vec![first.await];
    };
    let all = [first, second].into_iter().chain(futures);
    let mut running: Vec<_> = all.map(|f| (Box::pin(f), None)).collect();
    poll_fn(|context| {
        let mut all_done = true;
        for (future, result) in &mut running {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => all_done = false,
                }
            }
        }
        if all_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    running
        .into_iter()
        .map(|(_, result)| result.expect("all are done"))
        .collect()
}

struct PromiseInner<T> {
    value: RefCell<Option<T>>,
    waiter: Cell<Option<usize>>,
}

/// A value that is delivered once and taken once.
pub struct Promise<T> {
    executor: Executor,
    inner: Rc<PromiseInner<T>>,
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Promise {
            executor: self.executor.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<T> Promise<T> {
    /// Delivers the value.
    pub fn fulfil(&self, value: T) {
        let before = self.inner.value.borrow_mut().replace(value);
        assert!(before.is_none(), "a promise is fulfilled once");
        if let Some(task) = self.inner.waiter.take() {
            self.executor.wake(task);
        }
    }

    /// Whether the value is there.
    #[cfg(test)]
    pub fn is_ready(&self) -> bool {
        self.inner.value.borrow().is_some()
    }

    /// Waits for the value.
    pub async fn get(&self) -> T {
        poll_fn(|_| self.poll()).await
    }

    /// The value, if it is there; else the task that asks is the one that waits for it.
    pub fn poll(&self) -> Poll<T> {
        match self.inner.value.borrow_mut().take() {
            Some(value) => Poll::Ready(value),
            None => {
                self.inner.waiter.set(Some(self.executor.0.current.get()));
                Poll::Pending
            }
        }
    }

    /// Has the task that waits look again, without a value.
    pub fn nudge(&self) {
        if let Some(task) = self.inner.waiter.take() {
            self.executor.wake(task);
        }
    }
}

/// Mutual exclusion between tasks, in the order in which they ask: whoever has had the lock has
/// also waited for all who asked before.
#[derive(Default)]
pub struct Lock {
    next: Cell<u64>,
    /// Who holds it, and who waits for it.
    queue: RefCell<VecDeque<u64>>,
    freed: Signal,
}

/// Holds a [`Lock`] until dropped, or a place in its queue.
pub struct LockGuard<'a> {
    lock: &'a Lock,
    executor: Executor,
    ticket: u64,
}

impl Lock {
    /// Waits for the lock.
    pub async fn lock(&self, executor: &Executor) -> LockGuard<'_> {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        self.queue.borrow_mut().push_back(ticket);
        let guard = LockGuard {
            lock: self,
            executor: executor.clone(),
            ticket,
        };
        let first = || self.queue.borrow().front() == Some(&ticket);
        executor.until(&self.freed, first).await;
        guard
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        self.lock.queue.borrow_mut().retain(|t| *t != self.ticket);
        self.executor.fire(&self.lock.freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_wait_for_promises_timers_and_locks() {
        let ex = Executor::default();
        let log = Rc::new(RefCell::new(Vec::new()));
        let (promise, lock) = (ex.promise(), Rc::new(Lock::default()));
        for name in ["a", "b"] {
            let (ex2, log, promise, lock) =
                (ex.clone(), log.clone(), promise.clone(), lock.clone());
            ex.spawn(async move {
                let _held = lock.lock(&ex2).await;
                if name == "a" {
                    let got = promise.get().await;
                    log.borrow_mut().push(got);
                }
                let at = ex2.now() + 10;
                ex2.sleep_until(at).await;
                log.borrow_mut().push(name);
            });
        }
        ex.run();
        assert!(log.borrow().is_empty());
        promise.fulfil("x");
        ex.run();
        assert_eq!(ex.deadline(), Some(10));
        ex.advance(10);
        ex.run();
        assert_eq!(*log.borrow(), ["x", "a"]);
        ex.advance(20);
        ex.run();
        assert_eq!(*log.borrow(), ["x", "a", "b"]);
        assert_eq!(ex.deadline(), None);
    }

    #[test]
    fn work_in_the_background_ends_with_its_task() {
        let ex = Executor::default();
        let seen = Rc::new(RefCell::new(Vec::new()));
        for background in [true, false] {
            let (ex2, seen) = (ex.clone(), seen.clone());
            ex.spawn(async move {
                seen.borrow_mut().push(ex2.is_in_background());
                ex2.set_background(background);
                ex2.yield_now().await;
                seen.borrow_mut().push(ex2.is_in_background());
            });
        }
        ex.run();
        let (ex2, seen2) = (ex.clone(), seen.clone());
        ex.spawn(async move { seen2.borrow_mut().push(ex2.is_in_background()) });
        ex.run();
        assert_eq!(*seen.borrow(), [false, false, true, false, false]);
    }

    #[test]
    fn whoever_asks_again_for_a_lock_is_the_last_to_get_it() {
        let ex = Executor::default();
        let log = Rc::new(RefCell::new(Vec::new()));
        let lock = Rc::new(Lock::default());
        for name in ["a", "b", "c"] {
            let (ex2, log, lock) = (ex.clone(), log.clone(), lock.clone());
            ex.spawn(async move {
                for _ in 0..2 {
                    let _held = lock.lock(&ex2).await;
                    log.borrow_mut().push(name);
                    ex2.yield_now().await;
                }
            });
        }
        ex.run();
        assert_eq!(*log.borrow(), ["a", "b", "c", "a", "b", "c"]);
    }
}

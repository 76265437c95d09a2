//! Stripes with work on them: queued writes, and locks on what is in place.
//!
//! Writes to one stripe are taken in order by one task at a time (see [`crate::write`]). The
//! *place lock* is another matter: whoever changes a stripe's blocks in place (destage, rebuild,
//! repair) holds it alone, whoever must be sure that what is in place stands still shares it.
//! A journalled write needs neither, it changes nothing in place.

use crate::array::Array;
use crate::executor::Signal;
use crate::write::Piece;
use alloc::collections::VecDeque;
use core::cell::RefCell;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use uraid_core::geometry::Stripe;

/// Work on one stripe.
#[derive(Default)]
pub struct StripeWork {
    /// Writes not yet begun.
    pub queue: VecDeque<Piece>,
    /// Whether a task is taking them.
    pub working: bool,
    alone: bool,
    shared: u32,
}

impl StripeWork {
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.working && !self.alone && self.shared == 0
    }
}

/// All stripes with work on them.
#[derive(Default)]
pub struct Stripes {
    work: RefCell<HashMap<Stripe, StripeWork, FxBuildHasher>>,
    unlocked: Signal,
}

/// A held place lock.
pub struct PlaceGuard<'a> {
    array: &'a Array,
    stripe: Stripe,
    alone: bool,
}

impl Stripes {
    /// Looks at or changes a stripe's work; forgotten again when nothing is left.
    pub fn with<T>(&self, stripe: Stripe, f: impl FnOnce(&mut StripeWork) -> T) -> T {
        let mut work = self.work.borrow_mut();
        let entry = work.entry(stripe).or_default();
        let result = f(entry);
        if entry.is_idle() {
            work.remove(&stripe);
        }
        result
    }

    /// Whether writes to a stripe are under way or wait.
    pub fn is_being_written(&self, stripe: Stripe) -> bool {
        let work = self.work.borrow();
        let writes = |w: &StripeWork| w.working || !w.queue.is_empty();
        work.get(&stripe).is_some_and(writes)
    }
}

impl Array {
    /// Waits until nobody else changes or relies on what is in place.
    pub async fn lock_place(&self, stripe: Stripe) -> PlaceGuard<'_> {
        self.take_place(stripe, true).await
    }

    /// Waits until nobody changes what is in place.
    pub async fn share_place(&self, stripe: Stripe) -> PlaceGuard<'_> {
        self.take_place(stripe, false).await
    }

    async fn take_place(&self, stripe: Stripe, alone: bool) -> PlaceGuard<'_> {
        let try_lock = || {
            self.stripes.with(stripe, |w| {
                let free = !w.alone && (!alone || w.shared == 0);
                match (free, alone) {
                    (true, true) => w.alone = true,
                    (true, false) => w.shared += 1,
                    (false, _) => {}
                }
                free
            })
        };
        self.ex.until(&self.stripes.unlocked, try_lock).await;
        PlaceGuard {
            array: self,
            stripe,
            alone,
        }
    }
}

impl Drop for PlaceGuard<'_> {
    fn drop(&mut self) {
        self.array.stripes.with(self.stripe, |w| match self.alone {
            true => w.alone = false,
            false => w.shared -= 1,
        });
        self.array.ex.fire(&self.array.stripes.unlocked);
    }
}

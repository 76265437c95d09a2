//! SIGINT, SIGTERM and SIGHUP: everything that was made is removed before the command ends.

use crate::failure::{Doing, Failure};
use nix::sys::signal::{SigSet, Signal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody wants this to end.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on such signals are noted instead of ending the process. Call it before any other
    /// thread is started; processes that are started get their signals as usual.
    pub fn catch() -> Result<Interrupt, Failure> {
        let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let set: SigSet = signals.into_iter().collect();
        set.thread_block().doing(|| "block signals".to_string())?;
        let interrupt = Interrupt(Arc::new(AtomicBool::new(false)));
        let noted = interrupt.clone();
        std::thread::spawn(move || {
            if set.wait().is_ok() {
                noted.0.store(true, Ordering::Relaxed);
            }
        });
        Ok(interrupt)
    }

    /// An error if there was a signal.
    pub fn check(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Failure::failed("interrupted; what was made is removed"));
        }
        Ok(())
    }
}

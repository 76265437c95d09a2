//! Signals that end the screen: the terminal is put in order first, and then they have their way.

use crate::failure::{Doing, Failure};
use nix::sys::signal::{SigSet, Signal, raise};
use std::sync::{Arc, OnceLock};
use std::thread;

/// Signals that are waited for.
pub struct Ends {
    set: SigSet,
    came: Arc<OnceLock<Signal>>,
}

impl Ends {
    /// Waits for SIGTERM, SIGINT and SIGHUP, on a thread of its own. They are blocked for this thread
    /// and for all it starts from now on.
    pub fn wait_for() -> Result<Ends, Failure> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
            .into_iter()
            .collect();
        set.thread_block().doing(|| "block signals".to_string())?;
        let came = Arc::new(OnceLock::new());
        let first = came.clone();
        let wait = move || {
            if let Ok(signal) = set.wait() {
                let _ = first.set(signal);
            }
        };
        let thread = thread::Builder::new().name("uraid-signals".to_string());
        thread.spawn(wait).doing(|| "start a thread".to_string())?;
        Ok(Ends { set, came })
    }

    /// Whether one came.
    pub fn has_come(&self) -> bool {
        self.came.get().is_some()
    }

    /// Ends the process by the signal that came, as if nobody had waited for it, so that whoever sent
    /// it sees that; does nothing if none came.
    pub fn have_their_way(&self) -> Result<(), Failure> {
        if let Some(signal) = self.came.get() {
            let what = || format!("end by {signal}");
            raise(*signal).doing(what)?;
            self.set.thread_unblock().doing(what)?;
        }
        Ok(())
    }
}

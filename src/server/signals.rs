//! Signals that end a server, taken by a thread instead of a handler.

use super::log;
use crate::failure::{Doing, Failure};
use nix::sys::signal::{SigSet, Signal};

/// Signals that are blocked and wait to be forwarded.
pub struct Blocked {
    set: SigSet,
}

/// Blocks SIGTERM, SIGINT and SIGHUP for this thread and all it starts from now on.
pub fn block() -> Result<Blocked, Failure> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    set.thread_block().doing(|| "block signals".to_string())?;
    Ok(Blocked { set })
}

impl Blocked {
    /// From now on a signal calls `stop`, which asks all data threads to stop. A second one, or
    /// one that cannot be passed on, ends the process at once: no answered write is lost by that,
    /// it only makes the next start a recovery.
    pub fn forward_to(
        self,
        stop: impl Fn() -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let forward = move || {
            let mut signals = 0;
            while let Ok(signal) = self.set.wait() {
                log::info(&format!("got {signal}"));
                signals += 1;
                if signals > 1 || stop().is_err() {
                    log::warning("ending at once; the next start recovers");
                    std::process::exit(1);
                }
            }
        };
        std::thread::Builder::new()
            .name("uraid-signals".to_string())
            .spawn(forward)
            .map(drop)
            .doing(|| "start a thread".to_string())
    }
}

//! Signals that end or upgrade a server, taken by a thread instead of a handler.

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
    /// From now on SIGHUP calls `upgrade`, on a thread of its own, and any other signal `stop`,
    /// which asks all data threads to stop. A second one of those, or one that cannot be passed
    /// on, ends the process at once: no answered write is lost by that, it only makes the next
    /// start a recovery.
    pub fn forward_to(
        self,
        stop: impl Fn() -> Result<(), Failure> + Send + 'static,
        upgrade: impl Fn() -> Result<String, Failure> + Clone + Send + 'static,
    ) -> Result<(), Failure> {
        let forward = move || {
            let mut ends = 0;
            while let Ok(signal) = self.set.wait() {
                log::info(&format!("got {signal}"));
                if signal == Signal::SIGHUP {
                    let upgrade = upgrade.clone();
                    let _ = start("uraid-upgrade", move || report(upgrade()));
                    continue;
                }
                ends += 1;
                if ends > 1 || stop().is_err() {
                    log::warning("ending at once; the next start recovers");
                    std::process::exit(1);
                }
            }
        };
        start("uraid-signals", forward)
    }
}

fn report(upgrade: Result<String, Failure>) {
    match upgrade {
        Ok(text) => log::info(&text),
        Err(failure) => log::warning(&format!("no upgrade: {failure}")),
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    std::thread::Builder::new()
        .name(name.to_string())
        .spawn(work)
        .map(drop)
        .doing(|| "start a thread".to_string())
}

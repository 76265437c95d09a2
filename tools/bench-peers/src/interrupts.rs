//! Signals that ask for an end: mounts and loop devices must not outlive the program.

use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals held back until somebody looks.
pub struct Interrupts(SignalFd);

impl Interrupts {
    /// Holds signals back from now on, also from threads and programs that are started later: to
    /// be called before there are any.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn hold_back() -> Result<Interrupts, String> {
        let signals: SigSet = [SIGHUP, SIGINT, SIGTERM].into_iter().collect();
        let error = |e| format!("holding signals back: {e}");
        signals.thread_block().map_err(error)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&signals, flags).map_err(error)?;
        Ok(Interrupts(fd))
    }

    /// # Errors
    /// If a signal has come.
    pub fn check(&self) -> Result<(), String> {
        match self.0.read_signal() {
            Ok(Some(info)) => {
                let signal = Signal::try_from(info.ssi_signo as i32);
                let name = signal.map_or("a signal", Signal::as_str);
                Err(format!("ended by {name}"))
            }
            Ok(None) => Ok(()),
            Err(error) => Err(format!("looking for signals: {error}")),
        }
    }
}

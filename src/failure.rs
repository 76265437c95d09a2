//! How a command of `uraid` ends when it does not end well: a sentence and an exit code.

use std::fmt;

/// What the exit code of the process says; documented in `uraid --help`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It was tried and did not work: an I/O error, a member too small, no server.
    Failed = 1,
    /// What was typed makes no sense: malformed arguments, numbers out of bounds.
    Usage = 2,
    /// `status` only: the array serves everything but is degraded or rebuilding.
    Degraded = 3,
    /// It was not tried, because data could be lost.
    Refused = 4,
}

impl Exit {
    /// The number for the shell.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of a number that came over the control socket; unknown ones mean failed.
    pub fn from_code(code: u8) -> Exit {
        match code {
            2 => Exit::Usage,
            3 => Exit::Degraded,
            4 => Exit::Refused,
            _ => Exit::Failed,
        }
    }
}

/// Why a command did not do what was asked: what, where, and what to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// For the shell.
    pub exit: Exit,
    /// For people; no trailing newline.
    pub message: String,
}

impl Failure {
    /// It was tried and did not work.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Failed,
            message: message.into(),
        }
    }

    /// What was asked for makes no sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Usage,
            message: message.into(),
        }
    }

    /// Not tried, for safety.
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Refused,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<uraid_tls::SetupError> for Failure {
    fn from(error: uraid_tls::SetupError) -> Failure {
        match error {
            uraid_tls::SetupError::Failed(message) => Failure::failed(message),
            uraid_tls::SetupError::Refused(message) => Failure::refused(message),
        }
    }
}

/// Adds to an operating system's error what was being done, and turns it into exit code 1.
pub trait Doing<T> {
    /// `what` completes the sentence "cannot ...".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::failed(format!("cannot {}: {error}", what())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let documented = [
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::Degraded, 3),
            (Exit::Refused, 4),
        ];
        for (exit, code) in documented {
            assert_eq!(exit.code(), code);
            assert_eq!(Exit::from_code(code), exit);
        }
        assert_eq!(Exit::from_code(77), Exit::Failed);
    }

    #[test]
    fn a_system_error_says_what_was_being_done() {
        let result: Result<(), _> = Err(std::io::Error::from_raw_os_error(13));
        let failure = result.doing(|| "open /dev/sdx".to_string()).unwrap_err();
        assert_eq!(
            failure.message,
            "cannot open /dev/sdx: Permission denied (os error 13)"
        );
        assert_eq!(failure.exit, Exit::Failed);
    }
}

//! Arrays of a server that cannot be served, and what that means for the others.

use super::log;
use crate::failure::{Exit, Failure};

/// An array that was to be served, and is not.
pub struct NotServed {
    /// Its name.
    pub name: String,
    /// Why not.
    pub failure: Failure,
}

/// What becomes of arrays that cannot be served.
pub struct Failures {
    /// There is one array: what fails it fails the server.
    pub alone: bool,
    /// Those that could not be served.
    pub failed: Vec<NotServed>,
}

impl Failures {
    /// Of so many arrays none has failed yet.
    pub fn of(arrays: usize) -> Failures {
        Failures {
            alone: arrays == 1,
            failed: Vec::new(),
        }
    }

    /// `name` cannot be served; the others go on.
    pub fn add(&mut self, name: String, failure: Failure) -> Result<(), Failure> {
        if self.alone {
            return Err(failure);
        }
        log::warning(&format!("{name} is not served: {failure}"));
        self.failed.push(NotServed { name, failure });
        Ok(())
    }

    /// Fails if nothing is `left`: refused if all were refused.
    pub fn check(&self, left: usize) -> Result<(), Failure> {
        if left > 0 {
            return Ok(());
        }
        let refused = |failed: &NotServed| failed.failure.exit == Exit::Refused;
        let exit = match self.failed.iter().all(refused) {
            true => Exit::Refused,
            false => Exit::Failed,
        };
        let names: Vec<_> = self.failed.iter().map(|f| f.name.as_str()).collect();
        Err(Failure {
            exit,
            message: format!("none of {} can be served; see above", names.join(", ")),
        })
    }
}

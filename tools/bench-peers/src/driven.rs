//! What the measurement needs of a target, whatever it is.

use crate::loads::Work;
use std::path::Path;
use std::process::Command;
use uraid_load::{Drive, Limit};

/// A target that is up.
pub trait Driven: Send {
    /// Writes all of it once.
    ///
    /// # Errors
    /// Of the target.
    fn fill(&mut self) -> Result<(), String>;

    /// Puts a load on it. What was written is given to the members before this returns, though
    /// not within the time that is measured.
    ///
    /// # Errors
    /// Of the target.
    fn drive(&mut self, work: &Work, limit: Limit) -> Result<Drive, String>;

    /// CPU time of the server that carries out this load, in seconds; none where it is the
    /// kernel that does.
    ///
    /// # Errors
    /// When the server has ended.
    fn cpu_seconds(&mut self, work: &Work) -> Result<Option<f64>, String>;

    /// Whether it goes on working for a while after it was written to.
    fn has_afterwork(&self) -> bool {
        false
    }

    /// Waits until it does nothing more by itself.
    ///
    /// # Errors
    /// When that does not happen.
    fn settle(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Whether it must be written to once more until its journal has been used so often; none
    /// where there is no journal.
    ///
    /// # Errors
    /// Of the target.
    fn journal_uses(&mut self) -> Result<Option<f64>, String> {
        Ok(None)
    }
}

/// A target that could be started, or why it cannot be measured here.
pub type Started = Result<Box<dyn Driven>, Absence>;

/// Why a target is not there.
pub enum Absence {
    /// It cannot be had on this machine: reported, and left out.
    Skipped(String),
    /// It should have worked.
    Failed(String),
}

impl From<String> for Absence {
    fn from(text: String) -> Absence {
        Absence::Failed(text)
    }
}

/// Whether a program is installed; if not, who needs it is skipped.
pub fn need(program: &str) -> Result<(), Absence> {
    match Command::new(program).arg("--version").output() {
        Ok(_) => Ok(()),
        Err(_) => Err(Absence::Skipped(format!("{program} is not installed"))),
    }
}

/// A file of so many zero bytes that take up no room yet.
pub fn sparse(path: &Path, bytes: u64) -> Result<(), String> {
    let made = std::fs::File::create(path).and_then(|f| f.set_len(bytes));
    made.map_err(|e| format!("{}: {e}", path.display()))
}

/// Runs a command to its end and returns what it printed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output();
    let output = output.map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}:\n{said}", output.status))
}

//! What to play so that a broken rule of the engine shows soon.

pub use uraid_engine::mutants::{Mutant, activate};

use crate::scenario::Limits;

/// Seeds within which each must be noticed.
pub const SEEDS_MAX: u64 = 200;

/// What is played against a mutant.
pub fn limits_for(_: Mutant) -> Limits {
    Limits::default()
}

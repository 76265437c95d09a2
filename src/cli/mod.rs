//! What people type.

pub mod args;
pub mod sizes;

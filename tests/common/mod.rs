//! What the integration tests share: a sandbox with its own home, arrays of member files in it,
//! servers that cannot outlive their test, and the clients that talk to them.
//!
//! The tests know the program from outside only: its command line, its JSON, its sockets.

// Every test target compiles this module for itself and uses its own part of it.
#![allow(dead_code, unused_imports)]

pub mod array;
pub mod client;
pub mod damage;
pub mod filesystem;
pub mod ledger;
pub mod manager;
pub mod pattern;
pub mod places;
pub mod sandbox;
pub mod server;
pub mod speaker;
pub mod tools;
pub mod volatile;

pub use array::Array;
pub use sandbox::{Ran, Sandbox};
pub use server::{Server, tank};

use std::time::{Duration, Instant};

/// Exit codes as the manual states them.
pub const FAILED: i32 = 1;
pub const USAGE: i32 = 2;
pub const DEGRADED: i32 = 3;
pub const REFUSED: i32 = 4;

/// Kibibytes, mebibytes and gibibytes in bytes.
pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// How long anything may take that should take seconds: generous, so that a busy machine does
/// not fail a test, and finite, so that a hang does.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Polls `probe` until it returns something; panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the test, saying why it could not run, in the form that `scripts/test` counts.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        let test = std::thread::current().name().unwrap_or("a test").to_string();
        println!("SKIPPED: {test}: {}", format_args!($($reason)*));
        return;
    }};
}

/// Skips the test unless every program named is installed.
#[macro_export]
macro_rules! need {
    ($($program:expr),+ $(,)?) => {
        $(if !$crate::common::tools::installed($program) {
            $crate::skip!("{} is not installed (scripts/install-deps installs it)", $program);
        })+
    };
}

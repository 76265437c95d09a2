//! What every tool that measures has in common around its own options.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

/// The program to measure: this one, or `uraid` beside the tool.
pub fn find_uraid(given: Option<PathBuf>) -> Result<PathBuf, String> {
    let beside = || {
        let own = std::env::current_exe().ok()?;
        Some(own.with_file_name("uraid"))
    };
    let binary = given.or_else(beside).unwrap_or_default();
    binary.canonicalize().map_err(|e| {
        let path = binary.display();
        format!("{path}: {e}; build it (cargo build --release -p uraid) or use --binary")
    })
}

/// Reads a number of seconds within bounds.
pub fn parse_seconds(text: &str, allowed: RangeInclusive<f64>) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok();
    let sensible = seconds.filter(|s| allowed.contains(s));
    sensible.ok_or_else(|| {
        let (min, max) = allowed.into_inner();
        format!("a number of seconds from {min} to {max}")
    })
}

/// How a tool ends: with the code that it has chosen, or saying what failed.
pub fn exit(result: Result<ExitCode, String>) -> ExitCode {
    result.unwrap_or_else(|text| {
        eprintln!("error: {text}");
        ExitCode::FAILURE
    })
}

/// A failure of a client's request, in words.
pub fn of_client(error: io::Error) -> String {
    format!("a request failed: {error}")
}

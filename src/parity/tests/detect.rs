//! The environment variable that lowers the level, seen from a process of its own.

use std::process::Command;
use uraid_parity::{Kernels, Level};

const PREFIX: &str = "detected level: ";

#[test]
#[ignore = "no check by itself: the child process of the test below"]
fn prints_the_detected_level() {
    println!("{PREFIX}{}", Kernels::detect().level());
}

/// The level that a process with this value of the variable detects.
fn detected_with(value: Option<&str>) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args([
            "--exact",
            "prints_the_detected_level",
            "--ignored",
            "--nocapture",
        ])
        .env_remove("URAID_SIMD");
    if let Some(value) = value {
        child.env("URAID_SIMD", value);
    }
    let output = String::from_utf8(child.output().unwrap().stdout).unwrap();
    let (_, rest) = output
        .split_once(PREFIX)
        .expect("the child prints its level");
    rest.lines().next().unwrap().to_owned()
}

#[test]
fn the_environment_lowers_the_level() {
    for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
        assert_eq!(detected_with(Some(level.name())), level.name());
    }
    let best = Level::ALL
        .into_iter()
        .rfind(|level| level.is_available())
        .unwrap();
    assert_eq!(detected_with(None), best.name());
    assert_eq!(detected_with(Some("mmx")), best.name());
}

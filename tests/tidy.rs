//! The house rules, as tests over the sources: what must be pure is pure, arrows go down only,
//! `unsafe` stays where it is allowed, files stay readable, nothing is left half done.

use std::fs;
use std::path::{Path, PathBuf};

/// Crates under `src/`, from the bottom up, and which of them each may import.
const IMPORTS: [(&str, &[&str]); 10] = [
    ("buffer", &[]),
    ("parity", &["buffer"]),
    ("core", &["buffer", "parity"]),
    ("engine", &["buffer", "parity", "core"]),
    ("plan", &["core"]),
    ("nbd", &["buffer"]),
    ("load", &["nbd"]),
    ("io", &["buffer", "parity", "core", "engine"]),
    ("sim", &["buffer", "parity", "core", "engine"]),
    ("tls", &[]),
];

/// Crates that know no clock, file, socket or thread.
const PURE: [&str; 3] = ["core", "engine", "nbd"];

/// Crates that may contain `unsafe`: memory, system calls, vector instructions.
const UNSAFE_ALLOWED: [&str; 3] = ["buffer", "io", "parity"];

/// Beside those crates: a C library that benches compare with is called, by nothing that ships.
const UNSAFE_IN_BENCHES: &str = "benches/isal/";

/// Longest file, in lines before its tests.
const LINES_MAX: usize = 500;

/// Longest file that holds nothing but tests: they are read one by one.
const TEST_LINES_MAX: usize = 1000;

/// Files that are longer, and how long: a ratchet, to be turned down only.
const LONGER: [(&str, usize); 0] = [];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files below `directory` whose name ends so.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root().join(directory)];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// All Rust sources: the program, its crates, the tests.
fn sources() -> Vec<PathBuf> {
    let found: Vec<_> = ["src", "tests", "benches"]
        .iter()
        .flat_map(|d| files(d, ".rs"))
        .collect();
    assert!(
        found.len() > 30,
        "the sources have moved: {} files found",
        found.len()
    );
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root())
        .expect("below the root")
        .to_string_lossy()
        .into_owned()
}

/// The part of a source file before its tests, which stand at its end.
fn before_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ")
        .map_or(text, |at| &text[..at])
}

/// Whether a file holds nothing but tests.
fn is_tests(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.split('/').any(|part| part == "tests")
}

/// A line without its comment: rules about code do not apply to prose.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Lines of the sources for which `offends` is true, as `file:line: text`.
fn offences(paths: &[PathBuf], offends: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths {
        for (i, line) in read(path)
            .lines()
            .enumerate()
            .filter(|(_, line)| offends(line))
        {
            found.push(format!("{}:{}: {}", name(path), i + 1, line.trim()));
        }
    }
    found
}

fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn pure_crates_have_no_std_and_no_unsafe() {
    for package in PURE {
        let text = read(&root().join(format!("src/{package}/src/lib.rs")));
        assert!(text.contains("#![no_std]"), "{package} is not no_std");
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{package} does not forbid unsafe"
        );
        let with_std = |line: &str| code_of(line).trim() == "extern crate std;";
        let lib = offences(&files(&format!("src/{package}/src"), ".rs"), with_std);
        let ungated: Vec<String> = lib
            .into_iter()
            .filter(|_| !text.contains("#[cfg(test)]\nextern crate std;"))
            .collect();
        assert_none(&ungated, "std comes into a pure crate outside its tests");
    }
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let found = fs::read_dir(root().join("src")).expect("src").flatten();
    let found = found
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .count();
    assert_eq!(
        found,
        IMPORTS.len(),
        "a crate is missing from this test's list"
    );
    for (package, allowed) in IMPORTS {
        let manifest = read(&root().join(format!("src/{package}/Cargo.toml")));
        let section = manifest
            .split("\n[dependencies]")
            .nth(1)
            .expect("a dependencies section");
        let section = section.split("\n[").next().expect("a section");
        for line in section.lines().filter(|line| line.starts_with("uraid-")) {
            let imported = line["uraid-".len()..]
                .split(['.', ' ', '='])
                .next()
                .expect("a name");
            assert!(
                allowed.contains(&imported),
                "{package} must not import {imported}"
            );
        }
    }
}

#[test]
fn pure_crates_depend_on_nothing_that_touches_the_system() {
    const SYSTEM: [&str; 8] = [
        "nix",
        "libc",
        "io-uring",
        "tokio",
        "axum",
        "memmap2",
        "crossbeam",
        "tempfile",
    ];
    for package in PURE {
        let manifest = read(&root().join(format!("src/{package}/Cargo.toml")));
        let section = manifest
            .split("\n[dependencies]")
            .nth(1)
            .expect("a dependencies section");
        let section = section.split("\n[").next().expect("a section");
        for line in section.lines() {
            let imported = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(
                !SYSTEM.contains(&imported),
                "{package} must not depend on {imported}"
            );
        }
    }
}

/// What is decided never hangs on a clock that an operator or a time server may set; only
/// certificates and pages of the manual have dates, and events a time for people to read.
#[test]
fn only_certificates_events_and_the_manual_know_the_time_of_day() {
    let places = [
        "src/tls/",
        "src/server/clock.rs",
        "src/cli/generate/manual.rs",
    ];
    let may = |name: &str| places.iter().any(|place| name.starts_with(place));
    let ships = |path: &PathBuf| {
        let name = name(path);
        name.starts_with("src/") && !may(&name) && !name.contains("/tests/")
    };
    let shipped: Vec<PathBuf> = sources().into_iter().filter(ships).collect();
    let clocks = ["SystemTime", "CLOCK_REALTIME", "UNIX_EPOCH", "now_utc"];
    let offends = |line: &str| clocks.iter().any(|clock| code_of(line).contains(clock));
    assert_none(&offences(&shipped, offends), "clocks that jump");
}

#[test]
fn unsafe_stays_in_the_crates_that_may_have_it() {
    let allowed = |path: &Path| {
        unsafe_places()
            .iter()
            .any(|place| name(path).starts_with(place))
    };
    let elsewhere: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|path| !allowed(path))
        .collect();
    let blocks = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    let offends = |line: &str| {
        let code = code_of(line);
        !code.contains('"') && blocks.iter().any(|block| code.contains(block))
    };
    assert_none(
        &offences(&elsewhere, offends),
        "unsafe outside buffer, io and parity",
    );
}

/// Directories whose sources may contain `unsafe`.
fn unsafe_places() -> Vec<String> {
    let crates = UNSAFE_ALLOWED.iter().map(|name| format!("src/{name}/"));
    crates.chain([UNSAFE_IN_BENCHES.to_string()]).collect()
}

#[test]
fn unsafe_blocks_say_why_they_are_sound() {
    let mut silent = Vec::new();
    for path in unsafe_places().iter().flat_map(|place| files(place, ".rs")) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let begins = ["unsafe {", "unsafe impl"]
                .iter()
                .any(|b| code_of(line).contains(b));
            if begins && !is_explained(&lines[..=i]) {
                silent.push(format!("{}:{}: {}", name(&path), i + 1, line.trim()));
            }
        }
    }
    assert_none(&silent, "unsafe without a SAFETY line directly above");
}

/// Whether the comment above the statement that ends `lines` contains a SAFETY line.
fn is_explained(lines: &[&str]) -> bool {
    const STATEMENT_LINES_MAX: usize = 3; // `let x =` and attributes may stand between
    let above = lines.iter().rev().skip(1);
    let mut code_lines = 0;
    for line in above {
        let line = line.trim();
        if line.starts_with("// SAFETY:") {
            return true;
        }
        if !line.starts_with("//") {
            code_lines += 1;
        }
        if code_lines > STATEMENT_LINES_MAX {
            return false;
        }
    }
    false
}

#[test]
fn files_are_short_enough_to_read() {
    let mut long = Vec::new();
    for path in sources() {
        let name = name(&path);
        let text = read(&path);
        let lines = before_tests(&text).lines().count();
        let listed = LONGER
            .iter()
            .find(|(file, _)| *file == name)
            .map(|(_, max)| *max);
        let default = if is_tests(&name) {
            TEST_LINES_MAX
        } else {
            LINES_MAX
        };
        let max = listed.unwrap_or(default);
        if lines > max {
            long.push(format!("{name}: {lines} lines, at most {max}"));
        }
    }
    assert_none(&long, "split these by subject");
}

#[test]
fn the_list_of_longer_files_is_no_longer_than_needed() {
    for (file, max) in LONGER {
        let text = read(&root().join(file));
        let lines = before_tests(&text).lines().count();
        assert!(
            lines > LINES_MAX,
            "{file} has {lines} lines: take it off the list"
        );
        assert!(
            lines + 50 > max,
            "{file} has {lines} lines: turn the ratchet down from {max}"
        );
    }
}

#[test]
fn nothing_is_left_half_done() {
    // Put together here, so that this file does not offend.
    let words = [
        "TO DO",
        "FIX ME",
        "XX X",
        "to do!(",
        "un implemented!(",
        "db g!(",
    ];
    let words = words.map(|word| word.replace(' ', ""));
    let offends = |line: &str| words.iter().any(|word| line.contains(word.as_str()));
    assert_none(&offences(&sources(), offends), "finish it or take it out");
}

#[test]
fn no_file_speaks_of_the_machine_it_was_written_on() {
    let words = ["/wo rk/", "/ho me/", "/ro ot/"].map(|word| word.replace(' ', ""));
    let mut paths = sources();
    for (directory, ending) in [
        ("docs", ".md"),
        ("scripts", ""),
        ("packaging", ""),
        (".ci", ""),
    ] {
        paths.extend(files(directory, ending));
    }
    paths.push(root().join("README.md"));
    let offends = |line: &str| words.iter().any(|word| line.contains(word.as_str()));
    assert_none(&offences(&paths, offends), "a path of one machine");
}

#[test]
fn every_source_file_begins_with_what_it_is_about() {
    let begins = |path: &PathBuf| {
        let text = read(path);
        text.starts_with("//!") || text.starts_with("#![")
    };
    let silent: Vec<String> = sources()
        .iter()
        .filter(|p| !begins(p))
        .map(|p| name(p))
        .collect();
    assert_none(&silent, "no module documentation at the top");
}

#[test]
fn every_test_file_is_in_a_list_of_the_test_command() {
    let script = read(&root().join("scripts/test"));
    let lists: Vec<&str> = script
        .lines()
        .filter(|line| line.contains("_targets=("))
        .collect();
    let listed = |path: &PathBuf| {
        let stem = path.file_stem().expect("a file").to_string_lossy();
        let mut words = lists.iter().flat_map(|line| line.split(['(', ')', ' ']));
        words.any(|word| word == stem)
    };
    let forgotten: Vec<String> = files("tests", ".rs")
        .iter()
        .filter(|p| p.parent() == Some(&root().join("tests")) && !listed(p))
        .map(|p| name(p))
        .collect();
    assert_none(&forgotten, "scripts/test does not run");
}

#[test]
fn random_tests_can_be_replayed() {
    // Whoever takes a seed from the clock prints it; the two helpers that do so print it.
    let clocked = |line: &str| code_of(line).contains("UNIX_EPOCH");
    let tests: Vec<PathBuf> = files("tests", ".rs")
        .into_iter()
        .filter(|p| name(p) != "tests/common/pattern.rs" && name(p) != "tests/tidy.rs")
        .collect();
    assert_none(
        &offences(&tests, clocked),
        "use common::pattern::Random::from_environment",
    );
}

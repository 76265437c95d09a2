//! Every target for a few seconds, in every run of the tests, with inputs that are new each time,
//! and every input that once found something. libFuzzer in `fuzz/` goes deeper; what it finds is
//! kept in `fuzz/corpus-regressions`, and played here.
//!
//! A failure names the input's seed: `URAID_TEST_SEED=SEED cargo test -p hostile --test budget`
//! plays that one alone. `URAID_TEST_CYCLES=N` gives each target N times as long.

use hostile::{TARGETS, Target, find};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uraid_sim::rng::Rng;

/// How long each target is given new inputs.
const BUDGET: Duration = Duration::from_secs(3);
/// An input that takes longer hangs.
const INPUT_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest input made here.
const INPUT_BYTES_MAX_LOG2: u64 = 11;
/// Address space that any input may add to that of the process. The members are some MiB long;
/// the largest numbers that metadata can hold would take thousands of times as much.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

#[test]
fn superblocks() {
    check("superblock");
}

#[test]
fn journals() {
    check("journal");
}

#[test]
fn pages() {
    check("pages");
}

#[test]
fn assembly() {
    check("assembly");
}

#[test]
fn members_as_a_whole() {
    check("open");
}

#[test]
fn nbd_sessions() {
    check("nbd_session");
}

#[test]
fn nbd_clients() {
    check("nbd_client");
}

#[test]
fn every_kept_input_belongs_to_a_target() {
    let directories = std::fs::read_dir(kept_inputs()).expect("kept inputs");
    for directory in directories.flatten() {
        let name = directory.file_name().to_string_lossy().into_owned();
        assert!(find(&name).is_some(), "{name} is no target");
    }
}

fn kept_inputs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-regressions")
}

/// Files of a target that once found something.
fn kept(target: Target) -> Vec<PathBuf> {
    let directory = std::fs::read_dir(kept_inputs().join(target.name));
    let mut paths: Vec<PathBuf> = directory
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    paths.sort();
    paths
}

/// Plays the kept inputs of a target, then new ones for as long as the budget lasts.
fn check(name: &'static str) {
    let target = TARGETS
        .into_iter()
        .find(|t| t.name == name)
        .expect("a target");
    let (progress, watched) = channel();
    let worker = std::thread::spawn(move || {
        for path in kept(target) {
            let input = std::fs::read(&path).expect("a kept input");
            // The receiver is there until this thread has ended.
            let _ = progress.send(path.display().to_string());
            play(target, &input).unwrap_or_else(|what| panic!("{}: {what}", path.display()));
        }
        let fixed = std::env::var("URAID_TEST_SEED").ok();
        let fixed = fixed.map(|s| s.parse::<u64>().expect("URAID_TEST_SEED is a number"));
        let mut seeds = Rng::new(clock());
        let (start, budget) = (Instant::now(), BUDGET * cycles());
        let mut played: u64 = 0;
        while played == 0 || fixed.is_none() && start.elapsed() < budget {
            let seed = fixed.unwrap_or_else(|| seeds.next());
            let replay = format!("URAID_TEST_SEED={seed} cargo test -p hostile --test budget");
            let _ = progress.send(replay.clone());
            play(target, &input(seed))
                .unwrap_or_else(|what| panic!("{name}: {what}\nreplay: {replay}"));
            played += 1;
        }
        println!("{name}: {played} inputs");
    });
    let mut last = String::new();
    loop {
        match watched.recv_timeout(INPUT_TIME_MAX) {
            Ok(next) => last = next,
            Err(RecvTimeoutError::Timeout) => panic!("{name} hangs: {last}"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Another number in every run.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("it is after 1970").as_nanos() as u64
}

/// How many times as long as usual each target is given new inputs.
fn cycles() -> u32 {
    let given = std::env::var("URAID_TEST_CYCLES").ok();
    given.map_or(1, |n| n.parse().expect("URAID_TEST_CYCLES is a number"))
}

/// The input that a seed stands for: mostly small numbers, so that many choices are harmless.
fn input(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; rng.skewed(INPUT_BYTES_MAX_LOG2) as usize];
    rng.fill(&mut bytes);
    let harmless = rng.below(4);
    for byte in &mut bytes {
        if rng.below(8) < harmless {
            *byte = 0;
        }
    }
    bytes
}

/// Runs one input and says what was wrong.
fn play(target: Target, input: &[u8]) -> Result<(), String> {
    let before = peak_address_space();
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into()))
            .unwrap_or_default()
    })?;
    match peak_address_space().saturating_sub(before) {
        grown if grown > MEMORY_BYTES_MAX => Err(format!("it took {grown} bytes of memory")),
        _ => Ok(()),
    }
}

/// The most address space this process ever had, in bytes.
fn peak_address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmPeak:"))
        .expect("VmPeak");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") << 10
}

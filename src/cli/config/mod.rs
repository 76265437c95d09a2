//! Configuration files: the options of `uraid serve`, kept. What is typed and what is written end
//! in the same structure, by the same way.

pub mod args;
mod check;
mod files;
mod finding;
mod keys;
mod merge;
mod read;
mod show;

use super::args::ServeArgs;
use super::output::Output;
use crate::failure::{Exit, Failure};
use args::{ConfigAction, ConfigArgs};
use files::File;
use finding::Finding;
use keys::Keys;
use read::Settings;
use serde::Serialize;
use show::Shown;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `uraid config`.
pub fn run(args: &ConfigArgs, output: Output) -> Result<Option<Exit>, Failure> {
    match &args.action {
        ConfigAction::Check(args) => check(&args.place, output),
        ConfigAction::Show(args) => show(&args.place, output).map(|()| None),
    }
}

/// The options of this process, which was told to take some from `place`.
///
/// # Errors
/// The files cannot be read, are wrong, or contradict one another or what was typed.
pub fn serve_args(place: &Path) -> Result<ServeArgs, Failure> {
    let keys = Keys::new();
    let settings = understood(&keys, &files::read(place)?)?;
    let typed: Vec<OsString> = env::args_os().collect();
    merge::options(&keys, &settings, &typed)
}

/// What files say, if all of it can be understood.
fn understood(keys: &Keys, files: &[File]) -> Result<Settings, Failure> {
    let (settings, mut findings) = written(keys, files);
    match findings.is_empty() {
        true => Ok(settings),
        false => Err(Failure::usage(finding::lines(&mut findings))),
    }
}

/// What files say, and what is wrong with that, whatever is there.
fn written(keys: &Keys, files: &[File]) -> (Settings, Vec<Finding>) {
    let (settings, mut findings) = read::read(keys, files);
    findings.extend(check::contradictions(keys, &settings));
    (settings, findings)
}

/// What `config check --json` prints.
#[derive(Serialize)]
struct Report<'a> {
    files: Vec<&'a PathBuf>,
    findings: &'a [Finding],
}

fn check(place: &Path, output: Output) -> Result<Option<Exit>, Failure> {
    let keys = Keys::new();
    let files = files::read(place)?;
    let (settings, mut findings) = written(&keys, &files);
    findings.extend(check::absent(&keys, &settings));
    if findings.is_empty() {
        let typed = ["uraid", "serve", "--config=/"].map(OsString::from);
        match merge::options(&keys, &settings, &typed) {
            Ok(args) => findings = check::verdicts(&args, &settings, &files),
            Err(failure) => findings.push(Finding::of(files[0].place(0), failure)),
        }
    }
    let lines = finding::lines(&mut findings);
    let paths: Vec<&PathBuf> = files.iter().map(|file| &file.path).collect();
    let text = match findings.is_empty() {
        true => {
            let shown: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            format!("nothing is wrong with {}", shown.join(", "))
        }
        false => lines,
    };
    let report = Report {
        files: paths,
        findings: &findings,
    };
    output.result(&text, &report)?;
    Ok(finding::exit(&findings))
}

fn show(place: &Path, output: Output) -> Result<(), Failure> {
    let keys = Keys::new();
    let settings = understood(&keys, &files::read(place)?)?;
    let shown = Shown::new(&keys, &settings);
    output.result(&shown.text(), &shown)
}

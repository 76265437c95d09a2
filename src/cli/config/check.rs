//! What is wrong with settings that can be read: they contradict one another, or speak of what is
//! not there. Files, members and certificates are looked at, and nothing is written.

use super::files::{File, Place};
use super::finding::Finding;
use super::keys::{Key, Keys};
use super::read::{ExportSetting, Setting, Settings};
use crate::cli::args::ServeArgs;
use crate::cli::serve;
use crate::failure::Failure;
use crate::server::members::groups;
use crate::server::sockets::{check_metrics_place, check_place};
use crate::server::tls::{self, Tls};
use clap::ValueHint;
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::path::Path;

/// What does not go together, whatever is there.
pub fn contradictions(keys: &Keys, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: Vec<(Key, &Setting)> = Vec::new();
    for setting in settings.values.iter().filter(|s| s.value != "false") {
        let key = key_of(keys, setting);
        let name = key.name();
        if seen.iter().any(|(other, _)| other.name() == name) {
            continue;
        }
        let place = || setting.place.clone();
        for (_, other) in seen.iter().filter(|(other, _)| keys.conflict(key, *other)) {
            let message = format!(
                "`{name}` and `{}` exclude one another (the other one is at {}); keep one",
                other.key, other.place
            );
            findings.push(Finding::wrong(place(), message));
        }
        for needed in keys.needs(key, &setting.value) {
            if settings.place_of(&needed).is_none() {
                let message = format!(
                    "`{name}` means nothing without `{needed}`; set that too, or take this out"
                );
                findings.push(Finding::wrong(place(), message));
            }
        }
        seen.push((key, setting));
    }
    findings
}

fn key_of<'a>(keys: &'a Keys, setting: &Setting) -> Key<'a> {
    keys.get(&setting.key).expect("only keys are set")
}

/// Files and directories that are named and not there.
pub fn absent(keys: &Keys, settings: &Settings) -> Vec<Finding> {
    let finding = |setting: &Setting| {
        let problem = absence(key_of(keys, setting).hint(), Path::new(&setting.value))?;
        let message = format!("`{}`: {problem}", setting.key);
        Some(Finding::absent(setting.place.clone(), message))
    };
    settings.values.iter().filter_map(finding).collect()
}

/// Why `path` is not what has to be there, if so.
fn absence(hint: ValueHint, path: &Path) -> Option<String> {
    let what = match hint {
        ValueHint::DirPath => "directory",
        ValueHint::FilePath => "file",
        ValueHint::ExecutablePath => "program",
        // It may be made by the server.
        _ => return None,
    };
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return Some(format!(
                "there is no {what} {shown} ({error}); name another"
            ));
        }
    };
    let fits = match hint {
        ValueHint::DirPath => metadata.is_dir(),
        ValueHint::ExecutablePath => metadata.is_file() && access(path, AccessFlags::X_OK).is_ok(),
        _ => !metadata.is_dir(),
    };
    (!fits).then(|| format!("{shown} is no {what}; name another"))
}

/// What a server would say to the options as a whole, each at the setting that it is about.
pub fn verdicts(args: &ServeArgs, settings: &Settings, files: &[File]) -> Vec<Finding> {
    let at = |keys: &[&str]| {
        let mut places = keys.iter().filter_map(|key| settings.place_of(key));
        let first = || files.first().map(|file| file.place(0));
        places
            .next()
            .cloned()
            .or_else(first)
            .expect("a file was read")
    };
    let mut findings = Vec::new();
    let mut judge = |place: Place, result: Result<(), Failure>| {
        let found = result.err().map(|failure| Finding::of(place, failure));
        findings.extend(found);
    };
    let alerts = args.alerts.options().map(drop);
    judge(
        at(&["alert-mail-program", "alert-mail", "alert-exec"]),
        alerts,
    );
    for (place, verdict) in listening(args, settings) {
        judge(place, verdict);
    }
    judge(
        at(&["rebuild-floor", "rebuild-ceiling"]),
        serve::check_rates(args),
    );
    match args.tls.options() {
        Err(failure) => judge(at(&["tls"]), Err(failure)),
        Ok(options) => {
            for export in &settings.exports {
                let sense = export.options.check().map_err(Failure::usage);
                judge(export.place.clone(), sense);
                let offered = [export.options.clone()];
                judge(
                    export.place.clone(),
                    tls::check_exports(options.as_ref(), &offered),
                );
            }
            let loaded = Tls::load(options.as_ref(), &[]).map(drop);
            judge(at(&["tls-certificates", "tls-psk"]), loaded);
        }
    }
    findings.extend(strangers(args, settings, at(&["scan", "members"])));
    findings
}

/// Whether others could connect at places where nobody said so.
fn listening(args: &ServeArgs, settings: &Settings) -> Vec<(Place, Result<(), Failure>)> {
    // If TLS is wrong, that is found elsewhere.
    let open = serve::is_open(args).unwrap_or(true);
    let verdict = |setting: &Setting| {
        let place = || setting.value.parse().expect("a place, as was checked");
        let verdict = match setting.key.as_str() {
            "listen" => check_place(&place(), open),
            "metrics" => check_metrics_place(&place(), args.metrics_insecure),
            _ => return None,
        };
        Some((setting.place.clone(), verdict))
    };
    settings.values.iter().filter_map(verdict).collect()
}

/// Exports of arrays that are not there, groups that speak of such, and arrays that are not.
fn strangers(args: &ServeArgs, settings: &Settings, place: Place) -> Vec<Finding> {
    let members = match serve::all_members(args) {
        Ok(members) => members,
        Err(failure) => return vec![Finding::of(place, failure)],
    };
    let found = groups(&members);
    let names: Vec<&str> = found.iter().map(|group| group.name.as_str()).collect();
    // One whose superblocks cannot be read has no name.
    let is_there = |name: &str| names.contains(&name) || names.contains(&"");
    let finding = |(place, name): (&Place, &str)| {
        let message = format!(
            "no array is called {name}; those found are {}",
            names.join(", ")
        );
        Finding::wrong(place.clone(), message)
    };
    let exports = settings.exports.iter();
    let exports =
        exports.map(|export: &ExportSetting| (&export.place, export.options.name.as_str()));
    let groups = settings.values.iter().filter(|s| s.key == "spare-group");
    let grouped = groups.flat_map(|group| group.value.split(',').map(|name| (&group.place, name)));
    let named = exports.chain(grouped);
    named
        .filter(|(_, name)| !is_there(name))
        .map(finding)
        .collect()
}

//! `uraid check`: verifies an array that is not served, and writes nothing.

use super::args::CheckArgs;
use super::findings::{self, Verdict};
use super::output::{Output, table};
use super::wait::until_scrubbed;
use super::{render, serve};
use crate::control::wire::{ScrubMemberReport, StatusReport};
use crate::failure::{Exit, Failure};
use crate::server::host::OpeningReport;
use crate::server::local::{LocalArray, Purpose};
use crate::server::members::{Access, open_array};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What recovery says when there is nothing to replay.
const CLEAN: &str = "clean";

/// Checks the array and says what is wrong with it.
pub fn run(args: &CheckArgs, output: Output) -> Result<Option<Exit>, Failure> {
    let paths = serve::members(&args.members, &args.scan, args.name.as_deref())?;
    let mut array = LocalArray::open(open_array(&paths, Access::Check)?, Purpose::Check)?;
    array.start_scrub()?;
    let status = until_scrubbed(output, &mut array)?;
    let report = Report::new(status, array.opening(), &paths);
    array.stop()?;
    output.result(&report.text(), &report)?;
    Ok(report.exit())
}

/// What `check --json` prints. Fields may be added, never changed or removed.
#[derive(Serialize)]
struct Report {
    /// "clean", "degraded", "repairable", "inconsistent" or "lost": the worst that applies.
    result: &'static str,
    /// What a server would replay at its start, in words; "clean" if nothing.
    replay: String,
    /// Damage and other remarkable things met while the array was opened.
    warnings: Vec<String>,
    /// Paths that were given and are of no use to the array.
    unused: Vec<Unused>,
    /// The array as it would be served; its scrub is what was found.
    array: StatusReport,
}

/// A path that is of no use to the array.
#[derive(Serialize)]
struct Unused {
    path: String,
    why: String,
}

impl Report {
    fn new(array: StatusReport, opening: &OpeningReport, paths: &[PathBuf]) -> Report {
        let unused = |path: &&PathBuf| {
            let path = path.display().to_string();
            !array
                .members
                .iter()
                .any(|member| member.path.as_ref() == Some(&path))
        };
        Report {
            result: result(&array),
            replay: opening.recovery.clone(),
            warnings: opening.warnings.clone(),
            unused: paths
                .iter()
                .filter(unused)
                .map(|path| Unused::new(path, &opening.warnings))
                .collect(),
            array,
        }
    }

    fn exit(&self) -> Option<Exit> {
        (self.result != "clean").then_some(Exit::Failed)
    }

    fn text(&self) -> String {
        let status = &self.array;
        let mut lines = vec![
            format!("checked {} ({})", status.name, render::layout(status)),
            format!("state   {}", render::state(status)),
        ];
        lines.extend(
            self.unused
                .iter()
                .map(|unused| format!("unused  {}", unused.why)),
        );
        if self.replay != CLEAN {
            lines.push(format!(
                "replay  the next start replays what a crash left in the journal ({}); here it \
                 was done in memory",
                self.replay
            ));
        }
        lines.extend(findings::lines(status));
        lines.push(format!("result  {}", self.verdict()));
        lines.extend(self.next().map(|next| format!("next    {next}")));
        lines.push(String::new());
        lines.push(members(status));
        lines.join("\n")
    }

    fn verdict(&self) -> String {
        let used = crate::sizes::show_size(self.array.scrub.total_bytes);
        match self.result {
            "clean" => format!("clean: all {used} in use on each member are as they should be"),
            "degraded" => format!(
                "degraded: all {used} in use on each member that is here are as they should be"
            ),
            "repairable" => "damaged: what is wrong can be repaired from the other members".into(),
            "inconsistent" => "damaged: rows are inconsistent".into(),
            _ => "damaged: data is lost".into(),
        }
    }

    fn next(&self) -> Option<String> {
        let name = &self.array.name;
        let repair = format!(
            "serve the array and type: uraid scrub start --name {name}; it repairs all but that"
        );
        match self.result {
            "clean" => None,
            "degraded" => Some(format!(
                "serve the array with a new disk at hand and type: uraid rebuild --name {name} NEW"
            )),
            "repairable" => Some(format!(
                "serve the array and type: uraid scrub start --name {name}"
            )),
            "inconsistent" => Some(format!("{}; {repair}", findings::INCONSISTENT_ADVICE)),
            _ => Some(format!("{}; {repair}", findings::LOST_ADVICE)),
        }
    }
}

impl Unused {
    /// Whoever left it out has said why, after its path.
    fn new(path: &Path, warnings: &[String]) -> Unused {
        let path = path.display().to_string();
        let about = format!("{path}:");
        let said: Vec<&str> = warnings
            .iter()
            .filter(|warning| warning.starts_with(&about))
            .map(String::as_str)
            .collect();
        let why = match said.is_empty() {
            true => format!("{path}: is no member of the array"),
            false => said.join("; "),
        };
        Unused { path, why }
    }
}

/// The worst that applies. Missing members are no damage, but no health either.
fn result(status: &StatusReport) -> &'static str {
    match Verdict::of(&status.scrub) {
        Verdict::Lost => "lost",
        Verdict::Inconsistent => "inconsistent",
        Verdict::Repairable => "repairable",
        Verdict::Repaired | Verdict::Sound if render::exit(status).is_some() => "degraded",
        Verdict::Repaired | Verdict::Sound => "clean",
    }
}

fn members(status: &StatusReport) -> String {
    let row = |found: &ScrubMemberReport| {
        let state = status
            .members
            .iter()
            .find(|member| member.slot == found.slot && member.path == found.path)
            .map_or("-", |member| &member.state);
        vec![
            found.slot.map_or("-".to_string(), |slot| slot.to_string()),
            state.to_string(),
            found.bad_blocks.to_string(),
            found.bad_metadata.to_string(),
            found.path.clone().unwrap_or("-".to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = status.scrub.members.iter().map(row).collect();
    let header = ["slot", "state", "wrong blocks", "damaged metadata", "path"];
    table(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::{LostRun, samples};

    fn report(change: impl FnOnce(&mut StatusReport)) -> Report {
        let mut status = samples::optimal();
        status.scrub = samples::scrub("finished");
        change(&mut status);
        let opening = OpeningReport {
            recovery: CLEAN.to_string(),
            warnings: vec!["/m9: stale".to_string()],
        };
        let paths = ["/m0", "/m9"].map(PathBuf::from);
        Report::new(status, &opening, &paths)
    }

    #[test]
    fn the_result_is_the_worst_that_applies() {
        let degrade = |status: &mut StatusReport| status.state = "degraded".to_string();
        let damage = |status: &mut StatusReport| status.scrub.members[1].bad_blocks = 7;
        assert_eq!(report(|_| ()).result, "clean");
        assert_eq!(report(degrade).result, "degraded");
        let both = report(|status| {
            degrade(status);
            damage(status);
        });
        assert_eq!(both.result, "repairable");
        assert_eq!(
            report(|s| s.scrub.inconsistent_rows = 1).result,
            "inconsistent"
        );
        assert_eq!(report(|s| s.scrub.lost_blocks = 1).result, "lost");
    }

    #[test]
    fn only_clean_is_a_success() {
        assert_eq!(report(|_| ()).exit(), None);
        let degraded = report(|status| status.state = "degraded".to_string());
        assert_eq!(degraded.exit(), Some(Exit::Failed));
    }

    #[test]
    fn damage_is_told_with_what_to_type() {
        let text = report(|status| {
            status.scrub.members[1].bad_blocks = 7;
            status.scrub.lost_blocks = 1;
            status.lost = vec![LostRun {
                offset_bytes: 4096,
                length_bytes: 4096,
            }];
        })
        .text();
        assert!(text.contains("member 1 (/m1): 7 wrong blocks"), "{text}");
        assert!(text.contains("4 KiB at byte 4096"), "{text}");
        assert!(text.contains("uraid scrub start --name demo"), "{text}");
    }

    #[test]
    fn a_path_that_is_not_used_says_why() {
        let report = report(|_| ());
        assert_eq!(report.unused.len(), 1);
        assert_eq!(report.unused[0].why, "/m9: stale");
    }
}

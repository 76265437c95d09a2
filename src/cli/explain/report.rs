//! What is explained, for people and for programs.

use super::look::Look;
use super::verdict::{Judged, Kind, Verdict};
use crate::failure::Exit;
use serde::Serialize;

/// `uraid explain --json`. Fields may be added, never changed or removed.
#[derive(Serialize)]
pub struct Report {
    arrays: Vec<ArrayReport>,
    /// What was named or found and has no valid superblock.
    strangers: Vec<Stranger>,
    #[serde(skip)]
    exit: Option<Exit>,
}

#[derive(Serialize)]
struct ArrayReport {
    name: String,
    uuid: String,
    /// "well", "incomplete" or "refused".
    verdict: &'static str,
    text: String,
    members: Vec<MemberReport>,
    absent: Vec<String>,
    next: Vec<String>,
}

#[derive(Serialize)]
struct MemberReport {
    path: String,
    says: String,
    counts: bool,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Stranger {
    path: String,
    findings: Vec<String>,
}

impl Report {
    /// Puts it together.
    pub fn new(verdicts: &[Verdict], strangers: &[&Look]) -> Report {
        let stranger = |look: &&Look| Stranger {
            path: look.shown(),
            findings: look.findings.clone(),
        };
        let exits = verdicts.iter().filter_map(|verdict| verdict.exit);
        let strange = (!strangers.is_empty()).then_some(Exit::Failed);
        Report {
            arrays: verdicts.iter().map(ArrayReport::new).collect(),
            strangers: strangers.iter().map(stranger).collect(),
            exit: exits.chain(strange).max_by_key(|exit| exit.code()),
        }
    }

    /// The worst that applies; none is success.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut blocks: Vec<String> = self.arrays.iter().map(ArrayReport::text).collect();
        blocks.extend(self.strangers.iter().map(Stranger::text));
        blocks.join("\n\n")
    }
}

impl ArrayReport {
    fn new(verdict: &Verdict) -> ArrayReport {
        let member = |judged: &Judged| MemberReport {
            path: judged.path.clone(),
            says: judged.says.clone(),
            counts: judged.counts,
            notes: judged.notes.clone(),
        };
        ArrayReport {
            name: verdict.name.clone(),
            uuid: verdict.uuid.clone(),
            verdict: match verdict.kind {
                Kind::Well => "well",
                Kind::Incomplete => "incomplete",
                Kind::Refused => "refused",
            },
            text: verdict.text.clone(),
            members: verdict.members.iter().map(member).collect(),
            absent: verdict.absent.clone(),
            next: verdict.next.clone(),
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("array   {} ({})", self.name, self.uuid)];
        for member in &self.members {
            let counts = if member.counts {
                "counts"
            } else {
                "does not count"
            };
            lines.push(format!(
                "member  {}: {}; {counts}",
                member.path, member.says
            ));
            lines.extend(member.notes.iter().map(|note| format!("        {note}")));
        }
        lines.extend(self.absent.iter().map(|who| format!("absent  {who}")));
        lines.push(format!("verdict {}", self.text.replace('\n', "\n        ")));
        for (i, next) in self.next.iter().enumerate() {
            lines.push(format!(
                "{:7} {}. {next}",
                if i == 0 { "next" } else { "" },
                i + 1
            ));
        }
        lines.join("\n")
    }
}

impl Stranger {
    fn text(&self) -> String {
        let mut lines = vec![format!("path    {}: no valid superblock", self.path)];
        lines.extend(
            self.findings
                .iter()
                .map(|finding| format!("        {finding}")),
        );
        lines.join("\n")
    }
}

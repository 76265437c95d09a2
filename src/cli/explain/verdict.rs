//! Whether the members of one array would start it, and what would help if not.

use super::super::target;
use super::look::Look;
use crate::control::wire::StatusReport;
use crate::failure::{Exit, Failure};
use crate::server::local::{LocalArray, Purpose};
use crate::server::members::{Access, open_array};
use std::path::PathBuf;
use uraid_core::config::EntryState;
use uraid_core::superblock::Superblock;

/// What would become of an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It would start whole, or is served whole.
    Well,
    /// It would start, or is served, without some of its members.
    Incomplete,
    /// It would not start.
    Refused,
}

/// One member, judged.
pub struct Judged {
    /// Where it is.
    pub path: String,
    /// What it says of itself.
    pub says: String,
    /// Whether the array would use it.
    pub counts: bool,
    /// Why not, or what else is remarkable.
    pub notes: Vec<String>,
}

/// An array, judged.
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What would become of it.
    pub kind: Kind,
    /// The same in words.
    pub text: String,
    /// What the command exits with.
    pub exit: Option<Exit>,
    /// The members that were looked at.
    pub members: Vec<Judged>,
    /// Members that should be there, and are not among those.
    pub absent: Vec<String>,
    /// What to type, in the order in which to try it.
    pub next: Vec<String>,
}

impl Verdict {
    /// Judges members of one array; there is at least one, and all have superblocks.
    pub fn of(looks: &[&Look]) -> Verdict {
        match served(looks) {
            Some(status) => Verdict::served(looks, &status),
            None if looks.iter().any(|look| look.in_use) => Verdict::held(looks),
            None => Verdict::offline(looks),
        }
    }

    fn blank(looks: &[&Look], kind: Kind, text: String) -> Verdict {
        let newest = newest(looks);
        Verdict {
            name: newest.name.clone(),
            uuid: newest.array.to_string(),
            kind,
            text,
            exit: match kind {
                Kind::Well => None,
                Kind::Incomplete => Some(Exit::Failed),
                Kind::Refused => Some(Exit::Refused),
            },
            members: Vec::new(),
            absent: absent(looks),
            next: Vec::new(),
        }
    }

    /// A server has it: that one knows.
    fn served(looks: &[&Look], status: &StatusReport) -> Verdict {
        let (name, state) = (&status.name, &status.state);
        let kind = match state.as_str() {
            "optimal" => Kind::Well,
            _ => Kind::Incomplete,
        };
        let mut verdict =
            Verdict::blank(looks, kind, format!("it is being served, and is {state}"));
        verdict.absent.clear();
        for look in looks {
            let member = status
                .members
                .iter()
                .find(|m| m.path.as_deref() == Some(&look.shown()));
            let counts = member.is_some_and(|m| !m.is_gone());
            let why = match member {
                Some(member) => format!("{} in the array that is served", member.state),
                None => "not among the members that the server has".to_string(),
            };
            if !counts {
                let path = look.path.display();
                verdict.next.push(format!("uraid add --name {name} {path}"));
            }
            verdict.members.push(Judged::new(look, counts, vec![why]));
        }
        if kind != Kind::Well {
            verdict
                .next
                .insert(0, format!("uraid status --name {name}"));
        }
        verdict
    }

    /// Somebody has it who cannot be asked.
    fn held(looks: &[&Look]) -> Verdict {
        let text = "it is in use: by a server whose control socket is not in the default directory, \
                    or by another program";
        let mut verdict = Verdict::blank(looks, Kind::Refused, text.to_string());
        let judged = looks
            .iter()
            .map(|look| Judged::new(look, !look.in_use, Vec::new()));
        verdict.members = judged.collect();
        verdict.next = vec![
            "uraid status --control PATH    # where the server was told to have it".to_string(),
            "stop what uses the members, and explain again".to_string(),
        ];
        verdict
    }

    /// Nobody has it: opened here it says what a server would find.
    fn offline(looks: &[&Look]) -> Verdict {
        match open(looks, Purpose::Try { force: false }) {
            Ok((status, warnings)) => Verdict::starts(looks, &status, &warnings),
            Err(failure) => Verdict::refused(looks, &failure),
        }
    }

    fn starts(looks: &[&Look], status: &StatusReport, warnings: &[String]) -> Verdict {
        let used = |look: &Look| {
            let here = status
                .members
                .iter()
                .find(|m| m.path.as_deref() == Some(&look.shown()));
            here.is_some_and(|m| !m.is_gone())
        };
        let mut members = Vec::new();
        for look in looks {
            members.push(Judged::new(look, used(look), about(look, warnings)));
        }
        let whole = status.state == "optimal" && members.iter().all(|m| m.counts);
        let (kind, text) = match (whole, status.state.as_str()) {
            (true, _) => (
                Kind::Well,
                "it would start with all its members".to_string(),
            ),
            (_, "optimal") => (
                Kind::Incomplete,
                "it would start with all its members; not all that is here is of use".to_string(),
            ),
            (_, state) => (
                Kind::Incomplete,
                format!(
                    "it would start, and be {state}: {} more losses would be survived",
                    status.redundancy_left
                ),
            ),
        };
        let mut verdict = Verdict::blank(looks, kind, text);
        if !verdict.absent.is_empty() {
            verdict.next.push(attach(&verdict.absent));
        }
        let useful = looks.iter().filter(|look| used(look));
        verdict
            .next
            .push(format!("uraid serve {}", paths(useful.copied())));
        let name = &verdict.name;
        let useless: Vec<&&Look> = looks.iter().filter(|look| !used(look)).collect();
        for look in &useless {
            let path = look.path.display();
            verdict.next.push(format!("uraid add --name {name} {path}"));
        }
        if kind == Kind::Incomplete && useless.is_empty() && status.state == "degraded" {
            verdict
                .next
                .push(format!("uraid rebuild --name {name} NEW"));
        }
        verdict.members = members;
        verdict
    }

    fn refused(looks: &[&Look], failure: &Failure) -> Verdict {
        let lines: Vec<String> = failure.message.lines().map(String::from).collect();
        let is_about = |line: &&String| {
            let start = |look: &&&Look| line.starts_with(&format!("{}: ", look.shown()));
            looks.iter().any(|look| start(&look))
        };
        let text: Vec<&str> = lines
            .iter()
            .filter(|line| !is_about(line))
            .map(String::as_str)
            .collect();
        let text = format!("it would not start: {}", text.join("\n"));
        let mut verdict = Verdict::blank(looks, Kind::Refused, text);
        verdict.exit = Some(failure.exit);
        for look in looks {
            let about = about(look, &lines);
            let counts = about.is_empty();
            verdict.members.push(Judged::new(look, counts, about));
        }
        verdict.next = what_helps(looks, &verdict.absent);
        verdict
    }
}

/// What would get an array going that is refused; each was tried, or is for people to do.
fn what_helps(looks: &[&Look], absent: &[String]) -> Vec<String> {
    let mut next = Vec::new();
    if !absent.is_empty() {
        next.push(attach(absent));
    }
    if open(looks, Purpose::Check).is_ok() {
        let all = paths(looks.iter().copied());
        next.push(format!(
            "uraid serve --read-only {all}    # to see what it holds"
        ));
    } else {
        for side in sides(looks) {
            if open(&side, Purpose::Check).is_ok() {
                let side = paths(side.iter().copied());
                next.push(format!(
                    "uraid serve --read-only {side}    # to see what this side holds"
                ));
            }
        }
    }
    if open(looks, Purpose::Try { force: true }).is_ok() {
        let all = paths(looks.iter().copied());
        next.push(format!(
            "uraid serve --force {all}    # only if what is absent is dead for good"
        ));
    }
    if next.is_empty() {
        next.push("restore members, or their superblocks, from a copy: nothing here helps".into());
    }
    next
}

/// Members that were last told the same, where not all were.
fn sides<'a>(looks: &[&'a Look]) -> Vec<Vec<&'a Look>> {
    let mut sides: Vec<(u64, Vec<&Look>)> = Vec::new();
    for look in looks {
        let nonce = look.superblock.as_ref().map_or(0, |s| s.config.nonce);
        match sides.iter_mut().find(|(known, _)| *known == nonce) {
            Some((_, side)) => side.push(look),
            None => sides.push((nonce, vec![look])),
        }
    }
    match sides.len() {
        1 => Vec::new(),
        _ => sides.into_iter().map(|(_, side)| side).collect(),
    }
}

/// Opens the array without writing, and closes it again.
fn open(looks: &[&Look], purpose: Purpose) -> Result<(StatusReport, Vec<String>), Failure> {
    let files: Vec<PathBuf> = looks.iter().map(|look| look.path.clone()).collect();
    let array = LocalArray::open(open_array(&files, Access::Check)?, purpose)?;
    let status = array.status()?;
    let warnings = array.opening().warnings.clone();
    array.stop()?;
    Ok((status, warnings))
}

/// The status of the server that has the array, if members are in use and one says so.
fn served(looks: &[&Look]) -> Option<StatusReport> {
    let mut in_use = looks.iter().filter(|look| look.in_use);
    let uuid = in_use.find_map(|look| Some(look.superblock.as_ref()?.array.to_string()))?;
    target::all().into_iter().find(|status| status.uuid == uuid)
}

fn newest<'a>(looks: &[&'a Look]) -> &'a Superblock {
    let superblocks = looks.iter().filter_map(|look| look.superblock.as_ref());
    let newest = superblocks.max_by_key(|s| (s.config.epoch, s.write));
    newest.expect("members of an array have superblocks")
}

/// In-sync members of the newest config that are not among `looks`.
fn absent(looks: &[&Look]) -> Vec<String> {
    let here = |uuid| {
        let mut superblocks = looks.iter().filter_map(|look| look.superblock.as_ref());
        superblocks.any(|s| s.member == uuid)
    };
    let newest = newest(looks);
    let entries = newest.config.members().map(|(_, entry)| entry);
    let absent = entries.filter(|e| e.state == EntryState::InSync && !here(e.uuid));
    absent
        .map(|e| match e.role {
            Some(role) => format!("slot {role} ({})", e.uuid),
            None => e.uuid.to_string(),
        })
        .collect()
}

fn attach(absent: &[String]) -> String {
    format!("attach {}, and explain again with that", absent.join(", "))
}

/// What is said about a member in lines that begin with its path.
fn about(look: &Look, lines: &[String]) -> Vec<String> {
    let path = format!("{}: ", look.shown());
    let about = lines.iter().filter_map(|line| line.strip_prefix(&path));
    about.map(String::from).collect()
}

fn paths<'a>(looks: impl Iterator<Item = &'a Look>) -> String {
    looks.map(Look::shown).collect::<Vec<_>>().join(" ")
}

impl Judged {
    fn new(look: &Look, counts: bool, mut notes: Vec<String>) -> Judged {
        notes.extend(look.findings.iter().cloned());
        if look.in_use {
            notes.push("in use by a server or another program".to_string());
        }
        notes.sort();
        notes.dedup();
        Judged {
            path: look.shown(),
            says: look.says(),
            counts,
            notes,
        }
    }
}

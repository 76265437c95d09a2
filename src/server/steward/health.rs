//! What devices say of themselves: asked by `smartctl`, if that is installed, every ten minutes.
//! Files have no health, nor have loop devices.

use super::early::Failing;
use super::{event_member, smart, uuid};
use crate::control::wire::{HealthReport, MemberReport, StatusReport};
use crate::server::program;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use uraid_core::events::EventMember;
use uraid_core::units::Uuid;

/// Between two looks at a device.
const INTERVAL: Duration = Duration::from_secs(600);

/// How long `smartctl` may take: a disk that sleeps has to wake up.
const ASK_MAX: Duration = Duration::from_secs(30);

/// Most that is read of what it prints: what it prints before it ends has to fit in a pipe.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// What is known of members' devices.
#[derive(Default)]
pub struct Health {
    next: BTreeMap<Uuid, Duration>,
    known: BTreeMap<Uuid, HealthReport>,
}

/// What has changed about a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Something is wrong with it, or something else.
    Unwell(String),
    /// Nothing is any more.
    Well,
}

impl Health {
    /// Members whose devices are to be asked now, at `now` since some origin, and where they are.
    pub fn due(&mut self, status: &StatusReport, now: Duration) -> Vec<(EventMember, String)> {
        let mut due = Vec::new();
        let is_there = |m: &&MemberReport| !m.is_gone();
        for member in status.members.iter().filter(is_there) {
            let id = uuid(&member.uuid);
            let next = self.next.entry(id).or_default();
            if let Some(path) = member.path.clone().filter(|_| now >= *next) {
                *next = now + INTERVAL;
                due.push((event_member(member), path));
            }
        }
        due
    }

    /// A device has said that; gives what has changed.
    pub fn learn(&mut self, member: Uuid, report: Option<HealthReport>) -> Option<Change> {
        let report = report?;
        let problems = report.problems.join("; ");
        let before = self.known.insert(member, report);
        let before = before.map(|report| report.problems.join("; "));
        match (before.unwrap_or_default(), problems) {
            (before, now) if before == now => None,
            (_, now) if now.is_empty() => Some(Change::Well),
            (_, now) => Some(Change::Unwell(now)),
        }
    }

    /// What the members of an array say, by identity.
    pub fn of(&self, status: &StatusReport) -> BTreeMap<String, HealthReport> {
        let members = status.members.iter();
        let known = members.filter_map(|m| {
            let report = self.known.get(&uuid(&m.uuid))?;
            Some((m.uuid.clone(), report.clone()))
        });
        known.collect()
    }

    /// Who says that it fails, and how.
    pub fn failing(&self) -> Failing {
        let failing = self.known.iter().filter(|(_, r)| r.verdict == "failing");
        failing
            .map(|(id, report)| (*id, report.problems.join("; ")))
            .collect()
    }
}

/// Asks the device at `path`. Waits for it; none if nothing is known.
pub fn ask(path: &str) -> Option<HealthReport> {
    let meta = std::fs::metadata(path).ok()?;
    if !meta.file_type().is_block_device() {
        return None;
    }
    let mut command = Command::new("smartctl");
    command.args(["--json", "-H", "-A", path]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = program::start(command.stderr(Stdio::null())).ok()?;
    program::wait(&mut child, ASK_MAX).ok()??;
    let mut output = String::new();
    let printed = child.stdout.take()?.take(OUTPUT_BYTES_MAX);
    { printed }.read_to_string(&mut output).ok()?;
    // Its exit status is a set of bits, most of which are about the device.
    smart::parse(&output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::samples;

    fn report(verdict: &str, problems: &[&str]) -> Option<HealthReport> {
        Some(HealthReport {
            verdict: verdict.to_string(),
            problems: problems.iter().map(|p| p.to_string()).collect(),
            ..HealthReport::default()
        })
    }

    #[test]
    fn each_device_is_asked_every_ten_minutes() {
        let mut status = samples::optimal();
        for (i, member) in status.members.iter_mut().enumerate() {
            member.uuid = Uuid([i as u8; 16]).to_string();
        }
        status.members[3].state = "failed".to_string();
        let mut health = Health::default();
        let second = Duration::from_secs(1);
        assert_eq!(health.due(&status, second).len(), 3);
        assert!(health.due(&status, INTERVAL).is_empty());
        assert_eq!(health.due(&status, INTERVAL + second).len(), 3);
    }

    #[test]
    fn changes_are_told_and_who_fails_is_known() {
        let mut health = Health::default();
        let id = Uuid([1; 16]);
        let unwell = |text: &str| Some(Change::Unwell(text.to_string()));
        assert_eq!(health.learn(id, None), None);
        assert_eq!(health.learn(id, report("well", &[])), None);
        assert_eq!(health.learn(id, report("unwell", &["a"])), unwell("a"));
        assert_eq!(health.learn(id, report("unwell", &["a"])), None);
        assert!(health.failing().is_empty());
        let failing = report("failing", &["a", "b"]);
        assert_eq!(health.learn(id, failing), unwell("a; b"));
        assert_eq!(health.failing(), Failing::from([(id, "a; b".to_string())]));
        assert_eq!(
            health.learn(id, None),
            None,
            "it was not asked in vain before"
        );
        assert_eq!(health.learn(id, report("well", &[])), Some(Change::Well));
        assert!(health.failing().is_empty());
    }

    #[test]
    fn files_are_not_asked() {
        assert_eq!(ask("/proc/self/exe"), None);
        assert_eq!(ask("/nowhere"), None);
    }
}

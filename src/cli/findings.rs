//! What a scrub or a check found, in words, and what it comes to.

use crate::control::wire::{LostRun, ScrubMemberReport, ScrubReport, StatusReport};
use crate::failure::Exit;
use crate::sizes::{show_duration, show_size};
use std::time::Duration;

/// Most runs of lost blocks that are shown one by one; `--json` lists them all.
const RUNS_SHOWN_MAX: usize = 16;

/// What a scrub comes to; the worst that applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Nothing was found.
    Sound,
    /// All that was found was repaired.
    Repaired,
    /// What was found can be repaired, and was not.
    Repairable,
    /// Rows are no codeword, and nothing proves why.
    Inconsistent,
    /// Blocks are lost.
    Lost,
}

impl Verdict {
    /// What the findings of a scrub come to.
    pub fn of(scrub: &ScrubReport) -> Verdict {
        let sum = |count: fn(&ScrubMemberReport) -> u64| scrub.members.iter().map(count).sum();
        let bad: u64 = sum(|m| m.bad_blocks + m.bad_metadata);
        let repaired: u64 = sum(|m| m.repaired_blocks + m.repaired_metadata);
        match () {
            () if scrub.lost_blocks > 0 => Verdict::Lost,
            () if scrub.inconsistent_rows > 0 => Verdict::Inconsistent,
            () if repaired < bad => Verdict::Repairable,
            () if bad > 0 => Verdict::Repaired,
            () => Verdict::Sound,
        }
    }

    /// What the command exits with; none is success.
    pub fn exit(self) -> Option<Exit> {
        (self > Verdict::Repaired).then_some(Exit::Failed)
    }
}

/// State and progress of a scrub in one line.
pub fn progress(scrub: &ScrubReport) -> String {
    let percent = match scrub.total_bytes {
        0 => 0,
        total => scrub.done_bytes.min(total) * 100 / total,
    };
    let of = format!("{percent} % of {} in use", show_size(scrub.total_bytes));
    let limit = scrub.bytes_per_second_max.map_or(String::new(), |rate| {
        format!(", at most {}/s", show_size(rate))
    });
    match scrub.state.as_str() {
        "running" => {
            let eta = scrub.eta_seconds.map_or(String::new(), |seconds| {
                format!(", {} left", show_duration(Duration::from_secs(seconds)))
            });
            let speed = show_size(scrub.bytes_per_second);
            format!("running: {of}, {speed}/s of each member{limit}{eta}")
        }
        "paused" => format!("paused: {of}{limit}"),
        // The amount is not remembered across a restart of the server.
        "finished" => "finished: everything in use was looked at".to_string(),
        "stopped" => "stopped before its end".to_string(),
        "never" => "there was none yet".to_string(),
        other => other.to_string(),
    }
}

/// When the server begins the next scrub by itself, unless one is under way or none is planned.
pub fn due(scrub: &ScrubReport) -> Option<String> {
    let is_active = matches!(scrub.state.as_str(), "running" | "paused");
    Some(match scrub.due_in_seconds.filter(|_| !is_active)? {
        0 => "the next one is due".to_string(),
        seconds => {
            let time = show_duration(Duration::from_secs(seconds));
            format!("the next one is due in {time}")
        }
    })
}

/// What was found, one line for each member concerned, and for what concerns the array.
pub fn found(scrub: &ScrubReport) -> Vec<String> {
    let mut lines: Vec<String> = scrub.members.iter().filter_map(member).collect();
    if scrub.lost_blocks > 0 {
        lines.push(format!(
            "{} lost beyond redundancy",
            count(scrub.lost_blocks, "block")
        ));
    }
    if scrub.inconsistent_rows > 0 {
        lines.push(format!(
            "{} all of whose blocks match their checksums, but not each other; left alone",
            count(scrub.inconsistent_rows, "row")
        ));
    }
    lines
}

fn member(member: &ScrubMemberReport) -> Option<String> {
    let mut parts = Vec::new();
    if member.bad_blocks > 0 {
        let blocks = count(member.bad_blocks, "wrong block");
        parts.push(format!("{blocks}, {} repaired", member.repaired_blocks));
    }
    if member.bad_metadata > 0 {
        let pages = count(member.bad_metadata, "damaged metadata page");
        parts.push(format!("{pages}, {} repaired", member.repaired_metadata));
    }
    let slot = member.slot.map_or("a former member".to_string(), |slot| {
        format!("member {slot}")
    });
    let path = member.path.as_deref().unwrap_or("not here");
    (!parts.is_empty()).then(|| format!("{slot} ({path}): {}", parts.join("; ")))
}

/// "1 block", "2 blocks".
fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Which parts of the export are lost, the first ones one by one.
pub fn lost(runs: &[LostRun]) -> Vec<String> {
    let show = |run: &LostRun| {
        let size = show_size(run.length_bytes);
        format!("{size} at byte {}", run.offset_bytes)
    };
    let mut lines: Vec<String> = runs.iter().take(RUNS_SHOWN_MAX).map(show).collect();
    if runs.len() > RUNS_SHOWN_MAX {
        let more = runs.len() - RUNS_SHOWN_MAX;
        lines.push(format!("and {more} more, which --json lists"));
    }
    lines
}

/// The findings as labelled lines; none if there are none.
pub fn lines(status: &StatusReport) -> Vec<String> {
    let mut lines = labelled("found", found(&status.scrub));
    lines.extend(labelled("lost", lost(&status.lost)));
    lines
}

/// Texts under one label.
pub fn labelled(label: &str, texts: Vec<String>) -> Vec<String> {
    let first = |(i, text): (usize, String)| {
        let label = if i == 0 { label } else { "" };
        format!("{label:7} {text}")
    };
    texts.into_iter().enumerate().map(first).collect()
}

/// What becomes of lost blocks, for those who have some.
pub const LOST_ADVICE: &str =
    "restore what is lost from a backup, or overwrite it; until then reading it fails";

/// What to do about inconsistent rows.
pub const INCONSISTENT_ADVICE: &str = "nothing proves which block of these rows is wrong: compare \
     the stripes that the log names with a backup; overwriting a whole stripe mends it";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::samples;

    fn scrub(bad: u64, repaired: u64) -> ScrubReport {
        let mut scrub = samples::scrub("finished");
        scrub.members[2].bad_blocks = bad;
        scrub.members[2].repaired_blocks = repaired;
        scrub
    }

    #[test]
    fn the_worst_finding_decides() {
        assert_eq!(Verdict::of(&scrub(0, 0)), Verdict::Sound);
        assert_eq!(Verdict::of(&scrub(3, 3)), Verdict::Repaired);
        assert_eq!(Verdict::of(&scrub(3, 2)), Verdict::Repairable);
        let mut worse = scrub(3, 3);
        worse.inconsistent_rows = 1;
        assert_eq!(Verdict::of(&worse), Verdict::Inconsistent);
        worse.lost_blocks = 1;
        assert_eq!(Verdict::of(&worse), Verdict::Lost);
        let mut metadata = scrub(0, 0);
        metadata.members[0].bad_metadata = 1;
        assert_eq!(Verdict::of(&metadata), Verdict::Repairable);
    }

    #[test]
    fn only_what_is_still_wrong_is_a_failure() {
        assert_eq!(Verdict::Sound.exit(), None);
        assert_eq!(Verdict::Repaired.exit(), None);
        for bad in [Verdict::Repairable, Verdict::Inconsistent, Verdict::Lost] {
            assert_eq!(bad.exit(), Some(Exit::Failed), "{bad:?}");
        }
    }

    #[test]
    fn findings_name_members_and_numbers() {
        let mut scrub = scrub(3, 3);
        scrub.members[0].bad_metadata = 1;
        scrub.lost_blocks = 2;
        assert_eq!(
            found(&scrub),
            [
                "member 0 (/m0): 1 damaged metadata page, 0 repaired",
                "member 2 (/m2): 3 wrong blocks, 3 repaired",
                "2 blocks lost beyond redundancy",
            ]
        );
    }

    #[test]
    fn progress_tells_speed_limit_and_time_left() {
        let mut scrub = samples::scrub("running");
        scrub.bytes_per_second_max = Some(100 << 20);
        assert_eq!(
            progress(&scrub),
            "running: 25 % of 1 GiB in use, 64 MiB/s of each member, at most 100 MiB/s, 12 s left"
        );
    }

    #[test]
    fn a_long_list_of_losses_is_cut_short() {
        let run = |i: u64| LostRun {
            offset_bytes: i * 8192,
            length_bytes: 4096,
        };
        let runs: Vec<LostRun> = (0..20).map(run).collect();
        let lines = lost(&runs);
        assert_eq!(lines[1], "4 KiB at byte 8192");
        assert_eq!(lines.len(), RUNS_SHOWN_MAX + 1);
        assert!(lines[RUNS_SHOWN_MAX].contains("4 more"));
    }
}

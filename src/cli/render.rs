//! The status in words: how it is, what is at risk, what to type next.

use super::findings;
use super::output::table;
use crate::control::wire::{
    Advice, AvailabilityReport, EventReport, LimitsReport, MemberReport, PaceReport, RebuildReport,
    StatusReport,
};
use crate::failure::Exit;
use crate::sizes::{show_duration, show_latency, show_share, show_size};
use std::time::Duration;

/// What `uraid status` exits with; none is success.
pub fn exit(status: &StatusReport) -> Option<Exit> {
    match status.state.as_str() {
        "optimal" => None,
        "degraded" | "rebuilding" => Some(Exit::Degraded),
        _ => Some(Exit::Failed),
    }
}

/// The whole status for a terminal.
pub fn status(status: &StatusReport) -> String {
    let mut lines = vec![
        format!("array   {} ({})", status.name, layout(status)),
        format!("uuid    {}", status.uuid),
        format!("state   {}", state(status)),
    ];
    lines.extend(
        troubles(status)
            .into_iter()
            .map(|trouble| format!("        {trouble}")),
    );
    lines.push(format!("risk    {}", risk(status)));
    let availability = status.availability.as_ref();
    lines.extend(availability.map(|seen| format!("so far  {}", so_far(seen))));
    lines.extend(pace(&status.background).map(|pace| format!("pace    {pace}")));
    lines.extend(limits(&status.limits).map(|limits| format!("limits  {limits}")));
    if status.scrub.state != "never" || status.scrub.due_in_seconds.is_some() {
        lines.push(format!("scrub   {}", findings::progress(&status.scrub)));
        lines.extend(findings::due(&status.scrub).map(|due| format!("        {due}")));
    }
    lines.extend(findings::lines(status));
    lines.extend(findings::labelled("next", next(status)));
    lines.extend(status.uris.iter().map(|uri| format!("where   {uri}")));
    lines.push(String::new());
    lines.push(members(status));
    if !status.last_events.is_empty() {
        lines.push(String::new());
        lines.push("what happened last (all of it: uraid events)".to_string());
        let event = |e: &EventReport| format!("{}  {:8}  {}", e.time, e.severity, e.text);
        lines.extend(status.last_events.iter().map(event));
    }
    lines.join("\n")
}

/// The same without the numbers, for those who lay it out by themselves.
pub fn advice(status: &StatusReport) -> Advice {
    Advice {
        state: state(status),
        troubles: troubles(status),
        risk: risk(status),
        next: next(status),
    }
}

/// Level, members, chunk and size in one line.
pub fn layout(status: &StatusReport) -> String {
    format!(
        "{} {}+{}, chunk {}, {}{}",
        status.level,
        status.data,
        status.parity,
        show_size(status.chunk_bytes.into()),
        show_size(status.size_bytes),
        if status.read_only { ", read-only" } else { "" }
    )
}

/// How available it has been.
fn so_far(seen: &AvailabilityReport) -> String {
    let time = |millis: u64| show_duration(Duration::from_millis(millis));
    let known = seen.served_millis + seen.suspended_millis + seen.stopped_millis;
    let share = |share: Option<f64>| share.map_or("-".to_string(), show_share);
    let mut text = format!(
        "served {} of {}, with all redundancy {} of that",
        share(seen.served_share),
        time(known),
        share(seen.redundant_share),
    );
    if seen.unknown_millis > 0 {
        text += &format!("; of {} nobody knows", time(seen.unknown_millis));
    }
    if let Some(repair) = seen.repair_mean_millis {
        text += &format!("; {} repairs, of {} on average", seen.repairs, time(repair));
    }
    let since = seen.since.get(..10).unwrap_or(&seen.since);
    let origin = match seen.from_first_event {
        true => "the first event",
        false => "the oldest event that is left",
    };
    text + &format!(" (since {origin}, {since})")
}

/// How rebuilds and scrubs get on with clients, if more is said of that than a share.
fn pace(pace: &PaceReport) -> Option<String> {
    let speed = |what: &str, rate: u64| (rate > 0).then(|| format!("{} {what}", show_size(rate)));
    let bounds = [
        speed("a second at least", pace.rebuild_bytes_per_second_min),
        speed("a second at most", pace.rebuild_bytes_per_second_max),
    ];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    let rebuilds = (!bounds.is_empty()).then(|| format!("rebuilds fill {}", bounds.join(", ")));
    let target = (pace.latency_target_nanos > 0).then(|| {
        let left = u64::from(pace.left_permille) / 10;
        let target = show_latency(pace.latency_target_nanos);
        format!("they keep clients below {target} ({left} % of their share is left to them)")
    });
    let parts: Vec<String> = [rebuilds, target].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// How much clients get at most, if that is limited, and who had to wait for it.
pub fn limits(limits: &LimitsReport) -> Option<String> {
    let mut parts = Vec::new();
    if limits.iops > 0 {
        parts.push(format!("{} requests/s", limits.iops));
    }
    if limits.bytes_per_second > 0 {
        parts.push(format!("{}/s", show_size(limits.bytes_per_second)));
    }
    let waited = Duration::from_nanos(limits.delayed_nanos);
    let delayed = match limits.delayed {
        0 => "nobody had to wait yet".to_string(),
        count => format!("{count} had to wait, for {:.1} ms on average", {
            waited.as_secs_f64() * 1000.0 / count as f64
        }),
    };
    (!parts.is_empty()).then(|| format!("clients get {} at most; {delayed}", parts.join(" and ")))
}

/// The slots of members that are gone, as "member 2" or "members 1 and 2".
fn gone(status: &StatusReport) -> String {
    let mut found: Vec<String> = status
        .members
        .iter()
        .filter(|member| member.is_gone())
        .filter_map(|member| member.slot)
        .map(|slot| slot.to_string())
        .collect();
    match found.len() {
        0 => "no member".to_string(),
        1 => format!("member {}", found[0]),
        _ => {
            let last = found.pop().expect("two or more");
            format!("members {} and {last}", found.join(", "))
        }
    }
}

/// Who was slow for a moment is back by then.
const SLOW_FOR_LONG_SECONDS: u64 = 60;

/// The state in words.
pub fn state(status: &StatusReport) -> String {
    match status.state.as_str() {
        "optimal" => "optimal: every member is in sync".to_string(),
        "degraded" => format!(
            "degraded: without {}; everything is still served",
            gone(status)
        ),
        "rebuilding" => {
            let each: Vec<String> = status.rebuilds.iter().map(rebuild).collect();
            format!("rebuilding: {}", each.join("; "))
        }
        _ if status.suspended.is_some() => {
            "failed: nothing is written any more; what can be read is served".to_string()
        }
        _ => format!(
            "failed: too many members are out ({}); not everything is served",
            gone(status)
        ),
    }
}

/// A rebuild in one line.
pub fn rebuild(rebuild: &RebuildReport) -> String {
    let percent = match rebuild.total_bytes {
        0 => 100,
        total => rebuild.done_bytes.min(total) * 100 / total,
    };
    let eta = rebuild.eta_seconds.map_or(String::new(), |seconds| {
        format!(", {} left", show_duration(Duration::from_secs(seconds)))
    });
    format!(
        "member {} is at {percent} %, {}/s{eta}",
        rebuild.member,
        show_size(rebuild.bytes_per_second)
    )
}

fn troubles(status: &StatusReport) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(reason) = &status.suspended {
        lines.push(format!("writes are suspended: {reason}"));
    }
    for member in &status.members {
        if let (Some(slot), Some(seconds)) = (member.slot, member.slow_seconds) {
            let time = show_duration(Duration::from_secs(seconds));
            lines.push(format!(
                "member {slot} is slow and has not been read for {time}; it is tried now and then"
            ));
        }
    }
    for member in &status.members {
        let problems = member
            .health
            .as_ref()
            .map(|health| health.problems.join("; "));
        if let Some(problems) = problems.filter(|problems| !problems.is_empty()) {
            let path = member.path.as_deref().unwrap_or("a device");
            lines.push(format!("{path} is not well by its own word: {problems}"));
        }
    }
    if status.lost_blocks > 0 {
        lines.push(format!(
            "{} of data lost beyond redundancy: reading it fails until it is overwritten",
            show_size(status.lost_blocks * 4096)
        ));
    }
    lines
}

fn risk(status: &StatusReport) -> String {
    match (status.state.as_str(), status.redundancy_left) {
        ("failed", _) if status.suspended.is_some() => {
            "nothing that was flushed is lost yet; remove or overwrite no member".to_string()
        }
        ("failed", _) => "data is already out of reach; remove or overwrite no member".to_string(),
        (_, 0) => "the loss of one more member would lose data".to_string(),
        (_, 1) => "the loss of any one more member is survived".to_string(),
        (_, n) => format!("the loss of any {n} more members is survived"),
    }
}

/// What to type, if there is something to do; the most urgent first.
fn next(status: &StatusReport) -> Vec<String> {
    let name = &status.name;
    let mut steps = Vec::new();
    match (status.state.as_str(), &status.suspended) {
        ("failed", Some(_)) => steps.push(format!(
            "change nothing on the members; look for a controller, a cable, a power supply; then \
             stop the server (uraid stop --name {name}) and serve the array again"
        )),
        ("failed", None) => steps.push(format!(
            "bring members back, then type: uraid add --name {name} PATH"
        )),
        (_, Some(_)) => {
            steps.push("make room where the members are; writes go on by themselves".to_string());
        }
        _ => {}
    }
    if status.state == "degraded" || status.state == "rebuilding" {
        steps.extend(replacement(status));
    }
    if status.state == "rebuilding" {
        steps.push(format!(
            "to wait for the end, type: uraid rebuild --name {name}"
        ));
    }
    if status.lost_blocks > 0 {
        steps.push(findings::LOST_ADVICE.to_string());
    }
    steps.extend(status.members.iter().filter_map(|m| ailing(name, m)));
    steps
}

/// What to do about members that are gone and that nothing takes the place of yet.
fn replacement(status: &StatusReport) -> Option<String> {
    let name = &status.name;
    let gone = |m: &&MemberReport| m.is_gone() && m.slot.is_some();
    let vacant = status.members.iter().find(|m| {
        let filled = |r: &RebuildReport| Some(r.member) == m.slot;
        gone(m) && !status.rebuilds.iter().any(filled)
    })?;
    if status.members.iter().any(|member| member.state == "spare") {
        return Some(format!(
            "a spare takes over by itself; if no rebuild begins: uraid events --name {name}"
        ));
    }
    let returns = vacant.path.as_ref().map_or(String::new(), |path| {
        format!("; if it was a cable, plug it in: uraid add --name {name} {path}")
    });
    Some(format!(
        "put in a new disk and type: uraid rebuild --name {name} NEW{returns}"
    ))
}

/// What to do about a member that serves and does not do well.
fn ailing(name: &str, member: &MemberReport) -> Option<String> {
    let slot = member.slot.filter(|_| member.state == "in-sync")?;
    if let Some(seconds) = member.slow_seconds {
        return (seconds >= SLOW_FOR_LONG_SECONDS).then(|| format!(
            "member {slot} is slow: look at its cable and its SMART values; to move it while it \
             serves: uraid replace --name {name} {slot} NEW"
        ));
    }
    let errors = member.read_errors + member.write_errors + member.checksum_errors;
    (errors > 0).then(|| {
        format!(
            "member {slot} has had errors: uraid scrub start --name {name} --wait; if more come: \
             uraid replace --name {name} {slot} NEW"
        )
    })
}

fn members(status: &StatusReport) -> String {
    let all = || status.members.iter();
    // A device that was taken in anew is no longer what it was.
    let is_new = |old: &MemberReport| all().any(|m| m.uuid != old.uuid && m.path == old.path);
    let shown = all().filter(|m| !m.is_former() || m.path.is_none() || !is_new(m));
    let rows: Vec<Vec<String>> = shown.map(member).collect();
    table(&["slot", "state", "errors r/w/c", "uuid", "path"], &rows)
}

fn member(member: &MemberReport) -> Vec<String> {
    let errors = format!(
        "{}/{}/{}",
        member.read_errors, member.write_errors, member.checksum_errors
    );
    vec![
        member.slot.map_or("-".to_string(), |slot| slot.to_string()),
        state_of(member),
        errors,
        member.uuid.clone(),
        member.path.clone().unwrap_or("-".to_string()),
    ]
}

/// A member's state, and what is remarkable about it.
fn state_of(member: &MemberReport) -> String {
    let mut words = member.shown_state().to_string();
    if let Some(seconds) = member.slow_seconds {
        let duration = show_duration(Duration::from_secs(seconds));
        words += &format!(", slow for {duration}");
    }
    if let Some(health) = member
        .health
        .as_ref()
        .filter(|health| health.verdict != "well")
    {
        words += &format!(", {}", health.verdict);
    }
    if member.write_mostly {
        words += ", write-mostly";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::{LostRun, samples};

    #[test]
    fn exit_codes_follow_the_state() {
        let mut report = samples::optimal();
        for (state, code) in [
            ("optimal", 0),
            ("degraded", 3),
            ("rebuilding", 3),
            ("failed", 1),
        ] {
            report.state = state.to_string();
            assert_eq!(exit(&report).map_or(0, Exit::code), code, "{state}");
        }
    }

    #[test]
    fn a_healthy_array_asks_for_nothing() {
        let text = status(&samples::optimal());
        assert!(
            text.contains("array   demo (raid6 2+2, chunk 64 KiB, 2 GiB)"),
            "{text}"
        );
        assert!(text.contains("any 2 more members is survived"), "{text}");
        assert!(!text.contains("next"), "{text}");
        assert_eq!(
            text.lines().filter(|line| line.contains("in-sync")).count(),
            4
        );
    }

    #[test]
    fn a_degraded_array_says_what_to_type() {
        let mut report = samples::optimal();
        report.state = "degraded".to_string();
        report.redundancy_left = 0;
        report.members[1].state = "failed".to_string();
        report.members[3].state = "missing".to_string();
        report.members[3].path = None;
        let text = status(&report);
        assert!(text.contains("without members 1 and 3"), "{text}");
        assert!(text.contains("one more member would lose data"), "{text}");
        assert!(text.contains("uraid rebuild --name demo NEW"), "{text}");
    }

    #[test]
    fn a_rebuild_shows_progress_speed_and_time_left() {
        let text = status(&samples::rebuilding());
        assert!(
            text.contains("member 2 is at 50 %, 64 MiB/s, 8 s left"),
            "{text}"
        );
    }

    #[test]
    fn a_scrub_shows_with_what_it_found() {
        let mut report = samples::optimal();
        assert!(!status(&report).contains("scrub"));
        report.scrub.due_in_seconds = Some(3600);
        assert!(status(&report).contains("the next one is due in 1 h"));
        report.scrub.due_in_seconds = Some(0);
        assert!(status(&report).contains("the next one is due"));
        report.scrub = samples::scrub("running");
        report.scrub.members[1].bad_blocks = 2;
        let text = status(&report);
        assert!(text.contains("scrub   running: 25 %"), "{text}");
        assert!(
            text.contains("found   member 1 (/m1): 2 wrong blocks, 0 repaired"),
            "{text}"
        );
    }

    #[test]
    fn what_was_so_far_is_told() {
        let mut report = samples::optimal();
        assert!(!status(&report).contains("so far"));
        report.availability = Some(AvailabilityReport {
            since: "2026-01-31T23:59:59.123Z".to_string(),
            served_millis: 90_000_000,
            stopped_millis: 10_000_000,
            unknown_millis: 60_000,
            served_share: Some(0.9),
            redundant_share: Some(0.5),
            repairs: 2,
            repair_mean_millis: Some(200_000),
            ..AvailabilityReport::default()
        });
        let text = status(&report);
        let line = "of 1 d 3 h, with all redundancy";
        assert!(
            text.contains("so far  served 90") && text.contains(line),
            "{text}"
        );
        let rest = "; of 1 min 0 s nobody knows; 2 repairs, of 3 min 20 s on average (since the \
                    oldest event that is left, 2026-01-31)";
        assert!(text.contains(rest), "{text}");
    }

    #[test]
    fn the_pace_is_told_where_somebody_has_set_it() {
        let mut report = samples::optimal();
        assert!(!status(&report).contains("pace"));
        report.background.rebuild_bytes_per_second_max = 50 << 20;
        assert!(status(&report).contains("pace    rebuilds fill 50 MiB a second at most"));
        report.background.latency_target_nanos = 5_000_000;
        report.background.left_permille = 250;
        let text = status(&report);
        assert!(text.contains("below 5 ms (25 % of their share"), "{text}");
    }

    #[test]
    fn limits_are_told_with_what_they_cost() {
        let mut report = samples::optimal();
        assert!(!status(&report).contains("limits"));
        report.limits.iops = 500;
        assert!(status(&report).contains("limits  clients get 500 requests/s at most; nobody"));
        report.limits.bytes_per_second = 1 << 20;
        (report.limits.delayed, report.limits.delayed_nanos) = (4, 10_000_000);
        let text = status(&report);
        assert!(
            text.contains("500 requests/s and 1 MiB/s at most; 4 had to wait, for 2.5 ms"),
            "{text}"
        );
    }

    #[test]
    fn a_slow_member_is_told() {
        let mut report = samples::optimal();
        report.members[2].slow_seconds = Some(3);
        assert!(!status(&report).contains("cable"), "it may be over at once");
        report.members[2].slow_seconds = Some(61);
        let text = status(&report);
        assert!(text.contains("cable"), "{text}");
        assert!(
            text.contains("member 2 is slow and has not been read for"),
            "{text}"
        );
    }

    #[test]
    fn former_members_are_told_from_failed_ones_until_they_are_taken_in_anew() {
        let mut report = samples::optimal();
        let mut former = report.members[2].clone();
        (former.slot, former.state) = (None, "failed".to_string());
        (former.uuid, former.path) = ("f".to_string(), Some("/old".to_string()));
        report.members.push(former);
        let text = status(&report);
        assert!(text.contains("former"), "{text}");
        let mut anew = report.members[4].clone();
        (anew.uuid, anew.state) = ("n".to_string(), "spare".to_string());
        report.members.push(anew);
        let text = status(&report);
        assert!(text.contains("spare") && !text.contains("former"), "{text}");
    }

    #[test]
    fn losses_are_listed_with_what_to_do() {
        let mut report = samples::optimal();
        report.lost_blocks = 2;
        report.lost = vec![LostRun {
            offset_bytes: 40960,
            length_bytes: 8192,
        }];
        let text = status(&report);
        assert!(text.contains("lost    8 KiB at byte 40960"), "{text}");
        assert!(text.contains("next    restore what is lost"), "{text}");
    }

    #[test]
    fn lost_blocks_and_suspension_are_told() {
        let mut report = samples::optimal();
        report.state = "failed".to_string();
        report.lost_blocks = 3;
        report.suspended = Some("every member answers EIO".to_string());
        let text = status(&report);
        assert!(text.contains("12 KiB of data lost"), "{text}");
        assert!(
            text.contains("suspended: every member answers EIO"),
            "{text}"
        );
        assert!(text.contains("look for a controller"), "{text}");
        assert!(!text.contains("too many members"), "{text}");
        report.suspended = None;
        assert!(status(&report).contains("uraid add --name demo"));
    }

    #[test]
    fn a_spare_is_waited_for_and_a_member_that_failed_may_come_back() {
        let mut report = samples::optimal();
        report.state = "degraded".to_string();
        report.members[1].state = "failed".to_string();
        let text = status(&report);
        assert!(text.contains("uraid add --name demo /m1"), "{text}");
        report.members.push(samples::member(None, "spare"));
        let text = status(&report);
        assert!(text.contains("a spare takes over by itself"), "{text}");
        assert!(!text.contains("put in a new disk"), "{text}");
    }

    #[test]
    fn a_rebuild_of_one_member_leaves_the_other_to_be_replaced() {
        let mut report = samples::rebuilding();
        assert!(!status(&report).contains("put in a new disk"));
        report.members[0].state = "missing".to_string();
        report.members[0].path = None;
        let text = status(&report);
        assert!(text.contains("next    put in a new disk"), "{text}");
        assert!(text.contains("\n        to wait for the end"), "{text}");
    }

    #[test]
    fn a_member_that_does_not_do_well_is_named_while_all_is_in_sync() {
        let mut report = samples::optimal();
        report.members[2].slow_seconds = Some(70);
        report.members[3].checksum_errors = 4;
        let text = status(&report);
        assert!(text.contains("in-sync, slow for"), "{text}");
        assert!(text.contains("uraid replace --name demo 2 NEW"), "{text}");
        assert!(
            text.contains("member 3 has had errors: uraid scrub"),
            "{text}"
        );
    }

    #[test]
    fn what_happened_last_comes_last() {
        let mut report = samples::optimal();
        report.last_events = vec![samples::event("critical", "it broke")];
        let text = status(&report);
        assert!(text.ends_with("critical  it broke"), "{text}");
    }
}

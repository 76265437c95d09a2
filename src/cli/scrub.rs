//! `uraid scrub`: verifying a served array, and what came of it.

use super::args::{ScrubAction, ScrubArgs, ScrubStatusArgs, ServerArgs};
use super::dry_run::{self, DryRunArgs};
use super::findings::{self, Verdict};
use super::output::Output;
use super::status::watch;
use super::target;
use super::wait::until_scrubbed;
use crate::control::client::Client;
use crate::control::wire::{EmptyBody, Order, ScrubStartBody, StatusReport};
use crate::failure::{Exit, Failure};

/// Does what was asked of the scrub.
pub fn run(args: &ScrubArgs, output: Output) -> Result<Option<Exit>, Failure> {
    match &args.action {
        ScrubAction::Start(args) => {
            let body = ScrubStartBody {
                bytes_per_second_max: args.rate_max,
            };
            let how = (args.wait, args.dry_run);
            carry_out(&args.server, &Order::ScrubStart(body), how, output)
        }
        ScrubAction::Resume(args) => {
            let order = Order::ScrubResume(EmptyBody {});
            carry_out(&args.server, &order, (args.wait, args.dry_run), output)
        }
        ScrubAction::Pause(args) => {
            let order = Order::ScrubPause(EmptyBody {});
            carry_out(&args.server, &order, (false, args.dry_run), output)
        }
        ScrubAction::Stop(args) => {
            let order = Order::ScrubStop(EmptyBody {});
            carry_out(&args.server, &order, (false, args.dry_run), output)
        }
        ScrubAction::Status(args) => status(args, output),
    }
}

fn carry_out(
    server: &ServerArgs,
    order: &Order,
    (wait, dry_run): (bool, DryRunArgs),
    output: Output,
) -> Result<Option<Exit>, Failure> {
    let mut client = target::resolve(server)?;
    let message = client.carry_out(order, dry_run.mode())?;
    if dry_run.dry_run {
        return dry_run::tell(output, &message).map(|()| None);
    }
    if !wait {
        return output.done(&message).map(|()| None);
    }
    output.note(&message);
    wait_for_end(&mut client, output)
}

fn status(args: &ScrubStatusArgs, output: Output) -> Result<Option<Exit>, Failure> {
    let mut client = target::resolve(&args.server)?;
    if args.watch {
        return watch(&client, output, text);
    }
    if args.wait {
        return wait_for_end(&mut client, output);
    }
    show(&client.status()?, output)
}

fn wait_for_end(client: &mut Client, output: Output) -> Result<Option<Exit>, Failure> {
    let status = until_scrubbed(output, client)?;
    let shown = show(&status, output)?;
    if status.scrub.state == "stopped" {
        return Err(Failure::failed(
            "the scrub was stopped before it had looked at everything; `uraid scrub start` \
             begins anew",
        ));
    }
    Ok(shown)
}

fn show(status: &StatusReport, output: Output) -> Result<Option<Exit>, Failure> {
    output.result(&text(status), status)?;
    Ok(Verdict::of(&status.scrub).exit())
}

fn text(status: &StatusReport) -> String {
    let mut lines = vec![format!(
        "scrub   {}: {}",
        status.name,
        findings::progress(&status.scrub)
    )];
    lines.extend(findings::lines(status));
    lines.extend(result(status).map(|text| format!("result  {text}")));
    lines.extend(next(status).map(|text| format!("next    {text}")));
    lines.join("\n")
}

/// What the scrub comes to, once it has ended.
fn result(status: &StatusReport) -> Option<&'static str> {
    if status.scrub.state != "finished" {
        return None;
    }
    Some(match Verdict::of(&status.scrub) {
        Verdict::Sound => "everything in use is as it should be",
        Verdict::Repaired => "all that was wrong has been repaired",
        Verdict::Repairable if status.read_only => {
            "what is wrong can be repaired, but this server is read-only"
        }
        Verdict::Repairable => "not all that was wrong could be repaired",
        Verdict::Inconsistent => "rows are inconsistent",
        Verdict::Lost => "data is lost",
    })
}

/// What to type or do, if there is something.
fn next(status: &StatusReport) -> Option<String> {
    let name = &status.name;
    match (status.scrub.state.as_str(), Verdict::of(&status.scrub)) {
        ("running", _) => Some(format!(
            "to wait for the end, type: uraid scrub status --name {name} --wait"
        )),
        ("paused", _) => Some(format!("to go on, type: uraid scrub resume --name {name}")),
        ("never", _) => Some(format!("to begin, type: uraid scrub start --name {name}")),
        (_, Verdict::Lost) => Some(findings::LOST_ADVICE.to_string()),
        (_, Verdict::Inconsistent) => Some(findings::INCONSISTENT_ADVICE.to_string()),
        (_, Verdict::Repairable) if status.read_only => Some(format!(
            "serve it without --read-only, then type: uraid scrub start --name {name}"
        )),
        (_, Verdict::Repairable) => Some(format!(
            "see the log for why, then type: uraid scrub start --name {name}"
        )),
        (_, Verdict::Sound | Verdict::Repaired) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::{LostRun, samples};

    fn report(state: &str) -> StatusReport {
        StatusReport {
            scrub: samples::scrub(state),
            ..samples::optimal()
        }
    }

    #[test]
    fn a_clean_scrub_asks_for_nothing() {
        let text = text(&report("finished"));
        assert!(text.contains("as it should be"), "{text}");
        assert!(!text.contains("next"), "{text}");
    }

    #[test]
    fn each_state_says_what_to_type() {
        for (state, typed) in [
            ("never", "uraid scrub start --name demo"),
            ("running", "uraid scrub status --name demo --wait"),
            ("paused", "uraid scrub resume --name demo"),
        ] {
            let text = text(&report(state));
            assert!(text.contains(typed), "{text}");
        }
    }

    #[test]
    fn losses_are_listed_with_what_to_do() {
        let mut report = report("finished");
        report.scrub.lost_blocks = 3;
        report.lost = vec![LostRun {
            offset_bytes: 40960,
            length_bytes: 12288,
        }];
        let text = text(&report);
        assert!(text.contains("lost    12 KiB at byte 40960"), "{text}");
        assert!(text.contains("from a backup, or overwrite"), "{text}");
    }

    #[test]
    fn what_a_read_only_server_found_is_left_for_another() {
        let mut report = report("finished");
        report.read_only = true;
        report.scrub.members[0].bad_blocks = 1;
        let text = text(&report);
        assert!(text.contains("without --read-only"), "{text}");
    }
}

//! `uraid alert`.

use super::args::{AlertAction, AlertArgs};
use super::output::Output;
use super::target;
use crate::control::wire::{AlertResult, AlertTestReport};
use crate::failure::{Exit, Failure};

/// Does what was asked.
pub fn run(args: &AlertArgs, output: Output) -> Result<Option<Exit>, Failure> {
    let AlertAction::Test(args) = &args.action;
    let report = target::resolve(&args.server)?.test_alerts()?;
    if report.results.is_empty() {
        return Err(Failure::failed(
            "this server sends alerts nowhere; start it with --alert-exec, --alert-webhook or \
             --alert-mail",
        ));
    }
    output.result(&text(&report), &report)?;
    let failed = report.results.iter().any(|result| result.error.is_some());
    Ok(failed.then_some(Exit::Failed))
}

fn text(report: &AlertTestReport) -> String {
    let line = |result: &AlertResult| match &result.error {
        None => format!("{}: arrived", result.channel),
        Some(why) => format!("{}: did not arrive: {why}", result.channel),
    };
    let lines: Vec<String> = report.results.iter().map(line).collect();
    lines.join("\n")
}

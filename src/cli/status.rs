//! `uraid status`.

use super::args::StatusArgs;
use super::output::Output;
use super::{render, target};
use crate::control::client::Client;
use crate::control::wire::StatusReport;
use crate::failure::{Exit, Failure};
use std::io::IsTerminal;
use std::time::Duration;

/// Between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Moves to the top left corner and clears the screen.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

/// Shows the status, once or until interrupted. The exit code says how it is.
pub fn run(args: &StatusArgs, output: Output) -> Result<Option<Exit>, Failure> {
    let client = target::resolve(&args.server)?;
    if args.watch {
        return watch(&client, output, render::status);
    }
    let status = client.status()?;
    output.result(&render::status(&status), &status)?;
    Ok(render::exit(&status))
}

/// Shows the status as `render` puts it, again and again; ends when the server does, or by a
/// signal.
pub fn watch(
    client: &Client,
    output: Output,
    render: impl Fn(&StatusReport) -> String,
) -> Result<Option<Exit>, Failure> {
    let screen = !output.json && std::io::stdout().is_terminal();
    loop {
        let status = client.status()?;
        let clear = if screen { CLEAR_SCREEN } else { "" };
        output.result(&format!("{clear}{}", render(&status)), &status)?;
        std::thread::sleep(WATCH_INTERVAL);
    }
}

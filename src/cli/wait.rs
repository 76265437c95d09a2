//! Waiting until no rebuild is left to do, or a scrub has ended, with a progress bar.

use super::output::Output;
use super::{findings, render};
use crate::control::client::Client;
use crate::control::wire::StatusReport;
use crate::failure::Failure;
use crate::server::local::LocalArray;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How often a server is asked that does not say how it is.
const TRIES_MAX: usize = 4;

/// A spare that has not taken over by then is not going to.
const START_MAX: Duration = Duration::from_secs(30);

/// Between two lines where the output is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Where an array stands on its way to being whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// A member is being filled.
    Rebuilding,
    /// A spare is there for a place that is empty, but has not begun.
    Starting,
    /// Nothing more happens by itself.
    Settled,
}

/// Tells the stage from the members' states.
pub fn stage(status: &StatusReport) -> Stage {
    let any = |states: &[&str]| {
        status
            .members
            .iter()
            .any(|m| states.contains(&m.state.as_str()))
    };
    let vacant = status
        .members
        .iter()
        .any(|m| m.slot.is_some() && m.is_gone());
    if !status.rebuilds.is_empty() || any(&["rebuilding", "replacing"]) {
        Stage::Rebuilding
    } else if vacant && any(&["spare"]) && status.state != "failed" && !status.read_only {
        Stage::Starting
    } else {
        Stage::Settled
    }
}

/// What can be waited for: an array behind a server, or one in this process.
pub trait Watched {
    /// How it is now.
    fn status(&mut self) -> Result<StatusReport, Failure>;
    /// Lets time pass.
    fn pause(&mut self, duration: Duration);
}

impl Watched for Client {
    fn status(&mut self) -> Result<StatusReport, Failure> {
        // A server that is being upgraded may close a connection without an answer, or say that it
        // is ending; later ones wait for the new program.
        let mut status = Client::status(self);
        for _ in 1..TRIES_MAX {
            if status.is_ok() {
                break;
            }
            self.pause(POLL_INTERVAL);
            status = Client::status(self);
        }
        status
    }

    fn pause(&mut self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

impl Watched for LocalArray {
    fn status(&mut self) -> Result<StatusReport, Failure> {
        LocalArray::status(self)
    }

    fn pause(&mut self, duration: Duration) {
        self.run_for(duration);
    }
}

/// How a wait ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Settled {
    /// The last status.
    pub status: StatusReport,
    /// Whether a rebuild was seen.
    pub rebuilt: bool,
}

/// Waits until nothing more happens to the array by itself; shows progress meanwhile.
pub fn until_settled(output: Output, array: &mut impl Watched) -> Result<Settled, Failure> {
    let mut rebuilt = false;
    let mut progress = Progress::new(output);
    let mut idle_since = Instant::now();
    loop {
        let status = array.status()?;
        match stage(&status) {
            Stage::Settled => {
                progress.end();
                return Ok(Settled { status, rebuilt });
            }
            Stage::Rebuilding => {
                rebuilt = true;
                idle_since = Instant::now();
            }
            Stage::Starting if idle_since.elapsed() > START_MAX => {
                progress.end();
                return Err(Failure::failed(format!(
                    "no spare has taken over in {} s; see the server's log",
                    START_MAX.as_secs()
                )));
            }
            Stage::Starting => {}
        }
        if let Some(rebuild) = &status.rebuild {
            let text = render::rebuild(rebuild);
            progress.show(rebuild.done_bytes, rebuild.total_bytes, text);
        }
        array.pause(POLL_INTERVAL);
    }
}

/// Waits until no scrub is under way; shows progress meanwhile. One that is paused is waited for.
pub fn until_scrubbed(output: Output, array: &mut impl Watched) -> Result<StatusReport, Failure> {
    let mut progress = Progress::new(output);
    loop {
        let status = array.status()?;
        let scrub = &status.scrub;
        if !matches!(scrub.state.as_str(), "running" | "paused") {
            progress.end();
            return Ok(status);
        }
        let text = format!("scrub {}", findings::progress(scrub));
        progress.show(scrub.done_bytes, scrub.total_bytes, text);
        array.pause(POLL_INTERVAL);
    }
}

/// A bar on a terminal, now and then a line elsewhere, nothing with `--json`.
struct Progress {
    bar: ProgressBar,
    output: Output,
    last_line: Option<Instant>,
}

impl Progress {
    fn new(output: Output) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if output.json {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = "{msg} [{bar:30}] {bytes} of {total_bytes}";
        let style = ProgressStyle::with_template(template).expect("a valid template");
        bar.set_style(style.progress_chars("=> "));
        Progress {
            bar,
            output,
            last_line: None,
        }
    }

    fn show(&mut self, done_bytes: u64, total_bytes: u64, text: String) {
        if !self.bar.is_hidden() {
            self.bar.set_length(total_bytes);
            self.bar.set_position(done_bytes);
            self.bar.set_message(text);
        } else if self
            .last_line
            .is_none_or(|last| last.elapsed() >= LINE_INTERVAL)
        {
            self.last_line = Some(Instant::now());
            self.output.note(&text);
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::samples;

    const QUIET: Output = Output { json: true };

    #[test]
    fn stages_are_told_apart() {
        assert_eq!(stage(&samples::optimal()), Stage::Settled);
        assert_eq!(stage(&samples::rebuilding()), Stage::Rebuilding);
        let mut degraded = samples::optimal();
        degraded.state = "degraded".to_string();
        degraded.members[0].state = "missing".to_string();
        assert_eq!(stage(&degraded), Stage::Settled);
        degraded.members.push(samples::member(None, "spare"));
        assert_eq!(stage(&degraded), Stage::Starting);
        degraded.state = "failed".to_string();
        assert_eq!(stage(&degraded), Stage::Settled);
    }

    /// Shows one status after the other; the server is gone after the last.
    struct Script(Vec<StatusReport>);

    impl Watched for Script {
        fn status(&mut self) -> Result<StatusReport, Failure> {
            self.0
                .pop()
                .ok_or_else(|| Failure::failed("no server answers"))
        }

        fn pause(&mut self, _: Duration) {}
    }

    #[test]
    fn waiting_ends_with_the_rebuild() {
        let mut script = Script(vec![
            samples::optimal(),
            samples::rebuilding(),
            samples::rebuilding(),
        ]);
        let settled = until_settled(QUIET, &mut script).unwrap();
        assert_eq!(
            (settled.status.state.as_str(), settled.rebuilt),
            ("optimal", true)
        );
        assert!(script.0.is_empty());
    }

    #[test]
    fn waiting_for_a_scrub_lasts_through_a_pause() {
        let scrub = |state: &str| StatusReport {
            scrub: samples::scrub(state),
            ..samples::optimal()
        };
        let mut script = Script(vec![scrub("finished"), scrub("paused"), scrub("running")]);
        let status = until_scrubbed(QUIET, &mut script).unwrap();
        assert_eq!(status.scrub.state, "finished");
        assert!(script.0.is_empty());
    }

    #[test]
    fn waiting_ends_with_the_server() {
        let mut script = Script(vec![samples::rebuilding()]);
        let failure = until_settled(QUIET, &mut script).unwrap_err();
        assert_eq!(failure.message, "no server answers");
    }
}

//! How far the measurement is: a bar on a terminal, a line for each layout elsewhere, nothing with
//! `--json`.

use crate::cli::output::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// Between two turns of the clock in the bar.
const TURN: Duration = Duration::from_millis(500);

/// Steps of a measurement.
pub struct Steps {
    bar: ProgressBar,
    output: Output,
    begun: u64,
}

impl Steps {
    /// So many steps lie ahead.
    pub fn new(output: Output, steps: usize) -> Steps {
        let target = if output.json {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let template = "[{bar:30}] {pos}/{len} {elapsed} {wide_msg}";
        let style = ProgressStyle::with_template(template).expect("a valid template");
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(TURN);
        Steps {
            bar,
            output,
            begun: 0,
        }
    }

    /// Something that is no step.
    pub fn prepare(&self, what: &str) {
        self.bar.set_message(what.to_string());
        if self.bar.is_hidden() {
            self.output.note(what);
        }
    }

    /// The next step begins.
    pub fn next(&mut self, what: &str) {
        self.bar.set_position(self.begun);
        self.bar.set_message(what.to_string());
        self.begun += 1;
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! What happened, line by line. Seeds run without it; a failing one is played again with it.

use std::collections::VecDeque;
use std::fmt;

/// Most lines that are kept.
const LINES_MAX: usize = 4000;

/// The last lines of a play.
#[derive(Default)]
pub struct Trace {
    on: bool,
    /// Also to standard error at once, for plays that end in a panic or not at all.
    echo: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// A trace that keeps lines, or nothing.
    pub fn new(on: bool, echo: bool) -> Trace {
        Trace {
            on,
            echo,
            lines: VecDeque::new(),
        }
    }

    /// Adds a line; `text` is put together only if it is kept.
    pub fn line(&mut self, text: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        let line = text();
        if self.echo {
            eprintln!("{line}");
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The last lines, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &str> {
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(count))
            .map(String::as_str)
    }
}

/// An I/O, request or the like in few words.
pub fn short(value: &dyn fmt::Debug) -> String {
    const CHARACTERS_MAX: usize = 200;
    let text = format!("{value:?}");
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

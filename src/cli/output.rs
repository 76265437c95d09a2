//! What commands print: for people, or with `--json` for programs.

use crate::control::wire::{DoneBody, ErrorBody};
use crate::failure::Failure;
use serde::Serialize;
use std::io::{self, Write};

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON on standard output instead of text.
    pub json: bool,
}

impl Output {
    /// Prints a result.
    pub fn result(self, text: &str, value: &impl Serialize) -> Result<(), Failure> {
        if self.json {
            self.json(value)
        } else {
            print(text)
        }
    }

    /// Prints a result on one line, for those who read line by line.
    pub fn line(self, text: &str, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).expect("plain data becomes JSON");
        print(if self.json { &line } else { text })
    }

    /// Prints a sentence that says what was done.
    pub fn done(self, message: &str) -> Result<(), Failure> {
        self.result(
            message,
            &DoneBody {
                message: message.to_string(),
            },
        )
    }

    /// Tells people what goes on; programs do not need it.
    pub fn note(self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    /// Says why the command failed: on standard error, and with `--json` on standard output too.
    pub fn failure(self, failure: &Failure) {
        eprintln!("uraid: {failure}");
        if self.json {
            let body = ErrorBody {
                error: failure.message.clone(),
                exit_code: failure.exit.code(),
            };
            // The exit code says it as well, should standard output be gone.
            let _ = self.json(&body);
        }
    }

    fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        print(&serde_json::to_string_pretty(value).expect("plain data becomes JSON"))
    }
}

/// Writes `text` and a newline. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(format!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Lines up `rows` under `header`, two spaces between columns.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        assert_eq!(row.len(), header.len(), "every row has every column");
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join("  ").trim_end().to_string()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [
            vec!["1".into(), "in-sync".into()],
            vec!["10".into(), "ä".into()],
        ];
        assert_eq!(
            table(&["slot", "state"], &rows),
            "slot  state\n1     in-sync\n10    ä"
        );
    }
}

//! The server's log: lines on standard error, ready for journald or a terminal.

use std::io::Write;
use std::sync::LazyLock;

/// journald sets this for a process whose standard error it reads; it then understands the
/// priorities of syslog in front of each line (sd-daemon(3)).
static JOURNAL: LazyLock<bool> = LazyLock::new(|| std::env::var_os("JOURNAL_STREAM").is_some());

/// Normal progress.
pub fn info(text: &str) {
    write("<6>", "", text);
}

/// Something an operator should look at.
pub fn warning(text: &str) {
    write("<4>", "warning: ", text);
}

fn write(priority: &str, word: &str, text: &str) {
    let mut lines = String::new();
    for line in text.lines() {
        lines.push_str(&format_line(*JOURNAL, priority, word, line));
    }
    // There is nowhere to report that standard error is gone, and service goes on without it.
    let _ = std::io::stderr().lock().write_all(lines.as_bytes());
}

fn format_line(journal: bool, priority: &str, word: &str, line: &str) -> String {
    if journal {
        format!("{priority}{line}\n")
    } else {
        format!("uraid: {word}{line}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_gets_priorities_and_people_get_words() {
        assert_eq!(format_line(true, "<4>", "warning: ", "x"), "<4>x\n");
        assert_eq!(
            format_line(false, "<4>", "warning: ", "x"),
            "uraid: warning: x\n"
        );
    }
}

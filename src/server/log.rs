//! The server's log: lines on standard error, ready for journald or a terminal.

use std::io::Write;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use uraid_io::driver::StreamId;

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

/// Most lines of a thread about its clients in one second.
const CHATTER_LINES_MAX: u32 = 20;

/// What is logged about clients: a crowd of them must not fill the log.
pub struct Chatter {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Default for Chatter {
    fn default() -> Chatter {
        Chatter {
            since: Instant::now(),
            lines: 0,
            left_out: 0,
        }
    }
}

impl Chatter {
    /// Normal progress of the client with this number.
    pub fn info(&mut self, client: StreamId, text: &str) {
        self.lines_at(Instant::now(), client, text)
            .iter()
            .for_each(|line| info(line));
    }

    /// What to log for one more line at this time.
    fn lines_at(&mut self, now: Instant, client: StreamId, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            let left_out = std::mem::take(&mut self.left_out);
            if left_out > 0 {
                lines.push(format!("left out {left_out} lines about clients"));
            }
            (self.since, self.lines) = (now, 0);
        }
        if self.lines < CHATTER_LINES_MAX {
            self.lines += 1;
            lines.push(format!("client {}: {text}", client.0));
        } else {
            self.left_out += 1;
        }
        lines
    }
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
    fn a_crowd_of_clients_does_not_fill_the_log() {
        let mut chatter = Chatter::default();
        let now = chatter.since;
        let lines = |chatter: &mut Chatter, at| chatter.lines_at(at, StreamId(7), "hello");
        let logged: usize = (0..1000).map(|_| lines(&mut chatter, now).len()).sum();
        assert_eq!(logged, CHATTER_LINES_MAX as usize);
        let later = lines(&mut chatter, now + Duration::from_secs(1));
        assert_eq!(
            later,
            ["left out 980 lines about clients", "client 7: hello"]
        );
    }

    #[test]
    fn journald_gets_priorities_and_people_get_words() {
        assert_eq!(format_line(true, "<4>", "warning: ", "x"), "<4>x\n");
        assert_eq!(
            format_line(false, "<4>", "warning: ", "x"),
            "uraid: warning: x\n"
        );
    }
}

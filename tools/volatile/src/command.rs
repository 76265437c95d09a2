//! Commands to a server, one a line, as a person or a script gives them.

use crate::disk::Disk;
use std::time::{Duration, Instant};

/// What can be said.
pub const HELP: &str = "\
power-loss            every unflushed sector of every disk is kept, lost or garbage; the end
stop                  every disk writes its cache back; the end
DISK lose-write       the next write is answered but not done
DISK fail reads       reads answer EIO; also: writes, flushes
DISK full             writes answer ENOSPC
DISK lie              flushes are answered but flush nothing
DISK hang SECONDS     requests wait so long
DISK slow MS          every request takes so much longer
DISK flip OFFSET BIT  one bit of the content changes
DISK heal             nothing is wrong any more";

/// What a line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// The power fails.
    PowerLoss,
    /// An orderly end.
    Stop,
    /// Something happens to one disk.
    Disk(usize, Change),
}

/// What happens to a disk; see [`HELP`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The help says it.
pub enum Change {
    LoseWrite,
    FailReads,
    FailWrites,
    FailFlushes,
    Full,
    Lie,
    Hang(Duration),
    Slow(Duration),
    Flip { offset: u64, bit: u8 },
    Heal,
}

/// Reads a line.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(line: &str) -> Result<Command, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["power-loss"] => Ok(Command::PowerLoss),
        ["stop"] => Ok(Command::Stop),
        [disk, ref change @ ..] => Ok(Command::Disk(number(disk)?, parse_change(change)?)),
        [] => Err("an empty line".into()),
    }
}

fn parse_change(words: &[&str]) -> Result<Change, String> {
    Ok(match *words {
        ["lose-write"] => Change::LoseWrite,
        ["fail", "reads"] => Change::FailReads,
        ["fail", "writes"] => Change::FailWrites,
        ["fail", "flushes"] => Change::FailFlushes,
        ["full"] => Change::Full,
        ["lie"] => Change::Lie,
        ["hang", seconds] => Change::Hang(Duration::from_secs(number(seconds)?)),
        ["slow", ms] => Change::Slow(Duration::from_millis(number(ms)?)),
        ["flip", offset, bit] => Change::Flip {
            offset: number(offset)?,
            bit: number(bit)?,
        },
        ["heal"] => Change::Heal,
        _ => return Err(format!("{:?} is not known", words.join(" "))),
    })
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse()
        .map_err(|_| format!("{word:?} is no number that fits"))
}

impl Change {
    /// Makes it happen.
    pub fn apply(self, disk: &Disk) {
        disk.set_faults(|faults| match self {
            Change::LoseWrite => faults.writes_to_lose += 1,
            Change::FailReads => faults.fail_reads = true,
            Change::FailWrites => faults.fail_writes = true,
            Change::FailFlushes => faults.fail_flushes = true,
            Change::Full => faults.full = true,
            Change::Lie => faults.lying_flush = true,
            Change::Hang(time) => faults.hangs_until = Some(Instant::now() + time),
            Change::Slow(delay) => faults.delay = delay,
            Change::Heal => *faults = Default::default(),
            Change::Flip { .. } => {}
        });
        if let Change::Flip { offset, bit } = self {
            disk.flip_bit(offset, bit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_refused() {
        let flip = Change::Flip {
            offset: 4096,
            bit: 3,
        };
        assert_eq!(parse("power-loss"), Ok(Command::PowerLoss));
        assert_eq!(parse("2 flip 4096 3"), Ok(Command::Disk(2, flip)));
        assert_eq!(
            parse("0 fail flushes"),
            Ok(Command::Disk(0, Change::FailFlushes))
        );
        for wrong in ["", "x heal", "1", "1 fail", "1 hang soon", "1 flip 0 300"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

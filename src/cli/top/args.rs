//! `uraid top` as it is typed.

use crate::cli::args::ServerArgs;
use clap::Args;
use std::time::Duration;

/// `uraid top`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid top --name demo
  uraid top --once --size 120x40

Without --name and --control all arrays are shown that have a control socket in the default
directory. Keys: q quits, left and right go to other arrays, up and down through the members,
p pauses, h explains. Times are 50 and 99 of 100 operations since the last look, to the next power of two.")]
pub struct TopArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub interval: u64,
    /// Print one screen of each array as text, and end
    #[arg(long)]
    pub once: bool,
    /// How large that is
    #[arg(long, value_name = "COLUMNSxLINES", default_value = "80x24", requires = "once",
          value_parser = parse_size)]
    pub size: Size,
}

impl TopArgs {
    /// Between two looks.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }
}

/// Size of a screen, in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub lines: u16,
}

/// Largest side of a screen that is printed.
const SIDE_MAX: u16 = 500;

fn parse_size(text: &str) -> Result<Size, String> {
    let side = |text: &str| {
        text.parse()
            .ok()
            .filter(|side| (1..=SIDE_MAX).contains(side))
    };
    let (columns, lines) = text.split_once('x').unwrap_or((text, ""));
    match (side(columns), side(lines)) {
        (Some(columns), Some(lines)) => Ok(Size { columns, lines }),
        _ => Err(format!(
            "a size is like 80x24, at most {SIDE_MAX}x{SIDE_MAX}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_columns_and_lines() {
        let (columns, lines) = (120, 40);
        assert_eq!(parse_size("120x40"), Ok(Size { columns, lines }));
        for bad in ["", "80", "x24", "80x", "0x24", "80x501", "80x24x1", "-1x2"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}

//! Numbers as bars, lines and short words.

use crate::sizes::show_size;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The last `width` of these values, the largest of which reaches the top.
pub fn sparkline(values: &[u64], width: usize) -> String {
    let shown = &values[values.len().saturating_sub(width)..];
    let largest = shown.iter().copied().max().unwrap_or(0).max(1);
    let level = |value: &u64| match value {
        0 => ' ',
        _ => LEVELS[(u128::from(*value) * 8).div_ceil(largest.into()) as usize - 1],
    };
    let line: String = shown.iter().map(level).collect();
    format!("{line:>width$}")
}

/// A part of a whole, in thousandths, as a bar of so many characters.
pub fn bar(permille: u64, width: usize) -> String {
    let full = (permille.min(1000) as usize * width).div_ceil(1000);
    format!("{}{}", "█".repeat(full), "░".repeat(width - full))
}

/// A part of a whole in thousandths; of nothing, none is there.
pub fn permille(part: u64, whole: u64) -> u64 {
    (u128::from(part.min(whole)) * 1000)
        .checked_div(whole.into())
        .unwrap_or(0) as u64
}

/// A latency in four characters, as far as they go: `-`, `64µ`, `8.2m`, `131m`, `16s`.
pub fn micros(micros: u64) -> String {
    match micros {
        0 => "-".to_string(),
        1..1000 => format!("{micros}µ"),
        1000..10_000 => format!("{:.1}m", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{}m", micros / 1000),
        _ => format!("{}s", micros / 1_000_000),
    }
}

/// A number in five characters: `0`, `999`, `1.2k`, `34k`, `5.6M`.
pub fn count(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        1000..10_000 => format!("{:.1}k", number as f64 / 1e3),
        10_000..1_000_000 => format!("{}k", number / 1000),
        _ => format!("{:.1}M", number as f64 / 1e6),
    }
}

/// Bytes per second as MiB/s with as many digits as say something.
pub fn mebibytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    match mebibytes {
        _ if bytes == 0 => "0".to_string(),
        _ if mebibytes < 100.0 => format!("{mebibytes:.1}"),
        _ => format!("{mebibytes:.0}"),
    }
}

/// Bytes per second.
pub fn speed(bytes: u64) -> String {
    format!("{}/s", show_size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_the_last_values_against_their_largest() {
        assert_eq!(sparkline(&[100, 0, 1, 4, 8], 4), " ▁▄█");
        assert_eq!(sparkline(&[3], 3), "  █");
        assert_eq!(sparkline(&[], 2), "  ");
        assert_eq!(sparkline(&[u64::MAX, 1], 2), "█▁");
    }

    #[test]
    fn bars_are_full_when_all_is_done_and_not_empty_when_something_is() {
        assert_eq!(bar(0, 4), "░░░░");
        assert_eq!(bar(1, 4), "█░░░");
        assert_eq!(bar(1000, 4), "████");
        assert_eq!(bar(2000, 4), "████");
        assert_eq!((permille(1, 0), permille(1, 4)), (0, 250));
        assert_eq!(permille(u64::MAX, u64::MAX), 1000);
    }

    #[test]
    fn numbers_fit_their_columns() {
        for number in [0, 7, 999, 1000, 9_999, 10_000, 999_999, 1 << 24] {
            assert!(count(number).len() <= 5, "{}", count(number));
            assert!(micros(number).chars().count() <= 5, "{}", micros(number));
        }
        assert_eq!(micros(8192), "8.2m");
        assert_eq!(mebibytes(3 << 19), "1.5");
    }
}

//! Sizes as people type and read them; suffixes are binary (1K = 1024).

use std::time::Duration;

const SUFFIXES: [char; 5] = ['K', 'M', 'G', 'T', 'P'];

/// Reads `65536`, `64K`, `64k`, `64KiB`, `1G`. For clap; the error completes
/// "invalid value ...: ".
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits_len = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits_len);
    let shift = suffix_shift(suffix)
        .filter(|_| !digits.is_empty())
        .ok_or_else(|| {
            "a size is a number of bytes with an optional binary suffix, like 4096, 64K, 1G or 2T"
                .to_string()
        })?;
    let too_large = || format!("{text} is more than 2^64 bytes");
    let number: u64 = digits.parse().map_err(|_| too_large())?;
    number.checked_mul(1 << shift).ok_or_else(too_large)
}

/// Reads a speed: a size, with or without `/s`. Zero would be no speed at all.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err("at 0 bytes per second nothing would ever happen".to_string()),
        rate => Ok(rate),
    }
}

fn suffix_shift(suffix: &str) -> Option<u32> {
    let upper = suffix.to_ascii_uppercase();
    let unit = upper
        .strip_suffix("IB")
        .filter(|unit| !unit.is_empty())
        .unwrap_or(&upper);
    if unit.is_empty() {
        return Some(0);
    }
    let position = SUFFIXES.iter().position(|s| unit == s.to_string())?;
    Some(10 * (position as u32 + 1))
}

/// `bytes` for people: exact while small or round (`64 KiB`), else with one decimal (`1.5 GiB`).
pub fn show_size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).min(SUFFIXES.len() as u32);
    let unit = 1u64 << (10 * power);
    let suffix = SUFFIXES[power as usize - 1];
    if bytes.is_multiple_of(unit) {
        format!("{} {suffix}iB", bytes / unit)
    } else {
        format!("{:.1} {suffix}iB", bytes as f64 / unit as f64)
    }
}

/// A duration for people: `45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("64KiB", 64 << 10),
            ("3M", 3 << 20),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
            ("15P", 15 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn rates_are_sizes_per_second() {
        assert_eq!(parse_rate("50M/s"), Ok(50 << 20));
        assert_eq!(parse_rate("1GiB"), Ok(1 << 30));
        for text in ["0", "0M/s", "M/s", "50M/m", "50M/s/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn malformed_sizes_are_refused() {
        for text in [
            "", "K", "iB", "1.5G", "-1", "1 G", "1X", "1KB", "1iB", "0x10", "16384P",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(
            parse_size("99999999999999999999")
                .unwrap_err()
                .contains("2^64")
        );
    }

    #[test]
    fn sizes_and_durations_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (64 << 10, "64 KiB"),
            (1536 << 20, "1.5 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
        for (seconds, text) in [
            (0, "0 s"),
            (200, "3 min 20 s"),
            (7500, "2 h 5 min"),
            (273_600, "3 d 4 h"),
        ] {
            assert_eq!(show_duration(Duration::from_secs(seconds)), text);
        }
    }
}

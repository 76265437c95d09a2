//! Sizes as people type and read them; suffixes are binary (1K = 1024).

use std::time::Duration;
use uraid_plan::YEAR_HOURS;

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

/// Reads a latency in nanoseconds: `500us`, `5ms`, `2s`, or `0`.
pub fn parse_latency(text: &str) -> Result<u64, String> {
    let units = [("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
    let split = units
        .iter()
        .find_map(|(unit, nanos)| Some((text.strip_suffix(unit)?, *nanos)));
    let (number, nanos) = split.unwrap_or((text, 0));
    let number: Option<u64> = number.parse().ok();
    // A bare number is no time, but for 0.
    let fits = number.filter(|number| nanos > 0 || *number == 0);
    let latency = fits.and_then(|number| number.checked_mul(nanos));
    let latency = latency.filter(|latency| *latency <= LATENCY_MAX);
    latency.ok_or_else(|| "a latency is like 500us, 5ms or 2s, at most 60s; 0 for none".to_string())
}

/// Longest latency that is taken.
const LATENCY_MAX: u64 = 60_000_000_000;

/// `nanos` as [`parse_latency`] reads it.
pub fn show_latency(nanos: u64) -> String {
    match nanos {
        n if n.is_multiple_of(1_000_000_000) => format!("{} s", n / 1_000_000_000),
        n if n.is_multiple_of(1_000_000) => format!("{} ms", n / 1_000_000),
        n => format!("{} us", n / 1000),
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

/// Reads a time as hours: `300000`, `15s`, `30m`, `24h`, `30d`, `5y`. A year has 365.25 days.
pub fn parse_hours(text: &str) -> Result<f64, String> {
    let (number, hours) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0 / 3600.0),
        Some((at, 'm')) => (&text[..at], 1.0 / 60.0),
        Some((at, 'h')) => (&text[..at], 1.0),
        Some((at, 'd')) => (&text[..at], 24.0),
        Some((at, 'y')) => (&text[..at], YEAR_HOURS),
        _ => (text, 1.0),
    };
    let number: Option<f64> = number.parse().ok();
    let fits = number.filter(|n| n.is_finite() && *n >= 0.0);
    let fits = fits.map(|n| n * hours).filter(|hours| *hours <= HOURS_MAX);
    fits.ok_or_else(|| "a time is a number of hours, or like 15s, 30m, 24h, 30d or 5y".to_string())
}

/// As [`parse_hours`], for clocks.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let hours = parse_hours(text)?;
    let time = Duration::try_from_secs_f64(hours * 3600.0);
    let time = time.ok().filter(|time| *time <= TIME_MAX);
    time.ok_or_else(|| "at most 100 years".to_string())
}

/// Longest time for clocks: they can be added to without overflow.
const TIME_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Longest time that is taken: more than any disk has been promised to last.
const HOURS_MAX: f64 = 1e12;

/// A long time for people: as [`show_duration`] up to two days, then days, then years.
pub fn show_hours(hours: f64) -> String {
    match hours / YEAR_HOURS {
        _ if hours < 48.0 => show_duration(Duration::from_secs_f64((hours * 3600.0).round())),
        years if years < 2.0 => format!("{:.0} d", hours / 24.0),
        years if years < 10.0 => format!("{years:.1} y"),
        years => format!("{} y", show_rounded(years)),
    }
}

/// A chance for people: `3.4 %` or `1 in 12 000`.
pub fn show_chance(chance: f64) -> String {
    match chance {
        0.0 => "never".to_string(),
        _ if chance >= 0.01 => format!("{:.1} %", chance * 100.0),
        _ => format!("1 in {}", show_rounded(1.0 / chance)),
    }
}

/// A share for people, in percent: as many digits as tell it from everything (`99.9987 %`).
pub fn show_share(share: f64) -> String {
    let missing = 1.0 - share;
    let digits = match missing {
        _ if share == 0.0 || missing == 0.0 => 0,
        _ if missing < 0.01 => (-missing.log10()).ceil() as usize - 1,
        _ if share < 0.001 => (-share.log10()).ceil() as usize,
        _ => 1,
    };
    format!(
        "{:.digits$} %",
        share * 100.0,
        digits = digits.min(SHARE_DIGITS_MAX)
    )
}

/// A double has no more of them to tell from 100 %.
const SHARE_DIGITS_MAX: usize = 12;

/// Two digits that count, thousands apart; by powers of ten from ten million on.
fn show_rounded(number: f64) -> String {
    if number >= 1e7 {
        return format!("{number:.1e}");
    }
    let unit = 10f64.powf(number.log10().floor() - 1.0).max(1.0);
    let digits = ((number / unit).round() * unit).to_string();
    let mut shown = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            shown.push(' ');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_units_and_read_as_they_were_typed() {
        for (text, nanos) in [
            ("0", 0),
            ("500us", 500_000),
            ("5ms", 5_000_000),
            ("2s", 2_000_000_000),
        ] {
            assert_eq!(parse_latency(text), Ok(nanos), "{text}");
            let shown = show_latency(nanos).replace(' ', "");
            assert_eq!(parse_latency(&shown), Ok(nanos), "{shown}");
        }
        for text in [
            "",
            "5",
            "ms",
            "-1ms",
            "1.5ms",
            "61s",
            "1h",
            "99999999999999999s",
        ] {
            assert!(parse_latency(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, hours) in [
            ("300000", 3e5),
            ("1.5e6", 1.5e6),
            ("15s", 15.0 / 3600.0),
            ("30m", 0.5),
            ("24h", 24.0),
            ("30d", 720.0),
            ("2y", 17532.0),
        ] {
            assert_eq!(parse_hours(text), Ok(hours), "{text}");
        }
        for text in ["", "h", "-1h", "1w", "NaN", "inf", "1 h", "1e30y"] {
            assert!(parse_hours(text).is_err(), "{text}");
        }
    }

    #[test]
    fn long_times_and_chances_read_well() {
        for (hours, text) in [
            (0.5, "30 min 0 s"),
            (72.0, "3 d"),
            (26298.0, "3.0 y"),
            (300_000.0, "34 y"),
            (8766.0 * 12_345.0, "12 000 y"),
            (8766.0 * 1.26e9, "1.3e9 y"),
        ] {
            assert_eq!(show_hours(hours), text);
        }
        for (chance, text) in [
            (0.0, "never"),
            (0.123, "12.3 %"),
            (1.0 / 12_345.0, "1 in 12 000"),
            (2e-9, "1 in 5.0e8"),
        ] {
            assert_eq!(show_chance(chance), text);
        }
        for (share, text) in [
            (0.0, "0 %"),
            (1.0, "100 %"),
            (0.6512, "65.1 %"),
            (0.999_987, "99.9987 %"),
            (0.000_12, "0.0120 %"),
        ] {
            assert_eq!(show_share(share), text);
        }
    }

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

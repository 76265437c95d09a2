//! The hour of the day where this host is.

use nix::libc;
use std::mem::MaybeUninit;

/// The hour, from 0 to 23, at a time in milliseconds since 1970, by the time zone of this host; by
/// UTC where that is not known.
pub fn hour_of_day(millis: u64) -> u8 {
    let seconds = (millis / 1000) as libc::time_t;
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to memory of ours that lives through the call, and a zeroed `tm` is
    // a valid one. Nothing here changes the environment, from which the C library reads the zone.
    let hour = unsafe {
        match libc::localtime_r(&seconds, parts.as_mut_ptr()).is_null() {
            true => None,
            false => u8::try_from(parts.assume_init().tm_hour).ok(),
        }
    };
    hour.unwrap_or((millis / 3_600_000 % 24) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hour_is_that_of_the_hosts_clock() {
        let output = std::process::Command::new("date")
            .args(["-d", "@1700000000", "+%H"])
            .output()
            .expect("date");
        let told: u8 = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .expect("an hour");
        assert_eq!(hour_of_day(1_700_000_000_000), told);
        let next = (told + 1) % 24;
        assert_eq!(hour_of_day(1_700_000_000_000 + 3_600_000), next);
    }
}

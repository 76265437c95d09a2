//! What an operator may say about how fast an export is.

use super::bucket::Rate;
use crate::sizes::{parse_size, show_size};

/// Of a limit in a second, what may come at once after a rest if nothing is said: as much as in a
/// tenth of a second, as qemu has it.
const BURSTS_PER_SECOND: u64 = 10;

/// Names of limits, in options, files and settings, each with whether it is a number of bytes.
pub const LIMITS: [(&str, bool); 4] = [
    ("iops", false),
    ("iops-burst", false),
    ("bandwidth", true),
    ("bandwidth-burst", true),
];

/// Limits of an export; all its clients share them. 0 stands for nothing said everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Limits {
    /// Requests a second, reads and writes together.
    pub iops: u64,
    /// Requests at once after a rest.
    pub iops_burst: u64,
    /// Bytes read and written a second.
    pub bandwidth: u64,
    /// Bytes at once after a rest.
    pub bandwidth_burst: u64,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn are_none(&self) -> bool {
        self.iops == 0 && self.bandwidth == 0
    }

    /// The limit of that name, one of [`LIMITS`].
    pub fn get(&self, name: &str) -> u64 {
        let mut limits = *self;
        *limits.named(name)
    }

    fn named(&mut self, name: &str) -> &mut u64 {
        match name {
            "iops" => &mut self.iops,
            "iops-burst" => &mut self.iops_burst,
            "bandwidth" => &mut self.bandwidth,
            "bandwidth-burst" => &mut self.bandwidth_burst,
            other => panic!("{other} is no limit"),
        }
    }

    /// Sets the limit of that name, one of [`LIMITS`], as it was typed.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let (_, is_size) = LIMITS
            .iter()
            .find(|(known, _)| *known == name)
            .expect("a limit");
        *self.named(name) = match is_size {
            true => parse_size(value.strip_suffix("/s").unwrap_or(value))?,
            false => value
                .parse()
                .map_err(|_| format!("{value:?} is no number of requests, 0 for no limit"))?,
        };
        Ok(())
    }

    /// Whether they make sense together.
    ///
    /// # Errors
    /// A burst of what has no limit.
    pub fn check(&self) -> Result<(), String> {
        for (burst, limit) in [("iops-burst", "iops"), ("bandwidth-burst", "bandwidth")] {
            if self.get(burst) > 0 && self.get(limit) == 0 {
                return Err(format!(
                    "{burst} means nothing without {limit}: set both, or neither"
                ));
            }
        }
        Ok(())
    }

    /// Of requests, and of bytes.
    pub fn rates(&self) -> [Rate; 2] {
        let rate = |per_second: u64, burst: u64| Rate {
            per_second,
            burst: match burst {
                0 => (per_second / BURSTS_PER_SECOND).max(1),
                burst => burst,
            },
        };
        [
            rate(self.iops, self.iops_burst),
            rate(self.bandwidth, self.bandwidth_burst),
        ]
    }

    /// In words.
    pub fn describe(&self) -> String {
        let [iops, bandwidth] = self.rates();
        let mut parts = Vec::new();
        if iops.per_second > 0 {
            let Rate { per_second, burst } = iops;
            parts.push(format!("{per_second} requests/s ({burst} at once)"));
        }
        if bandwidth.per_second > 0 {
            let (rate, burst) = (show_size(bandwidth.per_second), show_size(bandwidth.burst));
            parts.push(format!("{rate}/s ({burst} at once)"));
        }
        match parts.is_empty() {
            true => "clients are not limited".to_string(),
            false => format!("clients get at most {}", parts.join(" and ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_typed_and_nonsense_is_named() {
        let mut limits = Limits::default();
        assert!(limits.are_none());
        for (name, value, expected) in [
            ("iops", "500", 500),
            ("iops-burst", "0", 0),
            ("bandwidth", "100M", 100 << 20),
            ("bandwidth", "1GiB/s", 1 << 30),
            ("bandwidth-burst", "64K", 64 << 10),
        ] {
            limits.set(name, value).unwrap();
            assert_eq!(limits.get(name), expected, "{name}={value}");
        }
        assert!(!limits.are_none());
        for (name, value, what) in [
            ("iops", "-1", "no number of requests"),
            ("iops", "1K", "no number of requests"),
            ("iops", "", "no number of requests"),
            ("bandwidth", "fast", "a size is"),
            ("bandwidth", "-1", "a size is"),
            ("bandwidth-burst", "99999999P", "more than 2^64"),
        ] {
            let before = limits;
            let problem = limits.set(name, value).unwrap_err();
            assert!(problem.contains(what), "{problem}");
            assert_eq!(limits, before);
        }
    }

    #[test]
    fn a_burst_is_a_tenth_of_a_second_s_worth_unless_it_is_said() {
        let limits = |iops, iops_burst| Limits {
            iops,
            iops_burst,
            ..Limits::default()
        };
        for (iops, burst, expected) in [(500, 0, 50), (5, 0, 1), (500, 7, 7), (0, 0, 1)] {
            assert_eq!(limits(iops, burst).rates()[0].burst, expected);
        }
        assert!(limits(0, 3).check().unwrap_err().contains("without iops"));
        assert_eq!(limits(1, 3).check(), Ok(()));
        assert_eq!(limits(0, 0).describe(), "clients are not limited");
        let said = limits(500, 0).describe();
        assert!(said.contains("500 requests/s (50 at once)"), "{said}");
    }
}

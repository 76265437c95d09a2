//! What operators can set of an array in service, in their words.

use super::qos::{LIMITS, Limits};
use crate::failure::Failure;
use crate::sizes::{parse_latency, parse_size};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use uraid_engine::api::{MemberName, Setting};

/// Settings of an array.
const OF_ARRAY: [&str; 11] = [
    "read-balance",
    "hedge-percent",
    "iops",
    "iops-burst",
    "bandwidth",
    "bandwidth-burst",
    "rebuild-share",
    "rebuild-floor",
    "rebuild-ceiling",
    "latency-target",
    "scrub-rate",
];

/// Settings of a member.
const OF_MEMBER: [&str; 2] = ["write-mostly", "read-weight"];

/// Most that late reads may add to all, in percent.
pub const HEDGE_PERCENT_MAX: u8 = 100;

/// Largest weight of a member.
pub const READ_WEIGHT_MAX: u16 = 1000;

/// What is to be changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// By the engine.
    pub engine: Vec<Setting>,
    /// Limits of clients, all of them, if one is among the settings.
    pub limits: Option<Limits>,
}

/// Reads settings of the array, or of `member`, as they were typed; `limits` are those of clients
/// so far.
///
/// # Errors
/// Names that are not known, or belong to the other; values that make no sense.
pub fn read(
    settings: &BTreeMap<String, String>,
    member: Option<&MemberName>,
    limits: Limits,
) -> Result<Changes, Failure> {
    if settings.is_empty() {
        return Err(Failure::usage("nothing is to be set"));
    }
    let is_limit = |name: &str| member.is_none() && LIMITS.iter().any(|(limit, _)| *limit == name);
    let others = settings.iter().filter(|(name, _)| !is_limit(name));
    let limits = settings.keys().any(|name| is_limit(name)).then_some(limits);
    Ok(Changes {
        engine: others
            .map(|(name, value)| read_one(name, value, member))
            .collect::<Result<_, _>>()?,
        limits: limits.map(|limits| changed(limits, settings)).transpose()?,
    })
}

/// Limits after a change. With a limit its burst goes, unless that is set too.
fn changed(mut limits: Limits, settings: &BTreeMap<String, String>) -> Result<Limits, Failure> {
    // In their order: a limit comes before its burst.
    for (name, _) in LIMITS {
        let Some(value) = settings.get(name) else {
            continue;
        };
        let set = limits.set(name, value);
        set.map_err(|problem| Failure::usage(format!("{name}: {problem}")))?;
        match (name, limits.get(name)) {
            ("iops", 0) => limits.iops_burst = 0,
            ("bandwidth", 0) => limits.bandwidth_burst = 0,
            _ => {}
        }
    }
    limits.check().map_err(Failure::usage)?;
    Ok(limits)
}

fn read_one(name: &str, value: &str, member: Option<&MemberName>) -> Result<Setting, Failure> {
    match (name, member) {
        ("read-balance", None) => Ok(Setting::ReadBalance(parse(name, value)?)),
        ("hedge-percent", None) => {
            let percent = number(name, value, 0..=HEDGE_PERCENT_MAX.into())?;
            Ok(Setting::HedgePercent(percent as u8))
        }
        ("rebuild-share", None) => {
            let percent = number(name, value, 1..=100)?;
            Ok(Setting::RebuildShare(percent as u8))
        }
        ("rebuild-floor", None) => Ok(Setting::RebuildFloor(rate(name, value)?)),
        ("rebuild-ceiling", None) => Ok(Setting::RebuildCeiling(rate(name, value)?)),
        ("scrub-rate", None) => Ok(Setting::ScrubRate(rate(name, value)?)),
        ("latency-target", None) => {
            let target = parse_latency(value);
            let target = target.map_err(|e| Failure::usage(format!("{name}: {e}")))?;
            Ok(Setting::LatencyTarget(target))
        }
        ("write-mostly", Some(member)) => Ok(Setting::WriteMostly(
            member.clone(),
            yes_or_no(name, value)?,
        )),
        ("read-weight", Some(member)) => {
            let weight = number(name, value, 1..=READ_WEIGHT_MAX.into())?;
            Ok(Setting::ReadWeight(member.clone(), weight as u16))
        }
        _ if OF_ARRAY.contains(&name) => Err(Failure::usage(format!(
            "{name} is a setting of the array: leave out --member"
        ))),
        _ if OF_MEMBER.contains(&name) => Err(Failure::usage(format!(
            "{name} is a setting of a member: say which with --member"
        ))),
        _ => Err(Failure::usage(format!(
            "there is no setting {name}: an array has {}, a member has {}",
            OF_ARRAY.join(", "),
            OF_MEMBER.join(", ")
        ))),
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, Failure> {
    let parsed = value.parse();
    parsed.map_err(|error| Failure::usage(format!("{name}: {error}")))
}

fn number(name: &str, value: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, Failure> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (start, end) = range.into_inner();
        Failure::usage(format!(
            "{name}: {value} is no number from {start} to {end}"
        ))
    })
}

/// Bytes per second; 0 for none.
fn rate(name: &str, value: &str) -> Result<u64, Failure> {
    let rate = parse_size(value.strip_suffix("/s").unwrap_or(value));
    rate.map_err(|error| Failure::usage(format!("{name}: {error}")))
}

fn yes_or_no(name: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Failure::usage(format!(
            "{name}: {value} is neither yes nor no"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_engine::status::ReadBalance;

    #[test]
    fn settings_are_read_as_typed_and_nonsense_is_named() {
        let one = |name: &str, value: &str, of: Option<u16>| {
            let settings = [(name.to_string(), value.to_string())].into();
            let of = of.map(MemberName::Slot);
            let changes = read(&settings, of.as_ref(), Limits::default());
            changes.map(|mut changes| changes.engine.remove(0))
        };
        assert_eq!(
            one("read-balance", "round-robin", None).unwrap(),
            Setting::ReadBalance(ReadBalance::RoundRobin)
        );
        assert_eq!(
            one("hedge-percent", "0", None).unwrap(),
            Setting::HedgePercent(0)
        );
        assert_eq!(
            one("write-mostly", "yes", Some(2)).unwrap(),
            Setting::WriteMostly(MemberName::Slot(2), true)
        );
        assert_eq!(
            one("read-weight", "3", Some(2)).unwrap(),
            Setting::ReadWeight(MemberName::Slot(2), 3)
        );
        for (name, value, expected) in [
            ("rebuild-share", "100", Setting::RebuildShare(100)),
            ("rebuild-floor", "1M/s", Setting::RebuildFloor(1 << 20)),
            ("rebuild-ceiling", "0", Setting::RebuildCeiling(0)),
            ("latency-target", "5ms", Setting::LatencyTarget(5_000_000)),
            ("scrub-rate", "50M", Setting::ScrubRate(50 << 20)),
        ] {
            assert_eq!(one(name, value, None).unwrap(), expected);
        }
        for (name, value, of, what) in [
            ("rebuild-share", "0", None, "from 1 to 100"),
            ("rebuild-ceiling", "fast", None, "a size is"),
            ("latency-target", "5", None, "like 500us"),
            ("scrub-rate", "-1", None, "a size is"),
            ("read-balance", "fastest", None, "least-latency"),
            ("hedge-percent", "101", None, "from 0 to 100"),
            ("hedge-percent", "-1", None, "from 0 to 100"),
            ("write-mostly", "maybe", Some(1), "neither yes nor no"),
            ("read-weight", "0", Some(1), "from 1 to 1000"),
            ("write-mostly", "yes", None, "with --member"),
            ("read-balance", "weighted", Some(1), "leave out --member"),
            ("iops", "5", Some(1), "leave out --member"),
            ("iops", "many", None, "no number of requests"),
            ("bandwidth-burst", "1M", None, "without bandwidth"),
            ("speed", "high", None, "hedge-percent"),
        ] {
            let failure = one(name, value, of).unwrap_err();
            assert!(failure.message.contains(what), "{failure}");
        }
        assert!(read(&BTreeMap::new(), None, Limits::default()).is_err());
    }

    #[test]
    fn limits_change_one_by_one_and_a_burst_goes_with_its_limit() {
        let set = |words: &str, limits: Limits| {
            let pairs = words.split(' ').map(|word| word.split_once('=').unwrap());
            let settings = pairs.map(|(name, value)| (name.to_string(), value.to_string()));
            read(&settings.collect(), None, limits)
        };
        let limits = set("iops-burst=9 iops=5 hedge-percent=3", Limits::default()).unwrap();
        assert_eq!(limits.engine, [Setting::HedgePercent(3)]);
        let limits = limits.limits.unwrap();
        assert_eq!((limits.iops, limits.iops_burst), (5, 9));
        let limits = set("bandwidth=1M", limits).unwrap().limits.unwrap();
        assert_eq!((limits.iops, limits.bandwidth), (5, 1 << 20));
        let limits = set("iops=0", limits).unwrap().limits.unwrap();
        assert_eq!((limits.iops_burst, limits.bandwidth), (0, 1 << 20));
        assert_eq!(set("hedge-percent=1", limits).unwrap().limits, None);
        assert!(set("iops-burst=3", limits).is_err());
    }
}

//! Options of `serve` about what the server does by itself.

use super::args::parse_name;
use crate::server::steward::{Hours, StewardOptions};
use crate::sizes::parse_time;
use clap::{ArgAction, Args, ValueEnum};
use std::time::Duration;

/// Whether something is done.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// What the server does by itself.
#[derive(Args, Debug)]
pub struct ServeStewardArgs {
    /// Take members back that failed by themselves, once their devices are back
    #[arg(long, value_name = "YES|NO", value_enum, default_value_t = Switch::Yes)]
    pub rejoin: Switch,
    /// How long a member stays out that leaves for the second time; then ten times as long, up to
    /// sixty times; who leaves for the third time within a day stays out
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_time)]
    pub rejoin_wait: Duration,
    /// Arrays that share their spares: one that misses a member and has no spare gets that of
    /// another, if that is optimal (repeatable)
    #[arg(long, value_name = "ARRAY,ARRAY...", action = ArgAction::Append, value_parser = parse_group)]
    pub spare_group: Vec<Group>,
    /// Have a spare of the array replace a member that still serves, when its device says that it
    /// fails or it has had too many errors
    #[arg(long, value_name = "YES|NO", value_enum, default_value_t = Switch::Yes)]
    pub replace_failing: Switch,
    /// With --replace-failing: how many read and checksum errors a member may have had
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub replace_errors: u64,
    /// Begin a scrub so long after the last one, like 30d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub scrub_every: Option<Duration>,
    /// With --scrub-every: only in these hours of the day, from the first to before the last; 22-5
    /// is over midnight
    #[arg(long, value_name = "HOUR-HOUR", requires = "scrub_every", value_parser = parse_hours)]
    pub scrub_hours: Option<Hours>,
}

/// Names of arrays.
#[derive(Clone, Debug)]
pub struct Group(Vec<String>);

impl ServeStewardArgs {
    /// The options.
    pub fn options(&self) -> StewardOptions {
        StewardOptions {
            rejoin: self.rejoin == Switch::Yes,
            rejoin_wait: self.rejoin_wait,
            replace_errors: (self.replace_failing == Switch::Yes).then_some(self.replace_errors),
            scrub_every: self.scrub_every,
            scrub_hours: self.scrub_hours,
            spare_groups: self
                .spare_group
                .iter()
                .map(|group| group.0.clone())
                .collect(),
        }
    }
}

fn parse_hours(text: &str) -> Result<Hours, String> {
    let parts = text.split_once('-');
    let hour = |text: &str, max: u8| text.parse().ok().filter(|hour| *hour <= max);
    let hours = parts.and_then(|(from, until)| Some((hour(from, 23)?, hour(until, 24)?)));
    match hours {
        Some((from, until)) if from != until => Ok(Hours { from, until }),
        _ => Err("two hours of the day, like 1-6 or 22-5".to_string()),
    }
}

fn parse_group(text: &str) -> Result<Group, String> {
    let names: Vec<String> = text.split(',').map(parse_name).collect::<Result<_, _>>()?;
    let twice = |name: &&String| names.iter().filter(|n| n == name).count() > 1;
    if let Some(name) = names.iter().find(twice) {
        return Err(format!("{name} is named twice"));
    }
    if names.len() < 2 {
        return Err("a group has two arrays at least: ARRAY,ARRAY".to_string());
    }
    Ok(Group(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_two_of_the_day() {
        let hours = |from, until| Ok(Hours { from, until });
        assert_eq!(parse_hours("1-6"), hours(1, 6));
        assert_eq!(parse_hours("22-5"), hours(22, 5));
        assert_eq!(parse_hours("0-24"), hours(0, 24));
        for nonsense in ["", "1", "1-", "1-25", "24-1", "6-6", "a-b", "-1-3"] {
            assert!(parse_hours(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn a_group_has_several_arrays() {
        assert_eq!(parse_group("a,b,c").expect("a group").0, ["a", "b", "c"]);
        for nonsense in ["", "a", "a,", "a,a", "a,b/c"] {
            assert!(parse_group(nonsense).is_err(), "{nonsense:?}");
        }
    }
}

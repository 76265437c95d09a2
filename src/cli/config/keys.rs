//! What can be set in files: each option of `uraid serve`, under its own name. There is no second
//! list of them: what a key is called, what it takes and what it goes with is asked of the command
//! line's definition, so that a new option is a new key.

use crate::cli::args::Cli;
use crate::server::listen::Listen;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, ValueHint};
use std::any::TypeId;
use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;

/// The options that say where files are, and what belongs to every command.
const NO_KEYS: [&str; 3] = ["config", "help", "json"];

/// Below this likeness, from 0 to 1, two words are no slips of one another.
const LIKENESS_MIN: f64 = 0.8;

/// All keys.
pub struct Keys {
    serve: Command,
}

/// One of them.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    arg: &'a Arg,
}

/// What a key takes, or each of its values if it has several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// true or false.
    Flag,
    /// A number.
    Number,
    /// A number of bytes, or text with a suffix.
    Size,
    /// Text.
    Text,
    /// The absolute path of something.
    Path,
    /// Where to listen.
    Place,
    /// A table for each array.
    Exports,
}

impl Keys {
    /// The options of `uraid serve` as they are now.
    pub fn new() -> Keys {
        let cli = Cli::command();
        let serve = cli.find_subcommand("serve").expect("a command of ours");
        Keys {
            serve: serve.clone(),
        }
    }

    /// All of them, in the order of the command's help.
    pub fn all(&self) -> impl Iterator<Item = Key<'_>> {
        let arguments = self.serve.get_arguments();
        let is_key = |arg: &&Arg| !arg.is_hide_set() && !NO_KEYS.contains(&arg.get_id().as_str());
        arguments.filter(is_key).map(|arg| Key { arg })
    }

    /// The one that is called so.
    pub fn get(&self, name: &str) -> Option<Key<'_>> {
        self.all().find(|key| key.name() == name)
    }

    /// What the command line would say to these words.
    fn parse(&self, words: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
        // Whatever has to be there may be in the files.
        let typed = ["serve", "--config=/"].map(OsString::from).into_iter();
        self.serve.clone().try_get_matches_from(typed.chain(words))
    }

    /// Why the command line would not take `value` for `key`, if so.
    pub fn problem(&self, key: Key, value: &str) -> Option<String> {
        let error = self.parse(key.words(value)).err()?;
        let of_value = [ErrorKind::InvalidValue, ErrorKind::ValueValidation];
        if !of_value.contains(&error.kind()) {
            return None;
        }
        let choices = match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(choices)) => choices.clone(),
            _ => Vec::new(),
        };
        Some(match (error.source(), &choices[..]) {
            (Some(source), _) => source.to_string(),
            (None, []) => "it may not be empty".to_string(),
            (None, choices) => format!("write one of {}", quoted(choices)),
        })
    }

    /// The keys without which `key` means nothing.
    pub fn needs(&self, key: Key, value: &str) -> Vec<String> {
        let error = match self.parse(key.words(value)) {
            Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => error,
            _ => return Vec::new(),
        };
        let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else {
            return Vec::new();
        };
        let name = |usage: &String| {
            let word = usage.split(' ').next().unwrap_or_default();
            word.trim_start_matches('-').to_string()
        };
        missing.iter().map(name).collect()
    }

    /// Whether the two cannot be said at once.
    pub fn conflict(&self, one: Key, other: Key) -> bool {
        let excludes = |one: Key, other: Key| {
            let excluded = self.serve.get_arg_conflicts_with(one.arg);
            excluded
                .iter()
                .any(|arg| arg.get_id() == other.arg.get_id())
        };
        excludes(one, other) || excludes(other, one)
    }
}

impl<'a> Key<'a> {
    /// As it is written in files: the option, or what stands for members.
    pub fn name(self) -> &'a str {
        self.arg.get_long().unwrap_or(self.id())
    }

    /// As the parsed command line has it.
    pub fn id(self) -> &'a str {
        self.arg.get_id().as_str()
    }

    /// What it takes.
    pub fn kind(self) -> Kind {
        let value = self.arg.get_value_parser().type_id();
        let numbers = [
            TypeId::of::<u8>(),
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
        ];
        let is_size = || self.value_name() == "SIZE";
        match self.arg.get_action() {
            ArgAction::SetTrue => Kind::Flag,
            _ if self.name() == "export" => Kind::Exports,
            _ if numbers.iter().any(|number| value == *number) && is_size() => Kind::Size,
            _ if numbers.iter().any(|number| value == *number) => Kind::Number,
            _ if value == TypeId::of::<PathBuf>() => Kind::Path,
            _ if value == TypeId::of::<Listen>() => Kind::Place,
            _ => Kind::Text,
        }
    }

    /// Whether there may be several values.
    pub fn is_list(self) -> bool {
        matches!(self.arg.get_action(), ArgAction::Append)
    }

    /// What has to be at a path.
    pub fn hint(self) -> ValueHint {
        self.arg.get_value_hint()
    }

    /// What holds where nothing is set.
    pub fn default(self) -> Option<String> {
        let value = self.arg.get_default_values().first()?;
        (self.kind() != Kind::Flag).then(|| value.to_string_lossy().into_owned())
    }

    /// How its value is called in the help.
    pub fn value_name(self) -> &'a str {
        let names = self.arg.get_value_names().unwrap_or_default();
        names.first().map_or("", |name| name.as_str())
    }

    /// One value as it would be typed.
    pub fn words(self, value: &str) -> Vec<OsString> {
        match (self.arg.get_long(), self.kind()) {
            (None, _) => vec![value.into()],
            (Some(_), Kind::Flag) if value == "false" => Vec::new(),
            (Some(long), Kind::Flag) => vec![format!("--{long}").into()],
            (Some(long), _) => vec![format!("--{long}={value}").into()],
        }
    }
}

/// The one of `names` that `word` may be a slip of.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::jaro_winkler(word, name);
    let nearest = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(nearest) >= LIKENESS_MIN).then_some(nearest)
}

fn quoted(choices: &[String]) -> String {
    let quoted: Vec<String> = choices.iter().map(|choice| format!("{choice:?}")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hidden options are for other programs and for measurements; an option that is to be set by
    /// people is not hidden, and then it is a key.
    #[test]
    fn each_option_is_a_key_and_each_key_an_option() {
        let keys = Keys::new();
        let names: Vec<&str> = keys.all().map(Key::name).collect();
        for arg in keys.serve.get_arguments() {
            let id = arg.get_id().as_str();
            let hidden = ["trial", "skip_verification"].contains(&id);
            assert_eq!(arg.is_hide_set(), hidden, "{id}");
            let name = arg.get_long().unwrap_or(id);
            let is_key = !hidden && !NO_KEYS.contains(&id);
            assert_eq!(names.contains(&name), is_key, "{name}");
        }
        for name in ["members", "scan", "name", "listen", "memory", "export"] {
            assert!(names.contains(&name), "{name} is gone");
        }
    }

    #[test]
    fn kinds_are_those_of_the_command_line() {
        let keys = Keys::new();
        for (name, kind, is_list) in [
            ("members", Kind::Path, true),
            ("scan", Kind::Path, true),
            ("listen", Kind::Place, true),
            ("metrics", Kind::Place, false),
            ("read-only", Kind::Flag, false),
            ("readers", Kind::Number, false),
            ("rebuild-share", Kind::Number, false),
            ("memory", Kind::Size, false),
            ("tls", Kind::Text, false),
            ("alert-webhook", Kind::Text, true),
            ("export", Kind::Exports, true),
        ] {
            let key = keys.get(name).expect(name);
            assert_eq!((key.kind(), key.is_list()), (kind, is_list), "{name}");
        }
    }

    #[test]
    fn values_and_needs_are_judged_by_the_command_line() {
        let keys = Keys::new();
        let key = |name| keys.get(name).expect("a key");
        assert_eq!(keys.problem(key("rebuild-share"), "20"), None);
        assert!(keys.problem(key("rebuild-share"), "0").is_some());
        let problem = keys.problem(key("tls"), "on").expect("no such choice");
        assert!(problem.contains("\"required\""), "{problem}");
        assert_eq!(keys.needs(key("metrics-insecure"), "true"), ["metrics"]);
        assert_eq!(keys.needs(key("tls-clients"), "off"), ["tls-certificates"]);
        assert_eq!(keys.needs(key("read-only"), "true"), [""; 0]);
        assert!(keys.conflict(key("tls-certificates"), key("tls-psk")));
        assert!(keys.conflict(key("tls-psk"), key("tls-certificates")));
        assert!(!keys.conflict(key("tls-psk"), key("tls")));
    }

    #[test]
    fn slips_are_understood_and_other_words_are_not() {
        let keys = Keys::new();
        for (slip, meant) in [
            ("memroy", Some("memory")),
            ("max_connections", Some("max-connections")),
            ("member", Some("members")),
            ("readonly", Some("read-only")),
            ("zzz", None),
        ] {
            assert_eq!(nearest(slip, keys.all().map(Key::name)), meant, "{slip}");
        }
    }
}

//! What an operator may say about an export: `--export`.

use super::qos::{LIMITS, Limits};
use crate::control::paths::check_name;
use std::str::FromStr;
use uraid_nbd::Access;

/// How one array is offered to clients.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ExportOptions {
    /// Name of the array.
    pub name: String,
    /// Clients may not write. The array itself is in full service: it rebuilds and repairs.
    pub read_only: bool,
    /// It is not listed, and is never the default.
    pub hidden: bool,
    /// Clients have to speak TLS.
    pub tls: bool,
    /// Clients have to prove by TLS that they have one of these names; none means no matter who.
    pub tls_clients: Vec<String>,
    /// Most clients of it at once; none means as many as the server takes.
    pub connections_max: Option<usize>,
    /// How much all of them together get at most.
    pub limits: Limits,
    /// A line for people, instead of the usual one.
    pub description: Option<String>,
}

/// What a key of an export takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// It is said or not.
    Nothing,
    /// Text.
    Text,
    /// Text, and more than once.
    Texts,
    /// A number.
    Number,
    /// A number of bytes.
    Size,
}

/// All that can be said about an export, on the command line and in files.
pub const KEYS: [(&str, Takes); 10] = [
    ("read-only", Takes::Nothing),
    ("hidden", Takes::Nothing),
    ("tls", Takes::Nothing),
    ("tls-client", Takes::Texts),
    ("max-connections", Takes::Number),
    ("iops", Takes::Number),
    ("iops-burst", Takes::Number),
    ("bandwidth", Takes::Size),
    ("bandwidth-burst", Takes::Size),
    ("description", Takes::Text),
];

/// Longest description, in bytes; the protocol's limit for strings.
const DESCRIPTION_BYTES_MAX: usize = 4096;

impl FromStr for ExportOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<ExportOptions, String> {
        let (name, rest) = text.split_once(',').unwrap_or((text, ""));
        let mut options = ExportOptions::named(name)?;
        let mut rest = rest;
        while !rest.is_empty() {
            // It may hold commas, so it comes last.
            if let Some(description) = rest.strip_prefix("description=") {
                options.set("description", description)?;
                break;
            }
            let (word, after) = rest.split_once(',').unwrap_or((rest, ""));
            options.set_word(word)?;
            rest = after;
        }
        Ok(options)
    }
}

impl ExportOptions {
    /// Nothing said but the name.
    pub fn named(name: &str) -> Result<ExportOptions, String> {
        check_name(name)?;
        Ok(ExportOptions {
            name: name.to_string(),
            ..ExportOptions::default()
        })
    }

    /// Who may use it.
    pub fn access(&self) -> Access {
        match (&self.tls_clients[..], self.tls) {
            ([], false) => Access::Anyone,
            ([], true) => Access::Tls,
            (names, _) => Access::Names(names.to_vec()),
        }
    }

    /// Whether what was said makes sense together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let problem = |problem| format!("the export {}: {problem}", self.name);
        self.limits.check().map_err(problem)
    }

    fn set_word(&mut self, word: &str) -> Result<(), String> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let takes = KEYS.iter().find(|(name, _)| *name == key);
        match (takes, value) {
            (Some((_, Takes::Nothing)), None) => self.set(key, "true"),
            (Some(_), Some(value)) if !matches!(takes, Some((_, Takes::Nothing))) => {
                self.set(key, value)
            }
            _ => Err(format!("{word:?} is none of {}", usages().join(", "))),
        }
    }

    /// Says one thing: `key` is one of [`KEYS`]; `value` is "true" or "false" for those that take
    /// nothing. Those that take several values are set once for each.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let flag = || value == "true";
        match key {
            "read-only" => self.read_only = flag(),
            "hidden" => self.hidden = flag(),
            "tls" => self.tls = flag(),
            "tls-client" if value.is_empty() => return Err("a client's name is not empty".into()),
            "tls-client" => self.tls_clients.push(value.to_string()),
            "max-connections" => {
                let number = value.parse().ok().filter(|number| *number > 0);
                let number = number.ok_or("max-connections is a number from 1 up")?;
                self.connections_max = Some(number);
            }
            key if is_limit(key) => {
                let set = self.limits.set(key, value);
                set.map_err(|problem| format!("{key}: {problem}"))?;
            }
            "description" if value.len() > DESCRIPTION_BYTES_MAX => {
                return Err(format!(
                    "a description has at most {DESCRIPTION_BYTES_MAX} bytes"
                ));
            }
            "description" => self.description = Some(value.to_string()),
            other => panic!("{other} is no key of an export"),
        }
        Ok(())
    }

    /// What was said about `key`, one of [`KEYS`]: values as [`ExportOptions::set`] takes them,
    /// none if nothing was.
    pub fn said(&self, key: &str) -> Vec<String> {
        let flag = |said: bool| Vec::from_iter(said.then(|| "true".to_string()));
        match key {
            "read-only" => flag(self.read_only),
            "hidden" => flag(self.hidden),
            "tls" => flag(self.tls),
            "tls-client" => self.tls_clients.clone(),
            "max-connections" => Vec::from_iter(self.connections_max.map(|max| max.to_string())),
            key if is_limit(key) => match self.limits.get(key) {
                0 => Vec::new(),
                limit => vec![limit.to_string()],
            },
            "description" => Vec::from_iter(self.description.clone()),
            other => panic!("{other} is no key of an export"),
        }
    }
}

fn is_limit(key: &str) -> bool {
    LIMITS.iter().any(|(name, _)| *name == key)
}

/// Each key with what it takes, for a message.
fn usages() -> Vec<String> {
    let usage = |(key, takes): &(&str, Takes)| match takes {
        Takes::Nothing => key.to_string(),
        Takes::Text => format!("{key}=TEXT"),
        Takes::Texts => format!("{key}=NAME"),
        Takes::Number => format!("{key}=N"),
        Takes::Size => format!("{key}=SIZE"),
    };
    KEYS.iter().map(usage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order_and_the_description_to_the_end() {
        let options = "tank,hidden,iops=500,bandwidth=1M,tls-client=a,max-connections=4,read-only,tls-client=b,description=disks, all of them";
        assert_eq!(
            options.parse(),
            Ok(ExportOptions {
                name: "tank".to_string(),
                read_only: true,
                hidden: true,
                tls: false,
                tls_clients: vec!["a".to_string(), "b".to_string()],
                connections_max: Some(4),
                limits: Limits {
                    iops: 500,
                    bandwidth: 1 << 20,
                    ..Limits::default()
                },
                description: Some("disks, all of them".to_string()),
            })
        );
        assert_eq!(
            "tank".parse(),
            Ok(ExportOptions {
                name: "tank".to_string(),
                ..ExportOptions::default()
            })
        );
    }

    #[test]
    fn each_key_is_taken_and_said_again() {
        for (key, takes) in KEYS {
            let value = if takes == Takes::Nothing { "true" } else { "7" };
            let mut options = ExportOptions::named("tank").unwrap();
            assert!(options.said(key).is_empty(), "{key}");
            options.set(key, value).unwrap();
            assert_eq!(options.said(key), [value], "{key}");
            let word = match takes {
                Takes::Nothing => key.to_string(),
                _ => format!("{key}={value}"),
            };
            assert_eq!(format!("tank,{word}").parse(), Ok(options), "{key}");
        }
    }

    #[test]
    fn what_is_no_option_is_refused() {
        let long = format!("a,description={}", "x".repeat(5000));
        for text in [
            "",
            ",hidden",
            "a/b",
            "a,",
            "a,,hidden",
            "a,hiden",
            "a,hidden=yes",
            "a,tls=yes",
            "a,tls-client",
            "a,tls-client=",
            "a,max-connections",
            "a,max-connections=0",
            "a,max-connections=x",
            "a,iops",
            "a,iops=1k",
            "a,iops=-1",
            "a,bandwidth=quick",
            "a,bandwidth-burst",
            &long,
        ] {
            let parsed = text.parse::<ExportOptions>();
            assert!(parsed.is_err() || text == "a,", "{text}: {parsed:?}");
        }
    }
}

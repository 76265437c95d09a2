//! What an operator may say about an export: `--export`.

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
    /// A line for people, instead of the usual one.
    pub description: Option<String>,
}

/// Longest description, in bytes; the protocol's limit for strings.
const DESCRIPTION_BYTES_MAX: usize = 4096;

impl FromStr for ExportOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<ExportOptions, String> {
        let (name, rest) = text.split_once(',').unwrap_or((text, ""));
        check_name(name)?;
        let mut options = ExportOptions {
            name: name.to_string(),
            ..ExportOptions::default()
        };
        let mut rest = rest;
        while !rest.is_empty() {
            // It may hold commas, so it comes last.
            if let Some(description) = rest.strip_prefix("description=") {
                if description.len() > DESCRIPTION_BYTES_MAX {
                    return Err(format!(
                        "a description has at most {DESCRIPTION_BYTES_MAX} bytes"
                    ));
                }
                options.description = Some(description.to_string());
                break;
            }
            let (word, after) = rest.split_once(',').unwrap_or((rest, ""));
            options.set(word)?;
            rest = after;
        }
        Ok(options)
    }
}

impl ExportOptions {
    /// Who may use it.
    pub fn access(&self) -> Access {
        match (&self.tls_clients[..], self.tls) {
            ([], false) => Access::Anyone,
            ([], true) => Access::Tls,
            (names, _) => Access::Names(names.to_vec()),
        }
    }

    fn set(&mut self, word: &str) -> Result<(), String> {
        match word.split_once('=') {
            None if word == "read-only" => self.read_only = true,
            None if word == "hidden" => self.hidden = true,
            None if word == "tls" => self.tls = true,
            Some(("tls-client", name)) if !name.is_empty() => {
                self.tls_clients.push(name.to_string());
            }
            Some(("max-connections", number)) => {
                let number = number.parse().ok().filter(|number| *number > 0);
                let number = number.ok_or("max-connections is a number from 1 up")?;
                self.connections_max = Some(number);
            }
            _ => {
                return Err(format!(
                    "{word:?} is none of read-only, hidden, tls, tls-client=NAME, max-connections=N, \
                     description=TEXT"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order_and_the_description_to_the_end() {
        let options = "tank,hidden,tls-client=a,max-connections=4,read-only,tls-client=b,description=disks, all of them";
        assert_eq!(
            options.parse(),
            Ok(ExportOptions {
                name: "tank".to_string(),
                read_only: true,
                hidden: true,
                tls: false,
                tls_clients: vec!["a".to_string(), "b".to_string()],
                connections_max: Some(4),
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
            &long,
        ] {
            let parsed = text.parse::<ExportOptions>();
            assert!(parsed.is_err() || text == "a,", "{text}: {parsed:?}");
        }
    }
}

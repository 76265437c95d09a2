//! Files and what is typed, together: settings become words of the command line, where what is
//! typed leaves room for them, and the command line is read once more. So the options of a server
//! have one form and one meaning, wherever they come from.

use super::keys::{Key, Keys};
use super::read::{Setting, Settings};
use crate::cli::args::{Cli, Command, ServeArgs};
use crate::failure::Failure;
use clap::parser::ValueSource;
use clap::{CommandFactory, Parser};
use std::ffi::OsString;

/// What says which arrays there are: typing one of them replaces them all.
const ARRAYS: [&str; 2] = ["members", "scan"];

/// The options of a server that was started by the words `typed`, and is told `settings` by files.
pub fn options(keys: &Keys, settings: &Settings, typed: &[OsString]) -> Result<ServeArgs, Failure> {
    let said = typed_keys(keys, typed)?;
    let command = typed.iter().position(|word| word == "serve");
    let after = command.expect("a server was started") + 1;
    let mut words = typed.to_vec();
    words.splice(after..after, words_of(keys, settings, &said));
    let cli = Cli::try_parse_from(words).map_err(|error| Failure::usage(unclapped(&error)))?;
    let Command::Serve(mut args) = cli.command else {
        panic!("the command has not changed")
    };
    let typed_exports = args.export.clone();
    let is_typed = |name: &str| typed_exports.iter().any(|export| export.name == name);
    let exports = settings.exports.iter().map(|export| &export.options);
    let exports = exports.filter(|export| !is_typed(&export.name));
    args.export.extend(exports.cloned());
    if args.members.is_empty() && args.scan.is_empty() {
        return Err(Failure::usage(
            "no array is named: set `scan` to the directories of members, or `members` to the \
             members themselves, or type --scan DIR or MEMBER...",
        ));
    }
    Ok(*args)
}

/// The keys whose options were typed.
fn typed_keys<'a>(keys: &'a Keys, typed: &[OsString]) -> Result<Vec<Key<'a>>, Failure> {
    let matches = Cli::command().try_get_matches_from(typed);
    let matches = matches.map_err(|error| Failure::usage(unclapped(&error)))?;
    let serve = matches.subcommand_matches("serve");
    let serve = serve.expect("a server was started");
    let is_typed = |key: &Key| serve.value_source(key.id()) == Some(ValueSource::CommandLine);
    Ok(keys.all().filter(is_typed).collect())
}

/// What files have to say besides: what is typed wins, over its own key and over those that
/// contradict it, and so over those that mean nothing without these.
fn words_of(keys: &Keys, settings: &Settings, typed: &[Key]) -> Vec<OsString> {
    let key = |setting: &Setting| keys.get(&setting.key).expect("only keys are set");
    let is_arrays = |key: &Key| ARRAYS.contains(&key.name());
    let replaces = |typed: &Key, key: Key| {
        typed.name() == key.name()
            || is_arrays(typed) && is_arrays(&key)
            || keys.conflict(*typed, key)
    };
    let stays = |setting: &&Setting| !typed.iter().any(|typed| replaces(typed, key(setting)));
    let left: Vec<&Setting> = settings.values.iter().filter(stays).collect();
    let is_said = |name: &String| {
        let mut names = left.iter().map(|setting| setting.key.as_str());
        names.any(|left| left == name) || typed.iter().any(|typed| typed.name() == name)
    };
    let means_something = |setting: &&&Setting| {
        let needed = keys.needs(key(setting), &setting.value);
        needed.iter().all(is_said)
    };
    let left = left.iter().filter(means_something);
    left.flat_map(|setting| key(setting).words(&setting.value))
        .collect()
}

/// What clap says, without what the program's own messages begin with.
fn unclapped(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.trim_end();
    text.strip_prefix("error: ").unwrap_or(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::files::File;
    use crate::cli::config::read::read;
    use std::path::PathBuf;

    const FILE: &str = "scan = \"/srv\"\nname = \"tank\"\nmemory = \"1G\"\nreaders = 2\n\
                        max-connections = 10\nlisten = [\"unix:/a\", \"unix:/b\"]\n\
                        tls-certificates = \"/tls\"\ntls-clients = \"off\"\nread-only = true\n\
                        [export.tank]\nhidden = true\n[export.old]\nhidden = true\n";

    fn with_typed(text: &str, typed: &str) -> Result<ServeArgs, Failure> {
        let (path, text) = (PathBuf::from("/a.toml"), text.to_string());
        let keys = Keys::new();
        let (settings, findings) = read(&keys, &[File { path, text }]);
        assert!(findings.is_empty(), "{findings:?}");
        let words = format!("uraid --json serve --config /a.toml {typed}");
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        options(&keys, &settings, &words)
    }

    #[test]
    fn files_fill_what_the_command_line_fills() {
        let args = with_typed(FILE, "").unwrap();
        let typed = "uraid serve --config /a.toml --scan /srv --name tank --memory 1G --readers 2 \
                     --max-connections 10 --listen unix:/a --listen unix:/b --tls-certificates /tls \
                     --tls-clients off --read-only --export old,hidden --export tank,hidden";
        let Command::Serve(mut typed) = Cli::parse_from(typed.split_whitespace()).command else {
            panic!("serve")
        };
        typed.export.reverse();
        assert_eq!(format!("{args:?}"), format!("{typed:?}"));
    }

    #[test]
    fn what_is_typed_wins() {
        let args =
            with_typed(FILE, "--memory 2G --listen unix:/c --export tank,read-only").unwrap();
        assert_eq!((args.memory, args.readers), (Some(2 << 30), Some(2)));
        assert_eq!(args.listen, ["unix:/c".parse().unwrap()]);
        let exports = args.export.iter();
        let exports: Vec<_> = exports
            .map(|e| (&e.name[..], e.read_only, e.hidden))
            .collect();
        assert_eq!(exports, [("tank", true, false), ("old", false, true)]);

        let args = with_typed(FILE, "a b").unwrap();
        assert_eq!(args.members, [PathBuf::from("a"), PathBuf::from("b")]);
        assert!(args.scan.is_empty());

        // Secrets instead of certificates, and what was said about clients' certificates with them.
        let args = with_typed(FILE, "--tls-psk keys").unwrap();
        let shown = format!("{:?}", args.tls);
        assert!(shown.contains("keys") && !shown.contains("/tls"), "{shown}");
    }

    #[test]
    fn somebody_has_to_name_arrays() {
        let failure = with_typed("readers = 1", "").unwrap_err();
        assert!(failure.message.contains("`scan`"), "{failure}");
        assert!(with_typed("readers = 1", "--scan /srv").is_ok());
    }
}

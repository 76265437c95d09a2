//! From the text of files to settings, each with the place where it stands, and to findings.

use super::files::{File, Place};
use super::finding::Finding;
use super::keys::{Key, Keys, Kind, nearest};
use crate::server::export::{ExportOptions, KEYS, Takes};
use crate::server::listen::Listen;
use std::borrow::Cow;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One value of one key.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Of `Keys`.
    pub key: String,
    /// As it would be typed; "true" or "false" for a flag.
    pub value: String,
    /// Where it stands.
    pub place: Place,
}

/// How an array is offered, and where that stands.
#[derive(Clone, Debug)]
pub struct ExportSetting {
    /// What is said.
    pub options: ExportOptions,
    /// Where it begins.
    pub place: Place,
}

/// What files say.
#[derive(Default)]
pub struct Settings {
    /// In the order of files; keys that may have several values more than once.
    pub values: Vec<Setting>,
    /// In the order of files, each array once.
    pub exports: Vec<ExportSetting>,
}

impl Settings {
    /// Where `key` is set first.
    pub fn place_of(&self, key: &str) -> Option<&Place> {
        let found = self.values.iter().find(|setting| setting.key == key);
        found.map(|setting| &setting.place)
    }
}

/// Reads all files. Settings that are wrong are findings and nothing else.
pub fn read(keys: &Keys, files: &[File]) -> (Settings, Vec<Finding>) {
    let mut settings = Settings::default();
    let mut findings = Vec::new();
    for file in files {
        let mut reader = Reader {
            keys,
            file,
            settings: &mut settings,
            findings: &mut findings,
        };
        reader.document();
    }
    (settings, findings)
}

struct Reader<'a> {
    keys: &'a Keys,
    file: &'a File,
    settings: &'a mut Settings,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    fn document(&mut self) {
        let table = match DeTable::parse(&self.file.text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let offset = error.span().map_or(0, |span| span.start);
                let message = format!("this is not TOML: {}", error.message());
                return self.wrong(offset, message);
            }
        };
        for (name, value) in in_order(table) {
            let (at, name) = (name.span().start, name.into_inner());
            match self.keys.get(&name) {
                None => self.unknown(at, &name, self.keys.all().map(Key::name)),
                Some(key) if key.kind() == Kind::Exports => self.exports(value),
                Some(key) if key.is_list() => self.list(key, value),
                Some(key) => self.single(key, at, value),
            }
        }
    }

    fn wrong(&mut self, offset: usize, message: String) {
        let place = self.file.place(offset);
        self.findings.push(Finding::wrong(place, message));
    }

    fn unknown<'n>(&mut self, at: usize, name: &str, names: impl Iterator<Item = &'n str>) {
        let names: Vec<&str> = names.collect();
        let what_to_do = match nearest(name, names.iter().copied()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("write one of {}", names.join(", ")),
        };
        self.wrong(at, format!("there is no key `{name}`; {what_to_do}"));
    }

    /// A key that has one value, in all files together.
    fn single(&mut self, key: Key, at: usize, value: Spanned<DeValue>) {
        let earlier = self.settings.place_of(key.name()).cloned();
        if let Some(earlier) = earlier {
            let name = key.name();
            return self.wrong(
                at,
                format!("`{name}` is set already, at {earlier}; keep one"),
            );
        }
        self.value(key, value);
    }

    /// A key that may have several, here and in other files.
    fn list(&mut self, key: Key, value: Spanned<DeValue>) {
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Array(values) => values.into_iter().for_each(|value| self.value(key, value)),
            single => self.value(key, Spanned::new(at..at, single)),
        }
    }

    fn value(&mut self, key: Key, value: Spanned<DeValue>) {
        let at = value.span().start;
        let Some(text) = text_of(key.kind(), value.get_ref()) else {
            return self.wrong(at, self.wrong_type(key, value.get_ref()));
        };
        let name = key.name();
        if let Some(problem) = self.keys.problem(key, &text) {
            return self.wrong(at, format!("`{name}` cannot be {text:?}: {problem}"));
        }
        if is_relative(key.kind(), &text) {
            return self.wrong(
                at,
                format!(
                    "`{name}` is {text:?}, which depends on where the server is started; write the \
                     path from / on"
                ),
            );
        }
        self.settings.values.push(Setting {
            key: name.to_string(),
            value: text,
            place: self.file.place(at),
        });
    }

    fn wrong_type(&self, key: Key, value: &DeValue) -> String {
        let (name, what) = (key.name(), type_of(value));
        // What was meant, if only the quotes are wrong.
        let meant = spelled(value).filter(|text| self.keys.problem(key, text).is_none());
        match key.kind() {
            Kind::Flag => {
                let meant = spelled(value).filter(|text| ["true", "false"].contains(&&**text));
                let meant = meant.unwrap_or("true".to_string());
                format!("`{name}` is true or false, and this is {what}; write {name} = {meant}")
            }
            Kind::Number => {
                let meant = meant.unwrap_or("N".to_string());
                format!("`{name}` is a number, and this is {what}; write {name} = {meant}")
            }
            _ => {
                let meant = meant.unwrap_or(key.value_name().to_string());
                let example = match key.is_list() {
                    true => format!("[{meant:?}]"),
                    false => format!("{meant:?}"),
                };
                format!("`{name}` is text, and this is {what}; write {name} = {example}")
            }
        }
    }

    fn exports(&mut self, value: Spanned<DeValue>) {
        let at = value.span().start;
        let DeValue::Table(exports) = value.into_inner() else {
            let message = "`export` has a table for each array; write [export.NAME], and below it \
                           its options";
            return self.wrong(at, message.to_string());
        };
        for (name, value) in in_order(exports) {
            let (at, name) = (name.span().start, name.into_inner());
            self.export(at, &name, value);
        }
    }

    fn export(&mut self, at: usize, name: &str, value: Spanned<DeValue>) {
        let mut exports = self.settings.exports.iter();
        let twin = exports.find(|export| export.options.name == name);
        if let Some(twin) = twin.map(|twin| twin.place.clone()) {
            let message =
                format!("`export.{name}` is there already, at {twin}; say it all at once");
            return self.wrong(at, message);
        }
        let mut options = match ExportOptions::named(name) {
            Ok(options) => options,
            Err(problem) => {
                let message = format!("`{name}` cannot be the name of an array: {problem}");
                return self.wrong(at, message);
            }
        };
        let DeValue::Table(said) = value.into_inner() else {
            let message = format!("`export.{name}` is a table; write [export.{name}]");
            return self.wrong(at, message);
        };
        for (key, value) in in_order(said) {
            let (at, key) = (key.span().start, key.into_inner());
            match KEYS.iter().find(|(known, _)| *known == key) {
                None => self.unknown(at, &key, KEYS.iter().map(|(known, _)| *known)),
                Some((_, takes)) => self.export_key(&mut options, &key, *takes, value),
            }
        }
        let place = self.file.place(at);
        self.settings.exports.push(ExportSetting { options, place });
    }

    fn export_key(
        &mut self,
        options: &mut ExportOptions,
        key: &str,
        takes: Takes,
        value: Spanned<DeValue>,
    ) {
        let at = value.span().start;
        let values = match (takes, value.into_inner()) {
            (Takes::Texts, DeValue::Array(values)) => values.into_iter().collect(),
            (_, single) => vec![Spanned::new(at..at, single)],
        };
        for value in values {
            let at = value.span().start;
            let (kind, example) = match takes {
                Takes::Nothing => (Kind::Flag, "true"),
                Takes::Number => (Kind::Number, "N"),
                Takes::Size => (Kind::Size, "\"SIZE\""),
                Takes::Text => (Kind::Text, "\"TEXT\""),
                Takes::Texts => (Kind::Text, "[\"NAME\"]"),
            };
            let Some(text) = text_of(kind, value.get_ref()) else {
                let what = type_of(value.get_ref());
                self.wrong(
                    at,
                    format!("`{key}` is not {what}; write {key} = {example}"),
                );
                continue;
            };
            if let Err(problem) = options.set(key, &text) {
                self.wrong(at, format!("`{key}` cannot be {text:?}: {problem}"));
            }
        }
    }
}

/// A key and its value.
type Entry<'i> = (Spanned<Cow<'i, str>>, Spanned<DeValue<'i>>);

/// The entries of a table as they stand in the file.
fn in_order<'i>(table: DeTable<'i>) -> Vec<Entry<'i>> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// What would be typed for a value of the right type.
fn text_of(kind: Kind, value: &DeValue) -> Option<String> {
    match (kind, value) {
        (Kind::Flag, DeValue::Boolean(_)) | (Kind::Number | Kind::Size, DeValue::Integer(_)) => {
            spelled(value)
        }
        (Kind::Size | Kind::Text | Kind::Path | Kind::Place, DeValue::String(text)) => {
            Some(text.to_string())
        }
        _ => None,
    }
}

/// A value without its quotes; none for what is no single one.
fn spelled(value: &DeValue) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Integer(number) => {
            let value = i128::from_str_radix(number.as_str(), number.radix());
            Some(value.map_or(number.to_string(), |value| value.to_string()))
        }
        _ => None,
    }
}

fn type_of(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "text in quotes",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn is_relative(kind: Kind, text: &str) -> bool {
    match (kind, text.parse()) {
        (Kind::Path, _) => !Path::new(text).is_absolute(),
        (Kind::Place, Ok(Listen::Unix(path))) => !path.is_absolute(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn read_texts(texts: &[&str]) -> (Settings, Vec<String>) {
        let file = |(index, text): (usize, &&str)| File {
            path: PathBuf::from(format!("/{index}")),
            text: text.to_string(),
        };
        let files: Vec<File> = texts.iter().enumerate().map(file).collect();
        let (settings, findings) = read(&Keys::new(), &files);
        (settings, findings.iter().map(Finding::line).collect())
    }

    /// One file with one mistake: where it is found, and words of the message.
    fn assert_found(text: &str, place: &str, words: &[&str]) {
        let (_, findings) = read_texts(&[text]);
        let [finding] = &findings[..] else {
            panic!("{text}: {findings:?}");
        };
        assert!(finding.starts_with(&format!("/0:{place}: ")), "{finding}");
        for word in words {
            assert!(finding.contains(word), "{text}: {word}: {finding}");
        }
    }

    #[test]
    fn settings_are_as_they_would_be_typed() {
        let text = "scan = [\"/a\", \"/b\"]\nmembers = \"/c\"\nread-only = true\nreaders = 0x10\n\
                    memory = \"1G\"\n[export.tank]\ntls-client = [\"a\", \"b\"]\nmax-connections = 4\n";
        let (settings, findings) = read_texts(&[text]);
        assert_eq!(findings, [""; 0]);
        let said = |setting: &Setting| format!("{}={}", setting.key, setting.value);
        let said: Vec<String> = settings.values.iter().map(said).collect();
        let expected = [
            "scan=/a",
            "scan=/b",
            "members=/c",
            "read-only=true",
            "readers=16",
            "memory=1G",
        ];
        assert_eq!(said, expected);
        let typed = "tank,tls-client=a,tls-client=b,max-connections=4".parse();
        assert_eq!(Ok(&settings.exports[0].options), typed.as_ref());
    }

    #[test]
    fn each_mistake_is_found_where_it_is() {
        assert_found("a = 1\n", "1:1", &["no key `a`", "write one of"]);
        assert_found("\nmemroy = 1\n", "2:1", &["did you mean `memory`?"]);
        assert_found("scan = \n", "1:8", &["not TOML"]);
        assert_found(
            "name = \"a\"\nname = \"b\"\n",
            "2:1",
            &["not TOML", "duplicate"],
        );
        assert_found("read-only = \"yes\"", "1:13", &["read-only = true"]);
        assert_found("readers = \"4\"", "1:11", &["write readers = 4"]);
        assert_found("readers = 99999", "1:11", &["a number up to"]);
        assert_found(
            "listen = [1, \"unix:/a\"]",
            "1:11",
            &["text", "[\"ADDRESS\"]"],
        );
        assert_found("listen = [\"unix:a\"]", "1:11", &["path from / on"]);
        assert_found("scan = \"srv\"", "1:8", &["path from / on"]);
        assert_found("memory = \"1X\"", "1:10", &["a size is"]);
        assert_found("memory = 1.5", "1:10", &["a number with a point"]);
        assert_found("tls = \"requird\"", "1:7", &["\"required\""]);
        assert_found("export = [\"tank\"]", "1:10", &["[export.NAME]"]);
        assert_found(
            "[export.tank]\nhiden = true",
            "2:1",
            &["did you mean `hidden`?"],
        );
        assert_found("[export.tank]\nhidden = 1", "2:10", &["hidden = true"]);
        assert_found("[export.tank]\nmax-connections = 0", "2:19", &["from 1 up"]);
        assert_found("[export.\"a/b\"]\nhidden = true", "1:9", &["'/' cannot be"]);
    }

    #[test]
    fn files_that_contradict_one_another_are_found_and_lists_are_joined() {
        let (settings, findings) = read_texts(&[
            "scan = \"/a\"\nreaders = 1\nexport.tank.hidden = true\n",
            "scan = \"/b\"\nreaders = 2\nexport.tank.hidden = true\n",
        ]);
        assert_eq!(settings.values.len(), 3, "{:?}", settings.values);
        let [readers, export] = &findings[..] else {
            panic!("{findings:?}");
        };
        assert!(
            readers.starts_with("/1:2:1: ") && readers.contains("/0:2:1"),
            "{readers}"
        );
        assert!(
            export.starts_with("/1:3:8: ") && export.contains("/0:3:8"),
            "{export}"
        );
    }
}

//! `uraid config show`: what would hold, and where that is set.

use super::keys::{Key, Keys, Kind};
use super::read::{ExportSetting, Settings};
use crate::server::export::{KEYS, Takes};
use serde::Serialize;
use serde_json::{Map, Value};

/// All keys and what they are.
#[derive(Serialize)]
pub struct Shown {
    settings: Map<String, Value>,
    exports: Map<String, Value>,
    #[serde(skip)]
    lines: Vec<String>,
}

impl Shown {
    /// What `settings` and the defaults come to.
    pub fn new(keys: &Keys, settings: &Settings) -> Shown {
        let mut shown = Shown {
            settings: Map::new(),
            exports: Map::new(),
            lines: Vec::new(),
        };
        for key in keys.all().filter(|key| key.kind() != Kind::Exports) {
            shown.key(key, settings);
        }
        for export in &settings.exports {
            shown.export(export);
        }
        shown
    }

    /// A configuration file that says the same.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    fn key(&mut self, key: Key, settings: &Settings) {
        let name = key.name();
        let set: Vec<_> = settings.values.iter().filter(|s| s.key == name).collect();
        let mut values: Vec<Value> = set.iter().map(|s| value(key.kind(), &s.value)).collect();
        let default = key.default().map(|default| value(key.kind(), &default));
        // TOML writes these values as JSON does.
        match (values.pop(), default) {
            (Some(last), _) if key.is_list() => {
                values.push(last);
                self.set(name, Value::Array(values), &set[0].place.to_string());
            }
            (Some(value), _) => self.set(name, value, &set[0].place.to_string()),
            (None, default) => {
                let line = match &default {
                    Some(default) => format!("#{name} = {default}  # default"),
                    None => format!("# {name} is not set"),
                };
                self.lines.push(line);
                let default = default.unwrap_or(Value::Null);
                self.settings.insert(name.to_string(), default);
            }
        }
    }

    fn set(&mut self, name: &str, value: Value, origin: &str) {
        self.lines.push(format!("{name} = {value}  # {origin}"));
        self.settings.insert(name.to_string(), value);
    }

    fn export(&mut self, export: &ExportSetting) {
        let name = &export.options.name;
        self.lines.push(String::new());
        self.lines
            .push(format!("[export.{name:?}]  # {}", export.place));
        let mut said = Map::new();
        for (key, takes) in KEYS {
            let kind = match takes {
                Takes::Nothing => Kind::Flag,
                Takes::Number => Kind::Number,
                Takes::Size => Kind::Size,
                Takes::Text | Takes::Texts => Kind::Text,
            };
            let values = export.options.said(key);
            let mut values: Vec<Value> = values.iter().map(|text| value(kind, text)).collect();
            let value = match (values.pop(), takes) {
                (None, _) => continue,
                (Some(last), Takes::Texts) => {
                    values.push(last);
                    Value::Array(values)
                }
                (Some(value), _) => value,
            };
            self.lines.push(format!("{key} = {value}"));
            said.insert(key.to_string(), value);
        }
        self.exports.insert(name.clone(), Value::Object(said));
    }
}

/// A value as files have it.
fn value(kind: Kind, text: &str) -> Value {
    let number = text.parse::<u64>().ok();
    match (kind, number) {
        (Kind::Flag, _) => Value::Bool(text == "true"),
        (Kind::Number | Kind::Size, Some(number)) => Value::from(number),
        _ => Value::from(text),
    }
}

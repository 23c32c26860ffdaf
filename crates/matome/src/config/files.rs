//! The two files that settings come from, `.env` and `matome.yaml`, with the line of each value.

use std::path::{Path, PathBuf};

use yaml_serde::Value;

use super::setting::SETTINGS;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;

/// A value in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// One value, or the items of a list.
    pub values: Vec<String>,
    /// Counted from 1; 0 when it is not known.
    pub line: usize,
}

/// `file:line`, as editors take it.
pub fn place(file: &Path, line: usize) -> String {
    match line {
        0 => file.display().to_string(),
        line => format!("{}:{line}", file.display()),
    }
}

fn unreadable(file: &Path, err: &std::io::Error) -> Failure {
    Failure::new(Exit::Config, Message::CannotRead { file: file.display().to_string() })
        .because(err)
        .help(Message::CheckFile)
}

/// The variables of an env file, in their order. Values may be quoted and may name other variables, as in a shell.
pub fn read_env(file: &Path) -> Result<Vec<Entry>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|err| unreadable(file, &err))?;
    let line_of = |name: &str| {
        let names =
            |line: &str| line.trim_start().trim_start_matches("export ").split('=').next().map(str::trim) == Some(name);
        text.lines().position(names).map_or(0, |at| at + 1)
    };
    let mut entries = Vec::new();
    for item in dotenvy::from_read_iter(text.as_bytes()) {
        let (name, value) = item.map_err(|err| {
            let broken = match &err {
                dotenvy::Error::LineParse(line, _) => text.lines().position(|each| each == line.trim_end_matches('\n')),
                _ => None,
            };
            let place = place(file, broken.map_or(0, |at| at + 1));
            Failure::new(Exit::Config, Message::NoEnvLine { place }).help(Message::WriteEnvLine)
        })?;
        entries.push(Entry { line: line_of(&name), values: vec![value], name });
    }
    Ok(entries)
}

/// The settings of a `matome.yaml`: one mapping of keys to texts, numbers or lists of them.
pub fn read_yaml(file: &Path) -> Result<Vec<Entry>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|err| unreadable(file, &err))?;
    let value: Value = yaml_serde::from_str(&text).map_err(|err| {
        let place = place(file, err.location().map_or(0, |at| at.line()));
        Failure::new(Exit::Config, Message::NoYaml { place }).because(&err).help(Message::WriteYaml)
    })?;
    let members = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(members) => members,
        _ => {
            let place = place(file, 1);
            return Err(Failure::new(Exit::Config, Message::NoMapping { place }).help(Message::WriteYaml));
        }
    };
    let line_of = |key: &str| {
        let names = |line: &str| {
            let name = line.split(':').next().unwrap_or_default().trim_matches(['"', '\'', ' ']);
            line.contains(':') && !line.starts_with([' ', '#', '-']) && name == key
        };
        text.lines().position(names).map_or(0, |at| at + 1)
    };
    let mut entries = Vec::new();
    for (key, value) in members {
        let name = scalar(&key).unwrap_or_default();
        let line = line_of(&name);
        let place = || place(file, line);
        let Some(setting) = super::setting::by_key(&name) else {
            let known: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
            return Err(Failure::new(Exit::Config, Message::UnknownKey { place: place(), key: name.clone() })
                .help(nearest(&name, &known)));
        };
        let is_list = setting.kind.separator().is_some();
        let values = match &value {
            Value::Null => continue,
            Value::Sequence(items) if is_list => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
            other => scalar(other).map(|value| vec![value]),
        };
        let Some(values) = values else {
            let what = Message::BadSetting { place: place(), name, value: kind_of(&value).to_owned() };
            let help = if is_list { Message::WriteList } else { Message::WriteOneValue };
            return Err(Failure::new(Exit::Config, what).help(help));
        };
        entries.push(Entry { name, values, line });
    }
    Ok(entries)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        _ => None,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Sequence(_) => "[...]",
        _ => "{...}",
    }
}

/// The name that was meant, or all that there are.
pub fn nearest(name: &str, known: &[&str]) -> Message {
    match known.iter().map(|other| (distance(name, other), *other)).min() {
        Some((_, other)) if is_near(name, other) => Message::DidYouMean { name: other.to_owned() },
        _ => Message::KnownAre { names: known.join(", ") },
    }
}

/// Whether `name` may be a slip of the pen for `other`.
pub fn is_near(name: &str, other: &str) -> bool {
    distance(name, other) <= name.len().div_ceil(3).max(2)
}

fn distance(name: &str, other: &str) -> usize {
    strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase())
}

/// A relative path of a file means one beside that file.
pub fn beside(file: &Path, value: &str) -> String {
    let path = PathBuf::from(value);
    match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if path.is_relative() => parent.join(path).display().to_string(),
        _ => value.to_owned(),
    }
}

/// The content of a file that holds one secret.
pub fn read_secret(file: &str, name: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|err| unreadable(Path::new(file), &err).why(said(format!("{name}: {err}"))))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

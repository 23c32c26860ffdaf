//! Proposes the options of a `file` source from the name and the first bytes of one of its files. What a config says already is
//! kept, and nothing is guessed beside it.

mod dialect;
mod head;
mod kind;

use encoding_rs::Encoding;
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::source::{Dedupe, SourceType};
use serde_json::{Map, Value};

use super::config::{FileConfig, Format};
use super::directory::{self, Named};
use super::location::{Entry, Location, Place};
use super::text::Guess;
use crate::config::{ParsedConfig, validate_config};
use crate::error::ConnectorError;
use crate::probe::{Finding, Proposal, closed, elements, find, key, select};
use crate::record::{DocumentError, Found, ReadStats};
use head::Head;
use kind::Kind;

/// Looks at what `config`, which lacks its format at most, names in the `location` of `place`. Blocks.
///
/// # Errors
/// [`ConnectorError`] when nothing is there, or what is there can not be read.
pub(super) fn propose(location: &dyn Location, place: &Place, config: &str) -> Result<Proposal, ConnectorError> {
    let given: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
    let mut probe = Probe { given, findings: Vec::new(), bytes: 0 };
    probe.run(location, place)?;
    let options = probe.findings.iter().filter_map(|finding| Some((finding.option.to_owned(), finding.value.clone()?)));
    let stats = ReadStats { bytes: probe.bytes, requests: location.requests(), ..ReadStats::default() };
    Ok(Proposal { options: options.collect(), findings: probe.findings, stats })
}

pub(super) use dialect::look as dialect;

struct Probe {
    /// What the config says, and what was proposed so far.
    given: Map<String, Value>,
    findings: Vec<Finding>,
    bytes: u64,
}

impl Probe {
    fn run(&mut self, location: &dyn Location, place: &Place) -> Result<(), ConnectorError> {
        let path = self.given.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (entry, several) = self.choose(location, place, &path)?;
        let head = Head::read(location, &entry, &self.given)?;
        self.bytes += head.taken;
        self.compression(&head);
        self.format(&head, place.named(&path), several)?;
        let Some(config) = self.config()? else { return Ok(()) };
        if !config.document.format.is_text() {
            return Ok(());
        }
        let text = self.text(&head, &config);
        let resource = resource(&entry.name);
        match config.document.format {
            Format::Json => self.document(&text, &head, &resource),
            Format::Ndjson => self.lines(&text, &resource),
            Format::Csv => self.rows(&text, &config, &resource),
            Format::Xml => self.elements(&text, &head),
            Format::Fixed | Format::Parquet | Format::Avro | Format::Excel => {}
        }
        Ok(())
    }

    /// The file that is looked at, and whether there may be others beside it.
    fn choose(&mut self, location: &dyn Location, place: &Place, path: &str) -> Result<(Entry, bool), ConnectorError> {
        let extensions = self.config()?.map(|config| config.extensions).unwrap_or_default();
        let Named { mut entries, is_directory } = directory::find(location, place, path, &extensions)?;
        let count = entries.len();
        if is_directory && !self.given.contains_key("format") {
            let formats: Vec<_> = entries.iter().map(|entry| directory::format_of(&entry.name)).collect();
            let times = |format| formats.iter().filter(|other| **other == format).count();
            // Of two that are there as often the first by name.
            let most = formats.iter().rev().filter(|format| format.is_some()).max_by_key(|format| times(**format));
            let Some(most) = most.copied() else { return Err(ConnectorError::NoFormat { path: path.to_owned() }) };
            let read = times(most);
            let mut at = formats.iter();
            entries.retain(|_| at.next().is_some_and(|format| *format == most));
            let word = most.map_or("csv", |(format, delimiter)| kind::word(format, delimiter));
            let words = match count - read {
                0 => say!(
                    "a directory whose {read} files have such names",
                    "ディレクトリにある {read} 個のファイルの名前によります"
                ),
                others => say!(
                    "a directory: its {read} files with such names are read, {others} others are not",
                    "ディレクトリ: この形式の名前の {read} 個のファイルを読み、ほかの {others} 個は読みません"
                ),
            };
            self.add("format", Some(word.into()), words);
        } else if count > 1 {
            let words = say!("{count} files; the first was looked at", "{count} 個のファイル。最初のものを調べました");
            self.add("path", None, words);
        }
        let first = entries.into_iter().next().ok_or_else(|| ConnectorError::NoFormat { path: path.to_owned() })?;
        Ok((first, count > 1))
    }

    fn compression(&mut self, head: &Head) {
        if let Some(codec) = head.codec.filter(|_| !self.given.contains_key("compression")) {
            let name = codec.as_str();
            self.add("compression", None, say!("{name}, by its first bytes", "最初のバイトによると {name} です"));
        }
        if let (Some(pattern), false) = (&head.member_pattern, self.given.contains_key("member")) {
            let members = head.members;
            let words = say!(
                "the archive has {members} members of several kinds; these are the most",
                "書庫には複数の種類のファイルが {members} 個あります。これが最も多い種類です"
            );
            self.add("member", Some(pattern.clone().into()), words);
        }
    }

    /// What the first bytes say of the format, where the name does not say the same.
    fn format(&mut self, head: &Head, path: &str, several: bool) -> Result<(), ConnectorError> {
        if self.given.contains_key("format") {
            return Ok(());
        }
        let implied = directory::format_of(path);
        let encoding = self.given.get("encoding").and_then(Value::as_str);
        let by_name = implied.or_else(|| directory::format_of(&head.name));
        let (format, delimiter) = match kind::look(head, encoding, by_name.map(|(format, _)| format)) {
            // A pattern means more files than the one that was looked at.
            Kind::Said(format) if by_name.is_none_or(|(other, _)| other != format) => (format, b','),
            Kind::Said(_) | Kind::Rows => by_name.unwrap_or((Format::Csv, b',')),
            Kind::Unknown(problem) => match by_name {
                Some(by_name) => by_name,
                None => return Err(ConnectorError::document(head.position.clone(), DocumentError::anywhere(problem))),
            },
        };
        if implied == Some((format, delimiter)) {
            return Ok(());
        }
        let word = kind::word(format, delimiter);
        let name = &head.name;
        let words = match (by_name == Some((format, delimiter)), several) {
            (true, _) => say!("as the name `{name}` says", "名前 `{name}` によります"),
            (false, false) => Words::new("as the first bytes say", "最初のバイトによります"),
            (false, true) => say!("as the first bytes of `{name}` say", "`{name}` の最初のバイトによります"),
        };
        self.add("format", Some(word.into()), words);
        Ok(())
    }

    /// The text that is looked at, in UTF-8, without its last line if that may lack something.
    fn text(&mut self, head: &Head, config: &FileConfig) -> String {
        let is_xml = config.document.format == Format::Xml;
        let declared = self.given.get("encoding").and_then(Value::as_str);
        let (Guess { encoding, rival }, mut text) = head.text(declared, &config.document);
        if declared.is_none() && !is_xml && encoding != encoding_rs::UTF_8 {
            let name = encoding.name().to_ascii_lowercase();
            let (value, words) = match encoding_rs::Encoding::for_bom(&head.bytes) {
                Some(_) => (None, say!("{name}, as the byte order mark says", "バイト順マークによると {name} です")),
                None => (Some(name.into()), guessed(rival)),
            };
            self.add("encoding", value, words);
        }
        if !head.is_whole {
            let end = text.rfind('\n').map_or(text.len(), |end| end + 1);
            text.truncate(end);
        }
        text
    }

    fn document(&mut self, text: &str, head: &Head, resource: &str) {
        let whole = match head.is_whole {
            true => text.as_bytes().to_vec(),
            false => closed(text.as_bytes().to_vec()),
        };
        let Ok(body) = serde_json::from_slice::<Value>(&whole) else { return };
        let place = find(&body, Some(resource));
        if !self.given.contains_key("records") {
            self.findings.push(place.finding(head.bytes.len(), !head.is_whole));
        }
        let path = self.given.get("records").and_then(Value::as_str).and_then(|path| path.parse().ok());
        self.key(&select(&body, &path.unwrap_or(place.path), !head.is_whole), resource);
    }

    fn lines(&mut self, text: &str, resource: &str) {
        let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        self.key(&records, resource);
    }

    fn rows(&mut self, text: &str, config: &FileConfig, resource: &str) {
        let found = dialect(text.as_bytes(), &config.document.csv, &self.given);
        for finding in found {
            if let Some(value) = &finding.value {
                self.given.insert(finding.option.to_owned(), value.clone());
            }
            self.findings.push(finding);
        }
        let Ok(Some(config)) = self.config() else { return };
        let mut found = Found::new("".into(), None, 0);
        let mut parser = super::document::parser_of(&config.document, None);
        // What ends the text early is told by the sample.
        let _ = parser.feed(text.as_bytes(), &mut found).and_then(|()| parser.finish(&mut found));
        let items = found.take(usize::MAX, usize::MAX).into_iter();
        let records: Vec<Value> = items.filter_map(|item| serde_json::from_slice(item.raw()).ok()).collect();
        self.key(&records, resource);
    }

    fn elements(&mut self, text: &str, head: &Head) {
        if !self.given.contains_key("records") {
            self.findings.push(elements(text, head.is_whole));
        }
    }

    /// A key changes what is stored, so it is only told of.
    fn key(&mut self, records: &[Value], resource: &str) {
        let is_decided = self.given.get("dedupe").is_some_and(|word| word != Dedupe::Rows.as_str());
        if self.given.contains_key("key") || is_decided {
            return;
        }
        let found = key(records, Some(resource));
        let Some(path) = found.value.as_ref().and_then(Value::as_str) else { return };
        let Words { english, japanese } = &found.words;
        let words = Words::new(
            format!("{english}; with `key={path}` a row that changes is stored as a new version of it"),
            format!("{japanese}。`key={path}` を指定すると、変わった行を新しい版として保存します"),
        );
        self.add("key", None, words);
    }

    fn add(&mut self, option: &'static str, value: Option<Value>, words: impl Into<Words>) {
        if let Some(value) = &value {
            self.given.insert(option.to_owned(), value.clone());
        }
        self.findings.push(Finding { option, value, words: words.into() });
    }

    /// What the config means so far; nothing while it does not say the format.
    fn config(&self) -> Result<Option<FileConfig>, ConnectorError> {
        let text = Value::Object(self.given.clone()).to_string();
        match validate_config(SourceType::File, &text) {
            Ok(ParsedConfig::File(config)) => Ok(Some(*config)),
            Err(errors) if errors.iter().any(|error| error.path != ["format"]) => Err(ConnectorError::Config(errors)),
            Ok(_) | Err(_) => Ok(None),
        }
    }
}

/// How an encoding was chosen that nothing says.
fn guessed(rival: Option<&'static Encoding>) -> Words {
    match rival.map(|rival| rival.name().to_ascii_lowercase()) {
        None => Words::new("as the text looks: a guess", "テキストの見た目からの推測です"),
        Some(rival) => say!(
            "as the text looks: a guess, and {rival} fits nearly as well; look at the records",
            "テキストの見た目からの推測です。{rival} もほぼ同じくらい合うので、レコードを確かめてください"
        ),
    }
}

/// The word of a config for the format that the extension of a name says, as far as it is a text.
pub(super) fn text_format_of(name: &str) -> Option<&'static str> {
    let (format, delimiter) = directory::format_of(name).filter(|(format, _)| format.is_text())?;
    Some(kind::word(format, delimiter))
}

/// What a file is about, by its name: `orders` of `exports/orders-2026-01.csv.gz`.
fn resource(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let stem = name.split('.').next().unwrap_or(&name);
    stem.trim_end_matches(|c: char| !c.is_alphabetic()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_about_the_name_before_dates_and_extensions() {
        for (name, about) in
            [("exports/orders-2026-01.csv.gz", "orders"), ("Users.xml", "users"), ("/a/2026.csv", ""), ("x", "x")]
        {
            assert_eq!(resource(name), about, "{name}");
        }
    }
}

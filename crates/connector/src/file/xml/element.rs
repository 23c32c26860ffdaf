//! A record on its way: the elements that are open, and what is known of them.

use std::collections::HashMap;

use matome_model::canonical::{QuarantineReason, write_string};
use matome_model::field_error::Words;
use matome_model::say;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, BytesStart};

/// Elements within each other that a record may have: as many as objects, one for each.
const DEPTH_LIMIT: usize = 120;

/// An element whose end has not come.
#[derive(Default)]
struct Element {
    name: String,
    /// The JSON of attributes and children by name, in the order of their first.
    members: Vec<(String, Vec<Vec<u8>>)>,
    places: HashMap<String, usize>,
    has_children: bool,
    /// What stands between children.
    texts: Vec<String>,
    text: String,
}

impl Element {
    fn add(&mut self, name: String, value: Vec<u8>) {
        let place = *self.places.entry(name.clone()).or_insert(self.members.len());
        if place == self.members.len() {
            self.members.push((name, Vec::new()));
        }
        self.members[place].1.push(value);
    }

    fn end_text(&mut self) {
        if !self.text.is_empty() {
            self.texts.push(std::mem::take(&mut self.text));
        }
    }

    /// A string, if it is nothing but text and no record; else an object.
    fn json(mut self, is_record: bool) -> Vec<u8> {
        self.end_text();
        // What only puts children on lines of their own is no text.
        if self.has_children {
            self.texts.retain(|text| !text.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n')));
        }
        let mut out = Vec::new();
        if self.members.is_empty() && !is_record {
            write_string(&mut out, &self.texts.concat());
            return out;
        }
        if !self.texts.is_empty() {
            let texts = self.texts.iter().map(|text| {
                let mut json = Vec::new();
                write_string(&mut json, text);
                json
            });
            self.members.push(("#text".to_owned(), texts.collect()));
        }
        for (index, (name, values)) in self.members.iter().enumerate() {
            out.push(if index == 0 { b'{' } else { b',' });
            write_string(&mut out, name);
            out.push(b':');
            match values.as_slice() {
                [value] => out.extend_from_slice(value),
                values => {
                    out.push(b'[');
                    out.extend_from_slice(&values.join(&b","[..]));
                    out.push(b']');
                }
            }
        }
        if self.members.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        out
    }
}

/// A record on its way.
pub(super) struct Record {
    pub(super) line: u64,
    stack: Vec<Element>,
    /// Elements that are open in it, also those that are not kept any more.
    pub(super) depth: usize,
    pub(super) problem: Option<(QuarantineReason, Words)>,
}

impl Record {
    pub(super) fn new(line: u64) -> Self {
        Self { line, stack: Vec::new(), depth: 0, problem: None }
    }

    pub(super) fn fail(&mut self, reason: QuarantineReason, problem: Words) {
        if self.problem.is_none() {
            self.problem = Some((reason, problem));
            self.stack.clear();
        }
    }

    pub(super) fn start(&mut self, start: &BytesStart<'_>) {
        self.depth += 1;
        if self.problem.is_some() {
            return;
        }
        if self.stack.len() >= DEPTH_LIMIT {
            let problem = say!(
                "more than {DEPTH_LIMIT} elements lie within each other",
                "要素が {DEPTH_LIMIT} より深く重なっています"
            );
            return self.fail(QuarantineReason::Depth, problem);
        }
        let mut element = Element { name: start.name().as_ref().to_owned(), ..Element::default() };
        for attribute in start.attributes() {
            let value = attribute.map_err(|error| error.to_string()).and_then(|attribute| {
                let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
                Ok((format!("@{}", attribute.key.as_ref()), value.into_owned()))
            });
            match value {
                Ok((name, value)) => {
                    let mut json = Vec::new();
                    write_string(&mut json, &value);
                    element.add(name, json);
                }
                Err(error) => {
                    let name = &element.name;
                    let problem = say!(
                        "an attribute of `{name}` can not be read: {error}",
                        "`{name}` の属性を読めません: {error}"
                    );
                    return self.fail(QuarantineReason::InvalidXml, problem);
                }
            }
        }
        if let Some(parent) = self.stack.last_mut() {
            parent.end_text();
            parent.has_children = true;
        }
        self.stack.push(element);
    }

    /// Ends an element; the object, when it was the record itself.
    pub(super) fn end(&mut self) -> Option<Vec<u8>> {
        self.depth -= 1;
        let element = self.stack.pop()?;
        if self.depth == 0 {
            return Some(element.json(true));
        }
        if let Some(parent) = self.stack.last_mut() {
            let name = element.name.clone();
            parent.add(name, element.json(false));
        }
        None
    }

    pub(super) fn text(&mut self, text: &str) {
        if let Some(element) = self.stack.last_mut() {
            element.text.push_str(text);
        }
    }

    pub(super) fn reference(&mut self, reference: &BytesRef<'_>) {
        let name = reference.xml10_content();
        let resolved = match reference.resolve_char_ref() {
            Ok(Some(character)) => Some(character),
            Ok(None) => match name.as_ref() {
                "lt" => Some('<'),
                "gt" => Some('>'),
                "amp" => Some('&'),
                "apos" => Some('\''),
                "quot" => Some('"'),
                _ => None,
            },
            Err(_) => None,
        };
        match resolved {
            Some(character) => self.text(character.encode_utf8(&mut [0; 4])),
            None => {
                let problem = say!(
                    "`&{name};` is no entity of XML itself, and no other is expanded",
                    "`&{name};` は XML 自身の実体ではなく、ほかの実体は展開しません"
                );
                self.fail(QuarantineReason::InvalidXml, problem);
            }
        }
    }
}

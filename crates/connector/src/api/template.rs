//! Texts with placeholders: `{cursor}`, `{start}`, `{end}`, `{now}`, `{page}`, `{parent.NAME}`, `{secret.NAME}`. No logic, no nesting.

use std::borrow::Cow;
use std::collections::BTreeMap;

use matome_model::field_error::Words;
use matome_model::say;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::value::RawValue;

use crate::json::JsonPath;

/// A value that is filled in for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placeholder {
    /// The lower bound of an incremental read.
    Cursor,
    /// `incremental.start`.
    Start,
    /// The upper bound of an incremental read.
    End,
    /// When the read began.
    Now,
    /// What the pagination counts: a number, an offset or a token.
    Page,
    /// A value of the parent record, by its path.
    Parent(JsonPath),
    /// A secret of the source, by its name.
    Secret(String),
}

/// Which placeholders a config may use.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    pub(crate) cursor: bool,
    pub(crate) start: bool,
    pub(crate) end: bool,
    pub(crate) page: bool,
    pub(crate) parent: bool,
    pub(crate) secret: bool,
}

impl Known {
    fn list(self) -> String {
        let all = [
            (true, "{now}"),
            (self.cursor, "{cursor}"),
            (self.start, "{start}"),
            (self.end, "{end}"),
            (self.page, "{page}"),
            (self.parent, "{parent.NAME}"),
            (self.secret, "{secret.NAME}"),
        ];
        let known = all.iter().filter(|(known, _)| *known).map(|(_, name)| format!("`{name}`"));
        known.collect::<Vec<_>>().join(", ")
    }

    fn placeholder(self, name: &str) -> Option<Placeholder> {
        match name {
            "now" => Some(Placeholder::Now),
            "cursor" if self.cursor => Some(Placeholder::Cursor),
            "start" if self.start => Some(Placeholder::Start),
            "end" if self.end => Some(Placeholder::End),
            "page" if self.page => Some(Placeholder::Page),
            _ if self.secret && name.starts_with("secret.") => {
                Some(Placeholder::Secret(name["secret.".len()..].to_owned()))
            }
            _ => {
                let path = name.strip_prefix("parent.").filter(|_| self.parent)?;
                let path: JsonPath = format!("$.{path}").parse().ok()?;
                path.is_members_only().then_some(Placeholder::Parent(path))
            }
        }
    }
}

/// A text, taken apart at its placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder, String),
}

impl Template {
    /// Reads a text in which `{{` and `}}` stand for braces.
    pub(crate) fn parse(text: &str, known: Known) -> Result<Self, Words> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..];
            if let Some(after) = brace.strip_prefix("{{") {
                plain.push('{');
                rest = after;
            } else if let Some(after) = brace.strip_prefix("}}") {
                plain.push('}');
                rest = after;
            } else if let Some((name, after)) = brace[1..].split_once('}').filter(|_| brace.starts_with('{')) {
                let placeholder = known.placeholder(name.trim()).ok_or_else(|| unknown(name, known))?;
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Value(placeholder, name.trim().to_owned()));
                rest = after;
            } else {
                return Err(Words::new(
                    "A brace stands alone: write `{{` and `}}` for braces, `{now}` for a placeholder.",
                    "対になっていない波括弧があります。波括弧そのものは `{{` と `}}`、プレースホルダは `{now}` のように書いてください。",
                ));
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The placeholders, in their order.
    pub(crate) fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value(placeholder, _) => Some(placeholder),
            Part::Text(_) => None,
        })
    }

    /// The text before the first placeholder.
    pub(crate) fn opening(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The placeholder that is all there is.
    fn only(&self) -> Option<&Placeholder> {
        match &self.parts[..] {
            [Part::Value(placeholder, _)] => Some(placeholder),
            _ => None,
        }
    }

    /// The text with its values as they are.
    pub(crate) fn fill(&self, values: &Values<'_>) -> Result<String, Unfit> {
        self.fill_with(values, |value| value)
    }

    /// The text with every character of its values percent-encoded that could mean something in an address.
    pub(crate) fn fill_address(&self, values: &Values<'_>) -> Result<String, Unfit> {
        self.fill_with(values, |value| Cow::Owned(percent_encoded(&value)))
    }

    /// The text with a letter for each value.
    pub(crate) fn shape(&self) -> String {
        let part = |part: &Part| match part {
            Part::Text(plain) => plain.clone(),
            Part::Value(..) => "x".to_owned(),
        };
        self.parts.iter().map(part).collect()
    }

    fn fill_with(
        &self,
        values: &Values<'_>,
        encode: impl for<'v> Fn(Cow<'v, str>) -> Cow<'v, str>,
    ) -> Result<String, Unfit> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Value(_, name) if values.by_name => {
                    text.push('{');
                    text.push_str(name);
                    text.push('}');
                }
                Part::Value(placeholder, _) => text.push_str(&encode(values.text(placeholder)?)),
            }
        }
        Ok(text)
    }
}

fn unknown(name: &str, known: Known) -> Words {
    let (name, known) = (name.trim(), known.list());
    Words::new(
        format!("`{{{name}}}` is not known here. Known: {known}. Braces themselves are written `{{{{` and `}}}}`."),
        format!(
            "`{{{name}}}` はここでは使えません。使えるもの: {known}。波括弧そのものは `{{{{` と `}}}}` と書きます。"
        ),
    )
}

/// Everything but the unreserved characters of RFC 3986, section 2.3.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A value that can not stand where it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unfit(pub(crate) Words);

/// What placeholders stand for in one request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Values<'a> {
    pub(crate) cursor: Option<&'a str>,
    /// Cursors are written as numbers in JSON.
    pub(crate) cursor_is_number: bool,
    pub(crate) start: Option<&'a str>,
    pub(crate) end: Option<&'a str>,
    pub(crate) now: &'a str,
    pub(crate) page: Option<&'a str>,
    /// Pages are counted: they are written as numbers in JSON.
    pub(crate) page_is_number: bool,
    pub(crate) parent: Option<&'a BTreeMap<String, String>>,
    pub(crate) secrets: Option<&'a BTreeMap<String, SecretString>>,
    /// Leave the placeholders as they are, to tell one config from another.
    pub(crate) by_name: bool,
}

impl<'a> Values<'a> {
    /// The value as text.
    fn text(&self, placeholder: &Placeholder) -> Result<Cow<'a, str>, Unfit> {
        match placeholder {
            Placeholder::Cursor => Ok(self.cursor.unwrap_or_default().into()),
            Placeholder::Start => Ok(self.start.unwrap_or_default().into()),
            Placeholder::End => Ok(self.end.unwrap_or_default().into()),
            Placeholder::Now => Ok(self.now.into()),
            Placeholder::Page => Ok(self.page.unwrap_or_default().into()),
            Placeholder::Secret(name) => match self.secrets.and_then(|secrets| secrets.get(name)) {
                Some(secret) => Ok(secret.expose_secret().into()),
                None => Err(Unfit(say!("there is no secret `{name}`", "シークレット `{name}` がありません"))),
            },
            Placeholder::Parent(path) => {
                let raw = self.parent_value(path)?;
                match raw.as_bytes().first() {
                    Some(b'"') => serde_json::from_str::<String>(raw).map(Cow::Owned).map_err(|_| {
                        Unfit(say!(
                            "the parent's value at `{path}` is no text",
                            "親の `{path}` の値が文字列として読めません"
                        ))
                    }),
                    Some(b'{' | b'[') | None => Err(Unfit(say!(
                        "the parent's value at `{path}` is an object or an array",
                        "親の `{path}` の値がオブジェクトか配列です"
                    ))),
                    Some(_) => Ok(raw.into()),
                }
            }
        }
    }

    fn parent_value(&self, path: &JsonPath) -> Result<&'a str, Unfit> {
        let value = self.parent.and_then(|values| values.get(&path.to_string()));
        match value {
            Some(value) if value != "null" => Ok(value),
            _ => Err(Unfit(say!("the parent has no value at `{path}`", "親の `{path}` に値がありません"))),
        }
    }

    /// The value as JSON, in its own type.
    fn json(&self, placeholder: &Placeholder) -> Result<String, Unfit> {
        let number = match placeholder {
            Placeholder::Page if self.page.is_none() => return Ok("null".to_owned()),
            Placeholder::Parent(path) => return Ok(self.parent_value(path)?.to_owned()),
            Placeholder::Page => self.page_is_number,
            Placeholder::Cursor | Placeholder::Start => self.cursor_is_number,
            Placeholder::End | Placeholder::Now | Placeholder::Secret(_) => false,
        };
        let text = self.text(placeholder)?;
        Ok(if number { text.into_owned() } else { quoted(&text) })
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A JSON value whose strings are templates.
#[derive(Clone, Debug)]
pub(crate) enum JsonTemplate {
    /// A number, `true`, `false`, `null`.
    Plain(Box<RawValue>),
    Text(Template),
    Array(Vec<JsonTemplate>),
    Object(Vec<(String, JsonTemplate)>),
}

impl JsonTemplate {
    /// Reads a value; numbers stay as they are written.
    pub(crate) fn parse(raw: &RawValue, known: Known) -> Result<Self, Words> {
        let not_valid = |error: serde_json::Error| {
            Words::new(format!("Not valid here: {error}."), format!("ここでは使えない値です: {error}"))
        };
        match raw.get().as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(raw.get()).map_err(not_valid)?;
                Template::parse(&text, known).map(Self::Text)
            }
            Some(b'[') => {
                let items: Vec<Box<RawValue>> = serde_json::from_str(raw.get()).map_err(not_valid)?;
                items.iter().map(|item| Self::parse(item, known)).collect::<Result<_, _>>().map(Self::Array)
            }
            Some(b'{') => {
                let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get()).map_err(not_valid)?;
                let member = |(name, value): (String, Box<RawValue>)| Ok((name, Self::parse(&value, known)?));
                members.into_iter().map(member).collect::<Result<_, _>>().map(Self::Object)
            }
            _ => Ok(Self::Plain(raw.to_owned())),
        }
    }

    /// Whether it holds other values.
    pub(crate) fn is_container(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Object(_))
    }

    /// The JSON text with its values. A string that is nothing but a placeholder becomes a value of its type.
    pub(crate) fn fill(&self, values: &Values<'_>, out: &mut String) -> Result<(), Unfit> {
        match self {
            Self::Plain(raw) => out.push_str(raw.get()),
            Self::Text(text) => match text.only() {
                Some(placeholder) if !values.by_name => out.push_str(&values.json(placeholder)?),
                _ => out.push_str(&quoted(&text.fill(values)?)),
            },
            Self::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    item.fill(values, out)?;
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    out.push_str(&quoted(name));
                    out.push(':');
                    value.fill(values, out)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }

    /// Every template in it.
    pub(crate) fn templates<'a>(&'a self, found: &mut Vec<&'a Template>) {
        match self {
            Self::Plain(_) => {}
            Self::Text(text) => found.push(text),
            Self::Array(items) => items.iter().for_each(|item| item.templates(found)),
            Self::Object(members) => members.iter().for_each(|(_, value)| value.templates(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Known = Known { cursor: true, start: true, end: true, page: true, parent: true, secret: false };

    fn parent(values: &[(&str, &str)]) -> BTreeMap<String, String> {
        values.iter().map(|(path, json)| ((*path).to_owned(), (*json).to_owned())).collect()
    }

    #[test]
    fn values_are_encoded_for_an_address_and_left_alone_elsewhere() {
        let parent =
            parent(&[("$.id", r#""a/b?c#d&e=f%\\ 日""#), ("$.n", "12345678901234567890.50"), ("$.o.k", "true")]);
        let values = Values { parent: Some(&parent), now: "2026-01-01T00:00:00Z", ..Values::default() };
        let template = |text: &str| Template::parse(text, ALL).unwrap();
        assert_eq!(
            template("http://h/{parent.id}/{parent.n}/{parent.o.k}?t={now}").fill_address(&values).unwrap(),
            "http://h/a%2Fb%3Fc%23d%26e%3Df%25%5C%20%E6%97%A5/12345678901234567890.50/true?t=2026-01-01T00%3A00%3A00Z"
        );
        assert_eq!(template("{{{ parent.id }}}").fill(&values).unwrap(), "{a/b?c#d&e=f%\\ 日}");
        assert!(template("{parent.none}").fill(&values).unwrap_err().0.english.contains("`$.none`"));
    }

    #[test]
    fn a_json_value_that_is_a_placeholder_takes_its_type() {
        let parent = parent(&[("$.id", "1e2"), ("$.tags", r#"["a"]"#)]);
        let values = Values {
            parent: Some(&parent),
            page: Some("3"),
            page_is_number: true,
            cursor: Some("say \"x\""),
            ..Values::default()
        };
        let raw = r#"{"p":"{page}","t":"page {page}","n":1e400,"c":["{cursor}",null],"i":"{parent.id}","g":"{parent.tags}","q":"{{ users {{ id }} }}"}"#;
        let body = JsonTemplate::parse(&RawValue::from_string(raw.to_owned()).unwrap(), ALL).unwrap();
        let mut text = String::new();
        body.fill(&values, &mut text).unwrap();
        assert_eq!(
            text,
            r#"{"c":["say \"x\"",null],"g":["a"],"i":1e2,"n":1e400,"p":3,"q":"{ users { id } }","t":"page 3"}"#
        );
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_known() {
        let error = Template::parse("{cursr}", Known { cursor: true, ..Known::default() }).unwrap_err();
        assert!(error.english.contains("`{cursr}`") && error.english.contains("`{now}`, `{cursor}`"), "{error}");
        assert!(!error.english.contains("parent") && error.japanese.contains("`{cursor}`"), "{error:?}");
        for text in ["{", "}", "a{b", "{\"a\":1}", "{parent.}", "{parent}", "{}", "{parent.a[0]}"] {
            assert!(Template::parse(text, ALL).is_err(), "{text}");
        }
    }
}

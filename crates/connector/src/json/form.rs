//! How records come out of what is none by itself: lists of values whose names stand beside them, and objects under names of their own.

use matome_model::field_error::Words;
use matome_model::say;
use serde_json::Value;
use serde_json::value::RawValue;

use super::path::{JsonPath, Step};
use crate::config::Fields;
use crate::record::DocumentError;

/// Names that are given in a config.
const NAME_LIMIT: usize = 10_000;

/// How records are made of what stands at `records`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordForm {
    /// `header`: each is a list of values, whose names are these.
    pub header: Option<Names>,
    /// `name_as`: the member that gets the name under which an object stands.
    pub name_as: Option<String>,
}

/// `header`: where the names of values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// In the first list.
    First,
    /// These.
    Given(Vec<String>),
    /// At a path of the document, before the records: a list of texts, or with `[*]` one text of each element.
    At(JsonPath),
}

impl RecordForm {
    /// Reads `header` and `name_as` of records at `records`; `header` is another option as long as they are not known to be JSON.
    pub(crate) fn parse(fields: &mut Fields, records: &JsonPath, is_json: bool) -> Self {
        let header = if is_json { header(fields) } else { None };
        let name_as = fields.string("name_as");
        if name_as.is_some() && records.steps.last() != Some(&Step::Any) {
            fields.fail(
                "name_as",
                Words::new(
                    "Objects have names where `records` ends with `.*`, for example `$.byId.*`.",
                    "名前を持つのは、`records` が `.*` で終わるときです。例: `$.byId.*`。",
                ),
            );
        }
        Self { header, name_as }
    }

    /// In text, where there is one.
    pub(crate) fn scope(&self) -> Option<String> {
        (*self != Self::default()).then(|| format!("{self:?}"))
    }
}

fn header(fields: &mut Fields) -> Option<Names> {
    match fields.value("header")? {
        Value::Bool(true) => return Some(Names::First),
        Value::Bool(false) => return None,
        Value::Array(names) if !names.is_empty() && names.len() <= NAME_LIMIT => {
            let texts: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
            match texts {
                Some(names) => match repeated(&names) {
                    None => return Some(Names::Given(names)),
                    Some(name) => fields.fail("header", is_twice(name)),
                },
                None => fields.fail("header", Words::new("The names must be strings.", "名前は文字列にしてください。")),
            }
        }
        Value::String(path) => match path.parse::<JsonPath>() {
            Ok(path) if path.steps.split(|step| *step == Step::Wildcard).count() <= 2 && is_of_members(&path) => {
                return Some(Names::At(path));
            }
            Ok(_) => fields.fail(
                "header",
                Words::new(
                    "Give the path of one list, such as `$.columns`, or `$.columns[*].name` of a list of objects.",
                    "1 つのリストのパスを指定してください。例: `$.columns`、オブジェクトのリストなら `$.columns[*].name`。",
                ),
            ),
            Err(error) => fields.fail("header", error.into()),
        },
        _ => fields.fail(
            "header",
            Words::new(
                "Give true (the first list has the names), a path such as `$.columns`, or a list of names.",
                "true (最初のリストが名前)、`$.columns` のようなパス、または名前のリストを指定してください。",
            ),
        ),
    }
    None
}

fn is_of_members(path: &JsonPath) -> bool {
    path.steps.iter().all(|step| matches!(step, Step::Member(_) | Step::Wildcard)) && !path.steps.is_empty()
}

fn repeated(names: &[String]) -> Option<&str> {
    let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn is_twice(name: &str) -> Words {
    say!("The name \"{name}\" is there twice.", "名前 \"{name}\" が2回あります。")
}

/// What became of a record.
pub(super) enum Formed {
    Record(Vec<u8>),
    /// It had the names of the others.
    Names,
    Rejected(Vec<u8>, Words),
}

/// Gives records their form while a document streams by.
#[derive(Default)]
pub(super) struct Former {
    form: RecordForm,
    names: Option<Vec<String>>,
}

impl Former {
    pub(super) fn new(form: RecordForm) -> Self {
        let names = match &form.header {
            Some(Names::Given(names)) => Some(names.clone()),
            _ => None,
        };
        Self { form, names }
    }

    /// Whether the names of objects are wanted.
    pub(super) fn wants_name(&self) -> bool {
        self.form.name_as.is_some()
    }

    /// The steps to the value that has the names, or the list of them; none where nothing has to be looked for.
    pub(super) fn path(&self) -> Option<(&JsonPath, &[Step])> {
        let Some(Names::At(path)) = &self.form.header else { return None };
        let end = path.steps.iter().position(|step| *step == Step::Wildcard).unwrap_or(path.steps.len());
        Some((path, &path.steps[..end]))
    }

    /// The record that `raw` is; `name`: under which it stands, as JSON writes it; `header`: what stands at [`Former::path`].
    pub(super) fn form(
        &mut self,
        raw: Vec<u8>,
        name: Option<&[u8]>,
        header: Option<&[u8]>,
    ) -> Result<Formed, DocumentError> {
        let raw = match (&self.form.name_as, name) {
            (Some(member), Some(name)) => named(raw, member, name),
            _ => raw,
        };
        if self.form.header.is_none() {
            return Ok(Formed::Record(raw));
        }
        if self.names.is_none() {
            self.names = Some(self.look_for_names(&raw, header)?);
            if self.form.header == Some(Names::First) {
                return Ok(Formed::Names);
            }
        }
        Ok(object(self.names.as_deref().unwrap_or_default(), raw))
    }

    fn look_for_names(&self, first: &[u8], header: Option<&[u8]>) -> Result<Vec<String>, DocumentError> {
        let path = match &self.form.header {
            Some(Names::At(path)) => path.to_string(),
            _ => "header".to_owned(),
        };
        let none = || {
            DocumentError::anywhere(say!(
                "there are no names of columns at `{path}` before the records: a list of texts is needed, each text once",
                "レコードの前の `{path}` に列の名前がありません。重複のない文字列のリストが必要です"
            ))
        };
        let list = match &self.form.header {
            Some(Names::At(_)) => header.ok_or_else(none)?,
            _ => first,
        };
        let within: &[Step] = match &self.form.header {
            Some(Names::At(path)) => path.steps.split(|step| *step == Step::Wildcard).nth(1).unwrap_or_default(),
            _ => &[],
        };
        let Ok(Value::Array(values)) = serde_json::from_slice::<Value>(list) else { return Err(none()) };
        let name = |value: &Value| {
            let at = within.iter().try_fold(value, |value, step| match step {
                Step::Member(name) => value.get(name),
                _ => None,
            })?;
            match at {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            }
        };
        let names: Option<Vec<String>> = values.iter().map(name).collect();
        names.filter(|names| !names.is_empty() && repeated(names).is_none()).ok_or_else(none)
    }
}

/// The object of these values; what is no list stays as it is, and is told as no object.
fn object(names: &[String], raw: Vec<u8>) -> Formed {
    let Ok(values) = serde_json::from_slice::<Vec<&RawValue>>(&raw) else { return Formed::Record(raw) };
    if values.len() > names.len() {
        let (values, names) = (values.len(), names.len());
        let detail =
            say!("a list of {values} values under {names} names", "{names} 個の名前に対して値が {values} 個あります");
        return Formed::Rejected(raw, detail);
    }
    let mut text = String::with_capacity(raw.len() + names.iter().map(|name| name.len() + 4).sum::<usize>());
    text.push('{');
    for (at, (name, value)) in names.iter().zip(values).enumerate() {
        text.push_str(if at > 0 { "," } else { "" });
        text.push_str(&Value::from(name.as_str()).to_string());
        text.push(':');
        text.push_str(value.get());
    }
    text.push('}');
    Formed::Record(text.into_bytes())
}

/// An object with one member more, before the others; what is none stays as it is.
fn named(raw: Vec<u8>, member: &str, name: &[u8]) -> Vec<u8> {
    let Some(rest) = raw.strip_prefix(b"{") else { return raw };
    let mut text = format!("{{{}:\"", Value::from(member)).into_bytes();
    text.extend_from_slice(name);
    text.push(b'"');
    if rest.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'}') {
        text.push(b',');
    }
    text.extend_from_slice(rest);
    text
}

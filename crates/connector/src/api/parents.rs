//! Parent records: each names one list of children.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::list::List;
use super::template::{Known, Placeholder};
use super::value_path;
use crate::config::Fields;
use crate::json::{JsonPath, Splitter};
use matome_model::field_error::Words;

/// `parent`: the list whose records fill `{parent.NAME}`.
#[derive(Clone, Debug)]
pub struct Parent {
    /// The list.
    pub list: List,
    /// `include`: names under which children get a value of their parent.
    pub include: Vec<(String, JsonPath)>,
    /// Every value of a parent record that is needed.
    paths: Vec<JsonPath>,
}

/// The values of one parent record that are needed, by their paths: JSON texts, which a store of JSON leaves alone.
pub(super) type ParentValues = BTreeMap<String, String>;

impl Parent {
    /// Reads `parent`; `children` is the list that its records fill in.
    pub(super) fn parse(fields: &mut Fields, children: &List) -> Option<Self> {
        let mut own = fields.nested("parent")?;
        let mut include = Vec::new();
        if let Some(mut names) = own.nested("include") {
            for name in names.names() {
                if let Some(path) = value_path(&mut names, &name, true, "$.id") {
                    include.push((name, path));
                }
            }
            own.absorb(names);
        }
        let list = List::parse(&mut own, Known::default());
        let wanted = children.placeholders().filter_map(|placeholder| match placeholder {
            Placeholder::Parent(path) => Some(path.clone()),
            _ => None,
        });
        let mut paths: Vec<JsonPath> = wanted.collect();
        if paths.is_empty() {
            own.fail_here(Words::new(
                "Nothing of the parent is used: put `{parent.NAME}` into `url`, `params`, `headers`, `body` or `form`.",
                "親の値が使われていません。`url`, `params`, `headers`, `body`, `form` のどれかに `{parent.NAME}` を入れてください。",
            ));
        }
        paths.extend(include.iter().map(|(_, path)| path.clone()));
        paths.sort_by_key(ToString::to_string);
        paths.dedup();
        fields.absorb(own);
        Some(Self { list: list?, include, paths })
    }

    /// The values of a parent record that are needed; what it lacks is null.
    pub(super) fn values(&self, record: &[u8]) -> ParentValues {
        let paths: Vec<&JsonPath> = self.paths.iter().collect();
        let found = Splitter::pick(record, &paths).into_iter();
        let value = |json: Option<Vec<u8>>| {
            let json = json.filter(|json| serde_json::from_slice::<&RawValue>(json).is_ok());
            json.and_then(|json| String::from_utf8(json).ok()).unwrap_or_else(|| "null".to_owned())
        };
        paths.iter().zip(found).map(|(path, json)| (path.to_string(), value(json))).collect()
    }

    /// A child record with what is included from its parent in front of what the source sent; what is no object is
    /// left alone.
    pub(super) fn include_in(&self, record: Vec<u8>, values: &ParentValues) -> Vec<u8> {
        if self.include.is_empty() {
            return record;
        }
        let Some(open) = record.iter().position(|byte| !byte.is_ascii_whitespace()) else { return record };
        if record[open] != b'{' {
            return record;
        }
        let rest = &record[open + 1..];
        let mut text = b"{".to_vec();
        for (at, (name, path)) in self.include.iter().enumerate() {
            let value = values.get(&path.to_string()).map_or("null", String::as_str);
            let comma = if at > 0 { "," } else { "" };
            text.extend_from_slice(format!("{comma}{}:{value}", serde_json::Value::from(name.as_str())).as_bytes());
        }
        if rest.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'}') {
            text.push(b',');
        }
        text.extend_from_slice(rest);
        text
    }
}

//! Where in a JSON document the records are.

use matome_model::field_error::Words;
use matome_model::say;
use serde_json::{Map, Value};
use url::Url;

use super::Finding;
use crate::json::{JsonPath, Step};

/// How deep lists are looked for.
const DEPTH: usize = 4;
/// Names that lists of records go by.
const NAMES: [&str; 18] = [
    "results",
    "data",
    "items",
    "records",
    "rows",
    "value",
    "values",
    "entries",
    "hits",
    "list",
    "elements",
    "content",
    "objects",
    "edges",
    "nodes",
    "documents",
    "result",
    "response",
];

/// A list that was found.
pub(crate) struct Place {
    pub(crate) path: JsonPath,
    /// How many records it has; nothing when the page itself is the only one.
    count: Option<usize>,
}

impl Place {
    /// Whether there is a list at all.
    pub(crate) fn has_list(&self) -> bool {
        self.count.is_some()
    }

    /// What was found in the first `bytes` bytes; `is_cut`: there are more.
    pub(crate) fn finding(&self, bytes: usize, is_cut: bool) -> Finding {
        let path = &self.path;
        let words = match self.count {
            None => Words::new(
                "the answer has no list of objects: it is taken as one record",
                "応答にオブジェクトのリストがありません。全体を1件のレコードとして扱います",
            ),
            Some(0) => say!("a list that is empty now (`{path}`)", "今は空のリストがあります (`{path}`)"),
            Some(count) if is_cut => say!(
                "more than {count} objects (`{path}`), of which the first {bytes} bytes were looked at",
                "{count} 件を超えるオブジェクトがあります (`{path}`)。最初の {bytes} バイトだけを調べました"
            ),
            Some(count) => say!("{count} objects (`{path}`)", "{count} 件のオブジェクトがあります (`{path}`)"),
        };
        // A page that is an array, or one record, needs no path.
        let value = (*path != JsonPath::root()).then(|| path.to_string().into());
        Finding { option: "records", value, words }
    }
}

/// The list of records in a document about `resource`; the document itself when it has none.
pub(crate) fn find(body: &Value, resource: Option<&str>) -> Place {
    let mut best: Option<(Place, Rank)> = None;
    lists(body, "$", DEPTH, &mut |name, path, items| {
        let objects = items.iter().filter(|item| item.is_object()).count();
        if objects * 10 < items.len() * 9 {
            return;
        }
        let is_named = NAMES.contains(&name.as_str()) || resource == Some(name.as_str());
        // An empty list tells nothing but its name.
        if items.is_empty() && !is_named && name != "$" {
            return;
        }
        let rank = (is_named && !items.is_empty(), items.len(), is_named);
        let path = wrapped(items).map_or_else(|| path.to_owned(), |inner| member(&format!("{path}[*]"), inner));
        if let Ok(path) = path.parse()
            && best.as_ref().is_none_or(|(_, other)| rank > *other)
        {
            best = Some((Place { path, count: Some(items.len()) }, rank));
        }
    });
    best.map_or(Place { path: JsonPath::root(), count: None }, |(place, _)| place)
}

type Rank = (bool, usize, bool);

/// The last part of an address that is a name: `orders` of `/v2/orders.json`.
pub(crate) fn resource(url: &Url) -> Option<String> {
    let last = url.path_segments()?.rfind(|segment| !segment.is_empty())?;
    let name = last.split('.').next().unwrap_or(last).to_ascii_lowercase();
    (!name.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

/// The name of the member that each object is wrapped in: `node` of the edges of GraphQL.
fn wrapped(items: &[Value]) -> Option<&'static str> {
    let is_edge = |item: &Value| {
        let edge = item.as_object().filter(|edge| edge.get("node").is_some_and(Value::is_object));
        edge.is_some_and(|edge| edge.keys().all(|key| matches!(key.as_str(), "node" | "cursor" | "__typename")))
    };
    (!items.is_empty() && items.iter().all(is_edge)).then_some("node")
}

fn lists(value: &Value, path: &str, depth: usize, each: &mut dyn FnMut(String, &str, &[Value])) {
    match value {
        Value::Array(items) => {
            let name = path.rsplit(['.', '\'']).find(|part| !matches!(*part, "]" | "")).unwrap_or(path);
            each(name.to_ascii_lowercase(), path, items);
        }
        Value::Object(members) if depth > 0 => {
            for (name, inner) in members {
                lists(inner, &member(path, name), depth - 1, each);
            }
        }
        _ => {}
    }
}

/// The path of a member.
pub(crate) fn member(path: &str, name: &str) -> String {
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    match is_plain {
        true => format!("{path}.{name}"),
        false => format!("{path}['{name}']"),
    }
}

/// The records of a document; of one that was cut not its last, which may lack something.
pub(crate) fn select(body: &Value, path: &JsonPath, is_cut: bool) -> Vec<Value> {
    let mut at = vec![body];
    for step in &path.steps {
        at = at
            .into_iter()
            .flat_map(|value| match step {
                Step::Member(name) => value.get(name).into_iter().collect::<Vec<_>>(),
                Step::Index(index) => {
                    value.get(usize::try_from(*index).unwrap_or(usize::MAX)).into_iter().collect::<Vec<_>>()
                }
                Step::Wildcard => value.as_array().into_iter().flatten().collect(),
                Step::Any => match value {
                    Value::Object(members) => members.values().collect(),
                    value => value.as_array().into_iter().flatten().collect(),
                },
            })
            .collect();
    }
    let expanded = at.into_iter().flat_map(|value| match value {
        Value::Array(items) => items.iter().collect::<Vec<_>>(),
        other => vec![other],
    });
    let mut records: Vec<Value> = expanded.filter(|value| value.is_object()).cloned().collect();
    if is_cut {
        records.pop();
    }
    records
}

/// A member of the objects around the records.
pub(crate) struct Member<'v> {
    /// Its name, as [`plain`] makes it.
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) value: &'v Value,
    /// The object that it is in.
    pub(crate) beside: &'v Map<String, Value>,
}

/// Every member of the objects around the records.
pub(crate) fn around(body: &Value) -> Vec<Member<'_>> {
    fn walk<'v>(beside: &'v Map<String, Value>, path: &str, depth: usize, found: &mut Vec<Member<'v>>) {
        for (name, value) in beside {
            let path = member(path, name);
            found.push(Member { name: plain(name), path: path.clone(), value, beside });
            if let (Value::Object(inner), true) = (value, depth > 0) {
                walk(inner, &path, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    if let Value::Object(members) = body {
        walk(members, "$", DEPTH - 1, &mut found);
    }
    found
}

/// A name without the signs that spellings differ in: `nextPageToken` and `next_page_token` are one.
pub(crate) fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The beginning of a JSON text up to its last whole value, with what is open closed.
pub(crate) fn closed(mut text: Vec<u8>) -> Vec<u8> {
    let (mut open, mut in_string, mut escaped) = (Vec::new(), false, false);
    // Where the last value ended that something follows, and what was open there.
    let mut whole = (0, Vec::new());
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b'}' | b']' => {
                open.pop();
            }
            b',' => whole = (at, open.clone()),
            _ => {}
        }
    }
    text.truncate(whole.0);
    text.extend(whole.1.into_iter().rev());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str, url: &str) -> (String, Option<usize>) {
        let resource = resource(&Url::parse(url).unwrap());
        let place = find(&serde_json::from_str(body).unwrap(), resource.as_deref());
        (place.path.to_string(), place.count)
    }

    #[test]
    fn records_are_the_list_that_is_named_so_else_the_longest() {
        for (body, path, count) in [
            (r#"[{"id":1},{"id":2}]"#, "$", Some(2)),
            (r#"{"count":1,"next":null,"previous":null,"results":[{"id":1}]}"#, "$.results", Some(1)),
            (r#"{"data":[{"id":1}],"included":[{"id":1},{"id":2},{"id":3}]}"#, "$.data", Some(1)),
            (r#"{"orders":[{"id":1}],"links":[{"rel":"a"},{"rel":"b"}]}"#, "$.orders", Some(1)),
            (r#"{"meta":{"tags":["a","b"]},"payload":{"things":[{"a":1},{"a":2}]}}"#, "$.payload.things", Some(2)),
            (r#"{"odd name":[{"a":1}]}"#, "$['odd name']", Some(1)),
            (
                r#"{"data":{"orders":{"edges":[{"node":{"id":1},"cursor":"x"}]}}}"#,
                "$.data.orders.edges[*].node",
                Some(1),
            ),
            (r#"{"results":[]}"#, "$.results", Some(0)),
            (r#"{"warnings":[],"rate":1.5}"#, "$", None),
            (r#"{"id":1,"name":"x"}"#, "$", None),
        ] {
            assert_eq!(found(body, "https://h/v2/orders.json?x=1"), (path.to_owned(), count), "{body}");
        }
    }

    #[test]
    fn what_a_path_selects_is_what_a_read_would_give() {
        let body = serde_json::json!({"edges": [{"node": {"id": 1}}, {"node": {"id": 2}}, {"node": 3}]});
        let selected = select(&body, &"$.edges[*].node".parse().unwrap(), false);
        assert_eq!(selected, [serde_json::json!({"id": 1}), serde_json::json!({"id": 2})]);
        assert_eq!(select(&body, &"$.edges".parse().unwrap(), true).len(), 2);
    }

    #[test]
    fn the_beginning_of_a_text_is_closed_behind_its_last_whole_value() {
        for (cut, whole) in [
            (r#"{"a":[{"b":1,"c":"x,]"},{"b":2,"c":"#, r#"{"a":[{"b":1,"c":"x,]"},{"b":2}]}"#),
            (r#"[{"a":"\"},"},{"a":"#, r#"[{"a":"\"},"}]"#),
            ("[1,2,3", "[1,2]"),
        ] {
            let closed = closed(cut.as_bytes().to_vec());
            assert_eq!(String::from_utf8(closed).unwrap(), whole, "{cut}");
        }
    }
}

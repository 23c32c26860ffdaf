//! Which field is the key of a record, and which says when it changed.

use std::collections::HashSet;

use matome_model::field_error::Words;
use matome_model::say;
use serde_json::Value;
use url::Url;

use super::super::CursorKind;
use super::Finding;
use super::records::{plain, resource};

/// Names of keys, the likeliest first.
const KEYS: [&str; 12] =
    ["id", "uuid", "guid", "key", "identifier", "uid", "code", "sku", "number", "slug", "isbn", "symbol"];
/// Names of times of a change, the likeliest first.
const CHANGES: [&str; 16] = [
    "updatedat",
    "modifiedat",
    "lastmodified",
    "lastmodifiedat",
    "changedat",
    "lastupdated",
    "lastupdatedat",
    "updated",
    "modified",
    "changed",
    "updatetime",
    "modifiedon",
    "updatedon",
    "updateddate",
    "modifieddate",
    "datemodified",
];

/// Which field tells records apart.
pub(super) fn key(records: &[Value], url: &Url) -> Finding {
    let option = "key";
    let nothing = |words: Words| Finding { option, value: None, words };
    if records.is_empty() {
        return nothing(Words::new("without records no key can be seen", "レコードがないためキーが分かりません"));
    }
    let mut best: Option<(usize, &String)> = None;
    for name in records[0].as_object().into_iter().flat_map(|record| record.keys()) {
        let Some(rank) = rank(name, url).filter(|_| is_unique(records, name)) else { continue };
        if best.is_none_or(|(other, _)| rank < other) {
            best = Some((rank, name));
        }
    }
    match best {
        Some((_, name)) => {
            let words = match records.len() {
                1 => say!(
                    "`{name}`, by its name: the page has one record",
                    "`{name}` (名前による推測。ページにレコードは1件です)"
                ),
                count => say!(
                    "`{name}` is there in all {count} records of the page and in no two the same",
                    "`{name}` がページの {count} 件すべてにあり、同じ値はありません"
                ),
            };
            // A dot goes deeper in `key`.
            let path = name.replace('\\', "\\\\").replace('.', "\\.");
            Finding { option, value: Some(path.into()), words }
        }
        None => nothing(Words::new(
            "no field with the name of a key is different in every record: records are told apart by their content",
            "キーらしい名前で、すべてのレコードで値が違うフィールドがありません。内容で区別します",
        )),
    }
}

/// How likely a field of this name is the key; the lower the better.
fn rank(name: &str, url: &Url) -> Option<usize> {
    let plain = plain(name);
    let singular = resource(url).map(|resource| resource.trim_end_matches('s').to_owned());
    let own = ["id", "key", "code", "no", "number"];
    if KEYS[..3].contains(&plain.as_str()) {
        return KEYS.iter().position(|key| *key == plain);
    }
    if singular.is_some_and(|singular| own.iter().any(|end| format!("{}{end}", self::plain(&singular)) == plain)) {
        return Some(3);
    }
    KEYS.iter().position(|key| *key == plain).map(|at| at + 1)
}

fn is_unique(records: &[Value], name: &str) -> bool {
    let mut seen = HashSet::new();
    records.iter().all(|record| match record.get(name) {
        Some(Value::String(text)) => !text.is_empty() && seen.insert(format!("\"{text}")),
        Some(Value::Number(number)) if !number.is_f64() => seen.insert(number.to_string()),
        _ => false,
    })
}

/// A field that says when a record changed.
pub(super) struct Cursor {
    pub(super) name: String,
    kind: CursorKind,
    /// What the records have there, from the first to the last, each once.
    values: Vec<String>,
}

/// The field that says when a record changed, if there is one.
pub(super) fn cursor(records: &[Value]) -> Option<Cursor> {
    let names: Vec<&String> = records.first()?.as_object()?.keys().collect();
    let mut found = names.iter().filter_map(|name| {
        let rank = CHANGES.iter().position(|change| *change == plain(name))?;
        [CursorKind::Time, CursorKind::Integer, CursorKind::Text].into_iter().find_map(|kind| {
            let read = |record: &Value| kind.read(record.get(name.as_str())?.to_string().as_bytes());
            let mut values = records.iter().map(read).collect::<Option<Vec<String>>>()?;
            // Text that does not begin with a year is compared by its bytes to no use.
            let is_dated = kind != CursorKind::Text || values.iter().all(|value| is_dated(value));
            values.sort_by(|one, other| kind.compare(one, other));
            values.dedup_by(|one, other| kind.compare(one, other).is_eq());
            is_dated.then(|| (rank, Cursor { name: (*name).clone(), kind, values }))
        })
    });
    let first = found.next()?;
    Some(found.fold(first, |best, other| if other.0 < best.0 { other } else { best }).1)
}

fn is_dated(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 10 && bytes[..4].iter().all(u8::is_ascii_digit) && matches!(bytes[4], b'-' | b'/')
}

/// The parameters that may ask for records that changed since, for a field of this name.
pub(super) fn params(name: &str) -> [String; 7] {
    let stem = name.trim_end_matches("_at").trim_end_matches("At");
    [
        format!("{name}__gte"),
        format!("{stem}_since"),
        "since".to_owned(),
        format!("{stem}_after"),
        format!("{name}_gte"),
        format!("{name}[gte]"),
        format!("{name}_min"),
    ]
}

impl Cursor {
    /// A value that some records lie before and some at or behind, with what values are.
    pub(super) fn middle(&self) -> Option<(String, CursorKind)> {
        let middle = self.values.get(self.values.len() / 2).filter(|_| self.values.len() > 1)?;
        Some((middle.clone(), self.kind))
    }

    /// Whether an answer has nothing from before `since`, and something from then on.
    pub(super) fn is_obeyed(&self, records: &[Value], since: &str) -> bool {
        let read = |record: &Value| self.kind.read(record.get(self.name.as_str())?.to_string().as_bytes());
        let mut has_bound = false;
        let obeyed = records.iter().all(|record| {
            let order = read(record).map(|value| self.kind.compare(&value, since));
            has_bound |= order.is_some_and(|order| order.is_eq());
            order.is_some_and(|order| order.is_ge())
        });
        // Behind the bound alone is enough for times, whose reads overlap.
        obeyed && !records.is_empty() && (has_bound || self.kind == CursorKind::Time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn url() -> Url {
        Url::parse("https://h/v1/orders").unwrap()
    }

    #[test]
    fn a_key_is_unique_and_has_the_name_of_one() {
        for (records, wanted) in [
            (json!([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]), json!("id")),
            (json!([{"id": 1, "order_id": "a"}, {"id": 1, "order_id": "b"}]), json!("order_id")),
            (json!([{"orderNo": "a", "code": 1}, {"orderNo": "b", "code": 2}]), json!("orderNo")),
            (json!([{"id": 1.5}, {"id": 2.5}]), Value::Null),
            (json!([{"id": 1}, {"ID": 2}]), Value::Null),
            (json!([{"id": "1"}, {"id": 1}]), json!("id")),
            (json!([{"total": 1}, {"total": 2}]), Value::Null),
            (json!([]), Value::Null),
        ] {
            let found = key(records.as_array().unwrap(), &url());
            assert_eq!(found.value.unwrap_or_default(), wanted, "{records}");
        }
    }

    #[test]
    fn a_cursor_is_a_time_of_a_change_of_every_record() {
        let kind = |records: Value| cursor(records.as_array().unwrap()).map(|cursor| (cursor.name, cursor.kind));
        let named = |name: &str, kind| Some((name.to_owned(), kind));
        assert_eq!(
            kind(json!([{"updatedAt": "2026-01-01T00:00:00Z", "modified": "2026-01-01T00:00:00Z"}])),
            named("updatedAt", CursorKind::Time)
        );
        assert_eq!(kind(json!([{"updated_at": 1_700_000_000}])), named("updated_at", CursorKind::Integer));
        assert_eq!(kind(json!([{"updated_at": "2026-01-01 09:00:00"}])), named("updated_at", CursorKind::Text));
        assert_eq!(kind(json!([{"updated_at": "yesterday"}])), None);
        assert_eq!(kind(json!([{"updated_at": "2026-01-01T00:00:00Z"}, {"updated_at": null}])), None);
        assert_eq!(kind(json!([{"created_at": "2026-01-01T00:00:00Z"}])), None);
    }

    #[test]
    fn a_parameter_is_obeyed_when_nothing_older_comes() {
        let times = |days: &[u32]| -> Vec<Value> {
            days.iter().map(|day| json!({"updated_at": format!("2026-01-0{day}T00:00:00Z")})).collect()
        };
        let cursor = cursor(&times(&[3, 1, 2, 2])).unwrap();
        let (since, _) = cursor.middle().unwrap();
        assert_eq!(since, "2026-01-02T00:00:00Z");
        assert!(cursor.is_obeyed(&times(&[3, 2]), &since) && cursor.is_obeyed(&times(&[3]), &since));
        assert!(!cursor.is_obeyed(&times(&[3, 1]), &since) && !cursor.is_obeyed(&[], &since));
    }
}

//! Which field of a record says when it changed, and how later ones may be asked for.

use serde_json::Value;

use super::super::CursorKind;
use crate::probe::change_rank;

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
        let rank = change_rank(name)?;
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

//! Which field tells records apart.

use std::collections::HashSet;

use matome_model::field_error::Words;
use matome_model::say;
use serde_json::Value;

use super::Finding;
use super::records::plain;

/// Names of keys, the likeliest first.
const KEYS: [&str; 12] =
    ["id", "uuid", "guid", "key", "identifier", "uid", "code", "sku", "number", "slug", "isbn", "symbol"];
/// Which field tells the records of a resource of this name apart.
pub(crate) fn key(records: &[Value], resource: Option<&str>) -> Finding {
    let option = "key";
    let nothing = |words: Words| Finding { option, value: None, words };
    if records.is_empty() {
        return nothing(Words::new("without records no key can be seen", "レコードがないためキーが分かりません"));
    }
    let mut best: Option<(usize, &String)> = None;
    for name in records[0].as_object().into_iter().flat_map(|record| record.keys()) {
        let Some(rank) = rank(name, resource).filter(|_| is_unique(records, name)) else { continue };
        if best.is_none_or(|(other, _)| rank < other) {
            best = Some((rank, name));
        }
    }
    match best {
        Some((_, name)) => {
            let words = match records.len() {
                1 => say!(
                    "`{name}`, by its name: there was one record to look at",
                    "`{name}` (名前による推測。調べたレコードは1件です)"
                ),
                count => say!(
                    "`{name}` is there in all {count} records that were looked at and in no two the same",
                    "`{name}` が調べた {count} 件すべてにあり、同じ値はありません"
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
fn rank(name: &str, resource: Option<&str>) -> Option<usize> {
    let plain = plain(name);
    let singular = resource.map(|resource| resource.trim_end_matches('s'));
    let own = ["id", "key", "code", "no", "number"];
    if KEYS[..3].contains(&plain.as_str()) {
        return KEYS.iter().position(|key| *key == plain);
    }
    if singular.is_some_and(|singular| own.iter().any(|end| format!("{}{end}", self::plain(singular)) == plain)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            let found = key(records.as_array().unwrap(), Some("orders"));
            assert_eq!(found.value.unwrap_or_default(), wanted, "{records}");
        }
    }
}

//! What a change of a config means for a source that has been read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::{RawValue, to_raw_value};

/// Options that neither what is read nor how records are told apart depends on: the next read goes on where the last
/// one stood.
const BESIDES: &[&str] = &[
    "labels",
    "timeout_secs",
    "deadline_secs",
    "retention",
    "schedule",
    "priority",
    "weight",
    "auth",
    "rate",
    "batch",
    "heartbeat",
    "reconnect",
    "duration_secs",
    "max_message_bytes",
    "user",
    "password",
    "tls",
    "statement_timeout_secs",
    "webhook",
];

/// Options that say which records there are and which of them are the same.
const IDENTITY: &[&str] =
    &["path", "url", "engine", "host", "port", "database", "schema", "table", "query", "dedupe", "key", "incremental"];

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that a read depends on.
    Besides,
    /// How the source is read: the next read starts from the beginning.
    Reading,
    /// Where it is, or what makes records the same, by these options: what is stored may not fit what comes.
    Identity(Vec<&'static str>),
}

/// Compares two configs in canonical form, their secrets replaced.
pub fn change(before: &str, after: &str) -> Change {
    let (before, after) = (options(before), options(after));
    let changed: BTreeSet<&str> = before
        .keys()
        .chain(after.keys())
        .filter(|name| before.get(*name).map(|value| value.get()) != after.get(*name).map(|value| value.get()))
        .map(String::as_str)
        .collect();
    let identity: Vec<&'static str> = IDENTITY.iter().copied().filter(|name| changed.contains(name)).collect();
    if !identity.is_empty() {
        Change::Identity(identity)
    } else if changed.iter().any(|name| !BESIDES.contains(name)) {
        Change::Reading
    } else {
        Change::Besides
    }
}

/// Options of places of files that say, beside `path`, which place it is; the others say who asks.
const PLACES: [(&str, &[&str]); 4] = [
    ("s3", &["endpoint", "region", "style"]),
    ("gcs", &["endpoint"]),
    ("azure", &["endpoint", "account"]),
    ("sftp", &[]),
];

fn options(config: &str) -> BTreeMap<String, Box<RawValue>> {
    let mut options: BTreeMap<String, Box<RawValue>> = serde_json::from_str(config).unwrap_or_default();
    for (place, which) in PLACES {
        let Some(own) = options.remove(place) else { continue };
        let own: BTreeMap<&str, &RawValue> = serde_json::from_str(own.get()).unwrap_or_default();
        let own: BTreeMap<&str, &RawValue> = own.into_iter().filter(|(name, _)| which.contains(name)).collect();
        if let (false, Ok(own)) = (own.is_empty(), to_raw_value(&own)) {
            options.insert(place.to_owned(), own);
        }
    }
    // A key says so by itself.
    if options.contains_key("key") {
        options.remove("dedupe");
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_read_depends_on_forgets_its_place() {
        let before = r#"{"dedupe":"hash","headers":{"a":"b"},"labels":{"a":1},"url":"http://h/"}"#;
        for (after, expected) in [
            (before, Change::Besides),
            (
                r#"{"auth":{"type":"bearer"},"dedupe":"hash","headers":{"a":"b"},"timeout_secs":5,"url":"http://h/"}"#,
                Change::Besides,
            ),
            (
                r#"{"dedupe":"hash","retention":{"max_records":1},"headers":{"a":"b"},"url":"http://h/"}"#,
                Change::Besides,
            ),
            (r#"{"dedupe":"hash","headers":{"a":"c"},"url":"http://h/"}"#, Change::Reading),
            (r#"{"dedupe":"hash","headers":{"a":"b"},"records":"$.x","url":"http://h/"}"#, Change::Reading),
            (r#"{"dedupe":"hash","headers":{"a":"b"},"url":"http://other/"}"#, Change::Identity(vec!["url"])),
            (r#"{"headers":{"a":"b"},"key":"id","url":"http://h/"}"#, Change::Identity(vec!["dedupe", "key"])),
            (
                r#"{"dedupe":"hash","headers":{"a":"b"},"password":{"$secret":true},"url":"http://h/","user":"u"}"#,
                Change::Besides,
            ),
            (r#"{"dedupe":"hash","headers":{"a":"b"},"table":"t","url":"http://h/"}"#, Change::Identity(vec!["table"])),
            ("{}", Change::Identity(vec!["url", "dedupe"])),
        ] {
            assert_eq!(change(before, after), expected, "{after}");
        }
        let store = r#"{"path":"s3://b/a.csv","s3":{"access_key_id":"k","endpoint":"https://h"}}"#;
        for (after, expected) in [
            (r#"{"path":"s3://b/a.csv","s3":{"access_key_id":"other","endpoint":"https://h"}}"#, Change::Besides),
            (r#"{"path":"s3://b/a.csv","s3":{"access_key_id":"k","endpoint":"https://other"}}"#, Change::Reading),
            (r#"{"path":"s3://b/a.csv"}"#, Change::Reading),
        ] {
            assert_eq!(change(store, after), expected, "{after}");
        }
        let keyed = [r#"{"key":"id","path":"a"}"#, r#"{"dedupe":"key","key":"id","path":"a"}"#];
        assert_eq!(change(keyed[0], keyed[1]), Change::Besides);
    }
}

//! What differs between two records: one change for each place, named by its JSON pointer (RFC 6901).
//!
//! Values are compared and handed out as the text that they have in canonical form, so no number is rounded.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

/// One place where two records differ.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// JSON pointer of the place: `/address/code`, `/tags/0`.
    pub path: String,
    /// What happened to it.
    pub change: Kind,
    /// The value before; absent when it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Box<RawValue>>,
    /// The value after; absent when it is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Box<RawValue>>,
}

/// What happened to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is only in the new record.
    Added,
    /// It is only in the old record.
    Removed,
    /// It has another value.
    Changed,
}

/// The changes from `old` to `new`, two canonical texts, in the order of the pointers' names. Objects are compared
/// member by member, arrays place by place.
///
/// # Errors
/// When one of the texts is no JSON.
pub fn between(old: &str, new: &str) -> Result<Vec<Change>, serde_json::Error> {
    let mut changes = Vec::new();
    compare(&mut String::new(), Some(serde_json::from_str(old)?), Some(serde_json::from_str(new)?), &mut changes)?;
    Ok(changes)
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

// Records are at most 128 deep, and so is this.
fn compare(
    path: &mut String,
    old: Option<&RawValue>,
    new: Option<&RawValue>,
    changes: &mut Vec<Change>,
) -> Result<(), serde_json::Error> {
    let kind = match (old, new) {
        (Some(old), Some(new)) if old.get() == new.get() => return Ok(()),
        (Some(old), Some(new)) => match (old.get().as_bytes().first(), new.get().as_bytes().first()) {
            (Some(b'{'), Some(b'{')) => {
                let old: Members<'_> = serde_json::from_str(old.get())?;
                let new: Members<'_> = serde_json::from_str(new.get())?;
                let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
                for name in names {
                    let escaped = name.replace('~', "~0").replace('/', "~1");
                    let (old, new) = (old.get(name).copied(), new.get(name).copied());
                    beneath(path, &escaped, old, new, changes)?;
                }
                return Ok(());
            }
            (Some(b'['), Some(b'[')) => {
                let old: Vec<&RawValue> = serde_json::from_str(old.get())?;
                let new: Vec<&RawValue> = serde_json::from_str(new.get())?;
                for place in 0..old.len().max(new.len()) {
                    let (old, new) = (old.get(place).copied(), new.get(place).copied());
                    beneath(path, &place.to_string(), old, new, changes)?;
                }
                return Ok(());
            }
            _ => Kind::Changed,
        },
        (None, _) => Kind::Added,
        (_, None) => Kind::Removed,
    };
    let owned = |value: Option<&RawValue>| value.map(ToOwned::to_owned);
    changes.push(Change { path: path.clone(), change: kind, old: owned(old), new: owned(new) });
    Ok(())
}

fn beneath(
    path: &mut String,
    name: &str,
    old: Option<&RawValue>,
    new: Option<&RawValue>,
    changes: &mut Vec<Change>,
) -> Result<(), serde_json::Error> {
    let length = path.len();
    path.push('/');
    path.push_str(name);
    compare(path, old, new, changes)?;
    path.truncate(length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(old: &str, new: &str) -> Vec<String> {
        between(old, new).unwrap().iter().map(|change| serde_json::to_string(change).unwrap()).collect()
    }

    #[test]
    fn each_place_is_named_with_both_values() {
        assert_eq!(
            changes(
                r#"{"a":1,"b":{"c":[1,2,{"d":null}],"e":"x"},"gone":true}"#,
                r#"{"a":1,"b":{"c":[1,3],"e":"x"},"new":[]}"#
            ),
            [
                r#"{"path":"/b/c/1","change":"changed","old":2,"new":3}"#,
                r#"{"path":"/b/c/2","change":"removed","old":{"d":null}}"#,
                r#"{"path":"/gone","change":"removed","old":true}"#,
                r#"{"path":"/new","change":"added","new":[]}"#,
            ]
        );
        assert!(changes(r#"{"a":[{}]}"#, r#"{"a":[{}]}"#).is_empty());
    }

    #[test]
    fn numbers_are_compared_and_shown_digit_by_digit() {
        assert_eq!(
            changes(r#"{"n":0.1000000000000000055}"#, r#"{"n":0.1000000000000000056}"#),
            [r#"{"path":"/n","change":"changed","old":0.1000000000000000055,"new":0.1000000000000000056}"#]
        );
    }

    #[test]
    fn a_value_of_another_type_is_one_change_and_null_is_a_value() {
        assert_eq!(changes(r#"{"a":{"b":1}}"#, r#"{"a":[1]}"#).len(), 1);
        assert_eq!(changes("{}", r#"{"a":null}"#), [r#"{"path":"/a","change":"added","new":null}"#]);
        assert_eq!(changes(r#"{"a":null}"#, r#"{"a":0}"#), [r#"{"path":"/a","change":"changed","old":null,"new":0}"#]);
    }

    #[test]
    fn names_are_escaped_as_json_pointers_are() {
        assert_eq!(
            changes(r#"{"":1,"a/b":1,"m~n":1,"日":1}"#, r#"{"":2,"a/b":2,"m~n":2,"日":2}"#)
                .iter()
                .map(|change| change.split('"').nth(3).unwrap().to_owned())
                .collect::<Vec<_>>(),
            ["/", "/a~1b", "/m~0n", "/日"]
        );
    }
}

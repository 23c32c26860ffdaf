//! The canonical scanner against serde_json.

use matome_model::canonical::{Canonicaliser, QuarantineReason as Reason};
use serde_json::Value;
use serde_json::value::RawValue;

/// Canonical text is a fixed point, equal by value to what came in; what is refused as no JSON is none for serde_json.
pub fn canonical(bytes: &[u8]) {
    let mut canonicaliser = Canonicaliser::default();
    let refused_as_json = || serde_json::from_slice::<&RawValue>(bytes).is_err();
    match canonicaliser.canonicalise(bytes) {
        Ok(canonical) => {
            let (text, hash) = (canonical.text.to_owned(), canonical.hash);
            assert!(text.starts_with('{') && !refused_as_json(), "{text}");
            let again = canonicaliser.canonicalise(text.as_bytes()).unwrap();
            assert_eq!((again.text, again.hash), (text.as_str(), hash), "the canonical form is its own");
            // serde_json refuses numbers that no float holds; then there is nothing to compare with.
            if let (Ok(before), Ok(after)) = (serde_json::from_slice(bytes), serde_json::from_str(&text)) {
                assert!(same(&before, &after), "{before} became {after}");
            }
        }
        Err(rejected) => match rejected.reason {
            Reason::InvalidJson => assert!(refused_as_json() || !is_object(bytes), "{rejected}: serde_json takes it"),
            Reason::InvalidUtf8 => assert!(std::str::from_utf8(bytes).is_err()),
            Reason::NotObject => assert!(!is_object(bytes), "{rejected}"),
            // Rules of our own.
            _ => {}
        },
    }
}

fn is_object(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Equal by value as far as floats tell.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

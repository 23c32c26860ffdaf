//! Where the records of a JSON document are, against serde_json.

use matome_connector::file::take_apart;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Paths that records are read at, with the members on the way.
const PATHS: &[(&str, &[Member])] = &[("$", &[]), ("$.a", &[a]), ("$.a.b", &[a, b]), ("$.a[*]", &[a])];

type Member = fn(&str) -> Option<Box<RawValue>>;

fn a(object: &str) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Object {
        a: Box<RawValue>,
    }
    serde_json::from_str(object).map(|Object { a }| a).ok()
}

fn b(object: &str) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Object {
        b: Box<RawValue>,
    }
    serde_json::from_str(object).map(|Object { b }| b).ok()
}

/// In pieces and whole the same is found, with the same reason why the rest is unreadable; and in a document that is valid each
/// element of the list at the path, or the object there, byte for byte.
pub fn documents(bytes: &[u8]) {
    for (path, members) in PATHS {
        let config = super::config(&format!(r#"{{"path":"a.json","records":"{path}"}}"#));
        let whole = take_apart(&config, [bytes]);
        let length = usize::from(bytes.first().copied().unwrap_or_default() % 7) + 1;
        for length in [length, 1] {
            assert_eq!(take_apart(&config, bytes.chunks(length)), whole, "{path} in pieces of {length} bytes");
        }
        let (items, problem) = whole;
        if let Some(expected) = expected(bytes, members, path.ends_with("[*]")) {
            assert_eq!(problem, None, "{path}");
            let found: Vec<&[u8]> = items.iter().map(matome_connector::Item::raw).collect();
            assert_eq!(found, expected.iter().map(|raw| raw.get().as_bytes()).collect::<Vec<_>>(), "{path}");
        }
    }
}

/// What a second reader finds there; `None` where it finds neither, or one of the names twice.
fn expected(bytes: &[u8], members: &[Member], is_list: bool) -> Option<Vec<Box<RawValue>>> {
    let mut at: Box<RawValue> = serde_json::from_slice(bytes).ok()?;
    for member in members {
        at = member(at.get())?;
    }
    match at.get().as_bytes().first()? {
        b'[' => serde_json::from_str(at.get()).ok(),
        b'{' if !is_list => Some(vec![at]),
        _ => None,
    }
}

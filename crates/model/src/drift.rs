//! Whether the records of a source still have the fields and types that earlier ones had.
//!
//! A [`Shape`] says which fields records have and of which types, nested ones included; null says nothing, order and
//! length do not matter. [`Watch`] compares every record of a read with it. Most records are built as one before was: their
//! structure is read in one pass over the canonical text and compared, and only one that is new is taken apart.
//!
//! As in [`crate::inference`], what is wide or deep without end is not described: an object with more than
//! [`MAX_FIELDS`] fields, or what lies deeper than [`MAX_DEPTH`], is of any type.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use serde::{Deserialize, Serialize};

use crate::field_error::Words;
use crate::inference::{MAX_COLUMNS, MAX_DEPTH, MAX_FIELDS};
use crate::say;
use crate::source::words;
use crate::validation::value::Json;

/// Structures that a watch remembers; then it begins anew.
const REMEMBERED: usize = 4_096;
/// Differences that are told of one record or of one change of schema.
const TOLD: usize = 50;

words! {
    /// What happens to records that the stored schema of their source does not describe.
    DriftPolicy {
        /// They are stored; the schema grows, and a new version of it is noted.
        AcceptNew = "accept_new",
        /// The task fails before the page with the first of them.
        Freeze = "freeze",
        /// They go to quarantine.
        Quarantine = "quarantine",
    }
}

impl Default for DriftPolicy {
    fn default() -> Self {
        // The first of the list.
        Self::ALL[0]
    }
}

/// The types of JSON, whole numbers of 64 bits apart; of each value the narrowest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    /// Not described.
    Any,
    Array,
    Boolean,
    Integer,
    Number,
    Object,
    String,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Array => "array",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Object => "object",
            Self::String => "string",
        }
    }
}

/// The fields that records have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(BTreeMap<String, Field>);

/// What the values of one field are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Field {
    /// Empty: null so far.
    types: BTreeSet<Type>,
    /// What the items of its arrays are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<Box<Field>>,
    /// The fields of its objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fields: Option<BTreeMap<String, Field>>,
}

/// One way in which a record differs from the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// JSON pointer of the field; `*` stands for the items of an array.
    pub field: String,
    /// Its types so far, `null` when it has only been null; none for a new field.
    pub old: Option<String>,
    /// Its type in the record.
    pub new: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().english)
    }
}

impl Difference {
    /// What it says, in both languages.
    #[must_use]
    pub fn words(&self) -> Words {
        let Self { field, old, new } = self;
        match old {
            None => say!("{field}: new field of type {new}", "{field}: 型 {new} の新しいフィールド"),
            Some(old) => say!("{field}: {new} instead of {old}", "{field}: {old} ではなく {new}"),
        }
    }
}

impl Shape {
    /// Reads what [`Shape::to_json`] wrote, however the database wrote it again.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// `{"name": {"types": [...], "items": {...}, "fields": {...}}}`.
    ///
    /// # Panics
    /// Never: names and words are JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names and words are JSON")
    }

    /// Whether no record has been seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Fields of a table without end are not described any further.
fn is_open(fields: &BTreeMap<String, Field>) -> bool {
    fields.len() >= MAX_COLUMNS
}

fn merge_fields(
    fields: &mut BTreeMap<String, Field>,
    members: &[(std::borrow::Cow<'_, str>, Json<'_>)],
    depth: usize,
    path: &mut Vec<String>,
    found: &mut Vec<Difference>,
) {
    for (name, value) in members {
        path.push(name.clone().into_owned());
        if let Some(field) = fields.get_mut(name.as_ref()) {
            field.merge(value, depth, path, found);
        } else if !is_open(fields) {
            let mut field = Field::default();
            let before = found.len();
            field.merge(value, depth, path, found);
            // What is inside of a new field is new with it.
            found.truncate(before);
            note(found, path, None, kind(value, depth).map_or("null", Type::as_str));
            fields.insert(name.clone().into_owned(), field);
        }
        path.pop();
    }
}

fn note(found: &mut Vec<Difference>, path: &[String], old: Option<String>, new: &str) {
    let field = path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect();
    found.push(Difference { field, old, new: new.to_owned() });
}

fn kind(value: &Json<'_>, depth: usize) -> Option<Type> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(_) => Type::Boolean,
        Json::Number(digits) if digits.parse::<i64>().is_ok() => Type::Integer,
        Json::Number(_) => Type::Number,
        Json::String(_) => Type::String,
        Json::Array(_) | Json::Object(_) if depth >= MAX_DEPTH => Type::Any,
        Json::Array(_) => Type::Array,
        Json::Object(_) => Type::Object,
    })
}

impl Field {
    /// Takes a value in; what was not so before is added to `found`.
    fn merge(&mut self, value: &Json<'_>, depth: usize, path: &mut Vec<String>, found: &mut Vec<Difference>) {
        let Some(kind) = kind(value, depth) else { return };
        let fits = self.types.contains(&kind)
            || self.types.contains(&Type::Any)
            || kind == Type::Integer && self.types.contains(&Type::Number);
        if !fits {
            let words: Vec<&str> = self.types.iter().map(|known| known.as_str()).collect();
            let old = if words.is_empty() { "null".to_owned() } else { words.join(" or ") };
            note(found, path, Some(old), kind.as_str());
            if kind == Type::Number {
                self.types.remove(&Type::Integer);
            }
            self.types.insert(kind);
        }
        let before = found.len();
        match value {
            Json::Array(items) if kind == Type::Array => {
                let of = self.items.get_or_insert_default();
                path.push("*".to_owned());
                items.iter().for_each(|item| of.merge(item, depth + 1, path, found));
                path.pop();
            }
            Json::Object(members) if kind == Type::Object => {
                let fields = self.fields.get_or_insert_default();
                merge_fields(fields, members, depth + 1, path, found);
                if fields.len() > MAX_FIELDS {
                    self.types = BTreeSet::from([Type::Any]);
                    (self.fields, self.items) = (None, None);
                }
            }
            _ => {}
        }
        if self.types.contains(&Type::Any) {
            (self.fields, self.items) = (None, None);
            found.truncate(before);
        } else if !fits {
            // What is inside of a new type is new with it.
            found.truncate(before);
        }
    }
}

/// What a watch says of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The schema describes it, or does from now on.
    Fits,
    /// It does not, in these ways.
    Differs(Vec<Difference>),
}

/// Compares the records of one read with the schema of their source.
#[derive(Debug)]
pub struct Watch {
    policy: DriftPolicy,
    shape: Shape,
    /// Whether every difference is taken in, whatever the policy: until a first read has ended.
    learning: bool,
    known: HashSet<u64>,
    keys: RandomState,
    /// Structures of this record and of the last one that fitted, in buffers that it keeps.
    structure: Vec<u8>,
    last: Vec<u8>,
    /// What was taken in since it was last asked.
    changes: Vec<Difference>,
    has_changed: bool,
}

impl Watch {
    /// A watch over the schema `shape`. While `learning`, it takes in everything.
    #[must_use]
    pub fn new(policy: DriftPolicy, shape: Shape, learning: bool) -> Self {
        let (known, keys) = (HashSet::new(), RandomState::new());
        let (structure, last) = (Vec::new(), Vec::new());
        Self { policy, shape, learning, known, keys, structure, last, changes: Vec::new(), has_changed: false }
    }

    /// What happens to records that differ.
    #[must_use]
    pub fn policy(&self) -> DriftPolicy {
        self.policy
    }

    /// Looks at a record, given as its canonical text.
    pub fn look(&mut self, canonical: &str) -> Look {
        structure(canonical, &self.keys, &mut self.structure);
        // Most records are built as the one before.
        if self.structure == self.last && !self.last.is_empty() {
            return Look::Fits;
        }
        let structure = self.keys.hash_one(&self.structure);
        if self.known.contains(&structure) {
            std::mem::swap(&mut self.structure, &mut self.last);
            return Look::Fits;
        }
        let record = Json::parse(canonical);
        let Json::Object(members) = &record else { return Look::Fits };
        let mut found = Vec::new();
        if self.learning || self.policy == DriftPolicy::AcceptNew {
            merge_fields(&mut self.shape.0, members, 1, &mut Vec::new(), &mut found);
            if !found.is_empty() {
                self.has_changed = true;
                let room = TOLD.saturating_sub(self.changes.len());
                self.changes.extend(found.into_iter().take(room));
            }
        } else {
            let mut wider = self.shape.0.clone();
            merge_fields(&mut wider, members, 1, &mut Vec::new(), &mut found);
            if !found.is_empty() {
                found.truncate(TOLD);
                return Look::Differs(found);
            }
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(structure);
        std::mem::swap(&mut self.structure, &mut self.last);
        Look::Fits
    }

    /// The schema with what it took in since this was last asked; `None` when that is nothing.
    pub fn take_changes(&mut self) -> Option<(&Shape, Vec<Difference>)> {
        std::mem::take(&mut self.has_changed).then(|| (&self.shape, std::mem::take(&mut self.changes)))
    }
}

/// Writes the keys and types of a record, of canonical text, to `out`; values do not matter.
fn structure(canonical: &str, keys: &RandomState, out: &mut Vec<u8>) {
    out.clear();
    Scan { text: canonical.as_bytes(), at: 0, keys, out }.value();
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    keys: &'a RandomState,
    out: &'a mut Vec<u8>,
}

impl Scan<'_> {
    fn value(&mut self) {
        match self.text[self.at] {
            b'{' => {
                self.out.push(b'{');
                self.at += 1;
                while self.text[self.at] != b'}' {
                    let start = self.at;
                    self.string();
                    self.out.extend_from_slice(&self.text[start..self.at]);
                    self.at += 1; // the colon
                    self.value();
                    self.at += usize::from(self.text[self.at] == b',');
                }
                self.at += 1;
                self.out.push(b'}');
            }
            b'[' => self.array(),
            b'"' => {
                self.string();
                self.out.push(b's');
            }
            b't' => self.word(4, b'b'),
            b'f' => self.word(5, b'b'),
            b'n' => self.word(4, b'z'),
            _ => {
                let start = self.at;
                while matches!(self.text.get(self.at), Some(b'-' | b'.' | b'0'..=b'9')) {
                    self.at += 1;
                }
                let digits = &self.text[start..self.at];
                // Eighteen digits always fit into 64 bits.
                let is_integer = !digits.contains(&b'.')
                    && (digits.len() <= 18
                        || std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<i64>().is_ok()));
                self.out.push(if is_integer { b'i' } else { b'd' });
            }
        }
    }

    /// However many items there are: which kinds of them. One kind as it is, several as their hashes in order.
    fn array(&mut self) {
        self.out.push(b'[');
        self.at += 1;
        let first = self.out.len();
        let mut first_end = None;
        let mut kinds: Vec<u64> = Vec::new();
        while self.text[self.at] != b']' {
            let start = self.out.len();
            self.value();
            self.at += usize::from(self.text[self.at] == b',');
            let Some(end) = first_end else {
                first_end = Some(self.out.len());
                continue;
            };
            let (before, item) = self.out.split_at(start);
            let like = &before[first..end];
            if !kinds.is_empty() || item != like {
                if kinds.is_empty() {
                    kinds.push(self.keys.hash_one(like));
                }
                let kind = self.keys.hash_one(item);
                if kinds.last() != Some(&kind) {
                    kinds.push(kind);
                }
            }
            self.out.truncate(start);
        }
        self.at += 1;
        if !kinds.is_empty() {
            kinds.sort_unstable();
            kinds.dedup();
            self.out.truncate(first);
            self.out.push(b'#');
            kinds.into_iter().for_each(|kind| self.out.extend_from_slice(&kind.to_ne_bytes()));
        }
        self.out.push(b']');
    }

    fn word(&mut self, length: usize, kind: u8) {
        self.at += length;
        self.out.push(kind);
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(next) = memchr::memchr2(b'"', b'\\', &self.text[self.at..]) {
            self.at += next;
            if self.text[self.at] == b'"' {
                break;
            }
            self.at += 2;
        }
        self.at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonicaliser;

    fn look(watch: &mut Watch, record: &str) -> Vec<String> {
        let mut canonicaliser = Canonicaliser::default();
        match watch.look(canonicaliser.canonicalise(record.as_bytes()).unwrap().text) {
            Look::Fits => Vec::new(),
            Look::Differs(found) => found.iter().map(ToString::to_string).collect(),
        }
    }

    fn learned(records: &[&str]) -> Shape {
        let mut watch = Watch::new(DriftPolicy::Freeze, Shape::default(), true);
        records.iter().for_each(|record| assert_eq!(look(&mut watch, record), Vec::<String>::new()));
        watch.shape
    }

    #[test]
    fn a_difference_names_field_and_both_types() {
        let shape =
            learned(&[r#"{"id":1,"n":null,"tags":["a"],"at":{"lat":1.5}}"#, r#"{"id":2,"name":"x","at":{"lat":1}}"#]);
        let mut watch = Watch::new(DriftPolicy::Freeze, shape.clone(), false);
        for fits in
            [r#"{}"#, r#"{"id":null,"at":null}"#, r#"{"tags":[],"at":{"lat":7}}"#, r#"{"name":"","tags":[null,"b"]}"#]
        {
            assert_eq!(look(&mut watch, fits), Vec::<String>::new(), "{fits}");
        }
        assert_eq!(
            look(&mut watch, r#"{"id":1.5,"n":true,"tags":["a",1],"at":{"lat":"x","lon":2},"new":{"a":[1]}}"#),
            [
                "/at/lat: string instead of number",
                "/at/lon: new field of type integer",
                "/id: number instead of integer",
                "/n: boolean instead of null",
                "/new: new field of type object",
                "/tags/*: integer instead of string",
            ]
        );
        assert_eq!(look(&mut watch, r#"{"id":9223372036854775808}"#), ["/id: number instead of integer"]);
        assert_eq!(watch.shape, shape, "a frozen schema stays as it is");
        assert!(watch.take_changes().is_none());
    }

    #[test]
    fn what_is_accepted_is_noted_once() {
        let mut watch = Watch::new(DriftPolicy::AcceptNew, learned(&[r#"{"id":1}"#]), false);
        look(&mut watch, r#"{"id":2}"#);
        assert!(watch.take_changes().is_none());
        look(&mut watch, r#"{"id":"a","x":[{"y":1}]}"#);
        look(&mut watch, r#"{"id":"b","x":[{"y":2},{"y":3}]}"#);
        let (shape, changes) = watch.take_changes().unwrap();
        let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["/id: string instead of integer", "/x: new field of type array"]);
        assert_eq!(
            shape.to_json(),
            r#"{"id":{"types":["integer","string"]},"x":{"types":["array"],"items":{"types":["object"],"fields":{"y":{"types":["integer"]}}}}}"#
        );
        assert_eq!(Shape::from_json(&shape.to_json()).unwrap(), *shape);
        assert!(watch.take_changes().is_none());
    }

    #[test]
    fn a_structure_is_its_keys_and_types_and_nothing_else() {
        let keys = RandomState::new();
        let mut canonicaliser = Canonicaliser::default();
        let mut of = |record: &str| {
            let mut out = Vec::new();
            structure(canonicaliser.canonicalise(record.as_bytes()).unwrap().text, &keys, &mut out);
            out
        };
        let same = [r#"{"a":1,"b":"x","c":[1,2],"d":true}"#, r#"{"c":[7],"d":false,"a":-99,"b":"\"}{"}"#];
        assert_eq!(of(same[0]), of(same[1]));
        let mixed = [r#"{"a":[1,"x",1,{"b":[]}]}"#, r#"{"a":[{"b":[]},"\\","y",7]}"#];
        assert_eq!(of(mixed[0]), of(mixed[1]));
        assert_ne!(of(mixed[0]), of(r#"{"a":[1,"x"]}"#));
        assert_ne!(of(r#"{"a":[1]}"#), of(r#"{"a":[1,"x"]}"#));
        let other = [
            r#"{"a":1.5,"b":"x","c":[1],"d":true}"#,
            r#"{"a":1,"b":"x","c":[1,"x"],"d":true}"#,
            r#"{"a":1,"b":"x","c":[],"d":true}"#,
            r#"{"a":null,"b":"x","c":[1],"d":true}"#,
            r#"{"a":1,"b":"x","c":[1],"e":true}"#,
            r#"{"a":1,"b":{"x":1},"c":[1],"d":true}"#,
            r#"{"a":9223372036854775808,"b":"x","c":[1],"d":true}"#,
        ];
        for record in other {
            assert_ne!(of(record), of(same[0]), "{record}");
        }
    }

    #[test]
    fn what_has_no_end_is_of_any_type() {
        let wide = |from: usize, to: usize| {
            let members: Vec<String> = (from..to).map(|n| format!("\"k{n}\":{n}")).collect();
            format!("{{\"map\":{{{}}}}}", members.join(","))
        };
        let shape = learned(&[&wide(0, MAX_FIELDS + 1)]);
        assert_eq!(shape.to_json(), r#"{"map":{"types":["any"]}}"#);
        let mut watch = Watch::new(DriftPolicy::Freeze, shape, false);
        assert_eq!(look(&mut watch, &wide(1_000, 1_010)), Vec::<String>::new());
        assert_eq!(look(&mut watch, r#"{"map":"x"}"#), Vec::<String>::new());

        let deep = |levels: usize, leaf: &str| format!("{{\"a\":{}{leaf}{}}}", "[".repeat(levels), "]".repeat(levels));
        let mut watch = Watch::new(DriftPolicy::Freeze, learned(&[&deep(40, "1")]), false);
        assert_eq!(look(&mut watch, &deep(40, "\"x\"")), Vec::<String>::new());
        assert_eq!(look(&mut watch, &deep(2, "\"x\"")), ["/a/*/*: string instead of array"]);
    }
}

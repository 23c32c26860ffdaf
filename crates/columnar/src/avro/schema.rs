//! The schema that a file was written with.

use std::collections::HashMap;

use matome_model::canonical::write_string;
use matome_model::field_error::Words;
use serde_json::{Map, Value};

use crate::scalar::{Shape, key};

/// Types within each other.
const DEPTH_LIMIT: usize = 64;
/// Types in all.
const TYPE_LIMIT: usize = 100_000;
/// Digits behind the point of a decimal.
const SCALE_LIMIT: u64 = 1_000;

/// A schema; types name each other by their place.
pub(super) struct Schema {
    pub(super) types: Vec<Type>,
    pub(super) root: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Boolean,
    Int(Whole),
    Long(Whole),
    Float,
    Double,
    Bytes(Binary),
    String,
    Fixed(usize, Binary),
    /// The symbols as JSON.
    Enum(Vec<Vec<u8>>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<Field>),
}

/// What a whole number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Number,
    Date,
    /// Units in a second.
    Time(i64),
    /// Units in a second.
    Timestamp(i64, Shape),
}

/// What bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Bytes,
    /// Digits behind the point.
    Decimal(usize),
    Uuid,
    Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// `"name":`
    pub(super) key: Vec<u8>,
    pub(super) kind: usize,
}

impl Schema {
    pub(super) fn parse(text: &str) -> Result<Self, Words> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Words::new(format!("it is no JSON: {error}"), format!("JSON ではありません: {error}")))?;
        let mut parser = Parser { types: Vec::new(), names: HashMap::new() };
        let root = parser.of(&value, "", 0)?;
        Ok(Self { types: parser.types, root })
    }
}

struct Parser {
    types: Vec<Type>,
    /// Types by their full names.
    names: HashMap<String, usize>,
}

fn unknown(what: &str) -> Words {
    let what: String = what.chars().take(100).collect();
    Words::new(format!("`{what}` is no type that it defines"), format!("`{what}` という型は定義されていません"))
}

fn missing(name: &str) -> Words {
    Words::new(format!("a type has no valid `{name}`"), format!("型に正しい `{name}` がありません"))
}

impl Parser {
    fn push(&mut self, kind: Type) -> Result<usize, Words> {
        if self.types.len() >= TYPE_LIMIT {
            return Err(Words::new(
                format!("it has more than {TYPE_LIMIT} types"),
                format!("型が {TYPE_LIMIT} を超えています"),
            ));
        }
        self.types.push(kind);
        Ok(self.types.len() - 1)
    }

    fn of(&mut self, value: &Value, namespace: &str, depth: usize) -> Result<usize, Words> {
        if depth > DEPTH_LIMIT {
            return Err(Words::new(
                format!("its types lie more than {DEPTH_LIMIT} deep in each other"),
                format!("型が {DEPTH_LIMIT} より深く重なっています"),
            ));
        }
        match value {
            Value::String(name) => match primitive(name, &Map::new()) {
                Some(kind) => self.push(kind),
                None => self.known(name, namespace),
            },
            Value::Array(branches) => {
                let kinds: Result<Vec<usize>, Words> =
                    branches.iter().map(|branch| self.of(branch, namespace, depth + 1)).collect();
                self.push(Type::Union(kinds?))
            }
            Value::Object(given) => self.object(given, namespace, depth),
            other => Err(unknown(&other.to_string())),
        }
    }

    fn known(&self, name: &str, namespace: &str) -> Result<usize, Words> {
        let found = match namespace {
            "" => None,
            namespace => self.names.get(&format!("{namespace}.{name}")).filter(|_| !name.contains('.')),
        };
        found.or_else(|| self.names.get(name)).copied().ok_or_else(|| unknown(name))
    }

    fn object(&mut self, given: &Map<String, Value>, namespace: &str, depth: usize) -> Result<usize, Words> {
        let word = match given.get("type") {
            Some(Value::String(word)) => word.as_str(),
            Some(inner) => return self.of(inner, namespace, depth + 1),
            None => return Err(missing("type")),
        };
        match word {
            "record" | "error" => {
                let (place, namespace) = self.name(given, namespace)?;
                let mut fields = Vec::new();
                for field in given.get("fields").and_then(Value::as_array).ok_or_else(|| missing("fields"))? {
                    let name = field.get("name").and_then(Value::as_str).ok_or_else(|| missing("name"))?;
                    let kind = self.of(field.get("type").unwrap_or(&Value::Null), &namespace, depth + 1)?;
                    fields.push(Field { name: name.to_owned(), key: key(name), kind });
                }
                self.types[place] = Type::Record(fields);
                Ok(place)
            }
            "enum" => {
                let (place, _) = self.name(given, namespace)?;
                let symbols = given.get("symbols").and_then(Value::as_array).ok_or_else(|| missing("symbols"))?;
                let symbols = symbols.iter().map(|symbol| {
                    let mut json = Vec::new();
                    write_string(&mut json, symbol.as_str().ok_or_else(|| missing("symbols"))?);
                    Ok(json)
                });
                self.types[place] = Type::Enum(symbols.collect::<Result<_, Words>>()?);
                Ok(place)
            }
            "fixed" => {
                let (place, _) = self.name(given, namespace)?;
                let size = given.get("size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
                let size =
                    size.filter(|size| *size <= super::block::BLOCK_LIMIT_BYTES).ok_or_else(|| missing("size"))?;
                self.types[place] = Type::Fixed(size, binary(given, Some(size)));
                Ok(place)
            }
            "array" | "map" => {
                let inner = if word == "array" { "items" } else { "values" };
                let kind = self.of(given.get(inner).unwrap_or(&Value::Null), namespace, depth + 1)?;
                self.push(if word == "array" { Type::Array(kind) } else { Type::Map(kind) })
            }
            word => match primitive(word, given) {
                Some(kind) => self.push(kind),
                None => self.known(word, namespace),
            },
        }
    }

    /// Makes room for a type under its name, which it may contain, and says in which namespace the names within it are.
    fn name(&mut self, given: &Map<String, Value>, namespace: &str) -> Result<(usize, String), Words> {
        let name = given.get("name").and_then(Value::as_str).ok_or_else(|| missing("name"))?;
        let (namespace, name) = match name.rsplit_once('.') {
            Some((namespace, name)) => (namespace, name),
            None => (given.get("namespace").and_then(Value::as_str).unwrap_or(namespace), name),
        };
        let full = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") };
        let place = self.push(Type::Null)?;
        self.names.insert(full, place);
        Ok((place, namespace.to_owned()))
    }
}

fn primitive(word: &str, given: &Map<String, Value>) -> Option<Type> {
    let logical = given.get("logicalType").and_then(Value::as_str).unwrap_or_default();
    Some(match word {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int(match logical {
            "date" => Whole::Date,
            "time-millis" => Whole::Time(1_000),
            _ => Whole::Number,
        }),
        "long" => Type::Long(match logical {
            "time-micros" => Whole::Time(1_000_000),
            "timestamp-millis" => Whole::Timestamp(1_000, Shape::Utc),
            "timestamp-micros" => Whole::Timestamp(1_000_000, Shape::Utc),
            "timestamp-nanos" => Whole::Timestamp(1_000_000_000, Shape::Utc),
            "local-timestamp-millis" => Whole::Timestamp(1_000, Shape::Local),
            "local-timestamp-micros" => Whole::Timestamp(1_000_000, Shape::Local),
            "local-timestamp-nanos" => Whole::Timestamp(1_000_000_000, Shape::Local),
            _ => Whole::Number,
        }),
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes(binary(given, None)),
        "string" => Type::String,
        _ => return None,
    })
}

/// What bytes mean, of a fixed size if there is one.
fn binary(given: &Map<String, Value>, size: Option<usize>) -> Binary {
    match (given.get("logicalType").and_then(Value::as_str), size) {
        (Some("decimal"), _) => {
            let precision = given.get("precision").and_then(Value::as_u64).unwrap_or_default();
            let scale = given.get("scale").map_or(Some(0), Value::as_u64);
            let scale = scale.filter(|scale| *scale <= precision.min(SCALE_LIMIT) && precision > 0);
            scale.and_then(|scale| usize::try_from(scale).ok()).map_or(Binary::Bytes, Binary::Decimal)
        }
        (Some("uuid"), Some(16)) => Binary::Uuid,
        (Some("duration"), Some(12)) => Binary::Duration,
        _ => Binary::Bytes,
    }
}

//! A JSON Schema 2020-12, checked once and ready to judge records.
//!
//! The schema is one closed document: `$ref` points into it, `$id` may stand at its root only, and there is nothing
//! dynamic. So every way through it is known here, and one that goes round without going into the record is refused.

use std::collections::HashMap;

use super::pattern::Pattern;
use super::value::{Json, is_integer};
use crate::canonical::{Canonicaliser, Limits};
use crate::field_error::{FieldError, Words};

/// The dialect that `$schema` may name.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// What the keywords are that say nothing about validity.
const NOTES: &[&str] = &[
    "$comment",
    "$id",
    "$schema",
    "title",
    "description",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "examples",
    "format",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
];

/// What the keywords are that do.
const KEYWORDS: &[&str] = &[
    "$anchor",
    "$defs",
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "contains",
    "definitions",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "if",
    "items",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "required",
    "then",
    "type",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) nodes: Vec<Node>,
    /// Whether some keyword asks which members and items others have looked at.
    pub(super) tracks: bool,
}

/// A schema or one inside of it; named by its place in [`Schema::nodes`], the root is 0.
#[derive(Debug)]
pub(super) enum Node {
    /// `true` or `false`.
    Always(bool),
    /// All of these, in this order.
    Checks(Vec<(&'static str, Check)>),
}

pub(super) type NodeId = usize;

/// What a keyword checks.
#[derive(Debug)]
pub(super) enum Check {
    Type(Vec<&'static str>),
    Enum(Vec<Json<'static>>),
    Const(Json<'static>),
    MultipleOf(String),
    Minimum(String),
    ExclusiveMinimum(String),
    Maximum(String),
    ExclusiveMaximum(String),
    MinLength(usize),
    MaxLength(usize),
    Pattern(Pattern),
    MinItems(usize),
    MaxItems(usize),
    UniqueItems,
    MinProperties(usize),
    MaxProperties(usize),
    Required(Vec<String>),
    DependentRequired(Vec<(String, Vec<String>)>),
    Ref(NodeId),
    AllOf(Vec<NodeId>),
    AnyOf(Vec<NodeId>),
    OneOf(Vec<NodeId>),
    Not(NodeId),
    If { condition: NodeId, then: Option<NodeId>, otherwise: Option<NodeId> },
    DependentSchemas(Vec<(String, NodeId)>),
    Items { first: Vec<NodeId>, rest: Option<NodeId> },
    Contains { item: NodeId, least: usize, most: usize },
    Properties { named: Vec<(String, NodeId)>, patterns: Vec<(Pattern, NodeId)>, others: Option<NodeId> },
    PropertyNames(NodeId),
    UnevaluatedItems(NodeId),
    UnevaluatedProperties(NodeId),
}

impl Schema {
    /// Compiles the JSON text of a schema.
    ///
    /// # Errors
    /// Everything that is wrong with it, each at its place in the schema.
    pub(super) fn compile(json: &str) -> Result<Self, Vec<FieldError>> {
        let fail = |english: String, japanese: String| vec![FieldError::new(&[], Words::new(english, japanese))];
        let limits = Limits { record_bytes: 16 << 20, keys: usize::MAX, ..Limits::default() };
        let mut canonicaliser = Canonicaliser::new(limits);
        let canonical = canonicaliser.canonicalise(json.as_bytes()).map_err(|rejected| {
            fail(format!("Not a schema: {rejected}."), format!("スキーマとして読めません: {rejected}。"))
        })?;
        let root = Json::parse(canonical.text);
        let mut compiler = Compiler::default();
        compiler.node(&root, &mut Vec::new());
        compiler.resolve();
        if compiler.errors.is_empty() {
            compiler.refuse_circles();
        }
        if compiler.errors.is_empty() {
            Ok(Self { nodes: compiler.nodes, tracks: compiler.tracks })
        } else {
            Err(compiler.errors)
        }
    }
}

#[derive(Default)]
struct Compiler {
    nodes: Vec<Node>,
    /// Where each node stands, keys from the root.
    paths: Vec<Vec<String>>,
    /// By JSON pointer, and by `$anchor`.
    places: HashMap<String, NodeId>,
    anchors: HashMap<String, NodeId>,
    /// References to be filled in: node, place of the check in it, target.
    references: Vec<(NodeId, usize, String)>,
    tracks: bool,
    errors: Vec<FieldError>,
}

type Path = Vec<String>;

/// A keyword of one value, and what checks it.
type Keyword<T> = (&'static str, fn(T) -> Check);

impl Compiler {
    fn fail(&mut self, path: &Path, keyword: &str, english: impl Into<String>, japanese: impl Into<String>) {
        let mut path = path.clone();
        if !keyword.is_empty() {
            path.push(keyword.to_owned());
        }
        self.errors.push(FieldError { path, message: Words::new(english, japanese) });
    }

    fn node(&mut self, json: &Json<'_>, path: &mut Path) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(Node::Always(true));
        self.paths.push(path.clone());
        self.places.insert(pointer(path), id);
        match json {
            Json::Bool(value) => self.nodes[id] = Node::Always(*value),
            Json::Object(members) => {
                let names: Vec<&str> = members.iter().map(|(name, _)| name.as_ref()).collect();
                names.iter().for_each(|name| self.check_name(id, name, json, path));
                let checks = self.checks(id, json, path);
                self.nodes[id] = Node::Checks(checks);
            }
            _ => self.fail(
                path,
                "",
                "A schema is an object, `true` or `false`.",
                "スキーマはオブジェクトか `true`、`false` です。",
            ),
        }
        id
    }

    fn check_name(&mut self, id: NodeId, name: &str, json: &Json<'_>, path: &Path) {
        let text = match json.get(name) {
            Some(Json::String(text)) => text.as_ref(),
            _ => "",
        };
        match name {
            "$schema" if text.trim_end_matches('#') != DIALECT => self.fail(
                path,
                name,
                format!("Only JSON Schema 2020-12 is available: \"{DIALECT}\"."),
                format!("使えるのは JSON Schema 2020-12 だけです: \"{DIALECT}\"。"),
            ),
            "$id" if id != 0 => self.fail(
                path,
                name,
                "`$id` may stand at the root only. Put the schema under `$defs` and point there with `$ref`.",
                "`$id` はルートにだけ書けます。`$defs` に置いて `$ref` で参照してください。",
            ),
            "$anchor" => drop(self.anchors.insert(text.to_owned(), id)),
            "$dynamicRef" | "$dynamicAnchor" | "$recursiveRef" | "$recursiveAnchor" | "$vocabulary" => self.fail(
                path,
                name,
                format!("`{name}` is not available. Use `$ref` and `$defs`."),
                format!("`{name}` は使えません。`$ref` と `$defs` を使ってください。"),
            ),
            _ if name.starts_with("x-") || NOTES.contains(&name) || KEYWORDS.contains(&name) => {}
            _ => {
                let hint = match name {
                    "dependencies" => Some("dependentRequired"),
                    "additionalItems" => Some("items"),
                    "id" => Some("$id"),
                    _ => {
                        let all = KEYWORDS.iter().chain(NOTES);
                        let nearest = all.map(|known| (strsim::damerau_levenshtein(known, name), *known)).min();
                        nearest.filter(|(distance, _)| *distance <= 2).map(|(_, known)| known)
                    }
                };
                let (english, japanese) = hint.map_or_else(Default::default, |hint| {
                    (format!(" Did you mean `{hint}`?"), format!("`{hint}` のことですか。"))
                });
                self.fail(
                    path,
                    name,
                    format!("No keyword of JSON Schema 2020-12.{english} Names of your own begin with `x-`."),
                    format!(
                        "JSON Schema 2020-12 のキーワードではありません。{japanese}独自の名前は `x-` で始めてください。"
                    ),
                );
            }
        }
    }

    /// The checks of a schema object. What rests on the outcome of others comes last.
    fn checks(&mut self, id: NodeId, json: &Json<'_>, path: &mut Path) -> Vec<(&'static str, Check)> {
        let mut checks = Vec::new();
        for definitions in ["$defs", "definitions"] {
            self.map(json, definitions, path);
        }
        if let Some(target) = self.text(json, "$ref", path) {
            self.references.push((id, checks.len(), target));
            checks.push(("$ref", Check::Ref(0)));
        }
        checks.extend(self.types(json, path).map(|types| ("type", Check::Type(types))));
        if let Some(values) = json.get("enum") {
            match values {
                Json::Array(values) => {
                    let values = values.iter().map(|value| value.clone().into_owned()).collect();
                    checks.push(("enum", Check::Enum(values)));
                }
                _ => self.no_list(path, "enum"),
            }
        }
        checks.extend(json.get("const").map(|value| ("const", Check::Const(value.clone().into_owned()))));
        self.numbers(json, path, &mut checks);
        self.counts(json, path, &mut checks);
        if let Some(pattern) = self.text(json, "pattern", path)
            && let Some(pattern) = self.pattern(&pattern, path, &["pattern"])
        {
            checks.push(("pattern", Check::Pattern(pattern)));
        }
        match json.get("uniqueItems") {
            Some(Json::Bool(true)) => checks.push(("uniqueItems", Check::UniqueItems)),
            Some(Json::Bool(false)) | None => {}
            Some(_) => {
                self.fail(path, "uniqueItems", "Must be `true` or `false`.", "`true` か `false` にしてください。")
            }
        }
        if let Some(names) = json.get("required") {
            checks.extend(self.names(names, path, &["required"]).map(|names| ("required", Check::Required(names))));
        }
        if let Some(dependent) = json.get("dependentRequired") {
            if let Json::Object(members) = dependent {
                let mut all = Vec::new();
                for (name, names) in members {
                    let names = self.names(names, path, &["dependentRequired", name]);
                    all.extend(names.map(|names| (name.clone().into_owned(), names)));
                }
                checks.push(("dependentRequired", Check::DependentRequired(all)));
            } else {
                self.no_object(path, "dependentRequired");
            }
        }
        self.inside(json, path, &mut checks);
        checks
    }

    /// The keywords that have schemas in them.
    fn inside(&mut self, json: &Json<'_>, path: &mut Path, checks: &mut Vec<(&'static str, Check)>) {
        let named = self.map(json, "properties", path);
        let by_pattern = self.map(json, "patternProperties", path);
        let mut patterns = Vec::new();
        for (pattern, node) in by_pattern.unwrap_or_default() {
            patterns
                .extend(self.pattern(&pattern, path, &["patternProperties", &pattern]).map(|pattern| (pattern, node)));
        }
        let others = self.one(json, "additionalProperties", path);
        if named.is_some() || !patterns.is_empty() || others.is_some() {
            let check = Check::Properties { named: named.unwrap_or_default(), patterns, others };
            checks.push(("additionalProperties", check));
        }
        checks.extend(self.one(json, "propertyNames", path).map(|node| ("propertyNames", Check::PropertyNames(node))));
        let first = self.list(json, "prefixItems", path);
        let rest = self.one(json, "items", path);
        if first.is_some() || rest.is_some() {
            checks.push(("items", Check::Items { first: first.unwrap_or_default(), rest }));
        }
        let (least, most) = (self.count(json, "minContains", path), self.count(json, "maxContains", path));
        if let Some(item) = self.one(json, "contains", path) {
            let check = Check::Contains { item, least: least.unwrap_or(1), most: most.unwrap_or(usize::MAX) };
            checks.push(("contains", check));
        }
        checks.extend(self.list(json, "allOf", path).map(|nodes| ("allOf", Check::AllOf(nodes))));
        checks.extend(self.list(json, "anyOf", path).map(|nodes| ("anyOf", Check::AnyOf(nodes))));
        checks.extend(self.list(json, "oneOf", path).map(|nodes| ("oneOf", Check::OneOf(nodes))));
        checks.extend(self.one(json, "not", path).map(|node| ("not", Check::Not(node))));
        let (then, otherwise) = (self.one(json, "then", path), self.one(json, "else", path));
        if let Some(condition) = self.one(json, "if", path) {
            checks.push(("if", Check::If { condition, then, otherwise }));
        }
        let dependent = self.map(json, "dependentSchemas", path);
        checks.extend(dependent.map(|nodes| ("dependentSchemas", Check::DependentSchemas(nodes))));

        let items = self.one(json, "unevaluatedItems", path);
        let properties = self.one(json, "unevaluatedProperties", path);
        self.tracks |= items.is_some() || properties.is_some();
        checks.extend(items.map(|node| ("unevaluatedItems", Check::UnevaluatedItems(node))));
        checks.extend(properties.map(|node| ("unevaluatedProperties", Check::UnevaluatedProperties(node))));
    }

    fn one(&mut self, json: &Json<'_>, keyword: &str, path: &mut Path) -> Option<NodeId> {
        let inner = json.get(keyword)?;
        path.push(keyword.to_owned());
        let node = self.node(inner, path);
        path.pop();
        Some(node)
    }

    fn list(&mut self, json: &Json<'_>, keyword: &str, path: &mut Path) -> Option<Vec<NodeId>> {
        let Json::Array(items) = json.get(keyword)? else {
            self.no_list(path, keyword);
            return None;
        };
        if items.is_empty() {
            self.fail(path, keyword, "This list may not be empty.", "このリストは空にできません。");
        }
        path.push(keyword.to_owned());
        let mut nodes = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            path.push(n.to_string());
            nodes.push(self.node(item, path));
            path.pop();
        }
        path.pop();
        Some(nodes)
    }

    fn map(&mut self, json: &Json<'_>, keyword: &str, path: &mut Path) -> Option<Vec<(String, NodeId)>> {
        let Json::Object(members) = json.get(keyword)? else {
            self.no_object(path, keyword);
            return None;
        };
        path.push(keyword.to_owned());
        let mut nodes = Vec::with_capacity(members.len());
        for (name, inner) in members {
            path.push(name.clone().into_owned());
            nodes.push((name.clone().into_owned(), self.node(inner, path)));
            path.pop();
        }
        path.pop();
        Some(nodes)
    }

    fn text(&mut self, json: &Json<'_>, keyword: &str, path: &Path) -> Option<String> {
        match json.get(keyword)? {
            Json::String(text) => Some(text.clone().into_owned()),
            _ => {
                self.errors.push(FieldError { path: below(path, &[keyword]), message: Words::no_string() });
                None
            }
        }
    }

    fn pattern(&mut self, pattern: &str, path: &Path, place: &[&str]) -> Option<Pattern> {
        match Pattern::compile(pattern) {
            Ok(pattern) => Some(pattern),
            Err(message) => {
                self.errors.push(FieldError { path: below(path, place), message });
                None
            }
        }
    }

    fn types(&mut self, json: &Json<'_>, path: &Path) -> Option<Vec<&'static str>> {
        const TYPES: &[&str] = &["array", "boolean", "integer", "null", "number", "object", "string"];
        let given = json.get("type")?;
        let given = match given {
            Json::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut types = Vec::new();
        for one in given {
            let known = TYPES.iter().find(|known| matches!(one, Json::String(text) if text == *known));
            if known.is_none() {
                let message = Words::no_choice(&one.shown(), TYPES);
                self.errors.push(FieldError { path: below(path, &["type"]), message });
            }
            types.extend(known);
        }
        Some(types)
    }

    fn numbers(&mut self, json: &Json<'_>, path: &Path, checks: &mut Vec<(&'static str, Check)>) {
        let keywords: [Keyword<String>; 5] = [
            ("minimum", Check::Minimum),
            ("exclusiveMinimum", Check::ExclusiveMinimum),
            ("maximum", Check::Maximum),
            ("exclusiveMaximum", Check::ExclusiveMaximum),
            ("multipleOf", Check::MultipleOf),
        ];
        for (keyword, check) in keywords {
            match json.get(keyword) {
                None => {}
                Some(Json::Number(digits)) if keyword == "multipleOf" && (digits.starts_with('-') || digits == "0") => {
                    self.fail(path, keyword, "Must be greater than 0.", "0より大きい数にしてください。");
                }
                Some(Json::Number(digits)) => checks.push((keyword, check(digits.clone().into_owned()))),
                Some(_) => self.fail(path, keyword, "A valid number is required.", "有効な数値を入力してください。"),
            }
        }
    }

    fn counts(&mut self, json: &Json<'_>, path: &Path, checks: &mut Vec<(&'static str, Check)>) {
        let keywords: [Keyword<usize>; 6] = [
            ("minLength", Check::MinLength),
            ("maxLength", Check::MaxLength),
            ("minItems", Check::MinItems),
            ("maxItems", Check::MaxItems),
            ("minProperties", Check::MinProperties),
            ("maxProperties", Check::MaxProperties),
        ];
        for (keyword, check) in keywords {
            checks.extend(self.count(json, keyword, path).map(|count| (keyword, check(count))));
        }
    }

    fn count(&mut self, json: &Json<'_>, keyword: &str, path: &Path) -> Option<usize> {
        match json.get(keyword)? {
            // More than memory holds is never reached.
            Json::Number(digits) if is_integer(digits) && !digits.starts_with('-') => {
                Some(digits.parse().unwrap_or(usize::MAX))
            }
            _ => {
                self.fail(path, keyword, "A whole number from 0 is required.", "0以上の整数を入力してください。");
                None
            }
        }
    }

    fn names(&mut self, json: &Json<'_>, path: &Path, place: &[&str]) -> Option<Vec<String>> {
        let names = match json {
            Json::Array(items) => items
                .iter()
                .map(|item| if let Json::String(name) = item { Some(name.clone().into_owned()) } else { None })
                .collect(),
            _ => None,
        };
        if names.is_none() {
            let message = Words::new("A list of names is required.", "名前のリストが必要です。");
            self.errors.push(FieldError { path: below(path, place), message });
        }
        names
    }

    fn no_list(&mut self, path: &Path, keyword: &str) {
        self.fail(path, keyword, "A list is required.", "リストが必要です。");
    }

    fn no_object(&mut self, path: &Path, keyword: &str) {
        self.fail(path, keyword, "An object is required.", "オブジェクトが必要です。");
    }

    /// Fills in where each `$ref` points.
    fn resolve(&mut self) {
        for (node, at, target) in std::mem::take(&mut self.references) {
            let found = match target.strip_prefix('#') {
                Some(fragment) if fragment.is_empty() || fragment.starts_with('/') => {
                    self.places.get(&decoded(fragment)).copied()
                }
                Some(anchor) => self.anchors.get(anchor).copied(),
                None => None,
            };
            match (found, &mut self.nodes[node]) {
                (Some(found), Node::Checks(checks)) => checks[at].1 = Check::Ref(found),
                _ => {
                    let path = self.paths[node].clone();
                    let (english, japanese) = if target.starts_with('#') {
                        (
                            format!("`{target}` is no schema of this document."),
                            format!("`{target}` はこの文書のスキーマではありません。"),
                        )
                    } else {
                        (
                            format!(
                                "`{target}` is outside of this document; nothing is fetched. Copy it under `$defs` and \
                                 point there: `#/$defs/NAME`."
                            ),
                            format!(
                                "`{target}` はこの文書の外にあり、取得しません。`$defs` に写して `#/$defs/NAME` で参照してください。"
                            ),
                        )
                    };
                    self.fail(&path, "$ref", english, japanese);
                }
            }
        }
    }

    /// Refuses a schema that comes back to itself at the same place of the record: it would never end.
    fn refuse_circles(&mut self) {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let mut stack = vec![(start, 0)];
            while let Some((node, next)) = stack.last_mut() {
                let (node, n) = (*node, *next);
                *next += 1;
                if n == 0 {
                    if marks[node] == Mark::Done {
                        stack.pop();
                        continue;
                    }
                    marks[node] = Mark::Open;
                }
                match at_same_place(&self.nodes[node]).get(n) {
                    None => {
                        marks[node] = Mark::Done;
                        stack.pop();
                    }
                    Some(&inner) if marks[inner] == Mark::Open => {
                        let path = self.paths[node].clone();
                        self.fail(
                            &path,
                            "",
                            "This schema refers to itself without going into the record. Refer to it beneath \
                             `properties` or `items`.",
                            "このスキーマはレコードの中に進まずに自分自身を参照しています。`properties` か `items` の下から参照してください。",
                        );
                        return;
                    }
                    Some(&inner) => stack.push((inner, 0)),
                }
            }
        }
    }
}

/// The schemas that a schema puts to the value it is put to itself.
fn at_same_place(node: &Node) -> Vec<NodeId> {
    let Node::Checks(checks) = node else { return Vec::new() };
    let mut inner = Vec::new();
    for (_, check) in checks {
        match check {
            Check::Ref(node) | Check::Not(node) => inner.push(*node),
            Check::AllOf(nodes) | Check::AnyOf(nodes) | Check::OneOf(nodes) => inner.extend(nodes),
            Check::If { condition, then, otherwise } => {
                inner.push(*condition);
                inner.extend(then);
                inner.extend(otherwise);
            }
            Check::DependentSchemas(nodes) => inner.extend(nodes.iter().map(|(_, node)| *node)),
            _ => {}
        }
    }
    inner
}

fn below(path: &Path, place: &[&str]) -> Path {
    path.iter().cloned().chain(place.iter().map(|key| (*key).to_owned())).collect()
}

/// RFC 6901.
pub(super) fn pointer(path: &[String]) -> String {
    path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect()
}

/// The fragment of a URI without its percent signs.
fn decoded(fragment: &str) -> String {
    let bytes = fragment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = fragment.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

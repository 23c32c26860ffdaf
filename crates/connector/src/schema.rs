//! The JSON Schema of each type's config: what a form is made of, and what an editor checks.
//!
//! A config is not read by serde but field by field, so that every error is told at its path in both languages (`config::Fields`);
//! its types are what it means, not what is written. So the schemas are made here, of the same words and limits that the parsers
//! use, and `tests/schema.rs` holds them against the parsers: every printed config, every unknown option, every word and bound.
//!
//! Which options go together is told by the parsers alone.

mod api;
mod auth;
mod common;
mod database;
mod file;
mod push;
mod tls;
mod websocket;

use matome_model::source::SourceType;
use serde_json::{Map, Value, json};

/// The JSON Schema (draft 2020-12) of the `config` of sources of a type. Secrets are `writeOnly`. A draft, `{}`, is not described.
pub fn config_schema(source_type: SourceType) -> Value {
    let Node(mut schema) = match source_type {
        SourceType::Api => api::config(),
        SourceType::Database => database::config(),
        SourceType::File => file::config(),
        SourceType::Websocket => websocket::config(),
        SourceType::Push => push::config(),
    };
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), source_type.as_str().into());
    schema.into()
}

/// A schema under way.
#[derive(Clone)]
struct Node(Map<String, Value>);

/// Options and their schemas, in the order in which a form shows them.
type Options = Vec<(&'static str, Node)>;

impl Node {
    fn of(kind: &str, description: &str) -> Self {
        let Value::Object(schema) = json!({"type": kind, "description": description}) else { return Self(Map::new()) };
        Self(schema)
    }

    fn with(mut self, keyword: &str, value: impl Into<Value>) -> Self {
        self.0.insert(keyword.to_owned(), value.into());
        self
    }

    /// What is meant when it is left out.
    fn default(self, value: impl Into<Value>) -> Self {
        self.with("default", value)
    }

    fn example(self, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.with("examples", json!([value]))
    }
}

/// A text that is not blank.
fn text(description: &str) -> Node {
    Node::of("string", description).with("minLength", 1)
}

/// A text that is encrypted and never shown.
fn secret(description: &str) -> Node {
    text(description).with("writeOnly", true)
}

fn flag(description: &str) -> Node {
    Node::of("boolean", description)
}

fn whole(least: u64, most: u64, description: &str) -> Node {
    Node::of("integer", description).with("minimum", least).with("maximum", most)
}

/// One of several words.
fn word<'w>(words: impl IntoIterator<Item = &'w str>, description: &str) -> Node {
    Node::of("string", description).with("enum", words.into_iter().collect::<Vec<_>>())
}

fn list(of: Node, description: &str) -> Node {
    Node::of("array", description).with("items", of.0)
}

/// An object with names of one's own.
fn names(of: Node, description: &str) -> Node {
    Node::of("object", description).with("additionalProperties", of.0)
}

/// An object with these options alone.
fn object(description: &str, options: Options, required: &[&str]) -> Node {
    let properties: Map<String, Value> =
        options.into_iter().map(|(name, Node(schema))| (name.to_owned(), schema.into())).collect();
    let node = Node::of("object", description).with("properties", properties).with("additionalProperties", false);
    if required.is_empty() { node } else { node.with("required", required.to_vec()) }
}

/// Any of several forms.
fn either(description: &str, forms: Vec<Node>) -> Node {
    let forms: Vec<Value> = forms.into_iter().map(|Node(form)| form.into()).collect();
    let Value::Object(schema) = json!({"description": description, "anyOf": forms}) else { return Node(Map::new()) };
    Node(schema)
}

/// One of several kinds of object.
struct Kind {
    word: &'static str,
    description: &'static str,
    options: Options,
    required: Vec<&'static str>,
}

fn kind(word: &'static str, description: &'static str, options: Options, required: &[&'static str]) -> Kind {
    Kind { word, description, options, required: required.to_vec() }
}

/// One of several kinds of object, told apart by the word in `by`.
fn kinds(by: &'static str, description: &str, kinds: Vec<Kind>) -> Node {
    let kinds = kinds.into_iter().map(|Kind { word, description, mut options, mut required }| {
        options.insert(0, (by, Node::of("string", description).with("const", word)));
        required.insert(0, by);
        Value::from(object(description, options, &required).0)
    });
    let kinds: Vec<Value> = kinds.collect();
    let Value::Object(schema) = json!({"type": "object", "description": description, "oneOf": kinds}) else {
        return Node(Map::new());
    };
    Node(schema)
}

/// A path of names to a value.
fn value_path(description: &str) -> Node {
    text(description).example("$.meta.next")
}

/// A number or a text.
fn scalar(description: &str) -> Node {
    let Node(mut schema) = Node::of("string", description);
    schema.insert("type".to_owned(), json!(["string", "number"]));
    Node(schema)
}

/// Values for parameters, forms and the like.
fn scalars(description: &str) -> Node {
    let Node(mut schema) = Node::of("string", "A text, a number, true or false.");
    schema.insert("type".to_owned(), json!(["string", "number", "boolean"]));
    names(Node(schema), description)
}

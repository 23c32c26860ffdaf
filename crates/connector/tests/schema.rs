//! The JSON Schemas of configs say what the parsers take: the same options, words and bounds.

#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use matome_connector::{FieldError, config_schema, validate_config};
use matome_model::source::SourceType;
use matome_model::validation::{Judge, Policy, Rules, Validation};
use serde_json::{Value, json};

/// The configs that the pages print, and some that say what those do not.
fn configs() -> Vec<(SourceType, Value)> {
    let docs = Path::new("../../docs");
    let mut found = Vec::new();
    for page in [
        "sources",
        "connectors/api",
        "connectors/database",
        "connectors/file",
        "connectors/push",
        "connectors/websocket",
    ] {
        let text = fs::read_to_string(docs.join(format!("{page}.md"))).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(source_type) = line.strip_prefix("```json ").and_then(|word| SourceType::parse(word.trim())) {
                let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
                found.push((source_type, serde_json::from_str(&block.join("\n")).unwrap()));
            }
        }
    }
    assert!(found.len() > 45, "{} configs", found.len());
    let server = json!({"engine": "postgres", "host": "h", "database": "d", "user": "u", "table": "t"});
    for tls in [json!({"cert": "c", "key": "k"}), json!({"cert_file": "c", "key_file": "k"})] {
        let mut config = server.clone();
        config["tls"] = tls;
        found.push((SourceType::Database, config));
    }
    for (source_type, name, place) in [
        (SourceType::Api, "url", "https://h/"),
        (SourceType::Websocket, "url", "wss://h/"),
        (SourceType::File, "path", "https://h/a.csv"),
    ] {
        for tls in
            [json!({"cert": "c", "key": "k", "ca": "a"}), json!({"cert_file": "c", "key_file": "k", "ca_file": "a"})]
        {
            found.push((source_type, json!({name: place, "tls": tls})));
        }
    }
    let more = [
        (
            SourceType::File,
            json!({"path": "a.csv", "key": "id", "retention": {"max_records": 1, "keep_newest": false}}),
        ),
        (
            SourceType::File,
            json!({"path": "a.csv", "quarantine": {"max_records": 5}, "retention": {"max_age_days": 1}, "schedule": {"cron": "@daily"},
                "validation": {"rules": [{"field": "a", "min": 1}], "schema": {}}}),
        ),
        (
            SourceType::Api,
            json!({"url": "http://h/", "form": {"a": "b"}, "rate": {"concurrent": 1}, "format": "csv",
            "errors": [{"status": "4xx", "action": "retry"}], "incremental": {"cursor": "$.t", "param": "since"}}),
        ),
        (
            SourceType::Api,
            json!({"url": "http://h/{parent.id}", "format": "xml", "parent": {"url": "http://h/", "format": "csv", "include": {"a": "$.b"}}}),
        ),
        (
            SourceType::Database,
            json!({"engine": "mysql", "host": "h", "database": "d", "user": "u", "table": "t", "tls": {},
            "options": {"role": "r"}, "incremental": {"cursor": "c"}}),
        ),
        (
            SourceType::Database,
            json!({"engine": "postgres", "host": "h", "database": "d", "user": "u", "table": "t", "options": {}}),
        ),
        (SourceType::Database, json!({"engine": "sqlite", "path": "a.db", "table": "t"})),
        (
            SourceType::Push,
            json!({"format": "auto", "webhook": {"scheme": "shared-secret", "secret": "0123456789abcdef"}}),
        ),
        (
            SourceType::Websocket,
            json!({"url": "wss://h/", "heartbeat": {}, "reconnect": {}, "batch": {},
            "resume": {"cursor": "$.seq", "param": "from"}}),
        ),
        (SourceType::Websocket, json!({"url": "https://h/", "events": ["a"]})),
    ];
    found.extend(more);
    found
}

fn parser_says(source_type: SourceType, config: &Value) -> Vec<FieldError> {
    validate_config(source_type, &config.to_string()).err().unwrap_or_default()
}

fn fits(source_type: SourceType, config: &Value) -> bool {
    let schema = config_schema(source_type).to_string();
    let validation = Validation::new(Some(&schema), Rules(Vec::new()), Policy::Quarantine).unwrap();
    let canonical = serde_json::to_string(config).unwrap();
    Judge::new(Arc::new(validation), false).judge(&canonical, &[0; 32]).is_ok_and(|violations| violations.is_empty())
}

/// An object of a config with its schema: where it is, and a name for the place in the schema.
struct Place {
    path: Vec<String>,
    name: String,
    schema: Value,
}

/// The objects of a config whose options the schema names.
fn places(path: &[String], name: &str, schema: &Value, value: &Value, found: &mut Vec<Place>) {
    for forms in ["oneOf", "anyOf"] {
        for form in schema[forms].as_array().into_iter().flatten() {
            let fits_kind = form["properties"].as_object().is_none_or(|options| {
                options.iter().all(|(option, of)| of.get("const").is_none_or(|word| value.get(option) == Some(word)))
            });
            let is_form = match value {
                Value::Object(_) => form["type"] == "object",
                Value::Array(_) => form["type"] == "array",
                _ => false,
            };
            if fits_kind && is_form {
                let kind = form["properties"]["type"]["const"].as_str().map(|kind| format!("({kind})"));
                places(path, &format!("{name}{}", kind.unwrap_or_default()), form, value, found);
            }
        }
    }
    if let Some(options) = schema["properties"].as_object() {
        found.push(Place { path: path.to_vec(), name: name.to_owned(), schema: schema.clone() });
        for (option, of) in options {
            if let Some(inner) = value.get(option) {
                let path = [path, std::slice::from_ref(option)].concat();
                places(&path, &format!("{name}.{option}"), of, inner, found);
            }
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (at, inner) in values.iter().enumerate() {
            places(&[path, &[at.to_string()]].concat(), &format!("{name}[]"), items, inner, found);
        }
    }
}

fn all_places(source_type: SourceType, config: &Value) -> Vec<Place> {
    let mut found = Vec::new();
    places(&[], source_type.as_str(), &config_schema(source_type), config, &mut found);
    found
}

/// The config with something else at a place.
fn with(config: &Value, path: &[String], option: &str, value: Value) -> Value {
    let mut changed = config.clone();
    let mut at = &mut changed;
    for part in path {
        at = match part.parse::<usize>() {
            Ok(index) if at.is_array() => &mut at[index],
            _ => &mut at[part.as_str()],
        };
    }
    at[option] = value;
    changed
}

/// What stands in backticks behind a word of a message.
fn quoted(message: &str, behind: &str) -> Option<BTreeSet<String>> {
    let (_, list) = message.split_once(behind)?;
    Some(list.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

#[test]
fn every_printed_config_fits_its_schema() {
    for (source_type, config) in configs() {
        assert!(parser_says(source_type, &config).is_empty(), "{config}: {:?}", parser_says(source_type, &config));
        assert!(fits(source_type, &config), "{config}");
    }
}

#[test]
fn options_are_those_that_the_parser_knows_at_each_place() {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (source_type, config) in configs() {
        for Place { path, name, schema } in all_places(source_type, &config) {
            let unknown = with(&config, &path, "no_such_option", json!(1));
            assert!(!fits(source_type, &unknown), "{unknown}");
            let errors = parser_says(source_type, &unknown);
            let place = [path.as_slice(), &["no_such_option".to_owned()]].concat();
            let told = errors.iter().find(|error| error.path == place).or_else(|| {
                // Columns are told about at the list.
                errors.iter().find(|error| place.starts_with(&error.path))
            });
            let told = told.unwrap_or_else(|| panic!("{unknown}: {errors:?}"));
            let options = quoted(&told.message.english, "Known here:").unwrap_or_else(|| panic!("{}", told.message));
            known.entry(name.clone()).or_default().extend(options);
            let options = schema["properties"].as_object().unwrap().keys().cloned();
            described.entry(name).or_default().extend(options);
        }
    }
    let mut others = Vec::new();
    for (name, options) in &described {
        // Labels are taken before everything else.
        let options: BTreeSet<_> = options.iter().filter(|option| *option != "labels").cloned().collect();
        let known: BTreeSet<_> = known[name].iter().filter(|option| *option != "labels").cloned().collect();
        if options != known {
            let both = (options.difference(&known).collect::<Vec<_>>(), known.difference(&options).collect::<Vec<_>>());
            others.push(format!("{name}: only in the schema {:?}, only in the parser {:?}", both.0, both.1));
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    assert!(described.len() > 30, "{:?}", described.keys());
}

#[test]
fn words_and_bounds_are_those_of_the_parser() {
    let mut seen = BTreeSet::new();
    for (source_type, config) in configs() {
        for Place { path, name, schema } in all_places(source_type, &config) {
            for (option, of) in schema["properties"].as_object().unwrap() {
                let place = [path.as_slice(), std::slice::from_ref(option)].concat();
                let told = |value: Value| {
                    let changed = with(&config, &path, option, value);
                    let errors = parser_says(source_type, &changed);
                    let told = errors.into_iter().find(|error| error.path == place || place.starts_with(&error.path));
                    (told.map(|error| error.message.english).unwrap_or_default(), changed)
                };
                if let Some(words) = of["enum"].as_array() {
                    let (message, changed) = told(json!("no such word"));
                    let Some(choices) = quoted(&message, "Choices are") else {
                        assert!(!message.is_empty(), "{changed}");
                        continue;
                    };
                    let words: BTreeSet<_> = words.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
                    assert_eq!(words, choices, "{name}.{option}");
                    assert!(!fits(source_type, &changed), "{changed}");
                    seen.insert(format!("{name}.{option}"));
                }
                for (bound, step) in [("minimum", -1), ("maximum", 1)] {
                    let Some(limit) = of[bound].as_i64().filter(|limit| limit.checked_add(step).is_some()) else {
                        continue;
                    };
                    if of["type"] != "integer" {
                        continue;
                    }
                    let (message, changed) = told(json!(limit + step));
                    assert!(!message.is_empty(), "{changed} is outside of its bound");
                    assert!(!fits(source_type, &changed), "{changed}");
                    let (message, changed) = told(json!(limit));
                    let is_bound = message.contains("Ensure this value") || message.contains("integer");
                    assert!(!is_bound, "{changed}: {message}");
                    seen.insert(format!("{name}.{option}"));
                }
            }
        }
    }
    assert!(seen.len() > 60, "{seen:?}");
}

#[test]
fn everything_is_described_and_secrets_are_only_written() {
    fn walk(name: &str, schema: &Value, secrets: &mut Vec<String>) {
        if !schema.is_object() {
            return;
        }
        if let Some(options) = schema["properties"].as_object() {
            for (option, of) in options {
                let name = format!("{name}.{option}");
                let is_word = of.get("const").is_some();
                let text = of["description"].as_str();
                assert!(
                    text.is_some_and(|text| text.len() > 3 && (is_word || text.ends_with(['.', '`']))),
                    "{name}: {of}"
                );
                if of["writeOnly"] == true {
                    secrets.push(name.clone());
                }
                walk(&name, of, secrets);
            }
        }
        for inner in ["items", "additionalProperties"] {
            walk(name, &schema[inner], secrets);
        }
        for forms in ["oneOf", "anyOf"] {
            for form in schema[forms].as_array().into_iter().flatten() {
                let kind = form["properties"]["type"]["const"].as_str().unwrap_or_default();
                walk(&format!("{name}({kind})"), form, secrets);
            }
        }
    }
    let mut secrets = Vec::new();
    for source_type in SourceType::ALL {
        walk(source_type.as_str(), &config_schema(*source_type), &mut secrets);
    }
    let wanted = |name: &str| secrets.iter().any(|secret| secret == name);
    for secret in [
        "api.auth(bearer).token",
        "api.auth(aws_sigv4).secret_access_key",
        "api.auth(hmac).secret",
        "database.password",
        "database.tls.key",
        "api.tls.key",
        "file.tls.key",
        "websocket.tls.key",
        "push.webhook.secret",
    ] {
        assert!(wanted(secret), "{secret} of {secrets:?}");
    }
    // Every secret that a config can have is one of these: see `secret_paths`.
    for (source_type, config) in configs() {
        for pointer in matome_connector::secret_paths(&config.to_string()) {
            let (of_type, last) = (source_type.as_str(), pointer.rsplit('/').next().unwrap_or_default());
            let known =
                secrets.iter().any(|secret| secret.starts_with(of_type) && secret.ends_with(&format!(".{last}")));
            assert!(known || pointer.starts_with("/secrets/"), "{of_type} {pointer}");
        }
    }
}

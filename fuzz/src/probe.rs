//! Files that are looked at before a source is made of them.

use matome_connector::file::{look_at_bytes, read_bytes};
use matome_connector::{ParsedConfig, validate_config};
use matome_model::source::SourceType;
use serde_json::{Map, Value};

/// Whatever is in a file, what is proposed is a valid config that says its format, and the file is read with it to its end or to an
/// error; nothing that the config said is changed.
pub fn probe(bytes: &[u8]) {
    for given in [r#"{"path":"a"}"#, r#"{"path":"a.csv","header":true}"#] {
        let mut config: Map<String, Value> = serde_json::from_str(given).unwrap();
        let Ok(proposal) = look_at_bytes(given, bytes.to_vec()) else { continue };
        assert!(proposal.options.keys().all(|option| !config.contains_key(option)), "{:?}", proposal.options);
        config.extend(proposal.options);
        let text = Value::Object(config).to_string();
        match validate_config(SourceType::File, &text) {
            Ok(ParsedConfig::File(config)) => drop(read_bytes(*config, bytes.to_vec())),
            other => panic!("{text}: {other:?}"),
        }
        for finding in proposal.findings {
            assert!(!finding.words.english.is_empty() && !finding.words.japanese.is_empty());
        }
    }
}

//! Records that were made of rows and are kept as objects: their values as the types that the config says today make them.
//!
//! Only texts are read again, and what has a type where another one is wanted. Of a value that has a type the text is not known any
//! more (`1.50` became `1.5`), so none becomes a string again; and a string of a `json` column may have been JSON before.

use std::borrow::Cow;

use matome_model::canonical::{QuarantineReason, write_string};
use matome_model::field_error::Words;
use matome_model::inference::{InferenceError, for_each_field};

use super::config::{ColumnType, ColumnTypes, DocumentConfig, Format};
use super::csv::{misfit, write_value};
use super::fixed::numeral;
use super::row::RowReader;

impl RowReader {
    /// A record as a JSON object, with the values that today's types make of its texts; `None` when it has these.
    ///
    /// # Errors
    /// Why a value does not have its type.
    pub fn retype(&self, record: &str) -> Result<Option<Vec<u8>>, (QuarantineReason, Words)> {
        let config = self.config();
        if !is_typed(config) {
            return Ok(None);
        }
        let mut retyped = Vec::with_capacity(record.len());
        let mut is_other = false;
        let made = for_each_field(record, |name, value| {
            retyped.push(if retyped.is_empty() { b'{' } else { b',' });
            write_string(&mut retyped, &name);
            retyped.push(b':');
            let start = retyped.len();
            write_retyped(config, &mut retyped, &name, value).map_err(|(reason, words)| Stop::Misfit(reason, words))?;
            is_other |= retyped.get(start..) != Some(value.as_bytes());
            Ok(())
        });
        match made {
            Ok(()) => {}
            Err(Stop::NoObject) => return Ok(None),
            Err(Stop::Misfit(reason, words)) => return Err((reason, words)),
        }
        retyped.push(b'}');
        Ok(is_other.then_some(retyped))
    }
}

/// Whether any column has a type that is made of text.
fn is_typed(config: &DocumentConfig) -> bool {
    match (config.format, &config.csv.types) {
        (Format::Csv, ColumnTypes::Infer) => true,
        (Format::Csv, ColumnTypes::Declared(types)) => types.values().any(|kind| is_of_text(*kind)),
        (Format::Fixed, _) => config.fixed.columns.iter().any(|column| is_of_text(column.kind)),
        _ => false,
    }
}

fn is_of_text(kind: ColumnType) -> bool {
    matches!(kind, ColumnType::Integer | ColumnType::Number | ColumnType::Boolean)
}

/// Writes a value as today's types make it.
fn write_retyped(
    config: &DocumentConfig,
    out: &mut Vec<u8>,
    name: &str,
    value: &str,
) -> Result<(), (QuarantineReason, Words)> {
    let text = || serde_json::from_str::<String>(value).ok();
    let kind = match (config.format, &config.csv.types) {
        (Format::Fixed, _) => {
            let column = config.fixed.columns.iter().find(|column| column.name.as_deref() == Some(name));
            column.map(|column| column.kind)
        }
        (_, ColumnTypes::Declared(types)) => types.get(name).copied(),
        (_, ColumnTypes::Infer) => {
            match text() {
                Some(text) => write_value(out, &text, None).expect("what has no type is a string"),
                None => out.extend_from_slice(value.as_bytes()),
            }
            return Ok(());
        }
    };
    let Some(kind) = kind.filter(|kind| is_of_text(*kind) && value != "null") else {
        out.extend_from_slice(value.as_bytes());
        return Ok(());
    };
    let text = text().map_or(Cow::Borrowed(value), Cow::Owned);
    let text = if config.format == Format::Fixed { numeral(&text, kind) } else { text };
    write_value(out, &text, Some(kind)).map_err(|wanted| misfit(name, wanted))
}

/// Why no values are made.
enum Stop {
    /// It is no object, so it has no columns.
    NoObject,
    Misfit(QuarantineReason, Words),
}

impl From<InferenceError> for Stop {
    fn from(_: InferenceError) -> Self {
        Self::NoObject
    }
}

#[cfg(test)]
mod tests {
    use matome_model::source::SourceType;

    use super::*;
    use crate::{ParsedConfig, validate_config};

    fn retyped(options: &str, record: &str) -> Result<Option<String>, String> {
        let config = validate_config(SourceType::File, &format!(r#"{{"path":"a",{options}}}"#)).unwrap();
        let ParsedConfig::File(config) = config else { panic!("{config:?}") };
        let retyped = RowReader::new(&config.document).unwrap().retype(record);
        retyped
            .map(|object| object.map(|object| String::from_utf8(object).unwrap()))
            .map_err(|(reason, detail)| format!("{}: {detail}", reason.as_str()))
    }

    fn made(options: &str, record: &str) -> String {
        retyped(options, record).unwrap().unwrap_or_else(|| "the same".to_owned())
    }

    #[test]
    fn texts_get_the_types_of_today_and_what_has_them_stays() {
        let typed = r#""format":"csv","types":{"n":"number","i":"integer","b":"boolean","j":"json"}"#;
        let texts = r#"{"b": "TRUE", "i": "", "j": "[1]", "n": " 1.50", "s": "7"}"#;
        assert_eq!(made(typed, texts), r#"{"b":true,"i":null,"j":"[1]","n":1.50,"s":"7"}"#);
        assert_eq!(made(typed, r#"{"b":true,"i":null,"j":[1],"n":1.5,"s":7}"#), "the same");
        assert_eq!(made(typed, r#"{"other":"1"}"#), "the same");
        assert_eq!(retyped(typed, r#"{"i":1.5}"#).unwrap_err(), "schema: column `i` is not an integer");
        assert_eq!(retyped(typed, r#"{"i":"x"}"#).unwrap_err(), "schema: column `i` is not an integer");
        assert_eq!(retyped(typed, r#"{"b":[1]}"#).unwrap_err(), "schema: column `b` is not `true` or `false`");
    }

    #[test]
    fn nothing_becomes_a_string_again() {
        for options in
            [r#""format":"csv""#, r#""format":"csv","types":{"n":"string"}"#, r#""format":"xml","records":"a""#]
        {
            assert_eq!(made(options, r#"{"n":1}"#), "the same", "{options}");
        }
    }

    #[test]
    fn inference_converts_the_texts_that_it_would_convert() {
        let infer = r#""format":"csv","types":"infer""#;
        assert_eq!(made(infer, r#"{"a":"12","b":"007","c":"true","d":3}"#), r#"{"a":12,"b":"007","c":true,"d":3}"#);
        assert_eq!(made(infer, r#"{"a":12,"b":"007"}"#), "the same");
    }

    #[test]
    fn numbers_of_fixed_width_lose_the_zeros_that_filled_their_column() {
        let fixed = r#""format":"fixed","columns":[{"name":"n","width":5,"type":"integer"},{"name":"s","width":2}]"#;
        assert_eq!(made(fixed, r#"{"n":"00123","s":"01"}"#), r#"{"n":123,"s":"01"}"#);
        assert_eq!(made(fixed, r#"{"n":123,"s":"01"}"#), "the same");
    }

    #[test]
    fn what_is_no_object_or_names_a_member_twice_keeps_all_of_it() {
        let typed = r#""format":"csv","types":{"n":"integer"}"#;
        assert_eq!(made(typed, "[1]"), "the same");
        assert_eq!(made(typed, r#"{"n":"1"} {}"#), "the same");
        assert_eq!(made(typed, r#"{"n":"1","n":"2"}"#), r#"{"n":1,"n":2}"#);
    }
}

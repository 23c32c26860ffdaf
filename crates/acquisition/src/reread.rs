//! Records that were put aside, to be read again: JSON as it is, and rows that could not be read by what the config of their source
//! says today.

use matome_connector::{Item, RowReader};
use matome_model::canonical::QuarantineReason;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::drain::position;

/// What is read again.
pub(crate) struct PutAside<'r> {
    pub(crate) raw: Vec<u8>,
    /// Why it was put aside, as its row says it.
    pub(crate) reason: &'r str,
    /// Where it stood, as its row says it.
    pub(crate) position: &'r RawValue,
    /// Nobody has corrected it.
    pub(crate) is_kept: bool,
}

/// Reads it; what is corrected is JSON, whatever the source has.
pub(crate) fn read_again(rows: Option<&RowReader>, put_aside: PutAside<'_>) -> Item {
    let PutAside { raw, reason, position: told, is_kept } = put_aside;
    let position = position(told);
    let reason = QuarantineReason::ALL.iter().find(|known| known.as_str() == reason);
    let (Some(rows), Some(&reason), true) = (rows, reason, is_kept) else { return Item::Record { raw, position } };
    // Of a row that could be taken apart its object is kept, with the values of that time; the others are as they were in the
    // source, whatever they look like.
    let is_row =
        matches!(reason, QuarantineReason::CsvWidth | QuarantineReason::CsvQuote | QuarantineReason::InvalidXml);
    if !is_row && is_object(&raw) {
        let retyped = std::str::from_utf8(&raw).map_or(Ok(None), |record| rows.retype(record));
        return match retyped {
            Ok(retyped) => Item::Record { raw: retyped.unwrap_or(raw), position },
            Err((reason, detail)) => Item::Rejected { raw, reason, detail, position, fields: None },
        };
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Told {
        fields: Option<Vec<String>>,
    }
    let Told { fields } = serde_json::from_str(told.get()).unwrap_or_default();
    match rows.read(&raw, fields.clone(), reason) {
        Ok(raw) => Item::Record { raw, position },
        Err((reason, detail)) => Item::Rejected { raw, reason, detail, position, fields: fields.map(Into::into) },
    }
}

fn is_object(raw: &[u8]) -> bool {
    let start = raw.iter().find(|byte| !byte.is_ascii_whitespace());
    start == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(raw).is_ok()
}

#[cfg(test)]
mod tests {
    use matome_connector::{ParsedConfig, validate_config};
    use matome_model::source::SourceType;

    use super::*;

    #[test]
    fn what_is_corrected_or_an_object_is_json_and_the_rest_is_a_row() {
        let config = r#"{"path":"a.csv","quote":false,"types":{"n":"integer"}}"#;
        let config = validate_config(SourceType::File, config).unwrap();
        let ParsedConfig::File(_) = &config else { panic!("{config:?}") };
        let rows = config.row_reader();
        let told = RawValue::from_string(r#"{"document":"a.csv","fields":["s"],"line":2}"#.to_owned()).unwrap();
        for (raw, reason, is_kept, read) in [
            (r#"{"a":1}"#, "csv_quote", true, Some(r#"{"s":"{\"a\":1}"}"#)),
            (r#"{"a":1}"#, "csv_quote", false, Some(r#"{"a":1}"#)),
            (r#"{"a":1}"#, "rule", true, Some(r#"{"a":1}"#)),
            (r#"{"n":"1"}"#, "rule", true, Some(r#"{"n":1}"#)),
            (r#"{"n":"1"}"#, "rule", false, Some(r#"{"n":"1"}"#)),
            ("x", "invalid_utf8", true, Some(r#"{"s":"x"}"#)),
            ("x,y", "csv_width", true, None),
        ] {
            let put_aside = PutAside { raw: raw.into(), reason, position: &told, is_kept };
            match (read_again(rows.as_ref(), put_aside), read) {
                (Item::Record { raw, .. }, Some(read)) => assert_eq!(String::from_utf8(raw).unwrap(), read),
                (Item::Rejected { fields, .. }, None) => assert_eq!(fields.as_deref(), Some(&["s".to_owned()][..])),
                (item, read) => panic!("{raw} {reason}: {item:?}, not {read:?}"),
            }
        }
    }
}

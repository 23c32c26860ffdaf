//! What makes two records the same: `dedupe` and `key`.

use matome_model::field_error::Words;
use matome_model::record_key::{FieldPath, FieldPathError, MAX_PATHS, RecordKey};
use matome_model::source::Dedupe;
use serde_json::Value;

use super::Fields;

/// Takes both options. A `key` says `dedupe: key` by itself.
pub(super) fn parse(fields: &mut Fields, default: Dedupe) -> (Dedupe, Option<RecordKey>) {
    let words: Vec<(&str, Dedupe)> = Dedupe::ALL.iter().map(|dedupe| (dedupe.as_str(), *dedupe)).collect();
    let said_dedupe = fields.has("dedupe");
    let dedupe = fields.choice("dedupe", &words);
    let said_key = fields.has("key");
    let key = key(fields);
    match dedupe {
        Some(Dedupe::Key) if !said_key => fields.require("key"),
        Some(other) if said_key && other != Dedupe::Key => fields.fail(
            "key",
            Words::new(
                "A key goes with `dedupe` \"key\" only. Leave one of the two out.",
                "キーは `dedupe` が \"key\" のときだけ使えます。どちらかを外してください。",
            ),
        ),
        _ => {}
    }
    let implied = if said_key && !said_dedupe { Dedupe::Key } else { default };
    (dedupe.unwrap_or(implied), key)
}

fn key(fields: &mut Fields) -> Option<RecordKey> {
    let texts = match fields.value("key")? {
        Value::String(text) => vec![text],
        Value::Array(values) if (1..=MAX_PATHS).contains(&values.len()) => {
            let texts = values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
            let Some(texts) = texts else {
                fields.fail("key", Words::new("The paths must be strings.", "パスは文字列にしてください。"));
                return None;
            };
            texts
        }
        _ => {
            fields.fail(
                "key",
                Words::new(
                    format!(
                        "Give the path of a field, or a list of 1 to {MAX_PATHS} of them, for example \"id\" or [\"region\", \"address.code\"]."
                    ),
                    format!(
                        "項目のパス、または1〜{MAX_PATHS}個のパスのリストを指定してください。例: \"id\" や [\"region\", \"address.code\"]。"
                    ),
                ),
            );
            return None;
        }
    };
    let mut paths: Vec<FieldPath> = Vec::with_capacity(texts.len());
    for text in &texts {
        let message = match text.parse::<FieldPath>() {
            Ok(path) if paths.contains(&path) => {
                Words::new(format!("The path \"{text}\" is there twice."), format!("パス \"{text}\" が2回あります。"))
            }
            Ok(path) => {
                paths.push(path);
                continue;
            }
            Err(FieldPathError::EmptyName) => Words::new(
                format!(
                    "\"{text}\" is no path: a name is empty. Names are separated by dots: \"address.code\"; a dot in a name is written \"\\.\"."
                ),
                format!(
                    "\"{text}\" はパスではありません。空の名前があります。名前はドットで区切ります: \"address.code\"。名前の中のドットは \"\\.\" と書きます。"
                ),
            ),
            Err(FieldPathError::Nul) => {
                Words::new("A path may not contain the NUL character.", "パスに NUL 文字は使えません。")
            }
        };
        fields.fail("key", message);
        return None;
    }
    Some(RecordKey::new(paths))
}

#[cfg(test)]
mod tests {
    use matome_model::source::SourceType;

    use super::*;
    use crate::config::tests::errors;
    use crate::validate_config;

    fn dedupe(options: &str) -> (Dedupe, Option<RecordKey>) {
        let config = validate_config(SourceType::File, &format!(r#"{{"path":"a.csv"{options}}}"#)).unwrap();
        let common = config.common().unwrap();
        (common.dedupe, common.key.clone())
    }

    #[test]
    fn a_key_is_one_path_or_several_and_implies_its_mode() {
        let id = RecordKey::new(vec!["id".parse().unwrap()]);
        assert_eq!(dedupe(r#","dedupe":"key","key":"id""#), (Dedupe::Key, Some(id.clone())));
        assert_eq!(dedupe(r#","key":["id"]"#), (Dedupe::Key, Some(id)));
        let two = RecordKey::new(vec!["region".parse().unwrap(), "address.code".parse().unwrap()]);
        assert_eq!(dedupe(r#","key":["region","address.code"]"#), (Dedupe::Key, Some(two)));
        assert_eq!(dedupe(""), (Dedupe::Rows, None));
    }

    #[test]
    fn each_wrong_key_is_told_at_its_field() {
        for (options, part) in [
            (r#""dedupe":"key""#, "required"),
            (r#""dedupe":"hash","key":"id""#, "`dedupe` \"key\" only"),
            (r#""key":[]"#, "1 to 16"),
            (r#""key":5"#, "1 to 16"),
            (r#""key":null"#, "may not be null"),
            (r#""key":["id",1]"#, "must be strings"),
            (r#""key":["id","id"]"#, "twice"),
            (r#""key":"""#, "empty"),
            (r#""key":"a..b""#, "empty"),
            (r#""key":"a\u0000""#, "NUL"),
        ] {
            let errors = errors(SourceType::File, &format!(r#"{{"path":"a.csv",{options}}}"#));
            assert!(errors.len() == 1 && errors[0].0 == "key" && errors[0].1.contains(part), "{options}: {errors:?}");
        }
    }
}

//! The error of a task as it is kept: in both languages, read in one.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::field_error::Words;
use crate::language::Language;

/// What `tasks.error` holds, a JSON object. Rows of versions before 0.2 have no Japanese and are read in English.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptError<'a> {
    message: Cow<'a, str>,
    causes: Vec<Cow<'a, str>>,
    #[serde(default)]
    position: Option<Cow<'a, RawValue>>,
    reason: Cow<'a, str>,
    /// The same in Japanese.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ja: Option<Told<'a>>,
}

/// What happened and why, in one language.
#[derive(Debug, Serialize, Deserialize)]
struct Told<'a> {
    message: Cow<'a, str>,
    causes: Vec<Cow<'a, str>>,
}

impl<'a> KeptError<'a> {
    /// An error with its code, what happened, why (outermost first), and where, as a JSON object.
    #[must_use]
    pub fn new(reason: &'a str, message: &'a Words, causes: &'a [Words], position: Option<&'a RawValue>) -> Self {
        let told = |language: Language| Told {
            message: message.text(language).into(),
            causes: causes.iter().map(|cause| cause.text(language).into()).collect(),
        };
        let Told { message, causes } = told(Language::English);
        let ja = Some(told(Language::Japanese));
        Self { message, causes, position: position.map(Cow::Borrowed), reason: reason.into(), ja }
    }
}

/// A kept error as it is shown: `{"message", "causes", "position", "reason"}` in one language. What is none stays as it is.
#[must_use]
pub fn shown(kept: Box<RawValue>, language: Language) -> Box<RawValue> {
    let Ok(mut error) = serde_json::from_str::<KeptError<'_>>(kept.get()) else { return kept };
    if let (Language::Japanese, Some(told)) = (language, error.ja.take()) {
        (error.message, error.causes) = (told.message, told.causes);
    }
    error.ja = None;
    let shown = serde_json::value::to_raw_value(&error);
    shown.unwrap_or_else(|_| kept.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_kept_in_both_languages_and_shown_in_one() {
        let message = Words::new("a \"bad\" thing", "悪い「こと」");
        let causes = [Words::quoted("code: 13")];
        let position = RawValue::from_string(r#"{"line":3}"#.to_owned()).unwrap();
        let kept = KeptError::new("file", &message, &causes, Some(&position));
        let kept = serde_json::value::to_raw_value(&kept).unwrap();
        let shown = |language| shown(kept.clone(), language).get().to_owned();
        assert_eq!(
            shown(Language::English),
            r#"{"message":"a \"bad\" thing","causes":["code: 13"],"position":{"line":3},"reason":"file"}"#
        );
        assert_eq!(
            shown(Language::Japanese),
            r#"{"message":"悪い「こと」","causes":["code: 13"],"position":{"line":3},"reason":"file"}"#
        );
    }

    #[test]
    fn an_error_of_an_earlier_version_is_shown_in_english_and_what_is_none_as_it_is() {
        for text in
            [r#"{"message":"it broke","causes":[],"position":null,"reason":"http_status"}"#, r#"{"lost": true}"#]
        {
            let kept = RawValue::from_string(text.to_owned()).unwrap();
            assert_eq!(shown(kept, Language::Japanese).get(), text);
        }
    }
}

//! One fault in a definition, with the place where it is, in the languages that users read.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::language::Language;

/// A value of a definition that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}`: {message}", path.join("."))]
pub struct FieldError {
    /// Keys from the definition's root to the value; array positions as decimal text. Empty for the root itself.
    pub path: Vec<String>,
    /// What is wrong and what would be right, for the user.
    pub message: Words,
}

impl FieldError {
    /// A fault at `path`.
    pub fn new(path: &[&str], message: Words) -> Self {
        Self { path: path.iter().map(|key| (*key).to_owned()).collect(), message }
    }
}

/// Sentences in each language that matome speaks; displayed, they are English.
///
/// A message to users is made of both, so that none can be added in one language only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    /// English.
    pub english: String,
    /// Japanese.
    pub japanese: String,
}

impl<E: Into<String>, J: Into<String>> From<(E, J)> for Words {
    fn from((english, japanese): (E, J)) -> Self {
        Self::new(english, japanese)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.english)
    }
}

impl Words {
    /// What somebody else says, in the only language that they speak.
    pub fn quoted(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { japanese: text.clone(), english: text }
    }

    /// Both sentences, one behind the other.
    #[must_use]
    pub fn joined(all: impl IntoIterator<Item = Self>) -> Self {
        let (english, japanese): (Vec<_>, Vec<_>) =
            all.into_iter().map(|words| (words.english, words.japanese)).unzip();
        Self { english: english.join("; "), japanese: japanese.join("; ") }
    }

    /// With each language changed in the same way.
    #[must_use]
    pub fn map(self, change: impl Fn(String) -> String) -> Self {
        Self { english: change(self.english), japanese: change(self.japanese) }
    }

    /// The sentences in one language.
    pub fn text(&self, language: Language) -> &str {
        match language {
            Language::English => &self.english,
            Language::Japanese => &self.japanese,
        }
    }
}

/// The sentences that Django REST framework has, in its words.
impl Words {
    /// The sentences, in English and in Japanese.
    pub fn new(english: impl Into<String>, japanese: impl Into<String>) -> Self {
        Self { english: english.into(), japanese: japanese.into() }
    }

    /// A field is missing.
    pub fn required() -> Self {
        Self::new("This field is required.", "この項目は必須です。")
    }

    /// A field is null.
    pub fn null() -> Self {
        Self::new("This field may not be null.", "この項目はnullにできません。")
    }

    /// A text has nothing but white space.
    pub fn blank() -> Self {
        Self::new("This field may not be blank.", "この項目は空にできません。")
    }

    /// A value is no string.
    pub fn no_string() -> Self {
        Self::new("Not a valid string.", "有効な文字列ではありません。")
    }

    /// A value is no whole number.
    pub fn no_integer() -> Self {
        Self::new("A valid integer is required.", "有効な整数を入力してください。")
    }

    /// A value is neither true nor false.
    pub fn no_boolean() -> Self {
        Self::new("Must be a valid boolean.", "真偽値 (true か false) にしてください。")
    }

    /// A number is below `least`.
    pub fn too_small(least: impl fmt::Display) -> Self {
        Self::new(
            format!("Ensure this value is greater than or equal to {least}."),
            format!("この値は{least}以上にしてください。"),
        )
    }

    /// A number is above `most`.
    pub fn too_large(most: impl fmt::Display) -> Self {
        Self::new(
            format!("Ensure this value is less than or equal to {most}."),
            format!("この値は{most}以下にしてください。"),
        )
    }

    /// A value of the type `kind`, a word of Python, stands where an object should.
    pub fn no_object(kind: &str) -> Self {
        Self::new(
            format!("Expected a dictionary of items but got type \"{kind}\"."),
            format!("\"{kind}\" 型のデータではなく、辞書を送ってください。"),
        )
    }

    /// `given` is none of `choices`.
    pub fn no_choice(given: &str, choices: &[&str]) -> Self {
        let choices = quoted(choices);
        Self::new(
            format!("\"{given}\" is not a valid choice. Choices are {choices}."),
            format!("\"{given}\"は有効な選択肢ではありません。選択肢: {choices}。"),
        )
    }

    /// `name` is none of the options `known`; the nearest of them, if one is near, is named first.
    pub fn unknown_option(nearest: Option<&str>, known: &[&str]) -> Self {
        let known = quoted(known);
        let (hint, hint_in_japanese) = nearest.map_or_else(Default::default, |near| {
            (format!(" Did you mean `{near}`?"), format!("`{near}` のことですか。"))
        });
        Self::new(
            format!("Unknown option.{hint} Known here: {known}."),
            format!("知らないオプションです。{hint_in_japanese}使えるもの: {known}。"),
        )
    }
}

/// What an error and its sources say, outermost first; a text that ends with that of its source is enough.
///
/// Systems and libraries speak English.
#[must_use]
pub fn chain(err: Option<&(dyn std::error::Error + 'static)>) -> Vec<Words> {
    let mut texts: Vec<Words> = Vec::new();
    let mut next = err;
    while let Some(err) = next {
        let text = err.to_string();
        if !texts.last().is_some_and(|last| last.english.ends_with(&text)) {
            texts.push(Words::quoted(text));
        }
        next = err.source();
    }
    texts
}

/// [`Words`] of two templates, each as `format!` takes them: `say!("{n} rows", "{n} 行")`.
#[macro_export]
macro_rules! say {
    ($english:literal, $japanese:literal $(,)?) => {
        $crate::field_error::Words::new(::std::format!($english), ::std::format!($japanese))
    };
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The word that Django REST framework has for a type of JSON.
#[must_use]
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

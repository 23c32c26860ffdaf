//! Patterns as JSON Schema writes them (ECMA-262), run by an engine whose time is linear in the text.

use regex::{Regex, RegexBuilder};

use crate::field_error::Words;

/// Bytes that a compiled pattern may take.
const SIZE_LIMIT: usize = 1 << 20;

/// A pattern that is looked for anywhere in a text; `^` and `$` are the ends of the text.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Regex);

impl Pattern {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// What is wrong with it, also when it asks for what cannot run in linear time: look-around and back references.
    pub(super) fn compile(pattern: &str) -> Result<Self, Words> {
        match RegexBuilder::new(&translate(pattern)).size_limit(SIZE_LIMIT).build() {
            Ok(regex) => Ok(Self(regex)),
            Err(regex::Error::CompiledTooBig(_)) => Err(Words::new(
                "This pattern is too large. Make its repetitions smaller.",
                "このパターンは大きすぎます。繰り返しの回数を減らしてください。",
            )),
            Err(err) => {
                // The first lines draw the place with a caret; the last one says what is wrong.
                let text = err.to_string();
                let what = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                Err(Words::new(
                    format!("Not a valid pattern: {what}. Look-around and back references are not available."),
                    format!("有効なパターンではありません: {what}。先読み・後読みと後方参照は使えません。"),
                ))
            }
        }
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// From ECMA-262 to the syntax of `regex`: `\d`, `\w` are ASCII there, `\uXXXX`, `\cX` and `[` in a class are
/// written otherwise.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let Some(escaped) = chars.next() else {
                    out.push('\\');
                    break;
                };
                match escaped {
                    'd' if in_class => out.push_str("0-9"),
                    'd' => out.push_str("[0-9]"),
                    'D' => out.push_str("[^0-9]"),
                    'w' if in_class => out.push_str("A-Za-z0-9_"),
                    'w' => out.push_str("[A-Za-z0-9_]"),
                    'W' => out.push_str("[^A-Za-z0-9_]"),
                    's' => out.push_str(if in_class { r"\s\x{FEFF}" } else { r"[\s\x{FEFF}]" }),
                    'S' => out.push_str(r"[^\s\x{FEFF}]"),
                    'b' if in_class => out.push_str(r"\x08"),
                    // Word boundaries follow `\w`.
                    'b' => out.push_str(r"(?-u:\b)"),
                    'B' => out.push_str(r"\B"),
                    '0' => out.push_str(r"\x00"),
                    'u' if chars.peek() != Some(&'{') => {
                        let hex: String = chars.by_ref().take(4).collect();
                        out.push_str(&format!(r"\x{{{hex}}}"));
                    }
                    'u' => out.push_str(r"\x"),
                    'c' => {
                        let control = chars.next().unwrap_or('@');
                        out.push_str(&format!(r"\x{{{:x}}}", u32::from(control) % 32));
                    }
                    other => {
                        out.push('\\');
                        out.push(other);
                    }
                }
            }
            '[' if in_class => out.push_str(r"\["),
            '[' => {
                in_class = true;
                out.push('[');
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            // `&&`, `~~` and `--` are set operations there.
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_ecma_says() {
        for (pattern, text, expected) in [
            ("^[A-Z]{3}$", "ABC", true),
            ("^[A-Z]{3}$", "ABCD", false),
            ("b", "abc", true),
            (r"^\d+$", "１２", false),
            (r"^[\d\w]$", "é", false),
            (r"^\u00e9\u{1F5FE}$", "é🗾", true),
            (r"^[[&&]$", "&", true),
            (r"^\p{Letter}+$", "日本語", true),
            (r"^a\/b$", "a/b", true),
            (r"^\s$", "\u{feff}", true),
        ] {
            assert_eq!(Pattern::compile(pattern).unwrap().is_match(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_could_hang_is_refused_or_linear() {
        for pattern in ["(?=a)", r"(a)\1", "[", "a{1000}{1000}{1000}"] {
            assert!(Pattern::compile(pattern).is_err(), "{pattern}");
        }
        let text = format!("{}!", "a".repeat(100_000));
        assert!(!Pattern::compile("^(a+)+$").unwrap().is_match(&text));
    }
}

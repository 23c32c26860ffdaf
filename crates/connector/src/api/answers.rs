//! What to make of answers that are no good, beyond what their status says by itself.

use matome_egress::StatusCode;
use matome_model::field_error::Words;
use serde_json::Value;

use super::value_path;
use crate::config::Fields;
use crate::json::JsonPath;

/// The longest message of a source that is repeated.
const MESSAGE_LIMIT_CHARS: usize = 500;

/// One element of `errors`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The answers that it looks at; all that succeed when there is none.
    pub status: Option<Statuses>,
    /// The value that tells: with `equals` that very one, else anything but null, false, 0, and nothing.
    pub path: Option<JsonPath>,
    /// What it is compared with.
    pub equals: Option<Value>,
    /// Where the answer says what is wrong.
    pub message: Option<JsonPath>,
    /// What is done.
    pub action: Action,
}

/// One status, or all that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    /// `404`.
    One(u16),
    /// `"4xx"`.
    Hundred(u16),
}

/// What is done about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// There are no records, and no more pages.
    Empty,
    /// This page is passed over.
    Skip,
    /// The read fails and is tried again.
    Retry,
    /// The read fails.
    Fail,
}

impl Statuses {
    fn holds(self, status: StatusCode) -> bool {
        match self {
            Self::One(one) => status.as_u16() == one,
            Self::Hundred(first) => status.as_u16() / 100 == first,
        }
    }
}

impl Rule {
    /// Reads `errors`.
    pub(super) fn parse_all(fields: &mut Fields) -> Vec<Self> {
        let mut rules = Vec::new();
        for mut own in fields.list("errors") {
            let (has_status, has_path) = (own.has("status"), own.has("path"));
            if !has_status && !has_path {
                own.fail(
                    "status",
                    Words::new("Give `status`, `path` or both.", "`status` か `path`、または両方を指定してください。"),
                );
            }
            let status = own.scalar("status").and_then(|text| match statuses(&text) {
                Some(status) => Some(status),
                None => {
                    own.fail(
                        "status",
                        Words::new(
                            "Write a status from 200 to 599, or a class such as `\"4xx\"`.",
                            "200から599のステータス、または `\"4xx\"` のようなクラスを書いてください。",
                        ),
                    );
                    None
                }
            });
            let path = value_path(&mut own, "path", false, "$.error");
            let equals = own.value("equals").filter(|value| match value {
                Value::Array(_) | Value::Object(_) => {
                    let words = Words::new(
                        "Write a text, a number, `true` or `false`.",
                        "テキスト、数値、`true`、`false` のどれかを書いてください。",
                    );
                    own.fail("equals", words);
                    false
                }
                _ => true,
            });
            if equals.is_some() && !has_path {
                own.fail(
                    "path",
                    Words::new("This field is required with `equals`.", "`equals` を使うときは必須です。"),
                );
            }
            let message = value_path(&mut own, "message", false, "$.error.message");
            if !own.has("action") {
                own.required_string("action");
            }
            let actions =
                [("empty", Action::Empty), ("skip", Action::Skip), ("retry", Action::Retry), ("fail", Action::Fail)];
            let action = own.choice("action", &actions);
            fields.absorb(own);
            if let Some(action) = action {
                rules.push(Self { status, path, equals, message, action });
            }
        }
        rules
    }

    /// Whether it looks at answers of this status.
    pub(super) fn is_about(&self, status: StatusCode) -> bool {
        self.status.map_or(status.is_success(), |statuses| statuses.holds(status))
    }

    /// The paths whose values it asks for.
    pub(super) fn paths(&self) -> impl Iterator<Item = &JsonPath> {
        self.path.iter().chain(&self.message)
    }

    /// Whether it holds for a body with this value at its path.
    fn holds(&self, found: Option<&[u8]>) -> bool {
        let Some(found) = found else { return self.path.is_none() };
        match &self.equals {
            Some(wanted) => serde_json::from_slice::<Value>(found).is_ok_and(|value| value == *wanted),
            None => !matches!(found, b"null" | b"false" | b"0" | b"\"\"" | b"[]" | b"{}"),
        }
    }
}

/// The first rule about answers of this status that holds, with what the answer says. `found` has the values at the
/// paths of these rules, in their order.
pub(super) fn judge(
    rules: &[Rule],
    status: StatusCode,
    mut found: impl Iterator<Item = Option<Vec<u8>>>,
) -> Option<(&Rule, Option<String>)> {
    for rule in rules.iter().filter(|rule| rule.is_about(status)) {
        let value = rule.path.as_ref().and_then(|_| found.next().flatten());
        let message = rule.message.as_ref().and_then(|_| found.next().flatten());
        if rule.holds(value.as_deref()) {
            return Some((rule, message.map(|text| readable(&text))));
        }
    }
    None
}

/// A JSON value as a line for people: texts without their quotes, no control characters, not too long.
fn readable(json: &[u8]) -> String {
    let text = serde_json::from_slice::<String>(json).unwrap_or_else(|_| String::from_utf8_lossy(json).into_owned());
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_LIMIT_CHARS).collect()
}

fn statuses(text: &str) -> Option<Statuses> {
    if let Some(first) = text.strip_suffix("xx") {
        return first.parse().ok().filter(|first| (2..=5).contains(first)).map(Statuses::Hundred);
    }
    text.parse().ok().filter(|status| (200..=599).contains(status)).map(Statuses::One)
}

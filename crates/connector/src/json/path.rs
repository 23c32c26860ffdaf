//! The part of JSONPath (RFC 9535) that can be followed while a document streams by.

use std::fmt;
use std::str::FromStr;

use matome_model::field_error::Words;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Member(String),
    Index(u64),
    /// `[*]`: each element of an array.
    Wildcard,
    /// `.*`: the same, and each member of an object.
    Any,
}

/// A path of members, array indexes and wildcards: `$`, `$[*]`, `$.a.b`, `$.a[*].b`, `$.a.*`, `$['a b'][0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath {
    text: String,
    pub(crate) steps: Vec<Step>,
}

/// A path that is no such path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{path}` can not be followed: {problem}; supported are `$`, `$[*]`, `$.a.b`, `$.a.b[*]`, `$.a[*].b`, `$.a.*` and `$['a b']`"
)]
pub struct JsonPathError {
    path: String,
    problem: &'static str,
}

impl From<JsonPathError> for Words {
    fn from(error: JsonPathError) -> Self {
        let path = &error.path;
        Self::new(
            format!("{error}."),
            format!(
                "`{path}` はたどれません ({})。使える形は `$`, `$[*]`, `$.a.b`, `$.a.b[*]`, `$.a[*].b`, `$.a.*`, `$['a b']` です。",
                error.problem
            ),
        )
    }
}

impl JsonPath {
    /// `$`: the document itself.
    pub fn root() -> Self {
        Self { text: "$".to_owned(), steps: Vec::new() }
    }

    /// Whether it consists of members only, so that it names one value at most.
    pub fn is_members_only(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Member(_)))
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for JsonPath {
    type Err = JsonPathError;

    fn from_str(path: &str) -> Result<Self, JsonPathError> {
        let fail = |problem| JsonPathError { path: path.to_owned(), problem };
        let mut rest = path.trim().strip_prefix('$').ok_or_else(|| fail("a path starts with `$`"))?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                if after.starts_with('.') {
                    return Err(fail("`..` would need the whole document in memory"));
                }
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let (name, tail) = after.split_at(end);
                match name {
                    "" => return Err(fail("a name is missing after `.`")),
                    "*" => steps.push(Step::Any),
                    _ if name.contains(|c: char| c.is_whitespace() || "'\"*?()@,:]".contains(c)) => {
                        return Err(fail("a name with special characters is written `['name']`"));
                    }
                    _ => steps.push(Step::Member(name.to_owned())),
                }
                rest = tail;
            } else if let Some(after) = rest.strip_prefix('[') {
                let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"'));
                if let Some(quote) = quote {
                    let close = format!("{quote}]");
                    let (name, tail) =
                        after[1..].split_once(&close).ok_or_else(|| fail("a quoted name is not closed"))?;
                    if name.contains('\\') {
                        return Err(fail("escapes in names are not known"));
                    }
                    steps.push(Step::Member(name.to_owned()));
                    rest = tail;
                } else {
                    let (inside, tail) = after.split_once(']').ok_or_else(|| fail("`]` is missing"))?;
                    steps.push(match inside.trim() {
                        "*" => Step::Wildcard,
                        index => {
                            let index = index.parse();
                            Step::Index(index.map_err(|_| fail("filters, slices and unions are not known"))?)
                        }
                    });
                    rest = tail;
                }
            } else {
                return Err(fail("after `$` comes `.name` or `[...]`"));
            }
        }
        Ok(Self { text: path.trim().to_owned(), steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_form_is_read() {
        let member = |name: &str| Step::Member(name.to_owned());
        for (path, steps) in [
            ("$", vec![]),
            ("$[*]", vec![Step::Wildcard]),
            ("$.*", vec![Step::Any]),
            ("$.a.b", vec![member("a"), member("b")]),
            ("$.データ[*]", vec![member("データ"), Step::Wildcard]),
            ("$['a b'][0][\"c.d\"]", vec![member("a b"), Step::Index(0), member("c.d")]),
            ("$.@odata-like", vec![]),
        ] {
            match path.parse::<JsonPath>() {
                Ok(parsed) => assert_eq!(parsed.steps, steps, "{path}"),
                Err(error) => assert!(path.contains('@'), "{error}"),
            }
        }
    }

    #[test]
    fn what_can_not_stream_is_refused_with_the_forms_that_can() {
        for path in ["", "results", "$..a", "$.a[?(@.b)]", "$[1:2]", "$[0,1]", "$.", "$.a[", "$['a", "$x", "$[-1]"] {
            let error = path.parse::<JsonPath>().unwrap_err().to_string();
            assert!(error.contains("`$.a.b[*]`"), "{error}");
        }
    }
}

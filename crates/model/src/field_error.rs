//! One fault in a definition, with the place where it is.

/// A value of a definition that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}`: {message}", path.join("."))]
pub struct FieldError {
    /// Keys from the definition's root to the value; array positions as decimal text. Empty for the root itself.
    pub path: Vec<String>,
    /// What is wrong and what would be right, for the user.
    pub message: String,
}

impl FieldError {
    /// A fault at `path`.
    pub fn new(path: &[&str], message: impl Into<String>) -> Self {
        Self { path: path.iter().map(|key| (*key).to_owned()).collect(), message: message.into() }
    }
}

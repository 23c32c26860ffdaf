//! What the API answers when it does not do what was asked; the only place that knows status codes of errors.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use matome_model::field_error::Words;
use matome_store::error::StoreError;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::message::{Language, Message};

/// Why a request was refused or failed.
#[derive(Debug)]
pub enum ApiError {
    /// Fields of the body or parameters of the query are wrong.
    Fields(FieldErrors),
    /// The body cannot be read.
    BadRequest(Message),
    /// The Host header names no host of ours.
    BadHost(String),
    /// No credentials, or wrong ones.
    Unauthenticated(Message),
    /// The bearer's role does not allow it.
    Forbidden,
    /// There is no such thing.
    NotFound(Message),
    /// The path has no such method; these it has.
    MethodNotAllowed {
        /// What was asked for.
        method: String,
        /// Value of the `Allow` header.
        allow: String,
    },
    /// No representation that the client accepts.
    NotAcceptable,
    /// The state of the thing does not allow it.
    Conflict(Message),
    /// The body is too large.
    TooLarge {
        /// Bytes that are taken.
        limit: usize,
    },
    /// The body is of another media type.
    UnsupportedMediaType(String),
    /// The body is of a media type or an encoding that is not taken here.
    MediaType(Words),
    /// What it asks for cannot be, whatever the state of the thing.
    Unprocessable(Message),
    /// Enough waits already.
    TooMany {
        /// What waits.
        message: Message,
        /// Seconds after which it may be different.
        secs: u64,
    },
    /// Other requests take what there is.
    Busy,
    /// There is no room for more data.
    DiskFull,
    /// The store failed.
    Store(StoreError),
}

/// Result of this crate.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

impl From<StoreError> for ApiError {
    fn from(err: StoreError) -> Self {
        Self::Store(err)
    }
}

impl From<FieldErrors> for ApiError {
    fn from(errors: FieldErrors) -> Self {
        Self::Fields(errors)
    }
}

impl ApiError {
    /// One field, one message.
    pub fn field(name: &str, message: Message) -> Self {
        let mut errors = FieldErrors::default();
        errors.add(&[name], message);
        Self::Fields(errors)
    }

    /// The status of its answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Fields(_) | Self::BadRequest(_) | Self::BadHost(_) => StatusCode::BAD_REQUEST,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType(_) | Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::DiskFull | Self::Store(StoreError::DiskFull(_)) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Store(err) if err.is_transient() || matches!(err, StoreError::Closed) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer. What failed on our side is logged under an id, and only the id goes out.
    pub fn into_response(self, language: Language) -> Response {
        let status = self.status();
        let detail = |message: Message| json!({ "detail": message.text(language) });
        let mut extra = None;
        let body = match self {
            Self::Fields(errors) => errors.into_json(language),
            Self::BadRequest(message)
            | Self::NotFound(message)
            | Self::Conflict(message)
            | Self::Unprocessable(message) => detail(message),
            Self::MediaType(words) => detail(Message::Said(words)),
            Self::TooMany { message, secs } => {
                extra = Some((header::RETRY_AFTER, HeaderValue::from(secs)));
                detail(message)
            }
            Self::Busy => {
                extra = Some((header::RETRY_AFTER, HeaderValue::from_static("1")));
                detail(Message::Busy)
            }
            Self::BadHost(host) => detail(Message::BadHost { host }),
            Self::Unauthenticated(message) => {
                extra = Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"api\"")));
                detail(message)
            }
            Self::Forbidden => detail(Message::PermissionDenied),
            Self::MethodNotAllowed { method, allow } => {
                extra = HeaderValue::from_str(&allow).ok().map(|allow| (header::ALLOW, allow));
                detail(Message::MethodNotAllowed { method })
            }
            Self::NotAcceptable => detail(Message::NotAcceptable),
            Self::TooLarge { limit } => detail(Message::BodyTooLarge { limit }),
            Self::UnsupportedMediaType(media_type) => detail(Message::UnsupportedMediaType { media_type }),
            Self::DiskFull | Self::Store(StoreError::DiskFull(_)) => {
                extra = Some((header::RETRY_AFTER, HeaderValue::from_static("30")));
                detail(Message::DiskFull)
            }
            Self::Store(err) => {
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    extra = Some((header::RETRY_AFTER, HeaderValue::from_static("2")));
                }
                logged(&err)
            }
        };
        let mut response = json_response(status, &body);
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

fn logged(err: &(dyn std::error::Error + 'static)) -> Value {
    let id = Uuid::new_v4();
    let mut chain = err.to_string();
    let mut cause = err.source();
    while let Some(next) = cause {
        chain = format!("{chain}: {next}");
        cause = next.source();
    }
    tracing::error!(error.id = %id, error = chain, "a request failed ({id})");
    json!({ "id": id.to_string() })
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Errors of fields, nested as the fields are: `{"config": {"pagination": {"next": ["..."]}}}`.
#[derive(Debug, Default)]
pub struct FieldErrors(BTreeMap<String, Node>);

#[derive(Debug)]
enum Node {
    Messages(Vec<Message>),
    Nested(FieldErrors),
}

/// Where errors of an object itself go when its fields have errors too, as in Django REST framework.
const NON_FIELD: &str = "non_field_errors";

impl FieldErrors {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an error at a path of field names.
    pub fn add<S: AsRef<str>>(&mut self, path: &[S], message: Message) {
        match path {
            [] => self.add(&[NON_FIELD], message),
            [field] => match self.0.entry(field.as_ref().to_owned()).or_insert_with(|| Node::Messages(Vec::new())) {
                Node::Messages(messages) => messages.push(message),
                Node::Nested(nested) => nested.add(&[NON_FIELD], message),
            },
            [field, rest @ ..] => {
                let node =
                    self.0.entry(field.as_ref().to_owned()).or_insert_with(|| Node::Nested(FieldErrors::default()));
                if let Node::Messages(messages) = node {
                    let own = Node::Messages(std::mem::take(messages));
                    *node = Node::Nested(FieldErrors(BTreeMap::from([(NON_FIELD.to_owned(), own)])));
                }
                if let Node::Nested(nested) = node {
                    nested.add(rest, message);
                }
            }
        }
    }

    /// `Ok` when nothing is wrong.
    pub fn into_result(self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(self.into()) }
    }

    fn into_json(self, language: Language) -> Value {
        let fields = self.0.into_iter().map(|(field, node)| {
            let value = match node {
                Node::Messages(messages) => messages.iter().map(|message| message.text(language)).collect(),
                Node::Nested(nested) => nested.into_json(language),
            };
            (field, value)
        });
        Value::Object(fields.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_nest_as_fields_do() {
        let mut errors = FieldErrors::default();
        errors.add(&["name"], Message::Required);
        errors.add(&["config"], Message::MayNotBeNull);
        errors.add(&["config", "pagination", "next"], Message::Said(Words::new("bad", "悪い")));
        assert_eq!(
            errors.into_json(Language::English),
            json!({
                "name": ["This field is required."],
                "config": {
                    "non_field_errors": ["This field may not be null."],
                    "pagination": {"next": ["bad"]},
                },
            })
        );
    }
}

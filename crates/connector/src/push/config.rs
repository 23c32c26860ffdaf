//! The options of a `push` source.

use std::sync::Arc;

use encoding_rs::Encoding;
use matome_egress::header::{HeaderMap, HeaderName};
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::source::Dedupe;

use super::headers;
use super::signature::{self, Webhook};
use crate::config::{CommonConfig, FieldError, Fields, parse_common};
use crate::file::{Charset, DocumentConfig, Format};

/// A `push` source.
#[derive(Clone, Debug)]
pub struct PushConfig {
    /// `format`: `json`, `ndjson` or `csv`; `None`, `auto`: as the `Content-Type` of what is sent says (default).
    pub format: Option<Format>,
    /// `records`, `delimiter`, `header`, `types` and `encoding`, as for files. Of no format.
    document: DocumentConfig,
    /// `webhook`: who may send without a token, by signing.
    pub webhook: Option<Webhook>,
    /// `headers`: those of what is sent that are kept with it, besides what the scheme of a webhook keeps by itself.
    headers: Vec<HeaderName>,
    /// Options of every source; `dedupe` is `none` by default and never `rows`.
    pub common: CommonConfig,
}

/// Checks the options of a `push` source.
pub(crate) fn parse(mut fields: Fields) -> Result<PushConfig, Vec<FieldError>> {
    let common = parse_common(&mut fields, Dedupe::None);
    common.deletes.refuse(&mut fields);
    if common.dedupe == Dedupe::Rows {
        fields.fail(
            "dedupe",
            Words::new(
                "`rows` compares whole reads, and what is sent is never read twice. Use `none`, `hash`, or a `key`.",
                "`rows` は読み取り全体を比べますが、送られたものを読むのは一度だけです。`none`、`hash`、または `key` を\
                 使ってください。",
            ),
        );
    }
    let words =
        [("auto", None), ("json", Some(Format::Json)), ("ndjson", Some(Format::Ndjson)), ("csv", Some(Format::Csv))];
    let format = fields.choice("format", &words).flatten();
    // A body of any of these may come unless one is named.
    let all = [Format::Json, Format::Ndjson, Format::Csv];
    let among = format.as_ref().map_or(&all[..], std::slice::from_ref);
    let document = DocumentConfig::parse(&mut fields, format, among, b',');
    let webhook = signature::parse(&mut fields);
    let headers = headers::parse(&mut fields, webhook.as_ref());
    fields.finish()?;
    Ok(PushConfig { format, document, webhook, headers, common })
}

/// Media types of each format, without parameters.
const MEDIA_TYPES: &[(&str, Format)] = &[
    ("application/json", Format::Json),
    ("text/json", Format::Json),
    ("application/x-ndjson", Format::Ndjson),
    ("application/ndjson", Format::Ndjson),
    ("application/jsonl", Format::Ndjson),
    ("application/jsonlines", Format::Ndjson),
    ("application/x-jsonlines", Format::Ndjson),
    ("text/csv", Format::Csv),
    ("application/csv", Format::Csv),
];

/// The format that a media type, in lower case and without parameters, stands for.
pub(crate) fn format_of_media_type(media_type: &str) -> Option<Format> {
    let known = MEDIA_TYPES.iter().find(|(known, _)| *known == media_type).map(|(_, format)| *format);
    known.or(media_type.ends_with("+json").then_some(Format::Json))
}

impl PushConfig {
    /// The format of what is sent with this `Content-Type`.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn format_of(&self, content_type: Option<&str>) -> Result<Format, Words> {
        let mut parts = content_type.unwrap_or_default().split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let charset = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
        });
        let format = match self.format {
            Some(format) => format,
            None if media_type.is_empty() => {
                return Err(Words::new(
                    "There is no Content-Type. Say application/json, application/x-ndjson or text/csv, or set `format` in \
                     the config of the source.",
                    "Content-Type がありません。application/json、application/x-ndjson、text/csv のどれかを指定するか、\
                     データソースの config に `format` を設定してください。",
                ));
            }
            None => {
                format_of_media_type(&media_type).ok_or_else(|| {
                    say!(
                        "The Content-Type \"{media_type}\" is none of those that are taken. Send application/json, \
                         application/x-ndjson or text/csv, or set `format` in the config of the source.",
                        "Content-Type \"{media_type}\" は受け付けません。application/json、application/x-ndjson、text/csv の\
                         どれかで送るか、データソースの config に `format` を設定してください。"
                    )
                })?
            }
        };
        // What is to be detected is whatever it is.
        let Charset::Declared(expected) = self.document.encoding else { return Ok(format) };
        let declared = expected.name();
        match charset {
            Some(label) if Encoding::for_label(label.as_bytes()) != Some(expected) => Err(say!(
                "The Content-Type says charset={label}, the source expects {declared}. Send {declared}, or set `encoding` in \
                 the config of the source.",
                "Content-Type は charset={label} ですが、データソースは {declared} を受け取ります。{declared} で送るか、\
                 データソースの config に `encoding` を設定してください。"
            )),
            _ => Ok(format),
        }
    }

    /// What is kept of the headers of a webhook's delivery: a JSON object of texts.
    pub fn headers_of_delivery(&self, sent: &HeaderMap) -> Option<String> {
        let of_scheme = self.webhook.iter().flat_map(|webhook| webhook.scheme.headers());
        headers::pick(sent, of_scheme.copied().chain(self.headers.iter().map(HeaderName::as_str)))
    }

    /// What is kept of the headers of records that come with a token.
    pub fn headers_of_records(&self, sent: &HeaderMap) -> Option<String> {
        headers::pick(sent, self.headers.iter().map(HeaderName::as_str))
    }

    /// How a body of this format is taken apart.
    pub fn document(&self, format: Format) -> Arc<DocumentConfig> {
        Arc::new(DocumentConfig { format, ..self.document.clone() })
    }
}

#[cfg(test)]
mod tests {
    use matome_model::source::SourceType;

    use super::*;
    use crate::config::tests::errors;
    use crate::{ParsedConfig, validate_config};

    fn config(text: &str) -> PushConfig {
        match validate_config(SourceType::Push, text).unwrap() {
            ParsedConfig::Push(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_format_follows_the_content_type_unless_the_config_says_it() {
        let auto = config(r#"{"format":"auto"}"#);
        for (content_type, format) in [
            ("application/json", Format::Json),
            ("Application/JSON; charset=UTF-8", Format::Json),
            ("application/cloudevents+json", Format::Json),
            ("application/x-ndjson", Format::Ndjson),
            ("text/csv; header=present; charset=\"utf-8\"", Format::Csv),
        ] {
            assert_eq!(auto.format_of(Some(content_type)), Ok(format), "{content_type}");
        }
        for content_type in [None, Some(""), Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            let told = auto.format_of(content_type).unwrap_err().english;
            assert!(told.contains("application/x-ndjson") && told.contains("`format`"), "{told}");
        }
        assert_eq!(config(r#"{"format":"csv"}"#).format_of(Some("text/plain")), Ok(Format::Csv));
        let told = auto.format_of(Some("text/csv; charset=shift_jis")).unwrap_err().english;
        assert!(told.contains("`encoding`"), "{told}");
        assert!(config(r#"{"encoding":"shift_jis"}"#).format_of(Some("text/csv; charset=shift_jis")).is_ok());
    }

    #[test]
    fn what_is_sent_is_stored_as_it_comes_unless_the_config_says_what_is_the_same() {
        let dedupe = |text| config(text).common.dedupe;
        assert_eq!(dedupe(r#"{"format":"auto"}"#), Dedupe::None);
        assert_eq!(dedupe(r#"{"key":"id"}"#), Dedupe::Key);
        let errors = errors(SourceType::Push, r#"{"dedupe":"rows","format":"ndjson","header":false,"path":"x"}"#);
        let paths: Vec<&str> = errors.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["dedupe", "header", "path"], "{errors:?}");
    }
}

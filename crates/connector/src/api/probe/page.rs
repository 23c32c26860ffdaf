//! One page that is looked at: asked for as a read asks, and kept as far as a sample needs it.

use std::sync::Arc;

use encoding_rs::Encoding;
use matome_egress::header::{CONTENT_TYPE, HeaderMap};
use matome_model::clock::iso8601;
use matome_model::field_error::Words;
use matome_model::say;
use serde_json::{Map, Value};
use url::Url;

use super::super::exchange::Exchange;
use super::super::pages::for_people;
use super::super::template::{Unfit, Values};
use super::super::{ApiConfig, CursorKind};
use super::{Probe, options_of, parsed};
use crate::error::ConnectorError;
use crate::file::{Charset, Document, DocumentConfig, Format, dialect, text_format_of};
use crate::probe::{Finding, closed, elements};
use crate::push::format_of_media_type;
use crate::record::{DocumentError, Found, Position};

/// So much of a page is looked at.
const PAGE_LIMIT_BYTES: usize = 2 << 20;

/// Which page is asked for.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    /// The first one.
    First,
    /// The one that the pagination names so.
    Page(&'a str),
    /// The first one of the records from this cursor on.
    Since(&'a str),
}

/// A page. Records of another format than JSON are an array of objects.
pub(super) struct Page {
    pub(super) headers: HeaderMap,
    /// Where it came from.
    pub(super) url: Url,
    pub(super) body: Value,
    pub(super) bytes: usize,
    /// Only its beginning is in `body`.
    pub(super) is_cut: bool,
    /// Options that it says by itself: `format` and those of it.
    pub(super) says: Vec<Finding>,
}

impl Probe {
    /// The page of the given config with `options` added.
    pub(super) async fn page(&mut self, options: &Map<String, Value>, ask: Ask<'_>) -> Result<Page, ConnectorError> {
        let mut options: Map<String, Value> = self.given.clone().into_iter().chain(options.clone()).collect();
        let (_, config) = parsed(&Value::Object(options.clone()).to_string())?;
        let config = Arc::new(*config);
        let mut exchange = Exchange::new(config.clone(), self.client.clone(), self.clock.clone());
        exchange = exchange.with_tokens(self.tokens.clone(), None);
        let now = iso8601(self.clock.now());
        let values = values(&config, &now, ask);
        let name = name(&config, &values, ask)?;
        let place =
            |request| Position { document: name.as_str().into(), request, line: None, record: 0, headers: None };
        let broken = |words: Words, request| ConnectorError::document(place(request), DocumentError::anywhere(words));
        let asked = config.list.ask(&name, &values).map_err(|Unfit(words)| broken(words, None))?;
        let answer = exchange.ask(name.as_str(), &asked, &HeaderMap::new(), config.list.origin()).await;
        self.stats.requests += exchange.stats.requests;
        let mut response = answer?;
        if !config.list.is_page(response.status) {
            return Err(exchange.failure(name.as_str(), &response));
        }
        if let Some(words) = for_people(&response.headers) {
            return Err(broken(words, Some(1)));
        }
        let (mut text, mut is_cut) = (Vec::new(), false);
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|source| ConnectorError::Egress { position: Box::new(place(Some(1))), source })?
        {
            self.stats.bytes += piece.len() as u64;
            text.extend_from_slice(&piece);
            if text.len() > PAGE_LIMIT_BYTES {
                is_cut = true;
                break;
            }
        }
        let bytes = text.len();
        let mut says = match options.contains_key("format") {
            true => Vec::new(),
            false => said_by(&response.headers, &response.url, &options),
        };
        options.extend(options_of(&says));
        let document = |options: &Map<String, Value>| {
            parsed(&Value::Object(options.clone()).to_string()).map(|(_, config)| config.list.document)
        };
        if let Some(mut document_config) = document(&options)? {
            if matches!(ask, Ask::First) {
                let seen = seen_in(&document_config, &text, is_cut, &options);
                options.extend(options_of(&seen));
                says.extend(seen);
                document_config = document(&options)?.unwrap_or(document_config);
            }
            let (body, error) = records(&document_config, &text, is_cut);
            if let Some(error) = error {
                return Err(ConnectorError::document(place(Some(1)), error));
            }
            let (url, headers) = (response.url.clone(), response.headers);
            return Ok(Page { url, headers, body, bytes, is_cut: false, says });
        }
        if is_cut {
            text.truncate(PAGE_LIMIT_BYTES);
            text = closed(text);
        }
        let body = serde_json::from_slice(&text).map_err(|error| {
            broken(say!("the answer is no JSON: {error}", "応答が JSON ではありません: {error}"), Some(1))
        })?;
        Ok(Page { url: response.url.clone(), headers: response.headers, body, bytes, is_cut, says })
    }
}

fn values<'a>(config: &'a ApiConfig, now: &'a str, ask: Ask<'a>) -> Values<'a> {
    let incremental = config.incremental.as_ref();
    let start = incremental.and_then(|incremental| incremental.start.as_deref());
    Values {
        cursor: if let Ask::Since(since) = ask { Some(since) } else { start },
        cursor_is_number: incremental.is_some_and(|incremental| incremental.kind == CursorKind::Integer),
        start,
        now,
        ..Values::default()
    }
}

fn name(config: &ApiConfig, values: &Values<'_>, ask: Ask<'_>) -> Result<Url, ConnectorError> {
    let unfit = |Unfit(words): Unfit| {
        let document = config.list.origin().ascii_serialization().into();
        let position = Position { document, request: None, line: None, record: 0, headers: None };
        ConnectorError::document(position, DocumentError::anywhere(words))
    };
    let url = |name: String| {
        Url::parse(&name).map_err(|_| unfit(Unfit(("its address is not valid", "アドレスが正しくありません").into())))
    };
    let first = url(config.list.first(values).map_err(unfit)?)?;
    match ask {
        Ask::Page(value) => url(config.list.follow(&first, value, values).map_err(unfit)?),
        Ask::First | Ask::Since(_) => Ok(first),
    }
}

/// What the header `Content-Type` says of the options that are open or, where it says nothing, the name in the address.
fn said_by(headers: &HeaderMap, url: &Url, given: &Map<String, Value>) -> Vec<Finding> {
    let mut says = Vec::new();
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = kind.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    let by_type = match media_type.as_str() {
        "text/tab-separated-values" => Some("tsv"),
        "application/xml" | "text/xml" => Some(Format::Xml.as_str()),
        other if other.ends_with("+xml") => Some(Format::Xml.as_str()),
        other => format_of_media_type(other).map(Format::as_str),
    };
    let says_nothing = ["", "text/plain", "application/octet-stream", "binary/octet-stream"].contains(&&*media_type);
    let by_name = text_format_of(url.path()).filter(|_| says_nothing);
    let words = match by_type {
        Some(_) => Words::new("as the header `Content-Type` says", "ヘッダー `Content-Type` によります"),
        None => Words::new("as the name in the address says", "アドレスの名前によります"),
    };
    let Some(format) = by_type.or(by_name).filter(|format| *format != Format::Json.as_str()) else { return says };
    says.push(Finding { option: "format", value: Some(format.into()), words: words.clone() });
    let charset = parts.find_map(|part| part.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("charset")));
    let encoding = charset.and_then(|(_, label)| Encoding::for_label(label.trim_matches('"').as_bytes()));
    let encoding = encoding.filter(|encoding| *encoding != encoding_rs::UTF_8 && !given.contains_key("encoding"));
    if let Some(encoding) = encoding {
        let name = encoding.name().to_ascii_lowercase();
        says.push(Finding { option: "encoding", value: Some(name.into()), words });
    }
    says
}

/// What the text of a page shows of the options of its format that are open: how rows are written, which elements are records.
fn seen_in(document: &DocumentConfig, text: &[u8], is_cut: bool, given: &Map<String, Value>) -> Vec<Finding> {
    let encoding = match document.encoding {
        Charset::Declared(encoding) => encoding,
        Charset::Detected => encoding_rs::UTF_8,
    };
    let (text, _, _) = encoding.decode(text);
    match document.format {
        Format::Csv => {
            let end = if is_cut { text.rfind('\n').map_or(0, |end| end + 1) } else { text.len() };
            dialect(&text.as_bytes()[..end], &document.csv, given)
        }
        Format::Xml if !given.contains_key("records") => vec![elements(&text, !is_cut)],
        _ => Vec::new(),
    }
}

/// The records of a page of another format, up to its last whole line, as one array.
fn records(document: &Arc<DocumentConfig>, text: &[u8], is_cut: bool) -> (Value, Option<DocumentError>) {
    // Elements need no lines; what comes behind the last whole one is waited for.
    let is_xml = document.format == Format::Xml;
    let cut_at = || text.iter().rposition(|byte| *byte == b'\n').unwrap_or_default();
    let end = if is_cut && !is_xml { cut_at() } else { text.len() };
    let mut found = Found::new("".into(), None, 0);
    let last = !(is_cut && is_xml);
    let fed = Document::new(document.clone()).feed(text.get(..end).unwrap_or_default(), last, &mut found);
    let items = found.take(usize::MAX, usize::MAX).into_iter();
    let records = items.filter_map(|item| serde_json::from_slice(item.raw()).ok()).collect();
    (Value::Array(records), fed.err())
}

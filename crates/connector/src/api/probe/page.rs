//! One page that is looked at: asked for as a read asks, and kept as far as a sample needs it.

use std::sync::Arc;

use encoding_rs::Encoding;
use matome_egress::header::{CONTENT_TYPE, HeaderMap};
use matome_model::clock::iso8601;
use matome_model::say;
use serde_json::{Map, Value};
use url::Url;

use super::super::exchange::Exchange;
use super::super::pages::for_people;
use super::super::template::{Unfit, Values};
use super::super::{ApiConfig, CursorKind};
use super::{Probe, parsed};
use crate::error::ConnectorError;
use crate::file::{Document, DocumentConfig, Format};
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
    /// Options that it says by itself: `format`, `encoding`.
    pub(super) says: Map<String, Value>,
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
        let place = |request| Position { document: name.as_str().into(), request, line: None, record: 0 };
        let broken = |words: matome_model::field_error::Words, request| {
            ConnectorError::document(place(request), DocumentError::anywhere(words))
        };
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
        let says = match options.contains_key("format") {
            true => Map::new(),
            false => said_by(&response.headers),
        };
        options.extend(says.clone());
        if let Some(document) = parsed(&Value::Object(options).to_string())?.1.list.document {
            let (body, error) = records(&document, &text, is_cut);
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
        let position = Position { document, request: None, line: None, record: 0 };
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

/// What the header `Content-Type` says of the options.
fn said_by(headers: &HeaderMap) -> Map<String, Value> {
    let mut says = Map::new();
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = kind.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    let Some(format) = format_of_media_type(&media_type).filter(|format| *format != Format::Json) else { return says };
    says.insert("format".to_owned(), format.as_str().into());
    let charset = parts.find_map(|part| part.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("charset")));
    let encoding = charset.and_then(|(_, label)| Encoding::for_label(label.trim_matches('"').as_bytes()));
    if let Some(encoding) = encoding.filter(|encoding| *encoding != encoding_rs::UTF_8) {
        says.insert("encoding".to_owned(), encoding.name().to_ascii_lowercase().into());
    }
    says
}

/// The records of a page of another format, up to its last whole line, as one array.
fn records(document: &Arc<DocumentConfig>, text: &[u8], is_cut: bool) -> (Value, Option<DocumentError>) {
    let end = if is_cut { text.iter().rposition(|byte| *byte == b'\n').unwrap_or_default() } else { text.len() };
    let mut found = Found::new("".into(), None, 0);
    let fed = Document::new(document.clone()).feed(text.get(..end).unwrap_or_default(), true, &mut found);
    let items = found.take(usize::MAX, usize::MAX).into_iter();
    let records = items.filter_map(|item| serde_json::from_slice(item.raw()).ok()).collect();
    (Value::Array(records), fed.err())
}

/// The beginning of a JSON text up to its last whole value, with what is open closed.
fn closed(mut text: Vec<u8>) -> Vec<u8> {
    let (mut open, mut in_string, mut escaped) = (Vec::new(), false, false);
    // Where the last value ended that something follows, and what was open there.
    let mut whole = (0, Vec::new());
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b'}' | b']' => {
                open.pop();
            }
            b',' => whole = (at, open.clone()),
            _ => {}
        }
    }
    text.truncate(whole.0);
    text.extend(whole.1.into_iter().rev());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_text_is_closed_behind_its_last_whole_value() {
        for (cut, whole) in [
            (r#"{"a":[{"b":1,"c":"x,]"},{"b":2,"c":"#, r#"{"a":[{"b":1,"c":"x,]"},{"b":2}]}"#),
            (r#"[{"a":"\"},"},{"a":"#, r#"[{"a":"\"},"}]"#),
            ("[1,2,3", "[1,2]"),
        ] {
            let closed = closed(cut.as_bytes().to_vec());
            assert_eq!(String::from_utf8(closed).unwrap(), whole, "{cut}");
        }
    }
}

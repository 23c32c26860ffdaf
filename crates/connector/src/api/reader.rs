//! Reads page after page; a page is split while it streams in.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use futures::future::BoxFuture;
use matome_egress::header::{self, HeaderMap, HeaderValue};
use matome_egress::{HttpClient, Request, Response, StatusCode};
use matome_model::clock::Clock;
use matome_model::source::Dedupe;
use serde_json::value::to_raw_value;
use url::Url;

use super::config::{ApiConfig, Pagination, set_param};
use super::state::{Page, State};
use crate::error::{ConnectorError, RETRY_AFTER_LIMIT};
use crate::json::Splitter;
use crate::read::{ReadRequest, Reader};
use crate::record::{Batch, DocumentError, Found, Item, Parse, Position, ReadStats};

/// Pages of one read.
const PAGE_LIMIT: usize = 1_000_000;

pub(super) struct ApiReader {
    config: Arc<ApiConfig>,
    client: HttpClient,
    clock: Clock,
    request: ReadRequest,
    state: State,
    stats: ReadStats,
    /// The requests of this read, from 1.
    requests: u64,
    /// Every page of this read.
    seen: HashSet<String>,
    /// The page that the read was resumed at, while nothing else was read.
    resumed: bool,
    /// Records of the page before, to notice a server that ignores page numbers.
    page_hash: u64,
    page: Option<OpenPage>,
    /// Why the page that is open can not be read to its end; what came before is handed on first.
    broken: Option<ConnectorError>,
    ended: bool,
}

/// A page that is being read.
struct OpenPage {
    url: Url,
    response: Response,
    splitter: Splitter,
    found: Found,
    hasher: DefaultHasher,
    /// The body has ended; what is left of `found` is still to be handed on.
    complete: bool,
}

impl Reader for ApiReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>> {
        let cancel = self.request.cancel.clone();
        Box::pin(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ConnectorError::Cancelled),
                batch = self.next_batch() => batch,
            }
        })
    }
}

impl ApiReader {
    pub(super) fn new(
        config: Arc<ApiConfig>,
        client: HttpClient,
        clock: Clock,
        request: ReadRequest,
    ) -> Result<Self, ConnectorError> {
        let scope = config.scope();
        let before = match &request.checkpoint {
            Some(checkpoint) => serde_json::from_str(checkpoint.get()).map_err(ConnectorError::Checkpoint)?,
            None => State::default(),
        };
        let mut state = if before.scope == scope { before } else { State { scope, ..State::default() } };
        state.version = 1;
        // `rows` counts equal rows within one read, so it has to see all of them.
        let resumed = !state.complete && state.at.is_some() && config.common.dedupe != Dedupe::Rows;
        if !resumed {
            state.at = Some(config.url.to_string());
            state.records = 0;
        }
        state.complete = false;
        let (stats, seen) = (ReadStats::default(), HashSet::new());
        Ok(Self {
            config,
            client,
            clock,
            request,
            state,
            stats,
            requests: 0,
            seen,
            resumed,
            page_hash: 0,
            page: None,
            broken: None,
            ended: false,
        })
    }

    async fn next_batch(&mut self) -> Result<Option<Batch>, ConnectorError> {
        let (max_items, max_bytes) = (self.request.max_items, self.request.max_bytes);
        loop {
            if self.ended {
                return Ok(None);
            }
            let Some(page) = &mut self.page else {
                match self.state.at.clone() {
                    Some(url) => self.open(&url).await?,
                    None => {
                        self.ended = true;
                        self.state.complete = true;
                        return self.batch(Vec::new()).map(Some);
                    }
                }
                continue;
            };
            if self.broken.is_some() {
                let items = page.found.take(max_items, max_bytes);
                return match self.broken.take_if(|_| items.is_empty()) {
                    Some(error) => Err(error),
                    None => self.part(items).map(Some),
                };
            }
            if !page.complete {
                if let Some(items) = page.found.take_full(max_items, max_bytes) {
                    return self.part(items).map(Some);
                }
            } else {
                let items = page.found.take(max_items, max_bytes);
                if !page.found.is_empty() {
                    return self.part(items).map(Some);
                }
                return self.close(items).map(Some);
            }
            self.pull().await?;
        }
    }

    /// Part of a page: a later read has to begin at this page again.
    fn part(&mut self, items: Vec<Item>) -> Result<Batch, ConnectorError> {
        if let Some(last) = items.last() {
            self.state.records = last.position().record;
        }
        self.batch(items)
    }

    fn batch(&mut self, items: Vec<Item>) -> Result<Batch, ConnectorError> {
        let checkpoint = to_raw_value(&self.state).map_err(ConnectorError::Checkpoint)?;
        Ok(Batch { items, checkpoint, stats: std::mem::take(&mut self.stats) })
    }

    fn position(&self, url: &Url) -> Position {
        Position { document: url.as_str().into(), request: Some(self.requests), line: None, record: 0 }
    }

    /// Requests a page. Afterwards it is open, or passed over because it is unchanged.
    async fn open(&mut self, text: &str) -> Result<(), ConnectorError> {
        let url = Url::parse(text).map_err(|_| {
            let position = Position { document: text.into(), request: None, line: None, record: 0 };
            ConnectorError::document(position, DocumentError { line: None, problem: "it is no address".to_owned() })
        })?;
        self.requests += 1;
        let position = Box::new(self.position(&url));
        if !self.seen.insert(text.to_owned()) {
            return Err(ConnectorError::Loop { position, problem: "this page was read already".to_owned() });
        }
        if self.seen.len() > PAGE_LIMIT {
            return Err(ConnectorError::Loop { position, problem: format!("there are more than {PAGE_LIMIT} pages") });
        }
        let validators = self.state.page(text).filter(|_| self.may_skip(text)).cloned();
        let request = self.request_for(&url, validators.as_ref());
        let response = match self.client.send(request).await {
            Ok(response) => response,
            Err(source) => return Err(ConnectorError::Egress { position, source }),
        };
        self.stats.requests += 1;
        let resumed = std::mem::take(&mut self.resumed);
        match (response.status, validators) {
            (StatusCode::NOT_MODIFIED, Some(page)) => {
                self.stats.not_modified += 1;
                self.state.at = page.next;
                self.state.records = 0;
                return Ok(());
            }
            (StatusCode::NO_CONTENT, _) => {
                self.state.at = None;
                self.state.records = 0;
                return Ok(());
            }
            (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::GONE, _)
                if resumed && !self.request.resume_inside && text != self.config.url.as_str() =>
            {
                // The link is older than the server remembers: begin anew, what comes again is known already.
                self.seen.clear();
                self.state.at = Some(self.config.url.to_string());
                self.state.records = 0;
                return Ok(());
            }
            (StatusCode::NOT_FOUND, _)
                if matches!(self.config.pagination, Pagination::PageNumber { .. }) && self.seen.len() > 1 =>
            {
                self.state.at = None;
                self.state.records = 0;
                return Ok(());
            }
            (status, _) if status != StatusCode::OK => {
                let retry_after = retry_after(&response.headers, self.clock.now());
                return Err(ConnectorError::Status { position, status, retry_after });
            }
            _ => {}
        }
        if let Some(kind) = text_of(&response.headers, &header::CONTENT_TYPE)
            && ["text/html", "application/xhtml"].iter().any(|page| kind.to_ascii_lowercase().starts_with(page))
        {
            let problem = format!("the server answered with a page for people (`{kind}`), not with JSON");
            return Err(ConnectorError::document(*position, DocumentError { line: None, problem }));
        }
        let next = match &self.config.pagination {
            Pagination::NextLink { next } => Some(next),
            _ => None,
        };
        let skip = if self.request.resume_inside { self.state.records } else { 0 };
        self.page = Some(OpenPage {
            splitter: Splitter::new(self.config.records.clone(), next),
            found: Found::new(url.as_str().into(), Some(self.requests), skip),
            hasher: DefaultHasher::new(),
            complete: false,
            response,
            url,
        });
        Ok(())
    }

    /// Whether a page may answer "not modified". With `rows` only a page that is all there is: equal rows on other
    /// pages are counted together.
    fn may_skip(&self, url: &str) -> bool {
        let alone = || self.state.page(url).is_some_and(|page| page.next.is_none()) && self.config.url.as_str() == url;
        (self.config.common.dedupe != Dedupe::Rows || alone()) && self.state.records == 0
    }

    fn request_for(&self, url: &Url, validators: Option<&Page>) -> Request {
        let mut request = Request { timeout: self.config.common.timeout, ..Request::new(url.clone()) };
        let conditions = validators
            .into_iter()
            .flat_map(|page| [(header::IF_NONE_MATCH, &page.etag), (header::IF_MODIFIED_SINCE, &page.last_modified)]);
        for (name, value) in conditions {
            if let Some(value) = value.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
                request.headers.insert(name, value);
            }
        }
        if url.origin() == self.config.url.origin() {
            request.origin_headers = self.config.headers.clone();
            if let Some(auth) = &self.config.auth {
                auth.add_header(&mut request.origin_headers);
                auth.add_query(&mut request.url);
            }
        } else if let Some(accept) = self.config.headers.get(header::ACCEPT) {
            request.headers.insert(header::ACCEPT, accept.clone());
        }
        request
    }

    /// Takes the next piece of the open page apart.
    async fn pull(&mut self) -> Result<(), ConnectorError> {
        let Some(page) = &mut self.page else { return Ok(()) };
        let piece = match page.response.chunk().await {
            Ok(piece) => piece,
            Err(source) => {
                let position = Box::new(page.found.here(None));
                return Err(ConnectorError::Egress { position, source });
            }
        };
        let parsed = match &piece {
            Some(bytes) => {
                self.stats.bytes += bytes.len() as u64;
                page.hasher.write(bytes);
                page.splitter.feed(bytes, &mut page.found)
            }
            None => page.splitter.finish(&mut page.found),
        };
        page.complete = piece.is_none();
        self.broken = parsed.err().map(|error| ConnectorError::document(page.found.here(None), error));
        Ok(())
    }

    /// The last part of a page, with which the page itself and the way to the next are committed.
    fn close(&mut self, items: Vec<Item>) -> Result<Batch, ConnectorError> {
        let Some(page) = self.page.take() else { return self.batch(items) };
        let next = self.next_url(&page)?;
        if matches!(self.config.pagination, Pagination::PageNumber { .. }) && page.found.count() > 0 {
            let hash = page.hasher.finish();
            if hash == self.page_hash {
                let position = Box::new(self.position(&page.url));
                let problem = "the server gives the same page for every number".to_owned();
                return Err(ConnectorError::Loop { position, problem });
            }
            self.page_hash = hash;
        }
        self.state.remember(Page {
            url: page.url.to_string(),
            etag: text_of(&page.response.headers, &header::ETAG),
            last_modified: text_of(&page.response.headers, &header::LAST_MODIFIED),
            next: next.as_ref().map(Url::to_string),
        });
        self.state.at = next.map(String::from);
        self.state.records = 0;
        self.batch(items)
    }

    fn next_url(&self, page: &OpenPage) -> Result<Option<Url>, ConnectorError> {
        let fail = |problem: String| {
            Err(ConnectorError::document(self.position(&page.url), DocumentError { line: None, problem }))
        };
        match &self.config.pagination {
            Pagination::None => Ok(None),
            Pagination::PageNumber { param, start, size } => {
                let count = page.found.count();
                if count == 0 || size.as_ref().is_some_and(|(_, size)| count < *size) {
                    return Ok(None);
                }
                let value = page.url.query_pairs().find(|(key, _)| key == param.as_str());
                let number = value.and_then(|(_, value)| value.parse().ok()).unwrap_or(*start);
                let mut next = page.url.clone();
                set_param(&mut next, param, number + 1);
                Ok(Some(next))
            }
            Pagination::NextLink { next } => {
                let Some(captured) = page.splitter.captured() else { return Ok(None) };
                let link = match serde_json::from_slice::<Option<String>>(captured) {
                    Ok(Some(link)) if !link.is_empty() => link,
                    Ok(_) => return Ok(None),
                    Err(_) => return fail(format!("what it has at `{next}` (`pagination.next`) is no link")),
                };
                let Ok(mut url) = page.response.url.join(&link) else {
                    return fail(format!("what it has at `{next}` (`pagination.next`) is no address"));
                };
                url.set_fragment(None);
                // A link must not smuggle credentials in; and ours, if the server repeats them, must not be kept.
                let _ = url.set_username("");
                let _ = url.set_password(None);
                if let Some(auth) = &self.config.auth {
                    auth.strip_query(&mut url);
                }
                Ok(Some(url))
            }
        }
    }
}

fn text_of(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// What `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3). At most a day.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = NaiveDateTime::parse_from_str(value, "%a, %d %b %Y %H:%M:%S GMT").ok()?.and_utc();
            (at - now).to_std().unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_at_most_a_day() {
        let now = DateTime::from_timestamp(784_111_777, 0).unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 2044 08:49:37 GMT", Some(86_400)),
            ("99999999999", Some(86_400)),
            ("-5", None),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}

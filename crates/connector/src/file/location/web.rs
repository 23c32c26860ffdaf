//! Requests over HTTP for documents, and what becomes of answers that are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use matome_egress::header::{self, HeaderMap, HeaderName, HeaderValue};
use matome_egress::{EgressError, Request, Response, StatusCode};
use matome_model::field_error::Words;
use matome_model::say;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::place::Reach;
use super::transfer::{Bring, Opened, Pieces, Transfer, Version};
use super::{Content, Stamp, Validators};
use crate::api::{retry_after, small_body};
use crate::error::{ConnectorError, PlaceFault};
use crate::record::Position;

/// As long as a file may be.
const BODY_LIMIT_BYTES: u64 = 256 << 30;

/// Who asks a kind of server, and what that means by its refusals.
pub(super) trait Server: Send + Sync {
    /// Adds what says who asks to a request that is ready.
    fn sign<'a>(&'a self, request: &'a mut Request) -> BoxFuture<'a, Result<(), ConnectorError>>;

    /// The header that names the version of a document, where it is neither `ETag` nor `Last-Modified`.
    fn version_header(&self) -> Option<HeaderName> {
        None
    }

    /// Whether a request that was refused with 401 may do better now.
    fn renew(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// What an answer that is no success means, beside what all servers mean by its status.
    fn explain(&self, status: StatusCode, body: &[u8]) -> Option<(PlaceFault, Words)>;
}

/// Asks one server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Web {
    reach: Arc<Reach>,
    server: Arc<dyn Server>,
    answered: Arc<AtomicU64>,
}

impl Web {
    pub(super) fn new(reach: Arc<Reach>, server: Arc<dyn Server>) -> Self {
        Self { reach, server, answered: Arc::default() }
    }

    /// Requests that were answered since this was asked last.
    pub(super) fn answered(&self) -> u64 {
        self.answered.swap(0, Ordering::Relaxed)
    }

    /// Asks for `url`, with `headers` that may go to whoever it redirects to. The answer has any status.
    pub(super) async fn ask(&self, name: &Arc<str>, url: &Url, headers: HeaderMap) -> Result<Response, ConnectorError> {
        let mut is_again = false;
        loop {
            let mut request = Request {
                headers: headers.clone(),
                timeout: self.reach.timeout,
                body_limit: BODY_LIMIT_BYTES,
                ..Request::new(url.clone())
            };
            self.server.sign(&mut request).await?;
            let response = match self.reach.means.client.send(request).await {
                Ok(response) => response,
                Err(EgressError::Closed { wait, .. }) => {
                    let wait = Duration::from_secs(wait.as_secs() + 1);
                    return Err(ConnectorError::Spent { position: at(name), wait });
                }
                Err(source) => return Err(ConnectorError::Egress { position: at(name), source }),
            };
            self.answered.fetch_add(1, Ordering::Relaxed);
            if response.status == StatusCode::UNAUTHORIZED && !is_again && self.server.renew().await {
                is_again = true;
                continue;
            }
            return Ok(response);
        }
    }

    /// As [`Web::ask`]; an answer without success is an error.
    pub(super) async fn get(&self, name: &Arc<str>, url: &Url, headers: HeaderMap) -> Result<Response, ConnectorError> {
        let response = self.ask(name, url, headers).await?;
        match response.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            _ => Err(self.refusal(name, response).await),
        }
    }

    /// What an answer without success says.
    pub(super) async fn refusal(&self, name: &Arc<str>, response: Response) -> ConnectorError {
        let (status, position) = (response.status, at(name));
        let retry_after = retry_after(&response.headers, self.reach.means.clock.now());
        let body = small_body(response).await;
        if let Some((fault, problem)) = self.server.explain(status, &body) {
            return ConnectorError::Place { position, fault, problem };
        }
        let code = status.as_u16();
        match code {
            401 | 403 => {
                let problem = say!(
                    "the server refuses ({code}); check the credentials in `config`, and what they may read",
                    "サーバーに拒否されました ({code})。`config` の認証情報と、その権限を確かめてください"
                );
                ConnectorError::Place { position, fault: PlaceFault::Auth, problem }
            }
            404 | 410 => {
                let problem = say!(
                    "there is no such document ({code}); check `path`",
                    "その文書はありません ({code})。`path` を確かめてください"
                );
                ConnectorError::Place { position, fault: PlaceFault::Missing, problem }
            }
            _ => ConnectorError::Status { position, status, retry_after },
        }
    }
}

/// The beginning of what is named so.
pub(super) fn at(name: &Arc<str>) -> Box<Position> {
    Box::new(Position { document: name.clone(), request: None, line: None, record: 0, headers: None })
}

/// A number for a version, out of what names it; some write it in quotes in one place and without in another.
pub(super) fn number_of(version: &str) -> u64 {
    u64::from_le_bytes(*Sha256::digest(version.trim_matches('"')).first_chunk().expect("8 is less than 32"))
}

/// A document that a server gives.
pub(super) struct Download {
    pub(super) web: Web,
    pub(super) name: Arc<str>,
    pub(super) url: Url,
    /// What it may be compressed with on its way.
    pub(super) accepted: &'static str,
    /// Whether a document may be written over while it is sent, so that it has to be looked at again behind its end.
    pub(super) is_written_in_place: bool,
    /// Whether it is an error when a page for people (HTML) comes.
    pub(super) is_no_page: bool,
}

impl Download {
    fn headers(&self, conditions: Option<&HeaderMap>) -> HeaderMap {
        let mut headers = conditions.cloned().unwrap_or_default();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(self.accepted));
        headers
    }

    fn changed(&self) -> ConnectorError {
        let change = ("it was written anew while it was read", "読んでいる間に書き直されました");
        ConnectorError::Changed { document: self.name.to_string(), records: 0, change, is_stale: false }
    }

    /// The version that an answer has, which begins at `from`.
    fn version(&self, response: &Response, from: u64) -> Result<Version, ConnectorError> {
        let text = |name: HeaderName| response.headers.get(name).and_then(|value| value.to_str().ok());
        let is_encoded =
            text(header::CONTENT_ENCODING).is_some_and(|name| !name.trim().eq_ignore_ascii_case("identity"));
        let size = match response.status {
            _ if is_encoded => None,
            StatusCode::PARTIAL_CONTENT => match text(header::CONTENT_RANGE).and_then(range_of) {
                Some((start, size)) if start == from => size,
                _ => {
                    let problem = say!(
                        "the server was asked for the bytes from {from} on and sent others",
                        "{from} バイト目からを求めましたが、別の部分が返りました"
                    );
                    return Err(ConnectorError::Place { position: at(&self.name), fault: PlaceFault::Answer, problem });
                }
            },
            _ => text(header::CONTENT_LENGTH).and_then(|text| text.trim().parse().ok()),
        };
        let (etag, modified) = (text(header::ETAG), text(header::LAST_MODIFIED));
        let condition = match (etag, modified) {
            (Some(etag), _) if !etag.starts_with("W/") => Some((header::IF_MATCH, etag)),
            (_, Some(modified)) => Some((header::IF_UNMODIFIED_SINCE, modified)),
            _ => None,
        };
        let condition = condition.filter(|_| !is_encoded);
        let conditions = condition
            .and_then(|(name, value)| Some(HeaderMap::from_iter([(name, HeaderValue::from_str(value).ok()?)])));
        let mut stamp = Stamp { size: size.unwrap_or(0), ..Stamp::default() };
        match self.web.server.version_header().and_then(text).or(etag).or(modified) {
            Some(version) => stamp.inode = number_of(version),
            // Nobody knows whether it is another one, so it is.
            None => {
                let now = self.web.reach.means.clock.now().timestamp_nanos_opt().unwrap_or(i64::MAX);
                stamp.inode = now.cast_unsigned();
            }
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let validators = Validators { etag: owned(etag), modified: owned(modified) };
        let validators = Some(validators).filter(|known| *known != Validators::default());
        Ok(Version { stamp, size, conditions, validators })
    }

    /// Opens it at its beginning, unless it still is what the `validators` are of. Blocks.
    pub(super) fn open_unless(
        self,
        reach: Arc<Reach>,
        validators: &Validators,
    ) -> Result<Option<Box<dyn Content>>, ConnectorError> {
        let opened = reach.wait(self.ask(0, None, Some(validators)))?;
        Ok(opened.map(|opened| Box::new(Transfer::begun(self.name.clone(), reach, self, opened)) as Box<dyn Content>))
    }

    async fn begin(&self, from: u64, of: Option<&Version>) -> Result<Opened, ConnectorError> {
        // Without validators no server answers that it is the same.
        self.ask(from, of, None).await?.ok_or_else(|| self.changed())
    }

    /// Asks for the bytes from `from` on; `None`: it still is what the `validators` are of.
    async fn ask(
        &self,
        from: u64,
        of: Option<&Version>,
        validators: Option<&Validators>,
    ) -> Result<Option<Opened>, ConnectorError> {
        let mut headers = self.headers(of.and_then(|of| of.conditions.as_ref()));
        if let Some(Validators { etag, modified }) = validators {
            // Beside a tag a time counts for nothing (RFC 9110, 13.1.3), which not every server knows.
            let asked = etag.as_ref().map(|tag| (header::IF_NONE_MATCH, tag));
            let asked = asked.or(modified.as_ref().map(|time| (header::IF_MODIFIED_SINCE, time)));
            if let Some((name, value)) =
                asked.and_then(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?)))
            {
                headers.insert(name, value);
            }
        }
        if from > 0 {
            headers
                .insert(header::RANGE, HeaderValue::from_str(&format!("bytes={from}-")).expect("digits are sendable"));
        }
        let response = self.web.ask(&self.name, &self.url, headers).await?;
        let response = match response.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => response,
            StatusCode::NOT_MODIFIED if validators.is_some() => return Ok(None),
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE if of.is_some() => {
                return Err(self.changed());
            }
            _ => return Err(self.web.refusal(&self.name, response).await),
        };
        if self.is_no_page && is_page(&response) {
            let problem = Words::new(
                "a web page came (`text/html`); an address names one document, nobody lists a directory over HTTP: name the file",
                "Web ページ (`text/html`) が返りました。アドレスは一つの文書を指し、HTTP ではディレクトリの一覧を読めません。ファイルを指定してください",
            );
            return Err(ConnectorError::Place { position: at(&self.name), fault: PlaceFault::Answer, problem });
        }
        let is_part = response.status == StatusCode::PARTIAL_CONTENT;
        let version = self.version(&response, from)?;
        // A server may know no conditions.
        if of.is_some_and(|of| of.stamp.inode != version.stamp.inode || of.size != version.size) {
            return Err(self.changed());
        }
        // It may know no ranges either.
        let surplus = if is_part { 0 } else { from };
        Ok(Some(Opened { version, pieces: Box::new(Body { name: self.name.clone(), response, surplus }) }))
    }

    async fn look_again(&self, read: &Version) -> Result<Stamp, ConnectorError> {
        let Some(conditions) = read.conditions.as_ref().filter(|_| self.is_written_in_place) else {
            return Ok(read.stamp.clone());
        };
        let mut headers = self.headers(None);
        let asked =
            [(header::IF_MATCH, header::IF_NONE_MATCH), (header::IF_UNMODIFIED_SINCE, header::IF_MODIFIED_SINCE)];
        for (known, asked) in asked {
            if let Some(value) = conditions.get(known) {
                headers.insert(asked, value.clone());
            }
        }
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let response = self.web.ask(&self.name, &self.url, headers).await?;
        // An address may be good for one time. All of it has come, and nothing says that it changed.
        if !matches!(response.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(read.stamp.clone());
        }
        let now = self.version(&response, 0)?;
        match now.stamp.inode == read.stamp.inode {
            true => Ok(read.stamp.clone()),
            false => Err(self.changed()),
        }
    }
}

impl Bring for Download {
    fn open<'a>(&'a mut self, from: u64, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened, ConnectorError>> {
        Box::pin(self.begin(from, of))
    }

    fn look<'a>(&'a mut self, read: &'a Version) -> BoxFuture<'a, Result<Stamp, ConnectorError>> {
        Box::pin(self.look_again(read))
    }
}

fn is_page(response: &Response) -> bool {
    let kind = response.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/html"))
}

/// Where `bytes 5-9/10` begins, and how long the whole is, if it says so.
fn range_of(text: &str) -> Option<(u64, Option<u64>)> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, size) = rest.trim().split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let size = if size.trim() == "*" { None } else { Some(size.trim().parse().ok()?) };
    (unit.eq_ignore_ascii_case("bytes")).then_some((start.trim().parse().ok()?, size))
}

/// The body of an answer.
struct Body {
    name: Arc<str>,
    response: Response,
    /// Bytes at its beginning that were not asked for.
    surplus: u64,
}

impl Pieces for Body {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<u8>>, ConnectorError>> {
        Box::pin(async move {
            loop {
                let piece = self.response.chunk().await;
                let piece = piece.map_err(|source| ConnectorError::Egress { position: at(&self.name), source })?;
                let Some(mut piece) = piece else { return Ok(None) };
                let passed = usize::try_from(self.surplus).unwrap_or(usize::MAX).min(piece.len());
                self.surplus -= passed as u64;
                piece.drain(..passed);
                if !piece.is_empty() {
                    return Ok(Some(piece));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_where_it_begins() {
        for (text, range) in [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("Bytes 0-0/*", Some((0, None))),
            ("bytes */10", None),
            ("bytes 5-9", None),
            ("rows 5-9/10", None),
            ("bytes 5-9/ten", None),
        ] {
            assert_eq!(range_of(text), range, "{text}");
        }
    }
}

//! Walks through the pages of one list; a page is split while it streams in.

use matome_model::field_error::Words;
use matome_model::say;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use matome_egress::header::{self, HeaderMap, HeaderName, HeaderValue};
use matome_egress::{Response, StatusCode};
use url::Url;

use super::answers::{Action, Rule, judge};
use super::body::Body;
use super::exchange::{Exchange, small_body};
use super::list::List;
use super::pagination::{Ended, Next};
use super::state::Page;
use super::template::{Unfit, Values};
use crate::error::ConnectorError;
use crate::file::Format;
use crate::json::{JsonPath, Splitter};
use crate::record::{DocumentError, Found, Item, Position};

/// Pages of one list in one read.
const PAGE_LIMIT: usize = 1_000_000;
/// Pages that are passed over in a row: behind the last page all may fail.
const SKIP_LIMIT: u32 = 100;

/// What has been seen of one list in this read.
#[derive(Default)]
pub(super) struct Walk {
    names: HashSet<u128>,
    bodies: HashSet<u64>,
    skipped_in_a_row: u32,
}

/// A page that is being read.
pub(super) struct OpenPage {
    pub(super) name: String,
    pub(super) found: Found,
    /// The body has ended; what is left of `found` is still to be handed on.
    pub(super) complete: bool,
    response: Response,
    body: Body,
    hasher: DefaultHasher,
    /// What a rule looks at is inside of the record, if the page has but one: an answer that says an error is none.
    may_be_no_record: bool,
    /// A rule ends the list here.
    ends_list: bool,
    /// A rule passed the page over.
    pub(super) is_skipped: bool,
}

/// What came of asking for a page.
pub(super) enum Opened {
    Page(Box<OpenPage>),
    /// It is as it was when it led to this one.
    NotModified(Option<String>),
    /// The list has no more records.
    End,
    /// A rule passes it over; the list goes on here.
    Skipped(Option<String>),
    /// The server does not know this page any more.
    Gone,
}

/// How a page is asked for.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) values: Values<'a>,
    /// What is known about the page from the read before.
    pub(super) known: Option<&'a Page>,
    /// It is where an earlier attempt stopped.
    pub(super) is_resumed: bool,
    /// Records at its start that are passed over.
    pub(super) skip: u64,
}

impl Walk {
    /// Asks for a page.
    pub(super) async fn open(
        &mut self,
        list: &List,
        rules: &[Rule],
        exchange: &mut Exchange,
        wanted: Wanted<'_>,
    ) -> Result<Opened, ConnectorError> {
        let name = wanted.name;
        let place = |request| Position { document: name.into(), request, line: None, record: 0, headers: None };
        let broken =
            |position: Position, problem: Words| ConnectorError::document(position, DocumentError::anywhere(problem));
        let url = Url::parse(name).map_err(|_| broken(place(None), no_address()))?;
        let asked = list.ask(&url, &wanted.values).map_err(|Unfit(problem)| broken(place(None), problem))?;
        self.check_name(name, exchange.requests() + 1)?;
        let conditions = wanted.known.map(conditions).unwrap_or_default();
        let response = exchange.ask(name, &asked, &conditions, list.origin()).await?;
        let status = response.status;
        if !list.is_page(status) {
            if status == StatusCode::NOT_MODIFIED
                && let Some(page) = wanted.known
            {
                exchange.stats.not_modified += 1;
                return Ok(Opened::NotModified(page.next.clone()));
            }
            if rules.iter().any(|rule| rule.is_about(status)) {
                return self.by_rule(list, rules, exchange, &wanted, &url, response).await;
            }
            let is_first = self.names.len() == 1 && !wanted.is_resumed;
            return match status {
                StatusCode::NO_CONTENT => Ok(Opened::End),
                StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::GONE if wanted.is_resumed => {
                    Ok(Opened::Gone)
                }
                StatusCode::NOT_FOUND if list.pagination.counts() && !is_first => Ok(Opened::End),
                _ => Err(exchange.failure(name, &response)),
            };
        }
        if let Some(problem) = for_people(&response.headers) {
            return Err(broken(exchange.position(name), problem));
        }
        if let Some(problem) = other_format(list, &response.headers) {
            return Err(broken(exchange.position(name), problem));
        }
        let mut captures = list.pagination.captures();
        captures.extend(rules.iter().filter(|rule| rule.is_about(status)).flat_map(Rule::paths));
        Ok(Opened::Page(Box::new(OpenPage {
            name: name.to_owned(),
            found: Found::new(Arc::from(name), Some(exchange.requests()), wanted.skip),
            complete: false,
            body: match &list.document {
                None => Body::json(list.records.clone(), &list.form, &captures),
                Some(document) => Body::records(document.clone()),
            },
            hasher: DefaultHasher::new(),
            response,
            may_be_no_record: rules
                .iter()
                .filter(|rule| rule.is_about(status))
                .any(|rule| rule.path.as_ref().is_some_and(|path| path.steps.starts_with(&list.records.steps))),
            ends_list: false,
            is_skipped: false,
        })))
    }

    fn check_name(&mut self, name: &str, request: u64) -> Result<(), ConnectorError> {
        let repeated = |problem: Words| {
            let position =
                Position { document: name.into(), request: Some(request), line: None, record: 0, headers: None };
            Err(ConnectorError::Loop { position: Box::new(position), problem })
        };
        if !self.names.insert(fingerprint(name)) {
            return repeated(Words::new("this page was read already", "このページはすでに読みました"));
        }
        if self.names.len() > PAGE_LIMIT {
            return repeated(say!("there are more than {PAGE_LIMIT} pages", "ページが {PAGE_LIMIT} を超えています"));
        }
        Ok(())
    }

    /// An answer that is no page, and that a rule may say something about.
    async fn by_rule(
        &mut self,
        list: &List,
        rules: &[Rule],
        exchange: &Exchange,
        wanted: &Wanted<'_>,
        url: &Url,
        response: Response,
    ) -> Result<Opened, ConnectorError> {
        let name = wanted.name;
        let status = response.status;
        let failure = exchange.failure(name, &response);
        let after = exchange.retry_after(&response);
        let paths: Vec<&JsonPath> = rules.iter().filter(|rule| rule.is_about(status)).flat_map(Rule::paths).collect();
        let found = if paths.is_empty() { Vec::new() } else { Splitter::pick(&small_body(response).await, &paths) };
        let Some((rule, message)) = judge(rules, status, found.into_iter()) else { return Err(failure) };
        let position = Box::new(exchange.position(name));
        let message =
            message.map_or_else(|| status.to_string(), |message| format!("{status}: {}", exchange.discreet(message)));
        let message = Words::quoted(message);
        match rule.action {
            Action::Empty => Ok(Opened::End),
            Action::Skip => self.behind(list, exchange, name, url, &wanted.values).map(Opened::Skipped),
            Action::Retry => Err(ConnectorError::Answer { position, message, retry: Some(after) }),
            Action::Fail => Err(ConnectorError::Answer { position, message, retry: None }),
        }
    }

    /// Where the list goes on behind a page that is passed over.
    fn behind(
        &mut self,
        list: &List,
        exchange: &Exchange,
        name: &str,
        url: &Url,
        values: &Values<'_>,
    ) -> Result<Option<String>, ConnectorError> {
        self.skipped_in_a_row += 1;
        if self.skipped_in_a_row > SKIP_LIMIT {
            let position = Box::new(exchange.position(name));
            let problem = say!(
                "more than {SKIP_LIMIT} pages in a row were passed over (`errors`)",
                "続けて {SKIP_LIMIT} ページより多くを読み飛ばしました (`errors`)"
            );
            return Err(ConnectorError::Loop { position, problem });
        }
        match list.pagination.behind(list.page_value(url).as_deref()) {
            Next::Value(value) => match list.follow(url, &value, values) {
                Ok(next) => Ok(Some(next)),
                Err(Unfit(problem)) => {
                    let error = DocumentError::anywhere(problem);
                    Err(ConnectorError::document(exchange.position(name), error))
                }
            },
            Next::End | Next::Link(_) => Ok(None),
        }
    }

    /// Where the list goes on behind a page that has been read to its end.
    pub(super) fn next(
        &mut self,
        list: &List,
        exchange: &Exchange,
        page: &OpenPage,
        values: &Values<'_>,
    ) -> Result<Option<String>, ConnectorError> {
        let position = || Box::new(exchange.position(&page.name));
        let fail = |problem: Words| ConnectorError::document(*position(), DocumentError::anywhere(problem));
        let url = Url::parse(&page.name).map_err(|_| fail(no_address()))?;
        if page.ends_list {
            return Ok(None);
        }
        if page.is_skipped {
            return self.behind(list, exchange, &page.name, &url, values);
        }
        self.skipped_in_a_row = 0;
        if page.found.count() > 0 && !self.bodies.insert(page.hasher.finish()) {
            let problem = Words::new(
                "the server gave the same page for another question",
                "サーバーが別の要求に同じページを返しました",
            );
            return Err(ConnectorError::Loop { position: position(), problem });
        }
        let captured: Vec<Option<&[u8]>> =
            (0..list.pagination.captures().len()).map(|at| page.body.captured(at)).collect();
        let value = list.page_value(&url);
        let next = list.pagination.next(&Ended {
            count: page.found.count(),
            value: value.as_deref(),
            captured: &captured,
            headers: &page.response.headers,
            url: &page.response.url,
        });
        Ok(match next.map_err(fail)? {
            Next::End => None,
            Next::Link(url) => Some(exchange.without_secrets(*url).into()),
            Next::Value(value) => Some(list.follow(&url, &value, values).map_err(|Unfit(problem)| fail(problem))?),
        })
    }
}

impl OpenPage {
    /// A full batch, if there is one and it may be handed on already.
    pub(super) fn take_full(&mut self, max_items: usize, max_bytes: usize) -> Option<Vec<Item>> {
        if self.may_be_no_record && self.found.count() <= 1 && !self.complete {
            return None;
        }
        self.found.take_full(max_items, max_bytes)
    }

    /// Takes the next piece apart. An error comes with what stands before it in `found`.
    pub(super) async fn pull(
        &mut self,
        list: &List,
        rules: &[Rule],
        exchange: &mut Exchange,
    ) -> Result<(), ConnectorError> {
        let piece = match self.response.chunk().await {
            Ok(piece) => piece,
            Err(source) => {
                let position = Box::new(self.found.here(None));
                return Err(ConnectorError::Egress { position, source });
            }
        };
        if let Some(bytes) = &piece {
            exchange.count_bytes(bytes.len(), &self.name)?;
            self.hasher.write(bytes);
        }
        let parsed = self.body.feed(piece.as_deref(), &mut self.found);
        self.complete = piece.is_none();
        // An answer that says an error may well lack the records.
        if piece.is_none()
            && self.body.is_whole()
            && let Some(judged) = self.judged(list, rules)
        {
            if self.may_be_no_record && self.found.count() <= 1 {
                self.found.clear();
            }
            return self.obey(judged, exchange);
        }
        parsed.map_err(|error| ConnectorError::document(self.found.here(None), error))
    }

    fn judged(&self, list: &List, rules: &[Rule]) -> Option<(Action, Option<String>)> {
        let first = list.pagination.captures().len();
        let about = rules.iter().filter(|rule| rule.is_about(self.response.status));
        let found =
            (first..first + about.flat_map(Rule::paths).count()).map(|at| self.body.captured(at).map(<[u8]>::to_vec));
        judge(rules, self.response.status, found).map(|(rule, message)| (rule.action, message))
    }

    fn obey(&mut self, judged: (Action, Option<String>), exchange: &Exchange) -> Result<(), ConnectorError> {
        let (action, message) = judged;
        let position = Box::new(self.found.here(None));
        let message = match message {
            Some(message) => Words::quoted(exchange.discreet(message)),
            None => Words::new("that something is wrong (`errors`)", "何かがおかしい (`errors`)"),
        };
        match action {
            Action::Empty => self.ends_list = true,
            Action::Skip => self.is_skipped = true,
            Action::Retry => {
                let after = exchange.retry_after(&self.response);
                return Err(ConnectorError::Answer { position, message, retry: Some(after) });
            }
            Action::Fail => return Err(ConnectorError::Answer { position, message, retry: None }),
        }
        Ok(())
    }

    /// What makes the next request for it conditional, and where it led.
    pub(super) fn known(&self, next: Option<&str>) -> Page {
        Page {
            url: self.name.clone(),
            etag: text_of(&self.response.headers, &header::ETAG),
            last_modified: text_of(&self.response.headers, &header::LAST_MODIFIED),
            next: next.map(str::to_owned),
        }
    }
}

/// What is wrong with an answer that says it is JSON where CSV was expected, of which any text is some.
fn other_format(list: &List, headers: &HeaderMap) -> Option<Words> {
    let format = list.document.as_ref().map(|document| document.format)?;
    let wanted = match format {
        Format::Csv => "CSV",
        Format::Xml => "XML",
        _ => return None,
    };
    let kind = text_of(headers, &header::CONTENT_TYPE)?;
    let media_type = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (media_type == "application/json" || media_type.ends_with("+json")).then(|| {
        say!(
            "the server answered with `{kind}`, not with {wanted}; look at `format`",
            "サーバーが {wanted} ではなく `{kind}` を返しました。`format` を確かめてください"
        )
    })
}

/// What is wrong with an answer that is a page for people.
pub(super) fn for_people(headers: &HeaderMap) -> Option<Words> {
    let kind = text_of(headers, &header::CONTENT_TYPE)?;
    let is_page = ["text/html", "application/xhtml"].iter().any(|page| kind.to_ascii_lowercase().starts_with(page));
    is_page.then(|| {
        say!(
            "the server answered with a page for people (`{kind}`), not with records",
            "サーバーがレコードではなく、人が見るページ (`{kind}`) を返しました"
        )
    })
}

pub(super) fn no_address() -> Words {
    Words::new("it is no address", "アドレスではありません")
}

fn conditions(page: &Page) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [(header::IF_NONE_MATCH, &page.etag), (header::IF_MODIFIED_SINCE, &page.last_modified)] {
        if let Some(value) = value.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// A million pages must not keep their addresses, and two of them must not be taken for one.
fn fingerprint(name: &str) -> u128 {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        name.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

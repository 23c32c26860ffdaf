//! Pages of a list without a server: what would be asked for, and what an answer says about the next page. For fuzzing.

use std::sync::Arc;

use matome_egress::header::{self, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::body::Body;
use super::config::ApiConfig;
use super::list::List;
use super::pagination::{Ended, Next, TokenPlace};
use super::template::{Unfit, Values};
use super::{Pagination, pages};
use crate::record::{Found, Item};

/// A request for a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What the page is called; no secret.
    pub name: String,
    /// Where it is asked for.
    pub url: Url,
    /// What goes along to the host of the list.
    pub headers: HeaderMap,
    /// What is posted.
    pub body: Option<Vec<u8>>,
}

/// What is made of an answer: its records and what is rejected of it, and the request for the page behind it; else why there is none.
pub type Taken = (Vec<Item>, Result<Option<Wanted>, String>);

const VALUES: Values<'static> = Values {
    cursor: Some("7"),
    cursor_is_number: true,
    start: Some("7"),
    end: Some("2026-01-02T00:00:00Z"),
    now: "2026-01-01T00:00:00Z",
    page: None,
    page_is_number: false,
    parent: None,
    secrets: None,
    by_name: false,
};

/// The request for the first page.
///
/// # Errors
/// Why a value can not stand where it should.
pub fn first(config: &ApiConfig) -> Result<Wanted, String> {
    let list = &config.list;
    list.first(&VALUES).and_then(|name| wanted(list, name)).map_err(|Unfit(words)| words.english)
}

/// Takes the answer to `asked` apart, whose body comes in pieces, and which has `header` as its `Link` and as the header of a token.
pub fn behind<'p>(
    config: &ApiConfig,
    asked: &Wanted,
    header: &[u8],
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Taken {
    let list = &config.list;
    let captures = list.pagination.captures();
    let mut body = match &list.document {
        None => Body::json(list.records.clone(), &list.form, &captures),
        Some(document) => Body::records(document.clone()),
    };
    let mut found = Found::new(Arc::from(asked.name.as_str()), Some(1), 0);
    let fed = pieces.into_iter().try_for_each(|piece| body.feed(Some(piece), &mut found));
    let fed = fed.and_then(|()| body.feed(None, &mut found));
    let count = found.count();
    let items = found.take(usize::MAX, usize::MAX);
    if let Err(error) = fed {
        return (items, Err(error.problem.english));
    }
    let captured: Vec<Option<&[u8]>> = (0..captures.len()).map(|at| body.captured(at)).collect();
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(header) {
        headers.insert(header_of(&list.pagination), value);
    }
    let Ok(name) = Url::parse(&asked.name) else { return (items, Err(pages::no_address().english)) };
    let value = list.page_value(&name);
    let ended = Ended { count, value: value.as_deref(), captured: &captured, headers: &headers, url: &asked.url };
    let next = match list.pagination.next(&ended) {
        Err(words) => Err(words.english),
        Ok(Next::End) => Ok(None),
        Ok(Next::Link(url)) => wanted(list, String::from(*url)).map(Some).map_err(|Unfit(words)| words.english),
        Ok(Next::Value(value)) => {
            let followed = list.follow(&name, &value, &VALUES).and_then(|name| wanted(list, name));
            followed.map(Some).map_err(|Unfit(words)| words.english)
        }
    };
    (items, next)
}

fn header_of(pagination: &Pagination) -> HeaderName {
    match pagination {
        Pagination::Cursor { next: TokenPlace::Header(name), .. } => name.clone(),
        _ => header::LINK,
    }
}

fn wanted(list: &List, name: String) -> Result<Wanted, Unfit> {
    let url = Url::parse(&name).map_err(|_| Unfit(pages::no_address()))?;
    let asked = list.ask(&url, &VALUES)?;
    Ok(Wanted { name, url: asked.url, headers: asked.headers, body: asked.body })
}

//! How to get from one page to the next.

use matome_egress::header::{self, HeaderMap, HeaderName};
use matome_model::field_error::Words;
use matome_model::say;
use url::Url;

use super::config::not_a_header_name;
use super::value_path;
use crate::config::Fields;
use crate::json::JsonPath;

/// How to get from one page to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pagination {
    /// There is one page.
    None,
    /// `{"type":"next_link","next":"$.next"}`: the page names the address of the next; null, empty or absent ends.
    NextLink {
        /// Where in a page the link is: members only.
        next: JsonPath,
    },
    /// `{"type":"page_number"}`: pages are numbered; an empty one, one shorter than `size`, or a 404 behind the first
    /// ends.
    PageNumber {
        /// The parameter with the number; default `page`.
        param: String,
        /// The number of the first page; default 1.
        start: u64,
        /// The parameter with the number of records wanted, and that number.
        size: Option<(Option<String>, u64)>,
    },
    /// `{"type":"link_header"}`: the header `Link` names the next page (RFC 8288, `rel="next"`); none ends.
    LinkHeader,
    /// `{"type":"offset","size":100}`: pages begin behind so many records; an empty one, a short one, or a 404 behind
    /// the first ends.
    Offset {
        /// The parameter with the offset; default `offset`.
        param: String,
        /// The first offset; default 0.
        start: u64,
        /// The parameter with the number of records wanted; default `limit`.
        size_param: String,
        /// That number.
        size: u64,
        /// Where in a page the number of all records is: a short page before it is not the last.
        total: Option<JsonPath>,
    },
    /// `{"type":"cursor","next":"$.next_cursor"}`: the page brings a token that asks for the next one; null, empty or
    /// absent ends.
    Cursor {
        /// Where the token is.
        next: TokenPlace,
        /// The parameter that carries it; default `cursor`.
        param: String,
        /// Where in a page it says whether there are more: `false` ends.
        has_more: Option<JsonPath>,
    },
}

/// Where a page has the token of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// In its body.
    Body(JsonPath),
    /// In a header.
    Header(HeaderName),
}

/// The longest token that is sent back.
const TOKEN_LIMIT_BYTES: usize = 4096;

/// What a page was, as far as the way to the next depends on it.
pub(super) struct Ended<'a> {
    /// Records it had.
    pub(super) count: u64,
    /// What asked for it, of the paginations that count or carry tokens.
    pub(super) value: Option<&'a str>,
    /// Values of [`Pagination::captures`].
    pub(super) captured: &'a [Option<&'a [u8]>],
    pub(super) headers: &'a HeaderMap,
    /// Where it came from, after redirects.
    pub(super) url: &'a Url,
}

/// Where to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    End,
    Link(Box<Url>),
    /// The value that asks for the next page.
    Value(String),
}

impl Pagination {
    /// Reads `pagination`.
    pub(super) fn parse(fields: &mut Fields) -> Self {
        let Some(mut pagination) = fields.nested("pagination") else { return Self::None };
        if !pagination.has("type") {
            pagination.require("type");
            pagination.forget_rest();
        }
        let kinds = [("next_link", 0), ("page_number", 1), ("link_header", 2), ("offset", 3), ("cursor", 4)];
        let parsed = match pagination.choice("type", &kinds) {
            Some(0) => value_path(&mut pagination, "next", true, "$.next").map(|next| Self::NextLink { next }),
            Some(1) => Some(page_number(&mut pagination)),
            Some(2) => Some(Self::LinkHeader),
            Some(3) => offset(&mut pagination),
            Some(_) => cursor(&mut pagination),
            None => {
                pagination.forget_rest();
                None
            }
        };
        fields.absorb(pagination);
        parsed.unwrap_or(Self::None)
    }

    /// The option that names a place in the body of a page, if one does.
    pub(super) fn reads_body(&self) -> Option<&'static str> {
        match self {
            Self::NextLink { .. } | Self::Cursor { next: TokenPlace::Body(_), .. } => Some("next"),
            Self::Cursor { has_more: Some(_), .. } => Some("has_more"),
            Self::Offset { total: Some(_), .. } => Some("total"),
            _ => None,
        }
    }

    /// The parameter that asks for a page, and the value that asks for the first one.
    pub(super) fn param(&self) -> Option<(&str, Option<String>)> {
        match self {
            Self::PageNumber { param, start, .. } | Self::Offset { param, start, .. } => {
                Some((param, Some(start.to_string())))
            }
            Self::Cursor { param, .. } => Some((param, None)),
            Self::None | Self::NextLink { .. } | Self::LinkHeader => None,
        }
    }

    /// A parameter that every request carries.
    pub(super) fn size(&self) -> Option<(&str, u64)> {
        match self {
            Self::PageNumber { size: Some((Some(param), size)), .. } => Some((param, *size)),
            Self::Offset { size_param, size, .. } => Some((size_param, *size)),
            _ => None,
        }
    }

    /// Whether pages are counted, so that one behind the last may be missing.
    pub(super) fn counts(&self) -> bool {
        matches!(self, Self::PageNumber { .. } | Self::Offset { .. })
    }

    /// What has to be known of a page's body.
    pub(super) fn captures(&self) -> Vec<&JsonPath> {
        match self {
            Self::NextLink { next } => vec![next],
            Self::Offset { total: Some(total), .. } => vec![total],
            Self::Cursor { next, has_more, .. } => {
                let next = match next {
                    TokenPlace::Body(path) => Some(path),
                    TokenPlace::Header(_) => None,
                };
                has_more.iter().chain(next).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The value that asks for the page behind one that could not be read.
    pub(super) fn behind(&self, value: Option<&str>) -> Next {
        let Some(number) = value.and_then(|value| value.parse::<u64>().ok()) else { return Next::End };
        match self {
            Self::PageNumber { .. } => Next::Value(number.saturating_add(1).to_string()),
            Self::Offset { size, .. } => Next::Value(number.saturating_add(*size).to_string()),
            _ => Next::End,
        }
    }

    /// Where to go on behind a page; else what is wrong with what the page says about it.
    pub(super) fn next(&self, page: &Ended<'_>) -> Result<Next, Words> {
        let number = || page.value.and_then(|value| value.parse::<u64>().ok());
        match self {
            Self::None => Ok(Next::End),
            Self::PageNumber { start, size, .. } => {
                let is_last = page.count == 0 || size.as_ref().is_some_and(|(_, size)| page.count < *size);
                let number = number().unwrap_or(*start);
                Ok(if is_last { Next::End } else { Next::Value(number.saturating_add(1).to_string()) })
            }
            Self::Offset { start, size, total, .. } => {
                let next = number().unwrap_or(*start).saturating_add(page.count);
                let more = match (total, page.captured.first().copied().flatten()) {
                    (Some(_), None | Some(b"null")) | (None, _) => false,
                    (Some(path), Some(text)) => match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok())
                    {
                        Some::<u64>(total) => next.saturating_sub(*start) < total,
                        None => {
                            return Err(say!(
                                "what it has at `{path}` (`pagination.total`) is no whole number",
                                "`{path}` (`pagination.total`) にあるものが整数ではありません"
                            ));
                        }
                    },
                };
                // A total never ends a read before a short page does: it may lie.
                let is_last = page.count == 0 || page.count < *size && !more;
                Ok(if is_last { Next::End } else { Next::Value(next.to_string()) })
            }
            Self::NextLink { next } => {
                let Some(text) = page.captured.first().copied().flatten() else { return Ok(Next::End) };
                match serde_json::from_slice::<Option<String>>(text) {
                    Ok(Some(link)) if !link.is_empty() => match page.url.join(&link) {
                        Ok(url) => Ok(Next::Link(Box::new(url))),
                        Err(_) => Err(say!(
                            "what it has at `{next}` (`pagination.next`) is no address",
                            "`{next}` (`pagination.next`) にあるものがアドレスではありません"
                        )),
                    },
                    Ok(_) => Ok(Next::End),
                    Err(_) => Err(say!(
                        "what it has at `{next}` (`pagination.next`) is no link",
                        "`{next}` (`pagination.next`) にあるものがリンクではありません"
                    )),
                }
            }
            Self::LinkHeader => {
                for value in page.headers.get_all(header::LINK) {
                    if let Some(link) = next_of(&String::from_utf8_lossy(value.as_bytes())) {
                        let url = page.url.join(&link);
                        return match url {
                            Ok(url) => Ok(Next::Link(Box::new(url))),
                            Err(_) => Err(Words::new(
                                "what its header `Link` names as the next page is no address",
                                "ヘッダー `Link` が次のページとして示すものがアドレスではありません",
                            )),
                        };
                    }
                }
                Ok(Next::End)
            }
            Self::Cursor { next, has_more, .. } => {
                let (more, found) = match (has_more, page.captured) {
                    (Some(path), [more, ..]) => match more {
                        Some(b"true") => (Some(true), page.captured.get(1)),
                        Some(b"false") => (Some(false), page.captured.get(1)),
                        None | Some(b"null") => (None, page.captured.get(1)),
                        Some(_) => {
                            return Err(say!(
                                "what it has at `{path}` (`pagination.has_more`) is neither `true` nor `false`",
                                "`{path}` (`pagination.has_more`) にあるものが `true` でも `false` でもありません"
                            ));
                        }
                    },
                    (_, captured) => (None, captured.first()),
                };
                let token = match next {
                    TokenPlace::Header(name) => {
                        page.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
                    }
                    TokenPlace::Body(path) => token(path, found.copied().flatten())?,
                };
                let token = token.filter(|token| !token.is_empty());
                match (more, token) {
                    (Some(false), _) | (None, None) => Ok(Next::End),
                    (Some(true), None) => Err(Words::new(
                        "it says that there is more, but has no token for it",
                        "続きがあると示していますが、そのためのトークンがありません",
                    )),
                    (_, Some(token)) if token.len() > TOKEN_LIMIT_BYTES => Err(say!(
                        "its token for the next page has more than {TOKEN_LIMIT_BYTES} bytes",
                        "次のページのトークンが {TOKEN_LIMIT_BYTES} バイトを超えています"
                    )),
                    (_, Some(token)) => Ok(Next::Value(token)),
                }
            }
        }
    }
}

fn token(path: &JsonPath, text: Option<&[u8]>) -> Result<Option<String>, Words> {
    let wrong = || {
        say!(
            "what it has at `{path}` (`pagination.next`) is neither a text nor a number",
            "`{path}` (`pagination.next`) にあるものが文字列でも数値でもありません"
        )
    };
    match text.and_then(|text| text.first().map(|first| (first, text))) {
        None | Some((b'n', _)) => Ok(None),
        Some((b'"', text)) => serde_json::from_slice(text).map(Some).map_err(|_| wrong()),
        Some((b'-' | b'0'..=b'9', text)) => Ok(Some(String::from_utf8_lossy(text).into_owned())),
        Some(_) => Err(wrong()),
    }
}

fn page_number(pagination: &mut Fields) -> Pagination {
    let param = pagination.string("param").unwrap_or_else(|| "page".to_owned());
    let start = pagination.integer("start", 0, u64::from(u32::MAX)).unwrap_or(1);
    let has_size = pagination.has("size");
    let size_param = pagination.string("size_param");
    let size = pagination.integer("size", 1, 1_000_000);
    if size_param.is_some() && !has_size {
        pagination.fail(
            "size",
            Words::new("This field is required with `size_param`.", "`size_param` を使うときは必須です。"),
        );
    }
    if size_param.as_deref() == Some(&param) {
        pagination.fail("size_param", must_differ());
    }
    Pagination::PageNumber { param, start, size: size.map(|size| (size_param, size)) }
}

fn offset(pagination: &mut Fields) -> Option<Pagination> {
    let param = pagination.string("param").unwrap_or_else(|| "offset".to_owned());
    let start = pagination.integer("start", 0, u64::from(u32::MAX)).unwrap_or(0);
    let size_param = pagination.string("size_param").unwrap_or_else(|| "limit".to_owned());
    if size_param == param {
        pagination.fail("size_param", must_differ());
    }
    let total = value_path(pagination, "total", false, "$.total");
    if !pagination.has("size") {
        pagination.required_string("size");
        return None;
    }
    let size = pagination.integer("size", 1, 1_000_000)?;
    Some(Pagination::Offset { param, start, size_param, size, total })
}

fn cursor(pagination: &mut Fields) -> Option<Pagination> {
    let param = pagination.string("param").unwrap_or_else(|| "cursor".to_owned());
    let has_more = value_path(pagination, "has_more", false, "$.has_more");
    let next = match (pagination.has("header"), pagination.has("next")) {
        (true, true) => {
            pagination.string("next");
            pagination.string("header");
            pagination.fail(
                "header",
                Words::new("Give either `next` or `header`.", "`next` か `header` のどちらか一方を指定してください。"),
            );
            None
        }
        (true, false) => pagination.string("header").and_then(|name| match name.parse() {
            Ok(name) => Some(TokenPlace::Header(name)),
            Err(_) => {
                pagination.fail("header", not_a_header_name());
                None
            }
        }),
        (false, _) => value_path(pagination, "next", true, "$.meta.next_cursor").map(TokenPlace::Body),
    };
    Some(Pagination::Cursor { next: next?, param, has_more })
}

fn must_differ() -> Words {
    Words::new("It must differ from `param`.", "`param` と違うものにしてください。")
}

/// The target of the first link of a `Link` header whose relations name `next` (RFC 8288, section 3).
fn next_of(header: &str) -> Option<String> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let (params, after) = split_unquoted(after, ',');
        let mut left = params;
        let mut is_next = false;
        while !left.is_empty() {
            let (param, more) = split_unquoted(left, ';');
            left = more;
            // Only the first `rel` of a link counts.
            if let Some((name, value)) = param.split_once('=')
                && name.trim().eq_ignore_ascii_case("rel")
            {
                let relations = value.trim().trim_matches('"');
                is_next = relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"));
                break;
            }
        }
        if is_next {
            return Some(target.trim().to_owned());
        }
        rest = after;
    }
    None
}

/// What stands before a separator outside of quotes, and what stands behind it.
fn split_unquoted(text: &str, separator: char) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == separator && !quoted => return (&text[..at], &text[at + c.len_utf8()..]),
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_of_a_header_is_found_among_others() {
        for (header, next) in [
            (r#"<https://h/?page=2>; rel="next", <https://h/?page=9>; rel="last""#, Some("https://h/?page=2")),
            (
                r#"<https://h/?a=1,2>;rel=prev , </p?b=3,4>; title="x, <y>; rel=\"next\""; REL="last Next""#,
                Some("/p?b=3,4"),
            ),
            (r#"<?page=2>; rel=next"#, Some("?page=2")),
            (r#"</a>; rel="nextish", </b>; rev="next""#, None),
            (r#"</a>; rel="prev"; rel="next""#, None),
            ("</a>", None),
            ("next", None),
            ("<", None),
        ] {
            assert_eq!(next_of(header).as_deref(), next, "{header}");
        }
    }

    fn next(
        pagination: &Pagination,
        count: u64,
        value: Option<&str>,
        captured: &[Option<&[u8]>],
    ) -> Result<Next, Words> {
        let (headers, url) = (HeaderMap::new(), Url::parse("http://h/").unwrap());
        pagination.next(&Ended { count, value, captured, headers: &headers, url: &url })
    }

    #[test]
    fn a_total_makes_short_pages_go_on_and_ends_nothing_by_itself() {
        let offset = |total: Option<&str>| Pagination::Offset {
            param: "offset".to_owned(),
            start: 10,
            size_param: "limit".to_owned(),
            size: 5,
            total: total.map(|path| path.parse().unwrap()),
        };
        let value = |text: &str| Ok(Next::Value(text.to_owned()));
        let plain = offset(None);
        assert_eq!(next(&plain, 5, Some("10"), &[]), value("15"));
        assert_eq!(next(&plain, 4, Some("10"), &[]), Ok(Next::End));
        assert_eq!(next(&plain, 7, Some("10"), &[]), value("17"), "a server that gives more than was asked for");
        let total = offset(Some("$.total"));
        assert_eq!(next(&total, 3, Some("10"), &[Some(b"9")]), value("13"));
        assert_eq!(next(&total, 3, Some("16"), &[Some(b"9")]), Ok(Next::End));
        assert_eq!(next(&total, 5, Some("10"), &[Some(b"2")]), value("15"), "a total that is too low loses nothing");
        assert_eq!(next(&total, 0, Some("10"), &[Some(b"900")]), Ok(Next::End), "one that is too high ends too");
        assert_eq!(next(&total, 3, Some("10"), &[Some(b"null")]), Ok(Next::End));
        assert!(next(&total, 3, Some("10"), &[Some(b"\"9\"")]).is_err());
    }

    #[test]
    fn a_token_goes_on_until_it_is_gone_or_there_is_no_more() {
        let cursor = |has_more: Option<&str>| Pagination::Cursor {
            next: TokenPlace::Body("$.next".parse().unwrap()),
            param: "cursor".to_owned(),
            has_more: has_more.map(|path| path.parse().unwrap()),
        };
        let plain = cursor(None);
        for (captured, expected) in [
            (Some(&b"\"a\\u0062\""[..]), Next::Value("ab".to_owned())),
            (Some(b"12345678901234567890"), Next::Value("12345678901234567890".to_owned())),
            (Some(b"null"), Next::End),
            (Some(b"\"\""), Next::End),
            (None, Next::End),
        ] {
            assert_eq!(next(&plain, 0, None, &[captured]), Ok(expected), "{captured:?}");
        }
        assert!(next(&plain, 1, None, &[Some(b"{}")]).is_err());
        assert!(next(&plain, 1, None, &[Some(format!("\"{}\"", "x".repeat(5000)).as_bytes())]).is_err());
        let more = cursor(Some("$.more"));
        assert_eq!(next(&more, 1, None, &[Some(b"false"), Some(b"\"a\"")]), Ok(Next::End));
        assert_eq!(next(&more, 1, None, &[Some(b"true"), Some(b"\"a\"")]), Ok(Next::Value("a".to_owned())));
        assert_eq!(next(&more, 1, None, &[None, Some(b"\"a\"")]), Ok(Next::Value("a".to_owned())));
        assert!(next(&more, 1, None, &[Some(b"true"), None]).unwrap_err().english.contains("no token"));
        assert!(next(&more, 1, None, &[Some(b"1"), Some(b"\"a\"")]).is_err());
    }
}

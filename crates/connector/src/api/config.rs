//! The options of an `api` source.

use matome_egress::header::{self, HeaderMap, HeaderName, HeaderValue};
use matome_model::field_error::Words;
use matome_model::source::Dedupe;
use url::Url;

use super::auth::Auth;
use crate::config::{CommonConfig, FieldError, Fields, parse_common};
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
}

/// An `api` source.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// `url` with `params` and what the pagination adds: the address of the first page. No secrets.
    pub url: Url,
    /// `headers`: sent to the origin of `url`.
    pub headers: HeaderMap,
    /// `records`: where in a page the records are; default `$`.
    pub records: JsonPath,
    /// `pagination`; default: one page.
    pub pagination: Pagination,
    /// `auth`: credentials.
    pub auth: Option<Auth>,
    /// Options of every source.
    pub common: CommonConfig,
}

impl ApiConfig {
    /// What pages depend on; validators of another scope are worthless.
    pub(super) fn scope(&self) -> String {
        format!("{} {} {:?}", self.url, self.records, self.pagination)
    }
}

/// Checks the options of an `api` source.
pub(crate) fn parse(mut fields: Fields) -> Result<ApiConfig, Vec<FieldError>> {
    let common = parse_common(&mut fields, Dedupe::Hash);
    let url = url(&mut fields);
    fields.choice("method", &[("GET", ())]);
    let params = fields.texts("params");
    let headers = headers(&mut fields);
    let records = fields.parsed("records").unwrap_or_else(JsonPath::root);
    let pagination = pagination(&mut fields);
    let auth = Auth::parse(&mut fields);
    fields.finish()?;
    let Some(mut url) = url else { return Err(Vec::new()) };
    if !params.is_empty() {
        url.query_pairs_mut().extend_pairs(&params);
    }
    if let Pagination::PageNumber { param, start, size } = &pagination {
        if let Some((Some(size_param), size)) = size {
            set_param(&mut url, size_param, *size);
        }
        set_param(&mut url, param, *start);
    }
    Ok(ApiConfig { url, headers, records, pagination, auth, common })
}

/// Sets a parameter of an address, whatever it was before.
pub(super) fn set_param(url: &mut Url, name: &str, value: u64) {
    let others: Vec<(String, String)> =
        url.query_pairs().filter(|(key, _)| key != name).map(|(key, value)| (key.into(), value.into())).collect();
    url.query_pairs_mut().clear().extend_pairs(others).append_pair(name, &value.to_string());
}

fn url(fields: &mut Fields) -> Option<Url> {
    let text = fields.required_string("url")?;
    let message = match Url::parse(text.trim()) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            Words::new("Only `http` and `https` can be read.", "読めるのは `http` と `https` だけです。")
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => belongs_into_auth(),
        Ok(mut url) => {
            url.set_fragment(None);
            return Some(url);
        }
        Err(_) => Words::new("Enter a valid URL.", "URLを正しく入力してください。"),
    };
    fields.fail("url", message);
    None
}

fn headers(fields: &mut Fields) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"));
    for (name, value) in fields.texts("headers") {
        let Words { english, japanese } = match (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            (Ok(name), _) if [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].contains(&name) => {
                belongs_into_auth()
            }
            (Ok(name), _) if is_set_by_matome(&name) => set_by_matome(),
            (Ok(name), Ok(value)) => {
                headers.insert(name, value);
                continue;
            }
            (Err(_), _) => not_a_header_name(),
            (_, Err(_)) => not_for_a_header(),
        };
        fields.fail("headers", Words::new(format!("`{name}`: {english}"), format!("`{name}`: {japanese}")));
    }
    headers
}

/// Whether matome sets this header itself, so that a config may not: what frames a request, names its host, or makes
/// it conditional.
pub(super) fn is_set_by_matome(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::ACCEPT_ENCODING,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
    ]
    .contains(name)
}

pub(super) fn set_by_matome() -> Words {
    Words::new("This header is set by matome.", "このヘッダは matome が設定します。")
}

pub(super) fn not_a_header_name() -> Words {
    Words::new("Not a valid name of a header.", "ヘッダの名前として正しくありません。")
}

pub(super) fn not_for_a_header() -> Words {
    Words::new("It has characters that a header can not carry.", "ヘッダで送れない文字が含まれています。")
}

fn belongs_into_auth() -> Words {
    Words::new(
        "Put credentials in `auth`, where they are encrypted.",
        "認証情報は暗号化される `auth` に入れてください。",
    )
}

fn pagination(fields: &mut Fields) -> Pagination {
    let Some(mut pagination) = fields.nested("pagination") else { return Pagination::None };
    if !pagination.has("type") {
        pagination.require("type");
        pagination.forget_rest();
    }
    let parsed = match pagination.choice("type", &[("next_link", true), ("page_number", false)]) {
        Some(true) => next_link(&mut pagination),
        Some(false) => page_number(&mut pagination),
        None => {
            pagination.forget_rest();
            Pagination::None
        }
    };
    fields.absorb(pagination);
    parsed
}

fn next_link(pagination: &mut Fields) -> Pagination {
    if !pagination.has("next") {
        pagination.required_string("next");
        return Pagination::None;
    }
    match pagination.parsed::<JsonPath>("next") {
        Some(next) if next.is_members_only() && next != JsonPath::root() => Pagination::NextLink { next },
        Some(_) => {
            pagination.fail(
                "next",
                Words::new(
                    "Give the path of one value, for example `$.next` or `$.paging.next`.",
                    "値1つのパスを指定してください。例: `$.next` や `$.paging.next`。",
                ),
            );
            Pagination::None
        }
        None => Pagination::None,
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
        pagination.fail("size_param", Words::new("It must differ from `param`.", "`param` と違うものにしてください。"));
    }
    Pagination::PageNumber { param, start, size: size.map(|size| (size_param, size)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::errors;
    use crate::{ParsedConfig, validate_config};
    use matome_model::source::SourceType;

    fn config(text: &str) -> ApiConfig {
        match validate_config(SourceType::Api, text).unwrap() {
            ParsedConfig::Api(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_are_at_the_path_of_their_field() {
        for (text, path) in [
            (r#"{"records":"$"}"#, "url"),
            (r#"{"url":"ftp://h/"}"#, "url"),
            (r#"{"url":"http://user:pw@h/"}"#, "url"),
            (r#"{"url":"http://h/","pagination":{"type":"next_link"}}"#, "pagination.next"),
            (r#"{"url":"http://h/","pagination":{"type":"next_link","next":"$.a[*]"}}"#, "pagination.next"),
            (r#"{"url":"http://h/","pagination":{"type":"next_link","next":5}}"#, "pagination.next"),
            (r#"{"url":"http://h/","pagination":{"type":"offset","next":5}}"#, "pagination.type"),
            (r#"{"url":"http://h/","pagination":{"next":"$.next"}}"#, "pagination.type"),
            (r#"{"url":"http://h/","pagination":{"type":"page_number","pages":1}}"#, "pagination.pages"),
            (r#"{"url":"http://h/","pagination":"next"}"#, "pagination"),
            (r#"{"url":"http://h/","auth":{"type":"bearer"}}"#, "auth.token"),
            (r#"{"url":"http://h/","auth":{"type":"bearer","token":"a\nb"}}"#, "auth.token"),
            (r#"{"url":"http://h/","auth":{"type":"basic","username":"u"}}"#, "auth.password"),
            (r#"{"url":"http://h/","auth":{"type":"header","name":"Host","value":"x"}}"#, "auth.name"),
            (r#"{"url":"http://h/","headers":{"Authorization":"x"}}"#, "headers"),
            (r#"{"url":"http://h/","params":{"a":[1]}}"#, "params.a"),
            (r#"{"url":"http://h/","records":"$..x"}"#, "records"),
            (r#"{"url":"http://h/","method":"POST"}"#, "method"),
        ] {
            let errors = errors(SourceType::Api, text);
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert_eq!(errors[0].0, path, "{text}: {errors:?}");
        }
        assert_eq!(
            errors(SourceType::Api, r#"{"url":"http://h/","pagination":{"type":"next_link"}}"#)[0].1,
            "This field is required."
        );
    }

    #[test]
    fn parameters_and_the_first_page_are_in_the_address() {
        let config = config(
            r#"{"url":"http://h/x?a=1","params":{"b":2,"c":true},"pagination":{"type":"page_number","size_param":"n","size":50}}"#,
        );
        assert_eq!(config.url.as_str(), "http://h/x?a=1&b=2&c=true&n=50&page=1");
        assert_eq!(config.common.dedupe, Dedupe::Hash);
    }

    #[test]
    fn secrets_are_not_in_the_debug_form() {
        let config = config(r#"{"url":"http://h/","auth":{"type":"query","name":"key","value":"s3cret"}}"#);
        assert!(!format!("{config:?} {}", config.scope()).contains("s3cret"));
    }
}

//! How the next page is reached. What a page says about it is believed; a parameter is tried before it is proposed.

use std::collections::HashSet;

use matome_model::field_error::Words;
use matome_model::say;
use serde_json::{Map, Value, json};

use super::super::pagination::{Ended, Next, Pagination};
use super::Probe;
use super::page::{Ask, Page};
use crate::json::JsonPath;
use crate::probe::{Finding, Member, around, plain, select};

const OPTION: &str = "pagination";
/// Names of members with the address of the next page.
const LINKS: [&str; 8] =
    ["next", "nexturl", "nextlink", "nextpage", "nextpageurl", "nexthref", "nextpagelink", "odatanextlink"];
/// Names of members with a token for the next page.
const TOKENS: [&str; 15] = [
    "nextcursor",
    "nextpagetoken",
    "nexttoken",
    "endcursor",
    "continuationtoken",
    "nextpagecursor",
    "nextmarker",
    "continuation",
    "nextpage",
    "next",
    "cursor",
    "after",
    "nextoffset",
    "scrollid",
    "bookmark",
];
/// Those of them that say by their name alone what they are.
const CERTAIN_TOKENS: usize = 7;
/// Names of members that say whether there are more.
const MORE: [&str; 5] = ["hasmore", "hasnext", "hasnextpage", "more", "ismore"];
/// Names of members with the number of all records.
const TOTALS: [&str; 8] =
    ["total", "totalcount", "count", "totalitems", "totalresults", "totalrecords", "totalhits", "recordstotal"];
const PAGES: [&str; 7] = ["page", "pagenumber", "p", "pageno", "currentpage", "pagenum", "pg"];
const OFFSETS: [&str; 5] = ["offset", "skip", "start", "from", "startindex"];
const SIZES: [&str; 9] = ["limit", "size", "perpage", "pagesize", "count", "top", "take", "max", "first"];

/// What the members around the records say.
#[derive(Default)]
struct Said {
    link: Option<String>,
    /// The path of a token, the token, and how certain its name is.
    token: Option<(String, String, Option<String>, usize)>,
    has_more: Option<String>,
    total: Option<(String, u64)>,
    page: Option<(String, u64)>,
    offset: Option<String>,
}

fn said(body: &Value) -> Said {
    let mut said = Said::default();
    for Member { name, path, value, beside } in around(body) {
        let text = value.as_str().filter(|text| !text.is_empty());
        if LINKS.contains(&name.as_str()) && said.link.is_none() {
            let links = ["previous", "prev", "first", "last", "self"];
            let is_link = match value {
                Value::String(_) => text.is_some_and(is_address),
                // The last page has no link; those beside it tell what it would be.
                Value::Null => {
                    beside.contains_key("count") && beside.contains_key("previous")
                        || links.iter().any(|name| beside.get(*name).and_then(Value::as_str).is_some_and(is_address))
                }
                _ => false,
            };
            if is_link {
                said.link = Some(path.clone());
            } else if value.get("href").and_then(Value::as_str).is_some_and(is_address) {
                said.link = Some(format!("{path}.href"));
            }
        }
        if let Some(rank) = TOKENS.iter().position(|token| *token == name) {
            let token = text.filter(|text| !is_address(text)).map(str::to_owned);
            let token = token.or_else(|| value.is_u64().then(|| value.to_string()));
            let is_token = token.is_some() || rank < CERTAIN_TOKENS && (value.is_null() || value == "");
            if is_token
                && said.token.as_ref().is_none_or(|(_, _, other, of)| (other.is_none(), *of) > (token.is_none(), rank))
            {
                let own = path.rsplit(['.', '\'']).find(|part| *part != "]").unwrap_or_default();
                said.token = Some((path.clone(), own.to_owned(), token, rank));
            }
        }
        let number = value.as_u64();
        if MORE.contains(&name.as_str()) && value.is_boolean() {
            said.has_more.get_or_insert(path);
        } else if let (true, Some(number)) = (TOTALS.contains(&name.as_str()), number) {
            said.total.get_or_insert((path, number));
        } else if let (true, Some(number)) = (PAGES.contains(&name.as_str()), number) {
            said.page.get_or_insert((path, number));
        } else if OFFSETS.contains(&name.as_str()) && number.is_some() {
            said.offset.get_or_insert(path);
        }
    }
    said
}

fn is_address(text: &str) -> bool {
    ["http://", "https://", "/", "?"].iter().any(|start| text.starts_with(start))
}

impl Probe {
    /// How to get from the first page to the next.
    pub(super) async fn pagination(&mut self, first: &Page, path: &JsonPath, records: &[Value]) -> Finding {
        let found = |value: Value, words: Words| Finding { option: OPTION, value: Some(value), words };
        let ended = Ended { count: 0, value: None, captured: &[], headers: &first.headers, url: &first.url };
        if let Ok(Next::Link(_)) = Pagination::LinkHeader.next(&ended) {
            let words =
                Words::new("the header `Link` names the next page", "ヘッダー `Link` が次のページを示しています");
            return found(json!({"type": "link_header"}), words);
        }
        // Of a page that was cut only the beginning is known, and what leads on often stands at the end.
        let said = said(&first.body);
        if let Some(next) = &said.link {
            let value = json!({"type": "next_link", "next": next});
            return found(
                value,
                say!("`{next}` has the address of the next page", "`{next}` に次のページのアドレスがあります"),
            );
        }
        if let Some(finding) = self.token(&said, path, records).await {
            return finding;
        }
        if !records.is_empty()
            && let Some(finding) = self.counted(first, &said, path, records).await
        {
            return finding;
        }
        let count = records.len() as u64;
        let words = match said.total {
            Some((at, total)) if total > count && !first.is_cut => say!(
                "`{at}` says that there are {total} records and the page has {count}, but how to get to the others was not \
                 found: look it up in the manual of the API and set `pagination`",
                "`{at}` によるとレコードは {total} 件ですが、ページには {count} 件しかなく、残りの読み方は見つかりませんでした。API の\
                 説明書で調べて `pagination` を指定してください"
            ),
            _ => Words::new(
                "one page: nothing leads to another one",
                "ページは1つです。次のページに進む手がかりがありません",
            ),
        };
        Finding { option: OPTION, value: None, words }
    }

    async fn token(&mut self, said: &Said, path: &JsonPath, records: &[Value]) -> Option<Finding> {
        let (next, name, token, _) = said.token.as_ref()?;
        let way = |param: &str| {
            let mut way = json!({"type": "cursor", "next": next, "param": param});
            if let Some(has_more) = &said.has_more {
                way["has_more"] = has_more.as_str().into();
            }
            way
        };
        let params = params(name);
        let Some(token) = token else {
            let (way, param) = (way(&params[0]), &params[0]);
            let words = say!(
                "`{next}` is where a token for the next page would be, but this page is the last: the parameter `{param}` is a \
                 guess that was not tried",
                "次のページのトークンは `{next}` に入るようですが、このページが最後です。パラメータ `{param}` は推測で、確かめていません"
            );
            return Some(Finding { option: OPTION, value: Some(way), words });
        };
        for param in &params {
            let way = way(param);
            if self.leads_on(&way, token, path, records).await == Some(true) {
                let words = say!(
                    "`{next}` has a token, and with it as `{param}` the next page came",
                    "`{next}` にトークンがあり、`{param}` として送ると次のページが返りました"
                );
                return Some(Finding { option: OPTION, value: Some(way), words });
            }
        }
        None
    }

    async fn counted(&mut self, first: &Page, said: &Said, path: &JsonPath, records: &[Value]) -> Option<Finding> {
        for way in candidates(first, said, records.len()) {
            let mut way = way;
            let param = way["param"].as_str().unwrap_or_default().to_owned();
            let start = way["start"].as_u64().unwrap_or_default();
            let is_offset = way["type"] == "offset";
            let step = if is_offset { way["size"].as_u64().unwrap_or(1) } else { 1 };
            let Some(leads_on) = self.leads_on(&way, &(start + step).to_string(), path, records).await else {
                continue;
            };
            // The first page has a number too: where pages count from 0, number 1 would pass it over.
            if !is_offset && !self.is_first(&way, start, path, records).await {
                way["start"] = 0.into();
                if start != 1 || !leads_on || !self.is_first(&way, 0, path, records).await {
                    continue;
                }
            }
            let words = match leads_on {
                true => say!(
                    "with the parameter `{param}` the next page came",
                    "パラメータ `{param}` で次のページが返りました"
                ),
                false => say!(
                    "the parameter `{param}` is obeyed: behind this page there is nothing",
                    "パラメータ `{param}` が効きます。このページの後ろには何もありません"
                ),
            };
            return Some(Finding { option: OPTION, value: Some(way), words });
        }
        None
    }

    /// Whether a page that is asked for so has other records, or none; nothing when it is no such page.
    async fn leads_on(&mut self, way: &Value, value: &str, path: &JsonPath, records: &[Value]) -> Option<bool> {
        let options = Map::from_iter([(OPTION.to_owned(), way.clone())]);
        let page = self.attempt(&options, Ask::Page(value)).await?;
        let others = select(&page.body, path, page.is_cut);
        let known: HashSet<String> = records.iter().map(Value::to_string).collect();
        let is_other = !others.iter().any(|record| known.contains(&record.to_string()));
        is_other.then_some(!others.is_empty())
    }

    async fn is_first(&mut self, way: &Value, number: u64, path: &JsonPath, records: &[Value]) -> bool {
        let options = Map::from_iter([(OPTION.to_owned(), way.clone())]);
        let Some(page) = self.attempt(&options, Ask::Page(&number.to_string())).await else { return false };
        select(&page.body, path, page.is_cut).first() == records.first()
    }
}

/// The parameters that may carry a token of this name, the likeliest first.
fn params(name: &str) -> Vec<String> {
    // `next_page_token` goes back as `page_token`, `nextCursor` as `cursor`.
    let rest = ["next_", "next-", "next", "end_", "end"].iter().find_map(|start| name.strip_prefix(start));
    let own = rest.filter(|rest| !rest.is_empty()).map(|rest| {
        let mut chars = rest.chars();
        chars.next().map_or_else(String::new, |c| c.to_lowercase().collect::<String>() + chars.as_str())
    });
    let mut params: Vec<String> = own.into_iter().collect();
    params.extend([name, "cursor", "after", "page_token", "page"].map(str::to_owned));
    let mut seen = HashSet::new();
    params.retain(|param| seen.insert(param.clone()));
    params
}

/// The paginations that are worth a try, the likeliest first.
fn candidates(first: &Page, said: &Said, count: usize) -> Vec<Value> {
    let query: Vec<(String, String)> = first.url.query_pairs().into_owned().collect();
    let named = |names: &[&str]| {
        let is_named = |name: &str| names.contains(&plain(name).as_str());
        query.iter().find(|(name, _)| is_named(name)).map(|(name, value)| (name.as_str(), value.parse::<u64>().ok()))
    };
    let size = named(&SIZES);
    let by_page = |param: &str, start: u64| json!({"type": "page_number", "param": param, "start": start});
    let by_offset = |param: &str, start: u64| {
        let (size_param, size) = size.unwrap_or(("limit", None));
        let size = size.filter(|size| *size > 0).unwrap_or(count as u64);
        let mut way = json!({"type": "offset", "param": param, "size": size, "size_param": size_param, "start": start});
        if let Some((total, _)) = &said.total {
            way["total"] = total.as_str().into();
        }
        way
    };
    let mut ways = Vec::new();
    if let Some((param, start)) = named(&PAGES) {
        ways.push(by_page(param, start.unwrap_or(1)));
    }
    if let Some((param, start)) = named(&OFFSETS) {
        ways.push(by_offset(param, start.unwrap_or(0)));
    }
    let page = by_page("page", said.page.as_ref().map_or(1, |(_, number)| *number));
    let offset = by_offset("offset", 0);
    match said.offset {
        Some(_) => ways.extend([offset, page]),
        None => ways.extend([page, offset]),
    }
    let mut seen = HashSet::new();
    ways.retain(|way| seen.insert((way["type"].to_string(), way["param"].to_string())));
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    #[test]
    fn what_a_page_says_of_the_next_is_found_around_its_records() {
        let link = |body: Value| said(&body).link;
        let at = |path: &str| Some(path.to_owned());
        assert_eq!(link(json!({"next": "https://h/?page=2", "results": []})), at("$.next"));
        assert_eq!(link(json!({"count": 3, "next": null, "previous": null, "results": []})), at("$.next"));
        assert_eq!(
            link(json!({"_links": {"self": {"href": "/a"}, "next": {"href": "/a?p=2"}}})),
            at("$._links.next.href")
        );
        assert_eq!(link(json!({"@odata.nextLink": "https://h/?$skip=2", "value": []})), at("$['@odata.nextLink']"));
        assert_eq!(link(json!({"next": "abc"})), None);
        assert_eq!(link(json!({"next": null, "results": []})), None);
        assert_eq!(link(json!({"results": [{"next": "/x"}]})), None, "a record's own link");
        let token = |body: Value| said(&body).token.map(|(path, _, token, _)| (path, token));
        assert_eq!(
            token(json!({"meta": {"next_cursor": "a=="}})),
            Some(("$.meta.next_cursor".into(), Some("a==".into())))
        );
        assert_eq!(token(json!({"nextPageToken": ""})), Some(("$.nextPageToken".into(), None)));
        assert_eq!(token(json!({"cursor": null})), None);
        let more = said(&json!({"pageInfo": {"hasNextPage": true, "endCursor": "x"}, "total": 7, "page": 0}));
        assert_eq!(more.has_more.as_deref(), Some("$.pageInfo.hasNextPage"));
        assert_eq!((more.total, more.page), (Some(("$.total".into(), 7)), Some(("$.page".into(), 0))));
    }

    #[test]
    fn a_token_goes_back_under_the_name_that_it_came_with() {
        for (name, first) in [
            ("next_page_token", "page_token"),
            ("nextPageToken", "pageToken"),
            ("nextCursor", "cursor"),
            ("endCursor", "cursor"),
            ("next", "next"),
            ("after", "after"),
        ] {
            assert_eq!(params(name)[0], first, "{name}");
        }
    }

    fn ways(url: &str, body: Value) -> Vec<Value> {
        let first = Page {
            headers: Default::default(),
            url: Url::parse(url).unwrap(),
            bytes: 0,
            is_cut: false,
            says: Vec::new(),
            body,
        };
        candidates(&first, &said(&first.body), 20)
    }

    #[test]
    fn parameters_of_the_address_are_tried_first() {
        let first = |url: &str, body: Value| ways(url, body).remove(0);
        assert_eq!(first("http://h/?p=0", json!([])), json!({"type": "page_number", "param": "p", "start": 0}));
        assert_eq!(
            first("http://h/?$skip=0&$top=5", json!({"total": 9})),
            json!({"type": "offset", "param": "$skip", "start": 0, "size": 5, "size_param": "$top", "total": "$.total"})
        );
        assert_eq!(first("http://h/", json!({"offset": 0}))["type"], "offset");
        assert_eq!(first("http://h/", json!({"page": 0}))["start"], 0);
        assert_eq!(ways("http://h/?page=1", json!([])).len(), 2);
    }
}

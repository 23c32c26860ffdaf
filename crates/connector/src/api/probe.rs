//! Proposes the options of an `api` source: from one page of it, and from a few more answers where only a second one
//! tells. What a config says already is kept, and nothing is guessed beside it.

mod fields;
mod page;
mod ways;

use std::time::Duration;

use matome_egress::HttpClient;
use matome_egress::header::{self, HeaderMap};
use matome_model::clock::Clock;
use matome_model::field_error::{FieldError, Words};
use matome_model::say;
use matome_model::source::{Dedupe, SourceType};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::config::ApiConfig;
use super::tokens::Tokens;
use crate::config::{ParsedConfig, validate_config};
use crate::error::ConnectorError;
use crate::json::JsonPath;
use crate::probe::{self, Finding, Proposal};
use crate::record::ReadStats;
use page::{Ask, Page};

/// So many requests are made at most, those that are only tried included.
const REQUEST_LIMIT: u64 = 16;
/// With fewer left, what a source says it allows is not used up by guesses.
const LEFT_LEAST: i64 = 20;

/// Looks at one API.
pub(crate) struct Probe {
    pub(crate) client: HttpClient,
    pub(crate) clock: Clock,
    pub(crate) tokens: Tokens,
    /// Nothing more is tried from then on.
    pub(crate) until: Instant,
    given: Map<String, Value>,
    stats: ReadStats,
    /// The source allows no more guesses.
    is_spent: bool,
}

impl Probe {
    /// `time`: how long guesses may go on.
    pub(crate) fn new(client: HttpClient, clock: Clock, tokens: Tokens, time: Duration) -> Self {
        let stats = ReadStats::default();
        let until = Instant::now() + time;
        Self { client, clock, tokens, until, given: Map::new(), stats, is_spent: false }
    }

    /// Looks at the API that `config`, with its secrets in place, describes.
    ///
    /// # Errors
    /// [`ConnectorError`] when the config is wrong or its first page can not be read.
    pub(crate) async fn run(mut self, config: &str) -> Result<Proposal, ConnectorError> {
        let config = parsed(config)?;
        if config.1.parent.is_some() {
            let words = Words::new(
                "Only one list can be looked at: leave `parent` out, and put a value in place of its placeholders.",
                "調べられるのは1つのリストだけです。`parent` を省き、プレースホルダの代わりに値を入れてください。",
            );
            return Err(ConnectorError::Config(vec![FieldError::new(&["parent"], words)]));
        }
        let (given, config) = config;
        self.given = given;
        let mut findings = Vec::new();
        let first = self.page(&Map::new(), Ask::First).await?;
        self.is_spent = is_spent(&first.headers);
        self.given.extend(options_of(&first.says));
        findings.extend(first.says.iter().cloned());
        let resource = probe::resource(&first.url);
        let path =
            match self.given.contains_key("records") || self.given.get("format").is_some_and(|word| word != "json") {
                true => config.list.records.clone(),
                false => {
                    let found = probe::find(&first.body, resource.as_deref());
                    findings.push(found.finding(first.bytes, first.is_cut));
                    found.path
                }
            };
        let records = probe::select(&first.body, &path, first.is_cut);
        if !self.given.contains_key("pagination") {
            findings.push(self.pagination(&first, &path, &records).await);
        }
        if !self.given.contains_key("key") && !matches!(config.common.dedupe, Dedupe::Rows | Dedupe::None) {
            findings.push(probe::key(&records, resource.as_deref()));
        }
        if !self.given.contains_key("incremental") && !matches!(config.common.dedupe, Dedupe::Rows | Dedupe::None) {
            findings.push(self.incremental(&path, &records).await);
        }
        if !self.given.contains_key("rate") {
            findings.extend(rate(&first.headers));
        }
        findings.extend(caching(&first.headers));
        Ok(Proposal { options: options_of(&findings).collect(), findings, stats: self.stats })
    }

    /// Whether another request may be made that is a guess.
    fn may_try(&self) -> bool {
        !self.is_spent && self.stats.requests < REQUEST_LIMIT && Instant::now() < self.until
    }

    /// A page that may not be there; nothing when it is not, or no more may be tried.
    async fn attempt(&mut self, options: &Map<String, Value>, ask: Ask<'_>) -> Option<Page> {
        if !self.may_try() {
            return None;
        }
        let until = self.until;
        let page = tokio::time::timeout_at(until, self.page(options, ask)).await.ok()?.ok()?;
        self.is_spent |= is_spent(&page.headers);
        Some(page)
    }

    /// Which records are new, and how to ask for them.
    async fn incremental(&mut self, path: &JsonPath, records: &[Value]) -> Finding {
        let option = "incremental";
        let nothing = |words: Words| Finding { option, value: None, words };
        let Some(cursor) = fields::cursor(records) else {
            return nothing(Words::new(
                "no field says when a record changed: every read asks for everything",
                "レコードがいつ変わったかを示すフィールドがありません。毎回すべてを読みます",
            ));
        };
        let name = &cursor.name;
        if let Some((since, kind)) = cursor.middle() {
            for param in fields::params(name) {
                let value = json!({"cursor": probe::member("$", name), "kind": kind.as_str(), "param": param});
                let options = Map::from_iter([(option.to_owned(), value.clone())]);
                let Some(page) = self.attempt(&options, Ask::Since(&since)).await else { continue };
                if cursor.is_obeyed(&probe::select(&page.body, path, page.is_cut), &since) {
                    let words = say!(
                        "`{name}` says when a record changed, and `{param}` asks for those from a time on (tried with `{since}`)",
                        "`{name}` がレコードの変わった時を示し、`{param}` でそれ以降のものを求められます (`{since}` で確かめました)"
                    );
                    return Finding { option, value: Some(value), words };
                }
            }
        }
        nothing(say!(
            "`{name}` may say when a record changed, but no parameter was found that asks for later ones: if the API has \
             one, set `incremental.cursor=$.{name}` and `incremental.param`",
            "`{name}` がレコードの変わった時を示すようですが、それ以降を求めるパラメータが見つかりませんでした。API にあるなら \
             `incremental.cursor=$.{name}` と `incremental.param` を指定してください"
        ))
    }
}

/// The options that findings propose.
fn options_of(findings: &[Finding]) -> impl Iterator<Item = (String, Value)> + '_ {
    findings.iter().filter_map(|finding| Some((finding.option.to_owned(), finding.value.clone()?)))
}

/// A config as an object and as what it means.
fn parsed(config: &str) -> Result<(Map<String, Value>, Box<ApiConfig>), ConnectorError> {
    match validate_config(SourceType::Api, config).map_err(ConnectorError::Config)? {
        ParsedConfig::Api(parsed) => Ok((serde_json::from_str(config).unwrap_or_default(), parsed)),
        _ => Err(ConnectorError::Draft),
    }
}

/// Names of headers that say how many requests are left, and when there are more.
const RATE_HEADERS: [(&str, &str); 3] = [
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("x-rate-limit-remaining", "x-rate-limit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
];

fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn is_spent(headers: &HeaderMap) -> bool {
    let left = RATE_HEADERS.iter().find_map(|(remaining, _)| number(headers, remaining));
    left.is_some_and(|left| left < LEFT_LEAST)
}

/// How the source says how often it may be asked.
fn rate(headers: &HeaderMap) -> Option<Finding> {
    let (remaining, reset) = RATE_HEADERS.iter().find(|(left, _)| number(headers, left).is_some())?;
    let at = number(headers, reset)?;
    // A time since 1970, or a wait: no wait is thirty years.
    let reset_as = if at > 1_000_000_000 { "epoch" } else { "seconds" };
    let value = json!({"remaining": remaining, "reset": reset, "reset_as": reset_as});
    let words = say!(
        "the header `{remaining}` says how many requests are left",
        "ヘッダー `{remaining}` が残りのリクエスト数を示しています"
    );
    Some(Finding { option: "rate", value: Some(value), words })
}

/// Whether an unchanged page can be told.
fn caching(headers: &HeaderMap) -> Option<Finding> {
    let name = [header::ETAG, header::LAST_MODIFIED].into_iter().find(|name| headers.contains_key(name))?;
    let words = say!(
        "pages come with `{name}`: those that did not change are not sent again (conditional requests)",
        "ページに `{name}` が付いています。変わっていないページは送られてきません (条件付きリクエスト)"
    );
    Some(Finding { option: "caching", value: None, words })
}

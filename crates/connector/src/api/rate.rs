//! How often a source may be asked.

use std::time::Duration;

use chrono::{DateTime, Utc};
use matome_egress::Rate;
use matome_egress::header::{HeaderMap, HeaderName};
use matome_model::field_error::Words;

use super::config::not_a_header_name;
use crate::config::Fields;
use crate::error::RETRY_AFTER_LIMIT;

/// `rate`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateConfig {
    /// `requests` and `per_secs`: the budget of the host of `url`, which all sources on that host keep to.
    pub budget: Option<Rate>,
    /// `concurrent`: how many tasks may read from the host of `url` at a time, whatever source and worker they are of.
    pub concurrent: Option<u32>,
    /// `remaining`, `reset` and `reset_as`: headers in which answers tell what is left.
    pub headers: Option<RateHeaders>,
}

/// Headers such as `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateHeaders {
    /// How many requests are left.
    pub remaining: HeaderName,
    /// When there are more again.
    pub reset: HeaderName,
    /// `reset_as`: whether that is a time (seconds since 1970) instead of seconds from now.
    pub is_epoch: bool,
}

impl RateConfig {
    /// Reads `rate`.
    pub(super) fn parse(fields: &mut Fields) -> Self {
        let Some(mut own) = fields.nested("rate") else { return Self::default() };
        let together = |own: &mut Fields, one: &str, other: &str| {
            if own.has(one) && !own.has(other) {
                let words = Words::new(
                    format!("This field is required with `{one}`."),
                    format!("`{one}` を使うときは必須です。"),
                );
                own.fail(other, words);
            }
        };
        if !["requests", "remaining", "concurrent"].iter().any(|name| own.has(name)) {
            own.fail(
                "requests",
                Words::new(
                    "Give `requests` and `per_secs`, `remaining` and `reset`, or `concurrent`.",
                    "`requests` と `per_secs`、`remaining` と `reset`、または `concurrent` を指定してください。",
                ),
            );
        }
        for (one, other) in [("requests", "per_secs"), ("per_secs", "requests"), ("remaining", "reset")] {
            together(&mut own, one, other);
        }
        let requests = own.integer("requests", 1, 10_000).and_then(|requests| u32::try_from(requests).ok());
        let per = own.integer("per_secs", 1, 3600).map(Duration::from_secs);
        let concurrent = own.integer("concurrent", 1, 1000).and_then(|tasks| u32::try_from(tasks).ok());
        let mut header = |name: &str| {
            own.string(name).and_then(|text| match text.parse::<HeaderName>() {
                Ok(name) => Some(name),
                Err(_) => {
                    own.fail(name, not_a_header_name());
                    None
                }
            })
        };
        let (remaining, reset) = (header("remaining"), header("reset"));
        let is_epoch = own.choice("reset_as", &[("seconds", false), ("epoch", true)]).unwrap_or(false);
        fields.absorb(own);
        let budget = requests.zip(per).map(|(requests, per)| Rate { requests, per });
        let headers = remaining.zip(reset).map(|(remaining, reset)| RateHeaders { remaining, reset, is_epoch });
        Self { budget, concurrent, headers }
    }
}

impl RateHeaders {
    /// How long nothing may be asked for, when an answer says that nothing is left; at most a day.
    pub(super) fn wait(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
        let number = |name: &HeaderName| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
        if number(&self.remaining)? > 0 {
            return None;
        }
        let reset = number(&self.reset)?;
        let secs = if self.is_epoch { reset.saturating_sub(now.timestamp()) } else { reset };
        let wait = Duration::from_secs(u64::try_from(secs).unwrap_or(0));
        Some(wait.min(RETRY_AFTER_LIMIT)).filter(|wait| !wait.is_zero())
    }
}

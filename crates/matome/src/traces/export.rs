//! Sends spans to a collector: OTLP over HTTP, protobuf.

use std::time::{Duration, Instant};

use matome_egress::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use matome_egress::{EgressRule, HttpClient, Method, Policy, Request, StatusCode};
use matome_model::complaint::Complaint;
use matome_model::field_error::Words;
use matome_model::say;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use percent_encoding::percent_decode_str;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::dropped;

/// Spans of one request at most.
const AT_ONCE: usize = 512;
/// A span waits so long for others to go with.
const GATHER: Duration = Duration::from_secs(1);
/// What a collector may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Waits between tries; then the spans of the request are lost.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// At the end, so long for what is still to be sent.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where spans go, and what they say of the process.
#[derive(Debug)]
pub struct Collector {
    url: Url,
    headers: HeaderMap,
    resource: Resource,
}

impl Collector {
    /// The collector at `endpoint`, as `OTEL_EXPORTER_OTLP_ENDPOINT` names it, with headers as `OTEL_EXPORTER_OTLP_HEADERS` has
    /// them (`name=value,...`, percent-encoded), for a process with these attributes.
    ///
    /// # Errors
    /// What is wrong with the address or the headers.
    pub fn new(endpoint: &str, headers: &str, attributes: &[(&str, String)]) -> Result<Self, Words> {
        let mut url = Url::parse(endpoint.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = match &mut url {
            Some(url) => {
                let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
                url.set_path(&path);
                url.clone()
            }
            None => {
                return Err(Words::new(
                    "the address does not begin with `http://` or `https://`",
                    "アドレスが `http://` か `https://` で始まりません",
                ));
            }
        };
        let attribute = |(key, value): &(&str, String)| {
            let value = Some(AnyValue { value: Some(Value::StringValue(value.clone())) });
            KeyValue { key: (*key).to_owned(), value, ..KeyValue::default() }
        };
        let resource = Resource { attributes: attributes.iter().map(attribute).collect(), ..Resource::default() };
        Ok(Self { url, headers: parse_headers(headers)?, resource })
    }
}

fn parse_headers(text: &str) -> Result<HeaderMap, Words> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let parsed = pair.split_once('=').and_then(|(name, value)| {
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name.trim()).ok()?, value))
        });
        // The value is a secret, the name is none.
        let name = pair.split('=').next().unwrap_or_default();
        let (name, value) = parsed.ok_or_else(|| {
            say!(
                "the header `{name}` is not of the form name=value",
                "ヘッダー `{name}` が name=value の形ではありません"
            )
        })?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// What sends the spans of this process, once it is started.
#[derive(Debug)]
pub struct Export {
    collector: Collector,
    spans: mpsc::Receiver<Span>,
}

/// The same, at work.
#[derive(Debug)]
pub struct Exporting {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Export {
    pub(super) fn new(collector: Collector, spans: mpsc::Receiver<Span>) -> Self {
        Self { collector, spans }
    }

    /// Sends from now on, beside everything else.
    pub fn start(self) -> Exporting {
        let stop = CancellationToken::new();
        Exporting { task: tokio::spawn(self.run(stop.clone())), stop }
    }

    async fn run(mut self, stop: CancellationToken) {
        // Who runs the process names the collector, as the database and Redis: no rule has to allow it besides.
        let everywhere = ["0.0.0.0/0", "::/0"].map(|range| range.parse::<EgressRule>().expect("a range of addresses"));
        let client = HttpClient::new(Policy::new(everywhere));
        let mut complaint = Complaint::default();
        loop {
            let mut batch = Vec::new();
            let first = tokio::select! {
                first = self.spans.recv() => first,
                () = stop.cancelled() => self.spans.try_recv().ok(),
            };
            let Some(first) = first else { return };
            batch.push(first);
            let gathered = async {
                while batch.len() < AT_ONCE {
                    let Some(span) = self.spans.recv().await else { return };
                    batch.push(span);
                }
            };
            tokio::select! {
                () = gathered => {}
                () = tokio::time::sleep(GATHER) => {}
                () = stop.cancelled() => {}
            }
            // What has come and was not waited for.
            while batch.len() < AT_ONCE
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            let count = batch.len();
            match self.send(&client, batch).await {
                Ok(()) if complaint.over() => tracing::info!("traces are taken again"),
                Ok(()) => {}
                Err(why) => {
                    dropped(count);
                    if let Some(kept_back) = complaint.due(Instant::now()) {
                        tracing::warn!(error = why, kept_back, "traces cannot be sent: {count} spans are lost");
                    }
                }
            }
        }
    }

    async fn send(&self, client: &HttpClient, spans: Vec<Span>) -> Result<(), String> {
        let scope = InstrumentationScope {
            name: "matome".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.collector.resource.clone());
        let of_us = ResourceSpans { resource, scope_spans, ..ResourceSpans::default() };
        let body = ExportTraceServiceRequest { resource_spans: vec![of_us] }.encode_to_vec();
        let mut waits = WAITS.into_iter();
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            let request = Request {
                method: Method::POST,
                body: Some(body.clone()),
                headers,
                origin_headers: self.collector.headers.clone(),
                timeout: ANSWER_WITHIN,
                ..Request::new(self.collector.url.clone())
            };
            let (why, may_pass) = match client.send(request).await {
                Ok(response) if response.status.is_success() => return Ok(()),
                Ok(response) => {
                    let status = response.status;
                    let busy = matches!(status, StatusCode::TOO_MANY_REQUESTS) || matches!(status.as_u16(), 502..=504);
                    (format!("the collector answered {status}"), busy)
                }
                Err(err) => (told(&err), true),
            };
            match waits.next().filter(|_| may_pass) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(why),
            }
        }
    }
}

/// An error with its causes.
fn told(err: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(err), |err| err.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}

impl Exporting {
    /// Sends what is left, if that goes quickly.
    pub async fn stop(self) {
        self.stop.cancel();
        let task = self.task.abort_handle();
        if tokio::time::timeout(LAST_WORDS, self.task).await.is_err() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_as_elsewhere() {
        let of = |endpoint: &str, headers: &str| Collector::new(endpoint, headers, &[]);
        assert_eq!(of("http://h:4318", "").unwrap().url.as_str(), "http://h:4318/v1/traces");
        assert_eq!(of("https://h/otlp/", "").unwrap().url.as_str(), "https://h/otlp/v1/traces");
        let headers = of("http://h", "authorization=Basic%20dTpw, x-scope=a").unwrap().headers;
        assert_eq!((headers["authorization"].to_str().unwrap(), headers.len()), ("Basic dTpw", 2));
        assert!(of("h:4317", "").is_err() && of("grpc://h", "").is_err());
        let err = of("http://h", "authorization=a%0Ab").unwrap_err().english;
        assert!(err.contains("`authorization`") && !err.contains("a%0Ab"), "{err}");
    }
}

//! Answers about one version of a result: known again by their `ETag`, and kept in Redis for whoever asks the same next.
//!
//! Nothing is ever taken back from there. An answer stands under a name that has in it what the request asks and which
//! version is shown, which the database says anew at each request: when a run is published, nobody asks for the old name any
//! more. It is sealed, so that what comes back is what a process with the same master key put there, or nothing.

use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use matome_model::task::Queue;
use matome_store::listing::aggregated::Version;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::endpoint::Call;
use crate::error::Result;
use crate::openapi;

/// A larger answer is not kept.
const LARGEST: usize = 256 << 10;

/// The same for all that ask for the same, whatever their method and language, which do not change the answer: hexadecimal digits.
fn digest(call: &Call, version: &Version) -> String {
    let mut hash = Sha256::new();
    // Another build may write an answer in another way.
    let build = (env!("CARGO_PKG_VERSION"), matome_store::migrate::SCHEMA_VERSION);
    let asked = (&call.origin, call.path.trim_end_matches('/'), &call.query);
    hash.update(format!("{build:?}{asked:?}{version:?}"));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The answer to a request for what is shown of one aggregation; `make` makes it.
pub(crate) async fn answer(
    call: &Call,
    version: &Version,
    make: impl Future<Output = Result<Response>>,
) -> Result<Response> {
    let digest = digest(call, version);
    let tag = HeaderValue::from_str(&format!("W/\"{}\"", &digest[..32])).expect("hexadecimal digits");
    if shows(&call.headers, &tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(tagged(response, tag));
    }
    let bus = &call.state.bus;
    if !bus.is_shared() {
        return Ok(tagged(make.await?, tag));
    }
    let name = format!("answer:{digest}");
    let kept = bus.kept(Queue::Aggregation, &name).await;
    if let Some(body) = kept.and_then(|sealed| call.state.vault.open_from_away(&name, &sealed)) {
        count("hit");
        let mut response = Response::new(Body::from(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(tagged(response, tag));
    }
    count("miss");
    let response = make.await?;
    if response.status() != StatusCode::OK {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("an answer of ours that is in memory already");
    if bytes.len() <= LARGEST {
        bus.keep(Queue::Aggregation, &name, || call.state.vault.seal_for_away(&name, &bytes));
    }
    Ok(tagged(Response::from_parts(parts, Body::from(bytes)), tag))
}

/// Adds to the description of the list that [`answer`] answers.
pub(crate) fn describe(described: &mut Value) {
    described["responses"]["304"] =
        json!({"description": "With `source`: no run was published since the answer with this `ETag`."});
    let what = "The `ETag` of an earlier answer to a request with `source`.";
    openapi::add_header(described, "If-None-Match", json!({"type": "string"}), what);
}

fn count(outcome: &'static str) {
    metrics::counter!("matome_response_cache_total", "outcome" => outcome).increment(1);
}

/// Whoever has it may keep it, and asks each time whether it still holds.
fn tagged(mut response: Response, tag: HeaderValue) -> Response {
    response.headers_mut().insert(header::ETAG, tag);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

/// Whether the one who asks has the answer with this tag already.
fn shows(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let wanted = tag.to_str().map(strong).unwrap_or_default();
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|given| given.trim() == "*" || strong(given) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_among_others_weak_or_strong() {
        let tag = HeaderValue::from_static("W/\"ab\"");
        for (given, known) in [
            ("W/\"ab\"", true),
            ("\"ab\"", true),
            ("\"x\", W/\"ab\"", true),
            ("*", true),
            ("\"abc\"", false),
            ("ab", false),
        ] {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(given))]);
            assert_eq!(shows(&headers, &tag), known, "{given}");
        }
        assert!(!shows(&HeaderMap::new(), &tag));
    }
}

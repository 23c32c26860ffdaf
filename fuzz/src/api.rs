//! Pages of APIs, which come from whoever answers, and the templates of what is asked for.

use std::sync::LazyLock;

use matome_connector::api::ApiConfig;
use matome_connector::api::offline::{Wanted, behind, first};
use matome_connector::{ParsedConfig, validate_config};
use matome_model::source::SourceType;
use serde_json::{Value, json};

/// Ways from one page to the next, and whether the host of the next one is that of the list whatever the page says.
const WAYS: &[(&str, bool)] = &[
    (r#"{"url":"http://h/a?x=1","records":"$.a","pagination":{"type":"next_link","next":"$.next"}}"#, false),
    (r#"{"url":"http://h/a?x=1","records":"$.a","pagination":{"type":"link_header"}}"#, false),
    (r#"{"url":"http://h/a?x=1","format":"ndjson","pagination":{"type":"link_header"}}"#, false),
    (
        r#"{"url":"http://h/a?x=1","records":"$.a","pagination":{"type":"cursor","next":"$.next","has_more":"$.more"}}"#,
        true,
    ),
    (r#"{"url":"http://h/a?x=1","records":"$.a","pagination":{"type":"cursor","header":"x-next"}}"#, true),
    (
        r#"{"url":"http://h/a?x=1","records":"$.a","body":{"after":"{page}"},"pagination":{"type":"cursor","next":"$.next"}}"#,
        true,
    ),
    (
        r#"{"url":"http://h/a/{page}?x=1","records":"$.a","pagination":{"type":"offset","size":2,"total":"$.next"}}"#,
        true,
    ),
];

fn config(text: &str) -> Option<ApiConfig> {
    match validate_config(SourceType::Api, text) {
        Ok(ParsedConfig::Api(config)) => Some(*config),
        Ok(other) => panic!("{other:?} is no config of an API"),
        Err(errors) => {
            assert!(errors.iter().all(|error| !error.message.english.is_empty()), "{text}");
            None
        }
    }
}

/// A walk in each way, with its first request.
static WALKS: LazyLock<Vec<(&str, bool, ApiConfig, Wanted)>> = LazyLock::new(|| {
    let walk = |(way, stays): &(&'static str, bool)| {
        let config = config(way).expect("the ways are valid");
        let asked = first(&config).expect("so is their first page");
        (*way, *stays, config, asked)
    };
    WAYS.iter().map(walk).collect()
});

/// The first line is a header of the answer, the rest its body. In pieces and whole the same is found; what a page says chooses
/// neither the host of a list nor another parameter than its own, and a token is sent back as it came.
pub fn pages(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, body) = (&bytes[..at], &bytes[(at + 1).min(bytes.len())..]);
    for (way, stays, config, asked) in WALKS.iter() {
        let whole = behind(config, asked, header, [body]);
        let length = usize::from(bytes.first().copied().unwrap_or_default() % 7) + 1;
        for length in [length, 1] {
            assert_eq!(behind(config, asked, header, body.chunks(length)), whole, "{way} in pieces of {length} bytes");
        }
        match whole.1 {
            Err(problem) => assert!(!problem.is_empty(), "{way}"),
            Ok(next) => {
                if let (Some(next), true) = (&next, *stays) {
                    assert_eq!(next.url.origin(), asked.url.origin(), "{way}: {}", next.url);
                    assert!(next.url.query_pairs().any(|pair| pair == ("x".into(), "1".into())), "{way}: {}", next.url);
                    assert_eq!(next.url.fragment(), None, "{way}");
                }
                if let Some(token) = token(body) {
                    sent_back(way, &token, next.as_ref());
                }
                if way.contains("link_header")
                    && let Some(link) = only_link(header)
                {
                    let expected = asked.url.join(link).map(String::from).ok();
                    assert_eq!(next.map(|next| next.name), expected, "{way}: {link}");
                }
            }
        }
    }
}

/// The text at `$.next`, where it is a token that is there once.
fn token(body: &[u8]) -> Option<String> {
    let page: Value = serde_json::from_slice(body).ok()?;
    let token = page.get("next")?.as_str().filter(|token| !token.is_empty() && token.len() <= 4096)?;
    let times = body.windows(4).filter(|name| *name == b"next").count();
    (times == 1 && page.get("more").is_none() && !body.contains(&b'\\')).then(|| token.to_owned())
}

fn sent_back(way: &str, token: &str, next: Option<&Wanted>) {
    let sent = |next: &Wanted, name: &str| {
        next.url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    if way.contains("has_more") {
        let next = next.expect("a token leads on");
        assert_eq!(sent(next, "cursor").as_deref(), Some(token), "{way}");
        assert_eq!(next.url.path(), "/a", "{way}");
    }
    if way.contains("after") {
        let next = next.expect("a token leads on");
        let body: Value = serde_json::from_slice(next.body.as_deref().expect("it is posted")).unwrap();
        assert_eq!(body, json!({"after": token}), "{way}");
    }
}

/// The target of a header that has one link, plainly written.
fn only_link(header: &[u8]) -> Option<&str> {
    let target = std::str::from_utf8(header).ok()?.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
    // A header can not carry these, and what stands around a target means nothing.
    let is_plain = !target.contains(['<', '>']) && !target.contains(char::is_control) && target == target.trim();
    is_plain.then_some(target)
}

/// A text stands for itself in each place of a request once its braces are doubled; any other is refused, or what is asked for stays
/// on the host of the list.
pub fn templates(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let escaped = text.replace('{', "{{").replace('}', "}}");
    for option in [
        json!({"url": format!("http://h/a/{text}")}),
        json!({"url": format!("http://h/a?b={text}"), "headers": {"X-A": text}}),
        json!({"params": {"a": text}, "form": {"a": text}}),
        json!({"body": {"a": [text]}}),
    ] {
        let mut whole = json!({
            "url": "http://h/a", "incremental": {"cursor": "$.id", "kind": "integer", "start": 7, "param": "since"},
            "pagination": {"type": "cursor", "next": "$.next"},
        });
        whole.as_object_mut().unwrap().extend(option.as_object().unwrap().clone());
        let Some(config) = config(&whole.to_string()) else { continue };
        match first(&config) {
            Err(problem) => assert!(!problem.is_empty(), "{whole}"),
            Ok(asked) => {
                assert_eq!(asked.url.origin().ascii_serialization(), "http://h", "{whole}");
                if let (Some(body), None) = (&asked.body, option.get("form")) {
                    assert!(serde_json::from_slice::<Value>(body).is_ok(), "{whole}: {}", body.escape_ascii());
                }
            }
        }
    }
    let params = json!({"url": "http://h/a", "params": {"a": escaped}, "body": {"a": escaped}});
    if let Some(config) = config(&params.to_string()) {
        let asked = first(&config).expect("what stands for itself fits everywhere");
        let sent = asked.url.query_pairs().find(|(name, _)| name == "a").map(|(_, value)| value.into_owned());
        assert_eq!(sent.as_deref(), Some(std::str::from_utf8(bytes).unwrap()));
        let body: Value = serde_json::from_slice(&asked.body.unwrap()).unwrap();
        assert_eq!(body["a"], std::str::from_utf8(bytes).unwrap());
    }
}

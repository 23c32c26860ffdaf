//! Paginations by offset, token and header; requests with bodies and placeholders.

use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use matome_connector::{Advice, ConnectorError, ReadRequest};

use crate::support::{Asked, Server, after, failure, json, raws, read_all, read_until, records};

/// `count` records from `first` on, as far as there are seven.
fn seven(first: u64, count: u64) -> String {
    let numbers = (first..(first + count).min(7)).map(|n| format!(r#"{{"n":{n}}}"#));
    numbers.collect::<Vec<_>>().join(",")
}

fn all_seven() -> Vec<String> {
    (0..7).map(|n| format!(r#"{{"n":{n}}}"#)).collect()
}

#[tokio::test]
async fn offsets_go_on_to_a_short_page_or_to_the_total() {
    let server = Server::answering(|asked| {
        let number = |name| asked.parameter(name).unwrap().parse::<u64>().unwrap();
        // A server with its own idea of the most it gives.
        let most = if asked.uri.path() == "/three" { 3 } else { u64::MAX };
        json(format!(r#"{{"total":7,"rows":[{}]}}"#, seven(number("offset"), number("limit").min(most))))
    })
    .await;
    let config = |path: &str, more: &str| {
        format!(r#"{{"url":"http://HOST/{path}","records":"$.rows","pagination":{{"type":"offset","size":5{more}}}}}"#)
    };
    assert_eq!(records(&*server.connector(&config("all", ""))).await, all_seven());
    assert_eq!(server.paths(), ["/all?limit=5&offset=0", "/all?limit=5&offset=5"]);
    assert_eq!(records(&*server.connector(&config("three", r#","total":"$.total""#))).await, all_seven());
    assert_eq!(server.paths().last().unwrap(), "/three?limit=5&offset=6");
    let from = server.connector(&config("all", r#","start":3,"param":"offset","size_param":"limit""#));
    assert_eq!(records(&*from).await, all_seven()[3..]);
}

#[tokio::test]
async fn a_link_header_leads_on() {
    let server = Server::answering(|asked| {
        let page: u64 = asked.parameter("p").map_or(0, |page| page.parse().unwrap());
        let mut response = json(format!("[{}]", seven(page * 3, 3)));
        if page < 2 {
            let link = format!(r#"</x?p=0>; rel="first", </x?p={}>; rel="next""#, page + 1);
            response.headers_mut().insert("link", link.parse().unwrap());
        }
        response
    })
    .await;
    let config = r#"{"url":"http://HOST/x","pagination":{"type":"link_header"}}"#;
    assert_eq!(records(&*server.connector(config)).await, all_seven());
    assert_eq!(server.paths(), ["/x", "/x?p=1", "/x?p=2"]);
}

/// Pages of three records; the token of each is its first number in a form that has to be encoded.
fn by_token(token: Option<String>) -> (String, String) {
    let first: u64 = token.map_or(0, |token| token.strip_prefix("t&/=日 ").unwrap().parse().unwrap());
    let next = if first + 3 < 7 { format!("\"t&/=日 {}\"", first + 3) } else { "null".to_owned() };
    (format!("[{}]", seven(first, 3)), next)
}

#[tokio::test]
async fn a_token_of_the_body_is_sent_back_as_it_came() {
    let server = Server::answering(|asked| {
        let (rows, next) = by_token(asked.parameter("after"));
        json(format!(r#"{{"meta":{{"next":{next},"more":{}}},"rows":{rows}}}"#, next != "null"))
    })
    .await;
    for more in ["", r#","has_more":"$.meta.more""#] {
        let config = format!(
            r#"{{"url":"http://HOST/?q=a%20b","records":"$.rows","pagination":{{"type":"cursor","next":"$.meta.next","param":"after"{more}}}}}"#
        );
        assert_eq!(records(&*server.connector(&config)).await, all_seven());
        assert_eq!(server.asked()[2].uri.query().unwrap(), "q=a%20b&after=t%26%2F%3D%E6%97%A5+6");
    }
}

#[tokio::test]
async fn a_token_of_a_header_goes_into_a_header_or_a_body() {
    let server = Server::answering(|asked| {
        let token = match asked.uri.path() {
            "/header" => asked.header("x-page").unwrap().to_owned(),
            "/body" => serde_json::from_str::<serde_json::Value>(&asked.body).unwrap()["page"].to_string(),
            _ => asked.body.strip_prefix("page=").unwrap().to_owned(),
        };
        let first: u64 = token.trim_matches('"').parse().unwrap_or(0);
        let mut response = json(format!("[{}]", seven(first, 3)));
        if first + 3 < 7 {
            response.headers_mut().insert("x-next", (first + 3).to_string().parse().unwrap());
        }
        response
    })
    .await;
    let pagination = r#""pagination":{"type":"cursor","header":"X-Next"}"#;
    for (path, request) in [
        ("header", r#""headers":{"X-Page":"{page}","X-Now":"{now}"}"#),
        ("body", r#""body":{"page":"{page}","exact":123456789012345678901234567890}"#),
        ("form", r#""form":{"page":"{page}"}"#),
    ] {
        let config = format!(r#"{{"url":"http://HOST/{path}",{pagination},{request}}}"#);
        let batches = read_all(&*server.connector(&config), ReadRequest::default()).await.unwrap();
        assert_eq!(raws(&batches), all_seven(), "{path}");
        let asked = server.asked();
        assert_eq!(asked.len(), 3);
        assert!(asked.iter().all(|asked| asked.uri.query().is_none()), "{asked:?}");
        match path {
            "header" => assert_eq!(asked[0].header("x-now"), Some("2026-01-01T00:00:00Z")),
            "body" => {
                assert_eq!(asked[0].body, r#"{"exact":123456789012345678901234567890,"page":null}"#);
                assert_eq!(asked[1].body, r#"{"exact":123456789012345678901234567890,"page":"3"}"#);
                assert_eq!(
                    (&asked[0].method, asked[0].header("content-type")),
                    (&Method::POST, Some("application/json"))
                );
            }
            _ => assert_eq!(asked[2].header("content-type"), Some("application/x-www-form-urlencoded")),
        }
        let document = batches[1].items[0].position().document.to_string();
        assert!(document.ends_with(&format!("/{path}#page=3")), "{document}");
    }
}

#[tokio::test]
async fn a_counted_page_stands_in_the_path_or_the_body_as_a_number() {
    let server = Server::answering(|asked| {
        let page: u64 = match asked.body.as_str() {
            "" => asked.uri.path().rsplit('/').next().unwrap().parse().unwrap(),
            body => serde_json::from_str::<serde_json::Value>(body).unwrap()["n"].as_u64().unwrap(),
        };
        json(format!("[{}]", seven((page - 1) * 3, 3)))
    })
    .await;
    let pagination = r#""pagination":{"type":"page_number","size":3}"#;
    for request in [r#""url":"http://HOST/list/{page}""#, r#""url":"http://HOST/","body":{"n":"{page}"}"#] {
        assert_eq!(records(&*server.connector(&format!("{{{request},{pagination}}}"))).await, all_seven());
    }
}

/// Three pages that begin at 0, 3 and 6, whatever names them; the fourth is never asked for.
fn pages_of(asked: &Asked) -> axum::response::Response {
    let first: u64 =
        ["offset", "cursor", "p"].iter().find_map(|name| asked.parameter(name)).map_or(0, |n| n.parse().unwrap());
    let next = if first + 3 < 7 { (first + 3).to_string() } else { String::new() };
    let mut response = json(format!(r#"{{"next":"{next}","rows":[{}]}}"#, seven(first, 3)));
    if !next.is_empty() {
        response.headers_mut().insert("link", format!("<?p={next}>; rel=next").parse().unwrap());
    }
    response
}

const THREE_KINDS: [&str; 3] =
    [r#"{"type":"offset","size":3}"#, r#"{"type":"cursor","next":"$.next"}"#, r#"{"type":"link_header"}"#];

#[tokio::test]
async fn a_read_that_is_killed_anywhere_goes_on_at_its_page() {
    let server = Server::answering(pages_of).await;
    for pagination in THREE_KINDS {
        for dedupe in ["hash", "none"] {
            let config =
                format!(r#"{{"url":"http://HOST/","records":"$.rows","dedupe":"{dedupe}","pagination":{pagination}}}"#);
            let connector = server.connector(&config);
            let request = ReadRequest { resume_inside: dedupe == "none", max_items: 2, ..ReadRequest::default() };
            let whole = read_all(&*connector, request.clone()).await.unwrap();
            assert_eq!(raws(&whole), all_seven());
            for killed in 1..whole.len() {
                let rest = ReadRequest { checkpoint: Some(whole[killed - 1].checkpoint.clone()), ..request.clone() };
                let rest = raws(&read_all(&*connector, rest).await.unwrap());
                let mut together = raws(&whole[..killed]);
                together.extend(rest);
                if dedupe == "hash" {
                    together.sort();
                    together.dedup();
                }
                assert_eq!(together, all_seven(), "{pagination} after {killed}");
            }
        }
    }
}

#[tokio::test]
async fn a_place_that_the_server_forgot_begins_the_read_anew() {
    let server = Server::answering(|asked| match asked.parameter("cursor").as_deref() {
        Some("old") => StatusCode::GONE.into_response(),
        _ => pages_of(asked),
    })
    .await;
    let config = format!(r#"{{"url":"http://HOST/","records":"$.rows","pagination":{}}}"#, THREE_KINDS[1]);
    let connector = server.connector(&config);
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    let first = reader.next().await.unwrap().unwrap();
    let old = first.checkpoint.get().replace("cursor=3", "cursor=old");
    assert!(old.contains("cursor=old"), "{old}");
    let request = ReadRequest {
        checkpoint: Some(serde_json::value::RawValue::from_string(old).unwrap()),
        ..ReadRequest::default()
    };
    assert_eq!(raws(&read_all(&*connector, request).await.unwrap()), all_seven());
}

#[tokio::test]
async fn every_pagination_notices_that_it_goes_in_a_circle() {
    // Tokens that come again, and pages that come again under new names.
    let server = Server::answering(|asked| match asked.uri.path() {
        "/token" => {
            let next = if asked.parameter("cursor").as_deref() == Some("a") { "b" } else { "a" };
            json(format!(r#"{{"next":"{next}","rows":[]}}"#))
        }
        "/link" => {
            let mut response = json(r#"{"rows":[]}"#);
            response.headers_mut().insert("link", "</link>; rel=next".parse().unwrap());
            response
        }
        "/count" => {
            let n: u64 = asked.parameter("cursor").map_or(0, |n| n.parse().unwrap());
            let mut response = json(r#"{"rows":[{"n":1}]}"#);
            response.headers_mut().insert("x-next", (n + 1).to_string().parse().unwrap());
            response
        }
        _ => json(r#"{"rows":[{"n":1},{"n":2}]}"#),
    })
    .await;
    for (path, pagination) in [
        ("token", r#"{"type":"cursor","next":"$.next"}"#),
        ("link", r#"{"type":"link_header"}"#),
        ("count", r#"{"type":"cursor","header":"X-Next"}"#),
        ("deaf", r#"{"type":"offset","size":2}"#),
        ("deaf", r#"{"type":"page_number"}"#),
    ] {
        let config = format!(r#"{{"url":"http://HOST/{path}","records":"$.rows","pagination":{pagination}}}"#);
        let error = failure(&*server.connector(&config)).await;
        assert!(matches!(error, ConnectorError::Loop { .. }) && error.advice() == Advice::Fail, "{path}: {error}");
        assert!(server.asked().len() <= 4);
    }
}

#[tokio::test]
async fn a_page_behind_which_the_way_is_broken_is_kept() {
    let server = Server::answering(|_| json(r#"{"next":["x"],"rows":[{"n":1}]}"#)).await;
    let config = format!(r#"{{"url":"http://HOST/","records":"$.rows","pagination":{}}}"#, THREE_KINDS[1]);
    let (batches, error) = read_until(&*server.connector(&config), ReadRequest::default()).await;
    assert_eq!(raws(&batches), [r#"{"n":1}"#]);
    assert!(error.unwrap().to_string().contains("pagination.next"));
    assert!(!batches[0].checkpoint.get().contains("\"complete\":true"));
}

#[tokio::test]
async fn a_token_that_is_an_address_is_sent_and_not_followed() {
    let hidden = Server::answering(|_| json("[]")).await;
    let target = format!("http://{}/secret", hidden.address);
    let token = target.clone();
    let server = Server::answering(move |asked| match asked.uri.path() {
        path if path.starts_with("/at/xh") => json(r#"{"next":null,"rows":[{"n":2}]}"#),
        _ if asked.parameter("cursor").is_some() => json(r#"{"next":null,"rows":[{"n":2}]}"#),
        _ => json(format!(r#"{{"next":"{token}","rows":[{{"n":1}}]}}"#)),
    })
    .await;
    let config = |url: &str| {
        format!(r#"{{"url":"http://HOST{url}","records":"$.rows","pagination":{{"type":"cursor","next":"$.next"}}}}"#)
    };
    assert_eq!(records(&*server.connector(&config("/"))).await.len(), 2);
    assert_eq!(server.asked()[1].parameter("cursor"), Some(target.clone()));
    assert_eq!(records(&*server.connector(&config("/at/x{page}"))).await.len(), 2);
    let encoded: String = target.replace(':', "%3A").replace('/', "%2F");
    assert_eq!(server.paths()[1], format!("/at/x{encoded}"));
    assert!(hidden.asked().is_empty());
}

#[tokio::test]
async fn what_is_posted_stays_with_its_host() {
    let other = Server::answering(|_| json(r#"{"rows":[]}"#)).await;
    let target = format!("http://{}/more", other.address);
    let server = Server::answering(move |_| json(format!(r#"{{"next":"{target}","rows":[{{"n":1}}]}}"#))).await;
    let config = server.config(
        r#"{"url":"http://HOST/","records":"$.rows","body":{"q":"mine"},"pagination":{"type":"next_link","next":"$.next"}}"#,
    );
    let connector = crate::support::connector(&[server.address, other.address], &config);
    let (batches, error) = read_until(&*connector, ReadRequest::default()).await;
    assert_eq!(raws(&batches).len(), 1);
    assert!(error.unwrap().to_string().contains("on another host"));
    assert!(other.asked().is_empty());
    let again = read_until(&*connector, after(&batches)).await.1.unwrap();
    assert_eq!(again.advice(), Advice::Fail);
}

//! One document at an address: of which version it is, who asks, and where it is not gone for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use matome_connector::{Advice, ConnectorError, PlaceFault, ReadRequest, validate_config};
use matome_model::source::SourceType;
use serde_json::json;

use super::peer::{Document, Peer, Reply, connector, connector_to_all_of_here, told};
use super::stands::from_script;
use crate::reading::read_until;

fn rows(count: usize) -> Vec<u8> {
    (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>().into_bytes()
}

#[tokio::test]
async fn a_document_is_asked_for_once_and_then_whether_it_is_still_the_same() {
    let document = Document { body: rows(5000), etag: "\"1\"" };
    let peer = Peer::start(move |_, asked| document.answer(asked)).await;
    let config = r#"{"path":"http://HOST/a.ndjson?key=k","files":"changed","headers":{"X-Team":"sales"}}"#;
    let connector = peer.connector(config);
    let (read, error) = read_until(&*connector, ReadRequest::default()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(read.iter().map(|batch| batch.items.len()).sum::<usize>(), 5000);
    assert_eq!(
        read.iter().map(|batch| batch.stats.requests).sum::<u64>(),
        2,
        "the document, and a look at its version"
    );
    let position = read[0].items[0].position();
    assert_eq!(&*position.document, format!("http://{}/a.ndjson", peer.address), "a query may have secrets");
    let asked = peer.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|asked| asked.target == "/a.ndjson?key=k" && asked.header("x-team") == Some("sales")));
    assert_eq!(asked[0].header("accept-encoding"), Some("identity"));
    assert_eq!(asked[1].header("if-none-match"), Some("\"1\""));
    // It has not changed, so it is not read.
    let last = read.last().unwrap().checkpoint.clone();
    let (again, error) =
        read_until(&*connector, ReadRequest { checkpoint: Some(last), ..ReadRequest::default() }).await;
    assert!(error.is_none() && again.iter().all(|batch| batch.items.is_empty()));
    assert_eq!(again.iter().map(|batch| batch.stats.not_modified).sum::<u64>(), 1);
    assert_eq!(again.iter().map(|batch| batch.stats.bytes).sum::<u64>(), 0);
    // Nor is it the next time, by the checkpoint of a read that had nothing to read.
    let last = again.last().unwrap().checkpoint.clone();
    read_until(&*connector, ReadRequest { checkpoint: Some(last), ..ReadRequest::default() }).await;
    let asked = peer.asked();
    assert_eq!(asked.len(), 4, "one request for each look");
    assert!(asked[2..].iter().all(|asked| asked.header("if-none-match") == Some("\"1\"")));
}

#[tokio::test]
async fn a_document_that_has_only_a_time_is_asked_for_by_it() {
    const OLD: &str = "Sat, 31 Jan 2026 09:00:00 GMT";
    let is_new = Arc::new(AtomicBool::new(false));
    let which = is_new.clone();
    let peer = Peer::start(move |_, asked| {
        let is_new = which.load(Ordering::Relaxed);
        let (time, body) = if is_new { ("Sun, 01 Feb 2026 09:00:00 GMT", rows(7)) } else { (OLD, rows(5)) };
        match asked.header("if-modified-since") {
            Some(OLD) if !is_new => Reply::new("304 Not Modified", &[("last-modified", time)], b""),
            _ => Reply::new("200 OK", &[("last-modified", time), ("content-length", &body.len().to_string())], &body),
        }
    })
    .await;
    for dedupe in ["none", "rows"] {
        is_new.store(false, Ordering::Relaxed);
        let connector = peer.connector(&format!(r#"{{"path":"http://HOST/a.ndjson","dedupe":"{dedupe}"}}"#));
        let mut checkpoint = None;
        for (items, requests) in [(5, 2), (0, 1), (7, 2), (0, 1)] {
            is_new.store(items == 7 || is_new.load(Ordering::Relaxed), Ordering::Relaxed);
            let request = ReadRequest {
                checkpoint: checkpoint.take(),
                resume_inside: dedupe == "none",
                counts_equals: dedupe == "rows",
                ..ReadRequest::default()
            };
            let (read, error) = read_until(&*connector, request).await;
            assert!(error.is_none(), "{error:?}");
            assert_eq!(read.iter().map(|batch| batch.items.len()).sum::<usize>(), items, "{dedupe}");
            // The document that is another one comes with the answer to the question.
            assert_eq!(read.iter().map(|batch| batch.stats.requests).sum::<u64>(), requests, "{dedupe}");
            checkpoint = Some(read.last().unwrap().checkpoint.clone());
        }
    }
}

#[tokio::test]
async fn a_document_without_a_version_is_read_each_time() {
    let bodies = [rows(30_000), rows(30_000), rows(30_001)];
    let peer = Peer::start(move |number, _| {
        let body = &bodies[number.min(2)];
        Reply::new("200 OK", &[("content-length", &body.len().to_string())], body)
    })
    .await;
    let connector = peer.connector(r#"{"path":"http://HOST/a.ndjson","files":"changed"}"#);
    let (read, _) = read_until(&*connector, ReadRequest::default()).await;
    let mut last = read.last().unwrap().checkpoint.clone();
    for (items, asked) in [(30_000, 2), (30_001, 3)] {
        let request = ReadRequest { checkpoint: Some(last), ..ReadRequest::default() };
        let (again, error) = read_until(&*connector, request).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(again.iter().map(|batch| batch.items.len()).sum::<usize>(), items);
        assert_eq!(peer.asked().len(), asked, "what is looked at is read; of what has no version nothing can be asked");
        last = again.last().unwrap().checkpoint.clone();
    }
}

#[tokio::test]
async fn a_read_that_goes_on_inside_wants_the_same_version() {
    let old = Document { body: rows(5000), etag: "\"1\"" };
    let new = Document { body: rows(6000), etag: "\"2\"" };
    let is_new = Arc::new(AtomicBool::new(false));
    let which = is_new.clone();
    let peer = Peer::start(move |_, asked| {
        let document = if which.load(Ordering::Relaxed) { &new } else { &old };
        document.answer(asked)
    })
    .await;
    let config = r#"{"path":"http://HOST/a.ndjson","dedupe":"none"}"#;
    let connector = peer.connector(config);
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    let first = reader.next().await.unwrap().unwrap();
    drop(reader);
    let resume = ReadRequest { checkpoint: Some(first.checkpoint), resume_inside: true, ..ReadRequest::default() };
    let (rest, error) = read_until(&*connector, resume.clone()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(first.items.len() + rest.iter().map(|batch| batch.items.len()).sum::<usize>(), 5000);
    is_new.store(true, Ordering::Relaxed);
    let (none, error) = read_until(&*connector, resume).await;
    let no_items = none.iter().all(|batch| batch.items.is_empty());
    assert!(no_items && matches!(error, Some(ConnectorError::Changed { records: 1000, .. })), "{error:?}");
    // That is told once.
    let checkpoint = none.into_iter().next_back().unwrap().checkpoint;
    let anew = ReadRequest { checkpoint: Some(checkpoint), resume_inside: true, ..ReadRequest::default() };
    let (anew, error) = read_until(&*connector, anew).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(anew.iter().map(|batch| batch.items.len()).sum::<usize>(), 6000);
}

#[tokio::test]
async fn credentials_and_headers_go_to_the_origin_only() {
    let elsewhere = Peer::start(|_, _| Reply::new("200 OK", &[("content-length", "8")], b"{\"n\":1}\n")).await;
    let there = elsewhere.address;
    let peer = Peer::start(move |_, asked| match asked.target.as_str() {
        "/moved.ndjson" => Reply::new("302 Found", &[("location", &format!("http://{there}/b.ndjson"))], b""),
        _ => Reply::new("200 OK", &[("content-length", "8")], b"{\"n\":2}\n"),
    })
    .await;
    for (auth, sent) in [
        (json!({"type": "bearer", "token": "s3cret"}), "Bearer s3cret"),
        (json!({"type": "basic", "username": "u", "password": "p"}), "Basic dTpw"),
        (json!({"type": "header", "name": "X-Key", "value": "s3cret"}), "s3cret"),
    ] {
        let path = |name: &str| {
            let path = format!("http://{}/{name}.ndjson", peer.address);
            json!({"path": path, "auth": auth, "headers": {"X-Team": "t"}}).to_string()
        };
        let (asked_before, elsewhere_before) = (peer.asked().len(), elsewhere.asked().len());
        let read =
            |config: String| async move { super::peer::read(&*connector(&[peer.address, there], &config)).await };
        assert_eq!(read(path("a")).await.0, [r#"{"n":2}"#]);
        assert_eq!(read(path("moved")).await.0, [r#"{"n":1}"#]);
        for asked in &peer.asked()[asked_before..] {
            let name = if auth["type"] == "header" { "x-key" } else { "authorization" };
            assert_eq!((asked.header(name), asked.header("x-team")), (Some(sent), Some("t")));
        }
        for asked in &elsewhere.asked()[elsewhere_before..] {
            let all = format!("{asked:?}");
            assert!(!all.contains(sent) && asked.header("x-team").is_none(), "{all}");
        }
    }
}

#[tokio::test]
async fn no_address_and_no_redirect_leads_to_a_denied_one() {
    let trap = Peer::start(|_, _| Reply::new("200 OK", &[], b"{}")).await;
    let target = format!("http://{}/a.json", trap.address);
    let peer =
        Peer::start(move |_, _| Reply::new("307 Temporary Redirect", &[("location", target.as_str())], b"")).await;
    let direct = json!({"path": format!("http://{}/a.json", trap.address)}).to_string();
    let led = json!({"path": format!("http://{}/a.json", peer.address)}).to_string();
    for config in [direct, led] {
        let (read, error) = super::peer::read(&*connector(&[peer.address], &config)).await;
        let error = error.unwrap();
        assert!(read.is_empty() && error.is_denied() && error.advice() == Advice::Fail, "{error:?}");
        assert!(told(&error).contains("--egress-allow"), "{}", told(&error));
    }
    assert!(trap.asked().is_empty(), "nothing was dialled");
}

#[tokio::test]
async fn each_refusal_says_what_to_do() {
    let peer =
        Peer::start(|_, asked| Reply::new(&format!("{} No", &asked.target[1..4]), &[("retry-after", "7")], b"no"));
    let peer = peer.await;
    for (status, auth, fault, part) in [
        (401, false, PlaceFault::Auth, "give credentials with `auth`"),
        (403, true, PlaceFault::Auth, "check the credentials"),
        (404, false, PlaceFault::Missing, "check `path`"),
        (410, true, PlaceFault::Missing, "check `path`"),
    ] {
        let mut config = json!({"path": format!("http://{}/{status}.csv", peer.address)});
        if auth {
            config["auth"] = json!({"type": "bearer", "token": "s3cret"});
        }
        let (_, error) = super::peer::read(&*connector(&[peer.address], &config.to_string())).await;
        let error = error.unwrap();
        assert!(matches!(&error, ConnectorError::Place { fault: of, .. } if *of == fault), "{error:?}");
        assert!(told(&error).contains(part) && told(&error).contains(&format!("/{status}.csv")), "{}", told(&error));
        assert_eq!(error.advice(), Advice::Fail);
    }
    let (_, error) = peer.read(r#"{"path":"http://HOST/503.csv"}"#).await;
    let wait = std::time::Duration::from_secs(7);
    assert_eq!(error.unwrap().advice(), Advice::Retry { after: Some(wait) });
}

#[tokio::test]
async fn a_certificate_that_nobody_here_has_signed_is_refused() {
    let config = json!({"path": format!("{}/a.csv", from_script("MATOME_TEST_HTTPS_URL"))});
    let (read, error) = super::peer::read(&*connector_to_all_of_here(&config.to_string())).await;
    let error = error.unwrap();
    assert!(read.is_empty() && matches!(error, ConnectorError::Egress { .. }), "{error:?}");
    assert!(told(&error).contains("invalid peer certificate"), "{}", told(&error));
}

#[test]
fn every_wrong_address_is_told_before_anything_is_read() {
    for (config, path, part) in [
        (json!({"path": "http://h/a-*.csv"}), "path", "nobody lists"),
        (json!({"path": "http://u:p@h/a.csv"}), "path", "`auth`"),
        (json!({"path": "http://"}), "path", "valid URL"),
        (json!({"path": "ftp://h/a.csv"}), "path", "Known are"),
        (json!({"path": "https://h/a"}), "format", "extension"),
        (json!({"path": "https://h/a.csv", "headers": {"Authorization": "x"}}), "headers", "`auth`"),
        (json!({"path": "https://h/a.csv", "headers": {"Range": "bytes=1-"}}), "headers", "set by matome"),
        (json!({"path": "https://h/a.csv", "auth": {"type": "bearer"}}), "auth.token", "required"),
        (json!({"path": "https://h/a.csv", "region": "x"}), "region", "Known here"),
        (json!({"path": "a.csv", "headers": {"X": "y"}}), "headers", "Known here"),
    ] {
        let errors = validate_config(SourceType::File, &config.to_string()).unwrap_err();
        let found = errors.iter().find(|error| error.path.join(".") == path);
        let found = found.unwrap_or_else(|| panic!("{config}: {errors:?}"));
        assert!(found.message.english.contains(part), "{config}: {}", found.message);
    }
    for config in [json!({"path": "https://h/a.csv?x={1}&y=*#top"}), json!({"path": "HTTPS://h/a%2A.tsv.gz"})] {
        validate_config(SourceType::File, &config.to_string()).unwrap();
    }
}

#[tokio::test]
async fn an_address_that_ends_like_a_directory_names_one_document() {
    let peer = Peer::start(|_, asked| match asked.target.as_str() {
        "/users/" => Reply::new("200 OK", &[("content-type", "application/json")], b"[{\"n\":1}]"),
        _ => Reply::new("200 OK", &[("content-type", "text/html; charset=utf-8")], b"<a href=a.csv>a.csv</a>"),
    })
    .await;
    let (rows, error) = peer.read(r#"{"path":"http://HOST/users/","format":"json"}"#).await;
    assert!(error.is_none() && rows == [r#"{"n":1}"#], "{error:?}");
    let (rows, error) = peer.read(r#"{"path":"http://HOST/files/","format":"csv"}"#).await;
    let error = error.unwrap();
    assert!(rows.is_empty() && matches!(error, ConnectorError::Place { fault: PlaceFault::Answer, .. }), "{error:?}");
    assert!(told(&error).contains("names one document"), "{}", told(&error));
}

#[tokio::test]
async fn what_an_address_gives_says_which_type_of_source_reads_it() {
    let peer = Peer::start(|_, asked| match asked.target.as_str() {
        "/users" | "/rates.csv?json" => Reply::new("200 OK", &[("content-type", "application/json")], b"[{}]"),
        "/refused.csv" => Reply::new("401 No", &[], b""),
        _ if asked.header("authorization") != Some("Bearer t") => Reply::new("500 No", &[], b""),
        _ => Reply::new("200 OK", &[("content-type", "text/csv; charset=utf-8")], b"a\n1\n"),
    })
    .await;
    let registry = super::peer::registry_to_all_of_here();
    let auth = json!({"type": "bearer", "token": "t"});
    for (config, source_type, is_told) in [
        (json!({"url": "/users"}), SourceType::Api, false),
        (json!({"url": "/rates.csv?json"}), SourceType::Api, true),
        (json!({"url": "/export", "auth": auth, "encoding": "shift_jis"}), SourceType::File, true),
        (json!({"url": "/refused.csv"}), SourceType::Api, false),
        // What only an API has.
        (json!({"url": "/export", "auth": auth, "params": {"a": 1}}), SourceType::Api, false),
    ] {
        let mut config = config;
        config["url"] = format!("http://{}{}", peer.address, config["url"].as_str().unwrap()).into();
        let (chosen, of_type, finding) = registry.choose(&config.to_string()).await.unwrap();
        assert_eq!((chosen, finding.is_some()), (source_type, is_told), "{config}");
        let of_type: serde_json::Value = serde_json::from_str(&of_type).unwrap();
        let place = if chosen == SourceType::File { "path" } else { "url" };
        assert_eq!(of_type[place], config["url"], "{of_type}");
    }
    assert_eq!(registry.choose(r#"{"path":"a.csv"}"#).await.unwrap().0, SourceType::File);
}

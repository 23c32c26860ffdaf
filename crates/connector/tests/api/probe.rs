//! What is proposed for an API that is looked at.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use matome_connector::{ConnectorError, Proposal};
use matome_model::source::SourceType;
use serde_json::{Value, json};

use crate::support::{Asked, Server, clock, json as answer, records, registry};

const TIME: Duration = Duration::from_secs(20);

async fn probe(server: &Server, config: &str) -> Result<Proposal, ConnectorError> {
    registry(&[server.address], clock()).probe(SourceType::Api, &server.config(config), TIME).await
}

async fn proposed(server: &Server, config: &str) -> Value {
    Value::Object(probe(server, config).await.unwrap().options)
}

/// What `option` was found to be, in English.
fn said(proposal: &Proposal, option: &str) -> String {
    let found = proposal.findings.iter().find(|finding| finding.option == option);
    found.map_or_else(String::new, |finding| finding.words.english.clone())
}

fn order(n: u64) -> Value {
    json!({"id": n, "status": "paid", "updated_at": format!("2026-01-{:02}T00:00:00Z", n)})
}

/// Orders 1 to 25 in pages of ten, as Django REST framework lists them.
fn django(asked: &Asked) -> axum::response::Response {
    let page: u64 = asked.parameter("page").map_or(1, |page| page.parse().unwrap());
    let since = asked.parameter("updated_at__gte").unwrap_or_default();
    let all: Vec<Value> =
        (1..=25).map(order).filter(|order| order["updated_at"].as_str().unwrap() >= since.as_str()).collect();
    let host = asked.header("host").unwrap();
    let rest = if since.is_empty() { String::new() } else { format!("&updated_at__gte={since}") };
    let next = (page * 10 < all.len() as u64).then(|| format!("http://{host}/v2/orders/?page={}{rest}", page + 1));
    let first = usize::try_from(page - 1).unwrap() * 10;
    let results: Vec<&Value> = all.iter().skip(first).take(10).collect();
    answer(json!({"count": all.len(), "next": next, "previous": null, "results": results}).to_string())
}

#[tokio::test]
async fn a_list_of_django_is_found_whole() {
    let server = Server::answering(django).await;
    let config = r#"{"url":"http://HOST/v2/orders/","auth":{"type":"bearer","token":"s3cret"}}"#;
    let found = probe(&server, config).await.unwrap();
    let options = Value::Object(found.options.clone());
    assert_eq!(
        options,
        json!({
            "records": "$.results", "pagination": {"type": "next_link", "next": "$.next"}, "key": "id",
            "incremental": {"cursor": "$.updated_at", "kind": "time", "param": "updated_at__gte"},
        })
    );
    assert_eq!(said(&found, "records"), "10 objects (`$.results`)");
    let asked = server.asked();
    assert_eq!(found.stats.requests, asked.len() as u64);
    assert!(asked.iter().all(|asked| asked.header("authorization") == Some("Bearer s3cret")));

    // What is proposed reads everything.
    let mut whole: Value = serde_json::from_str(config).unwrap();
    whole.as_object_mut().unwrap().extend(found.options);
    assert_eq!(records(&*server.connector(&whole.to_string())).await.len(), 25);
}

#[tokio::test]
async fn what_a_config_says_is_kept_and_not_guessed_anew() {
    let server = Server::answering(django).await;
    let config = r#"{"url":"http://HOST/v2/orders/","records":"$.results","key":"status","pagination":{"type":"page_number"},
        "incremental":{"cursor":"$.id","kind":"integer","param":"since"}}"#;
    assert_eq!(proposed(&server, config).await, json!({}));
    assert_eq!(server.paths().len(), 1);
}

#[tokio::test]
async fn every_way_to_a_next_page_is_recognised_and_reads_everything() {
    /// Records 0 to 24, by the number of the first.
    fn ten(first: u64) -> Vec<Value> {
        (first..25).take(10).map(|n| json!({"sku": format!("s{n}")})).collect()
    }
    let server = Server::answering(|asked| {
        let number = |name: &str| asked.parameter(name).map(|text| text.parse::<u64>().unwrap());
        let (path, page) = (asked.uri.path(), number("page"));
        match path {
            "/link" => {
                let page = page.unwrap_or(1);
                let mut response = answer(Value::from(ten((page - 1) * 10)).to_string());
                if page < 3 {
                    let link = format!(r#"</link?page={}>; rel="next""#, page + 1);
                    response.headers_mut().insert("link", link.parse().unwrap());
                }
                response
            }
            "/token" => {
                let first = asked.parameter("pageToken").map_or(0, |token| token[1..].parse().unwrap());
                let next = (first + 10 < 25).then(|| format!("t{}", first + 10));
                answer(json!({"items": ten(first), "nextPageToken": next}).to_string())
            }
            "/one" => answer(json!({"items": ten((page.unwrap_or(1) - 1) * 10), "total": 25}).to_string()),
            "/zero" => answer(Value::from(ten(page.unwrap_or(0) * 10)).to_string()),
            "/offset" => {
                let limit = usize::try_from(number("limit").unwrap_or(10)).unwrap();
                let some: Vec<Value> = ten(number("offset").unwrap_or(0)).into_iter().take(limit).collect();
                answer(json!({"data": some, "total": 25}).to_string())
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    })
    .await;
    for (path, way) in [
        ("link", json!({"type": "link_header"})),
        ("token", json!({"type": "cursor", "next": "$.nextPageToken", "param": "pageToken"})),
        ("one", json!({"type": "page_number", "param": "page", "start": 1})),
        ("zero", json!({"type": "page_number", "param": "page", "start": 0})),
        (
            "offset",
            json!({"type": "offset", "param": "offset", "start": 0, "size": 10, "size_param": "limit", "total": "$.total"}),
        ),
    ] {
        let config = json!({"url": format!("http://{}/{path}", server.address)});
        let found = proposed(&server, &config.to_string()).await;
        assert_eq!((&found["pagination"], &found["key"]), (&way, &json!("sku")), "{path}");
        let mut whole = config;
        whole.as_object_mut().unwrap().extend(found.as_object().unwrap().clone());
        assert_eq!(records(&*server.connector(&whole.to_string())).await.len(), 25, "{path}");
    }
}

#[tokio::test]
async fn parameters_that_are_not_obeyed_are_not_proposed() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/strict" if asked.uri.query().is_some() => StatusCode::BAD_REQUEST.into_response(),
        _ => answer(json!({"items": (1..=3).map(order).collect::<Vec<_>>(), "total": 70}).to_string()),
    })
    .await;
    for path in ["deaf", "strict"] {
        let found = probe(&server, &format!(r#"{{"url":"http://HOST/{path}"}}"#)).await.unwrap();
        assert_eq!(Value::Object(found.options.clone()), json!({"records": "$.items", "key": "id"}), "{path}");
        assert!(said(&found, "pagination").contains("70 records"), "{path}: {:?}", found.findings);
        assert!(said(&found, "incremental").contains("`updated_at` may say"), "{path}: {:?}", found.findings);
        assert!(found.stats.requests <= 16, "{path}: {}", found.stats.requests);
    }
}

#[tokio::test]
async fn guesses_end_when_the_source_allows_few_more_requests() {
    let server = Server::answering(|_| {
        let mut response = answer(json!([order(1), order(2)]).to_string());
        let headers = response.headers_mut();
        headers.insert("x-ratelimit-remaining", "3".parse().unwrap());
        headers.insert("x-ratelimit-reset", "1900000000".parse().unwrap());
        response
    })
    .await;
    let rate = json!({"remaining": "x-ratelimit-remaining", "reset": "x-ratelimit-reset", "reset_as": "epoch"});
    assert_eq!(proposed(&server, r#"{"url":"http://HOST/"}"#).await, json!({"key": "id", "rate": rate}));
    assert_eq!(server.paths().len(), 1);
}

#[tokio::test]
async fn of_a_page_without_end_the_beginning_is_looked_at() {
    let server = Server::answering(|_| {
        let orders: String =
            (0..).map(|n| format!(r#"{{"id":{n},"text":"{}"}},"#, "x".repeat(1000))).take(40_000).collect();
        answer(format!(r#"{{"orders":[{orders}{{"id":-1}}]}}"#))
    })
    .await;
    let found = probe(&server, r#"{"url":"http://HOST/orders","pagination":{"type":"link_header"}}"#).await.unwrap();
    assert_eq!(Value::Object(found.options.clone()), json!({"records": "$.orders", "key": "id"}));
    assert!(said(&found, "records").starts_with("more than "), "{:?}", found.findings);
    assert!(found.stats.bytes < 3 << 20, "{}", found.stats.bytes);
}

#[tokio::test]
async fn what_can_not_be_looked_at_says_why_and_where() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/closed" => StatusCode::UNAUTHORIZED.into_response(),
        "/page" => ([("content-type", "text/html")], "<p>hello").into_response(),
        _ => answer("{\"a\":[1,}"),
    })
    .await;
    for (path, wanted) in [("closed", "401"), ("page", "a page for people"), ("broken", "no JSON: ")] {
        let error = probe(&server, &format!(r#"{{"url":"http://HOST/{path}"}}"#)).await.unwrap_err();
        let told = error.to_string();
        assert!(told.contains(wanted) && told.contains(&format!("/{path}")), "{told}");
    }
    let parents = r#"{"url":"http://HOST/{parent.id}","parent":{"url":"http://HOST/"}}"#;
    assert!(
        matches!(probe(&server, parents).await, Err(ConnectorError::Config(faults)) if faults[0].path == ["parent"])
    );
    let denied = registry(&[], clock()).probe(SourceType::Api, &server.config(r#"{"url":"http://HOST/"}"#), TIME).await;
    assert!(matches!(denied, Err(ConnectorError::Egress { .. })), "{denied:?}");
}

#[tokio::test]
async fn rows_lines_and_elements_are_recognised_by_their_media_type_or_name() {
    let server = Server::answering(|asked| {
        let page: usize = asked.parameter("page").map_or(1, |page| page.parse().unwrap());
        let ids = (1..=25).skip((page - 1) * 10).take(10);
        let (kind, body) = match asked.uri.path() {
            "/csv" => (
                "text/csv; charset=Shift_JIS",
                ids.map(|id| format!("{id},x\n")).fold("id,name\n".to_owned(), |a, b| a + &b),
            ),
            "/export.tsv" => {
                ("text/plain", ids.map(|id| format!("{id}\tx, y\n")).fold("id\tname\n".to_owned(), |a, b| a + &b))
            }
            "/semicolons" => {
                ("text/csv", ids.map(|id| format!("{id};x, y\n")).fold("id;name\n".to_owned(), |a, b| a + &b))
            }
            "/xml" => {
                let rows: String = ids.map(|id| format!("<row><id>{id}</id></row>")).collect();
                ("application/xml; charset=utf-8", format!("<feed><title/><rows>{rows}</rows></feed>"))
            }
            _ => ("application/x-ndjson", ids.map(|id| format!("{{\"id\":{id}}}\n")).collect()),
        };
        ([("content-type", kind)], body).into_response()
    })
    .await;
    let pages = json!({"type": "page_number", "param": "page", "start": 1});
    let types = json!({"id": "number"});
    for (path, format) in [
        ("csv", json!({"format": "csv", "encoding": "shift_jis", "types": types})),
        ("export.tsv", json!({"format": "tsv", "types": types})),
        ("semicolons", json!({"format": "csv", "delimiter": ";", "types": types})),
        ("xml", json!({"format": "xml", "records": "feed/rows/row"})),
        ("ndjson", json!({"format": "ndjson"})),
    ] {
        let mut config = json!({"url": format!("http://{}/{path}", server.address)});
        let found = proposed(&server, &config.to_string()).await;
        let mut wanted = format;
        wanted["pagination"] = pages.clone();
        wanted["key"] = "id".into();
        assert_eq!(found, wanted, "{path}");
        config.as_object_mut().unwrap().extend(found.as_object().unwrap().clone());
        assert_eq!(records(&*server.connector(&config.to_string())).await.len(), 25, "{path}");
    }
}

//! One list for each parent record.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use matome_connector::{ConnectorError, Item, ReadRequest};

use crate::support::{Asked, Server, after, failure, json, raws, read_all, read_until, records};

/// Five users on three pages; user N has N orders, three on a page. Names would lead elsewhere if they could.
fn shop(asked: &Asked) -> axum::response::Response {
    let path: Vec<&str> = asked.uri.path().trim_matches('/').split('/').collect();
    let page: usize = asked.parameter("page").map_or(1, |page| page.parse().unwrap());
    match path[..] {
        ["users"] => {
            let user = |id: usize| format!(r#"{{"id":{id},"name":"a/../b?{id}","big":12345678901234567890.0}}"#);
            let users: Vec<String> = (1..=5).skip((page - 1) * 2).take(2).map(user).collect();
            json(format!(r#"{{"users":[{}]}}"#, users.join(",")))
        }
        ["users", id, "orders"] => {
            let user: usize = id.parse().unwrap();
            let order = |n: usize| format!(r#"{{"order":"{user}-{n}"}}"#);
            let orders: Vec<String> = (0..user).skip((page - 1) * 3).take(3).map(order).collect();
            json(format!("[{}]", orders.join(",")))
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

const SHOP: &str = r#"{
    "parent": {"url": "http://HOST/users", "records": "$.users",
        "pagination": {"type": "page_number", "size": 2}INCLUDE},
    "url": "http://HOST/users/{parent.id}/orders", "pagination": {"type": "page_number", "size": 3}
}"#;

fn orders() -> Vec<String> {
    (1..=5).flat_map(|user| (0..user).map(move |n| format!(r#"{{"order":"{user}-{n}"}}"#))).collect()
}

#[tokio::test]
async fn every_parent_has_its_children_read() {
    let server = Server::answering(shop).await;
    let batches = read_all(&*server.connector(&SHOP.replace("INCLUDE", "")), ReadRequest::default()).await.unwrap();
    assert_eq!(raws(&batches), orders(), "as the source sent them");
    assert_eq!(
        server.paths()[..4],
        ["/users?page=1", "/users/1/orders?page=1", "/users/2/orders?page=1", "/users?page=2"]
    );
    assert!(batches.len() < 5, "short lists are handed on together: {}", batches.len());
}

#[tokio::test]
async fn what_is_asked_for_of_the_parent_stands_in_its_children() {
    let server = Server::answering(shop).await;
    let include = r#","include":{"user":"$.id","of \"x\"":"$.name","big":"$.big","none":"$.no.such"}"#;
    let found = records(&*server.connector(&SHOP.replace("INCLUDE", include))).await;
    assert_eq!(found[0], r#"{"big":12345678901234567890.0,"none":null,"of \"x\"":"a/../b?1","user":1,"order":"1-0"}"#);
    assert_eq!(found.len(), 15);
    // What is no object stays what it is.
    let odd = Server::answering(|asked| match asked.uri.path() {
        "/p" => json(r#"[{"id":1}]"#),
        _ => json(r#"[5,{},{ },[{"a":1}]]"#),
    })
    .await;
    let config = r#"{"parent":{"url":"http://HOST/p","include":{"p":"$.id"}},"url":"http://HOST/c/{parent.id}"}"#;
    assert_eq!(records(&*odd.connector(config)).await, ["5", r#"{"p":1}"#, r#"{"p":1 }"#, r#"[{"a":1}]"#]);
}

#[tokio::test]
async fn a_read_that_is_killed_anywhere_goes_on_in_the_middle_of_the_parents() {
    let server = Server::answering(shop).await;
    for dedupe in ["hash", "none"] {
        let config = SHOP.replace("INCLUDE", "").replacen('{', &format!(r#"{{"dedupe":"{dedupe}","#), 1);
        let connector = server.connector(&config);
        let request = ReadRequest { resume_inside: dedupe == "none", max_items: 2, ..ReadRequest::default() };
        let whole = read_all(&*connector, request.clone()).await.unwrap();
        assert!(whole.len() > 6, "{}", whole.len());
        for killed in 1..whole.len() {
            server.asked();
            let checkpoint = Some(whole[killed - 1].checkpoint.clone());
            let rest = read_all(&*connector, ReadRequest { checkpoint, ..request.clone() }).await.unwrap();
            let mut together = raws(&whole[..killed]);
            let before = together.len();
            together.extend(raws(&rest));
            if dedupe == "hash" {
                assert!(together.len() <= 15 + 3, "at most a page is read again: {}", together.len());
                together = together.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
            }
            assert_eq!(together, orders(), "{dedupe} after batch {killed}");
            if before > 6 {
                assert!(!server.paths().iter().any(|path| path.starts_with("/users/1/")), "read to its end before");
            }
        }
    }
}

#[tokio::test]
async fn parents_that_came_or_went_meanwhile_are_found_by_their_values() {
    use std::sync::{Arc, Mutex};
    let ids: Arc<Mutex<Vec<u32>>> = Arc::new(Mutex::new(vec![1, 2, 3]));
    let rows = ids.clone();
    let server = Server::answering(move |asked| match asked.uri.path() {
        "/p" => {
            let users = rows.lock().unwrap().iter().map(|id| format!(r#"{{"id":{id}}}"#)).collect::<Vec<_>>();
            json(format!("[{}]", users.join(",")))
        }
        path => json(format!(r#"[{{"of":"{path}"}}]"#)),
    })
    .await;
    let connector = server.connector(r#"{"parent":{"url":"http://HOST/p"},"url":"http://HOST/c/{parent.id}?n={now}"}"#);
    let request = ReadRequest { max_items: 1, ..ReadRequest::default() };
    let mut reader = connector.read(request.clone()).await.unwrap();
    let batch = reader.next().await.unwrap().unwrap();
    assert_eq!(raws(std::slice::from_ref(&batch)), [r#"{"of":"/c/1"}"#]);
    for (now, expected) in [(vec![9, 1, 2, 3], vec!["/c/2", "/c/3"]), (vec![2, 3], vec!["/c/2", "/c/3"])] {
        *ids.lock().unwrap() = now;
        let rest = ReadRequest { checkpoint: Some(batch.checkpoint.clone()), ..request.clone() };
        let rest: BTreeSet<String> = raws(&read_all(&*connector, rest).await.unwrap()).into_iter().collect();
        for path in expected {
            assert!(rest.contains(&format!(r#"{{"of":"{path}"}}"#)), "{path} is not among {rest:?}");
        }
    }
}

#[tokio::test]
async fn a_parent_without_what_is_needed_goes_to_quarantine_and_the_others_are_read() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/p" => json(r#"[{"id":1},{"name":"x"},{"id":null},{"id":{"a":1}},{"id":".."},{"id":""},7,{"id":"a/b"}]"#),
        path => json(format!(r#"[{{"of":"{path}"}}]"#)),
    })
    .await;
    let config = r#"{"parent":{"url":"http://HOST/p"},"url":"http://HOST/c/{parent.id}/x"}"#;
    let batches = read_all(&*server.connector(config), ReadRequest::default()).await.unwrap();
    let items: Vec<&Item> = batches.iter().flat_map(|batch| &batch.items).collect();
    let (good, bad): (Vec<&Item>, Vec<&Item>) = items.into_iter().partition(|item| matches!(item, Item::Record { .. }));
    let good: Vec<&str> = good.iter().map(|item| std::str::from_utf8(item.raw()).unwrap()).collect();
    assert_eq!(good, [r#"{"of":"/c/1/x"}"#, r#"{"of":"/c/a%2Fb/x"}"#]);
    assert_eq!(bad.len(), 6);
    let Item::Rejected { reason, detail, position, .. } = bad[0] else { panic!() };
    assert_eq!((reason.as_str(), position.record), ("parent", 2));
    assert!(detail.english.contains("`$.id`") && position.document.ends_with("/p"), "{detail}");
}

#[tokio::test]
async fn a_missing_list_of_children_fails_unless_a_rule_says_that_it_is_empty() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/p" => json(r#"[{"id":1},{"id":2},{"id":3}]"#),
        "/c/2" => StatusCode::NOT_FOUND.into_response(),
        path => json(format!(r#"[{{"of":"{path}"}}]"#)),
    })
    .await;
    let config = r#"{"parent":{"url":"http://HOST/p"},"url":"http://HOST/c/{parent.id}"}"#;
    let (batches, error) = read_until(&*server.connector(config), ReadRequest::default()).await;
    assert!(matches!(error, Some(ConnectorError::Status { .. })), "{error:?}");
    assert_eq!(raws(&batches), [r#"{"of":"/c/1"}"#]);
    let again = read_until(&*server.connector(config), after(&batches)).await;
    assert!(raws(&again.0).is_empty() && again.1.is_some());
    let config = config.replacen('{', r#"{"errors":[{"status":404,"action":"empty"}],"#, 1);
    assert_eq!(records(&*server.connector(&config)).await, [r#"{"of":"/c/1"}"#, r#"{"of":"/c/3"}"#]);
}

#[tokio::test]
async fn credentials_do_not_go_to_a_parent_on_another_host() {
    let other = Server::answering(|_| json(r#"[{"id":1}]"#)).await;
    let server = Server::answering(|_| json(r#"[{"n":1}]"#)).await;
    let config = server.config(
        r#"{"parent":{"url":"http://OTHER/p","headers":{"X-For":"parent"}},"url":"http://HOST/{parent.id}",
            "auth":{"type":"bearer","token":"s3cret"},"headers":{"X-For":"{parent.id}"}}"#,
    );
    let config = config.replace("OTHER", &other.address.to_string());
    let connector = crate::support::connector(&[server.address, other.address], &config);
    assert_eq!(records(&*connector).await.len(), 1);
    let (parent, child) = (other.asked().remove(0), server.asked().remove(0));
    assert_eq!((parent.header("authorization"), parent.header("x-for")), (None, Some("parent")));
    assert_eq!((child.header("authorization"), child.header("x-for")), (Some("Bearer s3cret"), Some("1")));
    // Nor does a parent at a denied address get asked at all.
    let error = failure(&*crate::support::connector(&[server.address], &config)).await;
    assert!(error.is_denied(), "{error}");
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn parents_in_a_circle_are_an_error() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/p" => json(r#"{"next":"/p","rows":[{"id":1}]}"#),
        _ => json("[]"),
    })
    .await;
    let config = r#"{"parent":{"url":"http://HOST/p","records":"$.rows","pagination":{"type":"next_link","next":"$.next"}},
        "url":"http://HOST/c/{parent.id}"}"#;
    assert!(matches!(failure(&*server.connector(config)).await, ConnectorError::Loop { .. }));
}

#[tokio::test]
async fn no_mark_passes_the_children_of_a_parent_that_could_not_be_asked() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/p" => json(r#"[{"id":1},{"name":"no id"}]"#),
        _ => json(r#"[{"at":"2025-12-05T00:00:00Z"}]"#),
    })
    .await;
    let connector = server.connector(
        r#"{"parent":{"url":"http://HOST/p"},"url":"http://HOST/c/{parent.id}",
            "incremental":{"cursor":"$.at","param":"since","start":"2025-01-01T00:00:00Z"}}"#,
    );
    let first = read_all(&*connector, ReadRequest::default()).await.unwrap();
    server.asked();
    read_all(&*connector, after(&first)).await.unwrap();
    assert_eq!(server.asked()[1].parameter("since").unwrap(), "2025-01-01T00:00:00Z");
}

#[tokio::test]
async fn one_mark_holds_for_the_children_of_all_parents() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/p" => json(r#"[{"id":1},{"id":2}]"#),
        "/c/1" => json(r#"[{"at":"2025-12-05T00:00:00Z"}]"#),
        _ => json(r#"[{"at":"2025-12-01T00:00:00Z"}]"#),
    })
    .await;
    let connector = server.connector(
        r#"{"parent":{"url":"http://HOST/p"},"url":"http://HOST/c/{parent.id}",
            "incremental":{"cursor":"$.at","param":"since","overlap":0}}"#,
    );
    let first = read_all(&*connector, ReadRequest::default()).await.unwrap();
    server.asked();
    read_all(&*connector, after(&first)).await.unwrap();
    let since: Vec<_> = server.asked().iter().map(|asked| asked.parameter("since")).collect();
    let mark = || Some("2025-12-05T00:00:00Z".to_owned());
    assert_eq!(since, [None, mark(), mark()]);
}

//! Tokens for client credentials.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use matome_connector::{Advice, ConnectorError, ReadRequest};
use matome_model::source::SourceType;

use crate::support::{Asked, Server, chain, clock, failure, json, raws, read_all, registry};

/// Gives out `token-1`, `token-2`, ...; records are for whoever has the newest that is not revoked.
#[derive(Clone, Default)]
struct Idp {
    given: Arc<AtomicU64>,
    revoked: Arc<Mutex<Vec<String>>>,
}

impl Idp {
    fn answer(&self, asked: &Asked) -> axum::response::Response {
        match asked.uri.path() {
            "/token" => {
                let number = self.given.fetch_add(1, Ordering::SeqCst) + 1;
                json(format!(r#"{{"access_token":"token-{number}-s3cret","token_type":"bearer","expires_in":"3600"}}"#))
            }
            "/short" => {
                let number = self.given.fetch_add(1, Ordering::SeqCst) + 1;
                json(format!(r#"{{"access_token":"token-{number}-s3cret","expires_in":0}}"#))
            }
            "/refuse" => {
                (StatusCode::UNAUTHORIZED, r#"{"error":"invalid_client","error_description":"s3cret"}"#).into_response()
            }
            "/odd" => json(r#"{"token":"s3cret"}"#),
            "/kind" => json(r#"{"access_token":"s3cret","token_type":"mac"}"#),
            "/down" => StatusCode::BAD_GATEWAY.into_response(),
            "/moved" => (StatusCode::FOUND, [("location", "http://127.0.0.1:1/token")]).into_response(),
            _ => {
                let sent = asked.header("authorization").unwrap_or_default();
                let revoked = self.revoked.lock().unwrap().iter().any(|token| sent.contains(token.as_str()));
                match sent.starts_with("Bearer token-") && !revoked {
                    true => json(r#"[{"n":1}]"#),
                    false => StatusCode::UNAUTHORIZED.into_response(),
                }
            }
        }
    }
}

async fn serve() -> (Idp, Server) {
    let idp = Idp::default();
    let own = idp.clone();
    (idp, Server::answering(move |asked| own.answer(asked)).await)
}

fn config(path: &str, more: &str) -> String {
    format!(
        r#"{{"url":"http://HOST/data","auth":{{"type":"oauth2_client_credentials","token_url":"http://HOST/{path}",
            "client_id":"me:1","client_secret":"s3cret/ü","scope":"read all"{more}}}}}"#
    )
}

#[tokio::test]
async fn a_token_is_fetched_once_for_all_reads_and_never_kept_with_them() {
    let (idp, server) = serve().await;
    let registry = registry(&[server.address], clock());
    let open = |config: &str| registry.open(SourceType::Api, &server.config(config)).unwrap();
    for _ in 0..3 {
        let batches = read_all(&*open(&config("token", "")), ReadRequest::default()).await.unwrap();
        assert_eq!(raws(&batches), [r#"{"n":1}"#]);
        assert!(!format!("{batches:?}").contains("s3cret"), "{batches:?}");
        assert_eq!(batches[0].stats.requests, 1, "the request for the token is none of the source's");
    }
    assert_eq!(idp.given.load(Ordering::SeqCst), 1);
    let asked = server.asked().remove(0);
    assert_eq!(asked.body, "grant_type=client_credentials&scope=read+all");
    assert_eq!(asked.header("authorization"), Some("Basic bWUlM0ExOnMzY3JldCUyRiVDMyVCQw=="));
    // In the body where the server wants it there; another secret gets another token.
    let body = config("token", r#","credentials":"body","audience":"api""#).replace("s3cret/ü", "s3cret-2");
    read_all(&*open(&body), ReadRequest::default()).await.unwrap();
    let asked = server.asked();
    let asked = asked.iter().find(|asked| asked.uri.path() == "/token").unwrap();
    assert_eq!(asked.header("authorization"), None);
    assert_eq!(
        asked.body,
        "grant_type=client_credentials&scope=read+all&audience=api&client_id=me%3A1&client_secret=s3cret-2"
    );
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_and_an_old_one_before_it_ends() {
    let (idp, server) = serve().await;
    let registry = registry(&[server.address], clock());
    let open = |config: &str| registry.open(SourceType::Api, &server.config(config)).unwrap();
    read_all(&*open(&config("token", "")), ReadRequest::default()).await.unwrap();
    *idp.revoked.lock().unwrap() = vec!["token-1-".to_owned()];
    read_all(&*open(&config("token", "")), ReadRequest::default()).await.unwrap();
    assert_eq!(idp.given.load(Ordering::SeqCst), 2);
    *idp.revoked.lock().unwrap() = vec!["token-".to_owned()];
    server.asked();
    let error = failure(&*open(&config("token", ""))).await;
    assert!(matches!(&error, ConnectorError::Status { status, .. } if status.as_u16() == 401), "{error}");
    assert!(!chain(&error).contains("s3cret"), "{}", chain(&error));
    assert_eq!(server.paths(), ["/data", "/token", "/data"]);
    idp.revoked.lock().unwrap().clear();
    for _ in 0..2 {
        read_all(&*open(&config("short", "")), ReadRequest::default()).await.unwrap();
    }
    assert_eq!(idp.given.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn what_keeps_a_token_away_is_said_without_secrets() {
    let (_, server) = serve().await;
    for (path, says, advice) in [
        ("refuse", "401 Unauthorized (`invalid_client`)", Advice::Fail),
        ("odd", "no JSON with an `access_token`", Advice::Fail),
        ("kind", "not of the type `Bearer`", Advice::Fail),
        ("moved", "302", Advice::Fail),
        ("down", "502", Advice::Retry { after: None }),
    ] {
        let error = failure(&*server.connector(&config(path, ""))).await;
        assert!(error.to_string().contains(says) && error.advice() == advice, "{path}: {error}");
        assert!(!chain(&error).contains("s3cret"), "{}", chain(&error));
        assert!(server.paths().iter().all(|asked| asked != "/data"));
    }
}

#[tokio::test]
async fn a_token_url_at_a_denied_address_is_not_asked() {
    let (_, server) = serve().await;
    let (idp, other) = serve().await;
    let config = config("token", "").replace("http://HOST/token", &format!("http://{}/token", other.address));
    let error = failure(&*server.connector(&config)).await;
    assert!(error.is_denied(), "{error}");
    assert_eq!(idp.given.load(Ordering::SeqCst), 0);
    assert!(server.asked().is_empty() && other.asked().is_empty());
}

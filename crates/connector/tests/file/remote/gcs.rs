//! Google Cloud Storage: the token of a service account, which a server of ours gives out, and what is refused.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use matome_connector::{Advice, ConnectorError, PlaceFault, validate_config};
use matome_model::source::SourceType;
use serde_json::{Value, json};

use super::peer::{Peer, Reply, connector_to_all_of_here, told};

async fn read(config: &Value) -> (Vec<String>, Option<ConnectorError>) {
    super::peer::read(&*connector_to_all_of_here(&config.to_string())).await
}

/// What openssl says to `arguments`.
fn openssl(arguments: &[&str]) -> Vec<u8> {
    let done = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn account(token_uri: &str) -> (String, String) {
    let key = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let key = String::from_utf8(key).unwrap();
    let account = json!({
        "type": "service_account", "client_email": "reader@project", "private_key": key, "private_key_id": "1",
        "token_uri": token_uri,
    });
    (account.to_string(), key)
}

#[tokio::test]
async fn a_service_account_asks_for_a_token_and_for_another_one_when_it_is_refused() {
    let tokens = Peer::start(|number, _| {
        let body = format!(r#"{{"access_token":"token-{number}","expires_in":3600}}"#);
        Reply::new("200 OK", &[], body.as_bytes())
    })
    .await;
    let store = Peer::start(|number, _| match number {
        0 => Reply::new("401 Unauthorized", &[], b""),
        _ => Reply::new("200 OK", &[("x-goog-generation", "7"), ("content-length", "4")], b"n\n1\n"),
    })
    .await;
    let token_url = format!("http://{}/token", tokens.address);
    let (account, key) = account(&token_url);
    let gcs = json!({"endpoint": format!("http://{}", store.address), "service_account": account});
    let (rows, error) = read(&json!({"path": "gs://b/a 1.csv", "gcs": gcs})).await;
    assert!(error.is_none() && rows == [r#"{"n":"1"}"#], "{error:?}");
    let sent: Vec<_> = store.asked().iter().map(|asked| asked.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(sent[..2], ["Bearer token-0", "Bearer token-1"]);
    assert_eq!(store.asked()[0].target, "/storage/v1/b/b/o/a%201.csv?alt=media");
    // The assertion is signed with the key, for the server that gives out tokens.
    let assertion = &tokens.asked()[0];
    let body = assertion.body.split_once("assertion=").unwrap().1.to_owned();
    let (signed, signature) = body.rsplit_once('.').unwrap();
    let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((claims["iss"].as_str(), claims["aud"].as_str()), (Some("reader@project"), Some(token_url.as_str())));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("key"), key).unwrap();
    std::fs::write(path("signed"), signed).unwrap();
    std::fs::write(path("signature"), URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let verified =
        openssl(&["dgst", "-sha256", "-prverify", &path("key"), "-signature", &path("signature"), &path("signed")]);
    assert_eq!(verified, b"Verified OK\n");
}

#[tokio::test]
async fn what_is_refused_says_what_to_do_and_nothing_of_the_key() {
    let refusing = Peer::start(|_, _| {
        Reply::new("400 Bad Request", &[], br#"{"error":"invalid_grant","error_description":"Invalid JWT: iat"}"#)
    })
    .await;
    let store = Peer::start(|_, _| Reply::new("403 Forbidden", &[], b"{}")).await;
    let endpoint = format!("http://{}", store.address);
    let (account, _) = account(&format!("http://{}/token", refusing.address));
    let (_, error) =
        read(&json!({"path": "gs://b/a.csv", "gcs": {"endpoint": endpoint, "service_account": account}})).await;
    let error = error.unwrap();
    assert!(matches!(error, ConnectorError::Token { .. }) && error.advice() == Advice::Fail, "{error:?}");
    let text = told(&error);
    assert!(
        text.contains("invalid_grant: Invalid JWT: iat") && text.contains("clock") && !text.contains("PRIVATE"),
        "{text}"
    );
    assert!(store.asked().is_empty());
    for path in ["gs://b/a.csv", "gs://b/*.csv"] {
        let (_, error) = read(&json!({"path": path, "gcs": {"endpoint": endpoint}})).await;
        let error = error.unwrap();
        assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Auth, .. }), "{error:?}");
        assert!(told(&error).contains("`service_account` in `gcs`"), "{}", told(&error));
    }
}

#[test]
fn every_wrong_option_is_told_before_anything_is_asked() {
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
    for (path, gcs, at, part) in [
        ("gs://", json!({}), "path", "gs://bucket/"),
        ("gs://b/a.csv", json!({"service_account": "x"}), "gcs.service_account", "key file"),
        (
            "gs://b/a.csv",
            json!({"service_account": json!({"client_email": "e", "private_key": key}).to_string()}),
            "gcs.service_account",
            "RSA",
        ),
        ("gs://b/a.csv", json!({"endpoint": "h"}), "gcs.endpoint", "URL"),
        ("gs://b/a.csv", json!({"key": "x"}), "gcs.key", "Known here: `endpoint`, `service_account`"),
    ] {
        let errors = validate_config(SourceType::File, &json!({"path": path, "gcs": gcs}).to_string()).unwrap_err();
        let found = errors.iter().find(|error| error.path.join(".") == at);
        let found = found.unwrap_or_else(|| panic!("{path} {gcs}: {errors:?}"));
        assert!(found.message.english.contains(part), "{path} {gcs}: {}", found.message);
        assert!(!found.message.english.contains("AAAA"));
    }
}

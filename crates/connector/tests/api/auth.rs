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

/// What openssl says to `arguments`, which are given `input`.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut command = std::process::Command::new("openssl");
    let command = command.args(arguments).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "openssl {arguments:?}");
    done.stdout
}

fn decoded(part: &str) -> Vec<u8> {
    data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()
}

/// The last assertion that was posted, in its parts, and the rest of what was.
fn assertion(server: &Server) -> (Vec<String>, String) {
    let asked = server.asked();
    let asked = asked.iter().rfind(|asked| asked.uri.path() == "/token").unwrap();
    let posted = url::form_urlencoded::parse(asked.body.as_bytes()).into_owned();
    let (assertion, rest): (Vec<_>, Vec<_>) = posted.partition(|(name, _)| name == "assertion");
    let rest = rest.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    (assertion[0].1.split('.').map(str::to_owned).collect(), rest)
}

#[tokio::test]
async fn a_token_is_got_for_an_assertion_that_is_signed_here() {
    use serde_json::{Value, json};
    let dir = tempfile::TempDir::new().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let rsa = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], b"");
    let old_rsa = openssl(&["rsa", "-traditional"], &rsa);
    let ec = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], b"");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (idp, server) = serve().await;
    let token_url = server.config("http://HOST/token");
    let key_file = json!({
        "type": "service_account", "client_email": "me@project", "private_key": text(&rsa), "private_key_id": "k1",
        "token_uri": token_url,
    });
    for (algorithm, key, auth) in [
        ("RS256", &rsa, json!({"service_account": key_file.to_string(), "scope": "read all"})),
        ("RS256", &rsa, json!({"token_url": token_url, "issuer": "me", "key": text(&old_rsa), "subject": "you"})),
        ("ES256", &ec, json!({"token_url": token_url, "issuer": "me", "key": text(&ec), "algorithm": "ES256"})),
    ] {
        let mut auth = auth;
        auth["type"] = "oauth2_jwt_bearer".into();
        let config = json!({"url": "http://HOST/data", "auth": auth}).to_string();
        let connector = server.connector(&config);
        let batches = read_all(&*connector, ReadRequest::default()).await.unwrap();
        assert_eq!(raws(&batches), [r#"{"n":1}"#]);
        let (parts, _) = assertion(&server);
        let header: Value = serde_json::from_slice(&decoded(&parts[0])).unwrap();
        let claims: Value = serde_json::from_slice(&decoded(&parts[1])).unwrap();
        assert_eq!(header["alg"], algorithm);
        assert_eq!((&claims["aud"], claims["iat"].as_i64()), (&token_url.as_str().into(), Some(1_767_225_600)));
        assert_eq!(claims["exp"].as_i64(), Some(1_767_225_900));
        let public = file("public", &openssl(&["pkey", "-pubout"], key));
        let mut signature = decoded(&parts[2]);
        if algorithm == "ES256" {
            // openssl wants both numbers as DER.
            let number = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                let sign = if bytes[zeros] < 0x80 { &[][..] } else { &[0] };
                let bytes = [sign, &bytes[zeros..]].concat();
                [&[2, u8::try_from(bytes.len()).unwrap()][..], &bytes].concat()
            };
            let both = [number(&signature[..32]), number(&signature[32..])].concat();
            signature = [&[0x30, u8::try_from(both.len()).unwrap()][..], &both].concat();
        }
        let signature = file("signature", &signature);
        let signed = format!("{}.{}", parts[0], parts[1]);
        openssl(&["dgst", "-sha256", "-verify", &public, "-signature", &signature], signed.as_bytes());
    }
    assert_eq!(idp.given.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_assertion_says_what_a_server_wants_besides_and_is_made_anew_when_its_token_is_refused() {
    let (idp, server) = serve().await;
    let config = r#"{"url":"http://HOST/data","auth":{"type":"oauth2_jwt_bearer","token_url":"http://HOST/token","issuer":"me",
        "algorithm":"HS256","key":"s3cret","key_id":"7","audience":"api","scope":"a b","claims":{"box_sub_type":"enterprise"},
        "client_id":"c","client_secret":"s3cret-2","lifetime_secs":30}}"#;
    let registry = registry(&[server.address], clock());
    let open = || registry.open(SourceType::Api, &server.config(config)).unwrap();
    for _ in 0..2 {
        read_all(&*open(), ReadRequest::default()).await.unwrap();
    }
    assert_eq!(idp.given.load(Ordering::SeqCst), 1);
    let (parts, rest) = assertion(&server);
    let expected =
        "grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&scope=a b&client_id=c&client_secret=s3cret-2";
    assert_eq!(rest, expected);
    let claims: serde_json::Value = serde_json::from_slice(&decoded(&parts[1])).unwrap();
    assert_eq!((&claims["box_sub_type"], &claims["aud"]), (&"enterprise".into(), &"api".into()));
    *idp.revoked.lock().unwrap() = vec!["token-1-".to_owned()];
    read_all(&*open(), ReadRequest::default()).await.unwrap();
    let again: serde_json::Value = serde_json::from_slice(&decoded(&assertion(&server).0[1])).unwrap();
    assert_ne!(again["jti"], claims["jti"]);
    let refused = config.replace("HOST/token", "HOST/refuse");
    let error = failure(&*registry.open(SourceType::Api, &server.config(&refused)).unwrap()).await;
    let told = chain(&error);
    assert!(told.contains("(`invalid_client`); look at the key") && !told.contains("s3cret"), "{told}");
}

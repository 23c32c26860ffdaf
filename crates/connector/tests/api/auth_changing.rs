//! Credentials that change: refresh tokens, sessions, signatures.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use matome_connector::{Connector, ConnectorError, Exchange, ReadRequest, Registry, SecretKeeper};
use matome_model::source::SourceType;
use secrecy::SecretString;
use serde_json::Value;

use crate::support::{
    Asked, Server, chain, clock, connector as connector_of, failure, json, raws, read_all, records, registry,
};

/// Keeps the refresh token of one source in memory.
#[derive(Debug)]
struct Memory(tokio::sync::Mutex<SecretString>);

impl SecretKeeper for Memory {
    fn name(&self) -> String {
        "one".to_owned()
    }

    fn replace(
        &self,
        path: &'static str,
        exchange: Exchange,
    ) -> BoxFuture<'_, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move {
            assert_eq!(path, "/auth/refresh_token");
            let mut kept = self.0.lock().await;
            if let Some(next) = exchange(kept.clone()).await {
                *kept = next;
            }
            Ok(())
        })
    }
}

/// Takes each refresh token once and gives the next; who shows a used one is thrown out.
#[derive(Clone, Default)]
struct Strict {
    used: Arc<Mutex<u32>>,
    over: Arc<Mutex<BTreeSet<String>>>,
}

impl Strict {
    fn answer(&self, asked: &Asked) -> Response {
        if asked.uri.path() == "/token" {
            let mut used = self.used.lock().unwrap();
            let shown = format!("grant_type=refresh_token&refresh_token=r{used}&client_id=me");
            if asked.body != shown {
                *used = 1000;
                return (StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#).into_response();
            }
            *used += 1;
            return json(format!(r#"{{"access_token":"a{used}","expires_in":3600,"refresh_token":"r{used}"}}"#));
        }
        let sent = asked.header("authorization").unwrap_or_default().to_owned();
        match sent.starts_with("Bearer a") && !self.over.lock().unwrap().contains(&sent) {
            true => json(r#"[{"n":1}]"#),
            false => StatusCode::UNAUTHORIZED.into_response(),
        }
    }
}

const REFRESHING: &str = r#"{"url":"http://HOST/data","auth":{"type":"oauth2_refresh_token","token_url":"http://HOST/token",
    "client_id":"me","refresh_token":"r0"}}"#;

fn open(registry: &Registry, config: &str) -> Box<dyn Connector> {
    registry.open(SourceType::Api, config).unwrap()
}

#[tokio::test]
async fn a_refresh_token_that_changes_is_kept_and_used_once_by_many_processes() {
    let strict = Strict::default();
    let server = Server::answering({
        let strict = strict.clone();
        move |asked| strict.answer(asked)
    })
    .await;
    let keeper: Arc<dyn SecretKeeper> = Arc::new(Memory(tokio::sync::Mutex::new(SecretString::from("r0"))));
    let request = || ReadRequest { keeper: Some(keeper.clone()), ..ReadRequest::default() };
    let config = server.config(REFRESHING);
    // Registries share no tokens, as processes do not; each of them has the config as it was.
    let registries: Vec<Registry> = (0..6).map(|_| registry(&[server.address], clock())).collect();
    let reads = registries.iter().map(|registry| {
        let connector = open(registry, &config);
        let request = request();
        async move { raws(&read_all(&*connector, request).await.unwrap()) }
    });
    let all = futures::future::join_all(reads).await;
    assert!(all.iter().all(|records| records == &[r#"{"n":1}"#]));
    assert_eq!(*strict.used.lock().unwrap(), 6, "each process needs one of its own");

    // The access token is used again, whichever refresh token a config has by now.
    for token in ["r0", "r6"] {
        let config = config.replace("r0", token);
        for registry in &registries[..1] {
            read_all(&*open(registry, &config), request()).await.unwrap();
        }
    }
    assert!(*strict.used.lock().unwrap() <= 7, "{}", strict.used.lock().unwrap());

    // One that ends early is renewed, once.
    strict.over.lock().unwrap().extend((1..=7).map(|n| format!("Bearer a{n}")));
    read_all(&*open(&registries[1], &config), request()).await.unwrap();
    assert!(*strict.used.lock().unwrap() <= 8);
}

#[tokio::test]
async fn a_refused_refresh_token_and_one_that_nobody_would_keep_say_what_to_do() {
    let server = Server::answering(move |asked| Strict::default().answer(asked)).await;
    let error = failure(&*server.connector(REFRESHING)).await;
    assert!(error.to_string().contains("no source that would keep the next one"), "{error}");
    assert!(server.asked().is_empty(), "nothing is used up");

    let keeper: Arc<dyn SecretKeeper> = Arc::new(Memory(tokio::sync::Mutex::new(SecretString::from("0ld"))));
    let request = ReadRequest { keeper: Some(keeper), ..ReadRequest::default() };
    let error = read_all(&*server.connector(REFRESHING), request).await.unwrap_err();
    assert!(
        error.to_string().contains("`invalid_grant`") && error.to_string().contains("grant access anew"),
        "{error}"
    );
    assert!(!chain(&error).contains("0ld"), "{}", chain(&error));
}

/// Logs in whoever knows the password; a session is for the number of logins so far.
fn shop(logins: &Arc<Mutex<u32>>, asked: &Asked) -> Response {
    let mut logins = logins.lock().unwrap();
    match asked.uri.path() {
        "/login" if asked.body == r#"{"company":"1","password":"s3cret","username":"reader"}"# => {
            *logins += 1;
            json(format!(r#"{{"session":{{"id":"s{logins}"}}}}"#))
        }
        "/form" if asked.body == "user=reader&pass=s3cret" => {
            *logins += 1;
            let cookies = [("set-cookie", format!("sid=s{logins}; HttpOnly")), ("set-cookie", "lang=ja".to_owned())];
            let mut response = (StatusCode::FOUND, [("location", "/home")]).into_response();
            for (name, value) in cookies {
                response.headers_mut().append(name, value.parse().unwrap());
            }
            response
        }
        "/login" | "/form" => StatusCode::UNAUTHORIZED.into_response(),
        "/nothing" => json("{}"),
        _ => {
            let by_header = asked.header("x-session") == Some(&format!("s{logins}"));
            let by_cookie = asked.header("cookie") == Some(&format!("sid=s{logins}; lang=ja"));
            match by_header || by_cookie {
                true => json(r#"[{"n":1}]"#),
                false => StatusCode::FORBIDDEN.into_response(),
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_opened_once_and_again_when_it_ended() {
    let logins: Arc<Mutex<u32>> = Arc::default();
    let server = Server::answering({
        let logins = logins.clone();
        move |asked| shop(&logins, asked)
    })
    .await;
    let registry = registry(&[server.address], clock());
    for auth in [
        r#""login_url":"http://HOST/login","fields":{"company":1},"token":"$.session.id","header":"X-Session""#,
        r#""login_url":"http://HOST/form","send":"form","username_field":"user","password_field":"pass","cookie":"sid""#,
    ] {
        let config = server.config(&format!(
            r#"{{"url":"http://HOST/data","auth":{{"type":"session","username":"reader","password":"s3cret",{auth}}}}}"#
        ));
        let before = *logins.lock().unwrap();
        for _ in 0..2 {
            let batches = read_all(&*open(&registry, &config), ReadRequest::default()).await.unwrap();
            assert_eq!(raws(&batches), [r#"{"n":1}"#]);
        }
        assert_eq!(*logins.lock().unwrap(), before + 1, "{auth}");
        // The server forgets it.
        *logins.lock().unwrap() += 1;
        read_all(&*open(&registry, &config), ReadRequest::default()).await.unwrap();
        assert_eq!(*logins.lock().unwrap(), before + 3, "{auth}");
    }
}

#[tokio::test]
async fn a_login_that_fails_says_why_without_its_password() {
    let server = Server::answering(move |asked| shop(&Arc::default(), asked)).await;
    for (auth, wanted) in [
        (r#""login_url":"http://HOST/login","token":"$.token""#, "the login was answered with 401"),
        (r#""login_url":"http://HOST/nothing","token":"$.token""#, "no text at `$.token`"),
        (r#""login_url":"http://HOST/nothing","cookie":"sid""#, "no cookie `sid`"),
    ] {
        let config = format!(
            r#"{{"url":"http://HOST/data","auth":{{"type":"session","username":"reader","password":"wr0ng",{auth}}}}}"#
        );
        let error = failure(&*server.connector(&config)).await;
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(matches!(error, ConnectorError::Token { .. }) && !chain(&error).contains("wr0ng"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn each_request_is_signed_for_itself() {
    let server = Server::answering(|asked| match asked.parameter("page").as_deref() {
        None | Some("1") => json(r#"[{"n":1}]"#),
        _ => json("[]"),
    })
    .await;
    let config = r#"{"url":"http://HOST/a","body":{"q":1},"pagination":{"type":"page_number"},"auth":{"type":"hmac","secret":"s3cret",
        "sign":"{method} {path}?{query} {timestamp} {nonce} {body}","headers":{"X-Sign":"{timestamp}.{nonce}.{signature}"}}}"#;
    let batches = read_all(&*server.connector(config), ReadRequest::default()).await.unwrap();
    assert_eq!(raws(&batches), [r#"{"n":1}"#]);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    let mut nonces = BTreeSet::new();
    for asked in asked {
        let sent = asked.header("x-sign").unwrap().to_owned();
        let [stamp, nonce, signature] = sent.split('.').collect::<Vec<_>>()[..] else { panic!("{sent}") };
        assert_eq!(stamp, "1767225600");
        let text = format!("POST /a?{} {stamp} {nonce} {}", asked.uri.query().unwrap(), asked.body);
        assert_eq!(signature, hmac_sha256(b"s3cret", text.as_bytes()), "{text}");
        nonces.insert(nonce.to_owned());
        assert!(!format!("{asked:?}").contains("s3cret"));
    }
    assert_eq!(nonces.len(), 2);
}

/// RFC 2104, written out.
fn hmac_sha256(key: &[u8], text: &[u8]) -> String {
    hex(&hmac(key, text))
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    let pad = |byte: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or_default() ^ byte).collect() };
    let inner = Sha256::digest([pad(0x36), text.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What AWS makes of a request to `execute-api` as it arrived, by the documentation of Signature Version 4.
fn aws_signature(asked: &Asked) -> String {
    use sha2::{Digest as _, Sha256};
    let mut query: Vec<&str> = asked.uri.query().into_iter().flat_map(|query| query.split('&')).collect();
    query.sort_unstable();
    let names = ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];
    let headers: String = names.iter().map(|name| format!("{name}:{}\n", asked.header(name).unwrap())).collect();
    let payload = hex(&Sha256::digest(&asked.body));
    let (method, path, query, names) = (&asked.method, asked.uri.path(), query.join("&"), names.join(";"));
    let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{payload}");
    let scope = "20260101/eu-west-1/execute-api/aws4_request";
    let time = asked.header("x-amz-date").unwrap();
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let key = ["20260101", "eu-west-1", "execute-api", "aws4_request"];
    let key = key.iter().fold(b"AWS4s3cret".to_vec(), |key, part| hmac(&key, part.as_bytes()));
    format!(
        "AWS4-HMAC-SHA256 Credential=reader/{scope},SignedHeaders={names},Signature={}",
        hmac_sha256(&key, text.as_bytes())
    )
}

#[tokio::test]
async fn a_request_to_aws_is_signed_again_wherever_it_goes_within_its_origin() {
    let elsewhere = Server::answering(|_| json("[]")).await;
    let there = format!("http://{}/c", elsewhere.address);
    let tries = Arc::new(Mutex::new(0));
    let server = Server::answering(move |asked| match asked.uri.path() {
        "/a" => (StatusCode::TEMPORARY_REDIRECT, [("location", "/b?page=1&q=x%20y")]).into_response(),
        "/away" => (StatusCode::FOUND, [("location", there.as_str())]).into_response(),
        _ if std::mem::replace(&mut *tries.lock().unwrap(), 1) == 0 => StatusCode::BAD_GATEWAY.into_response(),
        _ => json(r#"[{"n":1}]"#),
    })
    .await;
    let auth = r#""auth":{"type":"aws_sigv4","region":"eu-west-1","service":"execute-api","access_key_id":"reader",
        "secret_access_key":"s3cret","session_token":"t0ken"}}"#;
    let posted = format!(r#"{{"url":"http://HOST/a","params":{{"q":"x y+z","a":"é"}},"body":{{"q":1}},{auth}"#);
    let connector = server.connector(&posted);
    // A failure is tried again by the task: with a signature of its own.
    failure(&*connector).await;
    assert_eq!(raws(&read_all(&*connector, ReadRequest::default()).await.unwrap()), [r#"{"n":1}"#]);
    let asked = server.asked();
    let paths: Vec<&str> = asked.iter().map(|asked| asked.uri.path()).collect();
    assert_eq!(paths, ["/a", "/b", "/a", "/b"]);
    assert_eq!(asked[0].parameter("q").as_deref(), Some("x y+z"));
    for asked in &asked {
        assert_eq!(asked.header("authorization"), Some(aws_signature(asked).as_str()), "{asked:?}");
        assert!(asked.header("x-amz-security-token") == Some("t0ken") && asked.body == r#"{"q":1}"#);
    }
    let got = connector_of(
        &[server.address, elsewhere.address],
        &server.config(&format!(r#"{{"url":"http://HOST/away",{auth}"#)),
    );
    read_all(&*got, ReadRequest::default()).await.unwrap();
    let away = &elsewhere.asked()[0];
    assert!(away.header("authorization").is_none() && away.header("x-amz-security-token").is_none(), "{away:?}");
}

/// moto checks each signature as AWS does.
#[tokio::test]
async fn services_of_aws_take_what_is_signed() {
    let url = std::env::var("MATOME_TEST_S3_URL").expect("run `scripts/test`, or under `scripts/with-stores`");
    let pair = std::env::var("MATOME_TEST_S3_KEY").unwrap();
    let (id, secret) = pair.split_once(':').unwrap();
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    let connector = |service: &str, secret: &str, mut config: Value| {
        config["auth"] = serde_json::json!({
            "type": "aws_sigv4", "region": "ap-northeast-1", "service": service, "access_key_id": id, "secret_access_key": secret,
        });
        config["format"] = "xml".into();
        connector_of(&[address], &config.to_string())
    };
    let identity = serde_json::json!({
        "url": format!("{url}/?Action=GetCallerIdentity&Version=2011-06-15"),
        "records": "GetCallerIdentityResponse/GetCallerIdentityResult",
    });
    let read = records(&*connector("sts", secret, identity.clone())).await;
    assert!(read.len() == 1 && read[0].contains(":user/reader"), "{read:?}");
    let list = serde_json::json!({
        "url": format!("{url}/records"), "params": {"list-type": 2, "prefix": "no such/+é"}, "records": "ListBucketResult/Contents",
    });
    assert!(records(&*connector("s3", secret, list.clone())).await.is_empty());
    for (service, config) in [("sts", identity), ("s3", list)] {
        let error = failure(&*connector(service, "wr0ng", config)).await;
        assert!(matches!(error, ConnectorError::Status { status: StatusCode::FORBIDDEN, .. }), "{error:?}");
        assert!(!chain(&error).contains("wr0ng"));
    }
}

#[test]
fn what_aws_wants_to_know_is_asked_for() {
    for (auth, at) in [
        (r#"{"type":"aws_sigv4","service":"s","access_key_id":"k","secret_access_key":"s"}"#, "auth.region"),
        (r#"{"type":"aws_sigv4","region":"r","access_key_id":"k","secret_access_key":"s"}"#, "auth.service"),
        (r#"{"type":"aws_sigv4","region":"r","service":"s","secret_access_key":"s"}"#, "auth.access_key_id"),
        (r#"{"type":"aws_sigv4","region":"r","service":"s","access_key_id":"k"}"#, "auth.secret_access_key"),
        (
            r#"{"type":"aws_sigv4","region":"r/","service":"s","access_key_id":"k","secret_access_key":"s"}"#,
            "auth.region",
        ),
        (
            r#"{"type":"aws_sigv4","region":"r","service":"s","access_key_id":"k\n","secret_access_key":"s"}"#,
            "auth.access_key_id",
        ),
    ] {
        let config = format!(r#"{{"url":"http://h/","auth":{auth}}}"#);
        let errors = matome_connector::validate_config(SourceType::Api, &config).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.path.join(".")).collect::<Vec<_>>(), [at], "{auth}");
    }
}

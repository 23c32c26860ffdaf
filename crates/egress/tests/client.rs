//! The client against real servers on loopback.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use matome_egress::{EgressError, HttpClient, Policy, Request, TlsFault};
use url::Url;

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn allowing(addresses: &[SocketAddr]) -> HttpClient {
    HttpClient::new(Policy::new(addresses.iter().map(|address| address.to_string().parse().unwrap())))
}

fn request(address: SocketAddr, path: &str) -> Request {
    let mut request = Request::new(Url::parse(&format!("http://{address}{path}")).unwrap());
    request.origin_headers.insert(header::AUTHORIZATION, "Bearer s3cret".parse().unwrap());
    request
}

async fn text(client: &HttpClient, request: Request) -> Result<String, EgressError> {
    let mut response = client.send(request).await?;
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        body.extend(piece);
    }
    Ok(String::from_utf8(body).unwrap())
}

async fn authorization(headers: HeaderMap) -> String {
    headers.get(header::AUTHORIZATION).map_or("none".into(), |value| value.to_str().unwrap().into())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn an_allowed_address_is_reached_and_another_is_not() {
    let address = serve(Router::new().route("/", get(|| async { "hello" }))).await;
    assert_eq!(text(&allowing(&[address]), request(address, "/")).await.unwrap(), "hello");
    let error = text(&HttpClient::new(Policy::default()), request(address, "/?token=s3cret")).await.unwrap_err();
    let remedy = format!("--egress-allow 127.0.0.1/32:{}", address.port());
    assert!(error.to_string().contains(&remedy) && !error.to_string().contains("s3cret"), "{error}");
}

#[tokio::test]
async fn a_name_is_reached_at_its_checked_address() {
    let address = serve(Router::new().route("/", get(|| async { "hello" }))).await;
    let url = Url::parse(&format!("http://localhost:{}/", address.port())).unwrap();
    assert_eq!(text(&allowing(&[address]), Request::new(url)).await.unwrap(), "hello");
}

#[tokio::test]
async fn every_spelling_of_loopback_is_denied() {
    let client = HttpClient::new(Policy::default());
    for host in [
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "localhost.",
        "127.0.0.1.",
        "①②⑦.⓪.⓪.①",
        "user@127.0.0.1",
    ] {
        let url = Url::parse(&format!("http://{host}:9/")).unwrap();
        let error = client.send(Request::new(url)).await.err().unwrap();
        assert!(matches!(error, EgressError::Denied { .. } | EgressError::Resolve { .. }), "{host}: {error}");
    }
}

#[tokio::test]
async fn credentials_follow_a_redirect_within_the_origin_only() {
    let other = serve(Router::new().route("/whoami", get(authorization))).await;
    let target = format!("http://{other}/whoami");
    let router = Router::new()
        .route("/whoami", get(authorization))
        .route("/here", get(|| async { Redirect::temporary("/whoami") }))
        .route("/away", get(move || async move { Redirect::temporary(&target) }));
    let address = serve(router).await;
    let client = allowing(&[address, other]);
    assert_eq!(text(&client, request(address, "/here")).await.unwrap(), "Bearer s3cret");
    assert_eq!(text(&client, request(address, "/away")).await.unwrap(), "none");
}

#[tokio::test]
async fn redirects_are_checked_again() {
    let hidden = serve(Router::new().route("/", get(|| async { "secret page" }))).await;
    let target = format!("http://{hidden}/");
    let router = Router::new()
        .route("/hidden", get(move || async move { Redirect::permanent(&target) }))
        .route("/file", get(|| async { Redirect::permanent("file:///etc/passwd") }))
        .route("/loop", get(|| async { Redirect::permanent("/loop") }));
    let address = serve(router).await;
    let client = allowing(&[address]);
    assert!(matches!(text(&client, request(address, "/hidden")).await, Err(EgressError::Denied { .. })));
    assert!(matches!(text(&client, request(address, "/file")).await, Err(EgressError::Url { .. })));
    assert!(matches!(text(&client, request(address, "/loop")).await, Err(EgressError::Redirects { .. })));
}

#[tokio::test]
async fn gzip_and_deflate_are_inflated_within_limits() {
    let encoded = |body: Vec<u8>| ([(header::CONTENT_ENCODING, "gzip")], body);
    let bomb = gzip(&vec![b'0'; 32 * 1024 * 1024]);
    let cut = gzip(b"a body of some length")[..20].to_vec();
    let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    deflated.write_all("日本語".as_bytes()).unwrap();
    let deflated = deflated.finish().unwrap();
    let router = Router::new()
        .route("/plain", get(move || async move { encoded(gzip("日本語".as_bytes())) }))
        .route("/bomb", get(move || async move { encoded(bomb) }))
        .route("/cut", get(move || async move { encoded(cut) }))
        .route("/deflate", get(move || async move { ([(header::CONTENT_ENCODING, "deflate")], deflated) }))
        .route("/other", get(|| async { ([(header::CONTENT_ENCODING, "compress")], "x") }));
    let address = serve(router).await;
    let client = allowing(&[address]);
    assert_eq!(text(&client, request(address, "/plain")).await.unwrap(), "日本語");
    assert_eq!(text(&client, request(address, "/deflate")).await.unwrap(), "日本語");
    assert!(matches!(text(&client, request(address, "/bomb")).await, Err(EgressError::TooLarge { .. })));
    assert!(matches!(text(&client, request(address, "/cut")).await, Err(EgressError::Encoding { .. })));
    assert!(matches!(text(&client, request(address, "/other")).await, Err(EgressError::Encoding { .. })));
}

#[tokio::test]
async fn a_body_is_read_to_its_limit_and_not_past_it() {
    let address = serve(Router::new().route("/", get(|| async { "x".repeat(1000) }))).await;
    let client = allowing(&[address]);
    let at = Request { body_limit: 1000, ..request(address, "/") };
    assert_eq!(text(&client, at).await.unwrap().len(), 1000);
    let past = Request { body_limit: 999, ..request(address, "/") };
    assert!(matches!(text(&client, past).await, Err(EgressError::TooLarge { limit: 999, .. })));
}

#[tokio::test]
async fn large_headers_are_refused() {
    let router = Router::new().route("/", get(|| async { ([("x-large", "v".repeat(70_000))], "").into_response() }));
    let address = serve(router).await;
    let error = text(&allowing(&[address]), request(address, "/")).await.unwrap_err();
    assert!(matches!(error, EgressError::TooLarge { what: "header bytes", .. }), "{error}");
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let router = Router::new().route("/", get(|| async { std::future::pending::<StatusCode>().await }));
    let address = serve(router).await;
    let hasty = Request { timeout: Duration::from_millis(50), ..request(address, "/") };
    assert!(matches!(text(&allowing(&[address]), hasty).await, Err(EgressError::Timeout { .. })));
}

#[tokio::test]
async fn a_closed_port_is_a_connection_error_without_the_query() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = text(&allowing(&[address]), request(address, "/?token=s3cret")).await.unwrap_err();
    assert!(matches!(error, EgressError::Connection { .. }), "{error}");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn tls_towards_a_server_without_it_is_told_so() {
    let address = serve(Router::new().route("/", get(|| async { "hello" }))).await;
    let url = Url::parse(&format!("https://{address}/")).unwrap();
    let error = text(&allowing(&[address]), Request::new(url)).await.unwrap_err();
    assert!(matches!(error, EgressError::Handshake { fault: TlsFault::NoTls, .. }), "{error}");
}

#[tokio::test]
async fn a_host_that_takes_no_connection_is_told_from_one_that_says_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let hasty = |address| Request { timeout: Duration::from_millis(500), ..request(address, "/") };
    let error = text(&allowing(&[silent]), hasty(silent)).await.unwrap_err();
    assert!(matches!(error, EgressError::Timeout { .. }), "{error}");
    // As many wait to be accepted as may, so the next ones are not answered, as behind a firewall.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    let connect = || tokio::time::timeout(Duration::from_millis(500), tokio::net::TcpStream::connect(address));
    while let Ok(Ok(stream)) = connect().await {
        waiting.push(stream);
    }
    let error = text(&allowing(&[address]), hasty(address)).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("no connection to `{address}` within 0.5 s")), "{error}");
    let dialler = allowing(&[address]).dialer();
    let error = dialler.connect("127.0.0.1", address.port(), Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(error, EgressError::Unanswered { .. }), "{error}");
}

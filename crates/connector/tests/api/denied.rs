//! Whatever names an address, a config or an answer, leads to no denied one.

use std::net::Ipv4Addr;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use matome_connector::{ConnectorError, ReadRequest, validate_config};
use matome_model::source::SourceType;

use crate::spelling::{Trap, spelled};
use crate::support::{Asked, Server, connector, json, read_until};

/// Answers in the way that the path names, leading to the address in the header that the config sends.
fn lead(asked: &Asked) -> Response {
    let target = asked.header("x-target").unwrap_or_default().to_owned();
    let quoted = serde_json::Value::from(target.as_str()).to_string();
    match asked.uri.path() {
        "/redirect" => (StatusCode::TEMPORARY_REDIRECT, [("location", target)]).into_response(),
        "/link" => ([("link", format!("<{target}>; rel=next"))], "[{\"n\":1}]").into_response(),
        "/next" => json(format!(r#"{{"next":{quoted},"rows":[{{"n":1}}]}}"#)),
        "/parents" => json(format!(r#"[{{"id":{quoted},"host":"@127.0.0.1"}}]"#)),
        _ => json("[]"),
    }
}

/// Every option and answer that can name an address; `TARGET` is it, as a JSON string's inside.
const SINKS: [(&str, &str); 9] = [
    ("url", r#"{"url":"TARGET"}"#),
    ("redirect", r#"{"url":"http://HOST/redirect","headers":{"X-Target":"TARGET"}}"#),
    ("posted and redirected", r#"{"url":"http://HOST/redirect","headers":{"X-Target":"TARGET"},"body":{}}"#),
    ("Link", r#"{"url":"http://HOST/link","headers":{"X-Target":"TARGET"},"pagination":{"type":"link_header"}}"#),
    (
        "next link",
        r#"{"url":"http://HOST/next","records":"$.rows","headers":{"X-Target":"TARGET"},"pagination":{"type":"next_link","next":"$.next"}}"#,
    ),
    ("parent", r#"{"parent":{"url":"TARGET"},"url":"http://HOST/{parent.id}"}"#),
    (
        "parent's link",
        r#"{"parent":{"url":"http://HOST/next","records":"$.rows","headers":{"X-Target":"TARGET"},"pagination":{"type":"next_link","next":"$.next"}},"url":"http://HOST/{parent.n}"}"#,
    ),
    (
        "parent's value",
        r#"{"parent":{"url":"http://HOST/parents","headers":{"X-Target":"TARGET"}},"url":"http://HOST/{parent.id}?h={parent.host}"}"#,
    ),
    (
        "token",
        r#"{"url":"http://HOST/","auth":{"type":"oauth2_client_credentials","token_url":"TARGET","client_id":"i","client_secret":"s"}}"#,
    ),
];

#[tokio::test]
async fn no_option_and_no_answer_leads_to_a_denied_address() {
    let (trap, server) = (Trap::set().await, Server::answering(lead).await);
    let mut targets = Vec::new();
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(169, 254, 169, 254)] {
        // Headers of the test's own server carry the targets, so they have to be ASCII; so they are in most answers.
        let hosts = spelled(address).into_iter().filter(|host| host.is_ascii() && !host.contains(['\t', '\n']));
        targets.extend(hosts.map(|host| format!("http://{host}:{}/", trap.port)));
    }
    targets.push(format!("http://localhost:{}/", trap.port));
    targets.extend(["file:///etc/passwd", "gopher://127.0.0.1/", "unix:/run/docker.sock"].map(str::to_owned));
    let (mut read, mut refused, mut reached) = (0, 0, Vec::new());
    for (sink, config) in SINKS {
        for target in &targets {
            let config = server.config(&config.replace("TARGET", target));
            if validate_config(SourceType::Api, &config).is_err() {
                refused += 1;
                continue;
            }
            read += 1;
            let (_, error) = read_until(&*connector(&[server.address], &config), ReadRequest::default()).await;
            let is_fine = match (sink, error) {
                // A value is part of a path, so that a read of the server itself is all that comes of it.
                ("parent's value", error) => error.is_none(),
                // The answer itself says where to, and nobody goes.
                ("posted and redirected", Some(ConnectorError::Status { status, .. })) => status.is_redirection(),
                (_, Some(error @ ConnectorError::Egress { .. })) => {
                    error.is_denied() || crate::support::chain(&error).contains("only http and https")
                }
                (_, Some(ConnectorError::Document { problem, .. })) => problem.english.contains("no address"),
                _ => false,
            };
            if !is_fine {
                reached.push(format!("{sink}: {target}"));
            }
        }
    }
    assert!(reached.is_empty(), "{} of {read}:\n{}", reached.len(), reached.join("\n"));
    assert!(read > 400 && refused > 0, "{read} read, {refused} refused");
    assert_eq!(trap.visits(), 0);
}

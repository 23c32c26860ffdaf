//! TLS of the real server, and its log file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use support::{Home, client, redis, sqlite_home, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Puts a certificate and its key where the server looks for them.
fn install(home: &Home, name: &str) {
    for kind in ["crt", "key"] {
        let fresh = home.dir.path().join(format!("fresh.{kind}"));
        std::fs::copy(redis::certificate(&format!("{name}.{kind}")), &fresh).unwrap();
        std::fs::rename(fresh, home.dir.path().join(format!("server.{kind}"))).unwrap();
    }
}

/// A client that trusts one certificate only.
fn trusting(name: &str) -> reqwest::Client {
    drop(client());
    let certificate =
        reqwest::Certificate::from_pem(&std::fs::read(redis::certificate(&format!("{name}.crt"))).unwrap()).unwrap();
    // A connection each, so that each shakes hands.
    let builder = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
    builder.tls_certs_only([certificate]).build().unwrap()
}

fn with_tls() -> Home {
    let mut home = sqlite_home();
    install(&home, "one");
    let file = |name: &str| home.dir.path().join(name).display().to_string();
    home.extra = vec!["--tls-cert-file".into(), file("server.crt"), "--tls-key-file".into(), file("server.key")];
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_without_dropping_connections() {
    let home = with_tls();
    let server = home.serve_for(String::new(), trusting("one")).await;
    assert!(server.base.starts_with("https://127.0.0.1:"), "{}", server.base);
    let links = server.client.get(format!("{}/livez", server.base)).send().await.unwrap();
    assert_eq!(links.status(), 200);
    // Who speaks no TLS gets no answer, and keeps nobody else from one; nor does one who says nothing.
    let address = server.base.strip_prefix("https://").unwrap();
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    assert!(client().get(format!("http://{address}/livez")).send().await.is_err());
    assert!(trusting("two").get(format!("{}/livez", server.base)).send().await.is_err());

    // A connection from before the change goes on after it.
    let kept = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([
            reqwest::Certificate::from_pem(&std::fs::read(redis::certificate("one.crt")).unwrap()).unwrap()
        ]);
    let kept = kept.build().unwrap();
    assert_eq!(kept.get(format!("{}/livez", server.base)).send().await.unwrap().bytes().await.unwrap().len(), 15);
    install(&home, "two");
    let new = trusting("two");
    let taken = async || new.get(format!("{}/livez", server.base)).send().await.is_ok();
    until("the new certificate is in use", taken).await;
    // Who was here before may resume its session without a certificate; a stranger gets the new one.
    assert!(trusting("one").get(format!("{}/livez", server.base)).send().await.is_err(), "the old one is gone");
    assert_eq!(kept.get(format!("{}/livez", server.base)).send().await.unwrap().status(), 200);

    // What does not fit is told, and the last good one stays.
    std::fs::copy(redis::certificate("one.key"), home.dir.path().join("server.key")).unwrap();
    let log = &server.log;
    let told = async || log.lock().unwrap().iter().any(|line| line.contains("do not belong together"));
    until("the misfit is told", told).await;
    assert_eq!(new.get(format!("{}/livez", server.base)).send().await.unwrap().status(), 200);

    // The check for containers needs no certificate.
    let checked = home.run(&[
        "healthcheck",
        "--bind",
        address,
        "--tls-cert-file",
        redis::certificate("two.crt").to_str().unwrap(),
    ]);
    assert!(checked.status.success(), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_answers_are_https_and_half_a_request_holds_nobody_up() {
    let home = with_tls();
    let mut server = home.serve_for(String::new(), trusting("one")).await;
    server.token = home.ok(&["token", "create", "--role", "admin"]).trim().to_owned();
    for name in ["a", "b"] {
        server.source(name, "file", serde_json::json!({"path": "a.ndjson"})).await;
    }
    let page = server.get("/api/acquisition/sources/?page_size=1").await;
    assert!(page["next"].as_str().unwrap().starts_with("https://127.0.0.1:"), "{page}");
    let address = server.base.strip_prefix("https://").unwrap();
    let mut half = tokio::net::TcpStream::connect(address).await.unwrap();
    half.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    assert_eq!(server.get("/livez").await["status"], "ok");
    // It is closed in the end.
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(30), half.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a handshake has an end");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn wrong_files_are_refused_with_what_is_wrong_with_them() {
    let home = sqlite_home();
    let path = |name: &str| redis::certificate(name).display().to_string();
    let no_pem = home.dir.path().join("no.pem");
    std::fs::write(&no_pem, "nothing").unwrap();
    let (one, two_key, no_pem) = (path("one.crt"), path("two.key"), no_pem.display().to_string());
    for (args, says) in [
        (vec!["--tls-cert-file", &one], "`tls_cert_file` is set, but not `tls_key_file`"),
        (vec!["--tls-key-file", &two_key], "`tls_key_file` is set, but not `tls_cert_file`"),
        (vec!["--tls-cert-file", &one, "--tls-key-file", &two_key], "do not belong together"),
        (vec!["--tls-cert-file", &no_pem, "--tls-key-file", &two_key], "has no certificate"),
        (vec!["--tls-cert-file", &one, "--tls-key-file", "/nowhere"], "cannot be read as a private key"),
    ] {
        let output = home.run(&[&["serve", "--bind", "127.0.0.1:0"][..], &args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains(says) && stderr.contains("\nhelp: "), "`{says}` is not in: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_to_a_file_as_well_when_one_is_named() {
    let mut home = sqlite_home();
    let file = home.dir.path().join("logs/matome.log");
    home.extra = vec!["--log-file".into(), file.display().to_string(), "--log-format".into(), "json".into()];
    let mut child = home.spawn();
    let written = async || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("serving on http://"));
    until("the log is written", written).await;
    let _ = child.kill();
    let _ = child.wait();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    // A command beside the server writes nothing there, and a place that cannot be is told.
    let before = std::fs::read_to_string(&file).unwrap();
    let mut beside = home.command(&["source", "list", "--log-level", "debug"]);
    assert!(beside.env("LOG_FILE", &file).output().unwrap().status.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    let wrong = home.run(&["serve", "--bind", "127.0.0.1:0", "--log-file", "/proc/none/matome.log"]);
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
}

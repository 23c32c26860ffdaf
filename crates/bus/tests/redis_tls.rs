//! The bus over a real Redis server that speaks TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use matome_bus::{Bus, RedisTls, RedisUrls};
use matome_model::task::Queue;
use support::{RedisServer, certificate, until};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);
const QUEUE: Queue = Queue::Acquisition;

fn urls(url: &str, authority: Option<&str>, ours: Option<&str>) -> RedisUrls {
    let file = |name: &str, kind: &str| certificate(&format!("{name}.{kind}"));
    let tls = RedisTls {
        ca_file: authority.map(|name| file(name, "crt")),
        cert_file: ours.map(|name| file(name, "crt")),
        key_file: ours.map(|name| file(name, "key")),
    };
    RedisUrls { shared: Some(url.to_owned()), tls, ..RedisUrls::default() }
}

/// A wake-up of one process is heard by a worker of another.
async fn wakes(urls: &RedisUrls) {
    let instance = Uuid::new_v4();
    let (web, worker) = (Bus::redis(instance, urls).unwrap(), Bus::redis(instance, urls).unwrap());
    // It looks once whenever it has connected.
    for _ in 0..2 {
        let woken = tokio::time::timeout(PATIENCE, worker.woken(QUEUE)).await;
        assert!(woken.is_ok(), "never woken: {:?} {:?}", web.trouble(), worker.trouble());
        web.wake(QUEUE);
    }
    assert_eq!(web.trouble(), None);
}

async fn refuses(urls: &RedisUrls, says: &str) {
    let bus = Bus::redis(Uuid::new_v4(), urls).unwrap();
    until(&format!("trouble with {urls:?}"), async || {
        bus.wake(QUEUE);
        bus.trouble().is_some()
    })
    .await;
    let what = bus.trouble().unwrap();
    assert!(what.contains(says), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_believed_by_its_authority_and_its_name() {
    let server = RedisServer::start_tls(false);
    let port = server.port;
    let by_name = format!("rediss://localhost:{port}");
    for url in [server.url(), by_name.clone()] {
        let urls = urls(&url, Some("one"), None);
        wakes(&urls).await;
        assert!(urls.look(QUEUE).await.unwrap().unwrap().version.contains('.'));
    }
    let elsewhere = format!("rediss://127.0.0.2:{port}");
    refuses(&urls(&elsewhere, Some("one"), None), "not valid for name").await;
    refuses(&urls(&by_name, Some("two"), None), "UnknownIssuer").await;
    refuses(&urls(&by_name, None, None), "UnknownIssuer").await;
    let why = urls(&elsewhere, Some("one"), None).look(QUEUE).await.unwrap_err();
    assert!(why.contains("not valid for name"), "{why}");
    // Who speaks no TLS to it hears nothing that is of use, and is told so.
    refuses(&urls(&format!("redis://127.0.0.1:{port}"), None, None), "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_certificate_gets_ours() {
    let server = RedisServer::start_tls(true);
    wakes(&urls(&server.url(), Some("one"), Some("two"))).await;
    refuses(&urls(&server.url(), Some("one"), None), "").await;
    refuses(&urls(&server.url(), Some("one"), Some("one")), "").await;
}

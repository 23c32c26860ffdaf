//! TLS to a server whose name is verified, though the driver dials a socket of ours.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::certificates::{acceptor, fixtures};
use crate::servers;
use crate::support::{Bed, connector_beneath, read_until, texts, told};

/// Speaks TLS as a PostgreSQL server does, with the certificate `name`, in front of the real one; wants to see the certificate
/// `client` if there is one.
async fn in_front_of(url: &str, name: &str, client: Option<&str>) -> u16 {
    let url = Url::parse(url).unwrap();
    let behind = (url.host_str().unwrap().to_owned(), url.port().unwrap());
    let acceptor = acceptor(name, client);
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                // SSLRequest: its length, and the number that stands for it.
                let mut request = [0; 8];
                client.read_exact(&mut request).await.unwrap();
                assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
                client.write_all(b"S").await.unwrap();
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_is_believed_only_with_a_certificate_for_its_name() {
    let bed = Bed::new("create table t (id int primary key); insert into t values (1)").await;
    let port = in_front_of(&bed.url, "one", None).await;
    let tried = |host: &str, tls: Value| {
        let config = bed.config(json!({"table": "t", "host": host, "port": port, "tls": tls}));
        async move { read_until(&*connector_beneath(&fixtures(), &config), Default::default()).await }
    };
    for tls in [
        json!({"ca_file": "one.crt"}),
        json!({"ca": std::fs::read_to_string(fixtures().join("one.crt")).unwrap()}),
        json!({"mode": "verify-full", "ca_file": "one.crt"}),
        json!({"mode": "require"}),
    ] {
        let (batches, error) = tried("127.0.0.1", tls.clone()).await;
        assert!(error.is_none(), "{tls}: {}", told(&error.unwrap()));
        assert_eq!(texts(&batches), [r#"{"id":1}"#]);
    }
    servers::a_certificate_of_another_is_not_believed(tried).await;
    let of_authority = in_front_of(&bed.url, "ca", None).await;
    let config = bed.config(json!({"table": "t", "port": of_authority, "tls": {"ca_file": "ca.crt"}}));
    let error = read_until(&*connector_beneath(&fixtures(), &config), Default::default()).await.1.unwrap();
    assert!(told(&error).contains("which is accepted from no database; have one made"), "{}", told(&error));
    let error = tried("127.0.0.1", json!({"ca_file": "none.crt"})).await.1.unwrap();
    assert!(told(&error).contains("no file matches `none.crt`"), "{error:?}");
    let error = tried("127.0.0.1", json!({"ca_file": "one.key"})).await.1.unwrap();
    assert!(told(&error).contains("`tls.ca_file` has nothing in PEM"), "{}", told(&error));
}

#[tokio::test]
async fn a_server_that_asks_who_connects_is_shown_the_certificate() {
    let bed = Bed::new("create table t (id int primary key); insert into t values (1)").await;
    let port = in_front_of(&bed.url, "one", Some("two")).await;
    let text = |name: &str| std::fs::read_to_string(fixtures().join(name)).unwrap();
    let tried = |tls: Value| {
        let config = bed.config(json!({"table": "t", "port": port, "tls": tls}));
        async move { read_until(&*connector_beneath(&fixtures(), &config), Default::default()).await }
    };
    for tls in [
        json!({"ca_file": "one.crt", "cert_file": "two.crt", "key_file": "two.key"}),
        json!({"ca_file": "one.crt", "cert": text("two.crt"), "key": text("two.key")}),
        json!({"mode": "require", "cert": text("two.crt"), "key": text("two.key")}),
    ] {
        let (batches, error) = tried(tls.clone()).await;
        assert!(error.is_none(), "{tls}: {}", told(&error.unwrap()));
        assert_eq!(texts(&batches), [r#"{"id":1}"#]);
    }
    for (tls, part) in [
        (json!({"ca_file": "one.crt"}), "wants to see a certificate"),
        (json!({"ca_file": "one.crt", "cert_file": "one.crt", "key_file": "one.key"}), "the server breaks TLS off"),
        // A key of another certificate, and what is none.
        (json!({"ca_file": "one.crt", "cert_file": "two.crt", "key_file": "one.key"}), "TLS failed"),
        (json!({"ca_file": "one.crt", "cert_file": "two.crt", "key_file": "two.crt"}), "`tls.key_file` has nothing"),
        (json!({"ca_file": "one.crt", "cert": "no", "key": text("two.key")}), "`tls.cert_file` has nothing"),
        (json!({"ca_file": "one.crt", "cert_file": "gone.crt", "key_file": "two.key"}), "no file matches `gone.crt`"),
    ] {
        let error = tried(tls.clone()).await.1.unwrap();
        assert!(told(&error).contains(part), "{tls}: {}", told(&error));
        assert!(!told(&error).contains(text("two.key").lines().nth(1).unwrap()), "{}", told(&error));
    }
}

//! TLS with a server whose name is verified, though the driver dials a socket of ours. The server's certificate is for
//! `localhost`, `127.0.0.1` and `one.matome.test`.

use matome_connector::{ConnectorError, DatabaseFault};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::bed::Bed;
use crate::certificates::fixtures;
use crate::servers;
use crate::support::{connector_beneath, read_until, texts, told};

/// Leads to the server from every address of this machine.
async fn in_front_of(bed: &Bed) -> u16 {
    let behind = (bed.url.host_str().unwrap().to_owned(), bed.url.port().unwrap());
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let behind = behind.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_is_believed_only_with_a_certificate_for_its_name() {
    let bed = Bed::new("").await;
    let port = in_front_of(&bed).await;
    let query = "select (select variable_value from information_schema.session_status where variable_name = 'SSL_VERSION') as tls";
    let tried = |host: &str, tls: Value| {
        let config = bed.config(json!({"query": query, "host": host, "port": port, "tls": tls}));
        async move { read_until(&*connector_beneath(&fixtures(), &config), Default::default()).await }
    };
    for (tls, wanted) in [
        (json!({"ca_file": "one.crt"}), r#"{"tls":"TLSv1.3"}"#),
        (json!({"mode": "verify-full", "ca_file": "one.crt"}), r#"{"tls":"TLSv1.3"}"#),
        (json!({"mode": "require"}), r#"{"tls":"TLSv1.3"}"#),
        (json!({"mode": "disable"}), r#"{"tls":""}"#),
    ] {
        let (batches, error) = tried("127.0.0.1", tls.clone()).await;
        assert!(error.is_none(), "{tls}: {}", told(&error.unwrap()));
        assert_eq!(texts(&batches), [wanted], "{tls}");
    }
    servers::a_certificate_of_another_is_not_believed(tried).await;
}

#[tokio::test]
async fn a_user_who_must_show_a_certificate_does() {
    let bed = Bed::new("").await;
    let query = json!({"query": "select current_user() as me", "user": "certified", "database": "information_schema"});
    let tried = |tls: Value| {
        let mut options = query.clone();
        options["tls"] = tls;
        let config = bed.config(options);
        async move { read_until(&*connector_beneath(&fixtures(), &config), Default::default()).await }
    };
    let own = json!({"ca_file": "one.crt", "cert_file": "two.crt", "key_file": "two.key"});
    let (batches, error) = tried(own).await;
    assert!(error.is_none(), "{}", told(&error.unwrap()));
    assert_eq!(texts(&batches), [r#"{"me":"certified@127.0.0.1"}"#]);
    for tls in [json!({"ca_file": "one.crt"}), json!({"mode": "disable"})] {
        let error = tried(tls.clone()).await.1.unwrap();
        assert!(matches!(error, ConnectorError::Database { fault: DatabaseFault::Auth, .. }), "{tls}: {error:?}");
    }
}

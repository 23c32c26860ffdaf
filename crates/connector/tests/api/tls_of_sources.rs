//! Who is believed, and what is shown to whom.

use matome_connector::{Advice, Connector, ConnectorError, ReadRequest};
use matome_model::source::SourceType;
use serde_json::{Value, json};

use crate::reading::read_until;
use crate::support::{Server, raws};
use crate::tls::{answer, connector, serve, text, told};

async fn read(url: &str, tls: Value) -> (Vec<String>, Option<ConnectorError>) {
    let connector = match connector(SourceType::Api, &json!({"url": url, "tls": tls}).to_string()) {
        Ok(connector) => connector,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let (batches, error) = read_until(&*connector as &dyn Connector, ReadRequest::default()).await;
    (raws(&batches), error)
}

#[tokio::test]
async fn a_server_is_believed_with_a_certificate_of_an_authority_that_the_source_names() {
    let hello = || answer("200 OK", r#"[{"n":1}]"#);
    let (one, signed) = (serve("one", None, hello()).await, serve("signed", None, hello()).await);
    for (port, tls) in [
        (one, json!({"ca_file": "one.crt"})),
        (one, json!({"ca": text("one.crt")})),
        (signed, json!({"ca_file": "ca.crt"})),
        (signed, json!({"ca": text("ca.crt") + &text("two.crt")})),
    ] {
        for host in ["localhost", "127.0.0.1"] {
            let (rows, error) = read(&format!("https://{host}:{port}/"), tls.clone()).await;
            assert!(error.is_none() && rows == [r#"{"n":1}"#], "{tls}: {}", told(&error.unwrap()));
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority_is_accepted_where_just_that_is_named_for_its_name_and_its_time() {
    let hello = || answer("200 OK", r#"[{"n":1}]"#);
    let (own, old) = (serve("ca", None, hello()).await, serve("expired-ca", None, hello()).await);
    for tls in [json!({"ca_file": "ca.crt"}), json!({"ca": text("two.crt") + &text("ca.crt")})] {
        for host in ["localhost", "127.0.0.1"] {
            let (rows, error) = read(&format!("https://{host}:{own}/"), tls.clone()).await;
            assert!(error.is_none() && rows == [r#"{"n":1}"#], "{tls}: {}", told(&error.unwrap()));
        }
    }
    let asks = serve("ca", Some("two"), hello()).await;
    let shown = json!({"ca_file": "ca.crt", "cert_file": "two.crt", "key_file": "two.key"});
    let (rows, error) = read(&format!("https://127.0.0.1:{asks}/"), shown).await;
    assert!(error.is_none() && rows == [r#"{"n":1}"#], "{}", told(&error.unwrap()));
    for (host, port, name, part) in [
        ("127.0.0.2", own, "ca.crt", "for another name (`localhost`, `127.0.0.1`)"),
        ("127.0.0.1", own, "two.crt", "if it is the right one, give just that certificate as `tls.ca_file`"),
        // What that authority has signed does not speak for it.
        ("127.0.0.1", own, "signed.crt", "if it is the right one, give just that certificate as `tls.ca_file`"),
        ("127.0.0.1", old, "expired-ca.crt", "has expired (2001-01-01)"),
        ("127.0.0.1", old, "ca.crt", "has expired (2001-01-01)"),
    ] {
        let error = read(&format!("https://{host}:{port}/"), json!({"ca_file": name})).await.1.unwrap();
        assert!(told(&error).contains(part), "{host} {name}: {}", told(&error));
        assert!(error.is_of_tls() && error.advice() == Advice::Fail, "{error:?}");
    }
}

#[tokio::test]
async fn each_certificate_that_is_not_accepted_is_told_with_its_cause_and_what_to_do_and_not_tried_again() {
    let hello = || answer("200 OK", "[]");
    let (one, signed) = (serve("one", None, hello()).await, serve("signed", None, hello()).await);
    let (expired, authority) = (serve("expired", None, hello()).await, serve("ca", None, hello()).await);
    let plain = Server::start(|_, _| crate::support::json("[]")).await.address.port();
    let ca = json!({"ca_file": "ca.crt"});
    for (host, port, tls, english, japanese) in [
        (
            "127.0.0.1",
            one,
            json!({}),
            "it is signed by itself; if it is the right one, give it as `tls.ca_file`",
            "自己署名",
        ),
        (
            "127.0.0.1",
            signed,
            json!({}),
            "nobody known here has signed the server's certificate; give",
            "発行者が知られて",
        ),
        ("127.0.0.1", signed, json!({"ca_file": "two.crt"}), "nobody known here has signed", "発行者が知られて"),
        ("127.0.0.2", signed, ca.clone(), "for another name (`localhost`, `127.0.0.1`); ask for", "別の名前"),
        ("127.0.0.1", expired, ca.clone(), "has expired (2001-01-01); have it renewed", "期限が切れて"),
        ("127.0.0.1", authority, json!({}), "certificate of an authority (`CA:TRUE`) as its own", "`CA:TRUE`"),
        ("127.0.0.1", plain, json!({}), "does not speak TLS; look at the port", "TLS を話しません"),
    ] {
        let (_, error) = read(&format!("https://{host}:{port}/"), tls.clone()).await;
        let error = error.unwrap();
        let told = told(&error);
        assert!(told.contains(english) && told.contains(japanese), "{tls}: {told}");
        assert!(error.is_of_tls() && error.advice() == Advice::Fail, "{error:?}");
        assert_eq!(&*error.position().unwrap().document, format!("https://{host}:{port}/"));
    }
}

#[tokio::test]
async fn a_certificate_of_the_source_is_shown_to_its_own_server_and_to_no_other() {
    let hello = || answer("200 OK", r#"[{"n":1}]"#);
    let port = serve("one", Some("two"), hello()).await;
    let url = format!("https://127.0.0.1:{port}/");
    for tls in [
        json!({"ca_file": "one.crt", "cert_file": "two.crt", "key_file": "two.key"}),
        json!({"ca_file": "one.crt", "cert": text("two.crt"), "key": text("two.key")}),
    ] {
        let (rows, error) = read(&url, tls.clone()).await;
        assert!(error.is_none() && rows == [r#"{"n":1}"#], "{tls}: {}", told(&error.unwrap()));
    }
    let leads = serve("one", None, {
        let head = format!("302 Found\r\nlocation: {url}").leak();
        answer(head, "")
    });
    let leads = format!("https://127.0.0.1:{}/", leads.await);
    let own = json!({"ca_file": "one.crt", "cert_file": "two.crt", "key_file": "two.key"});
    for (url, tls, part) in [
        (&url, json!({"ca_file": "one.crt"}), "wants to see a certificate"),
        (&leads, own, "wants to see a certificate"),
        (&url, json!({"ca_file": "one.crt", "cert_file": "one.crt", "key_file": "one.key"}), "breaks TLS off"),
        (
            &url,
            json!({"ca_file": "one.crt", "cert_file": "two.crt", "key_file": "one.key"}),
            "`tls.key_file` can not be",
        ),
        (
            &url,
            json!({"ca_file": "one.crt", "cert_file": "two.crt", "key_file": "two.crt"}),
            "`tls.key_file` has nothing",
        ),
        (&url, json!({"ca_file": "one.key"}), "`tls.ca_file` has nothing"),
        (&url, json!({"ca_file": "gone.crt"}), "no file matches `gone.crt`"),
    ] {
        let error = read(url, tls.clone()).await.1.unwrap();
        let told = told(&error);
        assert!(told.contains(part), "{tls}: {told}");
        assert!(!told.contains(text("two.key").lines().nth(1).unwrap()), "{told}");
        assert_eq!(error.advice(), Advice::Fail);
    }
}
